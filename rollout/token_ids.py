"""Token ids in four bytes each. In a Python tuple they take about forty: gigabytes in a driver for a large round."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

_SIZE = 4  # bytes of an id
assert array("I").itemsize == _SIZE


class TokenIds(Sequence[int]):
    """An immutable sequence of token ids, kept as little-endian 32-bit; equal to, and hashed like, the tuple of them.

    Args:
        ids: From 0 to 2**32 - 1.

    Raises:
        OverflowError: An id is out of range.
    """

    __slots__ = ("data",)

    data: bytes

    def __init__(self, ids: Iterable[int] = ()) -> None:
        packed = array("I", ids)
        if sys.byteorder == "big":
            packed.byteswap()
        self.data = packed.tobytes()

    @classmethod
    def of(cls, ids: Iterable[int]) -> TokenIds:
        """``ids`` as such a sequence; itself, where it is one."""
        return ids if isinstance(ids, TokenIds) else cls(ids)

    @classmethod
    def from_bytes(cls, data: bytes) -> TokenIds:
        """From what ``data`` held.

        Raises:
            ValueError, TypeError: It is not bytes of whole ids.
        """
        data = bytes(memoryview(data))
        if len(data) % _SIZE:
            raise ValueError(f"{len(data)} bytes are no token ids of {_SIZE} bytes each")
        made = cls.__new__(cls)
        made.data = data
        return made

    def _array(self) -> array[int]:
        unpacked = array("I", self.data)
        if sys.byteorder == "big":
            unpacked.byteswap()
        return unpacked

    def __len__(self) -> int:
        return len(self.data) // _SIZE

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> TokenIds: ...
    def __getitem__(self, place: int | slice) -> int | TokenIds:
        found = self._array()[place]
        return TokenIds(found) if isinstance(found, array) else found

    def __iter__(self) -> Iterator[int]:
        return iter(self._array())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return self.data == other.data
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return TokenIds.from_bytes, (self.data,)

    def __repr__(self) -> str:
        return f"TokenIds({list(self)})"

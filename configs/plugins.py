"""A user's own functions: found by import path or entry point, with the digest of their source and a deadline.

Rewards, objectives, miners and sources are loaded here alike; ``docs/extending.md`` has what each is called with.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from configs.errors import UserError, shortened

Group = Literal["isogloss.rewards", "isogloss.objectives", "isogloss.miners", "isogloss.sources", "isogloss.trackers"]
PLUGIN_PATTERN = r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$"  # package.module:function, or the name of an entry point
IMPORT_SECONDS = 120.0  # a module that loads torch takes ten
_LONGEST = 400  # characters of what a plug-in's exception says

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A user's function.

    Attributes:
        field: The config field that names it, for messages.
        name: As the field has it.
        call: The function.
        digest: SHA-256 of the source of its module, hexadecimal; part of a run's identity (``run.plugins``).
    """

    field: str
    name: str
    call: Callable[..., Any]
    digest: str

    def __str__(self) -> str:
        return f"{self.field}: {self.name}"

    def accepts(self, arguments: Collection[object], options: Mapping[str, object], options_field: str) -> None:
        """Refuse options that the function does not take, or arguments that it misses.

        Raises:
            UserError: It cannot be called so.
        """
        try:
            inspect.signature(self.call).bind(*arguments, **options)
        except TypeError as error:
            raise UserError(
                f"{self} cannot be called with {len(arguments)} argument(s) and the options of {options_field} "
                f"({', '.join(sorted(options)) or 'none'}): {error}; see docs/extending.md"
            ) from None
        except ValueError:  # a builtin without a signature: the trial tells
            return

    def run(self, *arguments: object, seconds: float, about: str, options: Mapping[str, object] | None = None) -> Any:
        """Call the function, in a thread that is not waited for beyond ``seconds``.

        Args:
            arguments: Its positional arguments.
            seconds: Deadline.
            about: What it is called for, e.g. the candidates, for messages.
            options: Its keyword arguments.

        Raises:
            UserError: It raised something, or is late; names the function, its own line, and ``about``.
        """
        try:
            return within(seconds, lambda: self.call(*arguments, **(options or {})))
        except TimeoutError:
            raise UserError(
                f"{self}: gave no answer within {seconds:g} s for {about}; make it faster, or end what it waits for"
            ) from None
        except Exception as error:
            raise UserError(f"{self}: failed for {about} with {failure(error)}") from error


def load_plugin(name: str, field: str, group: Group, digest: str | None = None) -> Plugin:
    """Import a user's function.

    A module is sought in the working directory too (Ray's workers have the driver's).

    Args:
        name: ``package.module:function``, or an entry point of ``group``.
        field: The config field that has it.
        group: Entry points among which a name without a colon is sought.
        digest: What its source must have, where that is known: on workers, that of the driver.

    Raises:
        UserError: It cannot be imported here, is not callable, or its source is another one.
    """
    found = within_import(lambda: _found(name, field, group), name, field)
    if not callable(found):
        raise UserError(f"{field}: {name} is no function but {type(found).__name__}; name a function")
    here = source_digest(found)
    if digest is not None and here != digest:
        raise UserError(
            f"{field}: {name} has another source here ({here[:12]}) than where the run was started ({digest[:12]}); "
            "put the same file on every node, and do not edit it while a run starts"
        )
    return Plugin(field, name, found, here)


def check_named(name: str, field: str, group: Group, built_in: Collection[str]) -> None:
    """Refuse a name that is neither built in, nor an import path, nor an entry point: a slip of the pen.

    Raises:
        UserError: Lists what is known.
    """
    if name in built_in or ":" in name or name in (known := _entry_points(group)):
        return
    installed = f"; entry points of {group}: {', '.join(sorted(known))}" if known else ""
    raise UserError(
        f"{field}: '{shortened(name)}' is unknown; take one of {', '.join(built_in)}, or name a function of your "
        f"own as package.module:function (docs/extending.md){installed}"
    )


def source_digest(function: Callable[..., Any]) -> str:
    """SHA-256 of the file that a function is defined in; of its name where it has none (a builtin)."""
    target = inspect.unwrap(function)
    target = getattr(target, "func", target)  # of functools.partial
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        target = type(target)  # an object that can be called
    try:
        file = inspect.getsourcefile(target)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        return hashlib.sha256(f"{target.__module__}:{target.__qualname__}".encode()).hexdigest()
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do ``work`` in a thread of its own; what hangs there does not keep the process from ending.

    Raises:
        TimeoutError: It is not done.
        Exception: As ``work`` raised it; ``SystemExit`` as a ``RuntimeError``.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def do() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=do, daemon=True, name="isogloss-plugin")
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    if not failed:
        raise TimeoutError(f"not done within {seconds:g} s")
    if isinstance(failed[0], Exception):
        raise failed[0]
    raise RuntimeError(f"it ended with {type(failed[0]).__name__} ({failed[0]})") from failed[0]


def within_import(work: Callable[[], T], name: str, field: str) -> T:
    """``work``, which imports a user's module.

    Raises:
        UserError: It could not be imported.
    """
    try:
        return within(IMPORT_SECONDS, work)
    except UserError:
        raise
    except TimeoutError:
        raise UserError(
            f"{field}: importing {name} takes more than {IMPORT_SECONDS:g} s; what does it wait for?"
        ) from None
    except Exception as error:
        raise UserError(
            f"{field}: {name} cannot be imported: {failure(error)}; modules are sought in the working directory "
            f"({Path.cwd()}) and among what is installed in this Python, on every node"
        ) from error


def typed(value: object) -> str:
    """A value that a user's code returned, for a message: its type and the beginning of it."""
    return f"{type(value).__name__} {shortened(repr(value))}"


def failure(error: Exception) -> str:
    """An exception of a user's code in one line: its type, what it says, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    where = f" ({inside[-1].filename}:{inside[-1].lineno})" if inside else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
    return f"{type(error).__name__}: {shortened(' '.join(str(error).split()), _LONGEST)}{where}"


def _found(name: str, field: str, group: Group) -> Any:
    if not re.match(PLUGIN_PATTERN, name):
        raise UserError(f"{field}: '{shortened(name)}' is no name; write package.module:function")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a folder `evaluation` of the user's must not hide the one of isogloss
    module, colon, attribute = name.partition(":")
    if not colon:
        points = _entry_points(group)
        if name not in points:
            raise UserError(
                f"{field}: no entry point '{name}' of {group} is installed here"
                + (f" (there are {', '.join(sorted(points))})" if points else "")
                + "; name the function as package.module:function, or install the package that has it, on every node"
            )
        return points[name].load()
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(
                f"{field}: {module} ({getattr(found, '__file__', 'built in')}) has no '{part}'; correct {name}"
            )
        found = getattr(found, part)
    return found


def _entry_points(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}

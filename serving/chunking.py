"""How many tokens a streamed chunk carries: one, but under load those that come within some milliseconds."""

from __future__ import annotations

CALM = 8  # running requests up to which each token is a chunk
_WEIGHT = 0.2  # of the newest stream in the moving average


class Chunking:
    """The speed of the streams of a replica, and what follows for the next one.

    A chunk costs the CPUs as much as several tokens of a small model, in JSON and HTTP, at both ends. What comes closer
    together than a screen is drawn may as well come together.

    Args:
        least: Tokens of a chunk without load.
        chunk_s: Longest time that a token waits for others in its chunk, in seconds; 0: none waits.
    """

    def __init__(self, least: int, chunk_s: float) -> None:
        self._least, self._chunk_s = least, chunk_s
        self._token_s: float | None = None

    def tokens(self, running: int) -> int:
        """Tokens of a chunk for a stream that begins while ``running`` other requests are answered."""
        if running < CALM or not self._token_s:
            return self._least
        return max(self._least, int(self._chunk_s / self._token_s))

    def saw(self, tokens: float, seconds: float) -> None:
        """A stream took so long for that many tokens of one sequence."""
        if tokens > 0:
            newest = seconds / tokens
            self._token_s = newest if self._token_s is None else self._token_s + _WEIGHT * (newest - self._token_s)

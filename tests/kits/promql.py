"""The part of PromQL that the dashboard uses: parsed, and checked against the table of metrics.

Refused is what Prometheus refuses, and what it takes but draws nothing or nonsense for: a label that a metric has not,
a rate of a gauge, a range without a rate, two sides of an operator whose labels never match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from actors.observe.telemetry import METRICS, exported_names

_TOKEN = re.compile(r'\s*(?:(\d+(?:\.\d+)?)|([a-zA-Z_]\w*)|("[^"]*")|(=~|!~|!=|==|[-+*/()=,{}\[\]]))')
_AGGREGATIONS = ("sum", "max", "min", "avg", "count")
_RATES = ("rate", "increase")


class Wrong(Exception):
    """What is wrong with an expression."""


@dataclass(frozen=True)
class Vector:
    """Labels of an expression's series; None for a plain number."""

    labels: frozenset[str] | None
    counter: bool = False
    ranged: bool = False


def kinds() -> dict[str, tuple[bool, frozenset[str]]]:
    """Of every exported name: whether it only grows, and its labels."""
    found = {}
    for metric, entry in METRICS.items():
        for name in exported_names(metric):
            more = {"le"} if name.endswith("_bucket") else set()
            found[name] = entry.kind != "gauge", frozenset({*entry.all_labels, *more})
    return found


def check(text: str) -> frozenset[str]:
    """The labels of the series that an expression gives.

    Raises:
        Wrong: Prometheus would refuse it, or draw nothing.
    """
    parser = _Parser(text)
    found = parser.expression()
    parser.end()
    if found.labels is None or found.ranged:
        raise Wrong("gives no series")
    return found.labels


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                raise Wrong(f"cannot read {text[place:]!r}")
            self._tokens.append(found[0].strip())
            place = found.end()

    def end(self) -> None:
        if self._tokens:
            raise Wrong(f"left over: {' '.join(self._tokens)}")

    def _next(self) -> str:
        if not self._tokens:
            raise Wrong("ends too early")
        return self._tokens.pop(0)

    def _peek(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def _want(self, token: str) -> None:
        if (found := self._next()) != token:
            raise Wrong(f"{token} is wanted, not {found}")

    def _names(self) -> frozenset[str]:
        self._want("(")
        names = []
        while self._peek() != ")":
            names.append(self._next())
            if self._peek() == ",":
                self._next()
        self._want(")")
        return frozenset(names)

    def expression(self) -> Vector:
        left = self._term()
        while self._peek() in ("+", "-", "*", "/", "=="):
            self._next()
            ignored, grouped = frozenset[str](), False
            if self._peek() == "ignoring":
                self._next()
                ignored = self._names()
            if self._peek() == "group_left":
                self._next()
                grouped = not self._names()
            right = self._term()
            if left.ranged or right.ranged:
                raise Wrong("an operator on a range")
            if left.labels is None or right.labels is None:
                left = right if left.labels is None else Vector(left.labels)
            elif left.labels - ignored != right.labels - ignored:
                raise Wrong(f"{set(left.labels)} never match {set(right.labels)}")
            elif left.labels & ignored and not grouped:
                raise Wrong("many series meet one without group_left")
        return left

    def _term(self) -> Vector:
        token = self._next()
        if re.fullmatch(r"\d+(\.\d+)?", token):
            return Vector(None)
        if token == "(":
            inner = self.expression()
            self._want(")")
            return inner
        if token in _AGGREGATIONS:
            by = frozenset[str]()
            if self._peek() == "by":
                self._next()
                by = self._names()
            self._want("(")
            inner = self.expression()
            self._want(")")
            if inner.labels is None or inner.ranged or not by <= inner.labels:
                raise Wrong(f"{token} by {set(by)} of {inner}")
            return Vector(by, inner.counter)
        if token in _RATES:
            self._want("(")
            inner = self._term()
            self._want(")")
            if not (inner.counter and inner.ranged):
                raise Wrong(f"{token} of what is no counter over a time")
            return Vector(inner.labels, counter=True)
        if token == "histogram_quantile":
            self._want("(")
            self._term()
            self._want(",")
            inner = self.expression()
            self._want(")")
            if inner.labels is None or "le" not in inner.labels:
                raise Wrong("a quantile of what has no le")
            return Vector(inner.labels - {"le"})
        return self._selector(token)

    def _selector(self, name: str) -> Vector:
        if name not in kinds():
            raise Wrong(f"{name} is not exported")
        counter, labels = kinds()[name]
        if self._peek() == "{":
            self._next()
            while self._peek() != "}":
                label, operator, value = self._next(), self._next(), self._next()
                if label not in labels:
                    raise Wrong(f"{label} is no label of {name}")
                if operator not in ("=", "!=", "=~", "!~") or not value.startswith('"'):
                    raise Wrong(f"{label}{operator}{value}")
                if self._peek() == ",":
                    self._next()
            self._want("}")
        ranged = self._peek() == "["
        if ranged:
            self._next()
            if not re.fullmatch(r"\d+", self._next()) or self._next() not in ("s", "m", "h"):
                raise Wrong(f"the range of {name}")
            self._want("]")
        return Vector(labels, counter, ranged)

"""HTML and SVG that cannot be built unescaped: every plain string becomes text, only ``Markup`` stays markup."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

__all__ = ["Markup", "el", "join", "safe", "visible"]

_VOID = frozenset({"meta", "br", "input"})
# Overrides and embeddings of direction reorder the text around them; controls do worse. Shown by their code instead.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def visible(text: str) -> str:
    """The text with direction overrides and control characters replaced by their code, such as [U+202E]."""
    return _UNSAFE.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def safe(value: object) -> Markup:
    """Escape a value, unless it is markup."""
    return value if isinstance(value, Markup) else escape(visible(str(value)))


def join(parts: Iterable[object]) -> Markup:
    """Parts beside each other, each escaped unless it is markup."""
    return Markup("".join(safe(part) for part in parts))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Attribute names lose a trailing underscore, and inner ones become dashes; None leaves one out."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = name + "".join(f' {key}="{safe(value)}"' for key, value in pairs)
    body = join(children)
    return Markup(f"<{head}>" if name in _VOID else f"<{head}>{body}</{name}>")

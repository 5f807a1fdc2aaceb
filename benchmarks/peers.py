"""What a benchmark compares with may not be installed: said in one line, before anything is measured."""

from __future__ import annotations

import importlib.util
import sys

CANNOT_RUN = 2  # exit status


def need(*modules: str) -> None:
    """End the process with one line and status 2 unless all ``modules`` can be imported.

    Args:
        modules: Top-level names, as they are imported.
    """
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        refuse(f"needs {', '.join(absent)}, not installed here; run make install-dev")


def refuse(reason: str) -> None:
    """End the process with one line and status 2.

    Args:
        reason: What is wrong, and the cure.
    """
    print(f"benchmark: {reason}", file=sys.stderr)
    sys.exit(CANNOT_RUN)

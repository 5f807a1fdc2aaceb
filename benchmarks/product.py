"""The product's own command, run by a benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ISOGLOSS = Path(sys.executable).with_name("isogloss")


def isogloss(*words: str, **environment: str) -> None:
    """Run ``isogloss``; where it fails the benchmark ends with its status and no traceback, and can be repeated.

    Args:
        words: Subcommand and arguments.
        environment: Variables to set for it.
    """
    done = subprocess.run([_ISOGLOSS, *words], check=False, env={**os.environ, **environment})
    if done.returncode:
        print(
            f"benchmark: isogloss {words[0]} ended with status {done.returncode}; repeat the command to continue",
            file=sys.stderr,
        )
        sys.exit(done.returncode)

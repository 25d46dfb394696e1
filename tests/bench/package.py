# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The package that our client is compared with, in an environment of its own: it needs a newer Python than we do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .measure import CACHE, BenchError

NAME = "exec-sandbox"
_REQUIREMENT = f"{NAME}==0.22.0"
_OLDEST = (3, 12)
_PYTHONS = ("python3", "python3.12", "python3.13", "python3.14")
_VENV = CACHE / "bench-venv"
_INSTALL_TIMEOUT = 300.0


def python() -> Path:
    """Return the Python of an environment that has the package, made where there is none. Raises BenchError."""
    installed, ready = _VENV / "bin" / "python", _VENV / "ready"
    if ready.is_file() and ready.read_text() == _REQUIREMENT and _runs(installed):
        return installed
    base = next(filter(_runs, _candidates()), None)
    if base is None:
        raise BenchError(f"{NAME} needs Python {'.'.join(map(str, _OLDEST))} or newer, and none is found on this machine")
    _run(base, "-m", "venv", "--clear", _VENV)
    _run(installed, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _REQUIREMENT)
    ready.write_text(_REQUIREMENT)
    return installed


def _candidates() -> Iterator[Path]:
    """Find what may be a newer Python: on PATH under its usual names, and among pyenv's."""
    for folder in map(Path, os.get_exec_path()):
        yield from (folder / name for name in _PYTHONS)
    yield from sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))


def _runs(candidate: Path) -> bool:
    """Ask it: what is on PATH may be a version manager's stand-in for a Python that is not there."""
    if shutil.which(candidate) is None:
        return False
    question = f"import sys, ensurepip, venv; sys.exit(sys.version_info < {_OLDEST})"
    asked = subprocess.run([candidate, "-c", question], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return asked.returncode == 0


def _run(*command: str | Path) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{NAME} is not installed within {_INSTALL_TIMEOUT:.0f} seconds") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["for no reason given"]
        raise BenchError(f"{_REQUIREMENT} cannot be installed: {last[0]}")

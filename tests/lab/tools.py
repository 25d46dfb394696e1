# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's one error, and the system tools it calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = Any

_PACKAGES = {"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "qemu-system-x86_64": "qemu-system-x86"}


class LabError(Exception):
    """Something that the person at the keyboard can act upon; its text says what."""


def require_tool(name: str) -> str:
    """Return the full path of a system tool, or say how to install it."""
    path = shutil.which(name)
    if path is None:
        raise LabError(
            f"{name} is missing on this machine; install it with: "
            f"sudo apt-get install --no-install-recommends {_PACKAGES[name]}"
        )
    return path


def run_tool(name: str, *arguments: str | Path, folder: Path) -> str:
    """Run a system tool inside a folder and return what it printed; its complaint becomes the error."""
    done = subprocess.run(
        [require_tool(name), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{name} failed (exit status {done.returncode}):\n{(done.stderr or done.stdout).strip()}")
    return done.stdout

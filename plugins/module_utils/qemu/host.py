# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the managed host is right now: its memory, and what a process takes of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from .errors import QemuError

_PROC = Path("/proc")


@dataclass(frozen=True)
class Host:
    """The host's memory in bytes. ``pressure`` is None where the kernel keeps no pressure stall information.

    ``pressure`` maps ``some`` and ``full`` to ``avg10``, ``avg60`` and ``avg300`` (percent of time) and ``total``
    (microseconds), as in the kernel's Documentation/accounting/psi.
    """

    total: int
    available: int
    swap_used: int
    pressure: dict[str, dict[str, float]] | None


def read_host(proc: Path = _PROC) -> Host:
    """Read the host's memory from ``/proc``. Raises QemuError where that is not possible."""
    try:
        memory = _kib_lines(proc / "meminfo")
        return Host(
            total=memory["MemTotal"],
            available=memory["MemAvailable"],
            swap_used=memory["SwapTotal"] - memory["SwapFree"],
            pressure=_pressure(proc / "pressure" / "memory"),
        )
    except (OSError, KeyError) as error:
        raise QemuError(f"the host's memory cannot be read from {proc}/meminfo: {error}") from None


def process_rss(pid: int | None, proc: Path = _PROC) -> int | None:
    """Return the bytes of host memory that a process holds, huge pages included; None where that cannot be told.

    From ``/proc/PID/status``: everybody may read it, and unlike ``smaps_rollup`` it costs nothing with big guests.
    """
    if pid is None:
        return None
    try:
        status = _kib_lines(proc / str(pid) / "status")
        return status["VmRSS"] + status.get("HugetlbPages", 0)
    except (OSError, KeyError):
        return None


def _kib_lines(path: Path) -> dict[str, int]:
    """Return the ``Name: 123 kB`` lines of a file in bytes."""
    sizes: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _colon, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            sizes[name] = int(words[0]) * 1024
    return sizes


def _pressure(path: Path) -> dict[str, dict[str, float]] | None:
    pressure: dict[str, dict[str, float]] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, *figures = line.split()
            pressure[kind] = {name: float(value) for name, _equals, value in (figure.partition("=") for figure in figures)}
    return pressure or None

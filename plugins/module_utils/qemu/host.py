# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the managed host is right now: its memory, and what a process takes of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import QemuError

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_KSM = Path("/sys/kernel/mm/ksm")


@dataclass(frozen=True)
class Host:
    """The host's memory in bytes. ``pressure`` is None where the kernel keeps no pressure stall information.

    In a container or a memory cgroup ``total`` and ``available`` are what its limits leave, where that is less.
    ``merged`` is what processes share after the kernel found their pages to be the same (KSM), and would need on their own.
    ``pressure`` maps ``some`` and ``full`` to ``avg10``, ``avg60`` and ``avg300`` (percent of time) and ``total``
    (microseconds), as in the kernel's Documentation/accounting/psi.
    """

    total: int
    available: int
    swap_used: int
    pressure: dict[str, dict[str, float]] | None
    merged: int = 0


@dataclass(frozen=True)
class ProcessMemory:
    """What a process takes of the host's memory, in bytes.

    ``rss`` is all that it has in memory, ``held`` what of it is the process's own and not the page cache's, and ``locked``
    what may not leave memory.
    """

    rss: int
    held: int
    locked: int


def read_host(pids: Iterable[int] = (), proc: Path = _PROC, cgroup: Path = _CGROUP, ksm: Path = _KSM) -> Host:
    """Read the host's memory from ``/proc`` and from the cgroups that hold all the processes ``pids`` (default: our own).

    Raises QemuError where that is not possible.
    """
    try:
        memory = _kib_lines(proc / "meminfo")
        total, available = memory["MemTotal"], memory["MemAvailable"]
        swap_used = memory["SwapTotal"] - memory["SwapFree"]
    except (OSError, KeyError) as error:
        raise QemuError(f"the host's memory cannot be read from {proc}/meminfo: {error}") from None
    for limit, used in _limits(sorted({str(pid) for pid in pids}) or ["self"], proc, cgroup):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Host(
        total=total,
        available=available,
        swap_used=swap_used,
        pressure=_pressure(proc / "pressure" / "memory"),
        merged=(_number(ksm / "pages_sharing") or 0) * os.sysconf("SC_PAGE_SIZE"),
    )


def process_memory(pid: int | None, proc: Path = _PROC) -> ProcessMemory | None:
    """Return what a process takes of the host's memory, huge pages included; None where that cannot be told.

    From ``/proc/PID/status``: everybody may read it, and unlike ``smaps_rollup`` it costs nothing with big guests.
    """
    if pid is None:
        return None
    try:
        status = _kib_lines(proc / str(pid) / "status")
        rss = status["VmRSS"] + status.get("HugetlbPages", 0)
        locked = max(status.get("VmLck", 0), status.get("VmPin", 0))
        return ProcessMemory(rss=rss, held=rss - status.get("RssFile", 0), locked=locked)
    except (OSError, KeyError):
        return None


def process_rss(pid: int | None) -> int | None:
    """Return ``process_memory``'s ``rss``."""
    memory = process_memory(pid)
    return memory.rss if memory else None


def _limits(pids: Iterable[str], proc: Path, cgroup: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of every memory cgroup that all the processes are in.

    In a container the paths that ``/proc`` tells may be the host's; the container's own limits are then at the mount's root.
    """
    paths = [path for path in (_cgroup_path(proc / pid / "cgroup") for pid in pids) if path]
    if not paths:
        return
    if (cgroup / "cgroup.controllers").exists():
        root, bounds, use, cache = cgroup, ["memory.max", "memory.high"], "memory.current", "inactive_file"
    else:
        root, bounds, use, cache = cgroup / "memory", ["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file"
    common = Path(os.path.commonpath(paths)).relative_to("/")
    for folder in (root / common, *(root / parent for parent in common.parents)):
        limits = [limit for limit in (_number(folder / name) for name in bounds) if limit is not None]
        used = _number(folder / use)
        if limits and used is not None:
            yield min(limits), max(0, used - _statistic(folder / "memory.stat", cache))


def _cgroup_path(path: Path) -> str | None:
    """Return a process's memory cgroup below the mount: of the memory controller where it has one of its own, else v2's."""
    found = None
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            _number, controllers, name = [*line.split(":", 2), "", ""][:3]
            if "memory" in controllers.split(","):
                return os.path.normpath(name)
            if not controllers and name.startswith("/"):
                found = os.path.normpath(name)
    return found


def _number(path: Path) -> int | None:
    """Return the number in a file; None for a word like ``max``, and where there is no file."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def _statistic(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            key, _space, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


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

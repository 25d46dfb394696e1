# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that can be named for certain."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process told apart from any later one with the same pid by its start time (in clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def running(cls, pid: int) -> Process:
        """Name the process that has this pid now; ProcessLookupError when there is none."""
        return cls(pid, _stat(pid)[1])

    @property
    def alive(self) -> bool:
        """Whether it still runs; an unreaped child does not."""
        try:
            state, started = _stat(self.pid)
        except ProcessLookupError:
            return False
        return started == self.started and state not in "ZX"

    def end(self) -> None:
        """Kill it, and only it, and wait until it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle now names one process for good, so this check cannot be overtaken by a pid's reuse.
            if self.alive:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [])
        finally:
            os.close(handle)


def _stat(pid: int) -> tuple[str, int]:
    """Return a process's state letter and start time."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    # The second field, the name in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])

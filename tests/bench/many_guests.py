# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many guests in one task against one guest in one task. The guests are scripted: they answer and move at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.lab import Guest

from .measure import ROOT, BenchError, Figures, Report, in_turns
from .payload import Payload

GUESTS = 100
_SHRUNK = "192M"  # of 256


def measure(_guest: Guest, folder: Path, rounds: int) -> Report:
    """Return how the module's process on many guests compares with its process on one."""
    with _scripted_guests(folder / "one", 1) as one, _scripted_guests(folder / "many", GUESTS) as many:
        cycles = {"1 guest": _Cycle(folder / "1", one), f"{GUESTS} guests": _Cycle(folder / str(GUESTS), many)}
        samples = in_turns(rounds, {name: cycle.run for name, cycle in cycles.items()})
    report = Report()
    for step in ("unchanged", "shrunk", "grown"):
        name = f"{GUESTS} scripted guests {step}"
        report.compare(name, f"{GUESTS} guests", "1 guest", samples, f"{step} seconds")
        report.compare(f"{name}, CPU time", f"{GUESTS} guests", "1 guest", samples, f"{step} cpu")
    return report


class _Cycle:
    """The module on the same guests three times: nothing to do, down, and back up again."""

    def __init__(self, folder: Path, sockets: str) -> None:
        folder.mkdir()
        task = "ballast.qemu.qemu_balloon"
        self._shrink = Payload(folder / "shrink", task, socket=[sockets], target=_SHRUNK)
        self._grow = Payload(folder / "grow", task, socket=[sockets], target="max")

    def run(self) -> Figures:
        steps = {
            "unchanged": self._grow.expect("unchanged"),
            "shrunk": self._shrink.expect("converged"),
            "grown": self._grow.expect("converged"),
        }
        return {f"{step} {name}": value for step, figures in steps.items() for name, value in figures.items()}


@contextlib.contextmanager
def _scripted_guests(folder: Path, count: int) -> Iterator[str]:
    """Serve scripted guests from one process of their own; yield the pattern of their sockets."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.peer", str(folder), str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            if server.stdout is None or server.stdout.readline().strip() != "ready":
                raise BenchError("the scripted guests do not start")
            yield f"{folder}/*.qmp"
        finally:
            server.terminate()

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving a real guest its memory back: our client, a bare script that does nothing but poll, and another package's client."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import Guest

from . import package
from .measure import ROOT, BenchError, Figures, Report, Row, Side, Unmeasured, in_turns

FROM_MIB = 160
MIB = 1 << 20
_GIVERS = Path(__file__).parent / "givers"
_TIMEOUT = 120.0
_OURS = "BalloonClient"
_TIGHT = "tight poller"


@dataclass
class _Giver:
    """A script, run as ``PYTHON SCRIPT SOCKET MIB``, that gives a guest memory and prints what that took.

    It prints a JSON object: ``seconds`` from before its connection to its word that the guest has the memory,
    ``cpu`` seconds of its own in between, ``actual`` bytes that the guest then had, and maybe figures of its own.
    """

    script: Path
    guest: Guest
    python: Path = Path(sys.executable)
    missing_mib: list[float] = field(default_factory=list)

    def run(self) -> Figures:
        """Shrink the guest, and have it given everything back; only that is timed."""
        full = self.guest.full()
        self.guest.set_target(FROM_MIB * MIB)
        self.guest.wait_actual(FROM_MIB * MIB, timeout=_TIMEOUT)
        try:
            done = subprocess.run(
                [self.python, self.script, self.guest.socket, str(full // MIB)],
                env={**os.environ, "PYTHONPATH": str(ROOT / ".dev")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.script.name} has not given the guest its memory in {_TIMEOUT:.0f} seconds") from None
        if done.returncode:
            raise BenchError(f"{self.script.name} failed:\n{(done.stdout + done.stderr).strip()}")
        figures: dict[str, float] = json.loads(done.stdout)
        self.missing_mib.append((full - figures.pop("actual")) / MIB)
        return figures


def measure(guest: Guest, _folder: Path, rounds: int) -> Report:
    """Return how long each of them takes to give a guest back what it was shrunk by, and what that costs them."""
    name = f"{guest.full() // MIB - FROM_MIB} MiB given back"
    givers = {
        _OURS: _Giver(_GIVERS / "ours.py", guest),
        _TIGHT: _Giver(_GIVERS / "tight_poller.py", guest),
    }
    reason = ""
    try:
        givers[package.NAME] = _Giver(_GIVERS / "other_package.py", guest, package.python())
    except BenchError as error:
        reason = str(error)
    samples = in_turns(rounds, {giver: givers[giver].run for giver in givers})
    report = Report()
    report.compare(name, _OURS, _TIGHT, samples)
    report.compare(f"{name}, CPU time", _OURS, _TIGHT, samples, "cpu")
    if package.NAME in givers:
        report.compare(name, _OURS, package.NAME, samples)
        report.compare(f"{name}, CPU time", _OURS, package.NAME, samples, "cpu")
        # What it would take if it stopped at its first sight of a guest near enough.
        sight = Side(f"{package.NAME}'s sight", samples[package.NAME]["first_sight"])
        report.rows.append(Row(name, Side(_OURS, samples[_OURS]["seconds"]), sight))
        report.remarks.append(_remark(samples[package.NAME]))
    else:
        report.rows.append(Unmeasured(f"{name}, against {package.NAME}", reason))
    report.remarks.append(
        f"{name}: when they said so, still missing were (median, most) "
        + "; ".join(
            f"{giver} {statistics.median(it.missing_mib):.1f}, {max(it.missing_mib):.1f} MiB" for giver, it in givers.items()
        )
    )
    return report


def _remark(figures: Mapping[str, Sequence[float]]) -> str:
    """Tell how the package's client spent its time, so that nobody takes all of it for the guest's."""
    seconds, sight, polls = (statistics.median(figures[name]) for name in ("seconds", "first_sight", "polls"))
    return (
        f"{package.NAME} asked the guest {polls:.0f} times, half a second apart, and returned after {seconds:.2f} s; its"
        f" first sight of the guest within its 20 MiB of the target was after {sight:.2f} s"
    )

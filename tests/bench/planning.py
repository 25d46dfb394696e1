# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning for many guests against planning for half as many. The guests are figures only: nothing is read or moved."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.lab import Guest

from .measure import ROOT, BenchError, Figures, Report, in_turns

GUESTS = (12_500, 25_000, 50_000, 100_000)


def measure(_guest: Guest, _folder: Path, rounds: int) -> Report:
    """Return how the time for a plan grows with the guests: twice as many should take little more than twice as long."""
    samples = in_turns(rounds, {_name(count): partial(_plan, count) for count in GUESTS})
    report = Report()
    for fewer, more in [*pairwise(GUESTS), (GUESTS[0], GUESTS[-1])]:
        name = f"planning for {more // fewer} times as many"
        report.compare(name, _name(more), _name(fewer), samples)
        report.compare(f"{name}, CPU time", _name(more), _name(fewer), samples, "cpu")
    told = [f"{_name(count)} {statistics.median(samples[_name(count)]['cpu']):.2f} s" for count in GUESTS]
    report.remarks.append(f"planning: the CPU time of one plan was {', '.join(told)}")
    return report


def _name(count: int) -> str:
    return f"{count:,} guests"


def _plan(count: int) -> Figures:
    """Plan once, in a process of its own: what one plan leaves behind would cost the next one time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.planner", str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".dev")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the planner failed:\n{(done.stdout + done.stderr).strip()}")
    figures = json.loads(done.stdout)
    if not figures.pop("feasible") or figures.pop("moved") < count // 2:
        raise BenchError(f"the plan for {_name(count)} is not the work that was to be measured")
    return {name: float(value) for name, value in figures.items()}

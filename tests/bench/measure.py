# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Contenders measured in turns, and what can be said of their figures: only how they compare with each other."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"

Figures = Mapping[str, float]
Samples = Mapping[str, Mapping[str, Sequence[float]]]


class BenchError(Exception):
    """Something keeps a figure from being measured; its text says what."""


@dataclass(frozen=True)
class Side:
    """One contender's figures, in the order of the rounds and in the unit of its row."""

    name: str
    samples: Sequence[float]

    @property
    def median(self) -> float:
        """The figure that stands for all of them."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Row:
    """Two contenders side by side: how many times ``other`` is ``ours``."""

    name: str
    ours: Side
    other: Side

    @property
    def ratio(self) -> float:
        """Ours over the other, by their medians; not a number where the other's is too small to divide by."""
        return _over(self.ours.median, self.other.median)

    @property
    def pairs(self) -> list[float]:
        """The same of each round by itself."""
        return [_over(ours, other) for ours, other in zip(self.ours.samples, self.other.samples, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """Return it with every figure, in seconds."""
        return {
            "name": self.name,
            "ours": {"name": self.ours.name, "median": self.ours.median, "samples": list(self.ours.samples)},
            "other": {"name": self.other.name, "median": self.other.median, "samples": list(self.other.samples)},
            "ratio": self.ratio,
            "ratio_min": min(self.pairs),
            "ratio_max": max(self.pairs),
            "rounds": len(self.ours.samples),
        }


@dataclass(frozen=True)
class Unmeasured:
    """A row that there are no figures for, and why."""

    name: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return it as it is."""
        return {"name": self.name, "not_measured": self.reason}


@dataclass
class Report:
    """What one benchmark found: rows, and remarks that explain them."""

    rows: list[Row | Unmeasured] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, every figure in seconds."""
        return {"rows": [row.as_json() for row in self.rows], "remarks": self.remarks}

    def compare(self, name: str, ours: str, other: str, samples: Samples, figure: str = "seconds") -> None:
        """Add a row on one figure of two contenders that were measured in turns."""
        self.rows.append(Row(name, Side(ours, samples[ours][figure]), Side(other, samples[other][figure])))


def in_turns(rounds: int, contenders: Mapping[str, Callable[[], Figures]]) -> Samples:
    """Measure all contenders round by round and return the figures of each, by contender and figure.

    Every other round goes backwards, so that none of them always follows the same one. A round before the first warms
    caches up and does not count.
    """
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for number in range(rounds + 1):
        for name in list(contenders) if number % 2 else reversed(list(contenders)):
            for figure, value in contenders[name]().items():
                if number:
                    samples[name].setdefault(figure, []).append(value)
    return samples


def time_process(*arguments: str | Path) -> tuple[Figures, str]:
    """Run this Python with arguments; return its ``seconds`` from start to end and of ``cpu``, and what it printed."""
    command = [sys.executable, *map(str, arguments)]
    cpu, start = _children_cpu(), time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr).strip()}")
    return {"seconds": seconds, "cpu": _children_cpu() - cpu}, done.stdout


def _children_cpu() -> float:
    """CPU time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _over(ours: float, other: float) -> float:
    return ours / other if other > 0 else float("nan")

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures and tells: a table on stdout, every figure in build/bench.json."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import Guest, GuestSpec, Lab, LabError

from . import give_back, many_guests, one_guest, planning
from .machine import facts
from .measure import ROOT, BenchError, Report
from .table import lines

_OUTPUT = ROOT / "build" / "bench.json"
_MEMORY_MIB = 512


@dataclass(frozen=True)
class _Benchmark:
    """``measure`` takes a real guest, a folder of its own that is yet to be made, and the rounds."""

    rounds: int
    measure: Callable[[Guest, Path, int], Report]


_BENCHMARKS = {
    "one-guest": _Benchmark(15, one_guest.measure),
    "many-guests": _Benchmark(8, many_guests.measure),
    "give-back": _Benchmark(7, give_back.measure),
    "planning": _Benchmark(7, planning.measure),
}


def _run(names: Sequence[str], rounds: int | None) -> None:
    with Lab() as lab:
        (guest,) = lab.up(GuestSpec("bench", _MEMORY_MIB))
        machine = facts(guest)
        reports = {}
        for name in names:
            benchmark = _BENCHMARKS[name]
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            folder = lab.folder / name
            folder.mkdir()
            reports[name] = benchmark.measure(guest, folder, rounds or benchmark.rounds)
    print("\n".join(lines(machine, list(reports.values()))))
    _OUTPUT.parent.mkdir(exist_ok=True)
    found = {"machine": machine, "benchmarks": {name: report.as_json() for name, report in reports.items()}}
    _OUTPUT.write_text(json.dumps(found, indent=2) + "\n")


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def main() -> int:
    """Run what was asked for and return the exit status."""
    defaults = ", ".join(f"{name} {benchmark.rounds}" for name, benchmark in _BENCHMARKS.items())
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=_rounds, metavar="N", help=f"rounds of each benchmark (default: {defaults})")
    parser.add_argument("--only", choices=_BENCHMARKS, metavar="NAME", help=f"one benchmark: {', '.join(_BENCHMARKS)}")
    options = parser.parse_args()
    # As an exception, so that everything that was started ends.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        _run([options.only] if options.only else list(_BENCHMARKS), options.rounds)
    except (BenchError, LabError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

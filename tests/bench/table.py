# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .measure import Report, Row, Side, Unmeasured

_HEAD = ("measured", "ours", "other", "ratio", "(min..max)", "rounds")


def lines(machine: Mapping[str, Any], reports: Sequence[Report]) -> Iterator[str]:
    """Return the machine, a table of all rows, and the remarks."""
    yield ", ".join(f"{name} {value}" for name, value in machine.items())
    if machine["load"] > machine["CPUs"] / 2:
        yield "This machine was at work already: expect wide ranges, and trust CPU times more than others."
    yield ""
    table = [_HEAD, *(_cells(row) for report in reports for row in report.rows)]
    # What was not measured has one long cell, which no column needs to hold.
    widths = [max(len(row[column]) for row in table if len(row) == len(_HEAD)) for column in range(len(_HEAD))]
    widths[0] = max(len(row[0]) for row in table)
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
    yield ""
    for report in reports:
        yield from report.remarks
    yield "Times are medians and the ratio is theirs, ours over the other; min..max are the ratios of single rounds."


def _cells(row: Row | Unmeasured) -> tuple[str, ...]:
    if isinstance(row, Unmeasured):
        return row.name, f"not measured: {row.reason}"
    return (
        row.name,
        _side(row.ours),
        _side(row.other),
        f"{row.ratio:.2f}",
        f"({min(row.pairs):.2f}..{max(row.pairs):.2f})",
        str(len(row.pairs)),
    )


def _side(side: Side) -> str:
    return f"{side.name} {side.median * 1000:.{0 if side.median >= 0.1 else 1}f} ms"

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures in ``docs/policy.md``, held against the plans that are really made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import Host, ProcessMemory
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import parse_policy
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.policy import Condition, Plan, Share, make_plan
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.snapshot import Sighting, Snapshot
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import Outcome
from ansible_collections.ballast.qemu.plugins.modules.qemu_memory_policy import DOCUMENTATION
from tests.unit.build import MIB, guest

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text()
OPTIONS = yaml.safe_load(DOCUMENTATION)["options"]
HEADER = "| guest | full | now | uses | floor | needs | ceiling | target |\n"
TABLE = re.compile(re.escape(HEADER) + r"\|[-:| ]+\|\n((?:\|.*\n)+)")
UNKNOWN = "\u2013"


@dataclass(frozen=True)
class Example:
    """One table, with the text above it and below it."""

    heading: str
    above: str
    rows: list[list[str]]
    below: str

    @property
    def plan(self) -> Plan:
        """What is really planned."""
        (budget,) = re.findall(r"^Budget (\d+) MiB\.", self.above, re.MULTILINE)
        return make_plan([self._condition(row) for row in self.rows], parse_policy(self._options()), int(budget) * MIB)

    def _options(self) -> dict[str, Any]:
        options = {name: option.get("default") for name, option in OPTIONS.items()}
        usual = {name: option.get("default") for name, option in OPTIONS["rules"]["suboptions"].items()}
        for block in re.findall(r"```yaml\n(.*?)```", self.above, re.DOTALL):
            given = yaml.safe_load(block)
            assert given.keys() <= options.keys()
            options |= given
        return {**options, "rules": [{**usual, **rule} for rule in options["rules"]]}

    def _condition(self, row: list[str]) -> Condition:
        name, full, now, uses = row[:4]
        charged = re.findall(rf"\b{name} is left alone and charged (\d+) MiB", self.above)
        assert (uses == UNKNOWN) == bool(charged)
        return Condition(
            name=name,
            maximum=int(full) * MIB,
            actual=int(now) * MIB,
            charge=int(charged[0] if charged else now) * MIB,
            used=0 if charged else int(uses) * MIB,
            alone="it is paused" if charged else None,
        )


def examples() -> list[Example]:
    """Return all of the guide's examples; the text around a table reaches to the next heading or budget."""
    found = []
    for section in re.split(r"^#+ ", GUIDE, flags=re.MULTILINE):
        for part in re.split(r"^(?=Budget \d+ MiB)", section, flags=re.MULTILINE):
            for table in TABLE.finditer(part):
                rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
                found.append(Example(section.partition("\n")[0], part[: table.start()], rows, part[table.end() :]))
    return found


def mib(size: int) -> str:
    return str(size // MIB) if size % MIB == 0 else f"{size / MIB:.2f}"


def row(share: Share) -> list[str]:
    """Return a guest's line of a table as the plan has it."""
    guest = share.condition
    levels = [guest.used, share.floor, share.need, share.ceiling]
    told = [UNKNOWN] * len(levels) if share.alone else [mib(size) for size in levels]
    return [guest.name, mib(guest.maximum), mib(share.current), *told, mib(share.target)]


EXAMPLES = examples()


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) == GUIDE.count(HEADER) == len(re.findall(r"^Budget \d+ MiB\.", GUIDE, re.MULTILINE)) > 7


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.heading for example in EXAMPLES])
class TestExamples:
    def test_table(self, example: Example) -> None:
        assert example.rows == [row(share) for share in example.plan.shares]

    def test_reasons(self, example: Example) -> None:
        reasons = {share.condition.name: share.reason for share in example.plan.shares}
        for name, reason in re.findall(r'The\s+plan\s+says\s+of\s+(\w+):\s+"(.*?)"', example.below, re.DOTALL):
            assert " ".join(reason.split()) in reasons[name]

    def test_missing(self, example: Example) -> None:
        missing = re.findall(r"(\d+)\s+MiB\s+are\s+missing", example.below)
        assert missing == ([] if example.plan.feasible else [mib(example.plan.missing)])


def test_reasons_are_told() -> None:
    told = re.findall(r"plan\s+says\s+of", GUIDE)
    assert len(told) == len(re.findall(r'The\s+plan\s+says\s+of\s+\w+:\s+"', GUIDE)) >= len(EXAMPLES) - 2


def test_defaults() -> None:
    buffer, deadband = OPTIONS["buffer"]["default"], OPTIONS["deadband"]["default"]
    assert f"`buffer` is {buffer} and `deadband` is {deadband}, as they are without being set" in " ".join(GUIDE.split())


def test_worked_budget() -> None:
    lines = re.findall(r"^\| \**([^|]*?)\** \| \**(\d+)\** \|$", GUIDE, re.MULTILINE)
    figures = {what.split(",")[0]: int(size) * MIB for what, size in lines}
    (count, own) = re.findall(r"QEMU's own, (\d+) \S (\d+)", GUIDE)[0]
    (reserve,) = re.findall(r"reserve, (\d+%)", GUIDE)
    held = figures["held by the guests' processes"] // int(count)
    seen = guest(maximum=held, actual=held)
    sighting = Sighting(
        outcome=Outcome(socket=seen.socket, outcome="unchanged", seconds=0.0, guest=seen, actual_after=held),
        expected_uid=0,
        used=held,
        obstacle=None,
        process=ProcessMemory(rss=held, held=held, locked=0),
    )
    host = Host(total=figures["all memory"], available=figures["available"], swap_used=0, pressure=None)
    snapshot = Snapshot(host, (sighting,) * int(count))
    size = parse_size(reserve, "reserve")
    assert reserve == OPTIONS["reserve"]["default"]
    assert size.resolve(host.total) == figures["reserve"]
    assert sighting.own == int(own) * MIB
    assert figures["QEMU's own"] == int(count) * int(own) * MIB
    assert snapshot.budget(size) == figures["budget"]


def test_arithmetic() -> None:
    sums = re.findall(r"((?:\d+ [+-] )+\d+) = (\d+)", " ".join(GUIDE.split()))
    assert sums
    for terms, result in sums:
        signs = ["+", *re.findall(r"[+-]", terms)]
        numbers = [int(number) for number in re.findall(r"\d+", terms)]
        assert sum(number if sign == "+" else -number for sign, number in zip(signs, numbers, strict=True)) == int(result)

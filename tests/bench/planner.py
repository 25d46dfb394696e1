# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for so many guests and prints what that took: `PYTHONPATH=.dev python -m tests.bench.planner GUESTS`."""

from __future__ import annotations

import json
import random
import sys
import time

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.constants import BALLOON_PAGE, MIB
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.policy import Condition, Policy, Rule, make_plan
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size

_POLICY = Policy(
    rules=(
        Rule("db-old", pin=True),
        Rule("db*", minimum=parse_size("50%", "min"), shares=3000),
        Rule("build*", maximum=parse_size("75%", "max"), shares=500),
    ),
    buffer=parse_size("25%", "buffer"),
    deadband=parse_size("32M", "deadband"),
    max_step=parse_size("2G", "max_step"),
)


def main() -> None:
    """Time one plan that has all there is to do: rules, a budget between needs and ceilings, dead band and steps."""
    chance = random.Random(1)  # noqa: S311 - nothing secret
    guests = [_guest(number, chance) for number in range(int(sys.argv[1]))]
    budget = sum(guest.used + guest.maximum for guest in guests) // 2
    cpu, start = time.process_time(), time.perf_counter()
    plan = make_plan(guests, _POLICY, budget, 32 * MIB)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    moved = sum(share.target != share.current for share in plan.shares)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "moved": moved, "feasible": plan.feasible}))


def _guest(number: int, chance: random.Random) -> Condition:
    maximum = chance.choice([512, 1024, 2048, 4096, 8192]) * MIB
    actual = maximum * chance.randint(50, 100) // 100 // BALLOON_PAGE * BALLOON_PAGE
    return Condition(
        name=f"{chance.choice(['web', 'db', 'build', 'vm'])}{number}",
        maximum=maximum,
        actual=actual,
        charge=actual,
        used=actual * chance.randint(10, 95) // 100,
        alone=None if number % 50 else "paused",
    )


if __name__ == "__main__":
    main()

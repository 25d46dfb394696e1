# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How guests share a host's memory: situations with figures to follow by hand, and what holds for any guests and rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.constants import BALLOON_PAGE, MIB
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import OptionError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.policy import (
    Condition,
    Plan,
    Policy,
    Rule,
    grant,
    make_plan,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import Size, exactly, parse_size


def size(text: str) -> Size:
    return parse_size(text, "size", zero=True, full=True, most=1000)


def rule(match: str, least: str = "", most: str = "", shares: int = 1000, *, pin: bool = False) -> Rule:
    return Rule(match, size(least) if least else None, size(most) if most else None, shares, pin)


def policy(*rules: Rule, buffer: str = "25%", deadband: str = "0", max_step: str = "") -> Policy:
    return Policy(rules, size(buffer), size(deadband), size(max_step) if max_step else None)


def vm(
    name: str, used: int = 400, actual: int = 1000, maximum: int = 2000, *, charge: int | None = None, alone: str | None = None
) -> Condition:
    """Return a guest, with its figures in MiB."""
    return Condition(name, maximum * MIB, actual * MIB, (actual if charge is None else charge) * MIB, used * MIB, alone)


def mib(sizes: Sequence[int]) -> list[float]:
    return [size / MIB for size in sizes]


def targets(plan: Plan) -> list[float]:
    return mib([share.target for share in plan.shares])


def plan(guests: Sequence[Condition], how: Policy, budget: float, margin: int = 0) -> Plan:
    return make_plan(guests, how, int(budget * MIB), margin * MIB)


def after(plan: Plan) -> list[Condition]:
    """Return the guests once the plan is carried out. A guest cannot use more than it has."""
    return [
        replace(share.condition, actual=share.target, used=min(share.condition.used, share.target))
        if share.alone is None
        else share.condition
        for share in plan.shares
    ]


# --- situations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1160, [960, 100, 100]),  # everybody what they use, nobody more
        (1235, [985, 125, 125]),  # 75 towards their buffers; the idle ones' are full with that
        (1450, [1200, 125, 125]),  # everybody what they need
        (2950, [1700, 625, 625]),  # and 500 for each of them above it
        (4998, [2048, 1475, 1475]),  # one is full, the others get the rest
        (6144, [2048, 2048, 2048]),
        (9000, [2048, 2048, 2048]),
    ],
)
def test_a_starving_guest_among_idle_ones(budget: int, expected: list[int]) -> None:
    guests = [vm("busy", 960, 960, 2048), vm("idle1", 100, 2048, 2048), vm("idle2", 100, 2048, 2048)]
    assert targets(plan(guests, policy(), budget)) == expected


@pytest.mark.parametrize(("budget", "expected"), [(3000, 1000), (3300, 1100), (3750, 1250), (4500, 1500), (7000, 2000)])
def test_all_starving(budget: int, expected: int) -> None:
    guests = [vm(name, used=1000) for name in ("a", "b", "c")]
    assert targets(plan(guests, policy(), budget)) == [expected] * 3


@pytest.mark.parametrize(("budget", "expected"), [(3000, [2000, 1000]), (3018, [2000, 1018]), (4000, [2000, 2000])])
def test_a_guest_at_its_minimum(budget: int, expected: list[int]) -> None:
    guests = [vm("db", used=500, actual=2000), vm("web", used=1000)]
    assert targets(plan(guests, policy(rule("db", "100%")), budget)) == expected


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (800, [400, 400]),
        (860, [400, 460]),
        (900, [400, 500]),
        (999, [400, 500]),  # what is left is not enough to raise everybody to what they need
        (1000, [500, 500]),
        (1600, [500, 1100]),
        (3000, [500, 2000]),
        (4000, [2000, 2000]),
    ],
)
def test_no_shares(budget: int, expected: list[int]) -> None:
    assert targets(plan([vm("last"), vm("first")], policy(rule("last", shares=0)), budget)) == expected


def test_nobody_has_shares() -> None:
    assert targets(plan([vm("a"), vm("b")], policy(rule("*", shares=0)), 3999)) == [500, 500]


@pytest.mark.parametrize(
    ("most", "budget", "expected"),
    [
        ("", 1900, [800, 1100]),  # 900 above what they need, 300 and 600 of it
        ("700M", 1900, [1200, 700]),  # the second one takes 200 of that only
        ("", 860, [420, 440]),  # the same below it
        ("440M", 860, [420, 440]),
        ("430M", 860, [430, 430]),
    ],
)
def test_shares_one_to_two(most: str, budget: int, expected: list[int]) -> None:
    how = policy(rule("one", shares=1), rule("two", most=most, shares=2))
    assert targets(plan([vm("one"), vm("two")], how, budget)) == expected


@pytest.mark.parametrize(
    ("most", "shares", "budget", "expected"),
    [
        (["800M", "900M"], [1, 2], 1450, [650, 800]),
        (["800M", "900M"], [1, 2], 1620, [720, 900]),  # the second one is full first, although it lacks more
        (["800M", "900M"], [1, 2], 1700, [800, 900]),
        (["501.875M", "501.125M"], [1_000_000, 1_000_000], 1002.625, [501.5, 501.125]),  # less than two bytes a share
    ],
)
def test_who_is_full_first(most: list[str], shares: list[int], budget: float, expected: list[float]) -> None:
    how = policy(rule("a", most=most[0], shares=shares[0]), rule("b", most=most[1], shares=shares[1]))
    assert targets(plan([vm("a"), vm("b")], how, budget)) == expected


@pytest.mark.parametrize("charge", [1000, 1500])
def test_a_guest_locked_for_migration_is_left_alone_and_charged(charge: int) -> None:
    guests = [vm("moving", used=0, charge=charge, alone="moving is migrating"), vm("a"), vm("b")]
    done = plan(guests, policy(), charge + 1600)
    assert targets(done) == [1000, 800, 800]
    assert mib([done.charged, *(share.cost for share in done.shares)]) == [charge, charge, 800, 800]
    assert mib([share.standing for share in done.shares]) == [charge, 1000, 1000]


def test_a_pinned_guest_is_left_alone_and_charged() -> None:
    done = plan([vm("kept", used=0), vm("a")], policy(rule("kept", pin=True)), 1800)
    assert (targets(done), done.charged) == ([1000, 800], 1000 * MIB)


def test_a_host_with_plenty_of_memory() -> None:
    guests = [vm("a"), vm("b", maximum=1500), vm("c")]
    assert targets(plan(guests, policy(rule("c", most="60%")), 64000)) == [2000, 1500, 1200]


def test_floors_above_the_budget() -> None:
    done = plan([vm("a", used=700), vm("b", used=600)], policy(), 1200)
    assert (done.feasible, done.missing, targets(done)) == (False, 100 * MIB, [1000, 1000])


def test_everything_pinned_and_charged_above_the_budget() -> None:
    done = plan([vm("a"), vm("b", charge=1100)], policy(rule("*", pin=True)), 2000)
    assert (done.feasible, done.missing, targets(done)) == (False, 100 * MIB, [1000, 1000])


def test_everything_pinned_and_within_the_budget() -> None:
    done = plan([vm("a"), vm("b")], policy(rule("*", pin=True)), 2000)
    assert (done.feasible, done.missing, targets(done)) == (True, 0, [1000, 1000])


def test_nobody_to_share_with() -> None:
    assert plan([], policy(), 100).feasible
    assert plan([], policy(), 100).shares == ()


@pytest.mark.parametrize(("maximum", "floor"), [(64, 64), (96, 96), (97, 96)])
def test_a_guest_around_the_least_that_a_guest_boots_with(maximum: int, floor: int) -> None:
    done = plan([vm("tiny", used=10, actual=maximum, maximum=maximum)], policy(), floor)
    assert (done.feasible, targets(done), done.shares[0].floor) == (True, [floor], floor * MIB)


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [
        ("600M", "500M", "600 MiB and max is 500 MiB"),
        ("60%", "1000M", "1.2 GiB and max is 1000 MiB"),
        ("3G", "2.5G", "3 GiB and max is 2.5 GiB"),
        ("50%", "49.9%", "1000 MiB and max is 998 MiB"),
    ],
)
def test_a_minimum_above_the_maximum(least: str, most: str, told: str) -> None:
    with pytest.raises(OptionError, match=f"for web7, min is {told} .*'web.'"):
        plan([vm("db"), vm("web7")], policy(rule("web?", least, most)), 9000)


@pytest.mark.parametrize(("least", "most"), [("500M", "500M"), ("50%", "1000M"), ("3G", "3G"), ("100%", "max"), ("3G", "")])
def test_a_minimum_that_the_maximum_allows(least: str, most: str) -> None:
    assert plan([vm("web7")], policy(rule("web?", least, most)), 9000).feasible


def test_the_first_rule_that_fits_wins() -> None:
    how = policy(rule("web1", most="600M"), rule("web*", most="700M"), rule("*", most="800M"))
    assert targets(plan([vm("web1"), vm("web2"), vm("db")], how, 9000)) == [600, 700, 800]
    how = policy(rule("*", most="800M"), rule("web1", most="600M"), rule("*", pin=True))
    assert targets(plan([vm("web1"), vm("web2"), vm("db")], how, 9000)) == [800, 800, 800]


@pytest.mark.parametrize(
    ("match", "fitting"),
    [
        ("web1", ["web1"]),
        ("web*", ["web1", "web", "web[1]"]),
        ("Web*", ["Web1"]),
        ("[wW]eb1", ["web1", "Web1"]),
        ("web[[]1]", ["web[1]"]),
        ("web?", ["web1"]),
        ("eb", []),
        ("*", ["web1", "Web1", "web", "web[1]"]),
    ],
)
def test_patterns_of_names(match: str, fitting: list[str]) -> None:
    names = ["web1", "Web1", "web", "web[1]"]
    assert [name for name in names if rule(match).fits(name)] == fitting


def test_a_guest_that_uses_more_than_its_max_is_not_taken_below_that_unless_it_has_a_min() -> None:
    guests = [vm("greedy", used=900), vm("a")]
    done = plan(guests, policy(rule("greedy", most="500M")), 9000)
    assert targets(done) == [900, 2000]
    assert "above its max, and not taken below what it uses" in done.shares[0].reason
    assert not plan(guests, policy(rule("greedy", most="500M")), 1299).feasible
    assert targets(plan(guests, policy(rule("greedy", "400M", "500M")), 9000)) == [500, 2000]
    assert plan(guests, policy(rule("greedy", "400M", "500M")), 900).feasible


def test_a_rule_of_next_to_nothing() -> None:
    assert targets(plan([vm("a", used=10)], policy(rule("a", "1%", "1%")), 9000)) == [32]
    assert targets(plan([vm("a", used=900)], policy(rule("a", "1M")), 40)) == [40]
    assert not plan([vm("a", used=900)], policy(rule("a", "1M")), 31).feasible


def test_bounds_of_a_guest_that_is_left_alone_contradict_nobody() -> None:
    """One that could not be read has no full memory to take a percentage of."""
    gone = Condition("gone", 0, 0, 0, 0, "cannot be read")
    assert targets(plan([gone, vm("a")], policy(rule("*", "100M", "80%")), 4000)) == [0, 1600]


def test_a_guest_on_the_move_gets_a_target_of_its_own() -> None:
    """However small the change: the target that it is moving to is somebody else's."""
    how = policy(deadband="64M")
    still, moving = vm("a", actual=990), replace(vm("a", actual=990), moving=True)
    assert targets(plan([still], how, 1000)) == [990]
    assert targets(plan([moving], how, 1000)) == [1000]


def test_a_max_that_no_guest_could_live_with() -> None:
    assert targets(plan([vm("a", used=10)], policy(rule("a", most="1M")), 9000)) == [96]


def test_an_explicit_minimum_lets_a_guest_be_squeezed_below_what_it_uses_and_none_does_not() -> None:
    guests = [vm("a", used=600), vm("b", used=800)]
    assert not plan(guests, policy(), 1200).feasible
    assert targets(plan(guests, policy(rule("b", "200M")), 1200)) == [600, 600]
    assert targets(plan(guests, policy(rule("b", "200M")), 1400)) == [600, 800]
    assert targets(plan(guests, policy(rule("*", "200M")), 1200)) == [600, 600]
    assert targets(plan(guests, policy(rule("*", "200M")), 400)) == [200, 200]


def test_a_budget_that_comes_down_and_goes_up_again() -> None:
    guests = [vm("db", used=900, actual=2000), vm("web", used=300, actual=2000)]
    how = policy(rule("db", "1600M", shares=2000), rule("web", "200M"))
    for budget, feasible, expected in (
        (3600, True, [2000, 1600]),
        (3100, True, [2000, 1100]),
        (2035, True, [1640, 395]),
        (1860, True, [1600, 260]),
        (1800, True, [1600, 200]),
        (1700, False, [1600, 200]),
        (1875, True, [1600, 275]),
        (4000, True, [2000, 2000]),
    ):
        done = plan(guests, how, budget)
        assert (done.feasible, targets(done)) == (feasible, expected)
        guests = [replace(guest, actual=share.target) for guest, share in zip(guests, done.shares, strict=True)]


# --- dead band, step and margin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "deadband", "expected"),
    [
        ([1200, 800], "0", [1000, 1000]),
        ([1031, 969], "32M", [1031, 969]),
        ([1032, 968], "32M", [1000, 1000]),
        ([1031, 900], "32M", [1000, 1000]),  # the second one could not grow without the first one's 31
        ([1031, 950], "32M", [1000, 1000]),
        ([969, 1040], "32M", [969, 1000]),
        ([1019, 981], "1%", [1019, 981]),
        ([1020, 980], "1%", [1000, 1000]),
        ([1010, 1010], "32M", [1000, 1000]),  # above the budget
        ([1031, 1000], "32M", [1000, 1000]),
        ([1020, 940], "32M", [1000, 1000]),
    ],
)
def test_dead_band(actual: list[int], deadband: str, expected: list[int]) -> None:
    guests = [vm("a", actual=actual[0]), vm("b", actual=actual[1])]
    assert targets(plan(guests, policy(deadband=deadband), 2000)) == expected


@pytest.mark.parametrize(
    ("actual", "budget", "expected"),
    [
        (499, 500, 500),
        (499, 9000, 600),
        (500, 9000, 500),
        (599, 9000, 599),
        (600, 9000, 600),
        (601, 9000, 600),
        (600, 599, 599),
    ],
)
def test_a_guest_out_of_its_bounds_is_moved_however_small_the_change(actual: int, budget: int, expected: int) -> None:
    how = policy(rule("a", "500M", "600M"), deadband="128M")
    assert targets(plan([vm("a", used=100, actual=actual)], how, budget)) == [expected]


@pytest.mark.parametrize(
    ("step", "budget", "runs"),
    [
        ("100M", 3000, [[1900, 1100], [1800, 1200], [1700, 1300], [1600, 1400], [1500, 1500], [1500, 1500]]),
        ("20%", 3000, [[1600, 1400], [1500, 1500], [1500, 1500]]),
        ("3G", 3000, [[1500, 1500]]),
        # Above the budget: nobody grows before it is reached.
        ("300M", 2200, [[1700, 1000], [1400, 1000], [1100, 1100], [1100, 1100]]),
    ],
)
def test_step(step: str, budget: int, runs: list[list[int]]) -> None:
    guests = [vm("a", actual=2000), vm("b", actual=1000)]
    for expected in runs:
        done = plan(guests, policy(max_step=step), budget)
        assert targets(done) == expected
        assert mib([share.wanted or 0 for share in done.shares]) == [budget / 2] * 2
        guests = after(done)


def test_a_step_shorter_than_the_dead_band_is_made_on_a_longer_way() -> None:
    guests = [vm("a", actual=1100), vm("b", actual=880)]
    for expected in ([1084, 916], [1068, 932], [1052, 948], [1052, 948]):
        done = plan(guests, policy(deadband="64M", max_step="16M"), 2000)
        assert targets(done) == expected
        guests = after(done)


def test_steps_do_not_end_before_everybody_is_there() -> None:
    """The first guest's way is shorter than its dead band at last, the second one's is not."""
    guests = [vm("a", actual=1060), vm("b", actual=930)]
    for expected in ([1050, 950], [1050, 950]):
        done = plan(guests, policy(deadband="64M", max_step="10M"), 2000)
        assert targets(done) == expected
        guests = after(done)


def test_a_step_never_takes_from_those_who_are_to_grow() -> None:
    guests = [vm("a", actual=2000), vm("b", actual=1000), vm("c", actual=1000)]
    assert targets(plan(guests, policy(max_step="100M"), 3900)) == [1900, 1000, 1000]


@pytest.mark.parametrize("budget", [1999, 2000, 2001, 2032])
def test_a_margin_is_held_back_at_every_budget(budget: int) -> None:
    """So that a budget that is not the same twice moves nobody to and fro. 2000 is what both need."""
    guests = [vm("a", used=800), vm("b", used=800)]
    held = targets(plan(guests, policy(), budget, margin=32))
    assert held == [(budget - 32) / 2] * 2
    settled = [replace(guest, actual=int(size * MIB)) for guest, size in zip(guests, held, strict=True)]
    for other in range(budget - 32, budget + 32):
        assert targets(plan(settled, policy(deadband="32M"), other, margin=32)) == held


@pytest.mark.parametrize(("budget", "expected"), [(1600, 800), (1620, 800), (1634, 801), (4031, 1999.5), (4032, 2000)])
def test_a_margin_takes_nothing_from_floors(budget: int, expected: int) -> None:
    assert targets(plan([vm("a", used=800), vm("b", used=800)], policy(), budget, margin=32)) == [expected] * 2


def test_a_margin_is_held_back_on_the_way_as_well() -> None:
    guests = [vm("a", actual=2000), vm("b", actual=1000)]
    assert targets(plan(guests, policy(max_step="100M"), 3000, margin=32)) == [1900, 1068]


def test_a_margin_takes_nothing_from_floors_on_the_way_either() -> None:
    guests = [vm("a", used=800, actual=2000), vm("b", used=100, actual=500)]
    how = policy(rule("b", "800M"), max_step="1190M")
    assert targets(plan(guests, how, 1600, margin=32)) == [810, 790]


# --- granting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([1000, 200, 800], [1000, 1000, 1000]),  # all that was to come free
        ([1500, 200, 800], [1500, 500, 1000]),  # 500 of 1000: first what is needed, then the same for both up to their targets
        ([1800, 200, 800], [1800, 325, 875]),
        ([1950, 200, 800], [1950, 250, 800]),
        ([1980, 200, 800], [1980, 220, 800]),
        ([2000, 200, 800], [2000, 200, 800]),
        ([2400, 200, 800], [2400, 200, 800]),
        ([900, 200, 800], [900, 1000, 1000]),  # nobody gets more than was planned
        ([1000, 1300, 800], [1000, 1300, 800]),  # one has grown by itself
        ([1000, 1100, 800], [1000, 1100, 900]),
    ],
)
def test_granting(held: list[int], expected: list[int]) -> None:
    done = plan(
        [vm("a", actual=2000), vm("b", used=200, actual=200), vm("c", actual=800)], policy(rule("*", most="1000M")), 3000
    )
    assert targets(done) == [1000, 1000, 1000]
    assert mib(grant(done, [size * MIB for size in held])) == expected


def test_granting_never_takes_a_part_of_a_page() -> None:
    done = plan([vm("a", actual=2000), vm("b", actual=500), vm("c", actual=500)], policy(), 3000)
    held = [2000 * MIB - 3, 500 * MIB + 1, 500 * MIB]
    assert grant(done, held) == held


def test_granting_what_is_asked_for_within_another_budget() -> None:
    done = plan([vm("a", actual=2000), vm("b", actual=500), vm("c", actual=500)], policy(), 3000)
    held = [size * MIB for size in (1000, 500, 500)]
    assert mib(grant(done, held, budget=2600 * MIB)) == [1000, 800, 800]
    assert mib(grant(done, held, {1: 700 * MIB}, 2600 * MIB)) == [1000, 700, 500]
    assert mib(grant(done, held, {0: 2000 * MIB}, 2600 * MIB)) == [1600, 500, 500]
    assert mib(grant(done, held, {0: 2500 * MIB}, 9000 * MIB)) == [2500, 500, 500]
    assert mib(grant(done, held, {1: 400 * MIB}, 2600 * MIB)) == [1000, 500, 500]
    assert mib(grant(done, held, {}, 2600 * MIB)) == [1000, 500, 500]


# --- reasons -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guests", "how", "budget", "reasons"),
    [
        ([vm("a", charge=1100, alone="a is paused")], policy(), 2000, ["a is paused; left alone and charged 1.1 GiB"]),
        ([vm("a")], policy(rule("a", pin=True)), 2000, ["pinned by a rule; left alone and charged 1000 MiB"]),
        (
            [vm("a", alone="a is paused")],
            policy(rule("a", pin=True)),
            2000,
            ["a is paused; left alone and charged 1000 MiB"],
        ),
        (
            [vm("a")],
            policy(),
            399,
            ["uses 400 MiB, needs 500 MiB; stays, since the guests cannot share the budget"],
        ),
        ([vm("a")], policy(), 2000, ["uses 400 MiB, needs 500 MiB; has all that it may have"]),
        ([vm("a")], policy(), 400, ["uses 400 MiB, needs 500 MiB; is not taken below its floor"]),
        ([vm("a")], policy(rule("a", "600M")), 600, ["uses 400 MiB, needs 500 MiB; is not taken below its floor"]),
        ([vm("a")], policy(), 500, ["uses 400 MiB, needs 500 MiB; has what it needs"]),
        (
            [vm("a"), vm("b")],
            policy(rule("a", shares=0)),
            2000,
            [
                "uses 400 MiB, needs 500 MiB; has what it needs",
                "uses 400 MiB, needs 500 MiB; the rest is its share of what nobody needs",
            ],
        ),
        ([vm("a")], policy(), 499, ["uses 400 MiB, needs 500 MiB; there is not enough for everybody's buffer"]),
        (
            [vm("a")],
            policy(rule("a", "200M")),
            400,
            ["uses 400 MiB, needs 500 MiB; there is not enough for everybody's buffer"],
        ),
        (
            [vm("a")],
            policy(rule("a", "200M")),
            399,
            ["uses 400 MiB, needs 500 MiB; there is not enough for what everybody uses"],
        ),
        (
            [vm("a")],
            policy(deadband="200M"),
            1100,
            ["uses 400 MiB, needs 500 MiB; 1.1 GiB would be right, and what can be done of that now is too small a change"],
        ),
        (
            [vm("a", actual=2000), vm("b", actual=1000)],
            policy(max_step="300M"),
            2800,
            [
                "uses 400 MiB, needs 500 MiB; on its way to 1.4 GiB, as far as one run may shrink it",
                "uses 400 MiB, needs 500 MiB; on its way to 1.4 GiB, as far as others may be shrunk for it in one run",
            ],
        ),
        (
            [vm("a", actual=2000), vm("b", actual=1000)],
            policy(max_step="200M"),
            2800,
            [
                "uses 400 MiB, needs 500 MiB; on its way to 1.4 GiB, as far as one run may shrink it",
                "uses 400 MiB, needs 500 MiB; 1.4 GiB would be right, and what can be done of that now is too small a change",
            ],
        ),
    ],
)
def test_reasons(guests: list[Condition], how: Policy, budget: int, reasons: list[str]) -> None:
    assert [share.reason for share in plan(guests, how, budget).shares] == reasons


# --- whatever the guests and the rules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Guests, a policy and a budget."""

    guests: tuple[Condition, ...]
    policy: Policy
    budget: int
    margin: int = 0

    @property
    def plan(self) -> Plan:
        return make_plan(self.guests, self.policy, self.budget, self.margin)

    @property
    def stood(self) -> int:
        return sum(share.standing for share in self.plan.shares)


def pages(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(least, most).map(lambda count: count * BALLOON_PAGE)


# Round figures meet each other, others do not.
_memory = st.one_of(st.integers(1, 8).map(lambda count: count * 128 * MIB), pages(1, 1 << 19))
_bound = st.one_of(
    st.integers(1, 100).map(lambda percent: size(f"{percent}%")), _memory.map(exactly), st.integers(1, 1 << 31).map(exactly)
)
_shares = st.one_of(st.sampled_from([0, 1, 2, 1000]), st.integers(0, 1_000_000))
_small = st.one_of(
    st.just(exactly(0)), st.integers(1, 20).map(lambda percent: size(f"{percent}%")), pages(1, 1 << 15).map(exactly)
)
_steps = _small.filter(lambda step: step.amount > 0)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    maximum = draw(_memory | st.integers(1, 1 << 31))
    actual = draw(st.one_of(st.just(maximum), pages(0, maximum // BALLOON_PAGE)))
    used = draw(st.one_of(st.just(actual), st.just(0), st.integers(0, actual)))
    charge = draw(st.one_of(st.just(actual), st.integers(0, 2 * maximum)))
    alone = draw(st.sampled_from([None, None, None, None, "paused"]))
    return Condition(draw(st.sampled_from("abcd")), maximum, actual, charge, used, alone)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Return a rule whose bounds no guest can find contradictory."""
    least, most = draw(st.none() | _bound), draw(st.none() | _bound)
    if least and most and (least.relative != most.relative or least.amount > most.amount):
        least = None
    return Rule(draw(st.sampled_from(["a", "b", "[ab]", "c", "*"])), least, most, draw(_shares), draw(st.integers(0, 9)) == 0)


@st.composite
def worlds(draw: st.DrawFn, *, steady: bool = False, step: bool = False, feasible: bool = True) -> World:
    """Return a world, ``steady`` without dead band and step."""
    guests = tuple(draw(st.lists(conditions(), min_size=1, max_size=7)))
    how = Policy(
        rules=tuple(draw(st.lists(rules(), max_size=3))),
        buffer=draw(
            st.one_of(st.just(size("25%")), st.integers(0, 1000).map(lambda part: size(f"{part}%")), _memory.map(exactly))
        ),
        deadband=exactly(0) if steady else draw(_small),
        max_step=draw(_steps) if step else None,
    )
    return World(guests, how, draw(budgets(guests, how, feasible=feasible)), draw(st.just(0) | pages(0, 1 << 15)))


def budgets(guests: Sequence[Condition], how: Policy, *, feasible: bool = True) -> st.SearchStrategy[int]:
    """Return budgets that matter: around a level of all the guests, or anywhere between."""
    idle = make_plan(guests, how, 0)
    levels = [
        idle.charged + sum(share.bounds.levels[number] for share in idle.shares if share.alone is None) for number in range(4)
    ]
    stood = sum(share.standing for share in idle.shares)
    least = levels[0] if feasible else 0
    return st.one_of(
        st.tuples(st.sampled_from([*levels, stood]), st.integers(-2 * BALLOON_PAGE, 2 * BALLOON_PAGE)).map(sum),
        st.integers(levels[0], levels[3] + MIB),
        st.integers(0, levels[0]),
    ).map(lambda budget: max(least, budget))


thorough = settings(deadline=None, max_examples=40)


@thorough
@given(worlds(feasible=False))
def test_an_infeasible_plan_moves_nobody_and_says_what_is_missing(world: World) -> None:
    done = world.plan
    assert all(isinstance(share.reason, str) for share in done.shares)
    if done.feasible:
        assert done.missing == 0
        return
    assert [share.target for share in done.shares] == [guest.actual for guest in world.guests]
    assert replace(world, budget=world.budget + done.missing).plan.feasible
    assert not replace(world, budget=world.budget + done.missing - 1).plan.feasible


@thorough
@given(worlds())
def test_a_plan_fits_into_the_budget_and_keeps_bounds(world: World) -> None:
    done = world.plan
    assert sum(share.cost for share in done.shares) <= world.budget
    assert done.charged == sum(share.cost for share in done.shares if share.alone is not None)
    for share in done.shares:
        assert isinstance(share.target, int)
        if share.alone is None:
            assert share.floor <= share.target <= share.ceiling
        else:
            assert share.target == share.current
        assert share.target % BALLOON_PAGE == 0 or share.target == share.current


@thorough
@given(worlds())
def test_nobody_is_planned_below_what_it_uses_unless_a_rule_says_so(world: World) -> None:
    for share in world.plan.shares:
        if share.alone is None and world.policy.rule(share.condition.name).minimum is None:
            assert share.target >= min(
                max(share.condition.used, 96 * MIB), share.condition.maximum // BALLOON_PAGE * BALLOON_PAGE
            )


@thorough
@given(worlds())
def test_small_changes_are_made_only_where_a_bound_or_the_budget_needs_them(world: World) -> None:
    done = world.plan
    small = [
        share.alone is None
        and abs((share.wanted or 0) - share.current) < world.policy.deadband.resolve(share.condition.maximum)
        and share.floor <= share.current <= share.ceiling
        for share in done.shares
    ]
    others = sum(
        share.current if left else share.cost if share.wanted is None else share.wanted
        for share, left in zip(done.shares, small, strict=True)
    )
    for share, left in zip(done.shares, small, strict=True):
        if not left:
            assert share.target == (share.current if share.alone is not None else share.wanted)
        elif others <= world.budget:
            assert share.target == share.current
        else:
            assert share.target == min(share.current, share.wanted or 0)


@thorough
@given(worlds(steady=True))
def test_the_order_of_pouring(world: World) -> None:
    """Nobody has more than a level while somebody with shares lacks it, and nothing that anybody could take is left over."""
    movable = [share for share in world.plan.shares if share.alone is None]
    for level in range(1, 4):
        lacking = [share for share in movable if share.target < share.bounds.levels[level]]
        if lacking:
            assert all(share.target <= share.bounds.levels[level] for share in movable)
        if any(share.shares for share in lacking):
            left = world.budget - sum(share.cost for share in world.plan.shares)
            assert left < world.margin + BALLOON_PAGE * len(movable)


@thorough
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_the_guests_does_not_matter(world: World, random: Random) -> None:
    order = list(range(len(world.guests)))
    random.shuffle(order)
    shuffled = replace(world, guests=tuple(world.guests[number] for number in order))
    assert shuffled.plan.shares == tuple(world.plan.shares[number] for number in order)


@thorough
@given(worlds(steady=True), st.data())
def test_more_budget_never_takes_from_anyone(world: World, data: st.DataObject) -> None:
    other = data.draw(budgets(world.guests, world.policy))
    less, more = sorted([world.budget, other])
    poor, rich = replace(world, budget=less).plan, replace(world, budget=more).plan
    for before, now in zip(poor.shares, rich.shares, strict=True):
        assert before.target <= now.target


@thorough
@given(worlds(steady=True))
def test_equal_guests_get_the_same(world: World) -> None:
    movable = [share for share in world.plan.shares if share.alone is None]
    for one in movable:
        for other in movable:
            if (one.bounds.levels, one.shares) == (other.bounds.levels, other.shares):
                assert one.target == other.target


@thorough
@given(worlds(steady=True), st.data())
def test_more_shares_never_get_less(world: World, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(world.guests) - 1))
    guest = world.guests[number]
    own = world.policy.rule(guest.name)
    guests = (*world.guests[:number], replace(guest, name="x"), *world.guests[number + 1 :])
    few, many = sorted([own.shares, data.draw(_shares)])
    got = []
    for shares in (few, many):
        how = replace(world.policy, rules=(replace(own, match="x", shares=shares), *world.policy.rules))
        got.append(make_plan(guests, how, world.budget, world.margin).shares[number].target)
    assert got[0] <= got[1]


@thorough
@given(worlds(steady=True))
def test_of_two_guests_the_one_with_more_shares_gets_no_less(world: World) -> None:
    movable = [share for share in world.plan.shares if share.alone is None]
    for one in movable:
        for other in movable:
            if one.bounds.levels == other.bounds.levels and one.shares < other.shares:
                assert one.target <= other.target


@thorough
@given(worlds())
def test_a_second_run_changes_nothing(world: World) -> None:
    done = world.plan
    guests = after(done)
    squeezed = any(guest.used < share.condition.used for guest, share in zip(guests, done.shares, strict=True))
    again = replace(world, guests=tuple(guests)).plan
    assert again.feasible
    if squeezed:
        return  # what it uses is another figure now
    assert [share.target for share in again.shares] == [guest.actual for guest in guests]


@thorough
@given(worlds(steady=True), st.data())
def test_a_budget_that_differs_by_less_than_the_margin_moves_nobody(world: World, data: st.DataObject) -> None:
    """Where everybody has shares: those who have none get a level or nothing of it."""
    how = replace(world.policy, rules=tuple(replace(rule, shares=max(1, rule.shares)) for rule in world.policy.rules))
    margin = world.margin + BALLOON_PAGE
    settled = make_plan(world.guests, how, world.budget, margin)
    guests = after(settled)
    if any(guest.used < share.condition.used for guest, share in zip(guests, settled.shares, strict=True)):
        return
    other = world.budget + data.draw(st.integers(BALLOON_PAGE - margin, margin - BALLOON_PAGE))
    again = make_plan(guests, replace(how, deadband=exactly(margin)), other, margin)
    assert [share.target for share in again.shares] == [guest.actual for guest in guests]


@thorough
@given(worlds(step=True))
def test_a_step_goes_the_right_way_and_not_too_far(world: World) -> None:
    done = world.plan
    cost = sum(share.cost for share in done.shares)
    assert cost <= max(world.budget, world.stood)
    for share in done.shares:
        if share.wanted is None:
            assert share.target == share.current
            continue
        assert world.policy.max_step is not None
        assert share.current - share.target <= world.policy.max_step.resolve(share.condition.maximum)
        low, high = sorted([share.current, share.wanted])
        assert low <= share.target <= high
        assert share.target % BALLOON_PAGE == 0 or share.target == share.current
        if cost > world.budget:
            assert share.target <= share.current


@thorough
@given(worlds(step=True), st.integers(10, 100))
def test_steps_lead_to_the_same_end(world: World, percent: int) -> None:
    world = replace(world, policy=replace(world.policy, max_step=size(f"{percent}%")))
    if any(share.wanted is not None and share.wanted < share.condition.used for share in world.plan.shares):
        return  # what they use is another figure on the way
    steps = 0
    while True:
        done = world.plan
        guests = tuple(after(done))
        if guests == world.guests:
            break
        steps += 1
        world = replace(world, guests=guests)
        assert steps <= 20
    assert sum(share.cost for share in done.shares) <= world.budget
    for share in done.shares:
        if share.wanted is not None:
            assert abs(share.wanted - share.target) <= world.policy.deadband.resolve(share.condition.maximum)
            assert share.floor <= share.target <= share.ceiling


@st.composite
def harvests(draw: st.DrawFn, plan: Plan) -> list[int]:
    """Return what guests hold after the shrinking: those that were to shrink may have stalled anywhere."""
    return [
        share.standing
        if share.alone is not None or share.target >= share.current
        else draw(st.one_of(st.just(share.target), st.just(share.current), st.integers(share.target, 2 * share.current)))
        for share in plan.shares
    ]


@thorough
@given(st.data(), st.booleans())
def test_what_is_granted(data: st.DataObject, step: bool) -> None:
    done = data.draw(worlds(step=step)).plan
    held = data.draw(harvests(done))
    granted = grant(done, held)
    assert sum(granted) <= max(done.budget, sum(held))
    for share, before, size in zip(done.shares, held, granted, strict=True):
        assert size >= before
        if share.target <= share.current:
            assert size == before
        else:
            assert size <= share.target
        assert size % BALLOON_PAGE == 0 or size == before
    reached = [share.cost if share.target < share.current else share.standing for share in done.shares]
    assert grant(done, reached) == [share.cost for share in done.shares]


@thorough
@given(st.data())
def test_less_that_comes_free_gives_nobody_more(data: st.DataObject) -> None:
    done = data.draw(worlds()).plan
    one, other = data.draw(harvests(done)), data.draw(harvests(done))
    more, less = [min(pair) for pair in zip(one, other, strict=True)], one
    for share, rich, poor in zip(done.shares, grant(done, more), grant(done, less), strict=True):
        if share.target > share.current:
            assert poor <= rich


@thorough
@given(worlds(), st.data())
def test_whatever_is_asked_for_is_granted_within_the_budget(world: World, data: st.DataObject) -> None:
    """As when guests are brought back to where they were, or have grown by themselves."""
    done = world.plan
    held = [data.draw(st.integers(0, 2 * guest.maximum)) for guest in world.guests]
    wanted = {number: data.draw(_memory) for number in range(len(held)) if data.draw(st.booleans())}
    budget = data.draw(st.integers(0, 2 * sum(held) + MIB))
    granted = grant(done, held, wanted, budget)
    assert sum(granted) <= max(budget, sum(held))
    for number, (before, now) in enumerate(zip(held, granted, strict=True)):
        assert before <= now <= max(before, wanted.get(number, 0))
    if sum(max(before, wanted.get(number, 0)) for number, before in enumerate(held)) <= budget:
        assert granted == [max(before, wanted.get(number, 0)) for number, before in enumerate(held)]

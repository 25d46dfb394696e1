# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Targets against what a guest is and can bear: what is refused, and that nothing else ever harms a guest."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.constants import BALLOON_PAGE
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import (
    AboveMaximumError,
    BelowFloorError,
    NoBalloonError,
    NoDriverError,
    NotRunningError,
    RefusedError,
    UnsafeTargetError,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.targets import Aim, guard_headroom, take_aim
from tests.unit.build import MIB, guest, request, stats


@pytest.mark.parametrize(
    ("actual", "target", "expected", "move", "shrinks"),
    [
        (256, "160M", 160, True, True),
        (160, "max", 256, True, False),
        (160, "256M", 256, True, False),
        (256, "50%", 128, True, True),
        (256, "128M", 128, True, True),
        (160, "160M", 160, False, False),
        (161, "160M", 160, False, False),
        (159, "160M", 160, False, False),
        (162, "160M", 160, True, True),
        (158, "160M", 160, True, False),
    ],
)
def test_aims(*, actual: int, target: str, expected: int, move: bool, shrinks: bool) -> None:
    aim = take_aim(guest(actual=actual * MIB), request(target))
    assert (aim.actual, aim.target, aim.tolerance, aim.headroom) == (actual * MIB, expected * MIB, MIB, 64 * MIB)
    assert (aim.move, aim.shrinks) == (move, shrinks)


@pytest.mark.parametrize(
    ("facts", "target", "error"),
    [
        ({"actual": None}, "160M", NoBalloonError),
        ({}, "127M", BelowFloorError),
        ({}, "1", BelowFloorError),
        ({}, "257M", AboveMaximumError),
        ({"status": "paused"}, "160M", NotRunningError),
        ({"status": "shutdown"}, "160M", NotRunningError),
        ({"status": "prelaunch"}, "160M", NotRunningError),
        ({"migrating": True}, "160M", NotRunningError),
        ({"driver": False}, "160M", NoDriverError),
        ({"driver": False, "actual": 160 * MIB}, "160M", NoDriverError),
        ({"driver": False, "status": "paused"}, "160M", NotRunningError),
    ],
)
def test_refusals(facts: dict[str, Any], target: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="web1"):
        take_aim(guest(**facts), request(target))


@pytest.mark.parametrize("facts", [{"status": "paused"}, {"migrating": True}, {"driver": False}, {"driver": None}], ids=str)
def test_a_guest_that_is_there_already_needs_no_driver_and_need_not_run(facts: dict[str, Any]) -> None:
    assert not take_aim(guest(**facts), request("max")).move


def test_a_driver_that_qemu_cannot_tell_of_gets_its_chance() -> None:
    assert take_aim(guest(driver=None), request("160M")).move


def aim(target: int, actual: int = 256, headroom: int = 64) -> Aim:
    return Aim(actual=actual * MIB, target=target * MIB, tolerance=MIB, headroom=headroom * MIB, move=True)


@pytest.mark.parametrize(("available", "target"), [(160, 160), (256, 64), (64 + 1, 255)])
def test_headroom_that_is_left(available: int, target: int) -> None:
    assert guard_headroom("web1", aim(target), stats(available * MIB), 256 * MIB) is None


@pytest.mark.parametrize(
    ("available", "target", "advice"),
    [
        (160, 159, "lowest target that would do is 160M"),
        (100, 160, "lowest target that would do is 220M"),
        (64, 255, "no memory to spare"),
        (0, 160, "no memory to spare"),
    ],
)
def test_headroom_that_would_be_lost(available: int, target: int, advice: str) -> None:
    with pytest.raises(UnsafeTargetError, match=advice):
        guard_headroom("web1", aim(target), stats(available * MIB), 256 * MIB)


def test_a_guest_that_has_grown_since_is_judged_by_what_it_has() -> None:
    with pytest.raises(UnsafeTargetError, match="192M"):
        guard_headroom("web1", aim(160, actual=200), stats(128 * MIB), 256 * MIB)


def test_older_drivers_are_judged_by_what_is_free() -> None:
    with pytest.raises(UnsafeTargetError):
        guard_headroom("web1", aim(160), stats(None, free=100 * MIB), 256 * MIB)


@pytest.mark.parametrize("told", [None, stats(None), stats(257 * MIB)], ids=["nothing", "not this", "lies"])
def test_headroom_that_cannot_be_judged_is_warned_of(told: Any) -> None:
    warning = guard_headroom("web1", aim(160), told, 256 * MIB)
    assert warning is not None
    assert "only the floor guards it" in warning


pages = st.integers(min_value=0, max_value=1 << 19).map(lambda count: count * BALLOON_PAGE)
sizes = st.one_of(
    pages.map(str),
    st.integers(1, 2048).map(lambda size: f"{size}M"),
    st.integers(1, 100).map(lambda percent: f"{percent}%"),
)


@given(data=st.data(), maximum=pages.filter(bool), target=sizes, floor=sizes, headroom=sizes, tolerance=sizes)
def test_what_is_accepted_is_safe_and_advice_leads_there(
    data: st.DataObject, maximum: int, target: str, floor: str, headroom: str, tolerance: str
) -> None:
    actual = data.draw(st.integers(0, maximum // BALLOON_PAGE)) * BALLOON_PAGE
    available = data.draw(st.one_of(st.none(), st.integers(0, actual)))
    here = guest(maximum=maximum, actual=actual)

    def judge(target: str) -> Aim:
        wanted = request(target, floor=floor, headroom=headroom, tolerance=tolerance)
        aim = take_aim(here, wanted)
        assert min(wanted.floor.resolve(maximum), maximum) <= aim.target <= maximum
        if aim.shrinks and available is not None:
            guard_headroom("web1", aim, stats(available), actual)
            assert aim.target >= actual - available + wanted.headroom.resolve(maximum)
        return aim

    def refusal_of(target: str) -> RefusedError | None:
        try:
            judge(target)
        except RefusedError as refusal:
            return refusal
        return None

    refusal = None if target == "0" else refusal_of(target)
    while advice := refusal and re.search(r"lowest target (?:that would do )?is (\w+)", str(refusal)):
        assert advice.group(1) != target
        target = advice.group(1)
        refusal = refusal_of(target)
        assert not isinstance(refusal, AboveMaximumError)

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement of a guest's way to its target."""

from __future__ import annotations

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.constants import (
    BALLOON_PAGE,
    MIB,
    POLL_SECONDS_MAX,
    POLL_SECONDS_MIN,
    STALL_SECONDS,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.convergence import ProgressWatch


def watch(target: int = 100 * MIB, tolerance: int = MIB) -> ProgressWatch:
    return ProgressWatch(target, tolerance, now=0.0, stall_after=STALL_SECONDS)


def test_reached_within_tolerance_from_either_side() -> None:
    for actual in (99 * MIB, 100 * MIB, 101 * MIB):
        judge = watch()
        judge.observe(actual, 1.0)
        assert judge.reached
        assert not judge.stalled


def test_no_movement_is_a_stall_only_after_a_while() -> None:
    judge = watch()
    judge.observe(200 * MIB, 0.0)
    judge.observe(200 * MIB, STALL_SECONDS - 0.1)
    assert not judge.stalled
    judge.observe(200 * MIB, STALL_SECONDS)
    assert judge.stalled


def test_slow_movement_is_no_stall() -> None:
    judge = watch()
    for step in range(90):
        judge.observe((200 - step) * MIB, step * (STALL_SECONDS - 0.5))
        assert not judge.stalled


def test_a_trickle_of_single_pages_far_from_the_target_is_a_stall() -> None:
    judge = watch()
    for second in range(int(STALL_SECONDS) + 1):
        judge.observe(200 * MIB - second * BALLOON_PAGE, float(second))
    assert judge.stalled


def test_the_last_pages_count_as_progress() -> None:
    judge = watch(tolerance=0)
    for left in range(8, 0, -1):
        judge.observe(100 * MIB + left * BALLOON_PAGE, (8 - left) * (STALL_SECONDS - 0.5))
        assert not judge.stalled


def test_going_back_and_forth_is_no_progress() -> None:
    judge = watch()
    for second in range(int(STALL_SECONDS) + 2):
        judge.observe((200 + 10 * (second % 2)) * MIB, float(second))
    assert judge.stalled


def test_a_guest_far_away_is_looked_at_less_often_than_one_about_to_arrive() -> None:
    judge = watch(tolerance=0)
    judge.observe(1124 * MIB, 0.0)
    judge.observe(1024 * MIB, 0.1)
    assert judge.pause == POLL_SECONDS_MAX
    judge.observe(130 * MIB, 0.2)
    assert judge.pause == POLL_SECONDS_MIN

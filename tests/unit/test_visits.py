# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Visits that only look."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import Outcome, read_guests
from tests.peer import ScriptedPeer
from tests.unit.build import MIB
from tests.unit.conftest import OWN_UID


def code(outcome: Outcome) -> str | None:
    return outcome.error.code if outcome.error else None


class TestReading:
    async def test_reads_all_and_moves_none(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "a.qmp") as peer:
            first, second = await read_guests([(str(peer.path), OWN_UID), (str(folder / "none"), OWN_UID)], 5)
            assert (first.outcome, first.actual_after, first.changed) == ("unchanged", 256 * MIB, False)
            assert (second.outcome, code(second)) == ("failed", "not_found")
            assert peer.sent("balloon") == peer.sent("qom-set") == []

    async def test_a_guest_without_a_balloon_has_been_read(self, folder: Path) -> None:
        answers = {"query-balloon": {"error": {"class": "DeviceNotActive", "desc": ""}}}
        async with ScriptedPeer(folder / "a.qmp", answers=answers) as peer:
            [outcome] = await read_guests([(str(peer.path), OWN_UID)], 5)
            assert (outcome.outcome, code(outcome)) == ("unchanged", "no_balloon")

    async def test_a_monitor_that_answers_too_slowly(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "a.qmp", answers={"query-name": None}) as peer:
            [outcome] = await asyncio.wait_for(read_guests([(str(peer.path), OWN_UID)], 0.3), 3)
            assert (outcome.outcome, code(outcome)) == ("failed", "timeout")

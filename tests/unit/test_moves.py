# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests on their way to their targets: every end that it can take, and what is left behind in QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu import guest as guest_module
from ansible_collections.ballast.qemu.plugins.module_utils.qemu import moves, visits
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.balloon_client import BalloonClient
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import ProcessMemory
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.moves import Manner, bring_to_targets
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.targets import Request
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import Outcome
from tests.peer import ScriptedPeer
from tests.unit.build import MIB, request

SLOW = 40 * MIB  # bytes a second: a test ends long before such a guest arrives
STALL_SECONDS = 0.3
FAILING = {"error": {"class": "GenericError", "desc": "no"}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls, silence and hangs are noticed in a fraction of a second."""
    target_tolerance_timeout_stall = (0, 30.0, STALL_SECONDS)
    monkeypatch.setattr(BalloonClient.wait_for_actual, "__defaults__", target_tolerance_timeout_stall)
    monkeypatch.setattr(BalloonClient.query_actual, "__defaults__", (0.5,))
    monkeypatch.setattr(BalloonClient.set_actual, "__defaults__", (0.5,))
    monkeypatch.setattr(moves, "CONNECT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(guest_module, "STATS_TIMEOUT_SECONDS", 0.3)


def bring(*requests: Request, **manner: Any) -> asyncio.Task[list[Outcome]]:
    usual: dict[str, Any] = {"wait": True, "timeout": None, "on_stall": "settle", "check": False}
    return asyncio.ensure_future(bring_to_targets(requests, Manner(**{**usual, **manner})))


async def bring_one(peer: ScriptedPeer, target: str, **manner: Any) -> Outcome:
    [outcome] = await bring(request(target, peer.path), **manner)
    return outcome


def code(outcome: Outcome) -> str | None:
    return outcome.error.code if outcome.error else None


def once(answer: Any, peer_method: Any, after: int = 0) -> Any:
    """Answer so once, when it was asked ``after`` times, and like the peer before and after that."""
    asked = 0

    def reply(message: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        usual = peer_method(message.get("arguments", {}))
        return answer if asked == after + 1 else {"return": usual}

    return reply


class TestTheUsualEnds:
    async def test_converged(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", name="web1") as peer:
            outcome = await bring_one(peer, "160M")
            assert (outcome.outcome, outcome.changed, code(outcome)) == ("converged", True, None)
            assert outcome.target == outcome.actual_after == peer.actual == 160 * MIB
            assert outcome.guest is not None
            assert outcome.guest.actual == 256 * MIB
            assert peer.sent("balloon") == [{"value": 160 * MIB}]

    async def test_a_second_run_leaves_it_alone(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            await bring_one(peer, "60%")
            outcome = await bring_one(peer, "60%")
            assert (outcome.outcome, outcome.changed) == ("unchanged", False)
            assert len(peer.sent("balloon")) == 1

    async def test_memory_is_given_back_without_asking_for_statistics(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            await bring_one(peer, "160M")
            peer.commands.clear()
            outcome = await bring_one(peer, "max")
            assert (outcome.outcome, outcome.actual_after) == ("converged", 256 * MIB)
            assert peer.sent("qom-set") == []

    async def test_check_mode_sends_no_target(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            outcome = await bring_one(peer, "160M", check=True)
            assert (outcome.outcome, outcome.changed, outcome.actual_after) == ("would_change", True, 160 * MIB)
            assert peer.sent("balloon") == []

    @pytest.mark.parametrize("check", [True, False])
    @pytest.mark.parametrize(
        ("target", "answers", "expected"),
        [
            ("100M", {}, "below_floor"),
            ("257M", {}, "above_maximum"),
            ("160M", {"query-status": {"return": {"status": "paused"}}}, "not_running"),
            ("160M", {"query-status": {"return": {"status": "inmigrate"}}}, "not_running"),
            ("160M", {"query-migrate": {"return": {"status": "active"}}}, "not_running"),
            ("160M", {"x-query-virtio-status": {"return": {"started": False}}}, "no_driver"),
            ("160M", {"query-balloon": {"error": {"class": "DeviceNotActive", "desc": ""}}}, "no_balloon"),
            ("128M", {}, "unsafe_target"),
        ],
    )
    async def test_refused_and_untouched(
        self, folder: Path, *, target: str, answers: dict[str, Any], expected: str, check: bool
    ) -> None:
        async with ScriptedPeer(folder / "vm.qmp", used=100 * MIB, answers=answers) as peer:
            outcome = await bring_one(peer, target, check=check)
            assert (outcome.outcome, code(outcome), outcome.changed) == ("refused", expected, False)
            assert peer.sent("balloon") == []
            assert peer.polling == 0

    async def test_pending_when_nobody_waits(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            outcome = await bring_one(peer, "160M", wait=False)
            assert (outcome.outcome, outcome.changed) == ("pending", True)
            assert outcome.actual_after is not None
            assert outcome.actual_after > 160 * MIB
            assert peer.target == 160 * MIB

    async def test_changed_although_seen_in_tolerance_of_both_ends(self, folder: Path) -> None:
        """Tolerance is wide: the guest is there as soon as it has left, and goes on to where it was sent."""
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            [outcome] = await bring(request("160M", peer.path, tolerance="95M"))
            assert peer.sent("balloon") == [{"value": 160 * MIB}]
            assert (outcome.outcome, outcome.changed) == ("converged", True)


class TestStalls:
    async def test_settle_leaves_it_where_it_got_to(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", reserve=200 * MIB) as peer:
            outcome = await bring_one(peer, "160M")
            assert (outcome.outcome, code(outcome), outcome.changed) == ("stalled", "timeout", True)
            assert outcome.actual_after == peer.target == 200 * MIB
            assert "ask for 200M or more" in str(outcome.error)

    async def test_a_guest_that_did_not_move_at_all_has_not_changed(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", reserve=256 * MIB) as peer:
            outcome = await bring_one(peer, "160M")
            assert (outcome.outcome, outcome.changed) == ("stalled", False)
            assert peer.target == 256 * MIB

    async def test_rollback_returns_it(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", reserve=200 * MIB) as peer:
            outcome = await bring_one(peer, "160M", on_stall="rollback")
            assert (outcome.outcome, code(outcome), outcome.changed) == ("stalled", "timeout", False)
            assert outcome.actual_after == peer.target == peer.actual == 256 * MIB
            assert "returned to 256 MiB" in str(outcome.error)

    async def test_a_target_within_tolerance_but_out_of_reach_is_taken_back(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", reserve=180 * MIB) as peer:
            [outcome] = await bring(request("160M", peer.path, tolerance="30M"))
            assert (outcome.outcome, outcome.actual_after) == ("converged", 180 * MIB)
            assert peer.target == 180 * MIB

    async def test_a_guest_that_is_paused_on_its_way_is_said_to_be(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", reserve=200 * MIB) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("balloon")
            peer.answers["query-status"] = {"return": {"status": "paused", "running": False}}
            outcome = await ended
            assert outcome.outcome == "stalled"
            assert "paused now" in str(outcome.error)
            assert "reserve" not in str(outcome.error)

    async def test_asking_why_it_stalled_takes_no_longer_than_reading_it(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(moves, "READ_TIMEOUT_SECONDS", 0.5)
        async with ScriptedPeer(folder / "vm.qmp", reserve=200 * MIB) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("balloon")
            peer.answers["query-status"] = None
            outcome = await asyncio.wait_for(ended, 5)
            assert (outcome.outcome, code(outcome)) == ("failed", "timeout")
            assert peer.target == 200 * MIB

    async def test_keep_leaves_the_target_standing(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", reserve=200 * MIB) as peer:
            outcome = await bring_one(peer, "160M", on_stall="keep")
            assert (outcome.outcome, outcome.actual_after, outcome.changed) == ("stalled", 200 * MIB, True)
            assert peer.target == 160 * MIB

    async def test_out_of_time_while_it_still_moves(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            outcome = await bring_one(peer, "160M", timeout=0.4)
            assert (outcome.outcome, code(outcome), outcome.changed) == ("stalled", "timeout", True)
            assert "longer timeout" in str(outcome.error)
            assert outcome.actual_after is not None
            assert abs(peer.target - outcome.actual_after) < MIB
            assert 160 * MIB < peer.target < 256 * MIB


class TestBrokenOff:
    """Whatever breaks the wait off, no target out of reach is left standing."""

    async def test_a_lost_connection(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("balloon")
            peer.hang_up()
            outcome = await ended
            assert (outcome.outcome, code(outcome), outcome.changed) == ("failed", "disconnected", True)

    async def test_a_target_is_taken_back_over_a_new_connection(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("query-balloon", 4)
            peer.hang_up()
            assert code(await ended) == "disconnected"
            assert peer.target == peer.sent("balloon")[-1]["value"] > 160 * MIB

    async def test_the_end_of_qemu(self, folder: Path) -> None:
        peer = ScriptedPeer(folder / "vm.qmp", speed=SLOW)
        async with peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("balloon")
        outcome = await asyncio.wait_for(ended, 3)
        assert (outcome.outcome, code(outcome), outcome.changed) == ("failed", "disconnected", True)

    async def test_a_qemu_that_hangs_for_good(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("balloon")
            peer.answers["query-balloon"] = None
            outcome = await asyncio.wait_for(ended, 5)
            assert (outcome.outcome, code(outcome), outcome.changed) == ("failed", "timeout", True)
            assert outcome.actual_after is None  # nobody knows
            assert "may still stand" in " ".join(outcome.warnings)

    async def test_a_qemu_that_hangs_for_a_while(self, folder: Path) -> None:
        peer = ScriptedPeer(folder / "vm.qmp", speed=SLOW)
        peer.answers["query-balloon"] = once(None, peer._do_query_balloon, after=3)
        async with peer:
            outcome = await bring_one(peer, "160M")
            assert (outcome.outcome, code(outcome)) == ("failed", "timeout")
            assert outcome.actual_after is not None
            assert abs(peer.target - outcome.actual_after) < MIB
            assert 160 * MIB < peer.target < 256 * MIB

    async def test_a_target_whose_answer_never_came(self, folder: Path) -> None:
        """QEMU may have it all the same."""
        peer = ScriptedPeer(folder / "vm.qmp", speed=SLOW)
        peer.answers["balloon"] = once(None, peer._do_balloon)
        async with peer:
            outcome = await bring_one(peer, "160M")
            assert (outcome.outcome, code(outcome), outcome.changed) == ("failed", "timeout", True)
            assert peer.target > 160 * MIB

    async def test_a_balloon_that_is_unplugged_was_not_refused(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("balloon")
            peer.answers["query-balloon"] = {"error": {"class": "DeviceNotActive", "desc": ""}}
            outcome = await ended
            assert (outcome.outcome, code(outcome), outcome.changed) == ("failed", "no_balloon", True)

    async def test_nonsense_from_the_monitor(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            ended = asyncio.ensure_future(bring_one(peer, "160M"))
            await peer.wait_for("query-balloon", 4)
            for writer in peer._writers:
                writer.write(b"garbage\r\n")
            outcome = await ended
            assert (outcome.outcome, code(outcome)) == ("failed", "protocol_error")
            assert 160 * MIB < peer.target < 256 * MIB

    async def test_an_error_that_nobody_foresaw(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(*_arguments: object, **_options: object) -> None:
            raise ZeroDivisionError("how odd")

        monkeypatch.setattr(BalloonClient, "wait_for_actual", broken)
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            outcome = await bring_one(peer, "160M")
            assert outcome.outcome == "failed"
            assert "how odd" in str(outcome.error)
            assert outcome.changed
            assert peer.target > 160 * MIB


class TestCancelled:
    async def cancel(self, run: asyncio.Task[list[Outcome]]) -> None:
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 5)

    async def test_the_target_is_what_the_guest_has_reached(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            run = bring(request("160M", peer.path))
            await peer.wait_for("query-balloon", 4)
            await self.cancel(run)
            assert peer.target == peer.sent("balloon")[-1]["value"]
            assert 160 * MIB < peer.target < 256 * MIB

    async def test_keep_keeps_it(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            run = bring(request("160M", peer.path), on_stall="keep")
            await peer.wait_for("query-balloon", 4)
            await self.cancel(run)
            assert peer.target == 160 * MIB

    async def test_in_the_middle_of_a_command(self, folder: Path) -> None:
        peer = ScriptedPeer(folder / "vm.qmp", speed=SLOW)
        peer.answers["query-balloon"] = once(None, peer._do_query_balloon, after=3)
        async with peer:
            run = bring(request("160M", peer.path))
            await peer.wait_for("query-balloon", 4)
            await self.cancel(run)
            assert 160 * MIB < peer.target < 256 * MIB

    async def test_while_qemu_takes_the_target(self, folder: Path) -> None:
        peer = ScriptedPeer(folder / "vm.qmp", speed=SLOW)
        peer.answers["balloon"] = once(None, peer._do_balloon)
        async with peer:
            run = bring(request("160M", peer.path))
            await peer.wait_for("balloon")
            await self.cancel(run)
            assert peer.target > 160 * MIB

    async def test_while_it_waits_for_statistics(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            run = bring(request("160M", peer.path))
            await peer.wait_for("qom-set")
            await self.cancel(run)
            assert peer.polling == 0
            assert peer.sent("balloon") == []

    async def test_while_it_takes_the_target_back_for_another_reason(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taking_back, cancelled = asyncio.Event(), asyncio.Event()
        set_actual = BalloonClient.set_actual

        async def slow_to_take_back(client: BalloonClient, target: int) -> None:
            if target != 160 * MIB:
                taking_back.set()
                await cancelled.wait()
            await set_actual(client, target)

        monkeypatch.setattr(BalloonClient, "set_actual", slow_to_take_back)
        async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
            run = bring(request("160M", peer.path))
            await peer.wait_for("query-balloon", 3)
            peer.hang_up()
            await asyncio.wait_for(taking_back.wait(), 5)
            run.cancel()
            await asyncio.sleep(0)
            cancelled.set()
            await asyncio.wait({run}, timeout=5)
            assert run.cancelled()
            assert 160 * MIB < peer.target < 256 * MIB

    async def test_all_guests_are_left_in_order(self, folder: Path) -> None:
        async with contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(ScriptedPeer(folder / f"{number}.qmp", speed=SLOW)) for number in range(5)]
            run = bring(*(request("160M", peer.path) for peer in peers))
            await asyncio.gather(*(peer.wait_for("query-balloon", 4) for peer in peers))
            await self.cancel(run)
            assert all(160 * MIB < peer.target < 256 * MIB for peer in peers)

    async def test_at_any_instant(self, folder: Path) -> None:
        """No step of a visit swallows the cancellation, and none leaves the target or the polling behind."""
        left: dict[int, str] = {}
        waiting = 0
        for instant in range(1000):
            async with ScriptedPeer(folder / "vm.qmp", speed=SLOW) as peer:
                run = bring(request("160M", peer.path))
                for _step in range(instant):
                    await asyncio.sleep(0)
                seen = peer.commands[-1:]
                waiting += len(peer.sent("query-balloon")) > 2  # read, judged by headroom, and then waited for
                run.cancel()
                await asyncio.wait({run}, timeout=0.5)
                if not run.done():
                    left[instant] = f"went on after {seen}"
                elif peer.target == 160 * MIB:
                    left[instant] = f"left the target after {seen}"
                elif peer.polling:
                    left[instant] = f"left polling on after {seen}"
            await asyncio.wait({run})
            if waiting > 30 or len(left) > 5:
                break
        assert left == {}
        assert waiting > 30


class TestManyAtOnce:
    async def test_bad_ones_keep_no_good_one_waiting(self, folder: Path) -> None:
        async with contextlib.AsyncExitStack() as stack:
            good = [
                await stack.enter_async_context(ScriptedPeer(folder / f"{number}.qmp", speed=192 * MIB)) for number in range(8)
            ]
            silent, stale = folder / "silent.qmp", folder / "stale.qmp"
            with socket.socket(socket.AF_UNIX) as ended:
                ended.bind(str(stale))
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(silent))
            server.listen()
            start = time.monotonic()
            outcomes = await bring(
                *(request("160M", path) for path in (silent, stale, folder / "none.qmp")),
                *(request("160M", peer.path) for peer in good),
            )
            assert time.monotonic() - start < 2.0  # half a second each
            assert [code(outcome) for outcome in outcomes] == ["monitor_busy", "connection_refused", "not_found", *[None] * 8]
            assert {outcome.outcome for outcome in outcomes[:3]} == {"failed"}
            assert {outcome.outcome for outcome in outcomes[3:]} == {"converged"}
            assert [outcome.socket for outcome in outcomes[3:]] == [str(peer.path) for peer in good]

    async def test_more_than_may_be_open(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(visits, "OPEN_GUESTS_MAX", 2)
        async with contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(ScriptedPeer(folder / f"{number}.qmp")) for number in range(7)]
            outcomes = await bring(*(request("160M", peer.path) for peer in peers))
            assert {outcome.outcome for outcome in outcomes} == {"converged"}

    async def test_what_nobody_foresaw_is_one_guests_outcome(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(client: BalloonClient) -> Any:
            if client.qmp_socket.endswith("a.qmp"):
                raise ZeroDivisionError("how odd")
            return await guest_module.read_guest(client)

        monkeypatch.setattr(visits, "read_guest", broken)
        async with ScriptedPeer(folder / "a.qmp") as a, ScriptedPeer(folder / "b.qmp") as b:
            first, second = await bring(request("160M", a.path), request("160M", b.path))
            assert (first.outcome, second.outcome) == ("failed", "converged")
            assert "ZeroDivisionError: how odd" in str(first.error)
            assert a.sent("balloon") == []


class TestOneGuestTwice:
    UUID = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9"

    async def test_over_a_second_monitor_it_is_refused(self, folder: Path) -> None:
        answers = {"query-uuid": {"return": {"UUID": self.UUID}}}
        async with ScriptedPeer(folder / "a.qmp", answers=answers) as a, ScriptedPeer(folder / "b.qmp", answers=answers) as b:
            outcomes = await bring(request("160M", a.path), request("170M", b.path))
            assert sorted(code(outcome) or "" for outcome in outcomes) == ["", "same_guest"]
            assert len(a.sent("balloon") + b.sent("balloon")) == 1

    async def test_without_a_uuid_its_process_tells(self, folder: Path) -> None:
        answers = {"query-uuid": {"return": {"UUID": "00000000-0000-0000-0000-000000000000"}}}
        async with ScriptedPeer(folder / "a.qmp", answers=answers) as a, ScriptedPeer(folder / "b.qmp", answers=answers) as b:
            outcomes = await bring(request("160M", a.path), request("170M", b.path))
            assert sorted(code(outcome) or "" for outcome in outcomes) == ["", "same_guest"]


class TestWarnings:
    @pytest.mark.parametrize("answers", [{"qom-get": FAILING}, {"qom-list": {"return": []}}])
    async def test_a_guest_without_statistics(self, folder: Path, answers: dict[str, Any]) -> None:
        async with ScriptedPeer(folder / "vm.qmp", name="web1", answers=answers) as peer:
            outcome = await bring_one(peer, "160M")
            assert outcome.outcome == "converged"
            [warning] = outcome.warnings
            assert "web1 gives no fresh statistics" in warning

    async def test_no_headroom_no_statistics_needed(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp", answers={"qom-get": FAILING}) as peer:
            [outcome] = await bring(request("160M", peer.path, headroom="0"))
            assert (outcome.outcome, outcome.warnings) == ("converged", ())

    @pytest.mark.parametrize(
        ("before", "after", "warned"),
        [
            (436, 436, True),  # locked memory
            (400, 390, True),
            (380, 284, False),  # all of it came back
            (182, 170, False),  # a guest that never touched what it gave up; the rest is QEMU's own
            (300, 290, False),  # too little to tell
            (None, None, False),
            (436, None, False),
        ],
    )
    async def test_memory_that_the_process_keeps(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, before: int | None, after: int | None, warned: bool
    ) -> None:
        monkeypatch.setattr(
            guest_module, "process_memory", lambda _pid: before and ProcessMemory(before * MIB, before * MIB, 0)
        )
        monkeypatch.setattr(moves, "process_rss", lambda _pid: after and after * MIB)
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            outcome = await bring_one(peer, "160M")
            assert (outcome.outcome, outcome.rss_after) == ("converged", after and after * MIB)
            assert ["mem-lock" in warning for warning in outcome.warnings] == [True] * warned

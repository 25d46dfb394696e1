# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's policy carried out: what is planned, in which order it is sent, and what failures leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu import guest as guest_module
from ansible_collections.ballast.qemu.plugins.module_utils.qemu import moves, rollout, snapshot
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.balloon_client import BalloonClient
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import OptionError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import Host, ProcessMemory
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.moves import Manner
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import parse_allowance, parse_policy
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.rollout import Conduct, HostRun, apply_policy
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import Outcome
from tests.peer import ScriptedPeer
from tests.unit.build import MIB
from tests.unit.conftest import OWN_UID

GIB = 1 << 30
HOST = Host(total=16 * GIB, available=15 * GIB, swap_used=0, pressure=None)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls, silence and hangs are noticed in a fraction of a second; the host is always the same."""
    target_tolerance_timeout_stall = (0, 30.0, 0.3)
    monkeypatch.setattr(BalloonClient.wait_for_actual, "__defaults__", target_tolerance_timeout_stall)
    monkeypatch.setattr(BalloonClient.query_actual, "__defaults__", (0.5,))
    monkeypatch.setattr(BalloonClient.set_actual, "__defaults__", (0.5,))
    monkeypatch.setattr(moves, "CONNECT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(snapshot, "CONNECT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(guest_module, "STATS_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(snapshot, "read_host", lambda _pids: HOST)


async def run(peers: Sequence[ScriptedPeer | Path], **options: Any) -> HostRun:
    """Apply the policy to all peers, as the module would with these options."""
    usual: dict[str, Any] = {
        "rules": [],
        "buffer": "25%",
        "deadband": "32M",
        "max_step": None,
        "budget": None,
        "reserve": "10%",
    }
    chosen = {**usual, **options}
    chosen["rules"] = [{"min": None, "max": None, "shares": 1000, "pin": False, **rule} for rule in chosen["rules"]]
    manner = Manner(wait=True, timeout=None, on_stall=chosen.get("on_stall", "settle"), check=bool(chosen.get("check")))
    paths = [peer.path if isinstance(peer, ScriptedPeer) else peer for peer in peers]
    return await apply_policy(
        [(str(path), OWN_UID) for path in paths],
        parse_policy(chosen),
        parse_allowance(chosen),
        Conduct(
            manner, parse_size(chosen.get("tolerance", "1M"), "tolerance"), rollback=chosen.get("on_failure") == "rollback"
        ),
    )


class Ledger:
    """What all guests' targets were together, by what their monitors got: the most, from when it was opened."""

    def __init__(self, peers: Sequence[ScriptedPeer]) -> None:
        self._peers = peers
        self.highest = self.stood = sum(peer.target for peer in peers)
        for peer in peers:
            vars(peer)["_do_balloon"] = self._kept(peer._do_balloon)

    def _kept(self, move: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def balloon(arguments: dict[str, Any]) -> dict[str, Any]:
            answer = move(arguments)
            self.highest = max(self.highest, sum(peer.target for peer in self._peers))
            return answer

        return balloon


@contextlib.asynccontextmanager
async def serving(*peers: ScriptedPeer) -> AsyncIterator[list[ScriptedPeer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer) for peer in peers]


def starving(folder: Path, **facts: Any) -> ScriptedPeer:
    """A guest that was shrunk to 128 MiB and uses 120 of them."""
    peer = ScriptedPeer(folder / "starving.qmp", name="starving", used=120 * MIB, **facts)
    peer.target = peer._start = 128 * MIB
    return peer


def idle(folder: Path, name: str = "idle", **facts: Any) -> ScriptedPeer:
    return ScriptedPeer(folder / f"{name}.qmp", **{"name": name, "used": 64 * MIB, **facts})


def outcomes(result: HostRun) -> dict[str, Outcome]:
    return {outcome.guest.name if outcome.guest else Path(outcome.socket).stem: outcome for outcome in result.outcomes}


def code(outcome: Outcome) -> str | None:
    return outcome.error.code if outcome.error else None


def highest_sum(result: HostRun) -> int:
    """The most that all targets were together, from the start on, by the commands that were sent."""
    names = {sighting.outcome.socket: number for number, sighting in enumerate(result.snapshot.sightings)}
    standing = [share.standing for share in result.plan.shares]
    sums = [sum(standing)]
    for sent in result.sent:
        if sent.accepted:
            standing[names[sent.socket]] = sent.target
        sums.append(sum(standing))
    return max(sums)


def stood(result: HostRun) -> int:
    return sum(share.standing for share in result.plan.shares)


class TestCarriedOut:
    async def test_as_planned_and_nothing_the_second_time(self, folder: Path) -> None:
        async with serving(
            ScriptedPeer(folder / "busy.qmp", name="busy", used=180 * MIB), idle(folder, "a"), idle(folder, "b")
        ) as peers:
            preview = await run(peers, budget="480M", check=True)
            assert [peer.sent("balloon") for peer in peers] == [[], [], []]
            assert {outcome.outcome for outcome in preview.outcomes} == {"would_change"}
            first = await run(peers, budget="480M")
            assert [share.target for share in first.plan.shares] == [share.target for share in preview.plan.shares]
            assert [outcome.actual_after for outcome in preview.outcomes] == [peer.actual for peer in peers]
            assert peers[0].actual >= 225 * MIB  # what it uses, and a quarter
            assert sum(peer.actual for peer in peers) <= 480 * MIB
            sent = [len(peer.sent("balloon")) for peer in peers]
            second = await run(peers, budget="480M")
            assert {outcome.outcome for outcome in second.outcomes} == {"unchanged"}
            assert not any(outcome.changed for outcome in second.outcomes)
            assert [len(peer.sent("balloon")) for peer in peers] == sent

    async def test_nobody_grows_before_others_have_shrunk(self, folder: Path) -> None:
        async with serving(starving(folder), idle(folder, speed=400 * MIB)) as (hungry, giver):
            result = await run([hungry, giver], budget="384M")
            assert {outcome.outcome for outcome in result.outcomes} == {"converged"}
            assert hungry.actual > 150 * MIB
            [first, second] = result.sent
            assert (first.socket, second.socket) == (str(giver.path), str(hungry.path))
            assert second.at - first.at >= (256 * MIB - giver.actual) / giver.speed
            assert highest_sum(result) == 384 * MIB == stood(result)

    async def test_polling_is_put_back_and_a_set_one_left_alone(self, folder: Path) -> None:
        async with serving(idle(folder, "a"), idle(folder, "b")) as (off, on):
            on.polling = 1
            await run([off, on], budget="300M")
            assert (off.polling, on.polling) == (0, 1)
            assert on.sent("qom-set") == []

    async def test_no_faster_than_a_step(self, folder: Path) -> None:
        async with serving(idle(folder), starving(folder)) as (giver, hungry):
            result = await run([giver, hungry], budget="300M", max_step="16M", deadband="0")
            assert giver.actual == 240 * MIB
            assert hungry.actual == 128 * MIB  # there is nothing yet that it could get
            assert "on its way" in result.plan.shares[0].reason

    async def test_many_at_random(self, folder: Path) -> None:
        """Stalls, slow ones and hungry ones together: the sum holds, whatever happens."""
        chance = random.Random(5)  # noqa: S311 - the same ones every time
        for turn in range(6):
            peers = []
            for number in range(8):
                peer = idle(
                    folder,
                    f"{turn}-{number}",
                    used=chance.randrange(40, 120) * MIB,
                    reserve=chance.choice([0, 0, 150 * MIB]),
                    speed=chance.choice([float("inf"), 600 * MIB]),
                )
                peer.target = peer._start = chance.randrange(150, 257) * MIB
                peers.append(peer)
            budget = chance.randrange(1000, 1800) * MIB
            ledger = Ledger(peers)
            async with serving(*peers):
                result = await run(
                    peers,
                    budget=str(budget),
                    deadband="8M",
                    on_stall=chance.choice(["settle", "keep", "rollback"]),
                    on_failure=chance.choice(["keep", "rollback"]),
                )
                assert ledger.highest <= max(budget, ledger.stood)
                assert result.sent or not result.plan.feasible


class TestFailures:
    async def test_a_stall_lowers_what_others_get(self, folder: Path) -> None:
        async with serving(starving(folder), idle(folder, reserve=200 * MIB)) as (hungry, stuck):
            result = await run([hungry, stuck], budget="384M")
            planned = result.plan.shares[0].target
            assert outcomes(result)["idle"].outcome == "stalled"
            assert outcomes(result)["starving"].outcome == "converged"
            assert hungry.target == 184 * MIB < planned
            assert stuck.target == 200 * MIB
            assert "starving gets 184 MiB in place of" in result.warnings[-1]
            assert highest_sum(result) == 384 * MIB

    async def test_with_rollback_a_stall_returns_everybody(self, folder: Path) -> None:
        async with serving(starving(folder), idle(folder, "good"), idle(folder, "stuck", reserve=200 * MIB)) as peers:
            result = await run(peers, budget="500M", on_failure="rollback")
            assert [peer.target for peer in peers] == [128 * MIB, 256 * MIB, 256 * MIB]
            by_name = outcomes(result)
            assert (by_name["stuck"].outcome, code(by_name["stuck"])) == ("stalled", "timeout")
            assert (by_name["good"].outcome, code(by_name["good"])) == ("unchanged", "rolled_back")
            assert "because stuck failed" in str(by_name["good"].error)
            assert peers[0].sent("balloon") == []
            assert not any(outcome.changed for outcome in result.outcomes)
            assert highest_sum(result) == stood(result)

    async def test_with_rollback_those_that_grew_are_shrunk_first(self, folder: Path) -> None:
        """The one that breaks is the last of those that grow; the others have grown by then."""
        hungry = starving(folder, speed=100 * MIB)
        broken = idle(folder, "broken")
        broken.target = broken._start = 100 * MIB
        broken.answers["balloon"] = {"error": {"class": "GenericError", "desc": "no"}}
        async with serving(hungry, idle(folder), broken) as peers:
            result = await run(peers, budget="484M", deadband="0", on_failure="rollback")
            assert [peer.target for peer in peers] == [128 * MIB, 256 * MIB, 100 * MIB]
            assert outcomes(result)["broken"].outcome == "failed"
            assert [code(outcome) for outcome in result.outcomes] == ["rolled_back", "rolled_back", "protocol_error"]
            assert [Path(sent.socket).stem for sent in result.sent][-2:] == ["starving", "idle"]
            assert highest_sum(result) <= max(stood(result), 484 * MIB)

    async def test_a_broken_connection_counts_as_nothing_freed(self, folder: Path) -> None:
        async with serving(starving(folder), idle(folder, speed=50 * MIB)) as (hungry, giver):
            task = asyncio.ensure_future(run([hungry, giver], budget="384M"))
            await giver.wait_for("balloon")
            giver.answers = dict.fromkeys(["qmp_capabilities", "query-balloon"], b"nonsense\r\n")
            result = await task
            assert outcomes(result)["idle"].outcome == "failed"
            assert hungry.sent("balloon") == []
            assert "not enough memory came free" in result.warnings[-1]

    async def test_memory_that_the_host_did_not_get_is_not_given(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = ProcessMemory(rss=500 * MIB, held=500 * MIB, locked=0)
        monkeypatch.setattr(guest_module, "process_memory", lambda _pid: memory)
        monkeypatch.setattr(moves, "process_rss", lambda _pid: memory.rss)
        monkeypatch.setattr(snapshot, "OWN_MEMORY", GIB)
        async with serving(starving(folder), idle(folder)) as (hungry, giver):
            result = await run([hungry, giver], budget="384M")
            assert outcomes(result)["idle"].outcome == "converged"
            assert hungry.sent("balloon") == []
            assert any("mem-lock" in warning for warning in outcomes(result)["idle"].warnings)

    async def test_nor_is_it_by_the_next_run(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = ProcessMemory(rss=500 * MIB, held=500 * MIB, locked=0)
        monkeypatch.setattr(guest_module, "process_memory", lambda _pid: memory)
        monkeypatch.setattr(snapshot, "process_memory", lambda _pid: memory)
        async with serving(starving(folder)) as [gave]:
            result = await run([gave], budget="600M")
            assert code(result.outcomes[0]) == "memory_locked"
            assert result.plan.charged == 500 * MIB

    async def test_one_that_is_gone_at_its_turn_calls_for_a_rollback_too(self, folder: Path) -> None:
        async with serving(idle(folder, "good"), idle(folder, "bad")) as (good, bad):
            task = asyncio.ensure_future(run([good, bad], budget="384M", on_failure="rollback"))
            await bad.wait_for("qom-set", 2)
            bad.greeting = None
            result = await task
            assert good.target == 256 * MIB
            by_name = outcomes(result)
            assert (code(by_name["bad"]), by_name["bad"].outcome) == ("monitor_busy", "failed")
            assert (code(by_name["good"]), by_name["good"].outcome) == ("rolled_back", "unchanged")

    async def test_a_target_taken_back_without_an_answer_still_counts(self, folder: Path) -> None:
        """Nobody knows which of the two targets stands: the larger one is reckoned with."""
        stuck = starving(folder, speed=100 * MIB)
        async with serving(stuck, idle(folder)) as (hungry, giver):
            answered = hungry._do_balloon

            def balloon(request: dict[str, Any]) -> Any:
                if len(hungry.sent("balloon")) == 1:
                    hungry.target = request["arguments"]["value"]
                    hungry._start, hungry.speed = 128 * MIB, 0
                    return {"return": {}}
                hungry.answers["query-balloon"] = hungry.greeting = None
                return None

            hungry.answers["balloon"] = balloon
            assert answered is not None
            result = await run([hungry, giver], budget="384M", on_failure="rollback")
            assert outcomes(result)["starving"].outcome == "failed"
            assert hungry.target + giver.target <= 384 * MIB

    async def test_one_that_grows_by_itself_meanwhile(self, folder: Path) -> None:
        own = idle(folder, "own", used=120 * MIB)
        own.target = own._start = 140 * MIB
        async with serving(starving(folder), idle(folder, speed=200 * MIB), own) as (hungry, giver, other):
            task = asyncio.ensure_future(run([hungry, giver, other], budget="524M"))
            await giver.wait_for("balloon")
            other.target = other._start = 256 * MIB
            result = await task
            assert hungry.target + giver.target + other.actual <= 524 * MIB
            assert any("not enough memory came free" in warning for warning in result.warnings)

    async def test_figures_that_have_grown_old_are_looked_at_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollout, "_FRESH_SECONDS", -1.0)
        async with serving(idle(folder)) as [peer]:
            task = asyncio.ensure_future(run([peer], budget="130M"))
            await peer.wait_for("qom-set", 2)
            peer.used = 220 * MIB
            result = await task
            assert code(result.outcomes[0]) == "unsafe_target"
            assert peer.sent("balloon") == []

    async def test_a_wide_tolerance_does_not_overrule_the_budget(self, folder: Path) -> None:
        async with serving(idle(folder, "a"), idle(folder, "b")) as peers:
            result = await run(peers, budget="420M", tolerance="100M")
            assert sum(peer.actual for peer in peers) <= 420 * MIB
            assert all(outcome.changed for outcome in result.outcomes)

    async def test_a_budget_that_is_not_reached_is_said(self, folder: Path) -> None:
        async with serving(idle(folder, reserve=200 * MIB), idle(folder, "b")) as peers:
            result = await run(peers, budget="280M")
            assert result.warnings[-1] == "the guests still take 60 MiB more than the budget"

    async def test_a_target_that_somebody_left_is_replaced(self, folder: Path) -> None:
        """On its way to 256 MiB when it is seen: a change within the dead band, and yet not to be left at that."""
        mover = idle(folder, "mover", speed=20 * MIB)
        mover._start, mover.target = 150 * MIB, 256 * MIB
        async with serving(mover) as [peer]:
            result = await run([peer], budget="160M")
            assert result.outcomes[0].outcome == "converged"
            assert peer.target == 160 * MIB

    async def test_an_interrupt_leaves_no_target_out_of_reach(self, folder: Path) -> None:
        async with serving(starving(folder), idle(folder, speed=40 * MIB)) as (hungry, giver):
            task = asyncio.ensure_future(run([hungry, giver], budget="384M"))
            await giver.wait_for("balloon")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert giver.target == giver.actual > 200 * MIB
            assert hungry.sent("balloon") == []
            again = await run([hungry, giver], budget="384M")
            assert {outcome.outcome for outcome in again.outcomes} == {"converged"}


class TestLeftAlone:
    @pytest.mark.parametrize(
        ("answers", "why"),
        [
            ({"query-status": {"return": {"status": "paused", "running": False}}}, "not_running"),
            ({"query-migrate": {"return": {"status": "active"}}}, "not_running"),
            ({"x-query-virtio-status": {"return": {"started": False}}}, "no_driver"),
            ({"query-balloon": {"error": {"class": "DeviceNotActive", "desc": ""}}}, "no_balloon"),
            ({"qom-set": {"error": {"class": "GenericError", "desc": "no"}}}, "protocol_error"),
            ({"qom-get": {"error": {"class": "GenericError", "desc": "no"}}}, "no_statistics"),
        ],
    )
    async def test_charged_and_the_rest_served(self, folder: Path, answers: dict[str, Any], why: str) -> None:
        async with serving(idle(folder, "odd", answers=answers), idle(folder, "good")) as (odd, good):
            result = await run([odd, good], budget="400M", deadband="0")
            share = result.plan.shares[0]
            assert (share.cost, code(result.outcomes[0])) == (256 * MIB, why)
            assert "left alone and charged 256 MiB" in share.reason
            assert odd.sent("balloon") == []
            assert good.actual == 144 * MIB
            failed = why == "protocol_error"
            assert result.outcomes[0].outcome == ("failed" if failed else "unchanged")
            assert any("odd" in warning for warning in result.warnings) is not failed

    async def test_one_that_claims_more_than_it_has(self, folder: Path) -> None:
        async with serving(idle(folder, "liar", used=-10 * MIB), idle(folder, "good")) as (liar, good):
            result = await run([liar, good], budget="400M", deadband="0")
            assert code(result.outcomes[0]) == "no_statistics"
            assert liar.sent("balloon") == []
            assert good.actual == 144 * MIB

    async def test_a_pinned_one_is_not_even_asked(self, folder: Path) -> None:
        async with serving(idle(folder, "pinned"), idle(folder, "good")) as (pinned, good):
            result = await run([pinned, good], budget="400M", deadband="0", rules=[{"match": "pin*", "pin": True}])
            assert "pinned by a rule" in result.plan.shares[0].reason
            assert pinned.sent("qom-set") == pinned.sent("balloon") == []
            assert good.actual == 144 * MIB
            assert result.warnings == ()

    async def test_one_whose_memory_is_locked(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = ProcessMemory(rss=300 * MIB, held=300 * MIB, locked=256 * MIB)
        monkeypatch.setattr(guest_module, "process_memory", lambda _pid: memory)
        monkeypatch.setattr(snapshot, "process_memory", lambda _pid: memory)
        async with serving(idle(folder)) as [peer]:
            result = await run([peer], budget="512M")
            assert code(result.outcomes[0]) == "memory_locked"
            assert result.plan.charged == 300 * MIB
            assert peer.sent("balloon") == []

    async def test_one_that_cannot_be_read_fails_and_the_rest_is_served(self, folder: Path) -> None:
        async with serving(idle(folder, "mute", greeting=None), idle(folder, "good")) as (mute, good):
            result = await run(
                [mute, good, folder / "gone.qmp"], budget="4G", deadband="0", rules=[{"match": "*", "max": "60%"}]
            )
            assert [outcome.outcome for outcome in result.outcomes] == ["failed", "converged", "failed"]
            assert code(result.outcomes[0]) == "monitor_busy"
            # Its process is this one.
            assert result.plan.shares[0].cost > 10 * MIB
            assert any("gone" in warning for warning in result.warnings)

    async def test_one_that_fails_to_be_read_does_not_roll_the_others_back(self, folder: Path) -> None:
        async with serving(idle(folder)) as [peer]:
            result = await run([folder / "gone.qmp", peer], budget="128M", on_failure="rollback")
            assert [outcome.outcome for outcome in result.outcomes] == ["failed", "converged"]


class TestBudget:
    async def test_floors_above_the_budget(self, folder: Path) -> None:
        async with serving(idle(folder, "a"), idle(folder, "b")) as peers:
            result = await run(peers, budget="300M", rules=[{"match": "*", "min": "200M"}])
            assert not result.plan.feasible
            assert "100 MiB more than the budget of 300 MiB" in str(result.error)
            assert [peer.sent("balloon") for peer in peers] == [[], []]
            assert {outcome.outcome for outcome in result.outcomes} == {"unchanged"}

    async def test_more_than_the_host_has(self, folder: Path) -> None:
        async with serving(idle(folder)) as [peer]:
            with pytest.raises(OptionError, match="budget: 17 GiB is more than the 16 GiB"):
                await run([peer], budget="17G")
            assert peer.sent("balloon") == []

    async def test_more_than_the_host_has_left(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshot, "read_host", lambda _pids: Host(2000 * MIB, 400 * MIB, 0, None))
        monkeypatch.setattr(snapshot, "process_memory", lambda _pid: None)
        async with serving(idle(folder)) as [peer]:
            result = await run([peer], budget="337M", check=True)
            assert "budget of 337 MiB is more than this host has for its guests now, 336 MiB" in result.warnings[0]
            assert (await run([peer], budget="336M", check=True)).warnings == ()

    async def test_a_reserve_of_all_that_the_host_has(self, folder: Path) -> None:
        async with serving(idle(folder)) as peers:
            with pytest.raises(OptionError, match="reserve: 16 GiB leaves the guests nothing of the 16 GiB"):
                await run(peers, reserve="100%")

    async def test_floors_that_do_not_fit_beside_a_guest_left_alone(self, folder: Path) -> None:
        paused = {"query-status": {"return": {"status": "paused", "running": False}}}
        async with serving(idle(folder, "asleep", answers=paused), idle(folder)) as peers:
            result = await run(peers, budget="300M")
            assert "256 MiB are taken by guests that are left alone (asleep)" in str(result.error)
            assert "Wait until those can be moved, raise the budget, move" in str(result.error)

    async def test_bounds_that_contradict_each_other(self, folder: Path) -> None:
        async with serving(idle(folder)) as [peer]:
            with pytest.raises(OptionError, match="for idle, min is 200 MiB and max is 128 MiB"):
                await run([peer], rules=[{"match": "*", "min": "200M", "max": "50%"}])

    async def test_derived_from_the_host(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """1000 MiB for the guests' processes and what nobody uses, less the reserve, less 64 MiB for each QEMU."""
        memory = ProcessMemory(rss=300 * MIB, held=300 * MIB, locked=0)
        monkeypatch.setattr(snapshot, "process_memory", lambda _pid: memory)
        monkeypatch.setattr(snapshot, "read_host", lambda _pids: Host(2000 * MIB, 400 * MIB, 0, None))
        async with serving(idle(folder, "a"), idle(folder, "b")) as peers:
            result = await run(peers, reserve="400M")
            assert (result.plan.budget, result.reserve) == ((600 + 400 - 400 - 2 * 64) * MIB, 400 * MIB)
            # A measured budget is not poured out to the last drop.
            assert sum(peer.actual for peer in peers) == (472 - 32) * MIB

    async def test_a_host_that_has_less_by_the_time_of_giving(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        available = itertools.chain([470 * MIB], itertools.repeat(400 * MIB))
        monkeypatch.setattr(snapshot, "read_host", lambda _pids: Host(2000 * MIB, next(available), 0, None))
        monkeypatch.setattr(snapshot, "process_memory", lambda _pid: None)
        async with serving(starving(folder), idle(folder)) as (hungry, giver):
            result = await run([hungry, giver], reserve="0", deadband="0")
            assert result.plan.budget == (470 - 2 * 64) * MIB
            assert hungry.actual + giver.actual == (400 - 2 * 64) * MIB < result.plan.budget
            assert "not enough memory came free" in result.warnings[-1]

    async def test_one_guest_over_two_sockets_is_one(self, folder: Path) -> None:
        uuid = {"query-uuid": {"return": {"UUID": "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9"}}}
        async with serving(idle(folder, "a", answers=uuid), idle(folder, "b", answers=uuid)) as peers:
            result = await run(peers, budget="128M")
            codes = sorted(filter(None, map(code, result.outcomes)))
            assert codes == ["same_guest"]
            assert len([peer for peer in peers if peer.sent("balloon")]) == 1

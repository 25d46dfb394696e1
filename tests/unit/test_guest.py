# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a guest: what it is made of, what is not believed, and that nothing is touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu import guest as guest_module
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.balloon_client import BalloonClient
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import BalloonError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.guest import (
    Guest,
    GuestStats,
    read_fresh_stats,
    read_guest,
    socket_name,
)
from tests.peer import DEVICE, ScriptedPeer
from tests.unit.conftest import OWN_UID

MIB = 1 << 20
FAILING = {"error": {"class": "CommandNotFound", "desc": "The command has not been found"}}
READING = {
    "qmp_capabilities",
    "query-status",
    "query-migrate",
    "query-uuid",
    "query-memory-size-summary",
    "query-memory-devices",
    "query-balloon",
    "query-name",
    "x-query-virtio-status",
    "qom-list",
    "qom-get",
}


@contextlib.asynccontextmanager
async def conversation(folder: Path, **script: Any) -> AsyncIterator[tuple[ScriptedPeer, BalloonClient]]:
    async with ScriptedPeer(folder / "vm.qmp", **script) as peer, BalloonClient(peer.path, OWN_UID) as client:
        yield peer, client


async def read(folder: Path, **script: Any) -> Guest:
    async with conversation(folder, **script) as (_peer, client):
        return await read_guest(client)


class TestReadGuest:
    async def test_all_of_it(self, folder: Path) -> None:
        async with conversation(folder, name="web1", maximum=512 * MIB) as (peer, client):
            guest = await read_guest(client)
            assert {request["execute"] for request in peer.commands} <= READING
        assert (guest.name, guest.socket) == ("web1", str(peer.path))
        assert (guest.pid, guest.uid, guest.qemu_version) == (os.getpid(), OWN_UID, "7.2.0")
        assert (guest.maximum, guest.actual) == (512 * MIB, 512 * MIB)
        assert (guest.status, guest.migrating, guest.driver) == ("running", False, True)
        assert guest.device == DEVICE
        assert (guest.deflate_on_oom, guest.free_page_reporting) == (False, False)
        assert guest.rss is not None
        assert guest.rss > MIB

    async def test_a_guest_without_a_name_is_called_by_its_socket(self, folder: Path) -> None:
        assert (await read(folder)).name == "vm"
        assert socket_name("/run/vms/web1.qmp") == "web1"
        assert socket_name("/run/vms/monitor") == "monitor"
        assert socket_name("/") == "/"

    @pytest.mark.parametrize(
        ("uuid", "expected"),
        [
            ("00000000-0000-0000-0000-000000000000", None),
            ("4c4c4544-0051-3510-8057-b4c04f4e4d32", "4c4c4544-0051-3510-8057-b4c04f4e4d32"),
        ],
    )
    async def test_uuid(self, folder: Path, uuid: str, expected: str | None) -> None:
        assert (await read(folder, answers={"query-uuid": {"return": {"UUID": uuid}}})).uuid == expected

    async def test_plugged_dimms_count_and_virtio_mem_does_not(self, folder: Path) -> None:
        devices = [
            {"type": "dimm", "data": {"size": 128 * MIB, "id": "dimm0"}},
            {"type": "virtio-mem", "data": {"size": 64 * MIB, "requested-size": 64 * MIB}},
            {"type": "nvdimm", "data": {"size": 32 * MIB}},
            {"type": "dimm", "data": {"size": 256 * MIB}},
        ]
        answers = {
            "query-memory-size-summary": {"return": {"base-memory": 256 * MIB, "plugged-memory": 480 * MIB}},
            "query-memory-devices": {"return": devices},
        }
        assert (await read(folder, answers=answers)).maximum == 640 * MIB

    @pytest.mark.parametrize("error_class", ["DeviceNotActive", "KVMMissingCap"])
    async def test_no_balloon(self, folder: Path, error_class: str) -> None:
        answers = {"query-balloon": {"error": {"class": error_class, "desc": ""}}}
        guest = await read(folder, answers=answers)
        assert (guest.actual, guest.device, guest.driver, guest.stats) == (None, None, None, None)
        assert guest.maximum == 256 * MIB

    @pytest.mark.parametrize(
        "kind", ["virtio-balloon-pci", "virtio-balloon-ccw", "virtio-balloon-device", "virtio-balloon-pci-transitional"]
    )
    @pytest.mark.parametrize("container", ["/machine/peripheral", "/machine/peripheral-anon"])
    async def test_the_balloon_is_found_by_its_type(self, folder: Path, kind: str, container: str) -> None:
        def children(request: dict[str, Any]) -> dict[str, Any]:
            others = [{"name": "type", "type": "string"}, {"name": "balloon0", "type": "child<virtio-net-pci>"}]
            balloon = [{"name": "device[3]", "type": f"child<{kind}>"}]
            return {"return": others + (balloon if request["arguments"]["path"] == container else [])}

        assert (await read(folder, answers={"qom-list": children})).device == f"{container}/device[3]"

    @pytest.mark.parametrize("answer", [FAILING, {"return": {}}, {"return": None}, {"return": {"started": "yes"}}])
    async def test_whether_a_driver_runs_may_not_be_known(self, folder: Path, answer: dict[str, Any]) -> None:
        assert (await read(folder, answers={"x-query-virtio-status": answer})).driver is None

    @pytest.mark.parametrize("status", ["setup", "active", "postcopy-active", "pre-switchover", "device"])
    async def test_migrating(self, folder: Path, status: str) -> None:
        assert (await read(folder, answers={"query-migrate": {"return": {"status": status}}})).migrating

    @pytest.mark.parametrize("status", ["none", "completed", "failed", "cancelled"])
    async def test_not_migrating_any_more(self, folder: Path, status: str) -> None:
        assert not (await read(folder, answers={"query-migrate": {"return": {"status": status}}})).migrating

    @pytest.mark.parametrize(
        ("command", "nonsense"),
        [
            ("query-status", {"status": 7}),
            ("query-status", []),
            ("query-uuid", None),
            ("query-memory-size-summary", {"base-memory": -1}),
            ("query-memory-size-summary", {"base-memory": "256M"}),
            ("query-memory-size-summary", {"base-memory": 0}),
            ("query-memory-size-summary", {"base-memory": True}),
            ("query-memory-size-summary", None),
            ("query-balloon", {"actual": 257 * MIB}),
            ("query-balloon", {"actual": 1 << 64}),
        ],
    )
    async def test_nonsense_is_refused(self, folder: Path, command: str, nonsense: Any) -> None:
        with pytest.raises(BalloonError):
            await read(folder, answers={command: {"return": nonsense}})

    @pytest.mark.parametrize("nonsense", [7, None, {"type": "dimm"}, [None, {"type": "dimm", "data": 7}]])
    async def test_nonsense_about_dimms_adds_nothing(self, folder: Path, nonsense: Any) -> None:
        answers = {
            "query-memory-size-summary": {"return": {"base-memory": 256 * MIB, "plugged-memory": 480 * MIB}},
            "query-memory-devices": {"return": nonsense},
        }
        assert (await read(folder, answers=answers)).maximum == 256 * MIB

    async def test_a_result_and_an_error_at_once_is_refused(self, folder: Path) -> None:
        answer = {"return": {"status": "running"}, "error": "both"}
        with pytest.raises(BalloonError, match="neither a result nor an error"):
            await read(folder, answers={"query-status": answer})

    @pytest.mark.parametrize("command", ["query-name", "query-status", "query-uuid"])
    async def test_texts_cannot_write_on_the_users_terminal(self, folder: Path, command: str) -> None:
        text = "\x1b[2J\r\nok: [host]\x00\ud800" + "x" * 10_000
        key = {"query-name": "name", "query-status": "status", "query-uuid": "UUID"}[command]
        guest = await read(folder, answers={command: {"return": {key: text}}})
        for shown in (guest.name, guest.status, guest.uuid or ""):
            assert shown.isprintable()
            assert len(shown) < 1000


class TestStats:
    async def test_unset_figures_are_none_and_hostile_ones_too(self, folder: Path) -> None:
        figures = {
            "stat-available-memory": 100,
            "stat-free-memory": (1 << 64) - 1,
            "stat-swap-in": -5,
            "stat-swap-out": 1 << 63,
            "stat-major-faults": "many",
            "stat-minor-faults": True,
            "other": 1,
        }
        stats = await self.read(folder, {"stats": figures, "last-update": 5})
        assert stats is not None
        assert stats.figures == {
            "available_memory": 100,
            "free_memory": None,
            "swap_in": None,
            "swap_out": None,
            "major_faults": None,
            "minor_faults": None,
        }
        assert (stats.available, stats.last_update, stats.interval, stats.age(7.5)) == (100, 5, 0, 2.5)

    async def test_never_updated(self, folder: Path) -> None:
        stats = await self.read(folder, {"stats": {"stat-available-memory": (1 << 64) - 1}, "last-update": 0})
        assert stats is not None
        assert (stats.available, stats.age(time.time())) == (None, None)

    async def test_from_the_future_is_not_older_than_now(self, folder: Path) -> None:
        stats = await self.read(folder, {"stats": {}, "last-update": 1 << 62})
        assert stats is not None
        assert stats.age(time.time()) == 0.0

    def test_older_drivers_tell_only_what_is_free(self) -> None:
        assert GuestStats({"free_memory": 7}, 1, 0).available == 7
        assert GuestStats({"available_memory": 0, "free_memory": 7}, 1, 0).available == 0

    @pytest.mark.parametrize("nonsense", [None, [], {}, {"stats": []}, 7])
    async def test_nonsense_is_no_statistics(self, folder: Path, nonsense: Any) -> None:
        assert await self.read(folder, nonsense) is None

    async def read(self, folder: Path, answer: Any) -> GuestStats | None:
        def get(request: dict[str, Any]) -> dict[str, Any]:
            return {"return": answer if request["arguments"]["property"] == "guest-stats" else 0}

        return (await read(folder, answers={"qom-get": get})).stats


class TestFreshStats:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guest_module, "STATS_TIMEOUT_SECONDS", 0.3)

    async def test_polling_is_on_while_they_are_read_and_off_again(self, folder: Path) -> None:
        async with conversation(folder, used=100 * MIB) as (peer, client):
            stats = await read_fresh_stats(client, DEVICE)
            assert stats is not None
            assert stats.available == 156 * MIB
            first, last = (request["value"] for request in peer.sent("qom-set"))
            assert first > 0
            assert last == peer.polling == 0

    async def test_somebody_elses_interval_is_left_alone(self, folder: Path) -> None:
        async with conversation(folder) as (peer, client):
            peer.polling = 1
            assert await read_fresh_stats(client, DEVICE) is not None
            assert peer.sent("qom-set") == []

    @pytest.mark.parametrize("others_interval", [0, 1])
    async def test_figures_from_before_a_move_are_not_taken(self, folder: Path, others_interval: int) -> None:
        """Not even those of the same second, nor while somebody else has polling on."""
        async with conversation(folder, used=100 * MIB) as (peer, client):
            peer.polling = others_interval
            assert await read_fresh_stats(client, DEVICE) is not None
            await client.set_actual(160 * MIB)
            stats = await read_fresh_stats(client, DEVICE)
            assert stats is not None
            assert stats.available == 60 * MIB

    async def test_an_interval_of_an_hour_is_not_waited_for(self, folder: Path) -> None:
        async with conversation(folder, answers={"qom-get": frozen_at(int(time.time()), 3600)}) as (_peer, client):
            assert await asyncio.wait_for(read_fresh_stats(client, DEVICE), 2) is None

    @pytest.mark.parametrize("pushed", [0, 1, int(time.time()) + 3600, 1 << 62])
    async def test_a_driver_that_does_not_push_is_not_waited_for_long(self, folder: Path, pushed: int) -> None:
        async with conversation(folder, answers={"qom-get": frozen_at(pushed, 0)}) as (_peer, client):
            start = time.monotonic()
            assert await read_fresh_stats(client, DEVICE) is None
            assert 0.3 <= time.monotonic() - start < 3

    async def test_a_device_that_keeps_none(self, folder: Path) -> None:
        async with conversation(folder, answers={"qom-get": FAILING}) as (peer, client):
            assert await read_fresh_stats(client, DEVICE) is None
            assert await read_fresh_stats(client, None) is None
            assert peer.sent("qom-set") == []

    @pytest.mark.parametrize("command", ["qom-set", "qom-get"])
    async def test_polling_is_put_back_when_cancelled_in_the_middle_of(self, folder: Path, command: str) -> None:
        """Even though cancelling in mid-command costs the connection."""
        async with conversation(folder) as (peer, client):
            original = getattr(peer, "_do_" + command.replace("-", "_"))
            silent = asyncio.Event()

            def silent_once(request: dict[str, Any]) -> dict[str, Any] | None:
                answer = {"return": original(request["arguments"])}
                if silent.is_set() or not peer.polling:
                    return answer
                silent.set()
                return None

            peer.answers[command] = silent_once
            reading = asyncio.ensure_future(read_fresh_stats(client, DEVICE))
            await asyncio.wait_for(silent.wait(), 5)
            await cancel(reading)
            assert peer.polling == 0

    async def test_polling_is_put_back_when_cancelled_between_two_looks(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with conversation(folder) as (peer, client):
            between = asyncio.Event()

            async def wait_event(_timeout: float) -> None:
                between.set()
                await asyncio.Event().wait()

            def get(request: dict[str, Any]) -> dict[str, Any]:
                answer: dict[str, Any] = frozen_at(1, peer.polling)(request)
                return answer

            monkeypatch.setattr(client, "wait_event", wait_event)
            peer.answers["qom-get"] = get
            reading = asyncio.ensure_future(read_fresh_stats(client, DEVICE))
            await asyncio.wait_for(between.wait(), 5)
            assert peer.polling > 0
            await cancel(reading)
            assert peer.polling == 0


async def cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=3)
    assert task.cancelled()


def frozen_at(pushed: int, interval: int) -> Any:
    def get(request: dict[str, Any]) -> dict[str, Any]:
        figures = {"stats": {"stat-available-memory": MIB}, "last-update": pushed}
        return {"return": figures if request["arguments"]["property"] == "guest-stats" else interval}

    return get

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The balloon client against its contract: first on bare streams, then against a peer that lies, stutters and hangs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock, patch

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu import constants
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.balloon_client import BalloonClient
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import (
    AnswerTimeoutError,
    BalloonError,
    CommandError,
    DisconnectedError,
    NoBalloonError,
)
from tests.peer import ScriptedPeer
from tests.unit.conftest import OWN_UID

MIB = 1 << 20
CLIENT = "ansible_collections.ballast.qemu.plugins.module_utils.qemu.balloon_client"
GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}}}\r\n'
DONE = b'{"return": {}}\r\n'


class TestStreams:
    """The client on scripted streams: what it reads and writes, line for line."""

    @pytest.fixture
    def streams(self) -> Iterator[tuple[Any, Any]]:
        reader, writer = AsyncMock(), MagicMock()
        writer.drain = AsyncMock()
        writer.wait_closed = AsyncMock()
        with patch(f"{CLIENT}.connect_and_verify", return_value=(reader, writer)):
            yield reader, writer

    async def connected(self, reader: Any, *lines: bytes) -> BalloonClient:
        reader.readline = AsyncMock(side_effect=[GREETING, DONE, *lines])
        client = BalloonClient(Path("/run/vm.qmp"), expected_uid=1000)
        await client.connect()
        return client

    async def test_connect_negotiates_in_one_write(self, streams: tuple[Any, Any]) -> None:
        reader, writer = streams
        client = await self.connected(reader)
        assert client._connected
        assert client.qemu_version == "10.0.0"
        writer.write.assert_called_once()
        assert json.loads(writer.write.call_args[0][0]) == {"execute": "qmp_capabilities"}

    async def test_refused_capabilities_close_the_socket(self, streams: tuple[Any, Any]) -> None:
        reader, writer = streams
        reader.readline = AsyncMock(side_effect=[GREETING, b'{"error": {"class": "CommandNotFound", "desc": "?"}}\n'])
        client = BalloonClient(Path("/run/vm.qmp"), 1000)
        with pytest.raises(BalloonError, match="QMP capabilities failed: "):
            await client.connect()
        writer.close.assert_called_once()
        writer.wait_closed.assert_awaited_once()
        assert not client._connected

    async def test_cancelled_again_and_again_connect_still_closes(self, streams: tuple[Any, Any]) -> None:
        reader, writer = streams
        reading, closing, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def silence() -> bytes:
            reading.set()
            await asyncio.Event().wait()
            return b""

        async def wait_closed() -> None:
            closing.set()
            await release.wait()

        reader.readline, writer.wait_closed = silence, wait_closed
        connecting = asyncio.ensure_future(BalloonClient("/run/vm.qmp", 1000).connect())
        await reading.wait()
        connecting.cancel()
        await closing.wait()
        connecting.cancel()
        await asyncio.sleep(0)
        assert not connecting.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        writer.close.assert_called_once()

    async def test_query_is_in_mib(self, streams: tuple[Any, Any]) -> None:
        client = await self.connected(streams[0], b'{"return": {"actual": 268435456}, "id": "balloon-1"}\n')
        assert await client.query() == 256

    async def test_query_is_none_when_qmp_answers_with_an_error(self, streams: tuple[Any, Any]) -> None:
        client = await self.connected(streams[0], b'{"error": {"class": "DeviceNotActive", "desc": ""}, "id": "balloon-1"}\n')
        assert await client.query() is None

    async def test_set_target_sends_bytes(self, streams: tuple[Any, Any]) -> None:
        client = await self.connected(streams[0], b'{"return": {}, "id": "balloon-1"}\n')
        await client.set_target(64)
        request = json.loads(streams[1].write.call_args_list[1][0][0])
        assert (request["execute"], request["arguments"]) == ("balloon", {"value": 64 * MIB})

    async def test_inflate_returns_the_previous_size_without_waiting(self, streams: tuple[Any, Any]) -> None:
        reader, writer = streams
        client = await self.connected(reader, b'{"return": {"actual": 268435456}}\n', b'{"return": {}}\n')
        assert await client.inflate(64) == 256
        assert [json.loads(call[0][0])["execute"] for call in writer.write.call_args_list[1:]] == ["query-balloon", "balloon"]

    async def test_deflate_sets_the_target(self, streams: tuple[Any, Any]) -> None:
        client = await self.connected(streams[0], b'{"return": {}}\n')
        await client.deflate(256)
        assert json.loads(streams[1].write.call_args_list[1][0][0])["arguments"] == {"value": 256 * MIB}

    async def test_close_twice(self, streams: tuple[Any, Any]) -> None:
        client = await self.connected(streams[0])
        await client.close()
        await client.close()
        assert not client._connected
        streams[1].close.assert_called_once()

    async def test_events_and_strangers_replies_are_passed_over(self, streams: tuple[Any, Any]) -> None:
        client = await self.connected(
            streams[0],
            b'{"event": "BALLOON_CHANGE", "data": {"actual": 1}, "timestamp": {}}\n',
            b'{"return": {"actual": 1048576}, "id": "balloon-7"}\n',
            b'{"return": {"actual": 268435456}, "id": "balloon-1"}\n',
        )
        assert await client.query() == 256

    async def test_not_connected(self) -> None:
        with pytest.raises(BalloonError, match="Not connected"):
            await BalloonClient("/run/vm.qmp", 1000)._execute("query-balloon")

    @pytest.mark.parametrize("target", [0, -1, 1 << 43])
    async def test_impossible_targets_are_not_sent(self, streams: tuple[Any, Any], target: int) -> None:
        client = await self.connected(streams[0])
        with pytest.raises(BalloonError, match="no target"):
            await client.inflate(target)
        streams[1].write.assert_called_once()


def test_pool_constants() -> None:
    assert 32 <= constants.BALLOON_INFLATE_TARGET_MB < constants.DEFAULT_MEMORY_MB
    assert 1.0 <= constants.BALLOON_INFLATE_TIMEOUT_SECONDS <= 30.0
    assert 1.0 <= constants.BALLOON_DEFLATE_TIMEOUT_SECONDS <= 30.0


@asynccontextmanager
async def conversation(folder: Path, **script: Any) -> AsyncIterator[tuple[ScriptedPeer, BalloonClient]]:
    async with ScriptedPeer(folder / "vm.qmp", **script) as peer, BalloonClient(peer.path, OWN_UID) as client:
        yield peer, client


class TestHostilePeer:
    """Against a live socket."""

    async def test_a_friendly_one_first(self, folder: Path) -> None:
        async with conversation(folder) as (peer, client):
            assert await client.inflate(128) == 256
            assert (await client.wait_for_actual(128 * MIB)).reached
            assert peer.target == 128 * MIB

    async def test_reconnecting_after_close(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            client = BalloonClient(peer.path, OWN_UID)
            for _time in range(2):
                await client.connect()
                assert await client.query() == 256
                await client.close()

    @pytest.mark.parametrize(
        ("greeting", "error"),
        [
            (b"220 mail.example.org ESMTP\r\n", BalloonError),
            (b"[]\r\n", BalloonError),
            (b'{"event": "RESUME"}\r\n', BalloonError),
            (b'{"QMP": 1}\r\n', BalloonError),
            (b'{"QMP": ' + b"[" * 500_000 + b"\r\n", BalloonError),
            (b'{"QMP": ' + b"9" * 500_000 + b"}\r\n", BalloonError),
            (b"x" * (constants.MESSAGE_BYTES_MAX + 10) + b"\r\n", BalloonError),
            (b'{"QMP": ', AnswerTimeoutError),
        ],
    )
    async def test_bad_greetings_get_no_byte(self, folder: Path, greeting: bytes, error: type[BalloonError]) -> None:
        async with ScriptedPeer(folder / "vm.qmp", greeting=greeting) as peer:
            with pytest.raises(error):
                await BalloonClient(peer.path, OWN_UID).connect(timeout=0.5)
            assert peer.received == b""

    @pytest.mark.parametrize(
        "answer",
        [
            {"return": {}},
            {"return": None},
            {"return": {"actual": "268435456"}},
            {"return": {"actual": 1e9}},
            {"return": {"actual": True}},
            {"return": {"actual": -4096}},
            {"return": {"actual": 1 << 63}},
            {"error": "text"},
            {"neither": 1},
            b"\xff\xfe\r\n",
            b"null\r\n",
        ],
    )
    async def test_nonsense_is_not_believed(self, folder: Path, answer: Any) -> None:
        async with (
            ScriptedPeer(folder / "vm.qmp", answers={"query-balloon": answer}) as peer,
            BalloonClient(peer.path, OWN_UID) as client,
        ):
            with pytest.raises(BalloonError):
                await client.query_actual()

    async def test_a_reply_without_id_is_taken(self, folder: Path) -> None:
        async with (
            ScriptedPeer(folder / "vm.qmp", answers={"query-balloon": b'{"return": {"actual": 1048576}}\n'}) as peer,
            BalloonClient(peer.path, OWN_UID) as client,
        ):
            assert await client.query() == 1

    async def test_after_a_timeout_the_connection_is_dead(self, folder: Path) -> None:
        async with (
            ScriptedPeer(folder / "vm.qmp", answers={"query-balloon": None}) as peer,
            BalloonClient(peer.path, OWN_UID) as client,
        ):
            with pytest.raises(AnswerTimeoutError):
                await client.query(timeout=0.2)
            assert not client._connected
            with pytest.raises(DisconnectedError, match="Not connected"):
                await client.query()

    async def test_a_flood_of_events_ends(self, folder: Path) -> None:
        flood = b'{"event": "BALLOON_CHANGE", "data": {}}\r\n' * 5000
        async with (
            ScriptedPeer(folder / "vm.qmp", answers={"query-balloon": flood}) as peer,
            BalloonClient(peer.path, OWN_UID) as client,
        ):
            with pytest.raises(BalloonError, match="without end"):
                await client.query(timeout=5)

    async def test_an_end_in_mid_sentence(self, folder: Path) -> None:
        async with (
            ScriptedPeer(folder / "vm.qmp", answers={"query-balloon": b'{"return": '}) as peer,
            BalloonClient(peer.path, OWN_UID) as client,
        ):
            query = asyncio.ensure_future(client.query())
            await peer.wait_for("query-balloon")
            peer.hang_up()
            with pytest.raises(DisconnectedError):
                await query

    async def test_errors_by_class(self, folder: Path) -> None:
        answers = {
            "balloon": {"error": {"class": "DeviceNotActive", "desc": "gone"}},
            "query-name": {"error": {"class": "GenericError", "desc": "\x1b[31mred" + "x" * 10_000}},
        }
        async with conversation(folder, answers=answers) as (_peer, client):
            with pytest.raises(NoBalloonError):
                await client.set_target(64)
            with pytest.raises(CommandError) as caught:
                await client.execute("query-name")
            assert caught.value.error_class == "GenericError"
            assert "\x1b" not in str(caught.value)
            assert len(str(caught.value)) < 500

    async def test_an_event_wakes_and_is_not_taken_for_a_reply(self, folder: Path) -> None:
        event = b'{"event": "BALLOON_CHANGE", "data": {"actual": 4096}}\r\n'
        reply = b'{"return": {"actual": 268435456}}\r\n'
        async with (
            ScriptedPeer(folder / "vm.qmp", answers={"query-balloon": reply + event}) as peer,
            BalloonClient(peer.path, OWN_UID) as client,
        ):
            assert await client.query() == 256
            await asyncio.wait_for(client.wait_event(60), 5)
            assert await client.query() == 256

    async def test_a_flood_of_events_is_no_reason_to_ask_in_one(self, folder: Path) -> None:
        event = b'{"event": "BALLOON_CHANGE", "data": {"actual": 4096}}\r\n'
        reply = b'{"return": {"actual": 268435456}}\r\n'
        async with conversation(folder, answers={"query-balloon": reply + event}) as (peer, client):
            waited = await client.wait_for_actual(64 * MIB, timeout=0.5)
            assert len(peer.sent("query-balloon")) <= waited.seconds / constants.POLL_SECONDS_MIN + 2

    async def test_a_stall_and_a_timeout_are_told_apart(self, folder: Path) -> None:
        async with conversation(folder, speed=20 * MIB) as (peer, client):
            await client.set_actual(64 * MIB)
            late = await client.wait_for_actual(64 * MIB, timeout=0.3)
            assert not late.reached
            assert not late.stalled
        async with ScriptedPeer(folder / "b.qmp", reserve=200 * MIB) as peer, BalloonClient(peer.path, OWN_UID) as client:
            await client.set_actual(64 * MIB)
            stuck = await client.wait_for_actual(64 * MIB, stall_after=0.2)
            assert stuck.stalled
            assert stuck.actual == 200 * MIB

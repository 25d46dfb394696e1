# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scripted peer: speaks QMP like QEMU, and does on demand what a real QEMU cannot be made to do.

``python -m tests.peer FOLDER COUNT`` serves many of them from one process, for measuring.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

MIB = 1 << 20
DEVICE = "/machine/peripheral/balloon0"
GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}\r\n'

Json = dict[str, Any]


class ScriptedPeer:
    """One guest's monitor on a UNIX socket, as an async context manager.

    The guest moves ``speed`` bytes a second towards its target, down to ``reserve`` bytes and no further. ``answers``
    replaces the reply to a command: a dict is sent as the whole reply, bytes are sent as they are, None is no reply, and a
    function gets the request and returns one of these. ``greeting`` likewise. ``received`` is every byte that came,
    ``commands`` every request in order.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "",
        maximum: int = 256 * MIB,
        used: int = 64 * MIB,
        reserve: int = 0,
        speed: float = float("inf"),
        answers: dict[str, Any] | None = None,
        greeting: Json | bytes | None = GREETING,
    ) -> None:
        self.path = path
        self.name = name
        self.maximum = maximum
        self.used = used
        self.reserve = reserve
        self.speed = speed
        self.answers = answers or {}
        self.greeting = greeting
        self.received = b""
        self.commands: list[Json] = []
        self._came = asyncio.Condition()
        self.polling = 0
        self.stats_at = 1
        self._available = maximum - used
        self._pushed = 0.0
        self.target = maximum
        self._start = maximum
        self._since = time.monotonic()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> ScriptedPeer:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.hang_up()
        await asyncio.gather(*filter(None, self._serving), return_exceptions=True)

    def hang_up(self) -> None:
        """Break all connections, as QEMU's end would."""
        for writer in self._writers:
            writer.close()

    @property
    def actual(self) -> int:
        """The guest's memory now, in bytes."""
        way = self.target - self._start
        moved = min(abs(way), self.speed * (time.monotonic() - self._since))
        return max(self.reserve, int(self._start + (moved if way > 0 else -moved)))

    def sent(self, command: str) -> list[Json]:
        """Return the arguments of every ``command`` that came."""
        return [request.get("arguments", {}) for request in self.commands if request["execute"] == command]

    async def wait_for(self, command: str, times: int = 1) -> None:
        """Wait until ``command`` has come so many times."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.sent(command)) >= times)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await self._send(writer, self.greeting)
            while line := await reader.readline():
                self.received += line
                request = json.loads(line)
                self.commands.append(request)
                async with self._came:
                    self._came.notify_all()
                await self._send(writer, self._reply(request))
        self._writers.discard(writer)
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, message: Json | bytes | None) -> None:
        if message is None:
            return
        writer.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n")
        await writer.drain()

    def _reply(self, request: Json) -> Json | bytes | None:
        command = request["execute"]
        if command in self.answers:
            answer = self.answers[command]
            answer = answer(request) if callable(answer) else answer
            return {**answer, "id": request["id"]} if isinstance(answer, dict) and "id" in request else answer
        handler: Callable[[Json], Any] | None = getattr(self, "_do_" + command.replace("-", "_"), None)
        if handler is None:
            reply: Json = {"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}}
        else:
            reply = {"return": handler(request.get("arguments", {}))}
        if "id" in request:
            reply["id"] = request["id"]
        return reply

    def _do_qmp_capabilities(self, _arguments: Json) -> Json:
        return {}

    def _do_query_status(self, _arguments: Json) -> Json:
        return {"status": "running", "running": True}

    def _do_query_migrate(self, _arguments: Json) -> Json:
        return {}

    def _do_query_name(self, _arguments: Json) -> Json:
        return {"name": self.name} if self.name else {}

    def _do_query_uuid(self, _arguments: Json) -> Json:
        return {"UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, str(self.path)))}  # of its own: they all share one process

    def _do_query_memory_size_summary(self, _arguments: Json) -> Json:
        return {"base-memory": self.maximum, "plugged-memory": 0}

    def _do_query_balloon(self, _arguments: Json) -> Json:
        return {"actual": self.actual}

    def _do_balloon(self, arguments: Json) -> Json:
        self._start, self._since = self.actual, time.monotonic()
        self.target = min(arguments["value"], self.maximum)
        return {}

    def _do_x_query_virtio_status(self, _arguments: Json) -> Json:
        return {"started": True}

    def _do_qom_list(self, arguments: Json) -> list[Json]:
        return [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}] if arguments["path"] == "/machine/peripheral" else []

    def _do_qom_get(self, arguments: Json) -> Any:
        if arguments["property"] == "guest-stats":
            if self.polling and time.monotonic() - self._pushed >= self.polling:
                self._push()
            figures = {"stat-available-memory": self._available, "stat-free-memory": (1 << 64) - 1}
            return {"stats": figures, "last-update": self.stats_at}
        return self.polling if arguments["property"] == "guest-stats-polling-interval" else False

    def _do_qom_set(self, arguments: Json) -> Json:
        if arguments["value"] and not self.polling:
            self._push()
        self.polling = arguments["value"]
        return {}

    def _push(self) -> None:
        """Tell statistics, as the driver does when it is asked."""
        self._available, self.stats_at, self._pushed = self.actual - self.used, int(time.time()), time.monotonic()


async def _serve_many(folder: Path, count: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(count):
            await stack.enter_async_context(ScriptedPeer(folder / f"guest{number}.qmp", name=f"guest{number}"))
        print("ready", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description="Serve scripted guests' monitors.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    asyncio.run(_serve_many(arguments.folder, arguments.count))


if __name__ == "__main__":
    main()

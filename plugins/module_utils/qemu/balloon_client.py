# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest's monitor: QMP, and the balloon's verbs in it.

QMP is specified in QEMU's docs/interop/qmp-spec; the balloon's commands in qapi/machine.json. The monitor is not trusted:
every read has a bound, every wait an end, and no number is taken unchecked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

from .constants import (
    BALLOON_DEFLATE_TIMEOUT_SECONDS,
    BALLOON_INFLATE_TARGET_MB,
    BALLOON_INFLATE_TIMEOUT_SECONDS,
    CLOSE_TIMEOUT_SECONDS,
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    DEFAULT_MEMORY_MB,
    MESSAGE_BYTES_MAX,
    MIB,
    POLL_SECONDS_MIN,
    STALL_SECONDS,
    TIMEOUT_SECONDS_MIN,
)
from .convergence import Convergence, ProgressWatch
from .errors import AnswerTimeoutError, BalloonError, CommandError, DisconnectedError, NoBalloonError
from .socket_auth import Peer, VerifiedReader, connect_and_verify
from .texts import printable
from .waiting import to_the_end, within

_NO_BALLOON = ("DeviceNotActive", "KVMMissingCap")
_INTEGER_DIGITS_MAX = 20  # 2^64 - 1; longer ones only cost time
_SKIPPED_MAX = 1000  # events and strangers' replies before an answer
_DESCRIPTION_MAX = 200


class BalloonClient:
    """A verified QMP connection to one guest's monitor.

    Commands of several tasks take turns. ``peer`` (the process behind the socket) and ``qemu_version`` are known once
    connected. Sizes are in MiB where a name says ``_mb`` and in bytes everywhere else.
    """

    def __init__(self, qmp_socket: str | os.PathLike[str], expected_uid: int) -> None:
        self.qmp_socket = os.fspath(qmp_socket)
        self.peer: Peer | None = None
        self.qemu_version: str | None = None
        self._expected_uid = expected_uid
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pending_read: asyncio.Future[bytes] | None = None
        self._turn: asyncio.Lock | None = None
        self._connected = False
        self._requests = 0

    async def __aenter__(self) -> BalloonClient:
        await self.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # --- the connection --------------------------------------------------------------------------------------------

    async def connect(self, timeout: float = CONNECT_TIMEOUT_SECONDS) -> None:
        """Verify the peer, read its greeting and negotiate, ``timeout`` seconds each. Connecting twice does nothing.

        Raises SocketAuthError, or BalloonError for a peer that does not speak QMP. The socket is closed after any failure.
        """
        if self._connected:
            return
        try:
            self._reader, self._writer = await connect_and_verify(self.qmp_socket, self._expected_uid, timeout=timeout)
            self._turn = asyncio.Lock()
            if isinstance(self._reader, VerifiedReader):
                self.peer = self._reader.peer
            greeting = await self._read_message(_deadline(timeout))
            if greeting is None:
                raise AnswerTimeoutError(f"{self.qmp_socket}: the greeting began and did not end within {timeout:g} s")
            if not isinstance(greeting.get("QMP"), dict):
                raise self._protocol_error("its greeting is not QMP's")
            self.qemu_version = _version(greeting["QMP"])
            self._writer.write(b'{"execute": "qmp_capabilities"}\n')
            response = await self._read_reply(None, "qmp_capabilities", _deadline(timeout))
            if "error" in response:
                raise BalloonError(
                    f"QMP capabilities failed: {printable(str(response['error']), _DESCRIPTION_MAX)} ({self.qmp_socket})"
                )
            self._connected = True
        except BaseException:
            await to_the_end(self._hang_up())
            raise

    async def close(self) -> None:
        """Close the connection; may be called twice."""
        await to_the_end(self._hang_up())

    async def _hang_up(self) -> None:
        writer, read = self._writer, self._pending_read
        self._reader = self._writer = self._pending_read = None
        self._connected = False
        if read is not None:
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)
        if writer is not None:
            writer.close()
            # However the connection ends, it is over.
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await within(CLOSE_TIMEOUT_SECONDS, writer.wait_closed())

    # --- commands ----------------------------------------------------------------------------------------------------

    async def execute(
        self, command: str, arguments: dict[str, Any] | None = None, timeout: float = COMMAND_TIMEOUT_SECONDS
    ) -> Any:
        """Run a command and return what it returns, waiting ``timeout`` seconds.

        Raises NoBalloonError and CommandError when QEMU answers with an error, and what ``_execute`` raises.
        """
        response = await self._execute(command, arguments, timeout)
        if "error" in response:
            raise self._command_error(command, response["error"])
        return response["return"]

    async def _execute(
        self, command: str, arguments: dict[str, Any] | None = None, timeout: float = COMMAND_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """Return QMP's whole response, with ``return`` or ``error`` in it.

        Raises DisconnectedError, AnswerTimeoutError or BalloonError; the connection is closed after each of them.
        """
        if not self._connected or self._writer is None or self._turn is None:
            raise DisconnectedError(f"Not connected to the monitor {self.qmp_socket}")
        async with self._turn:
            if not self._connected:
                raise DisconnectedError(f"Not connected to the monitor {self.qmp_socket} any more")
            self._requests += 1
            request_id = f"balloon-{self._requests}"
            request: dict[str, Any] = {"execute": command, "id": request_id}
            if arguments:
                request["arguments"] = arguments
            try:
                self._writer.write(json.dumps(request).encode() + b"\n")
                return await self._read_reply(request_id, command, _deadline(timeout))
            except BaseException:
                # Its reply could still come and be taken for the next one's.
                await to_the_end(self._hang_up())
                raise

    async def _read_reply(self, request_id: str | None, command: str, deadline: float) -> dict[str, Any]:
        """Flush the request and read up to its reply; events and other requests' replies are passed over."""
        if self._writer is None:
            raise DisconnectedError(f"Not connected to the monitor {self.qmp_socket}")
        late = AnswerTimeoutError(f"{self.qmp_socket}: no answer to {command} in time; QEMU hangs or its host is overloaded")
        try:
            await within(_left(deadline), self._writer.drain())
        except asyncio.TimeoutError:
            raise late from None
        except OSError as error:
            raise DisconnectedError(f"{self.qmp_socket}: the connection broke before {command}: {error}") from None
        for _skipped in range(_SKIPPED_MAX):
            message = await self._read_message(deadline)
            if message is None:
                raise late
            if "event" in message or message.get("id", request_id) != request_id:
                continue
            if isinstance(message.get("error"), dict) or ("return" in message and "error" not in message):
                return message
            raise self._protocol_error(f"its answer to {command} is neither a result nor an error")
        raise self._protocol_error(f"it talks without end and never answers {command}")

    async def wait_event(self, timeout: float) -> None:
        """Wait ``timeout`` seconds for the next event, of any kind. Events only wake: ask QEMU for the truth."""
        if self._turn is None:
            raise DisconnectedError(f"Not connected to the monitor {self.qmp_socket}")
        async with self._turn:
            try:
                await self._read_message(_deadline(timeout))
            except BalloonError:
                await to_the_end(self._hang_up())
                raise

    async def _read_message(self, deadline: float) -> dict[str, Any] | None:
        """Read one JSON object, or return None at the deadline: the read then goes on and serves the next call."""
        if self._reader is None:
            raise DisconnectedError(f"Not connected to the monitor {self.qmp_socket}")
        if self._pending_read is None:
            self._pending_read = asyncio.ensure_future(self._reader.readline())
        read = self._pending_read
        await asyncio.wait({read}, timeout=_left(deadline))
        if not read.done():
            return None
        self._pending_read = None
        if read.cancelled():
            raise DisconnectedError(f"{self.qmp_socket}: the connection was closed")
        try:
            line = read.result()
        except OSError as error:
            raise DisconnectedError(f"{self.qmp_socket}: the connection broke: {error}") from None
        except ValueError:
            raise self._protocol_error(f"it sent a line of more than {MESSAGE_BYTES_MAX} bytes") from None
        if not line:
            raise DisconnectedError(f"{self.qmp_socket}: QEMU closed the connection; has the guest ended?")
        return self._parse(line)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            message = _DECODER.decode(line.decode())
        except (ValueError, RecursionError):
            if not line.endswith(b"\n"):
                raise DisconnectedError(f"{self.qmp_socket}: QEMU closed the connection in mid-sentence") from None
            raise self._protocol_error("it sent a line that is not JSON") from None
        if not isinstance(message, dict):
            raise self._protocol_error("it sent JSON that is not an object")
        return message

    def _protocol_error(self, what: str) -> BalloonError:
        return BalloonError(f"{self.qmp_socket} does not behave like a QEMU monitor: {what}. Is it QEMU's -qmp socket?")

    def _command_error(self, command: str, error: dict[str, Any]) -> BalloonError:
        error_class = str(error.get("class"))
        if error_class in _NO_BALLOON:
            return NoBalloonError(f"the guest behind {self.qmp_socket}")
        return CommandError(
            f"{self.qmp_socket}: QEMU refused {command}: {printable(str(error.get('desc')), _DESCRIPTION_MAX)}", error_class
        )

    # --- the balloon, in bytes -----------------------------------------------------------------------------------------

    async def query_actual(self, timeout: float = COMMAND_TIMEOUT_SECONDS) -> int:
        """Return the guest's memory now (QEMU's ``actual``) in bytes. Raises NoBalloonError, and what ``execute`` raises."""
        return self._actual(await self.execute("query-balloon", timeout=timeout))

    async def set_actual(self, target: int, timeout: float = COMMAND_TIMEOUT_SECONDS) -> None:
        """Ask the guest to have ``target`` bytes of memory. QEMU has the target when this returns; the guest moves later."""
        self._check_target(target)
        await self.execute("balloon", {"value": target}, timeout)

    async def wait_for_actual(
        self,
        target: int,
        tolerance: int = 0,
        timeout: float = TIMEOUT_SECONDS_MIN,
        stall_after: float = STALL_SECONDS,
    ) -> Convergence:
        """Wait until the guest is within ``tolerance`` bytes of ``target``, stalls, or ``timeout`` seconds are over.

        A guest stalls when it makes no progress for ``stall_after`` seconds. Events wake, ``query-balloon`` decides.
        Raises what ``query_actual`` raises.
        """
        clock = asyncio.get_running_loop().time
        start = clock()
        watch = ProgressWatch(target, tolerance, start, stall_after)
        while True:
            actual = await self.query_actual()
            now = clock()
            watch.observe(actual, now)
            if watch.reached or watch.stalled or now - start >= timeout:
                return Convergence(actual=actual, reached=watch.reached, stalled=watch.stalled, seconds=now - start)
            await self.wait_event(min(watch.pause, timeout - (now - start)))
            # Events may come in a flood; that is no reason to ask in one.
            await asyncio.sleep(max(0.0, now + POLL_SECONDS_MIN - clock()))

    def _actual(self, returned: Any) -> int:
        actual = returned.get("actual") if isinstance(returned, dict) else None
        if not isinstance(actual, int) or isinstance(actual, bool) or not 0 <= actual < 1 << 63:
            raise self._protocol_error("its answer to query-balloon holds no size")
        return actual

    def _check_target(self, target: int) -> None:
        if not 0 < target < 1 << 63:
            raise BalloonError(f"{target} bytes is no target: QEMU takes whole numbers from 1 to 2^63 - 1")

    # --- the balloon, in MiB: the pool's verbs ---------------------------------------------------------------------------

    async def query(self, timeout: float = COMMAND_TIMEOUT_SECONDS) -> int | None:
        """Return the guest's memory now in MiB, or None when QMP answers with an error (no balloon)."""
        response = await self._execute("query-balloon", timeout=timeout)
        return None if "error" in response else self._actual(response["return"]) // MIB

    async def set_target(self, target_mb: int, timeout: float = COMMAND_TIMEOUT_SECONDS) -> None:
        """Ask the guest to have ``target_mb`` MiB of memory. Raises NoBalloonError, and what ``execute`` raises."""
        await self.set_actual(target_mb * MIB, timeout)

    async def inflate(
        self, target_mb: int = BALLOON_INFLATE_TARGET_MB, timeout: float = BALLOON_INFLATE_TIMEOUT_SECONDS
    ) -> int:
        """Take memory from the guest, down to ``target_mb`` MiB, and return the MiB that it had before.

        Returns as soon as QEMU has the target; ``wait_for_actual`` waits for the guest. ``timeout`` is for each command.
        """
        self._check_target(target_mb * MIB)
        previous = await self.query(timeout)
        await self.set_target(target_mb, timeout)
        return DEFAULT_MEMORY_MB if previous is None else previous

    async def deflate(self, target_mb: int, timeout: float = BALLOON_DEFLATE_TIMEOUT_SECONDS) -> None:
        """Give memory back to the guest, up to ``target_mb`` MiB. Returns as soon as QEMU has the target."""
        await self.set_target(target_mb, timeout)


def _deadline(timeout: float) -> float:
    return asyncio.get_running_loop().time() + timeout


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _bounded_int(digits: str) -> int:
    if len(digits) > _INTEGER_DIGITS_MAX:
        raise ValueError("longer than any number that QEMU sends")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_bounded_int)  # one for all: json.loads would build one for each message


def _version(greeting: dict[str, Any]) -> str | None:
    """Return ``7.2.19`` from a greeting, None from one that does not tell."""
    version = greeting.get("version")
    numbers = version.get("qemu") if isinstance(version, dict) else None
    if not isinstance(numbers, dict):
        return None
    parts = [numbers.get(part) for part in ("major", "minor", "micro")]
    return ".".join(str(part) for part in parts) if all(isinstance(part, int) for part in parts) else None

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer check, against real processes of other users and whatever else can lie where a monitor should."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import (
    MonitorBusyError,
    NotASocketError,
    PathTooLongError,
    SocketAuthError,
    SocketClosedError,
    SocketNotFoundError,
    SocketRefusedError,
    SymlinkError,
    UnsafeFolderError,
    UntrustedPeerError,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.socket_auth import Peer, VerifiedReader, connect_and_verify
from tests.peer import ScriptedPeer
from tests.unit import impostor
from tests.unit.conftest import OWN_UID

NOBODY = pwd.getpwnam("nobody").pw_uid
DAEMON = pwd.getpwnam("daemon").pw_uid
IMPOSTOR = Path(impostor.__file__)

needs_root = pytest.mark.skipif(OWN_UID != 0, reason="only root can start processes of other users")


async def verified(path: Path | str, expected_uid: int = OWN_UID, timeout: float = 5.0) -> Peer:
    """Connect, read the whole greeting and hang up again; return who wrote it."""
    reader, writer = await connect_and_verify(path, expected_uid, timeout=timeout)
    assert isinstance(reader, VerifiedReader)
    assert "QMP" in json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return reader.peer


def permit(folder: Path, mode: int) -> None:
    folder.chmod(mode)


class Impostor:
    """A monitor that one user listens on and another one greets from."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def received(self) -> int:
        """Return the bytes that it had got when its client was gone."""
        assert self._process.stdout is not None
        return int(await asyncio.wait_for(self._process.stdout.readline(), 10))


@contextlib.asynccontextmanager
async def served_by(path: Path, listener: int, writer: int) -> AsyncIterator[Impostor]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, IMPOSTOR, path, str(listener), str(writer), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 10) == b"ready\n"
        yield Impostor(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@needs_root
class TestWhoIsThere:
    @pytest.mark.parametrize(
        ("listener", "writer", "expected"),
        [(NOBODY, NOBODY, NOBODY), (0, NOBODY, NOBODY), (0, 0, 0), (0, DAEMON, DAEMON)],
        ids=["nobody's", "root's until it dropped its rights", "root's", "root's until it became daemon"],
    )
    async def test_the_expected_writer_is_accepted(self, folder: Path, listener: int, writer: int, expected: int) -> None:
        async with served_by(folder / "vm.qmp", listener, writer) as peer:
            assert await verified(folder / "vm.qmp", expected) == Peer(pid=peer.pid, uid=writer)
            assert await peer.received() == 0

    @pytest.mark.parametrize(
        ("listener", "writer", "expected", "named"),
        [
            (0, NOBODY, 0, NOBODY),
            (NOBODY, NOBODY, 0, NOBODY),
            (NOBODY, NOBODY, DAEMON, NOBODY),
            (0, 0, NOBODY, 0),
            (NOBODY, 0, 0, NOBODY),
            (NOBODY, 0, NOBODY, 0),
            (NOBODY, DAEMON, NOBODY, DAEMON),
            (DAEMON, NOBODY, NOBODY, DAEMON),
        ],
        ids=[
            "root listened, nobody greets",
            "all nobody's, root expected",
            "all nobody's, daemon expected",
            "all root's",
            "root greets for nobody",
            "a setuid helper of root's greets",
            "the descriptor was passed on",
            "somebody else's socket, inherited",
        ],
    )
    async def test_anybody_else_gets_no_byte(self, folder: Path, listener: int, writer: int, expected: int, named: int) -> None:
        async with served_by(folder / "vm.qmp", listener, writer) as peer:
            with pytest.raises(UntrustedPeerError) as caught:
                await verified(folder / "vm.qmp", expected)
            assert await peer.received() == 0
        assert (caught.value.code, caught.value.expected_uid, caught.value.actual_uid) == ("untrusted_peer", expected, named)
        for part in (pwd.getpwuid(named).pw_name, str(named), pwd.getpwuid(expected).pw_name, "expected_uid"):
            assert part in str(caught.value)

    @pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
    async def test_users_that_a_namespace_does_not_map_are_not_nobody(self, folder: Path) -> None:
        """In a namespace of its own, everybody outside looks like the overflow user, whose number is nobody's."""
        async with served_by(folder / "vm.qmp", 0, DAEMON) as peer:
            check = await in_child(f"check({str(folder / 'vm.qmp')!r}, {NOBODY})", "unshare", "--user", "--map-root-user")
            assert check == "untrusted_peer"
            assert await peer.received() == 0


async def in_child(code: str, *wrapper: str) -> str:
    """Run ``code`` in a process of its own, in which ``check(path, uid)`` prints the error's code, or ``trusted``."""
    prelude = f"""
import asyncio, os
from {connect_and_verify.__module__} import connect_and_verify
def check(path, uid):
    try:
        asyncio.run(connect_and_verify(path, uid, timeout=3))
        print("trusted")
    except Exception as error:
        print(getattr(error, "code", repr(error)))
"""
    process = await asyncio.create_subprocess_exec(
        *wrapper,
        sys.executable,
        "-c",
        prelude + code,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    output, _errors = await asyncio.wait_for(process.communicate(), 20)
    return output.decode().strip()


class TestWhereItLies:
    """Everything here is run by the expected user; it is the place that is wrong."""

    async def refused(self, path: Path, error: type[SocketAuthError]) -> str:
        async with ScriptedPeer(path) as peer:
            with pytest.raises(error) as caught:
                await verified(path)
            assert peer.received == b""
        return str(caught.value)

    async def test_a_folder_that_all_can_write_to(self, folder: Path) -> None:
        permit(folder, 0o777)
        message = await self.refused(folder / "vm.qmp", UnsafeFolderError)
        assert "everybody can write" in message
        assert str(folder) in message

    async def test_a_folder_further_up_counts_as_well(self, folder: Path) -> None:
        permit(folder, 0o777)
        (folder / "vms").mkdir(mode=0o700)
        assert str(folder) in await self.refused(folder / "vms" / "vm.qmp", UnsafeFolderError)

    async def test_ones_own_socket_in_a_sticky_folder_is_fine(self, folder: Path) -> None:
        permit(folder, 0o1777)
        async with ScriptedPeer(folder / "vm.qmp"):
            assert (await verified(folder / "vm.qmp")).uid == OWN_UID

    @needs_root
    async def test_somebody_elses_socket_in_a_sticky_folder(self, folder: Path) -> None:
        permit(folder, 0o1777)
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            os.chown(peer.path, DAEMON, DAEMON)
            with pytest.raises(UnsafeFolderError, match="daemon"):
                await verified(peer.path)
            assert peer.received == b""

    @needs_root
    async def test_somebody_elses_folder(self, folder: Path) -> None:
        os.chown(folder, DAEMON, DAEMON)
        assert "daemon" in await self.refused(folder / "vm.qmp", UnsafeFolderError)

    @needs_root
    async def test_a_folder_that_a_group_can_write_to(self, folder: Path) -> None:
        os.chown(folder, 0, DAEMON)
        permit(folder, 0o775)
        assert "group daemon" in await self.refused(folder / "vm.qmp", UnsafeFolderError)

    @needs_root
    async def test_the_expected_users_own_group_may_write(self, folder: Path) -> None:
        os.chown(folder, DAEMON, DAEMON)
        permit(folder, 0o775)
        async with served_by(folder / "vm.qmp", DAEMON, DAEMON):
            assert (await verified(folder / "vm.qmp", DAEMON)).uid == DAEMON

    @needs_root
    async def test_a_user_whom_an_access_list_lets_write(self, folder: Path) -> None:
        """An access list shows in the group's bits of the mode, whoever it is for."""
        everyone = (1 << 32) - 1
        entries = [(0x01, 7, everyone), (0x02, 7, NOBODY), (0x04, 5, everyone), (0x10, 7, everyone), (0x20, 5, everyone)]
        access_list = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        try:
            os.setxattr(folder, "system.posix_acl_access", access_list)
        except OSError as error:
            pytest.skip(f"no access lists here: {error}")
        await self.refused(folder / "vm.qmp", UnsafeFolderError)

    async def test_a_link_to_a_socket(self, folder: Path) -> None:
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            (folder / "link.qmp").symlink_to(peer.path)
            with pytest.raises(SymlinkError, match=r"Name the socket itself: .*vm\.qmp"):
                await verified(folder / "link.qmp")
            assert peer.received == b""

    @pytest.mark.parametrize("absolute", [True, False])
    async def test_a_linked_folder_of_ones_own_is_fine(self, folder: Path, *, absolute: bool) -> None:
        (folder / "real").mkdir()
        (folder / "run").symlink_to(folder / "real" if absolute else "./real")
        async with ScriptedPeer(folder / "real" / "vm.qmp"):
            assert (await verified(folder / "run" / "vm.qmp")).uid == OWN_UID

    async def test_links_that_go_round(self, folder: Path) -> None:
        (folder / "run").symlink_to("run")
        with pytest.raises(SymlinkError):
            await verified(folder / "run" / "vm.qmp")

    async def test_a_link_into_an_unsafe_folder(self, folder: Path) -> None:
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        (folder / "run").symlink_to("open")
        async with ScriptedPeer(folder / "open" / "vm.qmp") as peer:
            with pytest.raises(UnsafeFolderError):
                await verified(folder / "run" / "vm.qmp")
            assert peer.received == b""

    async def test_a_path_of_any_length(self, folder: Path) -> None:
        deep = folder.joinpath(*["d" * 200] * 3)
        deep.mkdir(parents=True)
        async with ScriptedPeer(folder / "vm.qmp") as peer:
            peer.path.rename(deep / "vm.qmp")
            assert (await verified(deep / "vm.qmp")).uid == OWN_UID

    async def test_a_relative_path(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        async with ScriptedPeer(folder / "vm.qmp"):
            assert (await verified("vm.qmp")).uid == OWN_UID
            assert (await verified(f"../{folder.name}/./vm.qmp")).uid == OWN_UID


@contextlib.contextmanager
def listening(path: Path, backlog: int = 8) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(backlog)
        yield server


async def test_a_name_that_no_file_system_takes(folder: Path) -> None:
    with pytest.raises(PathTooLongError):
        await verified(folder / ("x" * 256))


@pytest.mark.parametrize("what", ["file", "folder", "datagram"])
async def test_things_that_are_no_stream_socket(folder: Path, what: str) -> None:
    thing = folder / "vm.qmp"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        if what == "file":
            thing.touch()
        elif what == "folder":
            thing.mkdir()
        else:
            datagram.bind(str(thing))
        with pytest.raises(NotASocketError):
            await verified(thing)


async def test_a_socket_that_was_left_behind(folder: Path) -> None:
    with listening(folder / "vm.qmp"):
        pass
    with pytest.raises(SocketRefusedError):
        await verified(folder / "vm.qmp")


@pytest.mark.parametrize("name", ["vm.qmp", "no/vm.qmp", "file/vm.qmp", "vm\0.qmp"])
async def test_nothing_there(folder: Path, name: str) -> None:
    (folder / "file").touch()
    with pytest.raises(SocketNotFoundError):
        await verified(folder / name)


async def test_a_pattern_that_fits_nothing_is_said_to_be_one(folder: Path) -> None:
    with pytest.raises(SocketNotFoundError, match="no socket fits"):
        await verified(folder / "*.qmp")


async def test_a_silent_peer_is_busy_and_waited_for_no_longer_than_asked(folder: Path) -> None:
    with listening(folder / "vm.qmp"):
        start = time.monotonic()
        with pytest.raises(MonitorBusyError, match="another client"):
            await verified(folder / "vm.qmp", timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 2


async def test_a_full_queue_is_busy_at_once(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening(folder / "vm.qmp", backlog=0))
        with pytest.raises(BlockingIOError):  # noqa: PT012 - the last one of them
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(folder / "vm.qmp"))
        with pytest.raises(MonitorBusyError, match="queue is full"):
            await verified(folder / "vm.qmp", timeout=60)


async def test_a_peer_that_hangs_up_at_once(folder: Path) -> None:
    with listening(folder / "vm.qmp") as server:
        server.setblocking(False)
        check = asyncio.ensure_future(verified(folder / "vm.qmp"))
        connection, _address = await asyncio.get_running_loop().sock_accept(server)
        connection.close()
        with pytest.raises(SocketClosedError):
            await check


@needs_root
@pytest.mark.parametrize("locked", ["folder", "socket"])
async def test_a_place_where_one_may_not_go(folder: Path, locked: str) -> None:
    permit(folder, 0o700 if locked == "folder" else 0o755)
    async with ScriptedPeer(folder / "vm.qmp") as peer:
        peer.path.chmod(0o666 if locked == "folder" else 0o600)
        code = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); check({str(peer.path)!r}, 0)"
        assert await in_child(code) == "permission_denied"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_failure_leaks_a_descriptor(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "link").symlink_to("file")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    with listening(folder / "stale"):
        pass
    with listening(folder / "silent"), listening(folder / "open" / "unsafe"):
        paths = ["file", "link", "stale", "silent", "open", "open/unsafe", "none", "none/at/all", "x" * 256, "file/below"]
        before = descriptors()
        for path in paths:
            with pytest.raises(SocketAuthError):
                await verified(folder / path, timeout=0.05)
        cancelled = asyncio.ensure_future(verified(folder / "silent"))
        await asyncio.wait({cancelled}, timeout=0.05)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert cancelled.cancelled()
        assert descriptors() == before


async def test_descriptors_that_come_with_the_greeting_are_not_taken(folder: Path) -> None:
    gift = array.array("i", [0] * 16)
    with listening(folder / "vm.qmp") as server:
        server.setblocking(False)
        check = asyncio.ensure_future(verified(folder / "vm.qmp"))
        connection, _address = await asyncio.get_running_loop().sock_accept(server)
        with connection:
            before = descriptors()
            connection.sendmsg([impostor.GREETING], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, gift)])
            await check
            assert descriptors() == before - 1  # the check's own end, closed

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that opens monitors' sockets: who put the socket there, and who is on its other end.

Whoever speaks QMP with QEMU runs code as QEMU's user, and whoever answers in QEMU's place decides what we believe. So
nothing is written before three things hold, each by the kernel's word alone:

1. the process that listens runs as the expected user, or as root that dropped its rights later (``SO_PEERCRED``, which
   shows the credentials at ``listen()``);
2. no other user can have put the socket where it lies, nor any folder or link on the way;
3. the process that *wrote the greeting* runs as the expected user (``SCM_CREDENTIALS``, peeked without eating a byte).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import glob
import grp
import os
import pwd
import socket
import stat
import struct
from collections import deque
from dataclasses import dataclass

from .constants import CONNECT_TIMEOUT_SECONDS, MESSAGE_BYTES_MAX
from .errors import (
    MonitorBusyError,
    NotASocketError,
    PathTooLongError,
    SocketAuthError,
    SocketClosedError,
    SocketNotFoundError,
    SocketPermissionError,
    SocketRefusedError,
    SymlinkError,
    UnsafeFolderError,
    UntrustedPeerError,
)
from .texts import printable
from .users import describe_user, is_mapped, user_name
from .waiting import within

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINKS_MAX = 40  # as many as the kernel follows
_NO_UID = (1 << 32) - 1


@dataclass(frozen=True)
class Peer:
    """The process that wrote a monitor's greeting. ``pid`` is None where it lives in another pid namespace."""

    pid: int | None
    uid: int


class VerifiedReader(asyncio.StreamReader):
    """A stream reader that knows whom it reads from."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(limit=MESSAGE_BYTES_MAX, loop=asyncio.get_running_loop())
        self.peer = peer


async def connect_and_verify(
    path: str | os.PathLike[str], expected_uid: int, timeout: float = CONNECT_TIMEOUT_SECONDS
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a UNIX socket and prove that its peer runs as ``expected_uid``.

    ``timeout`` is in seconds and covers everything, the wait for the greeting's first byte included. The reader is a
    VerifiedReader and still holds the whole greeting. Nothing has been written when this returns or raises.
    Raises SocketAuthError, by its subclasses for each situation.
    """
    name = os.fspath(path)
    location = _locate(name, expected_uid)
    try:
        sock = _connect(name, location.fd)
    finally:
        os.close(location.fd)
    listener = _listener(sock)
    try:
        if listener.uid not in (expected_uid, 0):
            raise _untrusted(name, "is listened on by", listener, expected_uid)
        if location.hazard:
            raise UnsafeFolderError(
                f"{name}: {location.hazard}, so this socket may be another guest's or nobody's. Keep monitors in a folder"
                " that only QEMU's user or root can write to"
            )
        writer = await _greeter(name, sock, listener, timeout)
        if writer.uid != expected_uid or not is_mapped(writer.uid):
            raise _untrusted(name, "is served by", writer, expected_uid)
        return await _streams(sock, writer)
    except BaseException as error:
        sock.close()
        if isinstance(error, SocketAuthError):
            error.pid = listener.pid
        raise


# --- where the socket lies ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Location:
    fd: int  # an O_PATH descriptor of the socket itself: what is checked is what is connected to
    hazard: str | None  # who else could have put it there


def _locate(path: str, expected_uid: int) -> _Location:
    """Walk to the socket folder by folder, so that no step can be exchanged between check and use."""
    trusted = {0, expected_uid, os.geteuid()}
    pending = deque(_parts(path if path.startswith("/") else f"{os.getcwd()}/{path}"))
    hazard: str | None = None
    links = 0
    folder = os.open("/", _FOLDER)
    here = "/"
    try:
        while pending:
            part = pending.popleft()
            entry = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                status = os.fstat(entry)
                hazard = hazard or _hazard(here, os.fstat(folder), status, trusted, access_list=_has_access_list(folder))
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if not pending or links > _LINKS_MAX:
                        raise SymlinkError(
                            f"{path} is a symbolic link, which could lead to another guest's monitor. Name the socket itself:"
                            f" {os.path.realpath(path)}"
                        )
                    target = os.readlink("", dir_fd=entry)
                    pending.extendleft(reversed(_parts(target)))
                    if target.startswith("/"):
                        here = "/"
                        folder = _step(folder, os.open("/", _FOLDER))
                    continue
                if not pending:
                    if not stat.S_ISSOCK(status.st_mode):
                        raise NotASocketError(f"{path} is not a socket. Name the UNIX socket of QEMU's -qmp option")
                    return _Location(os.dup(entry), hazard)
                here = f"{here.rstrip('/')}/{part}"
                folder = _step(folder, os.dup(entry))
            finally:
                os.close(entry)
        raise NotASocketError(f"{path} is a folder, not a socket. Name the UNIX socket of QEMU's -qmp option")
    except OSError as error:
        raise _path_error(path, error) from None
    except ValueError:
        raise SocketNotFoundError(f"{path!r} cannot be a path") from None
    finally:
        os.close(folder)


def _step(folder: int, into: int) -> int:
    os.close(folder)
    return into


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _hazard(here: str, folder: os.stat_result, entry: os.stat_result, trusted: set[int], *, access_list: bool) -> str | None:
    """Say who besides the trusted users can exchange ``entry`` in ``folder``, or None."""
    if folder.st_uid not in trusted:
        return f"the folder {here} belongs to {describe_user(folder.st_uid)}"
    if folder.st_mode & stat.S_ISVTX:  # in a sticky folder only an entry's owner can exchange it
        if folder.st_mode & 0o022 and entry.st_uid not in trusted:
            return f"{describe_user(entry.st_uid)} has put it into {here}, where everybody can"
        return None
    if folder.st_mode & stat.S_IWOTH:
        return f"everybody can write to the folder {here}"
    if folder.st_mode & stat.S_IWGRP and access_list:
        return f"users of an access list can write to the folder {here}"
    if folder.st_mode & stat.S_IWGRP and not _private_group(folder):
        return f"the group {_group_name(folder.st_gid)} can write to the folder {here}"
    return None


def _has_access_list(folder: int) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{folder}")
    except OSError:
        return False


def _private_group(folder: os.stat_result) -> bool:
    """Tell whether the folder's group is root's, or that of its owner alone (a "user private group")."""
    if folder.st_gid == 0:
        return True
    try:
        owner = pwd.getpwuid(folder.st_uid)
        group = grp.getgrgid(folder.st_gid)
    except KeyError:
        return False
    return group.gr_gid == owner.pw_gid and group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _me() -> str:
    return user_name(os.geteuid())


def _path_error(path: str, error: OSError) -> SocketAuthError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if glob.has_magic(path):
            return SocketNotFoundError(f"{path}: no socket fits. Is the pattern right, and may {_me()} read the folder?")
        return SocketNotFoundError(f"{path}: there is no such socket. Is the guest running, and is its -qmp socket there?")
    if error.errno in (errno.EACCES, errno.EPERM):
        return SocketPermissionError(
            f"{path}: {_me()} may not get there. Run the task as root or as QEMU's user (become: true)"
        )
    if error.errno == errno.ENAMETOOLONG:
        return PathTooLongError(f"{path[:60]}...: the path is longer than the file system takes")
    return SocketAuthError(f"{path}: cannot be opened: {error.strerror}")


# --- who is on its other end -------------------------------------------------------------------------------------------


def _connect(path: str, location: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise _path_error(path, error) from None
    try:
        sock.setblocking(False)
        # Before connecting: what is written earlier would come without its writer's credentials.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # Through the descriptor: the checked socket, and paths of any length. A socket's own name ends at 107 bytes.
        sock.connect(f"/proc/self/fd/{location}")
    except BlockingIOError:
        sock.close()
        raise MonitorBusyError(
            f"{path}: the monitor's queue is full: other clients hold it or wait for it. {_BUSY_ADVICE}"
        ) from None
    except OSError as error:
        sock.close()
        if error.errno == errno.ECONNREFUSED:
            raise SocketRefusedError(
                f"{path}: nobody listens there any more; QEMU has ended and left its socket behind. Start the guest or"
                " remove the socket"
            ) from None
        if error.errno == errno.EPROTOTYPE:
            raise NotASocketError(f"{path} is no stream socket. Name the UNIX socket of QEMU's -qmp option") from None
        raise _path_error(path, error) from None
    return sock


_BUSY_ADVICE = (
    "QEMU serves one client a monitor (libvirt holds its domains' monitors for good). End the other client, or give QEMU a"
    " second -qmp socket"
)


def _listener(sock: socket.socket) -> Peer:
    return _peer(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))


def _peer(credentials: bytes) -> Peer:
    pid, uid, _gid = _UCRED.unpack(credentials[: _UCRED.size])
    return Peer(pid=pid or None, uid=uid)


async def _greeter(path: str, sock: socket.socket, listener: Peer, timeout: float) -> Peer:
    """Wait for the greeting's first byte and return who wrote it."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await within(timeout, readable)
    except asyncio.TimeoutError:
        raise MonitorBusyError(
            f"{path}: no greeting from {_describe(listener)} within {timeout:g} s: the monitor serves another client, or its"
            f" process hangs. {_BUSY_ADVICE}"
        ) from None
    finally:
        loop.remove_reader(sock)
    try:
        # Room for one set of credentials and nothing else: descriptors that a hostile peer sends along are dropped.
        first, ancillary, _flags, _address = sock.recvmsg(1, socket.CMSG_SPACE(_UCRED.size), socket.MSG_PEEK)
    except OSError as error:
        raise SocketClosedError(f"{path}: the connection broke before the greeting: {error.strerror}") from None
    if not first:
        raise SocketClosedError(f"{path}: {_describe(listener)} hung up without a greeting")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) >= _UCRED.size:
            return _peer(data)
    return Peer(pid=None, uid=_NO_UID)


def _untrusted(path: str, verb: str, peer: Peer, expected_uid: int) -> UntrustedPeerError:
    known = peer.uid != _NO_UID and is_mapped(peer.uid)
    advice = (
        f"If QEMU is meant to run as that user, set expected_uid to {user_name(peer.uid)}"
        if known
        else "Run the task in the user namespace that QEMU runs in"
    )
    return UntrustedPeerError(
        f"{path} {verb} {_describe(peer)}, expected was {describe_user(expected_uid)}. Nothing was sent. {advice}",
        expected_uid=expected_uid,
        actual_uid=peer.uid if known else None,
    )


def _describe(peer: Peer) -> str:
    who = describe_user(peer.uid) if peer.uid != _NO_UID else "a process that the kernel does not name"
    if peer.pid is None:
        return who
    command = ""
    with contextlib.suppress(OSError), open(f"/proc/{peer.pid}/comm", encoding="utf-8", errors="replace") as file:
        command = printable(file.read().rstrip("\n"))
    return f"{who}, process {peer.pid}" + (f" ({command})" if command else "")


async def _streams(sock: socket.socket, peer: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = VerifiedReader(peer)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _protocol = await loop.create_unix_connection(lambda: protocol, sock=sock)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

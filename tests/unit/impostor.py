# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that greets like a monitor, listens as one user and greets as another; started by root.

``python impostor.py PATH LISTENER WRITER`` prints ``ready``, serves one client, and prints the bytes that it received.
"""

from __future__ import annotations

import os
import socket
import sys

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}\r\n'


def become(uid: int) -> None:
    """Be that user from now on, without root's groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def listen_as(uid: int, server: socket.socket) -> None:
    """Let another process do it: the kernel remembers who called listen()."""
    child = os.fork()
    if child == 0:
        become(uid)
        server.listen(1)
        os._exit(0)
    _pid, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"listening as {uid} failed")


def main() -> None:
    """Serve one client."""
    path, listener, writer = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    listen_as(listener, server)
    become(writer)
    print("ready", flush=True)
    connection, _address = server.accept()
    received = 0
    try:
        connection.sendall(GREETING)
        while chunk := connection.recv(4096):
            received += len(chunk)
    except ConnectionError:
        pass  # it hung up with the greeting unread
    print(received, flush=True)


if __name__ == "__main__":
    main()

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab: several guests, booted side by side, that end when the lab does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

from .guest import Guest, GuestSpec, qemu_command
from .image import READY, image
from .process import Process
from .reaper import Reaper
from .record import Record, Started
from .tools import LabError, require_tool

_SOCKET_PATH_MAX = 107
_BOOT_TIMEOUT = 180.0
_POLL_INTERVAL = 0.02
_PANIC = "Kernel panic"
_LOG_TAIL = 2000

# The shell is recorded as the guest's process before it becomes QEMU, which keeps pid and start time. Should the lab
# die in between, the shell reads the end of its input instead of a word: there never is a guest that nobody knows of.
_LAUNCHER = 'read -r word && exec "$@" </dev/null'


class Lab:
    """Real guests for the length of a `with` block, whatever way it ends: also by SIGTERM, SIGINT and SIGKILL.

    `folder` must be new or empty and goes away with the lab; without it the lab makes one in /tmp. `boot_timeout` is in
    seconds and counts for one `up` as a whole.
    """

    def __init__(self, folder: Path | None = None, boot_timeout: float = _BOOT_TIMEOUT) -> None:
        """Say where the lab shall be; nothing is started yet."""
        self._wanted_folder = folder
        self._boot_timeout = boot_timeout
        self._guests: dict[str, Guest] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Lab:
        """Check the tools, fetch what guests boot, make the run folder."""
        require_tool("qemu-system-x86_64")
        self._image = image()
        self._record = Record.create(self._wanted_folder)
        self._reaper = Reaper(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        """End every guest, unless the lab is kept."""
        if not self._record.kept:
            self.close()

    def __getitem__(self, name: str) -> Guest:
        """Return a guest by its name."""
        return self._guests[name]

    @property
    def folder(self) -> Path:
        """The run folder: sockets, consoles and QEMU's complaints."""
        return self._record.folder

    def up(self, *specs: GuestSpec) -> list[Guest]:
        """Boot guests side by side and return them in the same order, each of them ready.

        When one of them fails, all of them are ended again.
        """
        guests: list[Guest] = []
        try:
            for spec in specs:
                guests.append(self._start(spec))
            self._wait_ready(guests)
        except BaseException:
            for guest in guests:
                self.down(guest.name)
            raise
        return guests

    def down(self, name: str) -> None:
        """End one guest; one that does not exist is fine."""
        if name in self._guests:
            guest = self._guests.pop(name)
            guest.process.end()
            self._children.pop(name).wait()
            guest.remove_files()
            self._record.guests.pop(name)
            # Another process may have put the whole lab away meanwhile.
            with contextlib.suppress(FileNotFoundError):
                self._record.save()

    def close(self) -> None:
        """End everything and remove the run folder."""
        self._record.end()
        for child in self._children.values():
            child.wait()
        self._guests.clear()
        self._children.clear()
        self._reaper.dismiss(let_live=False)

    def keep(self) -> None:
        """Let the guests live on after this process, until `python -m tests.lab down`."""
        self._record.kept = True
        self._record.save()
        self._reaper.dismiss(let_live=True)

    def _start(self, spec: GuestSpec) -> Guest:
        """Start one guest's QEMU."""
        if spec.name in self._guests:
            raise LabError(f"there already is a guest {spec.name} in this lab")
        guest_socket = self.folder / f"{spec.name}.qmp"
        if len(os.fsencode(guest_socket)) > _SOCKET_PATH_MAX:
            raise LabError(f"{guest_socket} is longer than a socket's path may be, {_SOCKET_PATH_MAX} bytes")
        command = ["/bin/sh", "-c", _LAUNCHER, "sh", *qemu_command(spec, self._image, self.folder)]
        with (self.folder / f"{spec.name}.err").open("wb") as complaints:
            # Its own session: Ctrl-C in a terminal is for the lab, which then ends its guests.
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=complaints,
                stderr=complaints,
                start_new_session=True,
            )
        guest = Guest(spec, self.folder, Process.running(child.pid))
        self._guests[spec.name] = guest
        self._children[spec.name] = child
        self._record.guests[spec.name] = Started(spec.memory_mib, guest.process)
        self._record.save()
        assert child.stdin is not None
        with child.stdin as word:
            word.write(b"go\n")
        return guest

    def _wait_ready(self, guests: list[Guest]) -> None:
        """Wait for every guest's own word that it is ready, and stop those that shall be stopped."""
        deadline = time.monotonic() + self._boot_timeout
        waiting = list(guests)
        while waiting:
            for guest in tuple(waiting):
                if _is_ready(guest):
                    waiting.remove(guest)
                    if guest.spec.paused is True:
                        guest.pause()
                elif not guest.alive:
                    raise LabError(_failure(guest, "QEMU ended before the guest was ready"))
                elif _PANIC in guest.console():
                    raise LabError(_failure(guest, "the guest's kernel gave up"))
            if waiting and time.monotonic() > deadline:
                raise LabError(_failure(waiting[0], f"not ready after {self._boot_timeout:g} seconds"))
            time.sleep(_POLL_INTERVAL if waiting else 0)


def _is_ready(guest: Guest) -> bool:
    """Whether the guest has said so itself; one that never starts cannot, but its monitor answers."""
    if guest.spec.paused != "start":
        return READY in guest.console()
    try:
        guest.qmp("query-status")
    except LabError:
        return False
    return True


def _failure(guest: Guest, what: str) -> str:
    """Tell what went wrong with a guest, with the last words of guest and QEMU."""
    console = guest.console()[-_LOG_TAIL:].strip() or "(nothing)"
    complaints = guest.complaints()[-_LOG_TAIL:].strip() or "(nothing)"
    return f"guest {guest.name}: {what}\n--- console ---\n{console}\n--- QEMU's standard error ---\n{complaints}"

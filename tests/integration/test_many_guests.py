# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many guests in one task, and some of them out of reach."""

from __future__ import annotations

import socket
import time

from tests.integration.conftest import MIB, balloon
from tests.lab import GuestSpec, Lab

COUNT = 20
TOLD_APART = {"monitor_busy": "guest18", "connection_refused": "guest19"}


def test_of_twenty_guests_one_held_and_one_gone_keep_none_from_being_served() -> None:
    with Lab() as lab:
        guests = lab.up(*(GuestSpec(f"guest{number:02}", 96) for number in range(COUNT - 1)))
        gone = socket.socket(socket.AF_UNIX)
        gone.bind(str(lab.folder / "guest19.qmp"))
        gone.close()
        with socket.socket(socket.AF_UNIX) as holder:
            holder.connect(str(guests[18].socket))
            assert holder.recv(1)  # greeted, so the monitor is ours
            start = time.monotonic()
            answer = balloon(socket=f"{lab.folder}/guest*.qmp", target="84M", floor="64M", headroom="0")
            took = time.monotonic() - start
        assert not answer.ok
        failed = {guest["error"]["code"]: guest["name"] for guest in answer.results["guests"] if guest["error"]}
        assert failed == TOLD_APART, answer.text
        assert answer.results["summary"] == answer.results["summary"] | {"guests": COUNT, "changed": COUNT - 2, "failed": 2}
        assert [guest.actual() // MIB for guest in guests] == [84] * (COUNT - 2) + [96]
        # Waiting for one guest after the other would take the held one's five seconds on top of all the others' moves.
        assert took < sum(guest["seconds"] for guest in answer.results["guests"])

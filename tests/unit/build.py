# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and guests for tests, of which a test names only what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.guest import Guest, GuestStats
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import ProcessMemory
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.targets import Request
from tests.unit.conftest import OWN_UID

MIB = 1 << 20


def request(
    target: str, socket: Path | str = "/run/vm.qmp", *, floor: str = "128M", headroom: str = "64M", tolerance: str = "1M"
) -> Request:
    """Return what the module's options would."""
    return Request(
        socket=str(socket),
        expected_uid=OWN_UID,
        target=parse_size(target, "target", full=True),
        floor=parse_size(floor, "floor", zero=True),
        headroom=parse_size(headroom, "headroom", zero=True),
        tolerance=parse_size(tolerance, "tolerance", zero=True),
    )


def guest(**facts: Any) -> Guest:
    """Return a running guest with all of its 256 MiB."""
    usual: dict[str, Any] = {
        "name": "web1",
        "uuid": None,
        "socket": "/run/vm.qmp",
        "pid": 1234,
        "uid": 1000,
        "qemu_version": "7.2.0",
        "status": "running",
        "migrating": False,
        "maximum": 256 * MIB,
        "actual": 256 * MIB,
        "device": "/machine/peripheral/balloon0",
        "driver": True,
        "deflate_on_oom": False,
        "free_page_reporting": False,
        "stats": None,
        "process": None,
    }
    if "rss" in facts:
        rss = facts.pop("rss")
        usual["process"] = None if rss is None else ProcessMemory(rss=rss, held=rss, locked=0)
    return Guest(**{**usual, **facts})


def stats(available: int | None, *, free: int | None = None, last_update: int = 1, interval: int = 0) -> GuestStats:
    """Return statistics with what a target is judged by."""
    return GuestStats({"available_memory": available, "free_memory": free}, last_update, interval)

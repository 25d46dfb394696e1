# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is right now, as frozen values.

Reading changes nothing in the guest. Only ``read_fresh_stats`` may switch the statistics' polling on, and puts it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from .balloon_client import BalloonClient
from .constants import STATS_TIMEOUT_SECONDS
from .errors import BalloonError, CommandError, NoBalloonError, QemuError
from .host import ProcessMemory, process_memory
from .texts import printable
from .waiting import to_the_end, within

_UNSET = (1 << 64) - 1  # a counter that the driver does not report
_NO_UUID = "00000000-0000-0000-0000-000000000000"
_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")
_MIGRATING = frozenset(
    [
        "setup",
        "cancelling",
        "active",
        "postcopy-active",
        "postcopy-paused",
        "postcopy-recover",
        "postcopy-recover-setup",
        "colo",
        "pre-switchover",
        "device",
        "wait-unplug",
    ]
)
_POLLING = "guest-stats-polling-interval"
_POLLING_SECONDS = 1  # for the run; the device asks at once whatever the interval is, and again should that get lost
_STATS_PAUSE_SECONDS = 0.03
_PUT_BACK_SECONDS = 3.0
_INTERVAL_MAX = 60  # seconds; a longer one is not waited for
_NAME_MAX = 200


@dataclass(frozen=True)
class GuestStats:
    """What the guest's driver last told of its memory. It can lie.

    ``figures`` are named as in virtio-balloon without the prefix (``available_memory``, ``free_memory``, ...): memory in
    bytes, swapping in bytes, faults in counts; None where the driver does not tell. ``last_update`` is in seconds since
    1970 by the host's clock, 0 for never; ``interval`` in seconds, 0 for no polling.
    """

    figures: dict[str, int | None]
    last_update: int
    interval: int

    def age(self, now: float) -> float | None:
        """Return the seconds since the last update, None when there never was one."""
        return max(0.0, now - self.last_update) if self.last_update else None

    @property
    def available(self) -> int | None:
        """Bytes that the guest could still use without swapping; older drivers tell only what is free."""
        available = self.figures.get("available_memory")
        return available if available is not None else self.figures.get("free_memory")


@dataclass(frozen=True)
class Guest:
    """A guest as its monitor and its process showed it. Sizes in bytes.

    ``actual`` is None without a balloon device; ``driver``, ``deflate_on_oom`` and ``free_page_reporting`` are None where
    QEMU does not tell; ``pid`` and ``process`` where its process cannot be seen.
    """

    name: str
    uuid: str | None
    socket: str
    pid: int | None
    uid: int | None
    qemu_version: str | None
    status: str
    migrating: bool
    maximum: int
    actual: int | None
    device: str | None
    driver: bool | None
    deflate_on_oom: bool | None
    free_page_reporting: bool | None
    stats: GuestStats | None
    process: ProcessMemory | None

    @property
    def rss(self) -> int | None:
        """Bytes of host memory that the guest's process holds."""
        return self.process.rss if self.process else None


def socket_name(path: str) -> str:
    """Return what a guest is called while its own name is not known: ``web1`` for ``/run/vms/web1.qmp``."""
    return printable(path if glob.has_magic(path) else PurePath(path).stem or path)


async def read_guest(client: BalloonClient) -> Guest:
    """Read everything about the guest, changing nothing. Raises BalloonError for answers that cannot be used."""
    status = _text(await client.execute("query-status"), "status")
    migration = await client.execute("query-migrate")
    identity = await client.execute("query-uuid")
    uuid = _text(identity, "UUID")
    maximum = await _maximum(client)
    try:
        actual: int | None = await client.query_actual()
    except NoBalloonError:
        actual = None
    device = None if actual is None else await _find_device(client)
    if actual is not None and actual > maximum:
        raise BalloonError(f"{client.qmp_socket}: QEMU says that the guest has {actual} of {maximum} bytes; believing neither")
    return Guest(
        name=await _name(client),
        uuid=None if uuid == _NO_UUID else uuid,
        socket=client.qmp_socket,
        pid=client.peer.pid if client.peer else None,
        uid=client.peer.uid if client.peer else None,
        qemu_version=client.qemu_version,
        status=status,
        migrating=isinstance(migration, dict) and migration.get("status") in _MIGRATING,
        maximum=maximum,
        actual=actual,
        device=device,
        driver=await _driver(client, device),
        deflate_on_oom=await _flag(client, device, "deflate-on-oom"),
        free_page_reporting=await _flag(client, device, "free-page-reporting"),
        stats=await read_stats(client, device),
        process=process_memory(client.peer.pid if client.peer else None),
    )


async def read_stats(client: BalloonClient, device: str | None) -> GuestStats | None:
    """Return the statistics as they lie in QEMU, however old. None where the device keeps none."""
    answer = await _property(client, device, "guest-stats")
    interval = await _property(client, device, _POLLING)
    if not isinstance(answer, dict) or not isinstance(answer.get("stats"), dict):
        return None
    figures = {
        name[len("stat-") :].replace("-", "_"): None if value == _UNSET else _size(value)
        for name, value in answer["stats"].items()
        if name.startswith("stat-")
    }
    return GuestStats(figures=figures, last_update=_size(answer.get("last-update")) or 0, interval=_size(interval) or 0)


async def read_fresh_stats(client: BalloonClient, device: str | None) -> GuestStats | None:
    """Return statistics of this moment, or None from a guest that gives none.

    They are held against ``actual``, so only an update from after this call will do. Where polling is off it is on for as
    long as this takes. An interval that somebody set is left alone and waited for, up to a minute.
    """
    stats = await read_stats(client, device)
    if stats is None or device is None:
        return None
    if stats.interval > _INTERVAL_MAX:
        return None
    if stats.interval:
        return await _await_update(client, device, stats.last_update, stats.interval)
    try:
        await _set_polling(client, device, _POLLING_SECONDS)
        return await _await_update(client, device, stats.last_update, _POLLING_SECONDS)
    finally:
        # When the monitor is gone there is nothing to put back, and that error is on its way already.
        with contextlib.suppress(QemuError, asyncio.TimeoutError):
            await to_the_end(within(_PUT_BACK_SECONDS, _put_back(client, device)))


async def _put_back(client: BalloonClient, device: str) -> None:
    await client.connect()  # broken off in the middle of a command, the old connection is closed
    if await _property(client, device, _POLLING) == _POLLING_SECONDS:
        await _set_polling(client, device, 0)


async def _await_update(client: BalloonClient, device: str, previous: int, interval: int) -> GuestStats | None:
    """Wait for the next update. Their times count whole seconds, so only another one than before proves that it is new."""
    clock = asyncio.get_running_loop().time
    begun = int(time.time())
    end = clock() + interval + STATS_TIMEOUT_SECONDS
    while True:
        stats = await read_stats(client, device)
        if stats is None or (stats.last_update != previous and begun <= stats.last_update <= time.time() + 1):
            return stats
        if clock() >= end:
            return None
        await client.wait_event(_STATS_PAUSE_SECONDS)


async def _set_polling(client: BalloonClient, device: str, seconds: int) -> None:
    await client.execute("qom-set", {"path": device, "property": _POLLING, "value": seconds})


async def _maximum(client: BalloonClient) -> int:
    """Return boot memory plus plugged DIMMs, in bytes: what the balloon counts from. virtio-mem is not part of it."""
    summary = await client.execute("query-memory-size-summary")
    base = _size(summary.get("base-memory")) if isinstance(summary, dict) else None
    if not base:
        raise BalloonError(f"{client.qmp_socket}: QEMU does not say how much memory the guest has")
    if not summary.get("plugged-memory"):
        return base
    devices = await client.execute("query-memory-devices")
    dimms = [
        device.get("data")
        for device in (devices if isinstance(devices, list) else [])
        if isinstance(device, dict) and device.get("type") == "dimm"
    ]
    return base + sum(_size(dimm.get("size")) or 0 for dimm in dimms if isinstance(dimm, dict))


async def _find_device(client: BalloonClient) -> str | None:
    """Return the balloon's QOM path. libvirt and Proxmox call it balloon0, Incus qemu_balloon; its bus may be any."""
    for container in _CONTAINERS:
        children = await client.execute("qom-list", {"path": container})
        for child in children if isinstance(children, list) else []:
            if isinstance(child, dict) and str(child.get("type")).startswith("child<virtio-balloon"):
                return f"{container}/{child.get('name')}"
    return None


async def _driver(client: BalloonClient, device: str | None) -> bool | None:
    """Tell whether a driver runs in the guest; None where QEMU (before 7.2) cannot tell."""
    if device is None:
        return None
    try:
        status = await client.execute("x-query-virtio-status", {"path": f"{device}/virtio-backend"})
    except CommandError:
        return None
    started = status.get("started") if isinstance(status, dict) else None
    return started if isinstance(started, bool) else None


async def _flag(client: BalloonClient, device: str | None, name: str) -> bool | None:
    value = await _property(client, device, name)
    return value if isinstance(value, bool) else None


async def _property(client: BalloonClient, device: str | None, name: str) -> Any:
    """Return a property of the device, None where this QEMU does not have it."""
    if device is None:
        return None
    try:
        return await client.execute("qom-get", {"path": device, "property": name})
    except CommandError:
        return None


async def _name(client: BalloonClient) -> str:
    answer = await client.execute("query-name")
    name = answer.get("name") if isinstance(answer, dict) else None
    return printable(name, _NAME_MAX) if isinstance(name, str) and name else socket_name(client.qmp_socket)


def _text(answer: Any, key: str) -> str:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise BalloonError(f"QEMU's answer holds no {key}")
    return printable(value, _NAME_MAX)


def _size(value: Any) -> int | None:
    """Return a number that can be one, None for anything else that a monitor may send."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None

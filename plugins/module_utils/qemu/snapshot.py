# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host and all its guests as they are at one moment: what a policy is applied to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .constants import CONNECT_TIMEOUT_SECONDS, MIB, READ_TIMEOUT_SECONDS
from .errors import MemoryLockedError, NoBalloonError, NoStatisticsError, QemuError, RefusedError, SameGuestError
from .guest import Guest, read_fresh_stats, socket_name
from .host import Host, ProcessMemory, process_memory, read_host
from .moves import OWN_MEMORY
from .policy import Condition
from .sizes import Size, format_size
from .targets import check_answers
from .visits import Claims, Outcome, Visit, now, visit_all

# What a QEMU process is reckoned to take at least, besides its guest's memory. OWN_MEMORY is what it may take before that is
# held to be its guest's: the one must not be too small a charge, the other not too small a doubt.
_QEMUS_OWN = 64 * MIB
_TOO_LITTLE_TO_TELL = 64 * MIB  # given up by the guest, to judge what became of it


@dataclass(frozen=True)
class Sighting:
    """A guest as it was seen. ``outcome`` is what came of looking at it, ``process`` what its process took then.

    ``used`` is what it uses of its memory, in bytes, None where that is not known, and ``seen`` when that was, in the
    loop's seconds; ``moving`` whether its memory was on the move; ``obstacle`` is why it cannot be moved.
    """

    outcome: Outcome
    expected_uid: int
    used: int | None
    obstacle: QemuError | None
    process: ProcessMemory | None
    seen: float = 0.0
    moving: bool = False

    @property
    def condition(self) -> Condition:
        """What a policy needs to know of the guest."""
        guest = self.outcome.guest
        return Condition(
            name=guest.name if guest else socket_name(self.outcome.socket),
            maximum=guest.maximum if guest else 0,
            actual=self.outcome.actual_after or 0,
            charge=self.charge,
            used=self.used or 0,
            alone=str(self.obstacle) if self.obstacle else None,
            moving=self.moving,
        )

    @property
    def size(self) -> int:
        """What the guest can take as it is: without a working balloon, all that it was started with."""
        guest = self.outcome.guest
        if guest is None or isinstance(self.outcome.error, SameGuestError):
            return 0
        actual = self.outcome.actual_after
        return guest.maximum if actual is None or guest.driver is False else actual

    @property
    def charge(self) -> int:
        """What the guest costs when it is left alone: its size, or what its process holds already."""
        return max(self.size, self.process.rss if self.process else 0)

    @property
    def held(self) -> int:
        """What the guest's process holds of the host's memory."""
        return self.process.held if self.process else 0

    @property
    def own(self) -> int:
        """What QEMU's process takes besides its guest's memory, or the charge for it."""
        if self.obstacle is not None:
            return max(0, self.size + _QEMUS_OWN - self.charge)
        return max(_QEMUS_OWN, self.held - self.size)


@dataclass(frozen=True)
class Snapshot:
    """A host and its guests, in the order of their sockets."""

    host: Host
    sightings: tuple[Sighting, ...]

    def budget(self, reserve: Size) -> int:
        """Return the bytes that guests can have: what they and nobody holds, less the reserve and QEMU's own needs.

        The same as all memory less the reserve and what is not guests, and as steady as that.
        """
        held = max(0, sum(sighting.held for sighting in self.sightings) - self.host.merged)
        own = sum(sighting.own for sighting in self.sightings)
        return min(self.host.total, held + self.host.available) - reserve.resolve(self.host.total) - own


async def take_snapshot(targets: Sequence[tuple[str, int]], moved: Callable[[str], bool]) -> Snapshot:
    """Read the host, and at once all guests behind ``(socket, expected uid)``.

    ``moved`` tells by a guest's name whether it is to be moved; of the others no statistics are asked. Raises QemuError
    when the host cannot be read.
    """
    claims = Claims()
    visits = [_Look(socket, expected_uid, moved, claims) for socket, expected_uid in targets]
    outcomes = await visit_all(visits)
    sightings = [
        Sighting(
            outcome=outcome,
            expected_uid=expected_uid,
            used=visit.used,
            seen=visit.seen,
            moving=visit.moving,
            obstacle=visit.obstacle or (outcome.error if outcome.failed else None),
            process=None if isinstance(outcome.error, SameGuestError) else process_memory(outcome.pid),
        )
        for outcome, visit, (_socket, expected_uid) in zip(outcomes, visits, targets)
    ]
    return Snapshot(host=_host(sightings), sightings=tuple(sightings))


async def look_at_sizes(targets: Sequence[tuple[str, int]]) -> list[int | None]:
    """Return what the guests behind ``(socket, expected uid)`` have now, None where that cannot be read."""
    outcomes = await visit_all([_Glance(socket, expected_uid) for socket, expected_uid in targets])
    return [outcome.actual_after for outcome in outcomes]


def look_again(snapshot: Snapshot, outcomes: Sequence[Outcome]) -> Snapshot:
    """Return the snapshot with the host and the processes as they are now, after ``outcomes``, one for each guest."""
    sightings = [
        replace(sighting, outcome=outcome, process=sighting.process and process_memory(sighting.outcome.pid))
        for sighting, outcome in zip(snapshot.sightings, outcomes)
    ]
    return Snapshot(host=_host(sightings), sightings=tuple(sightings))


def _host(sightings: Sequence[Sighting]) -> Host:
    return read_host(sighting.outcome.pid for sighting in sightings if sighting.outcome.guest and sighting.outcome.pid)


class _Look(Visit):
    """A visit that finds out whether the guest can be moved, and what it uses."""

    def __init__(self, socket: str, expected_uid: int, moved: Callable[[str], bool], claims: Claims) -> None:
        super().__init__(socket, expected_uid)
        self._moved = moved
        self._claims = claims
        self.used: int | None = None
        self.seen = 0.0
        self.moving = False
        self.obstacle: QemuError | None = None

    async def _work(self) -> None:
        guest = await self._read(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        self._claims.claim(guest)
        if self._moved(guest.name):
            try:
                _check_comes_back(guest)
                self.used = await self._measure(guest)
            except (RefusedError, NoBalloonError) as error:
                self.obstacle = error
        self._learn(outcome="unchanged", error=self.obstacle)

    async def _measure(self, guest: Guest) -> int:
        stats = await read_fresh_stats(self._client, guest.device)
        actual = await self._client.query_actual()
        self.seen = now()
        self.moving = actual != guest.actual
        self._learn(guest=replace(guest, actual=actual), actual_after=actual)
        available = stats.available if stats else None
        if available is None:
            raise NoStatisticsError(f"{guest.name} gives no fresh statistics, so nobody knows what it needs")
        # While the balloon moves the two figures are not of one moment; the larger one errs on the guest's side.
        most = max(actual, guest.actual or 0)
        if available > most:
            raise NoStatisticsError(f"{guest.name} claims more available memory than it has, which cannot be believed")
        return min(actual, most - available)


class _Glance(Visit):
    """A visit that only asks how much the guest has."""

    async def _work(self) -> None:
        await self._client.connect(CONNECT_TIMEOUT_SECONDS)
        self._learn(outcome="unchanged", actual_after=await self._client.query_actual())


def _check_comes_back(guest: Guest) -> None:
    """Check that the guest can give memory up, and that the host would get it."""
    check_answers(guest)
    if guest.process and guest.process.locked >= guest.maximum // 2:
        raise MemoryLockedError(
            f"{guest.name}'s memory is locked to its process (mem-lock, or a passed-through device) and would not come back to"
            " the host"
        )
    gave = guest.maximum - (guest.actual or 0)
    kept = (guest.rss or 0) - (guest.actual or 0) - OWN_MEMORY
    if gave > _TOO_LITTLE_TO_TELL and kept > gave * 3 // 4:
        raise MemoryLockedError(
            f"{guest.name}'s process still holds {format_size(guest.rss or 0)}, most of what the guest gave up: its memory does"
            " not come back to the host"
        )

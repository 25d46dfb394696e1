# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Visits to guests, all at once. What is known of a guest grows on the way, and one guest's failure is its own outcome."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .balloon_client import BalloonClient
from .constants import OPEN_GUESTS_MAX
from .errors import AnswerTimeoutError, NoBalloonError, QemuError, RefusedError, SameGuestError
from .guest import Guest, read_guest
from .waiting import within


@dataclass(frozen=True)
class Outcome:
    """What came of one guest. Sizes in bytes, None where not known; ``guest`` is None for one that was never reached.

    ``pid`` is the process behind the socket, also where its monitor could not be used.
    """

    socket: str
    outcome: str
    seconds: float
    guest: Guest | None = None
    pid: int | None = None
    actual_after: int | None = None
    target: int | None = None
    rss_after: int | None = None
    changed: bool = False
    error: QemuError | None = None
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the guest makes its task fail."""
        return self.outcome in ("refused", "failed", "stalled")


async def read_guests(targets: Sequence[tuple[str, int]], timeout: float) -> list[Outcome]:
    """Read the guests behind ``(socket, expected uid)``, ``timeout`` seconds for the connection and again for the answers."""
    return await visit_all([_Reading(socket, expected_uid, timeout) for socket, expected_uid in targets])


async def visit_all(visits: Sequence[Visit]) -> list[Outcome]:
    """Make all visits at once and return what came of each, in their order."""
    room = asyncio.Semaphore(OPEN_GUESTS_MAX)

    async def admit(visit: Visit) -> Outcome:
        async with room:
            return await visit.run()

    # Exceptions are kept apart so that at an interrupt no visit is torn out of its clean-up by another one's end.
    ended = await asyncio.gather(*map(admit, visits), return_exceptions=True)
    return [_outcome(end) for end in ended]


def _outcome(end: Outcome | BaseException) -> Outcome:
    if isinstance(end, BaseException):
        raise end
    return end


class Claims:
    """Who serves which guest, among the visits of a task: over two monitors of one guest, two targets would fight."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[int | None, str | None], str] = {}

    def claim(self, guest: Guest) -> None:
        """Take the guest for the visit over its socket. Raises SameGuestError.

        A QEMU process runs one guest. Where neither the process nor a uuid can be seen, nobody can tell.
        """
        if guest.uuid is None and guest.pid is None:
            return
        other = self._sockets.setdefault((guest.pid, guest.uuid), guest.socket)
        if other != guest.socket:
            raise SameGuestError(f"{guest.socket} leads to {guest.name}, as {other} does. Name one socket a guest")


class Visit(ABC):
    """One guest's visit; what is known of the guest grows on the way and ends as its Outcome."""

    def __init__(self, socket: str, expected_uid: int) -> None:
        self._client = BalloonClient(socket, expected_uid)
        self._known = Outcome(socket=socket, outcome="failed", seconds=0.0)

    async def run(self) -> Outcome:
        """Make the visit. Whatever happens to it is told by the outcome; only a cancellation gets out."""
        start = now()
        try:
            await self._work()
        except (RefusedError, NoBalloonError) as error:
            self._learn(outcome="failed" if self._known.changed else "refused", error=error)
        except QemuError as error:
            self._learn(outcome="failed", error=error, pid=self._known.pid or error.pid)
        except Exception as error:  # noqa: BLE001 - what a hostile monitor may still break must not cost the others
            told = f"{self._known.socket}: unforeseen {type(error).__name__}: {error}. Please report this"
            self._learn(outcome="failed", error=QemuError(told))
        finally:
            await self._client.close()
        return replace(self._known, seconds=now() - start)

    @abstractmethod
    async def _work(self) -> None: ...

    async def _read(self, connect_timeout: float, read_timeout: float) -> Guest:
        await self._client.connect(connect_timeout)
        self._learn(pid=self._client.peer.pid if self._client.peer else None)
        guest = await self._look(read_timeout)
        self._learn(guest=guest, actual_after=guest.actual, rss_after=guest.rss)
        return guest

    async def _look(self, timeout: float) -> Guest:
        try:
            return await within(timeout, read_guest(self._client))
        except asyncio.TimeoutError:
            raise AnswerTimeoutError(f"{self._known.socket}: QEMU answers too slowly to be read within {timeout:g} s") from None

    def _learn(self, **facts: object) -> None:
        self._known = replace(self._known, **facts)  # type: ignore[arg-type]

    def _warn(self, warning: str | None) -> None:
        if warning:
            self._learn(warnings=(*self._known.warnings, warning))


class _Reading(Visit):
    """A visit that only looks."""

    def __init__(self, socket: str, expected_uid: int, timeout: float) -> None:
        super().__init__(socket, expected_uid)
        self._timeout = timeout

    async def _work(self) -> None:
        guest = await self._read(self._timeout, self._timeout)
        # A guest without a balloon has been read well; that it has none is what there is to say.
        none = NoBalloonError(guest.name) if guest.actual is None else None
        self._learn(outcome="unchanged", error=none)


def now() -> float:
    """Return the running loop's time in seconds."""
    return asyncio.get_running_loop().time()

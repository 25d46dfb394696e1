# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings guests to targets of their own, all at once: sends, waits, and leaves no target behind that cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .constants import (
    CONNECT_TIMEOUT_SECONDS,
    LAST_STRETCH_SECONDS,
    MIB,
    READ_TIMEOUT_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    TIMEOUT_SECONDS_MIN,
)
from .convergence import Convergence
from .errors import CommandError, NoBalloonError, QemuError, StalledError
from .guest import Guest, read_fresh_stats
from .host import process_rss
from .sizes import align_up, format_size, option_size
from .targets import Aim, Request, guard_headroom, take_aim
from .visits import Claims, Outcome, Visit, now, visit_all
from .waiting import to_the_end, within

OWN_MEMORY = 128 * MIB  # of a QEMU process, besides its guest's
_TOO_LITTLE_TO_TELL = 32 * MIB  # QEMU's own memory comes and goes during a move
_TAKE_BACK_SECONDS = 3.0  # for leaving an orderly guest behind when the run ends early


@dataclass(frozen=True)
class Manner:
    """How targets are pursued. ``timeout`` in seconds for each guest, None for one that grows with the change."""

    wait: bool
    timeout: float | None
    on_stall: Literal["settle", "rollback", "keep"]
    check: bool


@dataclass(frozen=True)
class Sent:
    """A ``balloon`` command: to which guest, which target in bytes, and when, in the loop's seconds.

    ``accepted`` is False when QEMU refused it, and None without an answer: it may stand, or the one before it.
    """

    at: float
    socket: str
    target: int
    accepted: bool | None


async def bring_to_targets(
    requests: Sequence[Request], manner: Manner, record: Callable[[Sent], None] = lambda _sent: None
) -> list[Outcome]:
    """Bring guests to their targets and return what came of each, in the order of the requests.

    ``record`` hears of every ``balloon`` command, as soon as it is answered or given up.
    """
    claims = Claims()
    return await visit_all([_Move(request, manner, claims, record) for request in requests])


class _Move(Visit):
    """A visit that brings the guest to its target."""

    def __init__(self, request: Request, manner: Manner, claims: Claims, record: Callable[[Sent], None]) -> None:
        super().__init__(request.socket, request.expected_uid)
        self._request = request
        self._manner = manner
        self._claims = claims
        self._record = record

    async def _work(self) -> None:
        guest = await self._read(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
        self._claims.claim(guest)
        self._learn(target=self._request.target.resolve(guest.maximum))
        aim = take_aim(guest, self._request)
        if not aim.move:
            self._learn(outcome="unchanged")
            return
        if aim.shrinks and aim.headroom:
            await self._guard(guest, aim)
        if self._manner.check:
            self._learn(outcome="would_change", actual_after=aim.target, rss_after=None, changed=True)
            return
        await self._send(aim)
        if not self._manner.wait:
            self._learn(outcome="pending", actual_after=await self._client.query_actual())
            return
        try:
            await self._pursue(guest, aim)
        except BaseException:
            await self._leave_orderly()
            raise

    async def _send(self, aim: Aim) -> None:
        # From here on the target may stand in QEMU, whatever becomes of us.
        self._learn(changed=True)
        try:
            await self._ask(aim.target)
        except (CommandError, NoBalloonError):
            self._learn(changed=False)
            raise
        except BaseException:
            await self._leave_orderly()
            raise

    async def _ask(self, target: int) -> None:
        at = now()
        accepted: bool | None = None
        try:
            await self._client.set_actual(target)
            accepted = True
        except (CommandError, NoBalloonError):
            accepted = False
            raise
        finally:
            self._record(Sent(at, self._request.socket, target, accepted))

    async def _guard(self, guest: Guest, aim: Aim) -> None:
        stats = await read_fresh_stats(self._client, guest.device)
        # While the balloon moves the two figures are not of one moment; the larger one errs on the guest's side.
        actual = max(aim.actual, await self._client.query_actual())
        self._warn(guard_headroom(guest.name, aim, stats, actual))

    async def _pursue(self, guest: Guest, aim: Aim) -> None:
        ended = await self._client.wait_for_actual(aim.target, aim.tolerance, self._patience(aim))
        actual = ended.actual
        if ended.reached:
            actual = await self._come_to_rest(aim, aim.target)
            if actual != aim.target and self._manner.on_stall != "keep":
                actual = await self._settle()
            self._learn(outcome="converged")
        else:
            advice = _advice(await self._look(READ_TIMEOUT_SECONDS), aim, ended)
            actual, end = await self._give_up(aim, ended.actual)
            self._learn(outcome="stalled", error=_stalled(guest.name, aim, ended, end, advice))
        self._learn(
            actual_after=actual,
            rss_after=process_rss(guest.pid),
            changed=ended.reached or self._manner.on_stall == "keep" or abs(actual - aim.actual) > aim.tolerance,
        )
        self._warn(_no_gain(guest, actual, self._known.rss_after))

    async def _come_to_rest(self, aim: Aim, target: int) -> int:
        """Wait until a guest within tolerance moves no more, so that what is reported is where it ends."""
        return (await self._client.wait_for_actual(target, 0, self._patience(aim), LAST_STRETCH_SECONDS)).actual

    def _patience(self, aim: Aim) -> float:
        if self._manner.timeout is not None:
            return self._manner.timeout
        return max(TIMEOUT_SECONDS_MIN, abs(aim.actual - aim.target) / SLOWEST_BYTES_PER_SECOND)

    async def _give_up(self, aim: Aim, reached: int) -> tuple[int, str]:
        """Answer a stall; return the guest's size after that, and the words for it."""
        if self._manner.on_stall == "keep":
            return reached, f"its target of {format_size(aim.target)} was left standing"
        if self._manner.on_stall == "settle":
            settled = await self._settle()
            return settled, f"it was left at {format_size(settled)} and the target taken back"
        await self._ask(aim.actual)
        back = await self._client.wait_for_actual(aim.actual, aim.tolerance, self._patience(aim))
        if back.reached:
            rest = await self._come_to_rest(aim, aim.actual)
            return rest, f"it was returned to {format_size(rest)}"
        return back.actual, f"{format_size(aim.actual)} is its target again, and it has got to {format_size(back.actual)}"

    async def _settle(self) -> int:
        """Make the target what the guest has reached, so that its driver rests; return that."""
        await self._ask(align_up(await self._client.query_actual()))
        return await self._client.query_actual()

    async def _leave_orderly(self) -> None:
        """Take the target back when the wait breaks off, over a new connection if need be."""
        guest = self._known.guest
        self._learn(actual_after=None, rss_after=process_rss(guest.pid) if guest else None)
        if self._manner.on_stall == "keep":
            return
        try:
            await to_the_end(within(_TAKE_BACK_SECONDS, self._reconnect_and_settle()))
        except (QemuError, asyncio.TimeoutError):
            # The error that broke the wait off is the one to fail with.
            if self._known.rss_after is not None:
                self._warn(f"{self._known.socket}: the target could not be taken back and may still stand; run the task again")

    async def _reconnect_and_settle(self) -> None:
        await self._client.connect(_TAKE_BACK_SECONDS)
        actual = await self._settle()
        self._learn(actual_after=actual)


def _advice(now: Guest, aim: Aim, ended: Convergence) -> str:
    """Say why a guest did not arrive, judged by what it is ``now``, and what to do."""
    if now.migrating or now.status != "running":
        return f"It is {'migrating' if now.migrating else now.status} now and cannot answer: try again once it runs"
    if now.driver is False:
        return "No balloon driver runs in it any more: try again once it has booted"
    if not ended.stalled:
        return "Give it a longer timeout"
    if aim.target < aim.actual:
        return f"A Linux guest keeps a reserve: ask for {option_size(ended.actual)} or more"
    return "Is its balloon driver well?"


def _stalled(name: str, aim: Aim, ended: Convergence, end: str, advice: str) -> StalledError:
    how = "made no more progress" if ended.stalled else "was still moving when the time was up"
    return StalledError(
        f"{name} {how} at {format_size(ended.actual)} on its way from {format_size(aim.actual)} to {format_size(aim.target)}"
        f" ({ended.seconds:.0f} s); {end}. {advice}"
    )


def _no_gain(guest: Guest, actual: int, rss_after: int | None) -> str | None:
    """Warn when a guest gave memory up and its process kept it."""
    if guest.actual is None or not kept_back(guest, actual, rss_after):
        return None
    gained = (guest.rss or 0) - (rss_after or 0)
    return (
        f"{guest.name} gave up {format_size(guest.actual - actual)}, but its process gave the host"
        f" {format_size(max(0, gained))}: locked memory (mem-lock), a passed-through device (VFIO) or huge pages keep it"
    )


def kept_back(guest: Guest, actual: int, rss_after: int | None) -> int:
    """Return the bytes of what the guest gave up by shrinking to ``actual`` that its process did not give to the host.

    What the process held beyond the guest's new size and its own needs must have been among what the guest gave up;
    untouched memory, which the host never had to find, is not expected back. 0 where it is too little to tell.
    """
    if guest.actual is None or guest.rss is None or rss_after is None or actual >= guest.actual:
        return 0
    expected = min(guest.actual - actual, guest.rss - actual - OWN_MEMORY)
    gained = guest.rss - rss_after
    if expected <= _TOO_LITTLE_TO_TELL or gained >= expected // 4:
        return 0
    return expected - max(0, gained)

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Visits guests, all at once: reads them, or brings them to their targets. One guest's failure is its own outcome."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .balloon_client import BalloonClient
from .constants import (
    CONNECT_TIMEOUT_SECONDS,
    LAST_STRETCH_SECONDS,
    MIB,
    OPEN_GUESTS_MAX,
    READ_TIMEOUT_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    TIMEOUT_SECONDS_MIN,
)
from .convergence import Convergence
from .errors import AnswerTimeoutError, CommandError, NoBalloonError, QemuError, RefusedError, StalledError
from .guest import Guest, read_fresh_stats, read_guest
from .host import process_rss
from .sizes import align_up, format_size, option_size
from .targets import Aim, Request, guard_headroom, take_aim
from .waiting import to_the_end, within

_OWN_MEMORY = 128 * MIB  # of a QEMU process, besides its guest's
_TOO_LITTLE_TO_TELL = 32 * MIB  # QEMU's own memory comes and goes during a move
_TAKE_BACK_SECONDS = 3.0  # for leaving an orderly guest behind when the run ends early


@dataclass(frozen=True)
class Manner:
    """How targets are pursued. ``timeout`` in seconds for each guest, None for one that grows with the change."""

    wait: bool
    timeout: float | None
    on_stall: str  # settle, rollback or keep
    check: bool


@dataclass(frozen=True)
class Outcome:
    """What came of one guest. Sizes in bytes, None where not known; ``guest`` is None for one that was never reached."""

    socket: str
    outcome: str
    seconds: float
    guest: Guest | None = None
    actual_after: int | None = None
    target: int | None = None
    rss_after: int | None = None
    changed: bool = False
    error: QemuError | None = None
    warnings: tuple[str, ...] = ()


async def read_guests(targets: Sequence[tuple[str, int]], timeout: float) -> list[Outcome]:
    """Read the guests behind ``(socket, expected uid)``, ``timeout`` seconds for the connection and again for the answers."""
    return await _at_once([_Reading(socket, expected_uid, timeout) for socket, expected_uid in targets])


async def bring_to_targets(requests: Sequence[Request], manner: Manner) -> list[Outcome]:
    """Bring guests to their targets and return what came of each, in the order of the requests."""
    return await _at_once([_Move(request, manner) for request in requests])


async def _at_once(visits: Sequence[_Visit]) -> list[Outcome]:
    room = asyncio.Semaphore(OPEN_GUESTS_MAX)

    async def admit(visit: _Visit) -> Outcome:
        async with room:
            return await visit.run()

    # Exceptions are kept apart so that at an interrupt no visit is torn out of its clean-up by another one's end.
    ended = await asyncio.gather(*map(admit, visits), return_exceptions=True)
    return [_outcome(end) for end in ended]


def _outcome(end: Outcome | BaseException) -> Outcome:
    if isinstance(end, BaseException):
        raise end
    return end


class _Visit(ABC):
    """One guest's visit; what is known of the guest grows on the way and ends as its Outcome."""

    def __init__(self, socket: str, expected_uid: int) -> None:
        self._client = BalloonClient(socket, expected_uid)
        self._known = Outcome(socket=socket, outcome="failed", seconds=0.0)

    async def run(self) -> Outcome:
        start = _now()
        try:
            await self._work()
        except (RefusedError, NoBalloonError) as error:
            self._learn(outcome="failed" if self._known.changed else "refused", error=error)
        except QemuError as error:
            self._learn(outcome="failed", error=error)
        except Exception as error:  # noqa: BLE001 - what a hostile monitor may still break must not cost the others
            told = f"{self._known.socket}: unforeseen {type(error).__name__}: {error}. Please report this"
            self._learn(outcome="failed", error=QemuError(told))
        finally:
            await self._client.close()
        return replace(self._known, seconds=_now() - start)

    @abstractmethod
    async def _work(self) -> None: ...

    async def _read(self, connect_timeout: float, read_timeout: float) -> Guest:
        await self._client.connect(connect_timeout)
        try:
            guest = await within(read_timeout, read_guest(self._client))
        except asyncio.TimeoutError:
            raise AnswerTimeoutError(
                f"{self._known.socket}: QEMU answers too slowly to be read within {read_timeout:g} s"
            ) from None
        self._learn(guest=guest, actual_after=guest.actual, rss_after=guest.rss)
        return guest

    def _learn(self, **facts: object) -> None:
        self._known = replace(self._known, **facts)  # type: ignore[arg-type]


class _Reading(_Visit):
    """A visit that only looks."""

    def __init__(self, socket: str, expected_uid: int, timeout: float) -> None:
        super().__init__(socket, expected_uid)
        self._timeout = timeout

    async def _work(self) -> None:
        guest = await self._read(self._timeout, self._timeout)
        # A guest without a balloon has been read well; that it has none is what there is to say.
        none = NoBalloonError(f"{guest.name} has no balloon device") if guest.actual is None else None
        self._learn(outcome="unchanged", error=none)


class _Move(_Visit):
    """A visit that brings the guest to its target."""

    def __init__(self, request: Request, manner: Manner) -> None:
        super().__init__(request.socket, request.expected_uid)
        self._request = request
        self._manner = manner

    async def _work(self) -> None:
        guest = await self._read(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
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
            await self._client.set_actual(aim.target)
        except (CommandError, NoBalloonError):
            self._learn(changed=False)
            raise
        except BaseException:
            await self._leave_orderly()
            raise

    async def _guard(self, guest: Guest, aim: Aim) -> None:
        stats = await read_fresh_stats(self._client, guest.device)
        # While the balloon moves the two figures are not of one moment; the larger one errs on the guest's side.
        actual = max(aim.actual, await self._client.query_actual())
        warning = guard_headroom(guest.name, aim, stats, actual)
        if warning:
            self._learn(warnings=(*self._known.warnings, warning))

    async def _pursue(self, guest: Guest, aim: Aim) -> None:
        ended = await self._client.wait_for_actual(aim.target, aim.tolerance, self._patience(aim))
        actual = ended.actual
        if ended.reached:
            # Within tolerance it may still be moving; what is reported should be where it ends.
            actual = (await self._client.wait_for_actual(aim.target, 0, LAST_STRETCH_SECONDS)).actual
            self._learn(outcome="converged")
        else:
            actual, end = await self._give_up(aim, ended.actual)
            self._learn(outcome="stalled", error=_stalled(guest.name, aim, ended, end))
        self._learn(
            actual_after=actual,
            rss_after=process_rss(guest.pid),
            changed=ended.reached or self._manner.on_stall == "keep" or abs(actual - aim.actual) > aim.tolerance,
        )
        warning = _no_gain(guest, actual, self._known.rss_after)
        if warning:
            self._learn(warnings=(*self._known.warnings, warning))

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
        await self._client.set_actual(aim.actual)
        back = await self._client.wait_for_actual(aim.actual, aim.tolerance, self._patience(aim))
        if back.reached:
            return back.actual, f"it was returned to {format_size(back.actual)}"
        return back.actual, f"on its way back to {format_size(aim.actual)} it stopped at {format_size(back.actual)}"

    async def _settle(self) -> int:
        """Make the target what the guest has reached, so that its driver rests; return that."""
        await self._client.set_actual(align_up(await self._client.query_actual()))
        return await self._client.query_actual()

    async def _leave_orderly(self) -> None:
        """Take the target back when the wait breaks off, over a new connection if need be."""
        if self._manner.on_stall == "keep":
            return
        # When even that fails, the first error is the one to tell.
        with contextlib.suppress(QemuError, asyncio.TimeoutError):
            await to_the_end(within(_TAKE_BACK_SECONDS, self._reconnect_and_settle()))

    async def _reconnect_and_settle(self) -> None:
        await self._client.connect(_TAKE_BACK_SECONDS)
        actual = await self._settle()
        self._learn(actual_after=actual)


def _stalled(name: str, aim: Aim, ended: Convergence, end: str) -> StalledError:
    shrinking = aim.target < aim.actual
    how = "made no more progress" if ended.stalled else "was still moving when the time was up"
    advice = (
        f"A Linux guest keeps a reserve: ask for {option_size(ended.actual)} or more"
        if ended.stalled and shrinking
        else "Is its balloon driver well?"
        if ended.stalled
        else "Give it a longer timeout"
    )
    return StalledError(
        f"{name} {how} at {format_size(ended.actual)} on its way from {format_size(aim.actual)} to {format_size(aim.target)}"
        f" ({ended.seconds:.0f} s); {end}. {advice}"
    )


def _no_gain(guest: Guest, actual: int, rss_after: int | None) -> str | None:
    """Warn when a guest gave memory up and its process kept it.

    What the process held beyond the guest's new size and its own needs must have been among what the guest gave up;
    untouched memory, which the host never had to find, is not expected back.
    """
    if guest.actual is None or guest.rss is None or rss_after is None or actual >= guest.actual:
        return None
    expected = min(guest.actual - actual, guest.rss - actual - _OWN_MEMORY)
    gained = guest.rss - rss_after
    if expected <= _TOO_LITTLE_TO_TELL or gained >= expected // 4:
        return None
    return (
        f"{guest.name} gave up {format_size(guest.actual - actual)}, but its process gave the host"
        f" {format_size(max(0, gained))}: locked memory (mem-lock), a passed-through device (VFIO) or huge pages keep it"
    )


def _now() -> float:
    return asyncio.get_running_loop().time()

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest's target: what was asked for, against what the guest is and can bear. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import MIB
from .errors import (
    AboveMaximumError,
    BelowFloorError,
    NoBalloonError,
    NoDriverError,
    NotRunningError,
    UnsafeTargetError,
)
from .guest import Guest, GuestStats
from .sizes import Size, format_size, option_size


@dataclass(frozen=True)
class Request:
    """What a user wants of the guest behind ``socket``, a path on the managed host."""

    socket: str
    expected_uid: int
    target: Size
    floor: Size
    headroom: Size
    tolerance: Size


@dataclass(frozen=True)
class Aim:
    """A request in this guest's bytes. ``move`` is False for a guest that is at its target already."""

    actual: int
    target: int
    tolerance: int
    headroom: int
    move: bool

    @property
    def shrinks(self) -> bool:
        """Whether the guest would lose memory."""
        return self.move and self.target < self.actual


def take_aim(guest: Guest, request: Request) -> Aim:
    """Turn a request into bytes. Raises NoBalloonError, or the RefusedError for what the guest must not be asked."""
    if guest.actual is None:
        raise NoBalloonError(guest.name)
    target = request.target.resolve(guest.maximum)
    floor = min(request.floor.resolve(guest.maximum), guest.maximum)
    tolerance = request.tolerance.resolve(guest.maximum)
    if target < floor:
        raise BelowFloorError(
            f"{guest.name}: {format_size(target)} is below the floor of {format_size(floor)}; too small a target kills a guest."
            f" The floor allows {_typed(floor, guest.maximum)} and more{_missing_unit(request.target)}"
        )
    if target > guest.maximum:
        raise AboveMaximumError(
            f"{guest.name}: {format_size(target)} is more than the guest's full memory of {format_size(guest.maximum)}; write"
            " max for all of it"
        )
    # Without a driver QEMU repeats the figure from before the last reset; only the full size can be believed.
    believed = guest.driver is not False or guest.actual == guest.maximum
    move = abs(guest.actual - target) > tolerance or not believed
    if move:
        check_answers(guest)
    return Aim(
        actual=guest.actual,
        target=target,
        tolerance=tolerance,
        headroom=request.headroom.resolve(guest.maximum),
        move=move,
    )


def check_answers(guest: Guest) -> None:
    """Check that the guest can move memory at all now. Raises NoBalloonError, NotRunningError or NoDriverError."""
    if guest.actual is None:
        raise NoBalloonError(guest.name)
    if guest.status != "running" or guest.migrating:
        state = "migrating" if guest.migrating else f"not running (QEMU says: {guest.status})"
        raise NotRunningError(f"{guest.name} is {state} and cannot move memory. Try again once it runs")
    if guest.driver is False:
        raise NoDriverError(
            f"{guest.name}: no balloon driver runs in the guest. Load virtio_balloon there (or wait until it has booted)"
        )


def guard_headroom(name: str, aim: Aim, stats: GuestStats | None, actual: int) -> str | None:
    """Check that a shrink leaves the guest its headroom; ``stats`` are fresh ones, or None, and ``actual`` is of that moment.

    Returns a warning where that cannot be judged. Raises UnsafeTargetError with the lowest target that would do.
    """
    available = stats.available if stats else None
    if available is None:
        return f"{name} gives no fresh statistics: only the floor guards it, not headroom"
    if available > actual:
        return f"{name} claims more available memory than it has: only the floor guards it, not headroom"
    lowest = actual - available + aim.headroom
    if aim.target < lowest:
        advice = (
            f"the lowest target that would do is {_typed(lowest, actual)}"
            if lowest < actual
            else "it has no memory to spare now"
        )
        raise UnsafeTargetError(
            f"{name} uses {format_size(actual - available)} of its {format_size(actual)}; {format_size(aim.target)} would not"
            f" leave it {format_size(aim.headroom)} of headroom: {advice}"
        )
    return None


def _missing_unit(size: Size) -> str:
    """Return a hint where somebody wrote ``160`` and hardly meant bytes."""
    return f". A number alone means bytes: did you mean {size.text}M?" if size.text.isdigit() and len(size.text) < 6 else ""


def _typed(lowest: int, most: int) -> str:
    """Return a size to type that is not below ``lowest`` bytes, in MiB where that is not beyond ``most``."""
    typed = option_size(lowest)
    return typed if lowest + MIB <= most else str(lowest) if lowest <= most else "max"

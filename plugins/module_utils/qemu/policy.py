# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host's guests share its memory: rules and figures in, a plan out. Pure functions, without any guest or clock.

Every guest has four levels: its floor, what it uses, what it needs (that and a buffer) and its ceiling. The highest level
that fits into the budget for all guests is everybody's; what is left over is poured above it like water, by shares, until
the next level. All sizes are in bytes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .constants import DEFAULT_SHARES, MIB
from .errors import OptionError
from .sizes import Size, align_down, align_up, format_size

_LEAST = 96 * MIB  # a floor where no rule sets one; Linux hardly boots with less
_LEAST_MIN = 32 * MIB  # whatever a rule says; no guest lives with less
_FLOOR, _CEILING = 0, 3


@dataclass(frozen=True)
class Rule:
    """What holds for guests whose name fits ``match``, a shell pattern. None leaves a bound as it is without a rule."""

    match: str
    minimum: Size | None = None
    maximum: Size | None = None
    shares: int = DEFAULT_SHARES
    pin: bool = False

    def fits(self, name: str) -> bool:
        """Whether the rule is for the guest of that name."""
        return fnmatch.fnmatchcase(name, self.match)


_NO_RULE = Rule(match="*")


@dataclass(frozen=True)
class Policy:
    """What the user wants. Of ``rules`` the first that fits a guest wins; ``max_step`` None is no limit."""

    rules: tuple[Rule, ...]
    buffer: Size
    deadband: Size
    max_step: Size | None

    def rule(self, name: str) -> Rule:
        """Return the rule for the guest of that name."""
        for rule in self.rules:
            if rule.fits(name):
                return rule
        return _NO_RULE


@dataclass(frozen=True)
class Condition:
    """A guest as far as the policy goes.

    ``used`` is what it uses of ``actual``; ``charge`` what it costs the host when it is left alone, and ``alone`` why it
    must be, None for a guest that can be moved. ``moving``: a target that somebody left is on its way, so that it needs
    one of its own in any case.
    """

    name: str
    maximum: int
    actual: int
    charge: int
    used: int
    alone: str | None = None
    moving: bool = False


class Bounds(NamedTuple):
    """What a rule makes of a guest's condition.

    ``levels`` are floor, used, need and ceiling, the inner ones within the outer; ``need`` is the need itself; ``alone`` is
    why the guest is left alone, or None.
    """

    levels: tuple[int, int, int, int]
    need: int
    shares: int
    alone: str | None


class Share(NamedTuple):
    """One guest's line of the plan: its ``target``, and the one ``wanted`` for it without dead band and step.

    ``wanted`` is None where nothing can be planned.
    """

    condition: Condition
    bounds: Bounds
    target: int
    wanted: int | None

    @property
    def current(self) -> int:
        """The guest's memory as it is."""
        return self.condition.actual

    @property
    def floor(self) -> int:
        """The guest is not planned below it."""
        return self.bounds.levels[_FLOOR]

    @property
    def ceiling(self) -> int:
        """The guest is not planned above it."""
        return self.bounds.levels[_CEILING]

    @property
    def need(self) -> int:
        """What the guest uses, and the buffer."""
        return self.bounds.need

    @property
    def shares(self) -> int:
        """Its weight."""
        return self.bounds.shares

    @property
    def alone(self) -> str | None:
        """Why it is left alone, None for a guest that is not."""
        return self.bounds.alone

    @property
    def standing(self) -> int:
        """What the guest takes of the budget as it is."""
        return self.current if self.alone is None else self.condition.charge

    @property
    def cost(self) -> int:
        """What the guest takes of the budget by this plan."""
        return self.target if self.alone is None else self.condition.charge

    @property
    def reason(self) -> str:
        """Why the guest gets what it gets, for reading."""
        if self.alone is not None:
            return f"{self.alone}; left alone and charged {format_size(self.condition.charge)}"
        use = f"uses {format_size(self.condition.used)}, needs {format_size(self.need)}"
        if self.wanted is None:
            return f"{use}; stays, since the guests cannot share the budget"
        if self.target != self.wanted:
            return f"{use}; {self._way(format_size(self.wanted))}"
        if self.target == self.floor == self.ceiling == align_up(self.condition.used) < self.condition.maximum:
            return f"{use}; is above its max, and not taken below what it uses"
        if self.target == self.ceiling:
            return f"{use}; has all that it may have"
        if self.target == self.floor:
            return f"{use}; is not taken below its floor"
        if self.target == self.need:
            return f"{use}; has what it needs"
        if self.target > self.need:
            return f"{use}; the rest is its share of what nobody needs"
        if self.target >= self.condition.used:
            return f"{use}; there is not enough for everybody's buffer"
        return f"{use}; there is not enough for what everybody uses"

    def _way(self, goal: str) -> str:
        """Say why the guest is not planned to get all the way in this run."""
        if self.target == self.current:
            return f"{goal} would be right, and what can be done of that now is too small a change"
        if self.target < self.current:
            return f"on its way to {goal}, as far as one run may shrink it"
        return f"on its way to {goal}, as far as others may be shrunk for it in one run"


@dataclass(frozen=True)
class Plan:
    """All guests' shares, in the order of the guests.

    ``budget`` is for all guests, ``charged`` what of it those take that are left alone, and ``missing`` how much more it
    would have to be for the plan to be possible: 0 for one that can be carried out, otherwise nobody moves.
    """

    budget: int
    charged: int
    missing: int
    shares: tuple[Share, ...]

    @property
    def feasible(self) -> bool:
        """Whether it can be carried out."""
        return self.missing == 0


def make_plan(guests: Sequence[Condition], policy: Policy, budget: int, margin: int = 0) -> Plan:
    """Share ``budget`` among the guests.

    ``margin`` of it is held back from what is shared out above the guests' floors: it takes up the unsteadiness of a
    measured budget, so that the next run finds nothing to do. Raises OptionError for a rule whose bounds contradict each
    other.
    """
    bounds = [_bounds(guest, policy) for guest in guests]
    movable = [(guest, bound) for guest, bound in zip(guests, bounds) if bound.alone is None]
    charged = sum(guest.charge for guest, bound in zip(guests, bounds) if bound.alone is not None)
    room = budget - charged
    floors = sum(bound.levels[_FLOOR] for _guest, bound in movable)
    missing = max(0, floors - room)
    targets = iter([] if missing else _targets(movable, policy, room, max(floors, room - margin)))
    shares = [
        Share(guest, bound, *((guest.actual, None) if missing or bound.alone is not None else next(targets)))
        for guest, bound in zip(guests, bounds)
    ]
    return Plan(budget=budget, charged=charged, missing=missing, shares=tuple(shares))


def grant(plan: Plan, held: Sequence[int], wanted: Mapping[int, int] | None = None, budget: int | None = None) -> list[int]:
    """Return what each guest may have, now that ``held`` is what each really takes of the budget.

    The guests of ``wanted``, their numbers and targets, by default those that the plan lets grow, get as much of theirs as
    ``budget``, by default the plan's, has left, those below their lower levels first. All others keep what they hold.
    """
    if wanted is None:
        wanted = {number: share.target for number, share in enumerate(plan.shares) if share.target > share.current}
    return _let_grow([share.bounds for share in plan.shares], held, wanted, plan.budget if budget is None else budget)


def _let_grow(bounds: Sequence[Bounds], held: Sequence[int], wanted: Mapping[int, int], room: int) -> list[int]:
    """Return what is ``held``, with the guests of ``wanted`` grown towards their targets as far as there is room."""
    growing = {number: target for number, target in wanted.items() if target > held[number]}
    room -= sum(size for number, size in enumerate(held) if number not in growing)
    levels = [
        (held[number], *(_clamp(level, held[number], target) for level in bounds[number].levels), target)
        for number, target in growing.items()
    ]
    grown = list(held)
    for number, size in zip(growing, _share_out(levels, [bounds[number].shares for number in growing], room)):
        grown[number] = size
    return grown


def _bounds(guest: Condition, policy: Policy) -> Bounds:
    rule = policy.rule(guest.name)
    whole = align_down(guest.maximum)
    most = whole if rule.maximum is None else rule.maximum.resolve(guest.maximum)
    ceiling = align_down(min(whole, most))
    if rule.minimum is None:
        # What the guest uses goes before its max. Only a min lets a guest be squeezed below it.
        floor = min(whole, max(_LEAST, align_up(guest.used)))
        ceiling = max(ceiling, floor)
    else:
        floor = rule.minimum.resolve(guest.maximum)
        if guest.alone is None and rule.maximum is not None and floor > most:
            raise OptionError(
                f"rules: for {guest.name}, min is {format_size(floor)} and max is {format_size(most)} ({rule.match!r});"
                " a guest's min cannot be above its max"
            )
        floor = min(whole, max(_LEAST_MIN, min(floor, ceiling)))
        ceiling = max(ceiling, floor)
    need = align_up(guest.used + policy.buffer.resolve(guest.used))
    return Bounds(
        levels=(floor, _clamp(align_up(guest.used), floor, ceiling), _clamp(need, floor, ceiling), ceiling),
        need=need,
        shares=rule.shares,
        alone="pinned by a rule" if rule.pin and guest.alone is None else guest.alone,
    )


_Movable = tuple[Condition, Bounds]


def _targets(movable: Sequence[_Movable], policy: Policy, room: int, steady: int) -> list[tuple[int, int]]:
    """Return each guest's target, and the one wanted for it without dead band and step.

    ``room`` is what they can have together, ``steady`` what of it is shared out.
    """
    wanted = _share_out([bound.levels for _guest, bound in movable], [bound.shares for _guest, bound in movable], steady)
    return list(zip(_damped(movable, policy, room, _stepped(movable, policy, steady, wanted), wanted), wanted))


def _resolved(size: Size, movable: Sequence[_Movable]) -> dict[int, int]:
    """Return what the size is of each full memory: of many guests most have the same."""
    return {maximum: size.resolve(maximum) for maximum in {guest.maximum for guest, _bound in movable}}


def _stepped(movable: Sequence[_Movable], policy: Policy, room: int, wanted: list[int]) -> list[int]:
    """Let no guest shrink by more than a step; those who would grow get what that leaves them."""
    if policy.max_step is None:
        return wanted
    steps = _resolved(policy.max_step, movable)
    held = []
    for (guest, _bound), target in zip(movable, wanted):
        least = align_up(guest.actual - steps[guest.maximum])
        held.append(min(guest.actual, max(target, least)))
    if all(size <= target for size, target in zip(held, wanted)):
        return wanted
    return _let_grow([bound for _guest, bound in movable], held, dict(enumerate(wanted)), room)


def _damped(
    movable: Sequence[_Movable], policy: Policy, room: int, targets: Sequence[int], wanted: Sequence[int]
) -> Sequence[int]:
    """Leave out changes within the dead band, unless a bound or, for shrinking, the budget needs them.

    What counts is how far a guest is from what is wanted: a small step of a long way is made.
    """
    deadbands = _resolved(policy.deadband, movable)
    damped, shrunk = [], []
    for (guest, bound), target, goal in zip(movable, targets, wanted):
        small = (
            not guest.moving
            and abs(goal - guest.actual) < deadbands[guest.maximum]
            and bound.levels[_FLOOR] <= guest.actual <= bound.levels[_CEILING]
        )
        damped.append(guest.actual if small else target)
        shrunk.append(min(guest.actual, target) if small else target)
    return damped if sum(damped) <= room else shrunk


def _share_out(levels: Sequence[tuple[int, ...]], shares: Sequence[int], room: int) -> list[int]:
    """Give everybody the highest level that fits into ``room`` for all, and pour the rest above it by ``shares``.

    The lowest level is given in any case. A guest's levels ascend.
    """
    heights = [sum(level) for level in zip(*levels)]
    full = max((number for number, height in enumerate(heights) if height <= room), default=0)
    bases = [guest[full] for guest in levels]
    if full + 1 >= len(heights) or heights[full] > room:
        return bases
    return _pour(bases, [guest[full + 1] for guest in levels], shares, room - heights[full])


def _pour(bases: Sequence[int], tops: Sequence[int], shares: Sequence[int], amount: int) -> list[int]:
    """Return the bases, raised by the same number of bytes a share up to their tops, ``amount`` in all, in whole pages."""
    # The guests whose tops are reached first come first. Whole numbers are exact, and far faster to sort than fractions.
    open_ = [number for number, share in enumerate(shares) if share > 0]
    by_top = sorted(open_, key=lambda number: ((tops[number] - bases[number]) << 64) // shares[number])
    thirsty = sum(shares[number] for number in by_top)
    raised = list(bases)
    for position, number in enumerate(by_top):
        gap = tops[number] - bases[number]
        if gap * thirsty > amount * shares[number]:
            for other in by_top[position:]:
                # Never above a top: two guests whose turns come closer together than the key can tell.
                share = align_down(bases[other] + amount * shares[other] // thirsty)
                raised[other] = min(tops[other], max(bases[other], share))
            break
        raised[number] = tops[number]
        amount -= gap
        thirsty -= shares[number]
    return raised


def _clamp(size: int, least: int, most: int) -> int:
    """Return the size within bounds, ``least`` where they contradict each other."""
    if size > most:
        size = most
    return size if size > least else least  # noqa: FURB136 - this is called most often, and twice as fast

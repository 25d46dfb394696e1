# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's policy, from the snapshot to the outcomes: reclaim first, look what really came free, then give.

At no instant are the targets that are sent here, and the memory of all other guests, together above the budget, or above
where they stood. What other tools have left standing in QEMU nobody can see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .constants import BALLOON_PAGE, MIB
from .errors import InfeasibleError, OptionError, RolledBackError
from .moves import Manner, Sent, bring_to_targets, kept_back
from .policy import Plan, Policy, grant, make_plan
from .sizes import Size, exactly, format_size
from .snapshot import Snapshot, look_again, look_at_sizes, take_snapshot
from .targets import Request
from .visits import Outcome, now

_TRIFLE = MIB  # a guest may stay so far above its target, also where the budget needs all
_FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Allowance:
    """How much memory the guests may have: ``budget``, or without one what ``reserve`` leaves of the host's."""

    budget: Size | None
    reserve: Size


@dataclass(frozen=True)
class Conduct:
    """How a plan is carried out. With ``rollback``, one guest's failure returns all of them to where they were."""

    manner: Manner
    tolerance: Size
    rollback: bool


@dataclass(frozen=True)
class HostRun:
    """What came of a host. ``outcomes`` are in the order of the snapshot's sightings and of the plan's shares.

    ``reserve`` is in bytes, None where the budget was given; ``sent`` are all ``balloon`` commands in order, with the seconds
    since the run began; ``error`` is why the host as a whole could not be served.
    """

    snapshot: Snapshot
    plan: Plan
    reserve: int | None
    outcomes: tuple[Outcome, ...]
    sent: tuple[Sent, ...] = ()
    warnings: tuple[str, ...] = ()
    error: InfeasibleError | None = None


async def apply_policy(targets: Sequence[tuple[str, int]], policy: Policy, allowance: Allowance, conduct: Conduct) -> HostRun:
    """Bring all guests behind ``(socket, expected uid)`` to what the policy gives them.

    Raises QemuError for what is wrong with the rules or the host, before any guest is touched.
    """
    start = now()
    snapshot = await take_snapshot(targets, lambda name: not policy.rule(name).pin)
    plan = _plan(snapshot, policy, allowance)
    run = HostRun(
        snapshot=snapshot,
        plan=plan,
        reserve=allowance.reserve.resolve(snapshot.host.total) if allowance.budget is None else None,
        outcomes=tuple(_as_it_was(sighting.outcome) for sighting in snapshot.sightings),
        warnings=(*_left_alone(snapshot), *_more_than_there_is(snapshot, plan, allowance)),
    )
    if not plan.feasible:
        return replace(run, error=_infeasible(plan, allowance))
    rollout = _Rollout(snapshot, plan, allowance, conduct)
    if conduct.manner.check:
        rollout.preview()
    else:
        await rollout.carry_out()
    return replace(
        run,
        outcomes=tuple(rollout.outcomes),
        sent=tuple(replace(sent, at=sent.at - start) for sent in sorted(rollout.sent, key=lambda sent: sent.at)),
        warnings=(*run.warnings, *rollout.warnings),
    )


def _plan(snapshot: Snapshot, policy: Policy, allowance: Allowance) -> Plan:
    conditions = [sighting.condition for sighting in snapshot.sightings]
    reserve = allowance.reserve.resolve(snapshot.host.total)
    if allowance.budget is None and reserve >= snapshot.host.total:
        raise OptionError(
            f"reserve: {format_size(reserve)} leaves the guests nothing of the {format_size(snapshot.host.total)} that this"
            " host has. Nothing was touched"
        )
    if allowance.budget is None:
        # A measured budget is never the same twice.
        smallest = min((condition.maximum for condition in conditions if condition.alone is None), default=0)
        return make_plan(conditions, policy, snapshot.budget(allowance.reserve), policy.deadband.resolve(smallest))
    total = snapshot.host.total
    budget = allowance.budget.resolve(total)
    if budget > total:
        raise OptionError(
            f"budget: {format_size(budget)} is more than the {format_size(total)} that this host has. Nothing was touched"
        )
    return make_plan(conditions, policy, budget)


class _Rollout:
    """Carries a plan out. ``outcomes`` has one for each guest, at any time."""

    def __init__(self, snapshot: Snapshot, plan: Plan, allowance: Allowance, conduct: Conduct) -> None:
        self._snapshot = snapshot
        self._plan = plan
        self._allowance = allowance
        self._conduct = conduct
        self._over_budget = sum(share.standing for share in plan.shares) > plan.budget
        self._standing: dict[str, int] = {}
        self._grown: dict[int, int] = {}
        self.outcomes = [_as_it_was(sighting.outcome) for sighting in snapshot.sightings]
        self.sent: list[Sent] = []
        self.warnings: list[str] = []

    def preview(self) -> None:
        """Say what carrying out would do."""
        for number, target in self._wanted().items():
            would = replace(self.outcomes[number], outcome="would_change", changed=True)
            self.outcomes[number] = replace(would, target=target, actual_after=target, rss_after=None)

    async def carry_out(self) -> None:
        """Reclaim, look, give; and return everything if that is what a failure calls for."""
        wanted = self._wanted()
        current = [share.current for share in self._plan.shares]
        await self._move({number: target for number, target in wanted.items() if target <= current[number]})
        if not self._must_return():
            await self._give({number: target for number, target in wanted.items() if target > current[number]}, self._budget())
        if self._must_return():
            await self._return()
        over = sum(map(self._held, range(len(self.outcomes)))) - self._plan.budget
        if over > _TRIFLE * len(self.outcomes):
            self.warnings.append(f"the guests still take {format_size(over)} more than the budget")

    def _wanted(self) -> dict[int, int]:
        """Return the targets of the guests that have to move."""
        return {
            number: share.target
            for number, share in enumerate(self._plan.shares)
            if share.alone is None and (share.condition.moving or abs(share.target - share.current) > self._tolerance(number))
        }

    def _tolerance(self, number: int) -> int:
        """Return how far from its target a guest may be: no more than a trifle where the budget needs its memory."""
        tolerance = self._conduct.tolerance.resolve(self._plan.shares[number].condition.maximum)
        return min(tolerance, _TRIFLE) if self._over_budget else tolerance

    def _budget(self) -> int:
        """Return the budget now: a measured one is measured again, since the host has lived on as well."""
        if self._allowance.budget is not None:
            return self._plan.budget
        return min(self._plan.budget, look_again(self._snapshot, self.outcomes).budget(self._allowance.reserve))

    def _must_return(self) -> bool:
        return self._conduct.rollback and any(
            outcome.failed and share.alone is None for outcome, share in zip(self.outcomes, self._plan.shares)
        )

    async def _move(self, targets: Mapping[int, int]) -> None:
        """Bring guests to their targets, and keep what came of each."""
        requests = [self._request(number, target) for number, target in targets.items()]
        for number, outcome in zip(targets, await bring_to_targets(requests, self._conduct.manner, self._record)):
            seen = self._snapshot.sightings[number].outcome
            # One that could not be reached any more is still the guest that was seen.
            self.outcomes[number] = outcome if outcome.guest else replace(outcome, guest=seen.guest, target=targets[number])

    def _request(self, number: int, target: int) -> Request:
        sighting, share = self._snapshot.sightings[number], self._plan.shares[number]
        # What the guest used when it was seen may not be what it uses now: where others took long to be seen, look again.
        # A rule that wants a guest below what it uses is an order.
        old = now() - sighting.seen > _FRESH_SECONDS and target >= share.condition.used
        return Request(
            socket=sighting.outcome.socket,
            expected_uid=sighting.expected_uid,
            target=exactly(target),
            floor=exactly(0),
            headroom=exactly(BALLOON_PAGE if old else 0),
            tolerance=exactly(0 if share.condition.moving else self._tolerance(number)),
        )

    async def _give(self, wanted: Mapping[int, int], budget: int) -> None:
        """Let guests grow to what is wanted for them, as far as the budget is really free."""
        if wanted:
            await self._look_at_those_left()
        held = [self._held(number) for number in range(len(self.outcomes))]
        granted = grant(self._plan, held, wanted, budget)
        for number, target in wanted.items():
            if granted[number] < target - self._tolerance(number):
                self.warnings.append(
                    f"{self._plan.shares[number].condition.name} gets {format_size(granted[number])} in place of"
                    f" {format_size(target)}: not enough memory came free"
                )
        await self._move(
            {
                number: granted[number]
                for number in wanted
                if granted[number] - held[number] > self._tolerance(number) or self._plan.shares[number].condition.moving
            }
        )

    async def _look_at_those_left(self) -> None:
        """Learn what those guests have that were not moved: some deflate by themselves."""
        numbers = [
            number
            for number, share in enumerate(self._plan.shares)
            if share.alone is None and self.outcomes[number].socket not in self._standing
        ]
        sightings = [self._snapshot.sightings[number] for number in numbers]
        sizes = await look_at_sizes([(sighting.outcome.socket, sighting.expected_uid) for sighting in sightings])
        for number, size in zip(numbers, sizes):
            if size is not None:
                self._grown[number] = size

    def _held(self, number: int) -> int:
        """Return what a guest takes of the budget now: its memory or its standing target, and what did not come back."""
        outcome, share = self.outcomes[number], self._plan.shares[number]
        standing = self._standing.get(outcome.socket)
        if share.alone is not None:
            return share.standing
        if standing is None:
            return max(share.current, self._grown.get(number, 0))
        if outcome.actual_after is None or outcome.guest is None:
            return max(share.current, standing)
        return max(outcome.actual_after, standing) + kept_back(outcome.guest, outcome.actual_after, outcome.rss_after)

    async def _return(self) -> None:
        """Bring every guest back to where it was, those that grew first."""
        before = list(self.outcomes)
        start = {number: share.current for number, share in enumerate(self._plan.shares) if before[number].changed}
        stood = sum(share.standing for share in self._plan.shares)
        unknown = [number for number in start if before[number].actual_after is None]
        await self._move({number: size for number, size in start.items() if self._held(number) > size or number in unknown})
        await self._give(
            {number: size for number, size in start.items() if self._held(number) < size}, max(stood, self._plan.budget)
        )
        failed = ", ".join(
            share.condition.name for outcome, share in zip(before, self._plan.shares) if outcome.failed and share.alone is None
        )
        for number, size in start.items():
            self.outcomes[number] = self._returned(before[number], self.outcomes[number], size, self._tolerance(number), failed)

    def _returned(self, before: Outcome, after: Outcome, size: int, tolerance: int, failed: str) -> Outcome:
        """Return the outcome of a guest that was moved and then brought back."""
        back = after.actual_after is not None and abs(after.actual_after - size) <= tolerance
        told = replace(
            after,
            guest=before.guest,
            seconds=before.seconds + (after.seconds if after is not before else 0.0),
            changed=not back,
            warnings=(*before.warnings, *(after.warnings if after is not before else ())),
        )
        if before.failed or not back:
            worse = before if before.failed else after
            end = f"It was then returned to {format_size(size)}" if back else f"It could not be returned to {format_size(size)}"
            error = RolledBackError(f"{worse.error or failed + ' failed'}. {end}")
            error.code = worse.error.code if worse.error else error.code
            return replace(told, outcome=worse.outcome if worse.failed else "failed", error=error, target=size)
        error = RolledBackError(f"{_name(before)} was returned to {format_size(size)}, because {failed} failed")
        return replace(told, outcome="unchanged", error=error, target=size)

    def _record(self, sent: Sent) -> None:
        self.sent.append(sent)
        if sent.accepted:
            self._standing[sent.socket] = sent.target
        elif sent.accepted is None:
            self._standing[sent.socket] = max(sent.target, self._standing.get(sent.socket, 0))


def _as_it_was(outcome: Outcome) -> Outcome:
    """Return the outcome of a guest that is left where it is."""
    return replace(outcome, target=outcome.actual_after)


def _left_alone(snapshot: Snapshot) -> list[str]:
    """Say which guests could not be moved, besides those that fail the task anyway."""
    names = [sighting.condition.name for sighting in snapshot.sightings if sighting.obstacle and not sighting.outcome.failed]
    warnings = []
    if names:
        told = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warnings.append(f"left alone and charged to the budget, see plan for the reasons: {told}")
    unknown = [
        sighting.condition.name
        for sighting in snapshot.sightings
        if sighting.outcome.guest is None and sighting.process is None and sighting.outcome.failed
    ]
    if unknown:
        warnings.append(f"not read, and nobody knows what of the budget they take: {', '.join(unknown[:5])}")
    return warnings


def _more_than_there_is(snapshot: Snapshot, plan: Plan, allowance: Allowance) -> list[str]:
    """Warn of a given budget that the host could not honour as it is now."""
    there = snapshot.budget(exactly(0))
    if allowance.budget is None or plan.budget <= there:
        return []
    warning = (
        f"the budget of {format_size(plan.budget)} is more than this host has for its guests now,"
        f" {format_size(max(0, there))}: the rest is used by others, or by QEMU itself"
    )
    return [warning]


def _infeasible(plan: Plan, allowance: Allowance) -> InfeasibleError:
    floors = sum(share.floor for share in plan.shares if share.alone is None)
    alone = [share.condition.name for share in plan.shares if share.alone is not None and share.cost]
    names = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
    charged = f" and {format_size(plan.charged)} are taken by guests that are left alone ({names})" if alone else ""
    wait = "Wait until those can be moved, " if alone else ""
    more = "lower the reserve" if allowance.budget is None else "raise the budget"
    advice = f"{wait}{more}" if wait else more.capitalize()
    there = f"the budget of {format_size(plan.budget)}" if plan.budget > 0 else "the host has for them beyond its reserve"
    return InfeasibleError(
        f"the guests need at least {format_size(floors + plan.charged)}, {format_size(plan.missing)} more than {there}:"
        f" {format_size(floors)} are their floors together{charged}. Nothing was touched. {advice}, move a guest away, or"
        " give rules a lower min; without a min, a guest's floor is what it uses"
    )


def _name(outcome: Outcome) -> str:
    return outcome.guest.name if outcome.guest else outcome.socket

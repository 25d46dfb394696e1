# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outcomes as the modules return them: the one place that turns errors into results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .errors import RolledBackError
from .guest import GuestStats, socket_name
from .host import Host
from .policy import Share
from .rollout import HostRun
from .sizes import format_size
from .texts import printable
from .visits import Outcome

_TOLD_MAX = 5


def guest_result(outcome: Outcome) -> dict[str, Any]:
    """Return one guest's entry of ``guests``."""
    guest = outcome.guest
    return {
        "name": guest.name if guest else socket_name(outcome.socket),
        "uuid": guest.uuid if guest else None,
        "socket": printable(outcome.socket),
        "pid": guest.pid if guest else None,
        "uid": guest.uid if guest else None,
        "maximum": guest.maximum if guest else None,
        "actual_before": guest.actual if guest else None,
        "actual_after": outcome.actual_after,
        "target": outcome.target,
        "rss_before": guest.rss if guest else None,
        "rss_after": outcome.rss_after,
        "outcome": outcome.outcome,
        "seconds": round(outcome.seconds, 3),
        "error": {"code": outcome.error.code, "message": printable(str(outcome.error))} if outcome.error else None,
    }


def guest_info(outcome: Outcome) -> dict[str, Any]:
    """Return one guest's entry of the info module's ``guests``."""
    guest = outcome.guest
    stats = guest.stats if guest else None
    age = stats.age(time.time()) if stats else None
    return {
        **guest_result(outcome),
        "status": guest.status if guest else None,
        "qemu_version": guest.qemu_version if guest else None,
        "driver": guest.driver if guest else None,
        "deflate_on_oom": guest.deflate_on_oom if guest else None,
        "free_page_reporting": guest.free_page_reporting if guest else None,
        "stats": _figures(stats),
        "stats_age": None if age is None else round(age, 1),
        "stats_interval": stats.interval if stats else None,
    }


def host_result(host: Host) -> dict[str, Any]:
    """Return the info module's ``host``."""
    return {"total": host.total, "available": host.available, "swap_used": host.swap_used, "pressure": host.pressure}


def plan_result(run: HostRun) -> list[dict[str, Any]]:
    """Return the policy module's ``plan``. A guest that could not be read, or has no balloon, has no figures."""
    return [
        {
            "name": printable(share.condition.name),
            "socket": printable(sighting.outcome.socket),
            **(_sizes(share) if sighting.outcome.actual_after is not None else dict.fromkeys(_SIZES)),
            "used": sighting.used,
            "need": None if sighting.used is None else share.need,
            "shares": share.shares,
            "charged": share.cost,
            "reason": printable(share.reason),
        }
        for share, sighting in zip(run.plan.shares, run.snapshot.sightings)
    ]


_SIZES = ("current", "target", "floor", "ceiling")


def _sizes(share: Share) -> dict[str, int]:
    return {"current": share.current, "target": share.target, "floor": share.floor, "ceiling": share.ceiling}


def timeline(run: HostRun) -> list[dict[str, Any]]:
    """Return every ``balloon`` command that was sent, in order."""
    names = {sighting.outcome.socket: share.condition.name for share, sighting in zip(run.plan.shares, run.snapshot.sightings)}
    return [
        {
            "seconds": round(sent.at, 3),
            "name": names[sent.socket],
            "socket": printable(sent.socket),
            "target": sent.target,
            "accepted": sent.accepted,
        }
        for sent in run.sent
    ]


def summarise(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return ``summary``: how many guests, and the bytes that they gave up, got back, and that the host gained."""
    moved = [
        outcome.guest.actual - outcome.actual_after
        for outcome in outcomes
        if outcome.guest and outcome.guest.actual is not None and outcome.actual_after is not None
    ]
    return {
        "guests": len(outcomes),
        "changed": sum(outcome.changed for outcome in outcomes),
        "failed": sum(outcome.failed for outcome in outcomes),
        "reclaimed": sum(change for change in moved if change > 0),
        "returned": -sum(change for change in moved if change < 0),
        "host_gain": sum(
            outcome.guest.rss - outcome.rss_after
            for outcome in outcomes
            if outcome.guest and outcome.guest.rss is not None and outcome.rss_after is not None
        ),
    }


def failure_message(outcomes: Sequence[Outcome]) -> str | None:
    """Say which guests failed and why, or None when none did."""
    failed = [outcome for outcome in outcomes if outcome.failed]
    if not failed:
        return None
    told = "; ".join(
        printable(f"[{outcome.error.code}] {outcome.error}" if outcome.error else outcome.socket)
        for outcome in failed[:_TOLD_MAX]
    )
    more = f"; and {len(failed) - _TOLD_MAX} more, see guests" if len(failed) > _TOLD_MAX else ""
    if len(outcomes) == 1:
        return told
    back = any(outcome.error and outcome.error.code == RolledBackError.code for outcome in outcomes)
    rest = "" if len(failed) == len(outcomes) else " (the rest was returned to where it was)" if back else " (the rest is well)"
    return f"{len(failed)} of {len(outcomes)} guests failed{rest}: {told}{more}"


def difference(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return Ansible's diff: a line a guest that was reached, before and after."""
    sides: dict[str, list[str]] = {"before": [], "after": []}
    for outcome in outcomes:
        if outcome.guest is None or outcome.guest.actual is None or outcome.actual_after is None:
            continue
        for side, size in (("before", outcome.guest.actual), ("after", outcome.actual_after)):
            sides[side].append(f"{outcome.guest.name}: {format_size(size)}\n")
    return {
        "before_header": "guests' memory",
        "after_header": "guests' memory",
        "before": "".join(sides["before"]),
        "after": "".join(sides["after"]),
    }


def _figures(stats: GuestStats | None) -> dict[str, int | None] | None:
    return stats.figures if stats and stats.last_update else None

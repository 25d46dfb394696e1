# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts' results as one report. Pure functions; runs on the controller.

A result may come from a module that crashed, or from no module at all. Nothing in it is believed: a figure that is not a
size is None, which is "unknown", and no figure is ever made up. All sizes are in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.texts import printable

STATUSES = ("failed", "unreachable", "changed", "would_change", "unchanged", "not_reached")
"""What a host can have come to, in the order of the report."""

OUTCOMES = ("refused", "failed", "stalled", "converged", "pending", "would_change", "unchanged")
"""What a guest can have come to."""

FAILED_OUTCOMES = ("refused", "failed", "stalled")
_MOVED_OUTCOMES = ("converged", "pending", "would_change")
_FAILED = ("failed", "unreachable")
_DONE = ("changed", "would_change", "unchanged")
_SIZE_MAX = (1 << 63) - 1  # the largest that QMP can tell
_NAME_MAX, _MESSAGE_MAX = 255, 20_000
_REASONS, _LAST_REASONS = ("msg", "module_stderr"), ("module_stdout", "stderr", "exception", "skip_reason")
_NO_REASON = "The host's result gives no reason."
_UNREADABLE = "The host's result says neither that it worked nor that it failed."
_NUMBER = re.compile(r"([0-9]+)")

Report = dict[str, Any]


def fleet_report(results: Mapping[Any, Any], *, check: bool = False, started: object = None, written: object = None) -> Report:
    """Return the report about ``results``, a module's result or nothing for each host's name. Plain JSON."""
    reports = {str(name): host_report(str(name), result, check=check) for name, result in results.items()}
    hosts = sorted(reports.values(), key=_host_order)
    return {
        "check": check,
        "started": _text(started),
        "written": _text(written),
        "totals": _totals(hosts),
        "remaining": sorted((name for name, host in reports.items() if host["status"] not in _DONE), key=_natural),
        "hosts": hosts,
    }


def host_report(name: str, result: object, *, check: bool = False) -> Report:
    """Return one host's entry of ``hosts``."""
    facts = _mapping(result)
    memory = _mapping(facts.get("host"))
    guests = _guests(facts)
    status = _status(result, guests, check=check)
    no_guests = not guests and isinstance(facts.get("guests"), (list, tuple))
    return {
        "name": printable(name),
        "status": status,
        "message": _message(facts, guests, status),
        "warnings": [text for text in map(_message_text, _list(facts.get("warnings"))) if text],
        "feasible": facts["feasible"] if isinstance(facts.get("feasible"), bool) else None,
        "memory": _size(memory.get("total")),
        "available": _size(memory.get("available")),
        "swap_used": _size(memory.get("swap_used")),
        "reserve": _size(facts.get("reserve")),
        "budget": _size(facts.get("budget")),
        **_moves(guests, 0 if no_guests else None),
        "guests": guests,
    }


def _status(result: object, guests: list[Report], *, check: bool) -> str:
    if not result:
        return "not_reached"
    facts = _mapping(result)
    if _flag(facts.get("unreachable")):
        return "unreachable"
    if _flag(facts.get("failed")) or facts.get("feasible") is False or any(_has_failed(guest) for guest in guests):
        return "failed"
    if _flag(facts.get("skipped")):
        return "not_reached"
    if "changed" not in facts or _flag(facts.get("exception")) or _flag(facts.get("module_stderr")):
        return "failed"  # a module that has come to its end says whether it changed anything
    if _flag(facts["changed"]) or any(_has_moved(guest) for guest in guests):
        return "would_change" if check else "changed"
    return "unchanged"


def _message(facts: Mapping[Any, Any], guests: list[Report], status: str) -> str | None:
    """Say what went wrong, or why a host was left out, with all that the result tells about it."""
    if status not in ("failed", "unreachable", "not_reached"):
        return None
    told = [text for text in (_message_text(facts.get(key)) for key in _REASONS) if text]
    told = told or [text for text in (_message_text(facts.get(key)) for key in _LAST_REASONS) if text][:1]
    if told or status == "not_reached":
        return "\n".join(told) or None
    failed = [guest for guest in guests if _has_failed(guest)]
    if failed:
        return "\n".join(f"{guest['name']}: {(guest['error'] or {}).get('message') or guest['outcome']}" for guest in failed)
    return _NO_REASON if _flag(facts.get("failed")) or _flag(facts.get("unreachable")) else _UNREADABLE


def _guests(facts: Mapping[Any, Any]) -> list[Report]:
    """Return all guests that a result names, with what its plan has for them; those that failed come first."""
    plan = [_mapping(entry) for entry in _list(facts.get("plan")) if isinstance(entry, Mapping)]
    seen = [_mapping(entry) for entry in _list(facts.get("guests")) if isinstance(entry, Mapping)]
    planned: dict[str, Mapping[Any, Any]] = {}
    for entry in plan:
        if isinstance(entry.get("socket"), str):
            planned.setdefault(entry["socket"], entry)
    guests = [_guest(entry, planned.get(socket) if isinstance(socket := entry.get("socket"), str) else None) for entry in seen]
    return sorted(guests, key=lambda guest: (not _has_failed(guest), _natural(guest["name"])))


def _guest(entry: Mapping[Any, Any], planned: Mapping[Any, Any] | None) -> Report:
    outcome = entry.get("outcome")
    plan: Mapping[Any, Any] = planned or {}
    before, after = _size(entry.get("rss_before")), _size(entry.get("rss_after"))
    return {
        "name": _name(entry.get("name")),
        "socket": _text(entry.get("socket")),
        "before": _size(entry.get("actual_before")),
        "after": _size(entry.get("actual_after")),
        "maximum": _size(entry.get("maximum")),
        "target": _first(_size(entry.get("target")), _size(plan.get("target"))),
        "gain": None if before is None or after is None else before - after,
        "outcome": outcome if isinstance(outcome, str) and outcome in OUTCOMES else None,
        **_plan_facts(plan),
        "error": _error(entry.get("error")),
    }


def _plan_facts(plan: Mapping[Any, Any]) -> Report:
    return {"floor": _size(plan.get("floor")), "ceiling": _size(plan.get("ceiling")), "reason": _text(plan.get("reason"))}


def _error(value: object) -> Report | None:
    error = _mapping(value)
    code, message = _text(error.get("code")), _message_text(error.get("message"))
    return {"code": code, "message": message} if code or message else None


def _has_failed(guest: Report) -> bool:
    return guest["outcome"] in FAILED_OUTCOMES


def _has_moved(guest: Report) -> bool:
    known = guest["before"] is not None and guest["after"] is not None
    return guest["outcome"] in _MOVED_OUTCOMES or (known and guest["before"] != guest["after"])


def _moves(guests: list[Report], unknown: int | None) -> Report:
    """Return a host's sums, over those guests that are known, and ``unknown`` where no guest is."""
    measured = [guest for guest in guests if guest["before"] is not None and guest["after"] is not None]
    changes = [guest["before"] - guest["after"] for guest in measured]
    gains = [guest["gain"] for guest in guests if guest["gain"] is not None]
    return {
        "measured": len(measured),
        "before": sum(guest["before"] for guest in measured) if measured else unknown,
        "after": sum(guest["after"] for guest in measured) if measured else unknown,
        "reclaimed": sum(change for change in changes if change > 0) if measured else unknown,
        "returned": -sum(change for change in changes if change < 0) if measured else unknown,
        "host_gain": sum(gains) if gains else unknown,
    }


def _totals(hosts: list[Report]) -> Report:
    """Return the fleet's figures: sums of what is known, None where nobody told anything."""
    count = {status: sum(host["status"] == status for host in hosts) for status in STATUSES}
    guests = [guest for host in hosts for guest in host["guests"]]
    return {
        "hosts": {
            "total": len(hosts),
            "done": sum(count[status] for status in _DONE),
            "changed": count["changed"] + count["would_change"],
            "unchanged": count["unchanged"],
            "failed": sum(count[status] for status in _FAILED),
            "unreachable": count["unreachable"],
            "not_reached": count["not_reached"],
        },
        "guests": {
            "total": len(guests),
            "changed": sum(_has_moved(guest) for guest in guests),
            "failed": sum(_has_failed(guest) for guest in guests),
            "measured": sum(host["measured"] for host in hosts),
        },
        **{key: _known_sum(hosts, key) for key in ("before", "after", "reclaimed", "returned", "host_gain")},
        "memory": _known_sum(hosts, "memory"),
        "memory_hosts": sum(host["memory"] is not None for host in hosts),
        "budget": _known_sum(hosts, "budget"),
        "budget_hosts": sum(host["budget"] is not None for host in hosts),
    }


def _known_sum(entries: Iterable[Report], key: str) -> int | None:
    known = [entry[key] for entry in entries if entry[key] is not None]
    return sum(known) if known else None


def _host_order(host: Report) -> tuple[int, list[tuple[int, str]]]:
    return STATUSES.index(host["status"]), _natural(host["name"])


def _natural(name: str) -> list[tuple[int, str]]:
    """Order by which ``hv2`` comes before ``hv10``; of any two names one comes first."""
    parts = _NUMBER.split(name)
    # Digits compare as numbers when the shorter ones come first: int() refuses to read very long ones.
    return [(len(digits := part.lstrip("0")), digits) if index % 2 else (-1, part) for index, part in enumerate(parts)] + [
        (-1, name)
    ]


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _size(value: object) -> int | None:
    """Return a number of bytes, or None for anything that cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return int(value) if 0 <= value <= _SIZE_MAX else None


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _flag(value: object) -> bool:
    """Whether a flag is set. Modules answer true, people and old modules "yes" and 1; what is odd counts as set."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "false", "no", "off", "n", "f", "0")
    return bool(value)


def _name(value: object) -> str:
    return _text(value) or "(no name)"


def _text(value: object) -> str | None:
    """Return a short text on one line, or None for what is none."""
    return printable(value.strip(), _NAME_MAX) or None if isinstance(value, str) else None


def _message_text(value: object) -> str | None:
    """Return a text of any number of lines, or None for what is none. A list of texts is one of lines."""
    if isinstance(value, (list, tuple)):
        value = "\n".join(item for item in value if isinstance(item, str))
    if not isinstance(value, str):
        return None
    lines = value[:_MESSAGE_MAX].expandtabs(4).splitlines()
    shown = "\n".join(printable(line.rstrip()) for line in lines).strip("\n")
    return (shown + " ..." if len(value) > _MESSAGE_MAX else shown) or None

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as its page shows it: sentences, sizes and the widths of bars. Pure functions; runs on the controller.

Names and messages come from guests that nobody trusts, and Ansible's templates escape nothing, not even inside of
``autoescape``. So everything that a template gets from here is escaped already, and there is nothing to forget.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import format_size

from .report import FAILED_OUTCOMES, Report

UNKNOWN, NOTHING = "unknown", "\N{EN DASH}"
_ARROW = "\N{RIGHTWARDS ARROW}"
_MINUS = "\N{MINUS SIGN}"
_FIXED = "\N{NO-BREAK SPACE}"
_NOT_MANY = 5
Page = dict[str, Any]
Bar = list[list[str]]

_SECTIONS = (
    ("failed", "Failed", "Each host says what went wrong, and what became of its guests."),
    ("unreachable", "Unreachable", "Ansible could not talk to these hosts."),
    ("changed", "Changed", "Guests were moved."),
    ("would_change", "Would change", "Guests would be moved."),
    ("unchanged", "Unchanged", "No guest had to move."),
    ("not_reached", "Not reached", "The work did not get to these hosts."),
)


def fleet_page(report: Mapping[str, Any]) -> Page:
    """Return what the page shows of a report. All texts are HTML; keys and widths are safe in attributes."""
    check, totals = report["check"], report["totals"]
    page = {
        "title": ("Preview: " if check else "") + "Memory of the fleet",
        "check": check,
        "verdict": _verdict(totals["hosts"], check=check),
        "times": _times(report),
        "progress": _progress(totals["hosts"]),
        "tiles": _tiles(totals, check=check),
        "facts": _facts(totals, check=check),
        "sections": [
            _section(key, title, note, [host for host in report["hosts"] if host["status"] == key], check=check)
            for key, title, note in _SECTIONS
            if totals["hosts"]["total"] and any(host["status"] == key for host in report["hosts"])
        ],
        "remaining": _count(len(report["remaining"]), "host") if report["remaining"] and not check else "",
    }
    escaped: Page = _escape(page)
    return escaped


def _verdict(hosts: Mapping[str, int], *, check: bool) -> str:
    """Say in a sentence how it went."""
    total, done = hosts["total"], hosts["done"]
    if not total:
        return "There are no hosts in this report."
    if done == total:
        one = "The only host" if total == 1 else "Both hosts" if total == 2 else f"All {total} hosts"
        verb = "is" if total == 1 else "are"
        return f"{one} {verb} {'ready' if check else 'done'}."
    told = []
    if hosts["failed"]:
        told.append(f"{hosts['failed']}{_FIXED}failed")
    if hosts["not_reached"]:
        told.append(f"{hosts['not_reached']}{_FIXED}{'was' if hosts['not_reached'] == 1 else 'were'} not{_FIXED}reached")
    verb = "is" if done == 1 else "are"
    return f"{done} of {_count(total, 'host')} {verb} {'ready' if check else 'done'}, {', '.join(told)}."


def _times(report: Mapping[str, Any]) -> list[str]:
    return [f"{word} {report[key]}" for key, word in (("started", "Started"), ("written", "Written")) if report[key]]


def _progress(hosts: Mapping[str, int]) -> Bar:
    return _bar([("done", hosts["done"]), ("failed", hosts["failed"]), ("open", hosts["not_reached"])], hosts["total"])


def _tiles(totals: Mapping[str, Any], *, check: bool) -> list[Page]:
    hosts, gain = totals["hosts"], totals["host_gain"]
    if check or gain is None:
        gained = _tile("Gained by hosts", UNKNOWN, "only the real run tells" if check else "nobody told")
    else:
        gained = _tile("Gained by hosts", _signed(gain), "measured (RSS)")
    return [
        _tile(
            "Hosts ready" if check else "Hosts done",
            str(hosts["done"]),
            f"of {hosts['total']}; {hosts['changed']} {'would change' if check else 'changed'}",
        ),
        _tile(
            "Hosts failed",
            str(hosts["failed"]),
            f"{hosts['unreachable']} of them unreachable" if hosts["unreachable"] else "",
            bad=hosts["failed"] > 0,
        ),
        _tile("Hosts not reached", str(hosts["not_reached"]), "still to do" if hosts["not_reached"] else ""),
        _tile("To be reclaimed" if check else "Reclaimed", _size(totals["reclaimed"]), "given up by guests"),
        _tile("To be returned" if check else "Returned", _size(totals["returned"]), "given back to guests"),
        gained,
    ]


def _tile(label: str, value: str, note: str, *, bad: bool = False) -> Page:
    return {"label": label, "value": value, "note": note, "bad": bad}


def _facts(totals: Mapping[str, Any], *, check: bool) -> list[list[str]]:
    """Return names and values of the fleet's quieter figures."""
    hosts, guests = totals["hosts"]["total"], totals["guests"]
    moved = f"{guests['changed']} would move" if check else f"{guests['changed']} moved"
    facts = [
        ["Guests", f"{guests['total']}: {moved}, {guests['failed']} failed"],
        ["Guests' memory", _change(totals["before"], totals["after"]) + _of(guests["measured"], guests["total"], "guest")],
    ]
    if totals["memory"] is not None:
        facts.append(["Hosts' memory", _size(totals["memory"]) + _of(totals["memory_hosts"], hosts, "host")])
    if totals["budget"] is not None:
        facts.append(["Budget for guests", _size(totals["budget"]) + _of(totals["budget_hosts"], hosts, "host")])
    return facts


def _section(key: str, title: str, note: str, hosts: list[Report], *, check: bool) -> Page:
    # A host that was left out, and of which nothing is known, is a name and no more.
    bare = [host["name"] for host in hosts if key == "not_reached" and not host["message"] and not host["guests"]]
    return {
        "key": key.replace("_", "-"),
        "title": title,
        "note": note,
        "count": str(len(hosts)),
        "bad": key in ("failed", "unreachable"),
        "names": bare,
        "hosts": [_host(host, check=check) for host in hosts if key != "not_reached" or host["message"] or host["guests"]],
    }


def _host(host: Report, *, check: bool) -> Page:
    known = host["before"] is not None
    return {
        "name": host["name"],
        "open": host["status"] in ("failed", "unreachable"),
        "change": _change(host["before"], host["after"]) if known else UNKNOWN,
        "gain": NOTHING if check or host["host_gain"] is None else _signed(host["host_gain"]),
        "bar": host_bar(host),
        "limit": _limit(host),
        "message": host["message"] or "",
        "warnings": host["warnings"],
        "figures": _figures(host, check=check),
        "groups": _groups(host),
    }


def _groups(host: Report) -> list[Page]:
    """Return the host's guests: of many on a host that failed, those that did not are put aside, under a title."""
    guests = [_guest(guest) for guest in host["guests"]]
    others = [guest for guest in guests if not guest["bad"]]
    if host["status"] not in ("failed", "unreachable") or len(others) <= _NOT_MANY:
        return [{"title": "", "guests": guests}] if guests else []
    title = f"{len(others)} guests" if len(others) == len(guests) else f"The other {len(others)} guests"
    groups = [{"title": "", "guests": [guest for guest in guests if guest["bad"]]}, {"title": title, "guests": others}]
    return [group for group in groups if group["guests"]]


def _figures(host: Report, *, check: bool) -> list[list[str]]:
    """Return part of the bar, name and value of a host's figures."""
    return [*_host_figures(host), *_guest_figures(host, check=check)]


def _host_figures(host: Report) -> list[list[str]]:
    if all(host[key] is None for key in ("memory", "budget", "reserve", "feasible")):
        return []  # nobody made a plan, so there is no budget to tell of
    figures = [["", "Memory of the host", _size(host["memory"])], ["", "Available before", _size(host["available"])]]
    if host["swap_used"]:
        figures.append(["", "Swapped out before", _size(host["swap_used"])])
    # Where the budget is the user's, nobody asked for a reserve.
    if host["reserve"] is not None or host["budget"] is None:
        figures.append(["reserve", "Reserve of the host", _size(host["reserve"])])
    return [*figures, ["limit", "Budget for guests", _size(host["budget"])]]


def _guest_figures(host: Report, *, check: bool) -> list[list[str]]:
    before, after = host["before"], host["after"]
    if before is None or after is None:
        return []
    of = _of(host["measured"], len(host["guests"]), "guest")
    figures = [
        ["", "Guests before", _size(before) + of],
        ["guests", "Guests after" + (", by the plan" if check and host["feasible"] is not False else ""), _size(after) + of],
    ]
    if before != after:
        figures.append(["freed" if after < before else "grown", "Net change", _signed(after - before, plus="+")])
    if host["reclaimed"] and host["returned"]:
        figures += [["", "Reclaimed", _size(host["reclaimed"])], ["", "Returned", _size(host["returned"])]]
    if host["budget"] is not None:
        left = host["budget"] - after
        figures.append(["left", "Left of the budget", _size(left)] if left >= 0 else ["", "Above the budget", _size(-left)])
    if host["memory"] is None and _maxima(host):
        figures.append(["rest", "Guests' full memory", _size(_maxima(host))])
    if not check and host["host_gain"] is not None:
        figures.append(["", "Gained by the host", _signed(host["host_gain"])])
    return figures


def host_bar(host: Report) -> Bar:
    """Return the parts of a host's bar, each with its width in percent: of the host's memory, or of all that is known.

    ``reserve``, ``guests`` (what they had and have), ``freed`` or ``grown``, ``left`` of the budget; the rest stays empty.
    """
    if host["before"] is None or host["after"] is None:
        return []
    most = max(host["before"], host["after"])
    left = max(0, host["budget"] - most) if host["budget"] is not None else 0
    return _bar(
        [
            ("reserve", host["reserve"] or 0),
            ("guests", min(host["before"], host["after"])),
            ("freed", max(0, host["before"] - host["after"])),
            ("grown", max(0, host["after"] - host["before"])),
            ("left", left),
        ],
        _whole(host),
    )


def _whole(host: Report) -> int:
    """Return what the full width of a host's bar stands for."""
    most = max(host["before"], host["after"], host["budget"] or 0) + (host["reserve"] or 0)
    whole: int = max(_maxima(host) if host["memory"] is None else host["memory"], most)
    return whole


def _maxima(host: Report) -> int:
    return sum(guest["maximum"] or 0 for guest in host["guests"])


def _limit(host: Report) -> str:
    """Return where on a host's bar the budget ends, in percent; nothing where that is not known."""
    if host["budget"] is None or host["before"] is None or host["after"] is None:
        return ""
    return _percent(host["budget"] + (host["reserve"] or 0), _whole(host))


def _guest(guest: Report) -> Page:
    before, after = guest["before"], guest["after"]
    parts: list[tuple[str, int]] = []
    if before is not None and after is not None and guest["maximum"] is not None:
        parts = [("guests", min(before, after)), ("freed", max(0, before - after)), ("grown", max(0, after - before))]
    error = guest["error"] or {}
    code = f"[{error['code']}] " if error.get("code") else ""
    bounds = [f"{key} {_size(guest[key])}" for key in ("floor", "ceiling") if guest[key] is not None]
    missed = guest["target"] is not None and after is not None and guest["target"] != after
    return {
        "name": guest["name"],
        "socket": guest["socket"] or "",
        "change": _change(before, after),
        "of": f"of {_size(guest['maximum'])}" if guest["maximum"] is not None else "",
        "target": f"target {_size(guest['target'])}" if missed else "",
        "bounds": ", ".join(bounds),
        "bar": _bar(parts, max(guest["maximum"] or 0, before or 0, after or 0)),
        "outcome": guest["outcome"].replace("_", " ") if guest["outcome"] else UNKNOWN,
        "bad": guest["outcome"] in FAILED_OUTCOMES,
        "error": code + (error.get("message") or "") if error else "",
        "reason": guest["reason"] or "",
    }


def _bar(parts: Iterable[tuple[str, int]], whole: int) -> Bar:
    return [[part, _percent(size, whole)] for part, size in parts if size > 0 and whole > 0]


def _percent(size: int, whole: int) -> str:
    return f"{100 * size / whole:.2f}" if whole > 0 else "0"


def _change(before: int | None, after: int | None) -> str:
    """Return ``4 GiB``, ``4 -> 6 GiB`` or ``512 MiB -> 6 GiB``."""
    one, other = _size(before), _size(after)
    if before == after:
        return other
    if " " in one and one.split()[1:] == other.split()[1:]:
        one = one.split()[0]
    return f"{one} {_ARROW} {other}"


def _signed(size: int, *, plus: str = "") -> str:
    return f"{_MINUS}{format_size(-size)}" if size < 0 else f"{plus}{format_size(size)}"


def _size(size: int | None) -> str:
    return UNKNOWN if size is None else format_size(size)


def _of(known: int, total: int, what: str) -> str:
    """Say of how many a figure is, where it is not of all."""
    return "" if known == total else f" ({known} of {_count(total, what)})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return html.escape(value) if isinstance(value, str) else value

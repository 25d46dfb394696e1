# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outcomes as users get them."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import NoBalloonError, SocketNotFoundError, StalledError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import Host
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.moves import Sent
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.policy import Policy, make_plan
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.results import (
    difference,
    failure_message,
    guest_info,
    guest_result,
    host_result,
    plan_result,
    summarise,
    timeline,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.rollout import HostRun
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.snapshot import Sighting, Snapshot
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import Outcome
from tests.unit.build import MIB, guest, stats

KEYS = [
    *("name", "uuid", "socket", "pid", "uid", "maximum", "actual_before", "actual_after", "target"),
    *("rss_before", "rss_after", "outcome", "seconds", "error"),
]
MORE_KEYS = [
    *("status", "qemu_version", "driver", "deflate_on_oom", "free_page_reporting"),
    *("stats", "stats_age", "stats_interval"),
]


def outcome(result: str = "converged", *, name: str = "web1", before: int = 256, after: int = 160, **facts: Any) -> Outcome:
    reached = guest(name=name, actual=before * MIB, rss=facts.pop("rss", None))
    usual: dict[str, Any] = {"guest": reached, "actual_after": after * MIB, "changed": after != before}
    return Outcome(**{"socket": f"/run/{name}.qmp", "outcome": result, "seconds": 1.23456, **usual, **facts})


def lost(name: str = "lost") -> Outcome:
    return Outcome(f"/run/{name}.qmp", "failed", 0.0, error=SocketNotFoundError(f"/run/{name}.qmp: there is no such socket"))


def test_a_guest_that_was_reached() -> None:
    result = guest_result(outcome(rss=300 * MIB, rss_after=200 * MIB, target=160 * MIB))
    assert list(result) == KEYS
    assert (result["name"], result["socket"], result["uuid"]) == ("web1", "/run/web1.qmp", None)
    assert (result["maximum"], result["actual_before"], result["actual_after"]) == (256 * MIB, 256 * MIB, 160 * MIB)
    assert (result["target"], result["rss_before"], result["rss_after"]) == (160 * MIB, 300 * MIB, 200 * MIB)
    assert (result["outcome"], result["seconds"], result["error"]) == ("converged", 1.235, None)


def test_odd_names_become_text() -> None:
    """A socket's name is any bytes; a result must be text that no terminal acts on."""
    odd = os.fsdecode(b"a\xff\n\x1b[31m")
    result = guest_result(lost(odd))
    message = failure_message([lost(odd)])
    assert message is not None
    for text in (result["name"], result["socket"], result["error"]["message"], message):
        text.encode()
        assert text.isprintable()


def test_a_guest_that_was_not() -> None:
    result = guest_result(lost())
    assert list(result) == KEYS
    assert (result["name"], result["socket"], result["outcome"]) == ("lost", "/run/lost.qmp", "failed")
    assert result["error"] == {"code": "not_found", "message": "/run/lost.qmp: there is no such socket"}
    assert result["actual_before"] is result["actual_after"] is result["rss_before"] is None


def test_information_has_more_and_is_plain_json() -> None:
    told = stats(100 * MIB, last_update=int(time.time()) - 20, interval=10)
    reached = guest(stats=told)
    result = guest_info(Outcome("/run/web1.qmp", "unchanged", 0.1, guest=reached, actual_after=reached.actual))
    assert list(result) == KEYS + MORE_KEYS
    assert result["stats"] == {"available_memory": 100 * MIB, "free_memory": None}
    assert 20 <= result["stats_age"] < 25
    assert result["stats_interval"] == 10
    assert json.loads(json.dumps(result)) == result
    assert list(guest_info(lost())) == KEYS + MORE_KEYS


def test_statistics_that_never_came_are_not_shown() -> None:
    never = guest(stats=stats(None, last_update=0))
    result = guest_info(Outcome("/run/web1.qmp", "unchanged", 0.1, guest=never))
    assert (result["stats"], result["stats_age"], result["stats_interval"]) == (None, None, 0)


def test_host() -> None:
    assert host_result(Host(4, 3, 2, None)) == {"total": 4, "available": 3, "swap_used": 2, "pressure": None}


def test_summary() -> None:
    outcomes = [
        outcome(before=256, after=160, rss=300 * MIB, rss_after=200 * MIB),
        outcome(before=160, after=200, rss=200 * MIB, rss_after=210 * MIB),
        outcome("stalled", before=256, after=200, error=StalledError("")),
        outcome("unchanged", before=256, after=256),
        outcome("refused", before=256, after=256, error=NoBalloonError("")),
        lost(),
    ]
    assert summarise(outcomes) == {
        "guests": 6,
        "changed": 3,
        "failed": 3,
        "reclaimed": (96 + 56) * MIB,
        "returned": 40 * MIB,
        "host_gain": 90 * MIB,
    }


def test_nothing_failed() -> None:
    assert failure_message([outcome(), outcome("unchanged"), outcome("pending"), outcome("would_change")]) is None
    no_balloon = outcome("unchanged", error=NoBalloonError("web1 has no balloon device"))
    assert failure_message([no_balloon]) is None


@pytest.mark.parametrize("result", ["refused", "stalled", "failed"])
def test_who_failed_and_why(result: str) -> None:
    message = failure_message([outcome(), outcome(result, error=StalledError("web2 stopped short"))])
    assert message == "1 of 2 guests failed (the rest is well): [timeout] web2 stopped short"


@pytest.mark.parametrize("result", ["refused", "stalled", "failed"])
def test_a_failure_without_a_reason_is_still_one(result: str) -> None:
    assert failure_message([outcome(result)]) is not None


def test_many_failures_are_not_all_told() -> None:
    message = failure_message([lost(f"vm{number}") for number in range(9)])
    assert message is not None
    assert message.startswith("9 of 9 guests failed: ")
    assert message.count("no such socket") == 5
    assert message.endswith("; and 4 more, see guests")


def test_difference_is_a_line_a_guest() -> None:
    shown = difference([outcome(), outcome("unchanged", name="web2", after=256), lost()])
    assert shown["before"] == "web1: 256 MiB\nweb2: 256 MiB\n"
    assert shown["after"] == "web1: 160 MiB\nweb2: 256 MiB\n"


def test_no_change_no_difference() -> None:
    shown = difference([outcome("unchanged", after=256), outcome("refused", after=256)])
    assert shown["before"] == shown["after"]


def host_run(*outcomes: Outcome, budget: int = 400) -> HostRun:
    """A host whose guests were seen as these outcomes have them, each using 64 MiB."""
    sightings = tuple(Sighting(seen, 1000, 64 * MIB if seen.guest else None, seen.error, None) for seen in outcomes)
    seen = Snapshot(Host(total=8 << 30, available=4 << 30, swap_used=0, pressure=None), sightings)
    policy = Policy((), parse_size("25%", "buffer"), parse_size("0", "deadband", zero=True), None)
    plan = make_plan([sighting.condition for sighting in sightings], policy, budget * MIB)
    return HostRun(seen, plan, None, outcomes, sent=(Sent(0.12345, "/run/web1.qmp", 144 * MIB, True),))


def test_a_plan() -> None:
    run = host_run(outcome("unchanged", after=256), lost())
    known, unknown = plan_result(run)
    keys = ("current", "target", "floor", "ceiling", "used", "need", "charged")
    assert [known[key] // MIB for key in keys] == [256, 256, 96, 256, 64, 80, 256]
    assert (known["name"], known["socket"], known["shares"]) == ("web1", "/run/web1.qmp", 1000)
    assert "has all that it may have" in known["reason"]
    assert [unknown[key] for key in keys] == [None] * 6 + [0]
    assert (unknown["name"], unknown["socket"]) == ("lost", "/run/lost.qmp")
    assert "there is no such socket" in unknown["reason"]


def test_a_timeline() -> None:
    run = host_run(outcome("unchanged", after=256))
    expected = {"seconds": 0.123, "name": "web1", "socket": "/run/web1.qmp", "target": 144 * MIB, "accepted": True}
    assert timeline(run) == [expected]


def test_odd_names_in_a_plan_become_text() -> None:
    run = host_run(outcome("unchanged", after=256, guest=guest(name="a\n\x1b[31m")), lost("b\r"))
    json.dumps(plan_result(run))
    assert not any(
        character in line[key] for line in plan_result(run) for key in ("name", "reason") for character in "\n\r\x1b"
    )

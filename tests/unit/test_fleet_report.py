# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's report: it adds up, believes nothing, and no result can break it or get markup into its page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.ballast.qemu.plugins.filter import fleet_page as page_plugin
from ansible_collections.ballast.qemu.plugins.filter import fleet_report as report_plugin
from ansible_collections.ballast.qemu.plugins.plugin_utils.page import fleet_page
from ansible_collections.ballast.qemu.plugins.plugin_utils.report import STATUSES, fleet_report
from tests.unit.build import MIB

TEMPLATE = Path(__file__).resolve().parents[2] / "playbooks/templates/report.html.j2"
USED = "{% set page = memory_policy_report | ballast.qemu.fleet_page %}"
GIB = 1 << 30
FIGURES = ("before", "after", "maximum", "target", "floor", "ceiling", "gain")
SUMS = ("before", "after", "reclaimed", "returned", "host_gain")


def entry(name: str = "web1", before: int | None = 4, after: int | None = 3, **facts: Any) -> dict[str, Any]:
    """Return a guest of 8 GiB as the modules do; memory in GiB."""
    usual = {
        "name": name,
        "socket": f"/run/{name}.qmp",
        "maximum": 8 * GIB,
        "actual_before": None if before is None else before * GIB,
        "actual_after": None if after is None else after * GIB,
        "target": None if after is None else after * GIB,
        "rss_before": None if before is None else before * GIB + 9 * MIB,
        "rss_after": None if after is None else after * GIB + 9 * MIB,
        "outcome": "unchanged" if before == after else "converged",
        "error": None,
    }
    return {**usual, **facts}


def line(name: str = "web1", **facts: Any) -> dict[str, Any]:
    """Return a guest's line of a plan."""
    usual = {
        "name": name,
        "socket": f"/run/{name}.qmp",
        "current": 4 * GIB,
        "target": 3 * GIB,
        "floor": GIB,
        "ceiling": 8 * GIB,
    }
    return {**usual, "reason": "uses 2 GiB", **facts}


def result(*guests: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """Return what ``qemu_memory_policy`` does."""
    return {
        "changed": any(guest["actual_before"] != guest["actual_after"] for guest in guests),
        "feasible": True,
        "budget": 50 * GIB,
        "reserve": 4 * GIB,
        "host": {"total": 64 * GIB, "available": 20 * GIB, "swap_used": 0, "pressure": None},
        "plan": [line(guest["name"]) for guest in guests],
        "guests": list(guests),
        **facts,
    }


def host(value: object, *, check: bool = False) -> dict[str, Any]:
    """Return the only host's report."""
    (only,) = fleet_report({"hv1": value}, check=check)["hosts"]
    assert isinstance(only, dict)
    return only


def texts(value: Any) -> Iterator[str]:
    """Walk through all texts of a page."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def shown(results: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    return fleet_page(fleet_report(results, check=check, started="noon", written="one"))


FLEET = {
    "hv10": result(entry("a"), entry("b", 2, 4)),
    "hv9": result(entry("a", 4, 4), changed=False),
    "hv8": {"unreachable": True, "msg": "No route to host", "changed": False},
    "hv7": result(entry("a"), entry("b", outcome="stalled"), failed=True, msg="1 of 2 guests failed"),
    "hv6": None,
    "hv2": result(entry("a", 5, 3)),
}


def test_order_and_totals() -> None:
    report = fleet_report(FLEET, started="noon", written="one")
    assert [one["name"] for one in report["hosts"]] == ["hv7", "hv8", "hv2", "hv10", "hv9", "hv6"]
    assert [one["status"] for one in report["hosts"]] == [
        *("failed", "unreachable", "changed", "changed", "unchanged", "not_reached"),
    ]
    assert report["remaining"] == ["hv6", "hv7", "hv8"]
    assert (report["check"], report["started"], report["written"]) == (False, "noon", "one")
    assert report["totals"] == {
        "hosts": {"total": 6, "done": 3, "changed": 2, "unchanged": 1, "failed": 2, "unreachable": 1, "not_reached": 1},
        "guests": {"total": 6, "changed": 5, "failed": 1, "measured": 6},
        "before": 23 * GIB,
        "after": 20 * GIB,
        "reclaimed": 5 * GIB,
        "returned": 2 * GIB,
        "host_gain": 3 * GIB,
        "memory": 256 * GIB,
        "memory_hosts": 4,
        "budget": 200 * GIB,
        "budget_hosts": 4,
    }


def test_a_host() -> None:
    one = host(result(entry("a"), warnings=["look"]))
    assert (one["memory"], one["available"], one["reserve"], one["budget"]) == (64 * GIB, 20 * GIB, 4 * GIB, 50 * GIB)
    assert (one["before"], one["after"], one["measured"], one["host_gain"]) == (4 * GIB, 3 * GIB, 1, GIB)
    assert (one["message"], one["warnings"], one["feasible"]) == (None, ["look"], True)
    assert one["guests"] == [
        {
            "name": "a",
            "socket": "/run/a.qmp",
            "before": 4 * GIB,
            "after": 3 * GIB,
            "maximum": 8 * GIB,
            "target": 3 * GIB,
            "gain": GIB,
            "outcome": "converged",
            "floor": GIB,
            "ceiling": 8 * GIB,
            "reason": "uses 2 GiB",
            "error": None,
        }
    ]


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        (None, "not_reached", None),
        (False, "not_reached", None),
        ({}, "not_reached", None),
        (
            {"skipped": True, "changed": False, "skip_reason": "Conditional result was False"},
            "not_reached",
            "Conditional result",
        ),
        ({"unreachable": True, "msg": "No route", "failed": True}, "unreachable", "No route"),
        ({"failed": True, "changed": True, "msg": "broken"}, "failed", "broken"),
        ({"failed": "yes", "changed": False}, "failed", "gives no reason"),
        ({"failed": {}, "changed": False}, "unchanged", None),
        ({"msg": "MODULE FAILURE", "module_stderr": "Killed\n"}, "failed", "MODULE FAILURE\nKilled"),
        ({"changed": False, "module_stderr": "Traceback"}, "failed", "Traceback"),
        ({"failed": True, "module_stdout": "only this"}, "failed", "only this"),
        ({"failed": True, "exception": "Traceback", "msg": "short"}, "failed", "short"),
        ({"failed": True, "msg": ["one", 2, "three"]}, "failed", "one\nthree"),
        ({"failed": True, "msg": {"a": 1}}, "failed", "gives no reason"),
        ({"msg": "hello"}, "failed", "hello"),
        ({"ansible_facts": {}}, "failed", "neither that it worked nor"),
        ("a text", "failed", "neither that it worked nor"),
        ([1], "failed", "neither that it worked nor"),
        (7, "failed", "neither that it worked nor"),
        ({"changed": False}, "unchanged", None),
        ({"changed": "no"}, "unchanged", None),
        ({"changed": True}, "changed", None),
        ({"changed": False, "guests": [entry(before=4, after=2)]}, "changed", None),
        ({"changed": False, "failed": False, "guests": [entry(outcome="refused")]}, "failed", "web1: refused"),
        ({"changed": False, "feasible": False}, "failed", "neither"),
    ],
)
def test_status(value: object, status: str, message: str | None) -> None:
    one = host(value)
    assert one["status"] == status
    assert one["message"] is None if message is None else message in one["message"]


def test_a_preview() -> None:
    one = host(result(entry(outcome="would_change", rss_after=None)), check=True)
    assert (one["status"], one["reclaimed"], one["host_gain"]) == ("would_change", GIB, None)
    page = shown(FLEET, check=True)
    assert page["check"]
    assert page["title"].startswith("Preview")
    assert {tile["label"]: tile["value"] for tile in page["tiles"]}["Gained by hosts"] == "unknown"


def test_fixed_targets_have_no_host_and_no_plan() -> None:
    value = {"changed": True, "guests": [entry()], "summary": {}}
    one = host(value)
    assert (one["status"], one["memory"], one["budget"]) == ("changed", None, None)
    assert (one["before"], one["after"]) == (4 * GIB, 3 * GIB)
    (section,) = shown({"hv1": value})["sections"]
    assert section["hosts"][0]["bar"] == [["guests", "37.50"], ["freed", "12.50"]]
    assert not any("udget" in text for text in texts(section["hosts"]))


def test_a_plan_that_is_not_feasible_moved_nothing() -> None:
    guests = [entry(name, 4, 4, outcome="unchanged") for name in "ba"]
    value = result(*guests, failed=True, feasible=False, msg="floors are above the budget", plan=[line("b"), line("a")])
    one = host(value)
    assert (one["status"], one["before"], one["after"], one["reclaimed"]) == ("failed", 8 * GIB, 8 * GIB, 0)
    assert [guest["name"] for guest in one["guests"]] == ["a", "b"]


def test_a_guest_that_is_not_known_is_in_no_sum() -> None:
    one = host(result(entry("a"), entry("b", None, None), entry("c", 4, None)))
    assert (one["measured"], one["before"], one["after"], one["host_gain"]) == (1, 4 * GIB, 3 * GIB, GIB)
    (section,) = shown({"hv1": result(entry("a"), entry("b", None, None))})["sections"]
    assert "4 GiB (1 of 2 guests)" in list(texts(section))


def test_no_guests_is_zero_and_no_figures_are_unknown() -> None:
    assert [host({"changed": False, "guests": []})[key] for key in SUMS] == [0] * 5
    assert [host({"changed": False})[key] for key in SUMS] == [None] * 5
    totals = fleet_report({"hv1": None})["totals"]
    assert [totals[key] for key in (*SUMS, "memory", "budget")] == [None] * 7


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "4", float("nan"), float("inf"), 1 << 63, 10**400, [], {}, [4], {"a": 4}]
)
def test_what_is_no_size_is_unknown(value: object) -> None:
    one = host(
        {
            "changed": False,
            "budget": value,
            "reserve": value,
            "host": {"total": value, "available": value, "swap_used": value},
            "plan": [line(floor=value, ceiling=value, target=value)],
            "guests": [entry(maximum=value, actual_before=value, actual_after=value, target=value, rss_before=value)],
        }
    )
    keys = ("budget", "reserve", "memory", "available", "swap_used", *SUMS)
    assert [one[key] for key in keys] == [None] * len(keys)
    (guest,) = one["guests"]
    assert [guest[key] for key in FIGURES] == [None] * len(FIGURES)


def test_failed_guests_come_first_and_hosts_count_like_people() -> None:
    one = host(result(entry("a2"), entry("a10"), entry("z", outcome="failed", error={"code": "timeout", "message": "late"})))
    assert [guest["name"] for guest in one["guests"]] == ["z", "a2", "a10"]
    names = ["hv2", "hv10", "hv010", "hv", "10", "9", "hv" + "1" * 5000, "hv²"]
    ordered = [one["name"] for one in fleet_report(dict.fromkeys(names))["hosts"]]
    assert ordered.index("hv2") < ordered.index("hv10")
    assert ordered.index("9") < ordered.index("10")
    assert ordered == [one["name"] for one in fleet_report(dict.fromkeys(reversed(names)))["hosts"]]


def test_odd_names_become_text() -> None:
    one = host({"failed": True, "msg": "a\x1b[31m\r\nb\tc\u202e", "guests": [entry("\ud800\n\x00x")]})
    assert one["message"] == "a\\x1b[31m\nb   c\\u202e"
    assert one["guests"][0]["name"] == "\\ud800\\n\\x00x"
    assert len(host({"failed": True, "msg": "x" * 10**6})["message"]) < 21_000


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ({}, "There are no hosts in this report."),
        ({"a": {"changed": True}}, "The only host is done."),
        ({"a": {"changed": True}, "b": {"changed": False}}, "Both hosts are done."),
        ({name: {"changed": True} for name in "abc"}, "All 3 hosts are done."),
        ({"a": {"changed": True}, "b": None}, "1 of 2 hosts is done, 1 was not reached."),
        (FLEET, "3 of 6 hosts are done, 2 failed, 1 was not reached."),
    ],
)
def test_verdict(results: dict[str, Any], verdict: str) -> None:
    assert shown(results)["verdict"].replace("\N{NO-BREAK SPACE}", " ") == verdict


def test_a_bar_is_the_hosts_memory() -> None:
    (section,) = shown({"hv1": result(entry("a", 8, 4), entry("b", 8, 8))})["sections"]
    (one,) = section["hosts"]
    # Of 64 GiB: 4 for the host, 12 with guests, 4 given up, 34 more of the budget of 50.
    assert one["bar"] == [["reserve", "6.25"], ["guests", "18.75"], ["freed", "6.25"], ["left", "53.12"]]
    assert one["limit"] == "84.38"
    assert (one["change"], one["gain"]) == ("16 \N{RIGHTWARDS ARROW} 12 GiB", "4 GiB")
    assert ["left", "Left of the budget", "38 GiB"] in one["figures"]


def test_a_bar_above_the_budget_and_above_the_memory() -> None:
    (section,) = shown({"hv1": result(entry("a", 60, 70), budget=50 * GIB)})["sections"]
    (one,) = section["hosts"]
    assert sum(float(width) for _name, width in one["bar"]) == pytest.approx(100, abs=0.05)
    assert ["", "Above the budget", "20 GiB"] in one["figures"]
    assert one["gain"] == "\N{MINUS SIGN}10 GiB"


def test_many_guests_do_not_bury_the_failed_one() -> None:
    guests = [entry(f"g{number}") for number in range(20)]
    (section,) = shown({"hv1": result(*guests, entry("z", outcome="stalled"))})["sections"]
    (one,) = section["hosts"]
    assert [(group["title"], len(group["guests"])) for group in one["groups"]] == [("", 1), ("The other 20 guests", 20)]
    (section,) = shown({"hv1": result(*guests)})["sections"]
    assert [(group["title"], len(group["guests"])) for group in section["hosts"][0]["groups"]] == [("", 20)]


def test_the_page_is_escaped() -> None:
    markup = "<img src=x onerror=alert(1)>\"'&"
    guest = entry(markup, socket=markup, outcome="failed", error={"code": markup, "message": markup})
    value = result(guest, failed=True, msg=markup, warnings=[markup], plan=[line(socket=markup, reason=markup)])
    page = fleet_page(fleet_report({markup: value, markup * 2: None}, started=markup, written=markup))
    found = [text for text in texts(page) if "onerror" in text]
    assert len(found) > 8
    assert all("&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;" in text for text in found)


def test_the_template_shows_nothing_but_the_page() -> None:
    """Ansible escapes nothing: a variable that does not come from fleet_page could be markup."""
    source = TEMPLATE.read_text()
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 # as in Ansible
    environment.filters["ballast.qemu.fleet_page"] = fleet_page
    assert jinja2.meta.find_undeclared_variables(environment.parse(source)) == {"memory_policy_report"}
    assert re.findall(r".*memory_policy_report\b.*", source) == [USED]
    assert "safe" not in re.findall(r"\|\s*(\w+)", source)


def test_filters() -> None:
    report = report_plugin.FilterModule().filters()["fleet_report"](FLEET, check=True)
    assert report == fleet_report(FLEET, check=True)
    assert page_plugin.FilterModule().filters()["fleet_page"](report) == fleet_page(report)


@pytest.mark.parametrize("value", [None, [], "hv1", 7])
def test_filters_say_what_they_want(value: object) -> None:
    with pytest.raises(AnsibleFilterError, match="dictionary of hosts"):
        report_plugin.FilterModule().filters()["fleet_report"](value)
    with pytest.raises(AnsibleFilterError, match="not a report"):
        page_plugin.FilterModule().filters()["fleet_page"](value)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=0, max_value=1 << 40)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["<b>", "yes", "failed", "converged", "refused", "/run/a.qmp"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def some_of(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Anything, or a dictionary with some of those keys."""
    return JSON | st.fixed_dictionaries({}, optional={key: value | JSON for key, value in keys.items()})


def bytes_() -> st.SearchStrategy[int]:
    return st.integers(min_value=0, max_value=1 << 44)


GUESTS = some_of(
    name=st.text(max_size=9),
    socket=st.sampled_from(["/run/a.qmp", "/run/b.qmp"]),
    maximum=bytes_(),
    actual_before=bytes_(),
    actual_after=bytes_(),
    target=bytes_(),
    rss_before=bytes_(),
    rss_after=bytes_(),
    outcome=st.sampled_from(["converged", "failed", "unchanged", "would_change", "pending"]),
    error=some_of(code=st.text(max_size=4), message=st.text(max_size=9)),
)
PLANS = some_of(
    name=st.text(max_size=9),
    socket=st.sampled_from(["/run/a.qmp", "/run/c.qmp"]),
    current=bytes_(),
    target=bytes_(),
    floor=bytes_(),
    ceiling=bytes_(),
    reason=st.text(max_size=9),
)
RESULTS = some_of(
    changed=st.booleans(),
    failed=st.booleans(),
    unreachable=st.booleans(),
    skipped=st.booleans(),
    feasible=st.booleans(),
    msg=st.text(),
    module_stderr=st.text(),
    budget=bytes_(),
    reserve=bytes_(),
    host=some_of(total=bytes_(), available=bytes_(), swap_used=bytes_()),
    plan=st.lists(PLANS, max_size=3),
    guests=st.lists(GUESTS, max_size=3),
    warnings=st.lists(st.text(max_size=9), max_size=2),
    summary=JSON,
)


@given(st.dictionaries(st.text(max_size=6), RESULTS, max_size=4), st.booleans(), JSON)
def test_any_result_makes_a_report_that_adds_up(results: dict[str, Any], check: bool, when: object) -> None:
    report = fleet_report(results, check=check, started=when, written=when)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    totals, hosts = report["totals"]["hosts"], report["hosts"]
    assert totals["total"] == len(results) == len(hosts)
    assert totals["done"] + totals["failed"] + totals["not_reached"] == totals["total"]
    assert totals["changed"] + totals["unchanged"] == totals["done"]
    assert len(report["remaining"]) == totals["failed"] + totals["not_reached"]
    order = [STATUSES.index(one["status"]) for one in hosts]
    assert order == sorted(order)
    for key in SUMS:
        known = [one[key] for one in hosts if one[key] is not None]
        assert report["totals"][key] == (sum(known) if known else None)
    for one in [*hosts, report["totals"]]:
        if one["before"] is not None:
            assert one["before"] - one["after"] == one["reclaimed"] - one["returned"]
    assert sum(len(one["guests"]) for one in hosts) == report["totals"]["guests"]["total"]


@given(st.dictionaries(st.text(max_size=6), RESULTS, max_size=4), st.booleans())
def test_any_result_makes_a_page_without_markup_or_overflow(results: dict[str, Any], check: bool) -> None:
    page = shown(results, check=check)
    for text in texts(page):
        assert not set(text) & set("<>\"'")
        text.encode()
    for section in page["sections"]:
        assert int(section["count"]) == len(section["hosts"]) + len(section["names"])
        for one in section["hosts"]:
            bars = [one["bar"], *(guest["bar"] for group in one["groups"] for guest in group["guests"])]
            for drawn in bars:
                assert sum(float(width) for _name, width in drawn) <= 100.05

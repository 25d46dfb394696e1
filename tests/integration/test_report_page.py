# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as ``ansible-playbook`` writes it, and its page as a browser shows it."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from tests.integration.conftest import MIB, ROOT, run_ansible

GIB = 1 << 30
DESKTOP, PHONE, SMALLEST = 1280, 390, 360
LARGEST_PAGE = 6_000_000
SLOWEST_REPORT = 60.0  # seconds, on a machine that has more to do
HOSTILE = "<script>alert(1)</script>"
HOSTILES = [HOSTILE, '"><img src=http://192.0.2.1/x onerror=alert(2)>', "{{ 7 * 7 }}' onmouseover='alert(3)"]
NO_ROUTE = "Failed to connect to the host via ssh: No route to host"
STOPPED = "stopped at 3 GiB, 1 GiB short of its target; the target was taken back"

OVERFLOWING = """() => [document.documentElement.scrollWidth > innerWidth ? "page" : null,
    ...[...document.querySelectorAll("body *:not(.unseen, .skip, thead, thead *)")]
        .filter(part => part.getBoundingClientRect().right > innerWidth + 1).map(part => part.outerHTML.slice(0, 200))
    ].filter(Boolean).slice(0, 5)"""

# The contrast of every text with what is behind it, by WCAG 2: [ratio, text], the worst one first.
CONTRASTS = """() => {
    const rgba = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const light = ([r, g, b]) => [r, g, b].map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = part => {
        for (; part; part = part.parentElement) {
            const colour = rgba(getComputedStyle(part).backgroundColor);
            if (colour[3] === 1) return colour;
            if (colour[3] !== 0) throw new Error("half transparent: " + part.outerHTML);
        }
        throw new Error("no background");
    };
    return [...document.querySelectorAll("body *")]
        .filter(part => [...part.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()))
        .map(part => {
            const pair = [light(rgba(getComputedStyle(part).color)), light(behind(part))].sort((one, other) => other - one);
            return [(pair[0] + 0.05) / (pair[1] + 0.05), part.textContent.trim().slice(0, 60)];
        }).sort((one, other) => one[0] - other[0]);
}"""

# The parts of the bars inside of an element, each with its share of its bar in percent.
BARS = """part => [...part.querySelectorAll(".bar")].map(bar => [...bar.querySelectorAll("i:not(.limit)")]
    .map(piece => [piece.className, 100 * piece.getBoundingClientRect().width / bar.getBoundingClientRect().width]))"""

FOCUSED = "() => [document.activeElement.innerText, getComputedStyle(document.activeElement).outlineStyle]"
MARKUP = "script, img, iframe, object, embed, svg, link, base, form"

Open = Callable[..., AbstractContextManager[Page]]


@dataclass(frozen=True)
class Report:
    """What the tasks wrote, and how they did."""

    folder: Path
    seconds: float
    output: str

    @property
    def data(self) -> dict[str, Any]:
        data = json.loads((self.folder / "report.json").read_text())
        assert isinstance(data, dict)
        return data

    @property
    def html(self) -> str:
        return (self.folder / "report.html").read_text()

    @property
    def remaining(self) -> list[str]:
        return (self.folder / "remaining").read_text().splitlines()

    def host(self, name: str) -> dict[str, Any]:
        (host,) = [host for host in self.data["hosts"] if host["name"] == name]
        assert isinstance(host, dict)
        return host


def guest(name: str, before: int, after: int, **facts: Any) -> dict[str, Any]:
    """A guest of 16 GiB as the modules return it; memory in GiB."""
    usual = {
        "name": name,
        "uuid": None,
        "socket": f"/run/vms/{name.encode().hex()[:60]}.qmp",
        "maximum": 16 * GIB,
        "actual_before": before * GIB,
        "actual_after": after * GIB,
        "target": after * GIB,
        "rss_before": before * GIB,
        "rss_after": after * GIB + 100 * MIB,
        "outcome": "unchanged" if before == after else "converged",
        "seconds": 1.5,
        "error": None,
    }
    return {**usual, **facts}


def result(*guests: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """What ``qemu_memory_policy`` returns of a host of 64 GiB."""
    line = {"floor": 2 * GIB, "ceiling": 16 * GIB, "used": GIB, "need": 2 * GIB, "shares": 1000}
    plan = [
        {**line, "name": guest["name"], "socket": guest["socket"], "current": guest["actual_before"], "target": guest["target"]}
        | {"reason": "uses 1 GiB, needs 2 GiB; the rest is its share of what nobody needs"}
        for guest in guests
    ]
    return {
        "changed": any(guest["actual_before"] != guest["actual_after"] for guest in guests),
        "feasible": True,
        "budget": 48 * GIB,
        "reserve": 8 * GIB,
        "host": {"total": 64 * GIB, "available": 20 * GIB, "swap_used": 0, "pressure": None},
        "plan": plan,
        "guests": list(guests),
        **facts,
    }


def mixed() -> dict[str, Any]:
    """A fleet with everything that can become of a host, among hosts that are well."""
    stalled = guest("db1", 4, 3, target=2 * GIB, outcome="stalled", error={"code": "timeout", "message": STOPPED})
    crash = "Traceback (most recent call last):\n  File <stdin>\nMemoryError"
    return {
        "well": result(guest("web1", 12, 8), guest("web2", 4, 4), guest("web3", 6, 10)),
        "still": result(guest("web1", 4, 4)),
        "hostile": result(*(guest(name, 8, 4) for name in HOSTILES), guest("x" * 300, 8, 8), warnings=[HOSTILE]),
        "stalls": result(stalled, *(guest(f"g{number}", 4, 3) for number in range(9)), failed=True, msg=f"1 of 10: {STOPPED}"),
        "crashed": {"failed": True, "changed": False, "rc": 1, "msg": "MODULE FAILURE", "module_stderr": crash},
        "full": result(
            guest("web1", 9, 9), failed=True, feasible=False, budget=6 * GIB, guests=[], msg="not feasible: " + HOSTILE
        ),
        "gone": {"unreachable": True, "changed": False, "msg": NO_ROUTE},
        "odd": {"changed": True, "guests": [None, 7, {"name": 5, "actual_before": "many"}], "host": "none", "budget": -1},
        "later": None,
        "last": None,
    }


def large() -> dict[str, Any]:
    """500 hosts with 20 guests each."""
    turns = itertools.cycle([(12, 8), (4, 4), (6, 10), (16, 3), (2, 2)])
    fleet: dict[str, Any] = {
        f"hv{number:03}.example.org": result(
            *(guest(f"guest{number}-{other}", *next(turns)) for other in range(20)),
            budget=300 * GIB,
            host={"total": 384 * GIB, "available": 20 * GIB, "swap_used": 0, "pressure": None},
        )
        for number in range(500)
    }
    for number in range(100, 110):
        stopped = fleet[f"hv{number}.example.org"]
        stopped.update(failed=True, msg=STOPPED)
        stopped["guests"][3].update(outcome="stalled", error={"code": "timeout", "message": STOPPED})
    for number in range(450, 500):
        fleet[f"hv{number}.example.org"] = None
    return fleet


def write(folder: Path, fleet: dict[str, Any], *flags: str, trusted: bool = False) -> Report:
    """Have the playbook's tasks write a report about a fleet.

    Modules' results are data and no templates to Ansible, as is what is read from a file; hosts' variables are templates.
    Those are faster to pass on, for many hosts.
    """
    for name in ("tasks", "templates"):
        (folder / name).symlink_to(ROOT / "playbooks" / name)
    (folder / "fleet.json").write_text(json.dumps(fleet))
    known = {name: {"memory_policy_result": value} if value and trusted else {} for name, value in fleet.items()}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": known, "vars": {"ansible_connection": "local"}}}))
    read = {
        "name": "Read what came of it",
        "ansible.builtin.set_fact": {"memory_policy_result": "{{ fleet[inventory_hostname] }}"},
        "vars": {"fleet": f"{{{{ lookup('ansible.builtin.file', '{folder}/fleet.json') | from_json }}}}"},
        "when": "fleet[inventory_hostname] is mapping",
    }
    tasks = [*([] if trusted else [read]), {"name": "Write the report", "ansible.builtin.import_tasks": "tasks/report.yml"}]
    settings = {"memory_policy_report_folder": str(folder / "report"), "memory_policy_started": "2026-03-01 04:00 UTC"}
    play = {"name": "Report", "hosts": "all", "gather_facts": False, "vars": settings, "tasks": tasks}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    began = time.monotonic()
    finished = run_ansible("ansible-playbook", "-i", folder / "hosts.json", folder / "play.yml", *flags)
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output
    assert not re.search(r"changed=[1-9]|WARNING", output), output
    return Report(folder / "report", time.monotonic() - began, output)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write(tmp_path_factory.mktemp("real"), mixed())


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write(tmp_path_factory.mktemp("preview"), mixed(), "--check", "--diff")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write(tmp_path_factory.mktemp("many"), large(), trusted=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Open:
    """Open a report's page. Whatever it asks for, logs, or has people answer beyond itself is an error."""

    @contextmanager
    def open_page(report: Report, width: int = DESKTOP, scheme: Any = "light", *, script: bool = False) -> Iterator[Page]:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script, offline=True
        )
        page = context.new_page()
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        address = (report.folder / "report.html").as_uri()
        page.goto(address)
        yield page
        context.close()
        assert seen == [address]

    return open_page


def open_all(page: Page) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach(part => { part.open = true; })")


def top(page: Page, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"]


def test_files(real: Report) -> None:
    assert sorted(path.name for path in real.folder.iterdir()) == ["remaining", "report.html", "report.json"]
    assert stat.S_IMODE(real.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in real.folder.iterdir()} == {0o600}
    assert real.remaining == ["crashed", "full", "gone", "last", "later", "stalls"]
    assert real.data["started"] == "2026-03-01 04:00 UTC"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", real.data["written"])


def test_data(real: Report) -> None:
    data = real.data
    assert data["check"] is False
    assert [(host["name"], host["status"]) for host in data["hosts"]] == [
        *(("crashed", "failed"), ("full", "failed"), ("stalls", "failed"), ("gone", "unreachable")),
        *(("hostile", "changed"), ("odd", "changed"), ("well", "changed"), ("still", "unchanged")),
        *(("last", "not_reached"), ("later", "not_reached")),
    ]
    assert data["totals"]["reclaimed"] == (4 + 3 * 4 + 10) * GIB
    assert data["totals"]["returned"] == 4 * GIB
    # To Ansible a name is no template either.
    assert {guest["name"] for guest in real.host("hostile")["guests"]} >= set(HOSTILES)


def test_a_report_leaves_an_old_folder_as_it_is_and_no_list_where_no_host_remains(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir(mode=0o755)
    (folder / "remaining").write_text("old\n")
    (folder / "notes").write_text("mine")
    report = write(tmp_path, {"well": result(guest("web1", 12, 8))})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "report.html", "report.json"]
    assert report.data["remaining"] == []


def test_failures_come_first_and_in_full(real: Report, opened: Open) -> None:
    with opened(real) as page:
        tops = [top(page, f"#{key}") for key in ("failed", "unreachable", "changed", "unchanged", "not-reached")]
        assert tops == sorted(tops)
        assert page.locator("main h3").all_inner_texts() == [host["name"] for host in real.data["hosts"][:-2]]
        assert page.locator("details[open] h3").all_inner_texts() == ["crashed", "full", "stalls", "gone"]
        assert page.locator("#failed .message").all_inner_texts() == [
            "MODULE FAILURE\nTraceback (most recent call last):\n  File <stdin>\nMemoryError",
            f"not feasible: {HOSTILE}",
            f"1 of 10: {STOPPED}",
        ]
        assert page.locator("#unreachable .message").inner_text() == NO_ROUTE
        stalled = page.locator("#failed details tr.no")
        assert stalled.inner_text().split()[0] == "db1"
        assert f"[timeout] {STOPPED}" in stalled.inner_text()
        assert page.locator(".more > summary").inner_text() == "The other 9 guests"
        assert page.get_by_text("g1", exact=True).is_hidden()


def test_figures(real: Report, opened: Open) -> None:
    with opened(real) as page:
        verdict = page.locator(".verdict").inner_text().replace("\N{NO-BREAK SPACE}", " ")
        assert verdict == "4 of 10 hosts are done, 4 failed, 2 were not reached."
        tiles = dict(
            zip(page.locator(".tiles dt").all_inner_texts(), page.locator(".tiles .value").all_inner_texts(), strict=True)
        )
        assert tiles == {
            "Hosts done": "4",
            "Hosts failed": "4",
            "Hosts not reached": "2",
            "Reclaimed": "26 GiB",
            "Returned": "4 GiB",
            "Gained by hosts": "20.2 GiB",
        }
        row = page.locator("summary", has_text="well").inner_text()
        assert re.sub(r"\s+", " ", row) == "well Guests 22 GiB gained \N{MINUS SIGN}300 MiB"
        assert page.locator("summary", has_text="odd").inner_text().count("unknown") == 1
        assert page.locator(".names li").all_inner_texts() == ["last", "later"]
        assert page.get_by_text("--limit @remaining").is_visible()


def test_bars_are_as_wide_as_their_figures(real: Report, opened: Open) -> None:
    with opened(real) as page:
        open_all(page)
        (bars,) = [part.evaluate(BARS) for part in page.locator("details", has=page.get_by_text("hostile", exact=True)).all()]
    # Of 64 GiB: 8 in reserve, 20 with guests, 12 taken from them, 16 more of the budget. Of each guest's 16: 4, and 4 taken.
    assert [[name for name, _width in drawn] for drawn in bars[:2]] == [
        ["reserve", "guests", "freed", "left"],
        ["guests", "freed"],
    ]
    for drawn, wanted in zip(bars, [[12.5, 31.25, 18.75, 25], [25, 25], [25, 25], [50], [25, 25]], strict=True):
        assert [width for _name, width in drawn] == pytest.approx(wanted, abs=0.3)


@pytest.mark.parametrize("width", [DESKTOP, PHONE, SMALLEST])
def test_nothing_is_wider_than_the_screen(real: Report, opened: Open, width: int) -> None:
    with opened(real, width) as page:
        assert page.evaluate(OVERFLOWING) == []
        open_all(page)
        assert page.evaluate(OVERFLOWING) == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(preview: Report, opened: Open, scheme: str, width: int) -> None:
    with opened(preview, width, scheme) as page:
        open_all(page)
        contrasts = page.evaluate(CONTRASTS)
        dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 26)"
    assert dark == (scheme == "dark")
    assert len(contrasts) > 100
    assert contrasts[0][0] >= 4.5, contrasts[:5]


def test_a_keyboard_gets_everywhere_and_shows_where_it_is(real: Report, opened: Open) -> None:
    with opened(real) as page:
        seen = []
        for _turn in range(8):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(FOCUSED))
    assert " ".join(text.split()[0] for text, _style in seen) == "Skip Failed Unreachable Changed Unchanged Not crashed full"
    assert {style for _text, style in seen} == {"solid"}


def test_names_are_names_and_no_markup(real: Report, opened: Open) -> None:
    """With scripts allowed: nothing that a guest's name brings becomes an element, or runs, or is loaded."""
    with opened(real, script=True) as page:
        assert page.locator(MARKUP).count() == 0
        attributes = page.evaluate(
            "() => [...new Set([...document.querySelectorAll('*')].flatMap(part => part.getAttributeNames()))].sort()"
        )
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        open_all(page)
        page.locator("tr", has_text="onmouseover").hover()
        names = {text.splitlines()[0] for text in page.locator("tbody th").all_inner_texts()}
    assert names >= set(HOSTILES)


def test_structure_for_readers_that_do_not_see(real: Report, opened: Open) -> None:
    with opened(real) as page:
        assert page.locator("html").get_attribute("lang") == "en"
        for landmark in ("banner", "navigation", "main", "contentinfo"):
            assert page.get_by_role(landmark).count() == 1
        assert page.get_by_role("heading", level=1).inner_text() == "Memory of the fleet"
        assert page.get_by_role("heading", level=2).count() == 5
        open_all(page)
        for table in page.locator("table").all():
            assert table.locator("thead th[scope=col]").count() == 3
            assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()
        assert page.locator(".bar:not([aria-hidden])").count() == 0


def test_a_preview_says_so(real: Report, preview: Report, opened: Open) -> None:
    assert preview.data["check"] is True
    with opened(preview) as page:
        banner = page.get_by_text("Preview: nothing was changed")
        assert banner.is_visible()
        assert top(page, ".preview") < top(page, "h1")
        assert page.title().startswith("Preview")
        assert page.get_by_role("heading", name="Would change").is_visible()
        assert page.get_by_text("--limit").count() == 0
    with opened(real) as page:
        assert page.get_by_text("Preview").count() == 0


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_500_hosts(many: Report, opened: Open, width: int) -> None:
    assert many.seconds < SLOWEST_REPORT
    assert len(many.html.encode()) < LARGEST_PAGE
    assert len(many.remaining) == 60
    with opened(many, width) as page:
        assert page.locator("summary.row").count() == 450
        assert page.locator("tbody tr").count() == 9000
        assert page.locator("details[open]").count() == 10
        assert page.locator("#failed .message").count() == 10
        assert page.locator("#failed .message").first.is_visible()
        assert page.locator(".names li").count() == 50
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        page.locator("nav a[href='#not-reached']").click()
        assert 0 <= top(page, "#not-reached h2") < 900

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's policy on real guests. QEMU itself records every target that it is given, and is asked at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MIB, ROOT, ROOT_ONLY, Answer, policy
from tests.lab import Guest, GuestSpec, Lab

BUDGET = 480 * MIB
TOLERANCE = MIB
RECORDED = ("-trace", "virtio_balloon_to_target", "-msg", "timestamp=on")
HOST = [
    GuestSpec("busy", 256, busy_mib=120, touched=True, extra_args=RECORDED),
    GuestSpec("idle1", 256, touched=True, extra_args=RECORDED),
    GuestSpec("idle2", 256, touched=True, extra_args=RECORDED),
]


@pytest.fixture(scope="module")
def guests() -> Iterator[Lab]:
    """A host with a busy guest and two idle ones."""
    with Lab() as lab:
        lab.up(*HOST)
        yield lab


@pytest.fixture
def host(guests: Lab) -> Lab:
    """The same, with all guests at their full memory."""
    for spec in HOST:
        guests[spec.name].reset()
    return guests


def sockets(lab: Lab) -> str:
    return f"{lab.folder}/*.qmp"


def actual(lab: Lab) -> dict[str, int]:
    return {spec.name: lab[spec.name].actual() for spec in HOST}


def recorded(lab: Lab) -> list[tuple[float, str, int]]:
    """Every target that QEMU was given so far, by its own records: when, whose, and how many bytes."""
    found = []
    for spec in HOST:
        lines = re.findall(r"@([\d.]+):virtio_balloon_to_target balloon target: (\w+)", lab[spec.name].complaints())
        found += [(float(at), spec.name, int(target, 16)) for at, target in lines]
    return sorted(found)


def sums(start: dict[str, int], targets: list[tuple[float, str, int]]) -> list[int]:
    """What all targets were together, at the start and after every command."""
    standing = dict(start)
    found = [sum(standing.values())]
    for _at, name, target in targets:
        standing[name] = target
        found.append(sum(standing.values()))
    return found


def planned(answer: Answer) -> dict[str, int]:
    return {line["name"]: line["target"] for line in answer.results["plan"]}


def reasons(answer: Answer) -> dict[str, str]:
    return {line["name"]: line["reason"] for line in answer.results["plan"]}


def assert_same(one: dict[str, int], other: dict[str, int]) -> None:
    """Memory in use never stands quite still: the same within the tolerance that guests are brought to their targets with."""
    assert one.keys() == other.keys()
    assert all(abs(one[name] - other[name]) <= TOLERANCE for name in one), (one, other)


class TestOneHost:
    def test_the_preview_is_what_the_run_does(self, host: Lab) -> None:
        start, before = actual(host), len(recorded(host))
        preview = policy("--check", "--diff", socket=sockets(host), budget="480M")
        assert preview.ok
        assert preview.results["feasible"]
        assert preview.results["timeline"] == []
        assert "-idle1: 256 MiB" in preview.text
        assert len(recorded(host)) == before
        assert actual(host) == start

        run = policy(socket=sockets(host), budget="480M")
        assert run.ok
        assert run.results["changed"]
        assert_same(planned(run), planned(preview))
        assert_same(planned(run), actual(host))  # QEMU's own word
        assert run.results["budget"] == BUDGET
        assert sum(actual(host).values()) <= BUDGET

        [busy] = [line for line in run.results["plan"] if line["name"] == "busy"]
        assert busy["used"] > 120 * MIB
        assert actual(host)["busy"] >= busy["need"] >= busy["used"] * 5 // 4
        assert actual(host)["idle1"] < 140 * MIB
        assert actual(host)["idle2"] < 140 * MIB

        again = policy(socket=sockets(host), budget="480M")
        assert again.ok
        assert not again.results["changed"]
        assert again.results["timeline"] == []

    def test_never_more_than_the_budget_or_what_stood(self, host: Lab) -> None:
        """The busy guest starts small, so that it grows by what the idle ones give."""
        host["busy"].set_target(216 * MIB)
        host["busy"].wait_actual(216 * MIB)
        start, before = actual(host), len(recorded(host))
        run = policy(socket=sockets(host), budget="480M", deadband="0")
        assert run.ok
        targets = recorded(host)[before:]
        assert max(sums(start, targets)) == sum(start.values()) > BUDGET
        assert sums(start, targets)[-1] <= BUDGET
        # Once it is within the budget it stays there.
        within = [total <= BUDGET for total in sums(start, targets)]
        assert within == sorted(within)
        assert [name for _at, name, target in targets if target > start[name]] == ["busy"]
        assert targets[-1][1] == "busy"
        # What the module tells of it is what QEMU tells of it.
        assert [(line["name"], line["target"]) for line in run.results["timeline"]] == [
            (name, target) for _at, name, target in targets
        ]

    def test_without_a_budget_the_hosts_memory_is_shared(self, host: Lab) -> None:
        first = policy(socket=sockets(host))
        assert first.ok
        reserve = first.results["reserve"]
        assert abs(reserve - first.results["host"]["total"] // 10) <= MIB
        assert 0 < first.results["budget"] < first.results["host"]["total"] - reserve
        assert not first.results["changed"]

    def test_floors_above_the_budget(self, host: Lab) -> None:
        start, before = actual(host), len(recorded(host))
        for flags in ([], ["--check"]):
            answer = policy(*flags, socket=sockets(host), budget="480M", rules=[{"match": "*", "min": "200M"}])
            assert not answer.ok
            assert not answer.results["feasible"]
            assert "120 MiB more than the budget of 480 MiB" in answer.results["msg"]
            assert "Nothing was touched" in answer.results["msg"]
        assert len(recorded(host)) == before
        assert actual(host) == start

    def test_rules(self, host: Lab) -> None:
        rules: list[dict[str, Any]] = [
            {"match": "idle1", "pin": True},
            {"match": "idle*", "max": "50%"},
            {"match": "*", "min": "75%", "shares": 3000},
        ]
        answer = policy(socket=sockets(host), budget="640M", rules=rules)
        assert answer.ok
        assert actual(host)["idle1"] == 256 * MIB
        assert actual(host)["idle2"] == 128 * MIB
        assert "pinned" in reasons(answer)["idle1"]
        assert [line["floor"] for line in answer.results["plan"] if line["name"] == "busy"] == [192 * MIB]


@pytest.fixture(scope="module")
def odd() -> Iterator[Lab]:
    """One busy guest, one paused, one without driver, and an idle one."""
    with Lab() as lab:
        lab.up(
            GuestSpec("busy", 256, busy_mib=120, touched=True),
            GuestSpec("asleep", 256, paused=True),
            GuestSpec("driverless", 256, driver=False),
            GuestSpec("idle", 256, touched=True),
        )
        yield lab


class TestLeftAlone:
    def test_named_charged_and_the_rest_served(self, odd: Lab) -> None:
        answer = policy(socket=sockets(odd), budget="880M")
        assert answer.ok
        assert "not running (QEMU says: paused)" in reasons(answer)["asleep"]
        assert "no balloon driver" in reasons(answer)["driverless"]
        charged = {line["name"]: line["charged"] for line in answer.results["plan"]}
        assert charged["asleep"] >= 256 * MIB <= charged["driverless"]
        assert sum(charged.values()) <= 880 * MIB
        assert [answer.named(name)["error"]["code"] for name in ("asleep", "driverless")] == ["not_running", "no_driver"]
        assert "asleep, driverless" in answer.text
        assert odd["idle"].actual() < 140 * MIB
        assert odd["busy"].actual() > 220 * MIB
        assert odd["asleep"].actual() == odd["driverless"].actual() == 256 * MIB
        again = policy(socket=sockets(odd), budget="880M")
        assert again.ok
        assert not again.results["changed"]

    def test_a_dead_monitor_fails_and_the_rest_is_served(self, odd: Lab) -> None:
        odd["idle"].reset()
        answer = policy(socket=[sockets(odd), f"{odd.folder}/gone.qmp"], budget="880M")
        assert not answer.ok
        assert answer.named("gone")["error"]["code"] == "not_found"
        assert odd["idle"].actual() < 140 * MIB

    @ROOT_ONLY
    def test_memory_that_would_not_come_back(self) -> None:
        with Lab() as lab:
            lab.up(GuestSpec("locked", 256, mem_lock=True), GuestSpec("idle", 256))
            answer = policy(socket=sockets(lab), budget="1G", rules=[{"match": "*", "max": "60%"}])
            assert answer.ok
            assert answer.named("locked")["error"]["code"] == "memory_locked"
            assert lab["locked"].actual() == 256 * MIB
            assert lab["idle"].actual() < 160 * MIB


class TestStalls:
    """A guest that a rule may squeeze below what it uses cannot give what is asked of it."""

    RULES = ({"match": "busy", "min": "100M"}, {"match": "idle1", "min": "256M"}, {"match": "idle2", "min": "110M"})

    def prepare(self, host: Lab) -> None:
        host["idle1"].set_target(140 * MIB)
        host["idle1"].wait_actual(140 * MIB)

    def test_others_get_less(self, host: Lab) -> None:
        self.prepare(host)
        start, before = actual(host), len(recorded(host))
        answer = policy(socket=sockets(host), budget="480M", rules=self.RULES)
        assert not answer.ok
        assert answer.named("busy")["outcome"] == "stalled"
        assert answer.named("idle2")["outcome"] == "converged"
        assert planned(answer)["busy"] < actual(host)["busy"] < 256 * MIB
        assert "idle1 gets" in answer.text
        assert actual(host)["idle1"] < 256 * MIB == planned(answer)["idle1"]
        assert max(sums(start, recorded(host)[before:])) <= sum(start.values())
        assert sum(actual(host).values()) <= BUDGET

    def test_or_all_go_back(self, host: Lab) -> None:
        self.prepare(host)
        start, before = actual(host), len(recorded(host))
        answer = policy(socket=sockets(host), budget="480M", rules=self.RULES, on_failure="rollback")
        assert not answer.ok
        assert not answer.results.get("changed")
        assert_same(actual(host), start)
        assert answer.named("idle2")["error"]["code"] == "rolled_back"
        assert max(sums(start, recorded(host)[before:])) <= sum(start.values())


@pytest.fixture(scope="module")
def big() -> Iterator[Lab]:
    """A guest that takes a while to shrink, and one that waits for what it gives."""
    with Lab() as lab:
        lab.up(GuestSpec("big", 1536, touched=True), GuestSpec("small", 256))
        yield lab


class TestInterrupted:
    @pytest.fixture
    def waiting(self, big: Lab) -> Lab:
        big["big"].reset()
        big["small"].reset()
        big["small"].set_target(110 * MIB)
        big["small"].wait_actual(110 * MIB)
        return big

    @contextlib.contextmanager
    def half_way(self, lab: Lab, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """The controller, at a moment when the big guest is on its way."""
        command = self.command(lab)
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(ROOT / ".cache" / "ansible")}
        with (folder / "output").open("wb") as output:
            controller = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 60
            while not 500 * MIB < lab["big"].actual() < 1500 * MIB:
                assert time.monotonic() < deadline, (folder / "output").read_text()
                assert controller.poll() is None, (folder / "output").read_text()
            yield controller
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(controller.pid, signal.SIGKILL)
            controller.wait()

    def command(self, lab: Lab) -> list[str]:
        options = json.dumps({"socket": sockets(lab), "budget": "640M"})
        ansible = Path(sys.executable).with_name("ansible")
        return [str(ansible), "localhost", "-m", "qemu_memory_policy", "-a", options]

    def assert_well_in_the_end(self, lab: Lab) -> None:
        """The same command again does what is left, and after it there is nothing left to do."""
        again = policy(socket=sockets(lab), budget="640M")
        assert again.ok, again.text
        assert lab["big"].actual() + lab["small"].actual() <= 640 * MIB
        assert lab["small"].actual() > 200 * MIB
        assert not policy(socket=sockets(lab), budget="640M").results["changed"]

    def test_kill_9_of_the_controller(self, waiting: Lab, tmp_path: Path) -> None:
        with self.half_way(waiting, tmp_path) as controller:
            controller.kill()
            controller.wait()
            # At once, while what was started on the host may still be at work.
            self.assert_well_in_the_end(waiting)

    def test_kill_9_of_all_that_the_controller_started(self, waiting: Lab, tmp_path: Path) -> None:
        """Not even the module lives on; its target does, and the next run comes to terms with it."""
        with self.half_way(waiting, tmp_path) as controller:
            os.killpg(controller.pid, signal.SIGKILL)
            controller.wait()
            self.assert_well_in_the_end(waiting)

    def test_sigterm_of_the_module(self, waiting: Lab, tmp_path: Path) -> None:
        with self.half_way(waiting, tmp_path) as controller:
            module = holder(waiting["big"])
            os.kill(module, signal.SIGTERM)
            assert controller.wait(timeout=30) != 0
            assert "interrupted by SIGTERM" in (tmp_path / "output").read_text()
            left = waiting["big"].actual()
            assert left > 500 * MIB
            assert waiting["big"].actual() == left
            self.assert_well_in_the_end(waiting)


def holder(guest: Guest) -> int:
    """The process that is connected to a guest's monitor."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"AnsiballZ_qemu_memory_policy" in (entry / "cmdline").read_bytes() and "sh" not in (entry / "comm").read_text():
                return int(entry.name)
    raise AssertionError(f"nobody works on {guest.name}")

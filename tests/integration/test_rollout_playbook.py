# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook ``ballast.qemu.rollout`` on a fleet of three, each of them this machine with one real guest of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MIB, ROOT, run_ansible
from tests.lab import GuestSpec, Lab

FULL, BUDGET = 256, 160
HOSTS = ("first", "second", "third")
ALL_AT_ONCE = ("-e", "memory_policy_serial=0")
RECAP = re.compile(r"^(\w+) +: ok=\d+ +changed=(\d+) +unreachable=\d+ +failed=(\d+) ", re.MULTILINE)


@dataclass
class Fleet:
    """Three hosts; what a test adds to their variables, or to those of all, is gone after it."""

    lab: Lab
    folder: Path
    shared: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in HOSTS})

    def roll_out(self, *flags: str, pipelining: bool = True) -> Run:
        """Run the playbook in a folder of its own, with an inventory beside it; pipelining only makes it faster."""
        finished = subprocess.run(
            **self.command(*flags, pipelining=pipelining), capture_output=True, text=True, timeout=120, check=False
        )
        return Run(finished.returncode, finished.stdout + finished.stderr, self.folder / "memory-policy-report")

    def command(self, *flags: str, pipelining: bool = True) -> dict[str, Any]:
        """Write the inventory and return what starts the playbook with it."""
        inventory = self.folder / "inventory.json"
        shared = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "memory_policy_socket": f"{self.lab.folder}/{{{{ inventory_hostname }}}}.qmp",
            "memory_policy_budget": f"{BUDGET}M",
            **self.shared,
        }
        inventory.write_text(json.dumps({"all": {"hosts": self.variables, "vars": shared}}))
        tool = Path(sys.executable).with_name("ansible-playbook")
        environment = {
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".dev"),
            "ANSIBLE_PIPELINING": str(pipelining),
        }
        return {"args": [tool, "ballast.qemu.rollout", "-i", inventory, *flags], "cwd": self.folder, "env": environment}

    def memory(self) -> dict[str, int]:
        """What QEMU says that each host's guest has, in MiB."""
        return {name: self.lab[name].actual() // MIB for name in HOSTS}

    def break_second(self) -> None:
        """Lead one host's policy to a guest that has ended and left its socket behind."""
        dead = self.lab.folder / "dead.qmp"
        dead.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(dead))
        self.variables["second"]["memory_policy_socket"] = str(dead)


@dataclass(frozen=True)
class Run:
    """How a rollout ended."""

    status: int
    text: str
    report_folder: Path

    @property
    def report(self) -> dict[str, Any]:
        """The report for programs."""
        report = json.loads((self.report_folder / "report.json").read_text())
        assert isinstance(report, dict)
        return report

    @property
    def statuses(self) -> dict[str, str]:
        """What the report calls each host."""
        return {host["name"]: host["status"] for host in self.report["hosts"]}

    @property
    def remaining(self) -> list[str]:
        """The hosts that a later run is to be limited to."""
        return (self.report_folder / "remaining").read_text().split()

    @property
    def recap(self) -> dict[str, tuple[int, int]]:
        """How many tasks have changed something on each host, and how many failed, as Ansible itself counts."""
        return {name: (int(changed), int(failed)) for name, changed, failed in RECAP.findall(self.text)}


@pytest.fixture(scope="module")
def guests() -> Iterator[Lab]:
    """One guest for each host."""
    with Lab() as lab:
        lab.up(*(GuestSpec(name, FULL) for name in HOSTS))
        yield lab


@pytest.fixture
def fleet(guests: Lab, tmp_path: Path) -> Fleet:
    """The fleet, with all guests at their full memory."""
    for name in HOSTS:
        guests[name].reset()
    return Fleet(guests, tmp_path)


def test_a_failed_host_stops_the_rollout_and_the_rest_is_taken_up_again(fleet: Fleet) -> None:
    fleet.break_second()
    run = fleet.roll_out()
    assert run.status == 2, run.text
    assert fleet.memory() == {"first": BUDGET, "second": FULL, "third": FULL}
    assert run.statuses == {"first": "changed", "second": "failed", "third": "not_reached"}
    assert run.remaining == ["second", "third"]
    assert run.recap == {"first": (1, 0), "second": (0, 1), "third": (0, 0)}
    assert "connection_refused" in run.text
    assert run.text.count(f"--limit @{run.report_folder}/remaining") == 1

    del fleet.variables["second"]["memory_policy_socket"]
    rest = fleet.roll_out("--limit", "@memory-policy-report/remaining", *ALL_AT_ONCE)
    assert rest.status == 0, rest.text
    assert fleet.memory() == dict.fromkeys(HOSTS, BUDGET)
    assert rest.statuses == {"second": "changed", "third": "changed"}
    assert rest.recap == {"second": (1, 0), "third": (1, 0)}
    assert not (rest.report_folder / "remaining").exists()
    assert rest.text.count(f"{rest.report_folder}/report.html") == 1

    again = fleet.roll_out(*ALL_AT_ONCE)
    assert again.status == 0, again.text
    assert again.recap == dict.fromkeys(HOSTS, (0, 0))
    assert set(again.statuses.values()) == {"unchanged"}


def test_a_killed_rollout_leaves_its_own_list_and_ends_well_the_second_time(fleet: Fleet) -> None:
    fleet.roll_out("--limit", "first", "--check")
    remaining = fleet.folder / "memory-policy-report" / "remaining"
    assert not remaining.exists()
    with subprocess.Popen(**fleet.command(), stdout=subprocess.DEVNULL, start_new_session=True) as controller:
        deadline = time.monotonic() + 60
        while not remaining.exists():
            assert time.monotonic() < deadline
            assert controller.poll() is None
        controller.kill()
    assert remaining.read_text().split() == list(HOSTS)
    preview = fleet.roll_out("--limit", f"@{remaining}", "--check", *ALL_AT_ONCE)
    assert preview.status == 0, preview.text
    rest = fleet.roll_out("--limit", f"@{remaining}", "-e", '{"memory_policy_serial": ["1", "100%"]}')
    assert rest.status == 0, rest.text
    assert fleet.memory() == dict.fromkeys(HOSTS, BUDGET)
    assert not remaining.exists()


def test_the_others_of_a_failed_hosts_batch_are_served(fleet: Fleet) -> None:
    fleet.break_second()
    run = fleet.roll_out("--limit", "second,third", "-e", '{"memory_policy_serial": [2, "100%"]}')
    assert run.status == 2, run.text
    assert run.statuses == {"second": "failed", "third": "changed"}
    assert run.remaining == ["second"]
    assert fleet.memory()["third"] == BUDGET


@pytest.mark.parametrize(
    ("flags", "rest", "memory"), [((), "not_reached", FULL), (ALL_AT_ONCE, "changed", BUDGET)], ids=["alone", "among others"]
)
def test_a_host_out_of_reach(fleet: Fleet, flags: tuple[str, ...], rest: str, memory: int) -> None:
    fleet.variables["first"] |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    run = fleet.roll_out(*flags)
    assert run.status == 2, run.text
    assert run.statuses == {"first": "unreachable", "second": rest, "third": rest}
    assert run.recap["first"] == (0, 1)
    assert fleet.memory() == {"first": FULL, "second": memory, "third": memory}


def test_a_preview_from_the_repository_changes_nothing_and_writes_a_report(fleet: Fleet, tmp_path: Path) -> None:
    fleet.roll_out("--list-hosts")  # writes the inventory
    folder = tmp_path / "elsewhere" / "preview"
    command = ["ansible-playbook", "ballast.qemu.rollout", "-i", str(tmp_path / "inventory.json"), "--check", "--diff"]
    finished = run_ansible(*command, *ALL_AT_ONCE, "-e", f"memory_policy_report_folder={folder}")
    run = Run(finished.returncode, finished.stdout + finished.stderr, folder)
    assert run.status == 0, run.text
    assert fleet.memory() == dict.fromkeys(HOSTS, FULL)
    assert run.report["check"] is True
    assert run.statuses == dict.fromkeys(HOSTS, "would_change")
    assert run.recap == dict.fromkeys(HOSTS, (1, 0))
    assert "+++ after" in run.text
    assert "report.json" not in run.text  # the report's own differences are nobody's business
    assert not (ROOT / "memory-policy-report").exists()


def test_fixed_targets_win_over_the_groups_policy(fleet: Fleet) -> None:
    fleet.variables["second"]["memory_policy_guests"] = [{"socket": f"{fleet.lab.folder}/second.qmp", "target": "200M"}]
    fleet.variables["third"] |= {"memory_policy_guests": [], "memory_policy_rules": [{"match": "*", "max": "50%"}]}
    run = fleet.roll_out(*ALL_AT_ONCE)
    assert run.status == 0, run.text
    assert fleet.memory() == {"first": BUDGET, "second": 200, "third": 128}
    assert run.statuses == dict.fromkeys(HOSTS, "changed")


def test_the_report_is_written_as_the_one_who_typed_the_command(fleet: Fleet) -> None:
    """What all hosts have as a variable, the controller has too."""
    fleet.shared |= {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": "/bin/false"}
    run = fleet.roll_out(*ALL_AT_ONCE)
    assert run.status == 2, run.text
    assert run.statuses == dict.fromkeys(HOSTS, "failed")
    assert run.report_folder.stat().st_uid == os.geteuid()


def test_each_host_is_visited_once(fleet: Fleet) -> None:
    """Without pipelining, each module that runs on a host is put there first."""
    fleet.break_second()
    run = fleet.roll_out("-vvv", *ALL_AT_ONCE, pipelining=False)
    assert run.status == 2, run.text
    put = Counter(re.findall(r"^<(\w+)> PUT .*/AnsiballZ_(\w+)\.py$", run.text, re.MULTILINE))
    visits = {pair: count for pair, count in put.items() if pair[0] != "localhost"}
    assert visits == {(name, "qemu_memory_policy"): 1 for name in HOSTS}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("memory_policy_timeout", "soon", "argument 'memory_policy_timeout' is of type"),
        ("memory_policy_on_stall", "panic", "value of memory_policy_on_stall must be one of: settle, rollback, keep"),
        ("memory_policy_rules", [{"match": "web*", "mim": "1G"}], "mim"),
        ("memory_policy_rule", [{"match": "web*"}], "memory_policy_rule: no such variable, see"),
        ("memory_policy_buffer", "a quarter", "memory_policy_buffer: 'a quarter' is not a size"),
        (
            "memory_policy_rules",
            [{"match": "web*", "min": 512}],
            "memory_policy_rules, number 1: min: a number alone",
        ),
        ("memory_policy_socket", [], "missing required arguments: memory_policy_socket or memory_policy_guests"),
        ("memory_policy_budget", "{{ nowhere }}", "'nowhere' is undefined"),
    ],
)
def test_a_wrong_variable_of_the_last_host_is_found_before_the_first_is_touched(
    fleet: Fleet, name: str, value: Any, told: str
) -> None:
    fleet.variables["third"][name] = value
    run = fleet.roll_out()
    assert run.status == 2, run.text
    failed = [line for line in run.text.splitlines() if line.startswith("fatal: ")]
    assert failed[-1].startswith("fatal: [third]")
    assert told in failed[-1]
    assert all(len(line) < 400 for line in failed), failed
    assert run.recap == {"first": (0, 0), "second": (0, 0), "third": (0, 1)}
    assert fleet.memory() == dict.fromkeys(HOSTS, FULL)
    assert run.statuses == dict.fromkeys(HOSTS, "not_reached")


@pytest.mark.parametrize("serial", ["two", "2.5%", "-2", "1 5", "1;2", "101%", "9999999"])
def test_batches_that_are_no_sizes(fleet: Fleet, serial: str) -> None:
    run = fleet.roll_out("-e", json.dumps({"memory_policy_serial": serial}))
    assert run.status == 2
    assert f"memory_policy_serial: write 5, or 1,10%,50%, not {serial}" in run.text
    assert "Roll out" not in run.text

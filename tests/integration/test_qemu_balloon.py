# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``qemu_balloon`` on real guests; QEMU itself, asked over another monitor, is the witness."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MIB, ROOT, ROOT_ONLY, balloon, run_ansible
from tests.lab import Guest, Lab

INTERVAL = {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"}


def stands_still(guest: Guest, seconds: float = 1.0) -> bool:
    """Whether the guest keeps its size; a driver with an unreachable target retries every 200 ms."""
    before = guest.actual()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if abs(guest.actual() - before) > MIB:
            return False
        time.sleep(0.05)
    return True


def test_shrinks_then_leaves_alone(plain: Guest) -> None:
    rss_before = plain.rss()
    first = balloon(socket=plain.socket, target="160M")
    assert first.ok
    assert first.results["changed"]
    assert first.guest["outcome"] == "converged"
    assert first.guest["name"] == "plain"
    assert first.guest["pid"] == plain.pid
    assert first.guest["uid"] == os.geteuid()
    assert (first.guest["maximum"], first.guest["actual_before"], first.guest["actual_after"]) == (
        256 * MIB,
        256 * MIB,
        160 * MIB,
    )
    assert first.guest["error"] is None
    assert plain.actual() == 160 * MIB
    assert plain.rss() < rss_before
    assert first.guest["rss_after"] < first.guest["rss_before"]
    summary = first.results["summary"]
    assert (summary["guests"], summary["changed"], summary["failed"]) == (1, 1, 0)
    assert (summary["reclaimed"], summary["returned"]) == (96 * MIB, 0)
    assert summary["host_gain"] == first.guest["rss_before"] - first.guest["rss_after"]

    assert "mem-lock" not in first.text

    second = balloon(socket=plain.socket, target="160M")
    assert second.ok
    assert not second.results["changed"]
    assert second.guest["outcome"] == "unchanged"


def test_gives_back(plain: Guest) -> None:
    balloon(socket=plain.socket, target="160M")
    answer = balloon(socket=plain.socket, target="max")
    assert answer.guest["outcome"] == "converged"
    assert answer.results["summary"]["returned"] == 96 * MIB
    assert plain.actual() == 256 * MIB


def test_check_mode_and_diff_touch_nothing(plain: Guest) -> None:
    answer = balloon("--check", "--diff", socket=plain.socket, target="160M")
    assert answer.results["changed"]
    assert answer.guest["outcome"] == "would_change"
    assert "-plain: 256 MiB" in answer.text
    assert "+plain: 160 MiB" in answer.text
    assert plain.actual() == 256 * MIB
    assert plain.qmp("qom-get", **INTERVAL) == 0


def test_check_mode_refuses_what_the_run_would_refuse(busy: Guest) -> None:
    assert balloon("--check", socket=busy.socket, target="160M").guest["error"]["code"] == "unsafe_target"


def test_all_guests_at_once_by_glob_and_percentage(lab: Lab, plain: Guest, other: Guest) -> None:
    answer = balloon(socket=[plain.socket, f"{lab.folder}/othe?.qmp"], target="75%")
    assert answer.ok
    assert answer.results["summary"]["changed"] == 2
    assert plain.actual() == 192 * MIB
    assert other.actual() == 384 * MIB
    assert answer.named("other")["uuid"] == "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9"


def test_different_targets_in_one_task(plain: Guest, other: Guest) -> None:
    answer = balloon(
        guests=[
            {"socket": plain.socket, "target": "150M", "floor": "140M"},
            {"socket": other.socket, "expected_uid": str(os.geteuid())},
        ],
        target="50%",
    )
    assert answer.ok, answer.text
    assert plain.actual() == 150 * MIB
    assert other.actual() == 256 * MIB


def test_below_the_floor_is_refused(plain: Guest) -> None:
    answer = balloon(socket=plain.socket, target="1M")
    assert not answer.ok
    assert not answer.results["changed"]
    assert answer.guest["outcome"] == "refused"
    assert answer.guest["error"]["code"] == "below_floor"
    assert "128M" in answer.guest["error"]["message"]
    assert plain.actual() == 256 * MIB
    assert stands_still(plain)


def test_above_the_maximum_is_refused_where_qemu_would_clamp(plain: Guest) -> None:
    answer = balloon(socket=plain.socket, target="300M")
    assert answer.guest["error"]["code"] == "above_maximum"
    assert plain.actual() == 256 * MIB


def test_a_stalled_guest_is_settled(plain: Guest) -> None:
    answer = balloon(socket=plain.socket, floor="16M", headroom="0", target="20M")
    assert not answer.ok
    assert answer.guest["outcome"] == "stalled"
    assert answer.guest["error"]["code"] == "timeout"
    assert answer.results["changed"]
    reached = answer.guest["actual_after"]
    assert 20 * MIB < reached < 128 * MIB
    assert plain.actual() == reached
    # With the target of 20 MiB still there, its driver would go on trying.
    assert stands_still(plain, 3.0)


def test_a_stalled_guest_is_rolled_back(plain: Guest) -> None:
    answer = balloon(socket=plain.socket, floor="16M", headroom="0", target="20M", on_stall="rollback")
    assert not answer.ok
    assert answer.guest["outcome"] == "stalled"
    assert not answer.results["changed"]
    assert answer.guest["actual_after"] == 256 * MIB
    assert plain.actual() == 256 * MIB
    assert stands_still(plain)


def test_a_stalled_guest_may_be_kept_trying(plain: Guest) -> None:
    answer = balloon(socket=plain.socket, floor="16M", headroom="0", target="20M", on_stall="keep")
    assert answer.guest["outcome"] == "stalled"
    assert answer.results["changed"]
    assert "left standing" in answer.guest["error"]["message"]


def test_without_waiting(plain: Guest) -> None:
    answer = balloon(socket=plain.socket, target="160M", wait=False)
    assert answer.ok
    assert answer.results["changed"]
    assert answer.guest["outcome"] == "pending"
    plain.wait_actual(160 * MIB)


def test_a_busy_guest_keeps_its_headroom(busy: Guest) -> None:
    answer = balloon(socket=busy.socket, target="160M")
    assert not answer.ok
    assert answer.guest["outcome"] == "refused"
    assert answer.guest["error"]["code"] == "unsafe_target"
    assert busy.actual() == 256 * MIB
    assert busy.qmp("qom-get", **INTERVAL) == 0
    lowest = answer.guest["error"]["message"].rsplit(" ", 1)[1]
    assert 200 * MIB < int(lowest.removesuffix("M")) * MIB < 256 * MIB
    assert balloon(socket=busy.socket, target=f"{int(lowest.removesuffix('M')) - 8}M").guest["outcome"] == "refused"
    assert balloon(socket=busy.socket, target=lowest).guest["outcome"] == "converged"
    # Growing is always safe.
    assert balloon(socket=busy.socket, target="max").guest["outcome"] == "converged"


def test_somebody_elses_polling_interval_is_left_alone(busy: Guest) -> None:
    busy.qmp("qom-set", **INTERVAL, value=2)
    assert balloon(socket=busy.socket, target="160M").guest["error"]["code"] == "unsafe_target"
    assert busy.qmp("qom-get", **INTERVAL) == 2


def test_old_figures_do_not_count_as_room(busy: Guest) -> None:
    """While somebody else polls now and then, shrinking step by step must not eat up the headroom."""
    busy.qmp("qom-set", **INTERVAL, value=4)
    stats = busy.stats()
    used = 256 * MIB - stats["stat-available-memory"]
    room = used // MIB + 60
    assert balloon(socket=busy.socket, target=f"{room + 2}M", headroom="56M").guest["outcome"] == "converged"
    refused = balloon(socket=busy.socket, target=f"{room - 20}M", headroom="56M").guest
    assert refused["error"]["code"] == "unsafe_target"


def test_guests_that_cannot_answer_are_refused_and_the_rest_served(lab: Lab, plain: Guest) -> None:
    names = ["asleep", "driverless", "balloonless"]
    answer = balloon(socket=[plain.socket, *(lab[name].socket for name in names)], target="160M", floor="64M")
    assert not answer.ok
    codes = {name: answer.named(name)["error"]["code"] for name in names}
    assert codes == {"asleep": "not_running", "driverless": "no_driver", "balloonless": "no_balloon"}
    assert all(answer.named(name)["outcome"] == "refused" for name in names)
    assert answer.named("plain")["outcome"] == "converged"
    assert plain.actual() == 160 * MIB
    # Their targets are as they were: awake, the guest keeps its memory.
    lab["asleep"].resume()
    try:
        assert stands_still(lab["asleep"])
        assert lab["asleep"].actual() == 256 * MIB
    finally:
        lab["asleep"].pause()


@ROOT_ONLY
def test_qemu_of_another_user(lab: Lab) -> None:
    guest = lab["nobodys"]
    guest.reset()
    assert balloon(socket=guest.socket, target="160M", expected_uid="nobody").guest["outcome"] == "converged"
    refused = balloon(socket=guest.socket, target="max", expected_uid="root").guest
    assert refused["error"]["code"] == "untrusted_peer"
    for word in ("nobody (uid 65534)", "root (uid 0)", "expected_uid"):
        assert word in refused["error"]["message"]
    assert guest.actual() == 160 * MIB


@ROOT_ONLY
def test_roots_qemu_is_not_nobodys(plain: Guest) -> None:
    refused = balloon(socket=plain.socket, target="160M", expected_uid="nobody").guest
    assert refused["error"]["code"] == "untrusted_peer"
    assert plain.actual() == 256 * MIB


@ROOT_ONLY
def test_locked_memory_is_said_not_to_come_back(lab: Lab) -> None:
    guest = lab["locked"]
    guest.reset()
    answer = balloon(socket=guest.socket, target="160M")
    assert answer.guest["outcome"] == "converged"
    assert answer.results["summary"]["host_gain"] < 16 * MIB
    assert "mem-lock" in answer.text


@pytest.mark.parametrize("target", ["abc", "-5M", "120%", "0", "", "512MB"])
def test_bad_targets_are_clear_errors(plain: Guest, target: str) -> None:
    answer = balloon(socket=plain.socket, target=target)
    assert not answer.ok
    assert "guests" not in answer.results
    assert answer.results["msg"].startswith("target: ")
    assert plain.actual() == 256 * MIB


def test_bad_lists_are_clear_errors(plain: Guest, other: Guest) -> None:
    wrong: list[dict[str, Any]] = [
        {"socket": [], "target": "160M"},
        {"guests": []},
        {"socket": [plain.socket, plain.socket], "target": "160M"},
        {"guests": [{"socket": plain.socket, "target": "160M"}, {"socket": plain.socket, "target": "170M"}]},
        {"guests": [{"socket": other.socket, "target": "300M"}, {"socket": plain.socket}]},
        {"socket": [plain.socket], "guests": [{"socket": other.socket}], "target": "160M"},
        {"target": "160M"},
        {"socket": [other.socket]},
        {"socket": [other.socket, "plain.qmp"], "target": "300M"},
        {"socket": [other.socket], "target": "300M", "expected_uid": "no-such-user"},
        {"socket": [other.socket], "target": "300M", "timeout": 0},
    ]
    for options in wrong:
        answer = balloon(**options)
        assert not answer.ok
        assert "guests" not in answer.results
        assert answer.results["msg"]
    assert (plain.actual(), other.actual()) == (256 * MIB, 512 * MIB)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_unreachable_target(plain: Guest, ending: signal.Signals, tmp_path: Path) -> None:
    arguments = tmp_path / "args.json"
    arguments.write_text(
        f'{{"ANSIBLE_MODULE_ARGS": {{"socket": ["{plain.socket}"], "target": "20M", "floor": "16M", "headroom": "0"}}}}'
    )
    module = subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.ballast.qemu.plugins.modules.qemu_balloon", arguments],
        cwd=ROOT / ".dev",
        stdout=subprocess.PIPE,
        text=True,
    )
    while plain.actual() > 128 * MIB:
        assert module.poll() is None
        time.sleep(0.02)
    module.send_signal(ending)
    output, _nothing = module.communicate(timeout=30)
    assert "interrupted by " + ending.name in output
    reached = plain.actual()
    assert reached > 20 * MIB
    assert stands_still(plain, 2.0)


PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  module_defaults:
    group/ballast.qemu.qemu:
      socket: {sockets}
  tasks:
    - name: Shrink
      ballast.qemu.qemu_balloon:
        target: 160M
      register: shrunk
    - name: Read
      ballast.qemu.qemu_balloon_info:
      register: read
    - name: Agree
      ansible.builtin.assert:
        that:
          - shrunk.guests[0].actual_after == read.guests[0].actual_before
          - read.host.total > read.host.available
"""


def test_a_playbook_with_module_defaults(plain: Guest, tmp_path: Path) -> None:
    playbook = tmp_path / "shrink.yml"
    playbook.write_text(PLAYBOOK.format(sockets=plain.socket))
    for changed in (1, 0):
        finished = run_ansible("ansible-playbook", playbook)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert f"ok=3    changed={changed}" in finished.stdout

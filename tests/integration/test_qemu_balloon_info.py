# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``qemu_balloon_info`` on real guests: it tells everything and leaves no trace."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.integration.conftest import MIB, Answer, ad_hoc
from tests.lab import Guest, Lab

BALLOON = "/machine/peripheral/balloon0"


def info(**options: object) -> Answer:
    return ad_hoc("ballast.qemu.qemu_balloon_info", **options)


def test_everything_about_guests_and_host(lab: Lab, plain: Guest, other: Guest) -> None:
    plain.stats()
    answer = info(socket=f"{lab.folder}/*.qmp", expected_uid=str(os.geteuid()))
    entry = answer.named("other")
    assert entry["uuid"] == "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9"
    assert (entry["maximum"], entry["actual_before"], entry["actual_after"]) == (512 * MIB, 512 * MIB, 512 * MIB)
    assert (entry["deflate_on_oom"], entry["free_page_reporting"], entry["driver"]) == (True, True, True)
    assert entry["pid"] == other.pid
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["qemu_version"])
    plain_entry = answer.named("plain")
    assert (plain_entry["deflate_on_oom"], plain_entry["free_page_reporting"], plain_entry["status"]) == (
        False,
        False,
        "running",
    )
    assert 0 < plain_entry["stats"]["available_memory"] < 256 * MIB
    assert plain_entry["stats_age"] < 30
    assert plain_entry["stats_interval"] == 0
    assert answer.named("asleep")["status"] == "paused"
    assert answer.named("driverless")["driver"] is False
    assert (answer.named("driverless")["stats"], answer.named("driverless")["stats_age"]) == (None, None)
    assert answer.named("balloonless")["error"]["code"] == "no_balloon"
    host = answer.results["host"]
    assert host["total"] > host["available"] > 0
    assert host["swap_used"] >= 0
    assert (host["pressure"] is None) != Path("/proc/pressure/memory").exists()


def test_statistics_grow_old(plain: Guest) -> None:
    plain.stats()
    first = info(socket=plain.socket).guest
    second = info(socket=plain.socket).guest
    assert second["stats"] == first["stats"]
    assert second["stats_age"] > first["stats_age"]


def test_no_effect_on_the_guest(plain: Guest) -> None:
    def state() -> tuple[object, ...]:
        return (
            plain.actual(),
            plain.qmp("qom-get", path=BALLOON, property="guest-stats-polling-interval"),
            plain.qmp("qom-get", path=BALLOON, property="guest-stats"),
            plain.qmp("query-status"),
        )

    before = state()
    answer = info(socket=plain.socket)
    assert answer.ok
    assert not answer.results["changed"]
    assert state() == before


def test_a_guest_that_cannot_be_read_fails_and_keeps_no_other(lab: Lab, plain: Guest) -> None:
    answer = info(socket=[plain.socket, lab.folder / "nothing.qmp"])
    assert not answer.ok
    assert answer.named("nothing")["error"]["code"] == "not_found"
    assert answer.named("plain")["actual_before"] == 256 * MIB
    assert answer.results["host"]["total"] > 0

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options: what is wrong with them is said before any guest is touched, and names the option."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import OptionError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import (
    expand_sockets,
    parse_allowance,
    parse_policy,
    parse_requests,
    parse_timeout,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.policy import Policy, Rule
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.rollout import Allowance

MIB = 1 << 20
GIB = 1 << 30
SOCKETS = ["/run/a.qmp", "/run/b.qmp"]


def options(**given: Any) -> dict[str, Any]:
    """Return what Ansible hands over: every option, with its default."""
    usual = {
        "socket": None,
        "guests": None,
        "target": None,
        "expected_uid": None,
        "floor": "128M",
        "headroom": "64M",
        "tolerance": "1M",
    }
    return {**usual, **given}


def guest(path: str, **given: Any) -> dict[str, Any]:
    return {"socket": path, "target": None, "expected_uid": None, "floor": None, **given}


def test_one_target_for_all() -> None:
    first, second = parse_requests(options(socket=SOCKETS, target="60%"))
    assert [first.socket, second.socket] == SOCKETS
    assert first.expected_uid == os.geteuid()
    assert first.target.resolve(GIB) >= GIB * 6 // 10
    assert (first.floor.resolve(GIB), first.headroom.resolve(GIB), first.tolerance.resolve(GIB)) == (128 * MIB, 64 * MIB, MIB)


def test_guests_override_what_is_for_all() -> None:
    own, common = parse_requests(
        options(
            guests=[guest("/run/a.qmp", target="max", expected_uid="nobody", floor="1G"), guest("/run/b.qmp")],
            target="512M",
            expected_uid="4711",
        )
    )
    assert (own.target.resolve(GIB), own.expected_uid, own.floor.resolve(GIB)) == (GIB, pwd.getpwnam("nobody").pw_uid, GIB)
    assert (common.target.resolve(GIB), common.expected_uid, common.floor.resolve(GIB)) == (512 * MIB, 4711, 128 * MIB)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"socket": [], "target": "1G"}, r"^socket: the list is empty"),
        ({"guests": [], "target": "1G"}, r"^guests: the list is empty"),
        ({"socket": SOCKETS}, r"^target: "),
        ({"guests": [guest("/run/a.qmp", target="1G"), guest("/run/b.qmp")]}, r"^guests, number 2: target: .*/run/b\.qmp"),
        ({"socket": ["run/a.qmp"], "target": "1G"}, r"^socket: 'run/a\.qmp' is not the absolute path"),
        ({"socket": [""], "target": "1G"}, r"^socket: '' is not the absolute path"),
        ({"socket": ["localhost:4444"], "target": "1G"}, r"TCP monitor"),
        ({"socket": ["tcp:127.0.0.1:4444"], "target": "1G"}, r"TCP monitor"),
        ({"socket": ["/run/a\0.qmp"], "target": "1G"}, r"^socket: "),
        ({"guests": [guest("tcp:[::1]:4444", target="1G")]}, r"^guests, number 1: socket: .*TCP monitor"),
        ({"guests": [guest("/run/\0", target="1G")]}, r"^guests, number 1: socket: "),
        ({"socket": ["/run/a.qmp", "/run/a.qmp"], "target": "1G"}, r"^socket: /run/a\.qmp is named twice"),
        ({"socket": ["/run/a.qmp", "/run/../run//a.qmp"], "target": "1G"}, r"^socket: .*named twice \(as /run/a\.qmp\)"),
        ({"socket": ["/run/a.qmp", "/run/a.qmp/"], "target": "1G"}, r"^socket: "),
        ({"socket": ["/run/a.qmp", "/run/a.qmp/."], "target": "1G"}, r"^socket: "),
        ({"guests": [guest("/run/a.qmp"), guest("/run/./a.qmp")], "target": "1G"}, r"^guests: .*named twice"),
        ({"socket": SOCKETS, "target": "1G", "expected_uid": "no-such-user"}, r"^expected_uid: .*'no-such-user'"),
        ({"socket": SOCKETS, "target": "1G", "expected_uid": ""}, r"^expected_uid: "),
        ({"socket": SOCKETS, "target": "1G", "expected_uid": "-1"}, r"^expected_uid: "),
        ({"socket": SOCKETS, "target": "1G", "expected_uid": "4294967295"}, r"^expected_uid: "),
        ({"socket": SOCKETS, "target": "1G", "expected_uid": "9" * 5000}, r"^expected_uid: "),
        ({"socket": SOCKETS, "target": "1G", "expected_uid": "a\0b"}, r"^expected_uid: "),
        ({"guests": [guest("/run/a.qmp", expected_uid="?")], "target": "1G"}, r"^guests, number 1: expected_uid: "),
        ({"guests": [guest("/run/a.qmp", target="2 GB")]}, r"^guests, number 1: target: '2 GB' is not a size"),
        ({"guests": [guest("/run/a.qmp", target="")], "target": "1G"}, r"^guests, number 1: target: '' is not a size"),
        ({"guests": [guest("/run/a.qmp", floor="low")], "target": "1G"}, r"^guests, number 1: floor: "),
        ({"socket": SOCKETS, "target": "0"}, r"^target: "),
        ({"socket": SOCKETS, "target": "101%"}, r"^target: "),
        ({"socket": SOCKETS, "target": "1G", "floor": "max"}, r"^floor: "),
        ({"socket": SOCKETS, "target": "1G", "headroom": "-1M"}, r"^headroom: "),
        ({"socket": SOCKETS, "target": "1G", "tolerance": "some"}, r"^tolerance: "),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_requests(options(**given))


def test_timeout() -> None:
    assert parse_timeout(None) is None
    assert parse_timeout(7) == 7.0
    for seconds in (0, -1, 10**400):
        with pytest.raises(OptionError, match=r"^timeout: "):
            parse_timeout(seconds)


def policy_options(**given: Any) -> dict[str, Any]:
    """Return what Ansible hands over to the policy module."""
    usual: dict[str, Any] = {
        "budget": None,
        "reserve": "10%",
        "rules": [],
        "buffer": "25%",
        "deadband": "32M",
        "max_step": None,
    }
    rules = [{"min": None, "max": None, "shares": 1000, "pin": False, **rule} for rule in given.pop("rules", [])]
    return {**usual, **given, "rules": rules}


def parse_both(given: dict[str, Any]) -> tuple[Policy, Allowance]:
    return parse_policy(given), parse_allowance(given)


class TestPolicy:
    def test_as_it_is_by_default(self) -> None:
        policy, allowance = parse_both(policy_options())
        assert policy.rules == ()
        assert policy.rule("web1") == Rule(match="*")
        assert (policy.buffer.resolve(GIB), policy.deadband.resolve(GIB), policy.max_step) == (GIB // 4, 32 * MIB, None)
        assert allowance.budget is None
        assert allowance.reserve.resolve(10 * GIB) == GIB

    def test_all_that_can_be_said(self) -> None:
        rule = {"match": "db*", "min": "4G", "max": "max", "shares": 0}
        given = policy_options(budget="80%", buffer="300%", max_step="10%", rules=[rule, {"match": "*", "pin": True}])
        policy, allowance = parse_both(given)
        assert allowance.budget is not None
        assert allowance.budget.resolve(10 * GIB) == 8 * GIB
        assert policy.buffer.resolve(GIB) == 3 * GIB
        found = policy.rule("db1")
        assert found.minimum is not None
        assert found.maximum is not None
        assert (found.minimum.resolve(GIB), found.maximum.resolve(GIB), found.shares, found.pin) == (4 * GIB, GIB, 0, False)
        assert policy.rule("DB1").pin

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"budget": "lots"}, r"^budget: 'lots' is not a size; .* of the host's memory"),
            ({"budget": "0"}, r"^budget: '0' is nothing"),
            ({"budget": "64"}, r"^budget: a number alone means bytes, .* did you mean 64M or 64%\?"),
            ({"budget": "101%"}, r"^budget: '101%' is too much of the host's memory"),
            ({"reserve": "8"}, r"^reserve: a number alone"),
            ({"reserve": "-1G"}, r"^reserve: "),
            ({"buffer": "1001%"}, r"^buffer: '1001%' is too much of what the guest uses; percentages end at 1000%"),
            ({"buffer": "25"}, r"^buffer: a number alone .* did you mean 25M or 25%\?"),
            ({"deadband": "some"}, r"^deadband: "),
            ({"deadband": "32"}, r"^deadband: a number alone"),
            ({"max_step": "0"}, r"^max_step: "),
            ({"max_step": "512"}, r"^max_step: a number alone"),
            ({"rules": [{"match": "*"}, {"match": ""}]}, r"^rules, number 2: match is empty"),
            ({"rules": [{"match": "*", "min": "512"}]}, r"^rules, number 1: min: a number alone .* 512M"),
            ({"rules": [{"match": "*", "max": "512"}]}, r"^rules, number 1: max: a number alone .* 512M"),
            ({"rules": [{"match": "*", "max": "0"}]}, r"^rules, number 1: max: "),
            ({"rules": [{"match": "*", "shares": -1}]}, r"^rules, number 1: shares: "),
            ({"rules": [{"match": "*", "shares": 10**9}]}, r"^rules, number 1: shares: "),
            ({"rules": [{"match": "*", "pin": True, "min": "1G"}]}, r"^rules, number 1: pin leaves '\*' alone"),
        ],
    )
    def test_what_is_wrong_is_said(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            parse_both(policy_options(**given))


class TestGlobs:
    @pytest.fixture
    def vms(self, folder: Path) -> Path:
        """Two sockets, a link to one of them, and what else lies about."""
        for name in ("b.qmp", "a.qmp"):
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(folder / name))
        (folder / "c.qmp").touch()
        (folder / "d.qmp").mkdir()
        (folder / "e.qmp").symlink_to("a.qmp")
        return folder

    def test_sockets_in_order_and_links_but_nothing_else(self, vms: Path) -> None:
        assert expand_sockets([f"{vms}/*.qmp"]) == [f"{vms}/a.qmp", f"{vms}/b.qmp", f"{vms}/e.qmp"]

    @pytest.mark.parametrize("pattern", ["*.sock", "c*", "no/*.qmp"])
    def test_one_that_fits_nothing_stays(self, vms: Path, pattern: str) -> None:
        assert expand_sockets([f"{vms}/{pattern}"]) == [f"{vms}/{pattern}"]

    def test_overlaps_are_served_once(self, vms: Path) -> None:
        expected = [f"{vms}/b.qmp", f"{vms}/a.qmp", f"{vms}/e.qmp"]
        assert expand_sockets([f"{vms}/b.qmp", f"{vms}/*.qmp", f"{vms}/../{vms.name}/[ab].qmp"]) == expected

    def test_a_name_with_brackets_in_it(self, folder: Path) -> None:
        assert expand_sockets([f"{folder}/vm[1].qmp"]) == [f"{folder}/vm[1].qmp"]

    def test_two_folders_that_are_one(self, vms: Path) -> None:
        (vms / "link").symlink_to(".")
        with pytest.raises(OptionError, match="twice"):
            expand_sockets([f"{vms}/a.qmp", f"{vms}/link/a.qmp"])

    def test_guests_are_named_one_by_one(self) -> None:
        [request] = parse_requests(options(guests=[guest("/run/*.qmp")], target="1G"))
        assert request.socket == "/run/*.qmp"

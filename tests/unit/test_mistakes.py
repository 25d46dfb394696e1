# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mistakes in inventory variables that are found on the controller."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.ballast.qemu.plugins.plugin_utils.mistakes import policy_mistakes

NAMES = [
    *("socket", "guests", "timeout", "tolerance", "reserve", "budget", "rules", "buffer", "deadband", "max_step"),
    *("target", "floor", "headroom", "expected_uid"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["match", "min", "max", "shares", "pin", "socket", "target"]), inner, max_size=4)
    ),
    max_leaves=6,
)


def mistakes(**variables: Any) -> list[str]:
    return policy_mistakes({f"memory_policy_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"socket": "/run/vms/*.qmp", "budget": "48G", "rules": [{"match": "db*", "min": "50%", "shares": "3000", "pin": "no"}]},
        {"socket": ["/run/vms/*.qmp", "~/vms/*.qmp"], "budget": 51539607552, "rules": None, "timeout": "60", "max_step": "10%"},
        {"guests": [{"socket": "/run/a.qmp", "target": "60%"}, {"socket": "/run/b.qmp"}], "target": "max", "headroom": 0},
        {"guests": [], "socket": "/run/a.qmp"},
        # Wrong types, users and names of options are found by others.
        {"timeout": "soon", "rules": [{"mim": 3}], "socket": 5, "guests": "web1"},
        {"rules": "web*"},
        {"expected_uid": "no-such-user-here"},
    ],
)
def test_nothing_to_say(variables: dict[str, Any]) -> None:
    assert mistakes(**variables) == []


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"buffer": "a quarter"}, ["memory_policy_buffer: 'a quarter' is not a size"]),
        (
            {"budget": 600, "reserve": "-1"},
            ["memory_policy_budget: a number alone", "memory_policy_reserve: '-1' is not a size"],
        ),
        ({"tolerance": "some"}, ["memory_policy_tolerance: "]),
        ({"timeout": 0}, ["memory_policy_timeout: "]),
        ({"rules": [{"match": "*"}, {"match": "a", "max": 512}]}, ["memory_policy_rules, number 2: max: a number alone"]),
        ({"socket": ["run/a.qmp", "/run/b.qmp"]}, ["memory_policy_socket: 'run/a.qmp' is not the absolute path"]),
        ({"guests": [{"socket": "/run/a.qmp"}]}, ["memory_policy_guests, number 1: target: "]),
        ({"guests": [{"socket": "/run/a.qmp", "target": "1G"}], "floor": "low"}, ["memory_policy_floor: "]),
    ],
)
def test_mistakes(variables: dict[str, Any], told: list[str]) -> None:
    found = mistakes(**variables)
    assert len(found) == len(told)
    assert all(one.startswith(expected) for one, expected in zip(found, told, strict=True)), found


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_nothing_is_a_surprise(variables: dict[str, Any]) -> None:
    assert all(isinstance(one, str) for one in mistakes(**variables))

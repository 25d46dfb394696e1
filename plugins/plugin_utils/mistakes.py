# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a host's variables, as far as the controller can tell. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import OptionError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import (
    check_socket,
    parse_allowance,
    parse_policy,
    parse_requests,
    parse_timeout,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size

_PREFIX = "memory_policy_"
_POLICY: dict[str, Any] = {"rules": [], "buffer": "25%", "deadband": "32M", "max_step": None}
_ALLOWANCE: dict[str, Any] = {"budget": None, "reserve": "10%"}
_RULE: dict[str, Any] = {"shares": 1000, "pin": False}
_FIXED = {"target": None, "floor": "128M", "headroom": "64M", "tolerance": "1M", "expected_uid": None}
_GUEST = {"target": None, "expected_uid": None, "floor": None}


def policy_mistakes(variables: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the role's ``variables``, a sentence each. What has a wrong type is passed over."""
    given = {name.removeprefix(_PREFIX): value for name, value in variables.items() if value is not None}
    checks: list[Callable[[], object]] = [lambda: parse_timeout(None if "timeout" not in given else int(given["timeout"]))]
    if given.get("guests"):
        checks.append(lambda: parse_requests(_fixed(given)))
    else:
        checks.append(lambda: parse_size(str(given.get("tolerance", "1M")), "tolerance", zero=True))
        # One option at a time: each mistake is told.
        for options, parse in ((_POLICY, parse_policy), (_ALLOWANCE, parse_allowance)):
            checks += [_checked(parse, {**options, name: given[name]}) for name in options if name in given]
        checks += [_socket(path) for path in _paths(given.get("socket"))]
    return [_PREFIX + mistake for mistake in map(_mistake, checks) if mistake]


def _mistake(check: Callable[[], object]) -> str | None:
    try:
        check()
    except OptionError as error:
        return str(error)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None  # a wrong type, which the role's argument specs tell
    return None


def _checked(parse: Callable[[Mapping[str, Any]], object], options: dict[str, Any]) -> Callable[[], object]:
    return lambda: parse(_texts(options))


def _socket(path: str) -> Callable[[], object]:
    return lambda: check_socket(path, "socket")


def _paths(value: Any) -> list[str]:
    paths = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return [path.strip() for path in paths if isinstance(path, str) and not path.strip().startswith(("~", "$"))]


def _texts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as Ansible hands them to a module: sizes are strings, however they were written."""
    texts: dict[str, Any] = {name: value if value is None else str(value) for name, value in options.items() if name != "rules"}
    if "rules" in options:
        texts["rules"] = [_rule(rule) for rule in options["rules"]]
    return texts


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: None if rule.get(name) is None else str(rule[name]) for name in ("min", "max")}
    shares, pin = int(rule.get("shares", _RULE["shares"])), boolean(rule.get("pin", _RULE["pin"]))
    return {**rule, **sizes, "match": str(rule["match"]), "shares": shares, "pin": pin}


def _fixed(given: Mapping[str, Any]) -> dict[str, Any]:
    options = _texts({name: given.get(name, value) for name, value in _FIXED.items()})
    guests = [{**_GUEST, **_texts(guest), "expected_uid": None} for guest in given["guests"]]
    return {**options, "socket": None, "guests": guests, "expected_uid": None}

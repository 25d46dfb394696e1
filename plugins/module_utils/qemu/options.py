# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module options to frozen values. Everything that can be wrong with them is found here, before any guest is touched."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from .constants import DEFAULT_SHARES
from .errors import OptionError
from .policy import Policy, Rule
from .rollout import Allowance
from .sizes import parse_size
from .targets import Request
from .users import parse_user

_TIMEOUT_MAX = 1_000_000
_SHARES_MAX = 1_000_000
_HOST = "the host's memory"

SOCKET_OPTION: dict[str, Any] = {"type": "list", "elements": "path"}
EXPECTED_UID_OPTION: dict[str, Any] = {"type": "str"}


def parse_requests(options: Mapping[str, Any]) -> list[Request]:
    """Return what is wanted of each guest. Raises OptionError."""
    floor = parse_size(options["floor"], "floor", zero=True)
    headroom = parse_size(options["headroom"], "headroom", zero=True)
    tolerance = parse_size(options["tolerance"], "tolerance", zero=True)
    expected_uid = parse_expected_uid(options["expected_uid"])
    target = None if options["target"] is None else parse_size(options["target"], "target", full=True)
    if options["guests"] is None:
        if target is None:
            raise OptionError("target: say what the guests are to be brought to")
        return [
            Request(socket, expected_uid, target, floor, headroom, tolerance) for socket in expand_sockets(options["socket"])
        ]
    requests = []
    for number, guest in enumerate(options["guests"], start=1):
        where = f"guests, number {number}: "
        own = guest["target"]
        if own is None and target is None:
            raise OptionError(f"{where}target: say what {guest['socket']} is to be brought to, here or for all guests")
        check_socket(guest["socket"], where + "socket")
        requests.append(
            Request(
                socket=guest["socket"],
                expected_uid=expected_uid
                if guest["expected_uid"] is None
                else parse_user(guest["expected_uid"], where + "expected_uid"),
                target=target if own is None and target else parse_size(own, where + "target", full=True),
                floor=floor if guest["floor"] is None else parse_size(guest["floor"], where + "floor", zero=True),
                headroom=headroom,
                tolerance=tolerance,
            )
        )
    if not requests:
        raise OptionError("guests: the list is empty; name at least one guest")
    _check_distinct([request.socket for request in requests], "guests")
    return requests


def parse_policy(options: Mapping[str, Any]) -> Policy:
    """Return how guests are to share their host's memory. Raises OptionError."""
    return Policy(
        rules=tuple(
            _parse_rule(rule, f"rules, number {number}: ") for number, rule in enumerate(options["rules"] or [], start=1)
        ),
        buffer=parse_size(options["buffer"], "buffer", zero=True, unit=True, of="what the guest uses", most=1000),
        deadband=parse_size(options["deadband"], "deadband", zero=True, unit=True),
        max_step=None if options["max_step"] is None else parse_size(options["max_step"], "max_step", unit=True),
    )


def parse_allowance(options: Mapping[str, Any]) -> Allowance:
    """Return how much memory the guests may have together. Raises OptionError."""
    return Allowance(
        budget=None if options["budget"] is None else parse_size(options["budget"], "budget", unit=True, of=_HOST),
        reserve=parse_size(options["reserve"], "reserve", zero=True, unit=True, of=_HOST),
    )


def _parse_rule(rule: Mapping[str, Any], where: str) -> Rule:
    minimum, maximum, shares = rule["min"], rule["max"], rule["shares"]
    if not 0 <= shares <= _SHARES_MAX:
        raise OptionError(f"{where}shares: give a whole number from 0 to {_SHARES_MAX}; {DEFAULT_SHARES} is usual")
    if rule["pin"] and (minimum is not None or maximum is not None):
        raise OptionError(f"{where}pin leaves {rule['match']!r} alone, so there is no use for min and max: drop them or pin")
    if not rule["match"]:
        raise OptionError(f"{where}match is empty and fits no guest; write a shell pattern like web* or *")
    return Rule(
        match=rule["match"],
        minimum=None if minimum is None else parse_size(minimum, where + "min", unit=True),
        maximum=None if maximum is None else parse_size(maximum, where + "max", full=True, unit=True),
        shares=shares,
        pin=rule["pin"],
    )


def parse_expected_uid(text: str | None) -> int:
    """Return the uid that QEMU must run as: the module's own unless the option says otherwise."""
    return os.geteuid() if text is None else parse_user(text, "expected_uid")


def parse_timeout(seconds: int | None) -> float | None:
    """Return seconds, or None for the default. Raises OptionError for what is not positive."""
    if seconds is not None and not 0 < seconds <= _TIMEOUT_MAX:
        raise OptionError(f"timeout: give whole seconds, from 1 to {_TIMEOUT_MAX}")
    return None if seconds is None else float(seconds)


def expand_sockets(patterns: Sequence[str]) -> list[str]:
    """Return the sockets that paths and globs name, each once, in their order.

    A glob that fits nothing stays as it is, so that visiting it says ``not_found``. Raises OptionError for an empty list,
    a path that cannot be one, and a socket that is written twice.
    """
    if not patterns:
        raise OptionError("socket: the list is empty; name at least one QMP socket")
    plain = []
    sockets: list[str] = []
    for pattern in patterns:
        check_socket(pattern, "socket")
        if not glob.has_magic(pattern):
            plain.append(pattern)
            sockets.append(pattern)
        else:
            sockets.extend(sorted(filter(_may_be_socket, glob.iglob(pattern))) or [pattern])
    _check_distinct(plain, "socket")
    distinct: dict[str, str] = {}
    for socket in sockets:
        distinct.setdefault(_identity(socket), socket)
    return list(distinct.values())


def check_socket(path: str, option: str) -> None:
    """Raise OptionError for what cannot be a socket's path."""
    if ":" in path and not path.startswith("/"):
        raise OptionError(f"{option}: {path[:100]!r}: only UNIX sockets are served; a TCP monitor proves nobody's identity")
    if not path.startswith("/") or "\0" in path:
        raise OptionError(f"{option}: {path[:100]!r} is not the absolute path of a QMP socket, like /run/vms/web1.qmp")
    if os.path.basename(path) in ("", ".", ".."):
        raise OptionError(f"{option}: {path[:100]!r} does not end in a socket's name")


def _check_distinct(sockets: Sequence[str], option: str) -> None:
    seen: dict[str, str] = {}
    for socket in sockets:
        identity = _identity(socket)
        if identity in seen:
            also = "" if seen[identity] == socket else f" (as {seen[identity]})"
            raise OptionError(f"{option}: {socket} is named twice{also}; a guest can have one target only")
        seen[identity] = socket


def _identity(socket: str) -> str:
    """The same for two ways to the same entry of a folder. A link stays one: it is refused when it is visited."""
    folder, name = os.path.split(socket)
    return os.path.join(os.path.realpath(folder), name)


def _may_be_socket(path: str) -> bool:
    """Links pass, so that visiting one says what is wrong with it."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(mode) or stat.S_ISLNK(mode)

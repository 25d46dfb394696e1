# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of the managed host, by name and by number."""

from __future__ import annotations

import pwd
from pathlib import Path

from .errors import OptionError

_UID_MAX = (1 << 32) - 2  # 2^32 - 1 is the kernel's "nobody was named"


def parse_user(text: str, option: str) -> int:
    """Return the uid of a user given by name or number. Raises OptionError when there is no such user."""
    word = text.strip()
    if word.isascii() and word.isdigit():
        uid = int(word) if len(word) <= 10 else _UID_MAX + 1
        if uid > _UID_MAX:
            raise OptionError(f"{option}: {word[:20]} is not a user id; they end at {_UID_MAX}")
        return uid
    try:
        return pwd.getpwnam(word).pw_uid
    except (KeyError, ValueError):
        raise OptionError(
            f"{option}: there is no user {word[:64]!r} on this host; give the name or number of the user that QEMU runs as"
        ) from None


def user_name(uid: int) -> str:
    """Return the user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def describe_user(uid: int) -> str:
    """Return ``nobody (uid 65534)``, or ``uid 4711`` for a user without a name."""
    name = user_name(uid)
    return f"uid {uid}" if name == str(uid) else f"{name} (uid {uid})"


def is_mapped(uid: int) -> bool:
    """Tell whether the number names a user here: in a user namespace one number stands for all that it does not know."""
    try:
        ranges = [
            [int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
        ]
    except (OSError, ValueError):
        return True
    return any(first <= uid < first + count for first, _outside, count in ranges)

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers that parts of the collection share. Sizes are in the unit that their name ends with, times in seconds."""

from __future__ import annotations

MIB = 1 << 20
"""Bytes in a mebibyte."""

BALLOON_PAGE = 4096
"""Bytes that the balloon moves at once; virtio fixes it for every architecture."""

DEFAULT_MEMORY_MB = 192
"""MiB that a pool guest has when QEMU does not tell."""

BALLOON_INFLATE_TARGET_MB = 140
"""MiB that an idle pool guest is shrunk to."""

BALLOON_INFLATE_TIMEOUT_SECONDS = 5.0
"""For one command while a guest is shrunk."""

BALLOON_DEFLATE_TIMEOUT_SECONDS = 5.0
"""For one command while a guest gets its memory back."""

CONNECT_TIMEOUT_SECONDS = 5.0
"""From connect() to the verified greeting. An idle monitor greets within milliseconds."""

COMMAND_TIMEOUT_SECONDS = 10.0
"""For QEMU's answer to one command; its main loop can be held up by a busy host."""

READ_TIMEOUT_SECONDS = 20.0
"""For all the answers that it takes to know a guest; 2 ms are usual."""

CLOSE_TIMEOUT_SECONDS = 1.0
"""For a connection to go away once it is closed."""

STATS_TIMEOUT_SECONDS = 3.0
"""For a guest to push the statistics it was asked for; 0.15 s is usual."""

STALL_SECONDS = 5.0
"""Without progress for so long, a guest has stalled."""

LAST_STRETCH_SECONDS = 0.5
"""Without progress for so long, a guest within tolerance of its target is at rest."""

POLL_SECONDS_MIN = 0.02
POLL_SECONDS_MAX = 0.1
"""Bounds of the pause between two looks at a moving balloon: 2 ms slowed guests down by a fifth, 20 ms did not."""

DEFAULT_SHARES = 1000
"""A guest's weight where no rule gives one; Proxmox VE's default as well."""

TIMEOUT_SECONDS_MIN = 30.0
SLOWEST_BYTES_PER_SECOND = (1 << 30) / 6
"""A third of 0.5 GiB/s: stock drivers on a loaded host stay above it."""

LOCK_TIMEOUT_SECONDS = 120.0
"""For another run on the same guests to end."""

LOCK_POLL_SECONDS = 0.1
"""Between two tries to be the only run."""

CONTROLLER_POLL_SECONDS = 1.0
"""Between two looks whether anybody still waits for the results."""

MESSAGE_BYTES_MAX = 1 << 20
"""Longest QMP message that is read. The longest that is asked for has a few KiB."""

OPEN_GUESTS_MAX = 256
"""Monitors that are open at the same time: well below the usual limit of 1024 open files."""

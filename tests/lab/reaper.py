# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that stays behind to end a lab's guests when the lab itself is gone, however it went."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from .record import Record
from .tools import LabError

_ROOT = Path(__file__).absolute().parents[__name__.count(".")]
_LET_LIVE = b"k"


class Reaper:
    """The lab's end of a pipe: when it closes, also because the lab was killed, the reaper at the other end acts.

    A parent-death signal on each guest would be simpler, but the kernel drops it when QEMU changes its user.
    """

    def __init__(self, folder: Path) -> None:
        """Start a reaper for the lab in a run folder; its own session keeps a terminal's Ctrl-C away from it."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import reap; reap({str(folder)!r})"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self, *, let_live: bool) -> None:
        """Send it away, either to end what is left or to let the guests live on."""
        self._process.communicate(_LET_LIVE if let_live else None)


def reap(folder: str) -> None:
    """Wait, as the reaper's process, for the lab's word or its end."""
    if sys.stdin.buffer.read() == _LET_LIVE:
        return
    # A lab that has put everything away itself leaves no record.
    with contextlib.suppress(LabError):
        Record.load(Path(folder)).end()

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest on its way to a target moves, has arrived or has stalled: a judgement on figures, without any clock."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import BALLOON_PAGE, POLL_SECONDS_MAX, POLL_SECONDS_MIN

_STEP_MAX = 64 * BALLOON_PAGE  # a stuck guest trickles by single pages; that is no progress


@dataclass(frozen=True)
class Convergence:
    """How a wait ended. ``actual`` in bytes, ``seconds`` since the wait began.

    Neither ``reached`` nor ``stalled``: the time ran out while the guest still moved.
    """

    actual: int
    reached: bool
    stalled: bool
    seconds: float


class ProgressWatch:
    """Judges one guest's way to ``target`` bytes; ``now`` is in seconds of any clock that does not go back."""

    def __init__(self, target: int, tolerance: int, now: float, stall_after: float) -> None:
        self._target = target
        self._tolerance = tolerance
        self._stall_after = stall_after
        self._nearest: int | None = None
        self._progress_at = now
        self._last: tuple[float, int] | None = None
        self.reached = False
        self.stalled = False
        self.pause = POLL_SECONDS_MIN

    def observe(self, actual: int, now: float) -> None:
        """Take a look at ``actual`` bytes and update ``reached``, ``stalled`` and ``pause`` (seconds to the next look)."""
        gap = abs(actual - self._target)
        self.reached = gap <= self._tolerance
        # The last stretch may be shorter than a full step, and still is progress.
        if self._nearest is None or gap <= self._nearest - max(BALLOON_PAGE, min(_STEP_MAX, self._nearest // 16)):
            self._nearest = gap
            self._progress_at = now
        self.stalled = not self.reached and now - self._progress_at >= self._stall_after
        self.pause = self._next_pause(gap - self._tolerance, now)
        self._last = (now, gap - self._tolerance)

    def _next_pause(self, left: int, now: float) -> float:
        """Look again when the guest should be there, judged by its speed since the last look."""
        if self._last is None:
            return POLL_SECONDS_MIN
        then, left_then = self._last
        moved, elapsed = left_then - left, now - then
        if moved <= 0 or elapsed <= 0:
            return POLL_SECONDS_MAX
        return min(POLL_SECONDS_MAX, max(POLL_SECONDS_MIN, left * elapsed / moved))

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's work: the one place that starts asyncio."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import InterruptedRunError

Result = TypeVar("Result")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` to its end. A signal that asks for the end cancels it, so that every guest is left in order.

    Raises InterruptedRunError after such a signal, and whatever ``work`` raises.
    """
    return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        # Once: a second signal must not tear the cleaning up apart.
        if not received:
            task.cancel()
        received.append(number)

    heeded = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        name = received[0].name if received else "a cancellation"
        raise InterruptedRunError(
            f"interrupted by {name}; guests that were waited for were left where they had got to (with on_stall=keep, on their"
            " way). Run the task again to finish the job"
        ) from None
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)

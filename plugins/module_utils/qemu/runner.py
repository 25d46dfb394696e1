# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module's work: the one place that starts asyncio."""

from __future__ import annotations

import asyncio
import select
import signal
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from .constants import CONTROLLER_POLL_SECONDS
from .errors import InterruptedRunError

Result = TypeVar("Result")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDOUT = 1


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` to its end. A signal that asks for the end cancels it, so that every guest is left in order.

    So does the end of whoever waits for our output. Raises InterruptedRunError then, and whatever ``work`` raises.
    """
    try:
        return asyncio.run(_interruptible(work))
    except InterruptedRunError:
        # Told to end already: a second signal must not keep the results from being written.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise


async def _interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    received: list[str] = []

    def end(cause: str) -> None:
        # Once: a second signal must not tear the cleaning up apart.
        if not received:
            task.cancel()
        received.append(cause)

    heeded = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, end, number.name)
    output = select.poll()
    output.register(_STDOUT, 0)  # hang-ups and errors are told without asking

    def look_for_reader() -> None:
        if any(events & (select.POLLERR | select.POLLHUP) for _fd, events in output.poll(0)):
            end("the end of its controller")
        else:
            looks.append(loop.call_later(CONTROLLER_POLL_SECONDS, look_for_reader))

    looks: deque[asyncio.TimerHandle] = deque(maxlen=1)
    look_for_reader()
    try:
        return await task
    except asyncio.CancelledError:
        name = received[0] if received else "a cancellation"
        raise InterruptedRunError(
            f"interrupted by {name}; guests that were waited for were left where they had got to (with on_stall=keep, on their"
            " way). Run the task again to finish the job"
        ) from None
    finally:
        for look in looks:
            look.cancel()
        for number in heeded:
            loop.remove_signal_handler(number)

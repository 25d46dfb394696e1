# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The balloon client of the exec-sandbox package, in the environment that it is installed in. It knows MiB only."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from exec_sandbox import constants  # type: ignore[import-not-found]
from exec_sandbox.balloon_client import BalloonClient  # type: ignore[import-not-found]

_looks: list[tuple[float, int]] = []


class _WatchedClient(BalloonClient):  # type: ignore[misc]
    """The client, unchanged but for a note of each of its looks at the guest."""

    async def query(self, timeout: float = 5.0) -> int | None:
        actual_mib: int | None = await super().query(timeout)
        _looks.append((time.perf_counter(), actual_mib or 0))
        return actual_mib


async def main(socket: Path, target_mib: int) -> None:
    """Give and wait; deflate() waits by itself, and does not say for what."""
    start, cpu = time.perf_counter(), time.process_time()
    async with _WatchedClient(socket, os.geteuid()) as client:
        await client.deflate(target_mib)
        took, cost = time.perf_counter() - start, time.process_time() - cpu
        polls = len(_looks)
        actual_mib = await client.query() or 0
    near = (at - start for at, mib in _looks if mib >= target_mib - constants.BALLOON_TOLERANCE_MB)
    figures = {"seconds": took, "cpu": cost, "actual": actual_mib << 20, "polls": polls, "first_sight": next(near, took)}
    print(json.dumps(figures))


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

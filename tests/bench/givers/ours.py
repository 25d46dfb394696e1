# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our client: verified peer, events and a poll behind them, exact to the byte."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.balloon_client import BalloonClient


async def main(socket: str, target_mib: int) -> None:
    """Give and wait."""
    start, cpu = time.perf_counter(), time.process_time()
    async with BalloonClient(socket, os.geteuid()) as client:
        await client.deflate(target_mib)
        ended = await client.wait_for_actual(target_mib << 20)
        took, cost = time.perf_counter() - start, time.process_time() - cpu
    if not ended.reached:
        sys.exit(f"the guest stopped at {ended.actual} bytes")
    print(json.dumps({"seconds": took, "cpu": cost, "actual": ended.actual}))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare socket that asks without a pause: nobody notices sooner, nothing is verified, and all of it costs CPU time."""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any


def main(path: str, target: int) -> None:
    """Give and wait."""
    start, cpu = time.perf_counter(), time.process_time()
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(path)
        stream = monitor.makefile("rwb", buffering=0)
        stream.readline()  # the greeting

        def execute(command: str, **arguments: int) -> Any:
            stream.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            while "return" not in (reply := json.loads(stream.readline())):
                pass  # an event
            return reply["return"]

        execute("qmp_capabilities")
        execute("balloon", value=target)
        while (actual := execute("query-balloon")["actual"]) != target:
            pass
        took, cost = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps({"seconds": took, "cpu": cost, "actual": actual}))


main(sys.argv[1], int(sys.argv[2]) << 20)

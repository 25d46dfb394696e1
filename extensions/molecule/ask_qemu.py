# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks QEMU itself how much memory guests have, without any of the collection's code.

    ask_qemu.py FOLDER PREFIX

prints the memory in MiB of each guest whose second monitor is FOLDER/PREFIX-NAME.ctl, by name, as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path


def actual(monitor: Path) -> float:
    """Return a guest's logical memory in MiB."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(monitor))
        with connection.makefile("rw") as lines:
            for command in ("qmp_capabilities", "query-balloon"):
                lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
            for line in lines:
                answer = json.loads(line).get("return")
                if answer:
                    return float(answer["actual"]) / 2**20
    raise SystemExit(f"{monitor}: QEMU did not answer")


folder, prefix = sys.argv[1:]
monitors = sorted(Path(folder).glob(f"{prefix}-*.ctl"))
print(json.dumps({monitor.stem.removeprefix(f"{prefix}-"): actual(monitor) for monitor in monitors}))

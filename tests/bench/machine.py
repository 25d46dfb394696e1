# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that figures come from: without it they say little."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from tests.lab import Guest


def facts(guest: Guest) -> dict[str, Any]:
    """Return what figures depend on; ``guest`` is one that runs on this machine's QEMU."""
    version = guest.qmp("query-version")["qemu"]
    return {
        "CPUs": os.cpu_count(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "QEMU": ".".join(str(version[part]) for part in ("major", "minor", "micro")),
        "accelerator": "kvm" if guest.qmp("query-kvm")["enabled"] else "tcg",
        "Python": platform.python_version(),
        "ansible-core": importlib.metadata.version("ansible-core"),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()

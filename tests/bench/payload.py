# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules as they run on a managed host: the very file that Ansible sends there, without the controller around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .measure import ROOT, BenchError, Figures, time_process


class Payload:
    """A module with its arguments, built by Ansible and kept in a folder, to be run any number of times."""

    def __init__(self, folder: Path, module: str, **arguments: Any) -> None:
        """Let Ansible build it, which runs it once."""
        folder.mkdir()
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_PIPELINING": "0",
            "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
        }
        command = [sys.executable, "-m", "ansible", "adhoc", "localhost", "-m", module]
        if arguments:
            command += ["-a", json.dumps(arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        kept = list(folder.glob("remote/*/AnsiballZ_*.py"))
        if done.returncode or len(kept) != 1:
            raise BenchError(f"{module} does not run:\n{(done.stdout + done.stderr).strip()}")
        self._file = kept[0]
        self.result: dict[str, Any] = {}

    def run(self) -> Figures:
        """Run it and return what its process took; ``result`` is what the module then said."""
        figures, printed = time_process(self._file)
        self.result = json.loads(printed)
        return figures

    def expect(self, outcome: str) -> Figures:
        """Run it, and make sure that every guest ended with this outcome: a wrong answer may well be a quick one."""
        figures = self.run()
        others = [guest for guest in self.result["guests"] if guest["outcome"] != outcome]
        if others:
            raise BenchError(f"a guest was to end as {outcome}, and did not: {others[0]}")
        return figures

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One real guest that is at its target already: the module against the module that does nothing at all."""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.lab import Guest

from .measure import Figures, Report, in_turns, time_process
from .payload import Payload


def measure(guest: Guest, folder: Path, rounds: int) -> Report:
    """Return how the modules' processes compare with ansible.builtin.ping's, and where their time goes."""
    sockets = [str(guest.socket)]
    ping = Payload(folder / "ping", "ansible.builtin.ping")
    info = Payload(folder / "info", "ballast.qemu.qemu_balloon_info", socket=sockets)
    balloon = Payload(folder / "balloon", "ballast.qemu.qemu_balloon", socket=sockets, target="max")

    def visit(task: Payload) -> Figures:
        return {**task.expect("unchanged"), "visit": task.result["guests"][0]["seconds"]}

    samples = in_turns(
        rounds,
        {
            "python": lambda: time_process("-c", "pass")[0],
            "ping": ping.run,
            "qemu_balloon": lambda: visit(balloon),
            "qemu_balloon_info": lambda: visit(info),
        },
    )
    report = Report()
    for ours, name in (("qemu_balloon", "one guest at its target"), ("qemu_balloon_info", "one guest read")):
        report.compare(name, ours, "ping", samples)
        report.compare(f"{name}, CPU time", ours, "ping", samples, "cpu")
    python, bare, whole = (statistics.median(samples[name]["cpu"]) * 1000 for name in ("python", "ping", "qemu_balloon"))
    visited = statistics.median(samples["qemu_balloon"]["visit"]) * 1000
    report.remarks.append(
        f"one guest at its target: of {whole:.0f} ms of CPU time, Python's start takes {python:.0f}, Ansible's own part"
        f" {bare - python:.0f}, our imports and work {whole - bare:.0f}; the guest's visit lasts {visited:.1f} ms of the whole"
    )
    return report

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots the guests, runs the playbook on them and shows what became of their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.lab import GuestSpec, Lab, LabError

MIB = 1 << 20
BAR = 24
GUESTS = [GuestSpec("web", 256, touched=True), GuestSpec("build", 384, touched=True), GuestSpec("db", 512, touched=True)]
PLAYBOOK = Path(__file__).with_name("demo.yml")


def main() -> int:
    """Return the exit status."""
    say(f"Booting {len(GUESTS)} guests: " + ", ".join(f"{guest.name} ({guest.memory_mib} MiB)" for guest in GUESTS))
    start = time.monotonic()
    try:
        with Lab() as lab:
            lab.up(*GUESTS)
            say(f"They are up after {time.monotonic() - start:.0f} s. Now ansible-playbook tests/demo/demo.yml:")
            results = lab.folder / "results.json"
            if not play(lab.folder, results):
                return 1
            say(table(json.loads(results.read_text())))
    except LabError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    say("The guests have ended; nothing is left running.")
    return 0


def play(folder: Path, results: Path) -> bool:
    """Run the playbook, as a user would, and tell whether it went well."""
    tool = Path(sys.executable).with_name("ansible-playbook")
    variables = json.dumps({"sockets": f"{folder}/*.qmp", "results": str(results)})
    environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
    return subprocess.run([tool, PLAYBOOK, "-e", variables], env=environment, check=False).returncode == 0


def table(results: dict[str, Any]) -> str:
    """Return the table of what was measured, in MiB."""
    rows = [f"{'guest':<8} {'before':>8} {'after':>8}   {'':<{BAR}}   {'host gained':>11} {'took':>7} {'given back':>12}"]
    returned = {guest["name"]: guest for guest in results["returned"]["guests"]}
    for guest in results["shrunk"]["guests"]:
        share = round(BAR * guest["actual_after"] / guest["actual_before"])
        drawn = "█" * share + "░" * (BAR - share)
        gain = guest["rss_before"] - guest["rss_after"]
        back = returned[guest["name"]]["actual_after"] - returned[guest["name"]]["actual_before"]
        rows.append(
            f"{guest['name']:<8} {mib(guest['actual_before'])} {mib(guest['actual_after'])}   {drawn}   {mib(gain, 11)}"
            f" {guest['seconds']:>6.2f}s {mib(back, 12)}"
        )
    summary, back = results["shrunk"]["summary"], results["returned"]["summary"]["returned"]
    less, gain = mib(-summary["reclaimed"]), mib(summary["host_gain"], 11)
    rows.append(f"{'together':<8} {'':>8} {less}   {'':<{BAR}}   {gain} {'':>7} {mib(back, 12)}")
    rows.append(f"\nAnd 1 MiB, which would have killed them: {results['refused']['guests'][0]['error']['message']}.")
    return "\n".join(rows)


def mib(size: int, width: int = 8) -> str:
    """Return bytes as MiB, aligned."""
    return f"{size / MIB:.0f} MiB".rjust(width)


def say(text: str) -> None:
    """Print a paragraph."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

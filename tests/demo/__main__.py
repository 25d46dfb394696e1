# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boots two hosts' guests, rolls a memory policy out over them as an operator would, and shows what became of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.lab import GuestSpec, Lab, LabError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "demo"
MIB = 1 << 20
BAR = 24
HOSTS = {
    "hv1": [GuestSpec("web", 256, touched=True), GuestSpec("mail", 256, touched=True), GuestSpec("build", 256, busy_mib=120)],
    "hv2": [GuestSpec("db", 384, busy_mib=160), GuestSpec("test", 384, touched=True)],
}
BUDGETS = {"hv1": "480M", "hv2": "500M"}


def main() -> int:
    """Return the exit status."""
    try:
        with contextlib.ExitStack() as labs:
            hosts = boot(labs)
            FOLDER.mkdir(parents=True, exist_ok=True)
            inventory = write_inventory(hosts)
            say("First a preview. It changes nothing:")
            roll_out(inventory, "preview", "--check", "--diff")
            say("Now the rollout, one host first:")
            roll_out(inventory, "rollout")
            say("The same again, and nothing is left to change:")
            again = roll_out(inventory, "again")
            say(table(report("rollout"), hosts))
            if again["totals"]["hosts"]["changed"]:
                say("The second run has changed something, which it should not.")
                return 1
    except (LabError, subprocess.CalledProcessError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    say("The guests have ended; nothing is left running. The reports for people:")
    for name in ("preview", "rollout", "again"):
        print(f"  {FOLDER / name}/report.html")
    return 0


def boot(labs: contextlib.ExitStack) -> dict[str, Lab]:
    """Boot all hosts' guests side by side."""
    say("Booting two hosts' guests: " + ", ".join(f"{guest.name} ({host})" for host in HOSTS for guest in HOSTS[host]))
    start = time.monotonic()
    hosts = {host: labs.enter_context(Lab()) for host in HOSTS}
    for host, lab in hosts.items():
        lab.up(*HOSTS[host])
    say(f"They are up after {time.monotonic() - start:.0f} s. build and db are busy, the others idle.")
    return hosts


def write_inventory(hosts: dict[str, Lab]) -> Path:
    """Write the inventory as an operator would: the hosts, and each one's policy."""
    variables = {
        host: {"memory_policy_socket": f"{lab.folder}/*.qmp", "memory_policy_budget": BUDGETS[host]}
        for host, lab in hosts.items()
    }
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = FOLDER / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"hypervisors": {"hosts": variables, "vars": local}}, sort_keys=False))
    say(f"{inventory}:\n\n{inventory.read_text().rstrip()}")
    return inventory


def roll_out(inventory: Path, name: str, *flags: str) -> Any:
    """Run the playbook, and return its report."""
    folder = FOLDER / name
    command = ["ansible-playbook", "ballast.qemu.rollout", "-i", str(inventory), *flags]
    command += ["-e", f"memory_policy_report_folder={folder}"]
    print(f"\n$ {' '.join(command)}", flush=True)
    environment = {**os.environ, "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false"}
    subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], cwd=ROOT, env=environment, check=True)
    return report(name)


def report(name: str) -> Any:
    """Return a run's report for programs."""
    return json.loads((FOLDER / name / "report.json").read_text())


def table(rollout: Any, hosts: dict[str, Lab]) -> str:
    """Return the table of what was done, in MiB; what guests have after it is asked of QEMU itself."""
    rows = [f"{'host':<5} {'guest':<6} {'before':>8} {'after':>8}   {'':<{BAR}}   why"]
    for host in sorted(rollout["hosts"], key=lambda host: host["name"]):
        for guest in host["guests"]:
            after = hosts[host["name"]][guest["name"]].actual()
            share = round(BAR * after / guest["maximum"])
            drawn = "█" * share + "░" * (BAR - share)
            rows.append(
                f"{host['name']:<5} {guest['name']:<6} {mib(guest['before'])} {mib(after)}   {drawn}   {guest['reason']}"
            )
    totals = rollout["totals"]
    rows.append(f"\nReclaimed {mib(totals['reclaimed']).strip()}; the hosts really gained {mib(totals['host_gain']).strip()}.")
    return "\n".join(rows)


def mib(size: int) -> str:
    """Return bytes as MiB, aligned."""
    return f"{size / MIB:.0f} MiB".rjust(8)


def say(text: str) -> None:
    """Print a paragraph."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

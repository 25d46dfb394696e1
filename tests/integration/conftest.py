# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real guests, and the real ``ansible`` and ``ansible-playbook`` commands run against them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Guest, GuestSpec, Lab

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start QEMU as another user, or lock its memory")

PLAIN = GuestSpec("plain", 256)
GUESTS = [
    PLAIN,
    GuestSpec("other", 512, uuid="0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9", deflate_on_oom=True, free_page_reporting=True),
    GuestSpec("busy", 256, busy_mib=100),
    GuestSpec("asleep", 256, paused=True),
    GuestSpec("driverless", 256, driver=False),
    GuestSpec("balloonless", 128, balloon=False),
]
ROOTS_GUESTS = [GuestSpec("locked", 256, mem_lock=True), GuestSpec("nobodys", 256, runas="nobody")]


@dataclass(frozen=True)
class Answer:
    """What an ad hoc command printed: its module's results, and everything else that a person saw."""

    ok: bool
    results: dict[str, Any]
    text: str

    @property
    def guest(self) -> dict[str, Any]:
        """The only guest's entry."""
        (guest,) = self.results["guests"]
        assert isinstance(guest, dict)
        return guest

    def named(self, name: str) -> dict[str, Any]:
        """One guest's entry."""
        (guest,) = [guest for guest in self.results["guests"] if guest["name"] == name]
        assert isinstance(guest, dict)
        return guest


def run_ansible(*command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's commands in the repository's folder, as a user would."""
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(ROOT / ".cache" / "ansible")}
    tool = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run(
        [tool, *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def ad_hoc(module: str, *flags: str, **options: Any) -> Answer:
    """Run a module on localhost. Options are passed as they would be written in YAML."""
    finished = run_ansible("ansible", "localhost", "-m", module, "-a", json.dumps(options, default=str), *flags)
    text = finished.stdout + finished.stderr
    assert "Traceback" not in text
    status, arrow, results = finished.stdout.partition(" => ")
    assert arrow, text
    ok = not status.endswith("FAILED!")
    assert ok == (finished.returncode == 0), text
    return Answer(ok, json.JSONDecoder().raw_decode(results)[0], text)


def balloon(*flags: str, **options: Any) -> Answer:
    """Run ``qemu_balloon``."""
    return ad_hoc("qemu_balloon", *flags, **options)


def policy(*flags: str, **options: Any) -> Answer:
    """Run ``qemu_memory_policy``."""
    return ad_hoc("qemu_memory_policy", *flags, **options)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """All guests of the session, booted together."""
    with Lab() as lab:
        lab.up(*GUESTS, *(ROOTS_GUESTS if os.geteuid() == 0 else []))
        yield lab


@pytest.fixture
def plain(lab: Lab) -> Iterator[Guest]:
    """An idle guest of 256 MiB with all its memory."""
    yield from _in_order(lab["plain"])


@pytest.fixture
def other(lab: Lab) -> Iterator[Guest]:
    """An idle guest of 512 MiB with all its memory."""
    yield from _in_order(lab["other"])


@pytest.fixture
def busy(lab: Lab) -> Iterator[Guest]:
    """A guest of 256 MiB of which a process holds 100."""
    yield from _in_order(lab["busy"])


def _in_order(guest: Guest) -> Iterator[Guest]:
    guest.reset()
    yield guest
    assert guest.alive, guest.console()

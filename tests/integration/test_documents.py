# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README and the modules' examples tell people to type, typed: on guests of the names that they use."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ansible_collections.ballast.qemu.plugins.modules import qemu_balloon, qemu_balloon_info
from tests.integration.conftest import ROOT, run_ansible
from tests.lab import GuestSpec, Lab

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Lab]:
    """The guests that the documents speak of."""
    with Lab() as lab:
        lab.up(GuestSpec("web1", 272), GuestSpec("web2", 272), GuestSpec("db1", 272), GuestSpec("build", 512))
        yield lab


def here(text: str, fleet: Lab) -> str:
    """Turn the documents' hosts, folder, users and sizes into those of this machine."""
    text = text.replace("/run/vms", str(fleet.folder)).replace("hypervisors", "localhost")
    text = re.sub(r"(expected_uid[:=] ?)(qemu|builder)", rf"\g<1>{os.geteuid()}", text)
    for there, instead in (("become: true", "become: false"), ("target: 6G", "target: 224M"), ("floor: 4G", "floor: 128M")):
        text = text.replace(there, instead)
    return text


def fenced(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run_tasks(tasks: str, fleet: Lab, folder: Path) -> None:
    plays = yaml.safe_load(here(tasks, fleet))
    if "hosts" not in plays[0]:
        plays = [{"hosts": "localhost", "gather_facts": False, "tasks": plays}]
    playbook = folder / "play.yml"
    playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
    finished = run_ansible("ansible-playbook", playbook)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_readme_commands(fleet: Lab) -> None:
    commands = [line.removeprefix("$ ") for block in fenced("console") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        finished = run_ansible(*(word for word in shlex.split(here(command, fleet)) if word != "-b"))
        assert finished.returncode == 0, finished.stdout + finished.stderr
    assert {fleet[name].actual() >> 20 for name in ("web1", "web2", "db1")} == {204}


def test_readme_playbook(fleet: Lab, tmp_path: Path) -> None:
    (playbook,) = fenced("yaml")
    run_tasks(playbook, fleet, tmp_path)
    assert fleet["web1"].actual() == fleet["web1"].full()


def test_readme_installation(fleet: Lab, tmp_path: Path) -> None:
    """Built and installed as it says, into an empty home, and used from another folder."""
    (block,) = [block for block in fenced("sh") if "make build" in block]
    tools = Path(sys.executable).parent
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tools}:{os.environ['PATH']}"}
    environment.pop("ANSIBLE_COLLECTIONS_PATH", None)
    subprocess.run(["sh", "-ec", block], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    installed = tmp_path / ".ansible/collections/ansible_collections/ballast/qemu"
    names = {path.name for path in installed.iterdir()}
    assert "plugins" in names
    assert not {"tests", "Makefile", "pyproject.toml", ".dev", ".ci", "ansible.cfg"} & names
    read = ["ansible", "localhost", "-m", "ballast.qemu.qemu_balloon_info", "-a", f"socket={fleet.folder}/*.qmp"]
    finished = subprocess.run(read, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_readme_links_and_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", README, re.MULTILINE):
        assert f"\n{target}: " in makefile
    for link, anchor in re.findall(r"\]\(([\w./]+)(?:#([\w-]+))?\)", README):
        headings = re.findall(r"^#+ (.*)$", (ROOT / link).read_text(), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("module", [qemu_balloon, qemu_balloon_info], ids=["qemu_balloon", "qemu_balloon_info"])
def test_examples(module: object, fleet: Lab, tmp_path: Path) -> None:
    """``headroom: 512M`` is meant for guests of another size than these."""
    run_tasks(str(vars(module)["EXAMPLES"]).replace("headroom: 512M", "headroom: 32M").replace("25%", "40%"), fleet, tmp_path)

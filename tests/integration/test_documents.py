# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents and the modules' examples tell people to type, typed: on three hosts with guests of these names.

Each host is this machine, with a folder of its own for its guests' sockets.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.ballast.qemu.plugins.modules import qemu_balloon, qemu_balloon_info, qemu_memory_policy
from tests.integration.conftest import MIB, ROOT
from tests.lab import GuestSpec, Lab

pytestmark = pytest.mark.timeout(600)  # the longest document rolls out fifteen batches
TOOLS = Path(sys.executable).parent
HOSTS = {
    "hv01": {"web1": 272, "web2": 272, "db1": 272, "build": 512},
    "hv02": {"web1": 272, "db1": 272},
    "hv03": {"db1": 272, "build": 512},
}
BUDGET = 700
HERE = (
    (r"become: true", "become: false"),
    (r"(expected_uid[:=] ?)(qemu|builder)\b", rf"\g<1>{os.geteuid()}"),
    (r"hv\[01:40\]", "hv[01:03]"),
    (r"memory_policy_reserve: \S+", f"memory_policy_budget: {BUDGET}M"),
    (r"budget: 48G", f"budget: {BUDGET}M"),
    (r"reserve: 8G", "reserve: 5%"),
    (r"target: 6G", "target: 224M"),
    (r"floor: 4G", "floor: 128M"),
    (r"headroom: 512M", "headroom: 32M"),
    (r"target: 25%", "target: 40%"),
    (r"\[(/run/vms/\S+)\]", r"['\1']"),
    (r"/run/vms", "@FOLDER@/{{inventory_hostname}}"),
)
"""The documents' users, hosts and sizes, and what they are on this machine."""

README = ROOT / "README.md"
ROLE = ROOT / "roles/memory_policy/README.md"
POLICY_GUIDE, ROLLOUT_GUIDE = ROOT / "docs/policy.md", ROOT / "docs/rollout.md"
DOCUMENTS = [README, ROLE, *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A document's block: its kind, its text, and the file that it belongs into, if the document says so."""

    kind: str
    text: str
    file: str | None


def blocks(document: Path) -> list[Block]:
    """Return what is to be typed, from the top to the bottom."""
    found = []
    pieces = re.split(r"^```(\w*)\n", document.read_text(), flags=re.MULTILINE)
    for above, kind, text in zip(pieces[::4], pieces[1::4], pieces[2::4], strict=False):
        named = re.search(r"`([\w./]+\.yml)`[^`]*:\n\n\Z", above) or re.match(r"# (\S+\.yml)\n", text)
        found.append(Block(kind, text, named[1] if named else None))
    return found


def commands(block: Block) -> list[str]:
    """Return a block's commands: those with a prompt, or what a timer starts."""
    if block.kind == "console":
        return [command.strip() for command in block.text.replace("\\\n", "").split("$ ")[1:]]
    return re.findall(r"ansible-playbook [^>\n]*", block.text) if block.kind in ("ini", "cron") else []


@dataclass
class Fleet:
    """The hosts' guests, and a folder for an inventory and reports, in which commands are typed."""

    labs: dict[str, Lab]
    folder: Path
    typed: list[str] = field(default_factory=list)

    @property
    def memory(self) -> dict[str, dict[str, int]]:
        """What QEMU says that each host's guests have, in bytes."""
        return {host: {name: self.labs[host][name].actual() for name in guests} for host, guests in HOSTS.items()}

    @property
    def report(self) -> Any:
        """The newest report."""
        return json.loads(max(self.folder.glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns).read_text())

    def here(self, text: str) -> str:
        """Turn the documents' folders, users, hosts and sizes into those of this machine."""
        for there, instead in HERE:
            text = re.sub(there, instead, text)
        return text.replace("@FOLDER@", str(self.labs["hv01"].folder.parent))

    def write(self, file: str, text: str) -> None:
        """Write a file of the inventory, or another one."""
        path = self.folder / ("inventory" if file.startswith(("group_vars", "host_vars")) else "") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(text))

    def run(self, *command: str) -> str:
        """Run a command in the folder, and return what it printed."""
        inventory = "hosts.yml" if (self.folder / "hosts.yml").exists() else "inventory"
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".dev"),
            "ANSIBLE_HOME": str(ROOT / ".cache" / "ansible"),
            "ANSIBLE_INVENTORY": inventory,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_TRANSPORT": "local",
        }
        finished = subprocess.run(
            [TOOLS / command[0], *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        text = finished.stdout + finished.stderr
        assert finished.returncode == 0, f"{shlex.join(command)}\n{text}"
        assert "WARNING" not in finished.stderr, text
        return finished.stdout

    def play(self, plays: str, *flags: str) -> None:
        """Run a playbook, or tasks, on the first host."""
        content = yaml.safe_load(self.here(plays))
        if "hosts" not in content[0]:
            content = [{"hosts": "hypervisors", "gather_facts": False, "tasks": content}]
        (self.folder / "play.yml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.run("ansible-playbook", "play.yml", "--limit", "hv01", *flags)

    def type(self, command: str) -> None:
        """Type one of a document's commands, and look whether it has done what it is there for."""
        words = [word for word in shlex.split(self.here(command)) if word != "-b"]
        if "@memory-policy-report/remaining" in words:
            (self.folder / "memory-policy-report" / "remaining").write_text("hv02\nhv03\n")  # as a failure leaves it
        before = self.memory
        printed = self.run(*words)
        self.typed.append(command)
        if "--check" in words or "ballast.qemu.qemu_balloon_info" in words:
            assert self.memory == before, command
        if "ballast.qemu.rollout" in words:
            assert self.report["check"] == ("--check" in words)
            assert self.report["totals"]["hosts"]["done"] == len(self.report["hosts"]) > 0, self.report
        elif "ballast.qemu.qemu_balloon" in words and "--check" not in words:
            self._assert_moved(dict(word.split("=", 1) for word in words[words.index("-a") + 1].split(" ")), printed)

    def _assert_moved(self, options: dict[str, str], printed: str) -> None:
        percent = int(options["target"].replace("max", "100").rstrip("%"))
        hosts = re.findall(r"^(hv\d+) \| ", printed, re.MULTILINE)
        assert hosts, printed
        for host in hosts:
            names = fnmatch.filter(HOSTS[host], Path(options["socket"]).stem)
            assert {name: self.memory[host][name] for name in names} == {
                name: -(-HOSTS[host][name] * MIB * percent // 409600) * 4096 for name in names
            }

    def follow(self, document: Path) -> None:
        """Do what a document says, from the top to the bottom."""
        for block in blocks(document):
            if block.file:
                self.write(block.file, block.text)
            elif block.kind == "yaml":
                self.play(block.text)
            for command in commands(block):
                if command not in self.typed:
                    self.type(command)


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[str, Lab]]:
    """The hosts' guests, each host's in a folder of its name."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bq-")))
        labs = {host: stack.enter_context(Lab(folder / host)) for host in HOSTS}
        for host, guests in HOSTS.items():
            labs[host].up(*(GuestSpec(name, size) for name, size in guests.items()))
        yield labs


@pytest.fixture
def fleet(labs: dict[str, Lab], tmp_path: Path) -> Fleet:
    """The hosts, with all guests at their full memory."""
    for host, guests in HOSTS.items():
        for name in guests:
            labs[host][name].reset()
    fleet = Fleet(labs, tmp_path)
    fleet.write("inventory/hosts.yml", yaml.safe_dump({"hypervisors": {"hosts": dict.fromkeys(HOSTS)}}))
    return fleet


def test_readme(fleet: Fleet) -> None:
    fleet.follow(README)
    assert len(fleet.typed) >= 3
    assert {name: size // MIB for name, size in fleet.memory["hv01"].items()} == HOSTS["hv01"]


def test_rollout_guide(fleet: Fleet) -> None:
    fleet.follow(ROLLOUT_GUIDE)
    assert len(fleet.typed) >= 12
    memory = fleet.memory
    assert sum(memory["hv01"].values()) <= BUDGET * MIB
    assert memory["hv02"] == {"web1": 272 * MIB, "db1": 272 * MIB}  # both fit
    assert memory["hv03"]["build"] == 512 * MIB  # taken out of the policy
    assert {host["status"] for host in fleet.report["hosts"]} == {"unchanged"}


def test_role_readme(fleet: Fleet) -> None:
    fleet.follow(ROLE)
    assert len(fleet.typed) >= 3
    assert sum(fleet.memory["hv01"].values()) <= BUDGET * MIB
    assert fleet.memory["hv03"]["build"] // MIB == 307  # its fixed target


def test_policy_guides_options(fleet: Fleet) -> None:
    """Each set of options as it is, in a preview. Their figures have tests of their own."""
    options = [yaml.safe_load(block.text) for block in blocks(POLICY_GUIDE) if block.kind == "yaml"]
    assert len(options) > 3
    usual = {"socket": "/run/vms/*.qmp", "budget": f"{BUDGET}M"}
    fleet.play(yaml.safe_dump([{"ballast.qemu.qemu_memory_policy": usual | given} for given in options]), "--check")
    assert {name: size // MIB for name, size in fleet.memory["hv01"].items()} == HOSTS["hv01"]


@pytest.mark.parametrize(
    "module",
    [qemu_balloon, qemu_balloon_info, qemu_memory_policy],
    ids=["qemu_balloon", "qemu_balloon_info", "qemu_memory_policy"],
)
def test_examples(module: object, fleet: Fleet) -> None:
    fleet.play(vars(module)["EXAMPLES"])


def test_readme_installation(fleet: Fleet, tmp_path: Path) -> None:
    """Built and installed as it says, into an empty home, and used from another folder."""
    (block,) = [block.text for block in blocks(README) if block.kind == "sh" and "make build" in block.text]
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    environment.pop("ANSIBLE_COLLECTIONS_PATH", None)
    subprocess.run(["sh", "-ec", block], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    installed = tmp_path / ".ansible/collections/ansible_collections/ballast/qemu"
    names = {path.name for path in installed.iterdir()}
    assert {"plugins", "roles", "playbooks"} <= names
    assert not {"tests", "Makefile", "pyproject.toml", ".dev", ".ci", "ansible.cfg"} & names
    read = ["ansible", "localhost", "-m", "ballast.qemu.qemu_balloon_info", "-a", f"socket={fleet.labs['hv02'].folder}/*.qmp"]
    finished = subprocess.run(read, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_readme_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", README.read_text(), re.MULTILINE):
        assert f"\n{target}: " in makefile


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document: Path) -> None:
    for link, anchor in re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", document.read_text()):
        target = document.parent / link if link else document
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages(document: Path) -> None:
    """What a table says that the collection says, it says."""
    files = [path for folder in ("plugins", "roles") for kind in ("*.py", "*.yml") for path in (ROOT / folder).rglob(kind)]
    said = "\n".join(path.read_text() for path in files)
    for table in re.findall(r"^\| When it says .*\n((?:\|.*\n)+)", document.read_text(), re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", "\n".join(row.split("|")[1] for row in table.splitlines())):
            for part in filter(None, (part.strip(" []") for part in message.split("..."))):
                assert part in said


def test_variables() -> None:
    """Ansible takes any name for a variable, also one that nobody reads."""
    specs = yaml.safe_load((ROOT / "roles/memory_policy/meta/argument_specs.yml").read_text())["argument_specs"]
    role = specs["main"]["options"]
    playbook = re.findall(r"^# +(memory_policy_\w+)  ", (ROOT / "playbooks/rollout.yml").read_text(), re.MULTILINE)
    for document in DOCUMENTS:
        used = set(re.findall(r"\bmemory_policy_\w+", document.read_text()))
        assert used <= {*role, *playbook, "memory_policy_result"}, document

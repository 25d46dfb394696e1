# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab keeps its promises: guests are what they were asked to be, and they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .__main__ import main, parse_guest
from .guest import Guest, GuestSpec
from .image import READY, image
from .lab import Lab
from .process import Process
from .tools import LabError

MIB = 1 << 20
ROOT = Path(__file__).absolute().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change users and lock this much memory")

# A lab whose guest needs no time to boot, and that says who is in it. Root's guest changes its user: nothing that hangs
# on the relation between the processes survives that.
HOLDER = """
import os, time
from tests.lab import GuestSpec, Lab
with Lab() as lab:
    (guest,) = lab.up(GuestSpec("held", 64, paused="start", runas="nobody" if os.geteuid() == 0 else None))
    print(guest.pid, lab.folder, flush=True)
    time.sleep(600)
"""


def eventually(condition: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
    """Wait for a condition, for at most so many seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} seconds: {what}"
        time.sleep(0.02)


def used(guest: Guest) -> int:
    """Return the memory that a guest cannot spare, in bytes."""
    return guest.actual() - guest.stats()["stat-available-memory"]


def status(guest: Guest) -> str:
    """Return QEMU's word for whether the guest runs."""
    return str(guest.qmp("query-status")["status"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Boot one guest of every kind."""
    specs = [
        GuestSpec("idle", 256, uuid="6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        GuestSpec("busy", 512, busy_mib=200, deflate_on_oom=True, free_page_reporting=True),
        GuestSpec("driverless", 256, driver=False),
        GuestSpec("bare", 256, balloon=False),
        GuestSpec("paused", 256, paused=True),
        GuestSpec("unborn", 256, paused="start"),
    ]
    if os.geteuid() == 0:
        specs += [GuestSpec("dropped", 128, runas="nobody"), GuestSpec("locked", 128, mem_lock=True)]
    with Lab() as lab:
        lab.up(*specs)
        yield lab


@pytest.fixture
def stranger() -> Iterator[Process]:
    """Run a QEMU that is none of the lab's business."""
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-name", "idle"]
    with subprocess.Popen(command) as child:
        yield Process.running(child.pid)
        child.kill()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("idle", "running"), ("busy", "running"), ("bare", "running"), ("paused", "paused"), ("unborn", "prelaunch")],
)
def test_guests_are_ready(lab: Lab, name: str, expected: str) -> None:
    """A guest that was to run has said that it is ready; one that was to be stopped is."""
    guest = lab[name]
    assert guest.alive
    assert status(guest) == expected
    assert (READY in guest.console()) == (name != "unborn")
    assert guest.complaints() == ""


def test_identity(lab: Lab) -> None:
    """A guest bears the name and the UUID that it was given."""
    assert lab["idle"].qmp("query-name") == {"name": "idle"}
    assert lab["idle"].qmp("query-uuid") == {"UUID": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}


def test_monitor_under_test_is_free(lab: Lab) -> None:
    """Holding the socket under test is no hindrance to the lab, nor the other way round."""
    guest = lab["idle"]
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(10)
        monitor.connect(str(guest.socket))
        assert b'"QMP"' in monitor.recv(4096)
        assert guest.actual() == guest.full() == 256 * MIB


def test_idle_guest_can_spare_memory(lab: Lab) -> None:
    """An idle guest needs little at any size, keeps a reserve when asked for all of it, and comes back."""
    guest = lab["idle"]
    assert used(guest) < 90 * MIB
    guest.set_target(160 * MIB)
    guest.wait_actual(160 * MIB)
    assert used(guest) < 90 * MIB

    guest.set_target(20 * MIB)
    readings = [guest.actual()]

    def still() -> bool:
        readings.append(guest.actual())
        return readings[-1] < 160 * MIB and len(readings) > 50 and len(set(readings[-50:])) == 1

    eventually(still, "the guest reaches its reserve", timeout=30)
    assert 20 * MIB < guest.actual() < 160 * MIB
    guest.reset()
    assert guest.actual() == 256 * MIB
    assert status(guest) == "running"


def test_busy_guest_holds_memory(lab: Lab) -> None:
    """Busy memory is there, for the guest as for the host."""
    busy, idle = lab["busy"], lab["idle"]
    assert used(busy) - used(idle) > 195 * MIB
    assert busy.rss() - idle.rss() > 150 * MIB
    assert busy.qmp("qom-get", path="/machine/peripheral/balloon0", property="guest-stats-polling-interval") == 0


@pytest.mark.parametrize("name", ["driverless", "paused"])
def test_guest_that_cannot_answer(lab: Lab, name: str) -> None:
    """While an able guest moves, one without a driver and one that is stopped do not."""
    able, unable = lab["idle"], lab[name]
    for guest in (unable, able):
        guest.set_target(160 * MIB)
    able.wait_actual(160 * MIB)
    assert unable.actual() == 256 * MIB
    for guest in (unable, able):
        guest.reset()


def test_paused_guest_works_once_resumed(lab: Lab) -> None:
    """A stopped guest is an ordinary one, and a reset stops it again."""
    guest = lab["paused"]
    guest.resume()
    guest.set_target(160 * MIB)
    guest.wait_actual(160 * MIB)
    guest.pause()
    guest.reset()
    assert guest.actual() == 256 * MIB
    assert status(guest) == "paused"


def test_guest_without_balloon(lab: Lab) -> None:
    """There is no device, and QEMU's error is the lab's."""
    with pytest.raises(LabError, match="guest bare: query-balloon: DeviceNotActive"):
        lab["bare"].actual()
    lab["bare"].reset()


@as_root
def test_dropped_user(lab: Lab) -> None:
    """QEMU runs as the other user, and the lab still speaks to it."""
    uids = re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{lab['dropped'].pid}/status").read_text(), re.MULTILINE)
    assert uids is not None
    assert int(uids[1]) not in (0, os.geteuid())
    assert lab["dropped"].actual() == 128 * MIB


@as_root
def test_locked_memory(lab: Lab) -> None:
    """QEMU's memory is locked, so a smaller guest gives the host nothing."""
    guest = lab["locked"]
    before = guest.rss()
    guest.set_target(100 * MIB)
    guest.wait_actual(100 * MIB)
    assert guest.rss() >= before > 128 * MIB
    guest.reset()


def test_labs_side_by_side(lab: Lab, stranger: Process) -> None:
    """Ending a lab ends its own guests, not those of the same name elsewhere."""
    with Lab() as other:
        (twin,) = other.up(GuestSpec("idle", 64, paused="start"))
        assert twin.alive
        assert twin.socket != lab["idle"].socket
    assert not twin.alive
    assert not other.folder.exists()
    assert lab["idle"].alive
    assert stranger.alive


def test_reused_pid_is_spared(stranger: Process) -> None:
    """A process that merely has the pid of a guest that was is left alone."""
    Process(stranger.pid, stranger.started - 1).end()
    assert stranger.alive
    stranger.end()
    assert not stranger.alive


def test_failed_up_leaves_the_rest(lab: Lab) -> None:
    """When QEMU ends early, its words are the error, at once, and what was started along with it is ended."""
    began = time.monotonic()
    with pytest.raises(LabError, match=r"(?s)guest wrong: QEMU ended.*invalid option"):
        lab.up(GuestSpec("right", 64, paused="start"), GuestSpec("wrong", 64, extra_args=("-no-such-option",)))
    assert time.monotonic() - began < 60
    assert not list(lab.folder.glob("right.*"))
    with pytest.raises(LabError, match="already is a guest idle"):
        lab.up(GuestSpec("idle", 64))
    assert lab["idle"].alive


def test_down_and_up_again() -> None:
    """A guest of the same name is a new one: it is ready when it says so itself, not when the old one did."""
    with Lab() as lab:
        for _time in range(2):
            (guest,) = lab.up(GuestSpec("again", 128))
            assert guest.console().count(READY) == 1
            assert guest.stats()["stat-total-memory"] > 64 * MIB
            lab.down("again")
            assert not guest.alive
        assert [path.name for path in lab.folder.iterdir()] == ["lab.json"]


def test_boot_timeout() -> None:
    """A guest that does not get ready in time is an error that tells what it said."""
    with Lab(boot_timeout=0.2) as lab:
        with pytest.raises(LabError, match=r"(?s)guest slow: not ready after 0\.2 seconds.*console.*standard error"):
            lab.up(GuestSpec("slow", 128))
        assert not list(lab.folder.glob("slow.*"))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_guests_end_with_the_labs_process(ending: signal.Signals) -> None:
    """However the process of a lab ends, its guests and its folder go with it."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout is not None
        pid, folder = holder.stdout.readline().split()
        guest = Process.running(int(pid))
        holder.send_signal(ending)
    eventually(lambda: not guest.alive, "the guest ends")
    eventually(lambda: not Path(folder).exists(), "the run folder goes")


def test_interrupt_while_booting(tmp_path: Path) -> None:
    """Ctrl-C during `up` ends what it has started."""
    record = tmp_path / "lab" / "lab.json"
    command = [sys.executable, "-m", "tests.lab", "up", "--dir", str(record.parent), "a=128", "b=128"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as up:
        eventually(lambda: record.exists() and len(json.loads(record.read_text())["guests"]) == 2, "both are started")
        guests = [Process(**started["process"]) for started in json.loads(record.read_text())["guests"].values()]
        up.send_signal(signal.SIGINT)
        _output, complaint = up.communicate(timeout=30)
    assert up.returncode == 130
    assert complaint == "interrupted: the lab has ended\n"
    assert not any(guest.alive for guest in guests)
    assert not record.parent.exists()


def test_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guests from the shell live on, are listed, and go when they are told to."""
    folder = tmp_path / "lab"
    up = subprocess.run(
        [sys.executable, "-m", "tests.lab", "up", "--dir", str(folder), "kept=128,paused"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(rf"kept +128 MiB +\d+ +{folder}/kept.qmp", up.stdout)
    assert main(["list"]) == 0
    assert re.search(rf"lab {folder} \(until.*\n.*\n +kept +128 MiB .* paused +128 MiB\n", capsys.readouterr().out)
    assert main(["up", "--dir", str(folder), "more=64"]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["down", "--dir", str(folder)]) == 0
    assert not folder.exists()
    assert main(["down", "--dir", str(folder)]) == 1
    assert "there is no lab in" in capsys.readouterr().err


def test_guests_are_read_from_the_shell() -> None:
    """Every option has its field."""
    assert parse_guest("a=64") == GuestSpec("a", 64)
    assert parse_guest("a=64,busy=20,runas=nobody,uuid=u,nodriver,noballoon,paused,memlock,oom,fpr") == GuestSpec(
        "a",
        64,
        busy_mib=20,
        runas="nobody",
        uuid="u",
        driver=False,
        balloon=False,
        paused=True,
        mem_lock=True,
        deflate_on_oom=True,
        free_page_reporting=True,
    )


@pytest.mark.parametrize("text", ["", "a", "=64", "a=", "a=b", "a=-1", "../a=64", "a=1,busy", "a=1,oom=1", "a=1,x"])
def test_nonsense_from_the_shell(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is an error, not a traceback, and starts nothing."""
    assert main(["up", text]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_long_folder(tmp_path: Path) -> None:
    """A path that no socket could have is refused before QEMU stumbles over it."""
    folder = tmp_path / ("x" * 100)
    with Lab(folder) as lab, pytest.raises(LabError, match="longer than a socket's path may be"):
        lab.up(GuestSpec("a", 64))
    assert not folder.exists()


def test_missing_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing tool is named, together with the command that installs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"qemu-system-x86_64 is missing .*: sudo apt-get install .* qemu-system-x86$"):
        Lab().__enter__()
    monkeypatch.setenv("BALLAST_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LabError, match=r"apt-get is missing .*: sudo apt-get install .* apt$"):
        image()


def test_concurrent_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two labs may fill one cache at once; afterwards it needs neither tools nor network."""
    monkeypatch.setenv("BALLAST_CACHE", str(tmp_path))
    command = [sys.executable, "-m", "tests.lab", "fetch"]
    fetches = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _number in range(2)]
    assert [fetch.wait() for fetch in fetches] == [0, 0]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert image().kernel.stat().st_size > MIB
    assert image().initramfs.stat().st_size > MIB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["debian-amd64", "lock"]

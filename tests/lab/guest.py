# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest: what it shall be, how QEMU is told so, and what can be asked of it while it runs."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .image import Image
from .process import Process
from .tools import Json, LabError, require_tool

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_BALLOON = "/machine/peripheral/balloon0"
_POLLING = "guest-stats-polling-interval"
_REPLY_TIMEOUT = 30.0
_POLL_INTERVAL = 0.02


@dataclass(frozen=True)
class GuestSpec:
    """What a guest shall be; to boot, it needs 72 MiB.

    `busy_mib` is memory that a process in the guest holds for good. A `touched` guest has once used all of its memory,
    as one that has run for a while, so the host has really given it. Without `driver` the guest has not loaded its
    balloon driver, without `balloon` it has no such device. `paused` stops the guest once it is ready; "start" keeps it
    from ever starting. `runas` is the user that QEMU drops to. `extra_args` go to QEMU last.
    """

    name: str
    memory_mib: int
    uuid: str | None = None
    busy_mib: int = 0
    touched: bool = False
    driver: bool = True
    balloon: bool = True
    paused: bool | Literal["start"] = False
    mem_lock: bool = False
    runas: str | None = None
    deflate_on_oom: bool = False
    free_page_reporting: bool = False
    extra_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not become a file name or a guest."""
        if not _NAME.fullmatch(self.name):
            raise LabError(f"{self.name!r} is no guest name: up to 32 letters, digits, dots, dashes and underscores")
        if self.memory_mib <= 0 or self.busy_mib < 0:
            raise LabError(f"guest {self.name}: memory and busy memory are MiB above zero")


def qemu_command(spec: GuestSpec, image: Image, folder: Path) -> list[str]:
    """Return the command that runs QEMU for a guest whose files live in a folder."""
    driver = "yes" if spec.driver else "no"
    # No KASLR and no crypto self-tests: a quarter less boot time. No timer check: where the host is busy, emulated time
    # stands still for long enough to fail it, and the kernel panics. Likewise ACPI, whose interpreter would give up and
    # leave the devices without interrupts. Names in capitals become init's environment.
    append = "console=ttyS0 quiet nokaslr no_timer_check cryptomgr.notests"
    append += f" LAB_DRIVER={driver} LAB_TOUCHED={'yes' if spec.touched else 'no'} LAB_BUSY_MIB={spec.busy_mib}"
    command = [
        require_tool("qemu-system-x86_64"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc,acpi=off", "-accel", _accelerator()),
        *("-name", f"guest={spec.name}", "-m", str(spec.memory_mib)),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs), "-append", append),
        *("-chardev", f"file,id=console,path={_option(folder / f'{spec.name}.log')}", "-serial", "chardev:console"),
    ]
    for monitor in ("qmp", "ctl"):
        command += ["-qmp", f"unix:{_option(folder / f'{spec.name}.{monitor}')},server=on,wait=off"]
    if spec.balloon:
        oom, reporting = (("off", "on")[flag] for flag in (spec.deflate_on_oom, spec.free_page_reporting))
        command += ["-device", f"virtio-balloon-pci,id=balloon0,deflate-on-oom={oom},free-page-reporting={reporting}"]
    if spec.uuid is not None:
        command += ["-uuid", spec.uuid]
    if spec.mem_lock:
        command += ["-overcommit", "mem-lock=on"]
    if spec.runas is not None:
        command += ["-runas", spec.runas]
    if spec.paused == "start":
        command.append("-S")
    return [*command, *spec.extra_args]


def _option(path: Path) -> str:
    """Write a path so that QEMU's option parser takes its commas for itself."""
    return str(path).replace(",", ",,")


def _accelerator() -> str:
    """Return KVM only where the processor really has it.

    Nested machines show a /dev/kvm that opens and under which guests then hang; the processor's flags tell.
    """
    if re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
        with contextlib.suppress(OSError), Path("/dev/kvm").open("r+b", buffering=0):
            return "kvm"
    # QEMU's own translation cache counts as its memory on the host; a small one keeps the figures close to the guest's.
    return "tcg,tb-size=32"


@dataclass(frozen=True)
class Guest:
    """A running guest. `socket` is the monitor for the code under test; the lab itself uses another one."""

    spec: GuestSpec
    folder: Path
    process: Process

    @property
    def name(self) -> str:
        """The guest's name."""
        return self.spec.name

    @property
    def socket(self) -> Path:
        """The QMP socket that is left to the code under test."""
        return self.folder / f"{self.name}.qmp"

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether this very QEMU process still runs."""
        return self.process.alive

    def remove_files(self) -> None:
        """Remove what is left of an ended guest, so that a new one of its name does not read old words as its own."""
        for kind in ("qmp", "ctl", "log", "err"):
            (self.folder / f"{self.name}.{kind}").unlink(missing_ok=True)

    def console(self) -> str:
        """Return what the guest has printed so far."""
        return _read(self.folder / f"{self.name}.log")

    def complaints(self) -> str:
        """Return what QEMU has written to its standard error so far."""
        return _read(self.folder / f"{self.name}.err")

    def qmp(self, command: str, **arguments: Json) -> Json:
        """Run one command on the lab's own monitor, which is left again at once; an error reply raises LabError.

        QMP's own dashes are written as underscores: `qom_type="x"` becomes `qom-type`.
        """
        request = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
                monitor.settimeout(_REPLY_TIMEOUT)
                monitor.connect(str(self.folder / f"{self.name}.ctl"))
                with monitor.makefile("rwb") as stream:
                    stream.readline()  # the greeting
                    for message in ({"execute": "qmp_capabilities"}, request):
                        stream.write(json.dumps(message).encode() + b"\n")
                    stream.flush()
                    _reply(stream.readline)
                    reply = _reply(stream.readline)
        except OSError as error:
            raise LabError(f"guest {self.name}: {command}: the control monitor does not answer: {error}") from error
        if "error" in reply:
            raise LabError(f"guest {self.name}: {command}: {reply['error']['class']}: {reply['error']['desc']}")
        return reply["return"]

    def actual(self) -> int:
        """Return the guest's logical memory now, in bytes."""
        return int(self.qmp("query-balloon")["actual"])

    def full(self) -> int:
        """Return the guest's memory without any ballooning, in bytes."""
        size = self.qmp("query-memory-size-summary")
        return int(size["base-memory"]) + int(size.get("plugged-memory", 0))

    def rss(self) -> int:
        """Return the host memory that QEMU holds, in bytes."""
        try:
            rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        except OSError as error:
            raise LabError(f"guest {self.name}: cannot read QEMU's memory: {error}") from error
        return sum(int(kib) * 1024 for kib in re.findall(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE))

    def stats(self, timeout: float = 30.0) -> dict[str, int]:
        """Return the guest's own statistics, in bytes, from after this call; the polling interval is put back."""
        before = self.qmp("qom-get", path=_BALLOON, property="guest-stats")["last-update"]
        interval = self.qmp("qom-get", path=_BALLOON, property=_POLLING)
        if interval == 0:
            # Turning polling on asks the guest at once.
            self.qmp("qom-set", path=_BALLOON, property=_POLLING, value=1)
        try:
            deadline = time.monotonic() + timeout
            # The time of the last update counts whole seconds, so only a change proves that the figures are new.
            while True:
                answer = self.qmp("qom-get", path=_BALLOON, property="guest-stats")
                if answer["last-update"] != before:
                    return dict(answer["stats"])
                self._pause_until(deadline, "no fresh statistics")
        finally:
            if interval == 0:
                self.qmp("qom-set", path=_BALLOON, property=_POLLING, value=0)

    def set_target(self, size: int) -> None:
        """Ask the guest for a logical memory size in bytes, and do not wait for it."""
        self.qmp("balloon", value=size)

    def wait_actual(self, size: int, tolerance: int = 0, timeout: float = 60.0) -> int:
        """Wait until the logical memory is within a tolerance of a size, in bytes, and return it."""
        deadline = time.monotonic() + timeout
        while abs((actual := self.actual()) - size) > tolerance:
            self._pause_until(deadline, f"still at {actual} bytes on its way to {size}")
        return actual

    def pause(self) -> None:
        """Stop the guest's processor."""
        self.qmp("stop")

    def resume(self) -> None:
        """Let the guest's processor run."""
        self.qmp("cont")

    def reset(self, timeout: float = 60.0) -> None:
        """Bring a used guest back to how it was booted: full memory, polling off, paused or not as it was."""
        if self.spec.balloon:
            self.qmp("qom-set", path=_BALLOON, property=_POLLING, value=0)
            full = self.full()
            self.set_target(full)
            if self.actual() != full:
                self.resume()
                self.wait_actual(full, timeout=timeout)
        if self.spec.paused:
            self.pause()
        else:
            self.resume()

    def _pause_until(self, deadline: float, state: str) -> None:
        """Wait a moment, or give up when QEMU is gone or it is too late."""
        if not self.alive:
            raise LabError(f"guest {self.name}: QEMU has ended: {self.complaints().strip()}")
        if time.monotonic() > deadline:
            raise LabError(f"guest {self.name}: {state}")
        time.sleep(_POLL_INTERVAL)


def _reply(read_line: Callable[[], bytes]) -> dict[str, Json]:
    """Read on to the next reply; events may come before it."""
    while line := read_line():
        message: dict[str, Json] = json.loads(line)
        if "return" in message or "error" in message:
            return message
    raise ConnectionResetError("QEMU closed the monitor")


def _read(path: Path) -> str:
    """Return a log's text, or nothing while it does not exist."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""

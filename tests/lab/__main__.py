# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab from a shell: `python -m tests.lab up|list|down|fetch`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .guest import Guest, GuestSpec
from .image import image
from .lab import Lab
from .record import Record
from .tools import Json, LabError

_DEFAULT_GUESTS = ("idle=512", "busy=512,busy=200", "small=256")
_GUEST_HELP = f"""\
A guest is written NAME=MEMORY[,OPTION...], with MEMORY in MiB and these options:
  busy=MIB      a process in the guest holds this much memory
  touched       the guest has once used all of its memory
  nodriver      the guest has not loaded its balloon driver
  noballoon     the guest has no balloon device
  paused        the guest is stopped once it is ready
  memlock       QEMU locks the guest's memory
  oom           the balloon deflates when the guest is out of memory
  fpr           the guest reports its free pages to the host
  runas=USER    QEMU drops to this user
  uuid=UUID     the guest's UUID
Without any guest: {" ".join(_DEFAULT_GUESTS)}
"""
# An option's field in GuestSpec, and how to read its value or, for a flag, the value itself.
_OPTIONS: dict[str, tuple[str, Callable[[str], str | int] | bool]] = {
    "busy": ("busy_mib", int),
    "runas": ("runas", str),
    "uuid": ("uuid", str),
    "touched": ("touched", True),
    "nodriver": ("driver", False),
    "noballoon": ("balloon", False),
    "paused": ("paused", True),
    "memlock": ("mem_lock", True),
    "oom": ("deflate_on_oom", True),
    "fpr": ("free_page_reporting", True),
}


def parse_guest(text: str) -> GuestSpec:
    """Read NAME=MEMORY[,OPTION...]."""
    head, *options = text.split(",")
    name, _equals, memory = head.partition("=")
    fields: dict[str, Json] = {}
    try:
        for option in options:
            key, equals, value = option.partition("=")
            field, kind = _OPTIONS[key]
            if isinstance(kind, bool) == bool(equals):
                raise ValueError(option)
            fields[field] = kind if isinstance(kind, bool) else kind(value)
        return GuestSpec(name, int(memory), **fields)
    except (KeyError, ValueError):
        raise LabError(f"cannot read {text!r}\n\n{_GUEST_HELP}") from None


def _up(folder: Path | None, guests: Sequence[str]) -> None:
    """Boot guests that live on."""
    specs = [parse_guest(text) for text in guests or _DEFAULT_GUESTS]
    with Lab(folder) as lab:
        booted = lab.up(*specs)
        lab.keep()
    print(f"lab {lab.folder}")
    _print_table(("name", "memory", "pid", "socket"), (_row(guest) for guest in booted))


def _list() -> None:
    """Show every lab of this user."""
    for record in Record.load_all():
        if record.kept:
            use = "until it is taken down"
        else:
            use = f"in use by process {record.owner.pid}" if record.held else "abandoned"
        print(f"lab {record.folder} ({use})")
        guests = [
            Guest(GuestSpec(name, started.memory_mib), record.folder, started.process)
            for name, started in record.guests.items()
        ]
        rows = ((*_row(guest), *_condition(guest)) for guest in guests)
        _print_table(("name", "memory", "pid", "socket", "state", "actual"), rows)


def _down(folder: Path | None) -> None:
    """End one lab, or all that no running process uses."""
    for record in [Record.load(folder.resolve())] if folder else Record.load_all():
        if folder is None and record.held:
            print(f"lab {record.folder} is in use by process {record.owner.pid}: left alone, unless named by --dir")
        else:
            record.end()
            print(f"lab {record.folder} has ended")


def _row(guest: Guest) -> tuple[str, ...]:
    """Return what never changes about a guest."""
    return guest.name, f"{guest.spec.memory_mib} MiB", str(guest.pid), str(guest.socket)


def _condition(guest: Guest) -> tuple[str, str]:
    """Return a guest's state and logical memory now."""
    if not guest.alive:
        return "dead", "-"
    state, actual = "silent", "-"
    with contextlib.suppress(LabError):  # without a balloon device there is no actual memory to show
        state = str(guest.qmp("query-status")["status"])
        actual = f"{guest.actual() / 2**20:g} MiB"
    return state, actual


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows under a head, in columns as wide as needed."""
    table = [tuple(title.upper() for title in head), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  " + "  ".join(map(str.ljust, row, widths)).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Tiny real guests for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser(
        "up", help="boot guests that live on", epilog=_GUEST_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    up.add_argument("guests", nargs="*", metavar="NAME=MEMORY[,OPTION...]")
    commands.add_parser("list", help="show this user's labs")
    down = commands.add_parser("down", help="end labs that no running process uses")
    for command in (up, down):
        command.add_argument("--dir", type=Path, help="the lab's folder; default: a new one in /tmp, or every lab")
    commands.add_parser("fetch", help="fetch and build what guests boot, without booting any")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "up":
                _up(options.dir, options.guests)
            case "list":
                _list()
            case "down":
                _down(options.dir)
            case "fetch":
                print(image().initramfs.parent)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the lab has ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

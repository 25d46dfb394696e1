# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab writes down about itself, so that any process can end exactly what it started."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .process import Process
from .tools import Json, LabError

_FILE = "lab.json"
# Not the user's TMPDIR: a UNIX socket's path ends at 107 bytes, and every lab of a user must be found again.
_RUN = Path("/tmp")  # noqa: S108 - mkdtemp makes the folders, and those of other users are not looked at
_PREFIX = "ballast-lab-"


@dataclass(frozen=True)
class Started:
    """A guest that was started: what `list` shows of it, and QEMU's process."""

    memory_mib: int
    process: Process

    @classmethod
    def load(cls, data: Json) -> Started:
        """Read it back from JSON."""
        return cls(data["memory_mib"], Process(**data["process"]))


@dataclass
class Record:
    """A lab's run folder as it is on disk; `kept` says that the lab shall outlive the process that opened it."""

    folder: Path
    owner: Process
    kept: bool = False
    guests: dict[str, Started] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path | None) -> Record:
        """Make a run folder, or take over an empty one, and record this process as its owner."""
        try:
            if folder is None:
                folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_RUN))
            else:
                folder = folder.resolve()
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if any(folder.iterdir()):
                    raise LabError(f"{folder} is not empty; a lab's folder goes away together with the lab")
                folder.chmod(0o700)
                # `list` and `down` look in one place only.
                (_RUN / f"{_PREFIX}{secrets.token_hex(4)}").symlink_to(folder)
        except OSError as error:
            raise LabError(f"cannot make the lab's folder: {error}") from error
        record = cls(folder, Process.running(os.getpid()))
        record.save()
        return record

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read what a lab wrote into its run folder."""
        try:
            data = json.loads((folder / _FILE).read_text())
            guests = {name: Started.load(started) for name, started in data["guests"].items()}
            return cls(folder, Process(**data["owner"]), data["kept"], guests)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise LabError(f"there is no lab in {folder}: {error}") from error

    @classmethod
    def load_all(cls) -> Iterator[Record]:
        """Read every lab of this user.

        Anyone may write to /tmp, so a folder that somebody else owns does not get to name processes to be killed.
        """
        for folder in sorted({found.resolve() for found in _RUN.glob(f"{_PREFIX}*")}):
            # A lab that is just being made or removed has no record, and another user's may be out of reach.
            with contextlib.suppress(LabError, OSError):
                if folder.stat().st_uid == os.geteuid():
                    yield cls.load(folder)

    @property
    def held(self) -> bool:
        """Whether the process that opened the lab still uses it."""
        return not self.kept and self.owner.alive

    def save(self) -> None:
        """Write it down; a reader sees either the old or the new state."""
        data = asdict(self)
        del data["folder"]
        fresh = self.folder / f"{_FILE}.new"
        fresh.write_text(json.dumps(data, indent=2) + "\n")
        fresh.rename(self.folder / _FILE)

    def end(self) -> None:
        """End every guest and remove the folder; doing it twice, or from two processes, is fine."""
        for started in self.guests.values():
            started.process.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        for link in _RUN.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # most are no links, and others come and go meanwhile
                if link.readlink() == self.folder:
                    link.unlink()

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time for the guests of a folder: a lock that ends with its process, on the folder that holds their sockets."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from .constants import LOCK_POLL_SECONDS, LOCK_TIMEOUT_SECONDS
from .errors import OtherRunError
from .texts import printable

_LOCKS = Path("/proc/locks")


@contextlib.asynccontextmanager
async def sole_run(sockets: Iterable[str], timeout: float = LOCK_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Keep other runs away from the folders of ``sockets`` for as long as the block lasts.

    A run whose controller has died goes on to its end; the next one waits for that, ``timeout`` seconds in all. A folder
    that may not be read, or whose file system has no locks, is not locked. Raises OtherRunError.
    """
    end = asyncio.get_running_loop().time() + timeout
    with contextlib.ExitStack() as held:
        for folder in _folders(sockets):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # what is wrong with it is said by the visits
            except OSError as error:
                raise OtherRunError(f"{folder} cannot be opened to keep other runs away: {error.strerror}") from None
            held.callback(os.close, descriptor)
            while not _locked(descriptor):
                if asyncio.get_running_loop().time() >= end:
                    raise OtherRunError(
                        f"another run works on the guests in {folder}{_holder(descriptor)} and did not end within"
                        f" {timeout:g} s. Nothing was touched. Wait for it, or end it, and run the task again"
                    )
                await asyncio.sleep(LOCK_POLL_SECONDS)
        yield


def _folders(sockets: Iterable[str]) -> list[str]:
    """Return the sockets' folders, in one order for all runs, so that no two wait for each other."""
    return sorted({os.path.realpath(os.path.dirname(socket)) for socket in sockets})


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks in this file system
    return True


def _holder(descriptor: int) -> str:
    """Name the process that holds the lock, as far as the kernel tells: `` (process 123)``."""
    inode = f":{os.fstat(descriptor).st_ino}"
    with contextlib.suppress(OSError):
        for line in _LOCKS.read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(inode):
                return printable(f" (process {words[4]})")
    return ""

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time: the second waits, is told whom it waited for, and is never kept out by the dead."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import OtherRunError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.lock import sole_run

HOLD = f"""
import asyncio, sys
from {sole_run.__module__} import sole_run
async def hold():
    async with sole_run(sys.argv[1:]):
        print("held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(hold())
"""


@contextlib.contextmanager
def holder(*sockets: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it gets a line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, *map(str, sockets)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


async def test_another_run_is_named(tmp_path: Path) -> None:
    with holder(tmp_path / "a.qmp") as process, pytest.raises(OtherRunError, match=r"process \d+.* within 0.3 s") as raised:
        await enter(tmp_path, 0.3)
    assert f"(process {process.pid})" in str(raised.value)


async def test_waits_for_the_other_ones_end(tmp_path: Path) -> None:
    with holder(tmp_path / "a.qmp") as process:
        waiting = asyncio.ensure_future(enter(tmp_path))
        done, _pending = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        await asyncio.wait_for(waiting, 5)


async def test_a_killed_run_keeps_nobody_out(tmp_path: Path) -> None:
    with holder(tmp_path / "a.qmp") as process:
        process.kill()
        process.wait()
        await enter(tmp_path)


async def test_other_folders_are_free(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with holder(tmp_path / "a.qmp"):
        await enter(tmp_path / "other")


async def test_two_ways_to_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with holder(tmp_path / "run" / "a.qmp"), pytest.raises(OtherRunError):
        async with sole_run([f"{tmp_path}/link/a.qmp"], 0.1):
            pytest.fail("two runs at once")


async def test_is_free_again_after_the_block(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with sole_run([f"{tmp_path}/a.qmp"]):
            raise ZeroDivisionError
    with holder(tmp_path / "a.qmp"):
        pass


async def test_a_folder_that_is_not_there_is_no_matter_of_the_lock(tmp_path: Path) -> None:
    await enter(tmp_path / "none")


async def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    await enter(tmp_path)


async def enter(folder: Path, timeout: float = 5) -> None:
    async with sole_run([f"{folder}/b.qmp"], timeout):
        pass

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals: the work is cleaned up after, once, and the end is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.runner import run

WORK = f"""
import asyncio, signal, sys
from {run.__module__} import run
from {run.__module__.replace("runner", "errors")} import InterruptedRunError

async def work():
    try:
        print("working", flush=True)
        await asyncio.Event().wait()
    finally:
        print("cleaning", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.readline()
        print("clean", flush=True)

try:
    run(work())
except InterruptedRunError as error:
    print(error.code, error)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    print(signal.getsignal(number) == signal.SIG_IGN)
"""


@contextlib.contextmanager
def working() -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of its work, which cleans up until it gets a line."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert line(process) == "working"
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_work_in_order(number: signal.Signals) -> None:
    with working() as process:
        process.send_signal(number)
        assert line(process) == "cleaning"
        output, _errors = process.communicate("go\n", timeout=10)
    said = output.splitlines()
    assert said[0] == "clean"
    assert said[1].startswith(f"interrupted interrupted by {number.name}")
    assert said[2:] == ["True"] * 3  # nothing keeps the results from being written now
    assert process.returncode == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_does_not_tear_the_cleaning_up_apart(second: signal.Signals) -> None:
    with working() as process:
        process.send_signal(signal.SIGTERM)
        assert line(process) == "cleaning"
        for _time in range(3):
            process.send_signal(second)
        output, _errors = process.communicate("go\n", timeout=10)
    assert output.splitlines()[0] == "clean"
    assert "interrupted by SIGTERM" in output


def test_the_end_of_whoever_reads_ends_the_work(tmp_path: Path) -> None:
    """As when the connection to the controller breaks: nobody sends a signal then."""
    told = tmp_path / "told"
    work = re.sub(r'("clean\w*", flush=True)', rf"\1, file=open({str(told)!r}, 'a')", WORK)
    process = subprocess.Popen(
        [sys.executable, "-c", work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert line(process) == "working"
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    process.wait(timeout=20)
    assert told.read_text().split() == ["cleaning", "clean"]


def test_signals_that_are_ignored_stay_ignored() -> None:
    """Under nohup the end of the terminal is not the end of the work."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(asyncio.sleep(0))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_result_comes_through() -> None:
    async def work() -> int:
        return 7

    assert run(work()) == 7


def test_so_does_an_error() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(work())


def test_work_that_is_done_when_the_signal_comes_is_not_thrown_away() -> None:
    async def work() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)  # noqa: ASYNC251 - the handler must not get a turn before the end
        return 7

    assert run(work()) == 7

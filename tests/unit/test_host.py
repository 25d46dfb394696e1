# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's memory, from folders made up like /proc and from the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import QemuError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import Host, process_rss, read_host

MEMINFO = """\
MemTotal:       16000000 kB
MemFree:         1000000 kB
MemAvailable:    9000000 kB
SwapTotal:       2000000 kB
SwapFree:         500000 kB
HugePages_Total:       8
Hugepagesize:       2048 kB
"""
PRESSURE = """\
some avg10=1.50 avg60=0.00 avg300=0.25 total=123456
full avg10=0.00 avg60=0.00 avg300=0.00 total=42
"""


def fake(proc: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(text)
    return proc


def test_sizes_are_in_bytes(tmp_path: Path) -> None:
    host = read_host(fake(tmp_path, {"meminfo": MEMINFO, "pressure/memory": PRESSURE}))
    assert host == Host(
        total=16000000 * 1024,
        available=9000000 * 1024,
        swap_used=1500000 * 1024,
        pressure={
            "some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.25, "total": 123456.0},
            "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 42.0},
        },
    )


@pytest.mark.parametrize("files", [{}, {"pressure/memory": ""}])
def test_a_kernel_that_tells_no_pressure(tmp_path: Path, files: dict[str, str]) -> None:
    assert read_host(fake(tmp_path, {"meminfo": MEMINFO, **files})).pressure is None


@pytest.mark.parametrize(
    "files", [{}, {"meminfo": ""}, {"meminfo": "MemTotal: 5 kB\n"}, {"meminfo": MEMINFO.replace("kB", "")}]
)
def test_what_cannot_be_read_is_said(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(QemuError, match="meminfo"):
        read_host(fake(tmp_path, files))


@pytest.mark.parametrize(
    ("status", "rss"),
    [
        ("Name:\tqemu\nVmRSS:\t  1000 kB\nThreads:\t4\n", 1000 * 1024),
        ("Name:\tqemu\nVmRSS:\t  1000 kB\nHugetlbPages:\t  2048 kB\n", 3048 * 1024),
        ("Name:\tVmRSS: 7 kB\nVmRSS:\t  1000 kB\n", 1000 * 1024),
        ("Name:\tkthreadd\nThreads:\t1\n", None),
        ("", None),
    ],
)
def test_a_process(tmp_path: Path, status: str, rss: int | None) -> None:
    assert process_rss(7, fake(tmp_path, {"7/status": status})) == rss


def test_a_process_that_is_not_seen(tmp_path: Path) -> None:
    assert process_rss(None, tmp_path) is None
    assert process_rss(7, tmp_path) is None


def test_this_very_host() -> None:
    host = read_host()
    assert 0 < host.available <= host.total
    assert host.swap_used >= 0
    rss = process_rss(os.getpid())
    assert rss is not None
    assert 1 << 20 < rss < host.total

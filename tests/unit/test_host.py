# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's memory, from folders made up like /proc and from the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import QemuError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import Host, ProcessMemory, process_memory, read_host

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
    host = read_host(proc=fake(tmp_path, {"meminfo": MEMINFO, "pressure/memory": PRESSURE}))
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
    assert read_host(proc=fake(tmp_path, {"meminfo": MEMINFO, **files})).pressure is None


@pytest.mark.parametrize(
    "files", [{}, {"meminfo": ""}, {"meminfo": "MemTotal: 5 kB\n"}, {"meminfo": MEMINFO.replace("kB", "")}]
)
def test_what_cannot_be_read_is_said(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(QemuError, match="meminfo"):
        read_host(proc=fake(tmp_path, files))


@pytest.mark.parametrize(
    ("status", "memory"),
    [
        ("Name:\tqemu\nVmRSS:\t  1000 kB\nThreads:\t4\n", (1000, 1000, 0)),
        ("Name:\tqemu\nVmRSS:\t  1000 kB\nHugetlbPages:\t  2048 kB\n", (3048, 3048, 0)),
        ("Name:\tqemu\nVmLck:\t 900 kB\nVmPin:\t 0 kB\nVmRSS:\t  1000 kB\nRssFile:\t 50 kB\n", (1000, 950, 900)),
        ("Name:\tqemu\nVmLck:\t 0 kB\nVmPin:\t 800 kB\nVmRSS:\t  1000 kB\n", (1000, 1000, 800)),
        ("Name:\tVmRSS: 7 kB\nVmRSS:\t  1000 kB\n", (1000, 1000, 0)),
        ("Name:\tkthreadd\nThreads:\t1\n", None),
        ("", None),
    ],
)
def test_a_process(tmp_path: Path, status: str, memory: tuple[int, int, int] | None) -> None:
    expected = memory and ProcessMemory(*(1024 * size for size in memory))
    assert process_memory(7, fake(tmp_path, {"7/status": status})) == expected


def test_a_process_that_is_not_seen(tmp_path: Path) -> None:
    assert process_memory(None, tmp_path) is None
    assert process_memory(7, tmp_path) is None


def test_this_very_host() -> None:
    host = read_host()
    assert 0 < host.available <= host.total
    assert host.swap_used >= 0
    memory = process_memory(os.getpid())
    assert memory is not None
    assert 1 << 20 < memory.held <= memory.rss < host.total


GIB = 1 << 30
UNIFIED = {"cgroup.controllers": "memory pids\n"}


def bounded(folder: Path, cgroups: dict[str, str], pids: dict[int, str]) -> tuple[int, int]:
    """Total and available of a host of 16000000 kB, 9000000 of them available, with these cgroups and processes."""
    proc = fake(folder / "proc", {"meminfo": MEMINFO, **{f"{pid}/cgroup": path for pid, path in pids.items()}})
    host = read_host(pids, proc, fake(folder / "cgroup", cgroups))
    return host.total, host.available


def test_merged_pages(tmp_path: Path) -> None:
    proc = fake(tmp_path / "proc", {"meminfo": MEMINFO})
    ksm = fake(tmp_path / "ksm", {"pages_sharing": "1000\n"})
    assert read_host((), proc, tmp_path, ksm).merged == 1000 * os.sysconf("SC_PAGE_SIZE")
    assert read_host((), proc, tmp_path, tmp_path / "none").merged == 0


class TestCgroups:
    def test_the_tighter_limit_counts(self, tmp_path: Path) -> None:
        files = {
            **UNIFIED,
            "machine.slice/memory.max": f"{8 * GIB}\n",
            "machine.slice/memory.high": "max\n",
            "machine.slice/memory.current": f"{5 * GIB}\n",
            "machine.slice/memory.stat": f"anon {3 * GIB}\ninactive_file {1 * GIB}\n",
        }
        assert bounded(tmp_path, files, {1: "0::/machine.slice\n"}) == (8 * GIB, 4 * GIB)

    def test_a_limit_above_counts_as_well(self, tmp_path: Path) -> None:
        files = {
            **UNIFIED,
            "machine.slice/vms/memory.max": f"{8 * GIB}\n",
            "machine.slice/vms/memory.current": "0\n",
            "machine.slice/memory.max": "max\n",
            "machine.slice/memory.high": f"{4 * GIB}\n",
            "machine.slice/memory.current": f"{1 * GIB}\n",
        }
        assert bounded(tmp_path, files, {1: "0::/machine.slice/vms\n"}) == (4 * GIB, 3 * GIB)

    def test_what_limits_one_guest_does_not_limit_all(self, tmp_path: Path) -> None:
        files = {
            **UNIFIED,
            "machine.slice/a/memory.max": f"{1 * GIB}\n",
            "machine.slice/a/memory.current": "0\n",
            "machine.slice/memory.max": f"{8 * GIB}\n",
            "machine.slice/memory.current": "0\n",
        }
        guests = {1: "0::/machine.slice/a\n", 2: "0::/machine.slice/b\n"}
        assert bounded(tmp_path, files, guests) == (8 * GIB, 8 * GIB)

    def test_a_container_that_is_shown_its_hosts_paths(self, tmp_path: Path) -> None:
        files = {
            "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "memory/memory.usage_in_bytes": f"{3 * GIB}\n",
            "memory/memory.stat": "total_inactive_file 5\n",
        }
        assert bounded(tmp_path, files, {1: "4:memory:/docker/0123\n0::/\n"}) == (2 * GIB, 0)

    @pytest.mark.parametrize(
        "files",
        [
            {},
            UNIFIED,
            {**UNIFIED, "memory.max": "max\n", "memory.current": "5\n"},
            {**UNIFIED, "memory.max": f"{2 * GIB}\n"},
            {**UNIFIED, "memory.max": "odd\n", "memory.current": "5\n"},
            {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "5\n"},
        ],
    )
    def test_no_limit(self, tmp_path: Path, files: dict[str, str]) -> None:
        assert bounded(tmp_path, files, {1: "0::/\n"}) == (16000000 * 1024, 9000000 * 1024)

    @pytest.mark.parametrize("cgroup", ["", "odd\n", "0::../../escape\n", "4:cpu:/x\n"])
    def test_a_process_without_a_path(self, tmp_path: Path, cgroup: str) -> None:
        files = {**UNIFIED, "memory.max": f"{2 * GIB}\n", "memory.current": "5\n"}
        assert bounded(tmp_path, files, {1: cgroup}) == (16000000 * 1024, 9000000 * 1024)

    def test_our_own_limit_where_there_is_no_guest(self, tmp_path: Path) -> None:
        proc = fake(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": "0::/user.slice\n"})
        files = {**UNIFIED, "user.slice/memory.max": f"{2 * GIB}\n", "user.slice/memory.current": "0\n"}
        assert read_host((), proc, fake(tmp_path / "cgroup", files)).total == 2 * GIB

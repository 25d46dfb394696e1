# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab guest boots: Debian's own kernel and busybox, fetched into a cache and never installed."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .tools import LabError, run_tool

READY = "lab: guest is ready"

_KERNEL = "linux-image-cloud-amd64"
_BUSYBOX = "busybox-static"
_DRIVERS = ("virtio_pci", "virtio_balloon")

# The machine's package lists may be empty or unreadable, so apt keeps its own here. The hooks that packages add to
# `update` want root and the machine's own lists.
_APT_CONF = """\
Dir::State "{folder}/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{folder}/cache";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures {{ "amd64"; }};
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""

# Debian's busybox runs its own applets without any links to them. The LAB_ variables come from the kernel's command
# line. A touched guest fills its memory once and lets it go. `dd` reads its share into memory of its own and then hangs
# for ever on a pipe that nobody reads, so it holds it; one read ends at 2 GiB, hence the pieces. The ready line waits
# until all of it is really there, but for the pages that the kernel has not counted yet.
_INIT = f"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
mknod /dev/null c 1 3
mknod /dev/zero c 1 5
for module in /modules/*; do
    case $module in *balloon*) [ "$LAB_DRIVER" = no ] && continue ;; esac
    insmod "$module"
done
rm -r /modules
if [ "$LAB_TOUCHED" = yes ]; then
    mkdir /fill
    mount -t tmpfs -o size=100% fill /fill
    mib=$(awk '/^MemAvailable/ {{ print int($2 * 0.95 / 1024) }}' /proc/meminfo)
    dd if=/dev/zero of=/fill/zeros bs=1M count="$mib" 2>/dev/null
    umount /fill
fi
held_kib() {{
    for pid in $(pidof dd); do cat "/proc/$pid/status"; done | awk '/^RssAnon/ {{ sum += $2 }} END {{ print sum + 0 }}'
}}
left=$LAB_BUSY_MIB
while [ "$left" -gt 0 ]; do
    piece=$((left > 1024 ? 1024 : left))
    left=$((left - piece))
    dd if=/dev/zero bs="${{piece}}M" | sleep 2147483647 &
done
until [ "$(held_kib)" -ge $((LAB_BUSY_MIB * 1023 - 1024)) ]; do sleep 0.1; done
echo "{READY}"
exec sleep 2147483647
"""


@dataclass(frozen=True)
class Image:
    """The two files that QEMU boots."""

    kernel: Path
    initramfs: Path


def cache_folder() -> Path:
    """Where fetched and built files stay between runs."""
    if own := os.environ.get("BALLAST_CACHE"):
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "ballast-qemu"


def image() -> Image:
    """Return the guest's kernel and initramfs; the first call fetches and builds them, later ones need no network."""
    cache = cache_folder()
    parts = cache / "debian-amd64"
    digest = hashlib.sha256(_INIT.encode()).hexdigest()[:16]
    ready = Image(kernel=parts / "vmlinuz", initramfs=parts / f"initramfs-{digest}.gz")
    if not ready.initramfs.exists():
        try:
            with _locked(cache):
                if not parts.exists():
                    _fetch(cache, parts)
                if not ready.initramfs.exists():
                    _build_initramfs(parts, ready.initramfs)
        except OSError as error:
            raise LabError(f"cannot fill the cache folder {cache}: {error}") from error
    return ready


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Keep other labs out while the cache is being filled."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(cache: Path, parts: Path) -> None:
    """Download the two packages and keep only vmlinuz, busybox and the drivers, in the order of loading."""
    folder = cache / "fetching"
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted fetch left
    tree = folder / "tree"
    for package in _download(folder):
        run_tool("dpkg-deb", "-x", package, tree, folder=folder)
    kept = folder / "kept"
    (kept / "modules").mkdir(parents=True)
    shutil.copy(_only(tree, "boot/vmlinuz-*"), kept / "vmlinuz")
    shutil.copy(_only(tree, "**/bin/busybox"), kept / "busybox")
    for number, (module, content) in enumerate(_drivers(_only(tree, "**/lib/modules/*"))):
        (kept / "modules" / f"{number:02}-{module}.ko").write_bytes(content)
    kept.rename(parts)
    shutil.rmtree(folder)


def _download(folder: Path) -> list[Path]:
    """Let apt-get download the packages into a folder, without root and without touching the machine's own lists."""
    for own in ("state/lists/partial", "cache/archives/partial"):
        (folder / own).mkdir(parents=True)
    conf = folder / "apt.conf"
    # As root, apt would drop to a user who cannot enter this folder.
    sandbox = 'APT::Sandbox::User "root";\n' if os.geteuid() == 0 else ""
    conf.write_text(_APT_CONF.format(folder=folder) + sandbox)
    run_tool("apt-get", "-c", conf, "--quiet", "update", folder=folder)
    depends = run_tool("apt-cache", "-c", conf, "depends", _KERNEL, folder=folder)
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if kernel is None:
        raise LabError(f"{_KERNEL} is in none of this machine's package sources that could be reached")
    run_tool("apt-get", "-c", conf, "--quiet", "download", kernel[1], _BUSYBOX, folder=folder)
    return sorted(folder.glob("*.deb"))


def _only(tree: Path, pattern: str) -> Path:
    """Return the one file of a package tree that matches."""
    match list(tree.glob(pattern)):
        case [found]:
            return found
        case found:
            raise LabError(f"the Debian packages hold {len(found)} of {pattern}, expected one")


def _drivers(modules: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every driver and what it needs, dependencies first.

    The package holds no modules.dep: that is written on installation. Each module names its own needs.
    """
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in modules.glob("kernel/**/*.ko*")}
    builtin = {Path(line).stem.replace("-", "_") for line in (modules / "modules.builtin").read_text().split()}
    seen = set(builtin)

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen:
            return
        seen.add(name)
        if name not in files:
            raise LabError(f"Debian's kernel package has no driver {name}")
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in depends[1].decode().split(",") if depends and depends[1] else ():
            yield from visit(needed.replace("-", "_"))
        yield name, content

    for driver in _DRIVERS:
        yield from visit(driver)


def _build_initramfs(parts: Path, target: Path) -> None:
    """Pack init, busybox and the drivers for the kernel."""
    archive = bytearray()
    for folder in ("bin", "dev", "proc", "modules"):
        archive += _newc(folder, stat.S_IFDIR | 0o755)
    archive += _newc("init", stat.S_IFREG | 0o755, _INIT.encode())
    archive += _newc("bin/busybox", stat.S_IFREG | 0o755, (parts / "busybox").read_bytes())
    for module in sorted((parts / "modules").iterdir()):
        archive += _newc(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    archive += _newc("TRAILER!!!", 0)
    fresh = target.with_suffix(".new")
    fresh.write_bytes(gzip.compress(bytes(archive), mtime=0))
    fresh.rename(target)


def _newc(name: str, mode: int, content: bytes = b"") -> bytes:
    """Return one member of a cpio archive in the `newc` format, owned by root."""
    raw = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)

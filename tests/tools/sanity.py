# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs `ansible-test sanity` on a copy of the checkout, for every Python on this machine that the collection supports."""

import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_test._internal.constants import SUPPORTED_PYTHON_VERSIONS
from ansible_test._internal.python_requirements import get_venv_packages

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build")
INSTALLED_PYTHONS = (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin")


def search_path() -> str:
    """PATH without version managers' shims, which ansible-test takes for interpreters, and with what stands behind them."""
    folders = [folder for folder in os.get_exec_path() if Path(folder).name != "shims"]
    folders += [str(folder) for pattern in INSTALLED_PYTHONS for folder in sorted(Path.home().glob(pattern))]
    return os.pathsep.join(folders)


@contextmanager
def get_pip_provided() -> Iterator[None]:
    """For as long as ansible-test runs, our get_pip.py is where it would put the one that it downloads."""
    wanted = {get_venv_packages(types.SimpleNamespace(version=python))["pip"] for python in SUPPORTED_PYTHON_VERSIONS}
    cached = [Path.home() / f".ansible/test/cache/get_pip_{version.replace('.', '_')}.py" for version in wanted]
    provided = [script for script in cached if not script.exists()]
    for script in provided:
        script.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("get_pip.py"), script)
    try:
        yield
    finally:
        for script in provided:
            script.unlink(missing_ok=True)


def main() -> int:
    """Run the tests, give ansible-test's exit code."""
    with tempfile.TemporaryDirectory() as folder, get_pip_provided():
        copy = Path(folder, "ansible_collections/ballast/qemu")
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        command = ["ansible-test", "sanity", "--color", "yes", *sys.argv[1:]]
        return subprocess.run(command, cwd=copy, env={**os.environ, "PATH": search_path()}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the get-pip script that ansible-test downloads for its sandboxes, so that a package index is all they need.

It starts from the pip that comes with the interpreter, which then fetches the version asked for.
"""

import subprocess
import sys
from pathlib import Path

Path(sys.prefix, "pip.conf").write_text("[global]\nquiet = 2\n", encoding="utf-8")

known_to_pip = [option for option in sys.argv[1:] if option not in {"--no-setuptools", "--no-wheel"}]
for command in (["ensurepip", "--default-pip"], ["pip", "install", *known_to_pip]):
    subprocess.run([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, check=True)

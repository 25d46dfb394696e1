# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

OWN_UID = os.geteuid()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short path: a socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bq-") as name:
        yield Path(name)

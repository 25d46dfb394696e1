# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real guests for tests: tiny QEMU virtual machines, booted in seconds and ended for certain."""

from __future__ import annotations

from .guest import Guest, GuestSpec
from .image import READY
from .lab import Lab
from .tools import LabError

__all__ = ["READY", "Guest", "GuestSpec", "Lab", "LabError"]

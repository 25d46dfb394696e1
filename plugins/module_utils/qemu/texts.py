# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts from elsewhere, made fit to be shown."""

from __future__ import annotations


def printable(text: str, longest: int | None = None) -> str:
    """Return a text, or the first ``longest`` characters of it, with what could act on a terminal written as an escape."""
    shown = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)
    return shown if longest is None or len(shown) <= longest else shown[:longest] + "..."

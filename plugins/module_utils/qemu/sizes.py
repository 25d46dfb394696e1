# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes as people write them: ``512M``, ``1.5GiB``, ``536870912``, ``60%`` or ``max``, to bytes and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from .constants import BALLOON_PAGE, MIB
from .errors import OptionError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?) ?(%|[KMGT]iB|[KMGT]|)", re.IGNORECASE)
_BYTES_MAX = (1 << 63) - 1  # the largest integer that QMP takes
FULL_MEMORY = "the guest's full memory"


@dataclass(frozen=True)
class Size:
    """``amount`` bytes, or ``amount`` times something that is known later, like the guest's full memory."""

    text: str
    amount: Fraction
    relative: bool

    def resolve(self, whole: int) -> int:
        """Return bytes, of ``whole`` bytes where it is a percentage, rounded up to the balloon's pages."""
        numerator = self.amount.numerator * (whole if self.relative else 1)
        return -(-numerator // (self.amount.denominator * BALLOON_PAGE)) * BALLOON_PAGE


def parse_size(
    text: str,
    option: str,
    *,
    zero: bool = False,
    full: bool = False,
    unit: bool = False,
    of: str = FULL_MEMORY,
    most: int = 100,
) -> Size:
    """Read a size as users write it.

    ``option`` names the option in the message, ``zero`` allows 0 and ``full`` the word ``max``; with ``unit`` a small number
    needs one, since somebody who writes 512 hardly means bytes; percentages are ``of`` something and end at ``most``.
    Raises OptionError for anything else, and for sizes of 2^63 bytes and more.
    """
    word = text.strip()
    if full and word.lower() == "max":
        return Size(text=word, amount=Fraction(1), relative=True)
    how = f"write a size like 512M, 1.5GiB or 536870912 (bytes), or a percentage of {of} like 60%" + (
        ", or max" if full else ""
    )
    match = _SIZE.fullmatch(word)
    if match is None:
        raise OptionError(f"{option}: {_quoted(text)} is not a size; {how}")
    number, written = Fraction(match.group(1)), match.group(2).upper()
    relative = written == "%"
    amount = number / 100 if relative else number * _UNITS[written[:1]]
    if amount == 0 and not zero:
        raise OptionError(f"{option}: {_quoted(text)} is nothing; {how}")
    if unit and not written and 0 < amount < MIB:
        raise OptionError(
            f"{option}: a number alone means bytes, and {word} of them are next to nothing: did you mean {word}M or {word}%?"
        )
    if relative and amount * 100 > most:
        raise OptionError(f"{option}: {_quoted(text)} is too much of {of}; percentages end at {most}%")
    if not relative and amount > _BYTES_MAX:
        raise OptionError(f"{option}: {_quoted(text)} is beyond what QEMU can count; {how}")
    return Size(text=word, amount=amount, relative=relative)


def exactly(size: int) -> Size:
    """Return ``size`` bytes as a size."""
    return Size(text=str(size), amount=Fraction(size), relative=False)


def align_up(size: int) -> int:
    """Return ``size`` bytes rounded up to the balloon's pages."""
    return -(-size // BALLOON_PAGE) * BALLOON_PAGE


def align_down(size: int) -> int:
    """Return ``size`` bytes rounded down to the balloon's pages."""
    return size // BALLOON_PAGE * BALLOON_PAGE


def format_size(size: int) -> str:
    """Return bytes for reading: ``160 MiB``, ``67.6 MiB``, ``1.5 GiB``, ``-4 KiB``."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:.1f}".replace(".0", "") + f" {name}"
    return f"{size} B"


def option_size(size: int) -> str:
    """Return a size that can be typed as an option and is not below ``size`` bytes: ``168M``."""
    return f"{-(-size // MIB)}M"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")

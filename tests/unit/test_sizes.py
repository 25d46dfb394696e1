# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes: what people may write, and that nothing is lost on the way to bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.constants import BALLOON_PAGE, MIB
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import OptionError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import align_up, format_size, option_size, parse_size

GIB = 1 << 30
BAD = "abc|-5M|120%|0|0%|0.0G|5 0M|512MB|1e3M|inf|nan|0x10|M|%|9999999T|max|1.M|.5G|--1"
POWERS = {"K": 10, "M": 20, "G": 30, "T": 40}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512mib", 512 * MIB),
        ("512 M", 512 * MIB),
        (" 512M ", 512 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("536870912", 512 * MIB),
        ("64K", 65536),
        ("1T", 1 << 40),
        ("1", BALLOON_PAGE),
        ("0.1M", align_up(MIB // 10)),
    ],
)
def test_absolute(text: str, size: int) -> None:
    assert parse_size(text, "target").resolve(GIB) == size


@pytest.mark.parametrize(
    ("text", "size"), [("60%", 64 * BALLOON_PAGE), ("100%", 104 * BALLOON_PAGE), ("max", 104 * BALLOON_PAGE)]
)
def test_relative(text: str, size: int) -> None:
    """60 % of 104 pages are 62.4 pages; a part of a page is given to the guest."""
    expected = size if text != "60%" else 63 * BALLOON_PAGE
    assert parse_size(text, "target", full=True).resolve(104 * BALLOON_PAGE) == expected


@pytest.mark.parametrize("text", [*BAD.split("|"), "", "1" * 30, "512M\n512M", "\N{ARABIC-INDIC DIGIT FIVE}M"])
def test_bad_sizes_say_what_to_write(text: str) -> None:
    with pytest.raises(OptionError, match=r"^target: ") as caught:
        parse_size(text, "target")
    assert "%" in str(caught.value) or "512M" in str(caught.value)


def test_zero_where_allowed() -> None:
    assert parse_size("0", "headroom", zero=True).resolve(GIB) == 0


@given(st.integers(min_value=1, max_value=(1 << 63) - 1))
def test_bytes_come_through_exactly(size: int) -> None:
    assert parse_size(str(size), "target").resolve(GIB) == align_up(size)


@given(st.decimals(min_value="0.001", max_value=1000, places=3), st.sampled_from("KMGT"), st.sampled_from(["", "iB", "ib"]))
def test_every_way_to_write_a_unit_is_the_same(number: object, unit: str, suffix: str) -> None:
    sizes = {
        parse_size(text, "target").resolve(GIB) for text in (f"{number}{unit}{suffix}", f"{number} {unit.lower()}{suffix}")
    }
    assert len(sizes) == 1
    assert abs(sizes.pop() - float(str(number)) * (1 << POWERS[unit])) <= BALLOON_PAGE


@given(st.decimals(min_value="0.01", max_value=100, places=2), st.integers(min_value=1, max_value=1 << 40))
def test_a_percentage_is_never_less_than_asked_nor_a_page_more(percent: object, pages: int) -> None:
    maximum = pages * BALLOON_PAGE
    size = parse_size(f"{percent}%", "target").resolve(maximum)
    exact = float(str(percent)) / 100 * maximum
    assert size % BALLOON_PAGE == 0
    assert size <= maximum
    assert exact * (1 - 1e-9) <= size < exact * (1 + 1e-9) + BALLOON_PAGE


@given(st.integers(min_value=1, max_value=1 << 50))
def test_a_suggested_size_can_be_typed_and_is_enough(size: int) -> None:
    typed = parse_size(option_size(size), "target").resolve(GIB)
    assert size <= typed < size + MIB


@given(st.text(max_size=60))
def test_no_text_is_a_surprise(text: str) -> None:
    try:
        size = parse_size(text, "target", full=True).resolve(GIB)
    except OptionError:
        return
    assert size > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (160 * MIB, "160 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (70_883_738, "67.6 MiB"),
        (0, "0 B"),
        (-4096, "-4 KiB"),
        (10 * GIB, "10 GiB"),
    ],
)
def test_reading(size: int, text: str) -> None:
    assert format_size(size) == text

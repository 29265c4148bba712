"""Quantities of Kubernetes, and figures as Fluid prints them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.api.quantities import BYTES_MAX, bytes_of, percentage, size
from csi.base.errors import Code, DriverError

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("15Gi", 15 * 2**30), ("64Mi", 2**26), ("1.5Ki", 1536), ("1e9", 10**9), ("1E3", 1000),
        ("100m", 1), ("1500m", 2), ("1n", 1), (".5k", 500), ("5.", 5), ("+2Ki", 2048), ("-0", 0), (1000, 1000),
        ("1E", 10**18), ("100Ei", BYTES_MAX), ("1e999", BYTES_MAX), ("1e-999", 1), ("0e999", 0),
    ],
)  # fmt: skip
def test_bytes(quantity: str | int, expected: int) -> None:
    assert bytes_of(quantity) == expected


@given(
    whole=st.integers(0, 10**6), decimals=st.text("0123456789", max_size=6), unit=st.sampled_from(sorted(_UNITS))
)  # fmt: skip
def test_bytes_are_rounded_up(whole: int, decimals: str, unit: str) -> None:
    exact = (Fraction(whole) + Fraction(int(decimals or 0), 10 ** len(decimals))) * _UNITS[unit]
    assert bytes_of(f"{whole}.{decimals}{unit}") == -(-exact.numerator // exact.denominator)


@given(st.text(max_size=80))
def test_anything_is_a_quantity_or_refused(text: str) -> None:
    try:
        assert 0 <= bytes_of(text) <= BYTES_MAX
    except DriverError as error:
        assert error.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["", "Gi", "1Gib", "1 Gi", "-1Gi", "1gi", "1e1.5", "１", "1\n", "1" * 65])
def test_refused(text: str) -> None:
    with pytest.raises(DriverError):
        bytes_of(text)


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (0, "0.00B"), (1023, "1023.00B"), (1024, "1.00KiB"), (10 * 2**30, "10.00GiB"), (45 * 2**30, "45.00GiB"),
        (7 * 2**40, "7.00TiB"), (100 * 2**50, "100.00PiB"), (5000 * 2**50, "5000.00PiB"), (1536, "1.50KiB"),
    ],
)  # fmt: skip
def test_sizes(number: int, printed: str) -> None:
    assert size(number) == printed


@given(st.integers(0, 2**60))
def test_a_printed_size_is_near_the_number(number: int) -> None:
    printed = size(number)
    unit = printed.lstrip("0123456789.")
    factor = {"B": 1} | {f"{name}iB": 1024 ** (power + 1) for power, name in enumerate("KMGTP")}
    assert abs(float(printed.removesuffix(unit)) * factor[unit] - number) <= 0.0051 * factor[unit] + number * 1e-15


@pytest.mark.parametrize(
    ("part", "whole", "printed"),
    [(0, 0, "0.0%"), (5, 0, "0.0%"), (0, 10, "0.0%"), (1, 3, "33.3%"), (10, 10, "100.0%"), (11, 10, "100.0%")],
)
def test_percentages(part: int, whole: int, printed: str) -> None:
    assert percentage(part, whole) == printed

"""Figures as text. A record has shares from 0 to 1, milliseconds and bytes; people read percent and MiB."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

NOT_AVAILABLE = "n/a"


def number(value: float | None, digits: int = 1) -> str:
    """So many decimals; ``n/a`` for None."""
    return NOT_AVAILABLE if value is None else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage without the sign; ``n/a`` for None."""
    return number(None if share is None else 100 * share, digits)


def milliseconds(value: float | None) -> str:
    """With about three significant digits, without the unit: stages differ by a factor of 10 000."""
    if value is None:
        return NOT_AVAILABLE
    digits = 3 if value < 1 else 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:.{digits}f}"


def interval(low_high: dict[str, Any] | None) -> str:
    """An interval of shares, in percent without the sign; ``n/a`` for None."""
    return NOT_AVAILABLE if low_high is None else f"{percent(low_high['low'])} to {percent(low_high['high'])}"


def scaled(value: float | None, unit: str) -> str:
    """A large or small number with a decimal prefix: 1.2e11 FLOP/s is 120 GFLOP/s."""
    if value is None:
        return NOT_AVAILABLE
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_three_digits(value / factor)} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def size_in_bytes(value: float | None) -> str:
    """With a binary prefix."""
    if value is None:
        return NOT_AVAILABLE
    for factor, prefix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= factor:
            return f"{_three_digits(value / factor)} {prefix}"
    return f"{value:.0f} B"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def frame_size(size: Sequence[int]) -> str:
    """(height, width) as HxW."""
    return "x".join(map(str, size))


def plain(value: Any) -> str:
    """A value of settings or versions: text as it is, anything else as JSON without quotes where it can."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value)


def middle_cut(text: str, longest: int) -> str:
    """The text with its middle left out if it is longer: layers differ at both ends of their names."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def plural(count: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"

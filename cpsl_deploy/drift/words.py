"""Which statistics of a window are not the reference's, in words for people."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .reference import DriftReference

_LOOKS = {
    "luminance": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "red": ("less red", "redder"),
    "blue": ("less blue", "bluer"),
    "detail": ("less detail", "more detail"),
    "grain": ("smoother", "more grain"),
}
_LEAST = 1.0
"""Spreads of single frames below which a change of a window is not worth a word."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A statistic that is not the reference's."""

    name: str
    spreads: float
    """Difference to the reference's mean, in standard deviations of its single frames."""
    words: str


def causes(reference: DriftReference, window: np.ndarray, most: int = 3) -> list[Cause]:
    """Those statistics of a window float64 (len(names),) that differ most, the largest first."""
    spreads = (window - reference.mean) / reference.spread
    order = np.argsort(-np.abs(spreads))[:most]
    return [
        Cause(
            name=reference.names[i],
            spreads=float(spreads[i]),
            words=_in_words(reference.names[i], float(reference.mean[i]), float(window[i])),
        )
        for i in order
        if abs(spreads[i]) >= _LEAST
    ]


def _in_words(name: str, before: float, now: float) -> str:
    kind, what = name.split(":", 1)
    if kind == "share":
        return f"{what} {_percent(before**2)} -> {_percent(now**2)}"
    if name == "confidence:low":
        return f"unsure pixels {_percent(before**2)} -> {_percent(now**2)}"
    if what in ("detail", "grain"):
        return f"{_LOOKS[what][now > before]} ({100 * math.exp(now - before):.0f} % of it)"
    if kind == "image" and what in _LOOKS:
        return f"{_LOOKS[what][now > before]} ({what} {before:.2f} -> {now:.2f})"
    label = {"confidence": "confidence", "entropy": "entropy", "margin": "margin"}.get(
        kind, f"logit of {what}"
    )
    return f"{label} {before:.2f} -> {now:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"

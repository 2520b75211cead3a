"""How many images that follow each other belong together when they are drawn again.

D. N. Politis and H. White, "Automatic block-length selection for the dependent bootstrap", Econometric
Reviews 23 (2004), with the correction of A. Patton, D. N. Politis and H. White, ibid. 28 (2009), for blocks
on a circle.
"""

from __future__ import annotations

import math

import numpy as np


def block_length(series: np.ndarray) -> int:
    """Length of the blocks in which a series (N,) float64 is to be drawn again; 1 for values that do not
    depend on those before them, and at most min(3 sqrt(N), N / 3).

    Three steps differ from the paper. Correlations are taken for noise from the lag on after which the mean
    of five is (two standard errors), not each of the five: a series of images is noisy, and a weak
    correlation over many lags matters more than a strong one over few. The length is 1 if none stands out,
    or if the correlations do not make the mean less certain.
    """
    length = len(series)
    if length < 3 or not (variance := float(np.var(series))) > 0:
        return 1
    centred = series - series.mean()
    noise_lags = max(5, math.ceil(math.log10(length)))
    most_lags = min(math.ceil(math.sqrt(length)) + noise_lags, length - 1)
    covariances = np.array([centred[lag:] @ centred[: length - lag] / length for lag in range(most_lags + 1)])
    correlations = covariances[1:] / variance
    means = np.array([correlations[lag : lag + noise_lags].mean() for lag in range(most_lags)])
    quiet = means < 2 / math.sqrt(noise_lags * length)
    last = int(quiet.argmax()) if quiet.any() else most_lags
    if last == 0:
        return 1
    window = min(2 * last, most_lags)
    lags = np.arange(1, window + 1)
    weighted = np.minimum(1, 2 * (1 - lags / window)) * covariances[1 : window + 1]
    long_run = variance + 2 * weighted.sum()
    if long_run <= variance:
        return 1
    slope = 2 * (lags * weighted).sum()
    best = (2 * slope**2 / (4 / 3 * long_run**2) * length) ** (1 / 3)
    return max(1, math.ceil(min(best, 3 * math.sqrt(length), length / 3)))

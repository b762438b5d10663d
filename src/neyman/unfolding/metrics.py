r"""Bias and spread of repeated unfoldings (Torales Acosta et al., "Stabilizing neural likelihood ratio estimation").

Both take the histograms of N full passes, ``(n_passes, n_bins)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError

Array = NDArray[np.float64]


def mse_rel(truth: ArrayLike, unfolded: ArrayLike) -> Array:
    r"""Return the relative mean squared error of each bin (eq. 3.1),

    .. math:: \frac{1}{\mu_x} \frac1N \sum_{i=1}^N (x - \hat x_i)^2

    with the truth x of the bin. :math:`\mu_x`, the mean of the truth histogram's values over the passes, is x itself
    where all passes have the same truth.

    Parameters
    ----------
    truth
        Contents x, ``(n_bins,)``.
    unfolded
        Contents of each pass, ``(n_passes, n_bins)``.

    Raises
    ------
    InputError
        When shapes disagree, there is no pass, or a bin of the truth is not positive.
    """
    x, passes = _passes(unfolded, truth)
    return np.asarray(np.square(passes - x).mean(axis=0) / x)


def sigma_rel(unfolded: ArrayLike) -> Array:
    r"""Return the relative standard deviation of each bin over the passes (eq. 3.2),

    .. math:: \frac{\sqrt{\frac1N \sum_{i=1}^N (\hat x_i - \mu_{\hat x})^2}}{\mu_{\hat x}}

    The paper writes the left side as a square; the right side, a relative standard deviation, is what it plots.

    Parameters
    ----------
    unfolded
        Contents of each pass, ``(n_passes, n_bins)``.

    Raises
    ------
    InputError
        When there are fewer than two passes, or the mean of a bin is not positive.
    """
    passes = np.asarray(unfolded, dtype=np.float64)
    if passes.ndim != 2 or len(passes) < 2:
        raise InputError(
            f"the passes have shape {passes.shape}", expected="(n_passes, n_bins), at least two passes"
        )
    mean = passes.mean(axis=0)
    _positive(mean, "the mean of the passes")
    return np.asarray(passes.std(axis=0) / mean)


def _passes(unfolded: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    x, passes = np.asarray(truth, dtype=np.float64), np.asarray(unfolded, dtype=np.float64)
    if passes.ndim != 2 or not len(passes) or passes.shape[1:] != x.shape:
        raise InputError(
            f"the passes have shape {passes.shape}, the truth {x.shape}",
            expected="(n_passes, n_bins) and (n_bins,)",
        )
    _positive(x, "the truth")
    return x, passes


def _positive(x: Array, name: str) -> None:
    if not (x > 0.0).all():
        raise InputError(
            f"{name} is {x.min():g} in bin {int(x.argmin())}",
            expected="positive contents",
            fix="merge or drop the bin",
        )

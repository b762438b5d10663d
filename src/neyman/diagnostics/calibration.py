"""Calibration curve: among events to which a ratio gives the odds r, the numerator must have the share r/(1+r)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import chi2 as chi2_distribution

from neyman.diagnostics.gates import SIGNIFICANT, Check
from neyman.diagnostics.samples import ENOUGH, column, quantiles, weight
from neyman.errors import InputError

Array = NDArray[np.float64]
_ROUNDING = 1e-9  # of a share, where a prediction is exactly 0 or 1


@dataclass(frozen=True, eq=False)
class CalibrationCurve(Check):
    r"""Predicted probability of the numerator against its observed share, both classes of equal total weight.

    Parameters
    ----------
    edges
        Bin edges in the predicted probability, ``(n_bins + 1,)``.
    predicted
        Mean of :math:`f = r/(1+r)` over the events of a bin, ``(n_bins,)``.
    observed, error
        Share of the numerator, and its standard deviation if the prediction were exact.
    share
        Share of all events in a bin.
    expected_error
        Expected calibration error :math:`\sum_b s_b |o_b - f_b|` (Guo et al., arXiv:1706.04599, eq. 3).
    deviation
        Root-mean-square of :math:`o_b - f_b` beyond what the statistical errors explain.
    chi2, p_value
        :math:`\chi^2 = \sum_b (o_b - f_b)^2/\sigma_b^2` and the probability of a larger one with a degree of freedom a
        bin (one too many, as both classes are normalised: slightly conservative).
    tolerance
        Deviation that is still accepted.
    """

    edges: Array
    predicted: Array
    observed: Array
    error: Array
    share: Array
    expected_error: float
    deviation: float
    chi2: float
    p_value: float
    tolerance: float


def calibration_curve(
    log_ratio_p: ArrayLike,
    w_p: ArrayLike,
    log_ratio_q: ArrayLike,
    w_q: ArrayLike,
    *,
    bins: int = 20,
    tolerance: float = 0.01,
    significance: float = SIGNIFICANT,
) -> CalibrationCurve:
    r"""Compare predicted and observed shares of the numerator in bins of the prediction.

    Fails when the curve is off significantly and its deviation exceeds the tolerance. Unlike closure, which is
    normalised, it sees a wrong normalisation of the ratio. The variance of a share is the one expected of the
    prediction, :math:`\sum |w| f (1-f) [\omega_p (1-f) + \omega_q f]` over the squared content of the bin, with
    :math:`\omega = \sum w^2/\sum |w|` of a class. A bin in which a class has and should have fewer than ten effective
    events is joined with its neighbour.

    Parameters
    ----------
    log_ratio_p, w_p
        Log-ratios and weights of numerator events that the training has not seen, each ``(n_p,)``.
    log_ratio_q, w_q
        The same of denominator events, ``(n_q,)``.
    bins
        Number of bins of equal weight.
    tolerance
        Deviation of the probability that is still accepted. An error of the ratio by 4% shifts f by at most 0.01.
    significance
        The p-value must be below it for a failure.

    Raises
    ------
    InputError
        When a class has no positive total weight or too few events for a single bin.
    """
    l_p, l_q = (
        column("log-ratios of the numerator", log_ratio_p),
        column("log-ratios of the denominator", log_ratio_q),
    )
    v_p, v_q = weight("numerator", w_p, len(l_p)), weight("denominator", w_q, len(l_q))
    v_p, v_q = v_p / v_p.sum(), v_q / v_q.sum()
    l, w = np.concatenate([l_p, l_q]), np.concatenate([v_p, v_q])
    f, in_p = expit(l), np.repeat([1.0, 0.0], [len(l_p), len(l_q)])
    inner = np.unique(quantiles(l, w, np.arange(1, bins) / bins))
    index = np.searchsorted(inner, l, side="left")
    omega = np.array([v_p @ v_p, v_q @ v_q])
    size_p, size_q = omega / [np.abs(v_p).sum(), np.abs(v_q).sum()]
    quantity = (
        w * in_p, w * (1.0 - in_p), w**2 * in_p, w**2 * (1.0 - in_p), w * f,
        np.abs(w) * f * (1.0 - f) * (size_p * (1.0 - f) + size_q * f),
    )  # fmt: skip
    sums = np.stack([np.bincount(index, one, len(inner) + 1) for one in quantity]).astype(np.float64)
    starts = _joined(sums, omega)
    p, q, _, _, expected, variance = np.add.reduceat(sums, starts, axis=1)
    content = p + q
    error = np.maximum(np.sqrt(variance) / content, _ROUNDING)
    predicted, observed, share = expected / content, p / content, content / content.sum()
    residual = observed - predicted
    chi2 = float(np.sum((residual / error) ** 2))
    p_value = float(chi2_distribution.sf(chi2, len(starts)))
    deviation = float(np.sqrt(max(share @ residual**2 - share @ error**2, 0.0)))
    ece = float(share @ np.abs(residual))
    passed = not (p_value < significance and deviation > tolerance)
    reason = (
        f"the share of the numerator differs from the prediction by {deviation:.3g} (root mean square beyond noise, "
        f"{tolerance:g} is accepted), χ² = {chi2:.1f} in {len(starts)} bins, p = {p_value:.2g} "
        f"(significant below {significance:g}); expected calibration error {ece:.3g}"
    )
    edges = expit(np.concatenate([[l.min()], inner[starts[1:] - 1], [l.max()]]))
    return CalibrationCurve(
        "calibration", passed, reason, edges, predicted, observed, error, share, ece, deviation, chi2, p_value,
        tolerance,
    )  # fmt: skip


def _joined(sums: Array, omega: Array) -> NDArray[np.intp]:
    """Return the starts of the smallest runs of bins with enough events of both classes, found or predicted."""
    starts, running = [0], np.zeros(5)
    for i, one in enumerate(sums[:5].T):
        if _firm(running, omega):
            starts.append(i)
            running = np.zeros(5)
        running = running + one
    while starts and not _firm(sums[:5, starts[-1] :].sum(axis=1), omega):
        starts.pop()
    if not starts:
        raise InputError(
            "there are too few events for a calibration curve",
            expected=f"{ENOUGH:g} effective events of each class",
        )
    return np.array(starts)


def _firm(sums: Array, omega: Array) -> bool:
    found, squared, predicted = sums[:2], sums[2:4], np.array([sums[4], sums[0] + sums[1] - sums[4]])
    enough = (found > 0.0).all() and (found**2 >= ENOUGH * squared).all()
    return bool(found.sum() > 0.0 and (enough or (predicted >= ENOUGH * omega).all()))

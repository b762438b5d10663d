"""Overlap of supports: where the reference has no events, no weight can make them stand for the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.diagnostics.gates import Check
from neyman.diagnostics.samples import column, matrix, weight
from neyman.events.support import outside, rarest

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Support(Check):
    r"""Share of the target outside the support of the reference.

    Shares are of :math:`\sum |w|` of the target.

    Parameters
    ----------
    features
        Names of the features.
    below, above
        Share of the target below the smallest and above the largest value of the reference, ``(n_features,)``.
    threshold
        Log-ratio above which the reference has less than one effective event.
    beyond
        Share of the target above the threshold.
    edges, target, reference
        Histograms of the log-ratio: edges, and share of the events of each.
    tolerance
        Share that is still accepted.
    """

    features: tuple[str, ...]
    below: Array
    above: Array
    threshold: float
    beyond: float
    edges: Array
    target: Array
    reference: Array
    tolerance: float


def support(
    features: Sequence[str],
    target: tuple[ArrayLike, ArrayLike],
    reference: tuple[ArrayLike, ArrayLike],
    log_ratio_target: ArrayLike,
    log_ratio_reference: ArrayLike,
    *,
    tolerance: float = 0.01,
) -> Support:
    r"""Find the target events for which the reference has none.

    In every feature: the target outside the range of the reference. In all features together, through the log-ratio:
    the target above the value beyond which the weights :math:`|w|` of the reference sum to less than those of one
    effective event, :math:`\sum w^2/\sum |w|`.

    Parameters
    ----------
    features
        Names of the columns.
    target, reference
        Features ``(n_events, n_features)`` and weights, of any sign, ``(n_events,)`` of each.
    log_ratio_target, log_ratio_reference
        ``ln p_target/q`` of the events of each.
    tolerance
        Share of the target that may lie outside.

    Raises
    ------
    InputError
        When shapes disagree, a number is not finite, or a total weight is not positive.
    """
    names = tuple(features)
    x_t, x_r = matrix("target", target[0], len(names)), matrix("reference", reference[0], len(names))
    w_t, w_r = (
        np.abs(weight(name, w, len(x)))
        for name, w, x in (("target", target[1], x_t), ("reference", reference[1], x_r))
    )
    l_t = column("log-ratios of the target", log_ratio_target, len(x_t))
    l_r = column("log-ratios of the reference", log_ratio_reference, len(x_r))
    w_t = w_t / w_t.sum()
    below, above = outside(x_t, w_t, x_r)
    threshold = rarest(l_r, w_r)
    beyond = float(w_t @ (l_t > threshold))
    low, high = min(l_t.min(), l_r.min()), max(l_t.max(), l_r.max())
    edges = np.linspace(low, max(high, low + 1e-6), 61)
    share = below + above
    parts = [
        f"{own:.2%} of the target lies outside the range of the reference in {name}"
        for name, own in zip(names, share, strict=True)
        if own > tolerance
    ]
    if beyond > tolerance:
        parts.append(f"{beyond:.2%} has a log-ratio above {threshold:.3g}, where the reference has no event")
    worst = int(np.argmax(share))
    fine = f"at most {share[worst]:.2%} in a feature ({names[worst]}) and {beyond:.2%} by the log-ratio lie outside"
    return Support(
        "support", not parts, f"{', '.join(parts) or fine}; {tolerance:.2%} is accepted", names, below, above,
        threshold, beyond, edges, np.histogram(l_t, edges, weights=w_t)[0],
        np.histogram(l_r, edges, weights=w_r / w_r.sum())[0], tolerance,
    )  # fmt: skip

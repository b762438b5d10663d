"""Weights of the reweighted reference: how many events they are worth, who carries them, and whether they sum to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.diagnostics.gates import Check
from neyman.diagnostics.samples import column, effective, reweighted, weight
from neyman.errors import InputError

Array = NDArray[np.float64]
_TAIL, _FEWEST = (
    0.01,
    10,
)  # share of the events, and least number of them, from which the tail index is estimated


@dataclass(frozen=True, eq=False)
class RatioWeights(Check):
    r"""Weights :math:`w r` of the reference events.

    Parameters
    ----------
    n_effective
        :math:`(\sum w r)^2 / \sum (w r)^2`.
    efficiency
        The same over the effective number of events before reweighting.
    normalisation, normalisation_error
        :math:`E_q[r] = \sum w r/\sum w`, which is 1 for an exact ratio, and its standard deviation.
    largest
        Share of the total :math:`\sum |w r|` that a single event carries at most.
    top_permille, top_percent
        Share that the largest 0.1% and 1% of the weights carry.
    tail_index
        Hill estimate :math:`\hat\xi` of the tail of the largest 1%: the mean of the logarithm of these weights over the
        smallest of them. From 0.5 on the variance is not finite; above 0.7 estimates are not reliable (Vehtari et
        al., arXiv:1507.02646).
    fractions, shares
        Lorenz curve: the share of the total that the largest fraction of the weights carries.
    edges, contents
        Histogram of :math:`\log_{10}` of the weights over their mean: edges, and share of the events.
    """

    n_effective: float
    efficiency: float
    normalisation: float
    normalisation_error: float
    largest: float
    top_permille: float
    top_percent: float
    tail_index: float
    fractions: Array
    shares: Array
    edges: Array
    contents: Array


def ratio_weights(
    w: ArrayLike,
    log_ratio: ArrayLike,
    *,
    fewest: float = 100.0,
    largest: float = 0.05,
    tail_index: float = 0.7,
    tolerance: float = 0.01,
) -> RatioWeights:
    r"""Examine the weights of the reweighted reference.

    Fails when they are worth too few events, one event carries too much, the tail is too heavy, or the normalisation
    is off by more than three standard deviations and the tolerance.

    Parameters
    ----------
    w
        Weights of the reference events, of any sign, ``(n_events,)``.
    log_ratio
        Log-ratio of these events.
    fewest
        Least effective number of events.
    largest
        Largest share of a single event.
    tail_index
        Largest :math:`\hat\xi`.
    tolerance
        Deviation of :math:`E_q[r]` from 1 that is still accepted.

    Raises
    ------
    InputError
        When there are fewer than 20 events, a total weight is not positive, or a number is not finite.
    """
    raw = column("weights of the reference", w)
    if len(raw) < 2 * _FEWEST:
        raise InputError(f"the reference has {len(raw)} events", expected=f"at least {2 * _FEWEST}")
    q = weight("reference", raw, len(raw))
    m = reweighted("reweighted reference", q, log_ratio)
    norm = float(m.sum() / q.sum())
    error = float(np.sqrt(np.sum((m - norm * q) ** 2)) / q.sum())
    size = np.sort(np.abs(m))[::-1]
    carried = np.cumsum(size) / size.sum()
    counts = np.unique(np.geomspace(1, len(size), 80).astype(int))
    top = size[: max(_FEWEST, round(_TAIL * len(size))) + 1]
    xi = float(np.mean(np.log(top[:-1] / top[-1]))) if top[-1] > 0.0 else float("inf")
    n, before = effective(m), effective(q)
    reasons = [
        (n >= fewest, f"{n:.4g} effective events of {before:.4g} before (at least {fewest:g})"),
        (carried[0] <= largest, f"one event carries {carried[0]:.2%} (at most {largest:.2%})"),
        (xi <= tail_index, f"tail index {xi:.2f} (at most {tail_index:g})"),
        (
            abs(norm - 1.0) <= max(3.0 * error, tolerance),
            f"E_q[r] = {norm:.4f} ± {error:.4f} (1 within 3 standard deviations or {tolerance:g})",
        ),
    ]
    failed = [text for good, text in reasons if not good]
    shown = size[size > 0.0]
    contents, edges = np.histogram(np.log10(shown / size.mean()), bins=50)
    return RatioWeights(
        "weights",
        not failed,
        "; ".join(failed or [text for _, text in reasons]),
        n,
        n / before,
        norm,
        error,
        float(carried[0]),
        float(carried[max(round(0.001 * len(size)), 1) - 1]),
        float(carried[max(round(0.01 * len(size)), 1) - 1]),
        xi,
        counts / len(size),
        carried[counts - 1],
        edges,
        contents / len(size),
    )

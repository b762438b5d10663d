"""Where one sample has events and another has none: no weight can make up for what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def outside(x: NDArray[Any], weight: Array, reference: NDArray[Any]) -> tuple[Array, Array]:
    """Return the shares of :math:`\\sum|w|` below the smallest and above the largest value of the reference.

    Parameters
    ----------
    x, weight
        Features ``(n_events, n_features)`` and weights of the events in question.
    reference
        Features of the reference, ``(n_reference, n_features)``.
    """
    share = np.abs(weight) / np.abs(weight).sum()
    return share @ (x < reference.min(axis=0)), share @ (x > reference.max(axis=0))


def rarest(log_ratio: Array, weight: Array) -> float:
    r"""Return the log-ratio above which a reference has less than one effective event.

    The weights :math:`|w|` of the reference events above it sum to less than :math:`\sum w^2/\sum |w|`.

    Parameters
    ----------
    log_ratio, weight
        Log-ratios and weights of the reference events, ``(n_events,)``.
    """
    size = np.abs(weight)
    order = np.argsort(log_ratio)[::-1]
    missing = np.searchsorted(np.cumsum(size[order]), size @ size / size.sum() * (1.0 - 1e-9))
    return float(log_ratio[order[int(missing)]])

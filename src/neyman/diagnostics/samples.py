"""Weighted events as arrays: the checks of input and the weighted sums that all diagnostics share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError

Array = NDArray[np.float64]
ENOUGH = 10.0  # effective events in a bin, from which on its content is close to Gaussian


def column(name: str, values: ArrayLike, n: int | None = None) -> Array:
    """Return one finite number an event, float64 ``(n_events,)``.

    Raises
    ------
    InputError
        When the shape is another one or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or (n is not None and len(array) != n):
        raise InputError(f"the {name} have shape {array.shape}", expected=f"({n or 'n_events'},)")
    finite(name, array)
    return array


def weight(name: str, values: ArrayLike, n: int) -> Array:
    """Return event weights of any sign with a positive sum, ``(n_events,)``."""
    w = column(f"weights of the {name}", values, n)
    if not w.sum() > 0.0:
        raise InputError(
            f"the {name} has a total weight of {w.sum():g}", expected="a positive sum of weights"
        )
    return w


def matrix(name: str, values: ArrayLike, columns: int) -> Array:
    """Return features ``(n_events, n_features)``."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != columns:
        raise InputError(
            f"the features of the {name} have shape {array.shape}", expected=f"(n_events, {columns})"
        )
    finite(f"features of the {name}", array)
    return array


def finite(name: str, values: Array) -> None:
    """Refuse NaN and infinity."""
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of the {name} are not finite",
            where=f"first at event {int(np.argwhere(bad)[0, 0])}",
        )


def reweighted(name: str, w: Array, log_ratio: ArrayLike) -> Array:
    r"""Return :math:`w\,e^{\ell}`, which may not overflow and has a positive sum.

    Raises
    ------
    InputError
        When a log-ratio is not finite or too large, or the sum is not positive.
    """
    l = column("log-ratios", log_ratio, len(w))
    if len(l) and l.max() > 600.0:
        raise InputError(
            f"a log-ratio of {l.max():g} is beyond any weight",
            where=f"event {int(l.argmax())}",
            expected="below 600",
        )
    return weight(name, w * np.exp(l), len(w))


def effective(w: Array) -> float:
    r"""Effective number of events :math:`(\sum w)^2 / \sum w^2`."""
    total = float(w @ w)
    return float(w.sum()) ** 2 / total if total > 0.0 else 0.0


def histogram(x: Array, w: Array, edges: Array) -> tuple[Array, Array]:
    """Return sums of weights and of squared weights a bin; events outside go to the outermost bins."""
    inside = np.clip(x, edges[0], edges[-1])
    values = np.histogram(inside, edges, weights=w)[0]
    variances = np.histogram(inside, edges, weights=w**2)[0]
    return values, variances


def quantiles(x: Array, w: Array, shares: ArrayLike) -> Array:
    """Return the values below which the given shares of ``|w|`` lie."""
    order = np.argsort(x, kind="stable")
    steps = np.cumsum(np.abs(w[order]))
    found = np.searchsorted(steps, np.asarray(shares) * steps[-1])
    return np.asarray(x[order][np.minimum(found, len(x) - 1)], dtype=np.float64)

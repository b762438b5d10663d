"""Closure of a density ratio: the reference sample, reweighted by the ratio, must look like the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from neyman.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Closure:
    r"""Closure of one ratio in one feature.

    :math:`\chi^2 = \sum_b (t_b - m_b)^2 / (\sigma_{t,b}^2 + \sigma_{m,b}^2)` between the normalised target and the
    reweighted reference, over bins with at least ten effective events in both.

    Parameters
    ----------
    process, feature
        What was compared.
    edges
        Bin edges (quantiles of the target), ``(n_bins + 1,)``.
    target, target_error
        Normalised target with its statistical error, ``(n_bins,)``.
    model, model_error
        Normalised reweighted reference with its statistical error, ``(n_bins,)``.
    chi2, n_bins
        Distance, and the number of bins that enter it.
    """

    process: str
    feature: str
    edges: list[float]
    target: list[float]
    target_error: list[float]
    model: list[float]
    model_error: list[float]
    chi2: float
    n_bins: int

    @property
    def p_value(self) -> float | None:
        """Probability of a larger distance if the ratio were exact; None with fewer than two bins."""
        return float(chi2_distribution.sf(self.chi2, self.n_bins - 1)) if self.n_bins > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"p_value": self.p_value}


def closure(
    process: str,
    features: Sequence[str],
    target: tuple[Array, Array],
    reference: tuple[Array, Array],
    log_ratio: Array,
    *,
    bins: int = 20,
) -> list[Closure]:
    """Compare a target sample with the reweighted reference, feature by feature.

    Target and reference must be statistically independent (different events) for the distances to be chi-squared.

    Parameters
    ----------
    process
        Name of the target.
    features
        Names of the columns.
    target, reference
        Features ``(n_events, n_features)`` and weights ``(n_events,)`` of each.
    log_ratio
        ``ln p_target/q`` of the reference events.
    bins
        Number of quantile bins of the target.

    Raises
    ------
    InputError
        When a sample has no positive total weight.
    """
    (x_t, w_t), (x_r, w_r) = target, reference
    w_m = w_r * np.exp(np.asarray(log_ratio, dtype=np.float64))
    for name, w in (("target", w_t), ("reweighted reference", w_m)):
        if not w.sum() > 0.0:
            raise InputError(f"the {name} of {process!r} has a total weight of {w.sum():g}")
    return [
        _one(process, feature, bins, (x_t[:, i], w_t / w_t.sum()), (x_r[:, i], w_m / w_m.sum()))
        for i, feature in enumerate(features)
    ]


def _one(
    process: str, feature: str, bins: int, target: tuple[Array, Array], model: tuple[Array, Array]
) -> Closure:
    edges = _edges(target[0], bins)
    (t, vt), (m, vm) = (_histogram(x, w, edges) for x, w in (target, model))
    used = (t**2 > 10.0 * vt) & (m**2 > 10.0 * vm)
    distance = float(np.sum((t[used] - m[used]) ** 2 / (vt[used] + vm[used])))
    return Closure(
        process,
        feature,
        edges.tolist(),
        t.tolist(),
        np.sqrt(vt).tolist(),
        m.tolist(),
        np.sqrt(vm).tolist(),
        distance,
        int(used.sum()),
    )


def _edges(x: Array, bins: int) -> Array:
    values = np.unique(x)
    if len(values) <= bins:  # a count: one bin a value
        values = values.astype(np.float64)
        half = 0.5 * np.diff(values) if len(values) > 1 else np.full(1, 0.5)
        middles = 0.5 * (values[1:] + values[:-1])
        return np.concatenate([[values[0] - half[0]], middles, [values[-1] + half[-1]]])
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, bins + 1)))
    # A spike (a fill value) takes several quantiles; it keeps a bin of its own.
    if len(edges) < bins + 1 and edges[0] == values[0]:
        edges = np.concatenate([[edges[0]], [np.nextafter(values[1], -np.inf)], edges[1:]])
    return np.unique(np.asarray(edges, dtype=np.float64))


def _histogram(x: Array, w: Array, edges: Array) -> tuple[Array, Array]:
    inside = np.clip(x, edges[0], edges[-1])
    values = np.histogram(inside, edges, weights=w)[0]
    variances = np.histogram(inside, edges, weights=w**2)[0]
    return values, variances

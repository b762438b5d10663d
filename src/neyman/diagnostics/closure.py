"""Closure of a density ratio: the reference sample, reweighted by the ratio, must look like the target.

`closure` compares feature by feature, `closure_slices` feature by feature within slices of another quantity, where
compensating errors no longer hide; `check_closure` gives the verdict on any number of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2 as chi2_distribution

from neyman.diagnostics.gates import SIGNIFICANT, Check, holm
from neyman.diagnostics.samples import ENOUGH, column, histogram, matrix, quantiles, reweighted, weight
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
    slice
        The range of another quantity to which the comparison is restricted; empty for all events.
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
    slice: str = ""

    @property
    def p_value(self) -> float | None:
        """Probability of a larger distance if the ratio were exact; None with fewer than two bins."""
        return float(chi2_distribution.sf(self.chi2, self.n_bins - 1)) if self.n_bins > 1 else None

    @property
    def deviation(self) -> float:
        r"""Root-mean-square relative deviation beyond what the statistical errors explain.

        :math:`\sqrt{\max(0, D - D_0)}` with :math:`D = \sum_b (t_b - m_b)^2 / c_b`, :math:`c_b = (t_b + m_b)/2`, and
        its expectation :math:`D_0` for an exact ratio. By the Cauchy-Schwarz inequality no mean of a function g of the
        feature (as far as the bins resolve it) is off by more than :math:`\sqrt{D}` times the standard deviation
        of g.
        """
        squared, noise = self._distances()
        return float(np.sqrt(max(squared - noise, 0.0)))

    @property
    def resolution(self) -> float:
        r"""Root-mean-square relative deviation :math:`\sqrt{D_0}` that the statistical errors make on their own."""
        return float(np.sqrt(self._distances()[1]))

    @property
    def missing(self) -> float:
        r"""Share of the target in bins in which the reweighted reference is missing.

        The target has ten effective events there, the reference has not, and it is below by more than four standard
        deviations, with the larger of its observed variance and the one expected of a content t,
        :math:`\omega t` with :math:`\omega = \sum_b \sigma_{m,b}^2 / \sum_b m_b`.
        """
        t, vt, m, vm = self._contents()
        expected = t * vm.sum() / m.sum() if m.sum() > 0.0 else np.zeros_like(t)
        low = t - m > 4.0 * np.sqrt(vt + np.maximum(vm, expected))
        return float(t[_enough(t, vt) & ~_enough(m, vm) & low].sum())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        derived = ("p_value", "deviation", "resolution", "missing")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def _distances(self) -> tuple[float, float]:
        t, vt, m, vm = self._contents()
        used = _enough(t, vt) & _enough(m, vm)
        content = 0.5 * (np.abs(t) + np.abs(m))[used]
        return float(np.sum((t - m)[used] ** 2 / content)), float(np.sum((vt + vm)[used] / content))

    def _contents(self) -> tuple[Array, Array, Array, Array]:
        t, et, m, em = (np.array(v) for v in (self.target, self.target_error, self.model, self.model_error))
        return t, et**2, m, em**2


@dataclass(frozen=True, eq=False)
class ClosureCheck(Check):
    """Verdict on a family of closures.

    Parameters
    ----------
    closures
        All comparisons.
    corrected
        Their p-values after Holm's correction; None for too few events.
    tolerance, significance
        Deviation that is still accepted, and the corrected p-value below which one counts.
    """

    closures: tuple[Closure, ...]
    corrected: tuple[float | None, ...]
    tolerance: float
    significance: float


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
        When a sample has no positive total weight, shapes disagree, or a number is not finite.
    """
    (x_t, w_t), (x_r, w_m) = _samples(process, features, target, reference, log_ratio)
    return [
        _one(process, feature, bins, (x_t[:, i], w_t / w_t.sum()), (x_r[:, i], w_m / w_m.sum()))
        for i, feature in enumerate(features)
    ]


def closure_slices(
    process: str,
    features: Sequence[str],
    target: tuple[Array, Array],
    reference: tuple[Array, Array],
    log_ratio: Array,
    *,
    by: tuple[str, ArrayLike, ArrayLike],
    slices: int = 4,
    bins: int = 10,
) -> list[Closure]:
    """Compare target and reweighted reference within slices of another quantity, such as a feature or the score.

    Both are normalised within a slice; how the events share out among the slices is the closure of `by` itself.
    A slice in which the target has no positive total weight is left out.

    Parameters
    ----------
    process, features, target, reference, log_ratio
        As in `closure`.
    by
        Name of the quantity, and its values for the target events and for the reference events.
    slices
        Number of slices with equal shares of the target; fewer where many events have the same value.
    bins
        Number of quantile bins of the target in a slice.

    Raises
    ------
    InputError
        As in `closure`.
    """
    (x_t, w_t), (x_r, w_m) = _samples(process, features, target, reference, log_ratio)
    name = by[0]
    of_target, of_reference = column(name, by[1], len(w_t)), column(name, by[2], len(w_m))
    inner = quantiles(of_target, w_t, np.arange(1, slices) / slices)
    cuts = [-np.inf, *np.unique(inner[inner < of_target.max()]), np.inf]
    found = []
    for low, high in pairwise(cuts):
        t, m = (of_target > low) & (of_target <= high), (of_reference > low) & (of_reference <= high)
        if (total := w_t[t].sum()) > 0.0:
            norm = max(w_m[m].sum(), 0.0) or w_m.sum()
            parts = [
                _one(process, feature, bins, (x_t[t, i], w_t[t] / total), (x_r[m, i], w_m[m] / norm))
                for i, feature in enumerate(features)
            ]
            found += [replace(part, slice=_interval(name, low, high)) for part in parts]
    return found


def check_closure(
    closures: Sequence[Closure], *, tolerance: float = 0.05, significance: float = SIGNIFICANT
) -> ClosureCheck:
    r"""Judge closures: fails where one deviates both significantly and by more than is tolerable.

    A comparison fails when its p-value, corrected for the number of comparisons, is below `significance` and its
    `Closure.deviation` exceeds `tolerance`; or when more of the target than `tolerance` lies where the reweighted
    reference has too few events to compare although it should have more (`Closure.missing`).

    Parameters
    ----------
    closures
        Comparisons of one or many ratios, of all events or of slices.
    tolerance
        Root-mean-square relative deviation of the bin contents that is still accepted.
    significance
        Probability that a check of an exact ratio meets the first condition.

    Raises
    ------
    InputError
        When no comparison has enough events in the target.
    """
    corrected = holm([one.p_value for one in closures])
    judged = [
        (1.0 if p is None else p, one)
        for p, one in zip(corrected, closures, strict=True)
        if p is not None or one.missing > tolerance
    ]
    if not judged:
        raise InputError(
            f"none of {len(closures)} closures has enough events",
            expected="two bins or more with ten effective events",
        )
    missing = max((one for _, one in judged), key=lambda one: one.missing)
    failed = [(p, one) for p, one in judged if p < significance and one.deviation > tolerance]
    if missing.missing > tolerance and not failed:
        reason = (
            f"{missing.missing:.1%} of the target lies where the reweighted reference has too few events in "
            f"{_where(missing)}; {tolerance:.1%} is accepted"
        )
    else:
        p, worst = (
            max(failed, key=lambda pair: pair[1].deviation)
            if failed
            else min(judged, key=lambda pair: pair[0])
        )
        reason = (
            f"{len(failed)} of {len(judged)} comparisons deviate by more than {tolerance:.1%} with a corrected "
            f"p < {significance:g}; the worst is {_where(worst)}: {worst.deviation:.1%} beyond a noise of "
            f"{worst.resolution:.1%}, corrected p = {p:.2g}"
        )
    passed = not failed and missing.missing <= tolerance
    return ClosureCheck("closure", passed, reason, tuple(closures), tuple(corrected), tolerance, significance)


def _where(one: Closure) -> str:
    return f"{one.feature} of {one.process}" + (f" in {one.slice}" if one.slice else "")


def _samples(
    process: str,
    features: Sequence[str],
    target: tuple[Array, Array],
    reference: tuple[Array, Array],
    log_ratio: Array,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Check the input; the weights of the reference become the reweighted ones."""
    x_t, x_r = (
        matrix(f"{kind} of {process!r}", x, len(features))
        for kind, (x, _) in (("target", target), ("reference", reference))
    )
    w_r = column(f"weights of the reference of {process!r}", reference[1], len(x_r))
    w_m = reweighted(f"reweighted reference of {process!r}", w_r, log_ratio)
    return (x_t, weight(f"target of {process!r}", target[1], len(x_t))), (x_r, w_m)


def _one(
    process: str, feature: str, bins: int, target: tuple[Array, Array], model: tuple[Array, Array]
) -> Closure:
    edges = _edges(target[0], bins)
    (t, vt), (m, vm) = (histogram(x, w, edges) for x, w in (target, model))
    used = _enough(t, vt) & _enough(m, vm)
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


def _enough(content: Array, variance: Array) -> NDArray[np.bool_]:
    return np.asarray(content**2 > ENOUGH * variance)


def _interval(name: str, low: float, high: float) -> str:
    if np.isinf(low):
        return name if np.isinf(high) else f"{name} ≤ {high:.3g}"
    return f"{name} > {low:.3g}" if np.isinf(high) else f"{low:.3g} < {name} ≤ {high:.3g}"


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

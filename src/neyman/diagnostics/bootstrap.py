r"""Coverage and width of intervals by bootstrap: how often intervals of resampled test sets contain the truth.

`resample` draws the data sets as multiplicities of the events of one test set, so that their likelihoods are one
matrix product (:func:`neyman.diagnostics.overlap.mixture_nll`); `intervals` finds the intervals of all of them;
`bootstrap_coverage` counts. Data sets of M events from a test set of k M events cover less than independent ones:
`resampled_coverage` says what correct intervals give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from neyman.diagnostics.gates import Check
from neyman.errors import InputError

Array = NDArray[np.float64]


def resample(n_events: int, *, size: int, n_sets: int, seed: int) -> Array:
    """Draw data sets of `size` events with replacement from `n_events`; return multiplicities ``(n_sets, n_events)``.

    Raises
    ------
    InputError
        When a number is not positive.
    """
    for name, value in (("n_events", n_events), ("size", size), ("n_sets", n_sets)):
        if value < 1:
            raise InputError(f"{name} must be positive, got {value}")
    rows = np.random.default_rng(seed).integers(n_events, size=(n_sets, size))
    flat = (rows + n_events * np.arange(n_sets)[:, None]).ravel()
    return np.bincount(flat, minlength=n_sets * n_events).reshape(n_sets, n_events).astype(np.float64)


def resampled_coverage(k: float, cl: float = 0.6827) -> float:
    r"""Return the coverage that correct intervals have by bootstrap from test sets k times as large as a data set.

    The estimate of a data set scatters around that of its test set, which itself is off by :math:`\sigma/\sqrt k`:
    :math:`P(|\mathcal N(0, 1 + 1/k)| < \Phi^{-1}((1 + \mathrm{cl})/2))`, 52% at k = 1 and 66% at k = 9 for 68.3%
    intervals. This is the bias seen in arXiv:2503.07962, figure 3.

    Examples
    --------
    >>> [round(resampled_coverage(k), 3) for k in (1, 9, 1e9)]
    [0.521, 0.657, 0.683]
    """
    if not (k > 0.0 and 0.0 < cl < 1.0):
        raise InputError(
            f"no coverage for k = {k:g} and cl = {cl:g}", expected="k > 0 and cl between 0 and 1"
        )
    return float(2.0 * ndtr(ndtri(0.5 * (1.0 + cl)) / math.sqrt(1.0 + 1.0 / k)) - 1.0)


@dataclass(frozen=True, eq=False)
class Intervals:
    """Best value and interval of one parameter in many data sets.

    Parameters
    ----------
    best
        Minimum of the profile, ``(n_sets,)``.
    low, high
        Ends, ``(n_sets,)``; infinite where the profile does not rise enough.
    """

    best: Array
    low: Array
    high: Array

    @property
    def closed(self) -> NDArray[np.bool_]:
        """Which intervals have two ends, ``(n_sets,)``."""
        return np.isfinite(self.low) & np.isfinite(self.high)

    @property
    def width(self) -> Array:
        """Length of each interval, ``(n_sets,)``."""
        return self.high - self.low

    def contain(self, truth: float) -> NDArray[np.bool_]:
        """Return which intervals contain a value, ``(n_sets,)``."""
        return (self.low <= truth) & (truth <= self.high)


_FAR = 100.0  # in units of the fitted range


def intervals(
    values: ArrayLike, profile: ArrayLike, *, rise: float = 0.5, order: int = 4, within: float | None = 2.0
) -> Intervals:
    """Find where profiled negative log-likelihoods have risen by `rise` above their minimum.

    A polynomial is fitted to each profile by least squares; its minimum and its crossings give best value and
    interval, so that neither is tied to the grid (arXiv:2503.07962, section II D). An end may lie beyond the grid.

    Parameters
    ----------
    values
        Values of the parameter, ``(n_values,)``, rising.
    profile
        Profiled negative log-likelihoods, ``(n_sets, n_values)`` or ``(n_values,)``.
    rise
        0.5 for 68.3% intervals.
    order
        Degree of the polynomial.
    within
        Fit only where the profile lies less than this above its lowest value; the whole grid when not given.
        A polynomial describes a likelihood that is far narrower than the grid only near its minimum.

    Raises
    ------
    InputError
        When shapes disagree, a profile is not finite, or fewer than ``order + 1`` values lie within reach.
    """
    x, nll = np.asarray(values, dtype=np.float64), np.atleast_2d(np.asarray(profile, dtype=np.float64))
    if x.ndim != 1 or nll.ndim != 2 or nll.shape[1] != len(x) or not bool((np.diff(x) > 0.0).all()):
        raise InputError(
            f"values of shape {x.shape} and profiles of shape {np.shape(profile)}",
            expected="rising (n_values,) and (n_sets, n_values)",
        )
    if not bool(np.isfinite(nll).all()):
        raise InputError(f"the profile of data set {int(np.argwhere(~np.isfinite(nll))[0, 0])} is not finite")
    lowest = nll.argmin(axis=1)
    risen = nll - nll.min(axis=1, keepdims=True)
    used = risen < (np.inf if within is None else within)
    few = used.sum(axis=1) <= order
    if few.any():
        raise InputError(
            f"only {int(used[few][0].sum())} values of the grid lie near the minimum of data set {int(few.argmax())}",
            expected=f"at least {order + 1} for a polynomial of order {order}",
            fix="use a finer grid or a larger `within`",
        )
    # In units in which the fitted values reach from about -1 to 1 around the minimum the fit is well conditioned.
    centre = x[lowest]
    scale = np.where(used, np.abs(x - centre[:, None]), 0.0).max(axis=1)
    t = (x - centre[:, None]) / scale[:, None]
    powers = t[..., None] ** np.arange(order + 1)
    weighted = np.swapaxes(powers * used[..., None], 1, 2)
    fitted = np.linalg.solve(weighted @ powers, weighted @ risen[..., None])[..., 0]
    ends = np.where(used, t, np.inf).min(axis=1), np.where(used, t, -np.inf).max(axis=1)
    best = _minimum(fitted, *ends)
    level = np.polynomial.polynomial.polyval(best, fitted.T, tensor=False) + rise
    crossings = _roots(np.concatenate([fitted[:, :1] - level[:, None], fitted[:, 1:]], axis=1))
    # Coefficients of the size of rounding make crossings that far away, where the fit says nothing.
    crossings = np.where(np.abs(crossings) < _FAR, crossings, np.nan)
    below, above = crossings <= best[:, None], crossings >= best[:, None]
    low = np.where(below, crossings, -np.inf).max(axis=1)
    high = np.where(above, crossings, np.inf).min(axis=1)
    return Intervals(*(centre + scale * end for end in (best, low, high)))


@dataclass(frozen=True, eq=False)
class BootstrapCoverage(Check):
    """Coverage and mean width of the intervals of one parameter over all data sets of all test sets.

    Parameters
    ----------
    coverage, coverage_error
        Fraction of the intervals that contain the truth; its error from the spread over the test sets, because the
        data sets of one test set share events (binomial for a single test set).
    width, width_error
        Mean length of the closed intervals, and its error; NaN where it cannot be known.
    n_test_sets, n_intervals, n_open
        Number of test sets, of intervals, and of intervals without an end on one side (which contain the truth on
        that side, and do not enter the width).
    expected, tolerance
        The gate: expected coverage, and how far from it is acceptable.
    expected_width, width_tolerance
        The same for the width, relative; no condition without an expected width.
    """

    coverage: float
    coverage_error: float
    width: float
    width_error: float
    n_test_sets: int
    n_intervals: int
    n_open: int
    expected: float
    tolerance: float
    expected_width: float | None
    width_tolerance: float


def bootstrap_coverage(
    found: Sequence[Intervals],
    truth: Sequence[float],
    *,
    parameter: str,
    expected: float,
    tolerance: float = 0.05,
    expected_width: float | None = None,
    width_tolerance: float = 0.03,
) -> BootstrapCoverage:
    """Count how many intervals contain the truth.

    Parameters
    ----------
    found
        Intervals of the data sets of each test set.
    truth
        True value of the parameter in each test set.
    parameter
        Its name.
    expected, tolerance, expected_width, width_tolerance
        The gate, as in `BootstrapCoverage`. Expected is the true likelihood's own coverage on the same data sets
        where it is known, `resampled_coverage` otherwise.

    Raises
    ------
    InputError
        When there are no test sets, or not as many true values.
    """
    if not found or len(found) != len(truth):
        raise InputError(f"{len(found)} test sets and {len(truth)} true values of {parameter}")
    covered = np.array([one.contain(true).mean() for one, true in zip(found, truth, strict=True)])
    closed = np.concatenate([one.closed for one in found])
    widths = np.array([one.width[one.closed].mean() for one in found if one.closed.any()])
    coverage, width = float(covered.mean()), float(widths.mean()) if len(widths) else math.nan
    error = _error(covered) if len(found) > 1 else math.sqrt(coverage * (1.0 - coverage) / len(closed))
    failures = []
    if not abs(coverage - expected) <= tolerance:
        failures.append(
            f"coverage of {parameter} {coverage:.3f} +- {error:.3f} differs from {expected:.3f}"
            f" by more than {tolerance:g}"
        )
    if expected_width is not None and not abs(width / expected_width - 1.0) <= width_tolerance:
        failures.append(
            f"width of {parameter} {width:.4g} differs from {expected_width:.4g} by more than {width_tolerance:.0%}"
        )
    agreement = f"coverage of {parameter} {coverage:.3f} is within {tolerance:g} of {expected:.3f}"
    return BootstrapCoverage(
        name=f"bootstrap coverage of {parameter}",
        passed=not failures,
        reason="; ".join(failures) or agreement,
        coverage=coverage,
        coverage_error=error,
        width=width,
        width_error=_error(widths),
        n_test_sets=len(found),
        n_intervals=len(closed),
        n_open=int((~closed).sum()),
        expected=expected,
        tolerance=tolerance,
        expected_width=expected_width,
        width_tolerance=width_tolerance,
    )


def _error(sample: Array) -> float:
    """Return the error of the mean."""
    return float(sample.std(ddof=1)) / math.sqrt(len(sample)) if len(sample) > 1 else math.nan


def _minimum(coefficients: Array, low: Array, high: Array) -> Array:
    """Return where each polynomial is lowest between its ends, ``(n_sets,)``."""
    order = coefficients.shape[1] - 1
    slope = coefficients[:, 1:] * np.arange(1, order + 1)
    stationary = _roots(slope)
    inside = np.isfinite(stationary) & (stationary > low[:, None]) & (stationary < high[:, None])
    candidates = np.concatenate(
        [np.where(inside, stationary, low[:, None]), low[:, None], high[:, None]], axis=1
    )
    heights = np.stack(
        [np.polynomial.polynomial.polyval(c, coefficients.T, tensor=False) for c in candidates.T], axis=1
    )
    return np.take_along_axis(candidates, heights.argmin(axis=1)[:, None], axis=1)[:, 0]


def _roots(coefficients: Array) -> Array:
    """Return the real roots of polynomials (constant first), ``(n_sets, order)``, NaN for those that are not real."""
    order = coefficients.shape[1] - 1
    companion = np.zeros((len(coefficients), order, order))
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1.0
    # A vanishing leading term only sends a root to infinity.
    leading = np.where(np.abs(coefficients[:, -1]) < 1e-14, 1e-14, coefficients[:, -1])
    companion[:, :, -1] = -coefficients[:, :-1] / leading[:, None]
    roots = np.linalg.eigvals(companion)
    real = np.abs(roots.imag) <= 1e-9 * (1.0 + np.abs(roots.real))
    return np.where(real, roots.real, np.nan)

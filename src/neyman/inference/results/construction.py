"""`FeldmanCousins` and `Coverage`: intervals constructed from toys, and how often intervals hold the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neyman.errors import InferenceError
from neyman.inference.results.fits import FitResult
from neyman.inference.results.named import Array, Record


@dataclass(frozen=True, eq=False)
class FeldmanCousins(Record):
    r"""Neyman construction with likelihood-ratio ordering.

    Parameters
    ----------
    poi
        Parameter of interest.
    cl
        Confidence level.
    grid
        Values that were tested, ascending, shape ``(n_points,)``.
    observed
        :math:`-2\ln\lambda` of the data at each value.
    critical, critical_error
        Quantile `cl` of the toys' :math:`-2\ln\lambda` at each value, and its error from their number.
    p_values, p_errors
        Fraction of toys with as large a :math:`-2\ln\lambda` as the data, and its binomial error.
    n_toys
        Toys used at each value.
    intervals
        Values with :math:`p > 1 - \mathrm{CL}`, as pairs of ends interpolated in p; more than one pair where the
        accepted values are not connected, none where no value of the grid is accepted.
    best
        The fit with everything free.
    messages
        What a reader must know, as an interval that goes on beyond the grid.
    """

    poi: str
    cl: float
    grid: Array
    observed: Array
    critical: Array
    critical_error: Array
    p_values: Array
    p_errors: Array
    n_toys: Array
    intervals: tuple[tuple[float, float], ...]
    best: FitResult
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        ends = (
            " and ".join(f"[{low:.6g}, {high:.6g}]" for low, high in self.intervals) or "nowhere on the grid"
        )
        best = self.best.values[self.poi]
        lines = [f"{self.poi} in {ends} at {self.cl:.1%} CL (Feldman-Cousins), best fit {best:.6g}"]
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])


@dataclass(frozen=True)
class MethodCoverage(Record):
    """Coverage of one kind of interval.

    Parameters
    ----------
    method
        ``profile`` (where the profile likelihood is under its quantile) or ``hesse`` (value and error).
    covered
        Toys whose interval contains the truth.
    coverage
        Their fraction.
    interval
        68.3% Clopper-Pearson interval of the fraction.
    width
        Mean width of the intervals; None for ``profile``, whose ends are not computed.
    """

    method: str
    covered: int
    coverage: float
    interval: tuple[float, float]
    width: float | None


@dataclass(frozen=True, eq=False)
class Coverage(Record):
    """How often intervals of `poi` contain the true value.

    Parameters
    ----------
    poi
        Parameter of interest.
    truth
        Its value in the toys.
    cl
        Confidence level of the intervals.
    methods
        Coverage of each kind of interval; also reached by ``result["profile"]``.
    bias, bias_error
        Mean of estimate minus truth.
    pull_mean, pull_mean_error, pull_width, pull_width_error
        Mean and standard deviation of (estimate - truth) / error.
    n_toys
        Toys that were fitted.
    n_failed
        Toys that could not be fitted and count nowhere else.
    values, errors
        Estimates and HESSE errors of the fitted toys, shape ``(n_toys,)``.
    messages
        What a reader must know.
    """

    poi: str
    truth: float
    cl: float
    methods: tuple[MethodCoverage, ...]
    bias: float
    bias_error: float
    pull_mean: float
    pull_mean_error: float
    pull_width: float
    pull_width_error: float
    n_toys: int
    n_failed: int
    values: Array
    errors: Array
    messages: tuple[str, ...] = ()

    def __getitem__(self, method: str) -> MethodCoverage:
        for one in self.methods:
            if one.method == method:
                return one
        raise InferenceError(
            f"the coverage of {method!r} intervals was not computed",
            expected=", ".join(one.method for one in self.methods),
        )

    def __str__(self) -> str:
        lines = [f"coverage of {self.poi} = {self.truth:g} by {self.cl:.1%} intervals, {self.n_toys} toys"]
        for one in self.methods:
            width = "" if one.width is None else f", mean width {one.width:.4g}"
            low, high = one.interval
            lines.append(f"  {one.method:<8} {one.coverage:.2%} in [{low:.2%}, {high:.2%}]{width}")
        lines.append(f"  bias {self.bias:+.4g} +- {self.bias_error:.2g}")
        lines.append(
            f"  pull mean {self.pull_mean:+.3f} +- {self.pull_mean_error:.2g}, "
            f"width {self.pull_width:.3f} +- {self.pull_width_error:.2g}"
        )
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])


def accepted(grid: Array, p_values: Array, alpha: float) -> tuple[tuple[float, float], ...]:
    """Return the stretches of a grid where `p_values` exceed `alpha`, their ends interpolated linearly."""
    inside = p_values > alpha
    found: list[tuple[float, float]] = []
    for first in np.nonzero(inside & ~np.concatenate([[False], inside[:-1]]))[0]:
        last = first + int(np.argmin(np.append(inside[first:], False))) - 1
        ends = []
        for edge, beyond in ((first, first - 1), (last, last + 1)):
            if not 0 <= beyond < len(grid):
                ends.append(float(grid[edge]))
                continue
            part = (p_values[edge] - alpha) / (p_values[edge] - p_values[beyond])
            ends.append(float(grid[edge] + part * (grid[beyond] - grid[edge])))
        found.append((ends[0], ends[1]))
    return tuple(found)

"""`HypothesisTest`, `UpperLimit` and `Significance`: tests of values of the parameter of interest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from neyman.inference.results.fits import FitResult
from neyman.inference.results.named import Array, Record

_BAND = ("-2 sigma", "-1 sigma", "median", "+1 sigma", "+2 sigma")


@dataclass(frozen=True, eq=False)
class HypothesisTest(Record):
    r"""Test of one value of the parameter of interest against smaller ones.

    Parameters
    ----------
    poi
        Parameter of interest.
    value
        The value that is tested.
    calculator
        ``asymptotic`` or ``toys``.
    test_statistic
        ``qtilde`` or ``q``.
    q
        Observed test statistic.
    q_asimov
        That of the background-only Asimov data; None with toys.
    clsb, clb, cls
        :math:`\mathrm{CL}_{s+b}` and :math:`\mathrm{CL}_b`, the probabilities of a test statistic as large under
        either hypothesis, and their ratio :math:`\mathrm{CL}_s`; NaN where :math:`\mathrm{CL}_b` is 0.
    clsb_error, clb_error, cls_error
        Binomial errors from the number of toys; 0 for the asymptotic ones.
    expected
        :math:`\mathrm{CL}_s` of the background's -2, -1, 0, +1 and +2 sigma outcomes, ascending; None when it was
        not asked for.
    n_toys
        Toys of each hypothesis that are used, signal plus background and background alone.
    signal_toys, background_toys
        Test statistics of the toys; None for the asymptotic ones.
    messages
        What a reader must know.
    """

    poi: str
    value: float
    calculator: str
    test_statistic: str
    q: float
    q_asimov: float | None
    clsb: float
    clb: float
    cls: float
    clsb_error: float = 0.0
    clb_error: float = 0.0
    cls_error: float = 0.0
    expected: tuple[float, ...] | None = None
    n_toys: tuple[int, int] | None = None
    signal_toys: Array | None = None
    background_toys: Array | None = None
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        error = f" +- {self.cls_error:.2g}" if self.n_toys else ""
        parts = f"{self.test_statistic} = {self.q:.4g}, CLs+b = {self.clsb:.4g}, CLb = {self.clb:.4g}"
        lines = [f"{self.poi} = {self.value:g}: CLs = {self.cls:.4g}{error} ({parts}, {self.calculator})"]
        lines += [
            f"  expected {name:>8}  {one:.4g}" for name, one in zip(_BAND, self.expected or (), strict=False)
        ]
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])


@dataclass(frozen=True, eq=False)
class UpperLimit(Record):
    r"""Upper limit by :math:`\mathrm{CL}_s`.

    Parameters
    ----------
    poi
        Parameter of interest.
    cl
        Confidence level; values with :math:`\mathrm{CL}_s < 1 - \mathrm{CL}` are excluded.
    calculator
        ``asymptotic`` or ``toys``.
    test_statistic
        ``qtilde`` or ``q``.
    observed
        The limit; NaN where it was not reached.
    error
        Its error from the number of toys; 0 for the asymptotic one.
    expected
        Limits of the background's -2, -1, 0, +1 and +2 sigma outcomes; None when they were not asked for.
    tests
        The tests on the grid, ascending in the value. Without toys and without a grid, none.
    best
        The fit with everything free.
    messages
        What a reader must know.
    """

    poi: str
    cl: float
    calculator: str
    test_statistic: str
    observed: float
    error: float
    expected: tuple[float, ...] | None
    tests: tuple[HypothesisTest, ...]
    best: FitResult
    messages: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields but the toys' distributions, JSON-safe."""
        slim = tuple(replace(test, signal_toys=None, background_toys=None) for test in self.tests)
        return super(UpperLimit, replace(self, tests=slim)).to_dict()

    def __str__(self) -> str:
        error = f" +- {self.error:.2g}" if self.error else ""
        reached = f"{self.observed:.6g}{error}" if math.isfinite(self.observed) else "not reached"
        lines = [f"{self.poi} < {reached} at {self.cl:.0%} CL ({self.test_statistic}, {self.calculator})"]
        lines += [
            f"  expected {name:>8}  {one:.6g}" for name, one in zip(_BAND, self.expected or (), strict=False)
        ]
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])


@dataclass(frozen=True, eq=False)
class Significance(Record):
    r"""Test of the background-only hypothesis.

    Parameters
    ----------
    poi
        Parameter of interest.
    calculator
        ``asymptotic`` or ``toys``.
    q0
        Observed test statistic.
    p_value
        Probability of as large a test statistic under the background alone.
    p_value_interval
        68.3% Clopper-Pearson interval of `p_value` from the number of toys; None for the asymptotic one.
    z
        Significance :math:`Z = \Phi^{-1}(1 - p)`; infinite when no toy is as extreme: see `p_value_interval`.
    expected_at
        Value of the parameter of interest behind the expectation; None when there is none.
    expected_z, expected_p_value
        Median significance if that value is true, and its p-value; None when there is none.
    n_toys
        Background toys that are used.
    toys
        Their test statistics; None for the asymptotic one.
    best
        The fit with everything free.
    messages
        What a reader must know.
    """

    poi: str
    calculator: str
    q0: float
    p_value: float
    p_value_interval: tuple[float, float] | None
    z: float
    expected_at: float | None
    expected_z: float | None
    expected_p_value: float | None
    n_toys: int | None
    toys: Array | None
    best: FitResult
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"background only: q0 = {self.q0:.4g}, p = {self.p_value:.4g}, Z = {self.z:.3f} ({self.calculator})"
        ]
        if self.p_value_interval:
            low, high = self.p_value_interval
            lines.append(f"  p from {self.n_toys} toys in [{low:.3g}, {high:.3g}] at 68.3%")
        if self.expected_z is not None:
            lines.append(f"  expected for {self.poi} = {self.expected_at:g}: Z = {self.expected_z:.3f}")
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])

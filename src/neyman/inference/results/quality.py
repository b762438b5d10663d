"""`GoodnessOfFit`: whether the model describes the data at its best fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from neyman.inference.results.fits import FitResult
from neyman.inference.results.named import Array, Record


@dataclass(frozen=True, eq=False)
class GoodnessOfFit(Record):
    r"""Test of the best fit against the saturated model.

    Parameters
    ----------
    calculator
        ``saturated`` (p-value from :math:`\chi^2`) or ``toys``.
    statistic
        :math:`-2\ln` of the likelihood ratio of the best fit to the saturated model.
    parts
        What each term and the constraints contribute to it.
    ndof
        Bins plus constraints minus free parameters.
    p_value
        Probability of as large a statistic when the model is true; NaN where `ndof` is not positive.
    p_value_interval
        68.3% Clopper-Pearson interval from the number of toys; None without toys.
    n_toys
        Toys that are used; None without toys.
    toys
        Their statistics; None without toys.
    best
        The fit.
    messages
        What a reader must know.
    """

    calculator: str
    statistic: float
    parts: Mapping[str, float]
    ndof: int
    p_value: float
    p_value_interval: tuple[float, float] | None
    n_toys: int | None
    toys: Array | None
    best: FitResult
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        probability = f"p = {self.p_value:.4g}" if math.isfinite(self.p_value) else "p undefined"
        found = f"{self.statistic:.4f} for {self.ndof} degrees of freedom, {probability}"
        lines = [f"goodness of fit ({self.calculator}): {found}"]
        if self.p_value_interval:
            low, high = self.p_value_interval
            lines.append(f"  p from {self.n_toys} toys in [{low:.3g}, {high:.3g}] at 68.3%")
        lines += [f"  {name}: {part:.4f}" for name, part in self.parts.items()]
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])

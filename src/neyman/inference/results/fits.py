"""`FitResult`: a minimum with its covariance and MINOS intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neyman.files import jsonable
from neyman.inference.results.named import NamedMatrix, NamedVector, Record


@dataclass(frozen=True)
class MinosError(Record):
    """Interval of a parameter from the profile likelihood: ``value + lower`` to ``value + upper``.

    Parameters
    ----------
    lower, upper
        Distances from the best fit (`lower` is negative), NaN where MINOS found no crossing.
    valid
        Whether both sides are crossings of the level 1.
    at_lower_limit, at_upper_limit
        Whether a side stopped at a bound of the parameter instead.
    new_minimum
        Whether MINOS met a lower minimum on its way: the fit it started from is not the global one.
    """

    lower: float
    upper: float
    valid: bool
    at_lower_limit: bool = False
    at_upper_limit: bool = False
    new_minimum: bool = False


@dataclass(frozen=True)
class FitResult(Record):
    r"""A minimum of :math:`-2\ln L`.

    Parameters
    ----------
    names
        All parameters of the likelihood, fixed ones included.
    values
        Best-fit values.
    errors
        Square roots of the diagonal of `covariance`: 0 for fixed parameters, NaN where unknown.
    covariance
        :math:`2 H^{-1}` with the Hessian H of :math:`-2\ln L` over the free parameters, rows of zeros for
        fixed ones; None when it was not asked for or H is not positive definite.
    fval
        :math:`-2\ln L` at the minimum, constants included.
    valid
        Whether it is a minimum; `messages` says why not.
    edm
        Estimated distance to the minimum, :math:`\tfrac12 g^T H^{-1} g` over the parameters not at a bound.
    at_bounds
        Free parameters that ended at a bound. Such a minimum can be valid, its HESSE errors mean little.
    fixed
        Parameters that were not fitted.
    n_value, n_gradient, n_hessian
        Evaluations of the likelihood alone, with its gradient, and with its gradient and Hessian.
    minos
        Intervals of the parameters that were asked for.
    messages
        What a reader must know: reasons for a failure, fallbacks that were needed, parameters at bounds.
    minuit
        The ``iminuit.Minuit`` object over the free parameters (its values exclude a constant offset).
    """

    names: tuple[str, ...]
    values: NamedVector
    errors: NamedVector
    covariance: NamedMatrix | None
    fval: float
    valid: bool
    edm: float
    at_bounds: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    n_value: int = 0
    n_gradient: int = 0
    n_hessian: int = 0
    minos: Mapping[str, MinosError] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    minuit: Any = field(default=None, compare=False, repr=False)

    @property
    def correlation(self) -> NamedMatrix | None:
        """Correlation matrix: ones on the diagonal, zeros elsewhere in the rows of fixed parameters."""
        if self.covariance is None:
            return None
        sigma = np.where(self.errors.array > 0.0, self.errors.array, np.inf)
        array = self.covariance.array / np.outer(sigma, sigma)
        np.fill_diagonal(array, 1.0)
        return NamedMatrix(self.names, array)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the ``Minuit`` object, JSON-safe."""
        kept = [name for name in self.__dataclass_fields__ if name != "minuit"]
        return {name: jsonable(getattr(self, name)) for name in [*kept, "correlation"]}

    def __str__(self) -> str:
        state = "valid" if self.valid else "NOT VALID"
        calls = self.n_value + self.n_gradient + self.n_hessian
        lines = [f"fit {state}: -2 ln L = {self.fval:.6f}, EDM = {self.edm:.2g}, {calls} evaluations"]
        width = max(map(len, self.names))
        for name in self.names[:40]:
            line = f"  {name:<{width}}  {self.values[name]:>12.6g}"
            if name in self.fixed:
                line += "  fixed"
            elif math.isfinite(self.errors[name]):
                line += f" +- {self.errors[name]:.3g}"
            if name in self.minos:
                line += f"  MINOS {self.minos[name].lower:+.4g} {self.minos[name].upper:+.4g}"
            if name in self.at_bounds:
                line += "  at bound"
            lines.append(line)
        if len(self.names) > 40:
            lines.append(f"  ... and {len(self.names) - 40} more parameters")
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])

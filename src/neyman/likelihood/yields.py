"""Expected event counts of samples as functions of parameters: normfactor, normsys and lumi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.likelihood import interpolation

Array = NDArray[np.float64]


class YieldFactor(Protocol):
    """A factor on a sample's yield that depends on one parameter."""

    @property
    def parameter(self) -> str:
        """Name of the parameter."""

    def factor(self, theta: float) -> tuple[float, float, float]:
        """Return the factor with its first and second derivative."""


@dataclass(frozen=True)
class NormFactor:
    """The parameter itself (normfactor and lumi of HistFactory)."""

    parameter: str

    def factor(self, theta: float) -> tuple[float, float, float]:
        """Return the factor with its first and second derivative."""
        return theta, 1.0, 0.0


@dataclass(frozen=True)
class NormSys:
    """Normalisation uncertainty with factors `up` and `down` at alpha = +-1 (HistFactory code4)."""

    parameter: str
    up: float
    down: float

    def factor(self, theta: float) -> tuple[float, float, float]:
        """Return the factor with its first and second derivative."""
        ratios = torch.tensor([self.up, self.down], dtype=torch.float64)
        value, first, second = interpolation.code4(ratios[0], ratios[1]).factor(
            torch.tensor(theta, dtype=torch.float64)
        )
        return float(value), float(first), float(second)


def yield_derivatives(
    nominal: float, factors: tuple[YieldFactor, ...], theta: Array, columns: dict[str, int]
) -> tuple[float, Array, Array]:
    r"""Return :math:`\nu(\theta) = \nu_0 \prod_k f_k(\theta_k)` with gradient and Hessian.

    Products leave one or two factors out instead of dividing, so a factor of zero is exact.

    Parameters
    ----------
    nominal
        Yield with all factors 1.
    factors
        Factors; several may depend on the same parameter.
    theta
        Parameters, shape ``(n_parameters,)``.
    columns
        Position of each parameter in `theta`.
    """
    n = len(theta)
    parts = [(columns[f.parameter], *f.factor(float(theta[columns[f.parameter]]))) for f in factors]
    value, gradient, hessian = nominal, np.zeros(n), np.zeros((n, n))
    for j, f, f1, f2 in parts:
        hessian *= f
        hessian[j, :] += f1 * gradient
        hessian[:, j] += f1 * gradient
        hessian[j, j] += f2 * value
        gradient *= f
        gradient[j] += f1 * value
        value *= f
    return value, gradient, hessian

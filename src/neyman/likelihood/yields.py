"""Expected event counts of samples as functions of parameters.

A sample's yield is its nominal yield times the product of its factors:

* `NormFactor`: a parameter itself (normfactor, lumi).
* `NormSys`: a normalisation uncertainty, interpolated by a HistFactory code.
* `Polynomial`: a polynomial in one or several parameters, for interference and effective field theories, where the
  rate is a sum of coefficients times products of couplings and each component is a sample of its own.

A yield may be zero or negative (an interference component); only the total density must be positive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.likelihood import interpolation

Array = NDArray[np.float64]
Derived: TypeAlias = tuple[float, Array, Array]
"""Value, gradient and Hessian."""


class YieldFactor(Protocol):
    """A factor on a sample's yield that depends on one or several parameters."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, all different."""

    def factor(self, theta: Array) -> Derived:
        """Return the factor with gradient ``(p,)`` and Hessian ``(p, p)`` at its parameters, shape ``(p,)``."""


@dataclass(frozen=True)
class NormFactor:
    """The parameter itself (normfactor and lumi of HistFactory)."""

    parameter: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return (self.parameter,)

    def factor(self, theta: Array) -> Derived:
        """Return the factor with its gradient and Hessian."""
        return float(theta[0]), _ONE, _NONE


@dataclass(frozen=True)
class NormSys:
    """Normalisation uncertainty with factors `up` and `down` at alpha = +-1.

    Parameters
    ----------
    parameter
        Name of the nuisance parameter.
    up, down
        Varied over nominal yield, positive.
    code
        HistFactory interpolation code: ``code4`` (polynomial inside, exponential outside) or ``code1``
        (piecewise exponential), as `neyman.likelihood.interpolation` defines them.

    Raises
    ------
    LikelihoodError
        When a factor is not positive and finite, or the code is unknown.
    """

    parameter: str
    up: float
    down: float
    code: Literal["code1", "code4"] = "code4"

    def __post_init__(self) -> None:
        if self.code not in interpolation.MULTIPLICATIVE:
            raise LikelihoodError(
                f"unknown interpolation code {self.code!r} of normsys {self.parameter!r}",
                expected=" or ".join(interpolation.MULTIPLICATIVE),
            )
        if not all(math.isfinite(f) and f > 0.0 for f in (self.up, self.down)):
            raise LikelihoodError(
                f"normsys {self.parameter!r} has factors up {self.up:g} and down {self.down:g}",
                expected="varied over nominal, positive and finite",
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return (self.parameter,)

    def factor(self, theta: Array) -> Derived:
        """Return the factor with its gradient and Hessian."""
        alpha = float(theta[0])
        if self.code == "code4" and abs(alpha) < 1.0:
            value = first = second = 0.0
            for a in self._falling_coefficients:  # Horner's scheme, with the derivatives
                second = second * alpha + 2.0 * first
                first = first * alpha + value
                value = value * alpha + a
        else:
            log_up, log_down = self._logs
            # At the kink of code1 the mean of the two slopes, as in `interpolation`.
            rate = log_up if alpha > 0.0 else -log_down if alpha < 0.0 else 0.5 * (log_up - log_down)
            value = math.exp(rate * alpha)
            first, second = rate * value, rate * rate * value
        return value, np.array([first]), np.array([[second]])

    @cached_property
    def _logs(self) -> tuple[float, float]:
        return math.log(self.up), math.log(self.down)

    @cached_property
    def _falling_coefficients(self) -> tuple[float, ...]:
        up, down = torch.tensor([self.up, self.down], dtype=torch.float64)
        return tuple(reversed(interpolation.code4(up, down)._coefficients.tolist()))


@dataclass(frozen=True)
class Polynomial:
    r"""Polynomial in several parameters, :math:`f(\theta) = \sum_t c_t \prod_k \theta_k^{p_{tk}}`.

    Parameters
    ----------
    parameters
        Names of the parameters, all different.
    terms
        Coefficient :math:`c_t` and powers :math:`p_{t1}, p_{t2}, \dots` (one a parameter) of each term.

    Raises
    ------
    LikelihoodError
        When there are no terms, a parameter is repeated, a power is negative or not whole, a term has the wrong
        number of powers, or a coefficient is not finite.

    Examples
    --------
    Signal, interference and background of a coupling, each component a sample with its own density:

    >>> signal = Polynomial(("kappa",), ((1.0, (2,)),))
    >>> interference = Polynomial(("kappa",), ((1.0, (1,)),))
    >>> value, gradient, hessian = Polynomial(("a", "b"), ((1.0, (2, 0)), (-3.0, (1, 1)))).factor([2.0, 0.5])
    >>> value, gradient.tolist(), hessian.tolist()
    (1.0, [2.5, -6.0], [[2.0, -3.0], [-3.0, 0.0]])
    """

    parameters: tuple[str, ...]
    terms: tuple[tuple[float, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = ", ".join(self.parameters)
        if not self.parameters or len(set(self.parameters)) < len(self.parameters):
            raise LikelihoodError(
                f"a polynomial needs different parameters, got ({names})", expected="each name once"
            )
        if not self.terms:
            raise LikelihoodError(f"the polynomial in ({names}) has no terms")
        for coefficient, powers in self.terms:
            if not math.isfinite(coefficient):
                raise LikelihoodError(f"a coefficient of the polynomial in ({names}) is {coefficient}")
            if len(powers) != len(self.parameters):
                raise LikelihoodError(
                    f"a term of the polynomial in ({names}) has {len(powers)} powers",
                    expected=f"{len(self.parameters)}, one a parameter",
                )
            if any(power != int(power) or power < 0 for power in powers):
                raise LikelihoodError(
                    f"a term of the polynomial in ({names}) has the powers {tuple(powers)}",
                    expected="whole numbers, 0 or larger",
                )

    def factor(self, theta: Array) -> Derived:
        """Return the factor with its gradient and Hessian."""
        coefficients, powers = self._derivatives
        sums = (coefficients * (np.asarray(theta) ** powers).prod(axis=-1)).sum(axis=-1)
        p = len(self.parameters)
        return float(sums[0]), sums[1 : 1 + p], sums[1 + p :].reshape(p, p)

    @cached_property
    def _derivatives(self) -> tuple[Array, Array]:
        """Coefficients ``(1 + p + p^2, n_terms)`` and powers ``(1 + p + p^2, n_terms, p)`` of the polynomial, its
        gradient and its Hessian."""
        powers = np.array([powers for _, powers in self.terms], dtype=np.float64)
        unit = np.eye(len(self.parameters))
        orders = np.array([0.0 * unit[0], *unit, *(a + b for a in unit for b in unit)])[:, None, :]
        falling = np.where(orders == 0, 1.0, np.where(orders == 1, powers, powers * (powers - 1.0)))
        coefficients = np.array([coefficient for coefficient, _ in self.terms]) * falling.prod(axis=-1)
        return coefficients, np.maximum(powers - orders, 0.0)


_ONE, _NONE = np.ones(1), np.zeros((1, 1))


def yield_derivatives(
    nominal: float, factors: tuple[YieldFactor, ...], theta: Array, columns: Mapping[str, int]
) -> Derived:
    r"""Return :math:`\nu(\theta) = \nu_0 \prod_k f_k(\theta)` with gradient and Hessian.

    .. math::
        \nabla\nu = \nu_0 \sum_i \Big(\prod_{k \ne i} f_k\Big) \nabla f_i \qquad
        \nabla\nabla\nu = \nu_0 \sum_i \Big(\prod_{k \ne i} f_k\Big) \nabla\nabla f_i
        + \nu_0 \sum_{i \ne j} \Big(\prod_{k \ne i,j} f_k\Big) \nabla f_i \nabla f_j^T

    Parameters
    ----------
    nominal
        Yield with all factors 1.
    factors
        Factors; several may depend on the same parameters.
    theta
        Parameters, shape ``(n_parameters,)``.
    columns
        Position of each parameter in `theta`.
    """
    n = len(theta)
    if not factors:
        return nominal, np.zeros(n), np.zeros((n, n))
    values, jacobian = np.empty(len(factors)), np.zeros((len(factors), n))
    bends: list[tuple[list[int], Array]] = []
    for i, factor in enumerate(factors):
        at = [columns[name] for name in factor.parameters]
        values[i], jacobian[i, at], hessian = factor.factor(theta[at])
        bends.append((at, hessian))
    without_one, without_two = _leave_out(values)
    total = jacobian.T @ without_two @ jacobian
    for product, (at, hessian) in zip(without_one.tolist(), bends, strict=True):
        if len(at) == 1:
            total[at[0], at[0]] += product * hessian[0, 0]
        else:
            total[np.ix_(at, at)] += product * hessian
    return nominal * float(values.prod()), nominal * (without_one @ jacobian), nominal * total


def _leave_out(values: Array) -> tuple[Array, Array]:
    """Return the products of all values but one, ``(k,)``, and but two, ``(k, k)`` with a diagonal of zeros.

    Nothing is divided, so values of zero are exact.
    """
    k = len(values)
    before, after, two = np.ones(k), np.ones(k), np.zeros((k, k))
    before[1:] = np.cumprod(values[:-1])
    after[:-1] = np.cumprod(values[:0:-1])[::-1]
    between = np.cumprod(np.where(np.tri(k, dtype=bool), 1.0, values), axis=1)[:, :-1]
    two[:, 1:] = np.triu(before[:, None] * between * after[1:])
    return before * after, two + two.T

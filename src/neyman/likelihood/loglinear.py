r"""Shapes whose effect on the log-ratio is linear in the nuisance parameter.

* `LinearShape`: ``alpha * column(x)``, a direction of the spread of an ensemble (`neyman.likelihood.spread`).
* `ExponentialRatio`: learned up and down ratios interpolated by HistFactory code1.
* `ReferenceStatistics`: the statistical error of the reference sample, by which the densities are normalised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from neyman.errors import LikelihoodError
from neyman.likelihood.events import EventSource
from neyman.likelihood.shapes import CompiledShape, Effect, UpDownColumns


@dataclass(frozen=True)
class LinearShape:
    r"""Direction in which the log-ratio of a sample is uncertain, :math:`\ln g(x;\alpha) = \alpha\, c(x)`.

    Parameters
    ----------
    parameter
        Nuisance parameter with a unit normal constraint.
    column
        Column of the events with :math:`c(x)`, the change of the log-ratio by one standard deviation.
    """

    parameter: str
    column: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Name of the nuisance parameter."""
        return (self.parameter,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the event table that it reads."""
        return (self.column,)

    def compile(self, columns: Mapping[str, torch.Tensor]) -> CompiledShape:
        """Bind the effect to events."""
        return _PiecewiseLinear(columns[self.column], columns[self.column], 1.0)


@dataclass(frozen=True)
class ExponentialRatio(UpDownColumns):
    r"""Systematic ratio by HistFactory code1: :math:`\ln g(x;\alpha)` is :math:`\alpha\,u(x)` for
    :math:`\alpha \ge 0` and :math:`-\alpha\,d(x)` below, with the log-ratios u (up) and d (down).

    At the kink :math:`\alpha = 0` the slope is the mean of the two.
    """

    def compile(self, columns: Mapping[str, torch.Tensor]) -> CompiledShape:
        """Bind the effect to events."""
        return _PiecewiseLinear(columns[self.up], columns[self.down], -1.0)


class _PiecewiseLinear:
    """``alpha * above`` for positive alpha and ``alpha * sign * below`` for negative."""

    def __init__(self, above: torch.Tensor, below: torch.Tensor, sign: float) -> None:
        self._above, self._below, self._sign = above, below, sign

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        value = float(alpha[0])
        if value > 0.0:
            slope = self._above[rows].double()
        elif value < 0.0:
            slope = self._sign * self._below[rows].double()
        else:
            slope = 0.5 * (self._above[rows].double() + self._sign * self._below[rows].double())
        return Effect(log=value * slope, first=slope[None] if order > 0 else None)


@dataclass(frozen=True)
class ReferenceStatistics:
    r"""Statistical error of a finite reference sample, the same for all samples of a channel:

    .. math:: \ln g(x;\alpha) = \sum_j \alpha_j\, c_j(x), \qquad c_j = \sum_s A_{sj}\, r_s(x)

    The term divides each ratio by its mean over the reference sample, which stands for the reference density q. A
    fluctuation of that sample is a change of q itself, :math:`q \to q\,(1 + \alpha_j c_j)`: it moves the means
    :math:`E_q[r_s]` and multiplies the densities of all samples alike. Put on every sample and renormalised, the
    shape does both, so densities stay normalised and the data pull no :math:`\alpha_j` on average. (To shift the
    normalisation of one sample alone would leave a density that is not normalised, and any fit would raise it.)

    `measure` chooses A such that the means have the covariance that the reference weights give them,

    .. math:: E_q[r_s c_j] = (G^{1/2})_{sj}, \qquad
        G_{st} = \frac{\sum_i w_i^2 (r_s - 1)(r_t - 1)}{(\sum_i w_i)^2}, \qquad
        A = V^{-1} G^{1/2}, \quad V_{st} = E_q[(r_s - 1)(r_t - 1)]

    with ratios at the nominal parameters divided by their means. The symmetric root keeps :math:`\alpha_j` as close
    as can be to the normalisation of sample j.

    Parameters
    ----------
    parameters
        Nuisance parameters with unit normal constraints, one a sample that is considered.
    log_ratios
        Columns of the nominal log-ratios of these samples.
    coefficients
        The matrix A, with the means of the ratios divided out.
    """

    parameters: tuple[str, ...]
    log_ratios: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]

    @classmethod
    def measure(
        cls, parameters: Sequence[str], log_ratios: Sequence[str], reference: EventSource
    ) -> ReferenceStatistics:
        """Take the size of the error from a reference sample.

        Raises
        ------
        LikelihoodError
            When the mean ratio of a sample over the reference is not a positive number.
        """
        n = len(log_ratios)
        by_weight, by_square = (torch.zeros(n + 1, n + 1, dtype=torch.float64) for _ in range(2))
        for block in reference.blocks(log_ratios):
            columns = [block.columns[name].double().exp() for name in log_ratios]
            ratios = torch.stack([torch.ones_like(block.weight), *columns])
            by_weight += (ratios * block.weight) @ ratios.T
            by_square += (ratios * block.weight**2) @ ratios.T
        total, mean = by_weight[0, 0], by_weight[0] / by_weight[0, 0]
        for name, value in zip(log_ratios, mean[1:].tolist(), strict=True):
            if not (math.isfinite(value) and value > 0.0):
                raise LikelihoodError(
                    f"the mean of the ratio {name!r} over the reference sample is {value:g}",
                    expected="a positive number",
                )
        # Ratios over their means, minus 1.
        centre = torch.cat([-torch.ones(n, 1), torch.eye(n)], dim=1).double() / mean
        spread = centre @ by_weight @ centre.T / total
        variances, directions = torch.linalg.eigh(centre @ by_square @ centre.T / total**2)
        root = directions * variances.clamp(min=0.0).sqrt() @ directions.T
        # Where q is a mixture of the samples their ratios depend linearly on each other, and V is singular.
        inverse = torch.linalg.pinv(spread, rtol=1e-6, hermitian=True)
        coefficients = (inverse @ root) / mean[1:, None]
        return cls(tuple(parameters), tuple(log_ratios), tuple(map(tuple, coefficients.tolist())))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the event table that it reads."""
        return self.log_ratios

    def compile(self, columns: Mapping[str, torch.Tensor]) -> CompiledShape:
        """Bind the effect to events."""
        matrix = torch.tensor(self.coefficients, dtype=torch.float64)
        return _RatioSums([columns[name] for name in self.log_ratios], matrix)


class _RatioSums:
    def __init__(self, columns: Sequence[torch.Tensor], coefficients: torch.Tensor) -> None:
        self._columns, self._coefficients = columns, coefficients.to(columns[0].device)

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        ratios = torch.stack([column[rows] for column in self._columns]).double().exp()
        slopes = self._coefficients.T @ ratios
        return Effect(log=alpha.to(slopes) @ slopes, first=slopes if order > 0 else None)

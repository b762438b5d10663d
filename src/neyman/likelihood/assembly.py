r"""The chain rule of the unbinned term: from sums over events to derivatives by the parameters.

The data enter through :math:`F(c, \alpha) = \sum_i w_i \ln \sum_s c_s R_s(x_i; \alpha)` with
:math:`c_s = \nu_s(\theta) / M_s(\alpha)`, yields over mean ratios. So the sums over the data know nothing of the
normalisation, and it costs nothing per event.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from neyman.likelihood.density import RatioModel, Sums, by_parameter
from neyman.likelihood.term import Derivatives


class Yields(NamedTuple):
    """Expected events of the samples with gradient and Hessian by the parameters.

    Shapes ``(n_rows, n_samples)``, ``(n_rows, n_samples, p)`` and ``(n_rows, n_samples, p, p)``.
    """

    value: torch.Tensor
    gradient: torch.Tensor
    hessian: torch.Tensor


class Norms(NamedTuple):
    """Mean ratios of the samples over the reference, with the derivatives of their logarithms by shape parameter.

    Shapes ``(n_rows, n_samples)``, ``(n_rows, n_samples, k)`` and ``(n_rows, n_samples, k, k)``; the mean is NaN where
    it is undefined.
    """

    mean: torch.Tensor
    slope: torch.Tensor
    curvature: torch.Tensor

    @classmethod
    def of(cls, model: RatioModel, sums: Sums, total_weight: float) -> Norms:
        """Turn sums over the reference into means."""
        first, second = by_parameter(model, sums)
        slope = first / sums.share[..., None]
        curvature = second / sums.share[..., None, None] - slope[..., None] * slope[..., None, :]
        mean = sums.share / total_weight
        defined = (mean > 0.0) & torch.isfinite(mean) & (sums.lowest > 0.0)[:, None]
        return cls(torch.where(defined, mean, torch.nan), slope, curvature)

    def rows(self, index: torch.Tensor) -> Norms:
        """Return some rows."""
        return Norms(self.mean[index], self.slope[index], self.curvature[index])


def assemble(
    model: RatioModel,
    positions: torch.Tensor,
    yields: Yields,
    norms: Norms,
    sums: Sums,
    order: int,
    *,
    form: Literal["extended", "fraction"],
    total_weight: torch.Tensor,
) -> Derivatives:
    r"""Return :math:`-2 F` plus the term of the total yield :math:`\nu`: :math:`2\nu` in the extended form,
    :math:`2 W \ln\nu` in the fraction form with the sum of weights W.

    Parameters
    ----------
    model
        The data's ratios.
    positions
        Position of each shape parameter among the term's parameters.
    yields, norms, sums
        At each row of a batch.
    order
        0, 1 or 2.
    form
        Which term of the total yield.
    total_weight
        Sum of the data's weights, ``(n_rows,)`` or a number.
    """
    total = yields.value.sum(1)
    if form == "extended":
        outside, slope, bend = total, torch.ones_like(total), torch.zeros_like(total)
    else:
        outside, slope, bend = total_weight * total.log(), total_weight / total, -total_weight / total**2
    value = 2.0 * outside - 2.0 * sums.log
    if order == 0:
        return Derivatives(value)
    by_yield = yields.gradient.sum(1)
    first, second = by_parameter(model, sums)
    coefficients = yields.value / norms.mean
    by_alpha = torch.einsum("rs,rsk->rk", coefficients, first)
    jacobian = coefficient_jacobian(positions, yields, norms)
    gradient = torch.einsum("rs,rsp->rp", sums.share, jacobian).index_add(1, positions, by_alpha)
    gradient = 2.0 * slope[:, None] * by_yield - 2.0 * gradient
    if order == 1 or sums.outer is None:
        return Derivatives(value, gradient)

    n_samples = sums.share.shape[1]
    inner = -sums.outer
    inner[:, :n_samples, n_samples:] += first
    inner[:, n_samples:, :n_samples] += first.transpose(1, 2)
    inner[:, n_samples:, n_samples:] += second.sum(1)
    full = full_jacobian(positions, jacobian)
    hessian = full.transpose(1, 2) @ inner @ full
    hessian += torch.einsum("rs,rspq->rpq", sums.share, _coefficient_hessian(positions, yields, norms))
    hessian = -2.0 * hessian + 2.0 * slope[:, None, None] * yields.hessian.sum(1)
    hessian += 2.0 * bend[:, None, None] * by_yield[:, :, None] * by_yield[:, None, :]
    return Derivatives(value, gradient, hessian)


def coefficient_jacobian(positions: torch.Tensor, yields: Yields, norms: Norms) -> torch.Tensor:
    r"""Return :math:`\partial c_s/\partial\theta`, shape ``(n_rows, n_samples, p)``."""
    by_norm = norms.slope * yields.value[..., None]
    return yields.gradient.index_add(2, positions, by_norm, alpha=-1.0) / norms.mean[..., None]


def full_jacobian(positions: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\partial(c, \alpha)/\partial\theta`, shape ``(n_rows, n_samples + k, p)``."""
    n_rows, _, p = coefficients.shape
    selection = torch.eye(p, dtype=coefficients.dtype)[positions]
    return torch.cat([coefficients, selection.expand(n_rows, -1, -1)], dim=1)


def _coefficient_hessian(positions: torch.Tensor, yields: Yields, norms: Norms) -> torch.Tensor:
    """Return the second derivatives of the coefficients, shape ``(n_rows, n_samples, p, p)``."""
    value = yields.value[..., None, None]
    by_shape = value * (norms.slope[..., None] * norms.slope[..., None, :] - norms.curvature)
    mixed = torch.zeros_like(yields.hessian).index_add(
        3, positions, yields.gradient[..., None] * norms.slope[..., None, :]
    )
    rows = torch.zeros_like(yields.hessian[..., : len(positions), :]).index_add(3, positions, by_shape)
    hessian = (yields.hessian - mixed - mixed.transpose(2, 3)).index_add(2, positions, rows)
    return hessian / norms.mean[..., None, None]

r"""Fisher information of a binned likelihood at its Asimov point, in closed form.

The expected bins are :math:`\lambda_i(r, \theta)`; a constrained nuisance parameter has a unit Gaussian constraint:

.. math:: F = J^T \mathrm{diag}\Big(\frac{1}{\lambda_i + v_i}\Big) J + \mathrm{diag}(c), \qquad
    J_{ij} = \partial \lambda_i / \partial \theta_j

with c = 1 for constrained parameters and 0 for free ones. :math:`v_i = \sum_e w_e^2` is the variance of the simulation
in the bin: a factor :math:`\gamma_i` on the bin with the constraint :math:`\sqrt{v_i}/\lambda_i` (HistFactory's
staterror) adds a row and a column to F, and eliminating them leaves exactly :math:`1/(\lambda_i + v_i)`. The
uncertainty of a parameter is the square root of its element of :math:`F^{-1}` (arXiv:2502.13047). No automatic second
derivative is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neyman.errors import TrainingError

_SMALLEST_PIVOT = 1e-6


def fisher_information(
    expected: torch.Tensor,
    jacobian: torch.Tensor,
    constrained: Sequence[bool],
    *,
    variance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the Fisher information of the Asimov likelihood.

    Parameters
    ----------
    expected
        Expected bins at the nominal point, shape ``(..., n_bins)``.
    jacobian
        Their derivatives to the parameters, shape ``(..., n_bins, n_parameters)``: the nominal signal for its
        strength, half the difference of up and down for the nuisance parameter of a variation.
    constrained
        Which parameters have a unit Gaussian constraint.
    variance
        Statistical variance of the simulation in each bin, shape ``(..., n_bins)``; none if not given.

    Returns
    -------
    Shape ``(..., n_parameters, n_parameters)``, without the factor 2 of a Hessian of -2 ln L.

    Raises
    ------
    TrainingError
        When an expectation is negative, or zero where its derivative is not. Empty bins carry no information.
    """
    if variance is not None and (
        variance.shape[-1] != expected.shape[-1] or not bool((variance >= 0.0).all())
    ):
        raise TrainingError(
            f"the variance of shape {tuple(variance.shape)} has negative values or another number of bins",
            expected=f"{expected.shape[-1]} bins, none negative",
        )
    if jacobian.shape[-2:] != (expected.shape[-1], len(constrained)):
        raise TrainingError(
            f"the Jacobian has shape {tuple(jacobian.shape)}",
            expected=f"(..., {expected.shape[-1]} bins, {len(constrained)} parameters)",
        )
    bad = torch.nonzero(~usable_bins(expected, jacobian))
    if len(bad):
        first = tuple(int(i) for i in bad[0])
        raise TrainingError(
            f"bin {first[-1]} has the expectation {float(expected[first]):.4g}",
            expected="positive bins, or empty ones that no parameter fills",
            fix="use fewer bins, other edges or more events",
        )
    scale = expected if variance is None else expected + variance
    scaled = jacobian / torch.where(expected > 0.0, scale, 1.0)[..., None]
    unit = torch.tensor([float(c) for c in constrained], dtype=expected.dtype, device=expected.device)
    return jacobian.transpose(-1, -2) @ scaled + torch.diag(unit)


def expected_uncertainty(
    expected: torch.Tensor,
    jacobian: torch.Tensor,
    constrained: Sequence[bool],
    *,
    parameter: int = 0,
    names: Sequence[str] | None = None,
    variance: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Return :math:`\sqrt{(F^{-1})_{pp}}`, the expected uncertainty of one parameter, shape ``(...)``.

    Parameters
    ----------
    expected, jacobian, constrained, variance
        As in :func:`fisher_information`.
    parameter
        Position of the parameter.
    names
        Names of the parameters for messages.

    Raises
    ------
    TrainingError
        As :func:`fisher_information`, and when the information is singular (names the degenerate parameters).
    """
    information = fisher_information(expected, jacobian, constrained, variance=variance)
    return uncertainties(information, [parameter], names)[..., 0]


def uncertainties(
    information: torch.Tensor, parameters: Sequence[int], names: Sequence[str] | None = None
) -> torch.Tensor:
    r"""Return :math:`\sqrt{(F^{-1})_{pp}}` of some parameters of an information matrix, ``(..., len(parameters))``.

    Raises
    ------
    TrainingError
        When the information is singular or not finite (names the degenerate parameters).
    """
    factor, scale = _factor(information, names)
    n = information.shape[-1]
    chosen = torch.zeros(n, len(parameters), dtype=information.dtype, device=information.device)
    chosen[list(parameters), range(len(parameters))] = 1.0
    # The variance is the squared length of L^-1 e_p, which stays positive whatever the rounding.
    solved = torch.linalg.solve_triangular(factor, scale[..., None] * chosen, upper=False)
    variance: torch.Tensor = solved.square().sum(dim=-2)
    return variance.sqrt()


def covariance(information: torch.Tensor, names: Sequence[str] | None = None) -> torch.Tensor:
    """Return the inverse of the information, the expected covariance of all parameters, of the same shape.

    Raises
    ------
    TrainingError
        As :func:`uncertainties`.
    """
    factor, scale = _factor(information, names)
    inverse = torch.cholesky_inverse(factor)
    return inverse * scale[..., :, None] * scale[..., None, :]


def invertible(information: torch.Tensor) -> torch.Tensor:
    """Return which information matrices have an inverse, bool ``(...)``."""
    factor, failed, _ = _cholesky(torch.nan_to_num(information.detach(), nan=-1.0))
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    good: torch.Tensor = (failed == 0) & (pivots > _SMALLEST_PIVOT).all(dim=-1)
    return good


def usable_bins(expected: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
    """Return which bins a fit can use, bool ``(..., n_bins)``: positive, or empty and filled by no parameter."""
    return (expected > 0.0) | ((expected == 0.0) & (jacobian == 0.0).all(dim=-1))


def _factor(information: torch.Tensor, names: Sequence[str] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factor of the information scaled to a unit diagonal, and the scale."""
    factor, failed, scale = _cholesky(information)
    pivots = factor.detach().diagonal(dim1=-2, dim2=-1)
    if bool((failed > 0).any()) or not bool((pivots > _SMALLEST_PIVOT).all()):
        n = information.shape[-1]
        raise _singular(information.detach(), names or [f"parameter {i}" for i in range(n)])
    return factor, scale


def _cholesky(information: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0.0, diagonal, 1.0).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(information * scale[..., :, None] * scale[..., None, :])
    return factor, failed, scale


def _singular(information: torch.Tensor, names: Sequence[str]) -> TrainingError:
    matrix = information.reshape(-1, len(names), len(names))
    if not bool(torch.isfinite(matrix).all()):
        return TrainingError("the Fisher information is not finite", fix="look for extreme event weights")
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0.0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale[:, :, None] * scale[:, None, :])
    worst = int(values[:, 0].argmin())
    direction = vectors[worst, :, 0].abs()
    degenerate = [name for name, share in zip(names, direction.tolist(), strict=True) if share > 0.1]
    return TrainingError(
        f"the Fisher information is singular: no bin can tell {', '.join(degenerate)}"
        + (" apart" if len(degenerate) > 1 else " from zero"),
        expected="every free parameter changes the bins in a way of its own",
        fix="constrain or remove a parameter, or use more bins",
    )

r"""Fisher information of a binned likelihood at its Asimov point, in closed form.

The expected bins are :math:`\lambda_i(r, \theta)`; every nuisance parameter has a unit Gaussian constraint:

.. math:: F = J^T \mathrm{diag}(1/\lambda)\, J + \mathrm{diag}(c), \qquad
    J_{ij} = \partial \lambda_i / \partial \theta_j

with c = 1 for constrained parameters and 0 for free ones. The uncertainty of a parameter is the square root of
its element of :math:`F^{-1}` (arXiv:2502.13047). No automatic second derivative is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neyman.errors import TrainingError


def fisher_information(
    expected: torch.Tensor, jacobian: torch.Tensor, constrained: Sequence[bool]
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

    Returns
    -------
    Shape ``(..., n_parameters, n_parameters)``, without the factor 2 of a Hessian of -2 ln L.

    Raises
    ------
    TrainingError
        When an expectation is negative, or zero where its derivative is not. Empty bins carry no information.
    """
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
    scaled = jacobian / torch.where(expected > 0.0, expected, 1.0)[..., None]
    unit = torch.tensor([float(c) for c in constrained], dtype=expected.dtype)
    return jacobian.transpose(-1, -2) @ scaled + torch.diag(unit)


def expected_uncertainty(
    expected: torch.Tensor,
    jacobian: torch.Tensor,
    constrained: Sequence[bool],
    *,
    parameter: int = 0,
    names: Sequence[str] | None = None,
) -> torch.Tensor:
    r"""Return :math:`\sqrt{(F^{-1})_{pp}}`, the expected uncertainty of one parameter, shape ``(...)``.

    Parameters
    ----------
    expected, jacobian, constrained
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
    information = fisher_information(expected, jacobian, constrained)
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0.0, diagonal, 1.0).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(information * scale[..., :, None] * scale[..., None, :])
    pivots = factor.detach().diagonal(dim1=-2, dim2=-1)
    if bool((failed > 0).any()) or not bool((pivots > 1e-6).all()):
        raise _singular(information.detach(), names or [f"parameter {i}" for i in range(len(constrained))])
    unit = torch.zeros(len(constrained), 1, dtype=expected.dtype)
    unit[parameter] = 1.0
    # The variance is the squared length of L^-1 e_p, which stays positive whatever the rounding.
    solved = torch.linalg.solve_triangular(factor, scale[..., None] * unit, upper=False)
    variance: torch.Tensor = solved.square().sum(dim=(-2, -1))
    return variance.sqrt()


def usable_bins(expected: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
    """Return which bins a fit can use, bool ``(..., n_bins)``: positive, or empty and filled by no parameter."""
    return (expected > 0.0) | ((expected == 0.0) & (jacobian == 0.0).all(dim=-1))


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

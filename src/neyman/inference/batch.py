"""`fit_batch`: many fits of one model at once, by Newton steps on the exact Hessians of the whole batch.

What is not reached that way is fitted again one by one, with MIGRAD and its fallbacks. This is the work behind
`fit_toys`, impacts and scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.inference.fit import conditional_fit, fit
from neyman.inference.minimise import at_bounds
from neyman.inference.newton import Minima, newton
from neyman.inference.results import Array, FitResult
from neyman.likelihood import Derivatives, Likelihood

_DOUBLES = 1 << 23  # of the Hessians that are held at a time: 64 MiB


@dataclass(frozen=True)
class BatchFit:
    """Minima of a batch, one row a fit.

    Parameters
    ----------
    values
        Best fits, shape ``(n_rows, n_parameters)``; NaN where the likelihood is undefined.
    errors
        HESSE errors, same shape, zero for held parameters; NaN where they were not asked for or not found.
    fvals
        ``-2 ln L`` there, shape ``(n_rows,)``.
    valid
        Which are minima (with a covariance, when errors were asked for), shape ``(n_rows,)``.
    reasons
        Why a row is not valid, by row.
    refitted
        Rows that MIGRAD fitted.
    """

    values: Array
    errors: Array
    fvals: Array
    valid: NDArray[np.bool_]
    reasons: Mapping[int, str]
    refitted: tuple[int, ...]


def fit_batch(
    likelihood: Likelihood, starts: Array, held: NDArray[np.bool_], *, errors: bool = False
) -> BatchFit:
    """Minimise every row of a batch over the parameters that are not held.

    Parameters
    ----------
    likelihood
        With a batch of data sets (row i of `starts` goes with data set i), or with one, for all rows.
    starts
        Starting points, and values of the held parameters, shape ``(n_rows, n_parameters)``.
    held
        Parameters that are not fitted, shape ``(n_parameters,)``.
    errors
        Whether to compute HESSE errors.
    """
    n, p = starts.shape
    out = BatchFit(
        starts.copy(), np.full((n, p), np.nan), np.full(n, np.nan), np.zeros(n, dtype=bool), {}, ()
    )
    step = max(1, _DOUBLES // max(p * p, 1))
    for first in range(0, n, step):
        rows = np.arange(first, min(first + step, n))
        found = _newton(likelihood, starts[rows], held, rows)
        out.values[rows], out.fvals[rows] = found.y.cpu().numpy(), found.value.cpu().numpy()
        valid = found.converged.cpu().numpy()
        if errors:
            out.errors[rows] = _errors(likelihood, found, held)
            valid = valid & np.isfinite(out.errors[rows]).all(axis=1)
        out.valid[rows] = valid
    reasons: dict[int, str] = {}
    again = np.nonzero(~out.valid)[0]
    for row in again:
        try:
            result = _alone(likelihood, int(row), starts[row], held, errors)
        except LikelihoodError as error:
            out.values[row], out.fvals[row], reasons[int(row)] = np.nan, np.nan, error.what
            continue
        out.values[row], out.errors[row] = result.values.array, result.errors.array
        out.fvals[row], out.valid[row] = result.fval, result.valid
        if not result.valid:
            reasons[int(row)] = "; ".join(result.messages)
    return BatchFit(out.values, out.errors, out.fvals, out.valid, reasons, tuple(int(row) for row in again))


def _newton(likelihood: Likelihood, starts: Array, held: NDArray[np.bool_], rows: NDArray[np.intp]) -> Minima:
    batched = likelihood.n_rows is not None
    data, current = likelihood.data, likelihood
    chosen = torch.empty(0, dtype=torch.long)

    def evaluate(y: torch.Tensor, active: torch.Tensor) -> Derivatives:
        nonlocal chosen, current
        if batched and not torch.equal(chosen, active.cpu()):
            chosen = active.cpu()
            current = likelihood.with_data(data.rows(rows[chosen.numpy()]))
        return current.derivatives(y, 2, strict=False)

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.tensor(array, device=likelihood.device)

    lower, upper = likelihood.bounds.T
    return newton(evaluate, tensor(np.clip(starts, lower, upper)), tensor(likelihood.bounds), tensor(held))


def _alone(
    likelihood: Likelihood, row: int, start: Array, held: NDArray[np.bool_], errors: bool
) -> FitResult:
    one = likelihood if likelihood.n_rows is None else likelihood.with_data(likelihood.data.row(row))
    fixed = {likelihood.names[i]: float(start[i]) for i in np.nonzero(held)[0]}
    if errors:
        return fit(one, start=start, fixed=fixed, migrad=False)
    return conditional_fit(one, fixed, start=start)


def _errors(likelihood: Likelihood, found: Minima, held: NDArray[np.bool_]) -> Array:
    r"""Return :math:`\sqrt{2 (H^{-1})_{ii}}`; parameters at a bound are left out where H is singular with them."""
    hessian = found.hessian
    free = torch.tensor(~held, device=hessian.device).expand(len(hessian), -1)
    errors, good = _inverse_diagonal(hessian, free)
    if not bool(good.all()):
        inner = free & ~torch.tensor(
            at_bounds(found.y.cpu().numpy(), likelihood.bounds), device=hessian.device
        )
        bad = ~good
        errors[bad], good[bad] = _inverse_diagonal(hessian[bad], inner[bad])
        errors[~good] = torch.nan
    return (2.0 * errors).sqrt().cpu().numpy()


def _inverse_diagonal(hessian: torch.Tensor, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    positive = ((diagonal > 0.0) | ~free).all(1)
    scale = torch.where(free & (diagonal > 0.0), diagonal, 1.0).rsqrt()
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    outer = free.unsqueeze(1) & free.unsqueeze(2)
    scaled = torch.where(outer, hessian * scale.unsqueeze(1) * scale.unsqueeze(2), identity)
    factor, info = torch.linalg.cholesky_ex(scaled)
    good = positive & (info == 0) & (factor.diagonal(dim1=1, dim2=2).amin(1) > 1e-6)
    factor[~good] = identity
    inverse = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2)
    return torch.where(free, inverse * scale**2, 0.0), good

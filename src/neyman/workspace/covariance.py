"""`checked_covariance`: is a matrix the covariance of measured bins that a fit can invert?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import NeymanError, WorkspaceError

Array = NDArray[np.float64]
_ASYMMETRY = 1e-6  # of a correlation: rounding of printed tables
_NAMED = 5  # bins in a message


def checked_covariance(
    matrix: ArrayLike,
    bins: Sequence[str],
    *,
    where: str,
    definite: bool = True,
    error: type[NeymanError] = WorkspaceError,
) -> Array:
    """Return a covariance, symmetrised to rounding.

    Parameters
    ----------
    matrix
        Shape ``(n_bins, n_bins)``.
    bins
        What the bins are called in messages.
    where
        What the matrix is called in messages.
    definite
        Whether it must be positive definite; part of a covariance need not be.
    error
        Class of the error.

    Raises
    ------
    NeymanError
        When it has another size, is not finite or not symmetric, or, when `definite`, has a variance or an
        eigenvalue (of the correlation matrix) that is not positive.
    """
    n = len(bins)
    if isinstance(matrix, Sequence) and (ragged := [i for i, row in enumerate(matrix) if np.size(row) != n]):
        raise error(
            f"row {ragged[0]} of the matrix has {np.size(matrix[ragged[0]])} entries",
            where=where,
            expected=f"{n} rows of {n} entries, one a bin",
        )
    covariance = np.array(matrix, dtype=np.float64)
    if covariance.shape != (n, n):
        raise error(
            f"the matrix has shape {covariance.shape}",
            where=where,
            expected=f"({n}, {n}): a row and a column for each of the {n} bins",
        )
    if len(bad := np.argwhere(~np.isfinite(covariance))):
        i, j = bad[0]
        raise error(
            f"the covariance of {bins[i]} and {bins[j]} is {covariance[i, j]}", where=where, expected="finite"
        )
    variances = covariance.diagonal()
    if definite and len(low := np.flatnonzero(variances <= 0.0)):
        raise error(
            f"the variance of {bins[low[0]]} is {variances[low[0]]:g}",
            where=where,
            expected="a positive number",
        )
    widths = np.sqrt(np.where(variances > 0.0, variances, np.abs(covariance).max() or 1.0))
    scale = np.outer(widths, widths)
    difference = np.abs(covariance - covariance.T) / scale
    if difference.size and difference.max() > _ASYMMETRY:
        i, j = sorted(divmod(int(difference.argmax()), n))
        raise error(
            f"the matrix is not symmetric: {bins[i]} with {bins[j]} is {covariance[i, j]:g} one way and "
            f"{covariance[j, i]:g} the other",
            where=where,
        )
    covariance = 0.5 * (covariance + covariance.T)
    if definite:
        _require_definite(covariance / scale, bins, where, error)
    return covariance


def smallest_eigenvalue(covariance: Array) -> tuple[float, Array]:
    """Return the smallest eigenvalue of the correlation matrix and its eigenvector."""
    widths = np.sqrt(covariance.diagonal())
    values, vectors = np.linalg.eigh(covariance / np.outer(widths, widths))
    return float(values[0]), vectors[:, 0]


def involved(vector: Array, bins: Sequence[str]) -> str:
    """Return the bins that a direction is mostly made of."""
    size = np.abs(vector)
    order = [int(i) for i in np.argsort(-size, kind="stable") if size[i] > 0.3 * size.max()]
    more = f" and {len(order) - _NAMED} more" if len(order) > _NAMED else ""
    return ", ".join(bins[i] for i in sorted(order[:_NAMED])) + more


def _require_definite(correlation: Array, bins: Sequence[str], where: str, error: type[NeymanError]) -> None:
    value, vector = smallest_eigenvalue(correlation)
    # The largest eigenvalue is at most the number of bins: below this the sign is rounding.
    if value <= len(bins) ** 2 * np.finfo(np.float64).eps:
        raise error(
            "the covariance is not positive definite: the smallest eigenvalue of its correlation matrix is "
            f"{value:.3g}",
            where=f"{where}: {involved(vector, bins)}",
            expected="positive eigenvalues",
            fix="leave out one bin of a spectrum normalised to its total, or estimate the covariance from more "
            "replicas than bins",
        )

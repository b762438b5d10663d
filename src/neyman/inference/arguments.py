"""Arguments that the functions of this layer share: parameters by name or index, starts, fixed parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.results import Array, FitResult, NamedVector
from neyman.likelihood import Likelihood

Values = FitResult | Mapping[str, float] | Mapping[int, float] | ArrayLike | None
Fixed = Mapping[str, float] | Mapping[int, float] | Sequence[str | int] | str | None


def locate(likelihood: Likelihood, name: str | int) -> int:
    """Return the position of a parameter given by name or index; an unknown one is an `InferenceError`."""
    try:
        return likelihood.index(name)
    except LikelihoodError as error:
        raise InferenceError(error.what, fix=error.fix) from error


def vector(likelihood: Likelihood, values: Values) -> Array:
    """Return a full parameter vector from starting values changed by a mapping, an array or an earlier fit."""
    if isinstance(values, FitResult):
        values = values.values
    if values is None:
        return likelihood.inits.copy()
    if isinstance(values, NamedVector) and values.names == likelihood.names:
        return values.array.copy()
    if isinstance(values, Mapping):
        x = likelihood.inits.copy()
        for name, value in values.items():
            x[locate(likelihood, name)] = value
        return x
    x = np.array(values, dtype=np.float64)
    if x.shape != likelihood.inits.shape:
        raise InferenceError(
            f"expected {len(likelihood.names)} parameter values, got an array of shape {x.shape}",
            fix="give a mapping of the parameters that differ from the likelihood's own start",
        )
    return x


def starting_point(likelihood: Likelihood, start: Values, fixed: Fixed) -> tuple[Array, NDArray[np.intp]]:
    """Return the full vector to start from and the positions of the free parameters, both checked."""
    lower, upper = likelihood.bounds.T
    x, held = vector(likelihood, start), likelihood.fixed | (lower == upper)
    if isinstance(fixed, Mapping):
        for name, value in fixed.items():
            x[locate(likelihood, name)] = value
    held_names: Sequence[str | int] = [fixed] if isinstance(fixed, str) else list(fixed or ())
    for key in held_names:
        held[locate(likelihood, key)] = True
    for wrong, words in ((~np.isfinite(x), "not finite"), ((x < lower) | (x > upper), "outside its bounds")):
        for i in np.nonzero(wrong)[0]:
            raise InferenceError(
                f"the {'fixed value' if held[i] else 'start'} {x[i]} of parameter {likelihood.names[i]!r} is {words}",
                expected=f"a value in [{lower[i]:g}, {upper[i]:g}]",
            )
    return x, np.nonzero(~held)[0]


def held_values(likelihood: Likelihood, fixed: Fixed, best: FitResult | None) -> dict[str, float]:
    """Return all fixed parameters with their values: those of `best` unless `fixed` says otherwise.

    Raises
    ------
    InferenceError
        When `best` was fitted with other parameters fixed.
    """
    if best is not None and fixed is None:
        return {name: best.values[name] for name in best.fixed}
    x, free = starting_point(likelihood, best, fixed)
    held = {likelihood.names[i]: float(x[i]) for i in np.setdiff1d(np.arange(len(x)), free)}
    if best is not None and held != {name: best.values[name] for name in best.fixed}:
        raise InferenceError(
            "the best fit was made with other parameters fixed",
            where=f"fixed there: {', '.join(best.fixed) or 'none'}",
            fix="leave out `fixed`, or fit again with it",
        )
    return held


def within(likelihood: Likelihood, x: Array) -> Array:
    """Return a guessed start moved inside the bounds."""
    inside: Array = np.clip(x, likelihood.bounds[:, 0], likelihood.bounds[:, 1])
    return inside


def along(
    likelihood: Likelihood, best: FitResult, columns: Sequence[int], near: Array, points: ArrayLike
) -> Array:
    r"""Return starts for conditional fits with the parameters `columns` at `points`, within the bounds.

    The other parameters move along :math:`C_{\cdot a} C_{aa}^{-1}`, the direction that the conditional minima
    follow, with the covariance of `best`.

    Parameters
    ----------
    near
        Known minima to start from, shape ``(n_points, n_parameters)``.
    points
        Values of the held parameters, shape ``(n_points, n_columns)``.
    """
    starts, at = near.copy(), list(columns)
    if best.covariance is not None:
        covariance = best.covariance.array
        slopes = np.linalg.pinv(covariance[np.ix_(at, at)]) @ covariance[at]
        starts += (np.asarray(points) - starts[:, at]) @ slopes
    starts[:, at] = points
    return within(likelihood, starts)

"""`profile`: the likelihood minimised over everything but one parameter, on a grid of its values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import InferenceError
from neyman.inference.arguments import Fixed, held_values, locate
from neyman.inference.fit import fit, scan_point
from neyman.inference.results import Array, FitResult, ProfileResult
from neyman.likelihood import Likelihood

_LOWER = 1e-4  # a fall of -2 ln L below the best fit that is more than rounding


def profile(
    likelihood: Likelihood,
    parameter: str | int,
    grid: ArrayLike | None = None,
    *,
    fixed: Fixed = None,
    best: FitResult | None = None,
) -> ProfileResult:
    r"""Scan :math:`-2\ln L(x, \hat{\hat\theta}(x)) + 2\ln L(\hat x, \hat\theta)`.

    Each fit starts from its neighbour on the side of the best fit. When the scan meets a lower minimum than
    `best`, the global minimum is fitted again from there.

    Parameters
    ----------
    likelihood
        What is scanned.
    parameter
        The parameter, by name or index.
    grid
        Its values; 31 points within 3 standard deviations of the best fit, and within the bounds, by default.
    fixed
        Other parameters that are not fitted, as in `fit`; those of `best` by default.
    best
        The global minimum, when it is known already.

    Raises
    ------
    InferenceError
        When the parameter is unknown or fixed, or a value of the grid is not finite or outside the bounds.
    """
    i = locate(likelihood, parameter)
    name = likelihood.names[i]
    held = held_values(likelihood, fixed, best)
    if name in held:
        raise InferenceError(f"parameter {name!r} is fixed and cannot be scanned")
    best = best or fit(likelihood, fixed=held)
    values = _default_grid(likelihood, i, best) if grid is None else _checked(likelihood, i, grid)

    fits: dict[int, FitResult] = {}
    centre = best.values[i]
    right, left = np.nonzero(values >= centre)[0], np.nonzero(values < centre)[0][::-1]
    for side in (right, left):
        near = best
        for k in side:
            point = scan_point(likelihood, held, i, float(values[k]), near, best)
            if point is not None:
                fits[int(k)] = near = point

    lowest = min((f for f in fits.values() if f.valid), key=lambda f: f.fval, default=best)
    if lowest.fval < best.fval - _LOWER:
        again = fit(likelihood, start=lowest, fixed=held)
        if again.fval < best.fval:
            note = "the scan met a lower minimum than that of the first fit, and was fitted again from there"
            best = replace(again, messages=(*again.messages, note))

    delta, valid = np.full(len(values), np.nan), np.zeros(len(values), dtype=bool)
    parameters = np.full((len(values), len(likelihood.names)), np.nan)
    for k, found in fits.items():
        delta[k], valid[k], parameters[k] = found.fval - best.fval, found.valid, found.values.array
    return ProfileResult(name, likelihood.names, values, delta, valid, parameters, best)


def _default_grid(likelihood: Likelihood, i: int, best: FitResult) -> Array:
    (lower, upper), value, error = likelihood.bounds[i], best.values[i], best.errors[i]
    if not np.isfinite(error):
        raise InferenceError(
            f"the best fit has no error of {likelihood.names[i]!r} to choose a grid by",
            where="; ".join(best.messages) or None,
            fix="give the grid",
        )
    return np.linspace(max(lower, value - 3.0 * error), min(upper, value + 3.0 * error), 31)


def _checked(likelihood: Likelihood, i: int, grid: ArrayLike) -> Array:
    values = np.sort(np.atleast_1d(np.array(grid, dtype=np.float64)))
    lower, upper = likelihood.bounds[i]
    wrong = values[~((values >= lower) & (values <= upper))] if values.ndim == 1 else values
    if values.ndim != 1 or not len(values) or len(wrong):
        raise InferenceError(
            f"the grid of {likelihood.names[i]!r} is not usable: "
            + (f"{wrong.flat[0]:g} is outside the bounds" if wrong.size else "it is empty"),
            expected=f"one-dimensional values in [{lower:g}, {upper:g}]",
        )
    return values

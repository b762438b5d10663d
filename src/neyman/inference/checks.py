"""What the functions of this layer refuse, with the reason: levels, numbers of toys, grids, useless parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import InferenceError, nearest
from neyman.inference.arguments import locate
from neyman.inference.results import Array
from neyman.likelihood import Likelihood


def parameter_of_interest(likelihood: Likelihood, poi: str | int, held: Collection[str] = ()) -> int:
    """Return the position of a parameter that can be measured.

    Raises
    ------
    InferenceError
        When it is unknown, fixed (by the likelihood or in `held`), or has no effect on the likelihood.
    """
    i = locate(likelihood, poi)
    name = likelihood.names[i]
    lower, upper = likelihood.bounds[i]
    if name in held or likelihood.fixed[i] or lower == upper:
        raise InferenceError(f"the parameter of interest {name!r} is fixed", fix="leave it free")
    _, gradient, hessian = likelihood.evaluate(likelihood.inits, 2)
    if not np.asarray(gradient)[i] and not np.asarray(hessian)[i].any():
        raise InferenceError(
            f"the likelihood does not depend on {name!r}",
            where="its slope and its row of the Hessian are zero",
            expected="a parameter that scales a sample of non-zero yield",
            fix="attach it to the signal sample, or choose another parameter of interest",
        )
    return i


def inside_bounds(likelihood: Likelihood, i: int, grid: ArrayLike) -> Array:
    """Return the values of a grid, ascending; one that is empty, not finite or outside the bounds is refused."""
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


def confidence_level(cl: float) -> float:
    """Return a confidence level between 0 and 1, both excluded."""
    if not 0.0 < float(cl) < 1.0:
        raise InferenceError(f"the confidence level is {cl}", expected="a number between 0 and 1, as 0.95")
    return float(cl)


def positive_count(n: int, what: str) -> int:
    """Return a number of toys, bins or points that is at least 1."""
    if int(n) != n or n < 1:
        raise InferenceError(f"the number of {what} is {n}", expected="a whole number, 1 or more")
    return int(n)


def one_of(value: str, options: Sequence[str], what: str) -> str:
    """Return `value` if it is one of `options`."""
    if value not in options:
        raise InferenceError(
            f"there is no {what} {value!r}",
            expected=" or ".join(options),
            fix=f"nearest: {nearest(value, options, n=1)}",
        )
    return value

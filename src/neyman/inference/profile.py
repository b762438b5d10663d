"""`profile`: the likelihood minimised over everything but one parameter, on a grid of its values.

`ProfileCurve` is the same as a function, for those that look for a value instead of having a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neyman.cluster import run_tasks
from neyman.errors import InferenceError
from neyman.inference.arguments import Fixed, Values, held_values, locate
from neyman.inference.checks import inside_bounds
from neyman.inference.fit import fit, scan_point
from neyman.inference.results import Array, FitResult, ProfileResult
from neyman.likelihood import Likelihood

_RUN = 4  # values that are fitted one after the other
_LOWER = 1e-4  # a fall of -2 ln L below the best fit that is more than rounding


def profile(
    likelihood: Likelihood,
    parameter: str | int,
    grid: ArrayLike | None = None,
    *,
    fixed: Fixed = None,
    best: FitResult | None = None,
    client: Any = None,
) -> ProfileResult:
    r"""Scan :math:`-2\ln L(x, \hat{\hat\theta}(x)) + 2\ln L(\hat x, \hat\theta)`.

    Each fit starts from its neighbour on the side of the best fit, every fourth from the best fit itself. When the
    scan meets a lower minimum than `best`, the global minimum is fitted again from there.

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
    client
        A ``dask.distributed.Client``, over whose workers runs of four values are spread.

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
    values = _default_grid(likelihood, i, best) if grid is None else inside_bounds(likelihood, i, grid)

    centre = best.values[i]
    sides = np.nonzero(values >= centre)[0], np.nonzero(values < centre)[0][::-1]
    runs = [side[k : k + _RUN] for side in sides for k in range(0, len(side), _RUN)]
    found_at = run_tasks(
        client,
        _scanned,
        [values[run].tolist() for run in runs],
        shared=(likelihood, held, i, best),
        label="run of values",
    )
    fits = {
        int(k): point
        for run, points in zip(runs, found_at, strict=True)
        for k, point in zip(run, points, strict=True)
        if point is not None
    }

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


def _scanned(
    values: list[float], of: tuple[Likelihood, dict[str, float], int, FitResult]
) -> list[FitResult | None]:
    """Fit at neighbouring values, one after the other away from the best fit."""
    likelihood, held, i, best = of
    found: list[FitResult | None] = []
    near = best
    for value in values:
        found.append(scan_point(likelihood, held, i, value, near, best))
        near = found[-1] or near
    return found


def global_minimum(likelihood: Likelihood, held: Mapping[str, float], start: Values = None) -> FitResult:
    """Return the fit with everything but `held` free.

    Raises
    ------
    InferenceError
        When it is not a minimum, or parameters are undetermined.
    """
    best = fit(likelihood, start=start, fixed=held, migrad=False)
    if not best.valid:
        raise InferenceError(
            "the fit with everything free is not valid", where="; ".join(best.messages) or None
        )
    return best


class ProfileCurve:
    """Profile likelihood of one parameter as a function: fits are remembered, and start from the nearest.

    Parameters
    ----------
    likelihood
        What is profiled.
    i
        Position of the parameter.
    held
        Other parameters that are not fitted, with their values.
    best
        The global minimum; fitted when not given. It is replaced when a lower one is met.

    Raises
    ------
    InferenceError
        When a fit fails.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        i: int,
        held: Mapping[str, float],
        best: FitResult | None = None,
        *,
        start: Values = None,
    ) -> None:
        self.likelihood, self.i, self.held = likelihood, i, dict(held)
        self.best = best or global_minimum(likelihood, self.held, start)
        self._fits: dict[float, FitResult] = {}

    def at(self, value: float) -> FitResult:
        """Return the fit with the parameter at `value`."""
        value = float(value)
        if value not in self._fits:
            near = min((self.best, *self._fits.values()), key=lambda f: abs(f.values[self.i] - value))
            found = scan_point(self.likelihood, self.held, self.i, value, near, self.best)
            if found is None or not found.valid:
                raise InferenceError(
                    f"the fit with {self.likelihood.names[self.i]!r} at {value:g} failed",
                    where="; ".join(found.messages) if found else "the likelihood is undefined there",
                )
            self._fits[value] = found
            if found.fval < self.best.fval - _LOWER:
                again = fit(self.likelihood, start=found, fixed=self.held, migrad=False)
                self.best = again if again.valid and again.fval < self.best.fval else self.best
        return self._fits[value]

    def rise(self, value: float) -> float:
        r"""Return :math:`-2\ln L` at `value` above the global minimum, never negative."""
        return max(self.at(value).fval - self.best.fval, 0.0)


def _default_grid(likelihood: Likelihood, i: int, best: FitResult) -> Array:
    (lower, upper), value, error = likelihood.bounds[i], best.values[i], best.errors[i]
    if not np.isfinite(error):
        raise InferenceError(
            f"the best fit has no error of {likelihood.names[i]!r} to choose a grid by",
            where="; ".join(best.messages) or None,
            fix="give the grid",
        )
    return np.linspace(max(lower, value - 3.0 * error), min(upper, value + 3.0 * error), 31)

"""`contour`: joint confidence regions of two parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from neyman.errors import InferenceError
from neyman.inference.arguments import Fixed, along, held_values
from neyman.inference.batch import fit_batch
from neyman.inference.checks import confidence_level, parameter_of_interest, positive_count
from neyman.inference.fit import fit
from neyman.inference.results import Array, ContourLevel, ContourResult, FitResult
from neyman.likelihood import Likelihood

_LOWER = 1e-4  # a fall of -2 ln L below the best fit that is more than rounding
_CLOSE = 1e-5  # of the root of the level
_ROUNDS = 25


def contour(
    likelihood: Likelihood,
    first: str | int,
    second: str | int,
    *,
    cl: float | Sequence[float] = (0.683, 0.955),
    points: int = 40,
    fixed: Fixed = None,
    best: FitResult | None = None,
) -> ContourResult:
    r"""Return the closed curves on which the profile likelihood of two parameters reaches a level.

    .. math:: -2\ln\frac{L(a, b, \hat{\hat\theta}(a, b))}{L(\hat a, \hat b, \hat\theta)}
        = F^{-1}_{\chi^2_2}(\mathrm{CL})

    (Wilks; 2.30 and 6.18 for 68.3% and 95.5%). Rays leave the best fit evenly spaced in the coordinates that the
    covariance makes round. Along each, Newton steps on the root of the rise, whose slope is known exactly from
    the gradient at the conditional minimum, reach the level in two or three fits; all rays are fitted together.
    A ray that meets a bound first ends there. When a fit meets a lower minimum than `best`, the global minimum
    is fitted again from there and the contour starts anew.

    Parameters
    ----------
    likelihood
        What is scanned.
    first, second
        The two parameters.
    cl
        Confidence levels of the joint regions, each between 0 and 1.
    points
        Points on each curve, 8 or more.
    fixed
        Other parameters that are not fitted, as in `fit`; those of `best` by default.
    best
        The global minimum, when it is known already.

    Raises
    ------
    InferenceError
        When a parameter is unknown, fixed or without effect, both are the same, a level is not between 0 and 1,
        or the best fit is not valid.
    """
    levels = sorted({confidence_level(one) for one in np.atleast_1d(np.asarray(cl, dtype=np.float64))})
    if positive_count(points, "points") < 8:
        raise InferenceError(f"a contour of {points} points is not a curve", expected="8 points or more")
    held = held_values(likelihood, fixed, best)
    columns = [parameter_of_interest(likelihood, name, held) for name in (first, second)]
    if columns[0] == columns[1]:
        raise InferenceError(f"a contour needs two parameters, got {likelihood.names[columns[0]]!r} twice")
    best = best or fit(likelihood, fixed=held)
    for _ in range(4):
        if not best.valid:
            raise InferenceError(
                "the best fit is not valid, so no contour can leave it",
                where="; ".join(best.messages) or None,
            )
        rays = _Rays(likelihood, best, columns, held, points)
        curves: list[ContourLevel] = []
        for one in levels:
            curves.append(rays.curve(one))
            if rays.lower is not None:
                break
        else:
            return ContourResult(
                (likelihood.names[columns[0]], likelihood.names[columns[1]]), tuple(curves), best
            )
        note = "the contour met a lower minimum than that of the first fit, and was fitted again from there"
        best = fit(likelihood, start=rays.lower, fixed=held)
        best = replace(best, messages=(*best.messages, note))
    raise InferenceError(
        "every search for the contour met a lower minimum than the one before",
        fix="give the global minimum as `best`, or narrower bounds",
    )


class _Rays:
    """Rays from the best fit, remembered from level to level: the last minimum on each starts the next fit."""

    def __init__(
        self, likelihood: Likelihood, best: FitResult, columns: list[int], held: dict[str, float], points: int
    ) -> None:
        self._likelihood, self._best, self._columns = likelihood, best, columns
        self._held = np.array([name in held for name in likelihood.names])
        self._held[columns] = True
        self._centre = best.values.array[columns]
        bounds = likelihood.bounds[columns]
        self._direction = _directions(points, self._shape(), self._centre[:, None] == bounds)
        self._limit = _reach(self._centre, self._direction, bounds)
        self._near = np.tile(best.values.array, (len(self._limit), 1))
        # For a parabola the root of the rise is proportional to the distance: one unit a unit of the root.
        self._unit = np.ones(len(self._limit))
        self.lower: Array | None = None

    def _shape(self) -> Array:
        """Cholesky factor of the covariance of the two parameters, or a guess where there is none."""
        if self._best.covariance is not None:
            covariance = self._best.covariance.array[np.ix_(self._columns, self._columns)]
            if np.linalg.det(covariance) > 1e-12 * np.prod(np.diag(covariance)) > 0.0:
                return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        width = np.ptp(self._likelihood.bounds[self._columns], axis=1)
        return np.asarray(np.diag(0.1 * np.minimum(width, 1.0)), dtype=np.float64)

    def curve(self, cl: float) -> ContourLevel:
        """Return the points where the rise of ``-2 ln L`` is the quantile of two parameters at `cl`."""
        level = float(chi2.ppf(cl, 2))
        goal, n = math.sqrt(level), len(self._limit)
        low, high = np.zeros(n), np.full(n, np.inf)
        t = np.minimum(self._unit * goal, self._limit)
        done = self._limit == 0.0
        for _ in range(_ROUNDS):
            active = np.nonzero(~done)[0]
            if not len(active) or self.lower is not None:
                break
            here, limit = t[active], self._limit[active]
            root, slope = self._rise(active, here)
            beyond = root >= goal
            low[active[~beyond]], high[active[beyond]] = here[~beyond], here[beyond]
            done[active] = (~beyond & (here >= limit)) | (np.abs(root - goal) < _CLOSE * goal)
            t[active] = np.where(
                done[active], here, _next(here, root, slope, goal, low[active], high[active], limit)
            )
        at_bound = done & (t >= self._limit)
        self._unit = np.where(done & ~at_bound, t / goal, self._unit)
        where = np.where(done[:, None], self._points(np.arange(n), t), np.nan)
        parameters = np.where(done[:, None], self._near, np.nan)
        return ContourLevel(cl, level, where, done, at_bound, parameters)

    def _points(self, rays: NDArray[np.intp], t: Array) -> Array:
        """Return the values of the two parameters at distance `t` on some rays, within the bounds."""
        points = self._centre + t[:, None] * self._direction[rays]
        return np.asarray(np.clip(points, *self._likelihood.bounds[self._columns].T))

    def _rise(self, active: NDArray[np.intp], t: Array) -> tuple[Array, Array]:
        """Fit at distance `t` on some rays; return the root of the rise (infinite for a failed fit) and its slope."""
        direction = self._direction[active]
        points = self._points(active, t)
        starts = along(self._likelihood, self._best, self._columns, self._near[active], points)
        found = fit_batch(self._likelihood, starts, self._held)
        rise = np.where(found.valid, found.fvals - self._best.fval, np.nan)
        if np.nanmin(rise, initial=0.0) < -_LOWER:
            self.lower = found.values[int(np.nanargmin(rise))]
        good = np.asarray(found.valid & np.isfinite(rise))
        self._near[active[good]] = found.values[good]
        root, slope = np.full(len(active), np.inf), np.zeros(len(active))
        root[good] = np.sqrt(np.maximum(rise[good], 0.0))
        rising = np.asarray(good & (root > 0.0))
        if rising.any():
            gradient = self._likelihood.gradient(found.values[rising])[:, self._columns]
            slope[rising] = (gradient * direction[rising]).sum(axis=1) / (2.0 * root[rising])
        return root, slope


def _directions(points: int, shape: Array, on_bound: NDArray[np.bool_]) -> Array:
    """Directions evenly spaced where `shape` makes the contour round, with those along a bound that the centre
    is on, shape ``(n_rays, 2)``."""
    angles = 2.0 * np.pi * np.arange(points) / points
    for other in np.nonzero(np.asarray(on_bound.any(axis=1))[::-1])[0]:
        along_bound = np.linalg.solve(shape, np.eye(2)[other])
        angle = np.arctan2(along_bound[1], along_bound[0]) % (2.0 * np.pi)
        angles = np.append(angles, [angle, (angle + np.pi) % (2.0 * np.pi)])
    angles = np.unique(angles.round(9))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ shape.T
    # Rounding must not tilt a ray along a bound out of it.
    directions[np.abs(directions) < 1e-8 * np.abs(shape).sum(axis=1)] = 0.0
    return np.asarray(directions)


def _reach(centre: Array, direction: Array, bounds: Array) -> Array:
    """Distance at which each ray leaves the bounds, shape ``(n_rays,)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(direction > 0.0, bounds[:, 1] - centre, bounds[:, 0] - centre) / direction
    return np.asarray(np.where(direction == 0.0, np.inf, np.maximum(room, 0.0)).min(axis=1))


def _next(t: Array, root: Array, slope: Array, goal: float, low: Array, high: Array, limit: Array) -> Array:
    """Newton step towards `goal`, kept within the bracket: a halving, or a doubling while it is open, instead."""
    with np.errstate(divide="ignore", invalid="ignore"):
        step = t + (goal - root) / slope
    usable = np.isfinite(root) & (slope > 0.0) & (step > low) & (step < high) & (step < 4.0 * t)
    middle = np.where(np.isfinite(high), 0.5 * (low + high), 2.0 * t)
    return np.asarray(np.minimum(np.where(usable, step, middle), limit))

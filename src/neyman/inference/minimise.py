"""The minimiser behind `fit`: MIGRAD with exact derivatives, finished by Newton steps.

`Cost` shows Minuit the free parameters alone. iminuit reads the rows of a user's Hessian by the position
among the *free* parameters, so a Hessian over all parameters gives a wrong covariance as soon as one is fixed.
MIGRAD stops about 0.01 standard deviations from the minimum. The Newton steps that follow cost one evaluation
each, reach the minimum to rounding, put parameters exactly on their bounds, and leave the exact Hessian.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from iminuit import Minuit
from iminuit.util import IMinuitWarning
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from neyman.errors import LikelihoodError
from neyman.inference.results import Array
from neyman.likelihood import Likelihood

_ATTEMPTS = (
    ("MIGRAD", False, 0),
    ("SIMPLEX and MIGRAD", True, 0),
    ("SIMPLEX and MIGRAD of strategy 1", True, 1),
)
_EDM_DONE = 1e-12  # a millionth of a standard deviation
_SHIFTS = (0.0, 1e-8, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3)  # of the Hessian's diagonal; the first two mean "flat"


@dataclass(frozen=True)
class Point:
    """The cost at one point; derivatives above the order that was asked for are None."""

    value: float
    gradient: Array | None
    hessian: Array | None


class Cost:
    r""":math:`-2\ln L` over the free parameters, minus its value at the start (Minuit's `errordef` 1).

    The last points are kept, so that value, gradient and Hessian of one point cost one evaluation. Where the
    likelihood is undefined (its density is not positive, its value not finite), the cost is large and finite,
    which makes a line search step back; `undefined` counts these points.

    Parameters
    ----------
    likelihood
        What is minimised.
    x
        Start, and values of the fixed parameters, shape ``(n_parameters,)``.
    free
        Positions of the free parameters, shape ``(n_free,)``.

    Raises
    ------
    LikelihoodError
        When the likelihood is undefined or not finite at the start.
    """

    errordef = Minuit.LEAST_SQUARES

    def __init__(self, likelihood: Likelihood, x: Array, free: NDArray[np.intp]) -> None:
        self._likelihood, self._x, self.free = likelihood, x, free
        self._points: OrderedDict[bytes, Point] = OrderedDict()
        self.calls = [0, 0, 0]
        self.undefined, self.reason = 0, ""
        self.offset = self._highest = 0.0
        start = self._evaluate(x[free], 2)
        if not _finite(start):
            raise LikelihoodError(
                "-2 ln L or a derivative of it is not finite at the start", fix="move the start"
            )
        self.offset = start.value
        self._points[x[free].tobytes()] = replace(start, value=0.0)

    def at(self, y: Array, order: int) -> Point:
        """Return the cost at `y`, shape ``(n_free,)``, with derivatives up to `order`."""
        key = y.tobytes()
        point = self._points.get(key)
        if point is None or (order == 2 and point.hessian is None) or (order == 1 and point.gradient is None):
            try:
                point = self._evaluate(y, order)
                if _finite(point):
                    self._highest = max(self._highest, point.value)
                else:
                    point = self._undefined(len(y), "-2 ln L or a derivative of it is not finite")
            except LikelihoodError as error:
                point = self._undefined(len(y), error.what)
            self._points[key] = point
            if len(self._points) > 8:
                self._points.popitem(last=False)
        return point

    def _evaluate(self, y: Array, order: int) -> Point:
        x = self._x.copy()
        x[self.free] = y
        self.calls[order] += 1
        value, gradient, hessian = self._likelihood.evaluate(x, order)
        return Point(
            float(value) - self.offset,
            None if gradient is None else gradient[self.free],
            None if hessian is None else hessian[np.ix_(self.free, self.free)],
        )

    def _undefined(self, n: int, reason: str) -> Point:
        self.undefined, self.reason = self.undefined + 1, reason
        return Point(self._highest + 100.0, np.zeros(n), np.zeros((n, n)))

    def __call__(self, y: Array) -> float:
        return self.at(np.array(y), 1).value

    def gradient(self, y: Array) -> Array:
        """Return the exact gradient."""
        return np.asarray(self.at(np.array(y), 1).gradient)

    def hessian(self, y: Array) -> Array:
        """Return the exact Hessian."""
        return np.asarray(self.at(np.array(y), 2).hessian)

    def g2(self, y: Array) -> Array:
        """Return the diagonal of the Hessian, which MIGRAD wants by itself where it is not positive."""
        return np.diag(self.hessian(y)).copy()


def _finite(point: Point) -> bool:
    parts = (point.value, point.gradient, point.hessian)
    return all(bool(np.isfinite(part).all()) for part in parts if part is not None)


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended.

    Parameters
    ----------
    y
        Free parameters, shape ``(n_free,)``.
    point
        The cost there with both derivatives.
    edm
        Estimated distance to the minimum within the bounds.
    converged
        Whether `edm` is under the goal and no direction has negative curvature.
    messages
        Fallbacks and failures, in words.
    minuit
        The Minuit object, moved to `y`.
    """

    y: Array
    point: Point
    edm: float
    converged: bool
    messages: tuple[str, ...]
    minuit: Minuit


def minimise(
    cost: Cost,
    start: Array,
    bounds: Array,
    names: tuple[str, ...],
    *,
    strategy: int,
    tolerance: float,
    max_calls: int | None,
) -> Minimum:
    """Minimise `cost` from `start`; on failure try SIMPLEX before MIGRAD, then strategy 1, each from `start`.

    Parameters
    ----------
    cost
        Function of the free parameters.
    start
        Shape ``(n_free,)``; moved off the bounds, where Minuit's internal coordinates have no slope.
    bounds
        Shape ``(n_free, 2)``.
    names
        Names of the free parameters.
    strategy, tolerance, max_calls
        As in `fit`.
    """
    width = np.minimum(bounds[:, 1] - bounds[:, 0], 1.0)
    inside = np.clip(start, bounds[:, 0] + 1e-3 * width, bounds[:, 1] - 1e-3 * width)
    point = cost.at(inside, 2)
    if cost.undefined:
        inside, point = start, cost.at(start, 2)
    diagonal = np.abs(np.diag(np.asarray(point.hessian)))
    steps = np.sqrt(2.0 / np.where(diagonal > 0.0, diagonal, np.inf))
    steps = np.clip(steps, 1e-6 * width, 0.1 * width)

    messages: list[str] = []
    tried: list[Minimum] = []
    for words, simplex, at_least in _ATTEMPTS:
        minuit = _minuit(cost, inside, bounds, names, steps)
        minuit.tol, minuit.strategy = tolerance, max(strategy, at_least)
        with silent(minuit):
            if simplex:
                minuit.simplex(ncall=max_calls or 200 + 20 * len(start))
            minuit.migrad(ncall=max_calls, iterate=1)
        limited = bool(minuit.fmin and minuit.fmin.has_reached_call_limit)
        found = _polish(cost, minuit, bounds, steps=0 if limited else 20)
        tried.append(found)
        if found.converged:
            messages += [f"{words} from the start converged"] if messages else []
            break
        messages.append(f"{words} did not converge: EDM {found.edm:.2g}")
        if limited:
            messages[-1] += ", limit of calls reached (raise max_calls)"
            break
    best = max(tried, key=lambda found: (found.converged, -found.point.value))
    return replace(best, messages=tuple(messages))


def _minuit(cost: Cost, start: Array, bounds: Array, names: tuple[str, ...], steps: Array) -> Minuit:
    with warnings.catch_warnings():
        # MIGRAD calls g2 where the Hessian is not positive, although iminuit says that it has no effect.
        warnings.simplefilter("ignore", IMinuitWarning)
        minuit = Minuit(cost, start, grad=cost.gradient, g2=cost.g2, hessian=cost.hessian, name=names)
    minuit.limits[:] = [(lower, upper) for lower, upper in bounds]
    minuit.errors[:] = steps
    return minuit


@contextmanager
def silent(minuit: Minuit) -> Iterator[None]:
    """Keep Minuit2 from printing errors to stdout, where they would spoil JSON: they are in the messages."""
    level = minuit.print_level
    minuit.print_level = -1
    try:
        yield
    finally:
        minuit.print_level = level


def _polish(cost: Cost, minuit: Minuit, bounds: Array, steps: int) -> Minimum:
    """Go on from where MIGRAD stopped by at most `steps` Newton steps, shortened until they help."""
    y = np.clip(np.array(minuit.values), bounds[:, 0], bounds[:, 1])
    point = cost.at(y, 2)
    newton = _newton(point, y, bounds)
    rounding = 1e-13 * abs(cost.offset) + 1e-7  # sums over large counts cancel
    for _ in range(steps):
        if newton.edm < _EDM_DONE:
            break
        trials = (np.clip(y + scale * newton.step, *bounds.T) for scale in (1.0, 0.5, 0.2, 0.05, 0.01))
        better = next((t for t in trials if cost.at(t, 2).value <= point.value + rounding), None)
        if better is None:
            break
        y, point = better, cost.at(better, 2)
        newton = _newton(point, y, bounds)
    goal = minuit.fmin.edm_goal if minuit.fmin else 0.0
    if not np.array_equal(y, np.array(minuit.values)):
        minuit.values[:] = y
    return Minimum(y, point, newton.edm, newton.edm <= goal and newton.semidefinite, (), minuit)


@dataclass(frozen=True)
class _Newton:
    """A step that stays within the bounds and the decrease of the cost that the quadratic model promises."""

    step: Array
    edm: float
    semidefinite: bool


def _newton(point: Point, y: Array, bounds: Array) -> _Newton:
    """Minimise the quadratic model at `y` within the bounds.

    Where the Hessian is not positive definite its diagonal is raised until it is: the step is still downhill.
    The bounds are met by the primal-dual active set method (Hintermueller, Ito, Kunisch, SIAM J. Optim. 13
    (2003) 865, algorithm 2.1).
    """
    gradient, hessian = np.asarray(point.gradient), np.asarray(point.hessian)
    held = ((y <= bounds[:, 0]) & (gradient > 0.0)) | ((y >= bounds[:, 1]) & (gradient < 0.0))
    moving, step = np.nonzero(~held)[0], np.zeros_like(y)
    if not len(moving):
        return _Newton(step, 0.0, True)
    slope, model = gradient[moving], hessian[np.ix_(moving, moving)]
    low, high = (bounds[moving] - y[moving, None]).T
    diagonal = np.abs(np.diag(model))
    diagonal[diagonal == 0.0] = 1.0
    for shift in _SHIFTS:
        raised = model + np.diag(shift * diagonal)
        if inverse_of(raised) is not None:
            break
    part = np.linalg.solve(raised, -slope)
    at_low, at_high = part < low, part > high
    for _ in range(20):
        part = np.where(at_low, low, np.where(at_high, high, 0.0))
        inner = ~(at_low | at_high)
        part[inner] = np.linalg.solve(raised[np.ix_(inner, inner)], -(slope + raised @ part)[inner])
        multiplier = slope + raised @ part
        now_low = multiplier - diagonal * (part - low) > 0.0
        now_high = multiplier - diagonal * (part - high) < 0.0
        if np.array_equal(now_low, at_low) and np.array_equal(now_high, at_high):
            break
        at_low, at_high = now_low, now_high
    step[moving] = np.clip(part, low, high)
    decrease = -(slope @ step[moving] + 0.5 * step[moving] @ raised @ step[moving])
    return _Newton(step, float(max(decrease, 0.0)), shift <= _SHIFTS[1])


def inverse_of(hessian: Array) -> Array | None:
    """Return the inverse of a Hessian, or None where it is not (numerically) positive definite.

    The matrix is scaled to a unit diagonal first, so that the units of the parameters do not matter.
    """
    diagonal = np.diag(hessian)
    if not (diagonal > 0.0).all():
        return None
    scale = 1.0 / np.sqrt(diagonal)
    try:
        factor = cho_factor(hessian * np.outer(scale, scale), lower=True)
    except np.linalg.LinAlgError:
        return None
    # A squared pivot is one minus the squared multiple correlation with the parameters before it.
    if float(np.diag(factor[0]).min()) < 1e-6:
        return None
    inverse = cho_solve(factor, np.eye(len(diagonal)))
    symmetric: Array = 0.5 * (inverse + inverse.T) * np.outer(scale, scale)
    return symmetric

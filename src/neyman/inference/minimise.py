"""The minimiser behind `fit`: Newton steps and MIGRAD, both with exact derivatives.

With exact Hessians a handful of Newton steps reach the minimum to rounding, put parameters exactly on their bounds
and leave the Hessian that HESSE needs. MIGRAD, which would need a gradient for each of its many steps, then starts
at the minimum; it stops about 0.01 standard deviations from it, so the Newton steps have the last word.

`Cost` shows Minuit the free parameters alone. iminuit reads the rows of a user's Hessian by the position among the
*free* parameters, so a Hessian over all parameters gives a wrong covariance as soon as one is fixed.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from iminuit import Minuit
from iminuit.util import IMinuitWarning
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.inference.newton import newton
from neyman.inference.results import Array
from neyman.likelihood import Derivatives, Likelihood

_ATTEMPTS = (
    ("MIGRAD", False, 0),
    ("SIMPLEX and MIGRAD", True, 0),
    ("SIMPLEX and MIGRAD of strategy 1", True, 1),
)


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
        The Minuit object, moved to `y`; None where MIGRAD did not run.
    """

    y: Array
    point: Point
    edm: float
    converged: bool
    messages: tuple[str, ...]
    minuit: Minuit | None


def minimise(
    cost: Cost,
    start: Array,
    bounds: Array,
    names: tuple[str, ...],
    *,
    strategy: int,
    tolerance: float,
    max_calls: int | None,
    migrad: bool = True,
) -> Minimum:
    """Minimise `cost` by Newton steps from `start` and let MIGRAD go on from there.

    Where the Newton steps do not converge MIGRAD begins at `start`; if that fails too, SIMPLEX comes before MIGRAD,
    then strategy 1. Newton steps finish each of them.

    Parameters
    ----------
    cost
        Function of the free parameters.
    start
        Shape ``(n_free,)``.
    bounds
        Shape ``(n_free, 2)``.
    names
        Names of the free parameters.
    strategy, tolerance, max_calls
        As in `fit`.
    migrad
        Whether MIGRAD also runs where the Newton steps converged.
    """
    first = _newton(cost, start, bounds, max_calls)
    if first.converged and not migrad:
        return first
    messages = (
        [] if first.converged else [f"Newton steps from the start did not converge: EDM {first.edm:.2g}"]
    )
    tried = [first]
    origin = first.y if first.converged else _off_bounds(cost, start, bounds)
    width = np.minimum(bounds[:, 1] - bounds[:, 0], 1.0)
    attempts = (("MIGRAD", False, 0),) if first.converged else _ATTEMPTS
    for words, simplex, at_least in attempts:
        minuit = _minuit(cost, origin, bounds, names, _first_steps(cost.at(origin, 2), width))
        minuit.tol, minuit.strategy = tolerance, max(strategy, at_least)
        with silent(minuit):
            if simplex:
                minuit.simplex(ncall=max_calls or 200 + 20 * len(start))
            minuit.migrad(ncall=max_calls, iterate=1)
        limited = bool(minuit.fmin and minuit.fmin.has_reached_call_limit)
        ended = np.clip(np.array(minuit.values), bounds[:, 0], bounds[:, 1])
        found = replace(_newton(cost, ended, bounds, 0 if limited else None), minuit=minuit)
        tried.append(found)
        if found.converged:
            messages += [f"{words} from the start converged"] if messages else []
            break
        messages.append(f"{words} did not converge: EDM {found.edm:.2g}")
        if limited:
            messages[-1] += ", limit of calls reached (raise max_calls)"
            break
    best = min(tried, key=lambda found: (not found.converged, found.point.value))
    minuit = tried[-1].minuit
    if minuit is not None and not np.array_equal(best.y, np.array(minuit.values)):
        minuit.values[:] = best.y
    return replace(
        best, messages=() if best.converged and first.converged else tuple(messages), minuit=minuit
    )


def _off_bounds(cost: Cost, start: Array, bounds: Array) -> Array:
    """Return `start` off the bounds, where Minuit's internal coordinates have no slope, if it is defined there."""
    width = np.minimum(bounds[:, 1] - bounds[:, 0], 1.0)
    inside: Array = np.clip(start, bounds[:, 0] + 1e-3 * width, bounds[:, 1] - 1e-3 * width)
    before = cost.undefined
    cost.at(inside, 2)
    return inside if cost.undefined == before else start


def _newton(cost: Cost, start: Array, bounds: Array, max_calls: int | None) -> Minimum:
    """Go from `start` by Newton steps."""

    def evaluate(y: torch.Tensor, _rows: torch.Tensor) -> Derivatives:
        point = cost.at(y[0].numpy(), 2)
        parts = (np.asarray(part)[None] for part in (point.value, point.gradient, point.hessian))
        return Derivatives(*(torch.from_numpy(part) for part in parts))

    rounding = 1e-13 * abs(cost.offset) + 1e-7  # sums over large counts cancel
    ended = newton(
        evaluate,
        torch.from_numpy(start)[None],
        torch.from_numpy(bounds),
        max_steps=60 if max_calls is None else min(60, max_calls),
        largest_rounding=rounding,
    )
    y = ended.y[0].numpy()
    return Minimum(y, cost.at(y, 2), float(ended.edm[0]), bool(ended.converged[0]), (), None)


def _first_steps(point: Point, width: Array) -> Array:
    diagonal = np.abs(np.diag(np.asarray(point.hessian)))
    steps = np.sqrt(2.0 / np.where(diagonal > 0.0, diagonal, np.inf))
    return np.clip(steps, 1e-6 * width, 0.1 * width)


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


def migrad_alone(cost: Cost, start: Array, bounds: Array, names: tuple[str, ...]) -> Minuit:
    """Run MIGRAD from `start` without any Newton step: an independent check of a minimum."""
    width = np.minimum(bounds[:, 1] - bounds[:, 0], 1.0)
    minuit = _minuit(cost, start, bounds, names, _first_steps(cost.at(start, 2), width))
    minuit.tol, minuit.strategy = 0.01, 0
    with silent(minuit):
        minuit.migrad()
    return minuit


def at_bounds(y: Array, bounds: Array) -> NDArray[np.bool_]:
    """Return which parameters are at a bound, shape ``y.shape``; the last axis is that of `bounds`."""
    lower, upper = bounds.T
    near = 1e-6 * np.minimum(upper - lower, 1.0)
    at: NDArray[np.bool_] = (y - lower <= near) | (upper - y <= near)
    return at


def inverse_of(hessian: Array) -> Array | None:
    """Return the inverse of a Hessian, or None where it is not (numerically) positive definite.

    The matrix is scaled to a unit diagonal first, so that the units of the parameters do not matter.
    """
    diagonal = np.diag(hessian)
    if not (diagonal > 0.0).all():
        return None
    if not len(diagonal):
        return np.zeros((0, 0))
    scale = 1.0 / np.sqrt(diagonal)
    scaled = torch.from_numpy(hessian * np.outer(scale, scale))
    factor, info = torch.linalg.cholesky_ex(scaled)
    # A squared pivot is one minus the squared multiple correlation with the parameters before it.
    if int(info) or float(factor.diagonal().min()) < 1e-6:
        return None
    inverse = torch.cholesky_inverse(factor).numpy()
    symmetric: Array = 0.5 * (inverse + inverse.T) * np.outer(scale, scale)
    return symmetric

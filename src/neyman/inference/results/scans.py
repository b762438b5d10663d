"""`ProfileResult` and `ContourResult`: the likelihood along one parameter and around two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError
from neyman.inference.results.fits import FitResult
from neyman.inference.results.named import Array, Record


@dataclass(frozen=True, eq=False)
class ProfileResult(Record):
    r"""Profile likelihood of one parameter.

    Parameters
    ----------
    parameter
        Name of the scanned parameter.
    names
        All parameters, in the order of the columns of `parameters`.
    grid
        Scanned values, ascending, shape ``(n_points,)``.
    delta
        :math:`-2\ln L` minimised at each value, above the global minimum, shape ``(n_points,)``.
    valid
        Whether the fit at each value is valid, shape ``(n_points,)``.
    parameters
        Parameter values at each conditional minimum, shape ``(n_points, n_parameters)``.
    best
        The global minimum.
    """

    parameter: str
    names: tuple[str, ...]
    grid: Array
    delta: Array
    valid: NDArray[np.bool_]
    parameters: Array
    best: FitResult

    def interval(self, level: float = 1.0) -> tuple[float | None, float | None]:
        r"""Return where the profile crosses `level` on either side of the best fit.

        The signed root :math:`\mathrm{sign}(x-\hat x)\sqrt{\Delta}`, a straight line for a parabola, is
        interpolated by a monotone cubic (PCHIP) between the valid points.

        Parameters
        ----------
        level
            Rise of :math:`-2\ln L`: 1 for 68.3%, 3.84 for 95% of one parameter.

        Returns
        -------
        tuple
            Lower and upper end, None for a side that the grid does not reach.
        """
        if not level > 0.0:
            raise InferenceError(f"the level of an interval must be positive, got {level}")
        return self._crossing(level, -1.0), self._crossing(level, 1.0)

    def _crossing(self, level: float, side: float) -> float | None:
        from scipy.interpolate import PchipInterpolator
        from scipy.optimize import brentq

        centre = self.best.values[self.parameter]
        chosen = self.valid & (side * (self.grid - centre) > 0.0)
        order = np.argsort(side * self.grid[chosen])
        distance = np.concatenate([[0.0], np.abs(self.grid[chosen] - centre)[order]])
        root = np.concatenate([[0.0], np.sqrt(np.maximum(self.delta[chosen][order], 0.0))])
        beyond = np.nonzero(root >= math.sqrt(level))[0]
        if not len(beyond):
            return None
        curve, end = PchipInterpolator(distance, root), beyond[0]
        found = brentq(lambda d: float(curve(d)) - math.sqrt(level), distance[end - 1], distance[end])
        return float(centre + side * found)


@dataclass(frozen=True, eq=False)
class ContourLevel(Record):
    r"""One closed curve of a contour; its last point is joined to the first.

    Parameters
    ----------
    cl
        Confidence level of the joint region.
    level
        Rise of :math:`-2\ln L` on the curve, the quantile of :math:`\chi^2` with two degrees of freedom.
    points
        Values of the two parameters, counter-clockwise in whitened coordinates, shape ``(n_points, 2)``; NaN
        where the search failed.
    valid
        Which points were found, shape ``(n_points,)``.
    at_bound
        Which points end at a bound below the level, shape ``(n_points,)``.
    parameters
        All parameters at the conditional minima, shape ``(n_points, n_parameters)``.
    """

    cl: float
    level: float
    points: Array
    valid: NDArray[np.bool_]
    at_bound: NDArray[np.bool_]
    parameters: Array


@dataclass(frozen=True, eq=False)
class ContourResult(Record):
    """Joint confidence regions of two parameters.

    Parameters
    ----------
    parameters
        Names of the two parameters, first and second coordinate of the points.
    levels
        One curve a confidence level, ascending.
    best
        The global minimum.
    """

    parameters: tuple[str, str]
    levels: tuple[ContourLevel, ...]
    best: FitResult

    @property
    def messages(self) -> tuple[str, ...]:
        """What a reader must know: points that failed and curves cut at a bound."""
        found = []
        for curve in self.levels:
            failed, cut = int((~curve.valid).sum()), int(curve.at_bound.sum())
            if failed:
                numbers = ", ".join(map(str, np.nonzero(~curve.valid)[0]))
                found.append(f"{failed} of {len(curve.valid)} points at {curve.cl:g} failed: {numbers}")
            if cut:
                found.append(f"the contour at {curve.cl:g} is cut by a bound at {cut} of its points")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the messages, JSON-safe."""
        return {**super().to_dict(), "messages": list(self.messages)}

    def __str__(self) -> str:
        lines = [f"contours of {self.parameters[0]} and {self.parameters[1]}"]
        for curve in self.levels:
            low, high = np.nanmin(curve.points, axis=0), np.nanmax(curve.points, axis=0)
            spans = (f"{n} in [{a:.6g}, {b:.6g}]" for n, a, b in zip(self.parameters, low, high, strict=True))
            lines.append(f"  {curve.cl:.1%} (-2 Delta ln L = {curve.level:.3f}): {', '.join(spans)}")
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])

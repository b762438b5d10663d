"""What the functions of this layer return: immutable records with ``to_dict`` (JSON-safe, None for missing).

`FitResult` is the result of a fit, `ProfileResult` of a likelihood scan, `ImpactsResult` and `Breakdown` say
where the uncertainty of a parameter comes from, and `ToyFits` holds the fits of many toys. Parameters are
found in each of them by name or by position, through `NamedVector` and `NamedMatrix`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError, nearest
from neyman.files import jsonable

Array = NDArray[np.float64]


def position(names: Sequence[str], key: str | int) -> int:
    """Return the position of a parameter given by name or index.

    Raises
    ------
    InferenceError
        When there is no such parameter.
    """
    if isinstance(key, str):
        if key in names:
            return names.index(key)
        raise InferenceError(f"there is no parameter {key!r}", fix=f"nearest names: {nearest(key, names)}")
    if not -len(names) <= key < len(names):
        raise InferenceError(f"parameter index {key} is out of range for {len(names)} parameters")
    return int(key) % len(names)


def _frozen(array: Any) -> Array:
    own = np.array(array, dtype=np.float64)
    own.flags.writeable = False
    return own


class NamedVector(Mapping[str, float]):
    """One number a parameter: ``v["mu"]``, ``v[0]``, ``np.asarray(v)``, and a mapping over the names."""

    __slots__ = ("array", "names")

    def __init__(self, names: Sequence[str], array: Any) -> None:
        self.names = tuple(names)
        self.array: Array = _frozen(array)

    def __getitem__(self, key: str | int) -> float:
        return float(self.array[position(self.names, key)])

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NamedVector)
            and self.names == other.names
            and np.array_equal(self.array, other.array, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"NamedVector({', '.join(f'{name}={value:.6g}' for name, value in self.items())})"

    def to_dict(self) -> dict[str, float | None]:
        """Return the values by name, None where a value is missing."""
        return {name: jsonable(value) for name, value in self.items()}


class NamedMatrix:
    """A square matrix over the parameters: ``m["mu", "tes"]``, ``m[0, 1]``, ``np.asarray(m)``, ``m.array``."""

    __slots__ = ("array", "names")

    def __init__(self, names: Sequence[str], array: Any) -> None:
        self.names = tuple(names)
        self.array: Array = _frozen(array)

    def __getitem__(self, key: tuple[str | int, str | int]) -> float:
        row, column = key
        return float(self.array[position(self.names, row), position(self.names, column)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NamedMatrix)
            and self.names == other.names
            and np.array_equal(self.array, other.array, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"NamedMatrix(names={self.names}, array={self.array!r})"

    def to_dict(self) -> list[list[float | None]]:
        """Return the rows, in the order of the names."""
        rows: list[list[float | None]] = jsonable(self.array)
        return rows


@dataclass(frozen=True)
class MinosError:
    """Interval of a parameter from the profile likelihood: ``value + lower`` to ``value + upper``.

    Parameters
    ----------
    lower, upper
        Distances from the best fit (`lower` is negative), NaN where MINOS found no crossing.
    valid
        Whether both sides are crossings of the level 1.
    at_lower_limit, at_upper_limit
        Whether a side stopped at a bound of the parameter instead.
    new_minimum
        Whether MINOS met a lower minimum on its way: the fit it started from is not the global one.
    """

    lower: float
    upper: float
    valid: bool
    at_lower_limit: bool = False
    at_upper_limit: bool = False
    new_minimum: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, None for a side that was not found."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class FitResult:
    r"""A minimum of :math:`-2\ln L`.

    Parameters
    ----------
    names
        All parameters of the likelihood, fixed ones included.
    values
        Best-fit values.
    errors
        Square roots of the diagonal of `covariance`: 0 for fixed parameters, NaN where unknown.
    covariance
        :math:`2 H^{-1}` with the Hessian H of :math:`-2\ln L` over the free parameters, rows of zeros for
        fixed ones; None when it was not asked for or H is not positive definite.
    fval
        :math:`-2\ln L` at the minimum, constants included.
    valid
        Whether it is a minimum; `messages` says why not.
    edm
        Estimated distance to the minimum, :math:`\tfrac12 g^T H^{-1} g` over the parameters not at a bound.
    at_bounds
        Free parameters that ended at a bound. Such a minimum can be valid, its HESSE errors mean little.
    fixed
        Parameters that were not fitted.
    n_value, n_gradient, n_hessian
        Evaluations of the likelihood alone, with its gradient, and with its gradient and Hessian.
    minos
        Intervals of the parameters that were asked for.
    messages
        What a reader must know: reasons for a failure, fallbacks that were needed, parameters at bounds.
    minuit
        The ``iminuit.Minuit`` object over the free parameters (its values exclude a constant offset).
    """

    names: tuple[str, ...]
    values: NamedVector
    errors: NamedVector
    covariance: NamedMatrix | None
    fval: float
    valid: bool
    edm: float
    at_bounds: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    n_value: int = 0
    n_gradient: int = 0
    n_hessian: int = 0
    minos: Mapping[str, MinosError] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    minuit: Any = field(default=None, compare=False, repr=False)

    @property
    def correlation(self) -> NamedMatrix | None:
        """Correlation matrix: ones on the diagonal, zeros elsewhere in the rows of fixed parameters."""
        if self.covariance is None:
            return None
        sigma = np.where(self.errors.array > 0.0, self.errors.array, np.inf)
        array = self.covariance.array / np.outer(sigma, sigma)
        np.fill_diagonal(array, 1.0)
        return NamedMatrix(self.names, array)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the ``Minuit`` object, JSON-safe."""
        kept = [name for name in self.__dataclass_fields__ if name != "minuit"]
        return {name: jsonable(getattr(self, name)) for name in [*kept, "correlation"]}

    def __str__(self) -> str:
        state = "valid" if self.valid else "NOT VALID"
        calls = self.n_value + self.n_gradient + self.n_hessian
        lines = [f"fit {state}: -2 ln L = {self.fval:.6f}, EDM = {self.edm:.2g}, {calls} evaluations"]
        width = max(map(len, self.names))
        for name in self.names[:40]:
            line = f"  {name:<{width}}  {self.values[name]:>12.6g}"
            if name in self.fixed:
                line += "  fixed"
            elif math.isfinite(self.errors[name]):
                line += f" +- {self.errors[name]:.3g}"
            if name in self.minos:
                line += f"  MINOS {self.minos[name].lower:+.4g} {self.minos[name].upper:+.4g}"
            if name in self.at_bounds:
                line += "  at bound"
            lines.append(line)
        if len(self.names) > 40:
            lines.append(f"  ... and {len(self.names) - 40} more parameters")
        return "\n".join([*lines, *(f"  note: {message}" for message in self.messages)])


@dataclass(frozen=True, eq=False)
class ProfileResult:
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

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Impact:
    """Effect of one nuisance parameter on the parameter of interest.

    Parameters
    ----------
    name
        The nuisance parameter.
    up, down
        Shift of the parameter of interest for the nuisance parameter up and down.
    pull
        Best fit minus global observable in units of the prefit error; None for a free parameter.
    constraint
        Postfit over prefit error; None for a free parameter.
    kind
        How the shifts were computed, which is not always what was asked for: see `impacts`.
    valid
        Whether the fits behind the shifts are valid.
    """

    name: str
    up: float
    down: float
    pull: float | None
    constraint: float | None
    kind: str
    valid: bool = True

    @property
    def size(self) -> float:
        """Larger of the two shifts, absolute."""
        return max(abs(self.up), abs(self.down))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class ImpactsResult:
    """Impacts of all nuisance parameters on `poi`, the largest first.

    Parameters
    ----------
    poi
        Parameter of interest.
    kind
        The kind that was asked for.
    impacts
        One `Impact` a nuisance parameter; also reached by ``result["tes"]`` and by iteration.
    best
        The fit the shifts start from.
    """

    poi: str
    kind: str
    impacts: tuple[Impact, ...]
    best: FitResult

    def __getitem__(self, key: str | int) -> Impact:
        return self.impacts[position([impact.name for impact in self.impacts], key)]

    def __iter__(self) -> Iterator[Impact]:
        return iter(self.impacts)

    def __len__(self) -> int:
        return len(self.impacts)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Breakdown:
    """Uncertainty of `poi` by origin, from the curvature of the likelihood at the best fit.

    Parameters
    ----------
    poi
        Parameter of interest.
    total
        Uncertainty with everything free.
    statistical
        Uncertainty with all constrained nuisance parameters fixed at their best fit.
    systematic
        ``sqrt(total^2 - statistical^2)``.
    groups
        The same difference with only a group's parameters fixed. Groups that are correlated by the fit do not
        add up in quadrature to `systematic`.
    best
        The fit behind it.
    """

    poi: str
    total: float
    statistical: float
    systematic: float
    groups: Mapping[str, float]
    best: FitResult

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class ToyFits:
    """Fits of many toys, one row a toy.

    Parameters
    ----------
    names
        Parameters that were kept, in the order of the columns.
    values, errors
        Best fits and HESSE errors, shape ``(n_toys, n_names)``; NaN where a fit failed.
    fvals
        ``-2 ln L`` at the minima, shape ``(n_toys,)``.
    valid
        Which fits are valid, shape ``(n_toys,)``.
    truth
        Values that the toys were drawn at, when known.
    failures
        Reasons of the fits that are not valid, by row.
    """

    names: tuple[str, ...]
    values: Array
    errors: Array
    fvals: Array
    valid: NDArray[np.bool_]
    truth: NamedVector | None = None
    failures: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.fvals)

    def pulls(self, name: str | int, truth: float | None = None) -> Array:
        """Return ``(value - truth) / error`` of the valid fits, shape ``(n_valid,)``.

        Parameters
        ----------
        name
            Parameter, by name or column.
        truth
            True value; that of the toys by default.
        """
        column = position(self.names, name)
        if truth is None:
            if self.truth is None:
                raise InferenceError("the true value is unknown", fix="pulls(name, truth=...)")
            truth = self.truth[self.names[column]]
        pulls: Array = (self.values[self.valid, column] - truth) / self.errors[self.valid, column]
        return pulls

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}

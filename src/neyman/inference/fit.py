"""`fit`: the minimum of a likelihood with its covariance and MINOS intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.minimise import Cost, Minimum, inverse_of, minimise
from neyman.inference.results import Array, FitResult, MinosError, NamedMatrix, NamedVector
from neyman.likelihood import Likelihood

Values = FitResult | Mapping[str, float] | ArrayLike | None
Fixed = Mapping[str, float] | Sequence[str | int] | str | None


def fit(
    likelihood: Likelihood,
    *,
    start: Values = None,
    fixed: Fixed = None,
    minos: Sequence[str | int] | str = (),
    hesse: bool = True,
    strategy: int = 0,
    tolerance: float = 0.1,
    max_calls: int | None = None,
) -> FitResult:
    r"""Minimise :math:`-2\ln L` with MIGRAD and exact derivatives.

    Parameters
    ----------
    likelihood
        What is fitted.
    start
        A mapping over some parameters, a full vector, or an earlier fit; the likelihood's own by default.
    fixed
        Parameters that are not fitted, in addition to those the likelihood marks: a mapping to their values,
        or names or indices of those that stay at `start`.
    minos
        Parameters that get an interval from the profile likelihood.
    hesse
        Whether to compute the covariance, :math:`2 H^{-1}` with the exact Hessian H.
    strategy
        MINUIT strategy. Higher ones check the exact gradient numerically, at a price.
    tolerance
        MIGRAD stops at an estimated distance to the minimum of ``0.002 * tolerance``; Newton steps follow.
    max_calls
        Limit of evaluations in one MIGRAD; MINUIT's own ``200 + 100 n + 5 n^2`` by default.

    Returns
    -------
    FitResult
        Also when the fit failed: ask ``valid``, and ``messages`` for the reasons.

    Raises
    ------
    InferenceError
        When a parameter is unknown, `start` or a fixed value is not finite or outside its bounds, or nothing
        is left to fit.
    LikelihoodError
        When the likelihood is undefined at the start.
    """
    x, free = starting_point(likelihood, start, fixed)
    if not len(free):
        raise InferenceError(
            "all parameters are fixed: nothing is left to fit", fix="free one, or use value()"
        )
    scanned = [locate(likelihood, name) for name in ([minos] if isinstance(minos, str) else minos)]
    for i in scanned:
        if i not in free:
            raise InferenceError(f"MINOS was asked for {likelihood.names[i]!r}, which is fixed")

    cost = Cost(likelihood, x, free)
    names = tuple(likelihood.names[i] for i in free)
    bounds = likelihood.bounds[free]
    found = minimise(
        cost, x[free], bounds, names, strategy=strategy, tolerance=tolerance, max_calls=max_calls
    )
    messages = list(found.messages)
    x[free] = found.y
    at_bounds = _at_bounds(found.y, bounds)
    valid, covariance = found.converged, None
    if hesse:
        covariance, problems = _covariance(found, at_bounds, names)
        valid = valid and covariance is not None
        messages += problems
    if at_bounds.any():
        ended = ", ".join(name for name, at in zip(names, at_bounds, strict=True) if at)
        messages.append(f"at a bound: {ended}; HESSE errors are meaningless there, use MINOS or profile")
    intervals = {likelihood.names[i]: _minos(found, likelihood.names[i], messages) for i in scanned}
    if cost.undefined:
        messages.append(f"stepped back from {cost.undefined} points where {cost.reason}")

    n = len(x)
    errors, full = np.full(n, np.nan), None
    errors[np.setdiff1d(np.arange(n), free)] = 0.0
    if covariance is not None:
        full = np.zeros((n, n))
        full[np.ix_(free, free)] = covariance
        errors[free] = np.sqrt(np.diag(covariance))
    return FitResult(
        names=likelihood.names,
        values=NamedVector(likelihood.names, x),
        errors=NamedVector(likelihood.names, errors),
        covariance=None if full is None else NamedMatrix(likelihood.names, full),
        fval=found.point.value + cost.offset,
        valid=valid,
        edm=found.edm,
        at_bounds=tuple(name for name, at in zip(names, at_bounds, strict=True) if at),
        fixed=tuple(name for name in likelihood.names if name not in names),
        n_value=cost.calls[0],
        n_gradient=cost.calls[1],
        n_hessian=cost.calls[2],
        minos=intervals,
        messages=tuple(messages),
        minuit=found.minuit,
    )


def conditional_fit(likelihood: Likelihood, fixed: Mapping[str, float], *, start: Values = None) -> FitResult:
    """Fit with parameters held at given values, without errors: one point of a scan.

    Unlike `fit`, a likelihood that has no other free parameter is simply evaluated.
    """
    x, free = starting_point(likelihood, start, fixed)
    if len(free):
        return fit(likelihood, start=start, fixed=fixed, hesse=False)
    return FitResult(
        names=likelihood.names,
        values=NamedVector(likelihood.names, x),
        errors=NamedVector(likelihood.names, np.zeros(len(x))),
        covariance=None,
        fval=float(likelihood.evaluate(x)[0]),
        valid=True,
        edm=0.0,
        fixed=likelihood.names,
        n_value=1,
    )


# Arguments ------------------------------------------------------------------------------------------------


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
    if best is None or fixed is not None:
        x, free = starting_point(likelihood, None, fixed)
        held = {name: float(x[i]) for i, name in enumerate(likelihood.names) if i not in set(free)}
    else:
        held = {name: best.values[name] for name in best.fixed}
    if best is not None and held != {name: best.values[name] for name in best.fixed}:
        raise InferenceError(
            "the best fit was made with other parameters fixed",
            expected=f"fixed: {held}",
            fix="leave out `fixed`, or fit again with it",
        )
    return held


def within(likelihood: Likelihood, x: Array) -> Array:
    """Return a guessed start moved inside the bounds."""
    inside: Array = np.clip(x, likelihood.bounds[:, 0], likelihood.bounds[:, 1])
    return inside


def tangent(likelihood: Likelihood, near: FitResult, best: FitResult, i: int, value: float) -> Array:
    r"""Return a start for the fit with parameter `i` at `value`: that of `near` moved along
    :math:`C_{\cdot i} / C_{ii}`, the direction that the other minima follow, with the covariance of `best`."""
    x = near.values.array.copy()
    if best.covariance is not None and best.errors[i] > 0.0:
        x += best.covariance.array[:, i] / best.covariance.array[i, i] * (value - x[i])
    x[i] = value
    return within(likelihood, x)


# After the minimisation -----------------------------------------------------------------------------------


def _at_bounds(y: Array, bounds: Array) -> NDArray[np.bool_]:
    lower, upper = bounds.T
    near = 1e-6 * np.minimum(upper - lower, 1.0)
    at: NDArray[np.bool_] = (y - lower <= near) | (upper - y <= near)
    return at


def _covariance(
    found: Minimum, at_bounds: NDArray[np.bool_], names: tuple[str, ...]
) -> tuple[Array | None, list[str]]:
    """Return twice the inverse Hessian, and what is wrong with it."""
    hessian = np.asarray(found.point.hessian)
    inverse = inverse_of(hessian)
    if inverse is None and at_bounds.any() and not at_bounds.all():
        inner = np.ix_(~at_bounds, ~at_bounds)
        part = inverse_of(hessian[inner])
        if part is not None:
            inverse = np.zeros_like(hessian)
            inverse[inner] = part
    if inverse is None:
        return None, [f"the Hessian is not positive definite: {_flat(hessian, names)} undetermined"]
    covariance = 2.0 * inverse
    found.minuit.hesse()
    other = found.minuit.covariance
    if other is not None and not at_bounds.any():
        ratio = np.sqrt(np.diag(np.asarray(other)) / np.diag(covariance))
        worst = int(np.argmax(np.abs(ratio - 1.0)))
        if abs(ratio[worst] - 1.0) > 0.01:
            return covariance, [
                f"iminuit's HESSE error of {names[worst]} is {ratio[worst]:.3g} times that of the exact Hessian"
            ]
    return covariance, []


def _flat(hessian: Array, names: tuple[str, ...]) -> str:
    """Return the names of the parameters along the direction of the smallest curvature."""
    scale = np.sqrt(np.abs(np.diag(hessian)))
    scale[scale == 0.0] = 1.0
    direction = np.linalg.eigh(hessian / np.outer(scale, scale))[1][:, 0]
    return ", ".join(name for name, part in zip(names, direction, strict=True) if abs(part) > 0.3)


def _minos(found: Minimum, name: str, messages: list[str]) -> MinosError:
    """Run MINOS for one parameter; a failure becomes a message."""
    try:
        found.minuit.minos(name)
    except RuntimeError:
        messages.append(f"MINOS for {name} needs a valid minimum")
        return MinosError(np.nan, np.nan, valid=False)
    error = found.minuit.merrors[name]
    at_lower, at_upper = bool(error.at_lower_limit), bool(error.at_upper_limit)
    new_minimum = bool(error.lower_new_min or error.upper_new_min)
    if new_minimum:
        messages.append(f"MINOS for {name} met a lower minimum: fit again from another start")
    elif not error.is_valid:
        side = "its bound" if at_lower or at_upper else "no crossing"
        messages.append(f"MINOS for {name} is not valid: it met {side}")
    return MinosError(
        lower=float(error.lower) if error.lower_valid else np.nan,
        upper=float(error.upper) if error.upper_valid else np.nan,
        valid=bool(error.is_valid),
        at_lower_limit=at_lower,
        at_upper_limit=at_upper,
        new_minimum=new_minimum,
    )

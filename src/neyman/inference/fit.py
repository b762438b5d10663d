"""`fit`: the minimum of a likelihood with its covariance and MINOS intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.arguments import Fixed, Values, along, locate, starting_point
from neyman.inference.crossing import crossing
from neyman.inference.minimise import Cost, Minimum, at_bounds, inverse_of, minimise, silent
from neyman.inference.results import Array, FitResult, MinosError, NamedMatrix, NamedVector
from neyman.likelihood import Likelihood


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
    migrad: bool = True,
) -> FitResult:
    r"""Minimise :math:`-2\ln L` with Newton steps and MIGRAD, both with exact derivatives.

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
    migrad
        Whether MIGRAD confirms a minimum that the Newton steps reached. Without it the fit is faster and its
        ``minuit`` is None; where the Newton steps fail MIGRAD runs in any case.

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
        When the likelihood is undefined or not finite at the start.
    """
    if strategy not in (0, 1, 2) or not tolerance > 0.0 or (max_calls is not None and max_calls < 1):
        raise InferenceError(
            f"MIGRAD cannot run with strategy {strategy}, tolerance {tolerance}, max_calls {max_calls}",
            expected="strategy 0, 1 or 2, and a positive tolerance and limit",
        )
    x, free = starting_point(likelihood, start, fixed)
    if not len(free):
        raise InferenceError(
            "all parameters are fixed: nothing is left to fit", fix="free one, or use value()"
        )
    scanned = [locate(likelihood, name) for name in ([minos] if isinstance(minos, str) else minos)]
    for i in scanned:
        if i not in free:
            raise InferenceError(f"MINOS was asked for {likelihood.names[i]!r}, which is fixed")

    cost, moved = _defined(likelihood, x, free)
    names = tuple(likelihood.names[i] for i in free)
    bounds = likelihood.bounds[free]
    found = minimise(
        cost,
        x[free],
        bounds,
        names,
        strategy=strategy,
        tolerance=tolerance,
        max_calls=max_calls,
        migrad=migrad,
    )
    messages = [*moved, *found.messages]
    x[free] = found.y
    ended = at_bounds(found.y, bounds)
    valid, covariance = found.converged, None
    if hesse:
        covariance, problems = _covariance(found, ended, names)
        valid = valid and covariance is not None
        messages += problems
    stuck = tuple(name for name, at in zip(names, ended, strict=True) if at)
    if stuck:
        sides = (
            "upper" if y > 0.5 * (low + high) else "lower"
            for y, (low, high) in zip(found.y, bounds, strict=True)
        )
        where = ", ".join(f"{n} ({side})" for n, side, at in zip(names, sides, ended, strict=True) if at)
        messages.append(
            f"at a bound: {where}; HESSE errors are meaningless there, use MINOS or profile, or widen it"
        )
    if cost.undefined and not found.converged:
        edge = f"the likelihood falls towards the edge of where it is defined: beyond it, {cost.reason}"
        messages.insert(0, edge)
    elif cost.undefined:
        messages.append(f"stepped back from {cost.undefined} points where {cost.reason}")

    n = len(x)
    errors, full = np.full(n, np.nan), None
    errors[np.setdiff1d(np.arange(n), free)] = 0.0
    if covariance is not None:
        full = np.zeros((n, n))
        full[np.ix_(free, free)] = covariance
        errors[free] = np.sqrt(np.diag(covariance))
    result = FitResult(
        names=likelihood.names,
        values=NamedVector(likelihood.names, x),
        errors=NamedVector(likelihood.names, errors),
        covariance=None if full is None else NamedMatrix(likelihood.names, full),
        fval=found.point.value + cost.offset,
        valid=valid,
        edm=abs(found.edm),
        at_bounds=stuck,
        fixed=tuple(name for name in likelihood.names if name not in names),
        n_value=cost.calls[0],
        n_gradient=cost.calls[1],
        n_hessian=cost.calls[2],
        messages=tuple(messages),
        minuit=found.minuit,
    )
    for i in scanned:
        result = _with_minos(likelihood, result, i)
    return result


def _defined(likelihood: Likelihood, x: Array, free: NDArray[np.intp]) -> tuple[Cost, list[str]]:
    """Return the cost from the start `x`; a start at bounds where the likelihood is undefined is moved inside."""
    try:
        return Cost(likelihood, x, free), []
    except LikelihoodError as error:
        lower, upper = likelihood.bounds[free].T
        width = np.minimum(upper - lower, 1.0)
        inside = np.clip(x[free], lower + 0.01 * width, upper - 0.01 * width)
        if np.array_equal(inside, x[free]):
            raise
        changed = [
            likelihood.names[i] for i, old, new in zip(free, x[free], inside, strict=True) if old != new
        ]
        x[free] = inside
        return Cost(likelihood, x, free), [f"{', '.join(changed)} moved off the bound to start: {error.what}"]


def conditional_fit(likelihood: Likelihood, fixed: Mapping[str, float], *, start: Values = None) -> FitResult:
    """Fit with parameters held at given values, without errors: one point of a scan.

    Unlike `fit`, a likelihood that has no other free parameter is simply evaluated.
    """
    x, free = starting_point(likelihood, start, fixed)
    if len(free):
        return fit(likelihood, start=start, fixed=fixed, hesse=False, migrad=False)
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


def scan_point(
    likelihood: Likelihood, held: Mapping[str, float], i: int, value: float, near: FitResult, best: FitResult
) -> FitResult | None:
    """Fit with parameter `i` at `value` from the first start that leads to a valid minimum.

    The starts are the tangent from `near`, `near` itself and `best`. None when the likelihood is undefined at
    all of them.
    """
    found = None
    tangent = along(likelihood, best, [i], near.values.array[None], [[value]])[0]
    for start in (tangent, near, best):
        try:
            found = conditional_fit(likelihood, {**held, likelihood.names[i]: value}, start=start)
        except LikelihoodError:
            continue
        if found.valid:
            break
    return found


# After the minimisation -----------------------------------------------------------------------------------


def _covariance(
    found: Minimum, ended: NDArray[np.bool_], names: tuple[str, ...]
) -> tuple[Array | None, list[str]]:
    """Return twice the inverse Hessian, and what is wrong with it."""
    hessian = np.asarray(found.point.hessian)
    inverse = inverse_of(hessian)
    if inverse is None and ended.any():
        # Parameters at a bound are as good as fixed; without them the rest may be determined.
        inner = np.ix_(~ended, ~ended)
        part = inverse_of(hessian[inner])
        if part is not None:
            inverse = np.zeros_like(hessian)
            inverse[inner] = part
    if inverse is None:
        return None, [f"the Hessian is not positive definite: {_undetermined(found, names)}"]
    covariance = 2.0 * inverse
    if found.minuit is None:
        return covariance, []
    with silent(found.minuit):
        found.minuit.hesse()
    other = found.minuit.covariance
    if other is not None and not ended.any():
        ratio = np.sqrt(np.diag(np.asarray(other)) / np.diag(covariance))
        worst = int(np.argmax(np.abs(ratio - 1.0)))
        if abs(ratio[worst] - 1.0) > 0.01:
            return covariance, [
                f"iminuit's HESSE error of {names[worst]} is {ratio[worst]:.3g} times that of the exact Hessian"
            ]
    return covariance, []


def _undetermined(found: Minimum, names: tuple[str, ...]) -> str:
    """Say which parameters make the direction of the smallest curvature."""
    gradient, hessian = np.asarray(found.point.gradient), np.asarray(found.point.hessian)
    idle = [name for name, row, g in zip(names, hessian, gradient, strict=True) if g == 0.0 and not row.any()]
    if idle:
        return f"the likelihood does not depend on {', '.join(idle)}: fix it, or look for its modifier"
    scale = np.sqrt(np.abs(np.diag(hessian)))
    scale[scale == 0.0] = 1.0
    direction = np.linalg.eigh(hessian / np.outer(scale, scale))[1][:, 0]
    along = [name for name, part in zip(names, direction, strict=True) if abs(part) > 0.3]
    if len(along) > 1:
        return f"only a combination of {', '.join(along)} is determined: fix or constrain one of them"
    return f"{', '.join(along)} is undetermined"


# MINOS ----------------------------------------------------------------------------------------------------


def _with_minos(likelihood: Likelihood, result: FitResult, i: int) -> FitResult:
    """Add the MINOS interval of parameter `i`.

    Each point is a fit with the parameter fixed, which works where iminuit's MINOS refuses: with parameters at bounds.
    """
    name, centre = likelihood.names[i], result.values[i]
    lower, upper = likelihood.bounds[i]
    if not result.valid:
        return _add(result, name, MinosError(np.nan, np.nan, False), "the minimum is not valid", [])
    held = {fixed: result.values[fixed] for fixed in result.fixed}
    step = result.errors[i] if result.errors[i] > 0.0 else 0.1 * min(upper - lower, 1.0)
    fits = [result]

    def rise(value: float) -> float:
        near = min(fits, key=lambda f: abs(f.values[i] - value))
        found = scan_point(likelihood, held, i, value, near, result)
        if found is None or not found.valid:
            return np.nan
        fits.append(found)
        return found.fval - result.fval

    low, high = crossing(rise, centre, -step, lower), crossing(rise, centre, step, upper)
    error = MinosError(
        lower=np.nan if low is None else low - centre,
        upper=np.nan if high is None else high - centre,
        valid=low is not None and high is not None,
        at_lower_limit=low is None and any(f.values[i] == lower for f in fits),
        at_upper_limit=high is None and any(f.values[i] == upper for f in fits),
        new_minimum=min(f.fval for f in fits) < result.fval - 1e-3,
    )
    problem = ""
    if error.new_minimum:
        problem = "it met a lower minimum, fit again from another start"
    elif error.at_lower_limit or error.at_upper_limit:
        problem = "a side ends at the bound"
    elif not error.valid:
        problem = "a fit on the way failed"
    return _add(result, name, error, problem, fits[1:])


def _add(
    result: FitResult, name: str, error: MinosError, problem: str, fits: Sequence[FitResult]
) -> FitResult:
    return replace(
        result,
        minos={**result.minos, name: error},
        messages=(*result.messages, f"MINOS for {name}: {problem}") if problem else result.messages,
        n_value=result.n_value + sum(f.n_value for f in fits),
        n_gradient=result.n_gradient + sum(f.n_gradient for f in fits),
        n_hessian=result.n_hessian + sum(f.n_hessian for f in fits),
    )

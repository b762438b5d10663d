"""`impacts` and `breakdown`: which nuisance parameters the uncertainty of a parameter comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.arguments import held_values, locate, within
from neyman.inference.fit import fit, scan_point
from neyman.inference.results import Breakdown, FitResult, Impact, ImpactsResult
from neyman.likelihood import Likelihood

Kind = Literal["global_observables", "refit", "covariance"]


def impacts(
    likelihood: Likelihood,
    poi: str | int,
    *,
    kind: Kind = "global_observables",
    best: FitResult | None = None,
) -> ImpactsResult:
    r"""Return the shift of a parameter for each nuisance parameter, the largest first.

    Kinds
        ``global_observables``: the global observable moves by its prefit error (:math:`\sqrt{a}` for a Poisson
        constraint) and everything is fitted again. Squares of these impacts add up to the systematic part of
        the variance (Pinto et al., Eur. Phys. J. C 84 (2024) 593). A parameter without one, or whose count
        would turn negative, gets ``refit``.

        ``refit``: the parameter is fixed at its best fit plus or minus its postfit error and the rest is
        fitted again; ``covariance`` where that is outside its bounds.

        ``covariance``: :math:`\rho\,\sigma_\mathrm{poi}`, the linear approximation of ``refit``.

    Parameters
    ----------
    likelihood
        What was fitted.
    poi
        Parameter whose shifts are computed.
    kind
        One of the above; each `Impact` names the kind that was used for it.
    best
        The fit, when it is known already; its fixed parameters stay fixed.

    Raises
    ------
    InferenceError
        When `poi` is unknown or fixed, `kind` is unknown, or the fit has no covariance.
    """
    if kind not in ("global_observables", "refit", "covariance"):
        raise InferenceError(
            f"there is no kind of impacts {kind!r}", expected="global_observables, refit or covariance"
        )
    j = locate(likelihood, poi)
    best = _with_covariance(likelihood, j, best)
    held = held_values(likelihood, None, best)
    others = [k for k, name in enumerate(likelihood.names) if name not in held and k != j]
    found = [_impact(likelihood, j, k, kind, best, held) for k in others]
    found.sort(key=lambda impact: impact.size, reverse=True)
    return ImpactsResult(likelihood.names[j], kind, tuple(found), best)


def breakdown(
    likelihood: Likelihood,
    poi: str | int,
    groups: Mapping[str, Sequence[str | int]] | None = None,
    best: FitResult | None = None,
) -> Breakdown:
    r"""Split the uncertainty of a parameter into statistical, systematic and groups.

    The variance with the parameters g fixed at their best fit is the conditional one of the covariance C,
    :math:`C_{pp} - C_{pg} C_{gg}^{-1} C_{gp}`: no further fit is needed.

    Parameters
    ----------
    likelihood
        What was fitted.
    poi
        Parameter whose uncertainty is split.
    groups
        Names of the nuisance parameters of each group.
    best
        The fit, when it is known already.

    Raises
    ------
    InferenceError
        When a parameter is unknown, `poi` is fixed or in a group, or the fit has no covariance.
    """
    j = locate(likelihood, poi)
    best = _with_covariance(likelihood, j, best)
    total = best.errors[j]
    constrained = [k for k, p in enumerate(likelihood.parameters) if p.constraint and k != j]
    statistical = _error_with_fixed(best, j, constrained)
    parts: dict[str, float] = {}
    for group, names in (groups or {}).items():
        members = [locate(likelihood, name) for name in names]
        if j in members:
            raise InferenceError(
                f"group {group!r} contains the parameter of interest {likelihood.names[j]!r}"
            )
        parts[group] = _difference(total, _error_with_fixed(best, j, members))
    return Breakdown(likelihood.names[j], total, statistical, _difference(total, statistical), parts, best)


def _with_covariance(likelihood: Likelihood, j: int, best: FitResult | None) -> FitResult:
    best = best or fit(likelihood)
    if likelihood.names[j] in best.fixed:
        raise InferenceError(f"the parameter of interest {likelihood.names[j]!r} is fixed")
    if best.covariance is None:
        raise InferenceError(
            "the fit has no covariance", where="; ".join(best.messages) or "it was made with hesse=False"
        )
    return best


def _error_with_fixed(best: FitResult, j: int, fixed: Sequence[int]) -> float:
    covariance = np.asarray(best.covariance)
    g = [k for k in fixed if covariance[k, k] > 0.0]
    cross = covariance[g, j]
    return math.sqrt(max(covariance[j, j] - cross @ np.linalg.solve(covariance[np.ix_(g, g)], cross), 0.0))


def _difference(total: float, part: float) -> float:
    return math.sqrt(max(total**2 - part**2, 0.0))


def _impact(
    likelihood: Likelihood, j: int, k: int, kind: Kind, best: FitResult, held: dict[str, float]
) -> Impact:
    name, constraint = likelihood.names[k], likelihood.parameters[k].constraint
    value, error = best.values[k], best.errors[k]
    pull = narrowing = None
    prefit = 0.0
    if constraint is not None:
        observed = likelihood.global_observables[name]
        poisson = constraint.kind == "poisson"
        prefit = math.sqrt(max(observed, 0.0)) if poisson else constraint.scale
        # In units of the parameter, a Poisson constraint measures a / tau with the error sqrt(a) / tau.
        unit = constraint.scale if poisson else 1.0
        if prefit > 0.0:
            pull, narrowing = (value - observed / unit) * unit / prefit, error * unit / prefit
        if poisson and observed < 1.0:
            prefit = 0.0
    if kind == "global_observables" and not prefit > 0.0:
        kind = "refit"
    lower, upper = likelihood.bounds[k]
    if kind == "refit" and not (error > 0.0 and lower <= value - error and value + error <= upper):
        kind = "covariance"

    shifts, valid = [], True
    for sign in (1.0, -1.0):
        if kind == "covariance":
            covariance = np.asarray(best.covariance)
            shifts.append(sign * covariance[j, k] / error if error > 0.0 else 0.0)
            continue
        if kind == "refit":
            found = scan_point(likelihood, held, k, value + sign * error, best, best)
        else:
            found = _refit_shifted(likelihood, k, sign * prefit, best, held)
        if found is None:
            shifts.append(math.nan)
            valid = False
            continue
        shifts.append(found.values[j] - best.values[j])
        valid = valid and found.valid
    return Impact(name, shifts[0], shifts[1], pull, narrowing, kind, valid and best.valid)


def _refit_shifted(
    likelihood: Likelihood, k: int, shift: float, best: FitResult, held: dict[str, float]
) -> FitResult | None:
    r"""Fit with the global observable of parameter `k` moved, from the linear answer
    :math:`\hat\theta - H^{-1} \partial_\theta\partial_a(-2\ln L)\,\delta a`."""
    name, constraint = likelihood.names[k], likelihood.parameters[k].constraint
    response = np.asarray(best.covariance)[:, k]
    if constraint is not None and constraint.kind == "poisson":
        step = response * shift / best.values[k]
    else:
        step = response * shift / (constraint.scale**2 if constraint else 1.0)
    moved = likelihood.with_global_observables({name: likelihood.global_observables[name] + shift})
    start = within(likelihood, best.values.array + step)
    try:
        return fit(moved, start=start, fixed=held, hesse=False)
    except LikelihoodError:
        return None

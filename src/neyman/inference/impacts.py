"""`impacts` and `breakdown`: which nuisance parameters the uncertainty of a parameter comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError
from neyman.inference.arguments import held_values, locate, within
from neyman.inference.batch import fit_batch
from neyman.inference.checks import one_of
from neyman.inference.fit import fit
from neyman.inference.groups import Groups, by_kind, members
from neyman.inference.results import Array, Breakdown, FitResult, GroupImpact, Impact, ImpactsResult
from neyman.likelihood import Likelihood

Kind = Literal["global_observables", "refit", "covariance"]


def impacts(
    likelihood: Likelihood,
    poi: str | int,
    *,
    kind: Kind = "global_observables",
    groups: Groups | None = None,
    best: FitResult | None = None,
) -> ImpactsResult:
    r"""Return the shift of a parameter for each nuisance parameter, the largest first.

    Kinds
        ``global_observables``: the global observable moves by its prefit error (:math:`\sqrt{a}` for a Poisson
        constraint) and everything is fitted again, all shifts as one batch. Squares of these impacts add up to the
        systematic part of the variance (Pinto et al., Eur. Phys. J. C 84 (2024) 593). A parameter without one, or
        whose count would turn negative, gets ``refit``.

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
    groups
        Nuisance parameters of each group: names, indices, or names with the wildcards ``*`` and ``?``. By default
        ``systematic``, ``bin-by-bin`` (components of constrained vectors) and ``free`` (no constraint).
        The impact of a group is the sum in quadrature of its members' for ``global_observables``, which are
        independent measurements, and else the uncertainty that vanishes when all its members are fixed.
    best
        The fit, when it is known already; its fixed parameters stay fixed.

    Raises
    ------
    InferenceError
        When `poi` is unknown or fixed, `kind` is unknown, a group matches nothing, or the fit has no covariance.
    """
    one_of(kind, ("global_observables", "refit", "covariance"), "kind of impacts")
    j = locate(likelihood, poi)
    best = _with_covariance(likelihood, j, best)
    held = held_values(likelihood, None, best)
    chosen = by_kind(likelihood, j) if groups is None else groups
    grouped = {name: members(likelihood, name, keys, j) for name, keys in chosen.items()}
    others = [k for k, name in enumerate(likelihood.names) if name not in held and k != j]
    plans = [_plan(likelihood, k, kind, best) for k in others]
    shifts = _shifts(likelihood, j, plans, best, held)
    found = {plan.k: _impact(likelihood, plan, *shifts[plan.k], best) for plan in plans}
    ranked = sorted(found.values(), key=lambda impact: impact.size, reverse=True)
    of_groups = [_group(likelihood, j, name, ks, kind, found, best) for name, ks in grouped.items()]
    return ImpactsResult(likelihood.names[j], kind, tuple(ranked), best, tuple(of_groups))


def breakdown(
    likelihood: Likelihood,
    poi: str | int,
    groups: Groups | None = None,
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
        Nuisance parameters of each group, as in `impacts`.
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
    chosen = by_kind(likelihood, j) if groups is None else groups
    parts = {
        name: _difference(total, _error_with_fixed(best, j, members(likelihood, name, keys, j)))
        for name, keys in chosen.items()
    }
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


# One parameter --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """How parameter `k` is shifted: `shift` is that of its global observable, or of itself."""

    k: int
    kind: Kind
    shift: float
    pull: float | None = None
    constraint: float | None = None


def _plan(likelihood: Likelihood, k: int, kind: Kind, best: FitResult) -> _Plan:
    constraint = likelihood.parameters[k].constraint
    value, error = best.values[k], best.errors[k]
    pull = narrowing = None
    prefit = 0.0
    if constraint is not None:
        observed = float(likelihood.global_observables[likelihood.names[k]])
        poisson = constraint.kind == "poisson"
        prefit = math.sqrt(max(observed, 0.0)) if poisson else constraint.scale
        # In units of the parameter, a Poisson constraint measures a / tau with the error sqrt(a) / tau.
        unit = constraint.scale if poisson else 1.0
        if prefit > 0.0:
            pull, narrowing = (value - observed / unit) * unit / prefit, error * unit / prefit
        if poisson and observed < 1.0:
            prefit = 0.0
    if kind == "global_observables":
        if prefit > 0.0:
            return _Plan(k, kind, prefit, pull, narrowing)
        kind = "refit"
    lower, upper = likelihood.bounds[k]
    if kind == "refit" and not (error > 0.0 and lower <= value - error and value + error <= upper):
        kind = "covariance"
    return _Plan(k, kind, error, pull, narrowing)


def _shifts(
    likelihood: Likelihood, j: int, plans: Sequence[_Plan], best: FitResult, held: Mapping[str, float]
) -> dict[int, tuple[Array, bool]]:
    """Return the shifts of the parameter of interest, up and down, and whether their fits are valid."""
    fixed = np.array([name in held for name in likelihood.names])
    found: dict[int, tuple[Array, bool]] = {}
    observed = [plan for plan in plans if plan.kind == "global_observables"]
    if observed:
        values, valid = _refitted_observables(likelihood, observed, best, fixed)
        shifts = (values[:, j] - best.values[j]).reshape(-1, 2)
        found |= {
            plan.k: (shifts[n], bool(valid[2 * n : 2 * n + 2].all())) for n, plan in enumerate(observed)
        }
    covariance = np.asarray(best.covariance)
    for plan in plans:
        k = plan.k
        if plan.kind == "global_observables":
            continue
        # The other minima follow this direction from the best fit.
        slope = covariance[:, k] / covariance[k, k] if covariance[k, k] > 0.0 else np.zeros(len(fixed))
        if plan.kind == "covariance":
            found[k] = plan.shift * slope[j] * np.array([1.0, -1.0]), True
            continue
        starts = np.stack([_moved(likelihood, best, sign * plan.shift * slope, k) for sign in (1.0, -1.0)])
        also_held = fixed.copy()
        also_held[k] = True
        batch = fit_batch(likelihood, starts, also_held)
        found[k] = batch.values[:, j] - best.values[j], bool(batch.valid.all())
    return found


def _moved(likelihood: Likelihood, best: FitResult, step: Array, k: int) -> Array:
    start = within(likelihood, best.values.array + step)
    start[k] = best.values[k] + step[k]
    return start


def _refitted_observables(
    likelihood: Likelihood, plans: Sequence[_Plan], best: FitResult, fixed: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    r"""Fit with each global observable moved up and down, from the linear answer
    :math:`\hat\theta - H^{-1} \partial_\theta\partial_a(-2\ln L)\,\delta a`."""
    covariance = np.asarray(best.covariance)
    starts, shifted = [], []
    data, observables = likelihood.data, likelihood.global_observables
    for plan in plans:
        constraint = likelihood.parameters[plan.k].constraint
        normal = constraint if constraint and constraint.kind == "normal" else None
        scale = normal.scale**2 if normal else best.values[plan.k]
        for shift in (plan.shift, -plan.shift):
            starts.append(within(likelihood, best.values.array + covariance[:, plan.k] * shift / scale))
            name = likelihood.names[plan.k]
            moved = {**observables, name: float(observables[name]) + shift}
            shifted.append(type(data)(data.terms, moved))
    found = fit_batch(likelihood.with_data(likelihood.stack(shifted)), np.stack(starts), fixed)
    return found.values, found.valid


def _impact(likelihood: Likelihood, plan: _Plan, shifts: Array, valid: bool, best: FitResult) -> Impact:
    return Impact(
        name=likelihood.names[plan.k],
        up=float(shifts[0]),
        down=float(shifts[1]),
        pull=plan.pull,
        constraint=plan.constraint,
        kind=plan.kind,
        valid=valid and best.valid,
    )


def _group(
    likelihood: Likelihood,
    j: int,
    name: str,
    chosen: Sequence[int],
    kind: Kind,
    found: Mapping[int, Impact],
    best: FitResult,
) -> GroupImpact:
    names = tuple(likelihood.names[k] for k in chosen)
    shifts = [found[k] for k in chosen if k in found and found[k].kind == "global_observables"]
    if kind == "global_observables" and shifts:
        size = math.sqrt(sum((0.5 * (one.up - one.down)) ** 2 for one in shifts))
        left_out = tuple(n for n in names if n not in {one.name for one in shifts})
        return GroupImpact(name, size, names, "global_observables", left_out)
    size = _difference(best.errors[j], _error_with_fixed(best, j, chosen))
    return GroupImpact(name, size, names, "conditional")

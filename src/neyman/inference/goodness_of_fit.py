"""`goodness_of_fit`: whether the model describes the data at its best fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import xlogy
from scipy.stats import chi2

from neyman.errors import InferenceError
from neyman.inference.arguments import Fixed, held_values
from neyman.inference.checks import one_of, positive_count
from neyman.inference.experiments import at_least, clopper_pearson, drawn, seed_of, some_valid
from neyman.inference.profile import global_minimum
from neyman.inference.results import Array, FitResult, GoodnessOfFit
from neyman.inference.toys import fit_toys
from neyman.likelihood import GaussianTerm, HistFactoryTerm, Likelihood, UnbinnedTerm

_PER_BIN, _MOST_BINS = 25.0, 40  # expected events in a bin of unbinned data, and bins


def goodness_of_fit(
    likelihood: Likelihood,
    *,
    calculator: Literal["saturated", "toys"] = "saturated",
    n_toys: int = 1000,
    seed: int | None = None,
    bins: int | None = None,
    fixed: Fixed = None,
    best: FitResult | None = None,
    client: Any = None,
    progress: bool = False,
) -> GoodnessOfFit:
    r"""Compare the best fit with the saturated model, which describes every bin and every constraint perfectly.

    .. math:: t = 2\sum_b\Big(\lambda_b - n_b + n_b\ln\frac{n_b}{\lambda_b}\Big)
        + \sum_\text{normal}\Big(\frac{a_k-\theta_k}{\sigma_k}\Big)^2
        + 2\sum_\text{Poisson}\Big(\tau_k\theta_k - a_k + a_k\ln\frac{a_k}{\tau_k\theta_k}\Big)
        + \sum_\text{Gaussian} (x-\nu)^T C^{-1} (x-\nu)

    The sums run over the bins of Poisson counts, the constraints and the spectra with a covariance.
    For large counts t follows :math:`\chi^2` with (bins + constraints - free parameters) degrees of freedom (Baker,
    Cousins, Nucl. Instrum. Meth. 221 (1984) 437), as in cabinetry and in Combine's ``saturated``. Constraints of
    fixed parameters are constants and count nowhere.

    The minimum of :math:`-2\ln L` of an **unbinned** term says nothing about the quality of its fit: it is a mean of
    the log-density over the data, and data that avoid the model's tails make it look better than typical. Here the
    term is binned in its own :math:`\ln(\rho/\nu)` at the best fit, a density per event that any wrongly modelled
    feature moves: with edges of equal expected content, from the reference events with the model's weights, its bins
    enter t as above. The fit did not minimise that statistic, so its distribution lies between those of
    :math:`\chi^2` with and without the free parameters subtracted (Chernoff, Lehmann, Ann. Math. Stat. 25 (1954)
    579): take the p-value from toys.

    Parameters
    ----------
    likelihood
        Model and data.
    calculator
        ``saturated`` for the p-value from :math:`\chi^2`, or ``toys`` drawn at the best fit and fitted again.
    n_toys, seed
        Number of toys, and their seed, which is needed with toys.
    bins
        Bins of each unbinned term; one for 25 expected events, 2 at least and 40 at most, by default.
    fixed
        Parameters that are not fitted, as in `fit`; those of `best` by default.
    best
        The fit, when it is known already.
    client
        A ``dask.distributed.Client``, over whose workers the fits of toys are spread.
    progress
        Whether to show a progress bar on standard error.

    Raises
    ------
    InferenceError
        When the fit is not valid, a term has no saturated model, the calculator is unknown, or a seed is missing.
    """
    one_of(calculator, ("saturated", "toys"), "calculator")
    if bins is not None and positive_count(bins, "bins") < 2:
        raise InferenceError("one bin measures the number of events alone", expected="2 bins or more")
    held = held_values(likelihood, fixed, best)
    best = best or global_minimum(likelihood, held)
    if not best.valid:
        raise InferenceError(
            "the fit is not valid, so it has no goodness", where="; ".join(best.messages) or None
        )
    free = [i for i, name in enumerate(likelihood.names) if name not in held]
    n_bins = [_n_bins(likelihood, k, best.values.array, bins) for k in range(len(likelihood.terms))]
    parts = _saturated(likelihood, best.values.array, free, n_bins)
    constrained = sum(likelihood.parameters[i].constraint is not None for i in free)
    ndof = sum(n_bins) + constrained - len(free)
    statistic, messages = sum(parts.values()), []
    if best.at_bounds:
        messages.append(f"at a bound: {', '.join(best.at_bounds)}; the degrees of freedom are approximate")
    sample = interval = None
    if calculator == "toys":
        n, entropy = positive_count(n_toys, "toys"), seed_of(seed)
        sample, note = _toys(likelihood, best, held, free, n_bins, n, entropy, client, progress)
        messages += [note] if note else []
        k = int(at_least(statistic, sample))
        p_value, interval = k / len(sample), clopper_pearson(k, len(sample))
    else:
        p_value = float(chi2.sf(statistic, ndof)) if ndof > 0 else math.nan
        if ndof <= 0:
            messages.append("as many free parameters as measurements: chi2 gives no p-value")
        if any(isinstance(term, UnbinnedTerm) for term in likelihood.terms):
            messages.append("the chi2 of unbinned terms is approximate: take calculator='toys'")
    return GoodnessOfFit(
        calculator=calculator,
        statistic=statistic,
        parts=parts,
        ndof=ndof,
        p_value=p_value,
        p_value_interval=interval,
        n_toys=None if sample is None else len(sample),
        toys=sample,
        best=best,
        messages=tuple(messages),
    )


def _toys(
    likelihood: Likelihood,
    best: FitResult,
    held: dict[str, float],
    free: Sequence[int],
    n_bins: Sequence[int],
    n: int,
    seed: int,
    client: Any,
    progress: bool,
) -> tuple[Array, str | None]:
    """Return the statistic of toys at the best fit, each at its own best fit, with a note on failures."""
    made = drawn(likelihood, n, best.values.array, seed)
    found = fit_toys(likelihood, made, fixed=held, errors=False, client=client, progress=progress)
    rows = np.nonzero(found.valid)[0]
    statistics = [
        sum(_saturated(likelihood.with_data(made[int(k)]), found.values[k], free, n_bins).values())
        for k in rows
    ]
    return np.array(statistics, dtype=np.float64), some_valid(found.valid, "toys")


# The statistic --------------------------------------------------------------------------------------------


def _saturated(
    likelihood: Likelihood, x: Array, free: Sequence[int], n_bins: Sequence[int]
) -> dict[str, float]:
    """Return the contributions of the terms and of the constraints at the parameters `x`."""
    parts: dict[str, float] = {}
    for term, n in zip(likelihood.terms, n_bins, strict=True):
        theta = torch.tensor([x[likelihood.index(p.name)] for p in term.parameters], dtype=torch.float64)
        if isinstance(term, GaussianTerm):
            part = float(term.chi_square(theta))
        elif isinstance(term, HistFactoryTerm):
            part = _poisson(term.data.cpu().numpy(), term.expected(theta).cpu().numpy())
        elif isinstance(term, UnbinnedTerm):
            part = _poisson(*_binned(term, theta, n))
        parts[term.name] = parts.get(term.name, 0.0) + part
    chosen = [(likelihood.parameters[i], x[i]) for i in free if likelihood.parameters[i].constraint]
    if chosen:
        observables = likelihood.global_observables
        parts["constraints"] = 0.0
        for parameter, value in chosen:
            constraint, a = parameter.constraint, float(observables[parameter.name])
            if constraint is not None and constraint.kind == "normal":
                parts["constraints"] += float((a - value) / constraint.scale) ** 2
            elif constraint is not None:
                parts["constraints"] += _poisson(np.array([a]), np.array([constraint.scale * value]))
    return parts


def _poisson(observed: Array, expected: Array) -> float:
    """Return twice the log-ratio of the saturated Poisson probabilities to those of `expected`."""
    return float(2.0 * (expected - observed + xlogy(observed, observed) - xlogy(observed, expected)).sum())


def _n_bins(likelihood: Likelihood, k: int, x: Array, bins: int | None) -> int:
    term = likelihood.terms[k]
    if isinstance(term, HistFactoryTerm | GaussianTerm):
        return int(term.data.shape[-1])
    if not isinstance(term, UnbinnedTerm):
        raise InferenceError(
            f"the term {term.name!r} has no saturated model", expected="binned, Gaussian or unbinned terms"
        )
    if bins is not None:
        return bins
    theta = torch.tensor([x[likelihood.index(p.name)] for p in term.parameters], dtype=torch.float64)
    return int(np.clip(term.expected_data(theta).weight.sum() / _PER_BIN, 2, _MOST_BINS))


def _binned(term: UnbinnedTerm, theta: torch.Tensor, n: int) -> tuple[Array, Array]:
    r"""Return observed and expected events in bins of :math:`\ln\rho` of equal expected content; :math:`\nu` shifts
    all events alike."""
    model, data = term.expected_data(theta), term.data
    if isinstance(data, tuple):
        raise InferenceError(f"channel {term.name!r} holds a batch of data sets", expected="one data set")
    if not (model.weight >= 0.0).all():
        raise InferenceError(
            f"channel {term.name!r}: the reference has events of negative weight, which have no quantiles",
            fix="use a reference sample with positive weights",
        )
    where = term.log_density(theta, model)
    order = np.argsort(where)
    cumulative = np.cumsum(model.weight[order])
    at = np.searchsorted(cumulative, cumulative[-1] * np.arange(1, n) / n)
    edges = np.concatenate([[-np.inf], where[order][at], [np.inf]])
    expected = np.histogram(where, _open(edges), weights=model.weight)[0]
    observed = np.histogram(term.log_density(theta), _open(edges), weights=data.weight)[0]
    filled = (expected > 0.0) | (observed != 0.0)
    return observed[filled].astype(np.float64), expected[filled].astype(np.float64)


def _open(edges: Array) -> Array:
    """Return edges that never fall, the outer ones beyond every number."""
    largest = np.finfo(np.float64).max
    return np.clip(edges, -largest, largest)

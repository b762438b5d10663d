"""Expected coverage: over experiments at parameters drawn from the prior, regions of credibility c must hold the truth
in a fraction c of all cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kstest

from neyman.diagnostics.gates import SIGNIFICANT, Check
from neyman.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExpectedCoverage(Check):
    """Coverage of the regions of highest posterior density against their credibility.

    Parameters
    ----------
    ranks
        Credibility of the smallest region that holds the truth, ``(n_sets,)``; uniform for an exact likelihood.
    credibility
        Credibility levels, ``(n_levels,)``.
    coverage
        Fraction of the experiments whose region holds the truth, ``(n_levels,)``.
    shortfall
        Largest amount by which the coverage is below the credibility, over all levels.
    excess
        Largest amount by which it is above.
    p_value
        One-sided Kolmogorov-Smirnov probability of a larger shortfall for an exact likelihood.
    tolerance
        Shortfall that is still accepted.
    """

    ranks: Array
    credibility: Array
    coverage: Array
    shortfall: float
    excess: float
    p_value: float
    tolerance: float


def expected_coverage(
    log_likelihood: ArrayLike,
    truth: ArrayLike,
    *,
    seed: int,
    prior: ArrayLike | None = None,
    tolerance: float = 0.05,
    significance: float = SIGNIFICANT,
) -> ExpectedCoverage:
    r"""Check likelihoods on a grid of parameters by how often their regions hold the truth.

    The rank of an experiment is the posterior probability of all grid points that are more probable than the true one,
    :math:`\sum_j p_j [\rho_j > \rho_*] + u \sum_j p_j [\rho_j = \rho_*]` with the density
    :math:`\rho \propto L` and u uniform in (0, 1), which makes ranks exactly uniform on a grid of any width (Hermans
    et al., arXiv:2110.06581). Fails when the coverage is below the credibility significantly and by more than the
    tolerance; coverage above it is conservative and passes.

    Parameters
    ----------
    log_likelihood
        Log-likelihood of each experiment at all grid points, ``(n_sets, n_grid)``; a grid of several dimensions is
        flattened.
    truth
        Position of the true grid point of each experiment, ``(n_sets,)``; drawn from the prior.
    seed
        Seed of u.
    prior
        Prior probability of each grid point, ``(n_grid,)``; equal without it. Regions are highest in
        likelihood times prior probability.
    tolerance
        Shortfall of the coverage that is still accepted.
    significance
        The p-value must be below it for a failure.

    Raises
    ------
    InputError
        When shapes disagree, there are no experiments, a truth is no grid point, a log-likelihood is NaN or positive
        infinity, or the prior is not a distribution.
    """
    l, true = np.asarray(log_likelihood, dtype=np.float64), np.asarray(truth)
    if l.ndim != 2 or 0 in l.shape or true.shape != l.shape[:1]:
        raise InputError(
            f"log-likelihoods {l.shape} and truths {true.shape} do not fit together",
            expected="(n_sets, n_grid) and (n_sets,)",
        )
    if true.dtype.kind not in "iu" or true.min() < 0 or true.max() >= l.shape[1]:
        raise InputError(
            "a truth is no position on the grid", expected=f"integers from 0 to {l.shape[1] - 1}"
        )
    best = l.max(axis=1, keepdims=True)
    if not np.isfinite(best).all() or np.isnan(l).any():
        raise InputError(
            "a log-likelihood is NaN or infinite",
            where=f"experiment {int(np.argmax(~np.isfinite(best[:, 0]) | np.isnan(l).any(axis=1)))}",
        )
    posterior = np.exp(l - best) * _prior(prior, l.shape[1])
    posterior /= posterior.sum(axis=1, keepdims=True)
    at_truth = posterior[np.arange(len(l)), true][:, None]
    above = np.where(posterior > at_truth, posterior, 0.0).sum(axis=1)
    equal = np.where(posterior == at_truth, posterior, 0.0).sum(axis=1)
    ranks = np.minimum(above + np.random.default_rng(seed).random(len(l)) * equal, 1.0)
    credibility = np.linspace(0.0, 1.0, 101)
    coverage = np.searchsorted(np.sort(ranks), credibility, side="right") / len(ranks)
    short = kstest(ranks, "uniform", alternative="less")
    excess = float(kstest(ranks, "uniform", alternative="greater").statistic)
    shortfall, p_value = float(short.statistic), float(short.pvalue)
    passed = not (p_value < significance and shortfall > tolerance)
    reason = (
        f"the coverage over {len(l)} experiments is below the credibility by at most {shortfall:.3f} "
        f"({tolerance:g} is accepted), p = {p_value:.2g} (significant below {significance:g}), above it by at most "
        f"{excess:.3f}"
    )
    return ExpectedCoverage(
        "expected coverage",
        passed,
        reason,
        ranks,
        credibility,
        coverage,
        shortfall,
        excess,
        p_value,
        tolerance,
    )


def _prior(prior: ArrayLike | None, n: int) -> Array:
    if prior is None:
        return np.ones(n)
    p = np.asarray(prior, dtype=np.float64)
    if p.shape != (n,) or not np.isfinite(p).all() or p.min() < 0.0 or not p.sum() > 0.0:
        raise InputError(f"the prior of shape {p.shape} is not a distribution over {n} grid points")
    return p

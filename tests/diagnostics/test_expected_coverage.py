"""Expected coverage of likelihoods of a Gaussian mean, exact and broken."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from neyman.diagnostics.expected_coverage import expected_coverage
from neyman.errors import InputError

GRID = np.linspace(-3.0, 3.0, 61)
SIGMA = 0.6


def experiments(seed, n=500, grid=GRID, prior=None, sharpness=1.0, shift=0.0):
    """Truths from the prior, one observation each; `sharpness` scales the exact log-likelihood."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(grid), n, p=prior)
    x = rng.normal(grid[truth], SIGMA)
    return -0.5 * sharpness * ((x[:, None] - grid - shift) / SIGMA) ** 2, truth


@pytest.mark.parametrize("seed", range(5))
def test_gate_passes_the_exact_likelihood(seed):
    found = expected_coverage(*experiments(seed), seed=seed)
    assert found.passed, found.reason
    assert kstest(found.ranks, "uniform").pvalue > 1e-3
    assert found.coverage == pytest.approx(found.credibility, abs=0.1)


@pytest.mark.parametrize("grid", [GRID, np.array([-1.0, 0.0, 1.0]), np.array([0.0])])
def test_ranks_are_uniform_on_any_grid(grid):
    found = expected_coverage(*experiments(1, 5000, grid), seed=1)
    assert kstest(found.ranks, "uniform").pvalue > 1e-3


def test_a_prior_belongs_to_the_posterior():
    prior = np.exp(-0.5 * GRID**2 / 0.25)
    prior /= prior.sum()
    likelihood, truth = experiments(2, 2000, prior=prior)
    assert kstest(expected_coverage(likelihood, truth, seed=2, prior=prior).ranks, "uniform").pvalue > 1e-3
    elsewhere = expected_coverage(*experiments(2, 500), seed=2, prior=prior)  # truths from another prior
    assert not elsewhere.passed


@pytest.mark.parametrize("changes", [{"sharpness": 2.0}, {"shift": 0.5}])
def test_gate_fails_an_overconfident_likelihood(changes):
    found = expected_coverage(*experiments(3, **changes), seed=3)
    assert not found.passed
    assert found.shortfall > 0.05
    assert "below the credibility by at most 0.1" in found.reason


def test_gate_passes_a_conservative_likelihood():
    found = expected_coverage(*experiments(4, sharpness=0.5), seed=4)
    assert found.passed
    assert found.excess > 0.05


def test_gate_forgives_what_does_not_matter():
    found = expected_coverage(*experiments(5, 40_000, sharpness=1.08), seed=5)
    assert found.p_value < 1e-3
    assert found.passed
    assert not expected_coverage(*experiments(5, 40_000, sharpness=1.08), seed=5, tolerance=0.005).passed


def test_likelihoods_that_vanish_somewhere():
    likelihood, truth = experiments(6)
    likelihood[:, 0] = -np.inf
    truth[:3] = 0
    found = expected_coverage(likelihood, truth, seed=6)
    assert found.ranks[:3] == pytest.approx(1.0)
    assert found.coverage[-1] == 1.0


def test_same_seed_same_ranks():
    likelihood, truth = experiments(7, 50)
    first, second, third = (expected_coverage(likelihood, truth, seed=s).ranks for s in (1, 1, 2))
    assert (first == second).all()
    assert (first != third).any()
    assert expected_coverage(likelihood + 1e6, truth, seed=1).ranks == pytest.approx(first, abs=1e-6)


def test_impossible_input():
    likelihood, truth = experiments(8, 20)
    with pytest.raises(InputError, match=r"log-likelihoods \(20, 61\) and truths \(19,\)"):
        expected_coverage(likelihood, truth[1:], seed=1)
    with pytest.raises(InputError, match="a truth is no position on the grid"):
        expected_coverage(likelihood, truth + 61, seed=1)
    with pytest.raises(InputError, match="a truth is no position on the grid"):
        expected_coverage(likelihood, truth / 2.0, seed=1)
    likelihood[4, 7] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinite[\s\S]*experiment 4"):
        expected_coverage(likelihood, truth, seed=1)
    with pytest.raises(InputError, match="is not a distribution over 61 grid points"):
        expected_coverage(np.zeros((20, 61)), truth, seed=1, prior=np.full(61, -1.0))
    with pytest.raises(InputError, match=r"log-likelihoods \(0, 61\)"):
        expected_coverage(likelihood[:0], truth[:0], seed=1)

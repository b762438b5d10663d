"""Closure against Gaussians with an exact ratio."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from neyman.diagnostics import closure
from neyman.errors import InputError


def samples(seed, n=4000):
    rng = np.random.default_rng(seed)
    target, reference = rng.normal(0.5, 1, (n, 1)), rng.normal(-0.5, 1, (n, 1))
    return (target, np.ones(n)), (reference, np.ones(n)), reference[:, 0]  # the exact log-ratio is x


def test_exact_ratio_gives_uniform_p_values():
    p = [closure("p", ["x"], *samples(seed))[0].p_value for seed in range(60)]
    assert kstest(p, "uniform").pvalue > 1e-3


def test_wrong_ratio_fails():
    target, reference, log_ratio = samples(1)
    (found,) = closure("p", ["x"], target, reference, 0.7 * log_ratio)
    assert found.p_value < 1e-6


def test_normalised_contents_and_scale_of_weights():
    (x, w), reference, log_ratio = samples(2)
    (a,) = closure("p", ["x"], (x, w), reference, log_ratio)
    (b,) = closure("p", ["x"], (x, 7.0 * w), reference, log_ratio + 3.0)
    assert sum(a.target) == pytest.approx(1.0)
    assert sum(a.model) == pytest.approx(1.0)
    assert b.chi2 == pytest.approx(a.chi2)


def test_counts_get_one_bin_a_value_and_spikes_their_own():
    rng = np.random.default_rng(3)
    n = 5000
    spike = np.where(rng.random(n) < 0.7, 0.0, rng.exponential(50.0, n) + 20.0)
    x = np.stack([rng.integers(0, 4, n).astype(float), spike], axis=1)
    counts, spiky = closure("p", ["n", "pt"], (x, np.ones(n)), (x, np.ones(n)), np.zeros(n))
    assert counts.edges == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert spiky.target[0] == pytest.approx(np.mean(spike == 0.0))
    assert spiky.chi2 == 0.0


def test_close_discrete_values_get_one_bin_each():
    x = np.repeat([0.0, 0.1, 0.2, 0.4], 100)[:, None]
    (found,) = closure("p", ["x"], (x, np.ones(400)), (x, np.ones(400)), np.zeros(400))
    assert found.edges == pytest.approx([-0.05, 0.05, 0.15, 0.3, 0.5])
    assert found.target == pytest.approx([0.25] * 4)


def test_too_few_events_for_a_p_value():
    x, w = np.zeros((400, 1)), np.ones(400)
    (one_bin,) = closure("p", ["x"], (x, w), (x, w), np.zeros(400))
    assert one_bin.edges == [-0.5, 0.5]
    few = np.arange(8.0)[:, None]
    (no_bin,) = closure("p", ["x"], (few, w[:8]), (few, w[:8]), np.zeros(8))
    assert (one_bin.n_bins, no_bin.n_bins) == (1, 0)
    assert one_bin.p_value is no_bin.p_value is no_bin.to_dict()["p_value"] is None


def test_useless_weights():
    target, (x, w), log_ratio = samples(4)
    with pytest.raises(InputError, match="reweighted reference of 'p' has a total weight of -"):
        closure("p", ["x"], target, (x, -w), log_ratio)

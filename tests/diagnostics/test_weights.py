"""Weights of a reweighted reference with known moments."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import norm

from neyman.diagnostics.weights import ratio_weights
from neyman.errors import InputError


def reference(seed, n=20_000, negative=0.0):
    """Events of N(-1/2, 1); the log-ratio to N(1/2, 1) is x itself, and the weights are log-normal."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < negative, -1.0, 1.0), rng.normal(-0.5, 1.0, n)


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_gate_passes_the_exact_ratio(seed, negative):
    found = ratio_weights(*reference(seed, negative=negative))
    assert found.passed, found.reason
    assert abs(found.normalisation - 1.0) < 4.0 * found.normalisation_error


def test_moments_of_log_normal_weights():
    found = ratio_weights(*reference(1, 400_000))
    assert found.n_effective == pytest.approx(400_000 / np.e, rel=0.05)  # E[w]^2/E[w^2] = exp(-1)
    assert found.efficiency == pytest.approx(np.exp(-1.0), rel=0.05)
    assert found.normalisation_error == pytest.approx(np.sqrt((np.e - 1.0) / 400_000), rel=0.05)
    assert found.top_percent == pytest.approx(norm.sf(norm.isf(0.01) - 1.0), rel=0.05)
    assert found.top_permille == pytest.approx(norm.sf(norm.isf(0.001) - 1.0), rel=0.1)


def test_errors_are_standard_deviations():
    pulls = []
    for seed in range(200):
        found = ratio_weights(*reference([2, seed], 3000, 0.2))
        pulls.append((found.normalisation - 1.0) / found.normalisation_error)
    assert abs(np.mean(pulls)) < 0.25
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize(
    ("scale", "shift", "message"), [(1.0, 0.3, r"E_q\[r\] = 1\.3"), (1.3, 0.0, r"E_q\[r\] = 1\.[12]")]
)
def test_gate_fails_a_broken_ratio(scale, shift, message, negative):
    w, log_ratio = reference(3, negative=negative)
    found = ratio_weights(w, scale * log_ratio + shift)
    assert not found.passed
    assert re.match(message, found.reason)


def test_a_heavy_tail_fails():
    w, log_ratio = reference(3)
    found = ratio_weights(w, 3.0 * log_ratio - 3.0, fewest=1.0, largest=1.0)
    assert not found.passed
    assert re.match(r"tail index [01]\.\d+ \(at most 0\.7\)$", found.reason)


def test_one_event_that_carries_too_much_is_named():
    w, log_ratio = np.ones(1000), np.zeros(1000)
    log_ratio[17] = np.log(200.0)
    found = ratio_weights(w, log_ratio, tolerance=1.0)
    assert found.largest == pytest.approx(200.0 / 1199.0)
    assert "one event carries 16.68% (at most 5.00%)" in found.reason
    assert not found.passed


def test_few_effective_events_fail():
    w, log_ratio = reference(4, 60)
    assert "effective events of 60 before (at least 100)" in ratio_weights(w, log_ratio).reason


def test_equal_weights():
    found = ratio_weights(np.full(2000, 0.5), np.zeros(2000))
    assert found.passed
    assert (found.n_effective, found.efficiency, found.normalisation) == pytest.approx((2000.0, 1.0, 1.0))
    assert (found.normalisation_error, found.tail_index) == (0.0, 0.0)
    assert found.shares == pytest.approx(found.fractions)


def test_hill_estimate_of_a_pareto_tail():
    rng = np.random.default_rng(5)
    weights = rng.pareto(2.0, 200_000) + 1.0  # P(w > t) = t^-2: xi = 1/2
    assert ratio_weights(np.ones(200_000), np.log(weights)).tail_index == pytest.approx(0.5, abs=0.05)


def test_histogram_holds_all_events_with_weight():
    w, log_ratio = reference(6)
    w[:5000] = 0.0
    assert ratio_weights(w, log_ratio).contents.sum() == pytest.approx(0.75)


def test_impossible_input():
    w, log_ratio = reference(7, 100)
    with pytest.raises(InputError, match="the reference has 19 events"):
        ratio_weights(w[:19], log_ratio[:19])
    with pytest.raises(InputError, match="the reference has a total weight of -100"):
        ratio_weights(-w, log_ratio)
    with pytest.raises(InputError, match="the reweighted reference has a total weight of -"):
        ratio_weights(np.where(log_ratio == log_ratio.max(), -1.0, w), 100.0 * log_ratio)
    with pytest.raises(InputError, match=r"log-ratios have shape \(99,\)"):
        ratio_weights(w, log_ratio[1:])

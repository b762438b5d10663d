"""Classifier two-sample test against Gaussians with an exact ratio."""

from __future__ import annotations

import numpy as np
import pytest

from neyman.diagnostics.two_sample import auc, two_sample
from neyman.errors import InputError
from neyman.networks import MLP
from neyman.ratios import LRE
from neyman.training import Settings

SMALL = LRE(MLP((16,)), settings=Settings(steps=150, batch_size=256))


def samples(seed, n=6000, negative=0.0):
    """Two features of N(+-1/2, 1) and N(0, 1), the first is the exact log-ratio."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(2, n, 2))
    p[:, 0] += 0.5
    q[:, 0] -= 0.5
    w_p, w_q = (np.where(rng.random(n) < negative, -1.0, 1.0) for _ in "pq")
    return (p, w_p), (q, w_q), q[:, 0]


@pytest.mark.parametrize("negative", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_gate_passes_the_exact_ratio(seed, negative):
    found = two_sample(["x", "y"], *samples(seed, negative=negative), seed=seed, estimator=SMALL)
    assert found.passed, found.reason
    assert "AUC = 0." in found.reason
    assert (found.target.sum(), found.model.sum()) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("negative", [0.0, 0.1])
@pytest.mark.parametrize("scale", [0.5, 1.6])
def test_gate_fails_a_scaled_log_ratio(scale, negative):
    target, reference, log_ratio = samples(3, negative=negative)
    found = two_sample(["x", "y"], target, reference, scale * log_ratio, seed=3, estimator=SMALL)
    assert not found.passed
    assert found.auc > 0.5
    assert np.max(found.true_positive - found.false_positive) > 0.05


def test_the_default_classifier_sees_a_correlation():
    rng = np.random.default_rng(4)
    p, q = rng.normal(size=(2, 4000, 2))
    p[:, 1] = 0.8 * p[:, 0] + 0.6 * p[:, 1]
    one = np.ones(4000)
    assert two_sample(["x", "y"], (p, one), (q, one), np.zeros(4000), seed=4).auc > 0.6


def test_normalisation_does_not_matter_and_seeds_do():
    target, reference, log_ratio = samples(5, 1000)
    fast = LRE(MLP((8,)), settings=Settings(steps=20, batch_size=64))
    a, b, c = (
        two_sample(["x", "y"], target, reference, log_ratio + shift, seed=seed, estimator=fast).auc
        for shift, seed in ((0.0, 1), (3.0, 1), (0.0, 2))
    )
    assert a == pytest.approx(b, abs=1e-4)
    assert a != c


def test_area_by_comparing_all_pairs():
    rng = np.random.default_rng(6)
    p, q = rng.integers(0, 8, 50).astype(float), rng.integers(0, 6, 40).astype(float)
    w, v = rng.normal(1.0, 0.5, 50), rng.normal(1.0, 0.5, 40)
    w, v = w / w.sum(), v / v.sum()
    won = (p[:, None] > q) + 0.5 * (p[:, None] == q)
    area, error = auc(p, w, q, v)
    assert area == pytest.approx(w @ won @ v)
    variance = w**2 @ (won @ v - area) ** 2 + v**2 @ (w @ won - area) ** 2
    assert error == pytest.approx(np.sqrt(variance))


def test_error_of_the_area_with_signed_weights():
    pulls = []
    for seed in range(200):
        (p, w_p), (q, w_q), log_ratio = samples([7, seed], 1000, 0.1)
        w_q = w_q * np.exp(log_ratio)
        area, error = auc(p[:, 0], w_p / w_p.sum(), q[:, 0], w_q / w_q.sum())
        pulls.append((area - 0.5) / error)
    assert abs(np.mean(pulls)) < 0.25
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)


def test_impossible_input():
    (p, w), (q, v), log_ratio = samples(8, 100)
    with pytest.raises(InputError, match=r"features of the target have shape \(100, 2\)"):
        two_sample(["x"], (p, w), (q, v), log_ratio, seed=1)
    with pytest.raises(InputError, match="the target has a total weight of -100"):
        two_sample(["x", "y"], (p, -w), (q, v), log_ratio, seed=1)
    with pytest.raises(InputError, match="the reweighted reference has a total weight of 0"):
        two_sample(["x", "y"], (p, w), (q, v), log_ratio - 2000.0, seed=1)

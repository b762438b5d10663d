"""Calibration curve against Gaussians with an exact ratio."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import kstest

from neyman.diagnostics.calibration import calibration_curve
from neyman.errors import InputError


def samples(seed, n=10_000, negative=0.0):
    """Log-ratios x of N(+-1/2, 1) are exact; a fraction of the weights is -1."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0.5, 1.0, n), rng.normal(-0.5, 1.0, n)
    w_p, w_q = (np.where(rng.random(n) < negative, -1.0, 1.0) for _ in "pq")
    return p, w_p, q, w_q


def curve(seed, scale=1.0, shift=0.0, **changes):
    p, w_p, q, w_q = samples(seed, **changes)
    return calibration_curve(scale * p + shift, w_p, scale * q + shift, w_q)


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_gate_passes_the_exact_ratio(seed, negative):
    found = curve(seed, negative=negative)
    assert found.passed, found.reason
    assert found.predicted == pytest.approx(found.observed, abs=6.0 * found.error.max())


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize(("scale", "shift"), [(1.3, 0.0), (0.7, 0.0), (1.0, 0.3), (1.0, -0.3), (-1.0, 0.0)])
def test_gate_fails_a_broken_ratio(scale, shift, negative):
    found = curve(1, scale, shift, negative=negative)
    assert not found.passed
    assert found.deviation > 0.03
    assert "is accepted" in found.reason
    assert found.expected_error > 0.03


def test_a_wrong_normalisation_shifts_the_curve():
    found = curve(2, shift=0.2, n=50_000)
    exact = expit(np.log(found.predicted / (1.0 - found.predicted)) - 0.2)
    assert found.observed == pytest.approx(exact, abs=4.0 * found.error.max())


def test_p_values_are_uniform_but_for_the_normalisation():
    found = [curve([3, seed], n=3000) for seed in range(300)]
    per_bin = np.mean([one.chi2 / len(one.share) for one in found])
    assert per_bin == pytest.approx(0.95, abs=0.05)  # one degree of freedom of 20 is lost
    assert kstest([one.p_value for one in found], "uniform", alternative="greater").pvalue > 1e-3


def test_signed_weights_have_larger_errors():
    one, two = curve(4), curve(4, negative=0.2)
    assert np.median(two.error / one.error) == pytest.approx(1.0 / 0.6, rel=0.1)  # sqrt(n)/(1 - 2 * 0.2)


def test_weight_two_is_not_two_events():
    p, w_p, q, w_q = samples(5)
    scaled = calibration_curve(p, 3.0 * w_p, q, 0.1 * w_q)
    assert scaled.chi2 == pytest.approx(curve(5).chi2)


def test_gate_forgives_what_does_not_matter():
    found = curve(6, shift=0.02, n=400_000)
    assert found.p_value < 1e-6
    assert found.passed
    p, w_p, q, w_q = samples(6, 400_000)
    assert not calibration_curve(p + 0.02, w_p, q + 0.02, w_q, tolerance=0.001).passed


def test_a_bin_with_one_class_alone_is_seen_when_the_other_was_predicted():
    rng = np.random.default_rng(7)
    p, q = (
        rng.uniform(0.3, 0.4, 2000),
        rng.uniform(-0.4, -0.3, 2000),
    )  # far too timid: the classes are separate
    found = calibration_curve(p, np.ones(2000), q, np.ones(2000))
    assert set(found.observed) == {0.0, 1.0}
    assert not found.passed


def test_certainty_that_is_right_passes_and_that_is_wrong_fails():
    one = np.ones(1000)
    assert calibration_curve(800.0 * one, one, -800.0 * one, one).passed
    mixed = np.where(np.arange(1000) < 950, 800.0, -800.0)
    wrong = calibration_curve(mixed, one, -mixed, one)
    assert not wrong.passed
    assert np.isfinite(wrong.chi2)


def test_bins_cover_all_events():
    found = curve(8, negative=0.2)
    assert found.share.sum() == pytest.approx(1.0)
    assert len(found.edges) == len(found.share) + 1
    assert (np.diff(found.edges) > 0.0).all()
    assert ((found.predicted > found.edges[:-1]) & (found.predicted < found.edges[1:])).all()


def test_impossible_input():
    p, w_p, q, w_q = samples(9, 100)
    with pytest.raises(InputError, match="too few events for a calibration curve"):
        calibration_curve(p[:4], w_p[:4], q[:4], w_q[:4])
    with pytest.raises(InputError, match="the numerator has a total weight of -100"):
        calibration_curve(p, -w_p, q, w_q)
    with pytest.raises(InputError, match="log-ratios of the denominator are not finite"):
        calibration_curve(p, w_p, np.where(q > 0, np.inf, q), w_q)
    with pytest.raises(InputError, match=r"weights of the denominator have shape \(99,\)"):
        calibration_curve(p, w_p, q, w_q[1:])

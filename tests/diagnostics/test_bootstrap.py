"""Intervals of known profiles, and the coverage of Gaussian means by bootstrap against its closed form."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import erf, lambertw
from scipy.stats import chisquare

from neyman.diagnostics.bootstrap import (
    Intervals,
    bootstrap_coverage,
    intervals,
    resample,
    resampled_coverage,
)
from neyman.errors import InputError

X = np.linspace(-2.0, 3.0, 251)


def test_resampled_sets_draw_every_event_equally():
    counts = resample(50, size=30, n_sets=400, seed=1)
    assert counts.shape == (400, 50)
    assert (counts.sum(axis=1) == 30).all()
    assert chisquare(counts.sum(axis=0)).pvalue > 1e-3
    # With replacement: the number of draws of one event in one set is binomial.
    assert counts.var() == pytest.approx(30 / 50 * (1 - 1 / 50), rel=0.05)
    np.testing.assert_array_equal(counts, resample(50, size=30, n_sets=400, seed=1))
    assert (counts != resample(50, size=30, n_sets=400, seed=2)).any()


@pytest.mark.parametrize("within", [None, 2.0, 8.0])
def test_intervals_of_parabolas(within):
    best, width = np.array([0.3, 0.311, 1.0]), np.array([0.2, 0.15, 0.4])
    profile = 40.0 + 0.5 * ((X - best[:, None]) / width[:, None]) ** 2
    found = intervals(X, profile, within=within)
    np.testing.assert_allclose(found.best, best, atol=1e-9)
    np.testing.assert_allclose(found.low, best - width, atol=1e-9)
    np.testing.assert_allclose(found.high, best + width, atol=1e-9)
    wider = intervals(X, profile, rise=2.0, within=within)
    np.testing.assert_allclose(wider.width, 4.0 * width, atol=1e-8)


def test_intervals_of_skewed_profiles():
    nll = 0.5 * (X / 0.4) ** 2 + 0.6 * X**3 + 0.5 * X**4
    found = intervals(X, nll, within=None)
    low, high = sorted(t.real for t in np.roots([0.5, 0.6, 0.5 / 0.16, 0.0, -0.5]) if abs(t.imag) < 1e-12)
    assert (found.best[0], found.low[0], found.high[0]) == pytest.approx((0.0, low, high), abs=1e-9)
    assert high < -low


def test_fit_near_the_minimum_of_a_profile_that_is_no_polynomial():
    x = np.linspace(0.001, 0.5, 600)
    profile = 200.0 * (x / 0.2 - np.log(x / 0.2))  # Poisson with 200 expected at 0.2
    near, far = (intervals(x, profile, within=within) for within in (2.0, None))
    low, high = (-0.2 * lambertw(-math.exp(-1.0 - 0.5 / 200.0), branch).real for branch in (0, -1))
    assert (near.low[0], near.high[0]) == pytest.approx((low, high), rel=2e-5)
    assert abs(far.width[0] / (high - low) - 1.0) > 0.1


def test_ends_beyond_the_grid_and_open_intervals():
    x = np.linspace(0.0, 1.0, 101)
    beyond = intervals(x, 0.5 * ((x - 0.1) / 0.3) ** 2)
    assert (beyond.low[0], beyond.high[0]) == pytest.approx((-0.2, 0.4))
    edge = intervals(x, x)
    assert (edge.best[0], edge.low[0], edge.high[0]) == pytest.approx((0.0, -np.inf, 0.5), abs=1e-9)
    flat = intervals(x, [0.1 * x, 0.5 * ((x - 0.5) / 0.1) ** 2])
    assert flat.closed.tolist() == [False, True]
    assert flat.contain(0.45).tolist() == [True, True]
    assert flat.contain(0.8).tolist() == [True, False]


def gaussian_intervals(n, k, n_tests, seed):
    """Intervals of the mean of n events of unit variance from test sets of k n events, by the closed form."""
    rng = np.random.default_rng(seed)
    found = []
    for t in range(n_tests):
        x = rng.normal(0.0, 1.0, k * n)
        best = resample(len(x), size=n, n_sets=50, seed=t) @ x / n
        found.append(Intervals(best, best - n**-0.5, best + n**-0.5))
    return found


@pytest.mark.parametrize("k", [1, 9])
def test_bootstrap_bias_of_the_coverage(k):
    expected = resampled_coverage(k)
    assert expected == pytest.approx(erf(1.0 / math.sqrt(2.0 * (1.0 + 1.0 / k))), abs=1e-4)
    found = bootstrap_coverage(
        gaussian_intervals(100, k, 400, 1), [0.0] * 400, parameter="mean", expected=expected
    )
    assert found.coverage == pytest.approx(expected, abs=4.0 * found.coverage_error)
    assert found.coverage_error < 0.02
    assert found.width == pytest.approx(0.2)
    assert found.passed


def fixed(low, high, n=4):
    return Intervals(np.full(n, 0.5 * (low + high)), np.full(n, low), np.full(n, high))


def test_counting():
    half_open = Intervals(np.zeros(2), np.array([-np.inf, 0.0]), np.ones(2))
    sets = [fixed(0.0, 1.0), fixed(0.0, 1.0), fixed(2.0, 4.0), half_open]
    found = bootstrap_coverage(sets, [0.5, 2.0, 3.0, -1.0], parameter="z", expected=0.65)
    assert found.coverage == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found.coverage_error == pytest.approx(np.std([1, 0, 1, 0.5], ddof=1) / 2)
    assert found.width == pytest.approx((1 + 1 + 2 + 1) / 4)
    assert found.width_error == pytest.approx(np.std([1, 1, 2, 1], ddof=1) / 2)
    assert (found.n_test_sets, found.n_intervals, found.n_open) == (4, 14, 1)
    single = bootstrap_coverage([half_open], [-1.0], parameter="z", expected=0.5)
    assert single.coverage_error == pytest.approx(math.sqrt(0.5 * 0.5 / 2))
    assert math.isnan(single.width_error)


def test_gate():
    sets = [fixed(0.0, 1.0), fixed(0.0, 1.0), fixed(2.0, 4.0)]
    truth = [0.5, 0.5, 0.0]
    good = bootstrap_coverage(sets, truth, parameter="z", expected=0.66, expected_width=1.32)
    assert good.passed
    assert good.reason == "coverage of z 0.667 is within 0.05 of 0.660"
    bad = bootstrap_coverage(sets, truth, parameter="z", expected=0.6, expected_width=1.4)
    assert not bad.passed
    assert bad.reason == (
        "coverage of z 0.667 +- 0.333 differs from 0.600 by more than 0.05;"
        " width of z 1.333 differs from 1.4 by more than 3%"
    )
    plain = json.loads(json.dumps(bad.to_dict()))
    assert (plain["name"], plain["passed"]) == ("bootstrap coverage of z", False)
    open_only = Intervals(np.zeros(2), np.full(2, -np.inf), np.full(2, np.inf))
    lost = bootstrap_coverage([open_only], [0.0], parameter="z", expected=1.0, expected_width=1.0)
    assert not lost.passed
    assert (lost.coverage, lost.to_dict()["width"]) == (1.0, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample(10, size=0, n_sets=2, seed=1), "size must be positive, got 0"),
        (lambda: resample(0, size=1, n_sets=2, seed=1), "n_events must be positive, got 0"),
        (lambda: resampled_coverage(0), "no coverage for k = 0"),
        (lambda: resampled_coverage(1, cl=1.0), "cl = 1"),
        (lambda: intervals(X, np.zeros((2, 3))), r"values of shape \(251,\) and profiles of shape \(2, 3\)"),
        (lambda: intervals(X[::-1], X**2), "expected: rising"),
        (lambda: intervals(X, [X, np.where(X > 2, np.nan, X)]), "the profile of data set 1 is not finite"),
        (
            lambda: intervals(X, [0.1 * X**2, 1e5 * X**2]),
            "only 1 values of the grid lie near the minimum of data set 1\n.*at least 5",
        ),
        (
            lambda: bootstrap_coverage([], [], parameter="z", expected=0.6),
            "0 test sets and 0 true values of z",
        ),
        (
            lambda: bootstrap_coverage([fixed(0, 1)], [], parameter="z", expected=0.6),
            "1 test sets and 0 true",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()

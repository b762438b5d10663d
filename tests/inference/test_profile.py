"""`profile` and `ProfileResult.interval` against closed forms, and `crossing`."""

from __future__ import annotations

import importlib
import json
import math

import numpy as np
import pytest
import torch

from neyman.errors import InferenceError
from neyman.inference import fit, profile
from neyman.inference.crossing import crossing
from neyman.inference.profile import ProfileCurve
from neyman.likelihood import Constraint, Parameter


def test_profile_of_a_gaussian_is_a_parabola(linear):
    lh, covariance = linear
    best = fit(lh)
    result = profile(lh, "mu")
    expected = (result.grid - best.values["mu"]) ** 2 / covariance[0, 0]
    assert len(result.grid) == 31
    assert result.grid[-1] - result.grid[0] == pytest.approx(6.0 * math.sqrt(covariance[0, 0]), rel=1e-9)
    np.testing.assert_allclose(result.delta, expected, atol=1e-8)
    assert result.valid.all()
    slopes = covariance[:, 0] / covariance[0, 0]
    np.testing.assert_allclose(
        result.parameters, best.values.array + np.outer(result.grid - best.values["mu"], slopes), atol=1e-7
    )
    low, high = result.interval(4.0)
    assert low == pytest.approx(best.values["mu"] - 2.0 * best.errors["mu"], abs=1e-8)
    assert high == pytest.approx(best.values["mu"] + 2.0 * best.errors["mu"], abs=1e-8)


def test_profile_of_a_count(counting):
    """A likelihood of one parameter alone: nothing is left to fit at each point."""
    lh = counting(lambda t: 9.0 * t, [9.0], Parameter("mu", 1.5, 0.01, 10.0))
    result = profile(lh, "mu", np.linspace(0.3, 2.5, 23))
    grid = result.grid
    np.testing.assert_allclose(result.delta, 18.0 * (grid - np.log(grid) - 1.0), atol=1e-9)
    minos = fit(lh, minos=("mu",)).minos["mu"]
    low, high = result.interval()
    assert low == pytest.approx(1.0 + minos.lower, abs=2e-4)
    assert high == pytest.approx(1.0 + minos.upper, abs=2e-4)


def test_interval_is_open_where_the_grid_ends(linear):
    lh, covariance = linear
    best, sigma = fit(lh), math.sqrt(covariance[0, 0])
    result = profile(lh, "mu", best.values["mu"] + sigma * np.array([-0.5, 0.0, 0.5, 1.5]), best=best)
    low, high = result.interval()
    assert low is None
    assert high == pytest.approx(best.values["mu"] + sigma, abs=1e-7)
    assert result.interval(9.0) == (None, None)
    with pytest.raises(InferenceError, match="level of an interval must be positive"):
        result.interval(0.0)


def test_invalid_points_are_left_out_of_the_interval(linear):
    lh, _ = linear
    result = profile(lh, "mu")
    broken = type(result)(
        result.parameter, result.names, result.grid, result.delta.copy(), result.valid.copy(), result.parameters,
        result.best,
    )  # fmt: skip
    broken.delta[20], broken.valid[20] = math.nan, False
    assert broken.interval() == pytest.approx(result.interval(), abs=1e-8)
    assert broken.to_dict()["delta"][20] is None
    json.dumps(broken.to_dict(), allow_nan=False)


def test_default_grid_stays_within_the_bounds(counting):
    lh = counting(lambda t: 10.0 * t[:1] + 5.0, [4.0], Parameter("mu", 1.0, 0.0, 10.0))
    result = profile(lh, "mu")
    assert result.grid[0] == 0.0
    assert result.delta[0] == pytest.approx(0.0, abs=1e-9)
    assert result.interval()[0] is None
    assert result.interval()[1] > 0.0


def test_grid_order_does_not_matter(linear):
    lh, _ = linear
    first, second = profile(lh, "tes", [0.5, -0.5, 0.1]), profile(lh, 1, [-0.5, 0.1, 0.5])
    np.testing.assert_array_equal(first.grid, [-0.5, 0.1, 0.5])
    np.testing.assert_allclose(first.delta, second.delta, atol=1e-9)


def test_fixed_parameters_stay(linear):
    lh, covariance = linear
    rest = np.linalg.inv(np.linalg.inv(covariance)[np.ix_([0, 3], [0, 3])])
    explicit = profile(lh, "mu", fixed={"tes": 0.3, "jes": 0.0})
    inherited = profile(lh, "mu", best=fit(lh, fixed={"tes": 0.3, "jes": 0.0}))
    for result in (explicit, inherited):
        assert (result.parameters[:, 1] == 0.3).all()
        expected = (result.grid - result.best.values["mu"]) ** 2 / rest[0, 0]
        np.testing.assert_allclose(result.delta, expected, atol=1e-8)


def test_a_lower_minimum_met_by_the_scan_becomes_the_best(function):
    """A double well, entered from the shallow side."""
    lh = function(
        lambda t: 2.0 * (t[0] ** 2 - 4.0) ** 2 - t[0] + (t[1] - t[0]) ** 2,
        Parameter("a", -1.8, -5.0, 5.0),
        Parameter("b", 0.0, -5.0, 5.0),
    )
    shallow = fit(lh)
    assert shallow.values["a"] == pytest.approx(-2.0, abs=0.1)
    result = profile(lh, "a", np.linspace(-2.5, 2.5, 21), best=shallow)
    assert result.best.values["a"] == pytest.approx(2.0, abs=0.1)
    assert result.delta.min() >= 0.0
    assert any("the scan met a lower minimum" in message for message in result.best.messages)


def test_points_where_the_likelihood_fails_are_invalid(counting):
    lh = counting(
        lambda t: torch.stack([2.0 * t[0] + 0.0 * t[1], 5.0 + t[1]]),
        [1.0, 5.0],
        Parameter("mu", 1.0, -10.0, 10.0),
        Parameter("alpha", 0.0, -4.0, 4.0, constraint=Constraint("normal", 0.0, 1.0)),
    )
    result = profile(lh, "mu", [-0.5, 0.25, 0.5, 1.0])
    np.testing.assert_array_equal(result.valid, [False, True, True, True])
    assert math.isnan(result.delta[0])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("muu",), "nearest names: mu"),
        (("mu", [0.0, 11.0]), r"grid of 'mu' is not usable: 11 is outside the bounds\n.*\[-10, 10\]"),
        (("mu", [0.0, math.nan]), "nan is outside the bounds"),
        (("mu", []), "it is empty"),
        (("mu", [[0.0, 1.0]]), "one-dimensional"),
    ],
)
def test_bad_arguments(linear, arguments, match):
    with pytest.raises(InferenceError, match=match):
        profile(linear[0], *arguments)


def test_bad_fixed(linear, function):
    lh, _ = linear
    with pytest.raises(InferenceError, match="'mu' is fixed and cannot be scanned"):
        profile(lh, "mu", fixed=["mu"])
    with pytest.raises(InferenceError, match=r"best fit was made with other parameters fixed\n.*there: none"):
        profile(lh, "mu", fixed=["tes"], best=fit(lh))
    flat = function(lambda t: (t[0] + t[1] - 1.0) ** 2, Parameter("a", 0, -1, 1), Parameter("b", 0, -1, 1))
    with pytest.raises(InferenceError, match=r"no error of 'a' to choose a grid by\n.*not positive definite"):
        profile(flat, "a")


def test_profile_and_minos_against_a_dense_grid(counting):
    """The minimum over the nuisance parameter by brute force, and Wilks' level on it."""
    alpha = Parameter("alpha", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    lh = counting(
        lambda t: 12.0 * t[:1] * torch.exp(0.1 * t[1:]) + 6.0 + 2.0 * t[1:],
        [15.0],
        Parameter("mu", 1.0, 0.0, 10.0),
        alpha,
    )
    mus, alphas = np.linspace(0.0, 2.5, 1001)[:, None], np.linspace(-2.5, 2.5, 801)[None, :]
    rate = 12.0 * mus * np.exp(0.1 * alphas) + 6.0 + 2.0 * alphas
    value = 2.0 * (rate - 15.0 * np.log(rate)) + alphas**2
    dense = value.min(axis=1) - value.min()
    low, high = np.interp([-1.0, 1.0], np.sign(mus[:, 0] - 0.75) * np.sqrt(dense), mus[:, 0])
    best = fit(lh, minos="mu")
    assert best.values["mu"] == pytest.approx(0.75, abs=1e-6)
    minos, found = best.minos["mu"], profile(lh, "mu", np.linspace(0.0, 2.5, 26), best=best)
    assert (0.75 + minos.lower, 0.75 + minos.upper) == pytest.approx((low, high), abs=2e-3)
    assert found.interval() == pytest.approx((low, high), abs=2e-3)
    np.testing.assert_allclose(found.delta, dense[::40], atol=1e-4)


# ProfileCurve ---------------------------------------------------------------------------------------------


def test_a_curve_remembers_its_fits(linear, monkeypatch):
    lh, covariance = linear
    curve = ProfileCurve(lh, 0, {})
    centre = curve.best.values["mu"]
    assert curve.rise(centre + 0.4) == pytest.approx(0.16 / covariance[0, 0], rel=1e-6)
    assert curve.rise(centre) == pytest.approx(0.0, abs=1e-9)
    first = curve.at(centre + 0.4)
    monkeypatch.setattr(importlib.import_module("neyman.inference.profile"), "scan_point", None)
    assert curve.at(centre + 0.4) is first


def test_a_curve_moves_to_a_lower_minimum(function):
    lh = function(lambda t: 2.0 * (t[0] ** 2 - 4.0) ** 2 - t[0] + (t[1] - t[0]) ** 2,
                  Parameter("a", -1.8, -5.0, 5.0), Parameter("b", 0.0, -5.0, 5.0))  # fmt: skip
    curve = ProfileCurve(lh, 0, {}, fit(lh))
    assert curve.best.values["a"] < 0.0
    assert curve.rise(1.9) > 0.0
    assert curve.best.values["a"] == pytest.approx(2.0, abs=0.1)


def test_curves_say_which_fit_failed(counting, function):
    lh = counting(lambda t: 2.0 * t, [1.0], Parameter("mu", 0.5, -10.0, 10.0))
    with pytest.raises(InferenceError, match=r"fit with 'mu' at -1 failed\n.*undefined there"):
        ProfileCurve(lh, 0, {}).at(-1.0)
    a, b = (Parameter(name, 0.5, -1.0, 1.0) for name in "ab")
    with pytest.raises(InferenceError, match="fit with everything free is not valid"):
        ProfileCurve(function(lambda t: (t[0] + t[1] - 1.0) ** 2, a, b), 0, {})


# crossing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.01, 0.5, 1.0, 7.0, -0.01, -3.0])
@pytest.mark.parametrize("level", [1.0, 3.84])
def test_crossing_of_a_parabola(step, level):
    calls = []

    def rise(x):
        calls.append(x)
        return (x - 2.0) ** 2

    found = crossing(rise, 2.0, step, math.copysign(100.0, step), level)
    assert found == pytest.approx(2.0 + math.copysign(math.sqrt(level), step), rel=1e-5)
    assert len(calls) < 8


def test_crossing_of_a_skewed_curve():
    def rise(x):
        return 6.0 * (x - math.log(x) - 1.0)

    for step, limit in ((0.3, 50.0), (-0.3, 1e-6)):
        found = crossing(rise, 1.0, step, limit)
        assert rise(found) == pytest.approx(1.0, abs=1e-4)
        assert (found - 1.0) * step > 0.0


def test_crossing_stops_at_the_limit_and_at_failures():
    assert crossing(lambda x: x**2, 0.0, 0.3, 0.5) is None
    assert crossing(lambda x: x**2, 0.0, 0.3, 1.5) == pytest.approx(1.0, abs=1e-4)
    assert crossing(lambda x: x**2, 0.0, -0.3, 0.0) is None
    assert crossing(lambda _: math.nan, 0.0, 0.3, 0.5) is None

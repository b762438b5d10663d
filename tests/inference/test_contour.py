"""`contour` against ellipses, the definition of its levels, and bounds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from neyman.errors import InferenceError
from neyman.inference import contour, fit
from neyman.likelihood import Constraint, Parameter


def rise(result, curve):
    """Quadratic form of the points in the inverse covariance of the two parameters."""
    i = [result.best.names.index(name) for name in result.parameters]
    off = curve.points - result.best.values.array[i]
    return np.einsum("ni,ij,nj->n", off, np.linalg.inv(result.best.covariance.array[np.ix_(i, i)]), off)


def test_contour_of_a_gaussian_is_an_ellipse(linear):
    lh, covariance = linear
    result = contour(lh, "mu", "jes", points=24)
    assert result.parameters == ("mu", "jes")
    assert [curve.cl for curve in result.levels] == [0.683, 0.955]
    for curve in result.levels:
        assert curve.level == pytest.approx(-2.0 * math.log(1.0 - curve.cl), rel=1e-12)
        assert curve.points.shape == (24, 2)
        assert curve.valid.all()
        assert not curve.at_bound.any()
        np.testing.assert_allclose(rise(result, curve), curve.level, rtol=1e-6)
        # The other parameters are at their conditional minima.
        slopes = covariance[np.ix_([1, 3], [0, 2])] @ np.linalg.inv(covariance[np.ix_([0, 2], [0, 2])])
        off = curve.parameters - result.best.values.array
        np.testing.assert_allclose(off[:, [1, 3]], off[:, [0, 2]] @ slopes.T, atol=1e-7)
    # The ellipse of 68.3% in two dimensions reaches sqrt(2.30) standard deviations.
    reach = np.abs(result.levels[0].points[:, 0] - result.best.values["mu"]).max()
    assert reach == pytest.approx(math.sqrt(chi2.ppf(0.683, 2) * covariance[0, 0]), rel=0.02)
    assert result.messages == ()


def test_every_point_of_a_skewed_contour_is_on_the_level(counting):
    gamma = Parameter("gamma", 1.0, 1e-3, 10.0, constraint=Constraint("poisson", 9.0, 9.0))
    lh = counting(lambda t: torch.stack([6.0 * t[0] + 4.0 * t[1], 8.0 * t[1] * t[2]]), [11.0, 7.0],
                  Parameter("mu", 1.0, -5.0, 10.0), gamma, Parameter("norm", 1.0, 0.0, 10.0))  # fmt: skip
    result = contour(lh, 0, 2, cl=0.9, points=12)
    (curve,) = result.levels
    assert curve.valid.all()
    for point in curve.points:
        there = fit(lh, fixed=dict(zip(result.parameters, point, strict=True)))
        assert there.fval - result.best.fval == pytest.approx(chi2.ppf(0.9, 2), rel=1e-4)
    low, high = curve.points[:, 1].min(), curve.points[:, 1].max()
    assert high - result.best.values["norm"] > 1.2 * (result.best.values["norm"] - low)


def test_a_bound_cuts_the_contour(counting):
    alpha = Parameter("alpha", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    lh = counting(lambda t: 10.0 * t[:1] + 5.0 + t[1:], [8.0], Parameter("mu", 1.0, 0.0, 10.0), alpha)
    result = contour(lh, "mu", "alpha", cl=0.955, points=40)
    (curve,) = result.levels
    assert curve.valid.all()
    assert 0 < curve.at_bound.sum() < 40
    np.testing.assert_allclose(curve.points[curve.at_bound, 0], 0.0, atol=1e-12)
    assert (lh.value(curve.parameters[curve.at_bound]) - result.best.fval < curve.level).all()
    assert "cut by a bound" in result.messages[0]


def test_a_best_fit_on_a_bound(counting):
    """Two rays run along the bound, so the curve is closed on it."""
    alpha = Parameter("alpha", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    lh = counting(lambda t: 10.0 * t[:1] + 5.0 + t[1:], [3.0], Parameter("mu", 1.0, 0.0, 10.0), alpha)
    result = contour(lh, "mu", "alpha", cl=0.683, points=20)
    assert result.best.at_bounds == ("mu",)
    (curve,) = result.levels
    along = (curve.points[:, 0] == 0.0) & ~curve.at_bound
    assert along.sum() == 2
    for point in curve.points[along]:
        rate = 5.0 + point[1]
        best = 5.0 + result.best.values["alpha"]
        expected = 2.0 * (rate - best - 3.0 * math.log(rate / best))
        expected += point[1] ** 2 - result.best.values["alpha"] ** 2
        assert expected == pytest.approx(curve.level, rel=1e-4)


def test_fixed_parameters_stay(linear):
    lh, covariance = linear
    rest = np.linalg.inv(np.linalg.inv(covariance)[np.ix_([0, 3], [0, 3])])
    result = contour(lh, "mu", "norm", cl=0.5, points=8, fixed={"tes": 0.3, "jes": 0.0})
    (curve,) = result.levels
    assert (curve.parameters[:, 1] == 0.3).all()
    off = curve.points - result.best.values.array[[0, 3]]
    np.testing.assert_allclose(
        np.einsum("ni,ij,nj->n", off, np.linalg.inv(rest), off), curve.level, rtol=1e-6
    )


def test_a_lower_minimum_becomes_the_centre(function):
    lh = function(
        lambda t: 0.1 * (t[0] ** 2 - 4.0) ** 2 - t[0] + (t[1] - t[0]) ** 2,
        Parameter("a", -1.8, -5.0, 5.0),
        Parameter("b", 0.0, -5.0, 5.0),
    )
    shallow = fit(lh)
    assert shallow.values["a"] < 0.0
    result = contour(lh, "a", "b", cl=0.9, points=12, best=shallow)
    assert result.best.values["a"] == pytest.approx(2.0, abs=0.5)
    assert any("the contour met a lower minimum" in message for message in result.best.messages)
    assert (result.levels[0].parameters[:, 0] > 0.0).any()


def test_steps_into_the_undefined_are_taken_back(counting):
    """At 99.9% the first guess is beyond the edge where the rate turns negative."""
    lh = counting(lambda t: torch.stack([2.0 * t[0], 20.0 + t[1]]), [4.0, 20.0],
                  Parameter("mu", 1.0, -10.0, 30.0), Parameter("b", 0.0, -15.0, 50.0))  # fmt: skip
    result = contour(lh, "mu", "b", cl=0.999, points=8)
    (curve,) = result.levels
    assert curve.valid.all()
    assert (curve.points[:, 0] > 0.0).all()


def test_points_that_cannot_be_found_are_named(counting):
    """Beyond an edge inside the contour the likelihood is undefined."""
    lh = counting(lambda t: torch.stack([100.0 + t[0], torch.where(t[0] > 2.0, -1.0, 1.0), 100.0 + t[1]]),
                  [100.0, 1.0, 100.0], Parameter("mu", 1.0, -90.0, 90.0), Parameter("b", 0.0, -90.0, 90.0))  # fmt: skip
    result = contour(lh, "mu", "b", cl=0.683, points=8)
    (curve,) = result.levels
    assert not curve.valid.all()
    assert curve.valid.sum() >= 5
    assert np.isnan(curve.points[~curve.valid]).all()
    assert result.messages[0].startswith(f"{(~curve.valid).sum()} of 8 points at 0.683 failed: ")
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["messages"] == list(result.messages)
    assert document["levels"][0]["points"][int(np.nonzero(~curve.valid)[0][0])] == [None, None]
    assert "68.3%" in str(result)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"second": "jess"}, "nearest names: jes"),
        ({"second": "mu"}, "two parameters, got 'mu' twice"),
        ({"cl": 1.0}, r"confidence level is 1.0\n.*between 0 and 1"),
        ({"cl": (0.5, math.nan)}, "confidence level is nan"),
        ({"points": 7}, "7 points is not a curve"),
        ({"fixed": ["jes"]}, "parameter of interest 'jes' is fixed"),
    ],
)
def test_bad_arguments(linear, arguments, match):
    lh, _ = linear
    with pytest.raises(InferenceError, match=match):
        contour(lh, **{"first": "mu", "second": "jes", **arguments})


def test_bad_likelihoods(function):
    a, b, c = (Parameter(name, 0.5, -1.0, 1.0) for name in "abc")
    with pytest.raises(InferenceError, match=r"does not depend on 'b'\n.*\n.*\n.*attach it to the signal"):
        contour(function(lambda t: t[0] ** 2 + 0.0 * t[1], a, b), "a", "b")
    flat = function(lambda t: (t[0] + t[1] - 1.0) ** 2 + t[2] ** 2, a, b, c)
    with pytest.raises(InferenceError, match=r"best fit is not valid.*\n.*not positive definite"):
        contour(flat, "a", "c")

"""`impacts` and `breakdown` against the closed forms of a linear Gaussian model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from neyman.errors import InferenceError
from neyman.inference import breakdown, fit, impacts
from neyman.likelihood import Constraint, Parameter

PREFIT = {"tes": (0.0, 1.0), "jes": (0.2, 0.5)}


def test_global_observables(linear):
    """Moving an observable by its error moves the answer by C_pk / sigma_k."""
    lh, covariance = linear
    result = impacts(lh, "mu")
    for k, name in ((1, "tes"), (2, "jes")):
        expected = covariance[0, k] / PREFIT[name][1]
        assert result[name].up == pytest.approx(expected, abs=1e-8)
        assert result[name].down == pytest.approx(-expected, abs=1e-8)
        assert result[name].kind == "global_observables"


@pytest.mark.parametrize("kind", ["refit", "covariance"])
def test_refit_and_covariance(linear, kind):
    lh, covariance = linear
    result = impacts(lh, "mu", kind=kind)
    for k, name in ((1, "tes"), (2, "jes"), (3, "norm")):
        expected = covariance[0, k] / math.sqrt(covariance[k, k])
        assert result[name].up == pytest.approx(expected, abs=1e-8)
        assert result[name].down == pytest.approx(-expected, abs=1e-8)
        assert result[name].kind == kind


def test_free_parameters_are_refitted_and_marked(linear):
    lh, covariance = linear
    norm = impacts(lh, "mu")["norm"]
    assert norm.kind == "refit"
    assert norm.up == pytest.approx(covariance[0, 3] / math.sqrt(covariance[3, 3]), abs=1e-8)
    assert norm.pull is None
    assert norm.constraint is None


def test_pulls_constraints_and_order(linear):
    lh, covariance = linear
    best = fit(lh)
    result = impacts(lh, 0, best=best)
    for k, name in ((1, "tes"), (2, "jes")):
        centre, sigma = PREFIT[name]
        assert result[name].pull == pytest.approx((best.values[name] - centre) / sigma, abs=1e-9)
        assert result[name].constraint == pytest.approx(math.sqrt(covariance[k, k]) / sigma, rel=1e-9)
    sizes = [impact.size for impact in result]
    assert sizes == sorted(sizes, reverse=True)
    assert len(result) == 3
    assert result.poi == "mu"
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["impacts"][0]["name"] == result[0].name


def test_squares_of_impacts_and_statistical_variance_add_up(gaussian):
    """Without free parameters the systematic variance is the sum of the squared impacts, plus the data's part."""
    parameters = [Parameter("mu", 0.0, -9.0, 9.0)]
    parameters += [
        Parameter(n, 0.0, -9.0, 9.0, constraint=Constraint("normal", 0.0, 1.0)) for n in ("tes", "jes")
    ]
    lh = gaussian([[1.0, 0.7, -0.4], [0.0, 1.0, 0.5]], [0.5, 0.6], [1.0, 0.3], parameters)
    best = fit(lh)
    weighted = np.array([[1.0, 0.7, -0.4], [0.0, 1.0, 0.5]]) / np.array([0.5, 0.6])[:, None]
    data = best.covariance.array @ weighted.T
    total = sum(impact.up**2 for impact in impacts(lh, "mu", best=best)) + (data[0] ** 2).sum()
    assert total == pytest.approx(best.errors["mu"] ** 2, rel=1e-7)


def counts(counting, observed, tau):
    """n = mu s + b gamma with gamma from the count `observed` of Pois(tau gamma)."""
    gamma = Parameter("gamma", 1.0, 1e-3, 10.0, constraint=Constraint("poisson", observed, tau))
    return counting(lambda t: 50.0 * t[:1] + 30.0 * t[1:], [95.0], Parameter("mu", 1.0, -10.0, 10.0), gamma)


def test_poisson_constraint(counting):
    result = impacts(counts(counting, 26.0, 20.0), "mu")["gamma"]
    expected = -30.0 * math.sqrt(26.0) / 20.0 / 50.0
    assert result.up == pytest.approx(expected, abs=1e-7)
    assert result.down == pytest.approx(-expected, abs=1e-7)
    assert result.pull == pytest.approx(0.0, abs=1e-6)
    assert result.constraint == pytest.approx(1.0, abs=1e-6)
    assert result.kind == "global_observables"


def test_count_too_small_to_shift_is_refitted(counting):
    result = impacts(counts(counting, 0.6, 0.6), "mu")["gamma"]
    assert result.kind in ("refit", "covariance")
    assert result.pull == pytest.approx(0.0, abs=1e-5)
    assert result.up < 0.0 < result.down


def test_shift_over_a_bound_uses_the_covariance(gaussian):
    parameters = [Parameter("mu", 0.0, -9.0, 9.0), Parameter("norm", 0.5, 0.0, 10.0)]
    lh = gaussian([[1.0, 1.0], [0.0, 1.0]], [0.5, 1.0], [1.0, 0.3], parameters)
    result = impacts(lh, "mu", kind="refit")["norm"]
    assert result.kind == "covariance"
    assert result.up == pytest.approx(-1.0, rel=1e-9)


def test_asymmetric_effects_differ_up_and_down(counting):
    alpha = Parameter("alpha", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    lh = counting(
        lambda t: 100.0 * t[0] * torch.exp(0.3 * t[1:]), [100.0], Parameter("mu", 1.0, 0.0, 10.0), alpha
    )
    result = impacts(lh, "mu")["alpha"]
    assert result.up == pytest.approx(math.exp(-0.3) - 1.0, abs=1e-6)
    assert result.down == pytest.approx(math.exp(0.3) - 1.0, abs=1e-6)


def test_fixed_parameters_have_no_impact(linear):
    lh, _ = linear
    result = impacts(lh, "mu", best=fit(lh, fixed=["tes"]))
    assert [impact.name for impact in result if impact.name == "tes"] == []


def test_breakdown_of_the_textbook_example(one_bin):
    result = breakdown(one_bin, "mu", {"normalisation": ["alpha"]})
    assert result.total == pytest.approx(math.sqrt(0.02), rel=1e-8)
    assert result.statistical == pytest.approx(0.1, rel=1e-8)
    assert result.systematic == pytest.approx(0.1, rel=1e-8)
    assert result.groups["normalisation"] == pytest.approx(0.1, rel=1e-8)
    json.dumps(result.to_dict(), allow_nan=False)


def test_breakdown_equals_fits_with_the_groups_fixed(linear):
    lh, _ = linear
    best = fit(lh)
    result = breakdown(lh, "mu", {"scales": ["tes", 2], "norm": ["norm"], "none": []}, best)

    def without(*names):
        fixed = fit(lh, fixed={name: best.values[name] for name in names})
        return math.sqrt(best.errors["mu"] ** 2 - fixed.errors["mu"] ** 2)

    assert result.groups["scales"] == pytest.approx(without("tes", "jes"), rel=1e-7)
    assert result.groups["norm"] == pytest.approx(without("norm"), rel=1e-7)
    assert result.groups["none"] == 0.0
    assert result.systematic == pytest.approx(result.groups["scales"], rel=1e-9)


def test_bad_arguments(linear):
    lh, _ = linear
    with pytest.raises(InferenceError, match="nearest names: mu"):
        impacts(lh, "muu")
    with pytest.raises(InferenceError, match="no kind of impacts 'profile'"):
        impacts(lh, "mu", kind="profile")
    with pytest.raises(InferenceError, match="parameter of interest 'mu' is fixed"):
        impacts(lh, "mu", best=fit(lh, fixed=["mu"]))
    with pytest.raises(InferenceError, match=r"no covariance\n.*hesse=False"):
        impacts(lh, "mu", best=fit(lh, hesse=False))
    with pytest.raises(InferenceError, match="group 'all' contains the parameter of interest 'mu'"):
        breakdown(lh, "mu", {"all": ["mu", "tes"]})
    with pytest.raises(InferenceError, match="nearest names: tes"):
        breakdown(lh, "mu", {"scales": ["tess"]})
    with pytest.raises(InferenceError, match="there is no parameter 'tess'"):
        impacts(lh, "mu")["tess"]

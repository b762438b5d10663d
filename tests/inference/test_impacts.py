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


# Groups ---------------------------------------------------------------------------------------------------


def test_group_of_global_observables_is_the_sum_in_quadrature(linear):
    lh, covariance = linear
    result = impacts(lh, "mu", groups={"scales": ["*es"], "one": "tes", "all": ["*"], "free": ["norm"]})
    expected = math.hypot(covariance[0, 1] / 1.0, covariance[0, 2] / 0.5)
    scales, one, everything, free = result.groups
    assert scales.name == "scales"
    assert scales.parameters == ("tes", "jes")
    assert scales.size == pytest.approx(expected, rel=1e-7)
    assert scales.kind == "global_observables"
    assert one.size == pytest.approx(abs(covariance[0, 1]), rel=1e-7)
    # A free parameter has no global observable: it is left out of a sum, and alone it is conditional.
    assert everything.parameters == ("tes", "jes", "norm")
    assert everything.left_out == ("norm",)
    assert everything.size == pytest.approx(expected, rel=1e-7)
    assert free.kind == "conditional"


@pytest.mark.parametrize("kind", ["refit", "covariance"])
def test_conditional_groups_equal_fits_with_them_fixed(linear, kind):
    lh, _ = linear
    best = fit(lh)
    (group,) = impacts(lh, "mu", kind=kind, best=best, groups={"scales": ["?es"]}).groups
    fixed = fit(lh, fixed={name: best.values[name] for name in ("tes", "jes")})
    assert group.size == pytest.approx(math.sqrt(best.errors["mu"] ** 2 - fixed.errors["mu"] ** 2), rel=1e-7)
    assert group.kind == "conditional"
    assert group.left_out == ()


def test_groups_by_kind(gaussian):
    unit = Constraint("normal", 0.0, 1.0)
    names = ["mu", "norm", "jes", "staterror_SR[0]", "staterror_SR[1]", "shape[0]"]
    constrained = {"jes", "staterror_SR[0]", "staterror_SR[1]"}
    parameters = [Parameter(n, 0.0, -9.0, 9.0, constraint=unit if n in constrained else None) for n in names]
    design = np.eye(6) + 0.1 * np.arange(36.0).reshape(6, 6) % 0.7
    lh = gaussian(design.tolist(), [1.0] * 6, [0.3] * 6, parameters)
    result = impacts(lh, "mu")
    assert [(g.name, g.parameters) for g in result.groups] == [
        ("systematic", ("jes",)),
        ("bin-by-bin", ("staterror_SR[0]", "staterror_SR[1]")),
        ("free", ("norm", "shape[0]")),
    ]
    assert set(breakdown(lh, "mu").groups) == {"systematic", "bin-by-bin", "free"}
    # Brackets are part of a name; the name of a vector stands for all its components.
    for chosen in (["staterror_SR"], ["staterror_SR[*]"], ["staterror_SR[0]", "staterror_SR[?]"]):
        (group,) = impacts(lh, "mu", kind="covariance", groups={"mc": chosen}).groups
        assert group.parameters == ("staterror_SR[0]", "staterror_SR[1]")
    assert breakdown(lh, "mu", {"mc": ["stat*"]}).groups["mc"] == pytest.approx(group.size)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["groups"][1]["parameters"] == ["staterror_SR[0]", "staterror_SR[1]"]


def test_patterns_that_match_nothing(linear):
    lh, _ = linear
    for call in (impacts, breakdown):
        with pytest.raises(
            InferenceError,
            match=r"group 'jets': no nuisance parameter matches 'jess\*'\n.*nearest names: jes",
        ):
            call(lh, "mu", groups={"jets": ["jess*"]})
        with pytest.raises(InferenceError, match="group 'jets' contains the parameter of interest 'mu'"):
            call(lh, "mu", groups={"jets": ["mu"]})
        with pytest.raises(InferenceError, match="parameter index 9 is out of range"):
            call(lh, "mu", groups={"jets": [9]})


def test_unbinned_and_binned_terms_are_shifted_together(counting, gaussian):
    """The batch of shifted observables keeps the data of every term."""
    alpha = Parameter("alpha", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    mu = Parameter("mu", 1.0, -10.0, 10.0)
    first = counting(lambda t: 100.0 * t[:1] + 8.0 * t[1:], [105.0], mu, alpha)
    second = gaussian([[1.0, 0.3]], [0.2], [1.1], [mu, alpha])
    lh = type(first)([*first.terms, *second.terms])
    found = impacts(lh, "mu")["alpha"]
    for shift, value in ((1.0, found.up), (-1.0, found.down)):
        moved = fit(lh.with_global_observables({"alpha": shift}))
        assert value == pytest.approx(moved.values["mu"] - fit(lh).values["mu"], abs=1e-7)

"""`fit` against closed forms, and what it says when something is wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference import NamedVector, fit
from neyman.inference.fit import conditional_fit
from neyman.likelihood import Constraint, Parameter


def free(name, init=1.0, lower=-10.0, upper=10.0):
    return Parameter(name, init, lower, upper)


def nuisance(name):
    return Parameter(name, 0.0, -10.0, 10.0, constraint=Constraint("normal", 0.0, 1.0))


def shape_model(counting, n_nuisance=9, seed=3, fixed=()):
    """25 bins, a signal bump on a falling background, linear and exponential systematics."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0.0, 1.0, 25)
    signal = torch.from_numpy(40.0 * np.exp(-((x - 0.5) ** 2) / 0.01))
    background = torch.from_numpy(300.0 * np.exp(-2.0 * x))
    shapes = torch.from_numpy(0.1 * rng.normal(size=(n_nuisance, 25)))

    def rate(t):
        return t[0] * signal + background * torch.exp(t[1:] @ shapes)

    parameters = [free("mu", 1.0, 0.0)]
    parameters += [
        Parameter(f"a{k}", 0.0, -5.0, 5.0, k in fixed, Constraint("normal", 0.0, 1.0))
        for k in range(n_nuisance)
    ]
    truth = torch.tensor([1.0] + [0.0] * n_nuisance, dtype=torch.float64)
    return counting(rate, rng.poisson(rate(truth).numpy()).tolist(), *parameters)


# Closed forms ---------------------------------------------------------------------------------------------


def test_one_bin_with_a_normalisation_uncertainty(one_bin):
    result = fit(one_bin)
    assert result.valid
    assert result.values["mu"] == pytest.approx(1.0, abs=1e-9)
    assert result.errors["mu"] == pytest.approx(math.sqrt(0.1**2 + 0.1**2), rel=1e-9)
    assert fit(one_bin, fixed=["alpha"]).errors["mu"] == pytest.approx(0.1, rel=1e-9)
    assert result.correlation["mu", "alpha"] == pytest.approx(-math.sqrt(0.5), rel=1e-9)


def test_covariance_of_a_quadratic_likelihood_is_exact(linear):
    lh, covariance = linear
    result = fit(lh)
    np.testing.assert_allclose(result.covariance.array, covariance, rtol=1e-10)
    assert np.abs(lh.gradient(np.asarray(result.values))).max() < 1e-9
    assert result.fval == pytest.approx(lh.value(result.values.array), rel=1e-12)
    np.testing.assert_allclose(np.asarray(result.minuit.covariance), covariance, rtol=1e-6)


def test_covariance_with_fixed_parameters_is_that_of_the_rest(linear):
    lh, covariance = linear
    result = fit(lh, fixed={"tes": 0.3})
    rest = [0, 2, 3]
    expected = np.linalg.inv(np.linalg.inv(covariance)[np.ix_(rest, rest)])
    np.testing.assert_allclose(result.covariance.array[np.ix_(rest, rest)], expected, rtol=1e-10)
    np.testing.assert_allclose(np.asarray(result.minuit.covariance), expected, rtol=1e-6)
    assert result.values["tes"] == 0.3
    assert result.errors["tes"] == result.covariance["tes", "tes"] == result.covariance["mu", "tes"] == 0.0
    assert result.correlation["tes", "tes"] == 1.0
    assert result.fixed == ("tes",)


def test_strongly_correlated_parameters(gaussian):
    lh = gaussian([[1.0, 1.0], [1.0, -1.0]], [1e-4, 1.0], [0.3, 0.1], [free("a"), free("b")])
    result = fit(lh)
    np.testing.assert_allclose(result.values.array, [0.2, 0.1], atol=1e-8)
    assert result.correlation["a", "b"] == pytest.approx((1e-8 - 1.0) / (1e-8 + 1.0), rel=1e-12)
    assert result.valid


def test_asimov_fit_returns_the_truth(counting):
    lh = shape_model(counting)
    truth = lh.vector({"mu": 1.3, "a0": 0.4, "a3": -0.7})
    result = fit(lh.asimov(truth))
    assert result.valid
    assert np.abs((result.values.array - truth) / result.errors.array).max() < 1e-6


def test_few_evaluations(counting):
    result = fit(shape_model(counting))
    assert result.valid
    assert result.n_value + result.n_gradient + result.n_hessian < 30


def test_offset_of_a_large_likelihood(function):
    def f(t):
        return 1e9 + ((t - 0.7) ** 2).sum() + 0.1 * (t[0] * t[1]) ** 2

    big, small = (function(lambda t, c=c: f(t) - c, free("a"), free("b")) for c in (0.0, 1e9))
    assert fit(big).valid
    np.testing.assert_allclose(fit(big).values.array, fit(small).values.array, atol=1e-6)
    assert fit(big).fval == pytest.approx(1e9 + fit(small).fval, abs=1e-6)


def test_an_indefinite_start_is_left(function):
    def f(t):
        return (t[0] ** 2 - 4.0) ** 2 + 10.0 * (t[1] - t[0]) ** 2

    result = fit(function(f, free("a", 0.1), free("b", -3.0)))
    assert result.valid
    np.testing.assert_allclose(np.abs(result.values.array), 2.0, atol=1e-6)


def test_rosenbrock(function):
    def f(t):
        return 100.0 * (t[1] - t[0] ** 2) ** 2 + (1.0 - t[0]) ** 2

    result = fit(function(f, free("a", -1.2), free("b", 1.0)))
    assert result.valid
    np.testing.assert_allclose(result.values.array, 1.0, atol=1e-5)


# MINOS ----------------------------------------------------------------------------------------------------


def test_minos_of_a_count(counting):
    """-2 ln L of n = 9 rises by 1 where 2 (9 m - 9 ln m - 9) = 1."""
    result = fit(counting(lambda t: 9.0 * t, [9.0], free("mu", 1.5, 0.01)), minos="mu")

    def rise(m):
        return 18.0 * (m - math.log(m) - 1.0) - 1.0

    low, high = brentq(rise, 0.1, 1.0), brentq(rise, 1.0, 3.0)
    assert result.minos["mu"].valid
    assert result.minos["mu"].lower == pytest.approx(low - 1.0, rel=1e-4)
    assert result.minos["mu"].upper == pytest.approx(high - 1.0, rel=1e-4)


def test_minos_against_a_dense_profile(counting):
    lh = counting(
        lambda t: torch.stack([8.0 * t[0] * torch.exp(0.3 * t[1]) + 4.0, 12.0 * torch.exp(0.5 * t[1])]),
        [13.0, 10.0],
        free("mu", 1.0, 0.0),
        nuisance("alpha"),
    )
    result = fit(lh, minos=["mu", "alpha"])
    best = result.values["mu"]

    def profiled(mu):
        alphas = np.linspace(-3.0, 3.0, 6001)
        rates = np.stack([8.0 * mu * np.exp(0.3 * alphas) + 4.0, 12.0 * np.exp(0.5 * alphas)])
        values = 2.0 * (rates - np.array([[13.0], [10.0]]) * np.log(rates)).sum(0) + alphas**2
        return values.min()

    low = brentq(lambda mu: profiled(mu) - profiled(best) - 1.0, 0.1, best)
    high = brentq(lambda mu: profiled(mu) - profiled(best) - 1.0, best, 4.0)
    assert result.minos["mu"].lower == pytest.approx(low - best, rel=1e-4)
    assert result.minos["mu"].upper == pytest.approx(high - best, rel=1e-4)
    assert result.minos["alpha"].valid


def test_minos_with_a_fixed_parameter_before_it(counting):
    """The rows of the Hessian shift when a parameter is fixed: MINOS must not notice."""
    lh = shape_model(counting, fixed=(0,))
    result = fit(lh, fixed={"a1": 0.1}, minos=["a5"])
    point = {"a1": 0.1, "a5": result.values["a5"] + result.minos["a5"].upper}
    assert conditional_fit(lh, point).fval - result.fval == pytest.approx(1.0, abs=1e-4)


def test_minos_where_the_likelihood_ends(counting):
    """Of the points beyond the lower end none can be evaluated: no crossing there, and no exception."""
    lh = counting(lambda t: 2.0 * t - 1.0, [1e-3], free("mu", 2.0))
    result = fit(lh, minos="mu")
    assert result.values["mu"] == pytest.approx(0.5005, abs=1e-6)
    assert result.minos["mu"].upper > 0.0
    assert math.isnan(result.minos["mu"].lower)
    assert any("MINOS for mu: a fit on the way failed" in message for message in result.messages)


def test_minos_of_an_invalid_fit(function):
    result = fit(function(lambda t: (t[0] + t[1]) ** 2, free("a"), free("b")), minos="a")
    assert not result.minos["a"].valid
    assert any("MINOS for a: the minimum is not valid" in message for message in result.messages)


def test_minos_that_meets_a_lower_minimum(function):
    lh = function(lambda t: (t[0] ** 2 - 1.0) ** 2 / 16.0 - 0.02 * t[0], free("a", -1.2, -5.0, 5.0))
    result = fit(lh, minos="a")
    assert result.values["a"] < 0.0
    assert result.minos["a"].new_minimum
    assert any("met a lower minimum" in message for message in result.messages)


def test_minos_at_a_bound(counting):
    lh = counting(lambda t: 10.0 * t[:1] + 5.0, [3.0], free("mu", 1.0, 0.0))
    result = fit(lh, minos=("mu",))
    upper = brentq(lambda m: 2.0 * (10.0 * m - 3.0 * math.log((10.0 * m + 5.0) / 5.0)) - 1.0, 0.01, 1.0)
    error = result.minos["mu"]
    assert error.upper == pytest.approx(upper, rel=1e-4)
    assert error.at_lower_limit
    assert not error.valid
    assert math.isnan(error.lower)
    assert any("MINOS for mu: a side ends at the bound" in message for message in result.messages)


# Bounds, failures, messages -------------------------------------------------------------------------------


def test_parameter_of_interest_at_its_bound(counting):
    lh = counting(
        lambda t: torch.stack([10.0 * t[0] + 20.0 + 2.0 * t[1], 50.0 + 5.0 * t[1]]),
        [12.0, 52.0],
        free("mu", 1.0, 0.0),
        nuisance("alpha"),
    )
    result = fit(lh)
    assert result.values["mu"] == 0.0
    assert result.at_bounds == ("mu",)
    assert result.valid
    assert any(
        "at a bound: mu (lower); HESSE errors are meaningless" in message for message in result.messages
    )
    alone = fit(lh, fixed={"mu": 0.0})
    assert result.values["alpha"] == pytest.approx(alone.values["alpha"], abs=1e-6)
    assert result.fval == pytest.approx(alone.fval, abs=1e-9)


def test_start_on_a_bound_is_left(counting):
    lh = counting(lambda t: 10.0 * t[:1] + 5.0, [15.0], free("mu", 1.0, 0.0))
    result = fit(lh, start={"mu": 0.0})
    assert result.valid
    assert result.values["mu"] == pytest.approx(1.0, abs=1e-8)


def test_points_where_the_likelihood_fails_are_stepped_back_from(counting):
    """A bump so narrow that steps from 5 overshoot to negative rates."""
    lh = counting(lambda t: 2.0 * t, [1.0], free("mu", 4.9, -10.0))
    result = fit(lh)
    assert result.valid
    assert result.values["mu"] == pytest.approx(0.5, abs=1e-7)
    assert any("points where the rate is not positive" in message for message in result.messages)


def test_a_likelihood_that_fails_at_the_start_raises(counting):
    lh = counting(lambda t: 2.0 * t, [1.0], free("mu", 1.0))
    with pytest.raises(LikelihoodError, match="the rate is not positive"):
        fit(lh, start={"mu": -1.0})


def test_a_likelihood_not_finite_at_the_start_raises(function):
    with pytest.raises(LikelihoodError, match="not finite at the start"):
        fit(function(lambda t: torch.log(t).sum(), free("a", 0.0)))


def test_flat_direction_is_named(function):
    result = fit(function(lambda t: (t[0] - 2.0) ** 2 + (t[1] + t[2]) ** 2, free("a"), free("b"), free("c")))
    assert not result.valid
    assert result.covariance is None
    assert math.isnan(result.errors["a"])
    assert any("only a combination of b, c is determined" in message for message in result.messages)
    assert result.to_dict()["errors"] == {"a": None, "b": None, "c": None}


def test_limit_of_calls(counting):
    result = fit(shape_model(counting), start={"mu": 9.0, "a0": 4.0}, max_calls=2)
    assert not result.valid
    assert any("raise max_calls" in message for message in result.messages)


def test_all_fallbacks_are_tried(function):
    """The derivatives at a kink never say that a minimum is reached."""
    result = fit(function(lambda t: (t - 0.3).abs().sum() + 0.1 * t.sum(), free("a"), free("b", -1.0)))
    assert not result.valid
    words = " ".join(result.messages)
    assert "Newton steps from the start did not converge" in words
    assert "MIGRAD did not converge" in words
    assert "SIMPLEX and MIGRAD did not converge" in words
    assert "strategy 1 did not converge" in words


def test_everything_at_bounds(function):
    result = fit(function(lambda t: 3.0 * t[0] - t[1], free("a", 0.5, 0.0, 1.0), free("b", 0.5, 0.0, 1.0)))
    np.testing.assert_allclose(result.values.array, [0.0, 1.0])
    assert result.at_bounds == ("a", "b")


@pytest.mark.parametrize("strategy", [0, 1, 2])
def test_strategies_agree(counting, strategy):
    lh = shape_model(counting)
    result, reference = fit(lh, strategy=strategy), fit(lh)
    np.testing.assert_allclose(result.values.array, reference.values.array, atol=1e-6)


def test_without_hesse(linear):
    result = fit(linear[0], hesse=False)
    assert result.valid
    assert result.covariance is result.correlation is None
    assert np.isnan(result.errors.array).all()
    assert result.to_dict()["covariance"] is None


def test_parameters_fixed_by_the_likelihood(counting):
    lh = shape_model(counting, fixed=(2,))
    result = fit(lh, start={"a2": 0.5})
    assert result.fixed == ("a2",)
    assert result.values["a2"] == 0.5


# Arguments ------------------------------------------------------------------------------------------------


def test_start_fixed_and_minos_by_name_and_index(linear):
    lh, _ = linear
    assert fit(lh, fixed={1: 0.3}).values["tes"] == fit(lh, fixed={"tes": 0.3}).values[1] == 0.3
    assert fit(lh, fixed=[1, "jes"]).fixed == fit(lh, fixed=("tes", 2)).fixed == ("tes", "jes")
    assert fit(lh, fixed="tes").fixed == ("tes",)
    assert set(fit(lh, minos=[0, "tes"]).minos) == {"mu", "tes"}
    first = fit(lh)
    for start in (first, first.values, first.values.array, dict(first.values)):
        assert fit(lh, start=start).fval == pytest.approx(first.fval, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"fixed": {"tse": 0.0}}, r"no parameter 'tse'\n.*nearest names: tes"),
        ({"start": {"muu": 0.0}}, r"nearest names: mu"),
        ({"minos": ["jess"]}, r"nearest names: jes"),
        ({"fixed": [7]}, "index 7 is out of range for 4"),
        ({"start": {"mu": 11.0}}, r"start 11.0 of parameter 'mu' is outside its bounds\n.*\[-10, 10\]"),
        ({"fixed": {"mu": 11.0}}, "fixed value 11.0 of parameter 'mu' is outside its bounds"),
        ({"start": {"mu": math.nan}}, "start nan of parameter 'mu' is not finite"),
        ({"start": [1.0, 2.0]}, "expected 4 parameter values"),
        ({"fixed": ["mu", "tes", "jes", "norm"]}, "all parameters are fixed"),
        ({"strategy": 3}, "strategy 3"),
        ({"tolerance": 0.0}, "tolerance 0.0"),
        ({"max_calls": 0}, "max_calls 0"),
        ({"fixed": ["mu"], "minos": ["mu"]}, "MINOS was asked for 'mu', which is fixed"),
    ],
)
def test_bad_arguments(linear, arguments, match):
    with pytest.raises(InferenceError, match=match):
        fit(linear[0], **arguments)


def test_conditional_fit_of_a_single_parameter_evaluates(counting):
    lh = counting(lambda t: 9.0 * t, [9.0], free("mu"))
    assert conditional_fit(lh, {"mu": 2.0}).fval == lh.value([2.0])


# Results --------------------------------------------------------------------------------------------------


def test_result_is_json_and_prints(linear):
    result = fit(linear[0], minos=("mu",), fixed={"norm": 0.0})
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["values"]["mu"] == result.values["mu"]
    assert document["covariance"][0][1] == result.covariance["mu", "tes"]
    assert document["correlation"][0][0] == 1.0
    assert document["minos"]["mu"]["valid"] is True
    assert "minuit" not in document
    text = str(result)
    assert "fit valid" in text
    assert "MINOS" in text
    assert "fixed" in text
    assert "minuit" not in repr(result)


def test_equal_fits_are_equal(linear):
    first, second = fit(linear[0]), fit(linear[0])
    assert first == second
    assert first.minuit is not second.minuit


def test_named_vector_and_matrix(linear):
    result = fit(linear[0])
    values = result.values
    assert list(values) == ["mu", "tes", "jes", "norm"]
    assert values[-1] == values["norm"]
    assert np.asarray(values).shape == (4,)
    assert dict(values) == dict(zip(values.names, values.array, strict=True))
    assert 0 not in values
    assert values != NamedVector(values.names, values.array + 1.0)
    assert result.covariance["tes", "mu"] == result.covariance[1, 0]
    assert np.asarray(result.covariance).shape == (4, 4)
    with pytest.raises(ValueError, match="read-only"):
        values.array[0] = 1.0
    with pytest.raises(InferenceError, match="nearest names: tes"):
        values["tess"]
    with pytest.raises(InferenceError, match="out of range for 4"):
        result.covariance[0, 4]


def test_minuit_prints_nothing(function, capfd):
    def f(t):
        return (
            torch.sin(3 * t[0]) * torch.sin(3 * t[1])
            + 2 * t[0] * t[1] * torch.exp(-t[0])
            + 0.05 * (t**4).sum()
        )

    fit(function(f, free("a", 0.2), free("b", 0.1)))  # indefinite at the start
    assert capfd.readouterr() == ("", "")

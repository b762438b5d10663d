"""`significance` against closed forms, pyhf and exact Poisson sums."""

from __future__ import annotations

import json
import math

import numpy as np
import pyhf
import pytest
from scipy.stats import norm, poisson

from neyman.errors import InferenceError
from neyman.inference import significance
from neyman.likelihood import Likelihood, Parameter


def count(n, signal=10.0, background=50.0, bounds=(0.0, 20.0)):
    samples = [
        {"name": "s", "data": [signal], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]},
        {"name": "b", "data": [background], "modifiers": []},
    ]
    spec = {
        "channels": [{"name": "c", "samples": samples}],
        "parameters": [{"name": "mu", "bounds": [list(bounds)]}],
    }
    return Likelihood.from_pyhf(pyhf.Model(spec, poi_name="mu"), [n])


@pytest.mark.parametrize("n", [52.0, 60.0, 90.0])
def test_a_count_on_a_known_background(n):
    r"""Z = sqrt(2 (n ln(n/b) - (n - b))); expected with n = s + b, Cowan et al., eqs. 96 and 97."""
    result = significance(count(n), "mu")
    assert result.z == pytest.approx(math.sqrt(2.0 * (n * math.log(n / 50.0) - (n - 50.0))), rel=1e-6)
    assert result.q0 == pytest.approx(result.z**2)
    assert result.p_value == pytest.approx(norm.sf(result.z))
    expected = math.sqrt(2.0 * (60.0 * math.log(1.0 + 10.0 / 50.0) - 10.0))
    assert result.expected_z == pytest.approx(expected, rel=1e-6)
    assert result.expected_p_value == pytest.approx(norm.sf(expected), rel=1e-5)
    assert significance(count(n), "mu", expected_at=2.0).expected_z == pytest.approx(
        math.sqrt(2.0 * (70.0 * math.log(1.4) - 20.0)), rel=1e-6
    )


def test_a_deficit_is_no_signal():
    for bounds in ((0.0, 20.0), (-4.0, 20.0)):
        result = significance(count(45.0, bounds=bounds), "mu")
        assert result.q0 == pytest.approx(0.0, abs=1e-9)
        assert result.p_value == pytest.approx(0.5, abs=1e-4)
    assert result.messages == (f"the best fit mu = {result.best.values['mu']:g} is negative, so q0 is 0",)


def test_nuisance_parameters_as_in_pyhf():
    before = pyhf.get_backend()
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3))
    try:
        model = pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])
        data = [71.0, 67.0, *model.config.auxdata]
        observed, expected = pyhf.infer.hypotest(0.0, data, model, test_stat="q0", return_expected=True)
    finally:
        pyhf.set_backend(*before)
    result = significance(Likelihood.from_pyhf(model, data), "mu")
    assert result.p_value == pytest.approx(float(observed), abs=1e-6)
    assert result.expected_p_value == pytest.approx(float(expected), abs=1e-6)


def test_toys_follow_the_poisson_distribution():
    lh = count(9.0, 4.0, 4.0)
    result = significance(lh, "mu", calculator="toys", n_toys=2000, seed=1)
    exact = poisson.sf(8, 4.0)
    n = result.n_toys
    assert n == 2000
    assert abs(result.p_value - exact) < 4.0 * math.sqrt(exact * (1.0 - exact) / n)
    assert result.z == pytest.approx(norm.isf(result.p_value))
    low, high = result.p_value_interval
    assert low < result.p_value < high
    # The median of s + b = 8 counts is 8.
    assert abs(result.expected_p_value - poisson.sf(7, 4.0)) < 4.0 * math.sqrt(0.05 / n)
    assert result.toys.shape == (2000,)
    assert "toys" in str(result)
    again = significance(lh, "mu", calculator="toys", n_toys=2000, seed=1)
    np.testing.assert_array_equal(again.toys, result.toys)


def test_too_few_toys_give_a_bound():
    result = significance(count(90.0), "mu", calculator="toys", n_toys=100, seed=1, expected_at=None)
    assert result.p_value == 0.0
    assert math.isinf(result.z)
    # Clopper-Pearson of nothing in 100 at 68.3%, upper end.
    assert result.p_value_interval == pytest.approx((0.0, 1.0 - 0.1585**0.01))
    assert "no toy has as large a q0" in result.messages[0]
    assert result.expected_z is None
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["z"] is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"poi": "mmu"}, "nearest names: mu"),
        ({"calculator": "exact"}, "no calculator 'exact'"),
        ({"expected_at": 21.0}, "21 is outside the bounds"),
        ({"calculator": "toys"}, "toys need a seed"),
        ({"calculator": "toys", "seed": 1, "n_toys": 0.5}, "number of toys is 0.5"),
        ({"fixed": {"mu": 1.0}}, "parameter of interest 'mu' is fixed"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(InferenceError, match=match):
        significance(count(60.0), **{"poi": "mu", **arguments})


def test_bad_likelihoods(counting):
    with pytest.raises(InferenceError, match="does not depend on 'mu'"):
        significance(count(60.0, signal=0.0), "mu")
    lh = counting(lambda t: 10.0 * t + 50.0, [60.0], Parameter("mu", 1.0, 0.5, 20.0))
    with pytest.raises(InferenceError, match="0 is outside the bounds"):
        significance(lh, "mu")

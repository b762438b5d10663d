"""`goodness_of_fit` against closed forms, pyhf's densities, and data that the model cannot describe."""

from __future__ import annotations

import json
import math

import numpy as np
import pyhf
import pytest
import torch
from scipy.stats import chi2

from neyman.errors import InferenceError
from neyman.inference import fit, goodness_of_fit
from neyman.inference.goodness_of_fit import _binned, _saturated
from neyman.likelihood import Constraint, Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.yields import NormFactor, NormSys


def counts(*observed, expected=20.0):
    modifiers = [{"name": "mu", "type": "normfactor", "data": None}]
    samples = [{"name": "s", "data": [expected] * len(observed), "modifiers": modifiers}]
    model = pyhf.Model({"channels": [{"name": "c", "samples": samples}]}, poi_name="mu")
    return Likelihood.from_pyhf(model, list(observed))


def deviance(n, rate):
    return 2.0 * (rate - n + (n * math.log(n / rate) if n else 0.0))


def test_counts_around_their_mean():
    """The best fit of a common rate is the mean, so the statistic is a closed form."""
    observed = (12.0, 25.0, 0.0, 31.0)
    mean = np.mean(observed)
    result = goodness_of_fit(counts(*observed))
    assert result.statistic == pytest.approx(sum(deviance(n, mean) for n in observed), rel=1e-9)
    assert result.ndof == 3
    assert result.p_value == pytest.approx(chi2.sf(result.statistic, 3))
    assert result.parts == {"binned": result.statistic}
    assert result.messages == ()


def test_one_count_is_always_described():
    result = goodness_of_fit(counts(13.0))
    assert result.statistic == pytest.approx(0.0, abs=1e-9)
    assert result.ndof == 0
    assert math.isnan(result.p_value)
    assert result.messages == ("as many free parameters as measurements: chi2 gives no p-value",)
    assert "p undefined" in str(result)


def test_nothing_observed():
    result = goodness_of_fit(counts(0.0, 0.0))
    assert result.statistic == pytest.approx(0.0, abs=1e-9)
    assert "at a bound: mu" in result.messages[0]


def test_constraints_count_as_measurements():
    """-2 ln of the ratio to Poisson probabilities of the counts themselves and to constraints at their centres."""
    model = pyhf.simplemodels.correlated_background([12.0, 11.0], [50.0, 52.0], [55.0, 57.0], [45.0, 48.0])
    other = pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])
    for one, n_constraints in ((model, 1), (other, 2)):
        data = [71.0, 40.0, *one.config.auxdata]
        lh = Likelihood.from_pyhf(one, data)
        best = fit(lh)
        result = goodness_of_fit(lh, best=best)
        start = np.asarray(one.config.suggested_init())
        poisson = sum(-2.0 * (n * math.log(n) - n - math.lgamma(n + 1.0)) for n in data[:2])
        constraints = -2.0 * float(one.constraint_logpdf(np.array(one.config.auxdata), start))
        assert result.statistic == pytest.approx(best.fval - poisson - constraints, rel=1e-7)
        assert result.ndof == 2 + n_constraints - (1 + n_constraints)
        assert set(result.parts) == {"binned", "constraints"}
        assert sum(result.parts.values()) == pytest.approx(result.statistic)


def test_constraints_of_fixed_parameters_are_constants():
    model = pyhf.simplemodels.correlated_background([12.0, 11.0], [50.0, 52.0], [55.0, 57.0], [45.0, 48.0])
    lh = Likelihood.from_pyhf(model, [71.0, 70.0, *model.config.auxdata])
    result = goodness_of_fit(lh, fixed={"correlated_bkg_uncertainty": 2.0})
    assert result.ndof == 1
    assert set(result.parts) == {"binned"}


def test_cabinetry_agrees():
    cabinetry = pytest.importorskip("cabinetry")
    model = pyhf.simplemodels.uncorrelated_background([12.0, 11.0, 3.0], [50.0, 52.0, 40.0], [3.0, 7.0, 4.0])
    data = [71.0, 40.0, 44.0, *model.config.auxdata]
    found = cabinetry.fit.fit(model, data, goodness_of_fit=True)
    result = goodness_of_fit(Likelihood.from_pyhf(model, data))
    assert result.p_value == pytest.approx(found.goodness_of_fit, abs=1e-4)


def test_parameters_at_a_bound_are_mentioned():
    model = pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])
    result = goodness_of_fit(Likelihood.from_pyhf(model, [30.0, 31.0, *model.config.auxdata]))
    assert "at a bound: mu" in result.messages[0]


def test_toys_follow_chi2_for_large_counts():
    lh = counts(210.0, 190.0, 230.0, 205.0, expected=200.0)
    formula = goodness_of_fit(lh)
    result = goodness_of_fit(lh, calculator="toys", n_toys=400, seed=1)
    assert result.statistic == formula.statistic
    assert result.n_toys == 400
    assert result.toys.mean() == pytest.approx(3.0, abs=4.0 * math.sqrt(6.0 / 400.0))
    assert abs(result.p_value - formula.p_value) < 4.0 * math.sqrt(
        formula.p_value * (1.0 - formula.p_value) / 400.0
    )
    assert result.p_value_interval[0] < result.p_value < result.p_value_interval[1]
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(document["toys"]) == 400
    assert "400 toys" in str(result)
    np.testing.assert_array_equal(
        goodness_of_fit(lh, calculator="toys", n_toys=400, seed=1).toys, result.toys
    )


# Unbinned terms -------------------------------------------------------------------------------------------


def unbinned(x, seed=0, n_reference=6000):
    """A bump N(1, 0.4) on a background N(0, 1), both known exactly, with a uniform reference."""
    rng = np.random.default_rng(seed)

    def columns(x):
        return {
            "s": -0.5 * ((x - 1.0) / 0.4) ** 2 - math.log(0.4) + math.log(10.0 / math.sqrt(2.0 * math.pi)),
            "b": -0.5 * x**2 + math.log(10.0 / math.sqrt(2.0 * math.pi)),
        }

    norm = Parameter("norm", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    term = UnbinnedTerm(
        "SR",
        [
            UnbinnedSample("s", 100.0, "s", (NormFactor("mu"),)),
            UnbinnedSample("b", 300.0, "b", (NormSys("norm", 1.1, 0.9),)),
        ],
        [Parameter("mu", 1.0, -1.0, 10.0), norm],
        data=Events(np.ones(len(x)), columns(x)),
        reference=Events(np.ones(n_reference), columns(rng.uniform(-5.0, 5.0, n_reference))),
    )
    return Likelihood([term])


def drawn(seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(1.0, 0.4, 100), rng.normal(shift, 1.0, 300)])


def test_bins_of_equal_expected_content():
    lh = unbinned(drawn(1))
    theta = torch.tensor([1.0, 0.0], dtype=torch.float64)
    observed, expected = _binned(lh.terms[0], theta, 10)
    assert observed.sum() == 400.0
    assert expected.sum() == pytest.approx(400.0, rel=1e-9)
    np.testing.assert_allclose(expected, 40.0, rtol=0.02)
    asimov = lh.asimov([1.0, 0.0])
    found, wanted = _binned(asimov.terms[0], theta, 10)
    np.testing.assert_allclose(found, wanted)
    assert _saturated(asimov, np.array([1.0, 0.0]), [0, 1], [10]) == pytest.approx(
        {"SR": 0.0, "constraints": 0.0}
    )


def test_unbinned_data_from_the_model_and_from_another():
    good, bad = unbinned(drawn(1)), unbinned(drawn(1, shift=-0.7))
    described, wrong = goodness_of_fit(good), goodness_of_fit(bad, bins=16)
    # About 400 events in bins of 25, a constraint, and two free parameters.
    assert described.ndof in (15 + 1 - 2, 16 + 1 - 2)
    assert described.p_value > 0.05
    assert wrong.p_value < 1e-3
    assert "the chi2 of unbinned terms is approximate" in wrong.messages[0]
    assert goodness_of_fit(good, bins=5).ndof == 4


def test_toys_of_an_unbinned_term():
    good, bad = unbinned(drawn(1), n_reference=3000), unbinned(drawn(1, shift=-0.7), n_reference=3000)
    result = goodness_of_fit(good, calculator="toys", n_toys=60, seed=1, bins=16)
    # Between chi2 with and without the free parameters subtracted.
    assert 15.0 - 4.0 * math.sqrt(30.0 / 60.0) < result.toys.mean() < 17.0 + 4.0 * math.sqrt(34.0 / 60.0)
    assert result.p_value > 0.05
    assert goodness_of_fit(bad, calculator="toys", n_toys=30, seed=1).p_value == 0.0


def test_a_reference_with_negative_weights():
    lh = unbinned(drawn(1), n_reference=500)
    term = lh.terms[0]
    weight = np.ones(500)
    weight[:20] = -0.5
    with pytest.raises(
        InferenceError, match=r"channel 'SR': the reference has events of negative weight.*\n.*positive"
    ):
        goodness_of_fit(Likelihood([term.with_reference_weight(weight)]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"calculator": "chi2"}, "no calculator 'chi2'"),
        ({"calculator": "toys"}, "toys need a seed"),
        ({"calculator": "toys", "seed": 1, "n_toys": 0}, "number of toys is 0"),
        ({"bins": 1}, "one bin measures the number of events alone"),
        ({"bins": 0}, "number of bins is 0"),
        ({"fixed": "mmu"}, "nearest names: mu"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(InferenceError, match=match):
        goodness_of_fit(counts(12.0, 15.0), **arguments)


def test_terms_without_a_saturated_model(linear, function):
    with pytest.raises(InferenceError, match="term 'gaussian' has no saturated model"):
        goodness_of_fit(linear[0])
    a, b = (Parameter(name, 0.5, -1.0, 1.0) for name in "ab")
    flat = function(lambda t: (t[0] + t[1] - 1.0) ** 2, a, b)
    with pytest.raises(InferenceError, match=r"everything free is not valid\n.*not positive definite"):
        goodness_of_fit(flat)
    with pytest.raises(
        InferenceError, match=r"fit is not valid, so it has no goodness\n.*not positive definite"
    ):
        goodness_of_fit(flat, best=fit(flat))

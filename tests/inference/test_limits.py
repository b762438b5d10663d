"""`hypothesis_test` and `upper_limit` against pyhf, closed forms and exact Poisson sums."""

from __future__ import annotations

import json
import math

import jsonpatch
import numpy as np
import pyhf
import pytest
from scipy.optimize import brentq
from scipy.stats import norm, poisson

from neyman.errors import InferenceError
from neyman.inference import UpperLimit, hypothesis_test, upper_limit
from neyman.likelihood import Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.yields import NormFactor


@pytest.fixture
def pyhf_minuit():
    """pyhf with a tight MINUIT; its global backend is put back afterwards."""
    before = pyhf.get_backend()
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3))
    yield pyhf
    pyhf.set_backend(*before)


def poisson_model(signal, background, bounds=(0.0, 40.0), modifiers=()):
    samples = [
        {"name": "s", "data": signal, "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]},
        {"name": "b", "data": background, "modifiers": list(modifiers)},
    ]
    spec = {"channels": [{"name": "c", "samples": samples}]}
    spec["parameters"] = [{"name": "mu", "bounds": [list(bounds)], "inits": [1.0]}]
    return pyhf.Model(spec, poi_name="mu")


MODELS = {
    "normsys and histosys": poisson_model(
        [5.0, 10.0], [50.0, 40.0],
        modifiers=[{"name": "a", "type": "normsys", "data": {"hi": 1.1, "lo": 0.85}},
                   {"name": "h", "type": "histosys", "data": {"hi_data": [53.0, 38.0], "lo_data": [48.0, 41.0]}}],
    ),
    "shapesys": pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0]),
}  # fmt: skip


@pytest.mark.parametrize("counts", [(58.0, 44.0), (41.0, 42.0)])
@pytest.mark.parametrize("name", MODELS)
def test_limits_are_pyhfs(pyhf_minuit, name, counts):
    """At our limits, observed and expected, pyhf finds CLs = 5%; between them it finds our CLs."""
    model = MODELS[name]
    data = [*counts, *model.config.auxdata]
    lh = Likelihood.from_pyhf(model, data)
    result = upper_limit(lh, "mu")
    assert result.calculator == "asymptotic"
    assert result.test_statistic == "qtilde"
    assert list(result.expected) == sorted(result.expected)
    observed = pyhf_minuit.infer.hypotest(result.observed, data, model)
    assert float(observed) == pytest.approx(0.05, abs=1e-4)
    for k in (0, 2, 4):
        _, band = pyhf_minuit.infer.hypotest(result.expected[k], data, model, return_expected_set=True)
        assert float(band[k]) == pytest.approx(0.05, abs=1e-4)
    for value in (0.0, 0.4, 1.3):
        ours = hypothesis_test(lh, "mu", value)
        cls, (clsb, clb), band = pyhf_minuit.infer.hypotest(
            value, data, model, return_tail_probs=True, return_expected_set=True
        )
        assert (ours.cls, ours.clsb, ours.clb) == pytest.approx(
            [float(x) for x in (cls, clsb, clb)], abs=1e-4
        )
        assert ours.expected == pytest.approx([float(x) for x in band], abs=1e-4)


@pytest.mark.slow
def test_limits_of_a_published_search_are_pyhfs(pyhf_minuit, shared_data):
    folder = shared_data / "pyhf" / "RegionA"
    workspace = pyhf.Workspace(json.loads((folder / "BkgOnly.json").read_text()))
    patch = jsonpatch.JsonPatch.from_string((folder / "patch.sbottom_1300_205_60.json").read_text())
    model = workspace.model(patches=[patch])
    data = workspace.data(model)
    result = upper_limit(Likelihood.from_pyhf(model, data), model.config.poi_name)
    cls = pyhf_minuit.infer.hypotest(result.observed, data, model)
    assert float(cls) == pytest.approx(0.05, abs=1e-4)
    _, band = pyhf_minuit.infer.hypotest(result.expected[2], data, model, return_expected_set=True)
    assert float(band[2]) == pytest.approx(0.05, abs=1e-4)


def test_a_search_of_pyhf_ends_at_the_same_limit(pyhf_minuit):
    model = MODELS["shapesys"]
    data = [51.0, 48.0, *model.config.auxdata]
    observed, expected = pyhf_minuit.infer.intervals.upper_limits.upper_limit(data, model, rtol=1e-5)
    result = upper_limit(Likelihood.from_pyhf(model, data), 0)
    assert result.observed == pytest.approx(float(observed), rel=1e-4)
    assert result.expected == pytest.approx([float(x) for x in expected], rel=1e-4)


def test_q_for_signals_that_may_be_negative(pyhf_minuit):
    spread = [{"name": "a", "type": "normsys", "data": {"hi": 1.05, "lo": 0.95}}]
    model, positive = (
        poisson_model([5.0, 10.0], [50.0, 40.0], bounds=bounds, modifiers=spread)
        for bounds in ((-3.0, 10.0), (0.0, 10.0))
    )
    data = [41.0, 33.0, *model.config.auxdata]
    lh = Likelihood.from_pyhf(model, data)
    ours = hypothesis_test(lh, "mu", 0.5, test_statistic="q")
    cls, band = pyhf_minuit.infer.hypotest(0.5, data, model, test_stat="q", return_expected_set=True)
    assert ours.cls == pytest.approx(float(cls), abs=1e-4)
    assert ours.expected == pytest.approx([float(x) for x in band], abs=1e-4)
    # With qtilde a best fit below zero counts as zero, whatever the bounds allow.
    bounded = Likelihood.from_pyhf(positive, data)
    tilde, at_zero = (hypothesis_test(one, "mu", 0.5) for one in (lh, bounded))
    assert tilde.q == pytest.approx(at_zero.q, abs=1e-7)
    assert tilde.q < ours.q
    assert tilde.cls == pytest.approx(at_zero.cls, abs=1e-7)
    (message,) = hypothesis_test(bounded, "mu", 0.5, test_statistic="q").messages
    assert "mu is bounded by 0" in message


def measured(gaussian, value, sigma):
    return gaussian([[1.0]], [sigma], [value], [Parameter("mu", 1.0, -50.0, 50.0)])


@pytest.mark.parametrize("cl", [0.9, 0.95])
@pytest.mark.parametrize("value", [-2.0, 0.3, 4.0])
def test_limits_of_a_gaussian_are_closed_forms(gaussian, value, cl):
    """Cowan et al., eqs. 70 and 89 with CLs: q is exactly Gaussian, so any likelihood must obey them."""
    sigma, alpha = 1.7, 1.0 - cl
    result = upper_limit(measured(gaussian, value, sigma), "mu", cl=cl, test_statistic="q")
    assert result.observed == pytest.approx(
        value + sigma * norm.isf(alpha * norm.cdf(value / sigma)), rel=1e-5
    )
    bands = np.arange(-2.0, 3.0)
    np.testing.assert_allclose(
        result.expected, sigma * (norm.isf(alpha * norm.cdf(bands)) + bands), rtol=2e-5
    )
    assert result.cl == pytest.approx(cl)


def test_levels_below_one_half(gaussian):
    """CLs falls from 1 at zero, so every level has its limit."""
    lh = measured(gaussian, 3.0, 1.0)
    result = upper_limit(lh, "mu", cl=0.2, test_statistic="q", expected=False)
    assert result.expected is None
    assert 0.0 < result.observed < 3.0
    assert hypothesis_test(lh, "mu", result.observed, test_statistic="q").cls == pytest.approx(0.8, abs=1e-4)


def test_the_grid_is_kept(gaussian):
    result = upper_limit(measured(gaussian, 1.0, 1.0), "mu", test_statistic="q", grid=[2.0, 1.0, 0.0])
    assert [test.value for test in result.tests] == [0.0, 1.0, 2.0]
    assert result.tests[0].cls == 1.0
    assert upper_limit(measured(gaussian, 1.0, 1.0), "mu", test_statistic="q").tests == ()


def test_records(gaussian):
    lh = measured(gaussian, 1.0, 1.0)
    result = upper_limit(lh, "mu", grid=[1.0])
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["observed"] == result.observed
    assert document["tests"][0]["expected"] == list(result.tests[0].expected)
    assert "mu < " in str(result)
    assert "95% CL" in str(result)
    assert "median" in str(result)
    assert "CLs = " in str(result.tests[0])


# Unbinned terms -------------------------------------------------------------------------------------------


def bump_and_background(observed):
    """N(1, 0.4) with 100 events on N(0, 1) with 300: exact ratios to a uniform reference, and bins of 0.1."""
    centres = np.linspace(-5.0, 5.0, 4001)

    def columns(x):
        return {"s": norm.logpdf(x, 1.0, 0.4) + math.log(10.0), "b": norm.logpdf(x) + math.log(10.0)}

    samples = [UnbinnedSample("s", 100.0, "s", (NormFactor("mu"),)), UnbinnedSample("b", 300.0, "b")]
    term = UnbinnedTerm(
        "SR",
        samples,
        [Parameter("mu", 1.0, 0.0, 10.0)],
        data=Events(np.ones(len(observed)), columns(observed)),
        reference=Events(np.ones(len(centres)), columns(centres)),
    )
    edges = np.linspace(-5.0, 5.0, 101)
    signal, background = (100.0 * np.diff(norm.cdf(edges, 1.0, 0.4)), 300.0 * np.diff(norm.cdf(edges)))
    model = poisson_model(signal.tolist(), background.tolist(), bounds=(0.0, 10.0))
    counts = np.histogram(observed, edges)[0].astype(float)
    return Likelihood([term]), Likelihood.from_pyhf(model, counts.tolist())


def test_unbinned_limits_are_those_of_fine_bins():
    rng = np.random.default_rng(4)
    unbinned, binned = bump_and_background(
        np.concatenate([rng.normal(1.0, 0.4, 20), rng.normal(0.0, 1.0, 300)])
    )
    ours, reference = upper_limit(unbinned, "mu"), upper_limit(binned, "mu")
    assert ours.expected == pytest.approx(reference.expected, rel=0.01)
    assert ours.observed == pytest.approx(reference.observed, rel=0.02)


def test_combined_terms_add_their_information():
    """Without shared nuisance parameters the Asimov test statistics add up."""
    rng = np.random.default_rng(4)
    unbinned, binned = bump_and_background(rng.normal(0.0, 1.0, 300))
    both = Likelihood([*unbinned.terms, *binned.terms])
    alone = [hypothesis_test(lh, "mu", 0.2).q_asimov for lh in (unbinned, binned)]
    assert hypothesis_test(both, "mu", 0.2).q_asimov == pytest.approx(sum(alone), rel=1e-6)
    assert upper_limit(both, "mu").expected[2] < upper_limit(unbinned, "mu").expected[2]


# Toys -----------------------------------------------------------------------------------------------------


def exact_cls(value, n, background):
    """CLs of a count with a known background: qtilde falls with the count until it is zero."""
    return poisson.cdf(n, value + background) / poisson.cdf(n, background)


def test_toys_of_a_count_follow_the_poisson_distribution():
    lh = Likelihood.from_pyhf(poisson_model([1.0], [3.0]), [3.0])
    test = hypothesis_test(lh, "mu", 5.0, calculator="toys", n_toys=1500, seed=3)
    assert test.n_toys == (1500, 1500)
    assert test.q_asimov is None
    assert abs(test.clsb - poisson.cdf(3, 8.0)) < 4.0 * test.clsb_error
    assert abs(test.clb - poisson.cdf(3, 3.0)) < 4.0 * test.clb_error
    assert abs(test.cls - exact_cls(5.0, 3, 3.0)) < 4.0 * test.cls_error
    assert test.cls_error == pytest.approx(
        test.cls * math.hypot(test.clsb_error / test.clsb, test.clb_error / test.clb)
    )
    # The band is CLs of the quantiles of the background's counts.
    expected = [exact_cls(5.0, poisson.ppf(norm.cdf(s), 3.0), 3.0) for s in (-1, 0, 1)]
    assert test.expected[1:4] == pytest.approx(expected, abs=0.05)
    assert hypothesis_test(lh, "mu", 5.0, calculator="toys", n_toys=1500, seed=3).cls == test.cls
    assert len(json.loads(json.dumps(test.to_dict(), allow_nan=False))["signal_toys"]) == 1500


def test_limit_of_a_count_by_toys():
    lh = Likelihood.from_pyhf(poisson_model([1.0], [3.0]), [5.0])
    exact = brentq(lambda v: exact_cls(v, 5, 3.0) - 0.05, 0.1, 30.0)
    result = upper_limit(lh, "mu", calculator="toys", n_toys=600, seed=5, expected=False)
    assert result.calculator == "toys"
    assert 0.05 < result.error < 0.7
    assert abs(result.observed - exact) < 4.0 * result.error
    assert result.tests[0].value < result.observed < result.tests[-1].value
    assert "signal_toys" in result.to_dict()["tests"][0]
    assert result.to_dict()["tests"][0]["signal_toys"] is None
    assert result.tests[0].signal_toys is not None


@pytest.mark.parametrize("calculator", ["asymptotic", "toys"])
def test_nothing_observed(calculator):
    """Without events the exact limit at 95% is -ln 0.05, whatever the background."""
    lh = Likelihood.from_pyhf(poisson_model([1.0], [3.0]), [0.0])
    result = upper_limit(lh, "mu", calculator=calculator, n_toys=500, seed=1, expected=False)
    if calculator == "toys":
        assert abs(result.observed + math.log(0.05)) < 4.0 * result.error
    else:
        assert 1.5 < result.observed < 3.0


def test_large_counts_are_asymptotic():
    model = poisson_model([40.0, 60.0], [900.0, 800.0], bounds=(0.0, 10.0))
    lh = Likelihood.from_pyhf(model, [910.0, 815.0])
    toys = upper_limit(lh, "mu", calculator="toys", n_toys=300, seed=1)
    formula = upper_limit(lh, "mu")
    assert toys.observed == pytest.approx(formula.observed, rel=0.12)
    assert toys.expected[1:4] == pytest.approx(formula.expected[1:4], rel=0.15)


def test_q_with_toys_that_fit_negative_signals():
    """With qtilde, toys below zero are compared with zero: the two statistics differ, and so do their toys."""
    lh = Likelihood.from_pyhf(poisson_model([10.0], [50.0], bounds=(-4.0, 10.0)), [48.0])
    bounded = Likelihood.from_pyhf(poisson_model([10.0], [50.0]), [48.0])
    q, tilde, reference = (
        hypothesis_test(one, "mu", 1.0, calculator="toys", n_toys=100, seed=2, test_statistic=statistic)
        for one, statistic in ((lh, "q"), (lh, "qtilde"), (bounded, "qtilde"))
    )
    np.testing.assert_allclose(tilde.background_toys, reference.background_toys, atol=1e-5)
    assert (q.background_toys >= tilde.background_toys - 1e-9).all()
    assert (q.background_toys > tilde.background_toys + 0.1).any()


def test_a_given_grid_that_does_not_reach(gaussian):
    lh = measured(gaussian, 1.0, 1.0)
    result = upper_limit(lh, "mu", calculator="toys", n_toys=50, seed=1, grid=[0.1, 0.2])
    assert math.isnan(result.observed)
    assert "a limit is outside [0.1, 0.2]: give a wider grid" in result.messages
    assert "not reached" in str(result)
    assert isinstance(result, UpperLimit)


# Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"poi": "muu"}, "nearest names: mu"),
        ({"cl": 0.0}, "confidence level is 0.0"),
        ({"calculator": "toy"}, r"no calculator 'toy'\n.*asymptotic or toys\n.*nearest: toys"),
        ({"test_statistic": "q0"}, "no test statistic of a limit 'q0'"),
        ({"grid": [0.0, 51.0]}, "51 is outside the bounds"),
        ({"grid": [0.0, math.nan]}, "nan is outside the bounds"),
        ({"grid": [-1.0]}, "values of 'mu' from 0 on, got -1"),
        ({"calculator": "toys"}, r"toys need a seed\n.*seed=1"),
        ({"calculator": "toys", "seed": -1}, "the seed is -1"),
        ({"calculator": "toys", "seed": 1, "n_toys": 0}, "number of toys is 0"),
        ({"fixed": ["mu"]}, "parameter of interest 'mu' is fixed"),
    ],
)
def test_bad_arguments(gaussian, arguments, match):
    with pytest.raises(InferenceError, match=match):
        upper_limit(measured(gaussian, 1.0, 1.0), **{"poi": "mu", **arguments})


def test_bad_values(gaussian):
    lh = measured(gaussian, 1.0, 1.0)
    with pytest.raises(InferenceError, match="from 0 on, got -1"):
        hypothesis_test(lh, "mu", -1.0)
    with pytest.raises(InferenceError, match="no calculator 'toyz'"):
        hypothesis_test(lh, "mu", 1.0, calculator="toyz")


def test_a_poi_that_no_sample_carries():
    model = poisson_model([0.0], [50.0])
    with pytest.raises(
        InferenceError, match=r"does not depend on 'mu'\n.*\n.*non-zero yield\n.*another parameter"
    ):
        upper_limit(Likelihood.from_pyhf(model, [51.0]), "mu")


def test_a_limit_above_the_upper_bound():
    lh = Likelihood.from_pyhf(poisson_model([1.0], [50.0], bounds=(0.0, 10.0)), [55.0])
    with pytest.raises(
        InferenceError, match=r"above its upper bound: CLs is still 0\.\d+ at 10\n.*\n.*raise"
    ):
        upper_limit(lh, "mu")
    lh = Likelihood.from_pyhf(poisson_model([1.0], [50.0], bounds=(0.0, 14.0)), [45.0])
    result = upper_limit(lh, "mu")
    assert math.isfinite(result.observed)
    assert math.isnan(result.expected[4])
    assert "sigma on are above the upper bound 14 of mu" in result.messages[0]
    assert result.to_dict()["expected"][4] is None

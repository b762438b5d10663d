"""`coverage` of intervals that are known to cover, and of some that do not."""

from __future__ import annotations

import json
import math

import numpy as np
import pyhf
import pytest
from scipy.stats import beta, norm, poisson

from neyman.errors import InferenceError
from neyman.inference import coverage
from neyman.inference.experiments import clopper_pearson, some_valid
from neyman.likelihood import Constraint, Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.yields import NormFactor, NormSys


def count(expected, bounds=(0.0, 20.0)):
    samples = [
        {"name": "s", "data": [expected], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    ]
    spec = {
        "channels": [{"name": "c", "samples": samples}],
        "parameters": [{"name": "mu", "bounds": [list(bounds)]}],
    }
    return Likelihood.from_pyhf(pyhf.Model(spec, poi_name="mu"), [expected])


def test_intervals_of_a_gaussian_cover(linear):
    lh, covariance = linear
    n, sigma = 400, math.sqrt(covariance[0, 0])
    result = coverage(lh, "mu", n_toys=n, seed=1, at={"mu": 0.7, "jes": 0.2})
    assert result.truth == 0.7
    assert result.n_toys == n
    assert result.n_failed == 0
    for method in ("profile", "hesse"):
        found = result[method]
        assert found.coverage == pytest.approx(found.covered / n)
        assert abs(found.coverage - 0.683) < 4.0 * math.sqrt(0.683 * 0.317 / n)
        assert found.interval == clopper_pearson(found.covered, n)
    # For a Gaussian both are the same interval.
    assert result["profile"].covered == result["hesse"].covered
    assert result["hesse"].width == pytest.approx(2.0006 * sigma, rel=1e-3)
    assert result["profile"].width is None
    assert abs(result.bias) < 4.0 * result.bias_error
    assert result.bias_error == pytest.approx(sigma / math.sqrt(n), rel=0.15)
    assert abs(result.pull_mean) < 4.0 * result.pull_mean_error
    assert abs(result.pull_width - 1.0) < 4.0 * result.pull_width_error


def test_coverage_of_a_small_count_is_a_poisson_sum():
    """The counts whose interval holds the truth are known one by one."""
    n, rate = 1500, 4.0
    result = coverage(count(rate), "mu", n_toys=n, seed=2, cl=0.9)
    counts = np.arange(1, 60)
    hesse = poisson.pmf(counts[np.abs(counts - rate) <= 1.6449 * np.sqrt(counts)], rate).sum()
    ratio = 2.0 * (rate - counts + counts * np.log(counts / rate))
    profile = poisson.pmf(counts[ratio <= 2.7055], rate).sum()
    for method, exact in (("profile", profile), ("hesse", hesse)):
        assert abs(result[method].coverage - exact) < 4.0 * math.sqrt(exact * (1.0 - exact) / n)


def test_toys_at_a_bound_are_counted():
    result = coverage(count(1.5), "mu", n_toys=60, seed=2, methods="profile", at={"mu": 0.5})
    at_bound = int((result.values < 1e-9).sum())
    assert at_bound > 5
    assert f"{at_bound} of {result.n_toys} toys end at a bound of mu" in result.messages
    assert f"{at_bound} of {result.n_toys} toys have no HESSE error, so no pull" in result.messages
    assert math.isfinite(result.pull_mean)
    assert [one.method for one in result.methods] == ["profile"]


def test_records(linear):
    result = coverage(linear[0], "mu", n_toys=20, seed=1, methods=["hesse"])
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(document["values"]) == 20
    assert document["methods"][0]["method"] == "hesse"
    assert "coverage of mu = 1 by 68.3% intervals, 20 toys" in str(result)
    with pytest.raises(InferenceError, match="coverage of 'profile' intervals was not computed"):
        result["profile"]
    same = coverage(linear[0], "mu", n_toys=20, seed=1, methods=["hesse"])
    np.testing.assert_array_equal(same.values, result.values)


def test_clopper_pearson():
    assert clopper_pearson(0, 10, 0.9) == pytest.approx((0.0, 1.0 - 0.05**0.1))
    assert clopper_pearson(10, 10, 0.9) == pytest.approx((0.05**0.1, 1.0))
    low, high = clopper_pearson(3, 10, 0.9)
    assert (low, high) == pytest.approx((beta.ppf(0.05, 3, 8), beta.ppf(0.95, 4, 7)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"poi": "mmu"}, "nearest names: mu"),
        ({"methods": ("profile", "minos")}, "no interval 'minos'"),
        ({"methods": ()}, "no kind of interval was chosen"),
        ({"cl": -0.1}, "confidence level is -0.1"),
        ({"n_toys": 0}, "number of toys is 0"),
        ({"seed": None}, "toys need a seed"),
        ({"at": {"mu": 11.0}}, "start 11.0 of parameter 'mu' is outside its bounds"),
        ({"fixed": "mu"}, "parameter of interest 'mu' is fixed"),
    ],
)
def test_bad_arguments(linear, arguments, match):
    with pytest.raises(InferenceError, match=match):
        coverage(linear[0], **{"poi": "mu", "seed": 1, "n_toys": 5, **arguments})


def test_no_sensitivity(counting):
    lh = counting(lambda t: 0.0 * t + 5.0, [5.0], Parameter("mu", 1.0, 0.0, 2.0))
    with pytest.raises(InferenceError, match="does not depend on 'mu'"):
        coverage(lh, "mu", n_toys=5, seed=1)


def test_failed_toys():
    assert some_valid(np.array([True, True]), "toys") is None
    assert some_valid(np.array([True, False]), "toys") == "1 of 2 toys could not be fitted and are left out"
    with pytest.raises(InferenceError, match=r"no signal toys could be fitted\n.*fit_toys"):
        some_valid(np.zeros(2, dtype=bool), "signal toys")


@pytest.mark.slow
def test_coverage_of_an_unbinned_model_with_exact_ratios():
    """Two Gaussians, the signal's normalisation and a nuisance parameter: 68.3 +- 1% by 8,000 toys."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-5.0, 6.0, 20_000)
    columns = {"s": norm.logpdf(x, 1.0, 0.4) + math.log(11.0), "b": norm.logpdf(x) + math.log(11.0)}
    spread = Parameter("norm", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
    reference = Events(np.ones(len(x)), columns)
    term = UnbinnedTerm(
        "SR",
        [
            UnbinnedSample("s", 200.0, "s", (NormFactor("mu"),)),
            UnbinnedSample("b", 600.0, "b", (NormSys("norm", 1.1, 0.9),)),
        ],
        [Parameter("mu", 1.0, -5.0, 10.0), spread],
        data=reference.take(np.arange(800), np.ones(800)),
        reference=reference,
    )
    result = coverage(Likelihood([term]), "mu", n_toys=8000, seed=1)
    assert result.n_failed == 0
    for method in ("profile", "hesse"):
        assert result[method].coverage == pytest.approx(0.683, abs=0.01)
        # The statistical error of 8,000 toys is half a percent: the truth is in four of them.
        low, high = result[method].interval
        assert high - low < 0.012
    assert abs(result.bias) < 4.0 * result.bias_error + 0.01
    assert result.pull_width == pytest.approx(1.0, abs=0.04)


def test_progress_goes_to_standard_error(linear, capsys):
    coverage(linear[0], "mu", n_toys=5, seed=1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "toy fits" in captured.err

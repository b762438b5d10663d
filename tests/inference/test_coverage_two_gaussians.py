"""Coverage of the intervals of an unbinned likelihood with exact ratios: a Gaussian signal on a Gaussian background."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neyman.inference import coverage, fit
from neyman.likelihood import Constraint, Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.shapes import UpDownRatio
from neyman.likelihood.yields import NormFactor, NormSys


def two_gaussians(n_reference: int, seed: int, *, shape: bool) -> Likelihood:
    """200 signal events N(1.5, 0.5) on 800 background events N(0, 1) with a 5% normalisation uncertainty and, on
    request, a background whose mean moves by 0.1; the reference is the equal mixture of both."""
    generator = np.random.default_rng(seed)
    signal, background = stats.norm(1.5, 0.5), stats.norm(0.0, 1.0)
    half = n_reference // 2
    x = np.concatenate(
        [signal.rvs(half, random_state=generator), background.rvs(half, random_state=generator)]
    )
    density = 0.5 * (signal.pdf(x) + background.pdf(x))
    columns = {
        "signal": np.log(signal.pdf(x) / density),
        "background": np.log(background.pdf(x) / density),
        "up": stats.norm(0.1, 1.0).logpdf(x) - background.logpdf(x),
        "down": stats.norm(-0.1, 1.0).logpdf(x) - background.logpdf(x),
    }
    reference = Events(np.ones(len(x)), columns)
    samples = [
        UnbinnedSample("signal", 200.0, "signal", (NormFactor("mu"),)),
        UnbinnedSample(
            "background",
            800.0,
            "background",
            (NormSys("norm", 1.05, 0.95),),
            (UpDownRatio("mean", "up", "down"),) if shape else (),
        ),
    ]
    unit = Constraint("normal", 0.0, 1.0)
    parameters = [Parameter("mu", 1.0, -1.0, 5.0), Parameter("norm", 0.0, -5.0, 5.0, constraint=unit)]
    if shape:
        parameters.append(Parameter("mean", 0.0, -5.0, 5.0, constraint=unit))
    return Likelihood([UnbinnedTerm("x", samples, parameters, data=reference, reference=reference)])


def information_error(*, shape: bool) -> float:
    """Asymptotic error of mu from the Fisher information of the extended likelihood, by quadrature."""
    x = np.linspace(-6.0, 6.0, 20001)
    signal, background = 200.0 * stats.norm.pdf(x, 1.5, 0.5), 800.0 * stats.norm.pdf(x)
    slopes = [signal, 0.05 * background]
    if shape:
        slopes.append(0.1 * x * background)
    information = np.array([[np.trapezoid(a * b / (signal + background), x) for a in slopes] for b in slopes])
    information[1:, 1:] += np.eye(len(slopes) - 1)
    return float(np.sqrt(np.linalg.inv(information)[0, 0]))


@pytest.mark.parametrize("shape", [False, True])
def test_expected_error_is_that_of_the_information(shape):
    likelihood = two_gaussians(40_000, 1, shape=shape)
    found = fit(likelihood.asimov())
    assert found.values["mu"] == pytest.approx(1.0, abs=1e-6)
    assert found.errors["mu"] == pytest.approx(information_error(shape=shape), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "n_toys"), [(False, 10_000), (True, 4_000)])
def test_intervals_cover(shape, n_toys):
    """68.3% within 1% for both kinds of intervals (2% for fewer toys), and no bias."""
    likelihood = two_gaussians(20_000, 2, shape=shape)
    found = coverage(likelihood, "mu", n_toys=n_toys, seed=3)
    tolerance = 0.01 if n_toys >= 10_000 else 0.02
    for method in found.methods:
        assert method.coverage == pytest.approx(0.683, abs=tolerance), method

"""The Gaussian term against scipy and pyhf, and its inference against weighted least squares."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyhf
import pytest
import torch
from scipy import stats

import neyman as ny
from neyman.errors import LikelihoodError, WorkspaceError
from neyman.inference import fit, impacts, profile
from neyman.likelihood import Constraint, GaussianTerm, Likelihood, Parameter, binned
from neyman.likelihood.gaussian import gaussian_terms
from neyman.likelihood.histfactory import binned_term
from neyman.likelihood.rates import Channel, Variation
from neyman.workspace import Gaussian

MU = Parameter("mu", 1.0, -10.0, 10.0)
JES = Parameter("jes", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))


def covariance(n: int, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(n, n))
    return scale * (a @ a.T + n * np.eye(n))


def modifier(name: str, kind: str, data: Any = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "data": data}


def rich() -> Gaussian:
    """All modifiers in two channels whose names are not in order, and a negative prediction."""
    norm = modifier("norm", "normsys", {"hi": 1.2, "lo": 0.85})
    lumi = modifier("lumi", "lumi")
    shape = modifier("norm", "histosys", {"hi_data": [11.0, 8.0, 7.5], "lo_data": [9.5, 9.0, 6.5]})
    signal = [modifier("mu", "normfactor"), norm, shape, lumi, modifier("stat", "staterror", [0.5, 0.4, 0.3])]
    spectrum = {
        "name": "unfolded",
        "channels": [
            {
                "name": "y",
                "data": [12.0, 7.0, -1.0],
                "samples": [
                    {"name": "s", "data": [10.0, 8.5, 7.0], "modifiers": signal},
                    {
                        "name": "interference",
                        "data": [-2.0, 0.5, -6.0],
                        "modifiers": [modifier("c", "normfactor")],
                    },
                ],
            },
            {
                "name": "x",
                "data": [4.0, 30.0],
                "samples": [
                    {
                        "name": "s",
                        "data": [5.0, 25.0],
                        "modifiers": [
                            norm,
                            modifier("mu", "normfactor"),
                            modifier("unc", "shapesys", [1.0, 2.0]),
                            modifier("free", "shapefactor"),
                        ],
                    }
                ],
            },
        ],
        "covariance": covariance(5).tolist(),
    }
    settings = [
        {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]},
        {"name": "mu", "bounds": [[-5.0, 5.0]]},
    ]
    config = {"poi": "mu", "parameters": settings}
    return Gaussian.model_validate({"spectra": [spectrum], "measurements": [{"name": "m", "config": config}]})


def likelihood_of(document: Gaussian) -> Likelihood:
    return Likelihood(gaussian_terms(document, document.measurements[0].config), poi="mu")


def points(lh: Likelihood, n: int, seed: int = 2) -> np.ndarray:
    x = lh.inits + np.random.default_rng(seed).normal(0.0, 0.3, (n, len(lh.names)))
    return np.clip(x, lh.bounds[:, 0] + 0.01, lh.bounds[:, 1] - 0.01)


def line(
    name: str, template: list[float], data: list[float], cov: np.ndarray, *, jes: float | None = None
) -> GaussianTerm:
    """One channel with the prediction mu * template, and a normalisation uncertainty where `jes` is given."""
    scalings = () if jes is None else (Variation(1, 0, 1.0 + jes, 1.0 - jes),)
    slots = np.zeros((1, len(template), 1), dtype=np.int64)
    channel = Channel(name, ("s",), np.array([template]), (), scalings, slots)
    return GaussianTerm(name, [channel], (MU,) if jes is None else (MU, JES), data, cov, poi="mu")


# Values and derivatives ---------------------------------------------------------------------------------------


def test_value_equals_scipy_with_the_prediction_of_pyhf() -> None:
    document = rich()
    lh = likelihood_of(document)
    spectrum = document.spectra[0]
    spec = spectrum.workspace(document.measurements[0].config)
    model = pyhf.Model(
        {"channels": spec["channels"], "parameters": spec["measurements"][0]["config"]["parameters"]},
        validate=False,
        poi_name=None,
        modifier_settings={"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}},
    )
    assert list(lh.names) == model.config.par_names
    (term,) = lh.terms
    assert isinstance(term, GaussianTerm)
    assert dict(term.channels) == {"x": slice(0, 2), "y": slice(2, 5)}
    assert term.samples == ("interference", "s")
    assert term.data.tolist() == [4.0, 30.0, 12.0, 7.0, -1.0]
    order = [3, 4, 0, 1, 2]  # of the document's bins
    cov = np.asarray(spectrum.covariance)[np.ix_(order, order)]
    np.testing.assert_array_equal(term.covariance, cov)
    for x in points(lh, 5):
        expected = model.main_model.expected_data(x)
        density = stats.multivariate_normal(expected, cov).logpdf(term.data.numpy())
        constraints = float(model.constraint_logpdf(np.array(model.config.auxdata), x))
        assert lh.value(x) == pytest.approx(-2.0 * (density + constraints), rel=1e-11)
        np.testing.assert_allclose(term.expected(torch.tensor(x)), expected, rtol=1e-12)
        by_sample = term.expected_by_sample(torch.tensor(x))
        np.testing.assert_allclose(by_sample.sum(0), expected, rtol=1e-12)
        chi2 = float(term.chi_square(torch.tensor(x)))
        residual = term.data.numpy() - expected
        assert chi2 == pytest.approx(residual @ np.linalg.solve(cov, residual), rel=1e-11)


def test_derivatives_are_exact() -> None:
    lh = likelihood_of(rich())
    for x in points(lh, 3):
        _, gradient, hessian = lh.evaluate(x, 2)
        assert gradient is not None
        assert hessian is not None
        np.testing.assert_allclose(lh.gradient(x), gradient, rtol=1e-11, atol=1e-11)
        step = 1e-3
        shifts = [x + k * step * np.eye(len(x)) for k in (-2, -1, 1, 2)]
        for order, exact in ((0, gradient), (1, hessian)):
            a, b, c, d = (np.asarray(lh.evaluate(p, order)[order]) for p in shifts)
            numerical = (a - 8 * b + 8 * c - d) / (12 * step)
            np.testing.assert_allclose(exact, numerical, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12, atol=1e-12)


def test_jacobian_is_that_of_autograd() -> None:
    (term,) = likelihood_of(rich()).terms
    assert isinstance(term, GaussianTerm)
    theta = torch.tensor(points(likelihood_of(rich()), 4))
    exact = term._rates.at(theta).jacobian()
    for row, found in zip(theta, exact, strict=True):
        torch.testing.assert_close(torch.autograd.functional.jacobian(term.expected, row).T, found)


def test_batches_chunks_and_data_sets_equal_single_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    (term,) = likelihood_of(rich()).terms
    assert isinstance(term, GaussianTerm)
    theta = torch.tensor(points(likelihood_of(rich()), 12)).reshape(3, 4, -1)
    whole = term.evaluate(theta, 2)
    monkeypatch.setattr(binned, "_CHUNK", 1000)
    chunked = term.evaluate(theta, 2)
    rng = np.random.default_rng(3)
    sets = [torch.tensor(rng.normal(5.0, 3.0, 5)) for _ in range(12)]
    batch = term.with_data(term.stack(sets)).evaluate(theta.reshape(12, -1), 2)
    assert whole.hessian is not None
    assert whole.hessian.shape == (3, 4, *[theta.shape[-1]] * 2)
    for i in range(12):
        single = term.evaluate(theta.reshape(12, -1)[i], 2)
        other = term.with_data(sets[i]).evaluate(theta.reshape(12, -1)[i], 2)
        for part in ("value", "gradient", "hessian"):
            for joined in (whole, chunked):
                found = getattr(joined, part)[i // 4, i % 4]
                torch.testing.assert_close(found, getattr(single, part), rtol=1e-11, atol=1e-10)
            torch.testing.assert_close(getattr(batch, part)[i], getattr(other, part), rtol=1e-11, atol=1e-10)


def test_asimov_data_and_their_minimum() -> None:
    lh = likelihood_of(rich())
    x = lh.vector({"mu": 1.4, "norm": 0.3, "c": 1.5})
    asimov = lh.asimov(x)
    assert asimov.gradient(x) == pytest.approx(np.zeros(len(x)), abs=1e-10)
    _, log_det = np.linalg.slogdet(2.0 * np.pi * covariance(5))
    (term,) = asimov.terms
    assert float(term.evaluate(torch.tensor(x)).value) == pytest.approx(log_det, rel=1e-12)


def test_a_term_moves_to_a_device_and_stays_the_same() -> None:
    lh = likelihood_of(rich())
    x = points(lh, 2)
    assert np.array_equal(lh.to("cpu").value(x), lh.value(x))


def test_samples_are_reproducible_and_have_the_covariance() -> None:
    (term,) = likelihood_of(rich()).terms
    assert isinstance(term, GaussianTerm)
    theta = torch.tensor([p.init for p in term.parameters], dtype=torch.float64)
    draw = term.sampler(theta)
    rng = np.random.default_rng(4)
    n = 20_000
    draws = term.stack([draw(rng) for _ in range(n)]).numpy()
    assert torch.equal(draw(np.random.default_rng(7)), draw(np.random.default_rng(7)))
    cov, widths = term.covariance, np.sqrt(term.covariance.diagonal())
    assert np.all(np.abs(draws.mean(0) - term.expected(theta).numpy()) < 4.5 * widths / np.sqrt(n))
    assert np.all(np.abs(np.cov(draws.T) - cov) < 4.5 * np.outer(widths, widths) * np.sqrt(2.0 / n))


# Inference ----------------------------------------------------------------------------------------------------

TEMPLATE, DATA = [10.0, 20.0, -5.0, 8.0], [13.0, 19.0, -7.0, 11.0]


def test_the_fit_of_one_factor_is_weighted_least_squares() -> None:
    cov, t, x = covariance(4, 5), np.array(TEMPLATE), np.array(DATA)
    lh = Likelihood([line("a", TEMPLATE, DATA, cov)], poi="mu")
    information = t @ np.linalg.solve(cov, t)
    mu = t @ np.linalg.solve(cov, x) / information
    for result in (fit(lh), fit(lh, migrad=False)):
        assert result.valid
        assert result.values["mu"] == pytest.approx(mu, rel=1e-8)
        assert result.errors["mu"] == pytest.approx(information**-0.5, rel=1e-8)
    minos = fit(lh, minos=["mu"]).minos["mu"]
    assert minos.upper == pytest.approx(information**-0.5, rel=1e-4)
    scan = profile(lh, "mu", np.array([mu - 1.0, mu, mu + 2.0]))
    assert scan.delta == pytest.approx([information, 0.0, 4.0 * information], rel=1e-7, abs=1e-9)


def test_two_factors_have_the_covariance_of_least_squares() -> None:
    a = np.array([[10.0, 20.0, -5.0, 8.0], [1.0, 1.0, 3.0, -2.0]])
    cov = covariance(4, 6)
    slots = np.array([[[0]] * 4, [[1]] * 4])
    parameters = (MU, Parameter("c", 0.5, -10.0, 10.0))
    term = GaussianTerm("a", [Channel("a", ("s", "i"), a, (), (), slots)], parameters, DATA, cov)
    result = fit(Likelihood([term]))
    information = a @ np.linalg.solve(cov, a.T)
    solution = np.linalg.solve(information, a @ np.linalg.solve(cov, DATA))
    assert result.values.array == pytest.approx(solution, rel=1e-8)
    assert result.covariance is not None
    np.testing.assert_allclose(result.covariance.array, np.linalg.inv(information), rtol=1e-8)
    assert result.fval == pytest.approx(
        -2.0 * stats.multivariate_normal(solution @ a, cov).logpdf(DATA), rel=1e-12
    )


def pyhf_part() -> tuple[Any, dict[str, float]]:
    samples = [
        {
            "name": "s",
            "data": [50.0, 60.0],
            "modifiers": [modifier("mu", "normfactor"), modifier("jes", "normsys", {"hi": 1.1, "lo": 0.9})],
        }
    ]
    config = {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-10.0, 10.0]]}]}
    spec = {
        "channels": [{"name": "counts", "samples": samples}],
        "observations": [{"name": "counts", "data": [61.0, 58.0]}],
        "measurements": [{"name": "m", "config": config}],
        "version": "1.0.0",
    }
    return binned_term(spec)


def test_combined_with_counts_it_is_the_sum_with_one_constraint() -> None:
    counts, observed = pyhf_part()
    spectrum = line("unfolded", TEMPLATE, DATA, covariance(4, 5), jes=0.1)
    lh = Likelihood([counts, spectrum], global_observables=observed, poi="mu")
    assert sorted(lh.names) == ["jes", "mu"]
    for x in ({"mu": 1.2, "jes": 0.5}, {"mu": 0.7, "jes": -1.3}):
        full = lh.vector(x)
        parts = [
            float(t.evaluate(torch.tensor([x[p.name] for p in t.parameters], dtype=torch.float64)).value)
            for t in (counts, spectrum)
        ]
        constraint = x["jes"] ** 2 + np.log(2.0 * np.pi)
        assert lh.value(full) == pytest.approx(sum(parts) + constraint, rel=1e-12)
    both, alone = fit(lh), fit(Likelihood([spectrum]))
    assert both.valid
    assert both.errors["mu"] < alone.errors["mu"]


def test_toys_of_a_combination_have_unit_pulls() -> None:
    counts, observed = pyhf_part()
    spectrum = line("unfolded", TEMPLATE, DATA, covariance(4, 5), jes=0.1)
    lh = Likelihood([counts, spectrum], global_observables=observed, poi="mu")
    made = ny.toys(lh, 500, at={"mu": 1.1}, seed=1)
    found = ny.fit_toys(lh, made)
    assert found.valid.all()
    assert not found.lower
    pulls = (found.values - lh.vector({"mu": 1.1})) / found.errors
    assert np.abs(pulls.mean(0)).max() < 4.5 / np.sqrt(500)
    assert np.abs(pulls.std(0) - 1.0).max() < 4.5 / np.sqrt(1000)


def test_impacts_of_a_shared_parameter() -> None:
    counts, observed = pyhf_part()
    spectrum = line("unfolded", TEMPLATE, DATA, covariance(4, 5), jes=0.1)
    lh = Likelihood([counts, spectrum], global_observables=observed, poi="mu")
    found = impacts(lh, "mu")
    assert [impact.name for impact in found] == ["jes"]
    up, down = fit(lh, fixed={"jes": 1.0}).values["mu"], fit(lh, fixed={"jes": -1.0}).values["mu"]
    assert up < fit(lh).values["mu"] < down


def test_goodness_of_fit_is_chi_square_with_the_bins_counted() -> None:
    cov, t, x = covariance(4, 5), np.array(TEMPLATE), np.array(DATA)
    lh = Likelihood([line("unfolded", TEMPLATE, DATA, cov)])
    result = ny.goodness_of_fit(lh)
    best = fit(lh)
    residual = x - best.values["mu"] * t
    chi2 = residual @ np.linalg.solve(cov, residual)
    assert result.statistic == pytest.approx(chi2, rel=1e-10)
    assert result.statistic == pytest.approx(best.fval - np.linalg.slogdet(2.0 * np.pi * cov)[1], rel=1e-8)
    assert result.ndof == 3
    assert result.p_value == pytest.approx(stats.chi2.sf(chi2, 3))
    toys = ny.goodness_of_fit(lh, calculator="toys", n_toys=400, seed=2)
    assert toys.toys is not None
    assert toys.toys.mean() == pytest.approx(3.0, abs=4.5 * np.sqrt(6.0 / 400.0))


def test_goodness_of_fit_of_a_combination_has_a_part_a_term() -> None:
    counts, observed = pyhf_part()
    spectrum = line("unfolded", TEMPLATE, DATA, covariance(4, 5), jes=0.1)
    result = ny.goodness_of_fit(Likelihood([counts, spectrum], global_observables=observed))
    assert set(result.parts) == {"binned", "unfolded", "constraints"}
    assert result.ndof == 2 + 4 + 1 - 2
    assert sum(result.parts.values()) == pytest.approx(result.statistic)


# Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1.0, 2.0], r"(?s)the a data have shape \(2,\).*expected: 4 values: a 4"),
        ([1.0, np.nan, 2.0, 3.0], r"(?s)the a data are not finite: nan.*bin 1 of channel 'a'"),
    ],
)
def test_data_that_do_not_fit(data: list[float], message: str) -> None:
    term = line("a", TEMPLATE, DATA, np.eye(4))
    with pytest.raises(LikelihoodError, match=message):
        term.with_data(data)


def with_entry(i: int, j: int, value: float) -> np.ndarray:
    cov = np.eye(4)
    cov[i, j] = value
    return cov


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (np.eye(3), r"(?s)the matrix has shape \(3, 3\).*covariance of 'a'.*\(4, 4\)"),
        ([[1.0], [1.0, 2.0]], r"(?s)row 0 of the matrix has 1 entries.*4 rows of 4 entries"),
        (
            with_entry(0, 2, 0.1),
            r"(?s)not symmetric: bin 0 of a with bin 2 of a is 0.1 one way and 0 the other",
        ),
        (with_entry(1, 3, np.inf), "the covariance of bin 1 of a and bin 3 of a is inf"),
        (with_entry(3, 3, -2.0), "(?s)the variance of bin 3 of a is -2.*a positive number"),
        (
            with_entry(0, 1, 1.5) + with_entry(1, 0, 1.5) - np.eye(4),
            r"(?s)not positive definite: the smallest eigenvalue .* -0.5.*'a': bin 0 of a, bin 1 of a\n.*than bins",
        ),
        (
            np.eye(4) - 0.25,
            r"(?s)not positive definite.*bin 0 of a, bin 1 of a, bin 2 of a, bin 3 of a\n.*normalised to its total",
        ),
    ],
)
def test_covariances_that_do_not_fit(cov: Any, message: str) -> None:
    with pytest.raises(LikelihoodError, match=message):
        line("a", TEMPLATE, DATA, cov)


def test_rounding_of_a_symmetric_matrix_is_forgiven() -> None:
    cov = covariance(4)
    rounded = cov.copy()
    rounded[0, 1] *= 1.0 + 1e-9
    assert np.array_equal(
        line("a", TEMPLATE, DATA, rounded).covariance, line("a", TEMPLATE, DATA, rounded).covariance.T
    )


def test_predictions_that_are_not_finite() -> None:
    scalings = (Variation(0, 0, 1e200, 1e-200),)
    slots = np.full((1, 2, 1), -1)
    channel = Channel("a", ("s",), np.array([[1.0, 2.0]]), (), scalings, slots)
    term = GaussianTerm("a", [channel], (JES,), [1.0, 2.0], np.eye(2))
    theta = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    with pytest.raises(
        LikelihoodError,
        match=r"(?s)bin 0 of channel 'a' has the prediction inf.*rates s inf, in row 1 of the batch",
    ):
        term.evaluate(theta)
    found = term.evaluate(theta, 2, strict=False)
    assert found.value.tolist() == [pytest.approx(2 * np.log(2 * np.pi)), np.inf]
    assert found.gradient is not None
    assert torch.isnan(found.gradient[1]).all()
    assert torch.isfinite(found.gradient[0]).all()
    with pytest.raises(LikelihoodError, match="has the prediction inf"):
        term.sampler(theta[1])


def test_an_error_of_a_model_names_the_spectrum() -> None:
    document = rich().dump()
    document["measurements"][0]["config"]["parameters"] = []
    broken = Gaussian.model_validate(copy.deepcopy(document))
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)luminosity parameter has no auxdata.*where: spectrum 'unfolded' of gaussian.json",
    ):
        likelihood_of(broken)

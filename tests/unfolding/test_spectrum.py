"""Spectra, moments, covariances and files of a result that is made by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import neyman as ny
from neyman.errors import InputError, NeymanWarning
from neyman.unfolding import (
    Iteration,
    Spectrum,
    StepRecord,
    Support,
    Unfolding,
    mse_rel,
    sigma_rel,
    to_hepdata,
)
from neyman.workspace import Draft, SampleModel, from_unfolded

N = 4000
RNG = np.random.default_rng(1)
X, Y = RNG.normal(0.0, 1.0, N), RNG.uniform(0.0, 2.0, N)
WEIGHT = RNG.uniform(0.5, 1.5, N)
MEMBERS = RNG.lognormal(0.0, 0.2, (4, N))
TRUTH = RNG.random(N) < 0.95
DETECTED = RNG.random(N) < 0.9
EDGES = np.array([-3.0, -1.0, 0.0, 0.5, 3.0])
STEP = StepRecord(0, "detector", (0.5,) * 4, (True,) * 4, (100,) * 4, 1.1, 3000.0, 4.0)


def draws(n: int, seed: int) -> NDArray[np.float32]:
    counts = np.random.default_rng(seed).poisson(1.0, (n, N))
    return np.where(TRUTH, counts * WEIGHT * MEMBERS.mean(axis=0), 0.0).astype(np.float32)


RESULT = Unfolding(
    WEIGHT,
    MEMBERS,
    1.1 * MEMBERS,
    TRUTH,
    DETECTED,
    DETECTED.astype(np.float64),
    "mean",
    "parallel",
    (STEP, replace(STEP, level="particle")),
    Support({"x": 0.01}),
    (Iteration(MEMBERS.astype(np.float32), (0.9 * MEMBERS).astype(np.float32)),),
    {"data": draws(300, 2)},
    {"scale": np.stack([RNG.uniform(0.9, 1.1, N) * WEIGHT for _ in range(2)]).astype(np.float32)},
)


def contents(weights: NDArray[Any]) -> NDArray[Any]:
    return np.histogram(X, EDGES, weights=np.where(TRUTH, weights.astype(np.float64), 0.0))[0]


def test_spectrum_sums_the_unfolded_weights() -> None:
    spectrum = RESULT.spectrum(X, EDGES, name="x", unit="GeV")
    np.testing.assert_allclose(spectrum.values, contents(RESULT.unfolded), rtol=1e-12)
    np.testing.assert_allclose(spectrum.statistics, contents(RESULT.unfolded**2), rtol=1e-12)
    np.testing.assert_allclose(spectrum.hist.values(), spectrum.values)
    np.testing.assert_allclose(spectrum.hist.variances(), spectrum.errors**2)
    assert spectrum.hist.axes[0].label == "x [GeV]"


def test_covariance_by_source() -> None:
    spectrum = RESULT.spectrum(X, EDGES)
    assert set(spectrum.sources) == {"data", "scale", "simulation", "training"}
    np.testing.assert_allclose(spectrum.sources["simulation"], np.diag(spectrum.statistics))
    rows = np.stack([contents(row) for row in RESULT.replicas["data"]])
    np.testing.assert_allclose(spectrum.sources["data"], np.cov(rows.T), rtol=1e-5)
    # Poisson counts have the covariance of the fill.
    np.testing.assert_allclose(np.diag(spectrum.sources["data"]), spectrum.statistics, rtol=0.35)
    up, down = (contents(row) for row in RESULT.systematics["scale"])
    np.testing.assert_allclose(spectrum.sources["scale"], np.outer(up - down, up - down) / 4.0, rtol=1e-4)
    members = np.stack([contents(WEIGHT * own) for own in MEMBERS])
    np.testing.assert_allclose(spectrum.sources["training"], np.cov(members.T) / 4.0, rtol=1e-9)
    np.testing.assert_allclose(spectrum.covariance, sum(spectrum.sources.values()))
    assert np.diag(spectrum.correlation) == pytest.approx(np.ones(4))

    one = replace(RESULT, systematics={"scale": RESULT.systematics["scale"][:1]})
    shift = up - contents(RESULT.unfolded)
    np.testing.assert_allclose(one.spectrum(X, EDGES).sources["scale"], np.outer(shift, shift), rtol=1e-3)


def test_without_replicas_the_fill_is_the_simulation() -> None:
    bare = replace(RESULT, replicas={}, systematics={})
    spectrum = bare.spectrum(X, EDGES)
    assert set(spectrum.sources) == {"simulation", "training"}
    np.testing.assert_allclose(spectrum.sources["simulation"], np.diag(spectrum.statistics))
    moments = bare.moments(X)
    rows = draws(2000, 5)
    assert np.sqrt(moments.sources["simulation"][0, 0]) == pytest.approx(
        np.std([np.average(X, weights=row) for row in rows]), rel=0.06
    )
    assert np.sqrt(moments.sources["simulation"][1, 1]) == pytest.approx(
        np.std([np.sqrt(np.average(X**2, weights=row) - np.average(X, weights=row) ** 2) for row in rows]),
        rel=0.06,
    )


def test_several_axes_are_flattened_in_c_order() -> None:
    edges = [0.0, 1.0, 2.0]
    spectrum = RESULT.spectrum([X, Y], [EDGES, edges], name=["x", "y"], unit=["GeV", ""])
    exact, *_ = np.histogram2d(X[TRUTH], Y[TRUTH], [EDGES, edges], weights=RESULT.unfolded[TRUTH])
    np.testing.assert_allclose(spectrum.values, exact.reshape(-1), rtol=1e-12)
    np.testing.assert_allclose(spectrum.hist.values(), exact)
    density = spectrum.normalised()
    volumes = np.outer(np.diff(EDGES), np.diff(edges)).reshape(-1)
    assert (density.values * volumes).sum() == pytest.approx(1.0)


def test_normalised_covariance_is_that_of_the_normalised_replicas() -> None:
    spectrum = RESULT.spectrum(X, EDGES, density=True)
    rows = np.stack([contents(row) for row in RESULT.replicas["data"]])
    shapes = rows / rows.sum(axis=1, keepdims=True) / np.diff(EDGES)
    np.testing.assert_allclose(spectrum.sources["data"], np.cov(shapes.T), rtol=0.05, atol=1e-6)
    assert (spectrum.sources["data"] @ np.diff(EDGES)) == pytest.approx(np.zeros(4), abs=1e-12)
    assert spectrum.normalised() is spectrum
    fixed = spectrum.compare(spectrum.values * 1.01)
    assert fixed.ndof == 3  # the sum is no information


def test_moments() -> None:
    moments = RESULT.moments(X)
    w = RESULT.unfolded
    assert moments.mean == pytest.approx(np.average(X, weights=w))
    assert moments.width == pytest.approx(np.sqrt(np.average((X - moments.mean) ** 2, weights=w)))
    rows = RESULT.replicas["data"]
    means = [np.average(X, weights=row) for row in rows]
    assert moments.sources["data"][0, 0] == pytest.approx(np.var(means, ddof=1), rel=1e-4)
    assert moments.errors[0] ** 2 == pytest.approx(moments.covariance[0, 0])
    json.dumps(moments.to_dict(), allow_nan=False)
    assert (
        str(moments)
        .splitlines()[0]
        .startswith(f"mean   {moments.mean:.5g} +- {moments.errors[0]:.2g} (data ")
    )
    assert "mean of 4 members, parallel; 2 trainings, 300 replicas of the data, systematics scale>" in repr(
        RESULT
    )


def test_comparison_with_a_truth() -> None:
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    edges = (np.array([0.0, 1.0, 2.0]),)
    spectrum = Spectrum(("x",), ("",), edges, np.array([10.0, 5.0]), {"data": covariance}, np.ones(2))
    found = spectrum.compare([9.0, 6.0])
    d = np.array([1.0, -1.0])
    assert found.chi2 == pytest.approx(d @ np.linalg.inv(covariance) @ d)
    assert found.ndof == 2
    assert found.pulls == pytest.approx(d / np.sqrt([2.0, 1.0]))
    assert found.bias == pytest.approx(d / [9.0, 6.0])
    assert spectrum.compare(spectrum).chi2 == 0.0
    with pytest.raises(InputError, match=r"the truth has 3 bins\n.*2, those of the spectrum"):
        spectrum.compare([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="bin 1 has no error and differs from the truth by -1"):
        replace(spectrum, sources={"data": np.diag([1.0, 0.0])}).compare([9.0, 6.0])
    with pytest.raises(InputError, match="the two spectra have other bins"):
        spectrum.compare(replace(spectrum, edges=(np.array([0.0, 1.0, 3.0]),)))
    with pytest.raises(InputError, match="one spectrum is a density, the other is not"):
        spectrum.compare(spectrum.normalised())
    with pytest.warns(NeymanWarning, match="covariance of 2 bins comes from 5 replicas of the data.*use 6"):
        replace(spectrum, replicas={"data": 5}).compare([9.0, 6.0])
    json.dumps(found.to_dict(), allow_nan=False)


def test_yield_at_detector_level_and_iterations() -> None:
    np.testing.assert_allclose(RESULT.folded, WEIGHT * DETECTED * MEMBERS.mean(axis=0), rtol=1e-6)
    first = RESULT.after(1)
    np.testing.assert_allclose(first.push, 0.9 * RESULT.push, rtol=1e-5)
    assert not first.replicas
    with pytest.raises(InputError, match=r"no weights after iteration 2\n.*1 to 1"):
        RESULT.after(2)
    with pytest.raises(InputError, match="this result has no networks"):
        _ = first.model


def test_spectrum_errors() -> None:
    with pytest.raises(InputError, match="the edges of 'x' do not rise"):
        RESULT.spectrum(X, [0.0, 0.0, 1.0])
    with pytest.raises(InputError, match=r"the observable has shape \(3,\)"):
        RESULT.spectrum(X[:3], EDGES)
    with pytest.raises(InputError, match="2 names, 1 observables and 1 sets of edges"):
        RESULT.spectrum([X], [EDGES], name=["x", "y"])
    with pytest.raises(InputError, match="x is nan in event"):
        RESULT.moments(np.where(TRUTH, np.nan, X))
    with pytest.raises(InputError, match="two axes have one name: x, x"):
        RESULT.spectrum([X, Y], [EDGES, EDGES], name=["x", "x"])
    negative = replace(RESULT, weight=-WEIGHT, replicas={}, systematics={})
    with pytest.raises(InputError, match="x has no standard deviation: the weights sum to -"):
        negative.moments(X)
    RESULT.moments(np.where(TRUTH, X, np.nan))  # an event without particle level needs no value
    nothing = Spectrum(("x",), ("",), (EDGES,), np.zeros(4), {}, np.zeros(4))
    with pytest.raises(InputError, match="the spectrum of x sums to 0, it cannot be normalised"):
        nothing.normalised()


def test_spectrum_as_plain_data() -> None:
    spectrum = RESULT.spectrum(X, EDGES, name="x", unit="GeV")
    again = Spectrum.from_dict(json.loads(json.dumps(spectrum.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.covariance, spectrum.covariance)
    assert again.to_dict() == spectrum.to_dict()
    with pytest.raises(InputError, match="this is not a spectrum: KeyError"):
        Spectrum.from_dict({"names": ["x"]})
    with pytest.raises(InputError, match=r"values of the spectrum has shape \(3,\)\n.*\(4,\)"):
        Spectrum.from_dict(spectrum.to_dict() | {"values": [1.0, 2.0, 3.0]})


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_event_is_in_its_bin(n_x: int, n_y: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = [np.unique(rng.uniform(-2, 2, n + 1).round(2)) for n in (n_x, n_y)]
    if any(len(steps) < 2 for steps in edges):
        return
    spectrum = RESULT.spectrum([X.round(2), Y.round(2)], edges, name=["x", "y"])
    exact, *_ = np.histogram2d(X.round(2), Y.round(2), edges, weights=RESULT.unfolded)
    np.testing.assert_allclose(spectrum.values, exact.reshape(-1), rtol=1e-9, atol=1e-9)


def test_a_result_survives_its_folder(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "unfolding")
    again = Unfolding.load(tmp_path / "unfolding")
    for name in ("weight", "members", "pull_members", "passes_truth", "passes_reconstruction", "factor"):
        np.testing.assert_array_equal(getattr(again, name), getattr(RESULT, name))
    np.testing.assert_array_equal(again.replicas["data"], RESULT.replicas["data"])
    np.testing.assert_array_equal(again.iterations[0].push, RESULT.iterations[0].push)
    assert again.steps == RESULT.steps
    assert again.spectrum(X, EDGES).to_dict() == RESULT.spectrum(X, EDGES).to_dict()
    assert again.to_dict()["support"]["features"] == {"x": 0.01}

    (tmp_path / "unfolding" / "weights.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"weights\.parquet is not a readable Parquet file"):
        Unfolding.load(tmp_path / "unfolding")
    with pytest.raises(InputError, match=r"unfolding\.json does not exist"):
        Unfolding.load(tmp_path)
    RESULT.save(tmp_path / "unfolding")
    document = json.loads((tmp_path / "unfolding" / "unfolding.json").read_text())
    for change, message in (
        ({"format": "other"}, "this is not an unfolding"),
        ({"members": 9}, "the files of an unfolding do not fit each other: KeyError"),
        ({"steps": [{"level": 1}]}, "do not fit each other: TypeError"),
    ):
        (tmp_path / "unfolding" / "unfolding.json").write_text(json.dumps(document | change))
        with pytest.raises(InputError, match=message):
            Unfolding.load(tmp_path / "unfolding")


def test_hepdata_submission(tmp_path: Path) -> None:
    spectrum = RESULT.spectrum(X, EDGES, name="x", unit="GeV")
    two = RESULT.spectrum([X, Y], [EDGES, [0.0, 1.0, 2.0]], name=["x", "y"])
    folder = to_hepdata([spectrum, two], tmp_path / "hepdata", keywords=[("cmenergies", ["13000"])])
    first, *tables = yaml.safe_load_all((folder / "submission.yaml").read_text())
    assert first["comment"] == "Unfolded with OmniFold"
    kinds = ("", "-covariance", *(f"-covariance-{s}" for s in ("data", "scale", "simulation", "training")))
    assert [table["data_file"] for table in tables] == [
        f"{name}{kind}.yaml" for name in ("x", "x_y") for kind in kinds
    ]
    table = yaml.safe_load((folder / "x.yaml").read_text())
    assert table["independent_variables"][0]["header"] == {"name": "x", "units": "GeV"}
    assert [(b["low"], b["high"]) for b in table["independent_variables"][0]["values"]] == list(
        itertools.pairwise(EDGES)
    )
    value = table["dependent_variables"][0]["values"][1]
    assert value["value"] == spectrum.values[1]
    errors = {error["label"]: error["symerror"] for error in value["errors"]}
    assert errors["stat,data"] == pytest.approx(np.sqrt(spectrum.sources["data"][1, 1]))
    assert set(errors) == {"stat,data", "stat,simulation", "sys,scale", "sys,training"}
    density = to_hepdata(spectrum.normalised(), tmp_path / "density")
    header = yaml.safe_load((density / "x.yaml").read_text())["dependent_variables"][0]["header"]
    assert header == {"name": "1/N dN/dx", "units": "1/GeV"}
    covariance = yaml.safe_load((folder / "x-covariance.yaml").read_text())
    matrix = np.array([v["value"] for v in covariance["dependent_variables"][0]["values"]]).reshape(4, 4)
    np.testing.assert_allclose(matrix, spectrum.covariance)
    flat = yaml.safe_load((folder / "x_y.yaml").read_text())
    assert [len(axis["values"]) for axis in flat["independent_variables"]] == [8, 8]

    with pytest.raises(InputError, match="two spectra have the name 'x'"):
        to_hepdata([spectrum, spectrum], tmp_path / "twice")
    with pytest.raises(InputError, match="there is no spectrum to write"):
        to_hepdata([], tmp_path / "none")
    broken = replace(spectrum, values=spectrum.values * np.nan)
    with pytest.raises(InputError, match="the spectrum of x has values that are not finite"):
        to_hepdata(broken, tmp_path / "broken")


def test_bias_and_spread_of_passes() -> None:
    truth = np.array([100.0, 50.0])
    passes = np.array([[110.0, 50.0], [90.0, 52.0], [100.0, 54.0]])
    np.testing.assert_allclose(mse_rel(truth, passes), [200.0 / 3.0 / 100.0, 20.0 / 3.0 / 50.0])
    np.testing.assert_allclose(sigma_rel(passes), [np.sqrt(200.0 / 3.0) / 100.0, np.sqrt(8.0 / 3.0) / 52.0])
    with pytest.raises(InputError, match=r"shape \(2,\), the truth \(2,\)"):
        mse_rel(truth, passes[0])
    with pytest.raises(InputError, match=r"shape \(1, 2\)"):
        sigma_rel(passes[:1])
    with pytest.raises(InputError, match="the truth is 0 in bin 1"):
        mse_rel([1.0, 0.0], passes)
    with pytest.raises(InputError, match="the mean of the passes is 0 in bin 0"):
        sigma_rel(passes * [0.0, 1.0])


def test_an_unfolded_spectrum_is_a_term_of_a_likelihood(tmp_path: Path) -> None:
    """The strength of a prediction has the closed form of weighted least squares."""
    spectrum = RESULT.spectrum(X, EDGES, name="x", unit="GeV")
    prediction = 0.9 * spectrum.values + [5.0, -3.0, 8.0, 2.0]
    models = {"signal": SampleModel(("mu",))}
    document = from_unfolded({"x": spectrum}, {"x": {"signal": prediction}}, models)
    Draft(gaussian=document).write(tmp_path / "workspace")
    likelihood = ny.Likelihood.load(tmp_path / "workspace")
    fit = ny.fit(likelihood)
    weight = np.linalg.inv(spectrum.covariance)
    information = prediction @ weight @ prediction
    assert fit.values["mu"] == pytest.approx(prediction @ weight @ spectrum.values / information, rel=1e-6)
    assert fit.errors["mu"] == pytest.approx(information**-0.5, rel=1e-5)
    few = replace(spectrum, replicas={"data": 11})
    with pytest.warns(
        NeymanWarning, match="covariance of the 4 bins of 'x' comes from 11 replicas of the data.*use 12"
    ):
        from_unfolded({"x": few}, {"x": {"signal": prediction}}, models)

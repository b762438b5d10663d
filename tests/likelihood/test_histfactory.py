"""The binned term against pyhf, numerical derivatives and identities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonpatch
import numpy as np
import pyhf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neyman.errors import LikelihoodError
from neyman.likelihood import Likelihood, binned
from neyman.likelihood.histfactory import HistFactoryTerm, binned_term

SIGNALS = {"A": ("1000_550", "1300_205", "1300_850"), "B": ("1000_550", "1300_205", "1300_850")}
SIGNALS["C"] = ("1300_205", "1300_850")
PUBLISHED = [
    ("atlas_ttbar_ljets_xsec.json", None),
    *((f"Region{region}/BkgOnly.json", None) for region in SIGNALS),
    *(
        (f"Region{region}/BkgOnly.json", f"Region{region}/patch.sbottom_{masses}_60.json")
        for region, points in SIGNALS.items()
        for masses in points
    ),
]


def published(folder: Path, file: str, patch: str | None) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((folder / "pyhf" / file).read_text())
    if patch is not None:
        spec = jsonpatch.apply_patch(spec, json.loads((folder / "pyhf" / patch).read_text()))
    return spec


def pyhf_model(spec: dict[str, Any], **settings_: Any) -> tuple[Any, list[float]]:
    parameters = spec["measurements"][0]["config"]["parameters"]
    document = {"channels": spec["channels"], "parameters": parameters}
    model = pyhf.Model(document, validate=False, poi_name=None, **settings_)
    counts = {entry["name"]: entry["data"] for entry in spec["observations"]}
    main = [count for name in model.config.channels for count in counts[name]]
    return model, main + model.config.auxdata


def twice_nll(model: Any, data: list[float], points: np.ndarray) -> np.ndarray:
    return np.array([float(pyhf.infer.mle.twice_nll(x, data, model)[0]) for x in points])


def random_points(likelihood: Likelihood, n: int, seed: int) -> np.ndarray:
    """Points near the start, with nuisance parameters inside and outside |alpha| = 1 but not at the joints."""
    rng = np.random.default_rng(seed)
    x = likelihood.inits + rng.normal(size=(n, len(likelihood.names))) * np.where(
        likelihood.inits == 0, 0.7, 0.05
    )
    for joint in (-1.0, 0.0, 1.0):
        x = np.where((likelihood.inits == 0) & (np.abs(x - joint) < 0.01), joint + 0.02, x)
    return np.clip(x, likelihood.bounds[:, 0], likelihood.bounds[:, 1])


def assert_derivatives(likelihood: Likelihood, x: np.ndarray, step: float = 1e-3) -> None:
    """Compare gradient and Hessian with five-point differences, all points in one batch."""
    _, gradient, hessian = likelihood.evaluate(x, 2)
    assert gradient is not None
    assert hessian is not None
    shifts = [x + k * step * np.eye(len(x)) for k in (-2, -1, 1, 2)]
    for order, exact in ((0, gradient), (1, hessian)):
        a, b, c, d = (np.asarray(likelihood.evaluate(points, order)[order]) for points in shifts)
        numerical = (a - 8 * b + 8 * c - d) / (12 * step)
        np.testing.assert_allclose(exact, numerical, rtol=1e-6, atol=1e-6 * max(1.0, np.abs(exact).max()))
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12, atol=1e-12 * np.abs(hessian).max())


# Published workspaces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "patch"), PUBLISHED)
def test_published_workspaces_equal_pyhf(shared_data: Path, file: str, patch: str | None) -> None:
    spec = published(shared_data, file, patch)
    likelihood = Likelihood.from_pyhf(spec)
    model, data = pyhf_model(spec)
    assert list(likelihood.names) == model.config.par_names
    np.testing.assert_array_equal(likelihood.inits, model.config.suggested_init())
    np.testing.assert_array_equal(likelihood.bounds, model.config.suggested_bounds())
    assert likelihood.fixed.tolist() == model.config.suggested_fixed()
    assert list(likelihood.global_observables.values()) == model.config.auxdata
    points = random_points(likelihood, 3, seed=2)
    np.testing.assert_allclose(likelihood.value(points), twice_nll(model, data, points), rtol=1e-9)
    term = likelihood.terms[0]
    assert isinstance(term, HistFactoryTerm)
    by_sample = model.main_model.expected_data(points[0], return_by_sample=True)
    np.testing.assert_allclose(
        term.expected_by_sample(torch.tensor(points[0])), by_sample, rtol=1e-11, atol=1e-12
    )
    assert list(term.samples) == model.config.samples
    assert term.channels == model.config.channel_slices


@pytest.mark.parametrize(("file", "patch"), [PUBLISHED[0], PUBLISHED[3], PUBLISHED[5], PUBLISHED[11]])
def test_published_workspaces_have_exact_derivatives(shared_data: Path, file: str, patch: str | None) -> None:
    likelihood = Likelihood.from_pyhf(published(shared_data, file, patch))
    assert_derivatives(likelihood, random_points(likelihood, 1, seed=3)[0])


def test_background_only_workspace_has_no_parameter_of_interest(shared_data: Path) -> None:
    term, _ = binned_term(shared_data / "pyhf" / "RegionA" / "BkgOnly.json")
    assert term.poi is None
    term, _ = binned_term(published(shared_data, *PUBLISHED[4]))
    assert term.poi == "mu_SIG"


# Drawn workspaces -------------------------------------------------------------------------------------------

CODES = [("code4", "code4p"), ("code1", "code0"), ("code4", "code2")]


@st.composite
def workspaces(draw: st.DrawFn, *, zeros: bool) -> dict[str, Any]:
    """Workspaces of all modifier types with shared parameters; with `zeros`, also empty and certain bins."""
    small = st.floats(0.5, 20.0)
    count = st.one_of(st.just(0.0), small) if zeros else small
    factor = st.floats(0.7, 1.4)
    uncertainty = st.one_of(st.just(0.0), st.floats(0.1, 3.0)) if zeros else st.floats(0.1, 3.0)
    channels, observations, bins = [], [], draw(st.integers(1, 4))
    for c in range(draw(st.integers(1, 3))):
        n_bins = bins if draw(st.booleans()) else draw(st.integers(1, bins))
        carries_staterror, samples = draw(st.booleans()), []
        for s in range(draw(st.integers(1, 3))):
            nominal = draw(st.lists(count if s else st.floats(20.0, 60.0), min_size=n_bins, max_size=n_bins))

            def varied(nominal: list[float] = nominal) -> list[float]:
                return [value * draw(st.floats(0.8, 1.25)) for value in nominal]

            names = draw(st.sets(st.sampled_from(["mu", "k", "lumi", "a", "b", "h", "A", "sf", "ss", "st"])))
            modifiers: list[dict[str, Any]] = (
                [{"name": "mu", "type": "normfactor", "data": None}] if s == 1 else []
            )
            if "k" in names:
                modifiers.append({"name": "k", "type": "normfactor", "data": None})
            if "lumi" in names:
                modifiers.append({"name": "lumi", "type": "lumi", "data": None})
            for name in sorted(names & {"a", "b"}):
                scale = {"hi": draw(factor), "lo": draw(factor)}
                modifiers.append({"name": name, "type": "normsys", "data": scale})
            for name in sorted(names & {"h", "A"}):
                shift = {"hi_data": varied(), "lo_data": varied()}
                modifiers.append({"name": name.lower(), "type": "histosys", "data": shift})
            if "sf" in names:
                modifiers.append({"name": f"sf_{n_bins}", "type": "shapefactor", "data": None})
            errors = st.lists(uncertainty, min_size=n_bins, max_size=n_bins)
            if "ss" in names:
                modifiers.append({"name": f"ss_{c}_{s}", "type": "shapesys", "data": draw(errors)})
            if carries_staterror and (s == 0 or "st" in names):
                modifiers.append({"name": f"staterror_{c}", "type": "staterror", "data": draw(errors)})
            samples.append({"name": f"sample{s}", "data": nominal, "modifiers": modifiers})
        channels.append({"name": f"channel{5 - c}", "samples": samples})
        observed = draw(st.lists(st.integers(0, 80), min_size=n_bins, max_size=n_bins))
        observations.append({"name": f"channel{5 - c}", "data": observed})
    channels[0]["samples"][0]["modifiers"].append({"name": "free", "type": "normfactor", "data": None})
    parameters: list[dict[str, Any]] = [
        {"name": "lumi", "auxdata": [1.1], "sigmas": [0.02], "inits": [1.05], "bounds": [[0.5, 1.5]]},
        {"name": "a", "auxdata": [0.3], "inits": [0.2], "fixed": draw(st.booleans())},
        {"name": "mu", "inits": [1.5], "bounds": [[0.0, 4.0]]},
    ]
    config = {"poi": "mu", "parameters": parameters}
    return {
        "channels": channels,
        "observations": observations,
        "measurements": [{"name": "m", "config": config}],
        "version": "1.0.0",
    }


def drawn_points(likelihood: Likelihood, code: str, n: int = 4) -> np.ndarray:
    points = random_points(likelihood, n, seed=4)
    if code == "code2":
        points = np.where(np.abs(likelihood.inits) < 0.5, np.clip(points, -0.9, 0.9), points)
    if "mu" in likelihood.names:
        points[0, likelihood.index("mu")] = 0.0
    return points


@given(spec=workspaces(zeros=True), codes=st.sampled_from(CODES))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_drawn_workspaces_equal_pyhf(spec: dict[str, Any], codes: tuple[str, str]) -> None:
    term, observed = binned_term(spec, normsys=codes[0], histosys=codes[1])
    likelihood = Likelihood([term], global_observables=observed)
    interpolation = {"normsys": {"interpcode": codes[0]}, "histosys": {"interpcode": codes[1]}}
    model, data = pyhf_model(spec, modifier_settings=interpolation)
    assert list(likelihood.names) == model.config.par_names
    np.testing.assert_array_equal(likelihood.inits, model.config.suggested_init())
    np.testing.assert_array_equal(likelihood.bounds, model.config.suggested_bounds())
    assert likelihood.fixed.tolist() == model.config.suggested_fixed()
    points = drawn_points(likelihood, codes[1])
    values = likelihood.value(points)
    np.testing.assert_allclose(values, twice_nll(model, data, points), rtol=1e-9)
    for x, value in zip(points, np.atleast_1d(values), strict=True):
        assert likelihood.value(x) == pytest.approx(value, rel=1e-13)


@given(spec=workspaces(zeros=False), codes=st.sampled_from(CODES))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_drawn_workspaces_have_exact_derivatives(spec: dict[str, Any], codes: tuple[str, str]) -> None:
    term, observed = binned_term(spec, normsys=codes[0], histosys=codes[1])
    likelihood = Likelihood([term], global_observables=observed)
    assert_derivatives(likelihood, drawn_points(likelihood, codes[1])[0])


# Small models with known answers ----------------------------------------------------------------------------


def modifier(name: str, kind: str, data: Any = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "data": data}


def workspace(channels: dict[str, dict[str, Any]], observed: dict[str, list[float]]) -> dict[str, Any]:
    """Build a workspace from ``{channel: {sample: (data, modifiers)}}``."""
    return {
        "channels": [
            {
                "name": name,
                "samples": [{"name": s, "data": d, "modifiers": m} for s, (d, m) in samples.items()],
            }
            for name, samples in channels.items()
        ],
        "observations": [{"name": name, "data": data} for name, data in observed.items()],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


@pytest.fixture
def two_channels() -> dict[str, Any]:
    mu, norm = modifier("mu", "normfactor"), modifier("norm", "normsys", {"hi": 1.1, "lo": 0.9})
    signal = {
        "signal": ([5.0, 10.0], [mu]),
        "background": ([50.0, 40.0], [norm, modifier("stat", "staterror", [2.0, 3.0])]),
    }
    control = {
        "background": (
            [100.0],
            [norm, modifier("shape", "histosys", {"hi_data": [110.0], "lo_data": [95.0]})],
        )
    }
    return workspace({"SR": signal, "CR": control}, {"SR": [57.0, 48.0], "CR": [103.0]})


def test_closed_form_of_one_bin() -> None:
    spec = workspace({"c": {"s": ([10.0], [modifier("mu", "normfactor")])}}, {"c": [12.0]})
    lh = Likelihood.from_pyhf(spec)
    mu = 1.3
    value, gradient, hessian = lh.evaluate([mu], 2)
    assert value == pytest.approx(
        2 * (10 * mu - 12 * np.log(10 * mu) + float(torch.lgamma(torch.tensor(13.0))))
    )
    assert gradient == pytest.approx([2 * (10 - 12 / mu)])
    assert hessian == pytest.approx(np.array([[24 / mu**2]]))


def test_channels_follow_the_sorted_names(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    assert dict(term.channels) == {"CR": slice(0, 1), "SR": slice(1, 3)}
    assert term.data.tolist() == [103.0, 57.0, 48.0]
    assert term.samples == ("background", "signal")
    theta = torch.tensor([p.init for p in term.parameters], dtype=torch.float64)
    assert term.expected_by_sample(theta).tolist() == [[100.0, 50.0, 40.0], [0.0, 5.0, 10.0]]


def test_batches_of_any_shape_equal_single_rows(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    rng = np.random.default_rng(5)
    inits = torch.tensor([p.init for p in term.parameters], dtype=torch.float64)
    theta = inits + torch.tensor(rng.normal(0.0, 0.3, (3, 300, len(inits)))).clamp(-0.9, 2.5)
    batch = term.evaluate(theta, 2)
    assert batch.gradient is not None
    assert batch.hessian is not None
    assert batch.hessian.shape == (3, 300, len(inits), len(inits))
    for i, j in ((0, 0), (1, 150), (2, 299)):
        single = term.evaluate(theta[i, j], 2)
        assert single.gradient is not None
        assert single.hessian is not None
        torch.testing.assert_close(batch.value[i, j], single.value, rtol=1e-13, atol=0)
        torch.testing.assert_close(batch.gradient[i, j], single.gradient, rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(batch.hessian[i, j], single.hessian, rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(term.expected(theta)[i, j], term.expected(theta[i, j]))
        torch.testing.assert_close(term.expected_by_sample(theta)[i, j].sum(0), term.expected(theta[i, j]))


def test_chunks_of_a_batch_are_joined(two_channels: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    term, _ = binned_term(two_channels)
    theta = torch.tensor([p.init for p in term.parameters], dtype=torch.float64).repeat(5, 1)
    theta[:, 0] += torch.linspace(0.0, 1.0, 5)
    whole = term.evaluate(theta, 2)
    monkeypatch.setattr(binned, "_CHUNK", 2 * 5 * 5)
    chunked = term.evaluate(theta, 2)
    for part in ("value", "gradient", "hessian"):
        torch.testing.assert_close(getattr(whole, part), getattr(chunked, part), rtol=1e-13, atol=1e-12)
    theta[3, [p.name for p in term.parameters].index("mu")] = -9.0
    with pytest.raises(LikelihoodError, match="in row 3 of the batch"):
        term.evaluate(theta)


def test_a_channel_without_parameters() -> None:
    free = ([4.0], [modifier("mu", "normfactor")])
    spec = workspace({"a": {"s": free}, "b": {"s": ([6.0], [])}}, {"a": [5.0], "b": [7.0]})
    term = binned_term(spec)[0].select_channels(["b"])
    assert term.parameters == ()
    result = term.evaluate(torch.zeros(2, 0, dtype=torch.float64), 2)
    expected = 2 * (6.0 - 7.0 * np.log(6.0) + float(torch.lgamma(torch.tensor(8.0, dtype=torch.float64))))
    assert result.value.tolist() == pytest.approx([expected] * 2)
    assert result.hessian is not None
    assert result.hessian.shape == (2, 0, 0)


def test_gradient_vanishes_at_the_asimov_point(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    theta = torch.tensor([p.init + 0.2 for p in term.parameters], dtype=torch.float64)
    asimov = term.with_data(term.expected_data(theta))
    assert asimov.evaluate(theta, 1).gradient == pytest.approx(np.zeros(len(theta)), abs=1e-10)
    assert term.data.tolist() == [103.0, 57.0, 48.0]
    assert asimov.data.tolist() == pytest.approx(term.expected(theta).tolist())


def test_samples_are_reproducible_poisson_counts(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    theta = torch.tensor([p.init for p in term.parameters], dtype=torch.float64)
    draws = term.stack([term.sampler(theta)(np.random.default_rng(seed)) for seed in range(2000)])
    assert torch.equal(draws[7], term.sampler(theta)(np.random.default_rng(7)))
    expected = term.expected(theta)
    assert torch.all((draws.mean(0) - expected).abs() < 4 * (expected / 2000).sqrt())
    np.testing.assert_allclose(draws.var(0) / expected, 1.0, atol=4 * np.sqrt(2 / 2000))


@pytest.mark.parametrize("names", [["SR"], ["CR"], ["SR", "CR"]])
def test_selected_channels_keep_their_share(two_channels: dict[str, Any], names: list[str]) -> None:
    term, _ = binned_term(two_channels)
    part = term.select_channels(names)
    assert {"SR": {"mu", "norm", "stat[0]", "stat[1]"}, "CR": {"norm", "shape"}}[names[0]] <= {
        p.name for p in part.parameters
    }
    assert part.poi == ("mu" if "SR" in names else None)
    spec = {**two_channels, "channels": [c for c in two_channels["channels"] if c["name"] in names]}
    spec["observations"] = [o for o in two_channels["observations"] if o["name"] in names]
    alone, _ = binned_term(spec)
    assert {p.name: p for p in part.parameters} == {p.name: p for p in alone.parameters}
    values = {"mu": 1.2, "norm": -0.4, "stat[0]": 1.1, "stat[1]": 0.95, "shape": 1.4}
    a, b = (
        t.evaluate(torch.tensor([values[p.name] for p in t.parameters], dtype=torch.float64), 2).value
        for t in (part, alone)
    )
    torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


def test_selecting_unknown_or_no_channels(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    with pytest.raises(LikelihoodError, match=r"no channel 'Sr'\n  fix: nearest names: SR"):
        term.select_channels(["Sr"])
    with pytest.raises(LikelihoodError, match="no channels chosen"):
        term.select_channels([])


def test_staterror_of_several_channels_and_shapefactor_of_several_samples_equal_pyhf() -> None:
    stat, shape = modifier("stat", "staterror", [2.0, 1.0]), modifier("shape", "shapefactor")
    one = {"a": ([10.0, 20.0], [stat, shape]), "b": ([5.0, 4.0], [modifier("mu", "normfactor"), stat])}
    two = {"a": ([30.0, 40.0], [stat]), "b": ([7.0, 9.0], [shape, stat])}
    spec = workspace({"y": one, "x": two}, {"y": [15.0, 24.0], "x": [36.0, 50.0]})
    likelihood = Likelihood.from_pyhf(spec)
    assert [name for name in likelihood.names if name.startswith("stat")] == [f"stat[{i}]" for i in range(4)]
    model, data = pyhf_model(spec)
    points = random_points(likelihood, 3, seed=6)
    np.testing.assert_allclose(likelihood.value(points), twice_nll(model, data, points), rtol=1e-12)
    assert_derivatives(likelihood, points[0])


def test_empty_bins_are_fixed_and_contribute_nothing() -> None:
    stat, sys = modifier("stat", "staterror", [0.0, 1.0]), modifier("sys", "shapesys", [0.0, 2.0])
    spec = workspace({"c": {"s": ([0.0, 9.0], [stat, sys, modifier("mu", "normfactor")])}}, {"c": [0.0, 8.0]})
    likelihood = Likelihood.from_pyhf(spec)
    assert dict(zip(likelihood.names, likelihood.fixed.tolist(), strict=True)) == {
        "mu": False,
        "sys[0]": True,
        "sys[1]": False,
        "stat[0]": True,
        "stat[1]": False,
    }
    model, data = pyhf_model(spec)
    assert likelihood.value(likelihood.inits) == pytest.approx(
        twice_nll(model, data, likelihood.inits[None])[0]
    )
    _, gradient, hessian = likelihood.evaluate(likelihood.inits, 2)
    assert gradient is not None
    assert hessian is not None
    assert np.isfinite(gradient).all()
    assert np.isfinite(hessian).all()


# Refusals ---------------------------------------------------------------------------------------------------


def test_negative_expectation_names_channel_bin_and_samples(two_channels: dict[str, Any]) -> None:
    likelihood = Likelihood.from_pyhf(two_channels)
    x = np.tile(likelihood.inits, (3, 1))
    x[2, likelihood.index("mu")] = -9.0
    with pytest.raises(
        LikelihoodError,
        match=r"bin 1 of channel 'SR' expects -50 events, 48 are observed\n"
        r"  where: rates signal -90, background 40, in row 2",
    ):
        likelihood.value(x)


def test_no_expectation_where_events_are_observed() -> None:
    spec = workspace({"c": {"s": ([3.0, 0.0], [modifier("mu", "normfactor")])}}, {"c": [3.0, 1.0]})
    likelihood = Likelihood.from_pyhf(spec)
    with pytest.raises(LikelihoodError, match="bin 1 of channel 'c' expects 0 events, 1 are observed"):
        likelihood.value([1.0])


def test_sampling_a_negative_expectation_is_refused(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    theta = torch.tensor([-9.0 if p.name == "mu" else p.init for p in term.parameters], dtype=torch.float64)
    with pytest.raises(LikelihoodError, match="bin 1 of channel 'SR' expects -50 events"):
        term.sampler(theta)


def test_counts_of_wrong_length_or_sign(two_channels: dict[str, Any]) -> None:
    term, _ = binned_term(two_channels)
    with pytest.raises(LikelihoodError, match=r"shape \(2,\)\n  expected: 3 counts: CR 1, SR 2"):
        term.with_data([1.0, 2.0])
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(
            LikelihoodError, match=r"count .* is not a number of events\n  where: bin 1 of channel 'SR'"
        ):
            term.with_data([1.0, 2.0, bad])


def test_a_batch_of_data_sets(two_channels: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood = Likelihood.from_pyhf(two_channels)
    drawn = [likelihood.sample(generator=np.random.default_rng(seed)) for seed in range(7)]
    x = likelihood.inits + np.random.default_rng(1).uniform(-0.1, 0.1, (7, len(likelihood.names)))
    for chunk in (2**18, 2 * 5 * 5):
        monkeypatch.setattr(binned, "_CHUNK", chunk)
        batch = likelihood.with_data(likelihood.stack(drawn))
        value, gradient, hessian = batch.evaluate(x, 2)
        assert batch.evaluate(x, 1)[1] == pytest.approx(gradient, rel=1e-12, abs=1e-12)
        for i, one in enumerate(drawn):
            alone = likelihood.with_data(one).evaluate(x[i], 2)
            assert value[i] == pytest.approx(alone[0], rel=1e-13)
            assert gradient[i] == pytest.approx(alone[1], rel=1e-12, abs=1e-12)
            assert hessian[i] == pytest.approx(alone[2], rel=1e-12, abs=1e-12)
    some = likelihood.with_data(likelihood.stack(drawn).rows(np.array([4, 2])))
    assert some.value(x[[4, 2]]) == pytest.approx(value[[4, 2]], rel=1e-13)
    with pytest.raises(LikelihoodError, match="holds 7 data sets"):
        batch.value(x[:3])


def test_undefined_rows_of_a_batch(two_channels: dict[str, Any]) -> None:
    likelihood = Likelihood.from_pyhf(two_channels)
    x = np.tile(likelihood.inits, (3, 1))
    x[1, likelihood.index("mu")] = -9.0
    with pytest.raises(LikelihoodError, match="in row 1 of the batch"):
        likelihood.value(x)
    value, gradient, hessian = likelihood.evaluate(x, 2, strict=False)
    assert value[1] == np.inf
    assert np.isnan(gradient[1]).all()
    assert np.isnan(hessian[1]).all()
    assert value[[0, 2]] == pytest.approx(likelihood.value(x[0]))
    assert np.isfinite(hessian[[0, 2]]).all()

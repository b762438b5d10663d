"""An unfolding from files to spectra: right within its errors, never done twice, and stopped by a failed closure."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from ratio_toy import Steps, write
from unfold_toy import EFFICIENCY, FAKES, MEAN, QUICK, WIDTH, N, configure, make_job, samples, simulated

from neyman.analysis import unfold, unfold_job
from neyman.errors import ConfigError, InputError, TrainingError, WorkspaceError
from neyman.unfolding import Spectrum, Unfolding

ALL = ["events", "observables", "unfold", "spectra", "hepdata", "closure", "report"]
CLOSURE = {"closure": {"distortion": "exp(0.3 * gen_x)", "replicas": 12}}
ONE = {"name": "x", "column": "gen_x", "edges": [-1, 1]}
FAST_CLOSURE = {"closure": {"replicas": 4, "p_value": 0.0}, "observables": [ONE]}


@pytest.fixture
def plain(monkeypatch):
    """No figures."""
    monkeypatch.setattr(unfold_job, "report", lambda *_: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    config, steps = make_job(folder, CLOSURE), Steps()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfold_job, "report", lambda *_: None)
        return config, unfold(config, output=folder / "out", reporter=steps), steps


def states(config, output):
    steps = Steps()
    return unfold(config, output=output, reporter=steps), steps.states


def test_truth_is_recovered_within_its_errors(finished):
    _, done, _ = finished
    moments = done.results["moments"]["x"]
    assert moments["mean"] == pytest.approx(MEAN, abs=4 * moments["mean_error"])
    assert moments["width"] == pytest.approx(WIDTH, abs=4 * moments["width_error"])
    assert 0.01 < moments["mean_error"] < 0.1
    # Corrected for efficiency, events without particle level and the background; the simulation's yield is half of it.
    assert done.results["yield"] == pytest.approx(N * (1 - FAKES), rel=0.03)
    assert 1000 < done.results["effective_size"] < N
    truth = np.random.default_rng(1).normal(MEAN, WIDTH, 400_000)
    spectrum = done.spectra["x"]
    expected = np.histogram(truth, spectrum.edges[0])[0] * N * (1 - FAKES) / len(truth)
    np.testing.assert_allclose(spectrum.values, expected, atol=5 * spectrum.errors.max())


def test_every_source_has_a_covariance(finished):
    _, done, _ = finished
    assert list(done.spectra) == ["x", "square"]
    assert list(done.spectra["x"].sources) == ["data", "simulation", "slope", "efficiency", "training"]
    assert done.spectra["x"].units == ("GeV",)
    assert done.spectra["square"].density
    widths = np.diff(done.spectra["square"].edges[0])
    assert done.spectra["square"].values @ widths == pytest.approx(1.0)


def test_what_is_written(finished):
    _, done, _ = finished
    assert {path.name for path in done.output.iterdir() if path.name != ".neyman"} == {
        "unfolding", "spectra.json", "hepdata", "closure.json", "results.json", "report",
    }  # fmt: skip
    weights = pq.read_table(done.output / "unfolding" / "weights.parquet")
    assert weights.num_rows == N
    columns = simulated()
    generated = columns["gen_status"] == 1
    np.testing.assert_array_equal(weights["passes_truth"].to_numpy(), generated)
    # The weights of the rows of the file give the spectrum.
    x, w = columns["gen_x"][generated], (weights["weight"].to_numpy() * weights["push"].to_numpy())[generated]
    document = json.loads((done.output / "spectra.json").read_text())["observables"]
    spectrum = Spectrum.from_dict(document["x"]["spectrum"])
    np.testing.assert_allclose(np.histogram(x, spectrum.edges[0], weights=w)[0], spectrum.values, rtol=1e-6)
    assert document["x"]["outside"] == pytest.approx(1.0 - spectrum.values.sum() / w.sum())
    before = np.histogram(x, spectrum.edges[0])[0] * 0.5
    np.testing.assert_allclose(document["x"]["prior"], before)
    np.testing.assert_allclose(document["x"]["iterations"][-1], spectrum.values, rtol=1e-5)
    assert len(document["x"]["iterations"]) == 2
    assert json.loads((done.output / "results.json").read_text())["yield"] == done.results["yield"]
    names = {path.name for path in (done.output / "hepdata").iterdir()}
    tables = {f"{name}{kind}.yaml" for name in ("x", "square") for kind in ("", "-covariance")}
    assert {"submission.yaml", *tables} <= names


def test_report_shows_all_parts(tmp_path):
    changes = QUICK | FAST_CLOSURE | {"title": "A toy"}
    done = unfold(make_job(tmp_path, changes, n=1500), output=tmp_path / "out")
    page = (done.output / "report" / "index.html").read_text()
    for words in ("A toy", "Unfolded spectra", "Iterations", "Closure test", "Trainings", "Support"):
        assert words in page
    assert list((done.output / "report" / "figures").glob("*.png"))


def test_refolding_is_nearer_to_the_data(finished):
    _, done, _ = finished
    document = json.loads((done.output / "spectra.json").read_text())["observables"]
    assert document["square"]["folded"] is None
    folded = document["x"]["folded"]
    folded = {name: np.asarray(folded[name]) for name in ("data", "data_variance", "before", "after")}
    x = np.random.default_rng(1).normal(MEAN, np.hypot(WIDTH, 0.5), 100_000)
    assert folded["data"].sum() == pytest.approx(N * EFFICIENCY * (np.abs(x) < 2.0).mean(), rel=0.03)
    assert (folded["data_variance"] >= folded["data"]).all()
    far, near = (np.abs(folded[name] - folded["data"]).sum() for name in ("before", "after"))
    assert near < 0.1 * far


def test_closure_is_judged(finished):
    _, done, _ = finished
    closure = done.results["closure"]
    assert closure["passed"]
    assert closure["required"] == 1e-3
    assert done.refusal() is None
    assert set(closure["observables"]["x"]) == {"chi2", "ndof", "p_value"}
    document = json.loads((done.output / "closure.json").read_text())
    assert document["distortion"] == "exp(0.3 * gen_x)"
    own = document["observables"]["x"]
    truth, prior = np.asarray(own["truth"]["values"]), np.asarray(own["prior"])
    assert np.abs(np.asarray(own["spectrum"]["values"]) - truth).sum() < 0.5 * np.abs(prior - truth).sum()


def test_second_call_keeps_everything(finished):
    config, done, first = finished
    assert first.states == dict.fromkeys(ALL, "run")
    again, found = states(config, done.output)
    assert found == dict.fromkeys(ALL, "kept")
    assert again.results["spectra"] == done.results["spectra"]
    np.testing.assert_array_equal(again.unfolding.push, done.unfolding.push)


def test_new_observables_and_bins_do_not_unfold_again(tmp_path, plain):
    first, _ = states(make_job(tmp_path, QUICK), tmp_path / "out")
    absolute = {"name": "absolute", "column": "abs(gen_x)", "edges": [0, 1, 2]}
    more = configure(tmp_path, QUICK | {"observables": [ONE, absolute]})
    done, found = states(more, tmp_path / "out")
    assert [name for name, state in found.items() if state == "kept"] == ["events", "unfold"]
    np.testing.assert_array_equal(done.unfolding.push, first.unfolding.push)
    assert done.spectra["absolute"].values.sum() > 0.0
    finer = configure(tmp_path, QUICK | {"observables": [ONE | {"edges": [-1, 0, 1]}, absolute]})
    _, found = states(finer, tmp_path / "out")
    assert [name for name, state in found.items() if state == "kept"] == ["events", "observables", "unfold"]


def test_new_bins_do_not_unfold_the_closure_again(tmp_path, plain):
    config = make_job(tmp_path, QUICK | FAST_CLOSURE)
    first = Steps()
    unfold(config, output=tmp_path / "out", reporter=first)
    assert first.first["closure"] == 1
    again = Steps()
    wider = configure(tmp_path, QUICK | FAST_CLOSURE | {"observables": [ONE | {"edges": [-2, 2]}]})
    unfold(wider, output=tmp_path / "out", reporter=again)
    assert again.states["closure"] == "run"
    assert "closure" not in again.first


@pytest.mark.parametrize(("step", "after"), [("unfold", 12), ("unfold", 33), ("closure", 28)])
def test_stopped_unfolding_goes_on_and_ends_in_the_same_weights(tmp_path, plain, step, after):
    """In the first training, in the second, and in that of the closure test."""
    config = make_job(tmp_path, QUICK | FAST_CLOSURE, n=1500)
    whole = unfold(config, output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        unfold(config, output=tmp_path / "out", reporter=Steps(stop=(step, after)))
    steps = Steps()
    done = unfold(config, output=tmp_path / "out", reporter=steps)
    assert 1 < steps.first[step] <= after
    np.testing.assert_array_equal(done.unfolding.push, whole.unfolding.push)
    assert done.results["closure"] == whole.results["closure"]
    assert not list((tmp_path / "out" / ".neyman").glob("unfolding.*.state"))


def test_stopped_unfolding_of_other_settings_is_forgotten(tmp_path, plain):
    config = make_job(tmp_path, QUICK, n=1500)
    with pytest.raises(KeyboardInterrupt):
        unfold(config, output=tmp_path / "out", reporter=Steps(stop=("unfold", 12)))
    steps = Steps()
    unfold(
        configure(tmp_path, QUICK | {"unfold": QUICK["unfold"] | {"seed": 9}}),
        output=tmp_path / "out",
        reporter=steps,
    )
    assert steps.first["unfold"] == 1
    assert not list((tmp_path / "out" / ".neyman").glob("*.state"))


def test_failed_closure_names_the_observables_and_keeps_the_spectra(tmp_path, plain):
    """Hardly trained networks do not follow a strong distortion."""
    hardly = {
        "settings": QUICK["settings"] | {"steps": 4},
        "closure": {"distortion": "exp(gen_x)", "replicas": 15},
    }
    done = unfold(make_job(tmp_path, QUICK | hardly), output=tmp_path / "out")
    assert "x" in done.failed
    message = str(done.refusal())
    assert isinstance(done.refusal(), TrainingError)
    assert f"the closure test failed in {len(done.failed)} of 2 observables" in message
    assert "x: chi2 = " in message
    assert "p of at least 0.001" in message
    assert not done.results["closure"]["passed"]
    assert (done.output / "hepdata" / "x.yaml").is_file()
    hardly["closure"]["p_value"] = 0.0
    accepted, found = states(configure(tmp_path, QUICK | hardly), tmp_path / "out")
    assert accepted.refusal() is None
    assert found["closure"] == "kept"
    without, found = states(configure(tmp_path, QUICK), tmp_path / "out")
    assert "closure" not in found
    assert without.results["closure"] is None
    assert not (without.output / "closure.json").exists()
    assert not list((without.output / ".neyman").glob("closure.json.*.state"))


def test_fakes_are_learned_and_progress_ends_at_its_total(tmp_path, plain):
    class Last(Steps):
        last = (0, 0)

        def progress(self, name, done, total):
            super().progress(name, done, total)
            if name == "unfold":
                self.last = (done, total)

    steps = Last()
    changes = QUICK | {"unfold": QUICK["unfold"] | {"fakes": "learned"}}
    changes["uncertainties"] = {"bootstrap_data": 2, "bootstrap_simulation": 0}
    done = unfold(make_job(tmp_path, changes, n=1500), output=tmp_path / "out", reporter=steps)
    assert steps.last == (2 * 3 * 20, 2 * 3 * 20)
    assert {step.level for step in done.unfolding.steps} == {"detector", "particle", "fakes"}
    assert done.results["unfolding"]["replicas"] == {"data": 2}


def test_sets_of_particles_as_flat_columns(tmp_path, plain):
    """The value of the event is in the first of two particles."""
    names = ("gen_part0_eta", "gen_part0_phi", "gen_part1_eta", "gen_part1_phi")
    sizes = {"particles": 2, "particle_features": 2, "dim": 4, "heads": 1, "blocks": 1, "local_blocks": 1}
    particle = {"features": ["gen_part{0..1}_{eta,phi}"], "network": {"kind": "pet", **sizes, "hidden": None}}
    config = make_job(tmp_path, QUICK | {"particle": particle})
    columns, rng = simulated(1000), np.random.default_rng(1)
    columns |= {name: rng.normal(size=1000) for name in names} | {names[0]: columns["gen_x"]}
    write(tmp_path / "simulation.parquet", columns)
    model = unfold(config, output=tmp_path / "out").unfolding.models["particle"]
    assert model.features == names
    assert model.description.parts[0].network.kind == "pet"


def test_unfolding_starts_from_an_earlier_one(tmp_path, plain):
    settings = {"settings": QUICK["settings"] | {"learning_rate": 1e-9}}
    first = unfold(make_job(tmp_path, QUICK), output=tmp_path / "first")
    start = {level: f"first/unfolding/{level}.safetensors" for level in ("detector", "particle")}
    changes = QUICK | settings | {"unfold": QUICK["unfold"] | {"start": start}}
    second = unfold(configure(tmp_path, changes), output=tmp_path / "second")
    for level in start:
        before, after = (one.unfolding.models[level].stacks[0].state_dict() for one in (first, second))
        assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_warnings_are_kept(tmp_path, plain):
    config = make_job(tmp_path, QUICK, n=1500)
    data = samples(1500)["data"]["reco_x"]
    write(tmp_path / "data.parquet", {"reco_x": np.where(np.arange(len(data)) % 20, data, 9.0)})
    for _ in range(2):
        done = unfold(config, output=tmp_path / "out")
        notes = done.results["warnings"]
        assert any("lie outside the range of the simulation in 'reco_x'" in note for note in notes)
    assert done.results["support"]["features"]["reco_x"] == pytest.approx(0.05, abs=0.01)


LITTLE = {"cut": "reco_x > 0 and reco_x < 0.2"}
MUCH = {"files": "background.parquet", "weight": "100 * w"}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"observables": [ONE | {"edges": [7, 9]}]},
            InputError,
            "no simulated event lies between the edges of 'x'",
        ),
        ({"unfold": {"start": "no.safetensors"}}, InputError, r"cannot read no\.safetensors"),
        (
            {"unfold": {"start": "data.parquet"}},
            WorkspaceError,
            r"data\.parquet is not a readable safetensors file",
        ),
        ({"settings": {"device": "cuda:7"}}, ConfigError, "there is no device 'cuda:7' here"),
        ({"data": LITTLE, "background": [MUCH]}, TrainingError, "events whose weights sum to -"),
    ],
)
def test_errors(tmp_path, plain, changes, kind, message):
    config = make_job(tmp_path, QUICK | changes, n=400)
    with pytest.raises(kind, match=message):
        unfold(config, output=tmp_path / "out")


def test_identity_must_be_a_whole_number(tmp_path, plain):
    config = make_job(tmp_path, QUICK, n=400)
    write(tmp_path / "simulation.parquet", simulated(400) | {"entry": np.arange(400) + 0.5})
    with pytest.raises(TrainingError, match="column 'entry' is float64"):
        unfold(config, output=tmp_path / "out")


def test_default_folder_is_named_after_the_job(tmp_path, plain, monkeypatch):
    config = make_job(tmp_path, QUICK, n=400)
    monkeypatch.chdir(tmp_path)
    done = unfold(config)
    assert done.output.resolve() == tmp_path / "out" / "toy"
    assert isinstance(Unfolding.load(tmp_path / "out" / "toy" / "unfolding"), Unfolding)

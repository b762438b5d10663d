"""From flat files to a fitted workspace in steps that are kept."""

from __future__ import annotations

import json

import numpy as np
import pyhf
import pytest
from ratio_toy import Steps, write
from sannt_toy import ESTIMATES, SAMPLES, SYSTEMATICS, events, make_job

from neyman.analysis.sannt_job import train_sannt
from neyman.errors import ConfigError, TrainingError, WorkspaceError
from neyman.likelihood import Likelihood
from neyman.sannt import Classifier
from neyman.workspace import read, validate

ALL = ["events", "train", "workspace", "fit", "report"]


@pytest.fixture
def plain(monkeypatch):
    """No figures."""
    monkeypatch.setattr("neyman.plots.sannt_report.write", lambda folder, *_: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    config = make_job(folder)
    return config, train_sannt(config, output=folder / "out", reporter=Steps())


def test_results(finished):
    done = finished[1]
    results = done.results
    assert done.invalid == []
    assert results["sannt"]["signals"] == ["sig"]
    assert set(results["sannt"]["processes"]) == {"sig", "bkg", "top", "fakes"}
    assert set(results["sannt"]["parameters"]) == {"lumi", "xs", "fake_rate", "scale", "tilt", "top_norm"}
    before, after = (results["fits"][stage]["hesse"]["sig"] for stage in ("pretrained", "trained"))
    assert 0.0 < after < 2.0 * before
    assert results == json.loads((done.output / "results.json").read_text())
    assert sum(results["observed"]["counts"]["SR"]) == results["regions"]["SR"]["data"]
    assert all(check["passed"] for check in results["closure of the yields"])
    assert len(results["closure of the yields"]) == 8
    numbers = results["events"]["sig"]
    assert numbers["training"] + numbers["held_out"] == results["regions"]["SR"]["processes"]["sig"]["events"]
    assert abs(results["observed"]["values"]["r"] - 1.0) < 4.0 * results["observed"]["errors"]["r"]


def test_fisher_information_agrees_with_the_fits(finished):
    for found in finished[1].results["fits"].values():
        assert found["hesse"]["sig"] == pytest.approx(found["fisher"]["sig"], rel=0.02)
        assert found["pyhf"]["sig"] == pytest.approx(found["hesse"]["sig"], rel=0.01)


def test_control_region_measures_the_free_factor(finished):
    results = finished[1].results
    assert 0.0 < results["observed"]["errors"]["top_norm"] < 0.3


def test_workspace_stands_alone(finished):
    folder = finished[1].output / "workspace"
    assert all(check.passed for check in validate(folder))
    workspace = read(folder)
    model = pyhf.Workspace(workspace.binned).model()
    assert model.config.poi_name == "r"
    assert set(model.config.channels) == {"SR", "CR"}
    assert workspace.manifest.seed == 3
    assert set(workspace.manifest.files) == {
        "binned.json", "networks/sannt.safetensors", "alternatives/cennt.json", "alternatives/sannt.safetensors"
    }  # fmt: skip
    assert Likelihood.load(folder).names == Likelihood.from_pyhf(workspace.binned).names
    alternative = json.loads((folder / "alternatives" / "cennt.json").read_text())
    assert sum(alternative["observations"][0]["data"]) == sum(workspace.binned["observations"][0]["data"])
    kinds = {
        s["name"]: {m["name"]: m["type"] for m in s["modifiers"] if m["type"] != "histosys"}
        for s in workspace.binned["channels"][0]["samples"]
    }
    assert kinds["top"] == {"top_norm": "normfactor", "lumi": "normsys", "staterror_SR": "staterror"}
    assert set(kinds["fakes"]) == {"fake_rate", "staterror_SR"}


def test_network_bins_the_data_again(finished):
    from neyman.events import EventTable

    output = finished[1].output
    classifier = Classifier.load(output / "workspace" / "networks")
    data = EventTable.from_parquet(
        output / ".neyman" / "events" / "SR.data.parquet", features=["x", "y2"], weight="weight"
    )
    assert classifier.contents(data)["SR"].tolist() == finished[1].results["observed"]["counts"]["SR"]


def test_report(finished):
    page = (finished[1].output / "report" / "index.html").read_text()
    for words in ("SANNT", "CENNT", "top_norm", "CR"):
        assert words in page


def test_second_call_keeps_everything(finished):
    config, done = finished
    steps = Steps()
    again = train_sannt(config, output=done.output, reporter=steps)
    assert steps.states == dict.fromkeys(ALL, "kept")
    assert {**again.results, "steps": 0} == {**done.results, "steps": 0}


def test_later_steps_alone_follow_their_settings(tmp_path, plain):
    train_sannt(make_job(tmp_path, n=1000), output=tmp_path / "out")
    steps = Steps()
    config = make_job(tmp_path, n=1000, export={"prune_norm": 0.03}, fit={"bounds": {"r": [-5, 5]}})
    done = train_sannt(config, output=tmp_path / "out", reporter=steps)
    assert steps.states == {
        "events": "kept",
        "train": "kept",
        "workspace": "run",
        "fit": "run",
        "report": "run",
    }
    assert {(r["parameter"], r["what"]) for r in done.results["treatment"]} >= {("lumi", "norm pruned")}
    bounds = read(done.output / "workspace").binned["measurements"][0]["config"]["parameters"]
    assert {"name": "r", "bounds": [[-5.0, 5.0]]} in bounds


def test_without_data_the_expectation_is_fitted(tmp_path, plain):
    done = train_sannt(make_job(tmp_path, n=1000, data=None, estimates=[]), output=tmp_path / "out")
    assert done.results["observed"] is None
    spec = read(done.output / "workspace").binned
    total = np.sum([s["data"] for s in spec["channels"][0]["samples"]], axis=0)
    assert spec["observations"][0]["data"] == pytest.approx(total)


def test_a_factor_can_be_free_without_a_control_region(tmp_path, plain):
    samples = [*SAMPLES[:2], {**SAMPLES[2], "free": "top_norm"}]
    config = make_job(tmp_path, n=1000, samples=samples)
    text = config.read_text()
    start, end = text.index("CR ="), text.index("\n", text.index("CR ="))
    config.write_text(text[:start] + text[end:])
    done = train_sannt(config, output=tmp_path / "out")
    stage = done.results["fits"]["trained"]
    assert stage["hesse"]["sig"] == pytest.approx(stage["fisher"]["sig"], rel=0.03)


def test_classes_folds_and_ensemble(tmp_path, plain):
    samples = [*SAMPLES, {"name": "sig2", "files": "other.parquet", "weight": "w", "signal": "r2"}]
    columns = events("sig", 1000, 20)
    write(tmp_path / "other.parquet", columns | {"x": columns["x"] - 2.0})
    done = train_sannt(
        make_job(
            tmp_path,
            samples=samples,
            classes={"one": ["sig"], "two": ["sig2"], "rest": ["bkg", "top", "fakes"]},
            bins={"number": 2},
            folds=2,
            ensemble=2,
            export={"floor_negative": 0.01},
        ),
        output=tmp_path / "out",
    )
    spec = read(done.output / "workspace").binned
    assert [c["name"] for c in spec["channels"]] == ["SR_one", "SR_two", "SR_rest", "CR"]
    assert set(done.results["fits"]["trained"]["hesse"]) == {"sig", "sig2"}
    assert set(done.results["observed"]["minos"]) == {"r", "r2"}
    assert len(done.results["sannt"]["trained"]["members"]) == 2
    found = done.results["closure of the yields"]
    assert len(found) == 10
    assert all(check["passed"] for check in found), found


@pytest.mark.parametrize("filling", [{"kind": "kde"}, {"kind": "inferno"}, {"kind": "scan", "places": 20}])
def test_other_fillings(tmp_path, plain, filling):
    steps = Steps()
    done = train_sannt(
        make_job(tmp_path, n=1000, filling=filling, export={"floor_negative": 0.01}),
        output=tmp_path / "out",
        reporter=steps,
    )
    assert done.results["fits"]["trained"]["valid"]


def test_warnings_are_kept_as_text(tmp_path, plain):
    """Variations of other, few events differ by their fluctuations."""
    files = {"up": "up.parquet", "down": "down.parquet"}
    config = make_job(
        tmp_path, n=1000, systematics=[{"name": "generator", "samples": ["bkg"], "files": files}]
    )
    for k, name in enumerate(files.values()):
        write(tmp_path / name, events("bkg", 200, 50 + k))
    for _ in range(2):
        done = train_sannt(config, output=tmp_path / "out")
        assert any("'generator' of process 'bkg'" in text for text in done.results["warnings"])


def test_negative_bin_is_an_error_and_the_export_may_floor_it(tmp_path, plain):
    config = make_job(tmp_path, n=60)
    with pytest.raises(
        WorkspaceError, match=r"(?s)negative expectation.*sample fakes.*floor_negative .*in \[export\]"
    ):
        train_sannt(config, output=tmp_path / "out")
    make_job(tmp_path, n=60, export={"floor_negative": 0.01})
    steps = Steps()
    done = train_sannt(config, output=tmp_path / "out", reporter=steps)
    assert steps.states["train"] == "kept"
    assert "floored" in {record["what"] for record in done.results["treatment"]}


def test_other_folder_of_files(tmp_path, plain):
    config = make_job(tmp_path / "files", n=1000)
    moved = tmp_path / "sannt.toml"
    config.rename(moved)
    done = train_sannt(moved, output=tmp_path / "out", data=tmp_path / "files")
    assert done.results["regions"]["SR"]["data"] > 0


def test_stopped_training_goes_on(tmp_path, plain):
    config = make_job(tmp_path, n=1000)
    whole = train_sannt(config, output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_sannt(config, output=tmp_path / "out", reporter=Steps(stop=("train", 40)))
    steps = Steps()
    done = train_sannt(config, output=tmp_path / "out", reporter=steps)
    assert steps.states["events"] == "kept"
    assert steps.first["train"] > 12
    assert done.results["sannt"] == whole.results["sannt"]


def test_folder_in_use(tmp_path, plain):
    config = make_job(tmp_path, n=300)

    class Second(Steps):
        def step(self, name, state):
            with pytest.raises(ConfigError, match="another run is using this output folder"):
                train_sannt(config, output=tmp_path / "out")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sannt(config, output=tmp_path / "out", reporter=Second())


def test_error_of_the_training(tmp_path, plain):
    """Two free factors on what one region cannot tell apart."""
    samples = [{**one, "free": f"k{i}"} if i else one for i, one in enumerate(SAMPLES)]
    config = make_job(
        tmp_path, n=300, samples=samples, estimates=[{**ESTIMATES[0], "free": "k3"}], bins={"number": 2}
    )
    text = config.read_text()
    start, end = text.index("CR ="), text.index("\n", text.index("CR ="))
    config.write_text(text[:start] + text[end:])
    with pytest.raises(TrainingError, match="singular"):
        train_sannt(config, output=tmp_path / "out")


def test_events_of_other_files_are_other_events(tmp_path, plain):
    """Row numbers of other files say nothing of which events are the same."""
    from neyman.analysis.sannt_config import load_sannt_config
    from neyman.analysis.sannt_events import SelectedEvents
    from neyman.analysis.sannt_job import SanntEvents
    from neyman.analysis.sannt_model import bare, variations

    other = {"name": "generator", "samples": ["bkg"], "files": {"up": "top.parquet", "down": "sig.parquet"}}
    path = make_job(tmp_path, n=300, systematics=[*SYSTEMATICS, other])
    config = load_sannt_config(path)
    folder = tmp_path / "events"
    found = SanntEvents.find(config, tmp_path).write(folder, lambda k, n: None)
    selected = SelectedEvents(config, folder, found)
    tables = {name: bare(selected.table(name)) for name in config.processes}
    made = {(v.parameter, v.process): v for v in variations(config, selected, tables)}
    entries = [
        t.extra["entry"] for t in (tables["bkg"], made["generator", "bkg"].up, made["generator", "bkg"].down)
    ]
    for k, own in enumerate(entries):
        for more in entries[k + 1 :]:
            assert not np.intersect1d(own, more).size
    same = made["scale", "bkg"]
    assert np.intersect1d(same.up.extra["entry"], entries[0]).size > 100

"""One density ratio from files to a model file: exported only when it can be trusted, never trained twice."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import awkward as ak
import numpy as np
import pytest
from ratio_toy import MEAN, QUICK, Steps, gaussians, make_job, write

from neyman.analysis import ratio_job
from neyman.analysis.ratio_job import train_ratio
from neyman.errors import ConfigError, InputError, NeymanError, TrainingError, WorkspaceError
from neyman.events import EventTable, Scorer
from neyman.networks import Model

ALL = ["events", "train ratio", "ratio", "checks", "model", "report"]
IMPOSSIBLE = {"checks": {"tolerance": {"effective_events": 1e9}}}


def parts(output):
    """Which of the parts of the split each event is in, by side."""
    return {
        side: EventTable.from_parquet(
            output / ".neyman" / "events" / f"{side}.parquet",
            features=["x", "y"],
            extra=["entry", "neyman_part"],
        ).extra
        for side in ("numerator", "denominator")
    }


@pytest.fixture
def plain(monkeypatch):
    """No figures and a two-sample test that takes no time."""
    from ratio_toy import SMALL

    monkeypatch.setattr("neyman.plots.ratio_report.write", lambda folder, *_: None)
    real = ratio_job.trust
    monkeypatch.setattr(ratio_job, "trust", lambda *a, **k: real(*a, **k, classifier=SMALL))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    config = make_job(folder)
    return config, train_ratio(config, output=folder / "out", reporter=Steps())


def test_ratio_is_trained_checked_and_exported(finished):
    _, done = finished
    assert done.checks["passed"], done.failed
    assert done.refusal() is None
    assert done.warnings == []
    assert done.model == done.output / "model.safetensors"
    x = np.array([[-1.0, 0.3], [0.0, 1.0], [1.0, -1.0]], dtype=np.float32)
    model = Model.load(done.model)
    assert model.description.members == 2
    assert np.allclose(model(x), 2.0 * MEAN * x[:, 0], atol=0.2)
    assert model.description.notes == {
        "numerator": "signal",
        "denominator": "denominator",
        "log_normalisation": f"{done.checks['log_normalisation']:.5f}",
        "checks": "all passed",
    }
    assert abs(done.checks["log_normalisation"]) < 0.05
    np.testing.assert_allclose(Scorer.load(done.model)({"x": x[:, 0], "y": x[:, 1]}), model(x), atol=1e-6)


def test_what_is_written(finished):
    output = finished[1].output
    checks = json.loads((output / "checks.json").read_text())
    assert [one["name"] for one in checks["checks"]] == [
        "closure", "calibration", "two-sample test", "weights", "ensemble spread", "support"
    ]  # fmt: skip
    history = json.loads((output / "history.json").read_text())
    assert history["ratio"]["steps"][-1] == 120
    page = (output / "report" / "index.html").read_text()
    for words in ("signal", "6 of 6", "was exported", "two-sample test", "Scorer.load"):
        assert words in page
    figures = {path.stem for path in (output / "report" / "figures").glob("*.png")}
    assert figures == {
        "closure_all", "closure_check", "closure_all_in_log-ratio", "calibration", "two-sample_test", "weights",
        "ensemble_spread", "support", "training",
    }  # fmt: skip


def test_second_call_keeps_everything(finished):
    config, done = finished
    steps = Steps()
    again = train_ratio(config, output=done.output, reporter=steps)
    assert steps.states == dict.fromkeys(ALL, "kept")
    assert again.checks == done.checks


def test_held_back_events_are_never_trained_on(finished):
    found = parts(finished[1].output)
    for side in found.values():
        shares = np.bincount(side["neyman_part"]) / len(side["entry"])
        assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.02)
    # The same identity is on the same side in both samples.
    p, q = (dict(zip(s["entry"], s["neyman_part"], strict=True)) for s in found.values())
    assert p == q


@pytest.mark.parametrize("estimator", ["dle", "hybrid"])
def test_flows_from_root_files(tmp_path, plain, estimator):
    changes = {"estimator": estimator, "ensemble": 1, "network": {"transforms": 1, "bins": 4, "hidden": [8]}}
    changes["settings"] = {"steps": 100}
    if estimator == "hybrid":
        changes["residual"] = {"network": {"hidden": [8]}, "settings": {"steps": 20}}
    steps = Steps()
    done = train_ratio(
        make_job(tmp_path, changes, suffix=".root"),
        output=tmp_path / "out",
        allow_failed_checks=True,
        reporter=steps,
    )
    sides = ["train numerator", "train denominator"]
    residual = ["train numerator residual", "train denominator residual"] if estimator == "hybrid" else []
    assert [name for name in steps.states if name.startswith("train")] == sorted(
        sides + residual, key=lambda name: (name.split()[1] != "numerator", name)
    )
    model = Model.load(done.model)
    assert [part.sign for part in model.description.parts] == ([1, 1, -1, -1] if residual else [1, -1])
    x = np.array([[-1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert np.allclose(model(x), 2.0 * MEAN * x[:, 0], atol=0.4)
    again = Steps()
    train_ratio(tmp_path / "ratio.toml", output=tmp_path / "out", allow_failed_checks=True, reporter=again)
    assert set(again.states.values()) == {"kept"}


def test_conditioned_and_calibrated(tmp_path, plain):
    changes = {"parameters": ["z"], "calibration": {"method": "platt"}, "features": ["x"], "ensemble": 1}
    done = train_ratio(make_job(tmp_path, changes), output=tmp_path / "out", allow_failed_checks=True)
    description = Model.load(done.model).description
    assert description.parameters == ("z",)
    assert description.calibration.method == "platt"
    assert "log_normalisation" not in description.notes
    assert done.checks["log_normalisation"] is None
    names = [one["name"] for one in done.checks["checks"] if one["name"].startswith("weights")]
    assert len(names) == 3
    # A half calibrates, and the training is that of the job without a calibration.
    steps = Steps()
    make_job(tmp_path, changes | {"calibration": {"method": "none"}})
    train_ratio(tmp_path / "ratio.toml", output=tmp_path / "out", allow_failed_checks=True, reporter=steps)
    assert steps.states["train ratio"] == "kept"
    assert steps.states["ratio"] == steps.states["checks"] == "run"


def test_parameter_of_the_denominator_is_used_unless_it_is_constant(tmp_path, plain):
    config = make_job(tmp_path, QUICK | {"parameters": ["z"], "features": ["x"]})
    done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True)
    summary = done.stamps["events"].summary
    assert summary["denominator"]["columns"] == ["entry", "z"]
    q = gaussians()[1]
    write(tmp_path / "q.parquet", q | {"z": np.zeros(len(q["x"]))})
    done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True)
    assert done.stamps["events"].summary["denominator"]["columns"] == ["entry"]


def test_weight_and_cut(tmp_path, plain):
    changes = QUICK | {"numerator": {"weight": "2 * w", "cut": "y > 0"}, "denominator": {"weight": "w"}}
    done = train_ratio(make_job(tmp_path, changes), output=tmp_path / "out", allow_failed_checks=True)
    table = EventTable.from_parquet(
        done.output / ".neyman" / "events" / "numerator.parquet", features=["x", "y"], weight="weight"
    )
    assert table.column("y").min() > 0.0
    assert set(table.weight) == {1.0}


def test_several_files_and_kinds(tmp_path, plain):
    config = make_job(tmp_path, QUICK | {"numerator": {"files": ["p*.parquet", "more"]}})
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "a.parquet", gaussians(700, 3)[0])
    steps = Steps()
    done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True, reporter=steps)
    assert sum(v for k, v in done.stamps["events"].summary["numerator"].items() if k != "columns") == 5700


def test_failed_check_refuses_and_the_flag_exports_without_training(tmp_path, plain):
    config = make_job(tmp_path, QUICK)
    done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True)
    stale = done.output / "model.safetensors"
    assert stale.is_file()
    config = make_job(tmp_path, QUICK | IMPOSSIBLE)
    refused = train_ratio(config, output=tmp_path / "out")
    assert refused.model is None
    assert not stale.exists()
    message = str(refused.refusal())
    assert re.search(r"the model is not exported: \d of 5 checks failed", message)
    assert "effective events" in message
    assert "(at least 1e+09)" in message
    assert "--allow-failed-checks" in message
    assert isinstance(refused.refusal(), TrainingError)

    steps = Steps()
    exported = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True, reporter=steps)
    assert {name: steps.states[name] for name in ALL} == {
        "events": "kept", "train ratio": "kept", "ratio": "kept", "checks": "kept", "model": "run", "report": "run"
    }  # fmt: skip
    assert exported.refusal() is None
    assert exported.failed == refused.failed
    notes = Model.load(exported.model).description.notes["checks"]
    assert notes.startswith("FAILED: ")
    assert "weights: " in notes


def test_stopped_training_goes_on_and_ends_in_the_same_networks(tmp_path, plain):
    config = make_job(tmp_path, QUICK)
    whole = train_ratio(config, output=tmp_path / "whole", allow_failed_checks=True)
    with pytest.raises(KeyboardInterrupt):
        train_ratio(config, output=tmp_path / "out", reporter=Steps(stop=("train ratio", 12)))
    (kept,) = (tmp_path / "out" / ".neyman").glob("training.*")
    steps = Steps()
    done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True, reporter=steps)
    assert steps.first["train ratio"] == 11  # the last evaluation before the stop was after 10 steps
    assert not kept.exists()
    assert done.model.read_bytes() == whole.model.read_bytes()


def test_stopped_training_of_other_settings_is_forgotten(tmp_path, plain):
    config = make_job(tmp_path, QUICK)
    with pytest.raises(KeyboardInterrupt):
        train_ratio(config, output=tmp_path / "out", reporter=Steps(stop=("train ratio", 12)))
    make_job(tmp_path, QUICK | {"seed": 9})
    steps = Steps()
    train_ratio(config, output=tmp_path / "out", allow_failed_checks=True, reporter=steps)
    assert steps.first["train ratio"] == 1
    assert not list((tmp_path / "out" / ".neyman").glob("training.*"))


def test_training_starts_from_an_earlier_model(tmp_path, plain):
    first = train_ratio(make_job(tmp_path, QUICK), output=tmp_path / "first", allow_failed_checks=True)
    changes = QUICK | {"start": "first/model.safetensors", "freeze": ["layers.0"]}
    second = train_ratio(make_job(tmp_path, changes), output=tmp_path / "second", allow_failed_checks=True)
    before, after = (Model.load(done.model).stacks[0].state_dict() for done in (first, second))
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in same if name.startswith("layers")} == {
        n for n in before if n.startswith("layers.0")
    }


def test_flows_start_from_an_earlier_model(tmp_path, plain):
    quick = {"estimator": "dle", "network": {"transforms": 1, "bins": 4, "hidden": [8]}} | QUICK
    first = train_ratio(make_job(tmp_path, quick), output=tmp_path / "first", allow_failed_checks=True)
    changes = quick | {"start": "first/model.safetensors", "freeze": ["transforms.0.weight"]}
    second = train_ratio(make_job(tmp_path, changes), output=tmp_path / "second", allow_failed_checks=True)
    for k in (0, 1):
        before, after = (Model.load(done.model).stacks[k].state_dict() for done in (first, second))
        assert all(np.array_equal(before[n], after[n]) for n in before if n.startswith("transforms.0.weight"))
        assert not all(np.array_equal(before[n], after[n]) for n in before)


def test_warnings_of_the_training_are_kept(tmp_path, plain):
    p, _q = gaussians()
    config = make_job(tmp_path, QUICK)
    write(tmp_path / "p.parquet", p | {"x": p["x"] + 3.0})
    for _ in range(2):
        done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True)
        assert len(done.warnings) == 1
        assert "lies outside the range of the denominator in 'x'" in done.warnings[0]
    assert not done.checks["checks"][-1]["passed"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"features": ["x", "u"]}, InputError, r"(?s)no column 'u'.*p\.parquet.*expected: "),
        ({"parameters": ["zz"]}, InputError, r"(?s)no column 'zz'.*the files of the numerator.*expected: z"),
        ({"numerator": {"files": "r.parquet"}}, InputError, r"(?s)r\.parquet does not exist.*[pq]\.parquet"),
        ({"numerator": {"files": "r*.parquet"}}, InputError, r"(?s)no file matches.*r\*\.parquet"),
        ({"numerator": {"files": "ratio.toml"}}, ConfigError, r"ratio\.toml is of no known kind"),
        ({"numerator": {"cut": "x > 100"}}, InputError, r"(?s)no event passes the cut 'x > 100'.*p\.parquet"),
        ({"numerator": {"weight": "-1 * w"}}, InputError, r"(?s)the weights sum to -2500.*p\.parquet"),
        ({"denominator": {"cut": "x >"}}, ConfigError, "not an expression"),
        ({"features": ["x", "flat"]}, TrainingError, "feature 'flat'"),
        ({"parameters": ["flat"]}, TrainingError, "nuisance parameter 'flat' has the same value"),
        ({"start": "no.safetensors"}, InputError, r"cannot read no\.safetensors"),
        ({"start": "p.parquet"}, WorkspaceError, r"p\.parquet is not a readable safetensors file"),
        ({"freeze": ["conv"]}, TrainingError, "no network parameter 'conv' to freeze"),
        ({"settings": {"device": "cuda:7"}}, ConfigError, "there is no device 'cuda:7' here"),
        ({"checks": {"fraction": 0.001}}, NeymanError, "events"),
        (
            {"calibration": {"method": "isotonic"}, "checks": {"fraction": 0.01}},
            InputError,
            r"effective events to calibrate on",
        ),
    ],
)
def test_errors(tmp_path, plain, changes, kind, message):
    merged = {key: {**QUICK.get(key, {}), **v} if isinstance(v, dict) else v for key, v in changes.items()}
    config = make_job(tmp_path, QUICK | merged)
    p = gaussians()[0]
    write(tmp_path / "p.parquet", p | {"flat": np.full(len(p["x"]), 2.0)})
    if "flat" in str(changes):
        q = gaussians()[1]
        write(tmp_path / "q.parquet", q | {"flat": np.full(len(q["x"]), 2.0)})
    with pytest.raises(kind, match=message):
        train_ratio(config, output=tmp_path / "out")


def test_missing_tree(tmp_path, plain):
    config = make_job(tmp_path, QUICK | {"numerator": {"tree": "events"}}, suffix=".root")
    with pytest.raises(InputError, match=r"(?s)no tree 'events' in the file.*expected: Events"):
        train_ratio(config, output=tmp_path / "out")


def test_identity_must_be_a_whole_number(tmp_path, plain):
    config = make_job(tmp_path, QUICK)
    for name, columns in zip(("p", "q"), gaussians(), strict=True):
        write(tmp_path / f"{name}.parquet", columns | {"entry": columns["z"]})
    with pytest.raises(TrainingError, match="column 'entry' is float64"):
        train_ratio(config, output=tmp_path / "out")


def test_folder_in_use(tmp_path, plain):
    config = make_job(tmp_path, QUICK)

    class Second(Steps):
        def step(self, name, state):
            with pytest.raises(ConfigError, match="another run is using this output folder"):
                train_ratio(config, output=tmp_path / "out")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ratio(config, output=tmp_path / "out", reporter=Second())


@pytest.mark.slow
def test_example_passes_and_the_ratio_that_is_not_covered_is_refused(tmp_path, plain, repository):
    examples = repository / "examples"
    (tmp_path / "htautau").symlink_to(examples / "htautau")
    shutil.copytree(examples / "ratio", tmp_path / "ratio", ignore=shutil.ignore_patterns("out"))
    subprocess.run([sys.executable, tmp_path / "ratio" / "events.py"], check=True, capture_output=True)
    config = tmp_path / "ratio" / "ratio.toml"
    done = train_ratio(config, output=tmp_path / "out")
    assert done.checks["passed"], done.failed

    names = {"ztautau": "htautau", "htautau": "ztautau"}
    text = re.sub(r"\b[zh]tautau\b", lambda match: names[match[0]], config.read_text())
    config.write_text(text.replace("steps = 3000", "steps = 500"))
    refused = train_ratio(config, output=tmp_path / "out")
    assert refused.model is None
    assert "weights" in [one["name"] for one in refused.failed]


def test_features_from_a_file_are_carried_to_the_scorer(tmp_path, plain):
    columns = {side: {"Jet_pt": ak.Array(np.exp(c["x"])[:, None]), "y": c["y"]} for side, c in
               zip("pq", gaussians(), strict=True)}  # fmt: skip
    for side, own in columns.items():
        ak.to_parquet(ak.zip(own, depth_limit=1), tmp_path / f"{side}.parquet")
    (tmp_path / "features.toml").write_text('[features]\nx = "log(Jet.pt[0])"\ny = "y"\n')
    config = make_job(tmp_path / "job", QUICK)
    text = config.read_text().replace('["x", "y"]', '"../features.toml"').replace('features = ["x","y"]', "")
    text = re.sub(r'"([pq])\.parquet"', r'"../\1.parquet"', text)
    config.write_text(text)
    done = train_ratio(config, output=tmp_path / "out", allow_failed_checks=True)
    scorer = Scorer.load(done.model, backend="torch")
    assert scorer.features == ("x", "y")
    assert scorer.branches(["Jet_pt", "y", "z"]) == ("Jet_pt", "y")
    x = np.stack([gaussians()[0]["x"], gaussians()[0]["y"]], axis=1)
    records = ak.zip(columns["p"], depth_limit=1)
    np.testing.assert_allclose(scorer(records), scorer(x), atol=1e-3)

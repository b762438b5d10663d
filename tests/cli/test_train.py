"""`neyman train`: a table for people, clean JSON for programs, and no model file without trust."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))

from ratio_toy import MEAN, QUICK, SMALL, gaussians, make_job, write

from neyman.analysis import ratio_job

IMPOSSIBLE = {"checks": {"tolerance": {"effective_events": 1e9}}}
LOOSE = {
    "checks": {"tolerance": {"closure": 9.0, "calibration": 9.0, "two_sample": 9.0, "normalisation": 9.0}}
}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """No figures and a two-sample test that takes no time."""
    monkeypatch.setattr("neyman.plots.ratio_report.write", lambda folder, *_: None)
    real = ratio_job.trust
    monkeypatch.setattr(ratio_job, "trust", lambda *a, **k: real(*a, **k, classifier=SMALL))


def test_model_works_with_score_and_inspect(tmp_path, call, as_json):
    config = make_job(tmp_path, {"calibration": {"method": "platt"}, "ensemble": 2})
    text = call("train", config, "--output", tmp_path / "out").stdout
    assert "Checks of signal over denominator" in text
    assert "two-sample test" in text
    assert f"Model:  {tmp_path / 'out' / 'model.safetensors'}" in text
    assert "index.html" in text

    model = tmp_path / "out" / "model.safetensors"
    write(tmp_path / "data.root", gaussians(200, 1)[0])
    scored = as_json("score", model, tmp_path / "data.root", tmp_path / "scores.parquet")
    assert scored["events"] == 200
    scores = pq.read_table(tmp_path / "scores.parquet")["model"].to_numpy()
    assert np.corrcoef(scores, 2.0 * MEAN * gaussians(200, 1)[0]["x"])[0, 1] > 0.98

    found = as_json("inspect", model)
    properties = {row["property"]: row["value"] for row in found["sections"]["model"]}
    assert properties["networks"] == "mlp"
    assert properties["members"] == 2
    assert properties["calibration"] == "platt"
    assert properties["combined by"] == "mean"
    assert properties["nuisance inputs"] == "none"
    (part,) = found["sections"]["parts"]
    assert (part["sign"], part["link"]) == ("+", "identity")
    notes = {row["note"]: row["text"] for row in found["sections"]["notes"]}
    assert notes["numerator"] == "signal"
    assert notes["checks"] == "all passed"
    assert "platt" in call("inspect", model).stdout


def test_json_is_clean(tmp_path, as_json):
    config = make_job(tmp_path, QUICK | LOOSE)
    document = as_json("train", config, "-o", tmp_path / "out")
    assert document["model"] == str((tmp_path / "out" / "model.safetensors").resolve())
    assert document["passed"]
    assert {"name", "passed", "reason"} == set(document["checks"][0])
    assert "error" not in document


def test_failed_check_is_an_error_and_the_flag_overrules_it(tmp_path, call, as_json):
    config, out = make_job(tmp_path, QUICK | IMPOSSIBLE), tmp_path / "out"
    refused = call("train", config, "-o", out, code=1)
    assert "FAILED" in refused.stdout
    message = " ".join(refused.stderr.split())
    assert "the model is not exported" in message
    assert "effective events" in message
    assert "--allow-failed-checks" in message
    assert not (out / "model.safetensors").exists()

    document = as_json("train", config, "-o", out, code=1)
    assert document["model"] is None
    assert not document["passed"]
    assert "the model is not exported" in document["error"]["what"]

    trained = (out / ".neyman" / "trained_ratio.safetensors").stat().st_mtime_ns
    allowed = call("train", config, "-o", out, "--allow-failed-checks")
    assert "Exported although" in allowed.stderr
    assert (out / "model.safetensors").is_file()
    assert (out / ".neyman" / "trained_ratio.safetensors").stat().st_mtime_ns == trained


def test_default_folder_is_named_after_the_job(tmp_path, monkeypatch, call):
    config = make_job(tmp_path, QUICK | LOOSE)
    monkeypatch.chdir(tmp_path)
    call("train", config)
    assert (tmp_path / "out" / "toy" / "model.safetensors").is_file()


def test_warnings_of_the_training_are_shown(tmp_path, call):
    config = make_job(tmp_path, QUICK)
    p = gaussians()[0]
    write(tmp_path / "p.parquet", p | {"x": p["x"] + 3.0})
    shown = call("train", config, "-o", tmp_path / "out", "--allow-failed-checks").stderr
    assert "Warning: " in shown
    assert "lies outside the range of the denominator" in shown


def test_wrong_input_is_a_message(tmp_path, call, as_json):
    assert "nowhere.toml does not exist" in call("train", "nowhere.toml", code=1).stderr
    config = make_job(tmp_path, QUICK | {"features": ["x", "u"]})
    assert as_json("train", config, "-o", tmp_path / "out", code=1)["error"]["what"] == "no column 'u'"


def test_stopped_job_says_how_to_go_on(tmp_path, monkeypatch, call):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ratio_job, "trust", stop)
    shown = call("train", make_job(tmp_path, QUICK), "-o", tmp_path / "out", code=130).stderr
    assert "run the same command again to go on" in shown

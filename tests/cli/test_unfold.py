"""`neyman unfold`: a table for people, clean JSON for programs, and an error when the closure fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))

from unfold_toy import QUICK, configure, make_job

from neyman.analysis import unfold_job

HARDLY = QUICK | {
    "settings": QUICK["settings"] | {"steps": 4},
    "closure": {"distortion": "exp(gen_x)", "replicas": 15},
}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """No figures."""
    monkeypatch.setattr(unfold_job, "report", lambda *_: None)


def test_table_and_where_everything_is(tmp_path, call):
    config, out = make_job(tmp_path, QUICK, n=1500), tmp_path / "out"
    text = call("unfold", config, "--output", out).stdout
    assert "Unfolded observables" in text
    assert "x [GeV]" in text
    assert "closure p" not in text
    assert "effective simulated events" in text
    for name in ("unfolding", "spectra.json", "hepdata", "report/index.html"):
        assert str(out / name) in text


def test_json_is_clean(tmp_path, as_json):
    document = as_json("unfold", make_job(tmp_path, QUICK, n=1500), "-o", tmp_path / "out")
    assert document["output"] == str((tmp_path / "out").resolve())
    assert document["yield"] > 0.0
    assert document["effective_size"] > 100.0
    assert set(document["spectra"]) == {"x", "square"}
    assert "reco_x" in document["support"]["features"]
    assert document["closure"] is None
    assert isinstance(document["warnings"], list)
    assert "error" not in document


def test_failed_closure_is_an_error_and_the_spectra_are_there(tmp_path, call, as_json):
    config, out = make_job(tmp_path, HARDLY), tmp_path / "out"
    failed = call("unfold", config, "-o", out, code=1)
    assert "closure p" in failed.stdout
    message = " ".join(failed.stderr.split())
    assert "the closure test failed in" in message
    assert "more iterations" in message
    assert (out / "spectra.json").is_file()
    document = as_json("unfold", config, "-o", out, code=1)
    assert not document["closure"]["passed"]
    assert document["closure"]["observables"]["x"]["p_value"] < 1e-3
    assert "the closure test failed" in document["error"]["what"]
    configure(tmp_path, HARDLY | {"closure": HARDLY["closure"] | {"p_value": 0.0}})
    assert as_json("unfold", config, "-o", out)["closure"]["passed"]


def test_wrong_input_is_a_message(tmp_path, call, as_json):
    assert "nowhere.toml does not exist" in call("unfold", "nowhere.toml", code=1).stderr
    config = make_job(tmp_path, QUICK | {"particle": {"features": ["gen_u"]}}, n=200)
    assert as_json("unfold", config, "-o", tmp_path / "out", code=1)["error"]["what"] == "no column 'gen_u'"


def test_stopped_job_says_how_to_go_on(tmp_path, monkeypatch, call):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(unfold_job, "spectra_document", stop)
    shown = call("unfold", make_job(tmp_path, QUICK, n=400), "-o", tmp_path / "out", code=130).stderr
    assert "run the same command again to go on" in shown

"""`neyman sannt`: a table and the observed strength for people, clean JSON for programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))

from sannt_toy import make_job

from neyman.analysis import sannt_job


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """No figures."""
    monkeypatch.setattr("neyman.plots.sannt_report.write", lambda folder, *_: None)


def test_what_is_printed_and_that_the_workspace_is_used(tmp_path, call, as_json):
    config = make_job(tmp_path, n=1000)
    text = call("sannt", config, "--output", tmp_path / "out").stdout
    assert "Expected uncertainty of the signal strength" in text
    assert "CENNT" in text
    assert "SANNT" in text
    assert "Observed:  r = " in text
    assert "MINOS" in text
    assert "degrees of freedom" in text
    assert f"Workspace: {tmp_path / 'out' / 'workspace'}" in text
    assert "index.html" in text
    found = as_json("fit", tmp_path / "out" / "workspace")
    results = as_json("sannt", config, "--output", tmp_path / "out")
    assert results["invalid_fits"] == []
    assert results["output"] == str((tmp_path / "out").resolve())
    assert found["values"]["r"] == pytest.approx(results["observed"]["values"]["r"], abs=1e-4)


def test_without_data(tmp_path, call):
    config = make_job(tmp_path, n=500, data=None, estimates=[])
    assert (
        "no data; the workspace holds the expectation" in call("sannt", config, "-o", tmp_path / "out").stdout
    )


def test_default_folder_and_folder_of_the_files(tmp_path, monkeypatch, call):
    config = make_job(tmp_path / "files", n=500)
    moved = tmp_path / "job.toml"
    config.rename(moved)
    monkeypatch.chdir(tmp_path)
    call("sannt", moved, "--data", tmp_path / "files")
    assert (tmp_path / "out" / "toy" / "workspace" / "binned.json").is_file()


def test_invalid_fit_has_exit_code_2(tmp_path, monkeypatch, call, as_json):
    real = sannt_job.observed_fit
    monkeypatch.setattr(
        sannt_job, "observed_fit", lambda *a: {**real(*a), "valid": False, "goodness_of_fit": None}
    )
    config = make_job(tmp_path, n=500)
    shown = call("sannt", config, "-o", tmp_path / "out", code=2)
    assert "NOT VALID: the fits observed; observed, cennt." in shown.stderr
    assert "Goodness" not in shown.stdout
    assert as_json("sannt", config, "-o", tmp_path / "out", code=2)["invalid_fits"] == [
        "observed",
        "observed, cennt",
    ]


def test_warnings_are_shown(tmp_path, monkeypatch, call):
    from neyman.errors import NeymanWarning

    real = sannt_job.variations

    def warn(*arguments):
        import warnings

        warnings.warn("look here", NeymanWarning, stacklevel=2)
        return real(*arguments)

    monkeypatch.setattr(sannt_job, "variations", warn)
    assert "Warning: look here" in call("sannt", make_job(tmp_path, n=500), "-o", tmp_path / "out").stderr


def test_wrong_input_is_a_message(tmp_path, call, as_json):
    assert "nowhere.toml does not exist" in call("sannt", "nowhere.toml", code=1).stderr
    config = make_job(tmp_path, n=300, features=["x", "u"])
    assert as_json("sannt", config, "-o", tmp_path / "out", code=1)["error"]["what"] == "no column 'u'"


def test_stopped_job_says_how_to_go_on(tmp_path, monkeypatch, call):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sannt_job, "train", stop)
    shown = call("sannt", make_job(tmp_path, n=300), "-o", tmp_path / "out", code=130).stderr
    assert "run the same command again to go on" in shown

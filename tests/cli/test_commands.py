"""The commands: tables for people, clean JSON for programs, exit codes for both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))

from analysis_toy import make_toy

from neyman.cli import main
from neyman.cli.main import COMMANDS


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Configuration and output of a run by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    config = make_toy(folder / "analysis")
    result = CliRunner().invoke(main, ["run", str(config), "--output", str(folder / "out")])
    assert result.exit_code == 0, result.output
    assert "unbinned neural likelihood" in result.stdout
    assert "index.html" in result.stdout
    return config, folder / "out"


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def as_json(*arguments, code=0):
    return json.loads(call(*arguments, "--json", code=code).stdout)


def test_help_of_every_command_fits_80_columns():
    for name in COMMANDS:
        text = call(name, "--help").stdout
        assert max(len(line) for line in text.splitlines()) <= 80
        assert "--json" in text


def test_run_json_is_clean(finished):
    config, out = finished
    document = as_json("run", config, "--output", out)
    assert document["output"] == str(out.resolve())
    assert {row["kind"] for row in document["comparison"]} == {"single", "classifier", "unbinned"}


def test_fit(finished):
    workspace = finished[1] / "workspace"
    document = as_json("fit", workspace, "--asimov", "--minos", "mu", "--fix", "lumi=1.0")
    assert document["valid"]
    assert document["values"]["mu"] == pytest.approx(1.0, abs=1e-3)
    assert document["minos"]["mu"]["upper"] > 0
    assert "lumi" in document["fixed"]
    text = call("fit", workspace, "--asimov").stdout
    assert "mu" in text
    assert text.rstrip().endswith("valid")


def test_fit_of_a_plain_pyhf_file(finished):
    binned = as_json("fit", finished[1] / "workspace" / "binned.json")
    preferred = as_json("fit", finished[1] / "workspace", "--binned")
    assert binned["values"] == pytest.approx(preferred["values"])


def test_profile(finished):
    document = as_json(
        "profile", finished[1] / "workspace", "mu", "--asimov", "--range", 0.5, 1.5, "--points", 3
    )
    assert document["grid"] == [0.5, 1.0, 1.5]
    assert document["delta"][1] == pytest.approx(0.0, abs=1e-6)
    assert min(document["delta"][0], document["delta"][2]) > 0


def test_impacts(finished):
    text = call("impacts", finished[1] / "workspace", "mu", "--asimov").stdout
    for name in ("scale", "offset", "bkg_norm", "lumi"):
        assert name in text


def test_validate(finished, tmp_path):
    assert as_json("validate", finished[1] / "workspace")["passed"]
    assert "FAILED" in call("validate", tmp_path, code=1).stdout


def test_inspect(finished):
    config, out = finished
    assert "Events: 4000 entries" in call("inspect", config.parent / "data" / "sig.root").stdout
    assert as_json("inspect", out / "model")["kind"] == "trained networks"
    workspace = as_json("inspect", out / "workspace")
    assert workspace["sections"]["unbinned channels"][0]["channel"] == "SR"
    alone = as_json("inspect", out / "workspace" / "unbinned.json")
    assert alone["sections"]["unbinned channels"] == workspace["sections"]["unbinned channels"]
    assert as_json("inspect", out / "results.json")["kind"] == "results of an analysis"
    assert as_json("inspect", out / "workspace" / "manifest.json")["kind"] == "manifest of a workspace"
    table = as_json("inspect", out / "workspace" / "SR_data.parquet")
    assert {row["column"] for row in table["sections"]["columns"]} >= {"weight", "x:x", "sig"}
    failed = as_json("inspect", out / "nothing", code=1)
    assert "does not exist" in failed["error"]["what"]


def test_inspect_unknown_kind(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert "is of no known kind" in call("inspect", tmp_path / "a.txt", code=1).stderr


PYHF = {
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "s",
                    "data": [1.0, 2.0],
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                }
            ],
        }
    ]
}
REST = {
    "observations": [{"name": "SR", "data": [1.0, 3.0]}],
    "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
    "version": "1.0.0",
}


@pytest.mark.parametrize(
    ("name", "document", "kind"),
    [
        ("w.json", PYHF | REST, "workspace"),
        ("w.json", PYHF, "pyhf model"),
        ("r.json", {"comparison": [], "expected": {}, "observed": {}, "n": 3}, "results of an analysis"),
        ("m.json", {"files": {}, "versions": {}, "configuration": {}}, "manifest of a workspace"),
    ],
)
def test_inspect_tells_json_documents_apart(tmp_path, name, document, kind):
    (tmp_path / name).write_text(json.dumps(document))
    assert as_json("inspect", tmp_path / name)["kind"] == kind
    assert kind in call("inspect", tmp_path / name).stdout


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1], "is JSON of no known kind"),
        ({"a": 1}, "is JSON of no known kind"),
        (REST | {"channels": [{"name": "SR", "samples": []}]}, "fails pyhf's schema"),
        (REST | {"channels": 3}, "fails pyhf's schema"),
        ({"channels": [{"name": "SR"}]}, "fails pyhf's schema"),
    ],
)
def test_inspect_refuses_other_json(tmp_path, document, message):
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert message in as_json("inspect", tmp_path / "a.json", code=1)["error"]["what"]


def test_json_has_null_for_what_is_not_finite(tmp_path):
    pq.write_table(pa.table({"x": [1.0, float("nan")]}), tmp_path / "a.parquet")
    (row,) = as_json("inspect", tmp_path / "a.parquet")["sections"]["columns"]
    assert row["mean"] is None


def test_score(finished, tmp_path):
    out = finished[1]
    events = next((out / "events" / "sig" / "SR" / "nominal").glob("*.parquet"))
    document = as_json("score", out / "model", events, tmp_path / "scores.parquet", "--at", "scale=0.5")
    assert document["outputs"] == ["bkg", "sig"]
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.num_rows == document["events"] == pq.read_metadata(events).num_rows


def test_errors_are_messages(finished):
    result = call("fit", finished[1] / "workspace", "--fix", "mv=1", code=1)
    assert "no parameter 'mv'" in result.stderr
    assert "nearest names: mu" in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output
    document = as_json("run", "nowhere.toml", code=1)
    assert document["error"]["type"] == "ConfigError"


def test_bad_assignment():
    assert "is not NAME=VALUE" in call("fit", "x", "--fix", "mu", code=2).stderr

"""The data folder of an analysis may be a URL, and `inspect` looks at files of the web."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from neyman.analysis.config import load_config
from neyman.analysis.inputs import event_files, event_source, identity
from neyman.analysis.inspection import inspect
from neyman.analysis.simulation import Inputs
from neyman.errors import ConfigError, InputError
from neyman.events import remote
from neyman.events.columns import write_parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "events"))

from web_server import serving


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.02))


def test_data_of_an_analysis_at_a_url(toy):
    config, home = load_config(toy), toy.parent
    here = Inputs.find(config, home, None)
    with serving(home / config.events.data) as server:
        there = Inputs.find(config, home, f"{server.url}/list/")
        assert there.expected == here.expected
        for name, files in here.files.items():
            assert [path.rpartition("/")[2] for path in there.files[name]] == [Path(f).name for f in files]
            assert all(identity(path)[0] == path for path in there.files[name])
        with pytest.raises(
            InputError, match=r"there is no such file[\s\S]*none/samples\.json|no file matches"
        ):
            Inputs.find(config, home, f"{server.url}/ok/none")
        (home / config.events.data / config.events.metadata).write_text("{")
        with pytest.raises(InputError, match=r"not readable JSON[\s\S]*samples\.json"):
            Inputs.find(config, home, f"{server.url}/list")
        (home / config.events.data / config.events.metadata).write_text(json.dumps({}))
        with pytest.raises(ConfigError, match="no positive 'events_per_inverse_fb'"):
            Inputs.find(config, home, f"{server.url}/list")


def test_files_of_a_job_at_urls(tmp_path):
    write_parquet(tmp_path / "a.parquet", {"x": np.arange(5.0)})
    (tmp_path / "files.txt").write_text("a.parquet\n")
    with serving(tmp_path) as server:
        url = f"{server.url}/ok/a.parquet"
        assert event_files(["a.parquet"], f"{server.url}/ok") == [url]
        assert event_files([url], tmp_path) == [url]
        assert event_files(["@files.txt"], f"{server.url}/ok") == [url]
        assert event_files(["@files.txt"], tmp_path) == [str(tmp_path / "a.parquet")]
        assert event_files([f"{url}?token=1"], tmp_path) == [f"{url}?token=1"]
        assert event_source(url, "Events").names == ["x"]
        with pytest.raises(ConfigError, match=r"a\.csv is of no known kind"):
            event_files([f"{server.url}/ok/a.csv"], tmp_path)
        with pytest.raises(InputError, match=r"there is no such file[\s\S]*b\.parquet"):
            identity(f"{server.url}/ok/b.parquet")


def test_inspect_at_a_url(toy, tmp_path):
    data = toy.parent / load_config(toy).events.data
    rows = {f"x{k}": np.arange(50_000.0) for k in range(5)}
    write_parquet(data / "a.parquet", rows)
    root = next(data.glob("*.root"))
    with serving(data) as server:
        assert inspect(f"{server.url}/ok/{root.name}") == inspect(root)
        found = inspect(f"{server.url}/ok/a.parquet")
        assert found.kind == "Parquet file, 50000 rows"
        assert found.sections["columns"][1] == {"column": "x1", "type": "double"}
        assert server.sent["/ok/a.parquet"] < 0.2 * (data / "a.parquet").stat().st_size
        with pytest.raises(InputError, match=r"(?s)'a\.csv' is of no known kind.*\.root or \.parquet"):
            inspect(f"{server.url}/ok/a.csv")
        with pytest.raises(InputError, match=r"there is no such file[\s\S]*b\.root"):
            inspect(f"{server.url}/ok/b.root")
        with pytest.raises(InputError, match=r"there is no such file[\s\S]*b\.parquet"):
            inspect(f"{server.url}/ok/b.parquet")

"""A small pyhf file and a small workspace folder, each with a parameter of interest and nuisance parameters."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from neyman.cli import main

BINNED: dict[str, Any] = {
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "signal",
                    "data": [3.0, 12.0],
                    "modifiers": [
                        {"name": "mu", "type": "normfactor", "data": None},
                        {"name": "acceptance", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                    ],
                },
                {
                    "name": "background",
                    "data": [50.0, 40.0],
                    "modifiers": [
                        {"name": "norm", "type": "normsys", "data": {"hi": 1.05, "lo": 0.95}},
                        {"name": "staterror_SR", "type": "staterror", "data": [2.0, 2.0]},
                    ],
                },
            ],
        }
    ],
    "observations": [{"name": "SR", "data": [55.0, 53.0]}],
    "measurements": [
        {"name": "first", "config": {"poi": "mu", "parameters": []}},
        {"name": "second", "config": {"poi": "norm", "parameters": [{"name": "mu", "fixed": True}]}},
    ],
    "version": "1.0.0",
}

UNBINNED: dict[str, Any] = {
    "channels": [
        {
            "name": "events",
            "form": "extended",
            "data": {"file": "data.parquet"},
            "reference": {"file": "reference.parquet"},
            "samples": [
                {
                    "name": "signal",
                    "yield": 40.0,
                    "log_ratio": "signal",
                    "modifiers": [{"name": "mu", "type": "normfactor"}],
                },
                {
                    "name": "background",
                    "yield": 160.0,
                    "log_ratio": "background",
                    "modifiers": [{"name": "norm", "type": "normsys", "data": {"hi": 1.05, "lo": 0.95}}],
                },
            ],
        }
    ],
    "measurements": [{"name": "first", "config": {"poi": "mu", "parameters": []}}],
    "version": "1.0.0",
}


@pytest.fixture(scope="session")
def pyhf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pyhf workspace of two bins and two measurements."""
    path = tmp_path_factory.mktemp("pyhf") / "workspace.json"
    path.write_text(json.dumps(BINNED))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace folder: the bins above, and events that lie higher in x for the signal, with exact ratios."""
    path = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(3)
    data = np.concatenate([rng.normal(1.0, 1.0, 45), rng.normal(-1.0, 1.0, 158)])
    reference = np.concatenate([rng.normal(1.0, 1.0, 300), rng.normal(-1.0, 1.0, 300)])
    for name, x in (("data", data), ("reference", reference)):
        mixture = np.log(np.cosh(x))  # of both Gaussians, as is the common factor
        columns = {"weight": np.ones(len(x)), "signal": x - mixture, "background": -x - mixture}
        pq.write_table(pa.table(columns), path / f"{name}.parquet")
    (path / "unbinned.json").write_text(json.dumps(UNBINNED))
    (path / "binned.json").write_text(json.dumps(BINNED))
    return path


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """``changed(change)``: path of the pyhf workspace after ``change(document)``."""

    def write(change: Callable[[dict[str, Any]], None]) -> Path:
        document = copy.deepcopy(BINNED)
        change(document)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(document))
        return path

    return write


def run(*arguments: object, code: int = 0) -> Result:
    """Run a command; the exit code must be `code`."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def call() -> Callable[..., Result]:
    """``call(*arguments, code=0)``."""
    return run


@pytest.fixture
def as_json() -> Callable[..., Any]:
    """``as_json(*arguments, code=0)``: the JSON on stdout, which must be all of it."""
    return lambda *arguments, code=0: json.loads(run(*arguments, "--json", code=code).stdout)

"""Published workspaces refit to what they fitted to when they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import neyman as ny
from neyman.workspace import validate

FOLDERS = sorted(p.parent for p in (Path(__file__).parents[2] / "workspaces").glob("*/expected.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_workspace_refits(folder):
    for expected in json.loads((folder / "expected.json").read_text())["fits"]:
        lh = ny.Likelihood.load(folder / "workspace", prefer=expected["prefer"])
        fit = ny.fit(lh.asimov() if expected["asimov"] else lh)
        assert fit.valid
        for name, value in expected["values"].items():
            assert fit.values[name] == pytest.approx(value, abs=1e-3 * expected["errors"][name])
            assert fit.errors[name] == pytest.approx(expected["errors"][name], rel=1e-3)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_workspace_is_valid(folder):
    assert not [c for c in validate(folder / "workspace") if not c.passed]


def test_there_is_one():
    assert FOLDERS

"""Fixtures of the toy analysis."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from analysis_toy import Recorder, make_toy


@pytest.fixture(scope="session")
def toy_config(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_run(toy_config, tmp_path_factory):
    """The finished toy analysis."""
    from neyman.analysis import run

    return run(toy_config, output=tmp_path_factory.mktemp("toy_out") / "out", reporter=Recorder())


@pytest.fixture
def toy(tmp_path):
    return make_toy(tmp_path / "analysis")

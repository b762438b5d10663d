"""The htautau example in a short version (few training steps) and in full."""

from __future__ import annotations

import re
import shutil

import pytest


@pytest.fixture(scope="session")
def short_job(repository, tmp_path_factory):
    """The example on its embedded data with small networks; returns the `Run`."""
    from neyman.analysis import run

    example = repository / "examples" / "htautau"
    folder = tmp_path_factory.mktemp("short")
    text = (example / "analysis.toml").read_text()
    text = re.sub(r"^steps = .*", "steps = 40", text, flags=re.MULTILINE)
    text = re.sub(r"^hidden = .*", "hidden = [16]", text, flags=re.MULTILINE)
    text = re.sub(r"^ensemble = .*", "ensemble = 2", text, flags=re.MULTILINE)
    text = text.replace("profile_points = 11", "profile_points = 3").replace("replicas = 3", "replicas = 1")
    text = text.replace("fraction = 0.5", "fraction = 0.85")  # few events to evaluate, many to train on
    (folder / "analysis.toml").write_text(text)
    shutil.copy(example / "processor.py", folder)
    return run(folder / "analysis.toml", output=folder / "out", data=example / "data")


@pytest.fixture(scope="session")
def full_job(repository, tmp_path_factory):
    """The main job as the README runs it."""
    from neyman.analysis import run

    return run(
        repository / "examples" / "htautau" / "analysis.toml", output=tmp_path_factory.mktemp("full") / "out"
    )

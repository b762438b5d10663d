"""The AGC example: three lines make a network its observable, and both processors run."""

from __future__ import annotations

import difflib
import importlib.util
import shutil
import sys

import hist
import numpy as np
import pytest
from coffea.processor import IterativeExecutor, Runner

from neyman.events.features import FeatureSpec
from neyman.events.processing.schema import NanoSchema
from neyman.networks import MLP, Description, Model, Part


@pytest.fixture
def load(repository, monkeypatch, tmp_path):
    """Import an example, in a folder with a model."""
    folder = repository / "examples" / "agc"
    shutil.copy(folder / "features.toml", tmp_path)
    features = FeatureSpec.load(folder / "features.toml").features
    network = MLP((8,)).build(len(features), members=1, seed=1)
    model = Model([network], Description(features=features, parts=(Part(network=MLP((8,)), members=1),)))
    model.save(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)

    def module(name):
        spec = importlib.util.spec_from_file_location(f"agc_{name}", folder / f"{name}.py")
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, made)  # the processor is pickled by its name
        spec.loader.exec_module(made)
        return made

    return module


def test_three_lines_are_changed(repository):
    texts = [(repository / "examples/agc" / f"{name}.py").read_text() for name in ("ttbar", "ttbar_neyman")]
    changed = [line for line in difflib.ndiff(*(text.splitlines() for text in texts)) if line[0] in "+-"]
    added, removed = ([line[2:].strip() for line in changed if line[0] == sign] for sign in "+-")
    assert len(added) == 3
    assert len(removed) == 1
    assert added[0] == "import neyman"


def test_both_run_on_nanoaod(load, shared_data):
    file = str(shared_data / "nanoaod" / "nano_tt_v12.root")
    runner = Runner(IterativeExecutor(status=False), schema=NanoSchema, metadata_cache={}, chunksize=100)
    found = {}
    for name in ("ttbar", "ttbar_neyman"):
        out = runner({"ttbar": [file]}, load(name).TtbarAnalysis(), treename="Events")
        assert out["nevents"] == {"ttbar": 200}
        found[name] = out["hist"]
    for h in found.values():
        assert h.axes.name == ("observable", "region", "process", "variation")
        assert set(h.axes["region"]) == {"4j1b", "4j2b"}
        assert set(h.axes["variation"]) == {
            "nominal", "pt_scale_up", "pt_scale_down", "btag_var_0_up", "btag_var_0_down"
        }  # fmt: skip
    plain, scored = (h.project("region", "variation").values() for h in found.values())
    np.testing.assert_allclose(
        found["ttbar_neyman"].sum(flow=True).value, found["ttbar"].sum(flow=True).value
    )
    assert plain.shape == scored.shape
    nominal = {"variation": "nominal", "process": "ttbar", "region": hist.sum}
    shapes = [h[nominal].values() for h in found.values()]
    assert (shapes[0] != shapes[1]).any()
    assert shapes[1].sum() > 20

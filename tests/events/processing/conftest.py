"""A small analysis with systematic variations: features, a network, shifted objects and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neyman.events import PythonRef, Scorer
from neyman.events.features import FeatureSpec
from neyman.networks import MLP, Description, Model, Part

ANALYSIS = """\
import awkward as ak
import numpy as np
from coffea.analysis_tools import Weights

def objects(events):
    shifted = {}
    for name, scale in (("jesUp", 1.1), ("jesDown", 0.9)):
        jets = ak.with_field(events.Jet, events.Jet.pt * np.float32(scale), "pt")
        shifted[name] = ak.with_field(events, jets, "Jet")
    return shifted

def weights(events):
    made = Weights(len(events))
    made.add("gen", ak.to_numpy(events.genWeight).astype(np.float64))
    pt = ak.to_numpy(ak.sum(events.Jet.pt, axis=1)).astype(np.float64)
    made.add("btag", 1 + pt / 3000, 1 + pt / 2000, 1 + pt / 4000)
    return made
"""
FEATURES = ("tau_pt", "met", "n_jets", "ht")


@pytest.fixture(scope="session")
def spec() -> FeatureSpec:
    """Features of the small files."""
    return FeatureSpec(
        {"tau_pt": "Tau.pt[0]", "met": "MET.pt", "n_jets": "count(jets)", "ht": "sum(jets.pt)"},
        fill={"tau_pt": 0.0},
        definitions={"jets": "Jet[Jet.pt > 30]"},
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of an untrained network."""
    path = tmp_path_factory.mktemp("model") / "nn.safetensors"
    network = MLP((8,)).build(len(FEATURES), members=1, seed=1)
    Model([network], Description(features=FEATURES, parts=(Part(network=MLP((8,)), members=1),))).save(path)
    return path


@pytest.fixture(scope="session")
def scorer(model: Path) -> Scorer:
    """The network as a processor holds it."""
    return Scorer.load(model, backend="torch")


@pytest.fixture(scope="session")
def function(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PythonRef]:
    """References to the functions of the analysis."""
    folder = tmp_path_factory.mktemp("analysis")
    (folder / "analysis.py").write_text(ANALYSIS)
    return lambda name: PythonRef.parse(f"analysis.py:{name}", folder)

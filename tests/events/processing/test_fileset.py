"""preload_branches: coffea reads what is named at once, and gives the same."""

from __future__ import annotations

import hist
import numpy as np
import pytest
from coffea.processor import IterativeExecutor, Runner

from neyman.errors import ConfigError
from neyman.events.processing.fileset import preload_branches
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.schema import NanoSchema


def test_the_same_histograms_from_preloaded_branches(nano, spec, tmp_path):
    paths = [str(nano(tmp_path / f"{i}.root", 200, i)) for i in range(2)]
    processor = HistProcessor(features=spec, axes=(hist.axis.Regular(5, 0, 100, name="met"),))
    given = {"a": {"files": paths[:1], "metadata": {"process": "ttbar"}}, "b": str(tmp_path / "1.root")}
    fileset = preload_branches(given, processor)
    assert fileset["a"]["metadata"] == {"process": "ttbar"}
    assert set(fileset["b"]["preload"]) == {"nTau", "Tau_pt", "MET_pt", "nJet", "Jet_pt", "genWeight"}
    assert fileset["b"]["files"] == paths[1:]
    runner = Runner(IterativeExecutor(status=False), schema=NanoSchema, metadata_cache={})
    out = runner(fileset, processor)
    plain = runner({"a": paths[:1], "b": paths[1:]}, processor, treename="Events")
    assert out["a"]["process"] == "ttbar"
    for dataset in plain:
        one, other = (o[dataset]["hists"]["met"].view(flow=True) for o in (out, plain))
        np.testing.assert_array_equal(one, other)


def test_a_function_does_not_say_what_it_reads():
    with pytest.raises(ConfigError, match=r"a function does not say which branches[\s\S]*FeatureSpec"):
        preload_branches({"a": "a.root"}, lambda events: events)

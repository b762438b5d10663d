"""Every layout in the wild becomes ``events.Jet.pt``; nothing that a physicist cannot change is warned about."""

from __future__ import annotations

import warnings

import awkward as ak
import numpy as np
import pytest
import uproot

from neyman.errors import ConfigError

pytest.importorskip("coffea")
from coffea.nanoevents import NanoEventsFactory
from coffea.nanoevents.schemas import BaseSchema, TreeMakerSchema

from neyman.events.processing.schema import SCHEMAS, NanoSchema, schema_class

NANO = {
    "nano_dy": ("Tau", "MET"),
    "nano_dimuon": ("Tau", "MET"),
    "nano_tt_v12": ("Jet", "MET"),
    "nano_tt_v15": ("Tau", "PuppiMET"),
    "nanoAOD_2015_CMS_Open_Data_ttbar": ("Tau", "MET"),
}
TRIGGERS = ("HLT_", "L1_", "DST_", "Flag_")


@pytest.mark.parametrize("name", NANO)
def test_nanoaod_of_every_version_without_a_warning(shared_data, name):
    path = shared_data / "nanoaod" / f"{name}.root"
    with uproot.open({str(path): None}) as file:
        events = NanoEventsFactory.from_root(
            file,
            treepath="Events",
            schemaclass=NanoSchema,
            mode="virtual",
            iteritems_options={
                "filter_name": lambda branch: not branch.startswith(TRIGGERS)
            },  # half of the time
        ).events()
        tree = file["Events"]
        for collection in ("Jet", "Electron", "Muon", *NANO[name]):
            expected = ak.flatten(tree[f"{collection}_pt"].array(), axis=None)
            np.testing.assert_array_equal(ak.flatten(events[collection].pt, axis=None), expected)
            assert events[collection].px is not None  # a vector
        if "v12" in name:
            assert "Tau" not in events.fields
        else:
            assert set(ak.flatten(events.Photon.mass)) == {0.0}


def test_physlite_can_be_read_collection_by_collection(shared_data):
    path = shared_data / "nanoaod" / "PHYSLITE_example.root"
    wanted = ["AnalysisJetsAuxDyn.*", "AnalysisMuonsAuxDyn.*", "TruthBottomAuxDyn.*", "BornLeptonsAuxDyn.*"]
    with warnings.catch_warnings(), uproot.open({str(path): None}) as file:
        warnings.filterwarnings("ignore", message="Skipping")
        events = NanoEventsFactory.from_root(
            file,
            treepath="CollectionTree",
            schemaclass=schema_class("physlite"),
            mode="virtual",
            iteritems_options={"filter_name": wanted},
        ).events()
        tree = file["CollectionTree"]
        pt, m = (tree[f"AnalysisJetsAuxDyn.{field}"].array() for field in ("pt", "m"))
        np.testing.assert_array_equal(ak.flatten(events.Jets.pt), ak.flatten(pt))
        np.testing.assert_array_equal(ak.flatten(events.Jets.mass), ak.flatten(m))
        assert 10_000 < ak.mean(events.Jets.pt[:, 0]) < 1_000_000  # MeV
        bottom = tree["TruthBottomAuxDyn.m"].array()
        np.testing.assert_array_equal(ak.flatten(events.TruthBottom.m), ak.flatten(bottom))
        assert "e" not in events.TruthBottom.fields
        assert {"e", "m"} <= set(events.BornLeptons.fields)  # without a vector class nothing is in the way


def test_flat_trees_keep_their_columns(tmp_path):
    path = tmp_path / "flat.root"
    columns = {"m_vis": np.array([1.0, 2.0]), "n_jets": np.array([3, 4])}
    with uproot.recreate(path) as file:
        file.mktree("tree", {"m_vis": "float64", "n_jets": "int64", "jet_pt": "var * float32"})
        file["tree"].extend(columns | {"jet_pt": ak.Array([[1.0, 2.0], []])})
    for mode in ("eager", "virtual"):
        events = NanoEventsFactory.from_root(
            {str(path): "tree"}, schemaclass=schema_class("flat"), mode=mode
        ).events()
        assert {"m_vis", "n_jets", "jet_pt"} <= set(events.fields)
        assert events.m_vis.to_list() == [1.0, 2.0]
        assert events.jet_pt.to_list() == [[1.0, 2.0], []]


def test_delphes_is_known():
    assert schema_class("delphes").__name__ == "DelphesSchema"


def test_names_and_classes():
    assert set(SCHEMAS) == {"nanoaod", "physlite", "delphes", "flat"}
    assert schema_class("nanoaod") is NanoSchema
    assert schema_class(TreeMakerSchema) is TreeMakerSchema
    with pytest.raises(ConfigError, match=r"unknown schema 'nanoAOD'[\s\S]*expected: nanoaod"):
        schema_class("nanoAOD")
    with pytest.raises(ConfigError, match=r"int is not a coffea schema[\s\S]*BaseSchema"):
        schema_class(int)
    assert all(issubclass(kind, BaseSchema) for kind in SCHEMAS.values())

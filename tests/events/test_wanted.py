"""Tables whose features are expressions over collections, and the networks trained on them."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

import neyman as ny
from neyman.errors import ConfigError, InputError
from neyman.events import EventTable
from neyman.events.features import FeatureSpec

SPEC = FeatureSpec(
    {"tau": "good[0].pt", "met": "MET.pt", "n": "count(Jet)"},
    definitions={"good": "Tau[Tau.pt > 20]"},
)
CUT = "count(good) > 0 and MET.pt < 80"


def by_hand(path):
    with uproot.open(path) as file:
        events = file["Events"].arrays(["Tau_pt", "MET_pt", "Jet_pt", "genWeight", "event"])
    good = events.Tau_pt[events.Tau_pt > 20]
    passes = (ak.num(good) > 0) & (events.MET_pt < 80)
    events, good = events[passes], good[passes]
    x = np.stack([ak.to_numpy(c) for c in (good[:, 0], events.MET_pt, ak.num(events.Jet_pt))], axis=1)
    return x.astype(np.float32), ak.to_numpy(events.genWeight), ak.to_numpy(events.event)


def test_features_of_a_root_file_are_those_made_by_hand(nano, tmp_path):
    path = nano(tmp_path / "nano.root", n=500)
    x, weight, event = by_hand(path)
    table = EventTable.from_root(path, features=SPEC, weight="2 * genWeight", cut=CUT, extra=["event"])
    assert table.features == ("tau", "met", "n")
    np.testing.assert_array_equal(table.x, x)
    np.testing.assert_allclose(table.weight, 2.0 * weight, rtol=1e-7)
    np.testing.assert_array_equal(table.extra["event"], event)
    assert table.inputs == SPEC.to_dict()


def test_events_without_what_the_cut_asks_for_do_not_pass(nano, tmp_path):
    path = nano(tmp_path / "nano.root", n=300)
    spec = FeatureSpec({"tau": "Tau.pt[0]", "met": "MET.pt"})
    expected = EventTable.from_root(path, features=spec, cut="count(Tau) > 0 and fill(Tau.pt[0], 0) > 20")
    found = EventTable.from_root(path, features=spec, cut="Tau.pt[0] > 20")
    np.testing.assert_array_equal(found.x, expected.x)
    assert 0 < len(found) < 300


def test_chunks_change_nothing(nano, tmp_path, monkeypatch):
    path = nano(tmp_path / "nano.root", n=300)
    whole = EventTable.from_root(path, features=SPEC, cut=CUT)
    monkeypatch.setattr("neyman.events.columns.STEP", 37)
    np.testing.assert_array_equal(EventTable.from_root(path, features=SPEC, cut=CUT).x, whole.x)


def test_parquet_arrays_and_awkward_are_the_same(nano, tmp_path):
    path = nano(tmp_path / "nano.root", n=200)
    with uproot.open(path) as file:
        events = file["Events"].arrays(["Tau_pt", "MET_pt", "Jet_pt", "nJet", "genWeight"])
    events = events[ak.any(events.Tau_pt > 20, axis=1)]
    expected = EventTable.from_root(path, features=SPEC, weight="genWeight", cut="count(good) > 0")
    ak.to_parquet(events, tmp_path / "events.parquet")
    stored = EventTable.from_parquet(tmp_path / "events.parquet", features=SPEC, weight="genWeight")
    held = EventTable.from_awkward(events, features=SPEC, weight="genWeight")
    for table in (stored, held):
        np.testing.assert_array_equal(table.x, expected.x)
        np.testing.assert_array_equal(table.weight, expected.weight)
        assert table.spec == SPEC


def test_the_specification_stays_with_its_features():
    columns = {"met": np.ones(3), "z": np.arange(3.0)}
    spec = FeatureSpec({"a": "met", "b": "2 * met"})
    table = EventTable.from_awkward(ak.zip(columns), features=spec, extra=["z"])
    assert table.select([0, 2]).with_features(["b"]).spec == spec
    assert table.with_features(["a", "z"]).spec is None
    assert EventTable.concat([table, table]).spec == spec


@pytest.mark.parametrize(
    ("features", "cut", "kind", "message"),
    [
        (SPEC, "count(good)", ConfigError, "the cut gives numbers, not true or false"),
        (SPEC, None, InputError, r"tau is missing in \d+ of 100 events\n.*entries from 0"),
        (SPEC, "open(good)", ConfigError, "open"),
        (FeatureSpec({"x": "Photon.pt[0]"}), None, InputError, r"none of the branches(.|\n)*Photon_pt"),
        (FeatureSpec({"x": "MET.pt", "y": "Photon.pt[0]"}), None, InputError, "no Photon"),
        (FeatureSpec({"x": "Tau.pt"}), None, ConfigError, "is a list for each event"),
    ],
)
def test_what_is_wrong_is_named(nano, tmp_path, features, cut, kind, message):
    path = nano(tmp_path / "nano.root", n=100)
    with pytest.raises(kind, match=message):
        EventTable.from_root(path, features=features, cut=cut)


def test_a_model_carries_its_features_to_the_scorer(nano, tmp_path):
    from coffea.nanoevents import NanoEventsFactory

    from neyman.events.processing.schema import NanoSchema

    path = nano(tmp_path / "nano.root", n=400)
    table = EventTable.from_root(path, features=SPEC, cut=CUT)
    other = EventTable.from_root(path, features=SPEC, cut="count(good) > 0")
    settings = ny.training.Settings(steps=3, batch_size=32)
    lre = ny.ratios.LRE(ny.networks.MLP((4,)), ensemble=2, settings=settings)
    ratio = lre.fit(table, other, seed=1)
    ratio.save(tmp_path / "model.safetensors")
    scorer = ny.Scorer.load(tmp_path / "model.safetensors", backend="torch")
    events = NanoEventsFactory.from_root({path: "Events"}, schemaclass=NanoSchema, mode="virtual").events()
    events = events[ak.any(events.Tau.pt > 20, axis=1) & (events.MET.pt < 80)]
    np.testing.assert_array_equal(scorer(events), ratio.log_ratio(table))
    assert {"Tau_pt", "MET_pt", "nJet"} <= set(scorer.branches())


def test_flows_carry_their_features(nano, tmp_path):
    path = nano(tmp_path / "nano.root", n=200)
    dle = ny.ratios.DLE(ny.networks.NSF(), settings=ny.training.Settings(steps=2, batch_size=32))
    spec = FeatureSpec({"met": "MET.pt", "phi": "MET.phi"})
    p, q = (EventTable.from_root(path, features=spec, cut=c) for c in ("MET.pt < 30", None))
    assert dle.fit(p, q, seed=1).model.description.inputs == spec.to_dict()


def test_score_computes_features_from_collections(nano, tmp_path):
    from click.testing import CliRunner

    from neyman.cli import main

    path = nano(tmp_path / "nano.root", n=100)
    spec = FeatureSpec({"tau": "Tau[0].pt", "met": "MET.pt"}, fill={"tau": 0.0})
    p, q = (EventTable.from_root(path, features=spec, cut=c) for c in ("MET.pt < 30", None))
    lre = ny.ratios.LRE(ny.networks.MLP((4,)), settings=ny.training.Settings(steps=2, batch_size=16))
    ratio = lre.fit(p, q, seed=1)
    ratio.save(tmp_path / "model.safetensors")
    arguments = ["score", str(tmp_path / "model.safetensors"), str(path), str(tmp_path / "out.parquet")]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 0, answer.output
    found = pq.read_table(tmp_path / "out.parquet")["model"].to_numpy()
    np.testing.assert_allclose(found, ratio.log_ratio(EventTable.from_root(path, features=spec)), atol=1e-5)

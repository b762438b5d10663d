"""The document: TOML, dictionaries, digests and pickles; errors name the key, the feature and the event."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import awkward as ak
import numpy as np
import pytest

from neyman.errors import ConfigError, InputError
from neyman.events import padded
from neyman.events.features import FeatureSpec

TOML = """
[definitions]
good = "Jet[Jet.pt > 30]"
met = "first_of(MET, PuppiMET)"

[features]
n_jets = "count(good)"
lead_pt = "good.pt[0]"
mjj = '''
mass(good[0],
     good[1])
'''
met = "met.pt / 1000"

[fill]
lead_pt = 0
mjj = -1.0

[padded.jet]
collection = "sort(good, good.pt)"
fields = ["eta", "phi", "pt"]
length = 3

[padded.pair]
collection = "good"
length = 1
fill = -9
[padded.pair.fields]
deta = "delta_eta(good, good[0])"
logpt = "log(good.pt)"
"""
RNG = np.random.default_rng(11)
COUNTS = RNG.poisson(1.5, 60)


def jets(counts=COUNTS, seed=4):
    rng = np.random.default_rng(seed)
    n = int(counts.sum())
    columns = {"pt": 20 + rng.exponential(30.0, n), "eta": rng.normal(0, 2, n), "phi": rng.uniform(-3, 3, n)}
    columns["mass"] = rng.exponential(5.0, n)
    return ak.zip({k: ak.unflatten(v.astype(np.float32), counts) for k, v in columns.items()})


EVENTS = ak.zip(
    {"Jet": jets(), "PuppiMET": ak.zip({"pt": RNG.exponential(40.0, 60).astype(np.float32)})}, depth_limit=1
)


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "features.toml"
    path.write_text(TOML)
    return FeatureSpec.load(path)


def test_toml_gives_columns_in_order(spec):
    columns = tuple(f"jet{i}_{f}" for i in range(3) for f in ("eta", "phi", "pt"))
    assert spec.features == ("n_jets", "lead_pt", "mjj", "met", *columns, "pair0_deta", "pair0_logpt")
    table = spec(EVENTS)
    assert tuple(table) == spec.features
    assert {(c.dtype.str[1:], c.shape, c.flags["C_CONTIGUOUS"]) for c in table.values()} == {
        ("f4", (60,), True)
    }
    assert spec.matrix(EVENTS).shape == (60, len(spec.features))
    np.testing.assert_array_equal(spec.matrix(EVENTS)[:, 1], table["lead_pt"])
    good = EVENTS.Jet[EVENTS.Jet.pt > 30]
    np.testing.assert_array_equal(table["n_jets"], ak.num(good))
    np.testing.assert_array_equal(table["lead_pt"], ak.fill_none(ak.firsts(good.pt), 0))
    np.testing.assert_array_equal(table["met"], EVENTS.PuppiMET.pt / 1000)


def test_padded_blocks_are_those_of_the_function_padded(spec):
    good = EVENTS.Jet[EVENTS.Jet.pt > 30]
    good = good[ak.argsort(good.pt, ascending=False)]
    columns = padded(good[:, :3], ("eta", "phi", "pt"), 3, "jet")
    table = spec(EVENTS)
    assert [name for name in table if name.startswith("jet")] == list(columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(table[name], column)
    np.testing.assert_array_equal(table["pair0_logpt"] == -9, ak.num(good) == 0)


def test_python_toml_and_dictionary_say_the_same(spec):
    document = json.loads(json.dumps(spec.to_dict()))
    again = FeatureSpec.from_dict(document)
    python = FeatureSpec(
        {**document["features"], "met": "  met.pt   / 1000\n"},
        fill={"lead_pt": 0, "mjj": -1},
        definitions=document["definitions"],
        padded=document["padded"],
    )
    assert again == python == spec
    assert again.digest == python.digest == spec.digest
    assert hash(again) == hash(spec)
    assert again.to_dict() == document
    assert len(spec.digest) == 64
    turned = {**document, "definitions": dict(reversed(document["definitions"].items()))}
    assert FeatureSpec.from_dict({**turned, "fill": {"mjj": -1, "lead_pt": 0}}).digest == spec.digest
    assert FeatureSpec({"a": "x"}).digest != FeatureSpec({"a": "y"}).digest
    assert FeatureSpec({"a": "x", "b": "y"}).digest != FeatureSpec({"b": "y", "a": "x"}).digest
    assert repr(FeatureSpec({"a": "x"})) == "FeatureSpec(1 columns: a)"
    assert "..." in repr(spec)


def test_it_pickles_as_its_text(spec):
    content = pickle.dumps(spec)
    assert len(content) < len(json.dumps(spec.to_dict())) + 300
    again = pickle.loads(content)  # noqa: S301
    assert again == spec
    np.testing.assert_array_equal(again.matrix(EVENTS), spec.matrix(EVENTS))
    with pytest.raises(AttributeError, match="does not change"):
        spec.anything = 1


def test_events_without_entries_give_columns_without_entries(spec):
    table = spec(EVENTS[:0])
    assert {(c.dtype.str[1:], c.shape) for c in table.values()} == {("f4", (0,))}
    assert spec.matrix(EVENTS[:0]).shape == (0, len(spec.features))
    assert FeatureSpec({"a": "sum(Jet.pt)"})({"Jet_pt": ak.Array([])[:, np.newaxis]})["a"].shape == (0,)


def test_a_systematic_is_a_changed_collection(spec):
    shifted = ak.with_field(EVENTS.Jet, EVENTS.Jet.pt * np.float32(1.5), "pt")
    changed = ak.with_field(EVENTS, shifted, "Jet")
    expected = ak.sum(shifted.pt > 30, axis=1)
    np.testing.assert_array_equal(spec(changed)["n_jets"], expected)
    fewer = ak.with_field(EVENTS, EVENTS.Jet[EVENTS.Jet.pt > 60], "Jet")
    np.testing.assert_array_equal(spec(fewer)["n_jets"], ak.sum(EVENTS.Jet.pt > 60, axis=1))


def test_branches(spec):
    everything = ("Jet_eta", "Jet_mass", "Jet_phi", "Jet_pt", "MET_pt", "PuppiMET_pt", "nJet")
    assert spec.branches() == everything
    assert spec.branches(["nJet", "Jet_pt", "Jet_x", "PuppiMET_pt", "nMuon"]) == (
        "Jet_pt",
        "PuppiMET_pt",
        "nJet",
    )
    assert (
        FeatureSpec({"a": "m_vis"}).branches()
        == FeatureSpec({"a": "m_vis"}).branches(["m_vis", "x"])
        == ("m_vis",)
    )
    count = FeatureSpec({"a": "count(Jet)"})
    assert count.branches() == count.branches(["nJet", "Jet_pt"]) == ("nJet",)
    assert count.branches(["Jet_eta", "Jet_pt"]) == ("Jet_pt",)
    assert count.branches(["Jet_phi", "Jet_eta"]) == ("Jet_eta",)
    assert count.branches(["other"]) == ()
    # MET.pt is a field of the event, whatever its unit.
    assert FeatureSpec({"a": "MET.pt / 1000 + sum(Jet.pt / 1000)"}).branches() == ("Jet_pt", "MET_pt", "nJet")
    assert FeatureSpec({"a": "mt(Muon[0], MissingET)"}).branches(
        ["Muon/Muon.PT", "Muon/Muon.Phi", "Muon_size", "MissingET/MissingET.MET", "MissingET/MissingET.Phi"]
    ) == ("MissingET.MET", "MissingET.Phi", "Muon.PT", "Muon.Phi", "Muon_size")
    # Made by the processor, not in the file.
    assert FeatureSpec({"a": "Lepton.pt[0] + first_of(Best.pt, MET.pt)"}).branches(["MET_pt"]) == ("MET_pt",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"featurs": {"a": "x"}},
            r"unknown key 'featurs'[\s\S]*top level[\s\S]*nearest valid keys: features",
        ),
        ({"features": {}}, r"has no features"),
        ({"features": {"a b": "x"}}, r"features.a b"),
        ({"features": ["a"]}, r"valid dictionary[\s\S]*features"),
        ("text", r"valid dictionary"),
        ({"features": {"a": 3}}, r"valid string[\s\S]*features.a"),
        ({"features": {"a": "x"}, "fill": {"b": 0}}, r"a fill value for 'b'[\s\S]*expected: a"),
        ({"features": {"a": "x"}, "fill": {"a": float("nan")}}, r"finite number[\s\S]*fill.a"),
        ({"features": {"a": "x"}, "version": 2}, r"version"),
        ({"padded": {"j": {"collection": "Jet", "fields": ["pt"], "lenght": 3}}}, r"length|lenght"),
        (
            {"padded": {"j": {"collection": "Jet", "fields": ["pt"], "length": 3, "fil": 1}}},
            r"'fil'[\s\S]*: fill",
        ),
        (
            {"padded": {"j": {"collection": "Jet", "fields": ["pt"], "length": 0}}},
            r"greater than or equal to 1",
        ),
        (
            {"padded": {"j": {"collection": "Jet", "fields": ["pt", "pt"], "length": 1}}},
            r"a field is named twice",
        ),
        ({"padded": {"j": {"collection": "Jet", "fields": [], "length": 1}}}, r"padded.j.fields"),
        ({"padded": {"j": {"collection": "Jet.pt", "fields": ["x"], "length": 1}}}, r"not a collection"),
        (
            {"features": {"j0_pt": "x"}, "padded": {"j": {"collection": "J", "fields": ["pt"], "length": 1}}},
            "two columns",
        ),
        (
            {"padded": {"j": {"collection": "J", "fields": [f"a{i}" for i in range(90)], "length": 200}}},
            r"18000 columns[\s\S]*at most 10000",
        ),
        ({"features": {f"a{i}": "x" for i in range(1001)}}, r"features"),
        ({"features": {"a": "x" * 1001}}, r"features.a"),
    ],
)
def test_wrong_documents(change, message):
    with pytest.raises(ConfigError, match=message):
        FeatureSpec.from_dict(change)


def test_wrong_files(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml does not exist"):
        FeatureSpec.load(tmp_path / "none.toml")
    path = tmp_path / "features.toml"
    path.write_text("features = [")
    with pytest.raises(ConfigError, match="not readable TOML"):
        FeatureSpec.load(path)
    path.write_text('[features]\na = "Jet.pt["\n')
    with pytest.raises(ConfigError, match=r"not an expression[\s\S]*features.toml: feature a"):
        FeatureSpec.load(path)
    path.write_text("#" * 2_000_001)
    with pytest.raises(ConfigError, match="too large"):
        FeatureSpec.load(path)
    nested = {"features": {}}
    for _ in range(3000):
        nested = {"features": nested}
    with pytest.raises(ConfigError):
        FeatureSpec.from_dict(nested)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "Jet.pt[0]",
            InputError,
            r"feature x is missing in 1 of 3 events[\s\S]*Jet.pt\[0\]; first in event 1 of the 3",
        ),
        ("max(Jet.pt)", InputError, r"feature x is missing in 1 of 3"),
        (
            "log(MET.pt)",
            InputError,
            r"feature x is -inf, not finite in float32, in 1 of 3 events[\s\S]*event 2",
        ),
        ("count(Jet) % count(Jet)", InputError, r"feature x is nan, not finite in float32, in 1 of 3 events"),
        ("Jet.pt", ConfigError, r"feature x is a list for each event[\s\S]*take one with \[0\]"),
        ("Jet", InputError, r"Jet is a collection with fields, not a number[\s\S]*Jet.pt"),
        ("Jet.pT[0]", InputError, r"the events have no Jet.pT[\s\S]*expected: Jet.pt"),
        ("Jets.pt[0]", InputError, r"the events have no Jets.pt[\s\S]*expected: Jet"),
        ("m_viz", InputError, r"the events have no m_viz[\s\S]*m_vis"),
        ("first_of(Tau.pt, Boson.pt)", InputError, r"none of the alternatives[\s\S]*one of Tau.pt, Boson.pt"),
        ("first_of(MET, PuppiMET).phi", InputError, r"none of the alternatives[\s\S]*MET.phi, PuppiMET.phi"),
        ("sum(Jet.pt + Muon.pt)", InputError, r"lists of different lengths, first in event 0: 2 and 1"),
        ("count(Jet[Jet.pt])", ConfigError, r"the condition in brackets is float64, not true or false"),
        ("m_vis > 1 & m_vis < 2", ConfigError, r"cannot compute[\s\S]*feature x[\s\S]*brackets"),
        ("label", InputError, r"label is not a number"),
        ("nested", InputError, r"nested is not a number[\s\S]*3 axes"),
        ("nested[0]", InputError, r"nested is not a number"),
    ],
)
def test_wrong_events(text, error, message):
    events = ak.Array(
        {
            "Jet": [[{"pt": 50.0, "eta": 1.0}, {"pt": 40.0, "eta": 1.0}], [], [{"pt": 1.0, "eta": 1.0}]],
            "Muon": [[{"pt": 50.0}], [], [{"pt": 1.0}]],
            "MET": [{"pt": 1.0}, {"pt": 2.0}, {"pt": 0.0}],
            "m_vis": [1.0, 2.0, 3.0],
            "label": ["a", "b", "c"],
            "nested": [[[1.0]], [], [[2.0], []]],
        }
    )
    with pytest.raises(error, match=message):
        FeatureSpec({"x": text})(events)


def test_wrong_events_of_padded_blocks():
    block = {"collection": "Jet", "fields": ["pt"], "length": 2}
    jets = FeatureSpec({}, padded={"jet": block})
    with pytest.raises(
        InputError, match=r"all fields of 1 objects of padded jet are 0[\s\S]*first in event 1"
    ):
        jets({"Jet_pt": [[1.0], [2.0, 0.0], [3.0, 4.0, 0.0]]})
    with pytest.raises(InputError, match=r"padded jet, pt is missing for 1 objects[\s\S]*first in event 1"):
        jets({"Jet_pt": ak.Array([[1.0], [2.0, None], [3.0, 4.0, None]])})
    with pytest.raises(
        InputError, match=r"padded jet, pt is 1e\+300, not finite in float32, in 1 of 2 events[\s\S]*event 1"
    ):
        jets({"Jet_pt": [[1.0], [1e300]]})
    two = FeatureSpec({}, padded={"jet": {**block, "fields": {"a": "Jet.pt", "b": "Muon.pt"}}})
    with pytest.raises(InputError, match=r"padded jet have lists of different lengths"):
        two({"Jet_pt": [[1.0], [2.0]], "Muon_pt": [[1.0], []]})


def test_wrong_containers():
    spec = FeatureSpec({"x": "count(Jet)"})
    for events in (np.zeros((3, 2)), [1, 2], ak.Array([1.0]), {}, None):
        with pytest.raises(InputError, match="have no named columns"):
            spec(events)
    with pytest.raises(
        InputError, match="b has 3 events, a has 2"
    ):  # columns that are not used do not matter
        FeatureSpec({"x": "a + b"})({"x": 3, "a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(InputError, match="not a whole number for each event"):
        spec({"nJet": [1.5, 2.0]})
    huge = np.array([2**64 - 1], dtype=np.uint64)
    with pytest.raises(InputError, match="63 bits do not hold"):
        FeatureSpec({"x": "event"})({"event": huge})


def test_the_message_names_the_file_of_a_chunk(monkeypatch):
    events = ak.Array({"a": [1.0, np.nan]})
    metadata = {"filename": "file.root", "dataset": "tt", "entrystart": 10, "entrystop": 12}
    monkeypatch.setattr(ak.Array, "metadata", metadata, raising=False)
    with pytest.raises(
        InputError, match=r"event 1 of the 2 given \(file.root, tt, chunk of entries 10 to 12\)"
    ):
        FeatureSpec({"x": "a"})(events)


def test_flat_columns_lists_or_numbers():
    spec = FeatureSpec(
        {"pt": "Tau[Tau.pt > 20].pt[0]", "second": "Tau.pt[1]", "n": "count(Tau)"},
        fill={"pt": 0, "second": 0},
    )
    numbers = spec({"Tau_pt": np.array([30.0, 10.0])})
    lists = spec({"Tau_pt": ak.Array([[30.0], [10.0]]), "nTau": np.array([1, 1], dtype=np.uint32)})
    for table in (numbers, lists):
        assert {k: v.tolist() for k, v in table.items()} == {"pt": [30, 0], "second": [0, 0], "n": [1, 1]}


def test_missing_lists_and_objects():
    jets = ak.Array([[{"pt": 50.0}], None, [], [{"pt": None}, {"pt": 30.0}]])
    spec = FeatureSpec(
        {
            "n": "count(Jet)",
            "n_pt": "count(Jet.pt)",
            "sum": "sum(Jet.pt)",
            "pt": "Jet.pt[0]",
            "fast": "count(Jet[Jet.pt > 20])",
        },
        fill={"pt": -1},
    )
    table = spec(ak.zip({"Jet": jets}, depth_limit=1))
    assert {k: v.tolist() for k, v in table.items()} == {
        "n": [1, 0, 0, 2],
        "n_pt": [1, 0, 0, 1],
        "sum": [50, 0, 0, 30],
        "pt": [50, -1, -1, -1],
        "fast": [1, 0, 0, 1],
    }
    same = spec({"Jet_pt": jets.pt})  # an object is there even if its momentum is not
    assert {k: v.tolist() for k, v in same.items()} == {k: v.tolist() for k, v in table.items()}
    one = FeatureSpec({"n": "count(lead)", "pt": "lead.pt"}, fill={"pt": -1})
    first = ak.zip({"lead": ak.firsts(ak.fill_none(jets, [], axis=0))}, depth_limit=1)
    assert one(first)["n"].tolist() == [1, 0, 0, 1]
    assert one(first)["pt"].tolist() == [50, -1, -1, -1]


def test_a_data_frame_is_flat_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"name": ["u", "v"], "a": [1.0, 2.0]})
    assert FeatureSpec({"x": "2 * a"})(frame)["x"].tolist() == [2, 4]


def test_the_import_is_light():
    heavy = "{'torch', 'coffea', 'vector', 'numba'} & set(sys.modules)"
    code = f"import sys, neyman.events.features; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

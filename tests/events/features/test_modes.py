"""One specification, one set of bits: NanoEvents eager and virtual, records, flat ntuples, dictionaries, chunks."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from functools import cache

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from neyman.events.features import FeatureSpec

FEATURES = {
    "n_jets": "count(good)",
    "n_all": "count(Jet)",
    "ht": "sum(good.pt)",
    "lead": "good[0].pt",
    "second_eta": "good.eta[1]",
    "last_phi": "Jet.phi[-1]",
    "mjj": "mass(good[0], good[1])",
    "dr": "delta_r(lepton, good[0])",
    "mt": "mt(lepton, met)",
    "lepton_pt": "lepton.pt",
    "far": "min(abs(delta_phi(good, met)))",
    "heavy": "max(good.mass / good.pt)",
    "total": "combine(lepton, Jet[0]).eta",
    "met": "met.pt",
}
SPEC = FeatureSpec(
    FEATURES,
    fill=dict.fromkeys(set(FEATURES) - {"n_jets", "n_all", "ht", "met"}, -1),
    definitions={
        "good": "Jet[Jet.pt > 30 and abs(Jet.eta) < 2.4]",
        "leptons": "concatenate(Electron, Muon)",
        "lepton": "sort(leptons, leptons.pt)[0]",
        "met": "first_of(MET, PuppiMET)",
    },
    padded={"jet": {"collection": "sort(good, good.pt)", "fields": ["pt", "eta", "phi"], "length": 4}},
)
NANO = ["nano_dy", "nano_dimuon", "nano_tt_v12", "nano_tt_v15", "nanoAOD_2015_CMS_Open_Data_ttbar"]


def same(first, second):
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype == np.float32
        np.testing.assert_array_equal(first[name].view(np.uint32), second[name].view(np.uint32), err_msg=name)


@pytest.fixture(scope="module")
def trees():
    """Opens each file and its tree once: with thousands of branches it takes a second."""
    with ExitStack() as stack:

        def opened(path, tree="Events"):
            directory = stack.enter_context(uproot.open({str(path): None}))
            return directory, directory[tree]

        yield cache(opened)


def events_of(directory, schema, only=None, tree="Events", **options):
    """NanoEvents of a file; with the branches `only`, which spares the reading of thousands in eager mode."""
    pytest.importorskip("coffea")
    from coffea.nanoevents import NanoEventsFactory

    from neyman.events.processing.schema import schema_class

    if only is not None:
        options["iteritems_options"] = {"filter_name": list(only)}
    with warnings.catch_warnings():
        if schema == "physlite":
            warnings.filterwarnings("ignore", message="Skipping")
        return NanoEventsFactory.from_root(
            directory, treepath=tree, schemaclass=schema_class(schema), **options
        ).events()


def used(tree):
    """The branches that are read, and some more."""
    names = tree.keys()
    more = [
        n for n in names if n.startswith(("Jet_", "Muon_m", "MET_", "PuppiMET_", "PV_")) and "Idx" not in n
    ]
    branches = SPEC.branches(names)
    return branches, {*more, *branches}


@pytest.fixture(scope="module")
def v12(shared_data, trees):
    file, tree = trees(shared_data / "nanoaod" / "nano_tt_v12.root")
    return file, *used(tree)


def columns(tree, branches):
    return {name: tree[name].array() for name in branches}


@pytest.mark.parametrize("name", NANO)
def test_nanoaod_in_every_mode_and_exactly_the_branches_that_are_read(shared_data, trees, name):
    file, tree = trees(shared_data / "nanoaod" / f"{name}.root")
    branches, more = used(tree)
    assert {"MET_pt", "PuppiMET_pt"} & set(branches) == {"PuppiMET_pt" if "v15" in name else "MET_pt"}
    eager = SPEC(events_of(file, "nanoaod", only=branches, mode="eager"))
    assert eager["n_jets"].sum() > 0
    log = []
    events = events_of(file, "nanoaod", only=more, mode="virtual", access_log=log)
    log.clear()
    same(SPEC(events), eager)
    assert {access.branch for access in log} == set(branches)
    same(SPEC(columns(tree, branches)), eager)
    same(SPEC(ak.zip(columns(tree, branches), depth_limit=1)), eager)
    assert set(branches) <= set(SPEC.branches())


def test_coffea_traces_the_same_branches(v12):
    file, branches, more = v12
    events = events_of(file, "nanoaod", only=more, mode="virtual")
    from coffea.nanoevents.trace import trace_with_length_one_array, trace_with_length_zero_array

    assert trace_with_length_zero_array(SPEC, events, throw=True) == set(branches)
    assert trace_with_length_one_array(SPEC, events, throw=True) == set(branches)


def test_preload_reads_everything_in_one_go(v12, monkeypatch):
    file, branches, more = v12
    expected = SPEC(events_of(file, "nanoaod", only=more, mode="virtual"))
    events = events_of(file, "nanoaod", only=more, mode="virtual", preload=branches)
    read = []
    original = uproot.TBranch.array
    monkeypatch.setattr(
        uproot.TBranch, "array", lambda self, *a, **k: (read.append(self.name), original(self, *a, **k))[1]
    )
    same(SPEC(events), expected)
    assert read == []


def test_a_filtered_or_changed_nano_event_is_read_like_a_copy(v12):
    file, _, more = v12
    events = events_of(file, "nanoaod", only=more, mode="virtual")
    some = np.arange(len(events)) % 3 == 1
    all_of_them = SPEC(events)
    same(SPEC(events[some]), {name: column[some] for name, column in all_of_them.items()})
    backwards = SPEC(events[::-1])
    same(backwards, {name: column[::-1] for name, column in all_of_them.items()})
    up = ak.with_field(events.Jet, events.Jet.pt * np.float32(1.1), "pt")
    shifted = ak.with_field(events, up, "Jet")
    assert (SPEC(shifted)["ht"] >= all_of_them["ht"]).all()
    assert (SPEC(shifted)["ht"] > all_of_them["ht"]).any()


def test_against_awkward_and_the_vector_behaviours_of_coffea(v12):
    file, _, more = v12
    events = events_of(file, "nanoaod", only=more, mode="eager")
    table = SPEC(events)
    good = events.Jet[(events.Jet.pt > 30) & (abs(events.Jet.eta) < 2.4)]
    np.testing.assert_array_equal(table["n_jets"], ak.num(good))
    np.testing.assert_allclose(table["ht"], ak.sum(good.pt, axis=1), rtol=1e-6)
    two = ak.pad_none(good, 2)
    mass = (two[:, 0] + two[:, 1]).mass
    np.testing.assert_allclose(table["mjj"], ak.fill_none(mass, -1), rtol=1e-4)
    far = ak.fill_none(ak.min(abs(good.delta_phi(events.MET)), axis=1), -1)
    np.testing.assert_allclose(table["far"], far, rtol=1e-5, atol=1e-6)


def test_physlite_in_mev(shared_data, trees):
    file, tree = trees(shared_data / "nanoaod" / "PHYSLITE_example.root", "CollectionTree")
    spec = FeatureSpec(
        {
            "lead": "Jets.pt[0] / 1000",
            "n": "count(Jets[Jets.pt / 1000 > 30])",
            "mjj": "mass(Jets[0], Jets[1]) / 1000",
        },
        fill={"lead": 0, "mjj": 0},
    )
    names = tree.keys()
    branches = spec.branches(names)
    assert branches == tuple(f"AnalysisJetsAuxDyn.{field}" for field in ("eta", "m", "phi", "pt"))
    eager = spec(events_of(file, "physlite", branches, "CollectionTree", mode="eager"))
    log = []
    more = [name for name in names if name.startswith("AnalysisJetsAuxDyn.") and "Link" not in name]
    options = {"mode": "virtual", "access_log": log, "preload": branches}
    events = events_of(file, "physlite", more, "CollectionTree", **options)
    log.clear()
    same(spec(events), eager)
    assert {access.branch for access in log} == set(branches)
    same(spec(columns(tree, branches)), eager)
    assert 20 < eager["lead"].mean() < 500
    jets = events.Jets[:, :2]
    np.testing.assert_allclose(eager["mjj"], (jets[:, 0] + jets[:, 1]).mass / 1000, rtol=1e-3)


def test_delphes(tmp_path):
    rng = np.random.default_rng(8)
    counts = rng.poisson(2, 40)
    one = np.ones(40, dtype=int)

    def objects(counts, *fields):
        flat = {
            f: rng.exponential(30, counts.sum()).astype(np.float32) % (3 if f in ("Eta", "Phi") else 500)
            for f in fields
        }
        return ak.zip({f: ak.unflatten(column, counts) for f, column in flat.items()})

    content = {
        "Jet": objects(counts, "PT", "Eta", "Phi", "Mass"),
        "Electron": objects(counts, "PT", "Eta", "Phi"),
        "MissingET": objects(one, "MET", "Eta", "Phi"),
    }
    path = tmp_path / "delphes.root"
    with uproot.recreate(path) as file:
        file.mktree(
            "Delphes",
            {name: array.layout.form.type for name, array in content.items()},
            counter_name=lambda name: f"{name}_size",
            field_name=lambda outer, inner: f"{outer}/{outer}.{inner}" if outer else inner,
        )
        file["Delphes"].extend(content)
    spec = FeatureSpec(
        {
            "pt": "Jet.pt[0]",
            "native": "Jet[Jet.PT > 20].PT[0]",
            "mjj": "mass(Jet[0], Jet[1])",
            "mt": "mt(Electron[0], MissingET[0])",
            "met": "MissingET.MET[0]",
            "n": "count(Jet)",
        },
        fill={"pt": 0, "native": 0, "mjj": 0, "mt": 0},
    )
    with uproot.open({str(path): None}) as file:
        eager = spec(events_of(file, "delphes", tree="Delphes", mode="eager"))
        same(spec(events_of(file, "delphes", tree="Delphes", mode="virtual")), eager)
        tree = file["Delphes"]
        keys = tree.keys()
        names = spec.branches(keys)
        full = {key.rpartition("/")[2]: key for key in keys}
        flat = {name: tree[full[name]].array() for name in names}
    assert names == tuple(
        sorted(
            [f"Jet.{f}" for f in ("PT", "Eta", "Phi", "Mass")]
            + ["Electron.PT", "Electron.Phi", "Electron_size"]
            + ["Jet_size", "MissingET.MET", "MissingET.Phi", "MissingET_size"]
        )
    )
    same(spec(flat), eager)
    np.testing.assert_array_equal(eager["met"], ak.flatten(content["MissingET"].MET))


def test_flat_trees(shared_data, trees):
    files = sorted((shared_data / "cms_open_data_htautau").glob("*.root"))
    path = next(file for file in files if file.name != "histograms.root")
    spec = FeatureSpec(
        {
            "mt": "mt(muon, met)",
            "vis": "mass(muon, tau)",
            "pt_vis": "pt(muon, tau)",
            "cut": "iso_1 < 0.1 and mt_1 < 30",
        },
        definitions={
            "muon": "particle(pt_1, eta_1, phi_1, m_1)",
            "tau": "particle(pt_2, eta_2, phi_2, m_2)",
            "met": "particle(pt_met, 0, phi_met, 0)",
        },
    )
    file, tree = trees(path)
    branches = spec.branches(tree.keys())
    given = tree.arrays(branches, entry_stop=300)
    own = tree.arrays(["mt_1", "m_vis", "pt_vis"], entry_stop=300, library="np")
    assert branches == spec.branches()
    table = spec(given)
    np.testing.assert_allclose(table["mt"], own["mt_1"], rtol=2e-3, atol=1e-2)
    np.testing.assert_allclose(table["vis"], own["m_vis"], rtol=1e-4)
    np.testing.assert_allclose(table["pt_vis"], own["pt_vis"], rtol=1e-4, atol=1e-3)
    same(spec({name: given[name].to_numpy() for name in branches}), table)
    for mode in ("eager", "virtual"):
        same(spec(events_of(file, "flat", mode=mode, entry_stop=300)), table)


@st.composite
def event_lists(draw):
    n = draw(st.integers(0, 6))
    number = st.floats(0.0, 120.0, width=32)
    angle = st.floats(-3.0, 3.0, width=32)
    objects = st.lists(st.tuples(number, angle, angle, number), max_size=4)
    each = st.lists(objects, min_size=n, max_size=n)
    met = draw(st.lists(st.tuples(number, angle), min_size=n, max_size=n))
    return draw(each), draw(each), draw(each), met


def jagged(lists, index):
    counts = [len(one) for one in lists]
    flat = np.array([particle[index] for one in lists for particle in one], dtype=np.float32)
    return ak.unflatten(flat, np.array(counts, dtype=np.int64))


PLAIN = FeatureSpec(
    {
        k: v for k, v in FEATURES.items() if k not in ("heavy", "total")
    },  # a transverse momentum of 0 is infinite there
    fill={k: -1 for k in SPEC.to_dict()["fill"] if k not in ("heavy", "total")},
    definitions=SPEC.to_dict()["definitions"],
    padded=SPEC.to_dict()["padded"],
)


@settings(max_examples=15)
@given(event_lists(), st.data())
def test_any_events_in_any_container(lists, data):
    *collections, met = lists
    names = ("Jet", "Electron", "Muon")
    fields = ("pt", "eta", "phi", "mass")
    n = len(met)
    flat = {
        f"{name}_{f}": jagged(c, i)
        for name, c in zip(names, collections, strict=True)
        for i, f in enumerate(fields)
    }
    flat |= {f"MET_{f}": np.array([m[i] for m in met], dtype=np.float32) for i, f in enumerate(("pt", "phi"))}
    nested = {name: ak.zip({f: flat[f"{name}_{f}"] for f in fields}) for name in names}
    nested["MET"] = ak.zip({f: ak.Array(flat[f"MET_{f}"]) for f in ("pt", "phi")})
    events = ak.zip(nested, depth_limit=1)
    expected = PLAIN(flat)
    same(PLAIN(events), expected)
    same(PLAIN(ak.zip({name: ak.Array(column) for name, column in flat.items()}, depth_limit=1)), expected)
    counted = {f"n{name}": ak.num(flat[f"{name}_pt"]) for name in names}
    same(PLAIN(flat | counted), expected)
    # Masked arrays whose values are all there, and lists in another order in memory.
    masked = {name: ak.mask(column, np.ones(n, dtype=bool)) for name, column in flat.items()}
    same(PLAIN(masked), expected)
    mirror = np.arange(n)[::-1]
    same(PLAIN(events[mirror][mirror]), expected)
    # In chunks, some of them without events.
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    parts = [PLAIN(events[a:b]) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    same({name: np.concatenate([part[name] for part in parts]) for name in expected}, expected)
    # Events that are masked away have no objects.
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    lost = {name: ak.mask(column, keep) for name, column in flat.items() if not name.startswith("MET")}
    gone = PLAIN(lost | {name: column for name, column in flat.items() if name.startswith("MET")})
    empty = {
        name: ak.where(keep, column, column[:, :0]) for name, column in flat.items() if "MET" not in name
    }
    same(gone, PLAIN({name: empty.get(name, column) for name, column in flat.items()}))

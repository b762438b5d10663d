"""HistProcessor against numpy, its layouts, and how it fails."""

from __future__ import annotations

import awkward as ak
import hist
import numpy as np
import pytest
import uproot
from correctionlib import schemav2 as schema

from neyman.errors import ConfigError, InputError
from neyman.events import process_files
from neyman.events.processing.corrections import CorrectionWeight
from neyman.events.processing.exact import sorted_categories
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.layout import LAYOUTS, arranged
from neyman.naming import Naming
from neyman.workspace.accumulators import from_accumulator

NN = hist.axis.Regular(10, -30, 0, name="nn")
JETS = hist.axis.Integer(0, 4, name="n_jets")
MET = hist.axis.Variable([0, 20, 50, 100], name="met")


@pytest.fixture(scope="module")
def files(nano, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {"a": nano(folder / "a.root", 700, 1), "b": [nano(folder / "b.root", 500, 2)]}


@pytest.fixture
def make(spec, scorer, function):
    def processor(**changes):
        options = {
            "features": spec,
            "scorer": scorer,
            "axes": (NN, (MET, JETS)),
            "selection": "n_jets >= 1",
            "channels": {"SR": "nn > -10", "CR": "nn <= -10 and met > 10"},
            "weights": function("weights"),
            "objects": function("objects"),
        }
        return HistProcessor(**(options | changes))

    return processor


def by_hand(path, scale, scorer):
    """Columns and weights of the events that pass, from numpy."""
    tree = {name: branch.array() for name, branch in uproot.open(path)["Events"].items()}
    jets = tree["Jet_pt"] * np.float32(scale)
    picked = jets[jets > 30]
    columns = {
        "tau_pt": ak.to_numpy(ak.fill_none(ak.firsts(tree["Tau_pt"]), 0.0)),
        "met": ak.to_numpy(tree["MET_pt"]),
        "n_jets": ak.to_numpy(ak.num(picked)).astype(np.float32),
        "ht": ak.to_numpy(ak.sum(ak.values_astype(picked, np.float64), axis=1)).astype(np.float32),
    }
    mask = columns["n_jets"] >= 1
    columns = {name: column[mask] for name, column in columns.items()}
    columns["nn"] = scorer(columns)
    total = ak.to_numpy(ak.sum(jets, axis=1)).astype(np.float64)
    gen = ak.to_numpy(tree["genWeight"]).astype(np.float64)
    weights = {"nominal": gen * (1 + total / 3000)}
    weights |= {"btagUp": gen * (1 + total / 2000), "btagDown": gen * (1 + total / 4000)}
    return columns, {name: weight[mask] for name, weight in weights.items()}


def test_histograms_are_what_numpy_gives(files, make, scorer):
    result = process_files(files, make(), chunk_size=250, metadata={"a": {"process": "ttbar"}})
    assert {name: of["process"] for name, of in result.items()} == {"a": "ttbar", "b": "b"}
    a = result["a"]
    assert set(a) == {"process", "n_events", "sumw", "cutflow", "hists"}
    assert a["n_events"] == 700
    gen = uproot.open(files["a"])["Events"]["genWeight"].array(library="np").astype(np.float64)
    assert a["sumw"] == pytest.approx(gen.sum(), rel=1e-12)
    assert list(a["hists"]) == ["nn", "met-n_jets"]
    h = a["hists"]["nn"]
    assert h.axes.name == ("channel", "variation", "nn")
    assert list(h.axes["variation"]) == ["btagDown", "btagUp", "jesDown", "jesUp", "nominal"]
    for shift, scale in (("nominal", 1.0), ("jesUp", 1.1), ("jesDown", 0.9)):
        columns, weights = by_hand(files["a"], scale, scorer)
        channels = {"SR": columns["nn"] > -10, "CR": (columns["nn"] <= -10) & (columns["met"] > 10)}
        for name, weight in weights.items() if shift == "nominal" else {shift: weights["nominal"]}.items():
            for channel, mask in channels.items():
                one = hist.Hist(NN, storage=hist.storage.Weight())
                one.fill(columns["nn"][mask], weight=weight[mask])
                filled = h[{"channel": channel, "variation": name}]
                np.testing.assert_allclose(filled.values(flow=True), one.values(flow=True), rtol=1e-6)
                np.testing.assert_allclose(filled.variances(flow=True), one.variances(flow=True), rtol=1e-6)
                two = hist.Hist(MET, JETS, storage=hist.storage.Weight())
                n_jets = columns["n_jets"][mask].astype(int)
                two.fill(columns["met"][mask], n_jets, weight=weight[mask])
                filled = a["hists"]["met-n_jets"][{"channel": channel, "variation": name}]
                np.testing.assert_allclose(filled.values(flow=True), two.values(flow=True), rtol=1e-6)
        if shift == "nominal":
            assert a["cutflow"]["selection"]["n"] == len(columns["met"])
            assert a["cutflow"]["selection"]["sumw"] == pytest.approx(weights["nominal"].sum())
            assert a["cutflow"]["SR"]["n"] == channels["SR"].sum()


def test_negative_weights_and_data_without_weights(nano, make, tmp_path):
    signs = np.where(np.arange(300) % 3, 1.0, -1.0).astype(np.float32)
    paths = {
        "mc": nano(tmp_path / "mc.root", 300, 1, genWeight=signs),
        "data": nano(tmp_path / "data.root", 300, 1, genWeight=None),
    }
    result = process_files(paths, make(scorer=None, weights=None, axes=(MET,), channels={"all": None}))
    met = uproot.open(paths["data"])["Events"]["MET_pt"].array(library="np")
    jets = uproot.open(paths["data"])["Events"]["Jet_pt"].array()
    for dataset, weight in (("mc", signs), ("data", np.ones(300))):
        assert result[dataset]["sumw"] == weight.sum()
        for name, scale in (("nominal", 1.0), ("jesUp", 1.1), ("jesDown", 0.9)):
            mask = ak.to_numpy(ak.any(jets * np.float32(scale) > 30, axis=1))
            one = hist.Hist(MET, storage=hist.storage.Weight()).fill(met[mask], weight=weight[mask])
            filled = result[dataset]["hists"]["met"][{"channel": "all", "variation": name}]
            np.testing.assert_array_equal(filled.view(flow=True), one.view(flow=True))


def test_small_chunks_and_empty_ones_change_nothing(files, make):
    one, many = (process_files(files, make(), chunk_size=size) for size in (1000, 40))
    for dataset in files:
        for variable, h in one[dataset]["hists"].items():
            other = many[dataset]["hists"][variable]
            assert [list(axis) for axis in h.axes[:2]] == [list(axis) for axis in other.axes[:2]]
            np.testing.assert_allclose(h.values(flow=True), other.values(flow=True), rtol=1e-12)
    nothing = process_files(files, make(selection="n_jets > 99"), chunk_size=300)["a"]
    assert nothing["cutflow"]["selection"] == {"n": 0, "sumw": 0.0}
    assert nothing["hists"]["nn"].sum(flow=True).value == 0.0


def test_layouts(files, make):
    plain = process_files(files, make(), metadata={"a": {"process": "ttbar"}})
    expected = {
        "columnflow": ("category", "process", "shift", "nn"),
        "topcoffea": ("process", "channel", "systematic", "nn"),
        "agc": ("observable", "region", "process", "variation"),
    }
    reference = plain["a"]["hists"]["nn"]
    for layout, names in expected.items():
        out = process_files(files, make(layout=layout, axes=(NN,)), metadata={"a": {"process": "ttbar"}})
        h = out["hist" if layout == "agc" else "nn"]
        assert h.axes.name == names
        naming = Naming.of(layout)
        region = {"columnflow": "category", "agc": "region"}.get(layout, "channel")
        where = {naming.axis: naming.varied("jes")[0], "process": "ttbar", region: "SR"}
        ours = reference[{"channel": "SR", "variation": "jesUp"}]
        np.testing.assert_array_equal(h[where].view(flow=True), ours.view(flow=True))
        assert sorted_categories(h) == h
        assert set(h.axes["process"]) == {"b", "ttbar"}
    assert out["nevents"] == {"a": 700, "b": 500}
    pocket = arranged(plain, "pocketcoffea")
    h = pocket["variables"]["nn"]["ttbar"]["a"]
    assert h.axes.name == ("cat", "variation", "nn")
    np.testing.assert_array_equal(h.view(flow=True), reference.view(flow=True))
    assert pocket["cutflow"]["initial"] == {"a": 700, "b": 500}
    assert pocket["cutflow"]["SR"]["a"] == {"ttbar": plain["a"]["cutflow"]["SR"]["n"]}
    assert pocket["sum_genweights"]["b"] == plain["b"]["sumw"]
    with pytest.raises(ConfigError, match=r"one observable a histogram\n  where: met, n_jets"):
        arranged(plain, "agc")
    with pytest.raises(ConfigError, match=r"unknown layout 'colunmflow'[\s\S]*columnflow"):
        arranged(plain, "colunmflow")


def test_every_layout_is_read_into_the_same_templates(files, make):
    metadata = {"a": {"process": "ttbar"}, "b": {"process": "wjets"}}
    plain = process_files(files, make(axes=(NN,)), metadata=metadata)
    expected = from_accumulator(plain, "datasets", variable="nn")
    assert set(expected.channels) == {"SR", "CR"}
    for layout in LAYOUTS:
        variable = "observable" if layout == "agc" else "nn"
        found = from_accumulator(arranged(plain, layout), layout, variable=variable)
        up, default = found.naming.varied("btag")[0], Naming().varied("btag")[0]
        for channel, samples in expected.channels.items():
            assert set(found.channels[channel]) == set(samples) == {"ttbar", "wjets"}
            for sample, h in samples.items():
                one = found.channels[channel][sample][{found.naming.axis: up}]
                np.testing.assert_array_equal(one.values(), h[{"variation": default}].values())


def test_processes_and_variations_that_only_some_datasets_have(files, make):
    metadata = {"a": {"process": "ttbar"}, "b": {"process": "ttbar", "variation": "ME_var"}}
    out = process_files(files, make(layout="agc", axes=(NN,)), metadata=metadata)["hist"]
    assert list(out.axes["variation"]) == ["ME_var", "btag_down", "btag_up", "jes_down", "jes_up", "nominal"]
    assert list(out.axes["process"]) == ["ttbar"]
    given = {name: options for name, options in metadata.items() if name == "b"}
    varied = process_files({"b": files["b"]}, make(axes=(NN,)), metadata=given)["b"]["hists"]["nn"]
    assert list(varied.axes["variation"]) == ["ME_var"]
    alone = process_files({"b": files["b"]}, make(axes=(NN,)))["b"]["hists"]["nn"]
    np.testing.assert_array_equal(
        out[{"variation": "ME_var", "process": 0}].view(flow=True).T,
        alone[{"variation": "nominal"}].view(flow=True),
    )


def test_weights_by_column_and_from_corrections(files, make, spec, tmp_path):
    path = tmp_path / "sf.json"
    content = [
        schema.CategoryItem(
            key=key,
            value=schema.Binning(
                nodetype="binning", input="x", edges=[0, 50, 1e9], content=[0.9 * f, 1.1 * f], flow="error"
            ),
        )
        for key, f in (("nominal", 1.0), ("up", 1.2), ("down", 0.8))
    ]
    correction = schema.Correction(
        name="sf", version=1,
        inputs=[schema.Variable(name="x", type="real"), schema.Variable(name="syst", type="string")],
        output=schema.Variable(name="w", type="real"),
        data=schema.Category(nodetype="category", input="syst", content=content),
    )  # fmt: skip
    path.write_text(schema.CorrectionSet(schema_version=2, corrections=[correction]).model_dump_json())
    weight = CorrectionWeight("sf", path, "sf", {"x": "met"}, systematic="syst", up="up", down="down")
    plain = make(weights="genWeight", objects=None, scorer=None, channels={"all": None}, axes=(MET,))
    base = process_files(files, plain)["a"]["hists"]["met"][{"channel": "all"}]
    corrected = HistProcessor(
        features=spec, axes=(MET,), selection="n_jets >= 1", corrections=(weight,), channels={"all": None}
    )
    h = process_files(files, corrected)["a"]["hists"]["met"][{"channel": "all"}]
    nominal = base[{"variation": "nominal"}].values(flow=True) * [1, 0.9, 0.9, 1.1, 1.1]
    for name, factor in (("nominal", 1.0), ("sfUp", 1.2), ("sfDown", 0.8)):
        np.testing.assert_allclose(h[{"variation": name}].values(flow=True), factor * nominal, rtol=1e-6)


def test_a_scorer_with_features_of_its_own(files, make, model, spec):
    from neyman.events import Scorer

    own = Scorer.load(model, backend="torch", features=spec)
    options = {"selection": None, "channels": {"all": None}, "axes": (NN,)}
    alone = process_files(files, make(features=None, scorer=own, **options))
    both = process_files(files, make(**options))
    assert alone["a"]["hists"]["nn"] == both["a"]["hists"]["nn"]
    assert set(make(features=None, scorer=own, **options).branches()) == set(make().branches())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ()}, "no histogram to fill"),
        ({"axes": (hist.axis.Regular(2, 0, 1),)}, r"an axis is named ''[\s\S]*the name of a column"),
        ({"axes": (hist.axis.Regular(2, 0, 1, name="variation"),)}, "an axis is named 'variation'"),
        ({"axes": (MET, MET)}, r"same variables\n  where: met, met"),
        ({"channels": {"S R": None}}, "channel name 'S R' is not usable"),
        ({"channels": {"SR": "met >"}}, "not an expression"),
        ({"layout": "acg"}, "unknown layout 'acg'"),
        ({"naming": "acg"}, "no naming is known as 'acg'"),
        ({"features": None, "scorer": None}, "there are no columns"),
    ],
)
def test_settings_are_checked(make, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_what_fails_in_a_chunk_says_where(files, make, function):
    def broken(events):
        weight = np.ones(len(events))
        weight[31] = np.nan
        return weight

    def twice(events):
        return {"jesUp": events, "jes_up": events}

    def fewer(events):
        return {"jesUp": events[:10]}

    whole = {"selection": None, "objects": None}
    for changes, kind, message in (
        (
            {"weights": broken, **whole},
            InputError,
            r"weight is nan in event 31;[\s\S]*a.root, entries 0 to 700 \(a\), variation nominal",
        ),
        ({"weights": "wgt", **whole}, ConfigError, r"no column 'wgt' for the weight"),
        ({"weights": lambda e: {"btagUp": np.ones(len(e))}}, ConfigError, "the weights have no nominal"),
        ({"objects": twice}, ConfigError, "variation 'jesUp' comes twice"),
        (
            {"objects": fewer},
            ConfigError,
            r"'jesUp' has 10 of 700 events[\s\S]*selection is applied afterwards",
        ),
        ({"selection": "met"}, ConfigError, "the selection gives float32, not true or false"),
        ({"channels": {"SR": "mett > 3"}}, ConfigError, r"unknown name 'mett'[\s\S]*met"),
        (
            {"axes": (hist.axis.Regular(2, 0, 1, name="nnn"),)},
            ConfigError,
            r"no feature or score 'nnn'[\s\S]*nn",
        ),
    ):
        with pytest.raises(kind, match=message):
            process_files({"a": files["a"]}, make(**changes))
    with pytest.raises(ConfigError, match="the features are a function"):
        make(features=lambda events: {}).branches()
    made, metadata = make(), ({"process": "x"}, {"process": "y"})
    outputs = [process_files({"a": files["a"]}, made, metadata={"a": m}) for m in metadata]
    assert [output["a"]["process"] for output in outputs] == ["x", "y"]
    both = {"a": outputs[0]["a"] | {"process": {"x", "y"}}}
    with pytest.raises(ConfigError, match="dataset 'a' has processes x, y"):
        make().postprocess(both)
    with pytest.raises(ConfigError, match=r"metadata are given of dataset 'c'[\s\S]*a, b"):
        process_files(files, make(), metadata={"c": {}})

"""fill_systematics against filling by hand, in every naming; correctionlib weights; every way to go wrong."""

from __future__ import annotations

import gzip
import pickle

import awkward as ak
import hist
import numpy as np
import pytest
from coffea.analysis_tools import Weights
from correctionlib import schemav2 as schema

from neyman.errors import ConfigError, InputError
from neyman.events.processing import corrections
from neyman.events.processing.corrections import CorrectionWeight
from neyman.events.processing.systematics import (
    Shifted,
    category,
    fill_systematics,
    systematic_hist,
    weight_variations,
)
from neyman.naming import Naming

N = 200
X = np.random.default_rng(1).random(N)
AXIS = hist.axis.Regular(5, 0, 1, name="x")


@pytest.fixture
def weights() -> Weights:
    made = Weights(N)
    made.add("gen", np.linspace(0.5, 1.5, N))
    made.add("pu", np.ones(N), np.full(N, 1.2), np.full(N, 0.7))
    made.add("id", np.full(N, 0.9), np.full(N, 0.95))  # down is mirrored by coffea
    return made


@pytest.mark.parametrize("framework", ["pocketcoffea", "topcoffea", "columnflow", "agc"])
def test_weights_and_objects_in_the_style_of_each_framework(weights, framework):
    naming = Naming.of(framework)
    h = systematic_hist(AXIS, naming=framework)
    objects = {"jesUp": Shifted(X * 1.1), "jes_down": (X[:50] * 0.9, np.full(50, 2.0))}
    fill_systematics(h, X, weights, objects=objects, naming=framework)
    up, down = naming.varied("jes")
    expected = {
        naming.nominal: (X, weights.weight()),
        up: (X * 1.1, weights.weight()),
        down: (X[:50] * 0.9, np.full(50, 2.0)),
    }
    for parameter in ("pu", "id"):
        for name, theirs in zip(naming.varied(parameter), ("Up", "Down"), strict=True):
            expected[name] = (X, weights.weight(parameter + theirs))
    assert list(h.axes[naming.axis]) == sorted(expected)
    for name, (values, weight) in expected.items():
        one = hist.Hist(AXIS, storage=hist.storage.Weight()).fill(values, weight=weight)
        np.testing.assert_array_equal(h[{naming.axis: name}].view(flow=True), one.view(flow=True))


def test_categories_values_as_arrays_and_no_weights():
    h = systematic_hist(AXIS, hist.axis.Integer(0, 3, name="n"), categories=("process", "region"))
    values = {"process": "ttbar", "region": "4j1b", "x": ak.Array(X), "n": np.float32([2] * N)}
    fill_systematics(h, values)
    fill_systematics(h, values | {"region": "4j2b"}, {"nominal": 2.0, "puUp": np.full(N, 3.0)})
    assert h[{"region": "4j1b", "variation": "nominal"}].sum(flow=True).value == N
    assert h[{"region": "4j2b", "variation": "puUp"}].sum(flow=True).value == 3 * N
    assert h[{"n": 2}].sum(flow=True).value == h.sum(flow=True).value


@pytest.mark.parametrize(
    ("name", "framework", "expected"),
    [
        ("nominal", "agc", "nominal"),
        ("jesUp", "agc", "jes_up"),
        ("jes_up", "pocketcoffea", "jesUp"),
        ("pt_scale_down", "columnflow", "pt_scale_down"),
        ("ME_var", "agc", "ME_var"),
        ("backup", "topcoffea", "backup"),
    ],
)
def test_names_are_translated(name, framework, expected):
    assert category(name, Naming.of(framework)) == expected
    assert category(expected, Naming.of(framework)) == expected


def test_no_events_is_fine(weights):
    h = systematic_hist(AXIS)
    empty = Weights(0)
    empty.add("pu", np.ones(0), np.ones(0))
    fill_systematics(h, X[:0], empty)
    assert list(h.axes[0]) == ["nominal", "puDown", "puUp"]
    assert not h.view(flow=True)["value"].any()
    fill_systematics(h, X, weights)
    assert h[{"variation": "nominal"}].sum().value == pytest.approx(weights.weight().sum())


def test_input_errors_name_variation_and_event(weights):
    h = systematic_hist(AXIS)
    broken = X.copy()
    broken[7] = np.nan
    for values, weight, objects, message in (
        (
            X,
            np.where(np.arange(N) == 3, np.nan, 1.0),
            {},
            r"weight is nan in event 3;[\s\S]*variation nominal",
        ),
        (broken, None, {}, r"x is nan in event 7;[\s\S]*file a.root, variation nominal"),
        (X, weights, {"jesUp": (broken,)}, r"x is nan in event 7;[\s\S]*variation jesUp"),
        (X, weights, {"jesUp": (X[:9],)}, r"200 weights for 9 values of x[\s\S]*jesUp[\s\S]*own weights"),
        (ak.Array([[1.0]]), None, {}, "x is not one number per event"),
        (ak.Array([None, 1.0]), None, {}, "x has no value in 1 of 2 events"),
        (X, {"nominal": np.ones(N), "puUp": np.full(N, np.inf)}, {}, "weight is inf in event 0"),
    ):
        before = h.copy()
        with pytest.raises(InputError, match=message):
            fill_systematics(h, values, weight, objects=objects, where="file a.root")
        for name in before.axes[0]:
            assert np.isfinite(h[{"variation": name}].values(flow=True)).all()
    whole = systematic_hist(hist.axis.Integer(0, 3, name="n"))
    with pytest.raises(InputError, match=r"axis 'n' takes whole numbers, got 1.5"):
        fill_systematics(whole, np.array([1.0, 1.5]))


def test_config_errors(weights):
    fixed = hist.Hist(hist.axis.StrCategory(["nominal"], name="variation"), AXIS)
    region = hist.axis.StrCategory(["4j1b"], name="region")
    growing = systematic_hist(AXIS, region)
    for h, arguments, options, message in (
        (fixed, (X,), {}, r"'variation' does not grow[\s\S]*lost in the overflow"),
        (systematic_hist(AXIS, naming="columnflow"), (X,), {}, r"no axis 'variation'[\s\S]*it has shift, x"),
        (systematic_hist(AXIS), ({"y": X},), {}, r"axis 'x' gets no values\n  expected: y"),
        (systematic_hist(AXIS), ({"x": X, "y": X},), {}, r"has no axis 'y'"),
        (growing, (X,), {}, r"one array[\s\S]*a dictionary with x, region"),
        (growing, ({"x": X, "region": "4j2b"},), {}, r"no category '4j2b'[\s\S]*growth=True"),
        (systematic_hist(AXIS), (X, weights), {"objects": {"pu_up": (X,)}}, "'puUp' comes twice"),
        (systematic_hist(AXIS), (X, {"puUp": X}), {}, "the weights have no nominal"),
        (systematic_hist(AXIS), (X, {"nominal": X, "puUp": X, "pu_up": X}), {}, "two weights are .*'puUp'"),
    ):
        with pytest.raises(ConfigError, match=message):
            fill_systematics(h, *arguments, **options)


def scale_factor() -> schema.Correction:
    def binned(values: list[float]) -> schema.Binning:
        return schema.Binning(
            nodetype="binning", input="pt", edges=[20, 50, 200], content=values, flow="error"
        )

    items = {"nominal": [0.9, 0.95], "systup": [0.92, 0.98], "systdown": [0.88, 0.92]}
    return schema.Correction(
        name="sf",
        version=1,
        inputs=[
            schema.Variable(name="pt", type="real"),
            schema.Variable(name="n", type="int"),
            schema.Variable(name="era", type="string"),
            schema.Variable(name="scale_factors", type="string"),
        ],
        output=schema.Variable(name="weight", type="real"),
        data=schema.Category(
            nodetype="category",
            input="scale_factors",
            content=[schema.CategoryItem(key=k, value=binned(v)) for k, v in items.items()],
        ),
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sf.json.gz"
    document = schema.CorrectionSet(schema_version=2, corrections=[scale_factor()])
    path.write_bytes(gzip.compress(document.model_dump_json(exclude_unset=True).encode()))
    return path


def declared(path, /, **changes) -> CorrectionWeight:
    options = {
        "name": "mu_id",
        "file": path,
        "correction": "sf",
        "inputs": {"pt": "minimum(mu_pt, 199)", "n": "n", "era": "2018"},
        "systematic": "scale_factors",
        "up": "systup",
        "down": "systdown",
    }
    return CorrectionWeight(**(options | changes))


def test_a_declared_correction_is_what_correctionlib_gives(file):
    columns = {"mu_pt": np.float32([30.0, 60.0, 300.0]), "n": np.float32([0, 1, 2])}
    weight = pickle.loads(pickle.dumps(declared(file)))  # noqa: S301
    found = weight.evaluate(columns)
    assert {k: v.tolist() for k, v in found.items()} == {
        "nominal": [0.9, 0.95, 0.95],
        "mu_idUp": [0.92, 0.98, 0.98],
        "mu_idDown": [0.88, 0.92, 0.92],
    }
    weights = Weights(3)
    weights.add("gen", np.array([2.0, 1.0, 1.0]))
    weight.add_to(weights, columns)
    given = weight_variations(weights, 3, Naming.of("agc"))
    assert list(given) == ["mu_id_down", "mu_id_up", "nominal"]
    np.testing.assert_allclose(given["mu_id_up"], [1.84, 0.98, 0.98])
    only_up = declared(file, nominal=None, down=None).evaluate(columns)
    assert only_up["nominal"].tolist() == [1.0, 1.0, 1.0]
    assert set(only_up) == {"nominal", "mu_idUp"}
    assert declared(file).evaluate({"mu_pt": np.zeros(0), "n": np.zeros(0)})["mu_idUp"].shape == (0,)


def test_an_event_out_of_range_is_named(file):
    pt = np.full(1000, 30.0)
    pt[[617, 800]] = 10.0
    with pytest.raises(
        InputError, match=r"'sf' is not defined for event 617: pt = 10.0, n = 1, era = 2018[\s\S]*sf.json.gz"
    ):
        declared(file).evaluate({"mu_pt": pt, "n": np.ones(1000)})
    with pytest.raises(InputError, match=r"input 'n' of correction 'sf' is not an integer[\s\S]*first 1.5"):
        declared(file).evaluate({"mu_pt": pt + 30, "n": np.full(1000, 1.5)})


def test_declarations_are_checked(file, tmp_path, monkeypatch):
    (tmp_path / "text.json").write_text("{}")
    for changes, message in (
        ({"file": tmp_path / "no.json"}, r"no such correctionlib file[\s\S]*no.json"),
        ({"file": tmp_path / "text.json"}, "not a correctionlib file"),
        ({"correction": "sff"}, r"no correction 'sff'[\s\S]*expected: sf"),
        ({"inputs": {"PT": "mu_pt"}}, r"no input 'PT'[\s\S]*expected: pt"),
        ({"inputs": {"pt": "mu_pt"}}, "input 'n' of correction 'sf' is not given"),
        (
            {"systematic": None, "inputs": {"pt": 30, "n": 1, "era": "", "scale_factors": "nominal"}},
            "no input chooses the variation",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            declared(file, **changes)
    weight = declared(file)
    file.write_bytes(gzip.compress(b"{}"))
    monkeypatch.setattr(corrections, "_SETS", {})  # as in another process
    with pytest.raises(InputError, match="'mu_id' is not the one that it was made with"):
        weight.evaluate({"mu_pt": np.ones(1), "n": np.ones(1)})

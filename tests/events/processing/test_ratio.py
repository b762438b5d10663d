"""RatioProcessor: its tables are what the scorer gives, and an unbinned workspace takes them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from neyman.errors import ConfigError, InputError
from neyman.events import EventTable, process_files
from neyman.events.processing.checkpoint import Checkpointer
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.ratio import RatioProcessor
from neyman.events.processing.sink import ParquetSink


@pytest.fixture(scope="module")
def file(nano, tmp_path_factory):
    return nano(tmp_path_factory.mktemp("files") / "a.root", 600, 1)


@pytest.fixture
def make(spec, scorer, function, tmp_path):
    def processor(**changes):
        options = {
            "features": spec,
            "scorer": scorer,
            "selection": "n_jets >= 1",
            "weights": function("weights"),
            "objects": function("objects"),
            "sink": ParquetSink(tmp_path / "out"),
        }
        return RatioProcessor(**(options | changes))

    return processor


def read(folder, *extra):
    return EventTable.from_parquet(
        folder, features=("tau_pt", "met", "n_jets", "ht"), weight="weight", extra=("nn", "entry", *extra)
    )


def test_tables_and_what_is_returned(file, make, scorer, tmp_path):
    result = process_files({"a": file}, make(), chunk_size=250)["a"]
    names = pq.read_schema(tmp_path / "out" / result["files"][0]["path"]).names
    assert names == [
        "tau_pt", "met", "n_jets", "ht", "nn", "nn_jesDown", "nn_jesUp", "weight", "weight_btagDown",
        "weight_btagUp", "weight_jesDown", "weight_jesUp", "entry",
    ]  # fmt: skip
    table = read(tmp_path / "out", "nn_jesUp", "weight_jesUp", "weight_jesDown", "weight_btagUp")
    assert len(np.unique(table.extra["entry"])) == len(table)
    np.testing.assert_array_equal(table.extra["nn"], scorer(table.x))
    assert sum(row["n_rows"] for row in result["files"]) == len(table)
    assert json.loads((tmp_path / "out/a/manifest.json").read_text())["n_rows"] == len(table)
    nominal = table.weight != 0
    np.testing.assert_array_equal(nominal, table.column("n_jets") >= 1)
    assert not nominal.all()  # some pass only when the jets are scaled up
    assert result["selected"]["nominal"] == {"n": nominal.sum(), "sumw": pytest.approx(table.weight.sum())}
    for name in ("jesUp", "jesDown"):
        weight = table.extra[f"weight_{name}"]
        assert result["selected"][name] == {"n": (weight != 0).sum(), "sumw": pytest.approx(weight.sum())}
    assert (table.extra["weight_btagUp"][nominal] != table.weight[nominal]).any()
    assert not table.extra["weight_btagUp"][~nominal].any()


def test_ratios_and_weights_are_those_of_the_histograms(file, make, spec, scorer, function, tmp_path):
    process_files({"a": file}, make(), chunk_size=250)
    table = read(tmp_path / "out", "nn_jesUp", "weight_jesUp", "weight_btagDown")
    import hist

    axis = hist.axis.Regular(10, -30, 0, name="nn")
    options = {name: function(name) for name in ("weights", "objects")}
    filled = HistProcessor(features=spec, scorer=scorer, selection="n_jets >= 1", axes=(axis,), **options)
    h = process_files({"a": file}, filled)["a"]["hists"]["nn"][{"channel": "inclusive"}]
    for name, score, weight in (
        ("nominal", "nn", "weight"),
        ("jesUp", "nn_jesUp", "weight_jesUp"),
        ("btagDown", "nn", "weight_btagDown"),
    ):
        one = hist.Hist(axis, storage=hist.storage.Weight())
        one.fill(table.column(score), weight=table.column(weight))
        ours = h[{"variation": name}]
        np.testing.assert_allclose(one.values(flow=True), ours.values(flow=True), rtol=1e-12)


def test_chosen_columns_without_shifts_and_another_run(file, make, tmp_path):
    process_files({"a": file}, make(), chunk_size=100)
    plain = make(columns=("met",), objects=None, weights=None)
    result = process_files({"a": file}, plain, chunk_size=300)["a"]
    paths = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet")}
    assert paths == {row["path"] for row in result["files"]}
    assert pq.read_schema(tmp_path / "out" / min(paths)).names == ["met", "nn", "weight", "entry"]
    nothing = process_files({"a": file}, make(selection="met < 0"), chunk_size=300)["a"]
    assert [(row["path"], row["n_rows"]) for row in nothing["files"]] == [(None, 0)] * 2


def test_checkpoints_need_the_tables_that_they_speak_of(file, make, tmp_path):
    options = {"checkpointer": Checkpointer(tmp_path / "keep"), "chunk_size": 300}
    first = process_files({"a": file}, make(), **options)
    assert process_files({"a": file}, make(), **options) == first
    next((tmp_path / "out").rglob("*.parquet")).unlink()
    with pytest.raises(InputError, match=r"is not there[\s\S]*remove the checkpoints and run again"):
        process_files({"a": file}, make(), **options)


def test_several_outputs_become_columns(file, make, tmp_path):
    class Several:
        outputs = ("one", "two")
        digest = "several"

        def many(self, tables):
            scores = {name: own["met"] for name, own in tables.items()}
            return {name: {"one": s, "two": np.stack([s, 2 * s], axis=1)} for name, s in scores.items()}

    process_files({"a": file}, make(scorer=Several(), objects=None, columns=()))
    path = next((tmp_path / "out").rglob("*.parquet"))
    assert pq.read_schema(path).names[:3] == ["one", "two_0", "two_1"]


def test_errors(file, make):
    with pytest.raises(ConfigError, match="there is no scorer"):
        make(scorer=None)
    for changes, message in (
        ({"columns": ("mett",)}, r"no feature 'mett' to write[\s\S]*met"),
        (
            {"features": lambda e: {"weight_x": np.ones(len(e))}, "selection": None},
            "column 'weight_x' cannot",
        ),
    ):
        scorer = type(
            "S", (), {"outputs": ("nn",), "many": lambda self, t: {k: v["entry"] * 1.0 for k, v in t.items()}}
        )
        with pytest.raises(ConfigError, match=message):
            process_files({"a": file}, make(scorer=scorer(), objects=None, **changes))


def test_the_tables_are_an_unbinned_workspace(file, make, tmp_path):
    from neyman.workspace.documents import Unbinned
    from neyman.workspace.store import Draft

    process_files({"a": file}, make(), chunk_size=250)
    folder = tmp_path / "out" / "a"
    sample = {
        "name": "s",
        "yield": 10.0,
        "log_ratio": "nn",
        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
    }
    events = {"file": "a", "weight": "weight"}
    channel = {"name": "c", "data": events, "reference": events, "samples": [sample]}
    measurement = {"name": "m", "config": {"poi": "mu", "parameters": []}}
    document = Unbinned.model_validate({"channels": [channel], "measurements": [measurement]})
    draft = Draft(unbinned=document, files={f"a/{path.name}": path for path in folder.glob("*.parquet")})
    workspace = draft.write(tmp_path / "workspace")
    weight, columns = workspace.events(workspace.unbinned.channels[0], document.channels[0].data)
    table = read(tmp_path / "out")
    np.testing.assert_array_equal(np.sort(columns["nn"]), np.sort(table.extra["nn"]))
    assert weight.sum() == pytest.approx(table.weight.sum())

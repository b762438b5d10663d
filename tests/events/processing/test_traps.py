"""Traps of coffea and hist: each test shows the trap first, and then that it does not catch us.

The traps of networks in processors, of Dask's settings and of pruned branches are tested beside the code that avoids
them: scoring, cluster, features.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import awkward as ak
import coffea.processor.accumulator as coffea_accumulator
import hist
import loky
import numpy as np
import pytest
from coffea.analysis_tools import Weights
from coffea.nanoevents import NanoAODSchema
from coffea.processor import (
    FuturesExecutor,
    IterativeExecutor,
    Runner,
    SimpleCheckpointer,
    accumulate,
    column_accumulator,
)
from correctionlib import schemav2 as schema

from neyman.errors import ConfigError, InputError, NeymanError
from neyman.events import process_files
from neyman.events.processing import corrections
from neyman.events.processing.checkpoint import Checkpointer
from neyman.events.processing.chunk import entry_ids
from neyman.events.processing.corrections import CorrectionWeight
from neyman.events.processing.exact import ExactSum
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.schema import NanoSchema
from neyman.events.processing.sink import ParquetSink
from neyman.events.processing.systematics import fill_systematics, systematic_hist

X = hist.axis.Regular(4, 0, 1, name="x")


@pytest.fixture
def file(nano, tmp_path):
    return nano(tmp_path / "a.root", 400, 1)


def run(file, processor, **options):
    options = {"executor": IterativeExecutor(status=False, retries=0), "chunksize": 100} | options
    runner = Runner(schema=NanoSchema, metadata_cache={}, **options)
    return runner({"a": [str(file)]}, processor, treename="Events")


def correction(path, name="sf") -> CorrectionWeight:
    made = schema.Correction(
        name="sf", version=1, inputs=[schema.Variable(name="x", type="real")],
        output=schema.Variable(name="w", type="real"),
        data=schema.Binning(nodetype="binning", input="x", edges=[0, 1e9], content=[2.0], flow="error"),
    )  # fmt: skip
    path.write_text(schema.CorrectionSet(schema_version=2, corrections=[made]).model_dump_json())
    return CorrectionWeight(name, path, "sf", {"x": "met"})


@dataclass
class Opens:
    """Opens a file in one chunk that is not there on the worker."""

    path: str

    def __call__(self, events):
        if events.metadata["entrystart"] == 100:
            with open(self.path):  # noqa: PTH123
                pass
        return {"n": len(events)}


def test_a_missing_file_of_ours_does_not_drop_events(file, spec, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="Skipping bad file"):
        assert run(file, Opens("model.onnx"), skipbadfiles=True)["n"] == 300  # of 400

    processor = HistProcessor(
        features=spec, axes=(hist.axis.Regular(4, 0, 100, name="met"),),
        corrections=(correction(tmp_path / "sf.json"),),
    )  # fmt: skip
    (tmp_path / "sf.json").unlink()
    monkeypatch.setattr(corrections, "_SETS", {})  # as on a worker
    with pytest.raises(Exception, match="'sf' is not the one that it was made with") as caught:
        run(file, processor, skipbadfiles=True)
    assert not issubclass(NeymanError, OSError)
    chain: list[BaseException] = [caught.value]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    assert isinstance(chain[-1], InputError)


def test_a_correction_is_read_once_though_the_processor_is_unpickled_for_every_chunk(
    file, spec, tmp_path, monkeypatch
):
    read = []
    weight = correction(tmp_path / "sf.json")
    monkeypatch.setattr(corrections, "_SETS", {})
    monkeypatch.setattr(corrections.files, "sha256", lambda path: read.append(path) or weight.sha256)
    axis = hist.axis.Regular(4, 0, 100, name="met")
    UNPICKLED.clear()
    made = Counted(HistProcessor(features=spec, axes=(axis,), corrections=(weight,)))
    process_files({"a": file}, made, chunk_size=100)
    assert len(UNPICKLED) >= 4
    assert len(read) == 1


UNPICKLED = []


@dataclass
class Counted:
    """Counts how often it is unpickled."""

    processor: HistProcessor

    def __call__(self, events):
        return self.processor(events)

    def __setstate__(self, state):
        UNPICKLED.append(1)
        self.__dict__ |= state


@dataclass
class Model:
    """A processor with a model."""

    digest: str

    def __call__(self, events):
        return {"model": {self.digest}, "n": len(events)}


def test_a_changed_model_does_not_get_the_old_result(file, tmp_path):
    theirs = SimpleCheckpointer(str(tmp_path / "theirs"))
    assert run(file, Model("old"), checkpointer=theirs)["model"] == {"old"}
    assert run(file, Model("new"), checkpointer=theirs)["model"] == {"old"}

    ours = Checkpointer(tmp_path / "ours")
    assert run(file, Model("old"), checkpointer=ours)["model"] == {"old"}
    assert run(file, Model("new"), checkpointer=ours)["model"] == {"new"}


def test_chunks_without_events(nano, spec, scorer, function, tmp_path):
    file = nano(tmp_path / "a.root", 50)
    processor = HistProcessor(
        features=spec, scorer=scorer, axes=(hist.axis.Regular(4, -30, 0, name="nn"),),
        weights=function("weights"), objects=function("objects"),
    )  # fmt: skip
    seen = []

    def process(events):
        empty = events[:0]
        seen.append(len(empty))
        return processor(empty)

    result = processor.postprocess(process_files({"a": file}, process))
    assert list(result["a"]["hists"]["nn"].axes["variation"]) == [
        "btagDown", "btagUp", "jesDown", "jesUp", "nominal"
    ]  # fmt: skip
    assert result["a"]["hists"]["nn"].sum(flow=True).value == 0.0


def test_nan_does_not_get_into_a_histogram():
    values, weights = np.array([0.1, np.nan, 0.2]), np.array([1.0, 1.0, np.nan])
    theirs = hist.Hist(X, storage=hist.storage.Weight()).fill(values, weight=weights)
    assert theirs.view(flow=True)[-1].value == 1.0  # NaN counts as large
    assert np.isnan(theirs.values()[0])  # and one weight spoils a bin

    for bad, weight in ((values, np.ones(3)), (np.full(3, 0.1), weights)):
        h = systematic_hist(X)
        with pytest.raises(InputError, match=r"is nan in event [12]; not finite in 1 of 3 events"):
            fill_systematics(h, bad, weight)
        assert not h.size


def test_masked_values_are_not_filled():
    masked = ak.mask(ak.Array([0.1, 0.2, 0.3]), [True, False, True])
    theirs = hist.Hist(X).fill(ak.to_numpy(masked))
    assert theirs.view(flow=True)[-1] == 1.0  # it counts as large
    with pytest.raises(InputError, match=r"x has no value in 1 of 3 events[\s\S]*first in event 1"):
        fill_systematics(systematic_hist(X), masked)


def test_variations_are_in_one_order():
    weights = Weights(3)
    for name in ("pu", "id", "btag"):
        weights.add(name, np.ones(3), np.ones(3), np.ones(3))
    assert isinstance(weights.variations, set)  # and so in another order in another process

    h = systematic_hist(X)
    fill_systematics(h, np.full(3, 0.5), weights)
    assert list(h.axes["variation"]) == [
        "btagDown", "btagUp", "idDown", "idUp", "nominal", "puDown", "puUp"
    ]  # fmt: skip


def test_growing_axes_sum_up_whatever_came_first():
    one, two = (hist.Hist(hist.axis.StrCategory(c, name="variation"), X) for c in (["a", "b"], ["b", "a"]))
    with pytest.raises(ValueError, match="axes not mergable"):
        one + two
    one.fill(variation="c", x=[0.1])
    assert one.sum().real == 0.0  # lost in the overflow without a word

    with pytest.raises(ConfigError, match="does not grow"):
        fill_systematics(one, np.array([0.1]))
    chunks = []
    for names in (["puUp", "nominal"], ["idUp", "nominal", "puUp"]):
        chunks.append(systematic_hist(X))
        for name in names:
            fill_systematics(chunks[-1], np.array([0.1]), {"nominal": 0.5, name: 1.0})
    orders = {tuple((a + b).axes[0]) for a, b in (chunks, chunks[::-1])}
    assert len(orders) == 2  # the categories of the first chunk come first
    totals = [(ExactSum(a) + ExactSum(b)).total() for a, b in (chunks, chunks[::-1])]
    assert totals[0] == totals[1]
    assert list(totals[0].axes[0]) == ["idUp", "nominal", "puUp"]


def test_sums_do_not_depend_on_the_order_of_chunks():
    rng = np.random.default_rng(1)
    chunks = [hist.Hist(X, storage=hist.storage.Weight()) for _ in range(30)]
    for h in chunks:
        h.fill(rng.random(50), weight=rng.normal(size=50))
    orders = [accumulate(chunks), accumulate(chunks[::-1])]
    assert (orders[0].values() != orders[1].values()).any()

    ours = [accumulate(map(ExactSum, order)).total() for order in (chunks, chunks[::-1])]
    np.testing.assert_array_equal(ours[0].view(flow=True), ours[1].view(flow=True))


def test_columns_do_not_cost_the_square_of_the_number_of_chunks(file, tmp_path, monkeypatch):
    copied = 0
    concatenate = np.concatenate

    def counting(arrays, *args, **options):
        nonlocal copied
        copied += sum(len(a) for a in arrays)
        return concatenate(arrays, *args, **options)

    monkeypatch.setattr(coffea_accumulator.numpy, "concatenate", counting)
    cost = {}
    for n in (20, 160):
        copied = 0
        total = accumulate([{"x": column_accumulator(np.ones(10))} for _ in range(n)])
        assert len(total["x"].value) == 10 * n
        cost[n] = copied / n
    assert cost[160] > 6 * cost[20]

    sink = ParquetSink(tmp_path / "out")

    def process(events):
        return {"rows": [sink.write(events, {"met": events.MET.pt, "entry": entry_ids(events)})]}

    copied = 0
    rows = process_files({"a": file}, process, chunk_size=50)["rows"]
    assert copied == 0
    assert sum(row["n_rows"] for row in sink.finish(rows)["a"]) == 400


def test_flags_of_the_schema_are_the_same_on_workers(monkeypatch):
    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    with loky.ProcessPoolExecutor(1) as pool:
        theirs, *ours = pool.submit(_read_flags).result()
    assert theirs is True  # set to False here
    assert ours == [False, ()]


def _read_flags():
    from coffea.nanoevents import NanoAODSchema

    from neyman.events.processing.schema import NanoSchema

    return NanoAODSchema.warn_missing_crossrefs, NanoSchema.warn_missing_crossrefs, NanoSchema.event_ids


def test_no_process_is_started_for_each_run(file):
    assert FuturesExecutor().pool is loky.ProcessPoolExecutor  # a class: new processes for every run
    pids = [process_files({"a": file}, pid, executor="threads", chunk_size=100)["pid"] for _ in range(2)]
    assert pids == [{os.getpid()}] * 2


def pid(events):
    return {"pid": {os.getpid()}}

"""The same bits from every executor: ours, coffea's own in one thread, in threads, in loky processes, and on Dask."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import cloudpickle
import distributed
import hist
import loky
import numpy as np
import pytest
from coffea.processor import DaskExecutor, FuturesExecutor, IterativeExecutor, Runner, accumulate

from neyman.events import Scorer, process_files
from neyman.events.processing.executor import PoolExecutor
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.ratio import RatioProcessor
from neyman.events.processing.schema import NanoSchema
from neyman.events.processing.sink import ParquetSink

NN = hist.axis.Regular(10, -30, 0, name="nn")
CHUNK = 130
KEPT = []  # a processor is copied for every chunk: a list of its own would be lost


@dataclass
class Keep:
    """Keeps what a processor returns for each chunk."""

    processor: HistProcessor

    def __call__(self, events):
        KEPT.append(self.processor(events))
        return {"n": len(events)}


@pytest.fixture(scope="module")
def files(nano, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {
        "a": [str(nano(folder / f"{i}.root", 400, i)) for i in range(2)],
        "b": [str(nano(folder / "b.root", 300, 3))],
    }


class Sum:
    """A scorer that needs no torch, whose import takes the most time in a new process."""

    outputs = ("nn",)
    digest = "sum"

    def many(self, tables):
        return {name: -(own["met"] + own["ht"]) / np.float32(30) for name, own in tables.items()}


@pytest.fixture
def make(spec, function, tmp_path):
    def processors(name, scorer):
        options = {
            "features": spec,
            "scorer": scorer,
            "weights": function("weights"),
            "objects": function("objects"),
            "selection": "n_jets >= 1",
        }
        channels = {"SR": "nn > -10", "CR": "nn <= -10"}
        ratios = RatioProcessor(sink=ParquetSink(tmp_path / name), **options)
        return HistProcessor(axes=(NN,), channels=channels, **options), ratios

    return processors


@pytest.fixture
def network(model):
    return Scorer.load(model, backend="torch", threads=1)


def run(executor, files, processor):
    first = IterativeExecutor(status=False)
    runner = Runner(executor, pre_executor=first, schema=NanoSchema, metadata_cache={}, chunksize=CHUNK)
    return runner(files, processor, treename="Events")


@pytest.mark.parametrize("scored", ["by a sum", pytest.param("by a network", marks=pytest.mark.slow)])
def test_histograms_and_tables_are_the_same_bit_by_bit(files, make, network, tmp_path, scored):
    found = {}
    scorer = network if scored == "by a network" else Sum()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see this file

    def both(name, process):
        histograms, ratios = make(name, scorer)
        tables = process(ratios)
        digests = {
            path.relative_to(tmp_path / name).as_posix(): sha256(path.read_bytes()).hexdigest()
            for path in (tmp_path / name).rglob("*.parquet")
        }
        found[name] = process(histograms), tables, digests

    both("iterative", lambda p: run(IterativeExecutor(status=False), files, p))
    with ThreadPoolExecutor(3) as pool:
        both("threads", lambda p: run(FuturesExecutor(pool=pool, workers=3, status=False), files, p))
    pool = loky.get_reusable_executor(max_workers=2)  # a pool of its own for each run imports all anew
    both("loky", lambda p: run(FuturesExecutor(pool=pool, workers=2, status=False), files, p))
    pool.shutdown()
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": ":0",
        "processes": scorer is network,
    }
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        both("dask", lambda p: run(DaskExecutor(client=client, status=False, treereduction=3), files, p))
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    expected = found.pop("iterative")
    assert len(expected[2]) == len(expected[1]["a"]["files"]) + len(expected[1]["b"]["files"]) == 8
    for name, (histograms, tables, digests) in found.items():
        assert tables == expected[1], name
        assert digests == expected[2], name
        for dataset, of in expected[0].items():
            assert {k: v for k, v in histograms[dataset].items() if k != "hists"} == {
                k: v for k, v in of.items() if k != "hists"
            }, name
            one, other = histograms[dataset]["hists"]["nn"], of["hists"]["nn"]
            assert [list(axis) for axis in one.axes] == [list(axis) for axis in other.axes], name
            np.testing.assert_array_equal(one.view(flow=True), other.view(flow=True), err_msg=name)


def test_our_own_executors_too(files, make, network):
    one = process_files(files, make("one", network)[0], chunk_size=CHUNK)
    three = process_files(files, make("three", network)[0], chunk_size=CHUNK, executor="threads", workers=3)
    for dataset, of in one.items():
        assert {k: v for k, v in three[dataset].items() if k != "hists"} == {
            k: v for k, v in of.items() if k != "hists"
        }
        views = (o[dataset]["hists"]["nn"].view(flow=True) for o in (one, three))
        np.testing.assert_array_equal(*views)


def test_any_order_and_grouping_of_chunks(files, make):
    processor = make("any", Sum())[0]
    process_files(files, Keep(processor), chunk_size=CHUNK)
    chunks = KEPT.copy()
    KEPT.clear()
    expected = processor.postprocess(accumulate(chunks))
    for seed in range(4):
        rng = random.Random(seed)
        order = rng.sample(chunks, len(chunks))
        cut = rng.randrange(2, len(chunks) - 1)
        total = processor.postprocess(accumulate([accumulate(order[:cut]), accumulate(order[cut:])]))
        assert total["a"]["sumw"] == expected["a"]["sumw"]
        for dataset in expected:
            views = (t[dataset]["hists"]["nn"].view(flow=True) for t in (total, expected))
            np.testing.assert_array_equal(*views)


def test_results_are_added_in_order_and_not_kept(monkeypatch):
    """However late the first chunk is, sums go in order, and what was added is let go."""

    class Item(int):
        filename = dataset = ""
        entrystart = entrystop = 0

        def __len__(self):
            return 1

    alive, most, added = 0, 0, []

    class Result(dict):
        def __init__(self, index):
            nonlocal alive, most
            super().__init__(n=[index])
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    def merge(items, accumulator):
        for item in items:
            added.extend(item["n"])
        return added

    monkeypatch.setattr("neyman.events.processing.executor.accumulate", merge)
    with ThreadPoolExecutor(2) as pool:
        for each in (pool, None):
            alive, most = 0, 0
            added.clear()
            executor = PoolExecutor(pool=each)
            executor([Item(i) for i in range(200)], Result, None)
            assert added == list(range(200))
            if each is None:
                assert most <= 2

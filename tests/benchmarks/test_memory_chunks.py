"""Memory and time of a thousand chunks: histograms and tables of all variations, against accumulated columns.

The peer is coffea's ``column_accumulator``, which keeps the columns of all chunks and copies them for each.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import psutil
import pytest
import uproot
from coffea.analysis_tools import Weights
from coffea.processor import column_accumulator

from neyman.events import process_files
from neyman.events.features import FeatureSpec
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.ratio import RatioProcessor
from neyman.events.processing.sink import ParquetSink

CHUNKS, EVENTS, BASKET = 1000, 200, 2000
SHIFTS = {"jesUp": 1.03, "jesDown": 0.97}

pytestmark = pytest.mark.benchmark


def write(path: Path, chunks: int) -> Path:
    """Write a small NanoAOD-like file."""
    rng = np.random.default_rng(1)
    n = chunks * EVENTS
    counts = rng.integers(0, 5, n)
    branches = {name: rng.exponential(30.0, counts.sum()).astype(np.float32) for name in ("pt", "mass")}
    branches |= {name: rng.normal(0, 1, counts.sum()).astype(np.float32) for name in ("eta", "phi")}
    met, gen = rng.exponential(30.0, n).astype(np.float32), rng.normal(1, 0.3, n)
    jets = ak.zip({name: ak.unflatten(branch, counts) for name, branch in branches.items()})
    events = {"Jet": jets, "MET_pt": met, "genWeight": gen}
    kinds = {"Jet": jets.type.content, "MET_pt": met.dtype, "genWeight": gen.dtype}
    with uproot.recreate(path) as made:
        tree = made.mktree("Events", kinds)
        for start in range(0, n, BASKET):  # or every chunk would decompress the whole file
            tree.extend({name: branch[start : start + BASKET] for name, branch in events.items()})
    return path


def objects(events: Any) -> dict[str, Any]:
    def scaled(scale: float) -> Any:
        jets = ak.with_field(events.Jet, events.Jet.pt * np.float32(scale), "pt")
        return ak.with_field(events, jets, "Jet")

    return {name: scaled(scale) for name, scale in SHIFTS.items()}


def weights(events: Any) -> Weights:
    made = Weights(len(events))
    made.add("gen", ak.to_numpy(events.genWeight).astype(np.float64))
    for i in range(4):
        made.add(f"w{i}", np.ones(len(events)), np.full(len(events), 1.1), np.full(len(events), 0.9))
    return made


class Sum:
    """A scorer without a network: what is measured is all around it."""

    outputs = ("score",)
    digest = "sum"

    def many(self, tables: dict[str, Any]) -> dict[str, Any]:
        return {name: table["met"] / (table["met"] + table["ht"]) for name, table in tables.items()}


@dataclass
class Both:
    """Histograms and tables of the same chunk."""

    histograms: HistProcessor
    ratios: RatioProcessor

    def __call__(self, events: Any) -> dict[str, Any]:
        return {"histograms": self.histograms(events), "ratios": self.ratios(events)}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return {name: getattr(self, name).postprocess(summed) for name, summed in accumulator.items()}


def columns(events: Any) -> dict[str, Any]:
    """The peer: the columns of the table, accumulated."""
    jets = ak.to_numpy(ak.sum(events.Jet.pt, axis=1)).astype(np.float32)
    names = [f"column{i}" for i in range(30)]
    return {name: column_accumulator(jets.copy()) for name in names}


def measured(folder: Path, processor: Callable[[Any], Any], chunks: int) -> dict[str, Any]:
    """Processor milliseconds a chunk, and resident memory (MB) of this process after each tenth of them."""
    file = folder / f"{chunks}.root"
    if not file.exists():
        write(file, chunks)
    process, memory, times = psutil.Process(), [], []

    def progress(done: int, total: int) -> None:
        times.append(time.process_time())
        if 10 * done // total > len(memory):
            gc.collect()
            memory.append(round(process.memory_info().rss / 1e6, 1))

    process_files({"a": file}, processor, chunk_size=EVENTS, progress=progress)
    each = 1000 * np.diff(times)
    return {
        "chunks": len(times),
        "ms_a_chunk": round(float(np.median(each)), 2),
        "ms_a_chunk_last_tenth": round(float(np.median(each[-len(each) // 10 :])), 2),
        "memory_mb": memory,
    }


def test_memory_is_flat_and_time_linear(tmp_path, record, show):
    spec = FeatureSpec({"met": "MET.pt", "ht": "sum(Jet.pt)", "n_jets": "count(Jet)"})
    options: dict[str, Any] = {"features": spec, "scorer": Sum(), "weights": weights, "objects": objects}
    axes = (hist.axis.Regular(40, 0, 1, name="score"), hist.axis.Regular(40, 0, 200, name="met"))
    channels = {"SR": "n_jets >= 2", "CR": "n_jets < 2"}

    def ours(name: str) -> Both:
        sink = ParquetSink(tmp_path / name)
        return Both(
            HistProcessor(axes=axes, channels=channels, **options), RatioProcessor(sink=sink, **options)
        )

    measured(tmp_path, ours("warm"), 20)  # imports and caches
    rows = []
    for chunks in (20, CHUNKS):
        for name, processor in (("neyman", ours(str(chunks))), ("coffea column_accumulator", columns)):
            rows.append({"what": name, **measured(tmp_path, processor, chunks)})
    show("a chunk of 200 events", rows)
    small, _, large, peer = rows
    growth = {row["what"]: round(row["memory_mb"][-1] - row["memory_mb"][1], 1) for row in (large, peer)}
    record("memory_chunks", {"events_a_chunk": EVENTS, "runs": rows, "growth_mb_200_to_1000_chunks": growth})
    assert large["ms_a_chunk_last_tenth"] < 1.5 * small["ms_a_chunk"]
    assert growth["neyman"] < 15.0

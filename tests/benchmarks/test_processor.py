"""Events per second of the example's processing, with all its variations, on each executor.

The peer is coffea's own Runner with its IterativeExecutor on the same processor.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from typing import Self

import psutil
import pytest
from rich.console import Console
from rich.table import Table

from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files

COLUMNS = (
    "lep_pt", "tau_pt", "met", "m_vis", "pt_ratio", "deta", "dphi", "mt", "mt_tau", "pt_h", "m_tot",
    "dphi_met", "n_jets", "jet1_pt", "m_jj",
)  # fmt: skip
VARIATIONS = (
    Variation("nominal"),
    Variation("jesUp", {"jes": 1.03}),
    Variation("jesDown", {"jes": 0.97}),
    Variation("tesUp", {"tes": 1.02}),
    Variation("tesDown", {"tes": 0.98}),
    Variation("tesSampled", sampled={"tes": (0.9, 1.1)}, replicas=3),
)
PASSES = sum(variation.replicas for variation in VARIATIONS)

pytestmark = pytest.mark.benchmark


class PeakMemory:
    """Largest resident memory of this process and its children while the block runs, in MB."""

    def __enter__(self) -> Self:
        self.peak = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.05):
            family = [process, *process.children(recursive=True)]
            self.peak = max(self.peak, sum(_resident(p) for p in family) / 1e6)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_processing_the_example(repository, tmp_path, record):
    from coffea.processor import IterativeExecutor, Runner

    from neyman.cluster import connect
    from neyman.events.processing.schema import NanoSchema

    folder = repository / "examples" / "htautau"
    fileset = {path.stem: path for path in sorted((folder / "data").glob("*.root"))}

    def processor(name: str) -> TableProcessor:
        return TableProcessor(
            build=PythonRef.parse("processor.py:build", folder),
            variations=VARIATIONS,
            regions={
                "signal": RegionSpec(columns=COLUMNS),
                "control": RegionSpec(histogram=("n_jets", (0, 1, 2, 3, 4, 5, 8))),
            },
            folder=tmp_path / name,
        )

    def coffea_runner(name: str) -> dict:
        runner = Runner(IterativeExecutor(status=False), schema=NanoSchema, metadata_cache={})
        files = {dataset: [str(path)] for dataset, path in fileset.items()}
        return runner(files, processor(name), treename="Events")

    runs = {
        "coffea IterativeExecutor": coffea_runner,
        "iterative": lambda name: process_files(fileset, processor(name)),
        "threads, 2": lambda name: process_files(fileset, processor(name), executor="threads"),
    }
    figures = {name: _measure(lambda run=run, name=name: run(name)) for name, run in runs.items()}
    with connect("local:2") as client:

        def on_dask() -> dict:
            return process_files(fileset, processor("dask"), executor="dask", client=client)

        on_dask()
        figures["dask, 2 (warm)"] = _measure(on_dask)
    results = [row.pop("result") for row in figures.values()]
    assert all(_numbers(result) == _numbers(results[0]) for result in results)

    table = Table("executor", "s", "events/s", "events x passes/s", "peak MB")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['seconds']:.1f}",
            f"{row['events_per_second']:,}",
            f"{row['passes_per_second']:,}",
            f"{row['peak_memory_mb']:,}",
        )
    Console().print(table)
    events = sum(summed["n_events"] for summed in results[0].values())
    record("processor", {"events": events, "passes": PASSES, "executors": figures})


def _measure(run: Callable[[], dict]) -> dict:
    with PeakMemory() as memory:
        start, start_cpu = time.perf_counter(), _processor_seconds()
        result = run()
        seconds, cpu = time.perf_counter() - start, _processor_seconds() - start_cpu
    events = sum(summed["n_events"] for summed in result.values())
    return {
        "seconds": round(seconds, 2),
        "events_per_second": round(events / seconds),
        "passes_per_second": round(events * PASSES / seconds),
        "processor_seconds_of_main_process": round(cpu, 2),
        "peak_memory_mb": round(memory.peak),
        "result": result,
    }


def _numbers(result: dict) -> dict:
    """What does not depend on where coffea cuts the chunks."""
    return {name: (summed["n_events"], summed["selected"]) for name, summed in result.items()}

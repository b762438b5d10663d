"""Events on two workers beside the same events in this process, and what a message to the workers costs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neyman.cluster import connect
from neyman.errors import NeymanWarning
from neyman.likelihood import Likelihood

pytestmark = pytest.mark.benchmark
RATIOS, N_REFERENCE, ROWS = 2, 200_000, 1 << 17
ORDERS = {0: "value", 1: "with gradient", 2: "with Hessian"}


def columns(n: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Two samples with two up/down ratios each: 10 columns of float32 and the weight."""
    x = generator.standard_normal(n, dtype=np.float32)
    found = {"weight": np.ones(n, np.float32), "s": 0.4 * x - 0.08, "b": -0.1 * x - 0.005}
    for k in range(RATIOS):
        y = generator.standard_normal(n, dtype=np.float32)
        for sample in "sb":
            found |= {f"{sample}u{k}": 0.03 * y, f"{sample}d{k}": -0.028 * y}
    return {name: values.astype(np.float32) for name, values in found.items()}


@pytest.fixture
def workspace(tmp_path):
    """``workspace(n)`` writes a workspace of `n` events, in row groups of a moderate size."""

    def write(n: int) -> Path:
        folder, generator = tmp_path / str(n), np.random.default_rng(1)
        folder.mkdir()
        schema = pa.schema([(name, pa.float32()) for name in columns(1, generator)])
        for name, size in (("data", n), ("reference", N_REFERENCE)):
            path = folder / f"{name}.parquet"
            with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
                for first in range(0, size, ROWS):
                    writer.write_table(pa.table(columns(min(ROWS, size - first), generator), schema=schema))

        def sample(name: str, share: float) -> dict:
            ratios = [
                {"name": f"a{k}", "type": "ratiosys", "data": {"hi": f"{name}u{k}", "lo": f"{name}d{k}"}}
                for k in range(RATIOS)
            ]
            free = {"name": f"mu_{name}", "type": "normfactor"}
            return {"name": name, "yield": share * n, "log_ratio": name, "modifiers": [free, *ratios]}

        channel = {"name": "SR", "data": {"file": "data.parquet"}, "reference": {"file": "reference.parquet"}}
        document = {
            "channels": [channel | {"samples": [sample("s", 0.1), sample("b", 0.9)]}],
            "measurements": [{"name": "m", "config": {"poi": "mu_s", "parameters": []}}],
            "version": "1.0.0",
        }
        (folder / "unbinned.json").write_text(json.dumps(document))
        return folder

    return write


def alternating(likelihoods: dict[str, Likelihood], order: int, repeat: int) -> dict[str, float]:
    """Median seconds of each likelihood, evaluated in turn at the same points; their numbers are the same."""
    generator = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in likelihoods}
    expected = None
    for turn in range(repeat + 1):
        first = next(iter(likelihoods.values()))
        x = first.inits + 0.1 * generator.standard_normal(len(first.names))
        expected = None
        for name, likelihood in likelihoods.items():
            start = time.perf_counter()
            found = likelihood.evaluate(x, order)
            if turn:  # the first turn is to warm up
                times[name].append(time.perf_counter() - start)
            expected = found if expected is None else expected
            for ours, theirs in zip(found[: order + 1], expected, strict=False):
                np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())
    return {name: float(np.median(own)) for name, own in times.items()}


def with_threads(likelihood: Likelihood, threads: int) -> Likelihood:
    """The same likelihood on some threads; norms of another's last point are not reused."""
    same = likelihood.with_data(likelihood.data)
    same.terms[0].threads = threads
    same.terms[0]._last_norms = {}
    return same


def timed(work):
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def test_two_workers(record, show, workspace):
    """20,000,000 events: two workers of one thread beside one process of one and of two threads."""
    n = 20_000_000
    folder = workspace(n)
    local, local_s = timed(lambda: Likelihood.load(folder))
    rows, figures = [], {}
    with connect("local:2") as client:
        Likelihood.load(workspace(200_000), client=client)  # imports
        far, far_s = timed(lambda: Likelihood.load(folder, client=client))
        size = (folder / "data.parquet").stat().st_size
        compared = {"1 thread": with_threads(local, 1), "2 threads": with_threads(local, 2), "2 workers": far}
        for order, name in ORDERS.items():
            seconds = alternating(compared, order, repeat=7)
            best = min(seconds["1 thread"], seconds["2 threads"])
            rows.append(
                {"evaluation": name}
                | {f"{kind} s": s for kind, s in seconds.items()}
                | {
                    "of best local": seconds["2 workers"] / best,
                    "ns an event and core": 1e9 * 2 * seconds["2 workers"] / (n + N_REFERENCE),
                }
            )
        memory = client.run(lambda dask_worker: dask_worker.monitor.get_process_memory())
        figures = {
            "load s": {"here": local_s, "workers": far_s},
            "load MB/s": {"here": size / local_s / 1e6, "workers": size / far_s / 1e6},
            "memory of a worker MB": max(memory.values()) / 1e6,
        }
    show(f"unbinned likelihood of {n:,} events", rows)
    show("loading", [figures["load s"] | {"memory of a worker MB": figures["memory of a worker MB"]}])
    record(
        "distributed", {"rows": rows, **figures} | latencies(show, workspace) | allocators(show, workspace)
    )
    assert all(row["of best local"] < 1.2 for row in rows)


def latencies(show, workspace) -> dict:
    """A message to all workers and their answers, at 1,000 events: what an evaluation costs above its events."""
    folder = workspace(1000)
    rows = []
    for workers in (1, 2, 4, 8):
        with connect(f"local:{workers}") as client, pytest.MonkeyPatch.context() as patch:
            patch.setattr("neyman.likelihood.load.WORTH", 1000)
            far = Likelihood.load(folder, client=client)
            patch.setattr(far.terms[0], "_reference", Likelihood.load(folder).terms[0]._reference)
            seconds = alternating({"far": far}, 1, repeat=50)["far"]
            rows.append({"workers": workers, "ms": 1e3 * seconds})
    slope, start = np.polyfit([row["workers"] for row in rows], [row["ms"] for row in rows], 1)
    show(f"a message: {start:.2g} ms and {slope:.2g} ms a worker", rows)
    return {"latency": rows, "latency ms": start, "latency ms a worker": slope}


def allocators(show, workspace) -> dict:
    """2,000,000 events on workers as Dask's nanny starts them, and with the thresholds of `connect`."""
    from distributed import Client, LocalCluster

    folder = workspace(2_000_000)
    seconds = {}
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        os.environ.pop(name, None)  # an earlier nanny leaves them behind
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        with pytest.warns(NeymanWarning, match="MALLOC_MMAP_THRESHOLD_"):
            far = Likelihood.load(folder, client=client)
        seconds["as the nanny starts them"] = alternating({"far": far}, 1, repeat=7)["far"]
    with connect("local:2") as client:
        far = Likelihood.load(folder, client=client)
        seconds["with connect"] = alternating({"far": far}, 1, repeat=7)["far"]
    rows = [
        {"workers": name, "s": own, "ratio": own / min(seconds.values())} for name, own in seconds.items()
    ]
    show("allocator: 2,000,000 events with gradient", rows)
    return {"allocator": rows}

"""Events on workers: the files and histograms of one thread, bit for bit, each chunk once, where it is wanted."""

from __future__ import annotations

from hashlib import sha256

import distributed
import numpy as np
import pytest
import uproot

from neyman.errors import InputError
from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files

BUILD = """
import os
import signal
import time
from pathlib import Path

import awkward as ak
import numpy as np


def build(events, shifts):
    start = events.metadata["entrystart"]
    marker = Path(FOLDER) / f"died-{start}"
    if DIES and start in (400, 800) and not (DIES == "once" and marker.exists()):
        marker.touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    x = events.x * shifts.get("scale", 1.0)
    return {"SR": ak.zip({"x": x, "entry_index": ak.local_index(events.x, axis=0)})}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.root"
    x = np.random.default_rng(1).normal(size=2000).astype(np.float32)
    with uproot.recreate(path) as made:
        made.mktree("Events", {"x": x.dtype})
        made["Events"].extend({"x": x})
    return path


@pytest.fixture
def processor(tmp_path):
    def make(name, dies=""):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        text = BUILD.replace("FOLDER", repr(str(home))).replace("DIES", repr(dies))
        (home / "processor.py").write_text(text)
        return TableProcessor(
            build=PythonRef.parse("processor.py:build", home),
            variations=(Variation("nominal"), Variation("up", shifts={"scale": 1.1})),
            regions={"SR": RegionSpec(columns=("x",), histogram=("x", (-4.0, 0.0, 4.0)))},
            folder=tmp_path / name,
        )

    return make


def digests(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def test_lost_workers_change_no_file_and_no_histogram(client, file, processor, tmp_path):
    here = process_files({"data": file}, processor("here"), chunk_size=200)
    calls = []
    there = process_files(
        {"data": file},
        processor("there", dies="once"),
        chunk_size=200,
        executor="dask",
        client=client,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert (tmp_path / "home" / "died-400").exists()
    assert (tmp_path / "home" / "died-800").exists()
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert calls == [(200 * (k + 1), 2000) for k in range(10)]
    a, b = (one["data"].pop("histograms")["SR"] for one in (here, there))
    np.testing.assert_array_equal(a.view(flow=True), b.view(flow=True))
    assert a["nominal", :].sum(flow=True).value == 2000
    assert here == there
    assert here["data"]["n_events"] == 2000


def test_a_chunk_that_kills_its_workers_is_named(client, fragile, file, processor):
    message = r"workers lost in .*events.root, entries \d+ to .*: 2"
    with pytest.raises(InputError, match=message):
        process_files(
            {"data": file},
            processor("never", "always"),
            chunk_size=400,
            executor="dask",
            client=client,
        )


def test_chunks_go_where_the_resource_is(file):
    here = {"host": "127.0.0.1", "dashboard": False, "nthreads": 1}
    workers = {
        "plain": {"cls": distributed.Worker, "options": here},
        "gpu": {"cls": distributed.Worker, "options": {**here, "resources": {"GPU": 1}}},
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}

    def count(events):
        return {distributed.get_worker().name: len(events)}

    with (
        distributed.SpecCluster(workers, scheduler=scheduler) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = process_files(
            {"data": file},
            count,
            chunk_size=200,
            executor="dask",
            client=client,
            resources={"GPU": 1},
        )
    assert found == {"gpu": 2000}

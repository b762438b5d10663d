"""process_files: executors and file formats agree to the bit, files are checked, and it stops when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from neyman.cluster import connect
from neyman.errors import ConfigError, InputError, MissingExtraError
from neyman.events import EventTable, RegionSpec, Variation, process_files


@pytest.fixture(scope="module")
def fileset(nano, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {
        "signal": [nano(folder / "s0.root", 1500, 1), nano(folder / "s1.root", 700, 2, "rntuple")],
        "background": str(nano(folder / "b.root", 2100, 3, "rntuple_counters")),
    }


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("distributed")
    with connect("local:2") as client:
        yield client


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_executors_agree_to_the_bit(fileset, processor, cluster, tmp_path):
    seen = []
    steps = {
        "iterative": {},
        "threads": {"workers": 3},
        "dask": {"client": cluster},
        "address": {"client": cluster.scheduler.address},
    }
    for name, options in steps.items():
        calls: list[tuple[int, int]] = []
        result = process_files(
            fileset,
            processor(folder=name),
            executor="dask" if name == "address" else name,
            chunk_size=1000,
            progress=lambda done, total, calls=calls: calls.append((done, total)),
            **options,
        )
        seen.append((result, digests(tmp_path / name)))
        assert calls[-1] == (4300, 4300)
        assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert len(seen[0][1]) == 6 * 3
    first = seen[0]
    for other in seen[1:]:
        assert other == first
        for dataset, summed in other[0].items():
            ours = summed["histograms"]["control"].view(flow=True)
            np.testing.assert_array_equal(ours, first[0][dataset]["histograms"]["control"].view(flow=True))


def test_errors_reach_the_user_from_a_dask_worker(fileset, processor, cluster):
    source = "def build(events, shifts):\n    return {'signal': events.Tau.ptt}\n"
    with pytest.raises(InputError, match=r"no field 'ptt'[\s\S]*processor.py, line 2[\s\S]*expected: pt"):
        process_files(fileset, processor(source), executor="dask", client=cluster)


@pytest.mark.slow
def test_a_cluster_of_its_own_is_closed_again(fileset, processor, tmp_path):
    source = (
        "import awkward as ak, os\n"
        "def build(events, shifts):\n"
        "    i = ak.local_index(events, axis=0)\n"
        "    size = float(os.environ['MALLOC_MMAP_THRESHOLD_'])\n"
        "    return {'signal': ak.zip({'entry_index': i, 'size': 0 * i + size, 'pid': 0 * i + os.getpid()})}\n"
    )
    made = processor(
        source, regions={"signal": RegionSpec(columns=("size", "pid"))}, variations=(Variation("nominal"),)
    )
    process_files(fileset, made, executor="dask", workers=1, chunk_size=1000)
    table = EventTable.from_parquet(tmp_path / "out", features=("size", "pid"))
    assert (table.column("size") == 268435456).all()
    pid = int(table.column("pid")[0])
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("layout", ["rntuple", "rntuple_counters", "rntuple_vectors"])
def test_rntuple_gives_what_the_ttree_gives(nano, processor, tmp_path, layout):
    tables = []
    for kind in ("ttree", layout):
        path = nano(tmp_path / kind / "events.root", 900, 4, kind) if _folder(tmp_path / kind) else None
        result = process_files({"data": path}, processor(folder=f"out_{kind}"), chunk_size=250)
        features = ("tau_pt", "met", "n_jets", "jet_charge")
        folder = tmp_path / f"out_{kind}" / "data" / "signal" / "nominal"
        tables.append((EventTable.from_parquet(folder, features=features, weight="weight"), result["data"]))
    (a, first), (b, second) = tables
    order, other = (np.lexsort(t.x.T) for t in (a, b))
    np.testing.assert_array_equal(a.x[order], b.x[other])
    np.testing.assert_array_equal(a.weight[order], b.weight[other])
    assert second["sumw"] == pytest.approx(first["sumw"], rel=1e-14)
    np.testing.assert_allclose(
        second["histograms"]["control"].values(flow=True), first["histograms"]["control"].values(flow=True)
    )


def _folder(path: Path) -> bool:
    path.mkdir()
    return True


def test_an_earlier_run_leaves_no_tables_behind(nano, processor, tmp_path):
    path = nano(tmp_path / "a.root", 900)
    process_files({"data": path}, processor(), chunk_size=300)
    notes = tmp_path / "out/data/signal/nominal/notes.parquet"
    notes.write_text("the user's own")
    result = process_files({"data": path}, processor(), chunk_size=500)["data"]
    written = {file for files in result["files"]["signal"].values() for file in files}
    assert set(digests(tmp_path / "out")) == written | {notes.relative_to(tmp_path / "out").as_posix()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "thread"}, r"unknown executor 'thread'[\s\S]*threads"),
        ({"schema": "nanoAODD"}, r"unknown schema 'nanoAODD'[\s\S]*nanoaod"),
        ({"schema": dict}, "dict is not a coffea schema"),
        ({"workers": 0}, "workers = 0"),
        ({"chunk_size": 0}, "chunk_size = 0"),
        ({"executor": "dask", "client": "nonsense://"}, "no Dask scheduler answers"),
    ],
)
def test_argument_errors(fileset, processor, options, message):
    with pytest.raises(ConfigError, match=message):
        process_files(fileset, processor(), **options)


def test_file_errors(nano, processor, tmp_path):
    good = nano(tmp_path / "good.root", 100)
    empty = nano(tmp_path / "empty.root", 0)
    (tmp_path / "text.root").write_text("not a ROOT file, but long enough to have a header")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "good.root").write_bytes(good.read_bytes())
    for files, kind, message in (
        ({"d": tmp_path / "god.root"}, InputError, r"god.root does not exist[\s\S]*good.root"),
        ({"d": tmp_path / "text.root"}, InputError, "not a readable ROOT file"),
        ({"d": [good, good]}, InputError, "dataset 'd' has a file twice"),
        ({"d": [good, copy / "good.root"]}, InputError, "dataset 'd' has a file twice"),
        ({"d": empty}, InputError, r"dataset 'd' has no events\n  where: \S*empty.root"),
        ({"d": []}, InputError, "no files are given"),
        ({}, ConfigError, "the fileset is empty"),
        ({"../d": good}, ConfigError, "dataset name '../d'"),
    ):
        with pytest.raises(kind, match=message):
            process_files(files, processor())
    with pytest.raises(InputError, match=r"no tree 'Evts'[\s\S]*expected: Events"):
        process_files({"d": good}, processor(), tree="Evts")
    assert process_files({"d": [good, empty]}, processor())["d"]["n_events"] == 100


def test_a_file_that_changed_is_read_anew(nano, processor, tmp_path):
    for n in (100, 250):
        path = nano(tmp_path / "a.root", n)
        assert process_files({"data": path}, processor())["data"]["n_events"] == n


def test_any_callable_is_a_processor(fileset):
    result = process_files(fileset, _count, chunk_size=1000)
    assert result == {"signal": 2200, "background": 2100}
    with pytest.raises(InputError, match=r"processing failed: ZeroDivisionError[\s\S]*s0.root, entries 0 to"):
        process_files(fileset, _fail)


def _fail(events):
    return len(events) / 0


def _count(events):
    return {events.metadata["dataset"]: len(events)}


def test_missing_coffea_names_the_extra(fileset, processor, monkeypatch):
    monkeypatch.setitem(sys.modules, "coffea.processor", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'neyman\[coffea\]'"):
        process_files(fileset, processor())


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from neyman.events import *
open("processor.py", "w").write('''
import awkward as ak, time
def build(events, shifts):
    time.sleep(0.5)
    i = ak.local_index(events, axis=0)
    return {"signal": ak.zip({"entry_index": i, "a": i})}
''')
made = TableProcessor(PythonRef.parse("processor.py:build"), (Variation("nominal"),),
                      {"signal": RegionSpec(columns=("a",))}, "out")
process_files({"d": sys.argv[1]}, made, executor=sys.argv[2], chunk_size=10,
              progress=lambda *done: print(*done, flush=True))
"""


def test_control_c_stops_at_once(nano, tmp_path):
    path = nano(tmp_path / "a.root", 1000)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(path), "threads"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    assert time.monotonic() - start < 10
    assert not list(tmp_path.rglob("*.part"))


REAL = """\
import awkward as ak

def build(events, shifts):
    jets = events.Jet[events.Jet.pt > 30]
    columns = {
        "entry_index": ak.local_index(events, axis=0),
        "n_jets": ak.num(jets),
        "ht": ak.sum(jets.pt, axis=1),
        "mass": ak.fill_none(ak.firsts(jets[:, :1] + jets[:, :1]).mass, 0.0),
        "n_muons": ak.num(events.Muon),
    }
    return {"signal": ak.zip(columns)}
"""


@pytest.mark.parametrize(
    "name", ["nano_dimuon", "nano_tt_v12", "nano_tt_v15", "nanoAOD_2015_CMS_Open_Data_ttbar"]
)
def test_nanoaod_in_the_wild(shared_data, processor, tmp_path, name):
    import uproot

    path = shared_data / "nanoaod" / f"{name}.root"
    columns = ("n_jets", "ht", "mass", "n_muons")
    made = processor(
        REAL, regions={"signal": RegionSpec(columns=columns)}, variations=(Variation("nominal"),)
    )
    process_files({"data": path}, made)
    table = EventTable.from_parquet(tmp_path / "out", features=columns, weight="weight", extra=("entry",))
    with uproot.open(path) as file:
        pt = file["Events/Jet_pt"].array()
        muons = file["Events/nMuon"].array()
    order = np.argsort(table.column("entry"))
    expected = [sum(p > 30 for p in jets) for jets in pt.tolist()]
    np.testing.assert_array_equal(table.column("n_jets")[order], expected)
    np.testing.assert_array_equal(table.column("n_muons")[order], muons)


def test_physlite(shared_data, processor, tmp_path):
    source = (
        "import awkward as ak\n"
        "def build(events, shifts):\n"
        "    i = ak.local_index(events, axis=0)\n"
        "    return {'signal': ak.zip({'entry_index': i, 'n': ak.num(events.Jets), "
        "'ht': ak.sum(events.Jets.pt, axis=1) / 1000})}\n"
    )
    made = processor(
        source, regions={"signal": RegionSpec(columns=("n", "ht"))}, variations=(Variation("nominal"),)
    )
    path = shared_data / "nanoaod" / "PHYSLITE_example.root"
    result = process_files({"data": path}, made, tree="CollectionTree", schema="physlite")
    assert result["data"]["n_events"] == 100
    assert EventTable.from_parquet(tmp_path / "out", features=("n", "ht")).column("ht").max() > 20

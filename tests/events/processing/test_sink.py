"""ParquetSink: names, retries, what it refuses, and the manifest."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest

from neyman.errors import ConfigError, InputError
from neyman.events import EventTable
from neyman.events.processing.chunk import entry_ids
from neyman.events.processing.sink import ParquetSink


class Events(list):
    """What the sink needs of NanoEvents."""

    def __init__(self, start, stop, dataset="ttbar", uuid="u1", name="/data/a.root"):
        super().__init__(range(start, stop))
        self.fields: list[str] = []
        self.metadata = {
            "dataset": dataset, "filename": name, "fileuuid": uuid, "entrystart": start, "entrystop": stop
        }  # fmt: skip


def columns(events, n=None):
    ids = entry_ids(events)[:n]
    x = (ids % 1000).astype(np.float64) / 3
    return {"x": x, "n": ids % 5, "weight": x + 1 / 3, "weight_puUp": x, "entry": ids}


def written(sink, edges, **options):
    chunks = [Events(a, b, **options) for a, b in pairwise(edges)]
    return [sink.write(events, columns(events)) for events in chunks]


def test_a_table_of_all_chunks(tmp_path):
    sink = ParquetSink(tmp_path)
    rows = written(sink, (0, 100, 250, 300)) + written(sink, (0, 80), uuid="u2")
    manifest = sink.finish(reversed(rows))
    assert manifest["ttbar"] == sorted(rows, key=lambda row: (row["file"], row["start"]))
    document = json.loads((tmp_path / "ttbar" / "manifest.json").read_text())
    assert document["n_rows"] == 380
    assert document["files"] == manifest["ttbar"]
    table = EventTable.from_parquet(tmp_path / "ttbar", features=["x"], weight="weight", extra=["entry"])
    assert len(set(table.extra["entry"])) == 380
    schema = pq.read_schema(tmp_path / rows[0]["path"])
    assert {n: str(schema.field(n).type) for n in schema.names} == {
        "x": "float", "n": "int64", "weight": "double", "weight_puUp": "double", "entry": "int64"
    }  # fmt: skip
    column = pq.ParquetFile(tmp_path / rows[0]["path"]).metadata.row_group(0).column(0)
    assert "DICTIONARY" not in "".join(column.encodings)


def test_a_retried_chunk_overwrites(tmp_path):
    sink = ParquetSink(tmp_path)
    events = Events(0, 100)
    first = sink.write(events, columns(events), "signal/nominal")
    again = sink.write(events, columns(events), "signal/nominal")
    assert again == first
    fewer = sink.write(events, columns(events, 10), "signal/nominal")
    assert fewer["path"] == first["path"]
    assert fewer["n_rows"] == 10
    none = sink.write(events, columns(events, 0), "signal/nominal")
    assert (none["path"], none["n_rows"]) == (None, 0)
    assert not list(tmp_path.rglob("*.parquet"))
    assert sink.finish([none])["ttbar"][0]["stop"] == 100


def test_awkward_columns_and_a_moved_file_are_fine(tmp_path):
    events, moved = Events(0, 3), Events(0, 3, name="root://elsewhere//store/a.root")
    row = ParquetSink(tmp_path).write(events, {"x": ak.Array([1.0, 2.0, 3.0]), "b": np.array([True] * 3)})
    assert ParquetSink(tmp_path).write(moved, {"x": np.ones(3)})["path"] == row["path"]


def test_what_other_runs_left_is_removed_and_nothing_else(tmp_path):
    sink = ParquetSink(tmp_path)
    old = written(sink, (0, 150, 300))
    other = written(sink, (0, 10), dataset="data")
    mine = [tmp_path / "ttbar" / name for name in ("notes.parquet", "x-1-2.parquet", "plot.png")]
    for path in mine:
        path.write_text("the user's own")
    part = tmp_path / "ttbar" / f".{(tmp_path / old[0]['path']).name}.abc.part"
    part.write_text("of a worker that was killed")
    rows = written(sink, (0, 100, 200, 300))
    sink.finish(rows)
    left = {path.name for path in (tmp_path / "ttbar").iterdir()}
    assert left == {r["path"].split("/")[-1] for r in rows} | {p.name for p in mine} | {"manifest.json"}
    assert (tmp_path / other[0]["path"]).is_file()


def test_a_half_written_file_has_no_name(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    events = Events(0, 10)
    with pytest.raises(InputError, match=r"cannot write .*parquet: No space left"):
        ParquetSink(tmp_path).write(events, columns(events))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_rows_are_checked(tmp_path):
    sink = ParquetSink(tmp_path)
    rows = written(sink, (0, 100, 200))
    for bad, message in (
        ([*rows, rows[0]], r"entries 0 to 100 are written twice[\s\S]*ttbar/.*-0-100.parquet and"),
        (rows + written(sink, (150, 300)), "entries 150 to 200 are written twice"),
    ):
        with pytest.raises(InputError, match=message):
            sink.finish(bad)
    with pytest.raises(InputError, match=r"two files with events have the same name here[\s\S]*of files"):
        sink.finish([rows[0], rows[0] | {"file": rows[0]["file"][:8] + "x"}])
    sink.write(Events(0, 100), {"x": np.ones(100)})  # of another processor
    with pytest.raises(InputError, match=r"is not the same any more[\s\S]*no other run[\s\S]*checkpoints"):
        sink.finish(rows)
    (tmp_path / rows[1]["path"]).unlink()
    sink.write(Events(0, 100), columns(Events(0, 100)))
    with pytest.raises(InputError, match=r"a table that a worker has written is not there[\s\S]*share"):
        sink.finish(rows)


def test_columns_are_checked(tmp_path):
    sink, events = ParquetSink(tmp_path), Events(50, 60)
    bad = np.ones(10)
    bad[4] = np.nan
    for given, kind, message in (
        ({"x": bad}, InputError, r"x is nan in event 4;[\s\S]*a.root, entries 50 to 60 \(ttbar\)"),
        ({"x": np.full(3, 1e39)}, InputError, "x is inf in event 0"),
        ({"x": np.ones(10), "y": np.ones(9)}, InputError, r"different lengths\n  where: x: 10, y: 9"),
        ({"x": ak.Array([[1.0], []])}, InputError, "x is not one number per event"),
        ({"x": ak.Array([1.0, None])}, InputError, "x has no value in 1 of 2 events"),
        ({}, ConfigError, "no columns are given"),
    ):
        with pytest.raises(kind, match=message):
            sink.write(events, given)
    with pytest.raises(ConfigError, match=r"table name '\.\.' is not usable"):
        sink.write(events, {"x": np.ones(10)}, "../x")
    with pytest.raises(ConfigError, match=r"cannot write to 's3://bucket'[\s\S]*shared file system"):
        ParquetSink("s3://bucket")
    with pytest.raises(InputError, match=r"do not say which chunk[\s\S]*no dataset, filename"):
        sink.write(SimpleNamespace(metadata=None), {"x": np.ones(10)})

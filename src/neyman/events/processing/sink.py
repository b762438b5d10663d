"""Columns of selected events to Parquet, one file a chunk: what a processor writes in place of accumulating arrays.

Accumulated columns cost time that grows with the square of the number of chunks, and memory that grows with it.
A :class:`ParquetSink` writes a file for each chunk and gives back a small row that says so; the rows are summed as
a list, and :meth:`ParquetSink.finish` makes a manifest of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import ConfigError, InputError
from neyman.events.columns import Columns, as_numbers, check_finite, write_parquet
from neyman.events.processing.chunk import Chunk
from neyman.events.processing.selection import check_name
from neyman.files import sha256, write_json

MANIFEST = "manifest.json"
_OURS = re.compile(r"[0-9a-f]{8}-\d+-\d+\.parquet|\.[0-9a-f]{8}-\d+-\d+\.parquet\..*\.part")


class Row(TypedDict):
    """What is written of a chunk: a line of the manifest."""

    path: str | None
    n_rows: int
    sha256: str | None
    dataset: str
    table: str
    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class ParquetSink:
    """Writes ``<folder>/<dataset>/<table>/<file>-<start>-<stop>.parquet``.

    The name depends on the chunk alone and files appear under it only when complete: a chunk that is processed
    again, after a failure or a lost worker, overwrites its own file.

    Parameters
    ----------
    folder
        Local, or on a file system that all workers and the main process see under this path.

    Raises
    ------
    ConfigError
        The folder is a URL.

    Examples
    --------
    In a coffea processor::

        row = self.sink.write(events, {"mass": mass, "weight": weight, "entry": entry_ids(events)[mask]})
        return {"rows": [row]}                        # in process
        self.sink.finish(accumulator["rows"])         # in postprocess
    """

    folder: str | os.PathLike[str]

    def __post_init__(self) -> None:
        if "://" in str(self.folder):
            raise ConfigError(
                f"a sink cannot write to {str(self.folder)!r}",
                expected="a folder on a local or shared file system, where a finished file can be renamed",
                fix="write to a folder and copy it when the run is over",
            )
        object.__setattr__(self, "folder", str(Path(self.folder).absolute()))

    def write(self, events: Chunk | Any, columns: Mapping[str, ArrayLike | ak.Array], table: str = "") -> Row:
        """Write the columns of a chunk.

        Parameters
        ----------
        events
            The NanoEvents of the chunk as coffea handed them over, for its file and entries.
        columns
            Arrays of one length, one number a selected event. Floating-point columns become float32; a column
            ``weight`` or ``weight_...`` stays float64. No file is written of no events.
        table
            Where to put it below the folder of the dataset, such as ``"signal/nominal"``.

        Returns
        -------
        Row of the manifest: ``path`` relative to the folder (None without events), ``n_rows``, ``sha256``,
        ``dataset``, ``table``, ``file``, ``start``, ``stop``.

        Raises
        ------
        InputError
            A column is jagged, masked, not finite, or of another length (names column, row and file); or the
            file cannot be written.
        """
        chunk = events if isinstance(events, Chunk) else Chunk(events)
        for part in table.split("/") if table else ():
            check_name("table", part)
        flat = _flat(columns, chunk)
        name = f"{chunk.file[:8]}-{chunk.start}-{chunk.stop}.parquet"
        relative = "/".join(filter(None, (chunk.dataset, table, name)))
        path = Path(self.folder) / relative
        n_rows = len(next(iter(flat.values())))
        if n_rows:
            write_parquet(path, flat)
        else:
            path.unlink(missing_ok=True)
        return {
            "path": relative if n_rows else None,
            "n_rows": n_rows,
            "sha256": sha256(path) if n_rows else None,
            "dataset": chunk.dataset,
            "table": table,
            "file": chunk.file,
            "start": chunk.start,
            "stop": chunk.stop,
        }

    def finish(self, rows: Iterable[Row]) -> dict[str, list[Row]]:
        """Check what the chunks have written and write ``<folder>/<dataset>/manifest.json`` for each dataset.

        Files of the sink that are not among the rows, from a run with other chunks, are removed from these
        datasets; no other file is touched.

        Returns
        -------
        The rows of each dataset in a fixed order, which is what the manifest holds.

        Raises
        ------
        InputError
            Two chunks overlap, so that events would count twice, or have the same name; or a file is not there, or
            another run has written it since.
        """
        ordered = sorted(rows, key=lambda row: (row["dataset"], row["table"], row["file"], row["start"]))
        for one, next_one in pairwise(ordered):
            same = all(one[k] == next_one[k] for k in ("dataset", "table", "file"))
            if same and next_one["start"] < one["stop"]:
                raise InputError(
                    f"entries {next_one['start']} to {min(one['stop'], next_one['stop'])} are written twice",
                    where=f"{one['path']} and {next_one['path']}",
                    expected="every entry of a file in one chunk",
                    fix="give each file once, and rows of one run only",
                )
        self.check(ordered)
        datasets: dict[str, list[Row]] = {}
        for row in ordered:
            datasets.setdefault(row["dataset"], []).append(row)
        for dataset, of_dataset in datasets.items():
            self.remove_stale(dataset, [row["path"] for row in of_dataset if row["path"] is not None])
            n_rows = sum(row["n_rows"] for row in of_dataset)
            document = {"version": 1, "dataset": dataset, "n_rows": n_rows, "files": of_dataset}
            write_json(Path(self.folder) / dataset / MANIFEST, document)
        return datasets

    def check(self, rows: Iterable[Row]) -> None:
        """Raise an :class:`InputError` unless the files of the rows are there, each as its row says.

        Rows may be older than the run, where they come from a checkpoint.
        """
        seen: dict[str, Row] = {}
        for row in rows:
            if row["path"] is None:
                continue
            path = Path(self.folder) / row["path"]
            if row["path"] in seen:
                raise InputError(
                    "two files with events have the same name here, and one has replaced the other",
                    where=f"{path}, of files {seen[row['path']]['file']} and {row['file']}",
                    fix="put the two files into different datasets",
                )
            seen[row["path"]] = row
            there = path.is_file()
            if not there or sha256(path) != row["sha256"]:
                raise InputError(
                    f"a table that a worker has written {'is not the same any more' if there else 'is not there'}",
                    where=str(path),
                    expected="a folder that workers and main process share, and no other run writes to",
                    fix="choose such a folder; if the file was removed or replaced since, remove the checkpoints and "
                    "run again",
                )

    def remove_stale(self, dataset: str, keep: Sequence[str]) -> None:
        """Remove the files that sinks have written for a dataset, but for those to keep."""
        kept = {Path(self.folder) / path for path in keep}
        for path in (Path(self.folder) / dataset).rglob("*"):
            if _OURS.fullmatch(path.name) and path not in kept:
                path.unlink(missing_ok=True)


def _flat(columns: Mapping[str, ArrayLike | ak.Array], chunk: Chunk) -> Columns:
    if not columns:
        raise ConfigError("no columns are given to be written", where=chunk.where)
    flat = {name: _column(name, column, chunk) for name, column in columns.items()}
    lengths = {name: len(column) for name, column in flat.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            "columns have different lengths",
            where=", ".join(f"{name}: {length}" for name, length in lengths.items()) + f"; {chunk.where}",
            fix="apply the same mask to all of them",
        )
    return flat


def _column(name: str, column: ArrayLike | ak.Array, chunk: Chunk) -> NDArray[Any]:
    numbers = as_numbers(column, name, chunk.where)
    if numbers.dtype.kind == "f":
        precise = name == "weight" or name.startswith("weight_")
        with np.errstate(over="ignore"):
            numbers = numbers.astype(np.float64 if precise else np.float32)
        check_finite(numbers, name, f"the selected events of {chunk.where}")
    return numbers

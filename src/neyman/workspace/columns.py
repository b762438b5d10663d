"""Numeric columns of Parquet files with one row an event: whole, or block by block.

* `read_columns` reads columns into memory.
* `ColumnFile` reads blocks of events one after the other and never holds more than a few of them.

A folder of Parquet files is read as one file, in the order of their names. float32 columns stay float32; every other
numeric type becomes float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neyman.errors import WorkspaceError, nearest

Column: TypeAlias = NDArray[np.floating[Any]]
_BLOCK = 1 << 17
_BUFFER = 1 << 18  # bytes that the reader of one column asks for at a time


class RowGroup(NamedTuple):
    """The unit in which a Parquet file is read: its rows `start` to `stop`."""

    path: Path
    start: int
    stop: int


class ColumnFile:
    """Columns of a Parquet file, or of a folder of them.

    Parameters
    ----------
    path
        The file or folder.
    names
        Columns to read; repeats are dropped.

    Attributes
    ----------
    n_events
        Number of events.
    row_groups
        Row groups of all files, in order.

    Raises
    ------
    WorkspaceError
        When a file cannot be read, a column is missing or does not hold numbers, or a folder holds no Parquet file.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(dict.fromkeys(names))
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files:
            raise WorkspaceError(f"{path.name} holds no Parquet file", where=str(path))
        self.row_groups: list[RowGroup] = []
        self._single = set(self.names)  # columns that are float32 everywhere
        for file in files:
            self._open(file)
        self.n_events = sum(group.stop - group.start for group in self.row_groups)

    def _open(self, path: Path) -> None:
        with _reading(path):
            metadata = pq.read_metadata(path)
            types = {column.name: column.type for column in metadata.schema.to_arrow_schema()}
        for name in self.names:
            if name not in types:
                raise WorkspaceError(
                    f"{path.name} has no column {name!r}",
                    where=str(path),
                    fix=f"nearest: {nearest(name, types)}",
                )
            if not (pa.types.is_floating(types[name]) or pa.types.is_integer(types[name])):
                raise WorkspaceError(
                    f"column {name!r} is {types[name]}", where=str(path), expected="one number an event"
                )
            if not pa.types.is_float32(types[name]):
                self._single.discard(name)
        start = 0
        for i in range(metadata.num_row_groups):
            stop = start + metadata.row_group(i).num_rows
            self.row_groups.append(RowGroup(path, start, stop))
            start = stop

    def dtype(self, name: str) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """Return the type in which a column is read."""
        return np.dtype(np.float32) if name in self._single else np.dtype(np.float64)

    def blocks(
        self, size: int = _BLOCK, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        """Yield the number of the first event and the columns of up to `size` events, from `start` to `stop`, the
        end by default.

        Raises
        ------
        WorkspaceError
            When a file cannot be read, or an event has no value.
        """
        stop = self.n_events if stop is None else stop
        first = 0
        for path, groups in itertools.groupby(self.row_groups, lambda group: group.path):
            wanted, begin = [], first
            for i, group in enumerate(groups):
                n = group.stop - group.start
                if start < first + n and first < stop:
                    wanted.append(i)
                elif not wanted:
                    begin += n
                first += n
            if wanted:
                yield from self._read(path, wanted, begin, size, start, stop)

    def _read(
        self, path: Path, groups: list[int], first: int, size: int, start: int, stop: int
    ) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        """Yield blocks of some row groups of a file, of which the first event is number `first` of all."""
        with _reading(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
            for batch in file.iter_batches(size, row_groups=groups, columns=list(self.names)):
                skip = max(start - first, 0)
                part = batch.slice(skip, max(stop - first - skip, 0))
                if part.num_rows:
                    at = first + skip
                    yield at, {name: self._column(part.column(name), name, at) for name in self.names}
                first += batch.num_rows
                if first >= stop:
                    return

    def _column(self, values: pa.Array, name: str, start: int) -> pa.Array:
        if values.null_count:
            first = start + int(np.argmin(values.is_valid().to_numpy(zero_copy_only=False)))
            raise WorkspaceError(
                f"column {name!r} ({values.type}) is empty in {values.null_count} of {len(values)} events",
                where=f"{self.path}, first at event {first}",
                expected="one number an event",
            )
        return values if name in self._single else values.cast(pa.float64(), safe=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise WorkspaceError(
            f"{path.name} is not a readable Parquet file: {error}", where=str(path)
        ) from error


def read_columns(
    path: Path, names: Sequence[str], start: int = 0, stop: int | None = None
) -> dict[str, Column]:
    """Read numeric columns of the events `start` to `stop` (all by default) of a Parquet file or of a folder of
    them, float32 as float32 and everything else as float64.

    Raises
    ------
    WorkspaceError
        When a file cannot be read, a column is missing, does not hold numbers, or is empty for an event.
    """
    file = ColumnFile(path, names)
    stop = file.n_events if stop is None else stop
    table: dict[str, Column] = {name: np.empty(stop - start, file.dtype(name)) for name in file.names}
    for first, block in file.blocks(start=start, stop=stop):
        for name, values in block.items():
            table[name][first - start : first - start + len(values)] = values
    # Arrow keeps what it has read with for the next file, a few hundred megabytes of a large one.
    pa.default_memory_pool().release_unused()
    return table

"""Numeric columns of Parquet files with one row an event: whole, or block by block.

* `read_columns` reads columns into memory.
* `ColumnFile` reads blocks of events one after the other and never holds more than a few of them.

float32 columns stay float32; every other numeric type becomes float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neyman.errors import WorkspaceError, nearest

Column: TypeAlias = NDArray[np.floating[Any]]
_BLOCK = 1 << 17
_BUFFER = 1 << 18  # bytes that the reader of one column asks for at a time


class ColumnFile:
    """Columns of a Parquet file.

    Parameters
    ----------
    path
        The file.
    names
        Columns to read; repeats are dropped.

    Raises
    ------
    WorkspaceError
        When the file cannot be read, a column is missing or does not hold numbers.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(dict.fromkeys(names))
        with self._reading():
            metadata = pq.read_metadata(path)
            self._types = {column.name: column.type for column in metadata.schema.to_arrow_schema()}
        self.n_events: int = metadata.num_rows
        for name in self.names:
            if name not in self._types:
                raise WorkspaceError(
                    f"{path.name} has no column {name!r}",
                    where=str(path),
                    fix=f"nearest: {nearest(name, self._types)}",
                )
            kind = self._types[name]
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                raise WorkspaceError(
                    f"column {name!r} is {kind}", where=str(path), expected="one number an event"
                )

    def dtype(self, name: str) -> np.dtype[np.float32] | np.dtype[np.float64]:
        """Return the type in which a column is read."""
        return np.dtype(np.float32) if pa.types.is_float32(self._types[name]) else np.dtype(np.float64)

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        """Yield the number of the first event and the columns of up to `size` events, until the end.

        Raises
        ------
        WorkspaceError
            When the file cannot be read, or an event has no value.
        """
        start = 0
        with self._reading(), pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER) as file:
            for batch in file.iter_batches(size, columns=list(self.names)):
                yield start, {name: self._column(batch.column(name), name, start) for name in self.names}
                start += batch.num_rows

    def _column(self, values: pa.Array, name: str, start: int) -> pa.Array:
        if values.null_count:
            first = start + int(np.argmin(values.is_valid().to_numpy(zero_copy_only=False)))
            raise WorkspaceError(
                f"column {name!r} ({self._types[name]}) is empty in {values.null_count} of {len(values)} events",
                where=f"{self.path}, first at event {first}",
                expected="one number an event",
            )
        return values if pa.types.is_float32(values.type) else values.cast(pa.float64(), safe=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise WorkspaceError(
                f"{self.path.name} is not a readable Parquet file: {error}", where=str(self.path)
            ) from error


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """Read numeric columns of a Parquet file, float32 as float32 and everything else as float64.

    Raises
    ------
    WorkspaceError
        When the file cannot be read, a column is missing, does not hold numbers, or is empty for an event.
    """
    file = ColumnFile(path, names)
    table: dict[str, Column] = {name: np.empty(file.n_events, file.dtype(name)) for name in file.names}
    for start, block in file.blocks():
        for name, values in block.items():
            table[name][start : start + len(values)] = values
    # Arrow keeps what it has read with for the next file, a few hundred megabytes of a large one.
    pa.default_memory_pool().release_unused()
    return table

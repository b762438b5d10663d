"""Weighted events as columns of log-ratios, in memory or streamed from a file.

* `Events` holds its columns in memory: data sets, toys, and references that fit.
* `StreamedEvents` reads its columns from a Parquet file at every evaluation and holds a few blocks at a time.

Both are an `EventSource`, all that the unbinned term asks for. Columns may be float32 or float64 and stay so: the
term computes in float64, one cache-sized chunk at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.workspace.columns import Column, ColumnFile

Array = NDArray[np.float64]
_IN_FLIGHT = 4  # blocks: one read, one ready, and up to two being evaluated
_READER = (
    200  # bytes of the Parquet reader's pages and buffers per column and kilobyte of budget, see `block_size`
)


class Block(NamedTuple):
    """Consecutive events.

    Parameters
    ----------
    start
        Number of the first event.
    weight
        float64, shape ``(n,)``.
    columns
        float32 or float64, each of shape ``(n,)``.
    """

    start: int
    weight: torch.Tensor
    columns: Mapping[str, torch.Tensor]


class EventSource(Protocol):
    """Weighted events that are read block by block."""

    def __len__(self) -> int: ...

    @property
    def columns(self) -> Collection[str]:
        """Names of the columns."""

    @property
    def weight(self) -> Array:
        """Weights of all events, shape ``(n_events,)``."""

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Yield all events with the columns `names`, in order."""

    def with_weight(self, weight: Array) -> Self:
        """Return the same events with other weights."""

    def take(self, rows: NDArray[np.intp], weight: Array) -> Events:
        """Return some events, ascending, with new weights."""

    def place(self, row: int) -> str:
        """Return how a message calls an event."""


@dataclass(frozen=True)
class Events:
    """Weighted events in memory.

    Parameters
    ----------
    weight
        Event weights (1 for data, any sign for Asimov sets), shape ``(n_events,)``.
    columns
        Log-ratio columns by name, float32 or float64, each of shape ``(n_events,)``.
    """

    weight: Array
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.weight)

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Yield all events as one block that shares their memory."""
        for name in names:
            if np.shape(self.columns[name]) != np.shape(self.weight):
                raise LikelihoodError(
                    f"column {name!r} has shape {np.shape(self.columns[name])}",
                    expected=f"one number for each of {len(self)} events",
                )
        yield Block(0, _tensor(self.weight).double(), {name: _tensor(self.columns[name]) for name in names})

    def with_weight(self, weight: Array) -> Events:
        """Return the same events with other weights."""
        return Events(weight, self.columns)

    def take(self, rows: NDArray[np.intp], weight: Array) -> Events:
        """Return some events with new weights."""
        return Events(weight, {name: column[rows] for name, column in self.columns.items()})

    def place(self, row: int) -> str:
        """Return how a message calls an event."""
        return f"event {row}"


class StreamedEvents:
    """Weighted events in a Parquet file that are read at every evaluation, while the last block is evaluated.

    Files without dictionary encoding and with a fast codec (snappy, lz4) are read fastest.

    Parameters
    ----------
    path
        The file, one row an event.
    weight
        Column of the weights; None for weights of 1.
    columns
        Columns of log-ratios.
    chunk
        Events read at a time. A few such blocks are held, and the reader's buffers.

    Raises
    ------
    WorkspaceError
        When the file cannot be read, a column is missing, does not hold numbers, or is empty for an event.
    """

    def __init__(
        self, path: Path, weight: str | None, columns: Sequence[str], *, chunk: int = 1 << 16
    ) -> None:
        self.path, self.columns, self.chunk = Path(path), tuple(columns), chunk
        self._weight: str | Array | None = weight
        self._n_events = ColumnFile(self.path, [*self.columns, *([weight] if weight else [])]).n_events

    def __len__(self) -> int:
        return self._n_events

    @property
    def weight(self) -> Array:
        """Weights of all events, shape ``(n_events,)``; read from the file unless they were given."""
        if isinstance(self._weight, np.ndarray):
            return self._weight
        parts = [block.weight.numpy() for block in self.blocks([])]
        return np.concatenate(parts) if parts else np.zeros(0)

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Yield all events with the columns `names`, reading one block ahead."""
        named = self._weight if isinstance(self._weight, str) else None
        wanted = [*names, *([named] if named else [])]
        if not wanted:
            for start in range(0, len(self), self.chunk):
                given = self._ones_or_given(start, min(start + self.chunk, len(self)))
                yield Block(start, torch.from_numpy(given), {})
            return
        file = ColumnFile(self.path, wanted)
        if file.n_events != len(self):
            raise LikelihoodError(
                f"{self.path.name} now holds {file.n_events} events, it held {len(self)}",
                where=str(self.path),
                fix="load the workspace again",
            )
        batches = file.blocks(self.chunk)
        with ThreadPoolExecutor(1, "read-events") as reader:
            ahead = reader.submit(next, batches, None)
            while (batch := ahead.result()) is not None:
                ahead = reader.submit(next, batches, None)
                start, arrays = batch
                columns = {name: torch.utils.dlpack.from_dlpack(values) for name, values in arrays.items()}
                del batch, arrays
                n = len(next(iter(columns.values())))
                weight = (
                    columns[named].double()
                    if named
                    else torch.from_numpy(self._ones_or_given(start, start + n))
                )
                yield Block(start, weight, columns)

    def _ones_or_given(self, start: int, stop: int) -> Array:
        return self._weight[start:stop] if isinstance(self._weight, np.ndarray) else np.ones(stop - start)

    def with_weight(self, weight: Array) -> StreamedEvents:
        """Return the same events with other weights, which are kept in memory."""
        same = copy.copy(self)
        same._weight = np.ascontiguousarray(weight, dtype=np.float64)
        return same

    def take(self, rows: NDArray[np.intp], weight: Array) -> Events:
        """Return some events, ascending, with new weights, in memory; reads the file once."""
        parts: dict[str, list[Column]] = {name: [] for name in self.columns}
        for block in self.blocks(self.columns):
            first, last = np.searchsorted(rows, [block.start, block.start + len(block.weight)])
            chosen = rows[first:last] - block.start
            for name in self.columns:
                parts[name].append(block.columns[name].numpy()[chosen])
        return Events(weight, {name: np.concatenate(part) for name, part in parts.items()})

    def place(self, row: int) -> str:
        """Return how a message calls an event."""
        return f"event {row} of {self.path}"


def _tensor(values: NDArray[np.floating]) -> torch.Tensor:
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # torch warns when it shares memory that must not be written.
    return torch.from_numpy(
        array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()
    )

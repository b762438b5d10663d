"""What a worker does for a distributed likelihood: it holds shards of events and computes sums over them.

A `Shard` is the result of a Dask task, so that Dask keeps it where it is, frees it when no client wants it any more,
and reads it again on another worker when its own is lost. Its events live beside it: a shard that is sent or written to
disk is a description of a few hundred bytes, and whoever gets it reads the events anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.cluster.code import check_here
from neyman.errors import LikelihoodError, NeymanError
from neyman.likelihood.density import Point, RatioModel, Ratios
from neyman.likelihood.events import Block, Events
from neyman.likelihood.passes import BoundEvents, Workers
from neyman.workspace.columns import read_columns

Array = NDArray[np.float64]
Work: TypeAlias = Callable[[Sequence[BoundEvents], Workers], Iterator[Any]]
_CPU = torch.device("cpu")
_EVALUATING = ThreadPoolExecutor(
    1, "likelihood"
)  # beside the event loop, which must go on answering the scheduler


class Extent(NamedTuple):
    """Rows `start` to `stop` of a Parquet file with this `digest` of its footer."""

    path: str
    start: int
    stop: int
    digest: str


class Failure(NamedTuple):
    """What a worker raised over a shard."""

    error: NeymanError


@dataclass(frozen=True)
class ShardEvents(Events):
    """Consecutive events of a larger sample `path`, of which the first is number `first`."""

    first: int
    path: str

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Yield all events as one block that shares their memory."""
        for block in super().blocks(names):
            yield block._replace(start=self.first)

    def with_weight(self, weight: Array) -> ShardEvents:
        """Return the same events with other weights."""
        return replace(self, weight=weight)

    def place(self, row: int) -> str:
        """Return how a message calls an event."""
        return f"event {row} of {self.path}"


@dataclass(frozen=True)
class ShardFile:
    """Where the events of a shard are.

    Parameters
    ----------
    extents
        Rows of files, in order.
    weight
        Column of the weights; None for weights of 1.
    columns
        Columns of log-ratios.
    first
        Number of the first event in the whole sample.
    sample
        What messages call the sample: its path.
    """

    extents: tuple[Extent, ...]
    weight: str | None
    columns: tuple[str, ...]
    first: int
    sample: str

    def __len__(self) -> int:
        return sum(extent.stop - extent.start for extent in self.extents)

    def read(self) -> ShardEvents:
        """Read the events.

        Raises
        ------
        LikelihoodError
            When a file is not there or not the one that it was.
        WorkspaceError
            When it cannot be read, or an event has no value.
        """
        names = [*self.columns, *([self.weight] if self.weight else [])]
        parts = []
        for path, start, stop, digest in self.extents:
            if footer(Path(path)) != digest:
                raise LikelihoodError(
                    f"{Path(path).name} has changed since the likelihood was loaded",
                    where=path,
                    fix="load the workspace again",
                )
            parts.append(read_columns(Path(path), names, start, stop))
        table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        weight = table[self.weight] if self.weight else np.ones(len(self))
        weight = weight.astype(np.float64, copy=False)
        return ShardEvents(weight, {name: table[name] for name in self.columns}, self.first, self.sample)


def footer(path: Path) -> str:
    """Return the digest of a Parquet file's footer, which describes all that is in it.

    Raises
    ------
    LikelihoodError
        When this process cannot read the file.
    """
    try:
        with path.open("rb") as file:
            file.seek(-8, 2)
            size = int.from_bytes(file.read(4), "little")
            file.seek(-8 - min(size, file.tell() - 4), 2)
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise LikelihoodError(
            f"{path.name} cannot be read: {error}",
            where=str(path),
            fix="put the workspace where every worker sees it under the same path",
        ) from error


class Shard:
    """Consecutive events that are held with a model bound to them.

    Parameters
    ----------
    model
        The ratios.
    file
        Where the events are.
    where
        Channel and role, for messages.
    weight
        Weights that replace those of the file.
    """

    def __init__(self, model: RatioModel, file: ShardFile, where: str, weight: Array | None = None) -> None:
        self.model, self.file, self.where, self.weight = model, file, where, weight
        self._events: BoundEvents | None = None

    @property
    def events(self) -> BoundEvents:
        """The events, read when they are first asked for."""
        if self._events is None:
            source = self.file.read()
            if self.weight is not None:
                source = source.with_weight(self.weight)
            self._events = BoundEvents(self.model, source, _CPU, self.where)
        return self._events

    def reweighted(self, weight: Array, where: str) -> Shard:
        """Return the same events with other weights; columns are shared."""
        same = Shard(self.model, self.file, where, weight)
        same._events = self.events.with_weight(weight, where)
        return same

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_events": None}

    def __sizeof__(self) -> int:
        # Dask weighs results by it. Shared columns count once, where they were read.
        if self.weight is not None:
            return self.weight.nbytes
        return len(self.file) * 4 * (2 + len(self.file.columns))


# Tasks: what the shards are made by ------------------------------------------------------------------------


def hold(model: RatioModel, file: ShardFile, where: str, expected_code: str) -> Shard:
    """Read a shard, in a worker that runs the same neyman as the client."""
    check_here(expected_code)
    shard = Shard(model, file, where)
    _ = shard.events
    return shard


def reweight(shard: Shard, weight: Array, where: str) -> Shard:
    """Give a shard other weights."""
    return shard.reweighted(weight, where)


def expected(shard: Shard, alpha: Array, coefficients: Array, total_weight: float) -> Array:
    """Return the weights of the Asimov data over a shard of the reference."""
    point = shard.model.point(torch.from_numpy(alpha), 0, _CPU)
    with Workers(1) as workers:
        density = shard.events.densities(point, torch.from_numpy(coefficients), workers)
    return density * shard.events.source.weight / total_weight


def same(value: Any) -> Any:
    """Return the argument: data that Dask can send again when a worker is lost."""
    return value


# Evaluation: beside Dask's tasks, in one message to all workers --------------------------------------------


async def on_shards(key: str, wanted: Sequence[int], work: Work, *, dask_worker: Any) -> dict[int, Any]:
    """Return what `work` makes of each of the shards `wanted` that this worker holds, up to the first `Failure`."""
    data = dask_worker.data
    held = {i: data[name] for i in wanted if (name := f"{key}-{i}") in data}
    if not held:
        return {}
    threads = dask_worker.state.nthreads
    return await asyncio.get_running_loop().run_in_executor(_EVALUATING, _evaluate, held, work, threads)


def _evaluate(held: dict[int, Shard], work: Work, threads: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    with Workers(threads) as workers:
        try:
            results = work([shard.events for shard in held.values()], workers)
            for i in held:
                found[i] = next(results)
        except NeymanError as error:
            failed = next(i for i in held if i not in found)
            found[failed] = Failure(
                type(error)(error.what, where=error.where, expected=error.expected, fix=error.fix)
            )
    return found


def sums(
    shards: Sequence[BoundEvents],
    workers: Workers,
    *,
    alpha: Array,
    order: int,
    strict: bool,
    coefficients: Array | None,
) -> Iterator[Array]:
    """Yield the sums over each shard in a row of numbers for each point of the batch `alpha`."""
    point = shards[0].model.point(torch.from_numpy(alpha), order, _CPU, strict=strict)
    own = None if coefficients is None else torch.from_numpy(coefficients)
    for events in shards:
        yield events.sums(point, own, workers).packed().numpy()


def each(
    shards: Sequence[BoundEvents],
    workers: Workers,
    *,
    alpha: Array,
    order: int,
    work: Callable[[Ratios, torch.Tensor], torch.Tensor],
) -> Iterator[Array]:
    """Yield what `work` makes of the events of each shard."""
    point: Point = shards[0].model.point(torch.from_numpy(alpha), order, _CPU)
    for events in shards:
        yield torch.cat(list(events.each(point, work, workers))).numpy()


def first(
    shards: Sequence[BoundEvents],
    _: Workers,
    *,
    find: Callable[[BoundEvents], LikelihoodError | None],
) -> Iterator[LikelihoodError | None]:
    """Yield what is wrong with each shard."""
    yield from map(find, shards)


def total_weight(shards: Sequence[BoundEvents], _: Workers) -> Iterator[float]:
    """Yield the sum of the weights of each shard."""
    for events in shards:
        yield events.total_weight

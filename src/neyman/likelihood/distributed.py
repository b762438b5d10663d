r"""Events that stay on the workers of a Dask cluster; each evaluation sends parameters and receives sums.

`DistributedEvents` are an `EventSource` like events in memory or streamed, and the unbinned term does not see a
difference: ``Likelihood.load(folder, client=client)`` is an ordinary likelihood. The sample is cut into shards, by its
Parquet files alone and not by the workers. Each worker reads some of them once and keeps them. An evaluation is one
message to all workers and one answer of each, the sums of its shards, which are added here in the order of the shards.
So a result does not depend on how many workers there are or which of them was lost: it is the same to the last bit.

Shards are results of Dask tasks. Those of a lost worker are read again by the others, and the evaluation asks for what
is missing; a worker that comes later gets what is lost after that, and a new load spreads all shards evenly. Asimov
data are computed and kept where the reference is. Toys are drawn as they are locally, into the memory of the client.

What an evaluation costs
------------------------
With N events on W workers of one core, and m messages (one for the data, one for a large reference),

.. math:: T = m\,(a + b\,W) + c\,\frac{N}{W}

Measured on two cores of an Intel Xeon (Sapphire Rapids, 2.1 GHz): a = 7 ms and b = 0.2 ms a worker (1 to 8 workers on
these cores), and for float32 columns

=====================================  ==============  ===============  =============
c in ns an event                       value           with gradient    with Hessian
=====================================  ==============  ===============  =============
2 samples with 2 up/down ratios each   78              118              207
the same, one of the two cores idle    37              56               113
3 samples with 10 up/down ratios each  180             260              540
=====================================  ==============  ===============  =============

The first row is 20 million events on two workers, which takes as long as the best local run (6% more, 6% more, 3% less:
two busy cores share what one alone has), the last one is processor time. 10^9 events on 100 workers, with row 1:

* a message takes 0.03 s (with 1.7 ms a worker, as seen on busy cores, 0.2 s), a gradient 1.2 s and a Hessian 2.1 s (3
  samples with 10 ratios: 2.6 s and 5.4 s); a large reference adds a message and its own events. A fit takes about 8
  evaluations, 6 of them with Hessian: 15 s (40 s).
* A worker holds 10^7 events of 144 bytes: 8 for the weight, 4 a column, and 24 more for every ratio, of which the
  functions are kept; with what reading leaves behind 2 GB. For 3 samples with 10 ratios (980 bytes) 10 GB.
* It reads its 440 MB in 3.5 s (125 MB/s a worker). The file system must give all 44 GB.
* The answers are a thousand shards of some hundred bytes; with Hessian, of up to 10 kB.

Below some :math:`10^5` events a worker the messages cost more than the events: `load` leaves small files here.
``tests/benchmarks/test_distributed.py`` measures the constants.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.cluster.code import code
from neyman.errors import LikelihoodError
from neyman.likelihood import distributed_shards as shards
from neyman.likelihood.density import Point, RatioModel, Ratios, Sums, zero_sums
from neyman.likelihood.distributed_client import Held, check_connected
from neyman.likelihood.events import Block, Events, EventSource, StreamedEvents
from neyman.likelihood.passes import BoundEvents, Workers
from neyman.workspace.columns import ColumnFile, RowGroup

Array = NDArray[np.float64]
A = TypeVar("A")
WORTH = 1 << 17  # events: the time of fewer is that of a message to the workers and back
_SMALLEST, _LARGEST, _SHARDS = 1 << 15, 1 << 20, 64  # events of a shard, and shards of a sample between these
_LOSSES = 8  # times that an evaluation may lose workers


class DistributedEvents:
    r"""Weighted events in Parquet that the workers of a Dask cluster hold in memory.

    The workers read the events themselves, so the path must lead to the same file on all of them. What is asked for
    one by one (`blocks`, `take` for pseudo-data, `weight`) is read from the file, or sent, to the client.

    Parameters
    ----------
    client
        A ``distributed.Client``.
    path
        The file, one row an event, or a folder of such files.
    weight
        Column of the weights; None for weights of 1.
    columns
        Columns of log-ratios.

    Raises
    ------
    WorkspaceError
        When the file cannot be read, or a column is missing or does not hold numbers.
    """

    def __init__(self, client: Any, path: Path, weight: str | None, columns: Sequence[str]) -> None:
        self.client, self.path = client, Path(path).resolve()
        self._file = StreamedEvents(self.path, weight, columns)
        groups = ColumnFile(self.path, ()).row_groups
        digests = {file: shards.footer(file) for file in {group.path for group in groups}}
        self.files: list[shards.ShardFile] = []
        first = 0
        for part in cut(groups):
            extents = tuple(shards.Extent(str(g.path), g.start, g.stop, digests[g.path]) for g in part)
            self.files.append(shards.ShardFile(extents, weight, self._file.columns, first, str(self.path)))
            first += len(self.files[-1])
        self._weights: Held | None = None  # in place of the column's
        self._held: WeakKeyDictionary[RatioModel, Held] = WeakKeyDictionary()  # shared by all copies

    def __len__(self) -> int:
        return len(self._file)

    def __reduce__(self) -> NoReturn:
        raise LikelihoodError(
            "a likelihood whose events are on workers cannot be sent to workers",
            where=str(self.path),
            fix="load it without a client, then spread the fits over the workers",
        )

    @property
    def columns(self) -> Collection[str]:
        """Names of the columns."""
        return self._file.columns

    @property
    def edges(self) -> list[int]:
        """Numbers of the first events of the shards, and the number of events."""
        return [*(file.first for file in self.files), len(self)]

    @cached_property
    def weight(self) -> Array:
        """Weights of all events, shape ``(n_events,)``, sent to the client or read from the file."""
        if self._weights is None:
            return self._file.weight
        self._weights.wait(f"weights of {self.path}")
        return np.concatenate([np.zeros(0), *self.client.gather(list(self._weights.futures))])

    def with_weight(self, weight: Array) -> DistributedEvents:
        """Return the same events with other weights, which are sent to the workers."""
        values, edges = np.ascontiguousarray(weight, dtype=np.float64), self.edges
        parts = [(values[a:b].copy(),) for a, b in itertools.pairwise(edges)]
        return self._with(Held.of(self.client, shards.same, parts))

    def _with(self, weights: Held) -> DistributedEvents:
        same = copy.copy(self)
        same.__dict__.pop("weight", None)
        same._weights = weights
        return same

    def __copy__(self) -> DistributedEvents:
        same = object.__new__(type(self))
        same.__dict__.update(self.__dict__)
        return same

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Yield all events with the columns `names`, in order, read here from the file."""
        return self._here().blocks(names)

    def take(self, rows: NDArray[np.intp], weight: Array) -> Events:
        """Return some events, ascending, with new weights, in the client's memory; reads the file once."""
        return self._file.take(rows, weight)

    def place(self, row: int) -> str:
        """Return how a message calls an event."""
        return self._file.place(row)

    def _here(self) -> StreamedEvents:
        return self._file if self._weights is None else self._file.with_weight(self.weight)

    def bound(self, model: RatioModel, where: str) -> Held:
        """Return the shards with a model bound to them and these weights; columns are read once for a model."""
        check_connected(self.client)
        held = self._held.get(model)
        if held is None:
            (sent,) = Held.of(self.client, shards.same, [(model,)]).futures
            tasks = [(sent, file, where, code()) for file in self.files]
            held = Held.of(self.client, shards.hold, tasks, workers=self._spread())
        held.wait(where)
        self._held[model] = held
        if self._weights is None:
            return held
        pairs = zip(held.futures, self._weights.futures, strict=True)
        changed = Held.of(
            self.client,
            shards.reweight,
            [(shard, weight, where) for shard, weight in pairs],
            workers=held.places(self.client),
        )
        changed.wait(where)
        return changed

    def expected(
        self, held: Held, point: Point, coefficients: torch.Tensor, total: float
    ) -> DistributedEvents:
        """Return the same events weighted by the model, from the shards `held`, computed where they are."""
        tasks = [(shard, point.alpha.numpy(), coefficients.numpy(), total) for shard in held.futures]
        return self._with(
            Held.of(self.client, shards.expected, tasks, workers=held.places(self.client)),
        )

    def _spread(self) -> list[list[str]]:
        """Workers of the shards: neighbours go to the same one, and every thread gets as many."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        threads = [address for address in sorted(workers) for _ in range(workers[address]["nthreads"])]
        return [[threads[i * len(threads) // len(self.files)]] for i in range(len(self.files))]


def cut(groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """Cut row groups into the shards of a sample: whole ones, but for those that are too large."""
    n_events = sum(group.stop - group.start for group in groups)
    size = min(max(_SMALLEST, n_events // _SHARDS), _LARGEST)
    shards: list[list[RowGroup]] = []
    room = 0
    for path, start, stop in groups:
        n = stop - start
        pieces = max(1, n // size)
        edges = [start + n * i // pieces for i in range(pieces + 1)]
        for a, b in itertools.pairwise(edges):
            if room <= 0 or b - a > room:
                shards.append([])
                room = size
            shards[-1].append(RowGroup(path, a, b))
            room -= b - a
    return [shard for shard in shards if any(group.stop > group.start for group in shard)]


class ShardedEvents(BoundEvents):
    """Events on workers with a model bound to them.

    Parameters
    ----------
    model
        The ratios.
    source
        The events.
    device
        The CPU.
    where
        Channel and role, for messages.

    Raises
    ------
    LikelihoodError
        When a column is missing, a column or a weight is not finite, or the device is another.
    """

    source: DistributedEvents

    def __init__(
        self, model: RatioModel, source: DistributedEvents, device: torch.device, where: str
    ) -> None:
        super().__init__(model, source, device, where)
        if device.type != "cpu":
            raise LikelihoodError(
                f"events on workers are evaluated by their processors, not on {device}",
                where=where,
                fix="load the workspace without a client",
            )
        self._held = source.bound(model, where)

    def with_weight(self, weight: Array, where: str | None = None) -> ShardedEvents:
        """Return the same events with other weights."""
        return ShardedEvents(self.model, self.source.with_weight(weight), self.device, where or self.where)

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return sum(self._map(shards.total_weight), 0.0)

    # The workers of the cluster use their own threads, not those of `workers`.

    def sums(
        self,
        point: Point,
        coefficients: torch.Tensor | None,
        workers: Workers,  # noqa: ARG002
    ) -> Sums:
        """Add up the events: as data with `coefficients` of the samples, or as a reference without."""
        work = partial(
            shards.sums,
            alpha=point.alpha.numpy(),
            order=point.order,
            strict=point.strict,
            coefficients=None if coefficients is None else coefficients.numpy(),
        )
        zero = zero_sums(self.model, len(point.alpha), point.order, self.device)
        if coefficients is None:
            zero = zero._replace(outer=None)
        if not len(self):
            return zero
        parts = np.stack(self._map(work))
        total = parts.sum(0)
        total[:, 0] = parts[:, :, 0].min(0)
        return zero.unpacked(torch.from_numpy(total))

    def each(
        self,
        point: Point,
        work: Callable[[Ratios, torch.Tensor], torch.Tensor],
        workers: Workers,  # noqa: ARG002
    ) -> Iterator[torch.Tensor]:
        """Yield, shard by shard, what `work` makes of ratios and weights."""
        remote = partial(shards.each, alpha=point.alpha.numpy(), order=point.order, work=work)
        return map(torch.from_numpy, self._map(remote))

    def expected(
        self,
        point: Point,
        coefficients: torch.Tensor,
        workers: Workers,  # noqa: ARG002
    ) -> EventSource:
        """Return the events with the weights of the model; the workers compute and keep them."""
        return self.source.expected(self._held, point, coefficients, self.total_weight)

    def first(self, find: Callable[[BoundEvents], LikelihoodError | None]) -> LikelihoodError | None:
        """Return the first of the errors that `find` finds in the events."""
        return next((error for error in self._map(partial(shards.first, find=find)) if error), None)

    def _map(self, work: Callable[[Sequence[BoundEvents], Workers], Iterator[A]]) -> list[A]:
        """Return what `work` makes of each shard, in order; what a lost worker owed is asked for again."""
        client, n = self.source.client, len(self.source.files)
        found: dict[int, Any] = {}
        for attempt in range(_LOSSES):
            check_connected(client)
            missing = [i for i in range(n) if i not in found]
            if attempt:
                time.sleep(0.1 * 2**attempt)  # until the scheduler, too, knows what is lost
                self._held.wait(self.where)
            wanted = missing if attempt else range(n)
            try:
                answers = client.run(shards.on_shards, self._held.key, wanted, work, on_error="return")
            except OSError as error:
                raise LikelihoodError(
                    f"the Dask cluster is lost: {error}", where=self.where, fix="start it and load again"
                ) from error
            for answer in answers.values():
                if isinstance(answer, dict):
                    found.update(answer)
                elif not isinstance(answer, OSError):
                    raise answer
            for _, result in sorted(found.items()):
                if isinstance(result, shards.Failure):
                    raise result.error
            if len(found) == n:
                return [found[i] for i in range(n)]
        raise LikelihoodError(
            f"workers were lost {_LOSSES} times in one evaluation",
            where=f"{self.where}, {n - len(found)} of {n} shards are missing",
            fix="give the workers more memory, or start more of them",
        )


def bind(model: RatioModel, source: EventSource, device: torch.device, where: str) -> BoundEvents:
    """Bind a model to events, here or where they are."""
    if isinstance(source, DistributedEvents):
        return ShardedEvents(model, source, device, where)
    return BoundEvents(model, source, device, where)

"""Passes over events: cut into chunks that fit the cache, spread over threads, added up in a fixed order.

The order of the additions depends on the events alone, so a result is the same for every number of threads.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.density import (
    BoundRatios,
    Point,
    RatioModel,
    Ratios,
    Sums,
    data_sums,
    mixture,
    reference_sums,
    zero_sums,
)
from neyman.likelihood.events import Block, Events, EventSource
from neyman.likelihood.shapes import Columns
from neyman.likelihood.updown import Scratch

Array = NDArray[np.float64]
A = TypeVar("A")
B = TypeVar("B")
_CELLS = 1 << 19  # slopes of a chunk: its temporaries stay in the cache
_SPAN = 1 << 15  # events whose columns one thread gathers at a time
_DEVICE_CELLS, _DEVICE_SPAN = 1 << 24, 1 << 20  # an accelerator wants large ones


class Workers:
    """Threads that each compute alone, as a context manager; with one thread none is started.

    Parameters
    ----------
    n
        Number of threads; as many as torch uses by default.
    """

    def __init__(self, n: int | None = None) -> None:
        self._torch = torch.get_num_threads()
        self.n = self._torch if n is None else n
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch)

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """Yield the results in order; only a few items are taken in advance."""
        if self.n == 1:
            yield from map(work, items)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.n, "events", initializer=torch.set_num_threads, initargs=(1,)
            )
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > self.n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Bound(NamedTuple):
    """A block of events with the model bound to them."""

    ratios: BoundRatios
    block: Block


class Piece(NamedTuple):
    """Events `rows` of a block whose first event is number `start`."""

    ratios: BoundRatios
    weight: torch.Tensor
    columns: Columns
    start: int
    rows: slice

    def values_at(self, row: int) -> dict[str, float]:
        """Return the weight and the columns of an event."""
        values = {f"log-ratio {name}": float(column[row]) for name, column in self.columns.items()}
        return {"the weight": float(self.weight[row])} | values


class BoundEvents:
    """Events with a model bound to them: once for events in memory, at every pass for streamed ones.

    Parameters
    ----------
    model
        The ratios.
    source
        The events.
    device
        Where to compute.
    where
        Channel and role, for messages.

    Raises
    ------
    LikelihoodError
        When a column is missing, or a column or weight of events in memory is not finite.
    """

    def __init__(self, model: RatioModel, source: EventSource, device: torch.device, where: str) -> None:
        self.model, self.source, self.device, self.where = model, source, device, where
        self._bound: Bound | None = None  # of events in memory
        for name in model.columns:
            if name not in source.columns:
                raise LikelihoodError(
                    f"the events have no column {name!r}",
                    where=where,
                    fix=f"nearest names: {nearest(name, source.columns)}",
                )
        if isinstance(source, Events):
            (block,) = source.blocks(model.columns)
            _check_finite(block.weight, "the weight", where, block.start)
            for name, column in block.columns.items():
                _check_finite(column, f"log-ratio {name!r}", where, block.start)
            self._bound = self._bind(block)

    def __len__(self) -> int:
        return len(self.source)

    def with_weight(self, weight: Array, where: str | None = None) -> BoundEvents:
        """Return the same events with other weights; nothing is bound again."""
        same = copy.copy(self)
        same.__dict__.pop("total_weight", None)
        same.source, same.where = self.source.with_weight(weight), where or self.where
        if self._bound is not None:
            (block,) = same.source.blocks([])
            _check_finite(block.weight, "the weight", same.where, block.start)
            same._bound = self._bound._replace(
                block=self._bound.block._replace(weight=block.weight.to(self.device))
            )
        return same

    def _bind(self, block: Block) -> Bound:
        columns = {name: column.to(self.device) for name, column in block.columns.items()}
        block = Block(block.start, block.weight.to(self.device), columns)
        # A data set of a few events, of which there may be thousands, is not worth the memory.
        large = isinstance(self.source, Events) and len(block.weight) >= self._span
        return Bound(self.model.bind(columns, keep=self._span if large else 0), block)

    @property
    def _span(self) -> int:
        """Events that one thread takes at a time; no chunk crosses a multiple of it."""
        return _SPAN if self.device.type == "cpu" else _DEVICE_SPAN

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights."""
        total = 0.0
        for block in self.source.blocks([]):
            _check_finite(block.weight, "the weight", self.where, block.start)
            total += float(block.weight.sum())
        return total

    def spans(self) -> Iterator[Piece]:
        """Yield the events in pieces of work for one thread."""
        streamed = (self._bind(block) for block in self.source.blocks(self.model.columns))
        for ratios, (start, weight, columns) in streamed if self._bound is None else [self._bound]:
            for first in range(0, len(weight), self._span):
                rows = slice(first, min(first + self._span, len(weight)))
                yield Piece(ratios, weight, columns, start, rows)

    def _chunks(self, piece: Piece, point: Point, scratch: Scratch) -> Iterator[tuple[Ratios, torch.Tensor]]:
        """Yield the ratios and the weights of the chunks of a piece."""
        n_rows = len(point.alpha)
        cells = _CELLS if self.device.type == "cpu" else _DEVICE_CELLS
        size = cells // max(1, n_rows * max(self.model.n_slopes, len(self.model.layouts)))
        size = max(256, size // 64 * 64)
        columns = scratch.gather(piece.ratios.columns(point), piece.rows)
        for first in range(0, columns.shape[1], size):
            gathered = columns[:, first : first + size]
            start = piece.rows.start + first
            rows = slice(start, start + gathered.shape[1])
            ratios = piece.ratios.at(point, rows, scratch, gathered)
            yield ratios, piece.weight[rows]

    def _each_span(self, work: Callable[[Piece, Scratch], A], workers: Workers) -> Iterator[A]:
        own = threading.local()

        def span(piece: Piece) -> A:
            if not hasattr(own, "scratch"):
                own.scratch = Scratch()
            return work(piece, own.scratch)

        return workers.map(span, self.spans()) if len(self) > _SPAN else map(span, self.spans())

    def each(
        self, point: Point, work: Callable[[Ratios, torch.Tensor], torch.Tensor], workers: Workers
    ) -> Iterator[torch.Tensor]:
        """Yield, chunk by chunk and in order, what `work` makes of ratios and weights."""

        def span(piece: Piece, scratch: Scratch) -> list[torch.Tensor]:
            chunks = self._chunks(piece, point, scratch)
            return [work(ratios, weight).cpu() for ratios, weight in chunks]

        for results in self._each_span(span, workers):
            yield from results

    def sums(self, point: Point, coefficients: torch.Tensor | None, workers: Workers) -> Sums:
        """Add up the events, on the CPU in the end: as data with `coefficients` of the samples, shape
        ``(n_rows, n_samples)``, or as a reference without."""
        zero = zero_sums(self.model, len(point.alpha), point.order, self.device)
        own = None if coefficients is None else coefficients.to(self.device)

        def span(piece: Piece, scratch: Scratch) -> Sums:
            total = zero
            for ratios, weight in self._chunks(piece, point, scratch):
                if own is None:
                    total = total.plus(reference_sums(ratios, weight, point.order))
                else:
                    total = total.plus(data_sums(self.model, ratios, weight, own, point.order))
            return total

        total = zero
        for part in self._each_span(span, workers):
            total = total.plus(part)
        return total.to("cpu")

    def densities(self, point: Point, coefficients: torch.Tensor, workers: Workers) -> Array:
        """Return the density of each event with `coefficients` of the samples, shape ``(1, n_samples)``."""
        density, start = np.empty(len(self)), 0
        for part in self.each(point, partial(_density, coefficients=coefficients.to(self.device)), workers):
            density[start : start + len(part)] = part.numpy()
            start += len(part)
        return density

    def expected(self, point: Point, coefficients: torch.Tensor, workers: Workers) -> EventSource:
        """Return the events of the reference with the weights of the model; they sum to the yield."""
        density = self.densities(point, coefficients, workers)
        density *= self.source.weight
        density /= self.total_weight
        return self.source.with_weight(density)

    def first(self, find: Callable[[BoundEvents], LikelihoodError | None]) -> LikelihoodError | None:
        """Return the first of the errors that `find` finds in the events; it must pickle."""
        return find(self)


def _density(ratios: Ratios, _: torch.Tensor, *, coefficients: torch.Tensor) -> torch.Tensor:
    return mixture(ratios, coefficients)[0]


def _check_finite(values: torch.Tensor, what: str, where: str, start: int = 0) -> None:
    if bool(torch.isfinite(values.sum())):
        return
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        raise LikelihoodError(
            f"{what} is not finite for {len(bad)} events",
            where=f"{where}, first at event {start + int(bad[0])}",
        )

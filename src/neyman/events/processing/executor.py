"""A coffea executor on threads, on Dask workers, or on nothing else than this thread.

Beside coffea's own executors it reports progress to a function instead of the terminal, stops at the first
error and hands over that error itself, stops on Ctrl-C after the chunks that are running, and sums results in
the order of the chunks. Imports coffea; import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from typing import Any

from coffea.processor import accumulate
from coffea.processor.executor import ExecutorBase

from neyman.cluster import completed
from neyman.errors import InputError, NeymanError

Progress = Callable[[int, int], None]


@dataclass
class PoolExecutor(ExecutorBase):  # type: ignore[misc]
    """Run chunks in `pool`, or one after the other in this thread if it is None.

    Parameters
    ----------
    pool
        Threads.
    client
        Client of a Dask cluster, whose workers take the place of threads. A chunk of which the worker was lost is
        processed again, and counts once.
    resources
        What a Dask worker must offer to get a chunk, such as ``{"GPU": 1}``.
    progress
        Called with (events done, events in total) after each chunk.
    """

    pool: Executor | None = None
    client: Any = None
    resources: Mapping[str, float] | None = None
    progress: Progress | None = None

    def __call__(
        self, items: Sequence[Any], function: Callable[[Any], Any], accumulator: Any
    ) -> tuple[Any, int]:
        return accumulate(self._in_order(items, function), accumulator), 0

    def _in_order(self, items: Sequence[Any], function: Callable[[Any], Any]) -> Iterator[Any]:
        """Results in the order of the chunks; only those that overtook another one wait in memory."""
        waiting: dict[int, Any] = {}
        done, total, following = 0, sum(map(len, items)), 0
        for index, result in self._results(items, function):
            waiting[index] = result
            done += len(items[index])
            if self.progress is not None:
                self.progress(done, total)
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def _results(self, items: Sequence[Any], function: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        if self.client is not None:
            yield from completed(
                self.client, _on_item, items, shared=function, resources=self.resources, label=_where
            )
            return
        if self.pool is None:
            yield from ((index, run(function, item)) for index, item in enumerate(items))
            return
        futures = {self.pool.submit(run, function, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(list(futures)):
                index = futures.pop(future)  # a future that is kept keeps its result
                yield index, future.result()
                del future
        finally:
            for future in futures:
                future.cancel()


def run(function: Callable[[Any], Any], item: Any) -> Any:
    """Process a chunk; on failure raise the :class:`NeymanError` that coffea has wrapped, or make one."""
    try:
        return function(item)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, NeymanError):
            cause = cause.__cause__
        if isinstance(cause, NeymanError):
            raise cause from cause.__cause__
        raise InputError(
            f"processing failed: {type(cause).__name__}: {cause}",
            where=_where(item),
        ) from error


def _where(item: Any) -> str:
    return f"{item.filename}, entries {item.entrystart} to {item.entrystop} ({item.dataset})"


def _on_item(item: Any, function: Callable[[Any], Any]) -> Any:
    return run(function, item)

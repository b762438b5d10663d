"""A coffea executor on any pool of :mod:`concurrent.futures`: threads, Dask workers, or none.

Beside coffea's own executors it reports progress to a function instead of the terminal, stops at the first
error and hands over that error itself, stops on Ctrl-C after the chunks that are running, and sums results in
the order of the chunks. Imports coffea; import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from typing import Any

from coffea.processor import accumulate
from coffea.processor.executor import ExecutorBase

from neyman.errors import InputError, NeymanError

Progress = Callable[[int, int], None]


@dataclass
class PoolExecutor(ExecutorBase):  # type: ignore[misc]
    """Run chunks in `pool`, or one after the other in this thread if it is None.

    Parameters
    ----------
    pool
        Threads, or ``client.get_executor()`` of a Dask client.
    remote
        Whether `pool` runs in other processes.
    progress
        Called with (events done, events in total) after each chunk.
    """

    pool: Executor | None = None
    remote: bool = False
    progress: Progress | None = None

    def __call__(
        self, items: Sequence[Any], function: Callable[[Any], Any], accumulator: Any
    ) -> tuple[Any, int]:
        results: list[Any] = [None] * len(items)
        done, total = 0, sum(map(len, items))
        for index, result in self._results(items, function):
            results[index] = result
            done += len(items[index])
            if self.progress is not None:
                self.progress(done, total)
        return accumulate(results, accumulator), 0

    def _results(self, items: Sequence[Any], function: Callable[[Any], Any]) -> Iterator[tuple[int, Any]]:
        if self.pool is None:
            yield from ((index, run(function, item)) for index, item in enumerate(items))
            return
        work = run_remote if self.remote else run
        futures = {self.pool.submit(work, function, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], _result(future, items[futures[future]])
        finally:
            for future in futures:
                future.cancel()


def _result(future: Future[Any], item: Any) -> Any:
    try:
        return future.result()
    except NeymanError:
        raise
    except Exception as error:
        raise InputError(
            f"a worker was lost: {type(error).__name__}: {error}",
            where=_where(item),
            fix="give the workers more memory, or choose a smaller chunk_size",
        ) from error


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


def run_remote(function: Callable[[Any], Any], item: Any) -> Any:
    """As :func:`run`; the error travels without its causes, whose tracebacks and arrays do not pickle."""
    try:
        return run(function, item)
    except NeymanError as error:
        bare = type(error)(error.what, where=error.where, expected=error.expected, fix=error.fix)
    raise bare

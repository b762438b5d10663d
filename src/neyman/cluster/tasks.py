"""`run_tasks`: many calls of one function on Dask workers, each counted once whatever happens to the workers."""

from __future__ import annotations

import queue
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from neyman.cluster.code import check_here, code
from neyman.cluster.connect import EXTRA, offering, revive
from neyman.errors import ConfigError, InputError, NeymanError, NeymanWarning, optional

Result = TypeVar("Result")
IN_FLIGHT = 1000  # tasks that are submitted at a time
PATIENCE = 600.0  # seconds without any worker, as when all jobs of a batch system are queued again
_LOOK = 5.0  # seconds between looks at the workers
_CANCELLED = 3  # times that a task may be cancelled by others


def run_tasks(
    client: Any,
    function: Callable[..., Result],
    tasks: Sequence[Any],
    *,
    shared: Any = None,
    resources: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
    label: str | Callable[[Any], str] = "task",
) -> list[Result]:
    """Return ``function(task)`` of every task, in order.

    Parameters
    ----------
    client
        A ``distributed.Client``; without one the tasks run here, one after the other.
    function
        Called with a task, and with `shared` where it is given. A task of which the worker was lost runs again: what
        it writes must be the same then, and must be in place at once (:func:`neyman.files.atomic`).
    tasks
        Small arguments.
    shared
        A large argument of all, sent to every worker once and kept here for those that come later; up to 4 GiB.
    resources
        What a worker must offer, such as ``{"GPU": 1}``.
    progress
        Called with (tasks done, tasks in total) after each.
    label
        What a task is, or a function that says it of a task, for messages.

    Raises
    ------
    InputError
        When a task has lost several workers, a worker cannot take `shared`, or the cluster is lost.
    ConfigError
        When no worker offers `resources`, or one runs another neyman or lacks the module of `function`.
    Exception
        Whatever `function` raises; the other tasks are then cancelled, as they are on Ctrl-C.
    """
    results: dict[int, Result] = {}
    for index, result in completed(client, function, tasks, shared=shared, resources=resources, label=label):
        results[index] = result
        if progress is not None:
            progress(len(results), len(tasks))
    return [results[index] for index in range(len(tasks))]


def completed(
    client: Any,
    function: Callable[..., Result],
    tasks: Sequence[Any],
    *,
    shared: Any = None,
    resources: Mapping[str, float] | None = None,
    label: str | Callable[[Any], str] = "task",
) -> Iterator[tuple[int, Result]]:
    """Yield the place and the result of every task of :func:`run_tasks` as it finishes, each once."""
    if client is None:
        extra = () if shared is None else (shared,)
        for index, task in enumerate(tasks):
            yield index, function(task, *extra)
        return
    run = _Run(client, function, tasks, shared, dict(resources or {}), label)
    try:
        yield from run.results()
    finally:
        run.close()


class _Run:
    """The tasks of one call: which are running, and how often each was cancelled by others."""

    def __init__(
        self,
        client: Any,
        function: Callable[..., Any],
        tasks: Sequence[Any],
        shared: Any,
        resources: dict[str, float],
        label: str | Callable[[Any], str],
    ) -> None:
        optional("distributed", EXTRA)
        self._client, self._function, self._tasks, self._label = client, function, tasks, label
        self._resources = resources
        if resources and not offering(client, resources):
            raise ConfigError(
                f"no worker offers {resources}",
                where="the Dask cluster",
                fix="start workers with --resources, such as --resources GPU=1",
            )
        self._shared = shared
        self._token = None if shared is None else uuid.uuid4().hex
        self._running: dict[Any, int] = {}
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cancelled: Counter[int] = Counter()
        self._told: set[str] = set()
        self._alone: float | None = None

    def results(self) -> Iterator[tuple[int, Any]]:
        waiting = iter(range(len(self._tasks)))
        if len(self._tasks):
            self._send(None)
        while True:
            for index in islice(waiting, IN_FLIGHT - len(self._running)):
                self._submit(index)
            if not self._running:
                return
            future = self._next()
            index = self._running.pop(future)
            done = self._result(future, index)
            if done is None:
                self._submit(index)
                continue
            for text in done.notes:
                if text not in self._told:
                    self._told.add(text)
                    warnings.warn(text, NeymanWarning, stacklevel=4)
            yield index, done.result

    def close(self) -> None:
        """Cancel what has not begun, and let the workers forget what was shared."""
        if self._client.status == "running":
            self._client.cancel(list(self._running))
            if self._token is not None:
                self._client.run(_forget, self._token, on_error="ignore")

    def _send(self, worker: str | None) -> None:
        """Give the shared argument to a worker, or to all that are there."""
        if self._token is None:
            return
        chosen = None if worker is None else [worker]
        answers = self._client.run(_hold, self._token, self._shared, workers=chosen, on_error="return")
        for address, answer in answers.items():
            if isinstance(answer, Exception) and not isinstance(
                answer, OSError
            ):  # a lost worker is no failure
                raise InputError(
                    f"a worker cannot take what the tasks share: {answer!r:.300}",
                    where=address,
                    fix="give workers the modules and the memory that it needs",
                ) from answer

    def _submit(self, index: int) -> None:
        from distributed.protocol.pickle import dumps

        future = self._client.submit(
            _call,
            dumps((self._function, self._tasks[index])),  # type: ignore[no-untyped-call]
            token=self._token,
            expected=code(),
            pure=False,
            resources=self._resources,
        )
        self._running[future] = index
        future.add_done_callback(self._finished.put)

    def _next(self) -> Any:
        while True:
            try:
                return self._finished.get(timeout=_LOOK)
            except queue.Empty:
                self._look()

    def _look(self) -> None:
        """Give up when there has been no worker for a long time."""
        if self._client.status != "running":
            raise self._lost("the scheduler is gone")
        revive(self._client)
        if offering(self._client, self._resources):
            self._alone = None
        elif self._alone is None:
            self._alone = time.monotonic()
        elif time.monotonic() - self._alone > PATIENCE:
            raise self._lost(f"there has been no worker for {PATIENCE:g} s")

    def _fetched(self, future: Any) -> _Answer:
        patience = _LOOK
        while True:
            try:
                found: _Answer = future.result(timeout=patience)
            except TimeoutError:
                if future.status == "error":  # the task's own
                    raise
                self._look()  # the result went down with its worker, and is computed again
                patience *= 2  # or it is large: its transfer begins anew
            else:
                return found

    def _result(self, future: Any, index: int) -> _Done | None:
        """What a task has left; None when it has to run again."""
        from distributed.scheduler import KilledWorker

        try:
            found = self._fetched(future)
        except KilledWorker as error:
            raise InputError(
                f"workers lost in {self._name(index)}: {error.allowed_failures + 1}",
                where=str(getattr(error.last_worker, "address", error.last_worker)),
                fix="give the workers more memory, or make the parts smaller",
            ) from error
        except CancelledError:
            self._cancelled[index] += 1
            if self._client.status != "running":
                raise self._lost("the scheduler is gone") from None
            if self._cancelled[index] > _CANCELLED:
                raise self._lost(f"{self._name(index)} was cancelled again and again") from None
            return None
        if isinstance(found, _Missing):
            self._send(found.worker)
            return None
        if isinstance(found, NeymanError):
            raise found
        return found

    def _name(self, index: int) -> str:
        if callable(self._label):
            return self._label(self._tasks[index])
        return f"{self._label} {index + 1} of {len(self._tasks)}"

    def _lost(self, what: str) -> InputError:
        return InputError(
            f"the Dask cluster is lost: {what}",
            where=f"{len(self._running)} of {len(self._tasks)} tasks were running or waiting",
            fix="start the cluster and run again",
        )


# On the workers -------------------------------------------------------------------------------------------

# What tasks share lies here and not in Dask's memory: data that were scattered are lost with the last worker that
# holds them, and all tasks that need them. A worker that has none, because it is new, says so and is sent it.
_HELD: dict[str, Any] = {}
_MOST_HELD = 4  # the rest of a client that was killed is pushed out by others


@dataclass(frozen=True)
class _Done:
    """What a task has left: its result, and the warnings that nobody would see on the worker."""

    result: Any
    notes: list[str]


@dataclass(frozen=True)
class _Missing:
    """A worker that does not have what the tasks share."""

    worker: str


_Answer = _Done | _Missing | NeymanError


def _hold(token: str, shared: Any) -> None:
    _HELD[token] = shared
    while len(_HELD) > _MOST_HELD:
        del _HELD[next(iter(_HELD))]


def _forget(token: str) -> None:
    _HELD.pop(token, None)


def _call(packed: bytes, *, token: str | None, expected: str) -> _Answer:
    """Run a task on a worker; its :class:`NeymanError` comes back without causes, which do not pickle.

    Function and task come as bytes: a worker that Dask gives something that it cannot import dies of it.
    """
    from distributed import get_worker
    from distributed.protocol.pickle import loads

    check_here(expected)
    try:
        function, task = loads(packed)  # type: ignore[no-untyped-call]
    except Exception as error:
        return ConfigError(
            f"a worker cannot read its task: {type(error).__name__}: {error}",
            where=get_worker().address,
            fix="install the module of the function there too, or define the function in the script itself",
        )
    shared: tuple[Any, ...] = ()
    if token is not None:
        if (held := _HELD.get(token)) is None:
            return _Missing(get_worker().address)
        shared = (held,)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = function(task, *shared)
    except NeymanError as error:
        return type(error)(error.what, where=error.where, expected=error.expected, fix=error.fix)
    else:
        notes = [str(one.message) for one in caught if issubclass(one.category, NeymanWarning)]
        return _Done(result, notes)

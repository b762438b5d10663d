"""Run a processor over ROOT files: in this thread, in several threads, or on Dask workers.

:func:`process_files` checks the files, cuts them into chunks and lets coffea's ``Runner`` process them. All
executors give the same tables and the same histograms, bit for bit.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, Literal

from neyman.errors import ConfigError, InputError, nearest, optional
from neyman.events.columns import Paths, expand, open_tree
from neyman.events.processing.processor import TableProcessor, file_id
from neyman.events.processing.selection import check_name

Progress = Callable[[int, int], None]
EXECUTORS = ("iterative", "threads", "dask")
# Dask's nanny makes malloc return every large array to the system, which doubles the time of processing.
MALLOC = {
    f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": 268435456 for name in ("MMAP", "TRIM")
}


def process_files(
    fileset: Mapping[str, Paths],
    processor: Callable[[Any], Any],
    *,
    tree: str = "Events",
    executor: Literal["iterative", "threads", "dask"] = "iterative",
    workers: int = 2,
    chunk_size: int = 100_000,
    schema: str | type = "nanoaod",
    client: Any = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Process the files of each dataset and return what the processor returns, summed.

    Parameters
    ----------
    fileset
        For each dataset a path, a glob pattern, or a list of them. TTrees and RNTuples may be mixed.
    processor
        A :class:`~neyman.events.processing.processor.TableProcessor` (see its notes for what is returned), or anything
        that coffea's ``Runner`` accepts.
    tree
        Name of the TTree or RNTuple in the files.
    executor
        ``"threads"`` suits one machine; ``"dask"`` needs `client` for workers elsewhere, which then have to
        see the same files and folder, and are twice as fast with ``MALLOC_MMAP_THRESHOLD_`` and
        ``MALLOC_TRIM_THRESHOLD_`` set to 268435456 in their environment.
    workers
        Threads, or worker processes of the Dask cluster that is started without `client`. A script that
        starts one needs the usual ``if __name__ == "__main__":``.
    chunk_size
        Largest number of events in memory per worker; opening a chunk costs about 0.2 s at 400 branches.
    schema
        ``"nanoaod"``, ``"physlite"``, ``"base"`` (flat columns), or a class of coffea's.
    client
        A ``distributed.Client`` or a scheduler's address.
    progress
        Called with (events done, events in total) after each chunk.

    Raises
    ------
    InputError
        A file is missing, no ROOT file, listed twice, or without the tree; a dataset has no events; or an
        event's value is unusable (see :class:`~neyman.events.processing.processor.TableProcessor`).
    ConfigError
        An argument or the user's function is wrong.
    MissingExtraError
        coffea, or dask for that executor, is not installed.

    Notes
    -----
    Tables left in the datasets' folders by an earlier run with other chunks are removed at the end.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"unknown executor {executor!r}", expected=nearest(executor, EXECUTORS))
    if workers < 1 or chunk_size < 1:
        raise ConfigError(f"workers = {workers}, chunk_size = {chunk_size}", expected="at least 1 each")
    coffea = optional("coffea.processor", "coffea")
    from neyman.events.processing.executor import PoolExecutor
    from neyman.events.processing.schema import schema_class

    if isinstance(processor, TableProcessor):
        processor.build.resolve()
    chunks = _chunks(fileset, tree, chunk_size)
    with _pool(executor, workers, client) as pool:
        run = PoolExecutor(pool=pool, remote=executor == "dask", progress=progress)
        runner = coffea.Runner(executor=run, schema=schema_class(schema), metadata_cache={})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Skipping|Branch) ", module="coffea")
            result: dict[str, Any] = runner(chunks, processor)
    if isinstance(processor, TableProcessor):
        _remove_stale(processor, result)
    return result


def _chunks(fileset: Mapping[str, Paths], tree: str, chunk_size: int) -> list[Any]:
    """coffea's work items, of nearly equal size within a file."""
    from coffea.processor.executor import WorkItem

    chunks: list[Any] = []
    for dataset, files in fileset.items():
        check_name("dataset", dataset)
        seen: dict[str, str] = {}
        n_before = len(chunks)
        for path in expand(files):
            with open_tree(path, tree) as events:
                n, uuid = int(events.num_entries), events.file.uuid
            identity = file_id(str(uuid), path)
            if identity[:8] in seen:
                raise InputError(
                    f"dataset {dataset!r} has a file twice", where=f"{seen[identity[:8]]} and {path}"
                )
            seen[identity[:8]] = path
            parts = ceil(n / chunk_size)
            edges = [n * part // parts for part in range(parts + 1)] if parts else []
            chunks += [
                WorkItem(dataset, path, tree, start, stop, uuid.bytes, {}) for start, stop in pairwise(edges)
            ]
        if len(chunks) == n_before:
            raise InputError(f"dataset {dataset!r} has no events", where=", ".join(seen.values()))
    if not chunks:
        raise ConfigError("the fileset is empty", expected="{dataset: files}")
    return chunks


@contextmanager
def _pool(kind: str, workers: int, client: Any) -> Iterator[Executor | None]:
    if kind == "dask":
        with _dask_client(client, workers) as connected:
            yield connected.get_executor(pure=False)
    elif kind == "threads":
        with ThreadPoolExecutor(workers, thread_name_prefix="neyman") as pool:
            yield pool
    else:
        yield None


def _dask_client(client: Any, workers: int) -> Any:
    """Context manager of a Dask client; what is started here is closed with it."""
    distributed = optional("distributed", "coffea")
    if isinstance(client, str):
        try:
            return distributed.Client(client, timeout=30)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers: {error}", where=client, expected="such as tcp://host:8786"
            ) from error
    if client is not None:
        return nullcontext(client)
    return _local_client(distributed, workers)


@contextmanager
def _local_client(distributed: Any, workers: int) -> Iterator[Any]:
    import dask

    with (
        dask.config.set(MALLOC),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _remove_stale(processor: TableProcessor, result: Mapping[str, Any]) -> None:
    for dataset, summed in result.items():
        written = {file for by in summed["files"].values() for files in by.values() for file in files}
        for path in (Path(processor.folder) / dataset).glob("*/*/*.parquet"):
            ours = re.fullmatch(r"[0-9a-f]{8}-\d+-\d+\.parquet", path.name)
            if ours and path.relative_to(processor.folder).as_posix() not in written:
                path.unlink(missing_ok=True)

"""Run a processor over ROOT files: in this thread, in several threads, or on Dask workers.

:func:`process_files` checks the files, cuts them into chunks and lets coffea's ``Runner`` process them. All
executors give the same tables and the same histograms, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from math import ceil
from typing import Any, Literal
from uuid import UUID

from neyman.cluster import connect
from neyman.errors import ConfigError, InputError, nearest, optional
from neyman.events.columns import Paths, expand, open_tree
from neyman.events.processing.chunk import file_id
from neyman.events.processing.processor import TableProcessor
from neyman.events.processing.selection import check_name
from neyman.events.remote import is_remote

Progress = Callable[[int, int], None]
EXECUTORS = ("iterative", "threads", "dask")
OPENING = 16  # remote files that are opened at a time: each takes a few round trips


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
    resources: Mapping[str, float] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    checkpointer: Any = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Process the files of each dataset and return what the processor returns, summed.

    Parameters
    ----------
    fileset
        For each dataset a path, a URL, a pattern, ``@list.txt``, or a list of them; see
        :func:`~neyman.events.columns.expand`. TTrees and RNTuples may be mixed.
    processor
        A :class:`~neyman.events.processing.processor.TableProcessor` (see its notes for what is returned), or anything
        that coffea's ``Runner`` accepts.
    tree
        Name of the TTree or RNTuple in the files.
    executor
        ``"threads"`` suits one machine; ``"dask"`` needs `client` for workers elsewhere, which then have to
        see the same files and folder.
    workers
        Threads, or worker processes of the Dask cluster that is started without `client`. A script that
        starts one needs the usual ``if __name__ == "__main__":``.
    chunk_size
        Largest number of events in memory per worker; opening a chunk costs about 0.2 s at 400 branches.
    schema
        ``"nanoaod"``, ``"physlite"``, ``"delphes"``, ``"flat"`` (columns), or a class of coffea's.
    client
        A ``distributed.Client``, or what :func:`neyman.cluster.connect` takes: the address of a scheduler, or
        ``htcondor:20``. A chunk of which the worker was lost is processed again, and counts once.
    resources
        What a Dask worker must offer to get a chunk, such as ``{"GPU": 1}``.
    metadata
        For each dataset what its events carry as ``events.metadata``, such as ``{"process": "ttbar"}``.
    checkpointer
        A :class:`~neyman.events.processing.checkpoint.Checkpointer`, which keeps the results of finished chunks for a
        run that is interrupted or repeated; any of coffea's will do.
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
    from neyman.events.processing.schema import schema_class
    from neyman.events.ranges import RangeSource

    if isinstance(processor, TableProcessor):
        processor.build.resolve()
    chunks = _chunks(fileset, tree, chunk_size, metadata or {}, elsewhere=executor == "dask")
    with _executor(executor, workers, client, resources=resources, progress=progress) as run:
        runner = coffea.Runner(
            executor=run, schema=schema_class(schema), metadata_cache={}, checkpointer=checkpointer
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Skipping|Branch) ", module="coffea")
            result: dict[str, Any] = runner(chunks, processor, uproot_options={"handler": RangeSource})
    if isinstance(processor, TableProcessor):
        for dataset, summed in result.items():
            written = [file for by in summed["files"].values() for files in by.values() for file in files]
            processor.sink.remove_stale(dataset, written)
    return result


def _chunks(
    fileset: Mapping[str, Paths],
    tree: str,
    chunk_size: int,
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    elsewhere: bool = False,
) -> list[Any]:
    """coffea's work items, of nearly equal size within a file; `elsewhere` for workers in other processes."""
    from coffea.processor.executor import WorkItem

    for dataset in metadata:
        if dataset not in fileset:
            raise ConfigError(
                f"metadata are given of dataset {dataset!r}, which has no files",
                expected=nearest(dataset, fileset),
            )
    chunks: list[Any] = []
    for dataset, files in fileset.items():
        check_name("dataset", dataset)
        seen: dict[str, str] = {}
        n_before = len(chunks)
        paths = expand(files)
        for path in paths:
            if elsewhere and path.startswith("memory://"):
                raise ConfigError(
                    "Dask workers do not see the memory of this process",
                    where=path,
                    fix="write the file to a folder that they see, or use executor='threads'",
                )
        for path, (n, uuid) in zip(paths, _opened(paths, tree), strict=True):
            identity = file_id(str(uuid), path)
            if identity[:8] in seen:
                raise InputError(
                    f"dataset {dataset!r} has a file twice", where=f"{seen[identity[:8]]} and {path}"
                )
            seen[identity[:8]] = path
            parts = ceil(n / chunk_size)
            edges = [n * part // parts for part in range(parts + 1)] if parts else []
            chunks += [
                WorkItem(dataset, path, tree, start, stop, uuid.bytes, dict(metadata.get(dataset, {})))
                for start, stop in pairwise(edges)
            ]
        if len(chunks) == n_before:
            raise InputError(f"dataset {dataset!r} has no events", where=", ".join(seen.values()))
    if not chunks:
        raise ConfigError("the fileset is empty", expected="{dataset: files}")
    return chunks


def _opened(paths: Sequence[str], tree: str) -> Iterator[tuple[int, UUID]]:
    """Number of entries and UUID of each file."""

    def look(path: str) -> tuple[int, UUID]:
        with open_tree(path, tree) as events:
            return int(events.num_entries), events.file.uuid

    with ThreadPoolExecutor(OPENING if any(map(is_remote, paths)) else 1) as pool:
        yield from pool.map(look, paths)


@contextmanager
def _executor(kind: str, workers: int, client: Any, **options: Any) -> Iterator[Any]:
    from neyman.events.processing.executor import PoolExecutor

    if kind == "dask":
        with connect(f"local:{workers}" if client is None else client) as connected:
            yield PoolExecutor(client=connected, **options)
    elif kind == "threads":
        with ThreadPoolExecutor(workers, thread_name_prefix="neyman") as pool:
            yield PoolExecutor(pool=pool, **options)
    else:
        yield PoolExecutor(**options)

"""`connect`: a Dask client of a local, running or batch cluster."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from neyman.cluster.code import check_workers
from neyman.errors import ConfigError, MissingExtraError, nearest, optional

EXTRA = "batch"
GPU = {"GPU": 1.0}  # what a worker with a device of its own offers
MALLOC_BYTES = 268435456  # 256 MiB
# Dask's nanny makes malloc return every large array to the system: likelihoods are then 4-5 times slower.
MALLOC = {f"MALLOC_{name}_THRESHOLD_": MALLOC_BYTES for name in ("MMAP", "TRIM")}
_QUEUES = {"htcondor": ("HTCondorCluster", "condor_submit"), "slurm": ("SLURMCluster", "sbatch")}
_TIMEOUT = 30.0  # seconds until a scheduler and the workers of a running cluster answer
_QUEUED = 3600.0  # seconds until the first job of a batch system runs


@contextmanager
def connect(target: Any, *, gpus: bool = False, timeout: float | None = None) -> Iterator[Any]:
    """Context manager of a ``distributed.Client`` whose workers are there and run the same neyman.

    Parameters
    ----------
    target
        ``local:N`` for N processes of one thread on this machine (``local`` for one a CPU); the address of a
        running scheduler, such as ``tcp://host:8786``; ``htcondor:N`` or ``slurm:N`` for N batch jobs, described by the
        ``jobqueue`` section of Dask's configuration file; or a client or cluster, which stays open. A script that
        starts a local cluster needs the usual ``if __name__ == "__main__":``.
    gpus
        Whether every worker process gets a GPU of its own: it offers the resource ``GPU=1``, and local ones see one
        device each. Batch jobs have to ask for the device in their configuration.
    timeout
        Seconds to wait for the first worker; 30, or an hour in the queue of a batch system, by default.

    Raises
    ------
    ConfigError
        When the target is unknown, no scheduler or no worker answers in time, a batch system is not there or not
        configured, a worker runs another neyman, or there are fewer GPUs than workers.
    MissingExtraError
        When Dask, or dask-jobqueue for a batch system, is not installed.

    Notes
    -----
    Workers that are started here keep freed memory (``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_`` of
    256 MiB). Set both in the environment of a cluster of your own, whose nannies otherwise slow likelihoods down by a
    factor of 4.
    """
    distributed = optional("distributed", EXTRA)
    with ExitStack() as stack:
        if isinstance(target, distributed.Client):
            client = target
        elif isinstance(target, str):
            client = stack.enter_context(_named(distributed, target, gpus, stack))
        elif hasattr(target, "scheduler_address"):
            client = stack.enter_context(distributed.Client(target))
        else:
            raise ConfigError(
                f"{target!r:.80} is no Dask cluster", expected="local:4, an address, htcondor:20, a client"
            )
        queued = isinstance(target, str) and target.partition(":")[0] in _QUEUES
        _wait(client, target, timeout or (_QUEUED if queued else _TIMEOUT))
        check_workers(client)
        if gpus and not offering(client, GPU):
            raise ConfigError("no worker offers a GPU", fix="start workers with --resources GPU=1")
        yield client


def gpu(client: Any) -> dict[str, float] | None:
    """Resource of tasks that want a device: ``{"GPU": 1}`` when a worker offers it, and None otherwise."""
    return GPU if client is not None and offering(client, GPU) else None


def offering(client: Any, resources: dict[str, float] | None) -> int:
    """Number of workers that offer the resources."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    needed = (resources or {}).items()
    return sum(all(worker["resources"].get(name, 0) >= n for name, n in needed) for worker in workers)


def revive(client: Any) -> None:
    """Start again what a cluster of this process has lost for good, such as a worker that died while it started."""
    cluster = client.cluster
    wanted = getattr(cluster, "worker_spec", None)
    if wanted and len(client.scheduler_info(n_workers=-1)["workers"]) < len(wanted):
        cluster.scale(len(wanted))


def _named(distributed: Any, target: str, gpus: bool, stack: ExitStack) -> Any:
    """Client of the cluster with this name; a cluster that is started is closed by `stack`."""
    kind, _, count = target.partition(":")
    if kind in ("local", *_QUEUES):
        if not re.fullmatch(r"([1-9]\d*)?", count) or target.endswith(":"):
            raise ConfigError(f"{target!r} is no number of workers", expected=f"such as {kind}:4")
        n = int(count) if count else None
        cluster = _local(distributed, n, gpus) if kind == "local" else _queue(kind, n or 1, gpus)
        nanny = logging.getLogger("distributed.nanny")
        stack.callback(nanny.setLevel, nanny.level)
        client = distributed.Client(stack.enter_context(cluster))
        stack.callback(nanny.setLevel, logging.ERROR)  # that it kills a worker at the end is no news
        return client
    if "://" not in target and not re.fullmatch(r"[\w.-]+:\d{4,5}|\[[\da-fA-F:]+\]:\d{4,5}", target):
        raise ConfigError(
            f"{target!r} is no Dask cluster",
            expected=f"{nearest(kind, ('local', *_QUEUES), n=1)}:4, or an address such as tcp://host:8786",
        )
    try:
        return distributed.Client(target, timeout=_TIMEOUT)
    except (OSError, TypeError, ValueError) as error:  # TypeError: no certificates for tls://
        raise ConfigError(
            f"no Dask scheduler answers: {error}", where=target, expected="such as tcp://host:8786"
        ) from error


def _local(distributed: Any, n: int | None, gpus: bool) -> Any:
    """Processes of one thread on this machine, reachable from this machine alone."""
    import dask
    from distributed.worker_memory import parse_memory_limit

    devices = _devices() if gpus else []
    n = n or (len(devices) if gpus else dask.system.CPU_COUNT)
    if gpus and not devices:
        raise ConfigError("there is no GPU on this machine", fix="name a cluster that has some")
    if gpus and n > len(devices):
        raise ConfigError(
            f"{n} workers with a GPU each, and {len(devices)} GPUs", expected=f"local:{len(devices)}"
        )
    memory = parse_memory_limit("auto", 1, n, logger=logging.getLogger(__name__))
    here = {"host": "127.0.0.1", "protocol": "tcp://"}
    worker = {
        **here,
        "nthreads": 1,
        "dashboard": False,
        "memory_limit": memory,
        "preload": ["neyman.cluster.worker"],
        "silence_logs": logging.WARNING,
    }
    own = [
        {"resources": {"GPU": 1}, "env": {"CUDA_VISIBLE_DEVICES": devices[i]}} if gpus else {}
        for i in range(n)
    ]
    with dask.config.set({f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in MALLOC.items()}):
        return distributed.SpecCluster(
            {i: {"cls": distributed.Nanny, "options": {**worker, **own[i]}} for i in range(n)},
            scheduler={
                "cls": distributed.Scheduler,
                "options": {**here, "dashboard": True, "dashboard_address": "127.0.0.1:0"},
            },
            silence_logs=logging.WARNING,
        )


def _devices() -> list[str]:
    """Names of the visible GPUs, as ``CUDA_VISIBLE_DEVICES`` has them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def _queue(kind: str, jobs: int, gpus: bool) -> Any:
    """Batch jobs, as the user's Dask configuration describes them."""
    name, submit = _QUEUES[kind]
    try:
        queue = getattr(optional("dask_jobqueue", EXTRA), name)
    except MissingExtraError as error:
        raise MissingExtraError(f"{kind} needs dask-jobqueue: {error.what}", fix=error.fix) from error
    if shutil.which(submit) is None:  # Dask would go on without jobs, and the wait for them is long
        raise ConfigError(f"{kind} is not on this machine: there is no {submit}", fix="run on a submit node")
    import dask

    def configured(key: str) -> list[str]:
        return list(dask.config.get(f"jobqueue.{kind}.{key}", None) or [])

    exports = [f"export {name}={value}" for name, value in MALLOC.items()]
    arguments: dict[str, Any] = {"job_script_prologue": configured("job-script-prologue") + exports}
    if gpus:
        arguments["worker_extra_args"] = [*configured("worker-extra-args"), "--resources", "GPU=1"]
    try:
        cluster = queue(**arguments)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"jobs for {kind} cannot be described: {error}",
            where=f"jobqueue.{kind} in Dask's configuration",
            fix=f"give cores, memory and what else is missing in ~/.config/dask/jobqueue.yaml, under {kind}:",
        ) from error
    cluster.scale(jobs=jobs)
    return cluster


def _wait(client: Any, target: Any, timeout: float) -> None:
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError as error:
        raise ConfigError(
            f"no Dask worker has come within {timeout:g} s",
            where=str(client.scheduler.address) if client.scheduler else str(target),
            fix="see the state of the jobs and their logs, or start workers: dask worker ADDRESS",
        ) from error

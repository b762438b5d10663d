"""Data-parallel training: the processes of a ``torch.distributed`` group share the events of every batch.

Every process holds all events and all networks and computes its share of each batch; gradients and losses are then
averaged, so that all processes take the same step, which is that of one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from neyman.errors import ConfigError

Share = tuple[int, int]
ALONE: Share = (0, 1)


@contextmanager
def join(backend: str | None = None) -> Iterator[Share]:
    """Make this process one of those that ``torchrun`` has started.

    Parameters
    ----------
    backend
        ``gloo`` or ``nccl``; the latter by default where there is a GPU.

    Yields
    ------
    Number of this process and number of all.

    Raises
    ------
    ConfigError
        When the process was not started by ``torchrun``.

    Examples
    --------
    In a script that runs as ``torchrun --nproc-per-node 4 script.py``::

        with join() as (rank, processes):
            settings = Settings(data_parallel=True, batch_size=4096)
            result = OmniFold(settings=settings).fit(data, reconstructed, truth, seed=1)
            if rank == 0:
                result.save("out/unfolding")
    """
    if missing := [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]:
        raise ConfigError(
            f"this process was not started by torchrun: {', '.join(missing)} is not set",
            fix="torchrun --nproc-per-node N script.py",
        )
    if torch.cuda.is_available() and backend in (None, "nccl"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(backend or ("nccl" if torch.cuda.is_available() else "gloo"))
    try:
        yield share(True)
    finally:
        distributed.destroy_process_group()


def share(wanted: bool) -> Share:
    """Return the number of this process and that of all; (0, 1) where events are not to be shared.

    Raises
    ------
    ConfigError
        When they are to be shared, and this process belongs to no group.
    """
    if not wanted:
        return ALONE
    if not (distributed.is_available() and distributed.is_initialized()):
        raise ConfigError(
            "data_parallel is set, and this process belongs to no torch.distributed group",
            fix="start the script with torchrun and put the training inside `with neyman.training.join():`",
        )
    return distributed.get_rank(), distributed.get_world_size()


def average(tensors: Sequence[torch.Tensor], processes: int) -> None:
    """Replace each tensor by its average over the processes."""
    if processes == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= processes
    for tensor, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def total(tensor: torch.Tensor, processes: int) -> torch.Tensor:
    """Return the sum over the processes."""
    if processes > 1:
        distributed.all_reduce(tensor)
    return tensor


def evaluated(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], x: NDArray[np.float32], own: Share
) -> NDArray[np.float32]:
    """Return ``function(x)``, events on the last axis of the result, each process having computed its share."""
    rank, processes = own
    if processes == 1:
        return function(x)
    ends = np.linspace(0, len(x), processes + 1).astype(int)
    part = function(x[ends[rank] : ends[rank + 1]])
    whole = torch.zeros((*part.shape[:-1], len(x)))
    whole[..., ends[rank] : ends[rank + 1]] = torch.from_numpy(part)
    on_gpu = distributed.get_backend() == "nccl"
    return total(whole.cuda() if on_gpu else whole, processes).cpu().numpy()

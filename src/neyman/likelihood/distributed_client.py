"""The client's side of Dask: are the workers fit for likelihoods, and what do they hold?"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from neyman.cluster.code import check_workers
from neyman.cluster.connect import EXTRA, revive
from neyman.errors import LikelihoodError, NeymanWarning, optional

_LOOK = 5.0  # seconds between looks at the workers
_PATIENCE = 600.0  # seconds until others have read the shards of a lost worker


def prepare(client: Any) -> None:
    """Check that the workers of a Dask client can evaluate likelihoods; warn if they would be slow.

    Raises
    ------
    LikelihoodError
        When it is no client or not connected.
    ConfigError
        When a worker runs another neyman.
    """
    kind = optional("distributed", EXTRA).Client
    if not isinstance(client, kind) or client.asynchronous:
        raise LikelihoodError(
            f"{client!r:.80} is not a Dask client that waits for results",
            expected="a distributed.Client",
            fix="with neyman.cluster.connect(...) as client:",
        )
    check_connected(client)
    if not client.scheduler_info(n_workers=-1)["workers"]:
        raise LikelihoodError("the Dask cluster has no workers", where=str(client.scheduler.address))
    check_workers(client)
    slow = [address for address, trims in client.run(_trims).items() if trims]
    if slow:
        warnings.warn(
            f"{len(slow)} workers give memory back to the system after every chunk of events, which slows "
            f"likelihoods down several times: set MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ to 268435456 in "
            f"their environment (neyman.cluster.connect does so for clusters that it starts)",
            NeymanWarning,
            stacklevel=2,
        )


def _trims() -> bool:
    """Whether this process has the small trim threshold of Dask's nanny, and the mmap threshold that follows."""
    trim = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    return trim.isdigit() and int(trim) < 1 << 24 and "MALLOC_MMAP_THRESHOLD_" not in os.environ


def check_connected(client: Any) -> None:
    """Raise when the client of a likelihood is closed."""
    if client.status != "running":
        raise LikelihoodError(
            "the Dask client that holds the events is closed",
            fix="use the likelihood while its client is open, or load it again with another",
        )


class Held(NamedTuple):
    """Results of Dask tasks, of which number i is called ``key-i``."""

    key: str
    futures: tuple[Any, ...]

    @classmethod
    def of(
        cls, client: Any, task: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], **where: Any
    ) -> Held:
        """Submit calls of `task`; `where` gives the workers of each."""
        key, places = f"neyman-{uuid.uuid4().hex}", where.get("workers") or [None] * len(tasks)
        return cls(
            key,
            tuple(
                client.submit(
                    task,
                    *arguments,
                    key=f"{key}-{i}",
                    pure=False,
                    workers=place or None,
                    allow_other_workers=bool(place),
                )
                for i, (arguments, place) in enumerate(zip(tasks, places, strict=True))
            ),
        )

    def places(self, client: Any) -> list[list[str]]:
        """Return the workers that hold each."""
        found = client.who_has(list(self.futures))
        return [list(found.get(future.key, ())) for future in self.futures]

    def wait(self, what: str) -> None:
        """Wait until workers hold all of `what`.

        Raises
        ------
        LikelihoodError
            When they do not.
        NeymanError
            Whatever was raised over the first of them that failed.
        """
        distributed = optional("distributed", EXTRA)
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                distributed.wait(list(self.futures), timeout=_LOOK)
                break
            except TimeoutError as late:
                if self.futures:
                    revive(self.futures[0].client)
                if time.monotonic() > end:
                    raise LikelihoodError(
                        f"the workers have not read all events within {_PATIENCE:g} s",
                        where=what,
                        fix="start more workers, and look at their logs",
                    ) from late
        for future in self.futures:
            if future.status == "finished":
                continue
            error = future.exception() if future.status == "error" else None
            if error is not None and not isinstance(error, distributed.scheduler.KilledWorker):
                raise error
            raise LikelihoodError(
                f"workers could not hold a part of the events: {error or future.status}",
                where=what,
                fix="give the workers more memory, or start more of them",
            ) from error

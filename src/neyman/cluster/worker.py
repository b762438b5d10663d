"""What Dask calls when a local worker starts (its ``preload``)."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001
    """Leave Ctrl-C, which the terminal sends to all its processes, to the one that started the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

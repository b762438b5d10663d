"""`Session`: an opened model, whatever evaluates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from neyman.errors import WorkspaceError
from neyman.events.scoring.signature import Signature

Array = NDArray[np.float32]
_CACHED = 1 << 13  # rows whose activations stay in the processor's cache, for one network
_FEWEST = 1 << 10
_ON_GPU = 1 << 18
_BLOCK = 64  # rows; measured: from here on torch on a CPU gives every row the same bits in any batch


class Session(Protocol):
    """An opened model of one process; several threads may call it at once."""

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""

    def __call__(self, inputs: Array) -> Array:
        """Map features and nuisance parameters ``(n, width)`` to ``(n, outputs)``."""


def batch_of(members: int, *, on_gpu: bool) -> int:
    """Return the number of events of one evaluation: on a CPU, about twice as fast as the whole chunk at once."""
    return _ON_GPU if on_gpu else max(_FEWEST, _CACHED // members)


def batched(evaluate: Callable[[Array], Array], inputs: Array, outputs: int, batch: int, where: str) -> Array:
    """Evaluate at most about `batch` rows at a time, ``(n, outputs)``.

    Rows are filled up to whole blocks by repeating the last one: matrix libraries sum the rows of an incomplete block
    in another order, and the score of an event would depend, in its last bit, on the events beside it.

    Raises
    ------
    WorkspaceError
        When the model gives another shape.
    """
    out = np.empty((len(inputs), outputs), dtype=np.float32)
    for start in range(0, len(inputs), batch):
        rows = inputs[start : start + batch]
        n = len(rows)
        if n % _BLOCK:
            rows = np.concatenate([rows, np.repeat(rows[-1:], -n % _BLOCK, axis=0)])
        out[start : start + n] = shaped(evaluate(rows), len(rows), outputs, where)[:n]
    return out


def shaped(part: Array, n: int, outputs: int, where: str) -> Array:
    """Return what a model gave as ``(n, outputs)``."""
    if part.shape[:1] != (n,) or part.size != n * outputs:
        raise WorkspaceError(
            f"the model gave an array of shape {part.shape} for {n} events",
            where=where,
            expected=f"({n}, {outputs})",
        )
    return part.reshape(n, outputs)

"""`one_thread`: small tensors are computed by one thread.

torch starts its threads for tensors of some ten thousand numbers. Waiting for them costs more than they save, and far
more where other work is on the same cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SMALL = 1 << 20  # numbers in the largest temporary


@contextmanager
def one_thread(size: int) -> Iterator[None]:
    """Let torch use one thread inside if the largest temporary has few numbers."""
    before = torch.get_num_threads()
    if size > _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

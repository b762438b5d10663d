"""Random numbers that belong to an event, not to the order in which events are processed.

:func:`uniform` is a counter-based generator: the number of an event depends on a key and on the event's id
alone, so every executor, chunk size and retry draws the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neyman.files import digest


def uniform(key: tuple[str | int, ...], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each of `ids`: two rounds of the SplitMix64 finaliser, keyed by `key`.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 15.
    """
    secret = digest(*key)
    first, second = (np.uint64(int(secret[start : start + 16], 16)) for start in (0, 16))
    state = _mix(_mix(ids.astype(np.uint64) ^ first) + second)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

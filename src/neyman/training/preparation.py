"""Before the first step of every training: which events are held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neyman.errors import TrainingError
from neyman.events import EventTable
from neyman.events.draws import uniform


def held_out(table: EventTable, fraction: float, *, seed: int) -> NDArray[np.bool_]:
    """Choose the events that judge a training and do not take part in it, bool ``(n_events,)``.

    By event identity (column ``entry``) where the table has it: replicas and variations of an event stay on one
    side, and the choice is independent of :meth:`neyman.events.EventTable.split` with the same seed. Otherwise
    `fraction` of the events, the same rows in every table of the same length.
    """
    if "entry" in table.extra:
        ids = table.extra["entry"]
        if ids.dtype.kind not in "iu":
            raise TrainingError(f"column 'entry' is {ids.dtype}", expected="integer ids of events")
        return uniform(("held out", seed), ids.astype(np.int64)) < fraction
    order = np.random.default_rng([seed, len(table)]).permutation(len(table))
    mask = np.zeros(len(table), dtype=np.bool_)
    mask[order[: max(1, round(fraction * len(table)))]] = True
    return mask

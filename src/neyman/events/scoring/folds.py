"""Two networks trained on one half of the events each: every event is scored by the one that has not seen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError, WorkspaceError
from neyman.events.draws import uniform
from neyman.events.scoring.bins import Bins
from neyman.events.scoring.signature import Signature


def in_second_fold(events: Any, seed: int) -> NDArray[np.bool_]:
    """Return which events are in the second fold, by their integer field ``entry`` and the seed alone.

    Raises
    ------
    InputError
        When they have no such field.
    """
    named = events if isinstance(events, Mapping) else getattr(events, "fields", None) or ()
    entry = np.asarray(events["entry"]) if "entry" in named else None
    if entry is None or entry.dtype.kind not in "iu" or entry.ndim != 1:
        raise InputError(
            "two networks share the events by their ids, and these have none",
            expected="an integer field 'entry'",
            fix="number the events as in the training",
        )
    return uniform(("fold", seed), entry.astype(np.int64)) < 0.5


def check_folds(bins: Sequence[Bins], signatures: Sequence[Signature], where: str) -> None:
    """Raise :class:`WorkspaceError` unless networks are the two of one training."""
    same = {"edges", "fold"}
    alike = all(own.model_dump(exclude=same) == bins[0].model_dump(exclude=same) for own in bins)
    if (
        len(bins) != len(signatures)
        or [own.fold for own in bins] != [0, 1]
        or signatures[0].features != signatures[1].features
        or not alike
    ):
        raise WorkspaceError(
            f"{len(signatures)} models do not make a classifier of two folds",
            where=where,
            expected="fold0.safetensors and fold1.safetensors of one training",
        )

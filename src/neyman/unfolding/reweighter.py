"""`Reweighter`: a finished unfolding applied to other events, inside any processor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError
from neyman.events.scoring.scorer import Scorer
from neyman.unfolding.storage import PUSH


class Reweighter:
    r"""Evaluates the push weights :math:`\nu(t)` of a finished unfolding on events with a particle level.

    The unfolded data are any sample of the same simulation with its own weights times these: more events than were
    unfolded, or other observables. It pickles small and loads the networks once a process.

    Parameters
    ----------
    path
        A folder of :meth:`Unfolding.save`, or a model file of :attr:`Unfolding.model`.

    Raises
    ------
    InputError
        When there is neither.

    Examples
    --------
    In a coffea processor::

        reweight = neyman.unfolding.Reweighter("out/unfolding")              # in __init__
        h.fill(pt=events.gen_pt, weight=events.genWeight * reweight(events))  # in process
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        place = Path(path)
        file = place / PUSH if place.is_dir() else place
        if not file.is_file():
            raise InputError(
                f"there is no unfolding at {place.name!r}",
                where=str(place),
                expected=f"a folder written by Unfolding.save, with {PUSH}",
            )
        self._scorer = Scorer({"push": file})

    @property
    def features(self) -> tuple[str, ...]:
        """Features of the particle level that events must have."""
        return self._scorer.features

    def __call__(self, events: Any) -> NDArray[np.float64]:
        """Return push weights, ``(n_events,)``.

        Parameters
        ----------
        events
            Awkward array (or mapping of arrays) with a field for every feature, one number an event; or a matrix in the
            order of :attr:`features`.

        Raises
        ------
        InputError
            As :class:`neyman.Scorer`, or when a weight is infinite.
        """
        log_weight = np.asarray(self._scorer(events), dtype=np.float64)
        with np.errstate(over="ignore"):
            weight = np.exp(log_weight)
        if not np.isfinite(weight).all():
            event = int(np.argmin(np.isfinite(weight)))
            raise InputError(
                f"the push weight of event {event} is infinite: its log-ratio is {log_weight[event]:g}",
                fix="the event is far outside the particle level that was unfolded",
            )
        return weight

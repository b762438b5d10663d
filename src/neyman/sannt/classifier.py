"""`Classifier`: trained networks with their bins, in files, to bin data and events of other samples."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hist
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from neyman.errors import InputError, WorkspaceError
from neyman.events import EventTable
from neyman.events.scoring.bins import NOTE, Bins
from neyman.files import atomic
from neyman.networks import Model
from neyman.sannt.filling import Exact, Filling, Inferno
from neyman.sannt.templates import in_second_fold

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Classifier:
    """Networks with the bins of their outputs.

    Parameters
    ----------
    models
        One network, or two that were trained on one half of the events each.
    bins
        The bins of each network.

    Examples
    --------
    Observed counts of a pyhf channel::

        classifier = neyman.sannt.Classifier.load("out/networks")
        classifier.contents(data)["SR"]
    """

    models: tuple[Model, ...]
    bins: tuple[Bins, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.models[0].features

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self.bins[0].channels

    def index(self, events: EventTable) -> tuple[Index, Index]:
        """Return channel (position in `channels`) and bin of each event, each ``(n_events,)``.

        Raises
        ------
        InputError
            When a feature is missing, or the networks of two folds meet events without an ``entry``.
        """
        x = events.with_features(self.features).x
        channel, bins = np.empty(len(x), dtype=np.int64), np.empty(len(x), dtype=np.int64)
        for rows, model, own in zip(self._folds(events), self.models, self.bins, strict=True):
            places = np.array(own.places())[raw_index(model, own, x[rows])]
            channel[rows], bins[rows] = places[:, 0], places[:, 1]
        return channel, bins

    def score(self, events: EventTable) -> NDArray[np.float32]:
        """Return the scores in [0, 1], ``(n_events,)``, or ``(n_events, n_outputs)`` for several outputs."""
        x = events.with_features(self.features).x
        out: NDArray[np.float32] | None = None
        for rows, model, own in zip(self._folds(events), self.models, self.bins, strict=True):
            scores = filling(own).scores(torch.from_numpy(_raw(model, x[rows]))[None])[0].numpy()
            if out is None:
                out = np.empty((len(x), scores.shape[1]), dtype=np.float32)
            out[rows] = scores
        if out is None:
            return np.zeros(0, dtype=np.float32)
        return out[:, 0] if out.shape[1] == 1 else out

    def contents(self, events: EventTable) -> dict[str, Array]:
        """Return the binned weights of events, such as the observed counts of data, by channel."""
        channel, bins = self.index(events)
        return {
            name: np.bincount(
                bins[channel == c], events.weight[channel == c], minlength=self.n_bins(name)
            ).astype(np.float64)
            for c, name in enumerate(self.channels)
        }

    def n_bins(self, channel: str) -> int:
        """Return the number of bins of a channel."""
        c = self.channels.index(channel)
        return 1 + max(bin_ for own, bin_ in self.bins[0].places() if own == c)

    def axis(self, channel: str) -> hist.axis.Variable | hist.axis.Integer:
        """Return the axis of a channel: ``score`` where all networks have the same edges, else ``bin``."""
        c, first = self.channels.index(channel), self.bins[0]
        if first.assignment == "score" and all(own.edges == first.edges for own in self.bins):
            n_bins = len(first.edges[0]) - 1
            groups = first.groups[c * n_bins : (c + 1) * n_bins]
            starts = [first.edges[c][k] for k in range(n_bins) if k == 0 or groups[k] != groups[k - 1]]
            return hist.axis.Variable([*starts, first.edges[c][-1]], name="score", label="network score")
        return hist.axis.Integer(
            0, self.n_bins(channel), name="bin", label="bin", underflow=False, overflow=False
        )

    def _folds(self, events: EventTable) -> Sequence[NDArray[np.bool_]]:
        """Which events each network bins."""
        if len(self.models) == 1:
            return [np.ones(len(events), dtype=np.bool_)]
        if "entry" not in events.extra or events.extra["entry"].dtype.kind not in "iu":
            raise InputError(
                "two networks share the events by their ids, and these have none",
                expected="an integer column 'entry'",
                fix="read it with extra=('entry',), or number the events",
            )
        second = in_second_fold(events.extra["entry"].astype(np.int64), self.bins[0].seed)
        # The network of the first fold bins the events of the second, and the other way round.
        return [second, ~second]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write one ``.safetensors`` file a network into a folder, atomically; each is a model for a Scorer."""
        with atomic(folder) as part:
            part.mkdir(parents=True)
            for name, model in self.files().items():
                model.save(part / name)
        return Path(folder)

    def files(self) -> Mapping[str, Model]:
        """Return the model files by name, their bins in the notes."""
        names = ["sannt.safetensors"] if len(self.models) == 1 else ["fold0.safetensors", "fold1.safetensors"]
        return {
            name: model.replace(notes=model.description.notes | {NOTE: own.model_dump_json()})
            for name, model, own in zip(names, self.models, self.bins, strict=True)
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Classifier:
        """Read a folder that :meth:`save` wrote, or the file of a single network.

        Raises
        ------
        WorkspaceError
            When a file is missing or broken, or has no bins.
        """
        place = Path(path)
        files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
        models, bins = [], []
        for file in files:
            model = Model.load(file)
            text = model.description.notes.get(NOTE)
            if text is None:
                raise WorkspaceError(
                    f"{file.name} has no bins",
                    where=str(file),
                    expected="a network that neyman.sannt trained",
                )
            try:
                bins.append(Bins.model_validate(json.loads(text)))
            except (ValidationError, ValueError, RecursionError) as error:
                raise WorkspaceError(
                    f"the bins of {file.name} are broken: {error}", where=str(file)
                ) from error
            models.append(model)
        if not files or [own.fold for own in bins] != list(range(bins[0].folds)):
            raise WorkspaceError(
                f"{len(files)} networks at {place.name!r} do not make a classifier",
                where=str(place),
                expected="sannt.safetensors, or fold0.safetensors and fold1.safetensors",
            )
        _check_consistent(models, bins, place)
        return cls(tuple(models), tuple(bins))


def _check_consistent(models: Sequence[Model], bins: Sequence[Bins], place: Path) -> None:
    """Networks of two folds must agree in all but their edges, and outputs must be what bins are made of."""
    same = {"edges", "fold"}
    for model, own in zip(models, bins, strict=True):
        if model.features != models[0].features or own.model_dump(exclude=same) != bins[0].model_dump(
            exclude=same
        ):
            raise WorkspaceError(
                f"the networks at {place.name!r} are not the two of one training",
                where=str(place),
                expected="the same features, region, classes, groups and seed",
            )
        n_bins = len(own.edges[0]) - 1
        expected = n_bins if own.assignment == "argmax" else max(1, len(own.classes))
        if model.description.outputs != expected:
            raise WorkspaceError(
                f"a network at {place.name!r} has {model.description.outputs} outputs for {expected}",
                where=str(place),
                expected="one output a class, or a bin",
            )


def filling(own: Bins) -> Filling:
    """Return how outputs become bins."""
    return Inferno() if own.assignment == "argmax" else Exact()


def _raw(model: Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    out = model(x)
    return out[:, None] if out.ndim == 1 else out


def raw_index(model: Model, own: Bins, x: NDArray[np.float32]) -> Index:
    """Return the bin of each event before bins are taken together, ``(n_events,)``."""
    scores = filling(own).scores(torch.from_numpy(_raw(model, x))[None])
    edges = torch.tensor(own.edges, dtype=torch.float64)[None]
    return filling(own).index(scores, edges)[0].numpy()

"""`Bins`: the bins of the score of a systematics-aware network, as its model file describes them."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neyman.errors import WorkspaceError

NOTE = "sannt"
Array = NDArray[np.float32]
Index = NDArray[np.int64]
_TEMPERATURE = 0.1  # of the shares of a network with one output a bin


class Bins(BaseModel):
    """What a model file says about its bins, in the entry ``sannt`` of its notes.

    Attributes
    ----------
    region
        Name of the region; with several classes a channel is called ``region_class``.
    classes
        Names of the classes, empty for a single output.
    edges
        Edges of the score of each class.
    groups
        To which bin of the fit each bin belongs, class by class.
    assignment
        ``score``: bins of the (largest) sigmoid score; ``argmax``: one output a bin.
    fold, folds, seed
        Of how many networks this is which. With two, an event is binned by the one that has not seen the fold to
        which its id (column ``entry``) belongs by the seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str = Field(min_length=1, max_length=200)
    classes: tuple[str, ...] = Field(default=(), max_length=1000)
    edges: tuple[tuple[float, ...], ...] = Field(min_length=1, max_length=1000)
    groups: tuple[int, ...] = Field(min_length=2, max_length=100_000)
    assignment: Literal["score", "argmax"] = "score"
    fold: int = Field(default=0, ge=0, le=1)
    folds: int = Field(default=1, ge=1, le=2)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Bins:
        n_bins = len(self.edges[0]) - 1
        if len(self.edges) != max(1, len(self.classes)) or len(self.groups) != len(self.edges) * n_bins:
            raise ValueError(f"{len(self.edges)} sets of edges and {len(self.groups)} bins do not fit")
        for own in self.edges:
            if len(own) != n_bins + 1 or not (np.diff(own) > 0.0).all() or not np.isfinite(own).all():
                raise ValueError("edges must be finite and ascend, as many in every class")
        for k, group in enumerate(self.groups):
            if not 0 <= group < len(self.groups) or group // n_bins != k // n_bins:
                raise ValueError(f"bin {k} belongs to the group {group} of another class")
            if self.assignment == "score" and k % n_bins and group < self.groups[k - 1]:
                raise ValueError("groups of neighbouring scores must ascend")
        return self

    @classmethod
    def of_notes(cls, notes: dict[str, str], where: str) -> Bins | None:
        """Read the bins of a model file, None where it has none.

        Raises
        ------
        WorkspaceError
            When they are broken.
        """
        if NOTE not in notes:
            return None
        try:
            return cls.model_validate(json.loads(notes[NOTE]))
        except (ValidationError, ValueError, RecursionError) as error:
            raise WorkspaceError(f"the bins of the model are broken: {error}", where=where) from error

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(f"{self.region}_{name}" for name in self.classes) or (self.region,)

    @property
    def outputs(self) -> int:
        """Number of network outputs."""
        return len(self.edges[0]) - 1 if self.assignment == "argmax" else len(self.edges)

    def places(self) -> list[tuple[int, int]]:
        """Channel and bin of the fit of each bin."""
        n_bins = len(self.edges[0]) - 1
        out: list[tuple[int, int]] = []
        for c in range(len(self.edges)):
            own = self.groups[c * n_bins : (c + 1) * n_bins]
            order = {group: k for k, group in enumerate(dict.fromkeys(own))}
            out += [(c, order[group]) for group in own]
        return out

    def scores(self, raw: Array) -> Array:
        """Return what is binned, from raw outputs ``(n_events, n_outputs)``: sigmoids, or the shares of bins."""
        if self.assignment == "score":
            return sigmoid(raw)
        shares = np.exp((raw - raw.max(axis=1, keepdims=True)) / np.float32(_TEMPERATURE))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)

    def index(self, raw: Array) -> Index:
        """Return channel and bin of the fit of each event, ``(n_events, 2)``.

        Scores outside the edges go into the end bins. Edges are compared in single precision: an event can land in the
        neighbouring bin of another backend only if its score is within rounding of an edge.
        """
        scores = self.scores(raw)
        winner = scores.argmax(axis=1)
        if self.assignment == "argmax":
            bins = winner
        else:
            bins = np.empty(len(raw), dtype=np.int64)
            for c, edges in enumerate(self.edges):
                own = winner == c
                inner = np.asarray(edges[1:-1], dtype=np.float32)
                bins[own] = c * (len(edges) - 1) + np.searchsorted(inner, scores[own, c], side="right")
        places: Index = np.array(self.places(), dtype=np.int64)[bins]
        return places


def sigmoid(raw: Array) -> Array:
    """Return the score in [0, 1] of a log-ratio, rounded once."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-raw.astype(np.float64))), dtype=np.float32)

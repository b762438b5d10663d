"""Events and observables of a `neyman unfold` job, as its first steps have written them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neyman.analysis.unfold_config import LevelSection, UnfoldConfig
from neyman.analysis.unfold_events import DATA, DISTORTION, ENTRY, FACTOR, PASSES, SIMULATION, Array, Mask
from neyman.errors import InputError
from neyman.events import EventTable
from neyman.events.columns import ParquetSource
from neyman.unfolding import WeightSet


@dataclass(frozen=True)
class StoredEvents:
    """What is unfolded.

    Parameters
    ----------
    config
        The job.
    folder
        Output of :meth:`neyman.analysis.unfold_events.UnfoldEvents.write`.
    """

    config: UnfoldConfig
    folder: Path

    @cached_property
    def levels(self) -> tuple[EventTable, EventTable]:
        """The simulation at detector and at particle level, with masks and factors."""
        return self._table("reconstructed", self.config.detector), self._table("truth", self.config.particle)

    @property
    def generated(self) -> Mask:
        """Which simulated events have a particle level."""
        mask: Mask = self.levels[1].extra[PASSES]
        return mask

    def closure_inputs(self) -> dict[str, Any]:
        """Return the simulation as `neyman.unfolding.closure_test` takes it."""
        reconstructed, truth = self.levels
        return {
            "reconstructed": _bare(reconstructed),
            "truth": _bare(truth),
            "passes_reconstruction": reconstructed.extra[PASSES],
            "passes_truth": truth.extra[PASSES],
        }

    def inputs(self) -> dict[str, Any]:
        """Return data, simulation and its variations as `neyman.unfolding.OmniFold.fit` takes them."""
        background = self.folder / "background.parquet"
        detector = self.config.detector
        return self.closure_inputs() | {
            "data": self._table("data", detector),
            "background": self._table("background", detector) if background.exists() else None,
            "detector_factor": self.levels[0].extra.get(FACTOR),
            "systematics": self._systematics(),
        }

    @property
    def fakes(self) -> bool:
        """Whether there are detected events without particle level."""
        return bool((self.levels[0].extra[PASSES] & ~self.generated).any())

    def _systematics(self) -> dict[str, list[WeightSet]]:
        reconstructed, truth = self.levels
        found: dict[str, list[WeightSet]] = {}
        for name, one in self.config.systematics.items():
            if one.detector:
                found[name] = [
                    WeightSet(detector=reconstructed.extra[f"{name}:{side}"]) for side in one.sides()
                ]
            else:
                found[name] = [WeightSet(weight=truth.extra[f"{name}:{side}"]) for side in one.sides()]
        return found

    def _table(self, name: str, level: LevelSection) -> EventTable:
        path = self.folder / f"{name}.parquet"
        extra = [one for one in ParquetSource(str(path)).names if one not in (*level.features, "weight")]
        return EventTable.from_parquet(path, features=level.features, weight="weight", extra=extra)


@dataclass(frozen=True)
class StoredObservables:
    """Columns of the observables.

    Parameters
    ----------
    config
        The job.
    folder
        Output of :meth:`neyman.analysis.unfold_events.UnfoldEvents.write_observables`.
    """

    config: UnfoldConfig
    folder: Path

    def particle(self, name: str) -> Array:
        """An observable of every simulated event at particle level."""
        return self._column(SIMULATION, f"particle:{name}")

    def detector(self, name: str) -> Array:
        """An observable of every simulated event at detector level."""
        return self._column(SIMULATION, f"detector:{name}")

    def data(self, name: str) -> tuple[Array, Array]:
        """An observable of data and background at detector level, and their weights, negative of the background."""
        return self._column(DATA, name), self._column(DATA, "weight")

    def distortion(self) -> Array:
        """Factors on the weights of the simulation in a closure test."""
        return self._column(SIMULATION, DISTORTION)

    def check_edges(self, generated: Mask) -> None:
        """Refuse bins without simulated events: no weight can fill them.

        Raises
        ------
        InputError
            When no event with a particle level lies between the edges of an observable.
        """
        for one in self.config.observables:
            values = self.particle(one.name)[generated]
            if not ((values >= one.edges[0]) & (values <= one.edges[-1])).any():
                raise InputError(
                    f"no simulated event lies between the edges of {one.name!r}",
                    where=f"edges from {one.edges[0]:g} to {one.edges[-1]:g}",
                    expected=f"values from {values.min():g} to {values.max():g}",
                    fix="check the edges and the unit of the column",
                )

    def _column(self, file: str, name: str) -> Array:
        _, columns = next(iter(ParquetSource(str(self.folder / file)).chunks([name])))
        return columns[name].astype(np.float64)


def _bare(table: EventTable) -> EventTable:
    """The table with nothing but what identifies its events."""
    return replace(table, extra={ENTRY: table.extra[ENTRY]} if ENTRY in table.extra else {})

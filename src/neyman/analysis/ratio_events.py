"""The events of a `neyman train` job: read from two sets of files, and split by what each event is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neyman.analysis.inputs import event_files, event_source, identity
from neyman.analysis.ratio_config import RatioConfig, SampleFiles
from neyman.analysis.simulation import derive
from neyman.events import EventTable
from neyman.events.columns import require
from neyman.training import held_out

Side = Literal["numerator", "denominator"]
SIDES: tuple[Side, Side] = ("numerator", "denominator")
PARTS = ("training", "first half", "second half")
_ENTRY, _PART = "entry", "neyman_part"


@dataclass(frozen=True)
class RatioEvents:
    """Files of both densities.

    Parameters
    ----------
    config
        The job.
    files
        ROOT and Parquet files of each side.
    """

    config: RatioConfig
    files: dict[Side, list[str]]

    @classmethod
    def find(cls, config: RatioConfig, home: Path) -> RatioEvents:
        """Resolve the files of a configuration in the folder `home`."""
        return cls(config, {side: event_files(_section(config, side).files, home) for side in SIDES})

    def key(self) -> tuple[Any, ...]:
        """Everything that the split events depend on."""
        config = self.config
        sections = [_section(config, side).model_dump(exclude={"label", "files"}) for side in SIDES]
        columns = (config.features, config.inputs, config.parameters, config.estimator == "lre")
        files = [[identity(path) for path in self.files[side]] for side in SIDES]
        return (*columns, config.seed, config.checks.fraction, sections, files)

    def write(self, folder: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Read, split and write both sides into a folder; returns the number of events by side and part.

        By event identity where both sides have a column ``entry``.
        """
        folder.mkdir()
        tables = {}
        for k, side in enumerate(SIDES):
            progress(k, len(SIDES))
            tables[side] = self._read(side)
        by_entry = all(_ENTRY in table.extra for table in tables.values())
        counts: dict[str, Any] = {}
        for side, table in tables.items():
            part = self._parts(table if by_entry else replace(table, extra={}))
            replace(table, extra={**table.extra, _PART: part}).to_parquet(folder / f"{side}.parquet")
            counts[side] = {name: int((part == k).sum()) for k, name in enumerate(PARTS)}
            counts[side]["columns"] = list(table.extra)
        return counts

    def _read(self, side: Side) -> EventTable:
        """All events of a side, with the nuisance parameters and the identity that they have."""
        config, files, section = self.config, self.files[side], _section(self.config, side)
        columns = _common_columns(files, section.tree)
        extra = [_ENTRY] if _ENTRY in columns and _ENTRY not in config.features else []
        if side == "numerator":
            for name in config.parameters:
                require(name, columns, f"the files of the {side}")
            extra += config.parameters
        elif config.estimator == "lre" and all(name in columns for name in config.parameters):
            extra += config.parameters
        options: dict[str, Any] = {
            "features": config.spec or config.features, "weight": section.weight, "cut": section.cut, "extra": extra,
        }  # fmt: skip
        tables = []
        if root := [path for path in files if path.endswith(".root")]:
            tables.append(EventTable.from_root(root, tree=section.tree, **options))
        if parquet := [path for path in files if path.endswith(".parquet")]:
            tables.append(EventTable.from_parquet(parquet, **options))
        table = EventTable.concat(tables)
        if side == "denominator" and any(np.ptp(table.extra[n]) == 0.0 for n in extra if n != _ENTRY):
            # Events at one point in z say nothing of it: they take the numerator's values in turn.
            table = replace(table, extra={n: table.extra[n] for n in extra if n == _ENTRY})
        return table

    def _parts(self, table: EventTable) -> Any:
        """What each event is for, an index of `PARTS`."""
        part = np.zeros(len(table), dtype=np.int8)
        back = held_out(table, self.config.checks.fraction, seed=derive(self.config.seed, "held back"))
        second = held_out(table.select(back), 0.5, seed=derive(self.config.seed, "halves"))
        part[back] = np.where(second, 2, 1)
        return part


@dataclass(frozen=True)
class SplitEvents:
    """The events by what they are for.

    Parameters
    ----------
    config
        The job.
    folder
        Output of :meth:`RatioEvents.write`.
    counts
        What it returned.
    """

    config: RatioConfig
    folder: Path
    counts: dict[str, Any]

    def training(self, side: Side) -> EventTable:
        """Events to train on."""
        return self._table(side, 0)

    def calibration(self, side: Side) -> EventTable:
        """Half of the events held back."""
        return self._table(side, 1)

    def checks(self, side: Side) -> EventTable:
        """Events held back that the calibration has not seen."""
        return self._table(side, *((2,) if self._calibrated else (1, 2)))

    def reference(self) -> EventTable:
        """Events of the denominator that are not for the checks."""
        return self._table("denominator", *((0, 1) if self._calibrated else (0,)))

    def numbers(self) -> dict[str, dict[str, int]]:
        """Events of each side for training, calibration and checks."""
        out: dict[str, dict[str, int]] = {}
        for side in SIDES:
            training, first, second = (self.counts[side][name] for name in PARTS)
            rest = (first, second) if self._calibrated else (0, first + second)
            out[side] = dict(zip(("training", "calibration", "checks"), (training, *rest), strict=True))
        return out

    @property
    def _calibrated(self) -> bool:
        return self.config.calibration.method != "none"

    def _table(self, side: Side, *parts: int) -> EventTable:
        table = EventTable.from_parquet(
            self.folder / f"{side}.parquet",
            features=self.config.features,
            weight="weight",
            cut=" or ".join(f"{_PART} == {part}" for part in parts),
            extra=self.counts[side]["columns"],
        )
        return replace(table, spec=self.config.spec)


def _section(config: RatioConfig, side: Side) -> SampleFiles:
    return config.numerator if side == "numerator" else config.denominator


def _common_columns(files: Sequence[str], tree: str) -> list[str]:
    """Columns that all files have, in the order of the first."""
    names = [event_source(f, tree).names for f in files]
    return [name for name in names[0] if all(name in others for others in names[1:])]

"""From flat files to what a `neyman unfold` job works on: tables of both levels, and the columns of observables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.analysis.inputs import condition, event_files, event_source, identity, numbers, used_columns
from neyman.analysis.ratio_config import SampleFiles
from neyman.analysis.unfold_config import LevelSection, UnfoldConfig
from neyman.errors import InputError
from neyman.events import EventTable
from neyman.events.columns import Columns, check_finite, require, write_parquet

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]
ENTRY, PASSES, FACTOR, DISTORTION = "entry", "neyman:passes", "neyman:factor", "neyman:distortion"
DATA, SIMULATION = "data.parquet", "simulation.parquet"


@dataclass(frozen=True)
class _Rows:
    """Some rows of a file: its columns, and the number of the first row in it."""

    columns: Columns
    where: str
    start: int
    n: int

    def mask(self, text: str | None, what: str) -> Mask:
        """Where a condition holds; everywhere without one."""
        return (
            np.ones(self.n, dtype=np.bool_)
            if text is None
            else condition(text, self.columns, self.n, what=what)
        )

    def values(self, text: str | None, what: str, at: Mask, fill: float) -> Array:
        """A column or an expression where the mask is true; finite there, and `fill` elsewhere."""
        values = np.full(self.n, fill)
        if text is not None:
            values[at] = numbers(text, self.columns, self.n)[at]
            check_finite(values[at], f"{what} {text}", self.where, self.start + np.flatnonzero(at))
        return values

    def features(self, names: Sequence[str], at: Mask) -> NDArray[np.float32]:
        """Columns where the mask is true; finite there, and 0 elsewhere, ``(n, n_features)``."""
        x = np.zeros((self.n, len(names)), dtype=np.float32)
        for i, name in enumerate(names):
            with np.errstate(over="ignore"):
                x[at, i] = self.columns[name][at]
            check_finite(x[at, i], f"feature {name}", self.where, self.start + np.flatnonzero(at))
        return x


def _rows(
    files: Sequence[str], tree: str, names: Iterable[str], texts: Iterable[str | None]
) -> Iterator[_Rows]:
    """Read these columns, and those that columns or expressions use, file by file in their order."""
    used = [text for text in texts if text is not None]
    for path in files:
        source = event_source(path, tree)
        available = list(source.names)
        more = (name for text in used for name in used_columns(text, available))
        needed = list(dict.fromkeys((*names, *more)))
        for name in needed:
            require(name, available, source.where)
        for start, columns in source.chunks(needed):
            yield _Rows(columns, source.where, start, len(next(iter(columns.values()))))


@dataclass(frozen=True)
class UnfoldEvents:
    """Files of a job.

    Parameters
    ----------
    config
        The job.
    data, simulation
        Their files.
    background
        Files of each background.
    """

    config: UnfoldConfig
    data: list[str]
    background: list[list[str]]
    simulation: list[str]

    @classmethod
    def find(cls, config: UnfoldConfig, home: Path) -> UnfoldEvents:
        """Resolve the files of a configuration in the folder `home`."""
        return cls(
            config,
            event_files(config.data.files, home),
            [event_files(one.files, home) for one in config.background],
            event_files(config.simulation.files, home),
        )

    @cached_property
    def files_key(self) -> tuple[Any, ...]:
        """Identity of all files, and what chooses and weights their events."""
        config = self.config
        samples = [one.model_dump(exclude={"files", "label"}) for one in (config.data, *config.background)]
        passes = config.detector.passes, config.particle.passes
        files = [[identity(path) for path in own] for own in (self.data, *self.background, self.simulation)]
        return samples, config.simulation.model_dump(exclude={"files"}), passes, files

    def key(self) -> tuple[Any, ...]:
        """Everything that the events depend on."""
        config = self.config
        systematics = {name: one.model_dump() for name, one in config.systematics.items()}
        columns = config.detector.features, config.particle.features, config.detector.factor
        return (*self.files_key, columns, systematics)

    def observables_key(self) -> tuple[Any, ...]:
        """Everything that the columns of the observables depend on; bin edges are no part of it."""
        observables = [(one.name, one.particle, one.detector) for one in self.config.observables]
        return (*self.files_key, observables, self.config.closure.distortion)

    # Events -----------------------------------------------------------------------------------------------

    def write(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Read everything that is unfolded and write it into a folder; returns the numbers of events.

        Features of a simulated event that fails a level become 0, its factors 1: whatever stands in the file there,
        NaN too, is not looked at.
        """
        folder.mkdir()
        samples = [(self.config.data, self.data), *zip(self.config.background, self.background, strict=True)]
        tables = []
        for k, (section, files) in enumerate(samples):
            progress(k, len(samples) + 1)
            tables.append(self._sample(section, files, "the background" if k else "the data"))
        tables[0].to_parquet(folder / DATA)
        if tables[1:]:
            EventTable.concat(tables[1:]).to_parquet(folder / "background.parquet")
        progress(len(samples), len(samples) + 1)
        reconstructed, truth = self._levels()
        reconstructed.to_parquet(folder / "reconstructed.parquet")
        truth.to_parquet(folder / "truth.parquet")
        detected, generated = reconstructed.extra[PASSES], truth.extra[PASSES]
        return {
            "data": len(tables[0]),
            "background": sum(map(len, tables[1:])),
            "simulation": len(truth),
            "detector": int(detected.sum()),
            "particle": int(generated.sum()),
            "both": int((detected & generated).sum()),
        }

    def _sample(self, section: SampleFiles, files: list[str], name: str) -> EventTable:
        """Events of the data or of a background at detector level."""
        features = self.config.detector.features
        entry = name == "the data" and _has_entry(files, section.tree, features)
        parts, n = [], 0
        names = (*features, ENTRY) if entry else features
        for rows in _rows(files, section.tree, names, (section.weight, section.cut)):
            kept = rows.mask(section.cut, "the cut")
            weight = rows.values(section.weight, "weight", kept, 1.0)
            extra = {ENTRY: rows.columns[ENTRY][kept]} if entry else {}
            parts.append(EventTable(features, rows.features(features, kept)[kept], weight[kept], extra))
            n += rows.n
        if not any(map(len, parts)):
            cut = f"no event of {name} passes the cut {section.cut!r}; {n} before"
            raise InputError(cut if n else f"there are no events in {name}", where=_where(files))
        table = EventTable.concat(parts)
        if entry:
            _check_unique(table.extra[ENTRY], _where(files))
        return _positive(table, name, files)

    def _levels(self) -> tuple[EventTable, EventTable]:
        """The simulation at detector and at particle level."""
        config, section = self.config, self.config.simulation
        detector, particle = config.detector, config.particle
        factors = {
            f"{name}:{side}": (text, one.detector)
            for name, one in config.systematics.items()
            for side, text in one.sides().items()
        }
        names = (*detector.features, *particle.features)
        entry = _has_entry(self.simulation, section.tree, names)
        names = (*names, ENTRY) if entry else names
        texts = [section.weight, detector.passes, particle.passes, detector.factor]
        texts += [text for text, _ in factors.values()]
        parts: tuple[list[EventTable], list[EventTable]] = ([], [])
        for rows in _rows(self.simulation, section.tree, names, texts):
            detected, generated = _masks(rows, detector, particle)
            weight = rows.values(section.weight, "weight", np.ones(rows.n, dtype=np.bool_), 1.0)
            both: Columns = {ENTRY: rows.columns[ENTRY]} if entry else {}
            own: tuple[Columns, Columns] = ({PASSES: detected} | both, {PASSES: generated} | both)
            if detector.factor is not None:
                own[0][FACTOR] = rows.values(detector.factor, "the detector factor", detected, 1.0)
            for name, (text, at_detector) in factors.items():
                at = detected if at_detector else detected | generated
                own[not at_detector][name] = rows.values(text, f"the systematic factor {name}", at, 1.0)
            for level, mask, extra, made in zip(
                (detector, particle), (detected, generated), own, parts, strict=True
            ):
                made.append(EventTable(level.features, rows.features(level.features, mask), weight, extra))
        if not any(map(len, parts[0])):
            raise InputError("there are no events in the simulation", where=_where(self.simulation))
        reconstructed, truth = (EventTable.concat(made) for made in parts)
        _check_masks(self.config, reconstructed.extra[PASSES], truth.extra[PASSES])
        return reconstructed, _positive(truth, "the simulation", self.simulation)

    # Observables ------------------------------------------------------------------------------------------

    def write_observables(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Evaluate the observables of all events, and write them into a folder; 0 where an event fails the level."""
        folder.mkdir()
        config, section = self.config, self.config.simulation
        detector, particle = config.detector, config.particle
        texts = [detector.passes, particle.passes, config.closure.distortion]
        texts += [text for one in config.observables for text in (one.particle, one.detector)]
        progress(0, 2)
        parts: list[Columns] = []
        for rows in _rows(self.simulation, section.tree, particle.features[:1], texts):
            detected, generated = _masks(rows, detector, particle)
            columns: Columns = {
                DISTORTION: rows.values(config.closure.distortion, "the distortion", generated, 1.0)
            }
            for one in config.observables:
                what = f"observable {one.name}:"
                columns[f"particle:{one.name}"] = rows.values(one.particle, what, generated, 0.0)
                if one.detector is not None:
                    columns[f"detector:{one.name}"] = rows.values(one.detector, what, detected, 0.0)
            parts.append(columns)
        write_parquet(folder / SIMULATION, _joined(parts))
        progress(1, 2)
        samples = [(config.data, self.data, 1.0)]
        samples += [(one, own, -1.0) for one, own in zip(config.background, self.background, strict=True)]
        observed = [self._observed(*sample) for sample in samples]
        write_parquet(folder / DATA, _joined([columns for own in observed for columns in own]))
        return {}

    def _observed(self, section: SampleFiles, files: list[str], sign: float) -> list[Columns]:
        """Observables at detector level of data or of a background, with weights of this sign."""
        drawn = {one.name: one.detector for one in self.config.observables if one.detector is not None}
        texts = [section.weight, section.cut, *drawn.values()]
        parts: list[Columns] = []
        for rows in _rows(files, section.tree, self.config.detector.features[:1], texts):
            kept = rows.mask(section.cut, "the cut")
            columns = {"weight": sign * rows.values(section.weight, "weight", kept, 1.0)}
            columns |= {
                name: rows.values(text, f"observable {name}:", kept, 0.0) for name, text in drawn.items()
            }
            parts.append({name: values[kept] for name, values in columns.items()})
        return parts


def _masks(rows: _Rows, detector: LevelSection, particle: LevelSection) -> tuple[Mask, Mask]:
    return rows.mask(detector.passes, "detector.passes"), rows.mask(particle.passes, "particle.passes")


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _where(files: Sequence[str]) -> str:
    return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _has_entry(files: Sequence[str], tree: str, features: Sequence[str]) -> bool:
    """Whether all files have a column that identifies events."""
    return ENTRY not in features and all(ENTRY in event_source(path, tree).names for path in files)


def _check_unique(entry: NDArray[Any], where: str) -> None:
    """Two events of one identity would have the same bootstrap weights."""
    values, counts = np.unique(entry, return_counts=True)
    if counts.max() > 1:
        raise InputError(
            f"{counts.max()} events of the data have the {ENTRY} {values[counts.argmax()]}",
            where=where,
            expected=f"a column {ENTRY!r} that identifies an event",
            fix="rename the column",
        )


def _positive(table: EventTable, name: str, files: Sequence[str]) -> EventTable:
    total = table.weight.sum()
    if not total > 0.0:
        raise InputError(
            f"the weights of {name} sum to {total:g}", where=_where(files), expected="a positive sum"
        )
    return table


def _check_masks(config: UnfoldConfig, detected: Mask, generated: Mask) -> None:
    if not (detected & generated).any():
        passes = config.detector.passes, config.particle.passes
        raise InputError(
            f"no simulated event passes both levels: of {len(detected)} events {detected.sum()} pass at detector and "
            f"{generated.sum()} at particle level",
            where="; ".join(f"passes = {text!r}" for text in passes if text is not None),
            fix="check the expressions; both levels are columns of the same rows",
        )

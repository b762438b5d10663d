"""From a flat file to selected events: new columns, cuts, weights, and the variations of a `neyman sannt` job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.analysis.inputs import condition, event_source, numbers, used_columns
from neyman.analysis.sannt_config import SanntConfig
from neyman.analysis.sannt_sections import (
    DATA,
    SIDES,
    DataSection,
    EstimateSection,
    SampleSection,
    SystematicSection,
)
from neyman.analysis.simulation import NAMING, NOMINAL
from neyman.errors import ConfigError
from neyman.events import EventTable, expression
from neyman.events.columns import Columns, Source, check_finite, require

Array = NDArray[np.float64]
ENTRY = "entry"
SUFFIX = dict(zip(SIDES, (NAMING.up, NAMING.down), strict=True))
Key = tuple[str, str, str]  # region, sample (or estimate, or data), variation
_FILE = 1 << 40  # entries of a file at most: the identity of an event is its file and its row


def weight_column(parameter: str, side: str) -> str:
    """Column of the weights of a variation that changes weights alone."""
    return f"weight:{parameter}:{side}"


class View(Mapping[str, Any]):
    """Columns of some events: those of a file, new ones computed when asked for, and replaced ones.

    Parameters
    ----------
    raw
        Columns of the file.
    new
        New columns, name to expression.
    replaced
        Columns with the values of a variation; new columns that use them follow.
    """

    def __init__(
        self, raw: Columns, new: Mapping[str, str], replaced: Mapping[str, Any] | None = None
    ) -> None:
        self.raw, self._new = raw, new
        self._known: dict[str, Any] = {**raw, **(replaced or {})}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            if name not in self._new:
                raise KeyError(name)
            self._known[name] = expression.evaluate(self._new[name], self)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._known, *self._new]))

    def __len__(self) -> int:
        return len({*self._known, *self._new})

    def varied(self, replacements: Mapping[str, str]) -> View:
        """Return the events with columns replaced by expressions of the ones here, all at once."""
        return View(
            self.raw, self._new, {name: expression.evaluate(t, self) for name, t in replacements.items()}
        )


@dataclass(frozen=True)
class Reading:
    """One set of files that is read in one pass."""

    files: list[str]
    section: SampleSection | DataSection
    name: str
    # Variation that the files hold; the nominal ones bring those of weights and columns.
    variation: str = NOMINAL


@dataclass
class Selected:
    """Selected events by region, sample (or estimate, or data) and variation, as they are read.

    Parameters
    ----------
    config
        The job.
    parts
        Tables of each.
    beside
        Events of data that an estimate takes for a region, by both names.
    """

    config: SanntConfig
    parts: dict[Key, list[EventTable]] = field(default_factory=dict)
    beside: dict[tuple[str, str], list[EventTable]] = field(default_factory=dict)

    def features(self, region: str) -> tuple[str, ...]:
        """Return the columns that are kept of a region's events."""
        observable = self.config.regions[region].observable
        return self.config.features if observable is None else (observable,)

    def table(self, key: Key) -> EventTable:
        """Return the events of a region, sample and variation."""
        features = self.features(key[0])
        # A sample may have no events in a region, and then has no columns either.
        made = self.parts.get(key) or [
            EventTable(
                features,
                np.empty((0, len(features)), dtype=np.float32),
                np.empty(0),
                {ENTRY: np.empty(0, dtype=np.int64)},
            )
        ]
        return EventTable.concat(made)

    def acting(self, part: str) -> list[SystematicSection]:
        """Systematics of a sample that are more than a factor."""
        if not any(part == sample.name for sample in self.config.samples):
            return []
        return [s for s in self.config.systematics if s.factor is None and s.acts_on(part)]


@dataclass(frozen=True)
class Reader:
    """Reads the files of one sample, or the data, into `found`."""

    config: SanntConfig
    reading: Reading
    found: Selected

    def read(self) -> None:
        """Read all files, every region and variation in one pass.

        Raises
        ------
        ConfigError, InputError
            When a column is missing or has two meanings, or an expression gives what it must not.
        """
        section, new = self.reading.section, self.config.columns
        for k, path in enumerate(self.reading.files):
            source = event_source(path, section.tree)
            for name in new:
                if name in source.names:
                    raise ConfigError(
                        f"the new column {name!r} is already in the file",
                        where=path,
                        fix="give it another name",
                    )
            for start, raw in source.chunks(self._needed(source)):
                n = len(next(iter(raw.values())))
                nominal = View(raw, new)
                for name, view in self._views(nominal):
                    self._select(name, view, n, start + k * _FILE, path)

    def _views(self, nominal: View) -> Iterator[tuple[str, View]]:
        yield self.reading.variation, nominal
        if self.reading.variation != NOMINAL or self.reading.name == DATA:
            return
        for s in self.found.acting(self.reading.name):
            if s.columns is not None:
                for side, suffix in SUFFIX.items():
                    yield s.name + suffix, nominal.varied(getattr(s.columns, side))

    def _select(self, variation: str, view: View, n: int, start: int, where: str) -> None:
        config, name = self.config, self.reading.name
        for region in config.regions:
            table = self._table(region, config.region_cuts(region), variation, view, n, start, where)
            self.found.parts.setdefault((region, name, variation), []).append(table)
            if variation != NOMINAL:
                continue
            for estimate in config.estimates:
                factor = self._share(estimate)
                if factor == 0.0:
                    continue
                cuts = config.sideband_cuts(region, estimate)
                table = self._table(region, cuts, variation, view, n, start, where)
                if name == DATA:
                    self.found.beside.setdefault((region, estimate.name), []).append(table)
                entry = table.extra[ENTRY] + (self._source << 54)
                of_estimate = replace(table.scaled(factor), extra={ENTRY: entry})
                self.found.parts.setdefault((region, estimate.name, variation), []).append(of_estimate)

    @property
    def _source(self) -> int:
        """Number of the sample, from 1; 0 for data."""
        return [DATA, *(s.name for s in self.config.samples)].index(self.reading.name)

    def _share(self, estimate: EstimateSection) -> float:
        """Factor on the weights of these events in an estimate."""
        if self.reading.name == DATA:
            return estimate.factor
        taken = estimate.subtract is None or self.reading.name in estimate.subtract
        return -estimate.factor if taken else 0.0

    def _table(
        self, region: str, cuts: Mapping[str, str], variation: str, view: View, n: int, start: int, where: str
    ) -> EventTable:
        section, features = self.reading.section, self.found.features(region)
        texts = [*([section.cut] if section.cut else []), *cuts.values()]
        mask = np.ones(n, dtype=bool)
        for text in texts:
            mask &= condition(text, view, n)
        rows = np.flatnonzero(mask)
        x = np.empty((len(rows), len(features)), dtype=np.float32)
        place = f"{where} ({variation})" if variation != NOMINAL else where
        events = rows + start % _FILE
        for i, name in enumerate(features):
            with np.errstate(over="ignore"):
                x[:, i] = numbers(name, view, n)[rows]
            check_finite(x[:, i], f"feature {name}", place, events)
        weight = np.ones(len(rows))
        extra: dict[str, NDArray[Any]] = {ENTRY: rows.astype(np.int64) + start}
        if isinstance(section, SampleSection):
            if section.weight is not None:
                weight = self._factor(section.weight, view, n, rows, place, events)
            weight = weight * section.scale
            if variation == NOMINAL:
                for s in self.found.acting(section.name):
                    for side in SIDES if s.weight is not None else ():
                        factor = self._factor(getattr(s.weight, side), view, n, rows, place, events)
                        extra[weight_column(s.name, side)] = weight * factor
        return EventTable(features, x, weight, extra)

    def _factor(
        self, text: str, view: View, n: int, rows: NDArray[Any], where: str, events: NDArray[Any]
    ) -> Array:
        factor: Array = numbers(text, view, n)[rows].astype(np.float64)
        check_finite(factor, f"weight {text}", where, events)
        return factor

    def _needed(self, source: Source) -> list[str]:
        """Columns of a file that are used, new ones followed to those that they use."""
        config, section = self.config, self.reading.section
        texts = [section.cut] if section.cut else []
        columns = [*config.features, *(r.observable for r in config.regions.values() if r.observable)]
        for region in config.regions:
            texts += config.region_cuts(region).values()
            texts += [cut for e in config.estimates for cut in config.sideband_cuts(region, e).values()]
        if isinstance(section, SampleSection):
            texts += [section.weight] if section.weight else []
            for s in self.found.acting(section.name):
                for side in SIDES:
                    texts += [getattr(s.weight, side)] if s.weight else []
                    if s.columns is not None and self.reading.variation == NOMINAL:
                        columns += getattr(s.columns, side)
                        texts += getattr(s.columns, side).values()
        available = list(source.names)
        for text in texts:
            columns += used_columns(text, available)
        needed: list[str] = []
        pending = list(dict.fromkeys(columns))
        for name in pending:
            if name in config.columns:
                more = expression.names(config.columns[name])
                pending += [one for one in more if one not in pending]
            else:
                require(name, [*available, *config.columns], source.where)
                needed.append(name)
        return needed

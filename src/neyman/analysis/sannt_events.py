"""The events of a `neyman sannt` job: files to tables and histograms of each region, process and variation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from neyman.analysis.inputs import Home, event_files, identity
from neyman.analysis.sannt_config import SanntConfig
from neyman.analysis.sannt_reading import (
    ENTRY,
    SUFFIX,
    Array,
    Reader,
    Reading,
    Selected,
    weight_column,
)
from neyman.analysis.sannt_sections import DATA, SIDES
from neyman.analysis.simulation import NOMINAL, make_hist
from neyman.errors import ConfigError, InputError, NeymanWarning
from neyman.events import EventTable
from neyman.events.columns import ParquetSource
from neyman.files import read_json, write_json
from neyman.workspace import check_orthogonal

_MARKERS = (-99.0, -999.0, -9999.0, -99999.0)  # of missing values, as trees have them


@dataclass(frozen=True)
class SanntEvents:
    """Files of a job.

    Parameters
    ----------
    config
        The job.
    readings
        What is read.
    """

    config: SanntConfig
    readings: list[Reading]

    @classmethod
    def find(cls, config: SanntConfig, home: Home) -> SanntEvents:
        """Resolve the files of a configuration in the folder, or at the URL, `home`."""
        readings = [Reading(event_files(s.files, home), s, s.name) for s in config.samples]
        for s in config.systematics:
            if s.files is not None and s.samples is not None:
                sample = next(one for one in config.samples if one.name == s.samples[0])
                for side, suffix in SUFFIX.items():
                    found = event_files(getattr(s.files, side), home)
                    readings.append(Reading(found, sample, sample.name, s.name + suffix))
        if config.data is not None:
            readings.append(Reading(event_files(config.data.files, home), config.data, DATA))
        return cls(config, readings)

    def key(self) -> tuple[Any, ...]:
        """Everything that the events depend on."""
        config = self.config
        used = {
            "features", "columns", "cuts", "samples", "data", "estimates", "regions", "systematics",
        }  # fmt: skip
        return (
            config.model_dump(mode="json", include=used),
            [(r.name, r.variation, [identity(path) for path in r.files]) for r in self.readings],
        )

    def write(self, folder: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Read everything, check that the regions are disjoint, and write tables and histograms.

        Returns
        -------
        Events and expected counts of each process, and observed counts, by region.
        """
        folder.mkdir()
        selected = Selected(self.config)
        for k, reading in enumerate(self.readings):
            progress(k, len(self.readings))
            Reader(self.config, reading, selected).read()
        _check_disjoint(selected)
        return _Processes(self.config, selected).write(folder)


@dataclass(frozen=True)
class SelectedEvents:
    """The events of a job.

    Parameters
    ----------
    config
        The job.
    folder
        Output of :meth:`SanntEvents.write`.
    summary
        What it returned.
    """

    config: SanntConfig
    folder: Path
    summary: dict[str, Any]

    def table(self, process: str) -> EventTable:
        """Events of a process in the region of the network; weights are expected counts."""
        return self._read(process, *self._weights(process))

    def data(self) -> EventTable | None:
        """Observed events in the region of the network."""
        return None if self.config.data is None else self._read(DATA)

    def weights(self, process: str) -> dict[str, tuple[Array, Array]]:
        """Weights of the same events, up and down, by parameter."""
        table = self.table(process)
        names = dict.fromkeys(name.split(":")[1] for name in self._weights(process))
        return {
            name: (table.extra[weight_column(name, "up")], table.extra[weight_column(name, "down")])
            for name in names
        }

    def tables(self, process: str) -> dict[str, tuple[EventTable, EventTable]]:
        """Other events, up and down, by parameter."""
        found = sorted(self.folder.glob(f"{self.config.region}.{process}.*.up.parquet"))
        names = [path.name.split(".")[2] for path in found]
        return {
            name: (self._read(f"{process}.{name}.up"), self._read(f"{process}.{name}.down")) for name in names
        }

    def histograms(self, region: str) -> dict[str, hist.Hist[Any]]:
        """Histograms of a binned region by process, with the systematic axis."""
        stored = read_json(self.folder / f"{region}.json")["processes"]
        edges = self.config.regions[region].edges or ()
        return {
            process: make_hist(
                region, edges, {name: (np.array(v), np.array(e)) for name, (v, e) in contents.items()}
            )
            for process, contents in stored.items()
        }

    def counts(self, region: str) -> Array | None:
        """Observed counts of a binned region."""
        observed = read_json(self.folder / f"{region}.json")[DATA]
        return None if observed is None else np.array(observed, dtype=np.float64)

    def _weights(self, process: str) -> list[str]:
        path = self.folder / f"{self.config.region}.{process}.parquet"
        return [name for name in ParquetSource(str(path)).names if name.startswith("weight:")]

    def _read(self, stem: str, *extra: str) -> EventTable:
        return EventTable.from_parquet(
            self.folder / f"{self.config.region}.{stem}.parquet",
            features=self.config.features,
            weight="weight",
            extra=(ENTRY, *extra),
        )


@dataclass(frozen=True)
class _Processes:
    """Processes, put together from the samples and estimates that were selected."""

    config: SanntConfig
    selected: Selected

    def write(self, folder: Path) -> dict[str, Any]:
        """Write tables and histograms; returns the events of each region."""
        summary: dict[str, Any] = {}
        for region in self.config.regions:
            nominal = {process: self._nominal(region, process) for process in self.config.processes}
            summary[region] = {
                "processes": {
                    name: {"events": len(table), "expected": float(table.weight.sum())}
                    for name, table in nominal.items()
                }
            }
            observed = None
            if self.config.data is not None:
                observed = self.selected.table((region, DATA, NOMINAL))
                summary[region][DATA] = len(observed)
            if region == self.config.region:
                self._write_tables(folder, nominal, observed)
            else:
                self._write_histograms(folder, region, nominal, observed)
        return summary

    def _write_tables(
        self, folder: Path, nominal: Mapping[str, EventTable], observed: EventTable | None
    ) -> None:
        region = self.config.region
        for process, table in nominal.items():
            if not len(table) or not table.weight.sum() > 0.0:
                raise InputError(
                    f"{len(table)} events of {process!r} pass the cuts of region {region!r}, "
                    f"and their weights sum to {table.weight.sum():g}",
                    where="; ".join(self.config.region_cuts(region).values()) or None,
                    expected="a positive sum, or there is nothing to train on",
                )
            table.to_parquet(folder / f"{region}.{process}.parquet")
            for parameter in self._shifted(process):
                for side in SIDES:
                    varied = self._varied(region, process, parameter, side)
                    if not varied.weight.sum() > 0.0:
                        raise InputError(
                            f"the events of {process!r} with {parameter} {side} have weights that sum to "
                            f"{varied.weight.sum():g} in region {region!r}",
                            expected="a positive sum",
                            fix="check what the systematic does to the columns of the cuts",
                        )
                    varied.to_parquet(folder / f"{region}.{process}.{parameter}.{side}.parquet")
        _warn_of_markers(nominal)
        if observed is not None:
            observed.to_parquet(folder / f"{region}.{DATA}.parquet")

    def _write_histograms(
        self, folder: Path, region: str, nominal: Mapping[str, EventTable], observed: EventTable | None
    ) -> None:
        edges = np.array(self.config.regions[region].edges)
        stored: dict[str, Any] = {}
        for process, table in nominal.items():
            contents = {NOMINAL: binned(table, edges)}
            for parameter in [*self._weighted(process), *self._shifted(process)]:
                for side, suffix in SUFFIX.items():
                    contents[parameter + suffix] = binned(
                        self._varied(region, process, parameter, side), edges
                    )
            stored[process] = {name: [v.tolist() for v in pair] for name, pair in contents.items()}
        counts = None if observed is None else binned(observed, edges)[0].tolist()
        write_json(folder / f"{region}.json", {"processes": stored, DATA: counts})

    def _shifted(self, process: str) -> list[str]:
        """Parameters whose variations have other events than the nominal."""
        parts = self.config.processes[process]
        kinds = [s for part in parts for s in self.selected.acting(part)]
        return list(dict.fromkeys(s.name for s in kinds if s.weight is None))

    def _weighted(self, process: str) -> list[str]:
        """Parameters that change the weights alone."""
        parts, common = self.config.processes[process], self.config.normsys(process)
        names = [s.name for part in parts for s in self.selected.acting(part) if s.weight is not None]
        names += [name for part in parts for name in self.config.factors(part) if name not in common]
        shifted = self._shifted(process)
        return [name for name in dict.fromkeys(names) if name not in shifted]

    def _nominal(self, region: str, process: str) -> EventTable:
        """Nominal events of a process, with the weights of variations as further columns."""
        parts = []
        for k, part in enumerate(self.config.processes[process]):
            table = self.selected.table((region, part, NOMINAL))
            weights = {
                weight_column(name, side): self._weight(table, part, name, side)
                for name in self._weighted(process)
                for side in SIDES
            }
            parts.append(replace(table, extra={ENTRY: _identities(table, k), **weights}))
        return EventTable.concat(parts)

    def _varied(self, region: str, process: str, parameter: str, side: str) -> EventTable:
        """Events of a process for one side of a variation."""
        parts = []
        for k, part in enumerate(self.config.processes[process]):
            kinds = [s for s in self.selected.acting(part) if s.name == parameter]
            if kinds and kinds[0].weight is None:
                table = self.selected.table((region, part, parameter + SUFFIX[side]))
            else:
                table = self.selected.table((region, part, NOMINAL))
                table = replace(table, weight=self._weight(table, part, parameter, side))
            parts.append(replace(table, extra={ENTRY: _identities(table, k)}))
        return EventTable.concat(parts)

    def _weight(self, table: EventTable, part: str, parameter: str, side: str) -> Array:
        column = weight_column(parameter, side)
        if column in table.extra:
            return np.asarray(table.extra[column], dtype=np.float64)
        factors = self.config.factors(part).get(parameter, (1.0, 1.0))
        return table.weight * factors[SIDES.index(side)]


def _check_disjoint(selected: Selected) -> None:
    """Raise an error unless the regions are disjoint, and the events of an estimate are in none of them."""
    config = selected.config
    names = [sample.name for sample in config.samples] + [DATA] * (config.data is not None)

    def ids(tables: Iterable[EventTable]) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype=np.int64), *(t.extra[ENTRY] for t in tables)])

    regions = {
        region: {name: ids(selected.parts.get((region, name, NOMINAL), ())) for name in names}
        for region in config.regions
    }
    check_orthogonal(regions)
    for (region, estimate), tables in selected.beside.items():
        for other, events in regions.items():
            if both := len(np.intersect1d(ids(tables), events[DATA])):
                raise ConfigError(
                    f"{both} events of data are in region {other!r} and in the estimate {estimate!r} of region "
                    f"{region!r}",
                    expected="an estimate of events outside all regions",
                    fix="change its replace",
                )


def binned(table: EventTable, edges: Array) -> tuple[Array, Array]:
    """Return contents and variances of the first feature.

    The overflow is in the last bin; what lies below the first edge is lost.
    """
    kept = table.select(table.x[:, 0] >= edges[0])
    index = np.minimum(np.searchsorted(edges, kept.x[:, 0], side="right") - 1, len(edges) - 2)
    contents, variances = (
        np.bincount(index, w, minlength=len(edges) - 1).astype(np.float64)
        for w in (kept.weight, kept.weight**2)
    )
    return contents, variances


def _identities(table: EventTable, part: int) -> NDArray[Any]:
    # Samples of one process count their files from 0 each; 2^14 files of 2^40 events fit below the next sample.
    return np.asarray(table.extra[ENTRY] + (part << 54))


def _warn_of_markers(tables: Mapping[str, EventTable]) -> None:
    """Warn of features with a marker of missing values: a network would take it for a measured number."""
    features = next(iter(tables.values())).features
    for i, name in enumerate(features):
        x = np.concatenate([table.x[:, i] for table in tables.values()])
        for marker in _MARKERS:
            share = float(np.mean(x == marker))
            if share > 0.001:
                warnings.warn(
                    f"feature {name!r} is {marker:g} in {share:.1%} of the events, which looks like a missing value; "
                    "give these events a sensible one in [columns], or choose another feature",
                    NeymanWarning,
                    stacklevel=2,
                )

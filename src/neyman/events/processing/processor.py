"""A coffea processor that turns NanoAOD events into flat tables and histograms, for every variation.

:class:`TableProcessor` is what coffea's ``Runner`` calls for each chunk of events; it calls the user's
function once per variation and writes what it returns. Run it with
:func:`~neyman.events.processing.runner.process_files`, or inside one's own ``Runner``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np

from neyman.errors import ConfigError, InputError, NeymanError, nearest
from neyman.events.columns import Columns, as_numbers, check_finite
from neyman.events.processing.chunk import Chunk
from neyman.events.processing.exact import ExactSum, totals
from neyman.events.processing.selection import RegionSpec, Shifts, Variation, check_name
from neyman.events.processing.sink import ParquetSink
from neyman.events.processing.source import PythonRef, location


@dataclass(frozen=True)
class TableProcessor:
    """Write flat columns and fill histograms for each region and variation.

    Parameters
    ----------
    build
        The user's function ``build(events, shifts) -> {region: records}``. `events` are the NanoEvents of a
        chunk. `shifts` maps a shift's name to its value, a float or an array with a value per event; read it
        with ``shifts.get("tes", 1.0)``. The records of a region are an awkward array with one record for each
        selected event; its fields are flat numbers, among them ``entry_index``, the event's index in the
        chunk. A field ``weight`` is the event weight; without it ``genWeight`` is, or 1.
    variations
        Ways to process every event.
    regions
        What to keep of each region.
    folder
        Tables are ``<folder>/<dataset>/<region>/<variation>/<file>-<start>-<stop>.parquet`` with the
        region's columns and the sampled shifts as float32, ``weight`` and ``entry``. ``entry`` is an int64
        that identifies the event among all files, whatever the chunk size; a retried chunk overwrites.
    seed
        Of the sampled shifts, which depend on it and on ``entry`` alone.

    Notes
    -----
    coffea sums what the chunks return and then calls :meth:`postprocess`, which gives for each dataset::

        {"n_events": events read, "sumw": their sum of genWeight,
         "selected": {region: {variation: {"n": events, "sumw": sum of weights}}},
         "histograms": {region: hist.Hist (axes variation, column; Weight storage)},
         "files": {region: {variation: [paths relative to folder]}}}

    Sums do not depend on the order of the chunks: every executor gives the same bits.
    """

    build: PythonRef
    variations: tuple[Variation, ...]
    regions: Mapping[str, RegionSpec]
    folder: str | os.PathLike[str]
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "variations", tuple(self.variations))
        object.__setattr__(self, "folder", str(Path(self.folder).absolute()))
        names = [variation.name for variation in self.variations]
        if not names or not self.regions:
            raise ConfigError("nothing to process", expected="at least one variation and one region")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two variations are named {name!r}")
        for region, spec in self.regions.items():
            check_name("region", region)
            for name in spec.variations or ():
                if name not in names:
                    raise ConfigError(
                        f"region {region!r} wants variation {name!r}, which is not defined",
                        expected=nearest(name, names),
                    )
            for variation in self.variations:
                if spec.writes(variation) and set(variation.sampled) & set(spec.columns or ()):
                    raise ConfigError(f"a column of region {region!r} has the name of a sampled shift")

    @property
    def sink(self) -> ParquetSink:
        """Where the tables go."""
        return ParquetSink(self.folder)

    def __call__(self, events: Any) -> dict[str, Any]:
        """Process one chunk; called by coffea.

        Raises
        ------
        InputError
            A branch is missing; a column is masked, jagged or not finite (names column, event and file).
        ConfigError
            The function fails or returns something else than described.
        """
        chunk = Chunk(events)
        result: dict[str, Any] = {
            "n_events": chunk.size,
            "sumw": ExactSum(chunk.weight.sum(dtype=np.float64)),
            "selected": {region: {} for region in self.regions},
            "histograms": {r: self._histogram(s) for r, s in self.regions.items() if s.histogram},
            "files": {region: {} for region in self.regions},
        }
        for variation in self.variations:
            wanted = [r for r, s in self.regions.items() if s.writes(variation) or s.fills(variation)]
            parts: dict[str, list[Columns]] = {region: [] for region in wanted}
            for replica in range(variation.replicas if chunk.size and wanted else 0):
                for region, columns in self._columns(chunk, variation, replica, wanted).items():
                    parts[region].append(columns)
            for region in wanted:
                self._keep(result, chunk, variation, region, _stack(parts[region]))
        result["histograms"] = {region: ExactSum(h) for region, h in result["histograms"].items()}
        return {chunk.dataset: result}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Round the sums, check the tables and put them in order; called by coffea.

        Raises
        ------
        InputError
            A table is not there, or another run has written it since.
        """
        return {dataset: self._ordered(totals(summed)) for dataset, summed in accumulator.items()}

    def _ordered(self, summed: dict[str, Any]) -> dict[str, Any]:
        self.sink.check(row for by in summed["files"].values() for rows in by.values() for row in rows)
        files = {
            region: {
                variation: [row["path"] for row in sorted(rows, key=lambda row: (row["file"], row["start"]))]
                for variation, rows in by.items()
            }
            for region, by in summed["files"].items()
        }
        return summed | {"files": files}

    def _columns(
        self, chunk: Chunk, variation: Variation, replica: int, wanted: Sequence[str]
    ) -> dict[str, Columns]:
        shifts = Shifts(variation, chunk.entry, self.seed, replica)
        selected = self._call(chunk, shifts)
        if not isinstance(selected, Mapping):
            raise ConfigError(
                f"{self.build.name} returns {type(selected).__name__}",
                where=self.build.path,
                expected="a dictionary from region to an awkward record array",
            )
        shifts.check_used(self.build.path)
        for region in wanted:
            if region not in selected:
                raise ConfigError(
                    f"{self.build.name} returns no region {region!r}",
                    where=self.build.path,
                    expected=nearest(region, selected),
                )
        return {r: self._flat(chunk, r, selected[r], shifts) for r in wanted}

    def _call(self, chunk: Chunk, shifts: Shifts) -> Any:
        function = self.build.resolve()
        try:
            return function(chunk.events, shifts)
        except NeymanError:
            raise
        except Exception as error:
            line = location(error, self.build.path) or self.build.path
            if missing := _missing_field(error, chunk.events):
                name, known = missing
                raise InputError(
                    f"the events have no field {name!r}",
                    where=f"{line}, on {chunk.where}",
                    expected=nearest(name, known),
                ) from error
            raise ConfigError(
                f"{self.build.name} failed: {type(error).__name__}: {error}",
                where=f"{line}, on {chunk.where}",
            ) from error

    def _flat(self, chunk: Chunk, region: str, records: ak.Array, shifts: Shifts) -> Columns:
        """Columns of the selected events, checked; ``weight`` and ``entry`` included."""
        spec = self.regions[region]
        fields = ak.fields(records)
        names = dict.fromkeys([*(spec.columns or ()), *(spec.histogram or ())[:1]])
        for name in ("entry_index", *names):
            if name not in fields:
                raise ConfigError(
                    f"{self.build.name} returns no column {name!r} in region {region!r}",
                    where=self.build.path,
                    expected=nearest(name, fields),
                )
        index = as_numbers(records["entry_index"], "entry_index", f"{region}, {chunk.where}")
        if len(index) and (
            index.dtype.kind not in "iu"
            or index.min() < 0
            or index.max() >= chunk.size
            or len(np.unique(index)) < len(index)
        ):
            raise ConfigError(
                f"entry_index of region {region!r} does not number the selected events",
                where=self.build.path,
                expected=f"different integers from 0 to {chunk.size - 1}: ak.local_index(events, axis=0)[mask]",
            )
        index = index.astype(np.int64)
        columns: Columns = {}
        for name in names:
            with np.errstate(over="ignore"):
                columns[name] = as_numbers(records[name], name, chunk.where).astype(np.float32)
            check_finite(columns[name], name, f"region {region} of {chunk.where}", chunk.start + index)
        for name, value in shifts.sampled.items():
            columns[name] = value[index]
        if "weight" in fields:
            weight = as_numbers(records["weight"], "weight", chunk.where).astype(np.float64)
            check_finite(weight, "weight", f"region {region} of {chunk.where}", chunk.start + index)
        else:
            weight = chunk.weight[index]
        return columns | {"weight": weight, "entry": chunk.entry[index]}

    def _keep(
        self, result: dict[str, Any], chunk: Chunk, variation: Variation, region: str, columns: Columns
    ) -> None:
        spec, name = self.regions[region], variation.name
        weight = columns.get("weight", np.empty(0))
        result["selected"][region][name] = {"n": len(weight), "sumw": ExactSum(weight.sum())}
        result["files"][region][name] = []
        if not len(weight):
            return
        if spec.fills(variation) and spec.histogram:
            result["histograms"][region].fill(name, columns[spec.histogram[0]], weight=weight)
        if spec.writes(variation):
            written = (*(spec.columns or ()), *variation.sampled, "weight", "entry")
            row = self.sink.write(chunk, {column: columns[column] for column in written}, f"{region}/{name}")
            result["files"][region][name].append(row)

    def _histogram(self, spec: RegionSpec) -> hist.Hist[Any]:
        column, edges = spec.histogram or ("", (0.0, 1.0))
        names = [v.name for v in self.variations if spec.fills(v)]
        return hist.Hist(
            hist.axis.StrCategory(names, growth=True, name="variation"),
            hist.axis.Variable(edges, name=column),
            storage=hist.storage.Weight(),
        )


def _missing_field(error: Exception, events: Any) -> tuple[str, list[str]] | None:
    """Return the name that awkward did not find and the names there are, if that is what `error` says."""
    owner, name = getattr(error, "obj", None), getattr(error, "name", None)
    if isinstance(owner, ak.Array | ak.Record) and isinstance(name, str) and name not in owner.fields:
        return name, owner.fields
    found = re.search(r"no field '?(\w+)'?", str(error)) if isinstance(error, IndexError) else None
    members = chain(*(events.layout.content(field).fields for field in events.fields)) if found else ()
    return (found[1], [*events.fields, *members]) if found else None


def _stack(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}

"""The events step: ROOT files through the user's `build` in coffea, and access to what it wrote."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import hist
import numpy as np

from neyman.analysis.config import Config, SampleSection
from neyman.errors import ConfigError, InputError, nearest
from neyman.events import (
    EventTable,
    PythonRef,
    RegionSpec,
    TableProcessor,
    Variation,
    process_files,
    remote,
)
from neyman.events.columns import expand
from neyman.files import read_json, write_json
from neyman.naming import Naming

NOMINAL = "nominal"
NAMING = Naming()


def derive(seed: int, *labels: str) -> int:
    """Return an independent seed for a labelled purpose."""
    state = np.random.SeedSequence([seed, *(zlib.crc32(label.encode()) for label in labels)])
    return int(state.generate_state(1)[0])


def variations(config: Config) -> tuple[Variation, ...]:
    """Return nominal, up and down of every systematic, and the sampled variation of the conditioning one."""
    made = [Variation(NOMINAL)]
    for systematic in config.systematics:
        made += [
            Variation(systematic.name + suffix, shifts={systematic.shift: systematic.value(alpha)})
            for suffix, alpha in ((NAMING.up, 1.0), (NAMING.down, -1.0))
        ]
    if (conditioning := config.conditioning) is not None:
        bounds = conditioning.value(-conditioning.trained), conditioning.value(conditioning.trained)
        made.append(
            Variation(
                sampled_name(config), sampled={conditioning.shift: bounds}, replicas=config.events.replicas
            )
        )
    return tuple(made)


def sampled_name(config: Config) -> str:
    """Name of the variation from which the conditioned networks are trained."""
    return f"{config.conditioning.name}Sampled" if config.conditioning is not None else NOMINAL


@dataclass(frozen=True)
class Inputs:
    """Files of an analysis.

    Parameters
    ----------
    files
        ROOT files of each sample, paths or URLs.
    expected
        Expected stored events of each sample at the configured luminosity, before the selection.
    processor
        The user's function.
    """

    files: dict[str, tuple[str, ...]]
    expected: dict[str, float]
    processor: PythonRef

    @classmethod
    def find(cls, config: Config, home: Path, data: str | os.PathLike[str] | None) -> Inputs:
        """Resolve the files of a configuration; `data`, a folder or a URL, overrides its folder."""
        folder = remote.join(home, config.events.data) if data is None else os.fspath(data)
        if not remote.is_remote(folder) and not Path(folder).is_dir():
            raise InputError(
                f"data folder {Path(folder).name!r} does not exist", where=folder, fix="use --data DIR"
            )
        files: dict[str, tuple[str, ...]] = {}
        for sample in config.samples:
            found = [path for pattern in sample.files for path in _found(folder, pattern)]
            if not found:
                available = [p.name for p in Path(folder).glob("*.root")]
                raise InputError(
                    f"sample {sample.name!r}: no file matches {', '.join(sample.files)}",
                    where=folder,
                    fix=f"nearest: {nearest(sample.files[0], available)}",
                )
            files[sample.name] = tuple(found)
        expected = _expected(config, remote.join(folder, config.events.metadata))
        return cls(files, expected, PythonRef.parse(config.events.processor, home))


def _found(folder: str, pattern: str) -> list[str]:
    if pattern.startswith("@") or remote.is_remote(remote.join(folder, pattern)):
        return expand(remote.join(folder, pattern))
    return [str(path) for path in sorted(Path(folder).glob(pattern)) if path.is_file()]


def _document(path: str) -> Any:
    if not remote.is_remote(path):
        return read_json(path)
    try:
        return json.loads(remote.read_text(path))
    except ValueError as error:
        raise InputError(f"not readable JSON: {error}", where=path) from error


def _expected(config: Config, path: str) -> dict[str, float]:
    metadata = _document(path)
    expected = {}
    for sample in config.samples:
        entry = metadata.get(sample.name) if isinstance(metadata, dict) else None
        rate = entry.get("events_per_inverse_fb") if isinstance(entry, dict) else None
        if not isinstance(rate, int | float) or not 0 < rate < float("inf"):
            raise ConfigError(
                f"no positive 'events_per_inverse_fb' for sample {sample.name!r}",
                where=path,
                expected='{"%s": {"events_per_inverse_fb": 123.4}}' % sample.name,  # noqa: UP031
            )
        expected[sample.name] = float(rate) * config.analysis.luminosity
    return expected


def process(
    config: Config,
    inputs: Inputs,
    folder: Path,
    *,
    executor: Literal["iterative", "threads"],
    workers: int,
    client: Any,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Run the processor over all samples into `folder`; returns the summary of the step."""
    names = [v.name for v in variations(config)]
    regions = {}
    for name, region in config.regions.items():
        if region.fit == "unbinned":
            regions[name] = RegionSpec(columns=config.events.features, variations=tuple(names))
        elif region.observable is not None and region.edges is not None:
            regions[name] = RegionSpec(
                columns=None,
                histogram=(region.observable, region.edges),
                variations=tuple(n for n in names if n != sampled_name(config) or n == NOMINAL),
            )
    processor = TableProcessor(
        build=inputs.processor,
        variations=variations(config),
        regions=regions,
        folder=folder,
        seed=derive(config.analysis.seed, "events"),
    )
    accumulated = process_files(
        inputs.files,
        processor,
        tree=config.events.tree,
        executor=executor if client is None else "dask",
        workers=workers,
        chunk_size=config.events.chunk_size,
        client=client,
        progress=progress,
    )
    summary = {}
    for sample, result in accumulated.items():
        for region, h in result["histograms"].items():
            store_histogram(folder / f"{sample}.{region}.hist.json", h)
        summary[sample] = {key: result[key] for key in ("n_events", "sumw", "selected")}
    return summary


@dataclass(frozen=True)
class Simulation:
    """The processed events of an analysis, scaled to its luminosity.

    Parameters
    ----------
    config
        The analysis.
    folder
        Output of the events step.
    summary
        Summary of the events step.
    expected
        Expected stored events of each sample.
    """

    config: Config
    folder: Path
    summary: dict[str, Any]
    expected: dict[str, float]

    def table(self, sample: str, variation: str) -> EventTable:
        """All selected events of the signal region with their generator weights."""
        extra = ["entry"]
        conditioning = self.config.conditioning
        sampled = conditioning is not None and variation == sampled_name(self.config)
        if conditioning is not None and sampled:
            extra.append(conditioning.shift)
        region = self.config.signal_region
        table = EventTable.from_parquet(
            self.folder / sample / region / variation,
            features=self.config.events.features,
            weight="weight",
            extra=tuple(extra),
        )
        processed = self.summary[sample]["selected"][region][variation]["n"]
        if len(table) != processed:
            raise InputError(
                f"the processed events of {sample!r}, {variation!r} are incomplete: {len(table)} of {processed}",
                where=str(self.folder),
                fix="delete this folder and run again",
            )
        if conditioning is None or not sampled:
            return table
        alpha = (table.extra[conditioning.shift] - conditioning.nominal) / conditioning.sigma
        return replace(
            table, extra={"entry": table.extra["entry"], conditioning.name: alpha.astype(np.float32)}
        )

    def training(self, sample: str, variation: str) -> EventTable:
        """The training half, with generator weights: networks do not depend on the luminosity."""
        return self._split(self.table(sample, variation))[0]

    def analysis(self, sample: str, variation: str) -> EventTable:
        """The other half, scaled to the total expectation of the sample.

        The scale is that of the nominal sample for every variation, so that acceptance effects stay in.
        """
        nominal = self.table(sample, NOMINAL)
        scale = self.expected[sample] / float(self.summary[sample]["sumw"])
        scale *= float(nominal.weight.sum() / self._split(nominal)[1].weight.sum())
        return self._split(self.table(sample, variation))[1].scaled(scale)

    def _split(self, table: EventTable) -> tuple[EventTable, EventTable]:
        seed = derive(self.config.analysis.seed, "halves")
        return table.split(self.config.training.fraction, seed=seed, by="entry")

    def require_positive_weights(self) -> None:
        """Raise where pseudo-data are to be drawn from events of negative weight."""
        for sample in self.config.samples:
            negative = int((self.table(sample.name, NOMINAL).weight < 0.0).sum())
            if negative:
                raise InputError(
                    f"pseudo-data cannot be drawn from sample {sample.name!r}: {negative} events of negative weight",
                    fix='set data = "weighted" in [analysis] to use the weighted simulated events as data',
                )

    def mixture(self, tables: Sequence[EventTable]) -> EventTable:
        """The reference density: equal parts of the samples, total weight 1."""
        return EventTable.concat([t.scaled(1.0 / (len(tables) * float(t.weight.sum()))) for t in tables])

    def histogram(self, region: str, sample: SampleSection) -> hist.Hist[Any]:
        """Histogram of a binned region with the systematic axis, scaled to expectation."""
        stored = read_json(self.folder / f"{sample.name}.{region}.hist.json")
        return make_hist(
            region,
            stored["edges"],
            {name: (np.array(v), np.array(e)) for name, (v, e) in stored["variations"].items()},
            self.expected[sample.name] / float(self.summary[sample.name]["sumw"]),
        )


def make_hist(
    name: str, edges: Sequence[float], contents: dict[str, tuple[Any, Any]], scale: float = 1.0
) -> hist.Hist[Any]:
    """Build a histogram with the systematic axis from values and variances of each variation."""
    out = hist.Hist(
        hist.axis.StrCategory(list(contents), name=NAMING.axis),
        hist.axis.Variable(list(edges), name=name),
        storage=hist.storage.Weight(),
    )
    for i, (values, variances) in enumerate(contents.values()):
        out.view()["value"][i] = np.asarray(values) * scale
        out.view()["variance"][i] = np.asarray(variances) * scale**2
    return out


def store_histogram(path: Path, h: hist.Hist[Any]) -> None:
    """Write a histogram with a systematic axis as JSON.

    The overflow is added to the last bin; events below the first edge are not part of the region.
    """
    edges = h.axes[1].edges.tolist()
    contents = {}
    for category in sorted(h.axes[0]):
        one: Any = h[{h.axes[0].name: category}]
        values, variances = (
            np.array(one.view(flow=True)[key], dtype=np.float64) for key in ("value", "variance")
        )
        for v in (values, variances):
            v[-2] += v[-1]
        contents[category] = (values[1:-1].tolist(), variances[1:-1].tolist())
    write_json(path, {"edges": edges, "variations": contents})


def nominal_contents(h: hist.Hist[Any]) -> Any:
    """Return the contents of the nominal variation."""
    nominal: Any = h[{NAMING.axis: NOMINAL}]
    return nominal.values()

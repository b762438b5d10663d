"""The workspace step: ratios evaluated, histograms filled, documents written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from neyman.analysis.config import Config, SampleSection
from neyman.analysis.simulation import NAMING, NOMINAL, Simulation, derive, make_hist
from neyman.events import EventTable
from neyman.files import write_json
from neyman.ratios import ProcessRatios, RatioTable
from neyman.workspace import Draft, documents, from_hists
from neyman.workspace.histograms import SampleModel

Array = NDArray[np.float64]
CLASSIFIER, SINGLE = "classifier", "single"


@dataclass(frozen=True)
class Prepared:
    """Everything evaluated on the analysis half.

    Parameters
    ----------
    reference
        Nominal events of all samples, weighted to the mixture, with all ratio columns; extra columns ``process``
        (position of the sample) and ``expected`` (weight of the event at the luminosity).
    yields
        Expected events of each sample, nominal and varied, in the signal region.
    histograms
        Binned alternatives of the signal region: kind to sample to histogram.
    edges
        Bin edges of the alternatives.
    """

    reference: RatioTable
    yields: dict[str, dict[str, float]]
    histograms: dict[str, dict[str, hist.Hist[Any]]]
    edges: dict[str, Array]


def prepare(config: Config, simulation: Simulation, ratios: Mapping[str, ProcessRatios]) -> Prepared:
    """Evaluate all ratios on the analysis half and fill the binned alternatives."""
    names = [NOMINAL, *(s.name + suffix for s in config.systematics for suffix in (NAMING.up, NAMING.down))]
    nominal = {s.name: simulation.halves(s.name, NOMINAL)[1] for s in config.samples}
    mixture = simulation.mixture([_labelled(nominal[s.name], i) for i, s in enumerate(config.samples)])
    reference = RatioTable.evaluate(mixture, [ratios[s.name] for s in config.samples])
    yields = {
        s.name: {name: float(simulation.table(s.name, name).weight.sum()) for name in names}
        for s in config.samples
    }
    discriminant = Discriminant(
        config, ratios, {s: y[NOMINAL] for s, y in yields.items()}, _norms(config, reference)
    )
    expected = np.asarray(mixture.extra["expected"], dtype=np.float64)
    signal = mixture.extra["process"] == [s.name for s in config.samples].index(config.signal.name)
    d_reference = discriminant.combine({s.name: reference.columns[s.name] for s in config.samples})
    low, high = config.compare.range
    edges = {
        CLASSIFIER: balanced_edges(d_reference, expected, signal, config.compare.classifier_bins),
        SINGLE: np.linspace(low, high, config.compare.bins + 1),
    }
    histograms: dict[str, dict[str, hist.Hist[Any]]] = {CLASSIFIER: {}, SINGLE: {}}
    for sample in config.samples:
        contents: dict[str, dict[str, tuple[Array, Array]]] = {CLASSIFIER: {}, SINGLE: {}}
        for name in names:
            events = nominal[sample.name] if name == NOMINAL else simulation.halves(sample.name, name)[1]
            contents[CLASSIFIER][name] = counts(discriminant(events), events.weight, edges[CLASSIFIER])
            contents[SINGLE][name] = counts(
                events.column(config.compare.observable), events.weight, edges[SINGLE]
            )
        for kind, content in contents.items():
            histograms[kind][sample.name] = make_hist(kind, edges[kind].tolist(), content)
    return Prepared(reference, yields, histograms, edges)


class Discriminant:
    r"""Nominal signal-to-background density ratio, :math:`\ln \nu_S r_S / \sum_B \nu_B r_B`.

    By the Neyman-Pearson lemma the most powerful single observable when the nuisance parameters are nominal.
    """

    def __init__(
        self,
        config: Config,
        ratios: Mapping[str, ProcessRatios],
        yields: Mapping[str, float],
        norms: Mapping[str, float],
    ) -> None:
        self._ratios, self._signal = ratios, config.signal.name
        self._shift = {name: np.log(yields[name]) - norms[name] for name in yields}

    def __call__(self, events: EventTable) -> Array:
        """Evaluate on events, shape ``(n_events,)``."""
        return self.combine({name: self._ratios[name].at_nominal(events) for name in self._shift})

    def combine(self, log_ratios: Mapping[str, Any]) -> Array:
        """Combine nominal log-ratios that are already there."""
        parts = {name: _float(log_ratios[name]) + shift for name, shift in self._shift.items()}
        background = np.logaddexp.reduce(
            [part for name, part in parts.items() if name != self._signal], axis=0
        )
        return np.asarray(parts[self._signal] - background, dtype=np.float64)


def balanced_edges(d: Array, weight: Array, signal: NDArray[np.bool_], bins: int) -> Array:
    """Edges with equal contents of an equal mixture of signal and background; the ends are open."""
    w = np.where(signal, weight / weight[signal].sum(), weight / weight[~signal].sum())
    order = np.argsort(d)
    cumulative = np.cumsum(w[order]) / w.sum()
    inner = np.interp(np.linspace(0.0, 1.0, bins + 1)[1:-1], cumulative, d[order])
    return np.unique(np.concatenate([[d.min() - 1.0], inner, [d.max() + 1.0]]))


def counts(values: Any, weight: Array, edges: Array) -> tuple[Array, Array]:
    """Sum of weights and of squared weights a bin; events outside go to the first and last bin."""
    inside = np.clip(np.asarray(values, dtype=np.float64), edges[0], np.nextafter(edges[-1], -np.inf))
    return (
        np.histogram(inside, edges, weights=weight)[0].astype(np.float64),
        np.histogram(inside, edges, weights=weight**2)[0].astype(np.float64),
    )


def models(config: Config) -> dict[str, SampleModel]:
    """What acts on each sample beside the shifts of its events."""
    lumi = config.analysis.luminosity_uncertainty > 0.0
    return {s.name: SampleModel(s.normfactors, dict(s.normsys), lumi) for s in config.samples}


def parameter_settings(config: Config) -> list[dict[str, Any]]:
    """Settings of the measurement: luminosity, bounds of the fit, range of the conditioned networks."""
    settings: dict[str, dict[str, Any]] = {}
    if (sigma := config.analysis.luminosity_uncertainty) > 0.0:
        settings["lumi"] = {"inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0], "sigmas": [sigma]}
    if (conditioning := config.conditioning) is not None:
        settings[conditioning.name] = {"bounds": [[-conditioning.range, conditioning.range]]}
    for name, bounds in config.fit.bounds.items():
        settings.setdefault(name, {})["bounds"] = [list(bounds)]
    return [{"name": name, **values} for name, values in settings.items()]


def unbinned_channel(
    config: Config, prepared: Prepared, ratios: Mapping[str, ProcessRatios], binned_name: str
) -> documents.Channel:
    """The document of the unbinned signal region."""

    def modifiers(sample: SampleSection) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = [{"name": n, "type": "normfactor"} for n in sample.normfactors]
        if config.analysis.luminosity_uncertainty > 0.0:
            out.append({"name": "lumi", "type": "lumi"})
        out += [
            {"name": n, "type": "normsys", "data": {"hi": u, "lo": d}} for n, (u, d) in sample.normsys.items()
        ]
        yields = prepared.yields[sample.name]
        for s in config.systematics:
            hi, lo = (yields[s.name + suffix] / yields[NOMINAL] for suffix in (NAMING.up, NAMING.down))
            out.append({"name": s.name, "type": "normsys", "data": {"hi": hi, "lo": lo}})
            process = ratios[sample.name]
            if s.ratio == "network":
                data: dict[str, Any] = {
                    "nodes": process.nodes,
                    "columns": process.node_columns(),
                    "file": f"networks/{sample.name}.safetensors",
                }
                out.append({"name": s.name, "type": "network", "data": data})
            else:
                up, down = process.up_down_columns(s.name)
                out.append({"name": s.name, "type": "ratiosys", "data": {"hi": up, "lo": down}})
        return out

    region = config.signal_region
    return documents.Channel.model_validate(
        {
            "name": region,
            "data": {"file": f"{region}_data.parquet"},
            "reference": {"file": f"{region}_reference.parquet"},
            "replaces": [binned_name],
            "features": config.events.features,
            "samples": [
                {
                    "name": s.name,
                    "yield": prepared.yields[s.name][NOMINAL],
                    "log_ratio": s.name,
                    "network": f"networks/{s.name}.safetensors",
                    "modifiers": modifiers(s),
                }
                for s in config.samples
            ],
        }
    )


def write_workspace(
    config: Config,
    simulation: Simulation,
    ratios: Mapping[str, ProcessRatios],
    networks: Mapping[str, Path],
    folder: Path,
) -> dict[str, Any]:
    """Write the workspace folder and the single-observable alternative; returns the step's summary."""
    prepared = prepare(config, simulation, ratios)
    rng = np.random.default_rng(derive(config.analysis.seed, "pseudo-data"))
    reference = prepared.reference
    # One pseudo-experiment from the simulation itself: every description of the signal region sees the same events.
    drawn = rng.poisson(np.asarray(reference.events.extra["expected"], dtype=np.float64))
    rows = np.repeat(np.arange(len(drawn)), drawn)
    data = RatioTable(
        np.ones(len(rows)), {n: c[rows] for n, c in reference.columns.items()}, reference.events.select(rows)
    )
    control = {
        region: {s.name: simulation.histogram(region, s) for s in config.samples}
        for region, section in config.regions.items()
        if section.fit == "binned"
    }
    observed = {
        region: rng.poisson(sum(nominal_counts(h) for h in hists.values()))
        for region, hists in control.items()
    }
    d = Discriminant(
        config, ratios, {s: y[NOMINAL] for s, y in prepared.yields.items()}, _norms(config, reference)
    )
    in_data = {
        CLASSIFIER: d.combine({s.name: data.columns[s.name] for s in config.samples}),
        SINGLE: data.events.column(config.compare.observable),
    }
    specs = {}
    for kind in (CLASSIFIER, SINGLE):
        name = f"{config.signal_region}_{kind}"
        specs[kind] = from_hists(
            {name: prepared.histograms[kind], **control},
            models(config),
            poi=config.analysis.poi,
            observed={name: counts(in_data[kind], data.weight, prepared.edges[kind])[0], **observed},
            parameters=parameter_settings(config),
            measurement=config.analysis.name,
        )
    channel = unbinned_channel(config, prepared, ratios, f"{config.signal_region}_{CLASSIFIER}")
    unbinned = documents.Unbinned(
        channels=(channel,),
        measurements=tuple(
            documents.Measurement.model_validate(m) for m in specs[CLASSIFIER]["measurements"]
        ),
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".workspace.", suffix=".part") as scratch:
        files: dict[str, Path] = {
            channel.data.file: data.to_parquet(Path(scratch) / "data.parquet"),
            channel.reference.file: reference.to_parquet(Path(scratch) / "reference.parquet"),
            **{f"networks/{path.name}": path for path in networks.values()},
        }
        alternative = Path(scratch) / "alternative.json"
        write_json(alternative, specs[SINGLE])
        files[f"alternatives/{config.compare.observable}.json"] = alternative
        Draft(
            binned=specs[CLASSIFIER],
            unbinned=unbinned,
            files=files,
            seed=config.analysis.seed,
            configuration=config.model_dump(mode="json"),
        ).write(folder)
    return {
        "yields": prepared.yields,
        "edges": {kind: edges.tolist() for kind, edges in prepared.edges.items()},
        "n_data": len(rows),
        "n_reference": len(reference.weight),
    }


def nominal_counts(h: hist.Hist[Any]) -> Array:
    """Contents of the nominal variation."""
    nominal: Any = h[{NAMING.axis: NOMINAL}]
    return _float(nominal.values())


def _labelled(table: EventTable, index: int) -> EventTable:
    # The fold splits the events into two independent parts for the closure test.
    extra: dict[str, NDArray[Any]] = {
        "process": np.full(len(table), index, dtype=np.int8),
        "fold": (np.asarray(table.extra["entry"]) & 1).astype(np.int8),
        "expected": table.weight,
    }
    return replace(table, extra=extra)


def _norms(config: Config, reference: RatioTable) -> dict[str, float]:
    return {
        s.name: float(np.log(np.average(np.exp(_float(reference.columns[s.name])), weights=reference.weight)))
        for s in config.samples
    }


def _float(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)

"""The workspace step: what was evaluated becomes histograms, Parquet files and documents."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.analysis.config import Config, SampleSection
from neyman.analysis.evaluation import (
    CLASSIFIER,
    SINGLE,
    Prepared,
    counts,
    float64,
    prepare,
    spread_columns,
)
from neyman.analysis.simulation import NAMING, NOMINAL, Simulation, derive, nominal_contents
from neyman.files import write_json
from neyman.ratios import ProcessRatios, RatioTable
from neyman.workspace import Draft, SampleModel, documents, from_hists

Array = NDArray[np.float64]


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
        if config.training.spread:
            columns = {"columns": spread_columns(config, sample.name)}
            out.append({"name": f"spread_{sample.name}", "type": "spread", "data": columns})
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
    # One set of events from the simulation itself: every description of the signal region sees the same.
    weighted = config.analysis.data == "weighted"
    expected = float64(reference.events.extra["expected"])
    drawn = np.ones(len(expected), dtype=np.int64) if weighted else rng.poisson(expected)
    rows = np.repeat(np.arange(len(drawn)), drawn)
    data = RatioTable(
        expected if weighted else np.ones(len(rows)),
        {name: column[rows] for name, column in reference.columns.items()},
        reference.events.select(rows),
    )
    control = {
        region: {s.name: simulation.histogram(region, s) for s in config.samples}
        for region, section in config.regions.items()
        if section.fit == "binned"
    }
    observed = {}
    for region, hists in control.items():
        mean = np.sum([nominal_contents(h) for h in hists.values()], axis=0)
        observed[region] = mean if weighted else rng.poisson(mean)
    specs = {}
    for kind in (CLASSIFIER, SINGLE):
        name = f"{config.signal_region}_{kind}"
        in_data, _ = counts(prepared.observables[kind][rows], data.weight, prepared.edges[kind])
        specs[kind] = from_hists(
            {name: prepared.histograms[kind], **control},
            models(config),
            poi=config.analysis.poi,
            observed={name: in_data, **observed},
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
            **{f"networks/{name}.safetensors": path for name, path in networks.items()},
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
        "closure": [c.to_dict() for c in prepared.closures[NOMINAL]],
        "checks": [{"name": c.name, "passed": c.passed, "reason": c.reason} for c in prepared.checks.checks],
        "closure_systematics": [
            {
                "variation": name,
                "process": c.process,
                "feature": c.feature,
                "chi2": c.chi2,
                "n_bins": c.n_bins,
                "p_value": c.p_value,
            }
            for name, closures in prepared.closures.items()
            if name != NOMINAL
            for c in closures
        ],
    }

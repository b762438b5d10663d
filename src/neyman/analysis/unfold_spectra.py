"""What an unfolding says of the observables of a `neyman unfold` job: spectra, moments, refolding, closure, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neyman.analysis.unfold_config import ObservableSection, UnfoldConfig
from neyman.analysis.unfold_stored import StoredObservables
from neyman.files import jsonable, read_json
from neyman.unfolding import ClosureTest, Unfolding


def spectra_document(
    result: Unfolding, config: UnfoldConfig, observables: StoredObservables
) -> dict[str, Any]:
    """Return the document ``spectra.json``.

    Under ``observables`` by name: ``spectrum`` (for `Spectrum.from_dict`), ``prior`` and ``iterations`` (contents of
    the same bins before the unfolding and after each iteration), ``moments`` (of all events, whatever the edges),
    ``outside`` (share of the unfolded weight outside the edges), and ``folded`` (data and simulation at detector
    level), None without a detector-level column.
    """
    found = {one.name: _observable(result, one, observables) for one in config.observables}
    document: dict[str, Any] = jsonable({"name": config.name, "title": config.title, "observables": found})
    return document


def _observable(result: Unfolding, one: ObservableSection, observables: StoredObservables) -> dict[str, Any]:
    values = observables.particle(one.name)
    bins: dict[str, Any] = {"edges": one.edges, "name": one.name, "unit": one.unit}
    counts = result.spectrum(values, **bins)
    prior, _ = np.histogram(values, one.edges, weights=np.where(result.passes_truth, result.weight, 0.0))
    moments = result.moments(values, name=one.name)
    mean_error, width_error = moments.errors
    return {
        "spectrum": (counts.normalised() if one.density else counts).to_dict(),
        "prior": prior / prior.sum() / np.diff(one.edges) if one.density else prior,
        "iterations": [
            result.after(k + 1).spectrum(values, **bins, density=one.density).values
            for k in range(len(result.iterations))
        ],
        "moments": moments.to_dict() | {"mean_error": mean_error, "width_error": width_error},
        "outside": 1.0 - counts.values.sum() / result.unfolded.sum(),
        "folded": None if one.detector is None else _folded(result, one, observables),
    }


def _folded(result: Unfolding, one: ObservableSection, observables: StoredObservables) -> dict[str, Any]:
    from neyman.plots.unfolding_checks import folded_histograms

    data, weight = observables.data(one.name)
    return folded_histograms(
        data,
        observables.detector(one.name),
        one.edges,
        before=result.weight * result.factor,
        after=result.folded,
        weight=weight,
        name=one.name,
        unit=one.unit,
    )


def closure_document(test: ClosureTest, config: UnfoldConfig) -> dict[str, Any]:
    """Return the document ``closure.json``: spectra, truths and comparisons, and how the unfolding went."""
    document: dict[str, Any] = jsonable(
        {
            "distortion": config.closure.distortion,
            "observables": test.to_dict(),
            "unfolding": test.result.to_dict(),
        }
    )
    return document


def failed(closure: Mapping[str, Any] | None) -> list[str]:
    """Return the observables whose p-value is too small, or not a number."""
    if closure is None:
        return []
    smallest = closure["required"]
    return [
        name
        for name, one in closure["observables"].items()
        if one["p_value"] is None or one["p_value"] < smallest
    ]


def report(folder: Path, output: Path, config: UnfoldConfig, results: Mapping[str, Any]) -> None:
    """Write the HTML report of a job.

    Parameters
    ----------
    folder
        Where.
    output
        Folder of the job with the documents and the unfolding.
    config, results
        Configuration and results.
    """
    from neyman.plots import unfolding_report

    found = read_json(output / "spectra.json")["observables"]
    closure = output / "closure.json"
    unfolding_report.write(
        folder,
        Unfolding.load(output / "unfolding"),
        {name: one["spectrum"] for name, one in found.items()},
        title=config.title or config.name,
        priors={name: one["prior"] for name, one in found.items()},
        iterations={
            name: [one["prior"], *one["iterations"][:-1], one["spectrum"]] for name, one in found.items()
        },
        folded=[one["folded"] for one in found.values() if one["folded"] is not None],
        closure=read_json(closure)["observables"] if closure.exists() else None,
        flat=config.loss.made().flat(),
        config=config.model_dump(mode="json"),
        warnings=results["warnings"],
        seconds=results["steps"],
    )

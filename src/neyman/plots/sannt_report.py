"""The HTML report of a systematics-aware training: what it gained, why, and how the measurement came out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from neyman.errors import InputError
from neyman.files import atomic
from neyman.plots import parameters, sannt, sannt_bins, words
from neyman.plots import sannt_sections as sections
from neyman.plots.markup import Html, bullets, details, join, page, table, tag
from neyman.plots.report import Pictures
from neyman.plots.sannt import STAGES

Results = Mapping[str, Any]
_PACKAGES = ("neyman", "torch", "iminuit", "pyhf", "numpy", "matplotlib")


def write(folder: Path, config: Mapping[str, Any], results: Results) -> None:
    """Write ``index.html`` and ``figures/`` into a folder.

    Parameters
    ----------
    folder
        Made when it does not exist; the figures and the page replace older ones when they are complete.
    config
        The configuration as a dictionary. ``processes`` may have the labels of the processes, ``strengths`` the name
        of the strength of each signal.
    results
        ``sannt``, the plain data of the training, is needed. Shown where they are present: ``fits`` of the
        workspace on Asimov data by stage, with ``fisher``, ``hesse``, ``minos``, ``pyhf``, ``statistical`` and
        ``impacts`` by signal; ``observed`` and ``observed_cennt``, fits of data; ``events`` and ``regions``;
        ``treatment`` records; ``closure of the yields``; ``warnings``; ``steps`` in seconds.

    Raises
    ------
    InputError
        When the results lack the training, or the folder cannot be written.
    MissingExtraError
        When matplotlib or mplhep is not installed.
    """
    if "sannt" not in results:
        raise InputError(
            "the results have no sannt", expected="the plain data of a training, result.to_dict()"
        )
    missing = [key for key in ("signals", *STAGES) if key not in results["sannt"]]
    if missing:
        raise InputError(
            f"the training has no {', '.join(missing)}", expected="result.to_dict() of a training"
        )
    folder = Path(folder)
    with atomic(folder / "figures") as drawn:
        drawn.mkdir()
        text = page(_title(config), _parts(config, results, Pictures(drawn)))
    with atomic(folder / "index.html") as part:
        part.write_text(text, encoding="utf-8")


def _title(config: Results) -> str:
    own = config.get("measurement") or config
    return str(own.get("title") or own.get("name") or "Systematics-aware training")


def _parts(config: Results, results: Results, show: Pictures) -> list[tuple[str, str, Html]]:
    """Sections in reading order: identifier, title, content."""
    labels = {name: str(text) for name, text in (config.get("processes") or {}).items() if text}
    parts = [
        ("top", "", _headline(config, results, labels)),
        ("uncertainty", "Expected uncertainty", _uncertainty(results, labels, show)),
        ("histograms", "Histograms", _histograms(results, labels, show)),
        ("impacts", "Impacts", _impacts(results, labels, show)),
        ("training", "Training", _training(config, results, show)),
    ]
    if results.get("observed") is not None or results.get("observed_cennt") is not None:
        parts.append(("observed", "Observed", _observed(config, results, show)))
    parts.append(("events", "Yields and effective events", sections.events(results, config, labels)))
    if results.get("closure of the yields"):
        parts.append(("closure", "Closure of the yields", sections.closure(results["closure of the yields"])))
    if results.get("treatment") is not None:
        parts.append(("treatment", "Treatment of the variations", sections.treatment(results["treatment"])))
    return [*parts, ("reproduce", "How to reproduce", _reproduction(config, results))]


def _headline(config: Results, results: Results, labels: Mapping[str, str]) -> Html:
    found = results["sannt"]
    signals = found["signals"]
    cards: list[tuple[str, str]] = []
    expected = {name: sections.expectation(results, name) for name in signals}
    if len(signals) == 1:
        one = expected[signals[0]]
        cards += [
            ("expected Δr, CENNT", one.shown[0]),
            ("expected Δr, SANNT", one.shown[1]),
            ("change of Δr", words.change(one.total[1], one.total[0])),
            ("statistical part, SANNT", f"± {sections.number(one.statistical[1])}"),
        ]
    else:
        for name, one in expected.items():
            before, after = (sections.number(x) for x in one.total)
            of = labels.get(name, name)
            cards.append((f"expected Δr of {of}", f"{before} → {after}"))
            cards.append((f"change, {of}", words.change(one.total[1], one.total[0])))
    if (observed := sections.strength_card(results, config)) is not None:
        cards.append(observed)
    boxes = [
        tag("div", tag("div", name, class_="name"), tag("div", value, class_="value"), class_="card")
        for name, value in cards
    ]
    method = next(iter(expected.values())).method
    members = len(found["trained"].get("members") or ())
    subtitle = (
        "Systematics-aware training (SANNT) of a network against the cross-entropy training (CENNT) that it started "
        f"from{f', {members} members' if members > 1 else ''}. Uncertainties are by {method}."
    )
    warned = [*found.get("warnings", ()), *(results.get("warnings") or ())]
    notes = bullets(dict.fromkeys(warned))
    return join(
        tag("h1", _title(config)),
        tag("p", subtitle, class_="soft"),
        tag("div", *boxes, class_="cards"),
        sections.verdict(results, labels),
        tag("div", tag("strong", "Read with care"), notes, class_="warning") if notes else "",
    )


def _uncertainty(results: Results, labels: Mapping[str, str], show: Pictures) -> Html:
    found = results["sannt"]
    several = len(found["signals"]) > 1
    members = {name: found[key].get("members") or () for key, name in STAGES.items()}
    parts: list[Any] = [sections.methods(results, labels)]
    if max(len(one) for one in members.values()) > 1:
        parts.append(tag("h3", "Spread over the ensemble"))
    for signal in found["signals"]:
        name = labels.get(signal, signal) if several else None
        suffix = f"_{signal}" if several else ""
        rows = {
            stage: _row(found[key]["uncertainty"], members[stage], signal) for key, stage in STAGES.items()
        }
        parts.append(
            show(
                f"uncertainty{suffix}",
                "Expected uncertainty from the Fisher information of the network that is used"
                + (", with the central 68% of the members." if "total_interval" in rows["SANNT"] else "."),
                partial(sannt.uncertainty_comparison, rows, signal=name),
            )
        )
        if all(len(one) > 1 for one in members.values()):
            parts.append(
                show(
                    f"ensemble{suffix}",
                    "Likelihood in the parabolic approximation: median and central 68% of the members, with all "
                    "uncertainties (solid) and the statistical one alone (dashed).",
                    partial(sannt.uncertainty_band, members, signal=signal if several else None),
                )
            )
    return join(*parts)


def _row(uncertainty: Results, members: Any, signal: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(uncertainty["signals"][signal])
    if len(members) > 1:
        for key in ("total", "statistical"):
            values = [one["signals"][signal][key] for one in members]
            row[f"{key}_interval"] = np.quantile(values, (0.158655, 0.841345)).tolist()
    return row


def _histograms(results: Results, labels: Mapping[str, str], show: Pictures) -> Html:
    found = results["sannt"]
    counts = (results.get("observed") or {}).get("counts") or {}
    counts = {name: one for name, one in counts.items() if name in found["trained"]["histograms"]}
    caption = (
        "Expected events in the bins of the network's output (before any fit), their relative uncertainty by the "
        "systematic variations in quadrature, and signal over the uncertainty of everything else. Uncertainties of "
        "normalisation that are the same in all bins are not in the histograms."
    )
    return show(
        "histograms", caption, lambda: sannt_bins.sannt_histograms(found, labels=labels, observed=counts)
    )


def _impacts(results: Results, labels: Mapping[str, str], show: Pictures) -> Html:
    parts: list[Any] = []
    for signal in results["sannt"]["signals"]:
        impacts, origin = _found_impacts(results, signal)
        if not any(impacts.values()):
            continue
        several = len(results["sannt"]["signals"]) > 1
        of = f" of {labels.get(signal, signal)}" if several else ""
        parts.append(
            show(
                f"impacts_{signal}" if several else "impacts",
                f"Impact of each nuisance parameter on the strength{of}, {origin}, in the order of CENNT.",
                partial(sannt.impact_comparison, impacts),
            )
        )
        names = list(dict.fromkeys(name for own in impacts.values() for name in own))
        names.sort(key=lambda name: -max(own.get(name, 0.0) for own in impacts.values()))
        rows = [(name, *(sections.number(own.get(name)) for own in impacts.values())) for name in names]
        parts.append(details("As numbers", table(("nuisance parameter", *impacts), rows)))
    return join(*parts) if parts else tag("p", "There are no nuisance parameters.")


def _found_impacts(results: Results, signal: str) -> tuple[dict[str, dict[str, float]], str]:
    """Sizes by stage, from the fits where both have them, and where they are from."""
    fits = results.get("fits") or {}
    lists = [((fits.get(key) or {}).get("impacts") or {}).get(signal) for key in STAGES]
    if all(lists):
        sizes = {name: _sizes(own or ()) for name, own in zip(STAGES.values(), lists, strict=True)}
        return sizes, "fits of the workspace to Asimov data"
    own = {
        name: {
            parameter: abs(value)
            for parameter, value in (results["sannt"][key].get("impacts") or {}).get(signal, {}).items()
        }
        for key, name in STAGES.items()
    }
    return own, "from the Fisher information"


def _sizes(impacts: Sequence[Results]) -> dict[str, float]:
    """Larger side of each; the simulation's statistics in quadrature, as bins of two trainings are not the same."""
    sizes = {
        one["name"]: max((abs(one[side]) for side in ("up", "down") if one[side] is not None), default=0.0)
        for one in impacts
    }
    statistics = [sizes.pop(name) for name in list(sizes) if name.startswith("staterror_")]
    return sizes | ({"statistics of the simulation": math.hypot(*statistics)} if statistics else {})


def _training(config: Results, results: Results, show: Pictures) -> Html:
    found = results["sannt"]
    settings = [
        details(
            title, table(("setting", "value"), [(k, _value(v)) for k, v in config[key].items()], text=True)
        )
        for key, title in (("pretraining", "Settings of CENNT"), ("settings", "Settings of SANNT"))
        if isinstance(config.get(key), Mapping)
    ]
    if not any(found[key].get("histories") for key in STAGES):
        return join(tag("p", "No training histories were kept."), *settings)
    caption = (
        "Loss of the cross-entropy training and, from its networks on, of the training for the measurement. Thin lines "
        "are members of the ensemble; the state with the smallest held-out loss is kept. Horizontal lines are what "
        "both reach on all events that judge them; held-out events of one training are fewer, and the statistics of "
        "the simulation are part of the loss."
    )
    return join(show("training", caption, lambda: sannt.sannt_training(found)), *settings)


def _observed(config: Results, results: Results, show: Pictures) -> Html:
    parts: list[Any] = [sections.observed(results, config)]
    fit = results.get("observed")
    if fit is not None and fit.get("impacts") and fit.get("pulls"):
        poi = next(iter((config.get("strengths") or {}).values()), None) or next(iter(fit["minos"]))
        data = _pulls(fit, poi)
        parts.append(
            show(
                "pulls",
                f"Nuisance parameters by their impact on {poi}, fit of the data with the bins of SANNT. Bars belong to "
                "the upper axis, points to the lower one; a free parameter has its value.",
                lambda: parameters.pulls_and_impacts(data),
            )
        )
    return join(*parts)


def _pulls(fit: Results, poi: str) -> dict[str, Any]:
    """What `pulls_and_impacts` draws, from the figures of an observed fit."""
    pulls, constraints = fit["pulls"], fit.get("constraints") or {}
    ranked = [
        {**one, "pull": pulls.get(one["name"]), "constraint": constraints.get(one["name"]), "valid": True}
        for one in fit["impacts"]
        if one["name"] in pulls or one["name"] in fit["values"]
    ]
    return {"poi": poi, "impacts": ranked, "best": {"values": fit["values"], "errors": fit["errors"]}}


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) or "default"
    return "none" if value is None else str(value)


def _reproduction(config: Results, results: Results) -> Html:
    seed = (config.get("measurement") or config).get("seed")
    versions = []
    for name in _PACKAGES:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    spent = [(name, f"{seconds:.1f} s") for name, seconds in (results.get("steps") or {}).items()]
    return join(
        tag("pre", "neyman sannt sannt.toml"),
        ""
        if seed is None
        else tag(
            "p",
            f"Everything random follows from seed {seed}; steps that are done are kept, so the same command continues "
            "a job that was stopped.",
        ),
        details(
            "Configuration with all defaults",
            tag("pre", json.dumps(config, indent=2, ensure_ascii=False, default=str)),
        ),
        table(("step", "time"), spent) if spent else "",
        table(("package", "version"), versions, text=True),
    )

"""The HTML report of an unfolding: what came out with which errors, and what speaks for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError, nearest
from neyman.files import atomic
from neyman.plots import unfolding, unfolding_checks, unfolding_steps, words
from neyman.plots.markup import Html, bullets, details, join, page, table, tag
from neyman.plots.report import Pictures
from neyman.plots.style import numbers, plain
from neyman.plots.unfolding_bins import Bins, axis

if TYPE_CHECKING:
    from neyman.unfolding import ClosureTest, Spectrum, Unfolding

Results = Mapping[str, Any]
_PACKAGES = ("neyman", "torch", "numpy", "hist", "matplotlib")
_OUTSIDE = 0.01  # share of the data without simulation that is worth a warning, as in the unfolding
_SCARCE = 0.1  # effective events for a simulated event
_MODES = {"parallel": "each iterates by itself", "step": "combined after every step"}
_AGGREGATES = {"mean": "mean", "median": "median", "truncated_mean": "truncated mean"}


def write(
    folder: Path,
    result: Unfolding | Results,
    spectra: Mapping[str, Spectrum | Results],
    *,
    title: str = "Unfolding",
    truths: Mapping[str, Any] | None = None,
    priors: Mapping[str, Any] | None = None,
    iterations: Mapping[str, Sequence[Any]] | None = None,
    folded: Sequence[Results] = (),
    closure: ClosureTest | Results | None = None,
    weights: Results | None = None,
    flat: float = math.log(2.0),
    config: Results | None = None,
    warnings: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write ``index.html`` and ``figures/`` into a folder.

    Parameters
    ----------
    folder
        Made when it does not exist; the figures and the page replace older ones when they are complete.
    result
        The unfolding, or its dictionary.
    spectra
        Unfolded spectra by their names on the page.
    title
        Title of the page.
    truths, priors
        What is expected, and the simulation before the unfolding: contents of the bins or spectra, by the same names.
    iterations
        By the same names the prior and the spectrum after each iteration, as for ``unfolding_iterations``.
    folded
        Detector-level observables, each from ``folded_histograms``.
    closure
        A closure test, or its dictionary.
    weights
        Columns of ``result.weights()``; needed for their figure where `result` is a dictionary.
    flat
        Loss of ratio 1 everywhere, as for ``unfolding_trainings``.
    config
        Settings to print.
    warnings
        What was warned of during the unfolding.
    seconds
        Time by step.

    Raises
    ------
    InputError
        When there is no spectrum, something has the name of none, or the folder cannot be written.
    MissingExtraError
        When matplotlib or mplhep is not installed.
    """
    if not spectra:
        raise InputError("there are no spectra to report", expected="at least one, by name")
    given = {"truth": truths or {}, "prior": priors or {}, "list of iterations": iterations or {}}
    for what, several in given.items():
        for name in several:
            if name not in spectra:
                raise InputError(
                    f"there is a {what} of {name!r}, but no spectrum",
                    fix=f"nearest: {nearest(name, spectra)}",
                )
    bins = {name: Bins.of(one) for name, one in spectra.items()}
    data = plain(result)
    columns = result.weights() if weights is None and not isinstance(result, Mapping) else weights
    notes = list(dict.fromkeys([*warnings, *_notes(data, bins, closure)]))
    folder = Path(folder)
    with atomic(folder / "figures") as drawn:
        drawn.mkdir()
        show = Pictures(drawn)
        parts = [
            ("top", "", _headline(title, data, notes)),
            ("spectra", "Unfolded spectra", _spectra(spectra, bins, given["truth"], given["prior"], show)),
        ]
        if given["list of iterations"]:
            own = _iterations(given["list of iterations"], given["truth"], show)
            parts.append(("iterations", "Iterations", own))
        if folded:
            parts.append(("refolding", "Refolding", _refolding(folded, show)))
        if closure is not None:
            parts.append(("closure", "Closure test", _closure(plain(closure), show)))
        parts.append(("trainings", "Trainings", _trainings(data, flat, show)))
        if columns is not None:
            parts.append(("weights", "Weights", _weights(columns, show)))
        parts += [
            ("support", "Support", _support(data["support"])),
            ("reproduce", "How it was made", _made(data, config, seconds or {})),
        ]
        text = page(title, parts)
    with atomic(folder / "index.html") as part:
        part.write_text(text, encoding="utf-8")


def _iterations_of(data: Results) -> int:
    return 1 + max((int(step["iteration"]) for step in data["steps"]), default=-1)


def _notes(data: Results, bins: Mapping[str, Bins], closure: Any) -> list[str]:
    """What a reader must know before the numbers."""
    notes = []
    bare = [name for name, own in bins.items() if not own.fluctuates]
    if bare:
        notes.append(
            f"Without bootstrap replicas the errors of {', '.join(bare)} know nothing of the fluctuations of the data."
        )
    if data["effective_size"] < _SCARCE * data["events"]:
        share = data["effective_size"] / data["events"]
        notes.append(f"The unfolded weights are worth {share:.1%} of the simulated events.")
    first = [step for step in data["steps"] if step["iteration"] == 0 and not any(step["separates"])]
    notes += [f"The first step at {step['level']} level separates nothing." for step in first]
    notes += [
        f"{share:.1%} of the data lie outside the range of the simulation in {_plain(name)}."
        for name, share in data["support"]["features"].items()
        if share > _OUTSIDE
    ]
    if closure is not None:
        for name, one in plain(closure).items():
            p = one["comparison"]["p_value"]
            if p < unfolding_checks.SUSPICIOUS:
                notes.append(f"The closure test of {_plain(name)} has a p-value of {_power(p)}.")
    return notes


def _headline(title: str, data: Results, notes: Sequence[str]) -> Html:
    members = int(data["members"])
    cards = (
        ("unfolded yield", _number(data["yield"])),
        ("simulated events", words.count(int(data["events"]))),
        ("effective events, unfolded", words.count(round(data["effective_size"]))),
        ("iterations", str(_iterations_of(data))),
        ("networks a step", f"{members}, {_AGGREGATES[data['aggregate']]}" if members > 1 else "1"),
        ("mode", str(data["mode"])),
    )
    boxes = [
        tag("div", tag("div", name, class_="name"), tag("div", value, class_="value"), class_="card")
        for name, value in cards
    ]
    several = f", {members} networks a step ({_MODES[data['mode']]})" if members > 1 else ""
    kinds = [f"{n} replicas of the {name}" for name, n in data["replicas"].items()]
    if varied := len(data["systematics"]):
        kinds.append(f"{varied} systematic variation{'s' if varied > 1 else ''}")
    errors = ", ".join([*kinds[:-2], " and ".join(kinds[-2:])])
    subtitle = f"Simulation reweighted to the data, event by event{several}. " + (
        f"Errors are from {errors}." if errors else "There are no replicas and no systematic variations."
    )
    return join(
        tag("h1", title),
        tag("p", subtitle, class_="soft"),
        tag("div", *boxes, class_="cards"),
        tag("div", tag("strong", "Read with care"), bullets(notes), class_="warning") if notes else "",
    )


def _power(p: float) -> str:
    return f"{p:.2g}".replace("-", "−")


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1e4 else f"{x:.4g}".replace("-", "−")


def _spectra(
    spectra: Mapping[str, Any],
    bins: Mapping[str, Bins],
    truths: Mapping[str, Any],
    priors: Mapping[str, Any],
    show: Pictures,
) -> Html:
    parts: list[Any] = []
    for k, (name, spectrum) in enumerate(spectra.items(), start=1):
        own = bins[name]
        truth, prior = truths.get(name), priors.get(name)
        compared = "the truth" if truth is not None else "the prior" if prior is not None else None
        caption = (
            "Unfolded spectrum with its total errors; the shaded part is that of training and systematic variations."
            + (f" Below, its ratio to {compared}." if compared else "")
        )
        by_source = "Relative errors by source" + (
            "."
            if own.fluctuates
            else "; without replicas the statistical one is that of the fill, and the data do not fluctuate."
        )
        parts += [
            tag("h3", name) if len(spectra) > 1 else "",
            show(
                f"spectrum_{k}_{name}",
                caption,
                partial(unfolding.unfolded_spectrum, spectrum, truth=truth, prior=prior),
            ),
            show(f"errors_{k}_{name}", by_source, partial(unfolding.spectrum_errors, spectrum)),
            show(
                f"correlation_{k}_{name}",
                "Correlation of the bins by all sources together.",
                partial(unfolding.spectrum_correlation, spectrum),
            ),
            details(f"{name} as numbers", _table(own)),
        ]
    return join(*parts)


def _table(bins: Bins) -> Html:
    """Value, total error and errors by source of each bin."""
    sources = bins.by_source()
    places = bins.words
    if bins.slices:
        places = [f"{bins.slices[i // bins.block]}; {places[i]}" for i in range(len(places))]
    head = [
        "; ".join(_plain(axis(name, unit)) for name, unit in zip(bins.names, bins.units, strict=True)),
        "density" if bins.density else "events",
        "total error",
        *sources,
    ]
    errors = [bins.errors, *sources.values()]
    rows = [
        (places[i], _rounded(value, bins.errors[i]), *(_rounded(own[i], own[i]) for own in errors))
        for i, value in enumerate(bins.values)
    ]
    return table(head, rows, note="Errors are absolute.")


def _plain(text: str) -> str:
    """A label without the marks of mathematics."""
    return text.replace("$", "").replace("\\", "")


def _rounded(value: float, error: float) -> str:
    """Two significant digits of the error, with powers of ten where there would be many zeros."""
    if error > 0.0 and math.isfinite(error) and not 1e-4 <= error < 1e7:
        digits = max(0, math.floor(math.log10(abs(value) or error)) - math.floor(math.log10(error)) + 1)
        return f"{value:.{digits}e}".replace("-", "−")
    return words.rounded(float(value), float(error))


def _iterations(iterations: Mapping[str, Sequence[Any]], truths: Mapping[str, Any], show: Pictures) -> Html:
    shown = [
        show(
            f"iterations_{k}_{name}",
            f"{name} after each iteration"
            + (", over the truth" if name in truths else ", over the last one")
            + " (left), and the change by an iteration in units of the error (right). More iterations remove the "
            "dependence on the prior and let fluctuations grow.",
            partial(unfolding_steps.unfolding_iterations, several, truth=truths.get(name)),
        )
        for k, (name, several) in enumerate(iterations.items(), start=1)
    ]
    return join(*shown)


def _refolding(folded: Sequence[Results], show: Pictures) -> Html:
    text = (
        "With its new weights the simulation must look like the data at detector level. The weights were learned from "
        "these data, so agreement says that the iterations have converged, not that the unfolding is right."
    )
    shown = [
        show(
            f"refolding_{k}_{one['name']}",
            "Data and simulation at detector level, before and after the unfolding; shaded and drawn errors are "
            "statistical.",
            partial(unfolding_checks.unfolding_folded, one),
        )
        for k, one in enumerate(folded, start=1)
    ]
    return join(tag("p", text), *shown)


def _closure(test: Results, show: Pictures) -> Html:
    text = (
        "One half of the simulation, as if it were data, was unfolded with the other half. Errors are those of the "
        "difference from the truth, which is drawn along with the data in the replicas."
    )
    rows = []
    for name, one in test.items():
        found, bias = one["comparison"], numbers(one["comparison"]["bias"])
        p = _power(found["p_value"])
        bad = found["p_value"] < unfolding_checks.SUSPICIOUS
        rows.append(
            (
                _plain(name),
                f"{found['chi2']:.1f} / {found['ndof']}",
                tag("span", p, class_="bad") if bad else p,
                f"{100.0 * float(np.nanmax(np.abs(bias[np.isfinite(bias)]), initial=0.0)):.2f}%",
            )
        )
    return join(
        tag("p", text),
        show(
            "closure",
            "Unfolded spectra (points) and the simulation before the unfolding (dashed), over the truth.",
            partial(unfolding_checks.closure_test, test),
        ),
        table(("observable", "χ² / degrees of freedom", "p-value", "largest bias of a bin"), rows),
    )


def _trainings(data: Results, flat: float, show: Pictures) -> Html:
    if not data["steps"]:
        return tag("p", "No record of the trainings was kept.")
    rows = [
        (
            f"{step['iteration'] + 1}, {step['level']}",
            f"{np.nanmean(numbers(step['losses'])):.5f}",
            f"{sum(step['separates'])} of {len(step['separates'])}",
            f"{step['normalisation']:.4f}",
            words.count(round(step["effective_size"])),
            f"{step['largest']:.3g}",
        )
        for step in data["steps"]
    ]
    head = (
        "iteration, level", "mean of the best losses", "networks that separate", "factor on the yield",
        "effective events", "largest ratio",
    )  # fmt: skip
    return join(
        show(
            "trainings",
            "Best held-out loss of every network below that of a constant output; factor that a step gives to the "
            "yield; effective events of the worst member after the step; largest ratio given to one event. A network "
            "that separates nothing has ratio 1: at detector level that is what the last iterations should come to.",
            partial(unfolding_steps.unfolding_trainings, data, flat=flat),
        ),
        details("As numbers", table(head, rows)),
    )


def _weights(columns: Results, show: Pictures) -> Html:
    return show(
        "weights",
        "Push weights of the simulated events (left), and the share of the total weight that the largest carry "
        "(right).",
        partial(unfolding_steps.unfolding_weights, columns),
    )


def _support(support: Results) -> Html:
    rows = []
    for name, share in sorted(support["features"].items(), key=lambda pair: -pair[1]):
        value = f"{100.0 * share:.2f}%"
        rows.append((_plain(name), tag("span", value, class_="bad") if share > _OUTSIDE else value))
    beyond, threshold = (float(numbers(support[key])) for key in ("beyond", "threshold"))
    text = (
        "How much of the data lies where the detected simulation has no events. No simulated event stands for it; "
        "those at the edge get its weight."
    )
    more = (
        tag(
            "p",
            f"{beyond:.2%} of the data have a log-ratio of the first step above {threshold:.3g}, where the simulation "
            "has less than one effective event.",
        )
        if math.isfinite(beyond)
        else ""
    )
    return join(tag("p", text), table(("feature", "data outside the simulation"), rows), more)


def _made(data: Results, config: Results | None, seconds: Mapping[str, float]) -> Html:
    settings: list[tuple[str, Any]] = [
        ("iterations", _iterations_of(data)),
        ("networks a step", data["members"]),
        ("mode", data["mode"]),
        ("aggregate", _AGGREGATES[data["aggregate"]]),
        (
            "bootstrap replicas",
            ", ".join(f"{n} of the {name}" for name, n in data["replicas"].items()) or "none",
        ),
        ("systematic variations", ", ".join(data["systematics"]) or "none"),
    ]
    versions = []
    for name in _PACKAGES:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    spent = [(name, f"{time:.1f} s") for name, time in seconds.items()]
    return join(
        table(("setting", "value"), settings, text=True),
        ""
        if config is None
        else details(
            "Configuration", tag("pre", json.dumps(config, indent=2, ensure_ascii=False, default=str))
        ),
        table(("step", "time"), spent) if spent else "",
        table(("package", "version"), versions, text=True),
    )

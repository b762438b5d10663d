"""The HTML report of one trained density ratio: its checks with their figures, its training, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neyman.errors import InputError
from neyman.files import atomic
from neyman.networks import Calibration
from neyman.plots import distributions, losses, sections, trust, weights, words
from neyman.plots.markup import Html, bullets, details, join, page, table, tag
from neyman.plots.report import Pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Any]
_NEEDED = ("checks", "exported", "warnings", "events", "histories", "model", "steps")
_ESTIMATORS = {
    "lre": "a classifier of numerator against denominator",
    "dle": "flows of numerator and denominator",
    "hybrid": "flows of numerator and denominator, each with a residual classifier",
}
_FIGURES: dict[str, tuple[str, Callable[[Results], Figure], str]] = {
    "calibration": (
        "Calibration",
        trust.calibration_curve,
        """Among held-out events to which the ratio gives the odds r, the numerator should have the share r/(1+r). The
        shaded band of the lower panel is the tolerance.""",
    ),
    "two-sample test": (
        "Two-sample test",
        trust.two_sample,
        """A new classifier, trained to tell the numerator from the reweighted denominator: its output on other events
        (left), and by how much a cut on it keeps more of the one than of the other (right). It finds nothing where the
        ratio is right.""",
    ),
    "weights": (
        "Weights",
        weights.ratio_weights,
        "Weights of the reweighted denominator (left), and the share of their sum that the largest carry (right).",
    ),
    "ensemble spread": (
        "Spread of the members",
        weights.ensemble_spread,
        """How much the members of the ensemble disagree on a bin of the log-ratio, next to the statistical error of
        that bin.""",
    ),
    "support": (
        "Support",
        weights.support,
        """Log-ratio of both densities (left), and the share of the numerator where the denominator has no events, by
        feature (right).""",
    ),
}


def write(folder: Path, config: dict[str, Any], results: Results) -> None:
    """Write ``index.html`` and ``figures/`` into a folder.

    Parameters
    ----------
    folder
        Made when it does not exist; the figures and the page replace older ones when they are complete.
    config
        The configuration as a dictionary.
    results
        ``checks`` (the document ``checks.json``), ``exported``, ``warnings``, ``events``, ``histories``, ``model``
        (its description) and ``steps`` (seconds).

    Raises
    ------
    InputError
        When a part of the results is missing, or the folder cannot be written.
    MissingExtraError
        When matplotlib or mplhep is not installed.
    """
    missing = [key for key in _NEEDED if key not in results]
    if missing:
        raise InputError(f"the results have no {', '.join(missing)}", expected="the results of a whole job")
    folder = Path(folder)
    with atomic(folder / "figures") as drawn:
        drawn.mkdir()
        text = page(_title(config), _parts(config, results, Pictures(drawn)))
    with atomic(folder / "index.html") as part:
        part.write_text(text, encoding="utf-8")


def _title(config: Results) -> str:
    return str(config["title"] or config["name"])


def _names(config: Results) -> tuple[str, str]:
    return config["numerator"]["label"] or "numerator", config["denominator"]["label"] or "denominator"


def _parts(config: Results, results: Results, show: Pictures) -> list[tuple[str, str, Html]]:
    """Sections in reading order: identifier, title, content."""
    closure, *others = results["checks"]["checks"]
    parts = [
        ("top", "", _headline(config, results)),
        ("checks", "Checks", _verdicts(results)),
        ("closure", "Closure", _closure(config, closure, show)),
    ]
    for kind, (title, draw, caption) in _FIGURES.items():
        these = [one for one in others if one["name"].partition(", ")[0] == kind]
        if not these:
            continue
        shown = [
            join(_heading(one["name"].partition(", ")[2]), show(one["name"], caption, partial(draw, one)))
            for one in these
        ]
        if kind == "calibration" and results["model"]["calibration"] is not None:
            shown.append(_calibration_map(results, show))
        parts.append((kind.replace(" ", "-"), title, join(*shown)))
    return [
        *parts,
        ("training", "Training", _training(config, results, show)),
        ("model", "The model", _model(config, results)),
        ("reproduce", "How to reproduce", _reproduction(config, results)),
    ]


def _headline(config: Results, results: Results) -> Html:
    checks = results["checks"]["checks"]
    passed, failed = sum(one["passed"] for one in checks), [one for one in checks if not one["passed"]]
    numerator, denominator = _names(config)
    events = results["events"]
    effective = min(one["n_effective"] for one in checks if "n_effective" in one)
    cards = (
        ("checks passed", f"{passed} of {len(checks)}"),
        ("training events", " / ".join(words.count(events[side]["training"]) for side in events)),
        ("events of the checks", " / ".join(words.count(events[side]["checks"]) for side in events)),
        ("effective events, reweighted", words.count(round(effective))),
    )
    boxes = [
        tag("div", tag("div", name, class_="name"), tag("div", value, class_="value"), class_="card")
        for name, value in cards
    ]
    verdict = "The model passed every check and was exported."
    if failed:
        names = ", ".join(one["name"] for one in failed)
        verdict = f"{len(failed)} of {len(checks)} checks failed ({names}), and the model was " + (
            "exported all the same, as was asked for. Its notes say so."
            if results["exported"]
            else "not exported."
        )
    notes = bullets(results["warnings"])
    members = config["ensemble"]
    subtitle = (
        f"Log-ratio of {numerator} to {denominator} by {_ESTIMATORS[config['estimator']]}"
        f"{f', {members} members' if members > 1 else ''}."
    )
    return join(
        tag("h1", _title(config)),
        tag("p", subtitle, class_="soft"),
        tag("div", *boxes, class_="cards"),
        tag("p", tag("strong", verdict), class_="warning" if failed else "verdict"),
        tag("div", tag("strong", "Warnings of the training"), notes, class_="warning") if notes else "",
    )


def _verdicts(results: Results) -> Html:
    text = "All checks are made on events that neither the training nor the calibration has seen."
    return join(tag("p", text), sections.checks(results["checks"]["checks"]))


def _closure(config: Results, check: Results, show: Pictures) -> Html:
    numerator, denominator = _names(config)
    labels = config["labels"]
    whole: dict[str, list[Any]] = {}
    sliced: dict[tuple[str, str], list[Any]] = {}
    for one in check["closures"]:
        if one["slice"]:
            sliced.setdefault((one["process"], _quantity(one["slice"])), []).append(one)
        else:
            whole.setdefault(one["process"], []).append(one)
    drawn: list[Html] = []
    for process, these in whole.items():
        place = process.removeprefix(numerator).strip(", ")
        name = f"closure_{place or 'all'}"
        drawn += [
            _heading(place),
            show(
                name,
                f"Held-out {numerator} (points), and held-out {denominator} reweighted by the learned ratio (line). "
                "The outermost bins reach further than drawn where they are wide.",
                partial(distributions.closure, these, labels=labels),
            ),
        ]
        for (of, quantity), parts in sliced.items():
            if of == process:
                picture = show(
                    f"{name}_in_{quantity}",
                    f"The same ratio of {numerator} to the reweighted {denominator} in slices of {quantity}, each "
                    "normalised to itself.",
                    partial(trust.closure_slices, parts),
                )
                drawn.append(details(f"In slices of {quantity}", picture))
    drawn += [
        tag("h3", "All comparisons"),
        show(
            "closure_check",
            "Deviation of every comparison, beyond what statistics explain, with the noise that hides smaller ones. "
            "p-values are corrected for the number of comparisons; at most 40 are shown.",
            partial(trust.closure_check, check),
        ),
    ]
    text = (
        f"The events of {denominator}, reweighted by the learned ratio, must look like those of {numerator} in every "
        "feature."
    )
    return join(tag("p", text), *drawn)


def _quantity(interval: str) -> str:
    """Name of the quantity in ``0.1 < name ≤ 0.5``, ``name ≤ 0.1`` or ``name > 0.5``."""
    return re.sub(r"^\S+ < | [≤>] \S+$", "", interval)


def _heading(place: str) -> Html:
    """Where the nuisance parameters are."""
    return tag("h3", sections.minus(place)) if place else Html("")


def _calibration_map(results: Results, show: Pictures) -> Html:
    calibration = Calibration.model_validate(results["model"]["calibration"])
    return show(
        "calibration_map",
        "What the calibration, learned from other held-back events, adds to the log-ratio of the networks.",
        lambda: trust.calibration_map({calibration.method: calibration}),
    )


def _training(config: Results, results: Results, show: Pictures) -> Html:
    histories = results["histories"]
    rows = [(key, _value(value)) for key, value in config["settings"].items()]
    return join(
        show(
            "training",
            "Loss of every network: thin lines are members of an ensemble. The best held-out state is kept.",
            lambda: losses.training(histories, columns=2),
        ),
        details("Settings", table(("setting", "value"), rows, text=True)),
    )


def _model(config: Results, results: Results) -> Html:
    model, numerator = results["model"], _names(config)[0]
    ranges = [
        f"{name} from {low:.4g} to {high:.4g}"
        for name, (low, high) in zip(model["parameters"], model["parameter_range"], strict=True)
    ]
    rows: list[tuple[str, Any]] = [
        ("features", ", ".join(model["features"])),
        ("nuisance parameters", ", ".join(ranges) or "none"),
        ("networks", "; ".join(_part(part) for part in model["parts"])),
        ("members", f"{config['ensemble']}, combined by {model['aggregate'].replace('_', ' ')}"),
        ("calibration", model["calibration"]["method"] if model["calibration"] else "none"),
    ]
    text: list[Any] = ["The output of the model is the log-ratio; "]
    if (log_norm := results["checks"]["log_normalisation"]) is not None:
        rows.append(("mean ratio over the denominator", f"exp({log_norm:+.4f})".replace("-", "−")))
        text.append("it is not normalised: subtract ")
        text.append(tag("code", f"{log_norm:.5f}"))
        text.append(" where the mean ratio over the denominator must be 1. ")
    text.append("A likelihood term of neyman normalises by itself, at every value of the parameters.")
    arguments = f", z={{{model['parameters'][0]!r}: 0.0}}" if model["parameters"] else ""
    lines = [
        "import neyman",
        "",
        'scorer = neyman.Scorer.load("model.safetensors")  # in __init__ of a processor',
        f"log_ratio = scorer(events{arguments})  # large where {numerator} is likely",
    ]
    return join(table(("", ""), rows, text=True), tag("p", *text), tag("pre", "\n".join(lines)))


def _part(part: Results) -> str:
    network = {key: value for key, value in part["network"].items() if key != "kind"}
    numbers = ", ".join(f"{key} {_value(value)}" for key, value in network.items())
    return f"{'−' if part['sign'] < 0 else ''}{part['network']['kind']} ({numbers}), link {part['link']}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) or "default"
    return "none" if value is None else str(value)


def _reproduction(config: Results, results: Results) -> Html:
    versions = [(name, metadata.version(name)) for name in ("neyman", "torch", "numpy")]
    spent: Sequence[tuple[str, str]] = [(k, f"{seconds:.1f} s") for k, seconds in results["steps"].items()]
    return join(
        tag("pre", "neyman train ratio.toml"),
        tag(
            "p",
            f"Everything random follows from seed {config['seed']}; steps that are done are kept, so the same command "
            "continues a job that was stopped.",
        ),
        details(
            "Configuration with all defaults", tag("pre", json.dumps(config, indent=2, ensure_ascii=False))
        ),
        table(("step", "time"), spent),
        table(("package", "version"), versions, text=True),
    )

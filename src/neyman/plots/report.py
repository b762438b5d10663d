"""The HTML report of a run: one page that needs nothing else, and its figures as PNG and PDF."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neyman.errors import InputError
from neyman.files import atomic
from neyman.plots import distributions, losses, parameters, scans, sections, style
from neyman.plots.markup import Html, escape, join, page, picture, tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = (
    "comparison",
    "simulation_check",
    "expected",
    "observed",
    "profiles",
    "impacts",
    "checks",
    "closure",
    "discriminant",
    "validation",
    "workspace",
)


def write(
    folder: Path, config: dict[str, Any], results: dict[str, Any], training: dict[str, dict[str, Any]]
) -> None:
    """Write ``index.html`` and ``figures/`` into a folder.

    Parameters
    ----------
    folder
        Made when it does not exist; the figures and the page replace older ones when they are complete.
    config
        The configuration as a dictionary.
    results
        The results document of the run.
    training
        For each training step its ``histories``.

    Raises
    ------
    InputError
        When a part of the results is missing, or the folder cannot be written.
    MissingExtraError
        When matplotlib or mplhep is not installed.
    """
    missing = [key for key in _NEEDED if key not in results]
    if missing:
        raise InputError(
            f"the results have no {', '.join(missing)}", expected="the results document of a whole run"
        )
    folder = Path(folder)
    with atomic(folder / "figures") as drawn:
        drawn.mkdir()
        shown = Pictures(drawn)
        text = page(
            config["analysis"]["title"] or config["analysis"]["name"],
            _parts(config, results, training, shown),
        )
    with atomic(folder / "index.html") as part:
        part.write_text(text, encoding="utf-8")


def _parts(
    config: dict[str, Any], results: dict[str, Any], training: dict[str, dict[str, Any]], show: Pictures
) -> list[tuple[str, str, Html]]:
    """Sections in reading order: identifier, title, content."""
    poi = config["analysis"]["poi"]
    mu = style.symbol(poi)
    labels = {s["name"]: s["label"] or s["name"] for s in config["samples"]}
    features = config["events"]["labels"]
    signal = next(s["name"] for s in config["samples"] if poi in s["normfactors"])
    expected = results["profiles"]["expected"]
    by_process: dict[str, list[Any]] = {}
    for one in results["closure"]:
        by_process.setdefault(one["process"], []).append(one)
    return [
        ("top", "", sections.headline(config, results)),
        (
            "comparison",
            "Three descriptions of the same events",
            join(
                sections.comparison(results),
                show(
                    "comparison",
                    f"Expected uncertainty of {mu} (left) and profile likelihood on Asimov data (right).",
                    lambda: scans.comparison(results["comparison"], poi=poi),
                ),
            ),
        ),
        ("yields", "Expected events", sections.yields(config, results)),
        ("fits", "Fits", sections.fits(config, results)),
        (
            "profiles",
            "Profile likelihoods",
            join(
                show(
                    f"profile_{poi}",
                    f"Profile likelihood of {mu}, unbinned description.",
                    lambda: scans.profile_scan(
                        results["profiles"]["observed"][poi],
                        expected=expected.get(poi),
                    ),
                ),
                show(
                    "profiles",
                    "Expected profile likelihood of every parameter; dotted lines mark 68% and 95%.",
                    lambda: scans.profiles({name: expected[name] for name in _poi_first(expected, poi)}),
                ),
            ),
        ),
        (
            "impacts",
            "Pulls and impacts",
            join(
                show(
                    "impacts",
                    f"Nuisance parameters by their impact on {mu}, observed fit. Bars belong to the upper axis, points "
                    "to the lower one; a free parameter has its value. A red name marks a fit that is not valid.",
                    lambda: parameters.pulls_and_impacts(results["impacts"]),
                ),
                sections.impacts(results),
            ),
        ),
        (
            "correlation",
            "Correlations",
            _correlation(results, poi, show),
        ),
        (
            "classifier",
            "Classifier histogram",
            show(
                "classifier",
                "Expectation and pseudo-data in bins of the nominal signal-to-background density ratio, "
                "description (b).",
                lambda: distributions.discriminant(results["discriminant"], signal=signal, labels=labels),
            ),
        ),
        (
            "closure",
            "Closure of the learned ratios",
            join(
                sections.checks(results["checks"]),
                sections.closure(config, results),
                sections.closure_systematics(config, results),
                *(
                    show(
                        f"closure_{process}",
                        f"Closure of {labels.get(process, process)}. The outermost bins reach further than drawn "
                        "where they are wide.",
                        partial(distributions.closure, these, labels=labels | features),
                    )
                    for process, these in by_process.items()
                ),
            ),
        ),
        ("simulation", "Fit of the simulation itself", sections.simulation(config, results)),
        (
            "training",
            "Training",
            show(
                "training",
                "Loss of every network: thin lines are members of an ensemble. The best held-out state is kept.",
                lambda: losses.training(_histories(training)),
            )
            if training
            else tag("p", "No training histories were kept."),
        ),
        ("workspace", "Workspace checks", sections.validation(results)),
        ("reproduce", "How to reproduce", sections.reproduction(config, results)),
    ]


def _poi_first(names: Iterable[str], poi: str) -> list[str]:
    return sorted(names, key=lambda name: name != poi)


def _correlation(results: dict[str, Any], poi: str, show: Pictures) -> Html:
    fit = results["observed"]["unbinned"]
    if fit["correlation"] is None:
        return tag("p", "The observed fit has no covariance.", class_="warning")
    return show(
        "correlation",
        "Correlation of the fitted parameters, observed unbinned fit.",
        lambda: parameters.correlation(fit, names=_poi_first(parameters.shown(fit), poi)),
    )


def _histories(training: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Histories by panel title; a step with two is the up and the down ratio of a nuisance parameter."""
    out: dict[str, Any] = {}
    for name, summary in training.items():
        histories = summary["histories"]
        title = name.removeprefix("train ")
        suffixes = [""] if len(histories) == 1 else [" up", " down"]
        out |= {title + suffix: history for suffix, history in zip(suffixes, histories, strict=True)}
    return out


class Pictures:
    """Draws figures into a folder and embeds them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, caption: str, draw: Callable[[], Figure]) -> Html:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
        figure = draw()
        for suffix in (".png", ".pdf"):
            style.save(figure, self._folder / f"{stem}{suffix}")
        width = round(figure.get_figwidth() * style.SCREEN_DPI)
        return picture(self._folder / f"{stem}.png", escape(caption), width=width, link=f"figures/{stem}.pdf")

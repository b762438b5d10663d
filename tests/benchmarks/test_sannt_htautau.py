"""Systematics-aware training on H -> tau tau (CMS-PAS-MLG-23-005): what it brings, and beside what.

All figures are of fits of the engine to the same events, half of all, which took no part in any training. The other
half trains, and chooses the states of the networks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import sannt_htautau as case
import sannt_htautau_ratios as ratios

import neyman as ny
from neyman.networks import MLP
from neyman.training import Settings

# What the core warns of (statistics of the variations) is part of the figures.
pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore::neyman.errors.NeymanWarning")]
RESULTS = Path(__file__).parent / "results" / "sannt_htautau.json"
SEED, BINS = 1, 8
NETWORK = MLP((64, 64))
PRETRAINING = Settings(steps=2000, batch_size=1024, learning_rate=3e-3)
TRAINING = Settings(steps=100, learning_rate=3e-3, validation_fraction=0.4, evaluations=50)
# INFERNO starts from random values and shares events among bins at first: more steps, at a higher rate. Temperature
# and rate are the best of a few.
FROM_SCRATCH, TEMPERATURE = replace(TRAINING, steps=300, learning_rate=2e-2), 0.2
# Many short trainings of a smaller network on a share of the events.
SMALL, MEMBERS, SHARE = MLP((32, 32)), 100, 0.5
SHORT = (
    Settings(steps=600, batch_size=1024, learning_rate=5e-3),
    Settings(steps=40, learning_rate=5e-3, validation_fraction=0.4, evaluations=10),
)
CLASSES = {"ggH": ("ggH",), "qqH": ("qqH",), "Z": ("Z",), "tt": ("tt",)}
SECTIONS = ("setup", "table", "ensemble", "impacts", "multiclass")
LABELS = {"H": "H → ττ", "ggH": "ggH", "qqH": "qqH", "Z": "Z → ττ", "tt": "tt̄"}
TOP = 20


def say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


@pytest.fixture(scope="module")
def tables(shared_data, repository, tmp_path_factory):
    """Events of all processes at an inverse femtobarn."""
    processor = repository / "examples" / "htautau" / "processor.py"
    return case.processed(shared_data / "htautau", processor, tmp_path_factory.mktemp("tables"), seed=SEED)


@pytest.fixture(scope="module")
def inclusive(tables):
    """Events to train on and to judge by, one signal."""
    return case.inclusive(tables).halves(seed=SEED)


@pytest.fixture(scope="module")
def write(record):
    """``write(section, figures)`` replaces a section of the results and keeps the others."""

    def section(name: str, figures: dict[str, Any]) -> None:
        before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        kept = {
            key: before[key]
            for key in ("setup", "table", "ensemble", "impacts", "multiclass")
            if key in before
        }
        record("sannt_htautau", kept | {name: figures})

    return section


def fit_inputs(study: case.Study, classifier) -> case.Histograms:
    """Histograms of the events of a study in the bins of a classifier."""
    channels = {name: classifier.n_bins(name) for name in classifier.channels}
    starts = np.cumsum([0, *channels.values()])

    def place(events: ny.EventTable) -> np.ndarray:
        channel, own = classifier.index(events)
        return starts[channel] + own

    return study.histograms(place, channels)


def train(study: case.Study, network=NETWORK, **options):
    """The core's training on the events of a study, and its CPU seconds."""
    from neyman.sannt import train as run

    tables = study.nominal()
    signals = {name: tables[name] for name in study.signals}
    start = time.process_time()
    result = run(
        network,
        signals,
        {name: tables[name] for name in case.BACKGROUNDS},
        variations=study.variations(),
        region="SR",
        bins=BINS,
        seed=SEED,
        **{"pretraining": PRETRAINING, "settings": TRAINING} | options,
    )
    return result, time.process_time() - start


@pytest.fixture(scope="module")
def trained(inclusive):
    """``trained(name)``: a training by the way its histogram is filled, and its CPU seconds."""
    from neyman.sannt import KDE, EdgeScan, Exact, Inferno

    fillings = {"SANNT": Exact(), "INFERNO": Inferno(TEMPERATURE), "KDE": KDE(), "edge scan": EdgeScan()}
    done: dict[str, Any] = {}

    def get(name: str):
        if name not in done:
            settings = FROM_SCRATCH if name == "INFERNO" else TRAINING
            done[name] = train(inclusive[0], filling=fillings[name], settings=settings)
            say(f"{name}: {done[name][1]:.0f} CPU s")
        return done[name]

    return get


def save(pictures: dict[str, Any], folder: Path) -> None:
    """Draw figures into a folder, or that of NEYMAN_BENCHMARK_FIGURES."""
    target = Path(os.environ.get("NEYMAN_BENCHMARK_FIGURES", folder))
    for name, figure in pictures.items():
        figure.savefig(target / f"sannt_htautau_{name}.png", dpi=110)


def own_figures(study: case.Study, stage) -> dict[str, float]:
    """The core's uncertainty beside that of the engine's fit of the same histograms."""
    fitted = case.uncertainties(study, stage.histograms)
    return {
        "fisher_total": stage.uncertainty.total,
        "fisher_statistical": stage.uncertainty.statistical,
        "fit_total": fitted["total"],
        "fit_statistical": fitted["statistical"],
    }


def test_table(inclusive, trained, write, show, tmp_path):
    """Uncertainties of the signal strength of all methods on the same events."""
    training, judging = inclusive
    rows: dict[str, dict[str, Any]] = {}
    for name in ("SANNT", "INFERNO", "KDE", "edge scan"):
        result, seconds = trained(name)
        if name == "SANNT":
            rows["CENNT"] = judged(judging, result.pretrained.classifier)
            rows["CENNT"]["own"] = own_figures(judging, result.pretrained)
        rows[name] = judged(judging, result.classifier)
        rows[name] |= {
            "own": own_figures(judging, result.trained),
            "cpu_s": seconds,
            "warnings": list(result.warnings),
        }
    start = time.process_time()
    learned = ratios.learn(training, seed=SEED, say=say)
    seconds = time.process_time() - start
    for bins in (BINS, 30):
        discriminant = ratios.Discriminant(training, learned, bins)
        rows[f"binned LRE, {bins} bins"] = case.uncertainties(
            judging, judging.histograms(discriminant.place, {"SR": bins})
        ) | {"cpu_s": seconds}
    likelihood = ratios.unbinned(judging, learned, tmp_path / "workspace")
    rows["unbinned LRE"] = ratios.uncertainties(judging, likelihood) | {"cpu_s": seconds}
    rows["unbinned LRE"]["closure"] = ratios.closures(judging, learned)
    write("setup", setup(inclusive))
    write("table", rows)
    result, _ = trained("SANNT")
    pictures = {
        "histograms": ny.plots.sannt_histograms(result, labels=LABELS),
        "comparison": ny.plots.uncertainty_comparison(rows, signal="H → ττ"),
    }
    save(pictures, tmp_path)
    columns = ("total", "without_mc_stat", "statistical")
    show("uncertainty of r", [{"method": name} | {c: row[c] for c in columns} for name, row in rows.items()])
    assert all(row["valid"] for row in rows.values())
    assert rows["unbinned LRE"]["closure"]["passed"], rows["unbinned LRE"]["closure"]["reason"]
    # What training for the measurement is for; the engine confirms the core's closed form.
    assert rows["SANNT"]["total"] < rows["CENNT"]["total"]
    for name in ("CENNT", "SANNT", "INFERNO", "KDE", "edge scan"):
        own = rows[name]["own"]
        assert own["fisher_statistical"] == pytest.approx(own["fit_statistical"], rel=0.01)
        assert own["fisher_total"] == pytest.approx(own["fit_total"], rel=0.01)


def setup(inclusive) -> dict[str, Any]:
    """What was measured, for the reader of the figures."""
    training, judging = inclusive
    return {
        "luminosity_inverse_fb": case.LUMINOSITY,
        "bins": BINS,
        "features": list(case.FEATURES),
        "expected": {p: t.weight.sum() for p, t in judging.nominal().items()},
        "events": {
            "training": {p: len(t) for p, t in training.nominal().items()},
            "judging": {p: len(t) for p, t in judging.nominal().items()},
        },
        "shape_systematics": {name: f"{100 * sigma:g}%" for name, sigma in case.SHIFTS.items()},
        "weight_systematics": {n: {"up": w.up, "down": w.down} for n, w in case.WEIGHTS.items()},
        "normalisations": {n: [up, down] for n, (_, up, down) in case.NORMALISATIONS.items()},
        "network": repr(NETWORK),
        "pretraining": repr(PRETRAINING),
        "training": repr(TRAINING),
        "inferno": {"temperature": TEMPERATURE, "training": repr(FROM_SCRATCH)},
        "likelihood_ratios": {"nominal": repr(ratios.NOMINAL), "up_down": repr(ratios.UP_DOWN)},
    }


def fewest(histograms: case.Histograms) -> float:
    """Effective number of simulated background events in the bin that has the fewest."""
    found = []
    for own in histograms.values():
        nominal = [own[process]["nominal", :].view() for process in case.BACKGROUNDS]
        value, variance = (sum(one[name] for one in nominal) for name in ("value", "variance"))
        found += [0.0 if v == 0.0 else s**2 / v for s, v in zip(value, variance, strict=True)]
    return float(min(found))


def judged(study: case.Study, classifier) -> dict[str, Any]:
    """Uncertainties of a classifier's histograms of the events of a study."""
    histograms = fit_inputs(study, classifier)
    return case.uncertainties(study, histograms) | {"fewest_background_events": fewest(histograms)}


def band(members, name: str) -> dict[str, float]:
    """Median and 68% band of the members."""
    low, median, high = np.percentile([getattr(one, name) for one in members], (16, 50, 84))
    return {"median": float(median), "low": float(low), "high": float(high)}


def test_ensemble(inclusive, write, show, tmp_path):
    """The band of many short trainings, before and after, without statistics of the simulation.

    The members are judged by held-out events of their own, the same that choose their states.
    """
    some = inclusive[0].thinned(SHARE, seed=SEED + 1)
    start = time.perf_counter()
    pretraining, settings = SHORT
    result, seconds = train(
        some, SMALL, ensemble=MEMBERS, pretraining=pretraining, settings=settings, mc_stat=False
    )
    before, after = result.pretrained.members, result.trained.members
    figures: dict[str, Any] = {
        "members": len(after),
        "events": {p: len(t) for p, t in some.nominal().items()},
        "network": repr(SMALL),
        "pretraining": repr(pretraining),
        "training": repr(settings),
        "cpu_s": seconds,
        "wall_s": time.perf_counter() - start,
        "CENNT": {name: band(before, name) for name in ("total", "statistical")},
        "SANNT": {name: band(after, name) for name in ("total", "statistical")},
        "improved": sum(a.total < b.total for a, b in zip(after, before, strict=True)),
        "ratio": dict(
            zip(
                ("low", "median", "high"),
                np.percentile([a.total / b.total for a, b in zip(after, before, strict=True)], (16, 50, 84)),
                strict=True,
            )
        ),
        "warnings": list(result.warnings),
    }
    write("ensemble", figures)
    stages = {"CENNT": before, "SANNT": after}
    save({"band": ny.plots.uncertainty_band(stages)}, tmp_path)
    show(
        f"{MEMBERS} trainings, {seconds:.0f} CPU s",
        [
            {"stage": stage, "uncertainty": name} | figures[stage][name]
            for stage in ("CENNT", "SANNT")
            for name in ("total", "statistical")
        ],
    )
    assert len(before) == len(after) == MEMBERS
    assert figures["SANNT"]["total"]["median"] < figures["CENNT"]["total"]["median"]


def test_impacts(inclusive, trained, write, show, tmp_path):
    """Impacts of the nuisance parameters in the exported workspaces, before and after."""
    _, judging = inclusive
    result, _ = trained("SANNT")
    found = {}
    for name, stage in (("CENNT", result.pretrained), ("SANNT", result.trained)):
        spec = case.workspace(judging, fit_inputs(judging, stage.classifier))
        found[name] = ny.impacts(ny.Likelihood.from_pyhf(spec).asimov(), "r")
    sizes = {
        name: {one.name: one for one in every.impacts if not one.name.startswith("staterror")}
        for name, every in found.items()
    }
    ranked = sorted(sizes["CENNT"], key=lambda n: sizes["CENNT"][n].size, reverse=True)[:TOP]
    order = {
        name: sorted(own, key=lambda n, own=own: own[n].size, reverse=True) for name, own in sizes.items()
    }
    figures = {
        "ranking": [
            {
                "parameter": parameter,
                **{
                    name: {"up": own[parameter].up, "down": own[parameter].down}
                    for name, own in sizes.items()
                },
                "rank_SANNT": 1 + order["SANNT"].index(parameter),
            }
            for parameter in ranked
        ],
        "groups": {name: {g.name: g.size for g in every.groups} for name, every in found.items()},
    }
    write("impacts", figures)
    picture = ny.plots.impact_comparison(
        {name: {p: one.size for p, one in own.items()} for name, own in sizes.items()}, first=TOP
    )
    save({"impacts": picture}, tmp_path)
    show(
        "impacts on r",
        [
            {
                "parameter": p,
                "CENNT": sizes["CENNT"][p].size,
                "SANNT": sizes["SANNT"][p].size,
                "rank": 1 + order["SANNT"].index(p),
            }
            for p in ranked
        ],
    )
    assert len(ranked) == TOP
    assert all(one.valid for own in sizes.values() for one in own.values())
    # Systematics are what a systematics-aware training reduces.
    assert figures["groups"]["SANNT"]["systematic"] < figures["groups"]["CENNT"]["systematic"]


def test_multiclass(tables, write, show, tmp_path):
    """Two signals and four classes, with and without what keeps the classes' meaning."""
    from neyman.sannt import ClassConstraint

    training, judging = case.two_signals(tables).halves(seed=SEED)
    figures: dict[str, Any] = {
        "classes": {name: list(own) for name, own in CLASSES.items()},
        "bins_a_class": BINS,
    }
    shown = []
    for name, constraint in (("constrained", ClassConstraint()), ("free", None)):
        result, seconds = train(training, classes=CLASSES, constraint=constraint)
        say(f"multiclass, {name}: {seconds:.0f} CPU s")
        for stage, one in (("CENNT", result.pretrained), ("SANNT", result.trained)):
            if stage == "CENNT" and "CENNT" in figures:
                continue  # the same for both
            row = stage if stage == "CENNT" else f"SANNT, {name}"
            histograms = fit_inputs(judging, one.classifier)
            figures[row] = case.uncertainties(judging, histograms) | {
                "fewest_background_events": fewest(histograms),
                "own": one.uncertainty.to_dict(),
                "efficiency": efficiency(histograms),
                "constraint": repr(constraint),
            }
            shown += [
                {"training": row, "signal": s}
                | {c: figures[row][c][s] for c in ("total", "without_mc_stat", "statistical")}
                for s in training.signals
            ]
        figures[f"SANNT, {name}"] |= {"cpu_s": seconds, "warnings": list(result.warnings)}
        save({f"multiclass_{name}": ny.plots.sannt_histograms(result, labels=LABELS)}, tmp_path)
    for name in ("constrained", "free"):
        after, before = figures[f"SANNT, {name}"], figures["CENNT"]
        after["change"] = {s: after["total"][s] / before["total"][s] - 1.0 for s in training.signals}
    write("multiclass", figures)
    show("two signals", shown)
    assert figures["CENNT"]["valid"]
    for name in ("constrained", "free"):
        row = figures[f"SANNT, {name}"]
        assert row["valid"]
        assert sum(row["total"].values()) < sum(figures["CENNT"]["total"].values())


def efficiency(histograms: case.Histograms) -> dict[str, float]:
    """Share of each class's own processes that is in its channel."""
    totals = {
        channel: {process: float(h["nominal", :].values().sum()) for process, h in own.items()}
        for channel, own in histograms.items()
    }
    found = {}
    for name, processes in CLASSES.items():
        everywhere = sum(own[p] for own in totals.values() for p in processes)
        found[name] = sum(totals.get(f"SR_{name}", {}).get(p, 0.0) for p in processes) / everywhere
    return found

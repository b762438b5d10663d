"""The stabilisation study on jets: bias and spread over ten passes of all ensembles (Torales Acosta et al.)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neyman.unfolding import mse_rel, sigma_rel

sys.path.insert(0, str(Path(__file__).parent))
import unfolding_jets as jets
import unfolding_jets_study as study

LABELS = {
    "none": ("parallel", "members"),
    "none, pre-trained": ("parallel-pretrained", "members"),
    "parallel mean": ("parallel", "mean"),
    "parallel median": ("parallel", "median"),
    "parallel truncated mean": ("parallel", "truncated_mean"),
    "parallel mean, pre-trained": ("parallel-pretrained", "mean"),
    "parallel median, pre-trained": ("parallel-pretrained", "median"),
    "parallel truncated mean, pre-trained": ("parallel-pretrained", "truncated_mean"),
    "step mean": ("step", "mean"),
    "step mean, pre-trained": ("step-pretrained", "mean"),
}


def histograms(passes: list[dict[str, Any]], observable: str, aggregate: str) -> NDArray[Any]:
    """One row a pass; without ensembling the first member of each."""
    own = [run["histograms"][observable][aggregate] for run in passes]
    return np.array([rows[0] if aggregate == "members" else rows for rows in own])


def summary(truth: NDArray[Any], passes: NDArray[Any]) -> dict[str, float]:
    """Means over the bins, and those over the first and last two: the tails."""
    mse, sigma = mse_rel(truth, passes), sigma_rel(passes)
    mean = passes.mean(axis=0)
    tails = [0, 1, -2, -1]
    return {
        "mse_rel": float(mse.mean()),
        "sigma_rel": float(sigma.mean()),
        "mse_rel_tails": float(mse[tails].mean()),
        "sigma_rel_tails": float(sigma[tails].mean()),
        "bias_rel": float(np.abs(mean / truth - 1.0).mean()),
    }


@pytest.mark.benchmark
def test_jets_study(record: Callable[..., None], show: Callable[..., None]) -> None:
    of, folder = study.size(), jets.cache()
    jets.make(folder, of.events)
    passes = {
        name: [study.run(folder, name, k, of) for k in range(study.PASSES)] for name in study.methods(of)
    }
    truth, prior = study.truths(folder, of), study.priors(folder, of)
    figures: dict[str, Any] = {"size": asdict(of), "passes": study.PASSES, "members": study.MEMBERS}
    figures["pretraining_seconds"] = study.classifier(folder, of)[1]
    figures["cpu_seconds_per_pass"] = {
        name: float(np.mean([run["cpu_seconds"] for run in runs])) for name, runs in passes.items()
    }
    figures["prior_mse_rel"] = {
        name: float(np.mean(np.square(prior[name] - truth[name]) / truth[name])) for name in truth
    }
    figures["methods"] = {
        label: {name: summary(truth[name], histograms(passes[run], name, own)) for name in truth}
        for label, (run, own) in LABELS.items()
    }
    figures["relative_to_none"] = {
        label: {
            what: float(
                np.exp(np.mean([np.log(own[n][what] / figures["methods"]["none"][n][what]) for n in own]))
            )
            for what in ("mse_rel", "sigma_rel", "mse_rel_tails", "sigma_rel_tails", "bias_rel")
        }
        for label, own in figures["methods"].items()
    }
    figures["best_losses"] = {
        name: {
            f"iteration {i + 1}, {runs[0]['steps'][2 * i + k]['level']}": float(
                np.mean([run["steps"][2 * i + k]["losses"] for run in runs])
            )
            for i in range(of.iterations)
            for k in (0, 1)
        }
        for name, runs in passes.items()
    }
    record("unfolding_jets", figures, "pythia8mc")
    for what in ("sigma_rel", "mse_rel"):
        show(
            f"{what}, mean over the bins",
            [
                {"method": label, **{name: own[name][what] for name in truth}}
                for label, own in figures["methods"].items()
            ],
        )
    show(
        "relative to no ensembling, geometric mean over the observables",
        [{"method": label, **own} for label, own in figures["relative_to_none"].items()],
    )
    show("CPU seconds a full pass", [figures["cpu_seconds_per_pass"]])
    _draw(truth, passes, Path(__file__).parent / "results")


def _draw(truth: dict[str, NDArray[Any]], passes: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    from neyman.plots import unfolding_stability
    from neyman.plots.style import save

    chosen = {
        "none": LABELS["none"],
        "parallel": LABELS["parallel mean"],
        "step": LABELS["step mean"],
        "parallel, pre-trained": LABELS["parallel mean, pre-trained"],
        "step, pre-trained": LABELS["step mean, pre-trained"],
    }
    for name in ("mass", "tau21"):
        runs = {label: histograms(passes[run], name, own) for label, (run, own) in chosen.items()}
        edges = jets.EDGES[name].copy()
        edges[-1] = edges[-2] + 2.0 * (edges[-2] - edges[-3]) if name == "mass" else edges[-1]
        drawn = unfolding_stability(truth[name], runs, edges, name=f"jet {name}")
        save(drawn, folder / f"unfolding_jets_{name}.png", scale=1.0)

"""The inference step: expected and observed fits of the three descriptions of the same events, and checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.analysis.building import CLASSIFIER
from neyman.analysis.config import Config
from neyman.diagnostics import closure
from neyman.inference import FitResult, fit, impacts, profile
from neyman.likelihood import Data, Events, Likelihood, UnbinnedTerm
from neyman.workspace import read, validate
from neyman.workspace.store import read_columns

Array = NDArray[np.float64]
UNBINNED, SINGLE = "unbinned", "single"


@dataclass(frozen=True)
class Descriptions:
    """The three likelihoods of the same events.

    Parameters
    ----------
    likelihoods
        ``single`` (histogram of one feature), ``classifier`` (histogram of the discriminant), ``unbinned``; each with
        the binned control regions.
    """

    likelihoods: dict[str, Likelihood]

    @classmethod
    def load(cls, config: Config, workspace: Path) -> Descriptions:
        """Read them from the workspace folder."""
        return cls(
            {
                SINGLE: Likelihood.from_pyhf(
                    workspace / "alternatives" / f"{config.compare.observable}.json"
                ),
                CLASSIFIER: Likelihood.load(workspace, prefer="binned"),
                UNBINNED: Likelihood.load(workspace),
            }
        )


def compare(config: Config, descriptions: Descriptions, simulation_noise: float) -> list[dict[str, Any]]:
    """Expected uncertainty of the parameter of interest of each description on its Asimov data."""
    poi = config.analysis.poi
    labels = {
        SINGLE: f"{config.compare.label or config.compare.observable} histogram, {config.compare.bins} bins",
        CLASSIFIER: f"classifier histogram, {config.compare.classifier_bins} bins",
        UNBINNED: "unbinned neural likelihood",
    }
    rows = []
    for kind, lh in descriptions.likelihoods.items():
        asimov = lh.asimov()
        simulation = [name for name in lh.names if name.startswith("staterror_")]
        stat = fit(asimov, fixed=[name for name in lh.names if name != poi])
        syst = fit(asimov, fixed=simulation, minos=(poi,))
        full = fit(asimov)
        # The unbinned term has no staterror: its simulation noise is added in quadrature.
        noise = simulation_noise if kind == UNBINNED else 0.0
        rows.append(
            {
                "kind": kind,
                "label": labels[kind],
                "stat": stat.errors[poi],
                "syst": syst.errors[poi],
                "minos": [syst.minos[poi].lower, syst.minos[poi].upper],
                "with_simulation": float(np.hypot(full.errors[poi], noise)),
                "valid": stat.valid and syst.valid and full.valid,
                "scan": profile(asimov, poi, fixed=simulation, best=syst).to_dict(),
            }
        )
    return rows


def simulation_check(config: Config, lh: Likelihood, workspace: Path) -> dict[str, Any]:
    r"""Fit the simulated events themselves with the learned likelihood.

    The held-out events of all samples, weighted to their expectation, take the place of the data. Perfect ratios
    and infinite simulation would give the nominal value. With event weights w, scores s and H the Hessian of
    :math:`-2\ln L`, to first order:

    * the statistical noise of the simulation in the estimate is
      :math:`4 H^{-1} (\sum_i w_i^2 s_i s_i^T) H^{-1}`;
    * the spread of the estimate over data drawn from the simulation is
      :math:`H^{-1} (4 \sum_i w_i s_i s_i^T + 2 H') H^{-1}`, :math:`H'` the Hessian of the other terms and of the
      constraints. It equals the error :math:`2 H^{-1}` when the ratios are right, and exceeds it when they pretend
      to know more than the simulation does (White, Econometrica 50 (1982) 1).
    """
    poi = lh.index(config.analysis.poi)
    position, term = next((i, t) for i, t in enumerate(lh.terms) if isinstance(t, UnbinnedTerm))
    weight = read_columns(workspace / f"{term.name}_reference.parquet", ["x:expected"])["x:expected"]
    asimov = lh.asimov()
    parts = list(asimov.data.terms)
    parts[position] = Events(weight, term.reference.columns)
    result = fit(asimov.with_data(Data(tuple(parts), asimov.global_observables)))
    columns = [lh.index(p.name) for p in term.parameters]
    nominal = torch.from_numpy(lh.inits[columns])
    model = term.with_data(term.expected_data(nominal))
    own = model.evaluate(nominal, 2).hessian
    scores = model.scores(nominal).numpy()
    total = asimov.hessian(lh.inits)
    others, noise, spread = total.copy(), np.zeros_like(total), np.zeros_like(total)
    block = np.ix_(columns, columns)
    others[block] -= own.numpy() if own is not None else 0.0
    noise[block] = 4.0 * (scores * weight[:, None] ** 2).T @ scores
    spread[block] = 4.0 * (scores * weight[:, None]).T @ scores
    free = np.ix_(~lh.fixed, ~lh.fixed)
    inverse = np.linalg.inv(total[free])
    at = int(np.count_nonzero(~lh.fixed[:poi]))

    def error(inner: Array) -> float:
        return float(np.sqrt((inverse @ inner[free] @ inverse)[at, at]))

    return {
        "value": result.values[poi],
        "error": result.errors[poi],
        "nominal": float(lh.inits[poi]),
        "noise": error(noise),
        "claimed": float(np.sqrt(2.0 * inverse[at, at])),
        "spread": error(spread + 2.0 * others),
        "valid": result.valid,
    }


def closures(config: Config, workspace: Path) -> list[dict[str, Any]]:
    """Closure of every process in every feature, on two disjoint parts of the held-out events."""
    names = [s.name for s in config.samples]
    features = config.events.features
    columns = read_columns(
        workspace / f"{config.signal_region}_reference.parquet",
        ["weight", "x:process", "x:fold", "x:expected", *(f"x:{f}" for f in features), *names],
    )
    x = np.stack([columns[f"x:{f}"] for f in features], axis=1)
    odd = columns["x:fold"] == 1
    out = []
    for i, name in enumerate(names):
        target = odd & (columns["x:process"] == i)
        out += closure(
            name,
            features,
            (x[target], columns["x:expected"][target]),
            (x[~odd], columns["weight"][~odd]),
            columns[name][~odd],
        )
    return [c.to_dict() for c in out]


def measure(config: Config, workspace: Path) -> dict[str, Any]:
    """Do all fits and checks; returns the results document."""
    poi = config.analysis.poi
    descriptions = Descriptions.load(config, workspace)
    lh = descriptions.likelihoods[UNBINNED]
    check = simulation_check(config, lh, workspace)
    table = compare(config, descriptions, check["noise"])
    asimov = lh.asimov()
    expected = fit(asimov, minos=(poi,))
    observed = {kind: fit(one, minos=(poi,)) for kind, one in descriptions.likelihoods.items()}
    held = dict(zip(lh.names, lh.fixed, strict=True))
    named = [name for name in lh.names if not held[name] and not name.startswith("staterror_")]
    points = config.fit.profile_points
    return {
        "comparison": table,
        "simulation_check": check,
        "expected": expected.to_dict(),
        "observed": {kind: result.to_dict() for kind, result in observed.items()},
        "profiles": {
            "expected": {name: _profile(asimov, expected, name, points) for name in named},
            "observed": {poi: _profile(lh, observed[UNBINNED], poi, points)},
        },
        "impacts": impacts(lh, poi, best=observed[UNBINNED]).to_dict(),
        "closure": closures(config, workspace),
        "discriminant": discriminant(config, workspace),
        "validation": [vars(c) for c in validate(workspace)],
    }


def _profile(lh: Likelihood, best: FitResult, name: str, points: int) -> dict[str, Any]:
    i = lh.index(name)
    low, high = lh.bounds[i]
    value, error = best.values[i], best.errors[i]
    grid = np.linspace(max(low, value - 2.5 * error), min(high, value + 2.5 * error), points)
    scan: dict[str, Any] = profile(lh, name, grid, best=best).to_dict()
    return scan


def discriminant(config: Config, workspace: Path) -> dict[str, Any]:
    """Expected and observed contents of the classifier histogram, for the figure."""
    spec = read(workspace).binned or {}
    name = f"{config.signal_region}_{CLASSIFIER}"
    channel = next(c for c in spec["channels"] if c["name"] == name)
    observed = next(o for o in spec["observations"] if o["name"] == name)
    simulation = [m["data"] for s in channel["samples"] for m in s["modifiers"] if m["type"] == "staterror"]
    return {
        "error": np.sqrt(np.sum(np.square(simulation), axis=0)).tolist(),
        "samples": {sample["name"]: sample["data"] for sample in channel["samples"]},
        "observed": observed["data"],
    }

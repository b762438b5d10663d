"""The inference step: expected and observed fits of the three descriptions of the same events, and checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.analysis.config import Config
from neyman.analysis.evaluation import CLASSIFIER, SINGLE
from neyman.analysis.simulation import derive
from neyman.inference import FitResult, fit, impacts, profile
from neyman.likelihood import Data, Likelihood, UnbinnedTerm
from neyman.workspace import read, validate
from neyman.workspace.columns import read_columns

Array = NDArray[np.float64]
UNBINNED = "unbinned"
_BOOTSTRAPS = 100


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


def compare(
    config: Config, descriptions: Descriptions, simulation_noise: float, client: Any = None
) -> list[dict[str, Any]]:
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
        simulation = [name for name in lh.names if name.startswith(("staterror_", "spread_"))]
        stat = fit(asimov, fixed=[name for name in lh.names if name != poi])
        syst = fit(asimov, fixed=simulation, minos=(poi,))
        full = fit(asimov)
        # The unbinned term has no staterror: its first-order stand-in is added in quadrature.
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
                "scan": _profile(asimov, syst, poi, config.fit.profile_points, client),
            }
        )
    return rows


def simulation_check(config: Config, lh: Likelihood, workspace: Path) -> dict[str, Any]:
    r"""Fit the simulated events themselves with the learned likelihood.

    The held-out events of all samples, weighted to their expectation, take the place of the data. Perfect ratios
    and infinite simulation would give the nominal value. To first order around it, with event weights w, scores s
    and H the Hessian of :math:`-2\ln L`:

    * ``noise``, the statistical error of the fitted value: spread of one Newton step over Poisson bootstraps of the
      events, as data and as reference at once, with the yields kept;
    * ``spread`` of the estimate over data drawn from the simulation,
      :math:`H^{-1} (4 \sum_i w_i s_i s_i^T + 2 H') H^{-1}` with :math:`H'` the Hessian of the other terms and of the
      constraints. It equals the ``claimed`` error :math:`2 H^{-1}` when the ratios are right, and exceeds it when
      they pretend to know more than the simulation does (White, Econometrica 50 (1982) 1);
    * ``simulation``, how far the estimate moves when the simulated events fluctuate and the ratios do not:
      :math:`4 H^{-1} (\sum_i w_i^2 s_i s_i^T) H^{-1}`, the unbinned stand-in for staterror.
    """
    position, term = next((i, t) for i, t in enumerate(lh.terms) if isinstance(t, UnbinnedTerm))
    columns = read_columns(workspace / f"{term.name}_reference.parquet", ["x:expected", "x:process"])
    weight, process = columns["x:expected"].astype(np.float64), columns["x:process"].astype(np.float64)
    asimov = lh.asimov()
    parts = list(asimov.data.terms)
    parts[position] = term.reference.with_weight(weight)
    result = fit(asimov.with_data(Data(tuple(parts), asimov.global_observables)))
    linear = _Linear(lh, asimov, term, lh.index(config.analysis.poi))
    scores = linear.scores()
    rng = np.random.default_rng(derive(config.analysis.seed, "simulation check"))
    bootstraps = [
        linear.step(*_resampled(rng, weight, term.reference.weight, process)) for _ in range(_BOOTSTRAPS)
    ]
    poi = config.analysis.poi
    return {
        "value": result.values[poi],
        "error": result.errors[poi],
        "nominal": float(lh.inits[lh.index(poi)]),
        "noise": float(np.std(bootstraps)),
        "claimed": linear.error(2.0 * linear.total),
        "spread": linear.error(
            2.0 * linear.others + linear.embed(4.0 * (scores * weight[:, None]).T @ scores)
        ),
        "simulation": linear.error(linear.embed(4.0 * (scores * weight[:, None] ** 2).T @ scores)),
        "valid": result.valid,
    }


class _Linear:
    """First-order response of the parameter of interest around the nominal point."""

    def __init__(self, lh: Likelihood, asimov: Likelihood, term: UnbinnedTerm, poi: int) -> None:
        self._columns = [lh.index(p.name) for p in term.parameters]
        self._nominal = torch.from_numpy(lh.inits[self._columns])
        self._term = term.with_data(term.expected_data(self._nominal))
        self._free = ~lh.fixed
        self.total = asimov.hessian(lh.inits)
        own = self._term.evaluate(self._nominal, 2).hessian
        self.others = self.total - (0.0 if own is None else self.embed(own.numpy()))
        self._row = np.linalg.inv(self.total[np.ix_(self._free, self._free)])[
            np.count_nonzero(self._free[:poi])
        ]

    def embed(self, block: Array) -> Array:
        """A matrix over the term's parameters as one over all."""
        full = np.zeros((len(self._free), len(self._free)))
        full[np.ix_(self._columns, self._columns)] = block
        return full

    def scores(self) -> Array:
        """Scores of the reference events at the nominal point."""
        return self._term.scores(self._nominal).numpy()

    def error(self, inner: Array) -> float:
        """Error of the parameter of interest when the gradient has covariance `inner`."""
        return float(np.sqrt(self._row @ inner[np.ix_(self._free, self._free)] @ self._row))

    def step(self, weight: Array, reference: Array) -> float:
        """Newton step of the parameter of interest for other weights of the data and of the reference."""
        varied = self._term.with_reference_weight(reference)
        varied = varied.with_data(self._term.reference.with_weight(weight))
        part = varied.evaluate(self._nominal, 1).gradient
        gradient = np.zeros(len(self._free))
        gradient[self._columns] = 0.0 if part is None else part.numpy()
        return -float(self._row @ gradient[self._free])


def _resampled(
    rng: np.random.Generator, weight: Array, reference: Array, process: Array
) -> tuple[Array, Array]:
    """Poisson bootstrap of both weights with the sums of every process kept."""
    counts = rng.poisson(1.0, len(weight)).astype(np.float64)
    for i in np.unique(process):
        own = process == i
        counts[own] *= weight[own].sum() / (counts[own] @ weight[own])
    return weight * counts, reference * counts


def measure(config: Config, workspace: Path, client: Any = None) -> dict[str, Any]:
    """Do all fits and checks, the scans on Dask workers if there are any; returns the results document."""
    poi = config.analysis.poi
    descriptions = Descriptions.load(config, workspace)
    lh = descriptions.likelihoods[UNBINNED]
    check = simulation_check(config, lh, workspace)
    table = compare(config, descriptions, check["simulation"], client)
    asimov = lh.asimov()
    expected = fit(asimov, minos=(poi,))
    observed = {kind: fit(one, minos=(poi,)) for kind, one in descriptions.likelihoods.items()}
    held = dict(zip(lh.names, lh.fixed, strict=True))
    named = [name for name in lh.names if not held[name] and not name.startswith(("staterror_", "spread_"))]
    points = config.fit.profile_points
    return {
        "comparison": table,
        "simulation_check": check,
        "expected": expected.to_dict(),
        "observed": {kind: result.to_dict() for kind, result in observed.items()},
        "profiles": {
            "expected": {name: _profile(asimov, expected, name, points, client) for name in named},
            "observed": {poi: _profile(lh, observed[UNBINNED], poi, points, client)},
        },
        "impacts": impacts(lh, poi, best=observed[UNBINNED]).to_dict(),
        "discriminant": discriminant(config, workspace),
        "validation": [vars(c) for c in validate(workspace)],
    }


def _profile(lh: Likelihood, best: FitResult, name: str, points: int, client: Any) -> dict[str, Any]:
    i = lh.index(name)
    low, high = lh.bounds[i]
    value, error = best.values[i], best.errors[i]
    grid = np.linspace(max(low, value - 2.5 * error), min(high, value + 2.5 * error), points)
    scan: dict[str, Any] = profile(lh, name, grid, best=best, client=client).to_dict()
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

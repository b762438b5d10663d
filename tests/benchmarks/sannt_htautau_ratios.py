"""Learned likelihood ratios of the H -> tau tau study: the binned and the unbinned rows of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sannt_htautau as case
import torch

import neyman as ny
from neyman.diagnostics import check_closure, closure
from neyman.ratios import LRE, ProcessRatios, RatioTable
from neyman.workspace import Draft, documents

NOMINAL = LRE(
    ny.networks.MLP((64, 64, 64)),
    ensemble=5,
    settings=ny.training.Settings(steps=4000, batch_size=512, learning_rate=3e-3, validation_fraction=0.1),
)
UP_DOWN = LRE(
    ny.networks.MLP((32, 32)),
    ensemble=3,
    settings=ny.training.Settings(steps=300, batch_size=2048, learning_rate=1e-3, validation_fraction=0.1),
)
CLOSURE_FEATURES = ("m_vis", "m_tot", "pt_h", "tau_pt", "met")
Say = Callable[[str], None]


def mixture(tables: Mapping[str, ny.EventTable]) -> ny.EventTable:
    """Equal parts of the processes with total weight 1: the reference density.

    Extra columns: ``expected`` counts of each event, and position of its ``process``.
    """
    parts = [
        replace(
            table, extra=dict(table.extra) | {"expected": table.weight, "process": np.full(len(table), k)}
        )
        for k, table in enumerate(tables.values())
    ]
    return ny.EventTable.concat(part.scaled(1.0 / (len(parts) * part.weight.sum())) for part in parts)


def learn(training: case.Study, *, seed: int, say: Say) -> dict[str, ProcessRatios]:
    """Ratio of each process to the mixture, and the up and down ratios of its energy scales."""
    reference = mixture(training.nominal())
    found = {}
    for process, tables in training.tables.items():
        nominal = NOMINAL.fit(tables["nominal"], reference, seed=seed)
        up_down = {
            name: tuple(
                UP_DOWN.fit(tables[name + suffix], tables["nominal"], seed=seed).model
                for suffix, _ in case.SIDES
            )
            for name in case.SHIFTS
        }
        found[process] = ProcessRatios(process, nominal.model, up_down)
        say(f"ratios of {process}: trained")
    return found


# Binned -----------------------------------------------------------------------------------------------------


class Discriminant:
    r"""Nominal ratio of signal to background densities, :math:`\ln \nu_S r_S / \sum_B \nu_B r_B`, in bins.

    The bins have equal contents of an equal mixture of signal and background among the training events.
    """

    def __init__(self, training: case.Study, ratios: Mapping[str, ProcessRatios], bins: int) -> None:
        self._study, self._ratios = training, ratios
        tables = training.nominal()
        self._shift = {p: np.log(table.weight.sum()) for p, table in tables.items()}
        values = {p: self(table) for p, table in tables.items()}
        value = np.concatenate(list(values.values()))
        signal = np.concatenate([np.full(len(v), p in training.signals) for p, v in values.items()])
        weight = np.concatenate([table.weight for table in tables.values()])
        weight = np.where(signal, weight / weight[signal].sum(), weight / weight[~signal].sum())
        order = np.argsort(value)
        shares = np.cumsum(weight[order]) / weight.sum()
        self.edges = np.interp(np.linspace(0.0, 1.0, bins + 1)[1:-1], shares, value[order])

    def __call__(self, events: ny.EventTable) -> np.ndarray:
        part = {p: r.at_nominal(events).astype(float) + self._shift[p] for p, r in self._ratios.items()}
        signal, background = (
            np.logaddexp.reduce([v for p, v in part.items() if (p in self._study.signals) is one])
            for one in (True, False)
        )
        return signal - background

    def place(self, events: ny.EventTable) -> np.ndarray:
        """Position of each event in the bins."""
        return np.searchsorted(self.edges, self(events), side="right")


# Unbinned ---------------------------------------------------------------------------------------------------


def unbinned(study: case.Study, ratios: Mapping[str, ProcessRatios], folder: Path) -> ny.Likelihood:
    """Write the unbinned workspace of the events of a study, and load it.

    Ratios of the weight systematics are those by which the events were weighted, with the mean of the process, which
    goes to its yield, divided out.
    """
    reference = RatioTable.evaluate(mixture(study.nominal()), list(ratios.values()))
    columns: dict[str, np.ndarray] = {}
    samples = []
    for process, tables in study.tables.items():
        nominal = tables["nominal"]
        expected = nominal.weight.sum()
        model = study.models()[process]
        modifiers: list[dict[str, Any]] = [{"name": n, "type": "normfactor"} for n in model.normfactors]
        modifiers += [_normsys(name, *sizes) for name, sizes in model.normsys.items()]
        for name in case.SHIFTS:
            up, down = (tables[name + suffix].weight.sum() / expected for suffix, _ in case.SIDES)
            modifiers += [_normsys(name, up, down), _ratiosys(name, *ratios[process].up_down_columns(name))]
        for name in study.weightings(process):
            means = [np.average(one, weights=nominal.weight) for one in case.factors(name, nominal)]
            names = [f"{process}:{name}:{side}" for side in ("up", "down")]
            for column, mean, factor in zip(names, means, case.factors(name, reference.events), strict=True):
                columns[column] = np.log(factor / mean).astype(np.float32)
            modifiers += [_normsys(name, *means), _ratiosys(name, *names)]
        samples.append({"name": process, "yield": expected, "log_ratio": process, "modifiers": modifiers})
    expected = reference.events.extra["expected"].astype(float)
    # The events themselves, weighted to their expectation, are the data: Asimov data that no ratio has made.
    reference = reference.with_columns(columns)
    data = replace(reference, weight=expected)
    files = {
        "reference.parquet": reference.to_parquet(folder.parent / "reference.parquet"),
        "data.parquet": data.to_parquet(folder.parent / "data.parquet"),
    }
    poi = next(iter(study.pois.values()))
    channel = {
        "name": "SR",
        "data": {"file": "data.parquet"},
        "reference": {"file": "reference.parquet"},
        "samples": samples,
    }
    settings = {
        "poi": poi,
        "parameters": [{"name": p, "bounds": [[-10.0, 20.0]]} for p in study.pois.values()],
    }
    document = documents.Unbinned.model_validate(
        {"channels": [channel], "measurements": [{"name": "m", "config": settings}]}
    )
    Draft(unbinned=document, files=files).write(folder)
    return ny.Likelihood.load(folder)


def _normsys(name: str, up: float, down: float) -> dict[str, Any]:
    return {"name": name, "type": "normsys", "data": {"hi": float(up), "lo": float(down)}}


def _ratiosys(name: str, up: str, down: str) -> dict[str, Any]:
    return {"name": name, "type": "ratiosys", "data": {"hi": up, "lo": down}}


def uncertainties(study: case.Study, likelihood: ny.Likelihood) -> dict[str, Any]:
    r"""Expected uncertainties of the strengths, and what the simulated events themselves give.

    ``without_mc_stat`` and ``statistical`` are of the model's own Asimov data. ``on_events`` is the fit of the
    simulated events. ``simulation`` is how far the estimate moves, to first order, when they fluctuate and the ratios
    do not: :math:`4 H^{-1} (\sum_i w_i^2 s_i s_i^T) H^{-1}` with the scores s and the Hessian H of :math:`-2\ln L`;
    with it in quadrature the error is ``total``.
    """
    pois = list(study.pois.values())
    asimov = likelihood.asimov()
    fits = {
        "without_mc_stat": ny.fit(asimov),
        "statistical": ny.fit(asimov, fixed=[name for name in asimov.names if name not in pois]),
    }
    found = case.gathered(study, fits)
    events = ny.fit(likelihood)
    inverse = np.linalg.inv(asimov.hessian(asimov.inits))
    term = likelihood.terms[0]
    columns = [likelihood.index(p.name) for p in term.parameters]
    weight = likelihood.data.terms[0].weight
    scores = term.with_data(term.expected_data(torch.from_numpy(asimov.inits[columns]))).scores(
        torch.from_numpy(asimov.inits[columns])
    )
    inner = np.zeros((len(columns), len(columns)))
    inner[np.ix_(columns, columns)] = 4.0 * (scores.numpy() * weight[:, None] ** 2).T @ scores.numpy()
    covariance = inverse @ inner @ inverse
    found["simulation"], found["total"] = {}, {}
    for signal, poi in study.pois.items():
        k = likelihood.index(poi)
        found["simulation"][signal] = float(np.sqrt(covariance[k, k]))
        found["total"][signal] = float(
            np.hypot(found["simulation"][signal], fits["without_mc_stat"].errors[poi])
        )
    if len(pois) == 1:
        found |= {name: next(iter(found[name].values())) for name in ("simulation", "total")}
    found["on_events"] = {
        poi: {"value": float(events.values[poi]), "error": float(events.errors[poi])} for poi in pois
    } | {"valid": events.valid}
    found["parameters"], found["events"] = len(likelihood.names), len(weight)
    return found


def closures(study: case.Study, ratios: Mapping[str, ProcessRatios]) -> dict[str, Any]:
    """Closure of the nominal ratios and of the energy scales in a few features, on the events of a study.

    Odd events are the target, even ones are reweighted.
    """
    reference = RatioTable.evaluate(mixture(study.nominal()), list(ratios.values()))
    even = reference.events.extra["entry"] % 2 == 0
    x = reference.events.with_features(CLOSURE_FEATURES).x[even].astype(float)
    found = []
    for process, tables in study.tables.items():
        log_ratio = reference.columns[process].astype(float)
        varied = {"nominal": log_ratio} | {
            name + suffix: log_ratio + reference.columns[column]
            for name in case.SHIFTS
            for (suffix, _), column in zip(case.SIDES, ratios[process].up_down_columns(name), strict=True)
        }
        for name, values in varied.items():
            target = tables[name].select(tables[name].extra["entry"] % 2 == 1).with_features(CLOSURE_FEATURES)
            found += closure(
                f"{process}, {name}",
                CLOSURE_FEATURES,
                (target.x.astype(float), target.weight),
                (x, reference.weight[even]),
                values[even],
            )
    check = check_closure(found)
    worst = max(found, key=lambda one: one.deviation)
    return {
        "passed": check.passed,
        "reason": check.reason,
        "comparisons": len(found),
        "largest_deviation": worst.deviation,
        "of": f"{worst.process}, {worst.feature}",
        "resolution": float(np.median([one.resolution for one in found])),
    }

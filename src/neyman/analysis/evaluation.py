"""Everything evaluated on the analysis half: ratio columns, yields, binned alternatives, closure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from neyman.analysis.config import Config, SystematicSection
from neyman.analysis.simulation import NAMING, NOMINAL, Simulation, make_hist
from neyman.diagnostics import (
    Check,
    Checks,
    Closure,
    check_closure,
    closure,
    ensemble_spread,
    ratio_weights,
)
from neyman.events import EventTable
from neyman.likelihood.spread import member_components
from neyman.ratios import ProcessRatios, RatioTable

Array = NDArray[np.float64]
CLASSIFIER, SINGLE = "classifier", "single"
_SIDES = ((NAMING.up, 1.0), (NAMING.down, -1.0))
_NORMALISATION = 0.05  # deviation of a mean ratio from 1 before normalisation


@dataclass(frozen=True)
class Prepared:
    """The analysis half with all that was learned.

    Parameters
    ----------
    reference
        Nominal events of all samples, weighted to the mixture, with all ratio columns; extra columns ``process``
        (position of the sample), ``fold`` and ``expected`` (weight of the event at the luminosity).
    yields
        Expected events of each sample, nominal and varied, in the signal region.
    observables
        For each binned alternative of the signal region its value for every reference event.
    edges
        Bin edges of the alternatives.
    histograms
        Their contents: alternative to sample to histogram with the systematic axis.
    closures
        Closure of every ratio, by variation, process and feature.
    checks
        Verdicts on the closure of all ratios together, and on the weights and members of each.
    """

    reference: RatioTable
    yields: dict[str, dict[str, float]]
    observables: dict[str, Array]
    edges: dict[str, Array]
    histograms: dict[str, dict[str, hist.Hist[Any]]]
    closures: dict[str, list[Closure]]
    checks: Checks


def prepare(config: Config, simulation: Simulation, ratios: Mapping[str, ProcessRatios]) -> Prepared:
    """Evaluate all ratios on the analysis half and fill the binned alternatives."""
    tables = {
        s.name: _labelled(simulation.analysis(s.name, NOMINAL), i) for i, s in enumerate(config.samples)
    }
    mixture = simulation.mixture(list(tables.values()))
    reference = RatioTable.evaluate(mixture, [ratios[s.name] for s in config.samples])
    nominal = {name: float(table.weight.sum()) for name, table in tables.items()}
    discriminant = Discriminant(config, ratios, nominal, reference)
    signal = mixture.extra["process"] == [s.name for s in config.samples].index(config.signal.name)
    observables = {
        CLASSIFIER: discriminant.combine(reference.columns),
        SINGLE: mixture.column(config.compare.observable).astype(np.float64),
    }
    edges = {
        CLASSIFIER: balanced_edges(
            observables[CLASSIFIER], mixture.extra["expected"], signal, config.compare.classifier_bins
        ),
        SINGLE: np.linspace(*config.compare.range, config.compare.bins + 1),
    }
    yields: dict[str, dict[str, float]] = {}
    histograms: dict[str, dict[str, hist.Hist[Any]]] = {CLASSIFIER: {}, SINGLE: {}}
    closures: dict[str, list[Closure]] = {NOMINAL: []}
    for i, sample in enumerate(config.samples):
        contents: dict[str, dict[str, tuple[Array, Array]]] = {CLASSIFIER: {}, SINGLE: {}}
        yields[sample.name] = {}
        for name, systematic, side in _variations(config):
            events = tables[sample.name]
            if systematic is not None:
                events = _labelled(simulation.analysis(sample.name, name), i)
            yields[sample.name][name] = float(events.weight.sum())
            contents[CLASSIFIER][name] = counts(discriminant(events), events.weight, edges[CLASSIFIER])
            single = events.column(config.compare.observable)
            contents[SINGLE][name] = counts(single, events.weight, edges[SINGLE])
            log_ratio = _varied(ratios[sample.name], reference, systematic, side)
            closures.setdefault(name, []).extend(_closure(sample.name, events, reference, log_ratio))
        for kind, content in contents.items():
            histograms[kind][sample.name] = make_hist(kind, edges[kind].tolist(), content)
    checks = _checks(ratios.values(), reference, closures, nominal)
    if config.training.spread:
        for process in ratios.values():
            reference = reference.with_columns(_spread(config, process, reference))
    return Prepared(reference, yields, observables, edges, histograms, closures, checks)


def _variations(config: Config) -> list[tuple[str, SystematicSection | None, int]]:
    """Nominal, then up and down of every systematic."""
    varied = [
        (s.name + suffix, s, side) for s in config.systematics for side, (suffix, _) in enumerate(_SIDES)
    ]
    return [(NOMINAL, None, 0), *varied]


def _varied(
    process: ProcessRatios, reference: RatioTable, systematic: SystematicSection | None, side: int
) -> Array:
    """Learned log-ratio of a variation to the reference density."""
    nominal = float64(reference.columns[process.name])
    if systematic is None:
        return nominal
    if systematic.name == process.conditioned_on:
        x = reference.events.with_features(process.nominal.features).x
        return float64(process.nominal(x, [_SIDES[side][1]]))
    return nominal + float64(reference.columns[process.up_down_columns(systematic.name)[side]])


def spread_columns(config: Config, sample: str) -> tuple[str, ...]:
    """Names of the columns in which the members of a process ratio differ."""
    return tuple(f"{sample}#{k}" for k in range(config.training.spread_components))


def _spread(config: Config, process: ProcessRatios, reference: RatioTable) -> dict[str, NDArray[np.float32]]:
    """Leading directions in which the normalised members differ, one standard deviation long."""
    members = _members(process, reference)
    components = member_components(
        members,
        reference.weight,
        kind="bootstrap" if config.training.nominal.bootstrap else "ensemble",
        n_components=config.training.spread_components,
    )
    names = spread_columns(config, process.name)
    return {n: c.astype(np.float32) for n, c in zip(names, components.columns(members), strict=True)}


def _members(process: ProcessRatios, reference: RatioTable) -> Array:
    """Nominal log-ratios of the members, each with a mean ratio of 1 over the reference."""
    members = process.members_at_nominal(reference.events).astype(np.float64)
    mean = np.average(np.exp(members), axis=1, weights=reference.weight)
    return np.asarray(members - np.log(mean)[:, None], dtype=np.float64)


def _checks(
    ratios: Iterable[ProcessRatios],
    reference: RatioTable,
    closures: Mapping[str, list[Closure]],
    expected: Mapping[str, float],
) -> Checks:
    """Verdicts on the learned ratios; `expected` is the number of data events of each process."""
    named = [
        one if variation == NOMINAL else replace(one, process=f"{one.process}, {variation}")
        for variation, found in closures.items()
        for one in found
    ]
    checks: list[Check] = [check_closure(named)]
    for process in ratios:
        log_ratio = float64(reference.columns[process.name])
        # The likelihood normalises: what is judged here is how much it has to.
        weights = ratio_weights(reference.weight, log_ratio, tolerance=_NORMALISATION)
        checks.append(replace(weights, name=f"{weights.name}, {process.name}"))
        if process.nominal.description.members > 1:
            spread = ensemble_spread(
                _members(process, reference), reference.weight, expected=expected[process.name]
            )
            checks.append(replace(spread, name=f"{spread.name}, {process.name}"))
    return Checks(checks)


def _closure(process: str, events: EventTable, reference: RatioTable, log_ratio: Array) -> list[Closure]:
    """Closure on two disjoint parts of the events: the odd fold as target, the even one reweighted."""
    odd, even = events.extra["fold"] == 1, reference.events.extra["fold"] == 0
    return closure(
        process,
        events.features,
        (float64(events.x[odd]), events.weight[odd]),
        (float64(reference.events.x[even]), reference.weight[even]),
        log_ratio[even],
    )


class Discriminant:
    r"""Nominal signal-to-background density ratio, :math:`\ln \nu_S r_S / \sum_B \nu_B r_B`.

    By the Neyman-Pearson lemma the most powerful single observable when the nuisance parameters are nominal.
    """

    def __init__(
        self,
        config: Config,
        ratios: Mapping[str, ProcessRatios],
        yields: Mapping[str, float],
        reference: RatioTable,
    ) -> None:
        self._ratios, self._signal = ratios, config.signal.name
        self._shift = {
            name: np.log(expected)
            - np.log(np.average(np.exp(float64(reference.columns[name])), weights=reference.weight))
            for name, expected in yields.items()
        }

    def __call__(self, events: EventTable) -> Array:
        """Evaluate on events, shape ``(n_events,)``."""
        return self.combine({name: self._ratios[name].at_nominal(events) for name in self._shift})

    def combine(self, log_ratios: Mapping[str, Any]) -> Array:
        """Combine nominal log-ratios that are already there."""
        parts = {name: float64(log_ratios[name]) + shift for name, shift in self._shift.items()}
        background = np.logaddexp.reduce(
            [part for name, part in parts.items() if name != self._signal], axis=0
        )
        return np.asarray(parts[self._signal] - background, dtype=np.float64)


def balanced_edges(d: Array, weight: Array, signal: NDArray[np.bool_], bins: int) -> Array:
    """Edges with equal contents of an equal mixture of signal and background; the ends are open."""
    w = np.abs(weight)  # a share of the events: signed weights would make it fall
    w = np.where(signal, w / w[signal].sum(), w / w[~signal].sum())
    order = np.argsort(d)
    cumulative = np.cumsum(w[order]) / w.sum()
    inner = np.interp(np.linspace(0.0, 1.0, bins + 1)[1:-1], cumulative, d[order])
    return np.unique(np.concatenate([[d.min() - 1.0], inner, [d.max() + 1.0]]))


def counts(values: Any, weight: Array, edges: Array) -> tuple[Array, Array]:
    """Sum of weights and of squared weights a bin; events outside go to the first and last bin."""
    inside = np.clip(np.asarray(values, dtype=np.float64), edges[0], np.nextafter(edges[-1], -np.inf))
    return (
        np.histogram(inside, edges, weights=weight)[0].astype(np.float64),
        np.histogram(inside, edges, weights=weight**2)[0].astype(np.float64),
    )


def _labelled(table: EventTable, index: int) -> EventTable:
    # The fold splits the events into two independent parts for the closure test.
    extra: dict[str, NDArray[Any]] = {
        "process": np.full(len(table), index, dtype=np.int8),
        "fold": (np.asarray(table.extra["entry"]) & 1).astype(np.int8),
        "expected": table.weight,
    }
    return replace(table, extra=extra)


def float64(values: Any) -> Array:
    """Return `values` as float64."""
    return np.asarray(values, dtype=np.float64)

"""`trust`: all checks of one density ratio on events that its training has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from neyman.analysis.config import Positive, Section
from neyman.diagnostics import (
    Check,
    Checks,
    Closure,
    calibration_curve,
    check_closure,
    closure,
    closure_slices,
    ensemble_spread,
    ratio_weights,
    support,
    two_sample,
)
from neyman.errors import InputError
from neyman.events import EventTable
from neyman.events.columns import require
from neyman.ratios import LRE, Ratio

Array = NDArray[np.float64]
SCORE = "log-ratio"
_WINDOWS, _FEW_VALUES = 3, 5
_MARGIN = 0.05  # of the trained range, at either end: not meant for use


class Tolerances(Section):
    """What is still accepted; the defaults are those of the checks in `neyman.diagnostics`.

    Attributes
    ----------
    closure
        Root-mean-square relative deviation of the bins of a feature.
    calibration
        Root-mean-square deviation of the predicted probability.
    two_sample
        Deviation of the AUC from 1/2.
    normalisation
        Deviation of the mean ratio over the reference from 1.
    spread
        Relative effect of the members' spread on a bin of the score.
    support
        Share of the numerator outside the reference.
    effective_events
        Least effective number of reweighted reference events.
    largest_weight
        Largest share of the total weight that one event carries.
    tail_index
        Largest index of the tail of the weights.
    """

    closure: Positive = 0.05
    calibration: Positive = 0.01
    two_sample: Positive = 0.01
    normalisation: Positive = 0.01
    spread: Positive = 0.01
    support: Positive = 0.01
    effective_events: Positive = 100.0
    largest_weight: Positive = Field(default=0.05, le=1.0)
    tail_index: Positive = 0.7


def trust(
    ratio: Ratio,
    numerator: EventTable,
    denominator: EventTable,
    *,
    seed: int,
    name: str = "numerator",
    slices: Sequence[str] = (),
    expected: float | None = None,
    tolerances: Tolerances | None = None,
    classifier: LRE | None = None,
) -> Checks:
    r"""Run all checks of a ratio: closure, calibration curve, two-sample test, weights, ensemble spread, support.

    Closure is that of every feature, for all events and in slices of the log-ratio and of the features in `slices`.
    The spread of the members is checked where there are two or more. If the ratio has a reference sample
    (:meth:`neyman.ratios.Ratio.normalised`), it is normalised over that, and its support is the one that counts.

    A ratio conditioned on nuisance parameters z is checked in windows of each of them: the inner 90% of the trained
    range is cut in three with equal numbers of numerator events (a parameter of up to five values has a window for
    each). The numerator events of a window keep their own z, and the reference events take these z in random turn, or
    are those in the same window where they have values of z themselves. The reweighted reference then has the same
    distribution as the numerator, whatever the width of the window. Spread and support are those of all events.

    Parameters
    ----------
    ratio
        The ratio.
    numerator, denominator
        Events of p and of q that took part neither in training nor in calibration; with a column for each nuisance
        parameter, which the denominator may lack.
    seed
        Seed of the two-sample test and of the turns of z.
    name
        Name of the numerator in the results.
    slices
        Features in slices of which the closure is checked.
    expected
        Number of data events that will be analysed; see :func:`neyman.diagnostics.ensemble_spread`.
    tolerances
        What is accepted.
    classifier
        Classifier of the two-sample test; a small one if not given.

    Raises
    ------
    InputError
        When a feature or parameter is missing, a class has too few events, or a log-ratio is not a usable number.
    """
    limits = tolerances or Tolerances()
    features = ratio.model.features
    unknown = [f for f in slices if f not in features]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a feature to slice in", expected=", ".join(features))
    for parameter in ratio.model.parameters:
        require(parameter, list(numerator.extra), f"events of {name}")
    rng = np.random.default_rng(seed)
    whole = _View.of(ratio, within(ratio, numerator), within(ratio, denominator), rng)
    closures: list[Closure] = []
    checks: list[Check] = []
    for view in list(_windows(ratio, whole, rng)) or [whole]:
        p, q, log_q = view.numerator, view.denominator, view.log_q
        process = f"{name}, {view.label}" if view.label else name
        by = [(SCORE, view.log_p, log_q)]
        by += [(f, p[0][:, features.index(f)], q[0][:, features.index(f)]) for f in slices]
        closures += closure(process, features, p, q, log_q)
        for quantity in by:
            closures += closure_slices(process, features, p, q, log_q, by=quantity)
        found: tuple[Check, ...] = (
            calibration_curve(view.log_p, p[1], log_q, q[1], tolerance=limits.calibration),
            two_sample(features, p, q, log_q, seed=seed, estimator=classifier, tolerance=limits.two_sample),
            ratio_weights(
                q[1],
                log_q,
                fewest=limits.effective_events,
                largest=limits.largest_weight,
                tail_index=limits.tail_index,
                tolerance=limits.normalisation,
            ),
        )
        checks += [replace(one, name=f"{one.name}, {view.label}") if view.label else one for one in found]
    p, q = whole.numerator, whole.denominator
    if ratio.model.description.members > 1:
        members = ratio.members(q[0], whole.z)
        limit = (1.0, limits.spread)
        checks.append(ensemble_spread(members, q[1], score=whole.log_q, expected=expected, tolerance=limit))
    if ratio.reference is not None:
        whole = _View.of(ratio, whole.events[0], within(ratio, ratio.reference), rng)
    checks.append(
        support(
            features, whole.numerator, whole.denominator, whole.log_p, whole.log_q, tolerance=limits.support
        )
    )
    return Checks([check_closure(closures, tolerance=limits.closure), *checks])


def within(ratio: Ratio, events: EventTable) -> EventTable:
    """Return the events whose nuisance parameters, where they have any, are in the trained range."""
    inside = np.ones(len(events), dtype=bool)
    for name, (low, high) in zip(
        ratio.model.parameters, ratio.model.description.parameter_range, strict=True
    ):
        if name in events.extra:
            inside &= (events.extra[name] >= low) & (events.extra[name] <= high)
    return events if inside.all() else events.select(inside)


@dataclass(frozen=True)
class _View:
    """Events to compare: features and weights of both classes, log-ratios, and the z of the denominator."""

    label: str
    events: tuple[EventTable, EventTable]
    log_p: Array
    log_q: Array
    z: Array | None

    @property
    def numerator(self) -> tuple[Array, Array]:
        """Features and weights."""
        return self.events[0].x.astype(np.float64), self.events[0].weight

    @property
    def denominator(self) -> tuple[Array, Array]:
        """Features and weights."""
        return self.events[1].x.astype(np.float64), self.events[1].weight

    @classmethod
    def of(
        cls,
        ratio: Ratio,
        p: EventTable,
        q: EventTable,
        rng: np.random.Generator,
        label: str = "",
        norm: float = 0.0,
    ) -> _View:
        """Evaluate the ratio on both classes; the denominator has z of its own or takes the numerator's in turn."""
        p, q = (table.with_features(ratio.model.features) for table in (p, q))
        of_p = _parameters(ratio, p)

        def evaluate(table: EventTable) -> tuple[Array | None, Array]:
            z = _parameters(ratio, table)
            if z is None and of_p is not None:
                turns = rng.permutation(max(len(of_p), len(table)))[: len(table)] % len(of_p)
                z = of_p[turns]
            return z, ratio.model(table.x, z).astype(np.float64)

        (_, log_p), (z, log_q) = evaluate(p), evaluate(q)
        if ratio.reference is not None:
            weight = ratio.reference.weight
            _, log_r = evaluate(ratio.reference.with_features(ratio.model.features))
            norm = float(np.log(weight @ np.exp(log_r) / weight.sum()))
        return cls(label, (p, q), log_p - norm, log_q - norm, z)


def _parameters(ratio: Ratio, table: EventTable) -> Array | None:
    """The nuisance parameters of each event, ``(n_events, n_parameters)``; None where it has not all of them."""
    names = ratio.model.parameters
    if not names or any(name not in table.extra for name in names):
        return None
    return np.stack([table.extra[name] for name in names], axis=1).astype(np.float64)


def _windows(ratio: Ratio, whole: _View, rng: np.random.Generator) -> Iterator[_View]:
    for name, (low, high) in zip(
        ratio.model.parameters, ratio.model.description.parameter_range, strict=True
    ):
        z = whole.events[0].extra[name]
        values = np.unique(z)
        if len(values) <= _FEW_VALUES:
            spans = [(value, value) for value in values]
        else:
            margin = _MARGIN * (high - low)
            inner = z[(z >= low + margin) & (z <= high - margin)]
            if not len(inner):
                raise InputError(
                    f"no event to check lies in the inner 90% of the trained range of {name!r}",
                    expected=f"values between {low + margin:.4g} and {high - margin:.4g}",
                )
            spans = list(pairwise(np.quantile(inner, np.linspace(0.0, 1.0, _WINDOWS + 1))))
        for first, last in spans:
            label = f"{name} = {first:.3g}" if first == last else f"{name} from {first:.3g} to {last:.3g}"
            p, q = (_between(table, name, first, last) for table in whole.events)
            windowed = ratio
            if ratio.reference is not None:
                windowed = ratio.normalised(_between(ratio.reference, name, first, last))
            # Where both have z of their own the ratio contains that of the shares in the window.
            shares = [
                float(part.weight.sum() / table.weight.sum())
                for part, table in zip((p, q), whole.events, strict=True)
            ]
            norm = float(np.log(shares[0] / shares[1])) if name in q.extra else 0.0
            yield _View.of(windowed, p, q, rng, label, norm)


def _between(table: EventTable, name: str, first: float, last: float) -> EventTable:
    """The events of a window; all of a table without the parameter."""
    if name not in table.extra:
        return table
    return table.select((table.extra[name] >= first) & (table.extra[name] <= last))

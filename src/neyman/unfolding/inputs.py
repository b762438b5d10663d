"""What is unfolded: `Inputs`, checked once, and the `Replica`s of its weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import ConfigError, InputError, NeymanWarning, TrainingError
from neyman.events import EventTable
from neyman.events.draws import uniform
from neyman.events.support import outside

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
OUTSIDE = 0.01  # share of the data beyond the simulation that is worth a warning
_POISSON = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 12)]))


@dataclass(frozen=True)
class WeightSet:
    """A systematic variation of the simulation that changes weights alone.

    Parameters
    ----------
    weight
        Factors on the weights of both levels, ``(n_events,)``: another generator model, scales, parton densities.
    detector
        Factors on the weights at detector level alone, ``(n_events,)``: an efficiency or its scale factor.
    """

    weight: ArrayLike | None = None
    detector: ArrayLike | None = None


@dataclass(frozen=True)
class Bootstrap:
    """How many Poisson bootstrap replicas are unfolded.

    Parameters
    ----------
    data, simulation
        Number of replicas in which the events of the data, and those of the simulation and the background, count
        Poisson(1) times. An event with an integer column ``entry`` is drawn by it, so that several unfoldings of the
        same events share their replicas.
    ensemble
        Members of each replica. All replicas start from the same networks and see the events in the same order as the
        nominal unfolding, so that what training adds cancels in their covariance.
    """

    data: int = 0
    simulation: int = 0
    ensemble: int = 1

    def __post_init__(self) -> None:
        for name in ("data", "simulation"):
            n = getattr(self, name)
            if n < 0 or n == 1:
                raise ConfigError(f"{n} bootstrap replicas of the {name}", expected="0, or at least 2")
        if self.ensemble < 1:
            raise ConfigError(f"{self.ensemble} members of a replica", expected="at least 1")


@dataclass(frozen=True)
class Replica:
    """One set of weights that is unfolded.

    Parameters
    ----------
    source
        ``nominal``, ``data``, ``simulation``, or the name of a systematic variation.
    index
        Number of the replica; of a systematic variation 0 is up and 1 is down.
    """

    source: str
    index: int = 0


NOMINAL = Replica("nominal")


@dataclass(frozen=True, eq=False)
class Inputs:
    r"""Data and simulation of an unfolding.

    Parameters
    ----------
    data
        Observed events, then those of the background with negative weights.
    observed
        How many of them are observed.
    reconstructed, truth
        The simulation at its two levels.
    detected, generated
        Which events have the level, ``(n_events,)``.
    factor
        Detector factor f of every event, 0 where it is not detected: the event is seen with weight f w.
    systematics
        Weight sets by name, one or two (up, down) each.
    seed
        Seed of the bootstrap.
    """

    data: EventTable
    observed: int
    reconstructed: EventTable
    truth: EventTable
    detected: Mask
    generated: Mask
    factor: Array
    systematics: Mapping[str, tuple[WeightSet, ...]]
    seed: int

    @property
    def weight(self) -> Array:
        """Weights of the simulation, ``(n_events,)``."""
        return self.truth.weight

    def weights(self, replica: Replica) -> tuple[Array, Array, Array]:
        """Return the weights of the data, those of the simulation and its detector factors in a replica."""
        data, weight, factor = self.data.weight, self.weight, self.factor
        n = self.observed
        if replica.source == "data":
            data = np.concatenate(
                [data[:n] * self._counts(replica, "data", self.data, slice(0, n)), data[n:]]
            )
        elif replica.source == "simulation":
            weight = weight * self._counts(replica, "simulation", self.truth, slice(None))
            own = self._counts(replica, "background", self.data, slice(n, None))
            data = np.concatenate([data[:n], data[n:] * own])
        elif replica.source != "nominal":
            varied = self.systematics[replica.source][replica.index]
            if varied.weight is not None:
                weight = weight * np.asarray(varied.weight, dtype=np.float64)
            if varied.detector is not None:
                factor = factor * np.asarray(varied.detector, dtype=np.float64)
        return data, weight, factor

    def _counts(self, replica: Replica, which: str, table: EventTable, part: slice) -> NDArray[np.int64]:
        """Poisson(1) numbers, functions of the event and of the number of the replica."""
        ids = np.asarray(table.extra.get("entry", np.arange(len(table))))[part]
        return poisson(which, self.seed, replica.index, ids)

    def digest(self) -> str:
        """Digest of all events and weights."""
        found = hashlib.sha256(repr((self.observed, self.seed)).encode())
        named: list[tuple[object, Any]] = [
            (("systematic", name, k, level), array)
            for name in sorted(self.systematics)
            for k, one in enumerate(self.systematics[name])
            for level, array in (("weight", one.weight), ("detector", one.detector))
        ]
        for table in (self.data, self.reconstructed, self.truth):
            named += [
                (table.features, table.x),
                ("weight", table.weight),
                ("entry", table.extra.get("entry")),
            ]
        named += [("detected", self.detected), ("generated", self.generated), ("factor", self.factor)]
        for name, values in named:
            found.update(repr((name, values is None)).encode())
            if values is not None:
                found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


def poisson(which: str, seed: int, index: int, ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return how often the events count in a replica: Poisson(1) numbers that belong to their ids."""
    return np.searchsorted(_POISSON, uniform(("bootstrap", which, seed, index), ids.astype(np.int64)))


def prepare(
    data: EventTable,
    reconstructed: EventTable,
    truth: EventTable,
    *,
    passes_reconstruction: ArrayLike | None,
    passes_truth: ArrayLike | None,
    background: EventTable | None,
    detector_factor: ArrayLike | None,
    systematics: Mapping[str, WeightSet | ArrayLike | Sequence[WeightSet | ArrayLike]] | None,
    seed: int,
) -> Inputs:
    """Check everything that is unfolded and put it together.

    Raises
    ------
    InputError
        When the levels have different events or weights, features differ, no event passes both levels, or an array
        has another shape or is not finite.
    TrainingError
        When the data or the simulation have no positive total weight.
    """
    tables = {"data": data, "reconstructed": reconstructed, "truth": truth}
    for name, table in (tables if background is None else tables | {"background": background}).items():
        if not isinstance(table, EventTable):
            raise InputError(
                f"{name} is a {type(table).__name__}",
                expected="an EventTable",
                fix="EventTable.from_arrays takes dictionaries and data frames",
            )
    if len(reconstructed) != len(truth):
        raise InputError(
            f"the simulation has {len(reconstructed)} events at detector and {len(truth)} at particle level",
            expected="the same events in the same order, with masks for those that fail a level",
        )
    n = len(truth)
    detected, generated = (
        _mask(given, n, name)
        for given, name in ((passes_reconstruction, "reconstruction"), (passes_truth, "truth"))
    )
    _same_features(data, reconstructed, "the data")
    if not np.allclose(reconstructed.weight, truth.weight, rtol=1e-6, atol=0.0):
        first = int(np.argmax(~np.isclose(reconstructed.weight, truth.weight, rtol=1e-6, atol=0.0)))
        raise InputError(
            f"event {first} has the weight {reconstructed.weight[first]:g} at detector level and "
            f"{truth.weight[first]:g} at particle level",
            expected="one weight an event",
            fix="give scale factors of the detector level as detector_factor",
        )
    ids = [table.extra.get("entry") for table in (reconstructed, truth)]
    if ids[0] is not None and ids[1] is not None and not np.array_equal(ids[0], ids[1]):
        first = int(np.argmax(ids[0] != ids[1]))
        raise InputError(
            f"row {first} is event {ids[0][first]} at detector and event {ids[1][first]} at particle level",
            where="column 'entry'",
            expected="the same events in the same order",
        )
    if not (detected & generated).any():
        raise InputError(
            "no simulated event passes both reconstruction and truth",
            fix="check the masks, and that both levels are in the same order",
        )
    factor = _factors(detector_factor, n, "detector_factor")
    if systematics is not None and not isinstance(systematics, Mapping):
        raise InputError(f"systematics are a {type(systematics).__name__}", expected="weight sets by name")
    observed = len(data)
    if background is not None:
        _same_features(background, reconstructed, "the background")
        data = EventTable.concat([_bare(data), _bare(background.scaled(-1.0))])
    varied = {name: _weight_sets(name, given, n) for name, given in (systematics or {}).items()}
    inputs = Inputs(
        data,
        observed,
        reconstructed,
        truth,
        detected,
        generated,
        np.where(detected, factor, 0.0),
        varied,
        seed,
    )
    for name, total in (
        ("the data", data.weight.sum()),
        ("the detected simulation", (inputs.weight * inputs.factor).sum()),
        ("the simulation at particle level", inputs.weight[generated].sum()),
    ):
        if not total > 0.0:
            raise TrainingError(
                f"{name} have events whose weights sum to {total:g}".replace(
                    "simulation have", "simulation has"
                ),
                expected="a positive sum of weights",
            )
    return inputs


@dataclass(frozen=True)
class Support:
    """How much of the data lies where the simulation has no events; no weight of the simulation stands for it.

    Parameters
    ----------
    features
        Share of the data outside the range of the detected simulation, by feature.
    beyond
        Share of the data whose log-ratio of the first step exceeds `threshold`; NaN before it is known.
    threshold
        Log-ratio above which the simulation has less than one effective event.
    """

    features: Mapping[str, float]
    beyond: float = float("nan")
    threshold: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"features": dict(self.features), "beyond": self.beyond, "threshold": self.threshold}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Support:
        """Read what :meth:`to_dict` gives; None stands for what is not known."""
        beyond, threshold = (
            float("nan") if data[name] is None else float(data[name]) for name in ("beyond", "threshold")
        )
        return cls({str(name): float(share) for name, share in data["features"].items()}, beyond, threshold)


def support(inputs: Inputs) -> Support:
    """Find the share of the data outside the range of the simulation in each feature.

    Warns
    -----
    NeymanWarning
        When it is more than 1% in a feature.
    """
    simulation = inputs.reconstructed.x[inputs.detected]
    n = inputs.observed
    share = np.add(*outside(inputs.data.x[:n], inputs.data.weight[:n], simulation))
    features = inputs.data.features
    worst = int(np.argmax(share))
    if share[worst] > OUTSIDE:
        low, high = simulation[:, worst].min(), simulation[:, worst].max()
        warnings.warn(
            f"{share[worst]:.1%} of the data lie outside the range of the simulation in {features[worst]!r} "
            f"([{low:.4g}, {high:.4g}]): no simulated event can stand for them, and the events at the edge get their "
            "weight",
            NeymanWarning,
            stacklevel=4,
        )
    return Support(dict(zip(features, share.tolist(), strict=True)))


def _mask(given: ArrayLike | None, n: int, level: str) -> Mask:
    mask = np.ones(n, dtype=np.bool_) if given is None else np.asarray(given)
    if mask.dtype != np.bool_ or mask.shape != (n,):
        raise InputError(
            f"passes_{level} is {mask.dtype} of shape {mask.shape}", expected=f"bool of shape ({n},)"
        )
    return mask


def _same_features(table: EventTable, reconstructed: EventTable, name: str) -> None:
    if table.features != reconstructed.features:
        raise InputError(
            f"{name} have the features {', '.join(table.features)}".replace(
                "background have", "background has"
            ),
            expected=f"those of the reconstructed simulation: {', '.join(reconstructed.features)}",
        )


def _bare(table: EventTable) -> EventTable:
    kept = {"entry": table.extra["entry"]} if "entry" in table.extra else {"entry": np.arange(len(table))}
    return EventTable(table.features, table.x, table.weight, kept)


def _factors(given: ArrayLike | None, n: int, name: str) -> Array:
    factors = np.ones(n) if given is None else np.asarray(given, dtype=np.float64)
    if factors.shape != (n,):
        raise InputError(f"{name} has shape {factors.shape}", expected=f"({n},), one factor an event")
    if not np.isfinite(factors).all():
        first = int(np.argmin(np.isfinite(factors)))
        raise InputError(f"{name} is {factors[first]} in event {first}", expected="finite factors")
    if name.startswith(("detector_factor", "the detector factor")) and (factors < 0.0).any():
        first = int(np.argmax(factors < 0.0))
        raise InputError(f"{name} is {factors[first]:g} in event {first}", expected="0 or more")
    return factors


def _weight_sets(
    name: str, given: WeightSet | ArrayLike | Sequence[WeightSet | ArrayLike], n: int
) -> tuple[WeightSet, ...]:
    if name in ("nominal", "data", "simulation", "training"):
        raise ConfigError(f"a systematic variation cannot be called {name!r}", fix="rename it")
    pair = given if isinstance(given, list | tuple) and len(given) in (1, 2) else (given,)
    sides: tuple[Literal["up", "down"], ...] = ("up", "down")
    sets = []
    for side, one in zip(sides, pair, strict=False):
        own = one if isinstance(one, WeightSet) else WeightSet(weight=one)
        if own.weight is None and own.detector is None:
            raise ConfigError(f"the systematic variation {name!r} ({side}) changes nothing")
        arrays = {
            level: _factors(array, n, f"the {level} factor of {name!r} ({side})")
            for level, array in (("weight", own.weight), ("detector", own.detector))
            if array is not None
        }
        sets.append(WeightSet(**arrays))
    return tuple(sets)

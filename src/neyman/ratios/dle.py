"""`DLE`: densities by normalising flows, and their ratios as differences of log-densities."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError, TrainingError
from neyman.events import EventTable
from neyman.files import digest
from neyman.networks import NSF, Aggregate, Architecture, Description, Model, Part, StackedFlow
from neyman.ratios.preparation import (
    bootstrapped,
    check_features,
    columns,
    fingerprint,
    parameter_scaling,
    sample,
    split,
)
from neyman.ratios.ratio import Ratio
from neyman.training import Checkpoint, History, Settings, train
from neyman.training.density import DensityObjective

Array = NDArray[np.float32]
_SPIKE = 0.01  # of the events at one and the same value
_FEW = 10  # equal values that a small sample may have by chance


@dataclass(frozen=True)
class Density:
    r"""A trained density :math:`\ln p(x|z)`: an ensemble, and how its training went.

    Parameters
    ----------
    model
        The ensemble.
    history
        Losses during training.
    """

    model: Model
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        if self.model.description.kind != "log_density":
            raise InputError(f"this model is a {self.model.description.kind}, not a log_density")

    def members(self, events: EventTable | ArrayLike, z: ArrayLike | None = None) -> Array:
        """Return every member's log-density in units of 1 / (product of the features' units), shape
        ``(n_members, n_events)``."""
        return self.model.members(_x(self.model, events), z)

    def log_prob(
        self,
        events: EventTable | ArrayLike,
        z: ArrayLike | None = None,
        *,
        aggregate: Aggregate | None = None,
    ) -> Array:
        """Return the ensemble's log-density, shape ``(n_events,)``.

        ``mean_ratio`` averages the densities and is normalised like every member; the mean of the log-densities,
        which is the default, integrates to a little less than 1.

        Parameters
        ----------
        events
            Events, or their features ``(n_events, n_features)``.
        z
            Nuisance parameters, ``(n_parameters,)`` or ``(n_events, n_parameters)``.
        aggregate
            How members are combined; as chosen for the model if not given.

        Raises
        ------
        InputError
            For wrong shapes, parameters outside the trained range, and outputs that are not finite.
        """
        return self.model(_x(self.model, events), z, aggregate=aggregate)

    def sample(self, n: int, z: ArrayLike | None = None, *, seed: int) -> Array:
        """Draw events from the mean of the members' densities: the members take turns.

        Parameters
        ----------
        n
            Number of events.
        z
            Nuisance parameters, ``(n_parameters,)`` or ``(n, n_parameters)``.
        seed
            Seed of the draw.

        Returns
        -------
        float32 array ``(n, n_features)``.

        Raises
        ------
        InputError
            When the density is not a flow alone, or z has a wrong shape or is outside the trained range.
        """
        flow = self.model.stacks[0]
        if len(self.model.stacks) != 1 or not isinstance(flow, StackedFlow):
            raise InputError(
                "only a flow can be sampled, and this density has a residual classifier",
                fix="sample the flow, and weight its events by the ratio of the densities",
            )
        turns = -(-n // flow.members)
        context = _context(self.model, z, n)[np.arange(turns * flow.members) % max(n, 1)]
        context = context.reshape(turns, flow.members, flow.context).swapaxes(0, 1)
        events = flow.sample(torch.from_numpy(np.ascontiguousarray(context)), seed=seed)
        return np.asarray(events.transpose(0, 1).reshape(-1, flow.features)[:n].cpu().numpy())

    def over(self, reference: Density) -> DensityRatio:
        """Return the ratio of this density to another one of the same features.

        The reference has as many members as this density, or one. A nuisance parameter that both know is the same.

        Raises
        ------
        TrainingError
            When features or the numbers of members differ.
        """
        own, other = self.model.description, reference.model.description
        if own.features != other.features:
            raise TrainingError(
                "the two densities have different features",
                where=", ".join(other.features),
                expected=", ".join(own.features),
            )
        if own.members != other.members and 1 not in (own.members, other.members):
            raise TrainingError(
                f"the reference has {other.members} members", expected=f"{own.members} as the numerator, or 1"
            )
        ranges = dict(zip(own.parameters, own.parameter_range, strict=True))
        for name, (low, high) in zip(other.parameters, other.parameter_range, strict=True):
            known = ranges.get(name, (low, high))
            ranges[name] = (max(low, known[0]), min(high, known[1]))
        description = Description(
            features=own.features,
            parameters=tuple(ranges),
            parameter_range=tuple(ranges.values()),
            parts=(*own.parts, *_signed(other.parts, -1)),
            kind="log_ratio",
            aggregate=own.aggregate,
            notes=own.notes,
        )
        model = Model([*self.model.stacks, *reference.model.stacks], description)
        return DensityRatio(model, self.history, reference_history=reference.history)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ensemble to one safetensors file."""
        return self.model.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an ensemble; the history of its training is not part of the file."""
        return cls(Model.load(path))


@dataclass(frozen=True)
class DensityRatio(Ratio):
    r"""The ratio of two trained densities, :math:`\ln p(x|z) - \ln q(x)`.

    Parameters
    ----------
    reference_history
        Losses during the training of the denominator; `history` is that of the numerator.
    """

    reference_history: History = field(default_factory=History)

    @property
    def numerator(self) -> Density:
        """The density of the numerator."""
        return Density(_side(self.model, 1), self.history)

    @property
    def denominator(self) -> Density:
        """The density of the denominator."""
        return Density(_side(self.model, -1), self.reference_history)

    def log_prob(
        self,
        events: EventTable | ArrayLike,
        z: ArrayLike | None = None,
        *,
        aggregate: Aggregate | None = None,
    ) -> Array:
        """Return the log-density of the numerator, as :meth:`Density.log_prob`."""
        return self.numerator.log_prob(events, z, aggregate=aggregate)


@dataclass(frozen=True)
class DLE:
    r"""Direct likelihood estimator: an ensemble of flows :math:`p(x|z)`, trained by maximum likelihood.

    One density a process, and one of the reference for ratios that take the place of those of :class:`LRE`; the
    reference is trained once and given to the fits of all processes (arXiv:2503.07962, section III A).

    Parameters
    ----------
    network
        Architecture of every member.
    ensemble
        Number of members, trained in one pass. Each has its own initial weights, batch order and best state.
    settings
        Steps, optimizer, rates, and the held-out fraction.
    bootstrap
        Whether every member sees the training events with Poisson(1) bootstrap weights of its own.

    Examples
    --------
    >>> import neyman as ny
    >>> rng = np.random.default_rng(1)
    >>> p, q = (ny.EventTable.from_arrays({"x": rng.normal(m, 1, 2000)}, features=("x",)) for m in (0.5, -0.5))
    >>> dle = DLE(NSF(transforms=1, hidden=(8,)), settings=Settings(steps=100, batch_size=512, learning_rate=1e-2))
    >>> ratio = dle.fit(p, q, seed=1)
    >>> bool(abs(ratio.log_ratio([[1.0]])[0] - 1.0) < 0.3)  # exactly x for these two Gaussians
    True
    >>> bool(abs(ratio.log_prob([[0.5]])[0] + 0.919) < 0.2)  # ln N(0; 0, 1)
    True
    """

    network: NSF = field(default_factory=NSF)
    ensemble: int = 1
    settings: Settings = field(default_factory=Settings)
    bootstrap: bool = False

    @overload
    def fit(
        self,
        numerator: EventTable,
        denominator: None = None,
        *,
        parameters: tuple[str, ...] = ...,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = ...,
        notes: dict[str, str] | None = ...,
        progress: Callable[[int], None] | None = ...,
    ) -> Density: ...
    @overload
    def fit(
        self,
        numerator: EventTable,
        denominator: EventTable | Density,
        *,
        parameters: tuple[str, ...] = ...,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = ...,
        notes: dict[str, str] | None = ...,
        progress: Callable[[int], None] | None = ...,
    ) -> DensityRatio: ...
    def fit(
        self,
        numerator: EventTable,
        denominator: EventTable | Density | None = None,
        *,
        parameters: tuple[str, ...] = (),
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        notes: dict[str, str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Density | DensityRatio:
        """Train the ensemble.

        Parameters
        ----------
        numerator
            Events of p, with a column for each of `parameters`, drawn from any density over the range of use and
            beyond.
        denominator
            Nothing: the density of the numerator is the result. A trained density: the result is the ratio to it.
            Events of q with the same features: a flow without nuisance parameters is trained on them as well.
        parameters
            Names of the nuisance-parameter columns that become network inputs.
        seed
            Seed of initialisation, batch order and held-out split.
        checkpoint
            File that keeps the state of the training; the same call goes on from it after an interruption. For one
            flow at a time: not with a denominator that is to be trained too.
        notes
            Text kept in the model file.
        progress
            Called with the number of finished steps.

        Raises
        ------
        TrainingError
            When a feature has no density (a discrete one, or a spike of equal values) or is constant, a parameter
            is constant, there are no events or no positive total weight, the features of the two sides differ, or
            the loss becomes non-finite.

        Warns
        -----
        NeymanWarning
            When more than 1% of the numerator lies outside the range of the denominator's events in a feature.
        """
        events = isinstance(denominator, EventTable)
        if events and checkpoint is not None:
            raise TrainingError(
                "one checkpoint cannot keep two trainings",
                fix="fit the denominator first, with a checkpoint of its own, and give its density",
            )
        if isinstance(denominator, EventTable):
            check_features(numerator, denominator)
        density = self._train(numerator, parameters, seed, notes, checkpoint, progress)
        if denominator is None:
            return density
        if isinstance(denominator, EventTable):
            denominator = self._train(
                denominator, (), seed, notes, None, later(progress, self.settings.steps)
            )
        return density.over(denominator)

    def _train(
        self,
        table: EventTable,
        parameters: tuple[str, ...],
        seed: int,
        notes: dict[str, str] | None,
        checkpoint: str | os.PathLike[str] | None,
        progress: Callable[[int], None] | None,
    ) -> Density:
        settings, device = self.settings, self.settings.torch_device
        if not len(table):
            raise TrainingError("there are no events to learn a density from")
        halves = split(table, settings.validation_fraction, seed=seed)
        training, validation = (sample(half, parameters) for half in halves)
        ranges, z_scaling = parameter_scaling(training, parameters)
        scaling = self.network.scaling(training.x, table.features)
        _check_continuous(table)
        inputs = (*table.features, *parameters)
        network = self.network.build(
            len(inputs),
            context=len(parameters),
            members=self.ensemble,
            seed=seed,
            scaling=columns(scaling, z_scaling),
        )
        kept = None
        if checkpoint is not None:
            kept = Checkpoint(Path(checkpoint), digest(repr(self), seed, fingerprint(training, validation)))
        if self.bootstrap:
            training = bootstrapped(halves[0], training, self.ensemble, seed=seed)
        objective = DensityObjective(
            training,
            validation,
            members=self.ensemble,
            batch_size=settings.batch_size,
            seed=seed,
            features=inputs,
            device=device,
        )
        history = train(network.to(device), objective, settings, progress=progress, checkpoint=kept)
        check_trained(history)
        description = Description(
            features=table.features,
            parameters=parameters,
            parameter_range=ranges,
            parts=(build_part(self.network, self.ensemble, parameters),),
            kind="log_density",
            notes=notes or {},
        )
        return Density(Model([network.cpu()], description), history)


def _x(model: Model, events: EventTable | ArrayLike) -> ArrayLike:
    return events.with_features(model.features).x if isinstance(events, EventTable) else events


def _context(model: Model, z: ArrayLike | None, n: int) -> Array:
    """Nuisance parameters of n events, ``(n, n_parameters)``."""
    names = model.parameters
    values = np.zeros(0, dtype=np.float32) if z is None else np.asarray(z, dtype=np.float32)
    if values.shape not in ((len(names),), (n, len(names))):
        raise InputError(
            f"nuisance parameters have shape {None if z is None else values.shape}",
            expected=f"({len(names)},) or ({n}, {len(names)}) for {', '.join(names) or 'no parameters'}",
        )
    values = np.broadcast_to(values, (n, len(names)))
    for name, (low, high), column in zip(names, model.description.parameter_range, values.T, strict=True):
        slack = 1e-4 * (high - low)
        if n and not (low - slack <= column.min() and column.max() <= high + slack):
            raise InputError(
                f"nuisance parameter {name!r} goes from {column.min():g} to {column.max():g}",
                expected=f"inside the trained range, {low:g} to {high:g}",
            )
    return values


def _signed(parts: tuple[Part, ...], sign: int) -> list[Part]:
    return [part.model_copy(update={"sign": sign * part.sign}) for part in parts]


def _side(model: Model, sign: int) -> Model:
    """Return the density that the parts of one sign in a ratio make up."""
    whole = model.description
    chosen = [k for k, part in enumerate(whole.parts) if part.sign == sign]
    parts = [whole.parts[k] for k in chosen]
    ranges = {
        name: limits
        for name, limits in zip(whole.parameters, whole.parameter_range, strict=True)
        if any(name in part.parameters for part in parts)
    }
    description = whole.model_copy(
        update={
            "parts": tuple(_signed(tuple(parts), sign)),
            "parameters": tuple(ranges),
            "parameter_range": tuple(ranges.values()),
            "kind": "log_density",
            "calibration": None,
        }
    )
    return Model([model.stacks[k] for k in chosen], description)


def _check_continuous(table: EventTable) -> None:
    for name, column in zip(table.features, table.x.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        most = int(np.argmax(counts))
        if counts[most] > max(_FEW, _SPIKE * len(table)):
            raise TrainingError(
                f"feature {name!r} has no density: {100.0 * counts[most] / len(table):.1f}% of the events have "
                f"exactly the value {values[most]:g}",
                expected="a continuous feature, neither a count nor one with a fill value",
                fix="remove it from the features, or use LRE",
            )


def build_part(
    network: Architecture, members: int, parameters: tuple[str, ...], link: str = "identity"
) -> Part:
    """Return the description of a stack with one output."""
    return Part.model_validate(
        {"network": network, "members": members, "parameters": parameters, "link": link}
    )


def check_trained(history: History) -> None:
    """Raise :class:`TrainingError` when a member never had a finite held-out loss."""
    if 0 in history.best_step:
        raise TrainingError(
            f"the held-out loss of member {history.best_step.index(0)} was never finite",
            fix="lower learning_rate, or look for extreme features or weights",
        )


def later(progress: Callable[[int], None] | None, done: int) -> Callable[[int], None] | None:
    """Return the `progress` of a training that comes after `done` steps of others."""
    return None if progress is None else lambda step: progress(done + step)

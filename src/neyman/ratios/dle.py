"""`DLE`: densities by normalising flows, and their ratios as differences of log-densities."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from neyman.errors import ConfigError, TrainingError
from neyman.events import EventTable
from neyman.networks import NSF, Description, Model
from neyman.ratios import stacks
from neyman.ratios.density import Density, DensityRatio
from neyman.ratios.preparation import bootstrapped, check_features, names, sample, split
from neyman.training import DensityObjective, Settings, warm_start

_SPIKE = 0.01  # of the events at one and the same value
_FEW = 10  # equal values that a small sample may have by chance


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

    def __post_init__(self) -> None:
        if not isinstance(self.network, NSF):
            raise ConfigError(
                f"{type(self.network).__name__} is not a density", expected="a flow, such as NSF(...)"
            )

    @overload
    def fit(
        self,
        numerator: EventTable,
        denominator: None = None,
        *,
        parameters: tuple[str, ...] = ...,
        seed: int,
        start: Density | None = ...,
        freeze: Sequence[str] = ...,
        checkpoint: str | os.PathLike[str] | None = ...,
        notes: dict[str, str] | None = ...,
        members: range | None = ...,
        client: Any = ...,
        group: int = ...,
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
        start: Density | None = ...,
        freeze: Sequence[str] = ...,
        checkpoint: str | os.PathLike[str] | None = ...,
        notes: dict[str, str] | None = ...,
        members: range | None = ...,
        client: Any = ...,
        group: int = ...,
        progress: Callable[[int], None] | None = ...,
    ) -> DensityRatio: ...
    def fit(
        self,
        numerator: EventTable,
        denominator: EventTable | Density | None = None,
        *,
        parameters: tuple[str, ...] = (),
        seed: int,
        start: Density | None = None,
        freeze: Sequence[str] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        notes: dict[str, str] | None = None,
        members: range | None = None,
        client: Any = None,
        group: int = 1,
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
        start
            A trained flow of the same architecture, features and parameters from whose weights (and input scaling)
            the members of the numerator start; with one member it is the start of all.
        freeze
            Beginnings of names of its parameters that stay as they are, such as ``transforms.0``.
        checkpoint
            File that keeps the state of the training; the same call goes on from it after an interruption. For one
            flow at a time: not with a denominator that is to be trained too.
        notes
            Text kept in the model file.
        members
            Numbers of the members that are trained, all by default: the result is that part of the ensemble, the same
            networks as if all were trained, and :meth:`Density.join` makes the whole of the parts.
        client
            A ``dask.distributed.Client`` (:func:`neyman.cluster.connect`), over whose workers groups of members are
            spread. Networks depend on the size of the groups by the rounding of sums alone, and on nothing else.
        group
            Members that a worker trains together; one is best on processors, more on a GPU.
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
        parameters, freeze = names(parameters), names(freeze)
        if not isinstance(denominator, EventTable | Density | None):
            raise TrainingError(
                f"the denominator is a {type(denominator).__name__}", expected="events, a Density, or nothing"
            )
        events = isinstance(denominator, EventTable)
        if events and checkpoint is not None:
            raise TrainingError(
                "one checkpoint cannot keep two trainings",
                fix="fit the denominator first, with a checkpoint of its own, and give its density",
            )
        if isinstance(denominator, EventTable):
            check_features(numerator, denominator)
        where = {"members": members, "client": client, "group": group}
        density = self._train(
            numerator,
            parameters,
            seed,
            notes,
            progress,
            start=start,
            freeze=freeze,
            checkpoint=checkpoint,
            **where,
        )
        if denominator is None:
            return density
        if isinstance(denominator, EventTable):
            denominator = self._train(
                denominator, (), seed, notes, stacks.later(progress, self.settings.steps), **where
            )
        return density.over(denominator)

    def _train(
        self,
        table: EventTable,
        parameters: tuple[str, ...],
        seed: int,
        notes: dict[str, str] | None,
        progress: Callable[[int], None] | None,
        *,
        start: Density | None = None,
        freeze: Sequence[str] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        members: range | None = None,
        client: Any = None,
        group: int = 1,
    ) -> Density:
        settings, chosen = self.settings, members or range(self.ensemble)
        if client is not None:
            given = {"start": start, "freeze": freeze, "checkpoint": checkpoint}
            work = (self, table, parameters, seed, notes, given)
            return Density.join(
                stacks.spread(client, _train, work, stacks.groups(chosen, group), settings, progress)
            )
        if not len(table):
            raise TrainingError("there are no events to learn a density from")
        halves = split(table, settings.validation_fraction, seed=seed)
        training, validation = (sample(half, parameters, "density") for half in halves)
        network, ranges = stacks.build(
            self.network, table.features, parameters, [training], members=self.ensemble, seed=seed
        )
        _check_continuous(table)
        part = stacks.part(self.network, self.ensemble, parameters)
        if start is not None:
            warm_start(network, start.model, table.features, parameters, like=part)
        stacks.freeze(network, freeze)
        if members is not None:
            network = network.part(members)
            part = part.model_copy(update={"members": len(members)})
        samples = [training, validation]
        kept = stacks.checkpoint(checkpoint, network, self.ensemble, samples, self, seed, freeze)
        if self.bootstrap:
            training = bootstrapped(halves[0], training, chosen, seed=seed, side="density")
        objective = DensityObjective(
            training,
            validation,
            members=len(chosen),
            first=chosen.start,
            batch_size=settings.batch_size,
            seed=seed,
            features=(*table.features, *parameters),
            device=settings.torch_device,
        )
        history = stacks.fit(network, objective, settings, progress=progress, checkpoint=kept)
        description = Description(
            features=table.features,
            parameters=parameters,
            parameter_range=ranges,
            parts=(part,),
            kind="log_density",
            notes=notes or {},
            inputs=table.inputs,
        )
        return Density(Model([network], description), history)


def _train(members: range, work: tuple[Any, ...]) -> Density:
    dle, table, parameters, seed, notes, given = work
    density: Density = dle._train(table, parameters, seed, notes, None, members=members, **given)
    return density


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

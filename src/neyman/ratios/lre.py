"""`LRE`: density ratios by classification, with nuisance parameters as network inputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import TrainingError, nearest
from neyman.events import EventTable
from neyman.networks import MLP, Aggregate, Description, Model, combine
from neyman.training import (
    BCE,
    History,
    Loss,
    PairObjective,
    Sample,
    Settings,
    held_out,
    input_scaling,
    train,
)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ratio:
    """A trained density ratio: an ensemble and how its training went.

    Parameters
    ----------
    model
        The ensemble; its output is ``ln p(x|z)/q(x)``.
    history
        Losses during training.
    """

    model: Model
    history: History = field(default_factory=History)

    def members(self, events: EventTable | ArrayLike, z: ArrayLike | None = None) -> Array:
        """Return every member's log-ratio, shape ``(n_members, n_events)``."""
        x = events.with_features(self.model.features).x if isinstance(events, EventTable) else events
        return self.model.members(x, z)

    def log_ratio(
        self, events: EventTable | ArrayLike, z: ArrayLike | None = None, *, aggregate: Aggregate = "mean"
    ) -> Array:
        """Return the ensemble's log-ratio, shape ``(n_events,)``; `z` as in :meth:`neyman.networks.Model.members`."""
        return combine(self.members(events, z), aggregate)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ensemble to one safetensors file."""
        return self.model.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ratio:
        """Read an ensemble; the history of its training is not part of the file."""
        return cls(Model.load(path))


@dataclass(frozen=True)
class LRE:
    r"""Likelihood-ratio estimator: an ensemble of classifiers of numerator against denominator.

    The minimum of the loss is :math:`\ln p(x|z)/q(x)`. Numerator events carry their own nuisance parameters z,
    drawn from any density over the range of use and beyond; denominator events without z take the z of the
    numerator events of the same batch, so that the density of z cancels (arXiv:2503.07962, section III).
    It cancels only when the mean numerator weight does not depend on z.

    Parameters
    ----------
    network
        Architecture of every member.
    loss
        Loss and link.
    ensemble
        Number of members, trained in one pass.
    settings
        Steps, rates, and the held-out fraction.

    Examples
    --------
    >>> import neyman as ny
    >>> rng = np.random.default_rng(1)
    >>> p, q = (ny.EventTable.from_arrays(rng.normal(m, 1, (2000, 1)), features=("x",)) for m in (0.5, -0.5))
    >>> lre = ny.ratios.LRE(ny.networks.MLP((16,)), ensemble=2, settings=ny.training.Settings(steps=200))
    >>> ratio = lre.fit(p, q, seed=1)
    >>> bool(abs(ratio.log_ratio([[1.0]])[0] - 1.0) < 0.3)  # exactly x for these two Gaussians
    True
    """

    network: MLP = field(default_factory=MLP)
    loss: Loss = field(default_factory=BCE)
    ensemble: int = 1
    settings: Settings = field(default_factory=Settings)

    def fit(
        self,
        numerator: EventTable,
        denominator: EventTable,
        *,
        parameters: tuple[str, ...] = (),
        seed: int,
        notes: dict[str, str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Ratio:
        """Train the ensemble.

        Parameters
        ----------
        numerator
            Events of p, with a column for each of `parameters`.
        denominator
            Events of q with the same features; a column of `parameters` is used when it exists.
        parameters
            Names of the nuisance-parameter columns that become network inputs.
        seed
            Seed of initialisation, batch order and held-out split.
        notes
            Text kept in the model file.
        progress
            Called with the number of finished steps.

        Raises
        ------
        TrainingError
            When features differ, a feature or parameter is constant, a class has no positive total weight, or
            the loss becomes non-finite.
        """
        if numerator.features != denominator.features:
            odd = sorted(set(numerator.features) ^ set(denominator.features))
            raise TrainingError(
                "numerator and denominator have different features",
                where=", ".join(odd) or "the same names in another order",
            )
        halves = [
            _split(table, self.settings.validation_fraction, seed) for table in (numerator, denominator)
        ]
        names = [parameters, parameters if all(p in denominator.extra for p in parameters) else ()]
        training, validation = (
            tuple(_sample(half[k], name) for half, name in zip(halves, names, strict=True)) for k in (0, 1)
        )
        objective = PairObjective(
            self.loss,
            (training[0], training[1]),
            (validation[0], validation[1]),
            members=self.ensemble,
            batch_size=self.settings.batch_size,
            seed=seed,
        )
        mean, scale = input_scaling([sample.x for sample in training], numerator.features)
        ranges: tuple[tuple[float, float], ...] = ()
        if parameters:
            ranges, z_mean, z_scale = _parameter_scaling(training[0], parameters)
            mean, scale = torch.cat([mean, z_mean]), torch.cat([scale, z_scale])
        network = self.network.build(len(mean), members=self.ensemble, seed=seed, scaling=(mean, scale))
        history = train(network, objective, self.settings, progress=progress)
        if 0 in history.best_step:
            raise TrainingError(
                f"the held-out loss of member {history.best_step.index(0)} was never finite",
                fix="lower learning_rate, or look for extreme features or weights",
            )
        description = Description(
            features=numerator.features,
            parameters=parameters,
            parameter_range=ranges,
            hidden=self.network.hidden,
            activation=self.network.activation,
            members=self.ensemble,
            kind="log_ratio",
            notes=notes or {},
        )
        return Ratio(Model(network, description), history)


def _split(table: EventTable, fraction: float, seed: int) -> tuple[EventTable, EventTable]:
    mask = held_out(table, fraction, seed=seed)
    return table.select(~mask), table.select(mask)


def _sample(table: EventTable, parameters: tuple[str, ...]) -> Sample:
    for name in parameters:
        if name not in table.extra:
            raise TrainingError(
                f"the numerator has no column {name!r}",
                expected="the value of the nuisance parameter of each event",
                fix=f"nearest names: {nearest(name, table.extra)}",
            )
    z = np.stack([table.extra[p] for p in parameters], axis=1).astype(np.float32) if parameters else None
    return Sample(table.x, table.weight, z)


def _parameter_scaling(
    numerator: Sample, parameters: tuple[str, ...]
) -> tuple[tuple[tuple[float, float], ...], torch.Tensor, torch.Tensor]:
    z = np.asarray(numerator.z, dtype=np.float64)
    low, high = z.min(axis=0), z.max(axis=0)
    for name, a, b in zip(parameters, low, high, strict=True):
        if not b > a:
            raise TrainingError(
                f"nuisance parameter {name!r} has the same value ({a:g}) in all training events",
                expected="values drawn over the range of use and beyond",
            )
    ranges = tuple(zip(low.tolist(), high.tolist(), strict=True))
    return ranges, torch.from_numpy((low + high) / 2.0), torch.from_numpy((high - low) / 2.0)

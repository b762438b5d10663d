"""`LRE`: density ratios by classification, with nuisance parameters as network inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from neyman.errors import ConfigError, TrainingError
from neyman.events import EventTable
from neyman.networks import MLP, NSF, Architecture, Description, Model
from neyman.ratios import stacks
from neyman.ratios.preparation import (
    bootstrapped,
    check_features,
    check_parameters,
    check_weights,
    names,
    sample,
    split,
)
from neyman.ratios.ratio import Ratio
from neyman.training import BCE, Loss, PairObjective, Settings, parallel, warm_start

_SIDES = ("numerator", "denominator")


@dataclass(frozen=True)
class LRE:
    r"""Likelihood-ratio estimator: an ensemble of classifiers of numerator against denominator.

    The minimum of the loss is :math:`\ln p(x|z)/q(x)`. Numerator events carry their own nuisance parameters z,
    drawn from any density over the range of use and beyond; denominator events without z take the z of the
    numerator events of the same batch, so that the density of z cancels (arXiv:2503.07962, section III).
    It cancels only when the mean numerator weight does not depend on z; a warning says when it does.

    Parameters
    ----------
    network
        Architecture of every member.
    loss
        Loss and link.
    ensemble
        Number of members, trained in one pass. Each has its own initial weights, batch order and best state, and
        is the same network as if it were trained alone.
    settings
        Steps, optimizer, rates, and the held-out fraction.
    bootstrap
        Whether every member sees the training events with Poisson(1) bootstrap weights of its own: the spread of the
        members then contains the fluctuation of the training sample.

    Examples
    --------
    >>> import numpy as np
    >>> import neyman as ny
    >>> rng = np.random.default_rng(1)
    >>> p, q = (ny.EventTable.from_arrays(rng.normal(m, 1, (2000, 1)), features=("x",)) for m in (0.5, -0.5))
    >>> lre = ny.ratios.LRE(ny.networks.MLP((16,)), ensemble=2, settings=ny.training.Settings(steps=200))
    >>> ratio = lre.fit(p, q, seed=1)
    >>> bool(abs(ratio.log_ratio([[1.0]])[0] - 1.0) < 0.3)  # exactly x for these two Gaussians
    True
    """

    network: Architecture = field(default_factory=MLP)
    loss: Loss = field(default_factory=BCE)
    ensemble: int = 1
    settings: Settings = field(default_factory=Settings)
    bootstrap: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.network, NSF):
            raise ConfigError("a flow is not a classifier", fix="use MLP or PET here, or the estimator DLE")

    def fit(
        self,
        numerator: EventTable,
        denominator: EventTable,
        *,
        parameters: tuple[str, ...] = (),
        seed: int,
        start: Ratio | None = None,
        freeze: Sequence[str] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        notes: dict[str, str] | None = None,
        members: range | None = None,
        client: Any = None,
        group: int = 1,
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
        start
            A trained ratio of the same architecture, features and parameters whose weights (and input scaling) all
            members start from; with one member it is the start of all.
        freeze
            Beginnings of names of network parameters that stay as they are, such as ``layers.0``.
        checkpoint
            File that keeps the state of the training; the same call goes on from it after an interruption.
        notes
            Text kept in the model file.
        members
            Numbers of the members that are trained, all by default: the result is that part of the ensemble, the same
            networks as if all were trained, and :meth:`Ratio.join` makes the whole of the parts.
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
            When features differ, a feature or parameter is constant, a class has no positive total weight, `start`
            does not fit, a checkpoint is broken or of another training, or the loss becomes non-finite.

        Warns
        -----
        NeymanWarning
            When more than 1% of the numerator lies outside the range of the denominator in a feature, the mean
            weight depends on a nuisance parameter, or the denominator has nuisance parameters of its own that are
            distributed differently.
        """
        parameters, freeze = names(parameters), names(freeze)
        settings, chosen = self.settings, members or range(self.ensemble)
        if client is not None:
            arguments = {
                "parameters": parameters,
                "seed": seed,
                "start": start,
                "freeze": freeze,
                "checkpoint": checkpoint,
                "notes": notes,
            }
            parts = stacks.groups(chosen, group)
            work = (self, numerator, denominator, arguments)
            return Ratio.join(stacks.spread(client, _train, work, parts, settings, progress))
        check_features(numerator, denominator)
        halves = [split(table, settings.validation_fraction, seed=seed) for table in (numerator, denominator)]
        own = tuple(p for p in parameters if p in denominator.extra)
        if own and own != parameters:
            raise TrainingError(
                f"the denominator has {', '.join(own)} of the parameters {', '.join(parameters)}",
                expected="all of them, or none: its events then take the numerator's values",
            )
        inputs = (parameters, own)
        training, validation = (
            [sample(half[k], z, side) for half, z, side in zip(halves, inputs, _SIDES, strict=True)]
            for k in (0, 1)
        )
        check_weights(training[0], parameters)
        check_parameters(training[0], training[1], parameters)
        network, ranges = stacks.build(
            self.network, numerator.features, parameters, training, members=self.ensemble, seed=seed
        )
        part = stacks.part(self.network, self.ensemble, parameters, self.loss.output_link)
        if start is not None:
            warm_start(network, start.model, numerator.features, parameters, like=part)
        stacks.freeze(network, freeze)
        if members is not None:
            network = network.part(members)
            part = part.model_copy(update={"members": len(members)})
        samples = [*training, *validation]
        kept = stacks.checkpoint(checkpoint, network, self.ensemble, samples, self, seed, freeze)
        if self.bootstrap:
            training = [
                bootstrapped(half[0], one, chosen, seed=seed, side=side)
                for half, one, side in zip(halves, training, _SIDES, strict=True)
            ]
        objective = PairObjective(
            self.loss,
            (training[0], training[1]),
            (validation[0], validation[1]),
            members=len(chosen),
            first=chosen.start,
            batch_size=settings.batch_size,
            seed=seed,
            features=(*numerator.features, *parameters),
            device=settings.torch_device,
            share=parallel.share(settings.data_parallel),
        )
        history = stacks.fit(network, objective, settings, progress=progress, checkpoint=kept)
        description = Description(
            features=numerator.features,
            parameters=parameters,
            parameter_range=ranges,
            parts=(part,),
            notes=notes or {},
            inputs=numerator.inputs,
        )
        return Ratio(Model([network], description), history)


def _train(members: range, work: tuple[LRE, EventTable, EventTable, dict[str, Any]]) -> Ratio:
    lre, numerator, denominator, arguments = work
    return lre.fit(numerator, denominator, members=members, **arguments)

"""`Hybrid`: a flow, and a classifier that corrects what the flow has not learned."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import overload

from neyman.errors import ConfigError, TrainingError
from neyman.events import EventTable
from neyman.networks import (
    MLP,
    NSF,
    Architecture,
    Description,
    Model,
    StackedFlow,
    tensors_digest,
)
from neyman.ratios import stacks
from neyman.ratios.density import Density, DensityRatio
from neyman.ratios.dle import DLE
from neyman.ratios.preparation import bootstrapped, check_features, sample, split
from neyman.ratios.stacks import later
from neyman.training import BCE, Loss, ResidualObjective, Settings


@dataclass(frozen=True)
class Hybrid:
    r"""Estimator of a density by a flow and a residual classifier.

    .. math:: \ln p(x|z) = \ln p_f(x|z) + \ln \frac{p(x|z)}{p_f(x|z)}

    The flow :math:`p_f` is that of :class:`DLE`; a classifier between the events and as many events of the flow at
    the same z learns the last term. What is left to the classifier is smooth and small, and the flow covers the
    events by construction. The sum is normalised only as well as the classifier is trained, and cannot be sampled.

    Parameters
    ----------
    flow
        Estimator of the flow, with the number of members and the bootstrap.
    network
        Architecture of the classifiers.
    loss
        Loss and link of the classifiers.
    settings
        Steps, optimizer, rates and held-out fraction of the classifiers.
    """

    flow: DLE = field(default_factory=DLE)
    network: Architecture = field(default_factory=MLP)
    loss: Loss = field(default_factory=BCE)
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if isinstance(self.network, NSF):
            raise ConfigError(
                "the network of a hybrid is a classifier, not a flow", expected="MLP(...) or PET(...)"
            )

    @overload
    def fit(
        self,
        numerator: EventTable,
        denominator: None = None,
        *,
        parameters: tuple[str, ...] = ...,
        seed: int,
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
        notes: dict[str, str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Density | DensityRatio:
        """Train the flow, then the classifier.

        Parameters
        ----------
        numerator
            Events of p, with a column for each of `parameters`.
        denominator
            Nothing: the density of the numerator is the result. A trained density, of any estimator: the result is
            the ratio to it. Events of q: both are trained on them as well, without nuisance parameters.
        parameters
            Names of the nuisance-parameter columns that become network inputs.
        seed
            Seed of initialisation, batch order, the flow's events and held-out split.
        notes
            Text kept in the model file.
        progress
            Called with the number of finished steps of all trainings.

        Raises
        ------
        TrainingError
            As :meth:`DLE.fit`.

        Warns
        -----
        NeymanWarning
            When more than 1% of the numerator lies outside the range of the denominator's events in a feature.
        """
        if isinstance(denominator, EventTable):
            check_features(numerator, denominator)
        flow = self.flow.fit(numerator, parameters=parameters, seed=seed, notes=notes, progress=progress)
        done = self.flow.settings.steps
        density = self.correct(flow, numerator, seed=seed, progress=later(progress, done))
        if denominator is None:
            return density
        if isinstance(denominator, EventTable):
            done += self.settings.steps
            flow = self.flow.fit(denominator, seed=seed, notes=notes, progress=later(progress, done))
            done += self.flow.settings.steps
            denominator = self.correct(flow, denominator, seed=seed, progress=later(progress, done))
        return density.over(denominator)

    def correct(
        self,
        flow: Density,
        events: EventTable,
        *,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Density:
        """Return a trained flow with a residual classifier on top.

        Parameters
        ----------
        flow
            Density by :class:`DLE`; its own estimator need not be `self.flow`.
        events
            Events of the density, with a column for each of its nuisance parameters.
        checkpoint
            File that keeps the state of the training; the same call goes on from it after an interruption.
        seed, progress
            As for :meth:`fit`.

        Raises
        ------
        TrainingError
            When the density is not a flow alone, the events have other features or no column of a nuisance
            parameter, or the loss becomes non-finite.
        """
        own, stack = flow.model.description, flow.model.stacks[0]
        if len(flow.model.stacks) != 1 or not isinstance(stack, StackedFlow):
            raise TrainingError("a residual classifier needs a density that is a flow alone")
        settings, device = self.settings, self.settings.torch_device
        table = events.with_features(own.features)
        halves = split(table, settings.validation_fraction, seed=seed)
        training, validation = (sample(half, own.parameters, "density") for half in halves)
        network, _ = stacks.build(
            self.network, own.features, own.parameters, [training], members=own.members, seed=seed
        )
        key = (self, seed, tensors_digest(stack.state_dict()))
        kept = stacks.checkpoint(checkpoint, network, network.members, [training, validation], *key)
        if self.flow.bootstrap:
            training = bootstrapped(halves[0], training, range(own.members), seed=seed, side="density")
        objective = ResidualObjective(
            self.loss,
            stack.to(device),
            training,
            validation,
            batch_size=settings.batch_size,
            seed=seed,
            features=(*own.features, *own.parameters),
            device=device,
        )
        history = stacks.fit(network, objective, settings, progress=progress, checkpoint=kept)
        residual = stacks.part(self.network, own.members, own.parameters, self.loss.output_link)
        description = Description(
            features=own.features,
            parameters=own.parameters,
            parameter_range=own.parameter_range,
            parts=(*own.parts, residual),
            kind="log_density",
            aggregate=own.aggregate,
            notes=own.notes,
            inputs=own.inputs,
        )
        return Density(Model([stack.cpu(), network], description), history)

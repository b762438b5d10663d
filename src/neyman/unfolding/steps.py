r"""One step of an unfolding: a stack of classifiers becomes one ratio of weights for every event and member.

Members are laid out replica by replica: R replicas with E members each are one stack of R E networks. Member e of
every replica has the same initial values and sees the events in the same order, only the weights differ.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import NeymanWarning, TrainingError
from neyman.events import EventTable
from neyman.networks import Architecture, Description, Model, Part, Scaling, Stack, StackedLinear
from neyman.training import (
    Checkpoint,
    Loss,
    PairObjective,
    ReweightObjective,
    Sample,
    Settings,
    held_out,
    parallel,
    train,
    warm_start,
)

Array = NDArray[np.float64]
Level = Literal["detector", "particle", "fakes"]
_EXTREME = 0.05  # of the sum of weights in one event


@dataclass(frozen=True)
class StepRecord:
    """How one classifier training of an unfolding went.

    Parameters
    ----------
    iteration
        0-based.
    level
        ``detector`` (step 1), ``particle`` (step 2), or ``fakes``: the weights of events without particle level.
    losses
        Best held-out loss of each member.
    separates
        Whether each member beat a constant output on held-out events at its best evaluation. Where there is nothing to
        learn, some do by chance; where there is little, some do not.
    best_steps
        Optimizer step of each member's best state.
    normalisation
        Sum of the weights of the numerator over that of the denominator, averaged over the members: the factor that
        the step gives to the yield.
    effective_size
        :math:`(\\sum w)^2 / \\sum w^2` of the weights after the step, the smallest of all members.
    largest
        Largest ratio that a member gives to an event, in units of `normalisation`.
    silenced
        Whether the ratio of each member was set to 1 up to the normalisation: in the first iteration where no member
        separates anything, and wherever a member is worse than a constant by more than the statistical error.
    """

    iteration: int
    level: Level
    losses: tuple[float, ...]
    separates: tuple[bool, ...]
    best_steps: tuple[int, ...]
    normalisation: float
    effective_size: float
    largest: float
    silenced: tuple[bool, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepRecord:
        """Read what :meth:`to_dict` gives."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class Learner:
    """What all trainings of one level have in common.

    Parameters
    ----------
    network, loss, settings
        Architecture, loss and training.
    replicas, members
        Numbers R and E.
    split_seed
        Seed of the held-out events.
    start
        Trained networks to begin with; member e starts from e modulo their number.
    body_rate
        Factor on the learning rate of what comes before the head in networks that begin trained.
    """

    network: Architecture
    loss: Loss
    settings: Settings
    replicas: int
    members: int
    split_seed: int
    start: Model | None
    body_rate: float

    def pair(
        self,
        numerator: tuple[EventTable, Array],
        denominator: tuple[EventTable, Array],
        seed: int,
    ) -> PairObjective:
        """Return the objective of two samples, weights ``(R E, n_events)`` or ``(n_events,)``."""
        training, validation = [], []
        for table, weight in (numerator, denominator):
            out = held_out(table, self.settings.validation_fraction, seed=self.split_seed)
            training.append(Sample(table.x[~out], weight[..., ~out]))
            validation.append(Sample(table.x[out], weight[..., out]))
        return PairObjective(
            self.loss,
            (training[0], training[1]),
            (validation[0], validation[1]),
            **self._common(denominator[0], seed),
        )

    def reweighting(
        self, table: EventTable, numerator: Array, denominator: Array, seed: int
    ) -> ReweightObjective:
        """Return the objective of two weightings of one sample."""
        out = held_out(table, self.settings.validation_fraction, seed=self.split_seed)
        return ReweightObjective(
            self.loss,
            Sample(table.x[~out], denominator[..., ~out]),
            Sample(table.x[out], denominator[..., out]),
            (numerator[..., ~out], numerator[..., out]),
            **self._common(table, seed),
        )

    def _common(self, table: EventTable, seed: int) -> dict[str, Any]:
        return {
            "members": self.replicas * self.members,
            "batch_size": self.settings.batch_size,
            "seed": seed,
            "features": table.features,
            "device": self.settings.torch_device,
            "copies": self.replicas,
            "share": parallel.share(self.settings.data_parallel),
        }

    def stack(
        self,
        features: tuple[str, ...],
        scaling: Scaling,
        seed: int,
        before: dict[str, torch.Tensor] | None,
        level: Level,
    ) -> tuple[Stack, Settings]:
        """Return the networks before the training, and its settings.

        They are those of the iteration before, those of the model to start from, or new ones.
        """
        size = self.replicas * self.members
        stack = self.network.build(len(features), members=size, seed=seed, scaling=scaling)
        if before is not None:
            stack.load_state_dict(before)
        else:
            first = self.network.build(len(features), members=self.members, seed=seed, scaling=scaling)
            if self.start is not None:
                if len(self.start.features) != len(features):
                    raise TrainingError(
                        f"the model to start from has {len(self.start.features)} "
                        f"feature{'s' * (len(self.start.features) > 1)}, the {level} level {len(features)}",
                        expected="a classifier of the same features at this level, or None for it",
                    )
                warm_start(
                    first, self._begin(self.start, features), features, (), like=self.part(self.members)
                )
            own, shared = first.state_dict(), {name for name, _ in first.named_parameters()}
            stack.load_state_dict(
                {name: torch.cat([t] * self.replicas) if name in shared else t for name, t in own.items()}
            )
        trained = before is not None or self.start is not None
        if trained and self.body_rate != 1.0:
            factors = dict.fromkeys(self.network.body, self.body_rate) | dict(self.settings.rate_factors)
            return stack, replace(self.settings, rate_factors=factors)
        return stack, self.settings

    def _begin(self, start: Model, features: tuple[str, ...]) -> Model:
        """The trained networks under the names of this level (matched by position), one a member: e, e modulo M."""
        part = start.description.parts[0]
        rows = torch.arange(self.members) % part.members
        stack = copy.deepcopy(start.stacks[0]).cpu()
        for parameter in stack.parameters():
            parameter.data = parameter.data[rows]
        stack.members = self.members
        parts = (part.model_copy(update={"members": self.members}),)
        changes = {"features": features, "parts": parts, "offsets": (), "calibration": None}
        return Model([stack], start.description.model_copy(update=changes))

    def part(self, members: int) -> Part:
        """Return the description of a stack."""
        return Part.model_validate(
            {"network": self.network, "members": members, "link": self.loss.output_link}
        )

    def learn(
        self,
        objective: PairObjective | ReweightObjective,
        stack: Stack,
        settings: Settings,
        features: tuple[str, ...],
        *,
        first: bool,
        progress: Callable[[int], None] | None,
        checkpoint: Checkpoint | None,
    ) -> Trained:
        """Train the stack. A member that separates nothing is left with the output of ratio 1.

        In a later iteration little is left to learn, often less than the held-out events can show: to drop it would
        hold the unfolding back. So a member is dropped when it is worse than a constant by more than the statistical
        error, and in the `first` iteration also where no member of a replica is better than one.
        """
        device = settings.torch_device
        history = train(stack.to(device), objective, settings, progress=progress, checkpoint=checkpoint)
        losses = np.nanmin(np.asarray(history.validation), axis=0)
        separates = losses < self.loss.flat()
        head = [module for module in stack.modules() if isinstance(module, StackedLinear)][-1]
        advantage, error = objective.advantage(stack)
        silent = advantage < -error
        if first:
            none = ~separates.reshape(self.replicas, self.members).any(axis=1)
            silent |= torch.from_numpy(np.repeat(none, self.members)).to(device)
        with torch.no_grad():
            head.weight[silent], head.bias[silent] = 0.0, 0.0  # every link means ratio 1 there
        part = self.part(stack.members)
        model = Model([stack], Description(features=features, parts=(part,)))
        return Trained(
            model,
            tuple(losses.tolist()),
            tuple(separates.tolist()),
            tuple(history.best_step),
            tuple(silent.tolist()),
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks of one step, with the best loss, the verdicts and the best step of each member."""

    model: Model
    losses: tuple[float, ...]
    separates: tuple[bool, ...]
    best_steps: tuple[int, ...]
    silenced: tuple[bool, ...]

    def log_ratio(self, table: EventTable, settings: Settings) -> NDArray[np.float32]:
        """Evaluate every member, ``(R E, n_events)``."""
        return parallel.evaluated(self.model.members, table.x, parallel.share(settings.data_parallel))


def normalised(
    log_ratio: NDArray[np.float32],
    at: slice | NDArray[np.bool_],
    numerator: Array,
    denominator: Array,
    level: Level,
) -> tuple[Array, Array]:
    r"""Return ratios that take the denominator to the total of the numerator, and the logarithms of the factors.

    Parameters
    ----------
    log_ratio
        Of all events to be weighted, ``(n_members, n_events)``.
    at
        Which of them are the denominator.
    numerator
        Total weight of the numerator, ``(n_members,)``.
    denominator
        Weights of the denominator, ``(n_members, n)`` or ``(n,)``.
    level
        For messages.

    Raises
    ------
    TrainingError
        When a ratio is infinite, or no factor gives the total.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.exp(log_ratio.astype(np.float64))
        total = (denominator * ratio[:, at]).sum(axis=-1)
    good = np.isfinite(total) & (total > 0.0) & np.isfinite(ratio).all(axis=1)
    if not good.all():
        member = int(np.argmin(good))
        infinite = int((~np.isfinite(ratio[member])).sum())
        raise TrainingError(
            f"the {level}-level ratio of member {member} cannot be normalised: "
            + (f"{infinite} weights are infinite" if infinite else f"its weights sum to {total[member]:g}"),
            where=f"event {int(log_ratio[member].argmax())} has the largest log-ratio, {log_ratio[member].max():g}",
            fix="lower learning_rate, or look for events outside the other class",
        )
    scale = numerator / total
    return ratio * scale[:, None], np.log(scale)


def record(
    trained: Trained,
    iteration: int,
    level: Level,
    ratio: Array,
    factor: Array,
    weight: Array,
) -> StepRecord:
    """Sum a step up.

    Parameters
    ----------
    trained
        Its networks.
    iteration, level
        Which step it was.
    ratio
        From :func:`normalised`.
    factor
        What the step gives to the yield of each member.
    weight
        Weights of the events after the step, ``(n_members, n_events)``.

    Warns
    -----
    NeymanWarning
        When one event carries more than 5% of the total weight of a member.
    """
    share = np.abs(weight).max(axis=1) / np.abs(weight.sum(axis=1))
    if share.max() > _EXTREME:
        member = int(share.argmax())
        warnings.warn(
            f"iteration {iteration + 1}, {level} level: one event carries {share[member]:.0%} of the weight of member "
            f"{member} (event {int(np.abs(weight[member]).argmax())} of those that have the level): the result rests "
            "on few simulated events",
            NeymanWarning,
            stacklevel=5,
        )
    square = np.square(weight).sum(axis=1)
    size = np.square(weight.sum(axis=1)) / np.where(square > 0.0, square, 1.0)
    return StepRecord(
        iteration,
        level,
        trained.losses,
        trained.separates,
        trained.best_steps,
        float(factor.mean()),
        float(size.min()),
        float((ratio / factor[:, None]).max()),
        trained.silenced,
    )

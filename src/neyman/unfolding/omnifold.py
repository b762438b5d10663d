r"""`OmniFold`: unbinned unfolding by iterated classification, with parallel or step ensembling.

Each iteration learns two density ratios (Andreassen et al., arXiv:1911.09107). Step 1, at detector level: data
against the simulation with its current weights; the *pull* weights are the push weights times this ratio. Step 2,
at particle level: the simulation with its pull weights against itself; the *push* weights are this ratio, a function
of the particle level alone. Ensembling follows Torales Acosta et al., algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import ConfigError, InputError, TrainingError
from neyman.events import EventTable
from neyman.networks import MLP, Aggregate, Architecture, Description, Model, Part, combine
from neyman.training import BCE, Loss, PairObjective, Sample, Settings, held_out, train
from neyman.unfolding.result import Level, StepRecord, Unfolding

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class OmniFold:
    """Unfolds data event by event, in all features at once.

    Parameters
    ----------
    iterations
        Passes of steps 1 and 2. More remove more of the simulation's prior and add variance.
    ensemble
        Number of members, trained together.
    mode
        ``parallel``: members are independent unfoldings, combined at the end (algorithm 1). ``step``: their weights
        are combined after every step, and all go on from there (algorithm 2).
    aggregate
        How members are combined: ``mean``, ``median`` or ``truncated_mean``.
    network
        Architecture of the classifiers, trained from scratch in every step.
    loss
        Loss and link.
    settings
        Training of each step.

    Examples
    --------
    >>> omnifold = OmniFold(iterations=3, ensemble=5, mode="step")
    >>> result = omnifold.fit(data, reconstructed, truth, seed=1)  # doctest: +SKIP
    >>> result.histogram(truth.column("pt"), [0, 20, 50, 100])  # doctest: +SKIP
    """

    iterations: int = 5
    ensemble: int = 5
    mode: Literal["parallel", "step"] = "parallel"
    aggregate: Aggregate = "mean"
    network: Architecture = field(default_factory=MLP)
    loss: Loss = field(default_factory=BCE)
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.ensemble < 1:
            raise ConfigError(
                f"{self.iterations} iterations of {self.ensemble} members", expected="at least 1"
            )
        if self.mode not in ("parallel", "step"):
            raise ConfigError(f"unknown mode {self.mode!r}", expected="parallel or step")
        combine(np.zeros((self.ensemble, 1), dtype=np.float32), self.aggregate)

    def fit(
        self,
        data: EventTable,
        reconstructed: EventTable,
        truth: EventTable,
        *,
        passes_reconstruction: ArrayLike | None = None,
        passes_truth: ArrayLike | None = None,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> Unfolding:
        r"""Unfold.

        Sums of weights count: the unfolded spectrum has the normalisation of the data, corrected for efficiency
        and for events without particle level. Backgrounds may be subtracted by events of negative weight in `data`.

        Parameters
        ----------
        data
            Observed events at detector level.
        reconstructed, truth
            The simulation at detector and at particle level: the same events in the same order with the same
            weights. Features of an event that fails a level may be anything finite.
        passes_reconstruction, passes_truth
            Which simulated events have the level, bool ``(n_events,)``; all by default. An event that fails the
            reconstruction is not constrained by data in step 1: its pull weight is its push weight. Events
            without particle level cannot be told apart in step 2: all get their average pull weight.
        seed
            Seed of initialisation, batch order and held-out events.
        progress
            Called with the number of finished optimizer steps of all trainings together.

        Raises
        ------
        InputError
            When the levels have different events, features differ, or no event passes both levels.
        TrainingError
            When a class has no positive total weight, or a training fails.
        """
        passes = [
            _mask(given, len(reconstructed), name)
            for given, name in ((passes_reconstruction, "reconstruction"), (passes_truth, "truth"))
        ]
        _check(data, reconstructed, truth, passes[0] & passes[1])
        detected, generated = reconstructed.select(passes[0]), truth.select(passes[1])
        weight = truth.weight
        push = members = np.ones((self.ensemble, len(weight)))
        steps: list[StepRecord] = []

        def ratio(
            level: Level, numerator: tuple[EventTable, Array], denominator: tuple[EventTable, Array]
        ) -> Array:
            done = len(steps) * self.settings.steps
            tell = None if progress is None else lambda step: progress(done + step)
            found, record = self._step(len(steps) // 2, level, numerator, denominator, seed, tell)
            steps.append(record)
            return found

        for _ in range(self.iterations):
            pull = push.copy()
            pull[:, passes[0]] *= ratio(
                "detector", (data, data.weight), (detected, (weight * push)[:, passes[0]])
            )
            pull = self._joined(pull)
            members = np.empty_like(pull)
            members[:, passes[1]] = ratio(
                "particle", (generated, (weight * pull)[:, passes[1]]), (generated, generated.weight)
            )
            members[:, ~passes[1]] = _average(pull[:, ~passes[1]], weight[~passes[1]])
            push = self._joined(members)
        return Unfolding(weight, members, passes[1], self.aggregate, tuple(steps))

    def _joined(self, members: Array) -> Array:
        if self.mode == "parallel":
            return members
        joined = combine(members.astype(np.float32), self.aggregate).astype(np.float64)
        return np.broadcast_to(joined, members.shape).copy()

    def _step(
        self,
        iteration: int,
        level: Level,
        numerator: tuple[EventTable, Array],
        denominator: tuple[EventTable, Array],
        seed: int,
        progress: Callable[[int], None] | None,
    ) -> tuple[Array, StepRecord]:
        """Return every member's ratio at the denominator's events, normalised to the numerator's sum of weights."""
        training, validation = [], []
        for table, weight in (numerator, denominator):
            out = held_out(table, self.settings.validation_fraction, seed=seed)
            training.append(Sample(table.x[~out], weight[..., ~out]))
            validation.append(Sample(table.x[out], weight[..., out]))
        own = int(np.random.SeedSequence([seed, iteration, level == "particle"]).generate_state(1)[0])
        objective = PairObjective(
            self.loss,
            (training[0], training[1]),
            (validation[0], validation[1]),
            members=self.ensemble,
            batch_size=self.settings.batch_size,
            seed=own,
            features=denominator[0].features,
            device=self.settings.torch_device,
        )
        table = denominator[0]
        scaling = self.network.scaling(np.concatenate([sample.x for sample in training]), table.features)
        network = self.network.build(len(table.features), members=self.ensemble, seed=own, scaling=scaling)
        history = train(network.to(self.settings.torch_device), objective, self.settings, progress=progress)
        part = Part.model_validate(
            {"network": self.network, "members": self.ensemble, "link": self.loss.output_link}
        )
        model = Model([network.cpu()], Description(features=table.features, parts=(part,)))
        log_ratio = model.members(table.x).astype(np.float64)
        losses, flat = np.min(history.validation, axis=0), self.loss.flat()
        log_ratio[losses >= flat] = 0.0
        record = StepRecord(iteration, level, tuple(losses.tolist()), tuple((losses < flat).tolist()))
        return _normalised(log_ratio, numerator[1], denominator[1], level), record


def _mask(given: ArrayLike | None, n: int, level: str) -> Mask:
    mask = np.ones(n, dtype=np.bool_) if given is None else np.asarray(given)
    if mask.dtype != np.bool_ or mask.shape != (n,):
        raise InputError(
            f"passes_{level} is {mask.dtype} of shape {mask.shape}", expected=f"bool of shape ({n},)"
        )
    return mask


def _check(data: EventTable, reconstructed: EventTable, truth: EventTable, both: Mask) -> None:
    if len(reconstructed) != len(truth):
        raise InputError(
            f"the simulation has {len(reconstructed)} events at detector and {len(truth)} at particle level",
            expected="the same events in the same order, with masks for those that fail a level",
        )
    if data.features != reconstructed.features:
        raise InputError(
            f"the data have the features {', '.join(data.features)}",
            expected=f"those of the reconstructed simulation: {', '.join(reconstructed.features)}",
        )
    if not np.allclose(reconstructed.weight, truth.weight, rtol=1e-6, atol=0.0):
        first = int(np.argmax(~np.isclose(reconstructed.weight, truth.weight, rtol=1e-6, atol=0.0)))
        raise InputError(
            f"event {first} has the weight {reconstructed.weight[first]:g} at detector level and "
            f"{truth.weight[first]:g} at particle level",
            expected="one weight an event",
        )
    if not both.any():
        raise InputError(
            "no simulated event passes both reconstruction and truth",
            fix="check the masks, and that both levels are in the same order",
        )


def _average(pull: Array, weight: Array) -> Array:
    """Return the members' average pull weight of the events, ``(n_members, 1)``."""
    total = weight.sum()
    if len(weight) and not total > 0.0:
        raise TrainingError(f"the events that fail the truth level have weights that sum to {total:g}")
    return (pull @ weight / (total if len(weight) else 1.0))[:, None]


def _normalised(log_ratio: Array, numerator: Array, denominator: Array, level: Level) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.exp(log_ratio)
        total = (denominator * ratio).sum(axis=-1)
    if not (np.isfinite(total) & (total > 0.0)).all():
        member = int(np.argmin(np.isfinite(total) & (total > 0.0)))
        raise TrainingError(
            f"the {level}-level ratio of member {member} cannot be normalised: its weights sum to {total[member]:g}",
            where=f"largest log-ratio {log_ratio[member].max():g}",
            fix="lower learning_rate, or look for events outside the other class",
        )
    return np.asarray(ratio * (numerator.sum(axis=-1) / total)[:, None])

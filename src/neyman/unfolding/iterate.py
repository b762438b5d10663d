r"""The iterations of an unfolding, for one nominal or several replica sets of weights at once.

With event weights w, detector factors f (0 for events that are not detected), push weights :math:`\nu` and pull
weights :math:`\omega`, an iteration is

.. math::
    \omega_i = \nu_i\, \frac{p_\mathrm{data}}{p_{f w \nu}}(m_i), \qquad
    \nu(t) = \frac{p_{f w \omega}}{p_{f w}}(t) = \mathrm{E}[\omega | t, \mathrm{detected}]

(Andreassen et al., arXiv:1911.09107 and arXiv:2105.04448), as numbers of events, not as normalised densities. The
second ratio, taken over the detected events and evaluated at all, is the particle-level average that events which fail
the reconstruction need; no third classifier is trained for them. With ``missed="unchanged"`` they count with their
push weight instead, :math:`\nu(t) = \mathrm{E}[f \omega + (1 - f) \nu | t]`, which has the same fixed point and
approaches it more slowly where the efficiency is low.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import NeymanWarning, TrainingError
from neyman.events import EventTable
from neyman.events.support import rarest
from neyman.files import digest
from neyman.networks import Aggregate, Architecture, Description, Model, Scaling
from neyman.training import Checkpoint, Loss, PairObjective, ReweightObjective, Settings, parallel
from neyman.unfolding.aggregate import aggregated
from neyman.unfolding.inputs import OUTSIDE, Inputs, Replica
from neyman.unfolding.kept import Kept, State
from neyman.unfolding.steps import Learner, Level, StepRecord, Trained, normalised, record

Array = NDArray[np.float64]
Mode = Literal["parallel", "step"]
Missed = Literal["learned", "unchanged"]
Fakes = Literal["average", "learned"]
_WORDS: dict[Level, str] = {
    "detector": "the data and the simulation at detector level",
    "particle": "the simulation with and without its new weights at particle level",
    "fakes": "the simulation with and without its new weights at detector level",
}
_STREAM: dict[Level, int] = {"detector": 0, "particle": 1, "fakes": 2}


@dataclass(frozen=True)
class Recipe:
    """How one unfolding is made: the fields of :class:`neyman.unfolding.OmniFold`, and where to begin.

    Parameters
    ----------
    start
        Trained networks to begin with at detector and at particle level.
    """

    iterations: int
    ensemble: int
    mode: Mode
    aggregate: Aggregate
    networks: tuple[Architecture, Architecture]
    loss: Loss
    settings: Settings
    warm_start: bool
    body_rate: float
    missed: Missed
    fakes: Fakes
    keep_iterations: bool
    start: tuple[Model | None, Model | None]


@dataclass(frozen=True, eq=False)
class Iteration:
    """Weights after an iteration, float32 ``(n_members, n_events)`` each: factors on the weights of the simulation.

    Parameters
    ----------
    pull
        After step 1: for detected events push times the ratio r of the data to the simulation; with
        ``missed="unchanged"`` push times 1 + f (r - 1).
    push
        After step 2: a function of the particle level.
    """

    pull: NDArray[np.float32]
    push: NDArray[np.float32]


@dataclass(eq=False)
class Finished:
    """What a run of all iterations leaves, for R replicas with E members.

    Parameters
    ----------
    replicas
        Whose weights these are.
    push, pull
        Shape ``(R, E, n_events)``.
    iterations
        Weights after each iteration, of the first replica.
    steps
        Records of the trainings.
    models
        Last networks of the detector and the particle level.
    beyond
        Share of the data beyond the support by the log-ratio, and that log-ratio.
    """

    replicas: tuple[Replica, ...]
    push: Array
    pull: Array
    iterations: list[Iteration] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    beyond: tuple[float, float] = (float("nan"), float("nan"))


def iterate(
    recipe: Recipe,
    inputs: Inputs,
    replicas: tuple[Replica, ...],
    *,
    seed: int,
    kept: Kept | None = None,
    progress: Callable[[int], None] | None = None,
) -> Finished:
    """Run all iterations for some replicas, each with all members of the recipe, as one stack of networks."""
    run = _Run(recipe, inputs, replicas, seed, kept)
    while run.step < run.total:
        run.advance(progress)
    return run.result


class _Run:
    def __init__(
        self, recipe: Recipe, inputs: Inputs, replicas: tuple[Replica, ...], seed: int, kept: Kept | None
    ) -> None:
        self.recipe, self.inputs, self.seed, self._kept = recipe, inputs, seed, kept
        weights = [inputs.weights(replica) for replica in replicas]
        # Shape (R, 1, n): what all members of a replica share.
        self.data, self.weight, self.factor = (np.stack(w)[:, None] for w in zip(*weights, strict=True))
        self.fakes = inputs.detected & ~inputs.generated
        self.levels: tuple[Level, ...] = ("detector", "particle")
        if recipe.fakes == "learned" and self.fakes.any():
            self.levels = ("detector", "particle", "fakes")
        self.total, self.step = recipe.iterations * len(self.levels), 0
        shape = (len(replicas), recipe.ensemble, len(inputs.weight))
        self.result = Finished(replicas, np.ones(shape), np.ones(shape))
        self.members = self.result.push
        self._before: dict[Level, dict[str, torch.Tensor]] = {}
        self._scalings: dict[Level, Scaling] = {}
        if kept is not None and (state := kept.read()) is not None:
            self._restore(state)

    # Steps ------------------------------------------------------------------------------------------------

    def advance(self, progress: Callable[[int], None] | None) -> None:
        """Do the next step."""
        iteration, k = divmod(self.step, len(self.levels))
        level = self.levels[k]
        done = self.step * self.recipe.settings.steps
        tell = None if progress is None else lambda step: progress(done + step)
        work = {"detector": self._detector, "particle": self._particle, "fakes": self._fakes}[level]
        try:
            work(iteration, tell)
        except TrainingError as error:
            names = dict.fromkeys(replica.source for replica in self.result.replicas)
            place = f"iteration {iteration + 1}, {level} level, weights: {', '.join(names)}"
            where = f"{place}; {error.where}" if error.where else place
            raise TrainingError(error.what, where=where, expected=error.expected, fix=error.fix) from error
        self.step += 1
        if k == len(self.levels) - 1:
            self._end(iteration)
        if self._kept is not None and parallel.share(self.recipe.settings.data_parallel)[0] == 0:
            self._kept.write(self._state())

    def _detector(self, iteration: int, progress: Callable[[int], None] | None) -> None:
        """Step 1: the data against the simulation with its push weights."""
        inputs, result = self.inputs, self.result
        seen = self.factor.any(axis=(0, 1))
        table = inputs.reconstructed.select(seen)
        denominator = (self.weight * self.factor * result.push)[..., seen]
        trained = self._train(
            iteration,
            "detector",
            (inputs.data, table),
            lambda learner, seed: learner.pair(
                (inputs.data, self._stacked(self.data)), (table, self._stacked(denominator)), seed
            ),
            progress,
        )
        log_ratio = trained.log_ratio(table, self.recipe.settings)
        if iteration == 0:
            self._support(trained, log_ratio, denominator)
        ratio, _ = normalised(
            log_ratio, slice(None), self._sums(self.data), self._flat(denominator), "detector"
        )
        pull = result.push.copy()
        if self.recipe.missed == "learned":
            pull[..., seen] *= self._apart(ratio)
        else:
            pull[..., seen] *= self.factor[..., seen] * (self._apart(ratio) - 1.0) + 1.0
        gained = self._sums(self.data) / self._sums(denominator)
        after = self._flat(denominator) * ratio
        self._note(trained, iteration, "detector", ratio, gained, after)
        result.pull = self._joined(pull, self.weight * self.factor)

    def _particle(self, iteration: int, progress: Callable[[int], None] | None) -> None:
        """Step 2: the simulation with its pull weights against itself, at particle level."""
        inputs, result = self.inputs, self.result
        generated, learned = inputs.generated, self.recipe.missed == "learned"
        weight = self.weight * self.factor if learned else self.weight
        used = generated & weight.any(axis=(0, 1))
        table = inputs.truth.select(used)
        denominator = weight[..., used]
        numerator = denominator * result.pull[..., used]
        trained = self._train(
            iteration,
            "particle",
            (table,),
            lambda learner, seed: learner.reweighting(
                table, self._stacked(numerator), self._stacked(denominator), seed
            ),
            progress,
        )
        everywhere = inputs.truth.select(generated)
        ratio, log_scale = normalised(
            trained.log_ratio(everywhere, self.recipe.settings),
            used[generated],
            self._sums(numerator),
            self._flat(denominator),
            "particle",
        )
        push = np.empty_like(result.push)
        push[..., generated] = self._apart(ratio)
        if (~generated).any():
            push[..., ~generated] = self._average(result.pull)
        gained = self._sums(numerator) / self._sums(denominator)
        after = self._flat(self.weight[..., generated]) * ratio
        self._note(trained, iteration, "particle", ratio, gained, after)
        result.models["particle"] = trained.model.replace(offsets=tuple(log_scale.tolist()))
        self.members = push
        result.push = self._joined(push, self.weight * generated)
        if learned:
            missed = generated & ~inputs.detected
            result.pull[..., missed] = result.push[..., missed]

    def _fakes(self, iteration: int, progress: Callable[[int], None] | None) -> None:
        """Events without particle level get the average pull weight of the others at the same detector level."""
        inputs, result = self.inputs, self.result
        used = inputs.generated & self.factor.any(axis=(0, 1))
        table, fakes = inputs.reconstructed.select(used), inputs.reconstructed.select(self.fakes)
        denominator = (self.weight * self.factor)[..., used]
        numerator = denominator * result.pull[..., used]
        trained = self._train(
            iteration,
            "fakes",
            (table,),
            lambda learner, seed: learner.reweighting(
                table, self._stacked(numerator), self._stacked(denominator), seed
            ),
            progress,
        )
        both = EventTable.concat([table.with_features(table.features), fakes.with_features(table.features)])
        ratio, _ = normalised(
            trained.log_ratio(both, self.recipe.settings),
            slice(0, len(table)),
            self._sums(numerator),
            self._flat(denominator),
            "fakes",
        )
        own = ratio[:, len(table) :]
        gained = self._sums(numerator) / self._sums(denominator)
        after = self._flat(self.weight[..., self.fakes]) * own
        self._note(trained, iteration, "fakes", own, gained, after)
        self.members[..., self.fakes] = self._apart(own)
        result.push = self._joined(self.members, self.weight * inputs.generated)

    def _end(self, iteration: int) -> None:
        if iteration == self.recipe.iterations - 1:
            self.result.push = self.members  # the members of the last step, to be combined afterwards
        if self.recipe.keep_iterations and self.result.replicas[0].source == "nominal":
            own = self.result.pull[0].astype(np.float32), self.members[0].astype(np.float32)
            self.result.iterations.append(Iteration(*own))

    # What steps share -------------------------------------------------------------------------------------

    def _train(
        self,
        iteration: int,
        level: Level,
        tables: tuple[EventTable, ...],
        objective: Callable[[Learner, int], PairObjective | ReweightObjective],
        progress: Callable[[int], None] | None,
    ) -> Trained:
        learner, features = self._learner(level), tables[-1].features
        seed = int(np.random.SeedSequence([self.seed, iteration, _STREAM[level]]).generate_state(1)[0])
        if level not in self._scalings:
            x = np.concatenate([table.x for table in tables]) if len(tables) > 1 else tables[0].x
            self._scalings[level] = learner.network.scaling(x, features)
        before = self._before.get(level) if self.recipe.warm_start else None
        stack, settings = learner.stack(features, self._scalings[level], seed, before, level)
        checkpoint = None
        if self._kept is not None:
            checkpoint = Checkpoint(self._kept.training, digest(self._kept.key, self.step))
        trained = learner.learn(
            objective(learner, seed),
            stack,
            settings,
            features,
            first=iteration == 0,
            progress=progress,
            checkpoint=checkpoint,
        )
        state = trained.model.stacks[0].state_dict()
        self._before[level] = {name: tensor.detach().cpu() for name, tensor in state.items()}
        self.result.models[level] = trained.model
        return trained

    def _learner(self, level: Level) -> Learner:
        recipe, which = self.recipe, int(level == "particle")
        return Learner(
            recipe.networks[which],
            recipe.loss,
            recipe.settings,
            len(self.result.replicas),
            recipe.ensemble,
            self.seed,
            recipe.start[which],
            recipe.body_rate,
        )

    def _support(self, trained: Trained, log_ratio: NDArray[np.float32], weight: Array) -> None:
        """The data beyond the simulation in all features together, by the first classifier."""
        members = self.recipe.ensemble
        n = self.inputs.observed
        theirs = trained.log_ratio(self.inputs.data, self.recipe.settings)[:members, :n].mean(axis=0)
        threshold = rarest(log_ratio[:members].mean(axis=0).astype(np.float64), weight[0, 0])
        share = np.abs(self.inputs.data.weight[:n])
        beyond = float(share @ (theirs > threshold) / share.sum())
        self.result.beyond = (beyond, threshold)
        if beyond > OUTSIDE and self.result.replicas[0].source == "nominal":
            warnings.warn(
                f"{beyond:.1%} of the data have a log-ratio above {threshold:.3g}, where the simulation has less than "
                "one effective event: no simulated event can stand for them",
                NeymanWarning,
                stacklevel=4,
            )

    def _note(
        self,
        trained: Trained,
        iteration: int,
        level: Level,
        ratio: Array,
        gained: Array,
        after: Array,
    ) -> None:
        before = [any(step.separates[m] for step in self.result.steps) for m in range(len(trained.silenced))]
        if iteration == 0 and all(trained.silenced) and (any(before) or not self.result.steps):
            warnings.warn(
                f"iteration 1: no classifier separates {_WORDS[level]}: all weights are 1 but for the normalisation",
                NeymanWarning,
                stacklevel=4,
            )
        elif level != "detector":
            # Step 2 learns the whole weight each time. Where it learns nothing the prior is back; a step 1 that
            # separates nothing only says that the iterations have converged.
            lost = [m for m, own in enumerate(trained.silenced) if before[m] and own]
            if lost:
                warnings.warn(
                    f"iteration {iteration + 1}, {level} level: {len(lost)} of {len(before)} networks separate nothing "
                    f"although earlier steps did (first {lost[0]}): their weights are those of the simulation before "
                    "the unfolding; train longer, with another rate, or look at the losses",
                    NeymanWarning,
                    stacklevel=4,
                )
        self.result.steps.append(record(trained, iteration, level, ratio, gained, after))

    def _joined(self, members: Array, weight: Array) -> Array:
        """Weights to go on with: the members' own, or in step ensembling those of all members of a replica."""
        if self.recipe.mode == "parallel" or self.recipe.ensemble == 1:
            return members
        joined = [
            aggregated(own, self.recipe.aggregate, w[0]) for own, w in zip(members, weight, strict=True)
        ]
        return np.broadcast_to(np.stack(joined)[:, None], members.shape).copy()

    def _average(self, pull: Array) -> Array:
        """Average pull weight of the fakes, ``(R, E, 1)``; 1 where there are none, or their weights cancel."""
        weight = (self.weight * self.factor if self.recipe.missed == "learned" else self.weight)[
            ..., self.fakes
        ]
        total = weight.sum(axis=-1, keepdims=True)
        mean = (weight * pull[..., self.fakes]).sum(axis=-1, keepdims=True) / np.where(
            total > 0.0, total, 1.0
        )
        return np.where(total > 0.0, mean, 1.0)

    def _flat(self, weight: Array) -> Array:
        """``(R, E or 1, n)`` as ``(R E, n)``."""
        shape = (*self.result.push.shape[:2], weight.shape[-1])
        return np.broadcast_to(weight, shape).reshape(-1, weight.shape[-1])

    def _stacked(self, weight: Array) -> Array:
        """Weights for a training: ``(n,)`` where all members have the same."""
        return weight[0, 0] if weight.shape[:2] == (1, 1) else self._flat(weight)

    def _sums(self, weight: Array) -> Array:
        return self._flat(weight.sum(axis=-1, keepdims=True))[:, 0]

    def _apart(self, flat: Array) -> Array:
        return flat.reshape(*self.result.push.shape[:2], -1)

    # Interruptions ----------------------------------------------------------------------------------------

    def _state(self) -> State:
        result = self.result
        return State(
            self.step,
            {"push": result.push, "pull": result.pull, "members": self.members},
            [(own.pull, own.push) for own in result.iterations],
            [own.to_dict() for own in result.steps],
            {level: dict(own) for level, own in self._before.items()},
            {level: model.description.offsets for level, model in result.models.items()},
            result.beyond,
        )

    def _restore(self, state: State) -> None:
        result = self.result
        self.step, self.members = state.step, state.weights["members"]
        result.push, result.pull, result.beyond = state.weights["push"], state.weights["pull"], state.beyond
        result.iterations = [Iteration(*pair) for pair in state.iterations]
        result.steps = [StepRecord.from_dict(own) for own in state.records]
        for level in self.levels:
            if (tensors := state.networks.get(level)) is None:
                continue
            self._before[level] = tensors
            features = (self.inputs.truth if level == "particle" else self.inputs.reconstructed).features
            part = self._learner(level).part(len(result.replicas) * self.recipe.ensemble)
            stack = part.build(len(features), seed=None)
            stack.load_state_dict(tensors, assign=True)
            description = Description(features=features, parts=(part,), offsets=state.offsets[level])
            result.models[level] = Model([stack], description)

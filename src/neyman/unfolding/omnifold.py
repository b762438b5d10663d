r"""`OmniFold`: unbinned unfolding by iterated classification, with parallel or step ensembling.

Each iteration learns two density ratios (Andreassen et al., arXiv:1911.09107). Step 1, at detector level: data
against the simulation with its current weights; the *pull* weights are the push weights times this ratio. Step 2,
at particle level: the simulation with its pull weights against itself; the *push* weights are this ratio, a function
of the particle level alone. Ensembling follows Torales Acosta et al., algorithms 1 and 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.cluster import gpu, run_tasks
from neyman.errors import ConfigError, InputError
from neyman.events import EventTable
from neyman.files import digest
from neyman.networks import MLP, NSF, Aggregate, Architecture, Model
from neyman.training import BCE, Loss, Settings
from neyman.unfolding.aggregate import aggregated, check
from neyman.unfolding.inputs import NOMINAL, Bootstrap, Inputs, Replica, Support, WeightSet, prepare, support
from neyman.unfolding.iterate import Fakes, Finished, Missed, Mode, Recipe, iterate
from neyman.unfolding.kept import Kept
from neyman.unfolding.result import Unfolding

Rows = NDArray[np.float32]
Done = tuple[Finished, list[tuple[str, Rows]]]
Systematics = Mapping[str, WeightSet | ArrayLike | Sequence[WeightSet | ArrayLike]]
Start = Model | tuple[Model | None, Model | None] | None


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
        ``parallel``: members are independent unfoldings, combined at the end (algorithm 1), so that the aggregate can
        be chosen afterwards. ``step``: their weights are combined after every step, and all go on from there
        (algorithm 2).
    aggregate
        How weights of members are combined: ``mean``, ``median`` or ``truncated_mean``.
    network
        Architecture of the classifiers; two where the levels are described differently, (detector, particle), such as
        a :class:`neyman.networks.PET` of particles at one level and an :class:`neyman.networks.MLP` at the other.
    loss
        Loss and link.
    settings
        Training of each step: optimizer (Adam, Lion, ECD), rates, steps, early stopping.
    warm_start
        Whether the networks of an iteration start from those of the one before instead of new ones.
    body_rate
        Factor on the learning rate of what comes before the head of a network, where it starts from a trained one;
        0.2 keeps what pre-training has learned.
    missed
        Simulated events that fail the reconstruction. ``learned``: step 2 learns from the detected events the average
        weight at the same particle level, for all. ``unchanged``: they count in step 2 with their push weight.
    fakes
        Simulated events that have no particle level. ``average``: one more bin of the particle level, all get their
        average pull weight. ``learned``: the average weight of the other events at the same detector level, by a third
        classifier.
    keep_iterations
        Whether the weights after each iteration are kept.

    Examples
    --------
    >>> omnifold = OmniFold(iterations=3, ensemble=5, mode="step")
    >>> result = omnifold.fit(data, reconstructed, truth, seed=1)  # doctest: +SKIP
    >>> result.spectrum(truth.column("pt"), [0, 20, 50, 100], name="pt", unit="GeV")  # doctest: +SKIP
    """

    iterations: int = 5
    ensemble: int = 5
    mode: Mode = "parallel"
    aggregate: Aggregate = "mean"
    network: Architecture | tuple[Architecture, Architecture] = field(default_factory=MLP)
    loss: Loss = field(default_factory=BCE)
    settings: Settings = field(default_factory=Settings)
    warm_start: bool = False
    body_rate: float = 1.0
    missed: Missed = "learned"
    fakes: Fakes = "average"
    keep_iterations: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "ensemble"):
            if not isinstance(getattr(self, name), int | np.integer):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", expected="a whole number")
        if self.iterations < 1 or self.ensemble < 1:
            raise ConfigError(
                f"{self.iterations} iterations of {self.ensemble} members", expected="at least 1"
            )
        for name, known in (
            ("mode", ("parallel", "step")),
            ("missed", ("learned", "unchanged")),
            ("fakes", ("average", "learned")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}", expected=" or ".join(known))
        if len(self.networks) != 2:
            raise ConfigError(
                f"{len(self.networks)} networks", expected="one, or a pair (detector, particle)"
            )
        if any(isinstance(network, NSF) for network in self.networks):
            raise ConfigError("a flow is not a classifier", fix="use MLP or PET")
        if not 0.0 <= self.body_rate <= 1.0:
            raise ConfigError(f"body_rate is {self.body_rate}", expected="from 0 to 1")
        if self.body_rate != 1.0 and self.settings.optimizer == "ecd":
            raise ConfigError("ECD has one rate for all parameters of a network", fix="leave out body_rate")
        check(self.aggregate, self.ensemble)

    @property
    def networks(self) -> tuple[Architecture, Architecture]:
        """Architectures of the detector and of the particle level."""
        return self.network if isinstance(self.network, tuple) else (self.network, self.network)

    def fit(
        self,
        data: EventTable,
        reconstructed: EventTable,
        truth: EventTable,
        *,
        passes_reconstruction: ArrayLike | None = None,
        passes_truth: ArrayLike | None = None,
        background: EventTable | None = None,
        detector_factor: ArrayLike | None = None,
        bootstrap: Bootstrap | None = None,
        systematics: Systematics | None = None,
        start: Start = None,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        at_once: int = 32,
        client: Any = None,
        progress: Callable[[int], None] | None = None,
    ) -> Unfolding:
        r"""Unfold.

        Sums of weights count: the unfolded spectrum has the normalisation of the data, corrected for efficiency
        and for events without particle level.

        Parameters
        ----------
        data
            Observed events at detector level, of any sign of weight.
        reconstructed, truth
            The simulation at detector and at particle level: the same events in the same order with the same
            weights. Features of an event that fails a level may be anything finite.
        passes_reconstruction, passes_truth
            Which simulated events have the level, bool ``(n_events,)``; all by default.
        background
            Simulated background at detector level, subtracted from the data by negative weights.
        detector_factor
            Factors on the weights at detector level alone, such as efficiency scale factors, ``(n_events,)``.
        bootstrap
            Replicas of data and simulation, from which the covariance is made.
        systematics
            Variations of the simulation that change weights: by name one set or two (up, down) of factors on the event
            weights, or a :class:`WeightSet`.
        start
            Trained classifier(s) to begin with instead of random networks: one for both levels (which must then have as
            many features), or a pair (detector, particle). Member e starts from its member e modulo their number.
        seed
            Seed of initialisation, batch order, held-out events and bootstrap.
        checkpoint
            Folder in which the state is kept after every step, and at every evaluation within one; the same call goes
            on from there after an interruption. It stays when the unfolding is finished.
        at_once
            Networks trained together in the unfolding of replicas and variations.
        client
            A ``dask.distributed.Client``, over whose workers the replicas and variations are spread.
        progress
            Called with the number of finished optimizer steps of all trainings together, see :meth:`optimizer_steps`;
            not with a client.

        Raises
        ------
        InputError
            When the levels have different events or weights, features differ, no event passes both levels, or an array
            has another shape.
        TrainingError
            When a class has no positive total weight, a training fails, a weight is infinite, or a checkpoint is of
            another unfolding.

        Warns
        -----
        NeymanWarning
            When more than 1% of the data lie outside the simulation's support, one event carries more than 5% of the
            weight, or the first step separates nothing.
        """
        _check_arguments(bootstrap, start, client, seed)
        inputs = prepare(
            data,
            reconstructed,
            truth,
            passes_reconstruction=passes_reconstruction,
            passes_truth=passes_truth,
            background=background,
            detector_factor=detector_factor,
            systematics=systematics,
            seed=seed,
        )
        found = support(inputs)
        tasks = self._tasks(inputs, bootstrap, at_once)
        recipes = [
            replace(self._recipe(start), ensemble=members, aggregate=self._aggregate(members))
            for members, _ in tasks
        ]
        if self.missed == "unchanged" and (inputs.factor > 1.0).any():
            raise InputError(
                f"detector_factor is {inputs.factor.max():g} in event {int(inputs.factor.argmax())}: more than all "
                "of it is detected, which leaves a negative part that is missed",
                fix='use missed="learned"',
            )
        folder = None if checkpoint is None else Path(checkpoint)
        key = ""
        if folder is not None:
            plain = replace(recipes[0], start=(None, None))
            key = digest(repr(plain), _start_digest(start), seed, inputs.digest())
        kept = [
            None if folder is None else _kept(folder, key, members, replicas) for members, replicas in tasks
        ]
        calls = list(zip(recipes, (replicas for _, replicas in tasks), kept, strict=True))
        if client is not None:
            done = run_tasks(
                client,
                _away,
                calls,
                shared=(inputs, seed),
                resources=self._resources(client),
                label="group of replicas",
            )
        else:
            done = []
            for k, (recipe, replicas, place) in enumerate(calls):
                before = k * self._trainings(inputs) * self.settings.steps
                tell = None if progress is None else (lambda step, before=before: progress(before + step))
                done.append(_task(recipe, inputs, replicas, seed, place, tell))
        return self._result(inputs, done, found)

    def passes(
        self,
        n: int,
        data: EventTable,
        reconstructed: EventTable,
        truth: EventTable,
        *,
        seed: int,
        client: Any = None,
        progress: Callable[[int], None] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        **events: Any,
    ) -> tuple[Unfolding, ...]:
        """Unfold n times with other seeds: initial networks, batch orders and held-out events.

        Parameters
        ----------
        n
            Number of full passes.
        data, reconstructed, truth, **events
            As for :meth:`fit`.
        seed
            Seed, from which each pass has its own.
        client
            A ``dask.distributed.Client``, over whose workers the passes are spread.
        progress
            Called with the number of finished optimizer steps; not with a client.
        checkpoint
            Folder with a folder for each pass.

        Raises
        ------
        ConfigError
            When n is not positive.
        """
        if n < 1:
            raise ConfigError(f"{n} passes", expected="at least 1")
        seeds = [int(np.random.SeedSequence([seed, k]).generate_state(1)[0]) for k in range(n)]
        folders = [None if checkpoint is None else Path(checkpoint) / f"pass-{k:03d}" for k in range(n)]
        if client is None:
            results = []
            for k, (own, folder) in enumerate(zip(seeds, folders, strict=True)):
                done = k * self.iterations * 2 * self.settings.steps
                tell = None if progress is None else (lambda step, done=done: progress(done + step))
                results.append(
                    self.fit(data, reconstructed, truth, seed=own, checkpoint=folder, progress=tell, **events)
                )
            return tuple(results)
        work = (self, (data, reconstructed, truth), events)
        return tuple(
            run_tasks(
                client,
                _pass,
                list(zip(seeds, folders, strict=True)),
                shared=work,
                resources=self._resources(client),
                label="pass",
            )
        )

    def optimizer_steps(
        self, *, bootstrap: Bootstrap | None = None, systematics: int = 0, at_once: int = 32
    ) -> int:
        """Return the number of optimizer steps of :meth:`fit`, to which `progress` counts.

        Without `fakes` that are learned; `systematics` is the number of weight sets.
        """
        n = bootstrap or Bootstrap()
        groups = (
            1
            + _groups(n.data + n.simulation, n.ensemble, at_once)
            + _groups(systematics, self.ensemble, at_once)
        )
        return groups * self.iterations * 2 * self.settings.steps

    # Parts --------------------------------------------------------------------------------------------------

    def _resources(self, client: Any) -> dict[str, float] | None:
        return None if self.settings.device == "cpu" else gpu(client)

    def _recipe(self, start: Start) -> Recipe:
        own = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "network"}
        pair = start if isinstance(start, tuple) else (start, start)
        return Recipe(networks=self.networks, start=pair, **own)

    def _aggregate(self, members: int) -> Aggregate:
        """Replicas of one or two members have no truncated mean; they take the mean."""
        return "mean" if members < 3 and self.aggregate == "truncated_mean" else self.aggregate

    def _trainings(self, inputs: Inputs) -> int:
        fakes = self.fakes == "learned" and bool((inputs.detected & ~inputs.generated).any())
        return self.iterations * (3 if fakes else 2)

    def _tasks(
        self, inputs: Inputs, bootstrap: Bootstrap | None, at_once: int
    ) -> list[tuple[int, tuple[Replica, ...]]]:
        """What is unfolded together: the number of members, and the replicas."""
        n = bootstrap or Bootstrap()
        drawn = [
            Replica(s, k)
            for s, count in (("data", n.data), ("simulation", n.simulation))
            for k in range(count)
        ]
        varied = [Replica(name, k) for name, sets in inputs.systematics.items() for k in range(len(sets))]
        tasks: list[tuple[int, tuple[Replica, ...]]] = [(self.ensemble, (NOMINAL,))]
        for members, replicas in ((n.ensemble, drawn), (self.ensemble, varied)):
            size = max(1, at_once // members)
            tasks += [(members, tuple(replicas[i : i + size])) for i in range(0, len(replicas), size)]
        return tasks

    def _result(self, inputs: Inputs, done: Sequence[Done], found: Support) -> Unfolding:
        nominal = done[0][0]
        share, threshold = nominal.beyond
        rows: dict[str, list[Rows]] = {}
        for _, unfolded in done:
            for source, own in unfolded:
                rows.setdefault(source, []).append(own)
        stacked = {name: np.stack(own) for name, own in rows.items()}
        varied = {name: stacked.pop(name) for name in inputs.systematics}
        return Unfolding(
            inputs.weight,
            nominal.push[0],
            nominal.pull[0],
            inputs.generated,
            inputs.detected,
            inputs.factor,
            self.aggregate,
            self.mode,
            tuple(nominal.steps),
            replace(found, beyond=share, threshold=threshold),
            tuple(nominal.iterations),
            stacked,
            varied,
            nominal.models,
        )


def _task(
    recipe: Recipe,
    inputs: Inputs,
    replicas: tuple[Replica, ...],
    seed: int,
    kept: Kept | None,
    progress: Callable[[int], None] | None = None,
) -> Done:
    """Run one task here or on a worker: what it leaves of the nominal weights, or one row a replica."""
    finished = iterate(recipe, inputs, replicas, seed=seed, kept=kept, progress=progress)
    if replicas == (NOMINAL,):
        return finished, []
    rows = []
    for replica, members in zip(replicas, finished.push, strict=True):
        weight = inputs.weights(replica)[1] * inputs.generated
        own = weight * aggregated(members, recipe.aggregate, weight)
        rows.append((replica.source, own.astype(np.float32)))
    return replace(finished, push=finished.push[:0], pull=finished.pull[:0]), rows


def _away(call: tuple[Recipe, tuple[Replica, ...], Kept | None], of: tuple[Inputs, int]) -> Done:
    (recipe, replicas, place), (inputs, seed) = call, of
    return _task(recipe, inputs, replicas, seed, place)


def _pass(
    call: tuple[int, Path | None], of: tuple[OmniFold, tuple[EventTable, ...], dict[str, Any]]
) -> Unfolding:
    (seed, folder), (omnifold, (data, reconstructed, truth), events) = call, of
    return omnifold.fit(data, reconstructed, truth, seed=seed, checkpoint=folder, **events)


def _kept(folder: Path, key: str, members: int, replicas: tuple[Replica, ...]) -> Kept:
    own = digest(key, members, repr(replicas))
    return Kept(
        folder,
        "nominal" if replicas == (NOMINAL,) else f"replicas-{digest(members, repr(replicas))[:8]}",
        own,
    )


def _groups(replicas: int, members: int, at_once: int) -> int:
    size = max(1, at_once // members)
    return -(-replicas // size)


def _start_digest(start: Start) -> list[str]:
    from neyman.networks import tensors_digest

    models = start if isinstance(start, tuple) else (start,)
    return ["" if model is None else tensors_digest(model.stacks[0].state_dict()) for model in models]


def _check_arguments(bootstrap: Any, start: Any, client: Any, seed: Any) -> None:
    """Say what the arguments are that have another type.

    Raises
    ------
    ConfigError
        For one of them.
    """
    pair = start if isinstance(start, tuple) else (start, start)
    for good, name, given, expected in (
        (bootstrap is None or isinstance(bootstrap, Bootstrap), "bootstrap", bootstrap, "Bootstrap(data=50)"),
        (
            len(pair) == 2 and all(own is None or isinstance(own, Model) for own in pair),
            "start",
            start,
            "a Model (Model.load reads a file), or a pair of them (detector, particle)",
        ),
        (client is None or hasattr(client, "submit"), "client", client, "a dask.distributed.Client"),
        (isinstance(seed, int | np.integer) and seed >= 0, "seed", seed, "a whole number, 0 or more"),
    ):
        if not good:
            raise ConfigError(f"{name} is {given!r:.80}", expected=expected)

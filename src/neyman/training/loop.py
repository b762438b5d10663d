"""The training loop of stacked networks: every member has its own data order, loss, and best state.

There is one loop for all of neyman: a caller gives an `Objective`, which turns a step number into one loss a
member, and a held-out loss a member. Members never mix: the gradient of the sum of their losses is the stack of
their own gradients, so an ensemble equals its members trained one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from neyman.errors import TrainingError, nearest
from neyman.networks import Stack
from neyman.training import memory, parallel
from neyman.training.checkpoint import Checkpoint, History, State
from neyman.training.losses import Loss
from neyman.training.optimizers import make, needs_closure
from neyman.training.settings import Settings


class Objective(Protocol):
    """What is minimised, one number a member."""

    def loss(self, network: Stack, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of `step`, shape ``(members,)``."""

    def validation(self, network: Stack) -> torch.Tensor:
        """Return the members' held-out losses, shape ``(members,)``."""

    @property
    def classifier_loss(self) -> Loss | None:
        """The loss of a classifier, from which ECD takes its default F0; None for another objective."""
        return None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what the objective itself learns, which a checkpoint keeps and restores in place."""
        return {}

    def explain(self, step: int, member: int) -> str:  # noqa: ARG002
        """Return what may have made the loss of a member on the batch of `step` not finite."""
        return ""


def train(
    network: Stack,
    objective: Objective,
    settings: Settings,
    *,
    progress: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train a stack and leave every member in its best state by held-out loss.

    Parameters
    ----------
    network
        Trained in place, on the device where it is; parameters that do not require a gradient stay as they are.
    objective
        Losses of the members.
    settings
        Steps, optimizer, rates and evaluations.
    progress
        Called with the number of finished steps.
    checkpoint
        Where the state is kept at every evaluation; a training that finds its own state there goes on from it, and
        ends in the same networks, bit by bit, as one that was never stopped. Removed at the end.

    Raises
    ------
    TrainingError
        When a loss is not finite, naming the batch and its most extreme input; the network is left in its best
        state so far.
    """
    run = _Training(network, objective, settings)
    if checkpoint is not None and (state := checkpoint.read()) is not None:
        run.restore(state)
    every = max(1, settings.steps // settings.evaluations)
    with memory.kept():
        while run.step < settings.steps and bool(run.best.active.any()):
            run.advance()
            if run.step % every == 0 or run.step == settings.steps:
                run.evaluate()
                if checkpoint is not None and run.first:
                    checkpoint.write(run.state())
            if progress is not None:
                progress(run.step)
    run.best.restore()
    run.history.best_step.extend(run.best.step)
    if checkpoint is not None and run.first:
        checkpoint.remove()
    return run.history


class _Training:
    def __init__(self, network: Stack, objective: Objective, settings: Settings) -> None:
        self.network, self.objective, self.settings = network, objective, settings
        self.forward: Stack = torch.compile(network) if settings.compile else network  # type: ignore[assignment]
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            raise TrainingError("all parameters of the network are frozen", fix="freeze fewer layers")
        self._trained = trained
        self._rank, self._processes = parallel.share(settings.data_parallel)
        self.optimizer = make(
            settings.optimizer,
            trained if not settings.rate_factors else _groups(network, settings.rate_factors),
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            members=network.members,
            loss=objective.classifier_loss,
            options=settings.optimizer_options,
            first=network.first,
        )
        self._closure = needs_closure(self.optimizer)
        self.device = trained[0].device
        self.best = _Best(network, settings.patience)
        self.running = torch.zeros(network.members, device=self.device)
        self.history, self.step = History(), 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files of all."""
        return self._rank == 0

    def advance(self) -> None:
        """Take one step."""
        for group in self.optimizer.param_groups:
            own = group.get("factor", 1.0)
            group["lr"] = self.settings.learning_rate * self.settings.rate(self.step) * own
        losses = self._losses()
        if self._closure:
            self.optimizer.step(lambda: losses)  # type: ignore[arg-type, return-value]
        else:
            self.optimizer.step()
        self.running += losses
        self.step += 1

    def _losses(self) -> torch.Tensor:
        """The members' losses, with their gradients in place."""
        self.optimizer.zero_grad(set_to_none=True)
        mixed = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed):
            losses = self.objective.loss(self.forward, self.step)
        active = self.best.active
        found = losses.detach().clone()
        parallel.average([found], self._processes)
        if not bool(torch.isfinite(found[active]).all()):
            self._fail(found)
        # A member that has stopped keeps its place in the stack and takes no further part.
        torch.autograd.backward(torch.where(active, losses, self.best.loss).sum())
        if self._processes > 1:
            parallel.average([p.grad for p in self._trained if p.grad is not None], self._processes)
        return torch.where(active, found, self.best.loss)

    def _fail(self, losses: torch.Tensor) -> None:
        self.best.restore()
        bad = [int(i) for i in torch.nonzero(~torch.isfinite(losses) & self.best.active)[:, 0]]
        with torch.no_grad():
            reason = self.objective.explain(self.step, bad[0])
        raise TrainingError(
            f"the loss of member {', '.join(map(str, bad))} is not finite at step {self.step}",
            where=reason or f"losses {[f'{v:.3g}' for v in losses.tolist()]}",
            expected="finite losses; the networks are left in their best state so far",
            fix="lower learning_rate, or look for extreme features or weights",
        )

    def evaluate(self) -> None:
        """Compute the held-out losses."""
        with torch.no_grad():
            held_out = self.objective.validation(self.network)
        since = self.step - (self.history.steps[-1] if self.history.steps else 0)
        self.history.steps.append(self.step)
        self.history.training.append((self.running / since).tolist())
        self.history.validation.append(held_out.tolist())
        self.best.update(held_out.to(self.device), self.step)
        self.running.zero_()

    def state(self) -> State:
        """Everything that :meth:`restore` needs."""
        weights: dict[str, torch.Tensor] = dict(self.network.named_parameters())
        groups = {"network": weights, "best": self.best.tensors(), "objective": self.objective.tensors()}
        return State(self.step, self.history, groups, self.optimizer.state_dict())

    def restore(self, state: State) -> None:
        """Go back to a state."""
        try:
            with torch.no_grad():
                for name, parameter in self.network.named_parameters():
                    parameter.copy_(state.groups["network"][name])
                for name, own in self.objective.tensors().items():
                    own.copy_(state.groups["objective"][name])
            self.best.load(state.groups["best"])
            self.optimizer.load_state_dict(state.optimizer)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the checkpoint does not fit the networks: {error}") from error
        self.history, self.step = state.history, state.step


def _groups(network: Stack, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the trained parameters in groups of one factor on the learning rate."""
    groups: dict[float, list[torch.Tensor]] = {}
    for prefix in factors:
        if not any(name.startswith(prefix) for name, _ in network.named_parameters()):
            names = [name for name, _ in network.named_parameters()]
            raise TrainingError(
                f"there is no network parameter {prefix!r} with a rate of its own",
                fix=f"nearest names: {nearest(prefix, names)}",
            )
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            own = next((factor for prefix, factor in factors.items() if name.startswith(prefix)), 1.0)
            groups.setdefault(own, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


class _Best:
    """Best state of each member so far, and which members still train."""

    def __init__(self, network: Stack, patience: int | None) -> None:
        self._parameters = list(network.parameters())
        self._state = [p.detach().clone() for p in self._parameters]
        device, members = self._parameters[0].device, network.members
        self._loss = torch.full((members,), math.inf, device=device)
        self._step = torch.zeros(members, dtype=torch.int64, device=device)
        self._waited = torch.zeros(members, dtype=torch.int64, device=device)
        self._patience = patience
        self.active = torch.ones(members, dtype=torch.bool, device=device)

    @property
    def step(self) -> list[int]:
        return [int(step) for step in self._step]

    @property
    def loss(self) -> torch.Tensor:
        return torch.nan_to_num(self._loss, posinf=0.0)

    def update(self, loss: torch.Tensor, step: int) -> None:
        better = (loss < self._loss) & self.active
        self._loss = torch.where(better, loss, self._loss)
        self._step = torch.where(better, step, self._step)
        for state, parameter in zip(self._state, self._parameters, strict=True):
            state[better] = parameter.detach()[better]
        self._waited = torch.where(better, 0, self._waited + 1)
        if self._patience is not None:
            self.active &= self._waited < self._patience

    def restore(self) -> None:
        with torch.no_grad():
            for state, parameter in zip(self._state, self._parameters, strict=True):
                parameter.copy_(state)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"state.{k}": state for k, state in enumerate(self._state)} | dict(self._numbers())

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        for k, state in enumerate(self._state):
            state.copy_(tensors[f"state.{k}"])
        for name, own in self._numbers():
            own.copy_(tensors[name])

    def _numbers(self) -> Sequence[tuple[str, torch.Tensor]]:
        return (
            ("loss", self._loss),
            ("step", self._step),
            ("waited", self._waited),
            ("active", self.active),
        )

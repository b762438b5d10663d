"""The training loop of stacked networks: every member has its own data order, loss, and best state.

There is one loop for all of neyman: a caller gives an `Objective`, which turns a step number into one loss a
member, and a held-out loss a member. Members never mix: the gradient of the sum of their losses is the stack of
their own gradients, so an ensemble equals its members trained one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from neyman.errors import ConfigError, TrainingError
from neyman.networks import StackedMLP


@dataclass(frozen=True)
class Settings:
    """How a stack of networks is trained.

    Parameters
    ----------
    steps
        Optimizer steps.
    batch_size
        Events of each class in a step.
    learning_rate
        Peak rate of Adam.
    warmup
        Fraction of the steps over which the rate rises linearly.
    schedule
        ``cosine`` falls to zero at the last step, ``constant`` does not fall.
    validation_fraction
        Fraction of the events held out to choose each member's best state.
    evaluations
        How often the held-out loss is computed over the training.
    """

    steps: int = 2000
    batch_size: int = 1024
    learning_rate: float = 2e-3
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    validation_fraction: float = 0.2
    evaluations: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "evaluations"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        if not 0.0 <= self.warmup < 1.0:
            raise ConfigError(f"warmup is a fraction of the steps below 1, got {self.warmup}")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"unknown schedule {self.schedule!r}", expected="cosine or constant")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based), as a fraction of the peak."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Objective(Protocol):
    """What is minimised, one number a member."""

    def loss(self, network: StackedMLP, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of `step`, shape ``(members,)``."""

    def validation(self, network: StackedMLP) -> torch.Tensor:
        """Return the members' held-out losses, shape ``(members,)``."""


@dataclass(frozen=True)
class History:
    """Losses during a training; each list entry has one number a member."""

    steps: list[int] = field(default_factory=list)
    training: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    best_step: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, list[int] | list[list[float]]]:
        """Return plain data."""
        return {
            "steps": self.steps,
            "training": self.training,
            "validation": self.validation,
            "best_step": self.best_step,
        }


def train(
    network: StackedMLP,
    objective: Objective,
    settings: Settings,
    *,
    progress: Callable[[int], None] | None = None,
) -> History:
    """Train a stack with Adam and leave every member in its best state by held-out loss.

    Parameters
    ----------
    network
        Trained in place.
    objective
        Losses of the members.
    settings
        Steps, rates and evaluations.
    progress
        Called with the number of finished steps.

    Raises
    ------
    TrainingError
        When a loss is not finite; the network is left in its best state so far.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    every = max(1, settings.steps // settings.evaluations)
    history = History()
    best = _Best(network)
    running = torch.zeros(network.members)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step)
        optimizer.zero_grad(set_to_none=True)
        losses = objective.loss(network, step)
        if not bool(torch.isfinite(losses).all()):
            best.restore()
            bad = [int(i) for i in torch.nonzero(~torch.isfinite(losses))[:, 0]]
            raise TrainingError(
                f"the loss of member {', '.join(map(str, bad))} is not finite at step {step}",
                where=f"losses {[f'{v:.3g}' for v in losses.tolist()]}",
                fix="lower learning_rate, or look for extreme features or weights",
            )
        torch.autograd.backward(losses.sum())
        optimizer.step()
        running += losses.detach()
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            with torch.no_grad():
                held_out = objective.validation(network)
            since = step + 1 - (history.steps[-1] if history.steps else 0)
            history.steps.append(step + 1)
            history.training.append((running / since).tolist())
            history.validation.append(held_out.tolist())
            best.update(held_out, step + 1)
            running.zero_()
        if progress is not None:
            progress(step + 1)
    best.restore()
    history.best_step.extend(best.step)
    return history


class _Best:
    """Best state of each member so far."""

    def __init__(self, network: StackedMLP) -> None:
        self._parameters = list(network.parameters())
        self._state = [p.detach().clone() for p in self._parameters]
        self._loss = torch.full((network.members,), math.inf)
        self.step = [0] * network.members

    def update(self, loss: torch.Tensor, step: int) -> None:
        better = loss < self._loss
        self._loss = torch.where(better, loss, self._loss)
        for state, parameter in zip(self._state, self._parameters, strict=True):
            state[better] = parameter.detach()[better]
        self.step = [step if b else old for b, old in zip(better.tolist(), self.step, strict=True)]

    def restore(self) -> None:
        with torch.no_grad():
            for state, parameter in zip(self._state, self._parameters, strict=True):
                parameter.copy_(state)

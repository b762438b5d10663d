"""Objectives of density estimation: `DensityObjective` fits a flow to events, `ResidualObjective` a classifier of
events against what a flow makes of them."""

from __future__ import annotations

import numpy as np
import torch

from neyman.networks import Stack, StackedFlow
from neyman.training.batches import Order, Sample, Tensors, most_extreme
from neyman.training.loop import Objective
from neyman.training.losses import Loss

_VALIDATION_BATCH = 1 << 13


class DensityObjective(Objective):
    r"""Negative log-likelihood of the events under a stack of flows.

    .. math:: L = -\langle w \ln p(x|z) \rangle

    with the weights scaled to mean 1. The minimum is :math:`p(x|z)` whatever the density of z, and also where the
    mean weight depends on z.

    Weights may be negative. In expectation L is then still bounded below by the entropy of the density that the
    signed sample stands for. On a finite sample it is not: a flow can lower L without end by leaving no probability
    where negative events lie. That is overfitting, seen at once in the loss of held-out events, which chooses the
    best state of each member.

    Parameters
    ----------
    training, validation
        Events.
    members
        Number of flows; member m draws its batches in its own order, the same whatever the number of members.
    batch_size
        Events in a batch.
    seed
        Seed of the batch order.
    features
        Names of the inputs, nuisance parameters included, for messages.
    device
        Where the events are kept.
    first
        Number of the first member, where the others are trained elsewhere.

    Raises
    ------
    TrainingError
        When there are no events or their weights have no positive sum.
    """

    def __init__(
        self,
        training: Sample,
        validation: Sample,
        *,
        members: int,
        batch_size: int,
        seed: int,
        features: tuple[str, ...] = (),
        device: torch.device | None = None,
        first: int = 0,
    ) -> None:
        self._training, self._held_out = Tensors(training, device), Tensors(validation, device)
        self._order = Order(len(training), batch_size, members, seed=(seed, 0), first=first)
        self._features = features

    def loss(self, network: Stack, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of a step."""
        x, weight, z = self._training.take(self._order.rows(step).to(self._training.x.device))
        losses: torch.Tensor = -(weight * network(_inputs(x, z))[..., 0]).mean(dim=1)
        return losses

    def validation(self, network: Stack) -> torch.Tensor:
        """Return the members' losses on all held-out events."""
        own = self._held_out
        inputs = _inputs(own.x, own.z)
        total = torch.zeros(network.members, dtype=torch.float64, device=own.x.device)
        for batch, weight in zip(
            torch.split(inputs, _VALIDATION_BATCH),
            torch.split(own.weight, _VALIDATION_BATCH, dim=-1),
            strict=True,
        ):
            total -= (network(batch)[..., 0] * weight).sum(dim=1).double() / len(inputs)
        return total.float()

    def explain(self, step: int, member: int) -> str:
        """Say which input of a batch is the most extreme, for a loss that is not finite."""
        x, _, z = self._training.take(self._order.rows(step).to(self._training.x.device))
        return most_extreme(_inputs(x, z)[member], self._features)


class ResidualObjective(Objective):
    r"""Density-ratio loss of events against a flow's own events at the same nuisance parameters.

    .. math:: L = \tfrac12 \langle w\, l_+(f(x, z)) \rangle + \tfrac12 \langle w\, l_-(f(x', z)) \rangle,
              \quad x' \sim p_\mathrm{flow}(\cdot|z)

    An event and its counterpart from the flow share z and weight, so that their densities of z cancel exactly, and
    the minimum is :math:`\ln p(x|z)/p_\mathrm{flow}(x|z)`. Counterparts are drawn afresh at every step; member m of
    the classifier sees those of member m of the flow.

    Parameters
    ----------
    loss
        Loss and link.
    flow
        The flows, as many as the classifiers.
    training, validation, batch_size, seed, features, device
        As for :class:`DensityObjective`.

    Raises
    ------
    TrainingError
        When there are no events or their weights have no positive sum.
    """

    def __init__(
        self,
        loss: Loss,
        flow: StackedFlow,
        training: Sample,
        validation: Sample,
        *,
        batch_size: int,
        seed: int,
        features: tuple[str, ...] = (),
        device: torch.device | None = None,
    ) -> None:
        self._loss, self._flow, self._seed = loss, flow, seed
        self._training, self._held_out = Tensors(training, device), Tensors(validation, device)
        self._order = Order(len(training), batch_size, flow.members, seed=(seed, 1))
        self._features = features
        self._counterparts = self._draw(self._held_out.x, self._held_out.z, 0)

    @property
    def classifier_loss(self) -> Loss | None:
        """The loss."""
        return self._loss

    def loss(self, network: Stack, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of a step."""
        x, weight, z = self._training.take(self._order.rows(step).to(self._training.x.device))
        n = x.shape[1]
        drawn = self._draw(x, z, step + 1)
        out = network(torch.cat([_inputs(x, z), _inputs(drawn, z)], dim=1))[..., 0]
        return self._mean(out[:, :n], out[:, n:], weight).mean(dim=1)

    def validation(self, network: Stack) -> torch.Tensor:
        """Return the members' losses on all held-out events and their counterparts."""
        own, members = self._held_out, network.members
        total = torch.zeros(members, dtype=torch.float64, device=own.x.device)
        for start in range(0, len(own), _VALIDATION_BATCH):
            rows = slice(start, start + _VALIDATION_BATCH)
            z = None if own.z is None else own.z[rows]
            drawn = self._counterparts[:, rows]
            both = None if z is None else z.expand(members, -1, -1)
            outs = network(_inputs(own.x[rows], z)), network(_inputs(drawn, both))
            total += self._mean(outs[0][..., 0], outs[1][..., 0], own.weight[..., rows]).sum(dim=1).double()
        return (total / len(own)).float()

    def explain(self, step: int, member: int) -> str:
        """Say which input of a batch is the most extreme, for a loss that is not finite."""
        x, _, z = self._training.take(self._order.rows(step).to(self._training.x.device))
        return most_extreme(_inputs(x, z)[member], self._features)

    def _mean(self, real: torch.Tensor, drawn: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return 0.5 * weight * (self._loss.numerator(real) + self._loss.denominator(drawn))

    def _draw(self, x: torch.Tensor, z: torch.Tensor | None, number: int) -> torch.Tensor:
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return self._flow.sample(x[..., :0] if z is None else z, seed=seed)


def _inputs(x: torch.Tensor, z: torch.Tensor | None) -> torch.Tensor:
    return x if z is None else torch.cat([x, z], dim=-1)

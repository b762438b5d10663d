"""Two-class training data: numerator and denominator events in batches of their own for every member."""

from __future__ import annotations

import torch

from neyman.networks import Stack
from neyman.training.batches import Order, Sample, Tensors, most_extreme
from neyman.training.loop import Objective
from neyman.training.losses import Loss

_VALIDATION_BATCH = 1 << 13


class PairObjective(Objective):
    r"""Density-ratio loss of numerator against denominator.

    .. math:: L = \tfrac12 \langle w\, l_+(f(x, z)) \rangle_p + \tfrac12 \langle w\, l_-(f(x, z')) \rangle_q

    with the weights of each class scaled to mean 1, so that unequal class sizes need no shift of the log-odds.
    Where the numerator carries nuisance parameters z and the denominator does not, :math:`z'` are the z of the
    numerator events of the same batch: p(z) is then the same in both classes and cancels, and the minimum is
    :math:`\ln p(x|z)/q(x)` (arXiv:2503.07962, section III).

    Parameters
    ----------
    loss
        Loss and link.
    training, validation
        Numerator and denominator of each.
    features
        Names of the inputs, nuisance parameters included, for messages.
    members
        Number of networks; member m draws from its own generator, the same whatever the number of members.
    batch_size
        Events of each class in a batch.
    seed
        Seed of the batch order.
    device
        Where the events are kept.
    """

    def __init__(
        self,
        loss: Loss,
        training: tuple[Sample, Sample],
        validation: tuple[Sample, Sample],
        *,
        members: int,
        batch_size: int,
        seed: int,
        features: tuple[str, ...] = (),
        device: torch.device | None = None,
    ) -> None:
        self._loss = loss
        self._numerator, self._denominator = (Tensors(sample, device) for sample in training)
        self._held_out = tuple(Tensors(sample, device) for sample in validation)
        self._orders = [
            Order(len(sample), batch_size, members, seed=(seed, k)) for k, sample in enumerate(training)
        ]
        self._features = features

    @property
    def classifier_loss(self) -> Loss:
        """The loss."""
        return self._loss

    def loss(self, network: Stack, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of a step."""
        inputs, n, weights = self._batch(step)
        out = network(inputs)[..., 0]
        plus = (weights[0] * self._loss.numerator(out[:, :n])).mean(dim=1)
        minus = (weights[1] * self._loss.denominator(out[:, n:])).mean(dim=1)
        return 0.5 * (plus + minus)

    def _batch(self, step: int) -> tuple[torch.Tensor, int, tuple[torch.Tensor, torch.Tensor]]:
        """Inputs of both classes one after the other, where the second begins, and the weights."""
        device = self._numerator.x.device
        rows_p, rows_q = (order.rows(step).to(device) for order in self._orders)
        x_p, w_p, z = self._numerator.take(rows_p)
        x_q, w_q, z_q = self._denominator.take(rows_q)
        if z is not None:
            if z_q is None:
                z_q = _recycle(z, x_q.shape[1], dim=1)
            x_p, x_q = torch.cat([x_p, z], dim=-1), torch.cat([x_q, z_q], dim=-1)
        return torch.cat([x_p, x_q], dim=1), x_p.shape[1], (w_p, w_q)

    def validation(self, network: Stack) -> torch.Tensor:
        """Return the members' losses on all held-out events."""
        numerator, denominator = self._held_out
        z = numerator.z
        z_q = denominator.z
        if z is None:
            z_q = None
        elif z_q is None:
            z_q = _recycle(z, len(denominator), dim=0)
        total = torch.zeros(network.members, dtype=torch.float64, device=numerator.x.device)
        for sample, values, link in (
            (numerator, z, self._loss.numerator),
            (denominator, z_q, self._loss.denominator),
        ):
            inputs = sample.x if values is None else torch.cat([sample.x, values], dim=-1)
            for batch, weight in zip(
                torch.split(inputs, _VALIDATION_BATCH),
                torch.split(sample.weight, _VALIDATION_BATCH, dim=-1),
                strict=True,
            ):
                total += 0.5 * (link(network(batch)[..., 0]) * weight).sum(dim=1).double() / len(inputs)
        return total.float()

    def explain(self, step: int, member: int) -> str:
        """Say which input of a batch is the most extreme, for a loss that is not finite."""
        inputs, n, _ = self._batch(step)
        return f"{most_extreme(inputs[member], self._features)} (the denominator begins at {n})"


def _recycle(z: torch.Tensor, n: int, dim: int) -> torch.Tensor:
    """Repeat the values along `dim` until there are n."""
    rows = torch.arange(n, device=z.device) % z.shape[dim]
    return z.index_select(dim, rows)

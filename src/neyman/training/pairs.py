"""Two-class training data: `PairObjective` for two samples, `ReweightObjective` for two weightings of one sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.networks import Stack
from neyman.training import parallel
from neyman.training.batches import Order, Sample, Tensors, most_extreme, picked, scaled
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
    copies
        How often the members are repeated: `members` is a multiple of it, and every copy of a member sees the events
        in the same order (with other weights, say).
    share
        Number of this process and of all that share a batch.
    first
        Number of the first member, where the others are trained elsewhere.
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
        copies: int = 1,
        share: parallel.Share = parallel.ALONE,
        first: int = 0,
    ) -> None:
        self._loss, self._copies, self._share = loss, copies, share
        self._numerator, self._denominator = (Tensors(sample, device) for sample in training)
        self._held_out = tuple(Tensors(sample, device) for sample in validation)
        self._orders = [
            Order(len(sample), batch_size, members // copies, seed=(seed, k), first=first)
            for k, sample in enumerate(training)
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
        rows_p, rows_q = (order.rows(step).to(device).repeat(self._copies, 1) for order in self._orders)
        z = self._numerator.parameters(rows_p)
        z_q = self._denominator.parameters(rows_q)
        if z is not None and z_q is None:
            z_q = _recycle(z, rows_q.shape[1], dim=1)
        x_p, w_p = self._part(self._numerator, rows_p, z)
        x_q, w_q = self._part(self._denominator, rows_q, None if z is None else z_q)
        return torch.cat([x_p, x_q], dim=1), x_p.shape[1], (w_p, w_q)

    def _part(
        self, sample: Tensors, rows: torch.Tensor, z: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's part of a batch; its mean of the weighted losses, averaged over processes, is the batch's."""
        rank, processes = self._share
        own = rows[:, rank::processes]
        x, weight, _ = sample.take(own)
        if processes > 1:
            weight = weight * (own.shape[1] * processes / rows.shape[1])
            z = None if z is None else z[:, rank::processes]
        return x if z is None else torch.cat([x, z], dim=-1), weight

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
            for batch, (weight,) in _batches(inputs, (sample.weight,), self._share):
                total += 0.5 * (link(network(batch)[..., 0]) * weight).sum(dim=1).double() / len(inputs)
        return parallel.total(total, self._share[1]).float()

    def advantage(self, network: Stack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return by how much the members' held-out losses are below that of ratio 1, and the standard errors of this.

        Over all held-out events, those without nuisance parameters.
        """
        means: list[torch.Tensor] = []
        squares: list[torch.Tensor] = []
        with torch.no_grad():
            for sample, link in zip(
                self._held_out, (self._loss.numerator, self._loss.denominator), strict=True
            ):
                terms = [
                    weight * (self._loss.flat() - link(network(batch)[..., 0]))
                    for batch, (weight,) in _batches(sample.x, (sample.weight,), parallel.ALONE)
                ]
                mean, square = _mean(torch.cat(terms, dim=1))
                means.append(mean)
                squares.append(square)
        return 0.5 * (means[0] + means[1]), 0.5 * (squares[0] + squares[1]).sqrt()

    def explain(self, step: int, member: int) -> str:
        """Say which input of a batch is the most extreme, for a loss that is not finite."""
        inputs, n, _ = self._batch(step)
        return f"{most_extreme(inputs[member], self._features)} (the denominator begins at {n})"


class ReweightObjective(Objective):
    r"""Density-ratio loss of two weightings of the same events.

    .. math:: L = \tfrac12 \langle w_p\, l_+(f(x)) + w_q\, l_-(f(x)) \rangle

    with both weights scaled to mean 1: the minimum is :math:`\ln \mathrm{E}[w_p|x]/\mathrm{E}[w_q|x]`. It is the
    loss of :class:`PairObjective` with numerator and denominator in the same batches, which costs half as much and has
    the smaller variance: what both have in common cancels event by event.

    Parameters
    ----------
    loss
        Loss and link.
    training, validation
        Events with the weights of the denominator.
    numerator
        Weights of the numerator of the training and of the held-out events, ``(n_events,)`` or
        ``(n_members, n_events)``.
    members, batch_size, seed, features, device, copies, share
        As for :class:`PairObjective`.
    """

    def __init__(
        self,
        loss: Loss,
        training: Sample,
        validation: Sample,
        numerator: tuple[NDArray[np.float64], NDArray[np.float64]],
        *,
        members: int,
        batch_size: int,
        seed: int,
        features: tuple[str, ...] = (),
        device: torch.device | None = None,
        copies: int = 1,
        share: parallel.Share = parallel.ALONE,
    ) -> None:
        self._loss, self._copies, self._share, self._features = loss, copies, share, features
        self._sides = tuple(
            (Tensors(sample, device), scaled(weight, device))
            for sample, weight in zip((training, validation), numerator, strict=True)
        )
        self._order = Order(len(training), batch_size, members // copies, seed=(seed, 0))

    @property
    def classifier_loss(self) -> Loss:
        """The loss."""
        return self._loss

    def loss(self, network: Stack, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of a step."""
        (sample, numerator), (rank, processes) = self._sides[0], self._share
        rows = self._order.rows(step).to(sample.x.device).repeat(self._copies, 1)
        own = rows[:, rank::processes]
        x, weight, _ = sample.take(own)
        losses = self._losses(network(x)[..., 0], picked(numerator, own), weight)
        return losses.sum(dim=1) * (processes / rows.shape[1])

    def validation(self, network: Stack) -> torch.Tensor:
        """Return the members' losses on all held-out events."""
        sample, numerator = self._sides[1]
        total = torch.zeros(network.members, dtype=torch.float64, device=sample.x.device)
        for batch, (plus, minus) in _batches(sample.x, (numerator, sample.weight), self._share):
            total += self._losses(network(batch)[..., 0], plus, minus).sum(dim=1).double() / len(sample)
        return parallel.total(total, self._share[1]).float()

    def advantage(self, network: Stack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return by how much the members' held-out losses are below that of ratio 1, and the standard errors."""
        (sample, numerator), flat = self._sides[1], self._loss.flat()
        with torch.no_grad():
            terms = [
                0.5 * flat * (plus + minus) - self._losses(network(batch)[..., 0], plus, minus)
                for batch, (plus, minus) in _batches(sample.x, (numerator, sample.weight), parallel.ALONE)
            ]
            mean, square = _mean(torch.cat(terms, dim=1))
        return mean, square.sqrt()

    def _losses(self, out: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
        return 0.5 * (plus * self._loss.numerator(out) + minus * self._loss.denominator(out))

    def explain(self, step: int, member: int) -> str:
        """Say which input of a batch is the most extreme, for a loss that is not finite."""
        sample, rows = self._sides[0][0], self._order.rows(step)
        own = rows[member % len(rows)].unsqueeze(0).to(sample.x.device)
        return most_extreme(sample.take(own)[0][0], self._features)


def _batches(
    x: torch.Tensor, weights: tuple[torch.Tensor, ...], share: parallel.Share
) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]:
    """This process's part of the events and their weights, in batches."""
    rank, processes = share
    parts = zip(
        torch.split(x, _VALIDATION_BATCH),
        *(torch.split(weight, _VALIDATION_BATCH, dim=-1) for weight in weights),
        strict=True,
    )
    for batch, *own in itertools.islice(parts, rank, None, processes):
        yield batch, tuple(own)


def _mean(terms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of each row and the variance of the mean."""
    own = terms.double()
    return own.mean(dim=1), own.var(dim=1, correction=0) / own.shape[1]


def _recycle(z: torch.Tensor, n: int, dim: int) -> torch.Tensor:
    """Repeat the values along `dim` until there are n."""
    rows = torch.arange(n, device=z.device) % z.shape[dim]
    return z.index_select(dim, rows)

"""Two-class training data: numerator and denominator events in batches of their own for every member."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import TrainingError
from neyman.networks import StackedMLP
from neyman.training.losses import Loss

_VALIDATION_BATCH = 1 << 13


@dataclass(frozen=True)
class Sample:
    """Events of one class.

    Parameters
    ----------
    x
        Features, float32 ``(n_events, n_features)``.
    weight
        Event weights of any sign with a positive sum, ``(n_events,)``; or ``(n_members, n_events)`` where every
        member has its own.
    z
        Nuisance parameters of each event, ``(n_events, n_parameters)``; None for events at the nominal point,
        which then take the values of the other class.
    """

    x: NDArray[np.float32]
    weight: NDArray[np.float64]
    z: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.x)


class PairObjective:
    r"""Density-ratio loss of numerator against denominator.

    .. math:: L = \tfrac12 \langle w\, l_+(f(x, z)) \rangle_p + \tfrac12 \langle w\, l_-(f(x, z')) \rangle_q

    with the weights of each class scaled to mean 1. Where the numerator carries nuisance parameters z and the
    denominator does not, :math:`z'` are the z of the numerator events of the same batch: p(z) is then the same in
    both classes and cancels, and the minimum is :math:`\ln p(x|z)/q(x)` (arXiv:2503.07962, section III).

    Parameters
    ----------
    loss
        Loss and link.
    training, validation
        Numerator and denominator of each.
    members
        Number of networks; member m draws from its own generator, the same whatever the number of members.
    batch_size
        Events of each class in a batch.
    seed
        Seed of the batch order.
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
    ) -> None:
        self._loss = loss
        self._numerator, self._denominator = (_Tensors(sample) for sample in training)
        self._held_out = tuple(_Tensors(sample) for sample in validation)
        streams = np.random.SeedSequence(seed).spawn(members)
        self._orders = [
            [_Order(len(sample), np.random.default_rng([*stream.generate_state(4), k])) for stream in streams]
            for k, sample in enumerate(training)
        ]
        self._batch = batch_size

    def loss(self, network: StackedMLP, step: int) -> torch.Tensor:  # noqa: ARG002
        """Return the members' losses on their next batches."""
        first, second = (
            torch.from_numpy(np.stack([order.next(min(self._batch, order.size)) for order in orders]))
            for orders in self._orders
        )
        x_p, w_p, z = self._numerator.take(first)
        x_q, w_q, z_q = self._denominator.take(second)
        if z is not None:
            if z_q is None:
                z_q = _recycle(z, x_q.shape[1], dim=1)
            x_p, x_q = torch.cat([x_p, z], dim=-1), torch.cat([x_q, z_q], dim=-1)
        n = x_p.shape[1]
        out = network(torch.cat([x_p, x_q], dim=1))[..., 0]
        plus = (w_p * self._loss.numerator(out[:, :n])).mean(dim=1)
        minus = (w_q * self._loss.denominator(out[:, n:])).mean(dim=1)
        return 0.5 * (plus + minus)

    def validation(self, network: StackedMLP) -> torch.Tensor:
        """Return the members' losses on all held-out events."""
        numerator, denominator = self._held_out
        z = numerator.z
        z_q = denominator.z
        if z is None:
            z_q = None
        elif z_q is None:
            z_q = _recycle(z, len(denominator.x), dim=0)
        total = torch.zeros(network.members, dtype=torch.float64)
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


class _Tensors:
    def __init__(self, sample: Sample) -> None:
        total = np.asarray(sample.weight, dtype=np.float64).sum(axis=-1, keepdims=True)
        if not (total > 0.0).all():
            raise TrainingError(
                f"a class has {len(sample)} events whose weights sum to {total.min():g}",
                expected="at least one event and a positive sum of weights",
            )
        self.x = torch.from_numpy(np.ascontiguousarray(sample.x, dtype=np.float32))
        self.weight = torch.from_numpy((sample.weight * (len(sample) / total)).astype(np.float32))
        self.z = (
            None if sample.z is None else torch.from_numpy(np.ascontiguousarray(sample.z, dtype=np.float32))
        )

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        weight = self.weight[rows] if self.weight.ndim == 1 else self.weight.gather(1, rows)
        return self.x[rows], weight, None if self.z is None else self.z[rows]


def _recycle(z: torch.Tensor, n: int, dim: int) -> torch.Tensor:
    """Repeat the values along `dim` until there are n."""
    rows = torch.arange(n) % z.shape[dim]
    return z.index_select(dim, rows)


class _Order:
    """Endless passes over shuffled events."""

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size, self._generator = size, generator
        self._queue: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def next(self, n: int) -> NDArray[np.int64]:
        while len(self._queue) < n:
            self._queue = np.concatenate([self._queue, self._generator.permutation(self.size)])
        batch, self._queue = self._queue[:n], self._queue[n:]
        return batch

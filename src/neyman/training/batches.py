"""Events as tensors, and the batches that every member of a stack draws from them in its own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding

from neyman.errors import TrainingError
from neyman.events.draws import uniform


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

    def bootstrapped(
        self, ids: NDArray[np.int64], members: int, *, key: tuple[str | int, ...], first: int = 0
    ) -> Sample:
        """Return the sample with Poisson(1) bootstrap weights, another draw for every member from `first` on.

        Events with the same id, such as replicas of one event at several values of z, share their draw, in all
        samples that are given the same key.
        """
        edges = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 12)]))
        chosen = range(first, first + members)
        counts = [np.searchsorted(edges, uniform(("bootstrap", *key, m), ids)) for m in chosen]
        return Sample(self.x, np.stack(counts) * self.weight, self.z)


class Tensors:
    """A sample on a device, its weights scaled to mean 1.

    Parameters
    ----------
    sample
        The events.
    device
        Where they are kept.

    Raises
    ------
    TrainingError
        When there are no events or their weights have no positive sum.
    """

    def __init__(self, sample: Sample, device: torch.device | None = None) -> None:
        self.x = torch.from_numpy(np.ascontiguousarray(sample.x, dtype=np.float32)).to(device)
        self.weight = scaled(sample.weight, device)
        self.z: torch.Tensor | None = None
        if sample.z is not None:
            self.z = torch.from_numpy(np.ascontiguousarray(sample.z, dtype=np.float32)).to(device)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return features, weights and z of the events at `rows`, ``(members, n)``."""
        # embedding: as self.x[rows], four times faster.
        return embedding(rows, self.x), picked(self.weight, rows), self.parameters(rows)

    def parameters(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Return z of the events at `rows`."""
        return None if self.z is None else embedding(rows, self.z)


def scaled(weight: NDArray[np.float64], device: torch.device | None = None) -> torch.Tensor:
    """Return weights, ``(n_events,)`` or ``(n_members, n_events)``, scaled to mean 1.

    Raises
    ------
    TrainingError
        When there are none, or they have no positive sum.
    """
    weight = np.asarray(weight, dtype=np.float64)
    total, n = weight.sum(axis=-1, keepdims=True), weight.shape[-1]
    if not (total > 0.0).all():
        raise TrainingError(
            f"a class has {n} events whose weights sum to {total.min():g}",
            expected="at least one event and a positive sum of weights",
        )
    return torch.from_numpy((weight * (n / total)).astype(np.float32)).to(device)


def picked(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the weights of the events at `rows`, ``(members, n)``."""
    return torch.take(weight, rows) if weight.ndim == 1 else weight.gather(1, rows)


class Order:
    """Endless passes over shuffled events, in an order of its own for every member.

    The batch of a step is a function of the seed and the step alone, so a training can resume anywhere.

    Parameters
    ----------
    size
        Number of events.
    batch
        Events of a batch; all of them when there are fewer.
    members
        Member m draws from its own stream, the same whatever the number of members.
    seed
        Seed of the streams.
    first
        Number of the first member, where the others are trained elsewhere.
    """

    def __init__(self, size: int, batch: int, members: int, *, seed: Sequence[int], first: int = 0) -> None:
        self._size, self._batch = size, min(batch, size)
        self._members, self._seed = range(first, first + members), tuple(seed)
        self._passes: dict[int, NDArray[np.int64]] = {}

    def rows(self, step: int) -> torch.Tensor:
        """Return the events of a step's batches, ``(members, batch)``."""
        start = step * self._batch
        first, begin = divmod(start, self._size)
        last, end = divmod(start + self._batch - 1, self._size)
        if first == last:
            return torch.from_numpy(self._pass(first)[:, begin : end + 1])
        return torch.from_numpy(
            np.concatenate([self._pass(first)[:, begin:], self._pass(last)[:, : end + 1]], axis=1)
        )

    def _pass(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            orders = [
                np.random.default_rng([*self._seed, member, number]).permutation(self._size)
                for member in self._members
            ]
            self._passes = {k: rows for k, rows in self._passes.items() if k == number - 1}
            self._passes[number] = np.stack(orders)
        return self._passes[number]


def most_extreme(inputs: torch.Tensor, names: tuple[str, ...]) -> str:
    """Say which input of a batch ``(n, inputs)`` is the most extreme, for a loss that is not finite."""
    own = inputs.double()
    distance = (own - own.median(dim=0).values).abs() / own.std(dim=0).clamp_min(1e-30)
    event, column = divmod(int(distance.nan_to_num(nan=torch.inf).argmax()), own.shape[1])
    name = names[column] if column < len(names) else f"input {column}"
    return (
        f"the most extreme input of this batch is {name!r} = {float(own[event, column]):.4g}, event {event}"
    )

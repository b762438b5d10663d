"""Cross-entropy pre-training: signal against backgrounds with one output, or one output a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn.functional import softplus

from neyman.errors import TrainingError, nearest
from neyman.networks import Stack
from neyman.sannt.templates import Templates
from neyman.training import BCE, Objective, Order, PairObjective, Sample, Tensors

_VALIDATION_BATCH = 1 << 13


def cross_entropy(
    training: Templates,
    selection: Templates,
    classes: Mapping[str, Sequence[str]] | None,
    *,
    members: int,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> Objective:
    """Return the objective of the pre-training, every class at the same total weight.

    Parameters
    ----------
    training, selection
        Nominal events of all processes.
    classes
        Processes of each class; None: all signals against all backgrounds with one output.
    members, batch_size, seed, device
        As in :class:`neyman.training.PairObjective`.
    """
    if classes is None:
        pairs = [
            (
                sample(half, half.signals),
                sample(half, [name for name in half.processes if name not in half.signals]),
            )
            for half in (training, selection)
        ]
        return PairObjective(
            BCE(),
            *pairs,
            members=members,
            batch_size=batch_size,
            seed=seed,
            features=training.features,
            device=device,
        )
    samples = [[sample(half, own) for own in classes.values()] for half in (training, selection)]
    return ClassObjective(*samples, members=members, batch_size=batch_size, seed=seed, device=device)


class ClassObjective(Objective):
    r"""Binary cross-entropy of every class on its sigmoid output.

    .. math:: L = \frac{1}{C} \sum_c \Big\langle w \sum_{c'} -\ln f_{c'}^{[c'=c]} (1 - f_{c'})^{[c' \ne c]}
        \Big\rangle_c

    Parameters
    ----------
    training, selection
        One sample a class.
    members, batch_size, seed, device
        As in :class:`neyman.training.PairObjective`.
    """

    def __init__(
        self,
        training: Sequence[Sample],
        selection: Sequence[Sample],
        *,
        members: int,
        batch_size: int,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self._training = [Tensors(one, device) for one in training]
        self._selection = [Tensors(one, device) for one in selection]
        self._orders = [
            Order(len(one), batch_size, members, seed=(seed, k)) for k, one in enumerate(training)
        ]

    def loss(self, network: Stack, step: int) -> torch.Tensor:
        """Return the members' losses on the batches of a step."""
        device = self._training[0].x.device
        parts = [
            one.take(order.rows(step).to(device))
            for one, order in zip(self._training, self._orders, strict=True)
        ]
        out = network(torch.cat([x for x, _, _ in parts], dim=1))
        split = torch.split(out, [x.shape[1] for x, _, _ in parts], dim=1)
        losses = [
            (_entropy(own, c) * weight).mean(dim=1)
            for c, (own, (_, weight, _)) in enumerate(zip(split, parts, strict=True))
        ]
        return torch.stack(losses).mean(dim=0)

    def validation(self, network: Stack) -> torch.Tensor:
        """Return the members' losses on all held-out events."""
        total = torch.zeros(network.members, dtype=torch.float64, device=self._selection[0].x.device)
        for c, one in enumerate(self._selection):
            for x, weight in zip(
                torch.split(one.x, _VALIDATION_BATCH), torch.split(one.weight, _VALIDATION_BATCH), strict=True
            ):
                total += (_entropy(network(x), c) @ weight).double() / (len(one) * len(self._selection))
        return total.float()


def sample(half: Templates, processes: Sequence[str]) -> Sample:
    """Return the nominal events of some processes together."""
    parts = [half.nominal(name) for name in processes]
    x, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Sample(x, weight)


def check_classes(classes: Mapping[str, Sequence[str]], processes: Sequence[str]) -> None:
    """Raise :class:`TrainingError` unless every process is in exactly one of at least two classes."""
    placed: dict[str, str] = {}
    for name, own in classes.items():
        if isinstance(own, str) or not own:
            raise TrainingError(f"class {name!r} has no list of processes", expected="('ggH',), say")
        for process in own:
            if process not in processes:
                raise TrainingError(
                    f"class {name!r} names the process {process!r}, which does not exist",
                    fix=f"nearest: {nearest(process, processes)}",
                )
            if process in placed:
                raise TrainingError(f"process {process!r} is in the classes {placed[process]!r} and {name!r}")
            placed[process] = name
    missing = [process for process in processes if process not in placed]
    if missing or len(classes) < 2:
        raise TrainingError(
            f"process {missing[0]!r} is in no class" if missing else f"there are {len(classes)} classes",
            expected="every process in one of at least two classes",
        )


def _entropy(out: torch.Tensor, c: int) -> torch.Tensor:
    signs = torch.ones(out.shape[2], dtype=out.dtype, device=out.device)
    signs[c] = -1.0
    return softplus(out * signs).sum(dim=2)

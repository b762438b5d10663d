r"""The objective of the second phase: the expected uncertainty of the strengths, on all events at once.

:math:`\sum_s \Delta r_s` is no sum over events, but its gradient is one: event e of row k pulls on bin i with
:math:`w_{ke}\,\partial L/\partial H_{ki}`. A step on a part of the events therefore computes the contents from all of
them, without a gradient, and lets the part pull with weights scaled up: its gradient is unbiased
(:class:`ExpectedUncertainty`, `batch`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from neyman.sannt.bin_functions import positive
from neyman.sannt.binned import BinnedStack
from neyman.sannt.filling import Filling
from neyman.sannt.histogram import filled
from neyman.sannt.measurement import Measurement
from neyman.sannt.rows import Rows
from neyman.training import Objective

_CHUNK = 1 << 14
_KEPT = 1 << 26  # outputs of hidden layers that are kept for the backward pass rather than computed again


@dataclass(frozen=True)
class ClassConstraint:
    r"""What keeps the meaning of several classes, :math:`L = \sum_s \Delta r_s + \omega\, g` (arXiv:2502.13047).

    .. math:: g = \max(CE' - CE'_{min}, 0)

    with the binary cross-entropy CE' of every class on its sigmoid output, and :math:`CE'_{min}` that of the
    pre-training. Each member's :math:`\omega` ascends, :math:`\omega \leftarrow \omega + \rho\, L_0\, g` with the
    first value :math:`L_0` of the uncertainties, and is 0 as long as CE' is better than after the pre-training (method
    of multipliers, Platt and Barr, NIPS 1987).

    Parameters
    ----------
    rate
        :math:`\rho`.
    tolerance
        A state is a candidate for the best one only if its held-out CE' is at most this fraction above that of the
        pre-training.
    """

    rate: float = 3.0
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        for name in ("rate", "tolerance"):
            positive(f"{name} must be positive", getattr(self, name))


@dataclass(frozen=True)
class _Held:
    """The classes' cross-entropies after the pre-training, the members' multipliers and how fast they ascend."""

    classes: Mapping[str, Sequence[str]]
    constraint: ClassConstraint
    limit: torch.Tensor
    selection_limit: torch.Tensor
    omega: torch.Tensor
    rate: torch.Tensor


class ExpectedUncertainty(Objective):
    """Sum of the expected uncertainties of the signals' strengths.

    Parameters
    ----------
    training, selection
        Events that train, and those that choose the best state.
    filling
        How outputs become bins.
    measurement
        What is fitted.
    batch
        Fraction of the events that pull in a step; all of them if not given.
    seed
        Seed of the batches.
    classes
        Processes of each class.
    constraint
        What keeps the meaning of the classes; needs `classes`.
    """

    def __init__(
        self,
        training: Rows,
        selection: Rows,
        filling: Filling,
        measurement: Measurement,
        *,
        batch: float | None = None,
        seed: int = 0,
        classes: Mapping[str, Sequence[str]] | None = None,
        constraint: ClassConstraint | None = None,
    ) -> None:
        self._training, self._selection = training, selection
        self._filling, self._measurement = filling, measurement
        self._batch, self._seed = batch, seed
        self._classes, self._constraint = classes, constraint
        self._held: _Held | None = None

    def start(self, network: BinnedStack) -> None:
        """Take the cross-entropies of the networks as they are for those that the classes must keep."""
        if self._constraint is None or self._classes is None:
            return
        with torch.no_grad():
            limit, selection_limit = (
                class_entropy(outputs(network, rows.x), rows, self._classes)
                for rows in (self._training, self._selection)
            )
            first = self._measurement.loss(
                self._indexed(network, outputs(network, self._training.x), self._training)
            )
        self._held = _Held(
            self._classes,
            self._constraint,
            limit,
            selection_limit,
            torch.zeros_like(limit),
            self._constraint.rate * first,
        )

    def loss(self, network: BinnedStack, step: int) -> torch.Tensor:  # type: ignore[override]
        """Return the members' losses, shape ``(n_members,)``."""
        rows, held = self._training, self._held
        if self._batch is None:
            contents, entropy = self._filled(network, rows)
        else:
            with torch.no_grad():
                contents, entropy = self._filled(network, rows)
            # Values of all events, gradients of some.
            some, some_entropy = self._filled(network, _part(rows, self._batch, (self._seed, step)))
            contents = contents + (some - some.detach())
            entropy = entropy + (some_entropy - some_entropy.detach())
        loss = self._measurement.loss(contents)
        if held is not None:
            excess = entropy - held.limit
            loss = loss + held.omega.clone() * excess.clamp_min(0.0)
            with torch.no_grad():
                held.omega.copy_(torch.where(excess > 0.0, held.omega + held.rate * excess, 0.0))
        return loss.float()

    def validation(self, network: BinnedStack) -> torch.Tensor:  # type: ignore[override]
        """Return the members' losses on the events that select, infinite for states that must not be chosen."""
        rows = self._selection
        with torch.no_grad():
            out = outputs(network, rows.x)
            contents = self._indexed(network, out, rows)
            possible = self._measurement.usable(contents)
            loss = torch.full((network.members,), math.inf, dtype=torch.float64, device=contents.device)
            if bool(possible.any()):
                loss[possible] = self._measurement.loss(contents[possible])
            if self._held is not None:
                entropy = class_entropy(out, rows, self._held.classes)
                loss[entropy > (1.0 + self._held.constraint.tolerance) * self._held.selection_limit] = (
                    math.inf
                )
        return loss.float()

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps beside the networks."""
        return {} if self._held is None else {"omega": self._held.omega}

    def _filled(self, network: BinnedStack, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Contents, and the cross-entropy of the classes if there is a constraint on it."""
        out = outputs(network, rows.x)
        entropy = out.new_zeros(()) if self._held is None else class_entropy(out, rows, self._held.classes)
        return self._contents(network, out, rows), entropy

    def _contents(self, network: BinnedStack, out: torch.Tensor, rows: Rows) -> torch.Tensor:
        edges, scores = network.edges(), self._filling.scores(out)
        return _rows(
            rows,
            [
                self._filling.contents(part, weight, edges)
                for part, weight in zip(torch.split(scores, rows.sizes, dim=1), rows.weights, strict=True)
            ],
        )

    def _indexed(self, network: BinnedStack, out: torch.Tensor, rows: Rows) -> torch.Tensor:
        return exact_rows(
            self._filling.index(self._filling.scores(out), network.edges()), rows, _n_bins(network)
        )


def exact_rows(index: torch.Tensor, rows: Rows, n_bins: int) -> torch.Tensor:
    """Fill the rows with events in known bins: index ``(n_members, n_events)``; float64
    ``(n_members, n_rows, n_bins)``."""
    return _rows(
        rows,
        [
            filled(part, weight, n_bins)
            for part, weight in zip(torch.split(index, rows.sizes, dim=1), rows.weights, strict=True)
        ],
    )


def outputs(network: BinnedStack, x: torch.Tensor) -> torch.Tensor:
    """Evaluate a stack on all events, ``(n_members, n_events, n_outputs)``, in chunks that bound the memory."""
    if len(x) <= _CHUNK:
        whole: torch.Tensor = network(x)
        return whole
    kept = network.members * len(x) * _hidden(network) <= _KEPT
    parts = []
    for chunk in torch.split(x, _CHUNK):
        if kept or not torch.is_grad_enabled():
            parts.append(network(chunk))
        else:
            parts.append(checkpoint(network, chunk, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts, dim=1)


def class_entropy(out: torch.Tensor, rows: Rows, classes: Mapping[str, Sequence[str]]) -> torch.Tensor:
    r"""Return the binary cross-entropy of every class on its sigmoid output, ``(n_members,)``.

    .. math:: CE' = \frac{1}{C} \sum_c \Big\langle \sum_{c'} -\ln f_{c'}^{[c'=c]} (1 - f_{c'})^{[c' \ne c]}
        \Big\rangle_c

    where each class has the same total weight.
    """
    totals = dict.fromkeys(classes, 0.0)
    sums = {name: torch.zeros(len(out), dtype=torch.float64, device=out.device) for name in classes}
    for part, nominal in zip(torch.split(out, rows.sizes, dim=1), rows.process, strict=True):
        if nominal is None:
            continue
        process, weight = nominal
        for c, (name, members) in enumerate(classes.items()):
            if process in members:
                signs = torch.ones(out.shape[2], dtype=out.dtype, device=out.device)
                signs[c] = -1.0
                entropy = softplus(part * signs).sum(dim=2)
                sums[name] = sums[name] + (entropy @ weight.to(entropy.dtype)).double()
                totals[name] += float(weight.sum())
    return torch.stack([sums[name] / totals[name] for name in classes]).mean(dim=0)


def _rows(rows: Rows, contents: Sequence[torch.Tensor]) -> torch.Tensor:
    first = contents[0]
    out = first.new_zeros(len(first), rows.n_rows, first.shape[2])
    for place, part in zip(rows.places, contents, strict=True):
        out = out.index_add(1, place, part)
    return out


def _part(rows: Rows, fraction: float, seed: tuple[int, int]) -> Rows:
    """Some of the events of each block, weights scaled up; blocks of one length give the same rows, so that the
    difference of two variations of the same events is one of the same events here too."""
    x, weights, process, start = [], [], [], 0
    for size, weight, nominal in zip(rows.sizes, rows.weights, rows.process, strict=True):
        n = max(1, round(fraction * size))
        generator = torch.Generator().manual_seed(hash((*seed, size)) % (1 << 63))
        chosen = torch.randperm(size, generator=generator)[:n].to(rows.x.device)
        x.append(rows.x[start + chosen])
        weights.append(weight[:, chosen] * (size / n))
        process.append(None if nominal is None else (nominal[0], nominal[1][chosen] * (size / n)))
        start += size
    return Rows(torch.cat(x), [len(part) for part in x], weights, rows.places, rows.n_rows, process)


def _hidden(network: BinnedStack) -> int:
    """Numbers that a member keeps for an event."""
    return max(1, sum(p.shape[-1] for p in network.network.parameters() if p.ndim == 3 and p.shape[1] > 1))


def _n_bins(network: BinnedStack) -> int:
    edges = network.edges()
    return edges.shape[1] * (edges.shape[2] - 1)

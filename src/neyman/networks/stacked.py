"""Stacked networks: M independent members as one set of tensors with the members first.

A batch of the members' work is one batched matrix product, so an ensemble trains in one pass. Every member is
initialised by its own generator: member m is the same network whatever the size of the stack.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from torch import nn

from neyman.errors import ConfigError
from neyman.networks.scaling import Scaling, column_scaling

Activation = Literal["silu", "relu", "gelu", "tanh"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class Draws:
    """Initial values of the parameters of M members.

    Parameters
    ----------
    members
        Number of members.
    seed
        Each member has a generator of its own made from it; without a seed the tensors have a shape and no memory
        (the meta device), which is enough to check a file against its description.
    """

    def __init__(self, members: int, seed: int | None) -> None:
        if members < 1:
            raise ConfigError(f"an ensemble needs at least one member, got {members}")
        self.members = members
        self._generators = None
        if seed is not None:
            self._generators = [torch.Generator().manual_seed(seed * 1_000_003 + m) for m in range(members)]

    def uniform(self, *shape: int, bound: float) -> nn.Parameter:
        """Return ``(members, *shape)``, uniform in +-`bound`."""
        if self._generators is None:
            return nn.Parameter(torch.empty(self.members, *shape, device="meta"))
        values = torch.stack([torch.rand(*shape, generator=g) for g in self._generators])
        return nn.Parameter((2.0 * values - 1.0) * bound)

    def constant(self, *shape: int, value: float) -> nn.Parameter:
        """Return ``(members, *shape)`` filled with `value`."""
        device = "meta" if self._generators is None else "cpu"
        return nn.Parameter(torch.full((self.members, *shape), value, device=device))


class Stack(nn.Module):
    """Base of stacked networks: M members with parameters of their own, members first in every parameter.

    Attributes
    ----------
    members, inputs, outputs
        Sizes.
    first
        Number of the first member, when the stack is part of another.
    """

    members: int
    inputs: int
    outputs: int
    first: int = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(n, inputs)`` (all members see the same events) or ``(members, n, inputs)`` to
        ``(members, n, outputs)``."""
        raise NotImplementedError

    def part(self, members: range) -> Self:
        """Return a copy of consecutive members.

        Raises
        ------
        ConfigError
            When there are none, or not so many.
        """
        if members.step != 1 or not 0 <= members.start < members.stop <= self.members:
            raise ConfigError(f"no {members!r} of {self.members} members")
        own = copy.deepcopy(self)
        for parameter in own.parameters():
            parameter.data = parameter.data[members.start : members.stop].clone()
        own.members, own.first = len(members), self.first + members.start
        return own


def joined(parts: Sequence[Stack]) -> Stack:
    """Return one stack of the members of all parts, which are alike otherwise."""
    whole = copy.deepcopy(parts[0])
    for parameter, *own in zip(whole.parameters(), *(part.parameters() for part in parts), strict=True):
        parameter.data = torch.cat([one.data for one in own])
    whole.members = sum(part.members for part in parts)
    return whole


class StackedLinear(nn.Module):
    r"""Affine maps :math:`y_m = x_m W_m + b_m` of M members.

    Parameters
    ----------
    inputs, outputs
        Sizes; the weight has shape ``(members, inputs, outputs)``.
    draws
        Initial values: weights and biases are uniform in :math:`\pm 1/\sqrt{n_{in}}`.
    """

    def __init__(self, inputs: int, outputs: int, draws: Draws) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight = draws.uniform(inputs, outputs, bound=bound)
        self.bias = draws.uniform(1, outputs, bound=bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(members, n, inputs)`` to ``(members, n, outputs)``."""
        if self.weight.shape[2] == 1:
            # Matrix libraries are slow on vectors: 0.4 ms where a batched product takes 2 ms, backward included.
            return (x * self.weight.mT).sum(dim=2, keepdim=True) + self.bias
        return torch.baddbmm(self.bias, x, self.weight)


class Standardise(nn.Module):
    """Input scaling ``(x - mean) / scale`` as a layer, so that training and inference cannot disagree.

    Parameters
    ----------
    mean, scale
        Shape ``(inputs,)``; set by the trainer from the training sample.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.to(torch.float32))
        self.register_buffer("scale", scale.to(torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the last axis."""
        return (x - self.mean) / self.scale


class StackedMLP(Stack):
    """M fully connected networks on shared or separate inputs."""

    def __init__(self, scaling: Standardise, layers: Sequence[StackedLinear], activation: str) -> None:
        super().__init__()
        self.scaling = scaling
        self.layers = nn.ModuleList(layers)
        self.activation = _ACTIVATIONS[activation]()
        self.members, self.inputs = layers[0].weight.shape[:2]
        self.outputs = int(layers[-1].weight.shape[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate all members."""
        h = self.scaling(x)
        if h.ndim == 2:
            h = h.expand(self.members, -1, -1)
        *hidden, last = self.layers
        for layer in hidden:
            h = self.activation(layer(h))
        result: torch.Tensor = last(h)
        return result


@dataclass(frozen=True)
class MLP:
    """Architecture of a fully connected network.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    activation
        ``silu`` (smooth: right where a nuisance parameter is an input), ``relu``, ``gelu`` or ``tanh``.

    Examples
    --------
    >>> net = MLP(hidden=(16, 16)).build(inputs=3, members=5, seed=1)
    >>> net(torch.zeros(10, 3)).shape
    torch.Size([5, 10, 1])
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    activation: Activation = "silu"
    kind: Literal["mlp"] = "mlp"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(
                f"hidden layers must be positive widths, got {self.hidden}", expected="e.g. (64, 64)"
            )
        if self.activation not in _ACTIVATIONS:
            raise ConfigError(
                f"unknown activation {self.activation!r}", expected=f"one of {', '.join(_ACTIVATIONS)}"
            )

    @property
    def body(self) -> tuple[str, ...]:
        """Beginnings of the names of the parameters before the output layer."""
        return tuple(f"layers.{k}." for k in range(len(self.hidden)))

    def build(
        self,
        inputs: int,
        *,
        context: int = 0,  # noqa: ARG002
        outputs: int = 1,
        members: int = 1,
        seed: int | None = 0,
        scaling: Scaling | None = None,
    ) -> StackedMLP:
        """Make M freshly initialised members.

        Parameters
        ----------
        inputs
            Number of inputs, nuisance parameters included.
        context
            How many of them, at the end, are nuisance parameters.
        outputs
            Number of outputs.
        members
            Number of members.
        seed
            Seed of the initial values; None for shapes alone.
        scaling
            Mean and scale of the inputs, each ``(inputs,)``.
        """
        draws = Draws(members, seed)
        widths = (inputs, *self.hidden, outputs)
        layers = [StackedLinear(n_in, n_out, draws) for n_in, n_out in itertools.pairwise(widths)]
        mean, scale = scaling or (torch.zeros(inputs), torch.ones(inputs))
        return StackedMLP(Standardise(mean, scale), layers, self.activation)

    def scaling(self, x: NDArray[Any], names: Sequence[str]) -> Scaling:
        """Return mean and standard deviation of each input."""
        return column_scaling(x, names)

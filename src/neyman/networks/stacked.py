"""Stacked networks: M independent members as one set of tensors with the members first.

A batch of the members' work is one batched matrix product, so an ensemble trains in one pass. Every member is
initialised by its own generator: member m is the same network whatever the size of the stack.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from neyman.errors import ConfigError

Activation = Literal["silu", "relu", "gelu", "tanh"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


class StackedLinear(nn.Module):
    r"""Affine maps :math:`y_m = x_m W_m + b_m` of M members.

    Parameters
    ----------
    inputs, outputs
        Sizes; the weight has shape ``(members, inputs, outputs)``.
    generators
        One generator a member; weights and biases are uniform in :math:`\pm 1/\sqrt{n_{in}}`.
    """

    def __init__(self, inputs: int, outputs: int, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)

        def uniform(*shape: int) -> nn.Parameter:
            values = torch.stack([torch.rand(*shape, generator=g) for g in generators])
            return nn.Parameter((2.0 * values - 1.0) * bound)

        self.weight = uniform(inputs, outputs)
        self.bias = uniform(1, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(members, n, inputs)`` to ``(members, n, outputs)``."""
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


class StackedMLP(nn.Module):
    """M fully connected networks on shared or separate inputs.

    Attributes
    ----------
    members, inputs, outputs
        Sizes.
    """

    def __init__(self, scaling: Standardise, layers: Sequence[StackedLinear], activation: str) -> None:
        super().__init__()
        self.scaling = scaling
        self.layers = nn.ModuleList(layers)
        self.activation = _ACTIVATIONS[activation]()
        self.members, self.inputs = layers[0].weight.shape[:2]
        self.outputs = int(layers[-1].weight.shape[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(n, inputs)`` (all members see the same events) or ``(members, n, inputs)`` to
        ``(members, n, outputs)``."""
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

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(
                f"hidden layers must be positive widths, got {self.hidden}", expected="e.g. (64, 64)"
            )
        if self.activation not in _ACTIVATIONS:
            raise ConfigError(
                f"unknown activation {self.activation!r}", expected=f"one of {', '.join(_ACTIVATIONS)}"
            )

    def build(
        self,
        inputs: int,
        *,
        outputs: int = 1,
        members: int = 1,
        seed: int = 0,
        scaling: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> StackedMLP:
        """Make M freshly initialised members; `scaling` is the mean and scale of the inputs."""
        if members < 1:
            raise ConfigError(f"an ensemble needs at least one member, got {members}")
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + member) for member in range(members)]
        widths = (inputs, *self.hidden, outputs)
        layers = [StackedLinear(n_in, n_out, generators) for n_in, n_out in itertools.pairwise(widths)]
        mean, scale = scaling or (torch.zeros(inputs), torch.ones(inputs))
        return StackedMLP(Standardise(mean, scale), layers, self.activation)

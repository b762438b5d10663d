"""Stacked layers on sets of points: layer norm, masked attention, feed-forward.

Points are ``(members, n_events, n_points, width)``; as in every stack, parameters have the members first.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from neyman.networks.stacked import Draws, StackedLinear

# The softmax of the processor's attention takes the keys that do not fill a vector one by one: with 12 keys it takes
# three times as long as with 16, of which 4 are masked.
_VECTOR = 16


def pointwise(layer: nn.Module, points: torch.Tensor) -> torch.Tensor:
    """Apply a stacked layer to each point, ``(members, ..., inputs)`` to ``(members, ..., outputs)``."""
    out: torch.Tensor = layer(points.flatten(1, -2))
    return out.reshape(*points.shape[:-1], out.shape[-1])


class StackedNorm(nn.Module):
    """Layer norm of each point, with a gain and an offset a member.

    Parameters
    ----------
    width
        Number of features of a point.
    draws
        Gives the number of members; gains start at 1, offsets at 0.
    """

    def __init__(self, width: int, draws: Draws) -> None:
        super().__init__()
        self.weight = draws.constant(1, 1, width, value=1.0)
        self.bias = draws.constant(1, 1, width, value=0.0)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(points, points.shape[-1:]) * self.weight + self.bias


class StackedAttention(nn.Module):
    r"""Multi-head attention, :math:`\sum_j \mathrm{softmax}_j(q \cdot k_j / \sqrt{d_h})\, v_j` over the real points.

    Keys of points that are not real get the weight 0 inside the softmax, so that they cannot act on the others.

    Parameters
    ----------
    width
        Number of features of a point, a multiple of `heads`.
    heads
        Number of heads.
    draws
        Initial values.
    """

    def __init__(self, width: int, heads: int, draws: Draws) -> None:
        super().__init__()
        self.query = StackedLinear(width, width, draws)
        self.key_value = StackedLinear(width, 2 * width, draws)
        self.result = StackedLinear(width, width, draws)
        self._heads = heads

    def forward(self, query: torch.Tensor, points: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Let each query look at the points that are real, ``(members, n, n_points)``; at least one an event."""
        q = self._split(pointwise(self.query, query))
        key_value = pointwise(self.key_value, points)
        if query.shape[2] > 1 and points.device.type == "cpu" and (missing := -points.shape[2] % _VECTOR):
            key_value = functional.pad(key_value, (0, 0, 0, missing))
            real = functional.pad(real, (0, missing))
        k, v = (self._split(part) for part in key_value.chunk(2, dim=-1))
        mask = real.flatten(0, 1)[:, None, None, :]
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return pointwise(self.result, out.transpose(1, 2).reshape(query.shape))

    def _split(self, points: torch.Tensor) -> torch.Tensor:
        return points.reshape(-1, points.shape[2], self._heads, points.shape[3] // self._heads).transpose(
            1, 2
        )


class StackedFeedForward(nn.Module):
    """Two dense layers on each point, the first with a GELU.

    Parameters
    ----------
    inputs, hidden, outputs
        Widths.
    draws
        Initial values.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, draws: Draws) -> None:
        super().__init__()
        self.first = StackedLinear(inputs, hidden, draws)
        self.second = StackedLinear(hidden, outputs, draws)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map ``(members, ..., inputs)`` to ``(members, ..., outputs)``."""
        return pointwise(self.second, functional.gelu(pointwise(self.first, points)))

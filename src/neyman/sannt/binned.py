"""`BinnedStack`: a stack of networks together with the bin edges of its outputs, fixed or learned."""

from __future__ import annotations

import torch
from torch import nn

from neyman.networks import Stack


class BinnedStack(Stack):
    r"""Networks with the edges of their bins, which may be trained along.

    Parameters
    ----------
    network
        The networks.
    edges
        Start of the edges of each class, shape ``(n_classes, n_bins + 1)``.
    learned
        Whether the edges are parameters: each bin's width is the softmax of a number, so that the edges ascend and
        the outermost ones stay.
    """

    def __init__(self, network: Stack, edges: torch.Tensor, *, learned: bool) -> None:
        super().__init__()
        self.network = network
        self.members, self.inputs, self.outputs = network.members, network.inputs, network.outputs
        start = edges.double().expand(self.members, *edges.shape).clone()
        self.widths: nn.Parameter | None = None
        if learned:
            widths = start.diff(dim=-1)
            self.widths = nn.Parameter(torch.log(widths / widths.sum(dim=-1, keepdim=True)))
        self._start = start.to(next(network.parameters()).device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the networks."""
        out: torch.Tensor = self.network(x)
        return out

    def edges(self) -> torch.Tensor:
        """Return the edges, float64 ``(n_members, n_classes, n_bins + 1)``."""
        if self.widths is None:
            return self._start
        first, last = self._start[..., :1], self._start[..., -1:]
        inner = torch.softmax(self.widths, dim=-1).cumsum(dim=-1)[..., :-1]
        return torch.cat([first, first + (last - first) * inner, last], dim=-1)

    def place(self, edges: torch.Tensor) -> None:
        """Set fixed edges, shape ``(n_members, n_classes, n_bins + 1)``."""
        self._start = edges.double()

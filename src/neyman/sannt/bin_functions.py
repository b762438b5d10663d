r"""Stand-ins for the derivative of a bin's content to the position of an event.

The content of a bin is a step function of the network output, with a derivative that is zero almost everywhere. A
`BinFunction` replaces it in the backward pass alone:

* `EdgeKernel`, the one to use: events near an edge feel the two bins beside it, with opposite signs.
* `Linear` (arXiv:2502.13047): linear within the event's own bin, zero at its centre.
* `GaussianDerivative` (Wunsch et al., Comput. Softw. Big Sci. 5 (2021) 4): every bin acts on every event.
* `StraightThrough`: 1 in the event's own bin, for comparison; trainings with it collapse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import pad

from neyman.errors import ConfigError


class BinFunction(Protocol):
    """Stand-in for the derivative of the bins' indicator functions."""

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, the derivative of bin i's content to the output of an event of weight 1.

        Parameters
        ----------
        y
            Network outputs, shape ``(..., n_events)``.
        edges
            Bin edges in ascending order, shape ``(n_bins + 1,)``, or ``(..., n_events, n_bins + 1)`` where every
            event has its own.

        Returns
        -------
        Shape ``(..., n_events, n_bins)``.
        """


@dataclass(frozen=True)
class EdgeKernel:
    r"""Derivative of the bin content smeared by a Gaussian kernel K of standard deviation h.

    .. math:: B_i(y) = K_h(y - a_i) - K_h(y - b_i), \qquad K_h(u) = \frac{e^{-u^2 / 2 h^2}}{\sqrt{2\pi}\, h}

    for the bin from a to b: an event is felt by the two bins on either side of an edge within about 2 h, with
    opposite signs, so that the gradient conserves the number of events. The outermost edges carry no kernel, as
    the end bins hold everything beyond them.

    Parameters
    ----------
    width
        h as a fraction of the narrower of the two bins at an edge. Training was unstable at 0.5.
    """

    width: float = 0.25

    def __post_init__(self) -> None:
        positive("the kernel needs a positive width", self.width)

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, shape ``(..., n_events, n_bins)``."""
        kernel = edge_kernel(y, edges, self.width)
        return pad(kernel, (1, 0)) - pad(kernel, (0, 1))


@dataclass(frozen=True)
class GaussianDerivative:
    r"""Derivative of a Gaussian at the centre m of each bin (Wunsch et al.).

    .. math:: B_i(y) = -\frac{y - m_i}{s_i^2} e^{-(y - m_i)^2 / 2 s_i^2}

    Parameters
    ----------
    width
        s as a fraction of the bin width; 1/2 in the paper.
    """

    width: float = 0.5

    def __post_init__(self) -> None:
        positive("the Gaussians need a positive width", self.width)

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, shape ``(..., n_events, n_bins)``."""
        u = (y[..., None] - _centres(edges)) / (s := self.width * edges.diff())
        return -u / s * torch.exp(-0.5 * u.square())


@dataclass(frozen=True)
class Linear:
    r"""Linear within the bin of the event, of width d and centre m, and zero elsewhere (arXiv:2502.13047).

    .. math:: B_i(y) = -\frac{2 (y - m_i)}{d_i^2} \quad \text{for } y \in \text{bin } i

    so that it falls from :math:`1/d` at the left edge to :math:`-1/d` at the right one: an event leaves a bin through
    the nearer edge.
    """

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, shape ``(..., n_events, n_bins)``."""
        width = edges.diff()
        return -2.0 * (y[..., None] - _centres(edges)) / width.square() * _inside(y, edges)


@dataclass(frozen=True)
class StraightThrough:
    """The identity within the event's own bin, :math:`B_i(y) = 1`, zero elsewhere."""

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, shape ``(..., n_events, n_bins)``."""
        return _inside(y, edges).to(y.dtype)


def positive(what: str, value: Any, *, zero: bool = False) -> None:
    """Raise :class:`ConfigError` unless the value is a positive finite number, or 0 where that is allowed."""
    number = isinstance(value, int | float) and math.isfinite(value)
    if not number or not (value > 0.0 or (zero and value == 0.0)):
        raise ConfigError(f"{what}, got {value!r}")


def edge_kernel(y: torch.Tensor, edges: torch.Tensor, width: float) -> torch.Tensor:
    """Return the Gaussian kernel at each inner edge, shape ``(..., n_events, n_bins - 1)``."""
    bins = edges.diff()
    h = width * torch.minimum(bins[..., :-1], bins[..., 1:])
    u = (y[..., None] - edges[..., 1:-1]) / h
    return torch.exp(-0.5 * u.square()) / (math.sqrt(2.0 * math.pi) * h)


def _centres(edges: torch.Tensor) -> torch.Tensor:
    return 0.5 * (edges[..., 1:] + edges[..., :-1])


def _inside(y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Which bin holds the event; the end bins hold everything beyond them."""
    above = pad(y[..., None] >= edges[..., 1:-1], (1, 1), value=True)
    above = torch.cat([above[..., :-1], torch.zeros_like(above[..., :1])], dim=-1)
    return above[..., :-1] & ~above[..., 1:]

"""A weighted histogram that a network can be trained through.

:func:`histogram` fills fixed bins exactly; its backward pass replaces the derivative of the step functions,
which is zero almost everywhere, by a :class:`BinFunction`. :class:`EdgeKernel` is the one to use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import pad

from neyman.errors import ConfigError, TrainingError


class BinFunction(Protocol):
    """Stand-in for the derivative of the bins' indicator functions."""

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, the derivative of bin i's content to the output of an event of weight 1.

        Parameters
        ----------
        y
            Network outputs, shape ``(..., n_events)``.
        edges
            Bin edges in ascending order, shape ``(n_bins + 1,)``.

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
        if not self.width > 0.0:
            raise ConfigError(f"the kernel needs a positive width, got {self.width}")

    def __call__(self, y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return :math:`B_i(y)`, shape ``(..., n_events, n_bins)``."""
        bins = edges.diff()
        h = self.width * torch.minimum(bins[:-1], bins[1:])
        kernel = torch.exp(-0.5 * ((y[..., None] - edges[1:-1]) / h) ** 2) / (math.sqrt(2.0 * math.pi) * h)
        return pad(kernel, (1, 0)) - pad(kernel, (0, 1))


def histogram(
    y: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor, bin_function: BinFunction
) -> torch.Tensor:
    r"""Fill fixed bins exactly, with a gradient to the network output.

    .. math:: H_{ki} = \sum_e w_{ke}\, 1[y_e \in \text{bin } i], \qquad
        \frac{\partial L}{\partial y_e} = \sum_{ki} \frac{\partial L}{\partial H_{ki}}\, w_{ke}\, B_i(y_e)

    Parameters
    ----------
    y
        Network outputs, shape ``(..., n_events)``.
    weight
        Event weights of any sign, constant: shape ``(n_events,)``, or ``(n_sets, n_events)`` to fill the same
        events with several sets of weights in one pass.
    edges
        Bin edges, shape ``(n_bins + 1,)``. Bins are half-open, ``[a, b)``; events below the first edge go into
        the first bin, events from the last edge on into the last bin.
    bin_function
        B, used by the backward pass alone.

    Returns
    -------
    float64 contents, shape ``(..., n_bins)`` or ``(..., n_sets, n_bins)``.

    Raises
    ------
    ConfigError
        When the edges do not ascend or the shapes disagree.
    TrainingError
        When an output is not finite.
    """
    check_edges(edges)
    if weight.ndim not in (1, 2) or weight.shape[-1] != y.shape[-1]:
        raise ConfigError(
            f"weights of shape {tuple(weight.shape)} for outputs of shape {tuple(y.shape)}",
            expected=f"({y.shape[-1]},) or (n_sets, {y.shape[-1]})",
        )
    if not bool(torch.isfinite(y).all()):
        bad = torch.nonzero(~torch.isfinite(y))
        raise TrainingError(
            f"{len(bad)} network outputs are not finite",
            where=f"first at event {int(bad[0, -1])}",
            fix="lower learning_rate, or look for extreme features",
        )
    contents: torch.Tensor = _Histogram.apply(  # type: ignore[no-untyped-call]
        y, weight.reshape(-1, weight.shape[-1]), edges, bin_function
    )
    return contents if weight.ndim == 2 else contents[..., 0, :]


def check_edges(edges: torch.Tensor) -> None:
    """Raise :class:`ConfigError` unless the edges are finite, ascend and make at least two bins."""
    ascending = edges.ndim == 1 and len(edges) >= 3 and bool((edges.diff() > 0).all())
    if not ascending or not bool(torch.isfinite(edges).all()):
        raise ConfigError(
            f"bin edges {edges.tolist()} are not usable",
            expected="at least three finite numbers in ascending order",
        )


def bin_index(y: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return the bin of each output, out-of-range ones in the end bins, shape ``y.shape``."""
    return torch.bucketize(y.double(), edges[1:-1].double(), right=True)


class _Histogram(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor, bin_function: BinFunction
    ) -> torch.Tensor:
        ctx.save_for_backward(y, weight, edges)
        ctx.bin_function = bin_function
        inside = torch.nn.functional.one_hot(bin_index(y, edges), len(edges) - 1)
        return weight.double() @ inside.double()

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        y, weight, edges = ctx.saved_tensors
        per_event = (weight.double().T @ gradient[0]).to(y.dtype)
        return (per_event * ctx.bin_function(y, edges.to(y.dtype))).sum(dim=-1), None, None, None

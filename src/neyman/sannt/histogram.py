"""A weighted histogram that a network can be trained through.

`histogram` fills fixed bins of one output exactly; its backward pass replaces the derivative of the step functions by
a :class:`neyman.sannt.BinFunction`. `fill` is what trainings use: a stack of members, bins of several classes, and
gradients to learned edges.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from neyman.errors import ConfigError, TrainingError
from neyman.sannt.bin_functions import BinFunction, EdgeKernel, edge_kernel

_EDGE = 0.25
_CHUNK = 1 << 13  # events whose weights are summed in their own precision


def histogram(
    y: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor, bin_function: BinFunction | None = None
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
        B, used by the backward pass alone; an :class:`EdgeKernel` if not given.

    Returns
    -------
    float64 contents, shape ``(..., n_bins)`` or ``(..., n_sets, n_bins)``.

    Raises
    ------
    ConfigError
        When the edges do not ascend or the shapes disagree.
    TrainingError
        When an output is not finite.

    Examples
    --------
    >>> y = torch.tensor([0.2, 0.7, 0.9], requires_grad=True)
    >>> h = histogram(y, torch.ones(3), torch.tensor([0.0, 0.5, 1.0]))
    >>> h.tolist()
    [1.0, 2.0]
    >>> (h[1] / h[0]).backward()  # more in the upper bin: every event wants to move up
    >>> bool((y.grad > 0).all())
    True
    """
    given: tuple[object, ...] = (y, weight, edges)
    if not all(isinstance(one, torch.Tensor) for one in given) or y.ndim < 1:
        raise ConfigError(
            f"outputs, weights and edges are {', '.join(type(one).__name__ for one in given)}",
            expected="tensors, outputs of shape (..., n_events)",
        )
    check_edges(edges)
    if not bool(torch.isfinite(weight).all()):
        bad = int(torch.nonzero(~torch.isfinite(weight))[0, -1])
        raise TrainingError(
            f"the weight of event {bad} is not finite", fix="drop the event, or find its cause"
        )
    if weight.ndim not in (1, 2) or weight.shape[-1] != y.shape[-1]:
        raise ConfigError(
            f"weights of shape {tuple(weight.shape)} for outputs of shape {tuple(y.shape)}",
            expected=f"({y.shape[-1]},) or (n_sets, {y.shape[-1]})",
        )
    members = y.reshape(-1, y.shape[-1], 1)
    sets = weight.reshape(-1, weight.shape[-1]).double()
    own = edges.expand(len(members), 1, -1)
    contents = fill(members, sets, own, bin_function or EdgeKernel()).reshape(*y.shape[:-1], len(sets), -1)
    return contents if weight.ndim == 2 else contents[..., 0, :]


def fill(
    scores: torch.Tensor,
    weight: torch.Tensor,
    edges: torch.Tensor,
    bin_function: BinFunction,
    margin: float = 0.0,
) -> torch.Tensor:
    """Fill the bins of the winning class for a stack of members.

    Parameters
    ----------
    scores
        Shape ``(n_members, n_events, n_classes)``. An event goes into the bins of its largest score.
    weight
        Shape ``(n_sets, n_events)``; contents are summed in its precision.
    edges
        Shape ``(n_members, n_classes, n_bins + 1)``; their gradient is that of the smeared content, as for an
        :class:`EdgeKernel` of width 0.25.
    bin_function
        B for the winning score.
    margin
        Width of the Gaussian kernel in the difference of the two largest scores by which an event feels the bin that
        it would have in the other class, as a fraction of the mean bin width; 0: no such gradient.

    Returns
    -------
    float64, shape ``(n_members, n_sets, n_classes * n_bins)``.
    """
    if not bool(torch.isfinite(scores).all()):
        bad = torch.nonzero(~torch.isfinite(scores))
        raise TrainingError(
            f"{len(bad)} network outputs are not finite",
            where=f"first at event {int(bad[0, 1])}",
            fix="lower learning_rate, or look for extreme features",
        )
    contents: torch.Tensor = _Fill.apply(  # type: ignore[no-untyped-call]
        scores, weight, edges, bin_function, margin
    )
    return contents


def bin_index(scores: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return the bin of each event among all classes' bins, out-of-range scores in the end bins.

    Parameters
    ----------
    scores
        Shape ``(n_members, n_events, n_classes)``.
    edges
        Shape ``(n_members, n_classes, n_bins + 1)``.

    Returns
    -------
    int64, shape ``(n_members, n_events)``: class times ``n_bins`` plus the bin of the score in the class.
    """
    n_bins = edges.shape[-1] - 1
    out = torch.empty(scores.shape[:2], dtype=torch.int64, device=scores.device)
    for m in range(len(scores)):
        if scores.shape[2] == 1:
            out[m] = torch.bucketize(scores[m, :, 0].contiguous(), _inner(edges[m, 0], scores), right=True)
            continue
        score, winner = scores[m].max(dim=1)
        for c in range(scores.shape[2]):
            own = winner == c
            out[m, own] = c * n_bins + torch.bucketize(score[own], _inner(edges[m, c], scores), right=True)
    return out


def check_edges(edges: torch.Tensor) -> None:
    """Raise :class:`ConfigError` unless the edges are finite, ascend and make at least two bins."""
    ascending = edges.ndim == 1 and len(edges) >= 3 and bool((edges.diff() > 0).all())
    if not ascending or not bool(torch.isfinite(edges).all()):
        raise ConfigError(
            f"bin edges {edges.tolist()} are not usable",
            expected="at least three finite numbers in ascending order",
        )


def _inner(edges: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    # Compared in the precision of the scores: an edge of 0.1 and a float32 score of 0.1 are then the same number.
    return edges[1:-1].detach().to(scores.dtype).contiguous()


class _Fill(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: torch.Tensor,
        weight: torch.Tensor,
        edges: torch.Tensor,
        bin_function: BinFunction,
        margin: float,
    ) -> torch.Tensor:
        index = bin_index(scores, edges)
        n_bins = edges.shape[1] * (edges.shape[2] - 1)
        ctx.save_for_backward(scores, weight, edges, index)
        ctx.bin_function, ctx.margin = bin_function, margin
        return filled(index, weight, n_bins)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, weight, edges, index = ctx.saved_tensors
        to_scores = torch.zeros_like(scores)
        to_edges = torch.zeros_like(edges) if ctx.needs_input_grad[2] else None
        for m in range(len(scores)):
            # What one more unit of an event in each bin would do to the loss, (n_events, n_classes * n_bins).
            pull = weight.T @ gradient[0][m].to(weight.dtype)
            _member_gradient(
                ctx,
                scores[m],
                pull.to(scores.dtype),
                edges[m].to(scores.dtype),
                index[m],
                to_scores[m],
                None if to_edges is None else to_edges[m],
            )
        return to_scores, None, to_edges, None, None


def _member_gradient(
    ctx: Any,
    scores: torch.Tensor,
    pull: torch.Tensor,
    edges: torch.Tensor,
    index: torch.Tensor,
    to_scores: torch.Tensor,
    to_edges: torch.Tensor | None,
) -> None:
    n_classes, n_bins = edges.shape[0], edges.shape[1] - 1
    if n_classes == 1:
        y = scores[:, 0]
        to_scores[:, 0] = (pull * ctx.bin_function(y, edges[0])).sum(dim=1)
        if to_edges is not None:
            to_edges[0, 1:-1] = _edge_gradient(y, pull, edges[0])
        return
    two, order = scores.topk(2, dim=1)
    by_class = pull.reshape(-1, n_classes, n_bins)
    for c in range(n_classes):
        own = torch.nonzero(order[:, 0] == c)[:, 0]
        y, own_pull = two[own, 0], by_class[own, c]
        to_scores[own, c] = (own_pull * ctx.bin_function(y, edges[c])).sum(dim=1)
        if to_edges is not None:
            to_edges[c, 1:-1] = _edge_gradient(y, own_pull, edges[c])
    if ctx.margin > 0.0:
        h = ctx.margin * float((edges[:, -1] - edges[:, 0]).mean()) / n_bins
        near = torch.nonzero(two[:, 0] - two[:, 1] < 5.0 * h)[:, 0]
        u = (two[near, 0] - two[near, 1]) / h
        other = bin_of_class(two[near, 1], order[near, 1], edges)
        rows = pull[near]
        change = rows.gather(1, index[near, None]) - rows.gather(1, other[:, None])
        slope = change[:, 0] * torch.exp(-0.5 * u.square()) / (math.sqrt(2.0 * math.pi) * h)
        to_scores[near, order[near, 0]] += slope
        to_scores[near, order[near, 1]] -= slope


def _edge_gradient(y: torch.Tensor, pull: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Moving an edge up moves the events near it into the bin below."""
    return -(edge_kernel(y, edges, _EDGE) * pull.diff(dim=1)).sum(dim=0)


def bin_of_class(score: torch.Tensor, chosen: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return the bin of each score in the class that is chosen for it, among all classes' bins, ``(n_events,)``."""
    n_bins = edges.shape[1] - 1
    return chosen * n_bins + (score[:, None] >= edges[chosen, 1:-1]).sum(dim=1)


def filled(index: torch.Tensor, weight: torch.Tensor, n_bins: int) -> torch.Tensor:
    """Sum weights by bin: index ``(n_members, n_events)``, weight ``(n_sets, n_events)``; float64
    ``(n_members, n_sets, n_bins)``."""
    out = torch.zeros(len(index), len(weight), n_bins, dtype=torch.float64, device=weight.device)
    bins = torch.arange(n_bins, device=index.device)
    for m, own in enumerate(index):
        if len(weight) == 1:
            out[m, 0] = torch.bincount(own, weight[0].double(), minlength=n_bins)
            continue
        for some, part in zip(torch.split(own, _CHUNK), torch.split(weight, _CHUNK, dim=1), strict=True):
            out[m] += part @ (some[:, None] == bins).to(part.dtype)
    return out

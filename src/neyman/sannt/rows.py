"""`Rows`: for each block of events with common features, the weights of the sums that a Fisher information needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.sannt.templates import NOMINAL, Block, Direction, Key, Templates

# The expectation and its variance, the same of the backgrounds alone, then strengths and nuisance parameters.
EXPECTED, VARIANCE, BACKGROUND, BACKGROUND_VARIANCE, FIRST = range(5)


@dataclass(frozen=True)
class Rows:
    """Weights of the sums over events that a Fisher information needs.

    Parameters
    ----------
    x
        Features of all blocks, ``(n_events, n_features)``.
    sizes
        Events of each block.
    weights
        For each block, the weights of its rows, ``(n_block_rows, n_block_events)``.
    places
        For each block, which rows these are.
    n_rows
        Number of rows.
    process
        For each block, the process of its nominal events and their weights; None for a block without any.
    """

    x: torch.Tensor
    sizes: list[int]
    weights: list[torch.Tensor]
    places: list[torch.Tensor]
    n_rows: int
    process: list[tuple[str, torch.Tensor] | None]


def rows_of(
    templates: Templates,
    direction: Direction = "average",
    *,
    dtype: torch.dtype,
    device: torch.device | None = None,
    judge: Templates | None = None,
) -> Rows:
    """Return the sums of a Fisher information as weights of events.

    Parameters
    ----------
    templates
        The events.
    direction
        Derivative to a nuisance parameter at 0: ``average`` half the difference of up and down, ``up`` or ``down`` the
        one-sided differences to the nominal; for normalisations see :meth:`Normalisation.slope`.
    dtype
        Precision of the weights.
    device
        Where the tensors are kept.
    judge
        Events whose statistics the fit will have: the variance is scaled to theirs, process by process. That of the
        backgrounds, by which bins are merged, stays that of these events.
    """
    order = [*templates.strengths, *templates.parameters]
    x, weights, places = [], [], []
    process: list[tuple[str, torch.Tensor] | None] = []
    for k, block in enumerate(templates.blocks):
        parts: dict[int, NDArray[np.float64]] = {}
        nominal = None
        for key, weight in zip(block.keys, block.weight, strict=True):
            for row, factor in _coefficients(templates, key, order, direction):
                parts[row] = parts.get(row, 0.0) + factor * weight
            if key[1] == NOMINAL:
                scale = 1.0 if judge is None else _squares(judge.blocks[k], key) / _squares(block, key)
                parts[VARIANCE] = scale * weight**2
                if key[0] not in templates.signals:
                    parts[BACKGROUND], parts[BACKGROUND_VARIANCE] = weight, weight**2
                nominal = key[0], torch.from_numpy(weight).to(device, dtype)
        if not parts:  # the other side of a one-sided difference
            continue
        x.append(block.x)
        places.append(torch.tensor(sorted(parts), device=device))
        stacked = np.stack([parts[row] for row in sorted(parts)])
        weights.append(torch.from_numpy(stacked).to(device, dtype))
        process.append(nominal)
    return Rows(
        torch.from_numpy(np.concatenate(x)).to(device),
        [len(part) for part in x],
        weights,
        places,
        FIRST + len(order),
        process,
    )


def _squares(block: Block, key: Key) -> float:
    return float((block.weight[block.keys.index(key)] ** 2).sum())


def _coefficients(
    templates: Templates, key: Key, order: Sequence[str], direction: Direction
) -> list[tuple[int, float]]:
    """Rows to which a template contributes, with its factors."""
    process, category = key
    up, down = {"average": (0.5, -0.5), "up": (1.0, 0.0), "down": (0.0, -1.0)}[direction]
    if category != NOMINAL:
        parameter = category.removesuffix("Up") if category.endswith("Up") else category.removesuffix("Down")
        factor = up if category.endswith("Up") else down
        return [(FIRST + order.index(parameter), factor)] if factor else []
    out = [(EXPECTED, 1.0)]
    out += [(FIRST + order.index(name), 1.0) for name, own in templates.strengths.items() if process in own]
    for one in templates.normalisations:
        if process in one.processes:
            out.append((FIRST + order.index(one.parameter), one.slope(direction)))
    if direction != "average":  # the other end of a one-sided difference
        varied = {k[1] for k in templates.keys if k[0] == process}
        for parameter in templates.parameters:
            if f"{parameter}Up" in varied:
                out.append((FIRST + order.index(parameter), -1.0 if direction == "up" else 1.0))
    return out

"""The code4 factors of many up/down ratios at once: where an unbinned fit spends its time.

A factor is linear in six functions of its two log-ratios. For events in memory the functions are kept, so that an
evaluation is one product of small matrices with them; for streamed events they are computed block by block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from neyman.likelihood.interpolation import code4_weights
from neyman.likelihood.shapes import Effect

_TOGETHER = 8  # ratios whose functions are computed at a time


class Scratch:
    """Buffers that are reused from chunk to chunk: getting them anew costs as much as filling them."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def empty(
        self, name: str, *shape: int, dtype: torch.dtype = torch.float64, device: Any = None
    ) -> torch.Tensor:
        """Return an uninitialised tensor; the last one of the same name becomes invalid."""
        n, held = math.prod(shape), self._held.get(name)
        if held is None or len(held) < n or held.dtype != dtype or held.device != device:
            held = self._held[name] = torch.empty(n, dtype=dtype, device=device)
        return held[:n].view(shape)

    def gather(self, columns: Sequence[torch.Tensor], rows: slice) -> torch.Tensor:
        """Return the events `rows` of some columns as they are stored, shape ``(n_columns, n)``."""
        parts = [column[rows] for column in columns]
        kind = torch.float32 if all(part.dtype == torch.float32 for part in parts) else torch.float64
        n = rows.stop - rows.start
        out = self.empty("stored", len(columns) * n, dtype=kind, device=parts[0].device)
        return torch.cat(parts, out=out).view(len(columns), n)


class Code4Point:
    r"""Where a stack of ratios is evaluated, for a batch of parameter values.

    Inside :math:`|\alpha| < 1` the factors are linear in six functions of the two log-ratios
    (`interpolation.code4_weights`), so that all rows of the batch and all derivatives come from one product of
    small matrices with the functions. Beyond, a factor is the power of one of the ratios.

    Parameters
    ----------
    alpha
        Parameter of each ratio in each row of the batch, float64, shape ``(n_ratios, n_rows)``, on the CPU.
    order
        Highest derivative: 0, 1 or 2.
    device
        Device of the events.
    """

    def __init__(self, alpha: torch.Tensor, order: int, device: torch.device) -> None:
        self.order = order
        self.n_ratios, self.n_rows = alpha.shape
        inside = alpha.abs() < 1.0
        # Without derivatives a parameter at 0 has no effect at all.
        near = (inside & ((alpha != 0.0) | (order > 0))).any(1)
        self.groups = _runs(near.tolist(), _TOGETHER)
        self.rest = torch.nonzero(~near)[:, 0].to(device)
        weights = code4_weights(torch.where(inside, alpha, 0.0))[..., : order + 1, :]
        weights = torch.where(inside[..., None, None], weights, 0.0)
        # Functions come up and down in turn.
        weights = weights.reshape(*weights.shape[:-1], 2, 3).transpose(-1, -2).flatten(-2)
        # From (ratio, row, derivative) to the rows (derivative, row) of one matrix a ratio, in both precisions.
        weights = weights.transpose(1, 2).flatten(1, 2).to(device)
        self.weights = {torch.float64: weights, torch.float32: weights.float()}
        far = torch.nonzero(~inside)
        values = alpha[far[:, 0], far[:, 1]]
        self.far = list(zip(far[:, 0].tolist(), (values > 0.0).tolist(), strict=True))
        self.far_ratio, self.far_row = far.to(device).unbind(1)
        self.sign = values.sign()[:, None].to(device)
        self.power = values.abs()[:, None].to(device)
        self.idle = not (self.groups or self.far)


def _runs(chosen: Sequence[bool], longest: int) -> list[slice]:
    """Return the runs of consecutive chosen positions, cut where they are too long."""
    padded = [False, *chosen, False]
    edges = [i for i in range(len(chosen) + 1) if padded[i] != padded[i + 1]]
    return [
        slice(i, min(i + longest, last))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        for i in range(first, last, longest)
    ]


class UpDownStack:
    r"""Ratios given by columns :math:`\ln u` and :math:`\ln d`, one pair of columns each.

    Factors are computed in the precision of the columns, as their excess over 1, and only then made float64: the
    excess is small, so float32 keeps of it what it would lose of the factor.

    Parameters
    ----------
    up, down
        Columns of float32 or float64, each of shape ``(n_events,)``.
    keep
        Number of events whose functions are kept in one piece of memory, or 0 to compute them at every evaluation.
        The functions need three times the memory of the columns.
    """

    def __init__(self, up: Sequence[torch.Tensor], down: Sequence[torch.Tensor], *, keep: int = 0) -> None:
        self._up, self._down, self._piece = list(up), list(down), keep
        single = all(column.dtype == torch.float32 for column in [*self._up, *self._down])
        self.dtype = torch.float32 if single else torch.float64
        scratch, n = Scratch(), len(self._up[0]) if self._up else 0
        self._kept: list[torch.Tensor] = []
        for first in range(0, n, keep) if keep else ():
            logs = scratch.gather([*self._up, *self._down], slice(first, min(first + keep, n)))
            self._kept.append(self._functions(logs, scratch).clone(memory_format=torch.contiguous_format))

    def columns(self, point: Code4Point) -> list[torch.Tensor]:
        """Return the columns that `factors` needs at `point`, in its order."""
        groups = () if self._kept else point.groups
        near = [column for group in groups for column in (*self._up[group], *self._down[group])]
        return near + [(self._up if up else self._down)[ratio] for ratio, up in point.far]

    def _functions(self, logs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        r"""Return :math:`u - 1, d - 1, u \ln u, d \ln d, u \ln^2 u, d \ln^2 d`, shape ``(n_ratios, 6, n)``, of the
        logarithms of the up ratios, then of the down ratios, ``(2 n_ratios, n)``."""
        size, n = len(logs) // 2, logs.shape[1]
        logs = logs.to(self.dtype)
        out = scratch.empty("functions", 3, 2 * size, n, dtype=self.dtype, device=logs.device)
        torch.expm1(logs, out=out[0])
        torch.addcmul(logs, out[0], logs, out=out[1])
        torch.mul(out[1], logs, out=out[2])
        return out.view(6, size, n).transpose(0, 1)

    def factors(self, point: Code4Point, rows: slice, logs: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """Return the factors and their derivatives, float64, shape ``(n_ratios, order + 1, n_rows, n)``.

        They are positive but for an absurd polynomial, which the caller must refuse.

        Parameters
        ----------
        point
            Where.
        rows
            The n events; kept functions are those of one piece.
        logs
            The `columns` at these events, shape ``(n_columns, n)``.
        scratch
            Buffers; the result is one of them.
        """
        n, device = rows.stop - rows.start, logs.device
        shape = (point.n_ratios, point.order + 1, point.n_rows, n)
        excess = scratch.empty("excess", *shape, dtype=self.dtype, device=device)
        if len(point.rest):
            excess[point.rest] = 0.0
        weights, used = point.weights[self.dtype], 0
        for group in point.groups:
            if self._kept:
                piece, first = divmod(rows.start, self._piece)
                functions = self._kept[piece][group, :, first : first + n]
            else:
                size = 2 * (group.stop - group.start)
                functions = self._functions(logs[used : used + size], scratch)
                used += size
            torch.bmm(weights[group], functions, out=excess[group].flatten(1, 2))
        out = scratch.empty("factors", *shape, device=device).copy_(excess)
        out[:, 0] += 1.0
        if point.far:
            far = logs[used:].double()
            value, slope = torch.exp(far * point.power), far * point.sign
            for derivative in range(point.order + 1):
                out[point.far_ratio, derivative, point.far_row] = value
                value = value * slope
        return out

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        """Return the effect of a stack of one ratio (`neyman.likelihood.shapes.CompiledShape`)."""
        point = Code4Point(alpha[:, None], order, self._up[0].device)
        scratch = Scratch()
        logs = scratch.gather(self.columns(point), rows) if not point.idle else self._up[0][None, rows]
        factor, *derivatives = self.factors(point, rows, logs, scratch)[0, :, 0]
        first = derivatives[0] / factor if order > 0 else None
        second = derivatives[1] / factor - first**2 if order > 1 and first is not None else None
        return Effect(
            factor=factor,
            first=None if first is None else first[None],
            second=None if second is None else second[None],
        )

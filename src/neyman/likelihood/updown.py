"""The code4 factors of many up/down ratios at once: where an unbinned fit spends its time.

Only the two log-ratio columns of each ratio are kept. Their exponentials are taken again at every evaluation, chunk
by chunk in the processor's cache, which costs less than reading stored polynomial coefficients of three times the
size, and works the same for streamed events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from neyman.likelihood.interpolation import code4_weights
from neyman.likelihood.shapes import Effect

_CELLS = 40960  # ratios times events whose exponentials are held at a time


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

    def gather(
        self, name: str, columns: Sequence[torch.Tensor], rows: slice, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the events `rows` of some columns as float64, shape ``(n_columns, n)``."""
        n, device = rows.stop - rows.start, columns[0].device
        parts = [column[rows] for column in columns]
        if out is None:
            out = self.empty(name, len(columns), n, device=device)
        if all(part.dtype == torch.float64 for part in parts):
            return torch.cat(parts, out=out.view(-1)).view(len(columns), n)
        stored = self.empty(f"{name}:stored", len(columns) * n, dtype=torch.float32, device=device)
        if all(part.dtype == torch.float32 for part in parts):
            return out.copy_(torch.cat(parts, out=stored).view(len(columns), n))
        return torch.stack([part.double() for part in parts], out=out)


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
        self.near = _runs(near.tolist())
        self.rest = torch.nonzero(~near)[:, 0].to(device)
        weights = code4_weights(torch.where(inside, alpha, 0.0))[..., : order + 1, :]
        weights = torch.where(inside[..., None, None], weights, 0.0)
        constant = -weights[..., 0] - weights[..., 3]
        constant[..., 0] += 1.0
        # Logarithms are to base 2 below: exp2 is the fastest exponential. Functions: power, then up and down.
        weights = weights.reshape(*weights.shape[:-1], 2, 3) * math.log(2.0) ** torch.arange(3.0).double()
        weights = weights.transpose(-1, -2).flatten(-2)
        # From (ratio, row, derivative) to the rows (derivative, row) of one matrix a ratio.
        self.weights = weights.transpose(1, 2).flatten(1, 2).to(device)
        self.constant = constant.transpose(1, 2).flatten(1, 2)[..., None].to(device)
        far = torch.nonzero(~inside)
        values = alpha[far[:, 0], far[:, 1]]
        self.far = list(zip(far[:, 0].tolist(), (values > 0.0).tolist(), strict=True))
        self.far_ratio, self.far_row = far.to(device).unbind(1)
        self.sign = values.sign()[:, None].to(device)
        self.power = (values.abs() / math.log(2.0))[:, None].to(device)
        self.idle = not (self.near or self.far)


def _runs(chosen: Sequence[bool]) -> list[range]:
    """Return the runs of consecutive chosen positions."""
    edges = [
        i for i in range(len(chosen) + 1) if (i < len(chosen) and chosen[i]) != (i > 0 and chosen[i - 1])
    ]
    return [range(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True)]


class UpDownStack:
    r"""Ratios given by columns :math:`\ln u` and :math:`\ln d`, one pair of columns each.

    Parameters
    ----------
    up, down
        Columns of float32 or float64, each of shape ``(n_events,)``.
    """

    def __init__(self, up: Sequence[torch.Tensor], down: Sequence[torch.Tensor]) -> None:
        self._up, self._down = list(up), list(down)

    def factors(self, point: Code4Point, rows: slice, scratch: Scratch) -> torch.Tensor:
        """Return the factors and their derivatives, shape ``(n_ratios, order + 1, n_rows, n)``.

        They are positive but for an absurd polynomial, which the caller must refuse.
        """
        n, device = rows.stop - rows.start, self._up[0].device
        out = scratch.empty("factors", point.n_ratios, point.order + 1, point.n_rows, n, device=device)
        if len(point.rest):
            out[point.rest] = 0.0
            out[point.rest, 0] = 1.0
        together = max(1, _CELLS // n)
        for run in point.near:
            for first in range(run.start, run.stop, together):
                self._polynomials(point, slice(first, min(first + together, run.stop)), rows, scratch, out)
        if point.far:
            logs = scratch.gather("logs", [(self._up if up else self._down)[i] for i, up in point.far], rows)
            value, slope = torch.exp2(logs * point.power), logs * point.sign
            for derivative in range(point.order + 1):
                out[point.far_ratio, derivative, point.far_row] = value
                value = value * slope
        return out

    def _polynomials(
        self, point: Code4Point, ratios: slice, rows: slice, scratch: Scratch, out: torch.Tensor
    ) -> None:
        up, down, n = self._up[ratios], self._down[ratios], rows.stop - rows.start
        functions = scratch.empty("functions", 3, len(up) + len(down), n, device=out.device)
        power, by_log, by_square = functions.unbind()
        logs = scratch.gather("logs", up + down, rows, out=by_square).mul_(1.0 / math.log(2.0))
        torch.exp2(logs, out=power)
        torch.mul(power, logs, out=by_log)
        torch.mul(by_log, logs, out=by_square)
        found = out[ratios].flatten(1, 2)
        torch.bmm(point.weights[ratios], functions.view(6, len(up), n).transpose(0, 1), out=found)
        found.add_(point.constant[ratios])

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        """Return the effect of a stack of one ratio (`neyman.likelihood.shapes.CompiledShape`)."""
        point = Code4Point(alpha[:, None], order, self._up[0].device)
        factor, *derivatives = self.factors(point, rows, Scratch())[0, :, 0]
        first = derivatives[0] / factor if order > 0 else None
        second = derivatives[1] / factor - first**2 if order > 1 and first is not None else None
        return Effect(
            factor=factor,
            first=None if first is None else first[None],
            second=None if second is None else second[None],
        )

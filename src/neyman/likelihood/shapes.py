"""Per-event log-ratios of one sample as functions of nuisance parameters, with closed derivatives.

Each shape effect adds ``delta(x; alpha)`` to the sample's nominal log-ratio, and ``delta(x; 0) = 0``:

* `UpDownRatio`: learned up and down ratios, interpolated like a normsys (HistFactory code4).
* `TabulatedNetwork`: a network conditioned on the nuisance parameter, evaluated once at a few nodes and
  interpolated by the polynomial through them. For a smooth network the error falls geometrically with the
  number of nodes, and a fit never needs the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.likelihood import interpolation

Columns = Mapping[str, torch.Tensor]
Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class CompiledShape(Protocol):
    """A shape effect bound to a set of events."""

    def delta(self, alpha: float, rows: slice) -> Three:
        """Return ``delta`` of the events `rows` with its first and second derivative, each ``(n,)``."""


class Shape(Protocol):
    """A shape effect of one nuisance parameter on one sample."""

    @property
    def parameter(self) -> str:
        """Name of the nuisance parameter."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the event table that it reads."""

    def compile(self, columns: Columns) -> CompiledShape:
        """Bind the effect to events."""


@dataclass(frozen=True)
class UpDownRatio:
    r"""Systematic ratio from learned up and down log-ratios ``ln p_up/p_nominal`` and ``ln p_down/p_nominal``.

    :math:`g(x;\alpha)` is the HistFactory code4 factor of ``exp(up)`` and ``exp(down)``.
    """

    parameter: str
    up: str
    down: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the event table that it reads."""
        return self.up, self.down

    def compile(self, columns: Columns) -> CompiledShape:
        """Bind the effect to events."""
        return _CompiledUpDown(interpolation.code4(columns[self.up].exp(), columns[self.down].exp()))


class _CompiledUpDown:
    def __init__(self, code: interpolation.Code4) -> None:
        self._code = code

    def delta(self, alpha: float, rows: slice) -> Three:
        return self._code[rows].log_factor(torch.tensor(alpha, dtype=torch.float64))


@dataclass(frozen=True)
class TabulatedNetwork:
    r"""Conditioned network tabulated at `nodes`: column ``c_k`` holds ``ln r(x; alpha = nodes[k])``.

    :math:`\delta(x;\alpha) = \sum_k a_k(x) [T_k(t) - T_k(t_0)]`, ``t`` the parameter mapped to [-1, 1] over the
    range of the nodes and :math:`a` the Chebyshev coefficients of the polynomial through the nodes.
    """

    parameter: str
    nodes: tuple[float, ...]
    nodes_columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.nodes) != len(self.nodes_columns) or len(set(self.nodes)) < max(2, len(self.nodes)):
            raise LikelihoodError(
                f"the network ratio of {self.parameter!r} needs one column for each of at least two distinct nodes",
                where=f"{len(self.nodes)} nodes, {len(self.nodes_columns)} columns",
            )
        if not min(self.nodes) <= 0.0 <= max(self.nodes):
            raise LikelihoodError(
                f"the nodes of the network ratio of {self.parameter!r} must enclose 0, the nominal value",
                where=f"nodes from {min(self.nodes):g} to {max(self.nodes):g}",
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the event table that it reads."""
        return self.nodes_columns

    @property
    def range(self) -> tuple[float, float]:
        """Values of the nuisance parameter between which the network was tabulated."""
        return min(self.nodes), max(self.nodes)

    def compile(self, columns: Columns) -> CompiledShape:
        """Bind the effect to events."""
        low, high = self.range
        vandermonde = chebyshev.chebvander(_unit(np.array(self.nodes), low, high), len(self.nodes) - 1)
        values = torch.stack([columns[name] for name in self.nodes_columns], dim=-1)
        return _CompiledNetwork(self, values @ torch.from_numpy(np.linalg.inv(vandermonde).T.copy()))


class _CompiledNetwork:
    def __init__(self, shape: TabulatedNetwork, coefficients: torch.Tensor) -> None:
        self._shape, self._coefficients = shape, coefficients

    def delta(self, alpha: float, rows: slice) -> Three:
        low, high = self._shape.range
        if not low <= alpha <= high:
            raise LikelihoodError(
                f"nuisance parameter {self._shape.parameter!r} = {alpha:.4g} is outside the range in which its "
                f"network was trained",
                expected=f"{low:g} to {high:g}",
                fix="narrow the parameter's bounds, or train the network over a wider range",
            )
        basis = torch.from_numpy(_basis(alpha, low, high, len(self._shape.nodes)))
        value, first, second = (self._coefficients[rows] @ basis).unbind(-1)
        return value, first, second


def _unit(alpha: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return (2.0 * alpha - (low + high)) / (high - low)


def _basis(alpha: float, low: float, high: float, n: int) -> NDArray[np.float64]:
    """Return ``T_k(t) - T_k(t_0)`` and the two derivatives by alpha, shape ``(n, 3)``."""
    t, zero = _unit(np.array([alpha, 0.0]), low, high)
    slope = 2.0 / (high - low)
    identity = np.eye(n)
    first, second = chebyshev.chebder(identity, 1, axis=0), chebyshev.chebder(identity, 2, axis=0)
    value = chebyshev.chebval(t, identity) - chebyshev.chebval(zero, identity)
    return np.stack(
        [value, slope * chebyshev.chebval(t, first), slope**2 * chebyshev.chebval(t, second)], axis=-1
    )


def required_columns(shapes: Sequence[Shape]) -> tuple[str, ...]:
    """Return all columns that shape effects read, without repeats."""
    return tuple(dict.fromkeys(name for shape in shapes for name in shape.columns))

"""Per-event effects of parameters on the density ratio of one sample, with closed derivatives.

A shape multiplies the ratio ``r_s(x)`` of one sample by ``g(x; alpha)``. It is a plain description; `compile`
binds it to the columns of some events, and `CompiledShape.at` evaluates it there.

* `UpDownRatio`: learned up and down ratios, interpolated like a normsys (HistFactory code4). The kernel evaluates
  all of them together (`neyman.likelihood.updown`).
* `TabulatedNetwork`: a network conditioned on the nuisance parameter, evaluated once at a few nodes and
  interpolated by the polynomial through them. For a smooth network the error falls geometrically with the
  number of nodes, and a fit never needs the network.

Shapes may read columns of any floating type and compute in float64. Streamed events are compiled batch by batch
at every evaluation, so `compile` should do no more than pick columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from neyman.errors import LikelihoodError

Columns = Mapping[str, torch.Tensor]


class Effect(NamedTuple):
    r"""Effect :math:`g` of one compiled shape on the ratio of one sample at n events, all float64.

    ``g = factor * exp(log)``; a part that is None counts as 1, and at least one of the two is given.

    Parameters
    ----------
    log
        Additive in the log-ratio, shape ``(n,)``.
    factor
        Multiplicative on the ratio, positive, shape ``(n,)``.
    first
        :math:`\partial\ln g/\partial\alpha`, shape ``(p, n)`` for p parameters; None below order 1.
    second
        Second derivatives of :math:`\ln g`: ``(p, n)`` when diagonal, ``(p, p, n)`` when full; None below order
        2 or when zero.
    """

    log: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    first: torch.Tensor | None = None
    second: torch.Tensor | None = None


class CompiledShape(Protocol):
    """A shape bound to a set of events."""

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        """Return the effect on the events `rows` with derivatives up to `order` (0, 1 or 2).

        Parameters
        ----------
        alpha
            Values of the shape's parameters, float64, shape ``(p,)``, on the CPU.
        rows
            Events.
        order
            0, 1 or 2.
        """


class Shape(Protocol):
    """Effect of some parameters on the density of one sample."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of `alpha`; several shapes may share a parameter."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the events that it reads."""

    def compile(self, columns: Columns) -> CompiledShape:
        """Bind the effect to events; tensors stay on the columns' device."""


@dataclass(frozen=True)
class UpDownColumns:
    """Columns with the learned log-ratios ``ln p_up/p_nominal`` and ``ln p_down/p_nominal`` of one parameter."""

    parameter: str
    up: str
    down: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Name of the nuisance parameter."""
        return (self.parameter,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the events that it reads."""
        return self.up, self.down


@dataclass(frozen=True)
class UpDownRatio(UpDownColumns):
    r"""Systematic ratio: :math:`g(x;\alpha)` is the HistFactory code4 factor of ``exp(up)`` and ``exp(down)``."""

    def compile(self, columns: Columns) -> CompiledShape:
        """Bind the effect to events."""
        from neyman.likelihood.updown import UpDownStack

        return UpDownStack([columns[self.up]], [columns[self.down]])


@dataclass(frozen=True)
class TabulatedNetwork:
    r"""Conditioned network tabulated at `nodes`: column ``c_k`` holds ``ln r(x; alpha = nodes[k])``.

    :math:`\ln g(x;\alpha) = \sum_k \lambda_k(\alpha)\, c_k(x)` with :math:`\lambda_k(\alpha)` the Lagrange
    polynomials of the nodes minus their values at 0, so that :math:`g(x;0) = 1`.
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
    def parameters(self) -> tuple[str, ...]:
        """Name of the nuisance parameter."""
        return (self.parameter,)

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
        return _CompiledNetwork(self, [columns[name] for name in self.nodes_columns])


class _CompiledNetwork:
    def __init__(self, shape: TabulatedNetwork, columns: Sequence[torch.Tensor]) -> None:
        self._shape, self._columns = shape, columns

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        weights = _lagrange(self._shape, float(alpha[0]), order)
        values = torch.stack([column[rows] for column in self._columns]).double()
        found = torch.from_numpy(weights).to(values.device) @ values
        return Effect(
            log=found[0], first=found[1:2] if order > 0 else None, second=found[2:3] if order > 1 else None
        )


def _lagrange(shape: TabulatedNetwork, alpha: float, order: int) -> NDArray[np.float64]:
    """Return the weights of the nodes' columns and their derivatives, shape ``(order + 1, n_nodes)``."""
    low, high = shape.range
    if not low <= alpha <= high:
        raise LikelihoodError(
            f"nuisance parameter {shape.parameter!r} = {alpha:.4g} is outside the range in which its "
            f"network was trained",
            expected=f"{low:g} to {high:g}",
            fix="narrow the parameter's bounds, or train the network over a wider range",
        )
    n, slope = len(shape.nodes), 2.0 / (high - low)
    scaled = (2.0 * np.array([alpha, 0.0, *shape.nodes]) - (low + high)) / (high - low)
    t, zero, nodes = scaled[0], scaled[1], scaled[2:]
    identity = np.eye(n)
    rows = [chebyshev.chebval(t, identity) - chebyshev.chebval(zero, identity)]
    rows += [
        slope**k * chebyshev.chebval(t, chebyshev.chebder(identity, k, axis=0)) for k in range(1, order + 1)
    ]
    weights: NDArray[np.float64] = np.linalg.solve(chebyshev.chebvander(nodes, n - 1).T, np.stack(rows).T).T
    return weights


def required_columns(shapes: Sequence[Shape]) -> tuple[str, ...]:
    """Return all columns that shape effects read, without repeats."""
    return tuple(dict.fromkeys(name for shape in shapes for name in shape.columns))

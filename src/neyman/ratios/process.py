"""All learned ratios of one process, and their evaluation into the columns of an unbinned term."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from neyman.errors import TrainingError, WorkspaceError
from neyman.events import EventTable
from neyman.files import atomic
from neyman.networks import Model


def lobatto(low: float, high: float, n: int) -> tuple[float, ...]:
    """Return `n` Chebyshev-Lobatto points of [low, high] in ascending order, exact at the ends and the middle."""
    points = np.cos(np.pi * np.arange(n)[::-1] / (n - 1))
    points[np.abs(points) < 1e-15] = 0.0
    return tuple(((low + high) / 2.0 + (high - low) / 2.0 * points).tolist())


@dataclass(frozen=True)
class ProcessRatios:
    r"""Every density ratio learned for one process.

    Parameters
    ----------
    name
        Name of the process.
    nominal
        Ratio to the reference density; may be conditioned on one nuisance parameter (in units of its prior
        standard deviation, 0 nominal).
    up_down
        Per nuisance parameter the ratios ``ln p_up/p_nominal`` and ``ln p_down/p_nominal``.
    nodes
        Values of the conditioning parameter at which the network is tabulated.
    """

    name: str
    nominal: Model
    up_down: Mapping[str, tuple[Model, Model]] = field(default_factory=dict)
    nodes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.nominal.parameters)
        if n > 1:
            raise WorkspaceError(
                f"the network of {self.name!r} is conditioned on {n} nuisance parameters",
                expected="at most one conditioning parameter a network; others as up/down ratios",
            )
        if bool(self.nodes) != bool(n):
            raise WorkspaceError(f"the network of {self.name!r} needs nodes exactly when it is conditioned")

    @property
    def conditioned_on(self) -> str | None:
        """Name of the conditioning nuisance parameter, if any."""
        return self.nominal.parameters[0] if self.nominal.parameters else None

    def node_columns(self) -> tuple[str, ...]:
        """Names of the columns of the log-ratio at the nodes."""
        return tuple(f"{self.name}@{self.conditioned_on}={node:+.4f}" for node in self.nodes)

    def up_down_columns(self, parameter: str) -> tuple[str, str]:
        """Names of the columns of the up and down log-ratios of a nuisance parameter."""
        return f"{self.name}:{parameter}:up", f"{self.name}:{parameter}:down"

    def at_nominal(self, events: EventTable) -> NDArray[np.float32]:
        """Evaluate the log-ratio at the nominal parameters, shape ``(n_events,)``."""
        return self.nominal(
            events.with_features(self.nominal.features).x, [0.0] if self.conditioned_on else None
        )

    def members_at_nominal(self, events: EventTable) -> NDArray[np.float32]:
        """Evaluate every member at the nominal parameters, shape ``(n_members, n_events)``."""
        return self.nominal.members(
            events.with_features(self.nominal.features).x, [0.0] if self.conditioned_on else None
        )

    def columns(self, events: EventTable) -> dict[str, NDArray[np.float32]]:
        """Evaluate all networks on events: one log-ratio column each, shape ``(n_events,)``."""
        x = events.with_features(self.nominal.features).x
        out = {self.name: self.at_nominal(events)}
        for node, column in zip(self.nodes, self.node_columns(), strict=True):
            out[column] = out[self.name] if node == 0.0 else self.nominal(x, [node])
        for parameter, models in self.up_down.items():
            for column, model in zip(self.up_down_columns(parameter), models, strict=True):
                out[column] = model(events.with_features(model.features).x)
        return out


def tabulate(
    model: Model, events: EventTable, low: float, high: float, *, tolerance: float = 1e-3, largest: int = 33
) -> tuple[tuple[float, ...], float]:
    """Choose the nodes at which a conditioned network is tabulated.

    The number of Chebyshev-Lobatto points is doubled until the polynomial through them reproduces the network
    half-way between the points.

    Parameters
    ----------
    model
        Ratio conditioned on one nuisance parameter.
    events
        Events over which the error is measured.
    low, high
        Range of use, inside the trained range.
    tolerance
        Largest root-mean-square error of the log-ratio.
    largest
        Give up beyond this number of points.

    Returns
    -------
    The nodes, and the error that they leave.

    Raises
    ------
    TrainingError
        When the model is not conditioned on one nuisance parameter, the range exceeds the trained range, or the
        network is too rough.
    """
    if len(model.description.parameter_range) != 1 or len(model.parameters) != 1 or not low < high:
        raise TrainingError(
            f"cannot tabulate a model of ({', '.join(model.parameters)}) over [{low:g}, {high:g}]",
            expected="a model conditioned on one nuisance parameter with its trained range, and an ascending range",
        )
    trained = model.description.parameter_range[0]
    slack = 1e-3 * (trained[1] - trained[0])
    if low < trained[0] - slack or high > trained[1] + slack:
        raise TrainingError(
            f"the range of use [{low:g}, {high:g}] of {model.parameters[0]!r} exceeds the trained range",
            expected=f"inside [{trained[0]:.4g}, {trained[1]:.4g}]",
            fix="train over a wider range",
        )
    x = events.with_features(model.features).x
    n, error = 5, np.inf
    while n <= largest:
        nodes = lobatto(low, high, n)
        table = np.stack([model(x, [node]) for node in nodes], axis=1).astype(np.float64)
        between = np.array([(a + b) / 2.0 for a, b in pairwise(nodes)])
        exact = np.stack([model(x, [value]) for value in between], axis=1).astype(np.float64)
        at_nodes, at_between = (
            chebyshev.chebvander((2.0 * np.asarray(points) - (low + high)) / (high - low), n - 1)
            for points in (nodes, between)
        )
        weights = at_between @ np.linalg.inv(at_nodes.astype(np.float64))
        error = float(np.sqrt(np.mean((table @ weights.T - exact) ** 2)))
        if error <= tolerance:
            return nodes, error
        n = 2 * n - 1
    raise TrainingError(
        f"the network of {model.parameters[0]!r} is too rough to tabulate: error {error:.2g} of the log-ratio "
        f"with {(n + 1) // 2} nodes",
        expected=f"at most {tolerance:g}",
        fix="use a smooth activation (silu), more training events, or a wider tolerance",
    )


@dataclass(frozen=True)
class RatioTable:
    """Events with their weights, features and log-ratio columns; one row an event.

    Parameters
    ----------
    weight
        Event weights, shape ``(n_events,)``.
    columns
        Log-ratios by column name, float32 ``(n_events,)``.
    events
        The events themselves, so that others can re-score or plot them.
    """

    weight: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float32]]
    events: EventTable

    @classmethod
    def evaluate(cls, events: EventTable, processes: Sequence[ProcessRatios]) -> RatioTable:
        """Evaluate all ratios of all processes on `events`."""
        columns: dict[str, NDArray[np.float32]] = {}
        for process in processes:
            columns |= process.columns(events)
        return cls(events.weight, columns, events)

    def with_columns(self, columns: Mapping[str, NDArray[np.float32]]) -> RatioTable:
        """Return the table with further columns."""
        return replace(self, columns={**self.columns, **columns})

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write weight, features and other event columns (prefixed ``x:``) and log-ratios, atomically."""
        arrays: dict[str, NDArray[Any]] = {"weight": np.asarray(self.weight, dtype=np.float64)}
        arrays |= {f"x:{name}": self.events.x[:, i] for i, name in enumerate(self.events.features)}
        arrays |= {f"x:{name}": np.asarray(column) for name, column in self.events.extra.items()}
        arrays |= {name: np.asarray(values, dtype=np.float32) for name, values in self.columns.items()}
        with atomic(path) as part:
            pq.write_table(pa.table(arrays), part, use_dictionary=False, compression="lz4")
        return Path(path)

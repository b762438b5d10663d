"""`Unfolding`: per-event weights that turn the simulation into the unfolded data, and what is made from them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

import hist
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError
from neyman.events.columns import check_finite, write_parquet
from neyman.networks import Aggregate, combine

Level = Literal["detector", "particle"]


@dataclass(frozen=True)
class StepRecord:
    """How one classifier training of an unfolding went.

    Parameters
    ----------
    iteration
        0-based.
    level
        ``detector`` (step 1) or ``particle`` (step 2).
    losses
        Best held-out loss of each member.
    separates
        Whether each member beat a constant output on held-out events; the ratio of one that did not is 1 up to
        the normalisation.
    """

    iteration: int
    level: Level
    losses: tuple[float, ...]
    separates: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Unfolding:
    """Result of an unfolding: one weight for every simulated event.

    Parameters
    ----------
    weight
        Weights of the simulation, ``(n_events,)``.
    members
        Push weights of each member, factors on `weight`, ``(n_members, n_events)``.
    passes_truth
        Which events have a particle level; only these enter histograms.
    aggregate
        How the members are combined; ``dataclasses.replace`` it to compare.
    steps
        Record of the trainings.
    """

    weight: NDArray[np.float64]
    members: NDArray[np.float64]
    passes_truth: NDArray[np.bool_]
    aggregate: Aggregate
    steps: tuple[StepRecord, ...]

    @property
    def push(self) -> NDArray[np.float64]:
        """Aggregated push weights, ``(n_events,)``."""
        return combine(self.members.astype(np.float32), self.aggregate).astype(np.float64)

    @property
    def unfolded(self) -> NDArray[np.float64]:
        """Weights of the simulated events in the unfolded spectrum, 0 without particle level, ``(n_events,)``."""
        return np.where(self.passes_truth, self.weight * self.push, 0.0)

    @property
    def effective_size(self) -> float:
        r"""Effective number of events behind the unfolded weights, :math:`(\sum w)^2 / \sum w^2`."""
        return float(self.unfolded.sum() ** 2 / np.square(self.unfolded).sum())

    def histogram(
        self, values: ArrayLike, edges: ArrayLike, *, member: int | None = None, name: str = "x"
    ) -> hist.Hist[hist.storage.Weight]:
        """Fill an observable with the unfolded weights.

        Parameters
        ----------
        values
            The observable of every simulated event, in their order, ``(n_events,)``.
        edges
            Bin edges.
        member
            One member instead of the aggregate.
        name
            Name of the axis.

        Raises
        ------
        InputError
            When there is not one finite value for every event, or no such member.
        """
        column = np.asarray(values, dtype=np.float64)
        if column.shape != self.weight.shape:
            raise InputError(
                f"the observable has shape {column.shape}",
                expected=f"({len(self.weight)},), one value for every simulated event",
            )
        if member is not None and not 0 <= member < len(self.members):
            raise InputError(f"there is no member {member}", expected=f"0 to {len(self.members) - 1}")
        chosen = self.passes_truth
        check_finite(column[chosen], name, "the observable", np.flatnonzero(chosen))
        weight = self.unfolded if member is None else self.weight * self.members[member]
        h = hist.Hist(
            hist.axis.Variable(np.asarray(edges, dtype=np.float64).tolist(), name=name),
            storage=hist.storage.Weight(),
        )
        h.fill(column[chosen], weight=weight[chosen])
        return h

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write one row an event, atomically: weight, push (aggregated), passes_truth, push_0, push_1, ..."""
        columns: dict[str, NDArray[Any]] = {
            "weight": self.weight,
            "push": self.push,
            "passes_truth": self.passes_truth,
        }
        write_parquet(path, columns | {f"push_{m}": push for m, push in enumerate(self.members)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the record of the trainings and the effective number of events."""
        return {"steps": [asdict(step) for step in self.steps], "effective_size": self.effective_size}

"""`Unfolding`: per-event weights that turn the simulation into the unfolded data, and what is made from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError
from neyman.events.columns import check_finite, write_parquet
from neyman.files import atomic
from neyman.networks import Aggregate, Model
from neyman.unfolding.aggregate import OF_LOG_RATIOS, aggregated, check, joined, keeping_yield
from neyman.unfolding.inputs import Support
from neyman.unfolding.iterate import Iteration, Mode
from neyman.unfolding.spectrum import Spectrum, bin_numbers, binned, covariances, filled
from neyman.unfolding.steps import StepRecord

if TYPE_CHECKING:
    import hist

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of an unfolded observable.

    Parameters
    ----------
    mean, width
        Mean and standard deviation.
    sources
        Covariance of the two, ``(2, 2)``, by source; those of :class:`Spectrum`.
    """

    mean: float
    width: float
    sources: Mapping[str, Array]

    @property
    def covariance(self) -> Array:
        """Sum over the sources, ``(2, 2)``."""
        return np.asarray(sum(self.sources.values()))

    @property
    def errors(self) -> tuple[float, float]:
        """Errors of mean and width."""
        mean, width = np.sqrt(np.diag(self.covariance)).tolist()
        return mean, width

    def __str__(self) -> str:
        parts = {name: np.sqrt(np.diag(own)) for name, own in self.sources.items()}
        lines = [
            f"{what:<6} {value:.5g} +- {self.errors[k]:.2g} ("
            + ", ".join(f"{name} {errors[k]:.2g}" for name, errors in parts.items())
            + ")"
            for k, (what, value) in enumerate((("mean", self.mean), ("width", self.width)))
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "mean": self.mean,
            "width": self.width,
            "sources": {name: own.tolist() for name, own in self.sources.items()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Unfolding:
    r"""Result of an unfolding: one weight for every simulated event.

    The unfolded data are the simulated events that have a particle level, with the weights :math:`w_i \nu_i`.

    Parameters
    ----------
    weight
        Weights w of the simulation, ``(n_events,)``.
    members
        Push weights of each member, factors on `weight`, ``(n_members, n_events)``. In step ensembling they are the
        members of the last step.
    pull_members
        Pull weights of each member, ``(n_members, n_events)``.
    passes_truth, passes_reconstruction
        Which events have the level; only those with a particle level enter histograms.
    factor
        Detector factors, 0 for events that are not detected, ``(n_events,)``.
    aggregate
        How the members are combined; :meth:`aggregated_by` chooses another.
    mode
        ``parallel`` or ``step``.
    steps
        Record of the trainings.
    support
        How much of the data the simulation cannot describe.
    iterations
        Weights after each iteration; empty when they were not kept.
    replicas
        Unfolded weights of every bootstrap replica by source (``data``, ``simulation``), float32
        ``(n_replicas, n_events)``.
    systematics
        Unfolded weights of every variation by name: one or two (up, down), float32 ``(1 or 2, n_events)``.
    models
        Last networks, ``detector`` and ``particle``; the output of the latter is the logarithm of the push weight.
    """

    weight: Array
    members: Array
    pull_members: Array
    passes_truth: NDArray[np.bool_]
    passes_reconstruction: NDArray[np.bool_]
    factor: Array
    aggregate: Aggregate
    mode: Mode
    steps: tuple[StepRecord, ...]
    support: Support
    iterations: tuple[Iteration, ...] = ()
    replicas: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    systematics: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    def __repr__(self) -> str:
        replicas = "".join(f", {len(own)} replicas of the {name}" for name, own in self.replicas.items())
        return (
            f"<Unfolding: {self.unfolded.sum():.6g} events from {len(self.weight)} simulated "
            f"(effectively {self.effective_size:.4g}); {self.aggregate} of {len(self.members)} members, {self.mode}; "
            f"{len(self.steps)} trainings{replicas}{', systematics ' * bool(self.systematics)}"
            f"{', '.join(self.systematics)}>"
        )

    # Weights ----------------------------------------------------------------------------------------------

    @property
    def push(self) -> Array:
        """Aggregated push weights, ``(n_events,)``; the yield is the average of the members'."""
        return aggregated(self.members, self.aggregate, self.weight * self.passes_truth)

    @property
    def pull(self) -> Array:
        """Aggregated pull weights, ``(n_events,)``."""
        return aggregated(self.pull_members, self.aggregate, self.weight * self.factor)

    @property
    def unfolded(self) -> Array:
        """Weights of the simulated events in the unfolded data, 0 without particle level, ``(n_events,)``."""
        return np.where(self.passes_truth, self.weight * self.push, 0.0)

    @property
    def folded(self) -> Array:
        """Weights of the simulated events at detector level after the unfolding, 0 where not detected, ``(n_events,)``.

        Histograms of detector-level observables with these weights reproduce the data when the iterations have
        converged.
        """
        return self.weight * self.factor * self.push

    @property
    def effective_size(self) -> float:
        r"""Effective number of events behind the unfolded weights, :math:`(\sum w)^2 / \sum w^2`."""
        return float(self.unfolded.sum() ** 2 / np.square(self.unfolded).sum())

    def aggregated_by(self, aggregate: Aggregate) -> Unfolding:
        """Return the result with another way to combine its members.

        Replicas keep the one they were made with. In step ensembling this concerns the last step alone.

        Raises
        ------
        ConfigError
            For an unknown aggregate, or a truncated mean of fewer than three members.
        """
        check(aggregate, len(self.members))
        return replace(self, aggregate=aggregate)

    def after(self, iteration: int) -> Unfolding:
        """Return the nominal result after some iterations (1 is the first), without replicas and networks.

        Raises
        ------
        InputError
            When there was no such iteration, or the iterations were not kept.
        """
        if not 1 <= iteration <= len(self.iterations):
            raise InputError(
                f"there are no weights after iteration {iteration}",
                expected=f"1 to {len(self.iterations)}"
                if self.iterations
                else "OmniFold(keep_iterations=True)",
            )
        own = self.iterations[iteration - 1]
        return replace(
            self,
            members=own.push.astype(np.float64),
            pull_members=own.pull.astype(np.float64),
            steps=tuple(step for step in self.steps if step.iteration < iteration),
            iterations=self.iterations[:iteration],
            replicas={},
            systematics={},
            models={},
        )

    @property
    def model(self) -> Model:
        """Networks of the last step: the logarithm of the push weight as a function of the particle level.

        Saved to a file it is a model for :class:`neyman.Scorer` and :class:`neyman.unfolding.Reweighter`.

        Raises
        ------
        InputError
            When the result has no networks.
        """
        if "particle" not in self.models:
            raise InputError(
                "this result has no networks", fix="take the result of all iterations, not of after(...)"
            )
        model, scale = self.models["particle"], 0.0
        if len(self.members) > 1:
            own = joined(self.members, self.aggregate)
            scale = float(np.log(keeping_yield(self.members, own, self.weight * self.passes_truth)))
        offsets = tuple(one + scale for one in model.description.offsets)
        return model.replace(aggregate=OF_LOG_RATIOS[self.aggregate], offsets=offsets)

    # Observables ------------------------------------------------------------------------------------------

    def histogram(
        self, values: ArrayLike, edges: ArrayLike, *, member: int | None = None, name: str = "x"
    ) -> hist.Hist[hist.storage.Weight]:
        """Fill an observable with the unfolded weights; its variances are the sums of squared weights.

        :meth:`spectrum` has the covariance that contains the fluctuations of the data.

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
            When there is not one finite value for every event, edges do not rise, or there is no such member.
        """
        import hist

        if member is not None and not 0 <= member < len(self.members):
            raise InputError(f"there is no member {member}", expected=f"0 to {len(self.members) - 1}")
        _, columns, (steps,) = self._binned(values, edges, name)
        chosen = self.passes_truth
        weight = self.unfolded if member is None else self.weight * self.members[member]
        h = hist.Hist(hist.axis.Variable(steps.tolist(), name=name), storage=hist.storage.Weight())
        h.fill(columns[0][chosen], weight=weight[chosen])
        return h

    def spectrum(
        self,
        values: ArrayLike | Sequence[ArrayLike],
        edges: ArrayLike | Sequence[ArrayLike],
        *,
        name: str | Sequence[str] = "x",
        unit: str | Sequence[str] = "",
        density: bool = False,
    ) -> Spectrum:
        """Return the unfolded histogram of one or several observables with its covariance by source.

        Parameters
        ----------
        values
            The observable of every simulated event, in their order, ``(n_events,)``; a list for several axes.
        edges
            Bin edges; a list for several axes. The last edge belongs to the last bin.
        name
            Name; a list says that there are several axes.
        unit
            Unit, a list for several axes.
        density
            Whether to normalise, see :meth:`Spectrum.normalised`.

        Raises
        ------
        InputError
            When there is not one finite value for every event, or edges do not rise.
        """
        names, columns, bins = self._binned(values, edges, name)
        units = (unit,) * len(names) if isinstance(unit, str) else tuple(unit)
        n_bins = int(np.prod([len(steps) - 1 for steps in bins]))
        number = np.full(len(self.weight), n_bins)
        chosen = self.passes_truth
        number[chosen] = bin_numbers([column[chosen] for column in columns], bins)
        squares = filled(np.square(self.unfolded)[None], number, n_bins)[0]
        contents, sources = self._statistics(
            lambda weights: filled(weights, number, n_bins), np.diag(squares)
        )
        replicas = {name: len(own) for name, own in self.replicas.items()}
        spectrum = Spectrum(names, units, bins, contents, sources, squares, replicas=replicas)
        return spectrum.normalised() if density else spectrum

    def moments(self, values: ArrayLike, *, name: str = "x") -> Moments:
        """Return mean and standard deviation of an observable with their covariance by source.

        Parameters
        ----------
        values
            The observable of every simulated event, ``(n_events,)``.
        name
            Its name, for messages.

        Raises
        ------
        InputError
            When there is not one finite value for every event.
        """
        _, (column,), _ = self._binned(values, [0.0, 1.0], name)
        x = np.where(self.passes_truth, column, 0.0)

        def moments(weights: NDArray[Any]) -> Array:
            return np.array([_moments(x, row.astype(np.float64), name) for row in weights])

        w = self.unfolded
        mean, width = moments(w[None])[0]
        # Influence of one event on the mean and on the standard deviation.
        influence = np.stack([x - mean, (np.square(x - mean) - width**2) / (2.0 * width)])
        _, sources = self._statistics(moments, (influence * np.square(w)) @ influence.T / w.sum() ** 2)
        return Moments(float(mean), float(width), sources)

    def _statistics(self, of: Callable[[NDArray[Any]], Array], fill: Array) -> tuple[Array, dict[str, Array]]:
        """Apply a function of rows of unfolded weights to the nominal ones and to all replicas.

        `fill` is its covariance from the simulated events alone, at fixed push weights.
        """
        nominal = of(self.unfolded[None])[0]
        replicas = {name: of(own) for name, own in self.replicas.items()}
        found = covariances(nominal, replicas, {name: of(own) for name, own in self.systematics.items()})
        if "simulation" not in self.replicas:
            found["simulation"] = fill
        if len(self.members) > 1:
            members = of(np.where(self.passes_truth, self.weight * self.members, 0.0))
            found["training"] = np.atleast_2d(np.cov(members.T)) / len(members)
        return nominal, found

    def _binned(
        self,
        values: ArrayLike | Sequence[ArrayLike],
        edges: ArrayLike | Sequence[ArrayLike],
        name: str | Sequence[str],
    ) -> tuple[tuple[str, ...], list[Array], tuple[Array, ...]]:
        names, columns, bins = binned(values, edges, name, len(self.weight))
        events = np.flatnonzero(self.passes_truth)
        for own, column in zip(names, columns, strict=True):
            check_finite(column[self.passes_truth], own, "the observable", events)
        return names, columns, bins

    # Files ------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return columns with one row an event: weight, push and pull (aggregated), the masks, push_0, pull_0, ..."""
        columns: dict[str, NDArray[Any]] = {
            "weight": self.weight,
            "push": self.push,
            "pull": self.pull,
            "passes_truth": self.passes_truth,
            "passes_reconstruction": self.passes_reconstruction,
            "factor": self.factor,
        }
        columns |= {f"push_{m}": push for m, push in enumerate(self.members)}
        return columns | {f"pull_{m}": pull for m, pull in enumerate(self.pull_members)}

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of :meth:`weights` to one Parquet file, atomically."""
        write_parquet(path, self.weights())

    def to_numpy(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of :meth:`weights` to one ``.npz`` file of plain arrays, atomically."""
        with atomic(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **self.weights())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write everything to a folder, atomically: Parquet files, ``unfolding.json`` and the networks."""
        from neyman.unfolding.storage import save

        return save(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Unfolding:
        """Read a folder that :meth:`save` has written.

        Raises
        ------
        InputError
            When a file is missing, broken or does not fit the others.
        """
        from neyman.unfolding.storage import load

        return load(folder)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: how it was made and how the trainings went."""
        return {
            "aggregate": self.aggregate,
            "mode": self.mode,
            "members": len(self.members),
            "events": len(self.weight),
            "yield": float(self.unfolded.sum()),
            "effective_size": self.effective_size,
            "steps": [step.to_dict() for step in self.steps],
            "support": self.support.to_dict(),
            "replicas": {name: len(own) for name, own in self.replicas.items()},
            "systematics": {name: len(own) for name, own in self.systematics.items()},
        }


def _moments(x: Array, weight: Array, name: str) -> tuple[float, float]:
    whole = weight.sum()
    mean = float(weight @ x / whole) if whole > 0.0 else float("nan")
    square = float(weight @ np.square(x - mean) / whole) if whole > 0.0 else float("nan")
    if not square >= 0.0:
        raise InputError(
            f"{name} has no standard deviation: the weights sum to {whole:g}, the variance is {square:g}",
            expected="positive sums; negative weights must not prevail",
        )
    return mean, square**0.5

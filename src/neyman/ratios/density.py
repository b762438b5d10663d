"""`Density`: a learned probability density, and `DensityRatio`, the difference of two of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError, TrainingError
from neyman.events import EventTable
from neyman.networks import Aggregate, Description, Model, Part, StackedFlow
from neyman.ratios import stacks
from neyman.ratios.ratio import Ratio
from neyman.training import History

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Density:
    r"""A trained density :math:`\ln p(x|z)`: an ensemble, and how its training went.

    Parameters
    ----------
    model
        The ensemble.
    history
        Losses during training.
    """

    model: Model
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        if self.model.description.kind != "log_density":
            raise InputError(f"this model is a {self.model.description.kind}, not a log_density")

    @classmethod
    def join(cls, parts: Sequence[Density]) -> Density:
        """Return the ensemble of parts that were trained with the same arguments but for `members`."""
        return cls(*stacks.join([(part.model, part.history) for part in parts]))

    def members(self, events: EventTable | ArrayLike, z: ArrayLike | None = None) -> Array:
        """Return every member's log-density in units of 1 / (product of the features' units), shape
        ``(n_members, n_events)``."""
        return self.model.members(_x(self.model, events), z)

    def log_prob(
        self,
        events: EventTable | ArrayLike,
        z: ArrayLike | None = None,
        *,
        aggregate: Aggregate | None = None,
    ) -> Array:
        """Return the ensemble's log-density, shape ``(n_events,)``.

        ``mean_ratio`` averages the densities and is normalised like every member; the mean of the log-densities,
        which is the default, integrates to a little less than 1.

        Parameters
        ----------
        events
            Events, or their features ``(n_events, n_features)``.
        z
            Nuisance parameters, ``(n_parameters,)`` or ``(n_events, n_parameters)``.
        aggregate
            How members are combined; as chosen for the model if not given.

        Raises
        ------
        InputError
            For wrong shapes, parameters outside the trained range, and outputs that are not finite.
        """
        return self.model(_x(self.model, events), z, aggregate=aggregate)

    def sample(self, n: int, z: ArrayLike | None = None, *, seed: int) -> Array:
        """Draw events from the mean of the members' densities: the members take turns.

        Parameters
        ----------
        n
            Number of events.
        z
            Nuisance parameters, ``(n_parameters,)`` or ``(n, n_parameters)``.
        seed
            Seed of the draw.

        Returns
        -------
        float32 array ``(n, n_features)``.

        Raises
        ------
        InputError
            When the density is not a flow alone, or z has a wrong shape or is outside the trained range.
        """
        flow = self.model.stacks[0]
        if len(self.model.stacks) != 1 or not isinstance(flow, StackedFlow):
            raise InputError(
                "only a flow can be sampled, and this density has a residual classifier",
                fix="sample the flow, and weight its events by the ratio of the densities",
            )
        turns = -(-n // flow.members)
        context = _context(self.model, z, n)[np.arange(turns * flow.members) % max(n, 1)]
        context = context.reshape(turns, flow.members, flow.context).swapaxes(0, 1)
        events = flow.sample(torch.from_numpy(np.ascontiguousarray(context)), seed=seed)
        return np.asarray(events.transpose(0, 1).reshape(-1, flow.features)[:n].cpu().numpy())

    def over(self, reference: Density) -> DensityRatio:
        """Return the ratio of this density to another one of the same features.

        The reference has as many members as this density, or one. A nuisance parameter that both know is the same.

        Raises
        ------
        TrainingError
            When features or the numbers of members differ.
        """
        own, other = self.model.description, reference.model.description
        if own.features != other.features:
            raise TrainingError(
                "the two densities have different features",
                where=", ".join(other.features),
                expected=", ".join(own.features),
            )
        if own.members != other.members and 1 not in (own.members, other.members):
            raise TrainingError(
                f"the reference has {other.members} members", expected=f"{own.members} as the numerator, or 1"
            )
        ranges = dict(zip(own.parameters, own.parameter_range, strict=True))
        for name, (low, high) in zip(other.parameters, other.parameter_range, strict=True):
            known = ranges.get(name, (low, high))
            ranges[name] = (max(low, known[0]), min(high, known[1]))
        description = Description(
            features=own.features,
            parameters=tuple(ranges),
            parameter_range=tuple(ranges.values()),
            parts=(*own.parts, *_signed(other.parts, -1)),
            kind="log_ratio",
            aggregate=own.aggregate,
            notes=own.notes,
            inputs=own.inputs,
        )
        model = Model([*self.model.stacks, *reference.model.stacks], description)
        return DensityRatio(model, self.history, reference_history=reference.history)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ensemble to one safetensors file."""
        return self.model.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an ensemble; the history of its training is not part of the file."""
        return cls(Model.load(path))


@dataclass(frozen=True)
class DensityRatio(Ratio):
    r"""The ratio of two trained densities, :math:`\ln p(x|z) - \ln q(x)`.

    Parameters
    ----------
    reference_history
        Losses during the training of the denominator; `history` is that of the numerator.
    """

    reference_history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        super().__post_init__()
        if {part.sign for part in self.model.description.parts} != {1, -1}:
            raise InputError(
                "this model is not the difference of two log-densities", fix="use neyman.ratios.Ratio"
            )

    @property
    def numerator(self) -> Density:
        """The density of the numerator."""
        return Density(_side(self.model, 1), self.history)

    @property
    def denominator(self) -> Density:
        """The density of the denominator."""
        return Density(_side(self.model, -1), self.reference_history)

    def log_prob(
        self,
        events: EventTable | ArrayLike,
        z: ArrayLike | None = None,
        *,
        aggregate: Aggregate | None = None,
    ) -> Array:
        """Return the log-density of the numerator, as :meth:`Density.log_prob`."""
        return self.numerator.log_prob(events, z, aggregate=aggregate)


def _x(model: Model, events: EventTable | ArrayLike) -> ArrayLike:
    return events.with_features(model.features).x if isinstance(events, EventTable) else events


def _context(model: Model, z: ArrayLike | None, n: int) -> Array:
    """Nuisance parameters of n events, ``(n, n_parameters)``."""
    names = model.parameters
    values = np.zeros(0, dtype=np.float32) if z is None else np.asarray(z, dtype=np.float32)
    if values.shape not in ((len(names),), (n, len(names))):
        raise InputError(
            f"nuisance parameters have shape {None if z is None else values.shape}",
            expected=f"({len(names)},) or ({n}, {len(names)}) for {', '.join(names) or 'no parameters'}",
        )
    values = np.broadcast_to(values, (n, len(names)))
    for name, (low, high), column in zip(names, model.description.parameter_range, values.T, strict=True):
        slack = 1e-4 * (high - low)
        if n and not (low - slack <= column.min() and column.max() <= high + slack):
            raise InputError(
                f"nuisance parameter {name!r} goes from {column.min():g} to {column.max():g}",
                expected=f"inside the trained range, {low:g} to {high:g}",
            )
    return values


def _signed(parts: tuple[Part, ...], sign: int) -> list[Part]:
    return [part.model_copy(update={"sign": sign * part.sign}) for part in parts]


def _side(model: Model, sign: int) -> Model:
    """Return the density that the parts of one sign in a ratio make up."""
    whole = model.description
    chosen = [k for k, part in enumerate(whole.parts) if part.sign == sign]
    parts = [whole.parts[k] for k in chosen]
    ranges = {
        name: limits
        for name, limits in zip(whole.parameters, whole.parameter_range, strict=True)
        if any(name in part.parameters for part in parts)
    }
    description = whole.model_copy(
        update={
            "parts": tuple(_signed(tuple(parts), sign)),
            "parameters": tuple(ranges),
            "parameter_range": tuple(ranges.values()),
            "kind": "log_density",
            "calibration": None,
        }
    )
    return Model([model.stacks[k] for k in chosen], description)

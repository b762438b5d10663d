"""`Ratio`: a learned density ratio, whatever estimator it comes from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError, NeymanWarning
from neyman.events import EventTable
from neyman.networks import Aggregate, Calibration, Model, combine
from neyman.ratios import stacks
from neyman.training import History

Array = NDArray[np.float32]
Calibrations = Literal["isotonic", "histogram", "temperature", "platt"]
_EDGE = 0.05  # of the trained range, at either end


@dataclass(frozen=True)
class Ratio:
    r"""A trained density ratio :math:`\ln p(x|z)/q(x)`: an ensemble, and how its training went.

    Members are kept: how they are combined is chosen afterwards, by :meth:`aggregated_by` or a call's `aggregate`.

    Parameters
    ----------
    model
        The ensemble.
    history
        Losses during training.
    reference
        Sample of q over which the ratio is normalised; see :meth:`normalised`.
    """

    model: Model
    history: History = field(default_factory=History)
    reference: EventTable | None = None

    def __post_init__(self) -> None:
        if self.model.description.kind != "log_ratio":
            raise InputError(
                f"this model is a {self.model.description.kind}, not a log_ratio",
                fix="a log_density is read by neyman.ratios.Density",
            )

    @classmethod
    def join(cls, parts: Sequence[Ratio]) -> Ratio:
        """Return the ensemble of parts that were trained with the same arguments but for `members`."""
        return cls(*stacks.join([(part.model, part.history) for part in parts]))

    def members(self, events: EventTable | ArrayLike, z: ArrayLike | None = None) -> Array:
        """Return every member's log-ratio, not normalised or calibrated, shape ``(n_members, n_events)``."""
        return self.model.members(self._x(events), z)

    def log_ratio(
        self,
        events: EventTable | ArrayLike,
        z: ArrayLike | None = None,
        *,
        aggregate: Aggregate | None = None,
    ) -> Array:
        r"""Return the ensemble's log-ratio.

        Parameters
        ----------
        events
            Events, or their features ``(n_events, n_features)``.
        z
            Nuisance parameters, ``(n_parameters,)`` or ``(n_events, n_parameters)``. A :class:`NeymanWarning` says
            when they are in the outer 5% of the trained range, where classifiers overestimate the ratio: the range
            of use should be narrower than that of the training.
        aggregate
            How members are combined; as chosen for the model if not given.

        Returns
        -------
        float32 array ``(n_events,)``. With a reference sample it is
        :math:`\ell(x;z) - \ln \langle w e^{\ell(\cdot;z)} \rangle / \langle w \rangle` over the sample, so that
        :math:`E_q[r(\cdot;z)] = 1` on it at every z. That costs a pass over the sample for each value of z.

        Raises
        ------
        InputError
            For wrong shapes, parameters outside the trained range, and outputs that are not finite.
        """
        out = self.model(self._x(events), z, aggregate=aggregate)
        self._near_edge(z)
        if self.reference is None:
            return out
        return out - self._log_norm(z, aggregate)

    def spread(self, events: EventTable | ArrayLike, z: ArrayLike | None = None) -> Array:
        r"""Return the standard deviation of the log-ratio over the members, ``(n_events,)``.

        The mean of the members has :math:`1/\sqrt{M}` of it as its error, and what all members share on top.
        """
        if self.model.description.members < 2:
            raise InputError("the spread needs an ensemble of at least two members")
        return np.asarray(self.members(events, z).std(axis=0, ddof=1), dtype=np.float32)

    def aggregated_by(self, aggregate: Aggregate) -> Ratio:
        """Return the ratio with another way to combine its members, also in its file; a calibration is dropped.

        Raises
        ------
        InputError
            For an unknown aggregate, or a truncated mean of fewer than three members.
        """
        combine(np.zeros((self.model.description.members, 1), dtype=np.float32), aggregate)
        return replace(self, model=self.model.replace(aggregate=aggregate, calibration=None))

    def normalised(self, reference: EventTable) -> Ratio:
        """Return the ratio with :math:`E_q[r] = 1` on a sample of the reference, at every z.

        The density of the sample must not depend on z. It is not part of the file: a likelihood term normalises
        with its own reference sample.
        """
        return replace(self, reference=reference)

    def calibrated(
        self,
        numerator: EventTable,
        denominator: EventTable,
        method: Calibrations = "isotonic",
        *,
        z: ArrayLike | None = None,
    ) -> Ratio:
        """Return the ratio with a monotone map that calibrates it, kept in its file.

        Parameters
        ----------
        numerator, denominator
            Events of p and of q that did not take part in the training.
        method
            ``isotonic``, ``histogram``, ``temperature`` or ``platt``.
        z
            Nuisance parameters of the events for a conditioned ratio, ``(n_parameters,)``; the columns of the
            events if not given; events of q without them take the numerator's in (seeded) random turn.

        Raises
        ------
        InputError
            For too few events, or a ratio that goes the wrong way.
        """
        z_p = z_q = z
        if z is None and self.model.parameters:
            z_p = np.stack([numerator.column(p) for p in self.model.parameters], axis=1)
            if all(p in denominator.extra for p in self.model.parameters):
                z_q = np.stack([denominator.column(p) for p in self.model.parameters], axis=1)
            else:
                turns = np.random.default_rng(0).permutation(max(len(z_p), len(denominator)))
                z_q = z_p[turns[: len(denominator)] % len(z_p)]
        raw = self.model.replace(calibration=None)
        calibration = Calibration.fit(
            method,
            raw(self._x(numerator), z_p),
            numerator.weight,
            raw(self._x(denominator), z_q),
            denominator.weight,
        )
        return replace(self, model=self.model.replace(calibration=calibration))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ensemble to one safetensors file."""
        return self.model.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ratio:
        """Read an ensemble; the history of its training is not part of the file."""
        return cls(Model.load(path))

    def _x(self, events: EventTable | ArrayLike) -> ArrayLike:
        return events.with_features(self.model.features).x if isinstance(events, EventTable) else events

    def _near_edge(self, z: ArrayLike | None) -> None:
        if z is None or not self.model.parameters:
            return
        values = np.asarray(z, dtype=np.float64).reshape(-1, len(self.model.parameters))
        for name, (low, high), column in zip(
            self.model.parameters, self.model.description.parameter_range, values.T, strict=True
        ):
            margin = _EDGE * (high - low)
            outer = (column < low + margin) | (column > high - margin)
            if outer.any():
                warnings.warn(
                    f"{name} = {column[outer][0]:.4g} is at the edge of the trained range [{low:.4g}, {high:.4g}], "
                    "where ratios are overestimated: train over a wider range than you use",
                    NeymanWarning,
                    stacklevel=3,
                )

    def _log_norm(self, z: ArrayLike | None, aggregate: Aggregate | None) -> Array:
        reference = self.reference
        if reference is None:
            return np.zeros((), dtype=np.float32)
        x, weight = self._x(reference), reference.weight

        def one(values: NDArray[np.float64] | None) -> float:
            ratio = np.exp(self.model(x, values, aggregate=aggregate).astype(np.float64))
            mean = float(weight @ ratio / weight.sum())
            if not (np.isfinite(mean) and mean > 0.0):
                raise InputError(
                    f"the ratio has a mean of {mean:g} over the reference sample at z = {values}"
                )
            return float(np.log(mean))

        if z is None:
            return np.asarray(one(None), dtype=np.float32)
        values = np.asarray(z, dtype=np.float64)
        if values.ndim <= 1:
            return np.asarray(one(values), dtype=np.float32)
        rows, inverse = np.unique(values, axis=0, return_inverse=True)
        norms = np.array([one(row) for row in rows])
        return np.asarray(norms[inverse.reshape(-1)], dtype=np.float32)

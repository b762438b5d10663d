"""`Signature`: what a model takes and gives, read from its file without the library that evaluates it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neyman.errors import ConfigError, InputError, WorkspaceError, nearest

_SLACK = 1e-4  # of the trained range: values at its ends are stored as float32
LARGEST = 1 << 20  # characters of a description
AGGREGATES = ("mean", "median", "truncated_mean", "mean_ratio", "truncated_mean_ratio")  # of neyman.networks
_FEWEST_TO_TRUNCATE = 3


class Signature(BaseModel):
    """What a model takes and gives; exported models carry it as JSON under the name ``neyman``.

    Attributes
    ----------
    features
        Names of the event features, in order; empty for a model of other origin, which knows only their number.
    width, outputs
        Number of inputs (features and nuisance parameters) and of outputs.
    parameters, parameter_range
        Nuisance-parameter inputs that follow the features, and their trained ranges.
    members
        Number of members of the ensemble.
    kind, notes, inputs
        As in :class:`neyman.networks.Description`.
    aggregate
        How members are combined in an exported or calibrated model; None if the caller may still choose.
    model
        SHA-256 of the description of the model that was exported.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["neyman-signature-1"] = "neyman-signature-1"
    features: tuple[str, ...] = Field(default=(), max_length=10_000)
    width: int = Field(ge=1, le=20_000)
    outputs: int = Field(default=1, ge=1, le=10_000)
    parameters: tuple[str, ...] = Field(default=(), max_length=10_000)
    parameter_range: tuple[tuple[float, float], ...] = ()
    members: int = Field(default=1, ge=1, le=10_000)
    kind: Literal["log_ratio", "log_density", "score"] = "score"
    notes: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, Any] | None = None
    aggregate: str | None = None
    model: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Signature:
        if len(self.parameters) != len(self.parameter_range):
            raise ValueError(f"{len(self.parameters)} parameters but {len(self.parameter_range)} ranges")
        if self.features and self.width != len(self.features) + len(self.parameters):
            raise ValueError(f"{self.width} inputs for {len(self.features)} features")
        return self

    @classmethod
    def of_description(cls, text: str, where: str) -> Signature:
        """Read the description in the header of a ``.safetensors`` model.

        Raises
        ------
        WorkspaceError
            When it is broken.
        """
        document = _parsed(text, where)
        try:
            parts = document["parts"]
            features, parameters = document["features"], document.get("parameters", [])
            return cls(
                features=features,
                width=len(features) + len(parameters),
                outputs=parts[0].get("outputs", 1),
                parameters=parameters,
                parameter_range=document.get("parameter_range", []),
                members=max(part["members"] for part in parts),
                kind=document.get("kind", "log_ratio"),
                notes=document.get("notes", {}),
                inputs=document.get("inputs"),
                aggregate=document.get("aggregate", AGGREGATES[0]) if document.get("calibration") else None,
                model=hashlib.sha256(text.encode()).hexdigest(),
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValidationError) as error:
            raise WorkspaceError(f"the description of the model is broken: {error}", where=where) from error

    @classmethod
    def read(cls, text: str, where: str) -> Signature:
        """Read the signature that an exported model carries.

        Raises
        ------
        WorkspaceError
            When it is broken.
        """
        document = _parsed(text, where)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise WorkspaceError(f"the description of the model is broken: {error}", where=where) from error

    def check_aggregate(self, aggregate: str | None, kind: str, name: str, where: str) -> None:
        """Raise :class:`ConfigError` when members cannot be combined in this way."""
        if aggregate is None or (aggregate == self.aggregate and kind != "torch"):
            return
        if kind != "torch":
            raise ConfigError(
                f"the {self.aggregate or 'output'} of the members is part of the exported model {name!r}, not their "
                f"{aggregate}",
                where=where,
                fix='export it again with that aggregate, or use backend="torch"',
            )
        if self.aggregate not in (None, aggregate):
            raise ConfigError(
                f"the model {name!r} was calibrated for the {self.aggregate} of its members, not for {aggregate}",
                where=where,
                fix="calibrate again after choosing the aggregate",
            )
        if aggregate.startswith("truncated") and self.members < _FEWEST_TO_TRUNCATE:
            raise ConfigError(
                f"a truncated mean needs at least {_FEWEST_TO_TRUNCATE} members, the model {name!r} has {self.members}",
                where=where,
            )

    def values(self, z: Mapping[str, float]) -> NDArray[np.float32]:
        """Return the nuisance parameters in order, 0 where not given.

        Raises
        ------
        InputError
            When a value is no number, or outside the range in which the model was trained.
        """
        given = {name: z.get(name, 0.0) for name in self.parameters}
        for name, value in given.items():
            if np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
                raise InputError(
                    f"nuisance parameter {name!r} is {value!r}",
                    expected="one number, the same for all events",
                )
        values = np.array(list(given.values()), dtype=np.float32)
        for name, (low, high), value in zip(self.parameters, self.parameter_range, values, strict=True):
            slack = _SLACK * (high - low)
            if not low - slack <= value <= high + slack:
                raise InputError(
                    f"nuisance parameter {name!r} = {value:g} is outside the range in which the model was trained",
                    expected=f"{low:g} to {high:g}",
                    fix="stay inside, or train over a wider range",
                )
        return values


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text) if len(text) <= LARGEST else None
    except (ValueError, RecursionError) as error:
        raise WorkspaceError(f"the description of the model is broken: {error}", where=where) from error
    if not isinstance(document, dict):
        raise WorkspaceError("the description of the model is no JSON object, or too long", where=where)
    return document


def check_known(z: Mapping[str, float] | None, known: Sequence[str]) -> Mapping[str, float]:
    """Return `z`, checked to be values of known nuisance parameters.

    Raises
    ------
    InputError
        When it is no mapping, or no model is conditioned on one of the names.
    """
    if z is None:
        return {}
    given: object = z
    if not isinstance(given, Mapping):
        raise InputError(f"z is a {type(z).__name__}", expected="values by name, such as {'tes': 0.5}")
    for parameter in z:
        if parameter not in known:
            raise InputError(
                f"no model is conditioned on {parameter!r}",
                fix=f"nearest names: {nearest(parameter, known)}",
            )
    return z

"""`Model`: a trained stack of networks with everything needed to evaluate it, in one safetensors file.

The file holds the tensors and, in its header, a JSON description (architecture, features, nuisance-parameter
inputs, link of the output). Loading it builds the network from the description and never runs code.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neyman.errors import InputError, WorkspaceError, nearest
from neyman.files import atomic
from neyman.networks.stacked import MLP, Activation, StackedMLP

Array = NDArray[np.float32]
Aggregate = Literal["mean", "median", "truncated_mean"]
_BATCH = 1 << 13  # batches that stay in the processor's cache are about twice as fast as large ones


class Description(BaseModel):
    """What a model file says about itself.

    Attributes
    ----------
    features
        Names of the event features, in order.
    parameters
        Nuisance-parameter inputs that follow the features.
    parameter_range
        Trained range of each nuisance parameter.
    hidden, activation, members, outputs
        Architecture.
    kind
        ``log_ratio``: the output is the log-ratio of two densities; ``score``: any other network output.
    notes
        Free text such as the names of the two densities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["neyman-model-1"] = "neyman-model-1"
    features: tuple[str, ...] = Field(min_length=1, max_length=10_000)
    parameters: tuple[str, ...] = ()
    parameter_range: tuple[tuple[float, float], ...] = ()
    hidden: tuple[int, ...] = Field(min_length=1, max_length=100)
    activation: Activation = "silu"
    members: int = Field(ge=1, le=10_000)
    outputs: int = Field(default=1, ge=1, le=10_000)
    kind: Literal["log_ratio", "score"] = "log_ratio"
    notes: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_range_each(self) -> Description:
        if len(self.parameter_range) != len(self.parameters):
            raise ValueError(f"{len(self.parameters)} parameters but {len(self.parameter_range)} ranges")
        return self


class Model:
    """A trained stack of networks.

    Parameters
    ----------
    network
        The stack.
    description
        What it takes and gives.
    """

    def __init__(self, network: StackedMLP, description: Description) -> None:
        self.network = network.eval()
        self.description = description

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the event features, in order."""
        return self.description.features

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the nuisance-parameter inputs, in order."""
        return self.description.parameters

    def members(self, x: ArrayLike, z: ArrayLike | None = None) -> Array:
        """Evaluate every member.

        Parameters
        ----------
        x
            Features, shape ``(n_events, n_features)``.
        z
            Nuisance parameters: shape ``(n_parameters,)`` or ``(n_events, n_parameters)``; required when the
            model has any.

        Returns
        -------
        float32 array ``(n_members, n_events)``, or ``(n_members, n_events, n_outputs)`` for several outputs.

        Raises
        ------
        InputError
            When a shape is wrong or the output of an event is not finite.
        """
        inputs = self._inputs(x, z)
        with torch.inference_mode():
            parts = [self.network(batch) for batch in torch.split(inputs, _BATCH)]
        n_out = self.description.outputs
        out = torch.cat(parts, dim=1) if parts else torch.zeros(self.description.members, 0, n_out)
        if not bool(torch.isfinite(out).all()):
            bad = torch.unique(torch.nonzero(~torch.isfinite(out))[:, 1])
            raise InputError(
                f"the network output of {len(bad)} events is not finite",
                where=f"first at event {int(bad[0])}",
                fix="look for NaN, infinite or extreme features of these events",
            )
        return (out[..., 0] if n_out == 1 else out).numpy()

    def __call__(self, x: ArrayLike, z: ArrayLike | None = None, *, aggregate: Aggregate = "mean") -> Array:
        """Evaluate the ensemble: members aggregated by `aggregate`, shape ``(n_events,)``."""
        return combine(self.members(x, z), aggregate)

    def _inputs(self, x: ArrayLike, z: ArrayLike | None) -> torch.Tensor:
        events = np.asarray(x, dtype=np.float32)
        n_features, n_parameters = len(self.features), len(self.parameters)
        if events.ndim != 2 or events.shape[1] != n_features:
            raise InputError(
                f"expected events of shape (n_events, {n_features}), got {events.shape}",
                expected=f"features {', '.join(self.features)}",
            )
        if n_parameters == 0:
            if z is not None:
                raise InputError("this model has no nuisance-parameter inputs, but values were given")
            return torch.from_numpy(np.ascontiguousarray(events))
        if z is None:
            raise InputError(
                f"this model is conditioned on {', '.join(self.parameters)}: give their values",
                expected=f"z of shape ({n_parameters},) or (n_events, {n_parameters})",
            )
        values = np.asarray(z, dtype=np.float32)
        if values.ndim <= 1:
            values = np.broadcast_to(values.reshape(1, -1), (len(events), values.size))
        if values.shape != (len(events), n_parameters):
            raise InputError(
                f"nuisance parameters have shape {np.shape(z)}",
                expected=f"({n_parameters},) or ({len(events)}, {n_parameters}) for {', '.join(self.parameters)}",
            )
        return torch.from_numpy(np.concatenate([events, values], axis=1))

    # Files ------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model to one ``.safetensors`` file, atomically."""
        file = Path(path)
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.network.state_dict().items()}
        with atomic(file) as part:
            save_file(tensors, part, metadata={"neyman": self.description.model_dump_json()})
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read a model file; a broken one is a :class:`WorkspaceError`."""
        file = Path(path)
        if not file.is_file():
            raise WorkspaceError(f"model file {file.name} does not exist", where=str(file))
        try:
            with safe_open(file, framework="pt") as stored:
                text = (stored.metadata() or {}).get("neyman")
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise WorkspaceError(
                f"{file.name} is not a readable safetensors file: {error}", where=str(file)
            ) from error
        if text is None:
            raise WorkspaceError(
                f"{file.name} carries no neyman description",
                where=str(file),
                expected="a file written by Model.save",
            )
        try:
            description = Description.model_validate(json.loads(text))
        except (ValidationError, ValueError, RecursionError) as error:
            raise WorkspaceError(f"{file.name} has a broken description: {error}", where=str(file)) from error
        _check_shapes(description, tensors, file)
        network = MLP(description.hidden, description.activation).build(
            len(description.features) + len(description.parameters),
            outputs=description.outputs,
            members=description.members,
        )
        network.load_state_dict(tensors)
        return cls(network, description)


def _check_shapes(description: Description, tensors: dict[str, torch.Tensor], file: Path) -> None:
    # Before the network is built: a description must not ask for more memory than the file holds.
    inputs = len(description.features) + len(description.parameters)
    widths = (inputs, *description.hidden, description.outputs)
    expected: dict[str, tuple[int, ...]] = {"scaling.mean": (inputs,), "scaling.scale": (inputs,)}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        expected[f"layers.{i}.weight"] = (description.members, n_in, n_out)
        expected[f"layers.{i}.bias"] = (description.members, 1, n_out)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise WorkspaceError(
            f"the tensors of {file.name} do not fit its description",
            where=f"{file}: {odd[0]} is {found.get(odd[0], 'missing')}",
            expected=f"{odd[0]}: {expected.get(odd[0], 'not present')}",
        )


def combine(members: Array, aggregate: Aggregate = "mean") -> Array:
    """Aggregate the first axis: ``mean``, ``median``, or ``truncated_mean`` (lowest and highest dropped)."""
    if aggregate == "mean":
        return np.asarray(members.mean(axis=0, dtype=np.float64), dtype=np.float32)
    if aggregate == "median":
        return np.asarray(np.median(members, axis=0), dtype=np.float32)
    if aggregate == "truncated_mean":
        if len(members) < 3:
            raise InputError(f"a truncated mean needs at least 3 members, got {len(members)}")
        ordered = np.sort(members, axis=0)[1:-1]
        return np.asarray(ordered.mean(axis=0, dtype=np.float64), dtype=np.float32)
    raise InputError(f"unknown aggregate {aggregate!r}", expected="mean, median or truncated_mean")


def match_features(wanted: Sequence[str], available: Sequence[str], where: str) -> None:
    """Raise :class:`InputError` when a feature of a model is not among the columns of the events."""
    for name in wanted:
        if name not in available:
            raise InputError(
                f"the events have no feature {name!r}",
                where=where,
                fix=f"nearest names: {nearest(name, available)}",
            )

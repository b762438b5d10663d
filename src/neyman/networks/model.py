"""`Model`: trained stacks of networks with everything needed to evaluate them, in one safetensors file.

The file holds the tensors and, in its header, a JSON description (architectures, features, nuisance-parameter
inputs, links of the outputs). Loading it builds the networks from the description and never runs code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from neyman.errors import InputError, NeymanError, WorkspaceError, nearest
from neyman.files import atomic
from neyman.networks import links
from neyman.networks.description import Description
from neyman.networks.ensemble import Aggregate, combine
from neyman.networks.stacked import Stack

Array = NDArray[np.float32]
_BATCH = 1 << 13  # batches that stay in the processor's cache are about twice as fast as large ones
_SLACK = 1e-4  # of the trained range: values at its ends are stored as float32


class Model:
    r"""A signed sum of trained stacks of networks, :math:`\sum_k s_k\, \ell_k(x, z)`.

    One stack is a classifier or any other network. A direct likelihood estimator is the flow of the numerator
    minus the flow of the reference; a hybrid has a classifier on top.

    Parameters
    ----------
    stacks
        One for each part of the description.
    description
        What they take and give.
    """

    def __init__(self, stacks: Sequence[Stack], description: Description) -> None:
        self.stacks = tuple(stack.eval() for stack in stacks)
        self.description = description
        if len(self.stacks) != len(description.parts):
            raise InputError(f"{len(self.stacks)} stacks for {len(description.parts)} parts of a model")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the event features, in order."""
        return self.description.features

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the nuisance-parameter inputs, in order."""
        return self.description.parameters

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.stacks[0].parameters()).device

    def to(self, device: torch.device | str) -> Model:
        """Move the networks to a device, in place; inputs and outputs stay on the CPU."""
        for stack in self.stacks:
            stack.to(device)
        return self

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
            When a shape is wrong, a nuisance parameter is outside the trained range, or the output of an event is
            not finite.
        """
        inputs = self._inputs(x, z)
        with torch.inference_mode():
            parts = [self.evaluate(batch.to(self.device)).cpu() for batch in torch.split(inputs, _BATCH)]
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

    def evaluate(self, inputs: torch.Tensor) -> torch.Tensor:
        """Evaluate features followed by all nuisance parameters, ``(n, n_features + n_parameters)``, as
        ``(n_members, n, n_outputs)``; differentiable."""
        n = len(self.features)
        total: torch.Tensor | None = None
        for part, stack in zip(self.description.parts, self.stacks, strict=True):
            if part.parameters == self.parameters:
                own = inputs
            else:
                columns = [n + self.parameters.index(name) for name in part.parameters]
                own = inputs[:, [*range(n), *columns]]
            value = part.sign * links.log_ratio(part.link, stack(own))
            total = value if total is None else total + value
        if total is None:
            return inputs.new_zeros(0)
        if self.description.offsets:
            total = total + total.new_tensor(self.description.offsets)[:, None, None]
        return total

    def __call__(
        self, x: ArrayLike, z: ArrayLike | None = None, *, aggregate: Aggregate | None = None
    ) -> Array:
        """Evaluate the ensemble: members aggregated, then calibrated if the model is, shape ``(n_events,)``.

        Parameters
        ----------
        x, z
            As in :meth:`members`.
        aggregate
            How members are combined; as the description says if not given.

        Raises
        ------
        InputError
            As :meth:`members`, or for another aggregate than that of the calibration.
        """
        return self.aggregated(self.members(x, z), aggregate)

    def aggregated(self, members: Array, aggregate: Aggregate | None = None) -> Array:
        """Combine and calibrate the output of :meth:`members`."""
        own, calibration = self.description.aggregate, self.description.calibration
        if calibration is None:
            return combine(members, aggregate or own)
        if aggregate not in (None, own):
            raise InputError(
                f"this model was calibrated for the {own} of its members, not for {aggregate}",
                fix="calibrate again after choosing the aggregate",
            )
        return np.asarray(calibration(combine(members, own)), dtype=np.float32)

    def replace(self, **changes: object) -> Model:
        """Return the same networks with changes of the description, such as another aggregate."""
        return Model(self.stacks, self.description.model_copy(update=changes))

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
        self._check_range(values)
        return torch.from_numpy(np.concatenate([events, values], axis=1))

    def _check_range(self, z: Array) -> None:
        if len(z) == 0:
            return
        for name, (low, high), column in zip(
            self.parameters, self.description.parameter_range, z.T, strict=True
        ):
            slack = _SLACK * (high - low)
            for value in (column.min(), column.max()):
                if not low - slack <= value <= high + slack:
                    raise InputError(
                        f"nuisance parameter {name!r} = {value:g} is outside the range in which the model was "
                        "trained",
                        expected=f"{low:g} to {high:g}",
                        fix="stay inside, or train over a wider range",
                    )

    # Files ------------------------------------------------------------------------------------------------

    @property
    def document(self) -> str:
        """The description as JSON, with a digest of the tensors: what a model file says about itself."""
        return self._document(self._tensors())

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"parts.{k}.{name}": tensor.detach().cpu().contiguous()
            for k, stack in enumerate(self.stacks)
            for name, tensor in stack.state_dict().items()
        }

    def _document(self, tensors: Mapping[str, torch.Tensor]) -> str:
        return json.dumps(self.description.model_dump(mode="json") | {"sha256": tensors_digest(tensors)})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model to one ``.safetensors`` file, atomically."""
        file, tensors = Path(path), self._tensors()
        with atomic(file) as part:
            # One entry: the order of several is not the same in every file.
            # Not `save_file`, whose files the owner alone may read: workers can be of another user.
            part.write_bytes(save(tensors, metadata={"neyman": self._document(tensors)}))
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read a model file; a broken one is a :class:`WorkspaceError`."""
        file = Path(path)
        if not file.is_file():
            raise WorkspaceError(f"model file {file.name} does not exist", where=str(file))
        try:
            data = file.read_bytes()
        except OSError as error:
            raise WorkspaceError(f"{file.name} cannot be read: {error.strerror}", where=str(file)) from None
        return cls.from_bytes(data, file)

    @classmethod
    def from_bytes(cls, data: bytes, file: str | os.PathLike[str]) -> Model:
        """Read the bytes of a model file; `file` is what messages call it."""
        file = Path(file)
        try:
            tensors = load_tensors(data)
            # The format begins with the length of a JSON header.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            text = header.get("__metadata__", {}).get("neyman")
        except (SafetensorError, ValueError, RecursionError) as error:
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
            document = json.loads(text)
            written = document.pop("sha256", None) if isinstance(document, dict) else None
            description = Description.model_validate(document)
            # Shapes first: a description must not ask for more memory than the file holds.
            stacks = [part.build(len(description.features), seed=None) for part in description.parts]
        except (ValidationError, ValueError, RecursionError, RuntimeError, NeymanError) as error:
            raise WorkspaceError(f"{file.name} has a broken description: {error}", where=str(file)) from error
        _check_shapes(stacks, tensors, file)
        if written is not None and written != tensors_digest(tensors):
            raise WorkspaceError(
                f"the tensors of {file.name} are not those that were written",
                where=str(file),
                fix="copy the file again",
            )
        for k, stack in enumerate(stacks):
            prefix = f"parts.{k}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            stack.load_state_dict(own, assign=True)
        return cls(stacks, description)


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest of names and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(name.encode())
        found.update(values.view(torch.uint8).numpy().tobytes() if values.ndim else values.numpy().tobytes())
    return found.hexdigest()


def _check_shapes(stacks: Sequence[Stack], tensors: dict[str, torch.Tensor], file: Path) -> None:
    expected = {
        f"parts.{k}.{name}": f"{tensor.dtype} {tuple(tensor.shape)}"
        for k, stack in enumerate(stacks)
        for name, tensor in stack.state_dict().items()
    }
    found = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in tensors.items()}
    if found != expected:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise WorkspaceError(
            f"the tensors of {file.name} do not fit its description",
            where=f"{file}: {odd[0]} is {found.get(odd[0], 'missing')}",
            expected=f"{odd[0]}: {expected.get(odd[0], 'not present')}",
        )


def match_features(wanted: Sequence[str], available: Sequence[str], where: str) -> None:
    """Raise :class:`InputError` when a feature of a model is not among the columns of the events."""
    for name in wanted:
        if name not in available:
            raise InputError(
                f"the events have no feature {name!r}",
                where=where,
                fix=f"nearest names: {nearest(name, available)}",
            )

"""`Checkpoint`: the state of a training in one safetensors file, from which it goes on bit by bit.

Batches are functions of the step, so the state is the step number, the networks, the optimizer, the best states
and the history. Reading it runs no code.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neyman.errors import TrainingError
from neyman.files import atomic
from neyman.networks import tensors_digest


@dataclass(frozen=True)
class History:
    """Losses during a training; each list entry has one number a member."""

    steps: list[int] = field(default_factory=list)
    training: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    best_step: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, list[int] | list[list[float]]]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Parameters
    ----------
    step
        Finished steps.
    history
        Losses so far.
    groups
        Tensors by name: the networks, their best states and losses.
    optimizer
        The optimizer's ``state_dict``.
    """

    step: int
    history: History
    groups: dict[str, dict[str, torch.Tensor]]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A file that keeps the state of one training.

    Parameters
    ----------
    path
        The file; written atomically at every evaluation.
    key
        What the training is made of (data, settings, networks, seed) as a digest. A file of another training is
        refused.
    """

    path: Path
    key: str

    def write(self, state: State) -> None:
        """Write the state."""
        tensors = {
            f"{group}/{name}": tensor for group, own in state.groups.items() for name, tensor in own.items()
        }
        plain: dict[str, dict[str, Any]] = {}
        for index, values in state.optimizer["state"].items():
            plain[str(index)] = {}
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{index}/{name}"] = value
                else:
                    plain[str(index)][name] = value
        document = {
            "key": self.key,
            "step": state.step,
            "history": state.history.to_dict(),
            "optimizer": plain,
            "param_groups": state.optimizer["param_groups"],
            "sha256": tensors_digest(tensors),
        }
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic(self.path) as part:
            save_file(copies, part, metadata={"neyman-checkpoint": json.dumps(document)})

    def read(self) -> State | None:
        """Return the state, None when there is no file yet.

        Raises
        ------
        TrainingError
            When the file is broken or belongs to another training.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as stored:
                document = json.loads((stored.metadata() or {})["neyman-checkpoint"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            if document["sha256"] != tensors_digest(tensors):
                raise ValueError("its tensors are not those that were written")
            history = History(**document["history"])
            step, key = int(document["step"]), str(document["key"])
            optimizer: dict[str, Any] = {
                "state": {int(index): dict(values) for index, values in document["optimizer"].items()},
                "param_groups": document["param_groups"],
            }
            groups: dict[str, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                group, rest = name.split("/", 1)
                if group == "optimizer":
                    index, own = rest.split("/", 1)
                    optimizer["state"][int(index)][own] = tensor
                else:
                    groups.setdefault(group, {})[rest] = tensor
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"the checkpoint {self.path.name} is broken: {error}",
                where=str(self.path),
                expected="a file written by this training",
                fix="choose another file, or delete it to train from the start",
            ) from error
        if key != self.key:
            raise TrainingError(
                f"the checkpoint {self.path.name} belongs to another training",
                where=str(self.path),
                expected="the same events, networks, settings and seed",
                fix="delete it, or choose another file",
            )
        return State(step, history, groups, optimizer)

    def remove(self) -> None:
        """Delete the file of a finished training."""
        Path(os.fspath(self.path)).unlink(missing_ok=True)

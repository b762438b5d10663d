"""`Kept`: the state of an unfolding after every finished step in one safetensors file, from which it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neyman.errors import TrainingError
from neyman.files import atomic

Weights = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class State:
    """Where an unfolding stands.

    Parameters
    ----------
    step
        Finished trainings.
    weights
        Push, pull and the members' own weights, float64 ``(R, E, n_events)``.
    iterations
        Pull and push weights after each finished iteration.
    records
        Records of the trainings as plain data.
    networks
        Parameters of the last networks by level.
    offsets
        Their offsets by level.
    beyond
        Share of the data beyond the support, and its log-ratio.
    """

    step: int
    weights: dict[str, NDArray[np.float64]]
    iterations: list[tuple[Weights, Weights]]
    records: list[dict[str, Any]]
    networks: dict[str, dict[str, torch.Tensor]]
    offsets: dict[str, tuple[float, ...]]
    beyond: tuple[float, float]


@dataclass(frozen=True)
class Kept:
    """The files in which one run keeps its state.

    Parameters
    ----------
    folder
        Where they are.
    name
        Beginning of their names.
    key
        Digest of everything that the run is made of; a file of another one is refused.
    """

    folder: Path
    name: str
    key: str

    @property
    def path(self) -> Path:
        """The state after the last finished step."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def training(self) -> Path:
        """The state of the training that is under way."""
        return self.folder / f"{self.name}.training.safetensors"

    def write(self, state: State) -> None:
        """Write the state, atomically."""
        tensors = {f"weights/{name}": torch.from_numpy(values) for name, values in state.weights.items()}
        for k, pair in enumerate(state.iterations):
            for name, values in zip(("pull", "push"), pair, strict=True):
                tensors[f"iterations/{k}/{name}"] = torch.from_numpy(values)
        for level, network in state.networks.items():
            tensors |= {f"networks/{level}/{name}": tensor for name, tensor in network.items()}
        document = {
            "key": self.key,
            "step": state.step,
            "records": state.records,
            "offsets": state.offsets,
            "beyond": state.beyond,
            "iterations": len(state.iterations),
        }
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with atomic(self.path) as part:
            save_file(copies, part, metadata={"neyman-unfolding": json.dumps(document)})

    def read(self) -> State | None:
        """Return the state, None when there is no file yet.

        Raises
        ------
        TrainingError
            When the file is broken or belongs to another unfolding.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as stored:
                document = json.loads((stored.metadata() or {})["neyman-unfolding"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            networks: dict[str, dict[str, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith("networks/"):
                    _, level, own = name.split("/", 2)
                    networks.setdefault(level, {})[own] = tensor
            state = State(
                int(document["step"]),
                {name: tensors[f"weights/{name}"].numpy() for name in ("push", "pull", "members")},
                [
                    (tensors[f"iterations/{k}/pull"].numpy(), tensors[f"iterations/{k}/push"].numpy())
                    for k in range(int(document["iterations"]))
                ],
                list(document["records"]),
                networks,
                {level: tuple(own) for level, own in document["offsets"].items()},
                (float(document["beyond"][0]), float(document["beyond"][1])),
            )
            key = str(document["key"])
        except (
            SafetensorError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
        ) as error:
            raise TrainingError(
                f"the kept state {self.path.name} is broken: {error}",
                where=str(self.path),
                expected="a file written by this unfolding",
                fix="choose another folder, or delete it to unfold from the start",
            ) from error
        if key != self.key:
            raise TrainingError(
                f"the kept state {self.path.name} belongs to another unfolding",
                where=str(self.path),
                expected="the same events, networks, settings and seed",
                fix="delete it, or choose another folder",
            )
        return state

"""`Kept`: phases of an interrupted training, finished or not, that need not be repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neyman.networks import Stack
from neyman.sannt.templates import Templates
from neyman.training import Checkpoint, History, Objective, Settings, train
from neyman.training.checkpoint import State


class Kept:
    """Where the phases of the training of a fold are kept.

    Parameters
    ----------
    place
        Beginning of the paths of the files; None keeps nothing.
    key
        What the training is made of, as a digest; files of another training are refused.
    """

    def __init__(self, place: Path | None, key: str) -> None:
        self._place, self._key = place, key

    def run(
        self,
        phase: str,
        network: Stack,
        objective: Objective,
        settings: Settings,
        progress: Callable[[int], None] | None,
    ) -> History:
        """Train a phase, from where it stopped; a finished one is read back."""
        if self._place is None:
            return train(network, objective, settings, progress=progress)
        done = Checkpoint(self._place.with_name(f"{self._place.name}.{phase}.done.safetensors"), self._key)
        if (state := done.read()) is not None:
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter.copy_(state.groups["network"][name])
            if progress is not None:
                progress(settings.steps)
            return state.history
        going = Checkpoint(self._place.with_name(f"{self._place.name}.{phase}.safetensors"), self._key)
        history = train(network, objective, settings, progress=progress, checkpoint=going)
        own: dict[str, torch.Tensor] = dict(network.named_parameters())
        nothing: dict[str, Any] = {"state": {}, "param_groups": []}
        done.write(State(settings.steps, history, {"network": own}, nothing))
        return history


def forget(folder: Path) -> None:
    """Delete what a finished training kept."""
    for file in folder.glob("fold?.*.done.safetensors"):
        file.unlink()


def training_key(options: str, tensors: Sequence[torch.Tensor | None], parts: Sequence[Templates]) -> str:
    """Return the digest of the options, as text, their tensors, and all events of a training."""
    found = hashlib.sha256(options.encode())
    for tensor in tensors:
        if tensor is not None:
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for part in parts:
        found.update(repr((part.features, part.strengths, part.parameters, part.normalisations)).encode())
        for block in part.blocks:
            found.update(repr(block.keys).encode())
            for array in (block.x, block.weight):
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()

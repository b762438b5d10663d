"""`Architecture`: what every description of a network has in common, and the scaling of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import TrainingError
from neyman.networks.stacked import Scaling, Stack


class Architecture(Protocol):
    """A frozen description of a network that can build a stack of members; `MLP`, `PET` and `NSF` are ones."""

    @property
    def kind(self) -> str:
        """Name of the architecture in model files."""

    def build(
        self,
        inputs: int,
        *,
        context: int = 0,
        outputs: int = 1,
        members: int = 1,
        seed: int | None = 0,
        scaling: Scaling | None = None,
    ) -> Stack:
        """Make M freshly initialised members; the last `context` inputs are nuisance parameters.

        Without a seed the parameters have shapes and no memory. `scaling` is the mean and scale of the inputs.
        """

    def scaling(self, x: NDArray[Any], names: Sequence[str]) -> Scaling:
        """Return mean and scale of the inputs `x`, ``(n_events, n_features)``, each ``(n_features,)``."""


def column_scaling(x: NDArray[Any], names: Sequence[str]) -> Scaling:
    """Return mean and standard deviation of each column, each ``(n_features,)``.

    Raises
    ------
    TrainingError
        When a feature is constant.
    """
    columns = x.astype(np.float64)
    mean, scale = columns.mean(axis=0), columns.std(axis=0)
    for name, value, spread in zip(names, mean, scale, strict=True):
        if not spread > 1e-7 * max(1.0, abs(value)):
            raise TrainingError(
                f"feature {name!r} is constant ({value:g}) in the training events",
                fix="remove it from the features",
            )
    return torch.from_numpy(mean), torch.from_numpy(scale)

"""Scaling of the inputs of a network, from the events that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import TrainingError

Scaling = tuple[torch.Tensor, torch.Tensor]


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

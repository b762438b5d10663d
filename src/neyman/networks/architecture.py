"""`Architecture`: what every description of a network has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from neyman.networks.scaling import Scaling
from neyman.networks.stacked import Stack


class Architecture(Protocol):
    """A frozen description of a network that can build a stack of members; `MLP`, `PET` and `NSF` are ones."""

    @property
    def kind(self) -> str:
        """Name of the architecture in model files."""

    @property
    def body(self) -> tuple[str, ...]:
        """Beginnings of the names of the parameters that come before the head of a classifier."""

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

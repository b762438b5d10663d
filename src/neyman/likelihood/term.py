"""What a term of a likelihood is: a function of its parameters with exact derivatives, and its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch

from neyman.likelihood.parameters import Parameter


@dataclass(frozen=True)
class Derivatives:
    """Value of ``-2 ln L`` with as many derivatives as were asked for (float64).

    Parameters
    ----------
    value
        Shape ``batch``.
    gradient
        Shape ``batch + (n_parameters,)``; None below order 1.
    hessian
        Shape ``batch + (n_parameters, n_parameters)``; None below order 2.
    """

    value: torch.Tensor
    gradient: torch.Tensor | None = None
    hessian: torch.Tensor | None = None


class Term(Protocol):
    """One independent data set with its model; constraints are *not* part of a term.

    Terms are immutable: :meth:`with_data` returns a new term that shares everything but the data.
    """

    @property
    def name(self) -> str:
        """Name used in messages."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters in the order of the last axis of `theta`, with the constraints they imply."""

    @property
    def data(self) -> Any:
        """Observed data, in the term's own form."""

    def evaluate(self, theta: torch.Tensor, order: int = 0) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``."""

    def with_data(self, data: Any) -> Self:
        """Return the same term with other data."""

    def expected_data(self, theta: torch.Tensor) -> Any:
        """Return the Asimov data at `theta`, shape ``(n_parameters,)``."""

    def sample(self, theta: torch.Tensor, generator: np.random.Generator) -> Any:
        """Draw a data set at `theta`, shape ``(n_parameters,)``."""

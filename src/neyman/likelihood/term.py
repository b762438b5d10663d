"""What a term of a likelihood is: a function of its parameters with exact derivatives, and its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def undefined_where(self, bad: torch.Tensor) -> Derivatives:
        """Return the same with value ``+inf`` and derivatives NaN in the rows `bad`, shape ``batch``."""
        return Derivatives(
            torch.where(bad, torch.inf, self.value),
            None if self.gradient is None else torch.where(bad[..., None], torch.nan, self.gradient),
            None if self.hessian is None else torch.where(bad[..., None, None], torch.nan, self.hessian),
        )


class Term(Protocol):
    """One independent data set with its model; constraints are *not* part of a term.

    Terms are immutable: :meth:`with_data` returns a new term that shares everything but the data. The data are one
    data set, or a batch made by :meth:`stack`: then row i of `theta` goes with data set i.
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

    def evaluate(self, theta: torch.Tensor, order: int = 0, *, strict: bool = True) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``.

        Where the likelihood is undefined an error is raised, or, when not `strict`, the row has the value ``+inf``
        and derivatives NaN.
        """

    def with_data(self, data: Any) -> Self:
        """Return the same term with other data."""

    def stack(self, data: Sequence[Any]) -> Any:
        """Join data sets into a batch."""

    def expected_data(self, theta: torch.Tensor) -> Any:
        """Return the Asimov data at `theta`, shape ``(n_parameters,)``."""

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], Any]:
        """Return a function that draws data sets at `theta`, shape ``(n_parameters,)``."""

    def to(self, device: torch.device | str) -> Self:
        """Return the term with its tensors on a device."""

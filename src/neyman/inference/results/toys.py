"""`ToyFits`: the fits of many toys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError
from neyman.inference.results.named import Array, NamedVector, Record, position


@dataclass(frozen=True, eq=False)
class ToyFits(Record):
    """Fits of many toys, one row a toy.

    Parameters
    ----------
    names
        Parameters that were kept, in the order of the columns.
    values, errors
        Best fits and HESSE errors, shape ``(n_toys, n_names)``; NaN where a fit failed.
    fvals
        ``-2 ln L`` at the minima, shape ``(n_toys,)``.
    valid
        Which fits are valid, shape ``(n_toys,)``.
    truth
        Values that the toys were drawn at, when known.
    failures
        Reasons of the fits that are not valid, by row.
    lower
        By how much MIGRAD alone found a lower minimum, by row, for the toys that were checked that way.
    refitted
        Rows that the batched steps did not bring to a minimum, so that MIGRAD fitted them.
    """

    names: tuple[str, ...]
    values: Array
    errors: Array
    fvals: Array
    valid: NDArray[np.bool_]
    truth: NamedVector | None = None
    failures: Mapping[int, str] = field(default_factory=dict)
    lower: Mapping[int, float] = field(default_factory=dict)
    refitted: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.fvals)

    def pulls(self, name: str | int, truth: float | None = None) -> Array:
        """Return ``(value - truth) / error`` of the valid fits with an error, one number a fit.

        Parameters
        ----------
        name
            Parameter, by name or column.
        truth
            True value; that of the toys by default.
        """
        column = position(self.names, name)
        if truth is None:
            if self.truth is None:
                raise InferenceError("the true value is unknown", fix="pulls(name, truth=...)")
            truth = self.truth[self.names[column]]
        chosen = self.valid & (self.errors[:, column] > 0.0)
        pulls: Array = (self.values[chosen, column] - truth) / self.errors[chosen, column]
        return pulls

"""The common shape of a check: `Check` is one result with its verdict, `Checks` is all of them.

A check fails only where two things hold together: the deviation is significant (p-value below `SIGNIFICANT`, corrected
for the number of comparisons by `holm`) and it is larger than a tolerance. With many events a tiny deviation is always
significant, with few events a large one never is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError
from neyman.files import jsonable

SIGNIFICANT = 1e-3


class Gate(Protocol):
    """Whatever has a verdict."""

    @property
    def name(self) -> str:
        """What was checked."""

    @property
    def passed(self) -> bool:
        """The verdict."""

    @property
    def reason(self) -> str:
        """One sentence with the numbers and the threshold."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""


@dataclass(frozen=True, eq=False)
class Check:
    """A result with its verdict; results of this layer add their numbers as further fields.

    Parameters
    ----------
    name
        What was checked.
    passed
        The verdict.
    reason
        One sentence with the numbers and the threshold.
    """

    name: str
    passed: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain data; None for what is not finite."""
        return {field.name: jsonable(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class Checks:
    """Everything that was checked of one model or analysis.

    Parameters
    ----------
    checks
        At least one.

    Raises
    ------
    InputError
        When nothing was checked: an empty list must not count as a pass.
    """

    checks: tuple[Gate, ...]

    def __init__(self, checks: Iterable[Gate]) -> None:
        object.__setattr__(self, "checks", tuple(checks))
        if not self.checks:
            raise InputError("nothing was checked", expected="at least one check")

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def summary(self) -> str:
        """Return one line a check, failures first."""
        ordered = sorted(self.checks, key=lambda check: check.passed)
        return "\n".join(f"{'pass' if c.passed else 'FAIL'}  {c.name}: {c.reason}" for c in ordered)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict and all checks as plain data."""
        return {"passed": self.passed, "checks": [check.to_dict() for check in self.checks]}


def holm(p_values: Sequence[float | None] | NDArray[np.float64]) -> list[float | None]:
    r"""Correct p-values for the number of comparisons (Holm, Scand. J. Stat. 6 (1979) 65).

    With the p-values of n comparisons in ascending order, :math:`p'_k = \max_{j \le k} \min(1, (n - j + 1) p_j)`: the
    probability that any correct null hypothesis has :math:`p' < \alpha` is at most :math:`\alpha`, however the
    comparisons are correlated. None stays None and does not count.
    """
    corrected: list[float | None] = [None] * len(p_values)
    tested = sorted((float(p), i) for i, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = largest
    return corrected

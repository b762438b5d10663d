"""`ImpactsResult` and `Breakdown`: where the uncertainty of a parameter comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from neyman.inference.results.fits import FitResult
from neyman.inference.results.named import Record, position


@dataclass(frozen=True)
class Impact(Record):
    """Effect of one nuisance parameter on the parameter of interest.

    Parameters
    ----------
    name
        The nuisance parameter.
    up, down
        Shift of the parameter of interest for the nuisance parameter up and down.
    pull
        Best fit minus global observable in units of the prefit error; None for a free parameter.
    constraint
        Postfit over prefit error; None for a free parameter.
    kind
        How the shifts were computed, which is not always what was asked for: see `impacts`.
    valid
        Whether the fits behind the shifts are valid.
    """

    name: str
    up: float
    down: float
    pull: float | None
    constraint: float | None
    kind: str
    valid: bool = True

    @property
    def size(self) -> float:
        """Larger of the two shifts, absolute."""
        return max(abs(self.up), abs(self.down))


@dataclass(frozen=True)
class GroupImpact(Record):
    """Effect of a group of nuisance parameters on the parameter of interest.

    Parameters
    ----------
    name
        Name of the group.
    size
        The uncertainty that comes from it.
    parameters
        Its nuisance parameters.
    kind
        ``global_observables`` for a sum in quadrature, ``conditional`` for the uncertainty that vanishes when all
        of them are fixed.
    left_out
        Members without a global observable, which such a sum does not contain.
    """

    name: str
    size: float
    parameters: tuple[str, ...]
    kind: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImpactsResult(Record):
    """Impacts of all nuisance parameters on `poi`, the largest first.

    Parameters
    ----------
    poi
        Parameter of interest.
    kind
        The kind that was asked for.
    impacts
        One `Impact` a nuisance parameter; also reached by ``result["tes"]`` and by iteration.
    best
        The fit the shifts start from.
    groups
        Impacts of groups, in the order in which they were given.
    """

    poi: str
    kind: str
    impacts: tuple[Impact, ...]
    best: FitResult
    groups: tuple[GroupImpact, ...] = ()

    def __getitem__(self, key: str | int) -> Impact:
        return self.impacts[position([impact.name for impact in self.impacts], key)]

    def __iter__(self) -> Iterator[Impact]:
        return iter(self.impacts)

    def __len__(self) -> int:
        return len(self.impacts)


@dataclass(frozen=True)
class Breakdown(Record):
    """Uncertainty of `poi` by origin, from the curvature of the likelihood at the best fit.

    Parameters
    ----------
    poi
        Parameter of interest.
    total
        Uncertainty with everything free.
    statistical
        Uncertainty with all constrained nuisance parameters fixed at their best fit.
    systematic
        ``sqrt(total^2 - statistical^2)``.
    groups
        The same difference with only a group's parameters fixed. Groups that are correlated by the fit do not
        add up in quadrature to `systematic`.
    best
        The fit behind it.
    """

    poi: str
    total: float
    statistical: float
    systematic: float
    groups: Mapping[str, float]
    best: FitResult

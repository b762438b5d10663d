"""Parameters, their constraints and global observables, and the merging of parameters by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from neyman.errors import LikelihoodError


@dataclass(frozen=True)
class Constraint:
    r"""Auxiliary measurement of one parameter.

    ``normal``: :math:`a \sim N(\theta, \sigma)` with :math:`\sigma` = `scale`.
    ``poisson``: :math:`a \sim \mathrm{Pois}(\tau\theta)` with :math:`\tau` = `scale`.

    Parameters
    ----------
    kind
        Distribution of the global observable.
    observed
        Value `a` of the global observable.
    scale
        Standard deviation, or the factor of the Poisson rate.
    """

    kind: Literal["normal", "poisson"]
    observed: float
    scale: float

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise LikelihoodError(f"a {self.kind} constraint needs a positive scale, got {self.scale}")


@dataclass(frozen=True)
class Parameter:
    """One scalar parameter of a likelihood.

    Parameters
    ----------
    name
        Name as in pyhf's ``config.par_names``; components of vectors are bracketed.
    init
        Starting value of a fit.
    lower, upper
        Bounds of a fit.
    fixed
        Whether fits keep it at `init` unless told otherwise.
    constraint
        Auxiliary measurement, or none for a free parameter.
    """

    name: str
    init: float
    lower: float
    upper: float
    fixed: bool = False
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if not self.lower <= self.init <= self.upper:
            raise LikelihoodError(
                f"parameter {self.name!r} starts at {self.init}, outside its bounds [{self.lower}, {self.upper}]",
                fix="move the start or widen the bounds",
            )


def merge(groups: Iterable[Sequence[Parameter]]) -> tuple[Parameter, ...]:
    """Join the parameters of several terms; the same name is the same parameter.

    Constraints must agree. Bounds are intersected, a parameter fixed anywhere is fixed, and the first start is
    kept (moved into the intersected bounds when needed).

    Raises
    ------
    LikelihoodError
        When a parameter is declared with different constraints or with disjoint bounds.
    """
    merged: dict[str, Parameter] = {}
    for group in groups:
        for parameter in group:
            known = merged.setdefault(parameter.name, parameter)
            if known is parameter:
                continue
            if known.constraint != parameter.constraint:
                raise LikelihoodError(
                    f"nuisance parameter {parameter.name!r} is declared twice with different constraints",
                    where=f"{known.constraint} and {parameter.constraint}",
                    expected="one constraint a parameter: the same name is the same parameter in every channel",
                    fix="rename one of the two, or give both the same constraint",
                )
            lower, upper = max(known.lower, parameter.lower), min(known.upper, parameter.upper)
            if lower > upper:
                raise LikelihoodError(
                    f"parameter {parameter.name!r} has disjoint bounds in two terms",
                    where=f"[{known.lower}, {known.upper}] and [{parameter.lower}, {parameter.upper}]",
                )
            merged[parameter.name] = replace(
                known,
                init=min(max(known.init, lower), upper),
                lower=lower,
                upper=upper,
                fixed=known.fixed or parameter.fixed,
            )
    return tuple(merged.values())

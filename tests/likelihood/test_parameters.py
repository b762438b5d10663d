"""Parameters, constraints, and merging by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neyman.errors import LikelihoodError
from neyman.likelihood import Constraint, Parameter
from neyman.likelihood.parameters import merge

UNIT = Constraint("normal", 0.0, 1.0)
JES = Parameter("jes", 0.0, -5.0, 5.0, constraint=UNIT)
MU = Parameter("mu", 1.0, 0.0, 10.0)


def test_start_must_be_inside_the_bounds() -> None:
    with pytest.raises(LikelihoodError, match=r"'mu' starts at 11.0, outside its bounds \[0.0, 10.0\]"):
        replace(MU, init=11.0)
    with pytest.raises(LikelihoodError, match="'mu' starts at nan"):
        replace(MU, init=float("nan"))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("kind", ["normal", "poisson"])
def test_constraint_needs_a_positive_scale(kind: str, scale: float) -> None:
    with pytest.raises(LikelihoodError, match=f"a {kind} constraint needs a positive scale"):
        Constraint(kind, 1.0, scale)  # type: ignore[arg-type]


def test_merge_keeps_the_order_of_appearance() -> None:
    other = Parameter("theta", 0.5, 0.0, 1.0)
    assert merge([[MU, JES], [other, JES], [MU]]) == (MU, JES, other)
    assert merge([]) == ()


def test_merge_intersects_bounds_and_moves_the_start() -> None:
    (merged,) = merge([[MU], [replace(MU, init=4.0, lower=2.0, upper=20.0, fixed=True)]])
    assert merged == Parameter("mu", 2.0, 2.0, 10.0, fixed=True)


def test_merge_refuses_disjoint_bounds() -> None:
    with pytest.raises(
        LikelihoodError, match=r"'mu' has disjoint bounds in two terms\n  where: \[0.0, 10.0\] and"
    ):
        merge([[MU], [replace(MU, init=12.0, lower=11.0, upper=20.0)]])


@pytest.mark.parametrize(
    "other",
    [None, Constraint("normal", 0.0, 2.0), Constraint("normal", 0.1, 1.0), Constraint("poisson", 0.0, 1.0)],
)
def test_merge_refuses_conflicting_constraints(other: Constraint | None) -> None:
    with pytest.raises(LikelihoodError, match="'jes' is declared twice with different constraints"):
        merge([[JES], [replace(JES, constraint=other)]])

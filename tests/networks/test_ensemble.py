"""Aggregates of ensembles against their formulae."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import InputError
from neyman.networks import combine

MEMBERS = np.log(np.array([[1.0, 2.0], [2.0, 2.0], [9.0, 2.0], [4.0, 8.0]], dtype=np.float32))


@pytest.mark.parametrize(
    ("aggregate", "ratios"),
    [
        ("mean", [(1.0 * 2.0 * 9.0 * 4.0) ** 0.25, 64.0**0.25]),
        ("median", [8.0**0.5, 2.0]),
        ("truncated_mean", [8.0**0.5, 2.0]),
        ("mean_ratio", [4.0, 3.5]),
        ("truncated_mean_ratio", [3.0, 2.0]),
    ],
)
def test_aggregates(aggregate, ratios):
    found = combine(MEMBERS, aggregate)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found), ratios, rtol=1e-6)


@given(st.permutations(range(4)), st.floats(-50.0, 50.0))
def test_order_does_not_matter_and_a_shift_shifts(order, shift):
    for aggregate in ("mean", "median", "truncated_mean", "mean_ratio", "truncated_mean_ratio"):
        found = combine(MEMBERS, aggregate)
        np.testing.assert_allclose(combine(MEMBERS[list(order)], aggregate), found, atol=1e-6)
        np.testing.assert_allclose(combine(MEMBERS + np.float32(shift), aggregate), found + shift, atol=1e-4)


def test_ratios_that_exceed_floating_point_do_not():
    assert combine(np.array([[800.0], [802.0]], dtype=np.float32), "mean_ratio")[0] == pytest.approx(
        801.0 + np.log(np.cosh(1.0)), abs=1e-3
    )


def test_errors():
    with pytest.raises(InputError, match="at least 3 members, got 2"):
        combine(MEMBERS[:2], "truncated_mean_ratio")
    with pytest.raises(InputError, match=r"unknown aggregate 'average'\n.*mean_ratio"):
        combine(MEMBERS, "average")

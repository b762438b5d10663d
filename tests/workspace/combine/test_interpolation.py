"""Combine's interpolation against pyhf's and neyman's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neyman.likelihood.interpolation import ADDITIVE, MULTIPLICATIVE
from neyman.workspace.combine.interpolation import (
    code4_factor,
    combine_factor,
    factor_difference,
    linear_difference,
    shift,
    split_difference,
)

THETA = np.linspace(-3.0, 3.0, 61)
FACTORS = st.floats(0.4, 2.5)


@given(FACTORS, FACTORS)
def test_code4_is_that_of_the_likelihood(up, down):
    one = MULTIPLICATIVE["code4"](
        torch.tensor(up, dtype=torch.float64), torch.tensor(down, dtype=torch.float64)
    )
    wanted = one.factor(torch.from_numpy(THETA))[0].numpy()
    np.testing.assert_allclose(code4_factor(THETA, up, down), wanted, rtol=1e-9)


@given(st.lists(st.tuples(st.floats(-5.0, 5.0), st.floats(-5.0, 5.0)), min_size=1, max_size=4))
def test_the_smooth_step_is_code4p(pairs):
    up, down = np.array(pairs).T
    one = ADDITIVE["code4p"](torch.from_numpy(up.copy()), torch.from_numpy(down.copy()))
    np.testing.assert_allclose(shift(THETA, up, down), one.delta(torch.from_numpy(THETA))[0], atol=1e-12)


@given(FACTORS, FACTORS)
def test_combine_has_the_factors_and_no_kink(up, down):
    at = combine_factor(np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), up, down)
    np.testing.assert_allclose(at, [down**2, down, down**0.5, 1.0, up**0.5, up, up**2])
    for place in (-0.5, 0.0, 0.5):
        left, middle, right = combine_factor(place + np.array([-1e-4, 0.0, 1e-4]), up, down)
        assert abs((right - middle) - (middle - left)) < 1e-6


def test_differences():
    assert factor_difference(1.1, 1.0 / 1.1) < 1e-9
    assert factor_difference(1.1, 0.92) == pytest.approx(8e-4, abs=2e-4)
    assert linear_difference(0.02) == pytest.approx(1.0 - 0.94 * 1.02**3, rel=1e-6)
    nominal = np.array([10.0, 20.0])
    bend = np.array([1.0, -1.0])
    assert split_difference(nominal, nominal + bend, nominal - bend, (1.1, 0.9)) < 1e-12
    assert split_difference(nominal, 1.1 * nominal, 0.9 * nominal, (1.0, 1.0)) == pytest.approx(
        0.04, abs=0.02
    )

"""Interpolation codes against slow references, pyhf, and their continuity promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pyhf import interpolators

from neyman.errors import LikelihoodError
from neyman.likelihood import interpolation
from neyman.likelihood.interpolation import ADDITIVE, MULTIPLICATIVE

ALPHAS = np.array([-3.2, -1.5, -1.0, -0.99, -0.4, -1e-3, 0.0, 1e-3, 0.3, 0.97, 1.0, 1.01, 2.7])


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slow_shift(code: str, up: float, down: float, alpha: float) -> float:
    if code == "code0":
        return alpha * up if alpha >= 0.0 else -alpha * down
    a, b = 0.5 * (up + down), 0.5 * (up - down)
    if code == "code2":
        if abs(alpha) <= 1.0:
            return a * alpha**2 + b * alpha
        edge, slope = (up, b + 2 * a) if alpha > 0 else (down, b - 2 * a)
        return edge + slope * (alpha - math.copysign(1.0, alpha))
    if abs(alpha) >= 1.0:
        return alpha * up if alpha > 0 else -alpha * down
    return alpha * (b + alpha * a / 8 * (15 + alpha**2 * (-10 + 3 * alpha**2)))


def slow_factor(code: str, up: float, down: float, alpha: float) -> float:
    if code == "code1" or abs(alpha) >= 1.0:
        return float(up**alpha if alpha >= 0 else down ** (-alpha))
    rows, right = [], []
    for side, ratio in ((1.0, up), (-1.0, down)):
        powers = np.arange(1, 7)
        rows += [side**powers, powers * side ** (powers - 1), powers * (powers - 1) * side ** (powers - 2.0)]
        right += [ratio - 1, side * math.log(ratio) * ratio, math.log(ratio) ** 2 * ratio]
    coefficients = np.linalg.solve(np.array(rows), np.array(right))
    return 1.0 + sum(c * alpha ** (i + 1) for i, c in enumerate(coefficients))


@pytest.fixture
def variations() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.uniform(0.5, 1.8, (3, 4)), rng.uniform(0.5, 1.8, (3, 4))


@pytest.mark.parametrize("code", sorted(ADDITIVE))
def test_shift_equals_the_scalar_reference(code: str, variations: tuple[np.ndarray, np.ndarray]) -> None:
    up, down = (values - 1.2 for values in variations)
    value = ADDITIVE[code](tensor(up), tensor(down)).delta(tensor(ALPHAS))[0]
    expected = np.vectorize(slow_shift)(code, up, down, ALPHAS[:, None, None])
    np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("code", sorted(MULTIPLICATIVE))
def test_factor_equals_the_scalar_reference(code: str, variations: tuple[np.ndarray, np.ndarray]) -> None:
    up, down = variations
    prepared = MULTIPLICATIVE[code](tensor(up), tensor(down))
    expected = np.vectorize(slow_factor)(code, up, down, ALPHAS[:, None, None])
    np.testing.assert_allclose(prepared.factor(tensor(ALPHAS))[0], expected, rtol=1e-12)
    np.testing.assert_allclose(
        prepared.log_factor(tensor(ALPHAS))[0], np.log(expected), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("code", ["code0", "code1", "code2", "code4", "code4p"])
def test_equals_pyhf(code: str, variations: tuple[np.ndarray, np.ndarray]) -> None:
    alphas = ALPHAS[np.abs(ALPHAS) <= 1.0] if code == "code2" else ALPHAS
    up, down = variations
    nominal = np.ones_like(up)
    reference = getattr(interpolators, code)(np.stack([down, nominal, up], axis=1)[None], subscribe=False)
    expected = np.moveaxis(reference(alphas[None])[0], 0, 1)
    if code in ADDITIVE:
        value = ADDITIVE[code](tensor(up - nominal), tensor(down - nominal)).delta(tensor(alphas))[0]
    else:
        value = MULTIPLICATIVE[code](tensor(up), tensor(down)).factor(tensor(alphas))[0]
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("code", [*sorted(ADDITIVE), *sorted(MULTIPLICATIVE), "log code1", "log code4"])
def test_derivatives_equal_numerical_ones(code: str, variations: tuple[np.ndarray, np.ndarray]) -> None:
    up, down = map(tensor, variations)
    if code in ADDITIVE:
        function = ADDITIVE[code](up - 1.2, down - 1.2).delta
    elif code in MULTIPLICATIVE:
        function = MULTIPLICATIVE[code](up, down).factor
    else:
        function = MULTIPLICATIVE[code.removeprefix("log ")](up, down).log_factor
    alpha, step = tensor([-2.3, -0.8, -0.3, 0.2, 0.7, 1.9]), 1e-4
    _, first, second = function(alpha)
    points = [function(alpha + k * step) for k in (-2, -1, 1, 2)]
    for order, derivative in ((0, first), (1, second)):
        a, b, c, d = (point[order] for point in points)
        np.testing.assert_allclose(derivative, (a - 8 * b + 8 * c - d) / (12 * step), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("code", "orders"), [("code0", 1), ("code1", 1), ("code2", 2), ("code4", 3), ("code4p", 3)]
)
@pytest.mark.parametrize("joint", [-1.0, 0.0, 1.0])
def test_continuity(code: str, orders: int, joint: float, variations: tuple[np.ndarray, np.ndarray]) -> None:
    up, down = map(tensor, variations)
    prepared = (ADDITIVE | MULTIPLICATIVE)[code](up, down)
    function = prepared.delta if isinstance(prepared, interpolation.Additive) else prepared.factor
    below, above = function(tensor(joint - 1e-9)), function(tensor(joint + 1e-9))
    kink_elsewhere = 3 if (orders == 1 and joint != 0.0) or (orders == 2 and joint == 0.0) else orders
    for order in range(kink_elsewhere):
        np.testing.assert_allclose(below[order], above[order], rtol=1e-6, atol=1e-7)
    if kink_elsewhere < 3:
        assert not np.allclose(below[kink_elsewhere], above[kink_elsewhere], rtol=1e-3)


@pytest.mark.parametrize("code", ["code0", "code1"])
def test_slope_at_the_kink_is_the_mean(code: str) -> None:
    prepared = (ADDITIVE | MULTIPLICATIVE)[code](tensor(1.4), tensor(0.9))
    function = prepared.delta if isinstance(prepared, interpolation.Additive) else prepared.log_factor
    left, at, right = (float(function(tensor(alpha))[1]) for alpha in (-1e-12, 0.0, 1e-12))
    assert left != pytest.approx(right, rel=1e-3)
    assert at == pytest.approx(0.5 * (left + right))


@pytest.mark.parametrize("code", [*sorted(ADDITIVE), *sorted(MULTIPLICATIVE)])
def test_one_parameter_for_each_row(code: str, variations: tuple[np.ndarray, np.ndarray]) -> None:
    up, down = map(tensor, variations)
    table = ADDITIVE | MULTIPLICATIVE

    def function(prepared: Any) -> Any:
        return prepared.delta if code in ADDITIVE else prepared.factor

    alpha = tensor([[-1.3, 0.2, 0.9], [0.4, -0.1, 2.2]])
    rows = function(table[code](up, down, axes=1))(alpha)
    for row in range(3):
        single = function(table[code](up[row], down[row]))(alpha[:, row])
        for a, b in zip(rows, single, strict=True):
            np.testing.assert_allclose(a[:, row], b, rtol=1e-13)


def test_part_of_the_events(variations: tuple[np.ndarray, np.ndarray]) -> None:
    up, down = (tensor(values.ravel()) for values in variations)
    for alpha in (0.3, -1.7):
        whole = interpolation.code4(up, down).log_factor(tensor(alpha))
        part = interpolation.code4(up, down)[3:8].log_factor(tensor(alpha))
        for a, b in zip(whole, part, strict=True):
            np.testing.assert_allclose(a[3:8], b, rtol=1e-13)


def test_logarithm_survives_where_the_factor_overflows() -> None:
    value, slope, _ = interpolation.code4(tensor(1e200), tensor(1e-200)).log_factor(tensor(4.0))
    assert float(value) == pytest.approx(800 * math.log(10))
    assert float(slope) == pytest.approx(200 * math.log(10))


@pytest.mark.parametrize("bad", [0.0, -0.5, math.nan, math.inf])
@pytest.mark.parametrize("code", sorted(MULTIPLICATIVE))
def test_factors_must_be_positive(code: str, bad: float) -> None:
    with pytest.raises(LikelihoodError, match=r"the down factor .* is not positive\n  where: element \(1,\)"):
        MULTIPLICATIVE[code](tensor([1.1, 1.2]), tensor([0.9, bad]))


def test_polynomial_below_zero_has_no_logarithm() -> None:
    extreme = interpolation.code4(tensor(1e-3), tensor(30.0))
    assert float(extreme.factor(tensor(0.6))[0]) < 0.0
    with pytest.raises(LikelihoodError, match="polynomial is not positive"):
        extreme.log_factor(tensor(0.6))

"""Yields: every factor against its definition and numerical derivatives, and products of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import LikelihoodError
from neyman.likelihood import interpolation
from neyman.likelihood.yields import NormFactor, NormSys, Polynomial, yield_derivatives

COLUMNS = {"mu": 0, "a": 1, "lumi": 2, "b": 3}
FACTORS = (
    NormFactor("mu"),
    NormSys("a", 1.2, 0.9),
    Polynomial(("mu", "b"), ((1.0, (2, 0)), (-3.0, (1, 1)), (0.5, (0, 3)), (0.2, (0, 0)))),
    NormFactor("lumi"),
    NormSys("b", 0.7, 1.3, "code1"),
    NormSys("a", 1.05, 0.98),
)


def derivatives(function, theta, step=1e-5):
    """Gradient and Hessian of ``function(theta) -> (value, gradient)`` by central differences."""
    up = [function(theta + d) for d in step * np.eye(len(theta))]
    down = [function(theta - d) for d in step * np.eye(len(theta))]
    gradient = np.array([(u[0] - d[0]) / (2 * step) for u, d in zip(up, down, strict=True)])
    hessian = np.stack([(u[1] - d[1]) / (2 * step) for u, d in zip(up, down, strict=True)])
    return gradient, hessian


@pytest.mark.parametrize("code", ["code1", "code4"])
@pytest.mark.parametrize("factors", [(1.1, 0.92), (1.5, 0.5), (3.0, 0.2), (0.9, 0.95), (1.0, 1.0)])
def test_normsys_is_the_shared_interpolation(code, factors):
    tensors = torch.tensor(factors, dtype=torch.float64)
    shared = interpolation.MULTIPLICATIVE[code](tensors[0], tensors[1])
    for alpha in (*np.linspace(-3, 3, 61), -1.0, 0.0, 1.0):
        value, gradient, hessian = NormSys("a", *factors, code).factor(np.array([alpha]))
        expected = [float(t) for t in shared.factor(torch.tensor(alpha, dtype=torch.float64))]
        assert (gradient.shape, hessian.shape) == ((1,), (1, 1))
        assert [value, gradient[0], hessian[0, 0]] == pytest.approx(expected, rel=1e-15, abs=2e-15)


@given(
    powers=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=5),
    theta=st.tuples(*[st.sampled_from([-2.0, -0.7, 0.0, 0.3, 1.5])] * 3),
)
def test_polynomial_is_the_sum_of_its_terms(powers, theta):
    coefficients = np.linspace(-1.5, 2.0, len(powers))
    terms = tuple(zip(coefficients.tolist(), powers, strict=True))
    polynomial, theta = Polynomial(("x", "y", "z"), terms), np.array(theta)
    value, gradient, hessian = polynomial.factor(theta)
    slow = sum(c * theta[0] ** i * theta[1] ** j * theta[2] ** k for c, (i, j, k) in terms)
    assert value == pytest.approx(slow, rel=1e-12, abs=1e-12)
    expected = derivatives(lambda t: polynomial.factor(t)[:2], theta)
    assert gradient == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
    assert hessian == pytest.approx(expected[1], rel=1e-6, abs=1e-6)
    assert np.array_equal(hessian, hessian.T)


def test_interference_may_be_negative():
    interference = Polynomial(("kappa",), ((-2.0, (1,)),))
    value, gradient, hessian = yield_derivatives(10.0, (interference,), np.array([0.5]), {"kappa": 0})
    assert (value, gradient.tolist(), hessian.tolist()) == (-10.0, [-20.0], [[0.0]])


@pytest.mark.parametrize("theta", [(1.3, 0.4, 1.02, -0.6), (0.8, -1.7, 0.97, 1.4), (-0.5, 0.2, 1.0, 2.5)])
def test_products_have_exact_derivatives(theta):
    theta = np.array(theta)
    value, gradient, hessian = yield_derivatives(25.0, FACTORS, theta, COLUMNS)
    product = 25.0 * np.prod([f.factor(theta[[COLUMNS[n] for n in f.parameters]])[0] for f in FACTORS])
    assert value == pytest.approx(product, rel=1e-14)
    expected = derivatives(lambda t: yield_derivatives(25.0, FACTORS, t, COLUMNS)[:2], theta)
    assert gradient == pytest.approx(expected[0], rel=1e-7, abs=1e-6)
    assert hessian == pytest.approx(expected[1], rel=1e-7, abs=1e-6)


def test_factors_of_zero_are_exact():
    factors = (NormFactor("mu"), NormSys("a", 1.2, 0.9), NormFactor("mu"))
    theta, columns = np.array([0.0, 0.5]), {"mu": 0, "a": 1}
    value, gradient, hessian = yield_derivatives(10.0, factors, theta, columns)
    k = NormSys("a", 1.2, 0.9).factor(np.array([0.5]))[0]
    assert (value, *gradient) == (0.0, 0.0, 0.0)
    assert hessian == pytest.approx(np.array([[20.0 * k, 0.0], [0.0, 0.0]]))


def test_no_factors():
    value, gradient, hessian = yield_derivatives(7.0, (), np.zeros(2), {"a": 0, "b": 1})
    assert (value, gradient.tolist(), hessian.tolist()) == (7.0, [0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormSys("a", 1.1, 0.0), r"(?s)'a' has factors up 1.1 and down 0.*positive and finite"),
        (lambda: NormSys("a", np.inf, 0.9), r"'a' has factors up inf"),
        (lambda: NormSys("a", 1.1, 0.9, "code3"), r"(?s)unknown interpolation code 'code3'.*code1 or code4"),
        (lambda: Polynomial((), ((1.0, ()),)), "needs different parameters"),
        (lambda: Polynomial(("x", "x"), ((1.0, (1, 1)),)), r"needs different parameters, got \(x, x\)"),
        (lambda: Polynomial(("x",), ()), r"the polynomial in \(x\) has no terms"),
        (lambda: Polynomial(("x",), ((np.nan, (1,)),)), r"a coefficient of the polynomial in \(x\) is nan"),
        (
            lambda: Polynomial(("x", "y"), ((1.0, (1,)),)),
            r"(?s)in \(x, y\) has 1 powers.*2, one a parameter",
        ),
        (lambda: Polynomial(("x",), ((1.0, (-1,)),)), r"(?s)has the powers \(-1,\).*0 or larger"),
        (lambda: Polynomial(("x",), ((1.0, (0.5,)),)), r"(?s)has the powers \(0.5,\).*whole numbers"),
    ],
)
def test_bad_factors(make, message):
    with pytest.raises(LikelihoodError, match=message):
        make()

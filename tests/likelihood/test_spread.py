"""Uncertainty of learned ratios as nuisance parameters: spread of members, reference statistics, code1 ratios."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neyman.errors import LikelihoodError
from neyman.likelihood import (
    Constraint,
    Events,
    Likelihood,
    Parameter,
    UnbinnedSample,
    UnbinnedTerm,
    interpolation,
)
from neyman.likelihood.loglinear import ExponentialRatio, LinearShape, ReferenceStatistics
from neyman.likelihood.spread import member_components
from neyman.likelihood.yields import NormFactor

UNIT = Constraint("normal", 0.0, 1.0)
MU = Parameter("mu", 1.0, 0.0, 10.0)


# Components of the members -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "divisor"), [("bootstrap", 1), ("ensemble", 7)])
@pytest.mark.parametrize("n", [50, 3])
def test_all_components_give_the_covariance_of_the_members(kind, divisor, n):
    rng = np.random.default_rng(1)
    members, others = rng.normal(size=(7, n)), rng.normal(size=(7, 20))
    components = member_components(members, rng.normal(size=n), kind=kind)
    for values in (members, others):
        columns = components.columns(values)
        assert columns.shape == (6, values.shape[1])
        assert columns.T @ columns == pytest.approx(np.cov(values.T) / divisor, rel=1e-10, abs=1e-12)
    mixed = components.columns(members).T @ components.columns(others)
    deviations = [v - v.mean(axis=0) for v in (members, others)]
    assert mixed == pytest.approx(deviations[0].T @ deviations[1] / 6 / divisor, rel=1e-10, abs=1e-12)


def test_leading_components_capture_the_stated_fraction():
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=400), rng.uniform(0.5, 2.0, 400)
    shapes = np.stack([np.ones(400), x, x**2 - 1, x**3 - 3 * x])
    members = (rng.normal(size=(12, 4)) * [1.0, 0.5, 0.2, 0.02]) @ shapes
    full, leading = member_components(members, weight), member_components(members, weight, n_components=2)
    columns = full.columns(members)
    total = (columns**2 @ weight).sum()
    captured = (leading.columns(members) ** 2 @ weight).sum() / total
    assert leading.fraction[-1] == pytest.approx(captured, rel=1e-12)
    assert full.fraction == pytest.approx(np.cumsum(columns**2 @ weight) / total, rel=1e-12)
    assert leading.fraction.tolist() == full.fraction[:2].tolist()
    assert 0.9 < leading.fraction[-1] < 1.0
    assert full.fraction[3] == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(columns**2 @ weight) < 1e-9).all()


def test_equal_members_have_no_spread():
    components = member_components(np.tile(np.arange(5.0), (4, 1)))
    assert np.abs(components.columns(np.tile(np.arange(5.0), (4, 1)))).max() < 1e-14
    assert components.fraction.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: member_components(np.zeros((1, 5))), "at least two members, got 1"),
        (lambda: member_components(np.zeros(5)), r"(?s)have shape \(5,\).*\(n_members, n_events\)"),
        (
            lambda: member_components(np.zeros((4, 5)), kind="jackknife"),
            r"(?s)'jackknife'.*ensemble or bootstrap",
        ),
        (
            lambda: member_components(np.zeros((4, 5)), n_components=4),
            r"(?s)4 components.*1 to 3, one less than",
        ),
        (lambda: member_components(np.zeros((4, 5)), np.ones(4)), r"(?s)weights have shape \(4,\).*5 finite"),
        (lambda: member_components(np.zeros((4, 5)), [1, 1, 1, 1, np.nan]), r"are not finite"),
        (
            lambda: member_components(np.where(np.eye(4, 5), np.nan, 0.0)),
            r"(?s)log-ratio is not finite.*first at event 0",
        ),
        (
            lambda: member_components(np.zeros((4, 5))).columns(np.zeros((3, 5))),
            r"(?s)have shape \(3, 5\).*\(4, n_events\)",
        ),
    ],
)
def test_unusable_members(call, message):
    with pytest.raises(LikelihoodError, match=message):
        call()


# Shapes ------------------------------------------------------------------------------------------------------


def at(shape, columns, alpha, order=2):
    n = len(next(iter(columns.values())))
    return shape.compile(columns).at(torch.tensor([alpha], dtype=torch.float64), slice(0, n), order)


@pytest.mark.parametrize("alpha", [-2.0, -0.4, 0.0, 0.7, 1.0])
def test_linear_shapes(alpha):
    rng = np.random.default_rng(3)
    columns = {name: torch.from_numpy(rng.normal(size=30) * 0.2) for name in ("up", "down")}
    linear = at(LinearShape("a", "up"), columns, alpha)
    assert torch.allclose(linear.log, alpha * columns["up"], rtol=1e-15)
    assert torch.allclose(linear.first[0], columns["up"], rtol=1e-15)
    code1 = interpolation.code1(columns["up"].exp(), columns["down"].exp())
    expected = code1.log_factor(torch.tensor(alpha, dtype=torch.float64))
    found = at(ExponentialRatio("a", "up", "down"), columns, alpha)
    assert torch.allclose(found.log, expected[0], rtol=1e-12, atol=1e-15)
    assert torch.allclose(found.first[0], expected[1], rtol=1e-12, atol=1e-15)
    assert found.second is None
    assert at(ExponentialRatio("a", "up", "down"), columns, alpha, 0).first is None


# Two Gaussians -----------------------------------------------------------------------------------------------
# Signal N(0.5, 1), background N(-0.5, 1), which is the reference density too: the signal's ratio alone is learned.
# Data and reference are quadrature grids, so that nothing but the learned ratio fluctuates.

GRID = np.linspace(-7.0, 7.0, 1401)
P_S, P_B = (np.exp(-0.5 * (GRID - m) ** 2) / np.sqrt(2.0 * np.pi) * 0.01 for m in (0.5, -0.5))
SIGNAL, BACKGROUND = 60.0, 600.0


def likelihood(log_ratio, columns=()):
    table = {"s": log_ratio, "b": np.zeros_like(GRID)}
    table |= {f"c{j}": column for j, column in enumerate(columns)}
    shapes = tuple(LinearShape(f"spread_s[{j}]", f"c{j}") for j in range(len(columns)))
    samples = [
        UnbinnedSample("s", SIGNAL, "s", (NormFactor("mu"),), shapes),
        UnbinnedSample("b", BACKGROUND, "b"),
    ]
    names = [shape.parameter for shape in shapes]
    parameters = [MU, *(Parameter(name, 0.0, -5.0, 5.0, constraint=UNIT) for name in names)]
    data = Events(SIGNAL * P_S + BACKGROUND * P_B, table)
    return Likelihood([UnbinnedTerm("g", samples, parameters, data=data, reference=Events(P_B, dict(table)))])


def newton(lh):
    """Best fit and error of the first parameter."""
    x = lh.inits.copy()
    for _ in range(20):
        _, gradient, hessian = lh.evaluate(x, 2)
        if np.abs(gradient).max() < 1e-8:
            return x[0], np.sqrt(2.0 * np.linalg.inv(hessian)[0, 0])
        x = x - np.linalg.solve(hessian, gradient)
    raise AssertionError("Newton's method did not converge")


def train(x, is_signal, weight):
    """Log-ratio on the grid from a logistic regression on (1, x, x^2)."""
    basis, beta = np.stack([x**0, x, x**2], axis=1), np.zeros(3)
    for _ in range(8):
        p = 1.0 / (1.0 + np.exp(-basis @ beta))
        beta += np.linalg.solve(
            (basis.T * weight * p * (1 - p)) @ basis, basis.T @ (weight * (is_signal - p))
        )
    values = np.stack([GRID**0, GRID, GRID**2], axis=1) @ beta
    return values - np.log(P_B @ np.exp(values) / P_B.sum())


def training_sample(rng, n=2000):
    return np.concatenate([rng.normal(0.5, 1.0, n), rng.normal(-0.5, 1.0, n)]), np.repeat([1.0, 0.0], n)


@pytest.fixture(scope="module")
def members():
    """Poisson-bootstrap members of one training sample."""
    rng = np.random.default_rng(11)
    sample = training_sample(rng)
    return np.stack([train(*sample, rng.poisson(1.0, len(sample[0]))) for _ in range(60)])


@pytest.mark.parametrize(("kind", "divisor"), [("bootstrap", 1.0), ("ensemble", 60.0)])
def test_error_grows_by_the_spread_of_refits_with_single_members(members, kind, divisor):
    refits = [newton(likelihood(member))[0] for member in members]
    central = members.mean(axis=0)
    columns = member_components(members, P_B, kind=kind, n_components=3).columns(members)
    with_spread, without = newton(likelihood(central, columns))[1], newton(likelihood(central))[1]
    growth = np.sqrt(with_spread**2 - without**2)
    assert growth == pytest.approx(np.std(refits, ddof=1) / np.sqrt(divisor), rel=0.05)


def test_bootstrap_members_show_the_spread_over_training_samples(members):
    rng = np.random.default_rng(12)
    independent = []
    for _ in range(60):
        x, is_signal = training_sample(rng)
        independent.append(newton(likelihood(train(x, is_signal, np.ones(len(x)))))[0])
    columns = member_components(members, P_B, kind="bootstrap", n_components=2).columns(members)
    central = members.mean(axis=0)
    with_spread, without = newton(likelihood(central, columns))[1], newton(likelihood(central))[1]
    # Two standard deviations, each from 60 numbers: 9% each.
    growth = np.sqrt(with_spread**2 - without**2)
    assert growth == pytest.approx(np.std(independent, ddof=1), rel=0.4)


Q_MIXED = 0.5 * (P_S + P_B)


@pytest.mark.parametrize("mixed", [False, True])
def test_reference_statistics_show_the_spread_over_reference_samples(mixed):
    """The fits move by what a reference sample of 1000 events makes the means of the ratios fluctuate."""
    rng = np.random.default_rng(13)
    q = Q_MIXED if mixed else P_B
    table = {"s": np.log(P_S / q), "b": np.log(P_B / q)}
    names = ("refstat_g_s", "refstat_g_b") if mixed else ("refstat_g_s",)
    data = Events(SIGNAL * P_S + BACKGROUND * P_B, table)

    def lh(reference, shapes):
        samples = [
            UnbinnedSample("s", SIGNAL, "s", (NormFactor("mu"),), shapes),
            UnbinnedSample("b", BACKGROUND, "b", (), shapes),
        ]
        parameters = [
            MU,
            *(Parameter(n, 0.0, -5.0, 5.0, constraint=UNIT) for s in shapes for n in s.parameters),
        ]
        return Likelihood([UnbinnedTerm("g", samples, parameters, data=data, reference=reference)])

    fits, shifted, growths = [], [], []
    for _ in range(80):
        reference = Events(rng.poisson(1000.0 * q / q.sum()).astype(float), dict(table))
        shape = ReferenceStatistics.measure(names, ("s", "b")[: len(names)], reference)
        best, without = newton(lh(reference, ()))
        moved, with_error = newton(lh(reference, (shape,)))
        fits.append(best)
        shifted.append(moved)
        growths.append(with_error**2 - without**2)
    # Each side from 80 numbers: 8%.
    assert np.sqrt(np.mean(growths)) == pytest.approx(np.std(fits, ddof=1), rel=0.25)
    assert np.mean(shifted) == pytest.approx(1.0, abs=4 * np.std(shifted) / np.sqrt(80))


def test_reference_statistics_have_the_covariance_of_the_means():
    rng = np.random.default_rng(14)
    x = rng.normal(size=500)
    weight = rng.uniform(0.2, 2.0, 500)
    table = {"s": 0.5 * x - 0.1, "b": -0.3 * x, "t": 0.2 * x**2 - 0.3}
    shape = ReferenceStatistics.measure(("p", "q", "r"), ("s", "b", "t"), Events(weight, table))
    ratios = np.stack([np.exp(v) / np.average(np.exp(v), weights=weight) for v in table.values()])
    expected = ((ratios - 1.0) * weight**2) @ (ratios - 1.0).T / weight.sum() ** 2
    tensors = {name: torch.from_numpy(values) for name, values in table.items()}
    slopes = shape.compile(tensors).at(torch.zeros(3, dtype=torch.float64), slice(0, 500), 1).first.numpy()
    slopes = slopes - np.average(slopes, axis=1, weights=weight)[:, None]
    moved = (ratios * weight) @ slopes.T / weight.sum()
    assert moved == pytest.approx(moved.T, rel=1e-8, abs=1e-10)
    assert moved @ moved.T == pytest.approx(expected, rel=1e-8)


def test_reference_statistics_need_positive_means():
    with pytest.raises(LikelihoodError, match=r"mean of the ratio 's' over the reference sample is -1"):
        ReferenceStatistics.measure(
            ("p",), ("s",), Events(np.array([2.0, -1.0]), {"s": np.array([0.0, np.log(3.0)])})
        )

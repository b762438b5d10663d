"""Constraint terms against scipy and numerical derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from neyman.errors import LikelihoodError
from neyman.likelihood import Constraint, Parameter
from neyman.likelihood.constraints import ConstraintTerm

PARAMETERS = (
    Parameter("mu", 1.0, 0.0, 10.0),
    Parameter("gamma", 1.0, 1e-10, 10.0, constraint=Constraint("poisson", 25.0, 25.0)),
    Parameter("alpha", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.2, 1.0)),
    Parameter("lumi", 1.0, 0.5, 1.5, constraint=Constraint("normal", 1.0, 0.02)),
    Parameter("empty", 1.0, 1e-10, 10.0, constraint=Constraint("poisson", 0.0, 1.0)),
)
THETA = torch.tensor([[1.0, 0.9, -0.4, 1.01, 0.3], [2.0, 1.3, 1.7, 0.97, 2.0]], dtype=torch.float64)


def reference(theta: np.ndarray, observed: tuple[float, ...] = (25.0, 0.2, 1.0, 0.0)) -> float:
    _, gamma, alpha, lumi, empty = theta
    logarithms = (
        stats.poisson(25.0 * gamma).logpmf(observed[0]),
        stats.norm(alpha, 1.0).logpdf(observed[1]),
        stats.norm(lumi, 0.02).logpdf(observed[2]),
        stats.poisson(empty).logpmf(observed[3]),
    )
    return float(-2.0 * sum(logarithms))


def test_values_equal_scipy() -> None:
    values = ConstraintTerm(PARAMETERS, {}).evaluate(THETA, 0).value
    np.testing.assert_allclose(values, [reference(row) for row in THETA.numpy()], rtol=1e-13)


def test_shifted_global_observables_equal_scipy() -> None:
    term = ConstraintTerm(PARAMETERS, {"gamma": 31.0, "lumi": 1.03})
    expected = reference(THETA[0].numpy(), (31.0, 0.2, 1.03, 0.0))
    assert float(term.evaluate(THETA[0], 0).value) == pytest.approx(expected, rel=1e-13)
    assert term.global_observables == {"gamma": 31.0, "alpha": 0.2, "lumi": 1.03, "empty": 0.0}


def test_derivatives_equal_numerical_ones() -> None:
    term, step = ConstraintTerm(PARAMETERS, {}), 1e-4
    result = term.evaluate(THETA, 2)
    assert result.gradient is not None
    assert result.hessian is not None
    for i in range(len(PARAMETERS)):
        shift = torch.zeros(len(PARAMETERS), dtype=torch.float64)
        shift[i] = step
        above, below = term.evaluate(THETA + shift, 1), term.evaluate(THETA - shift, 1)
        assert above.gradient is not None
        assert below.gradient is not None
        slope = (above.value - below.value) / (2 * step)
        np.testing.assert_allclose(result.gradient[:, i], slope, rtol=1e-6, atol=1e-6)
        curvature = (above.gradient - below.gradient) / (2 * step)
        np.testing.assert_allclose(result.hessian[:, i], curvature, rtol=1e-6, atol=1e-6)


def test_gradient_vanishes_for_expected_observables() -> None:
    expected = ConstraintTerm(PARAMETERS, {}).expected(THETA[1])
    assert expected == pytest.approx({"gamma": 25.0 * 1.3, "alpha": 1.7, "lumi": 0.97, "empty": 2.0})
    gradient = ConstraintTerm(PARAMETERS, expected).evaluate(THETA[1], 1).gradient
    assert gradient == pytest.approx(np.zeros(5), abs=1e-10)


def test_samples_follow_the_constraints() -> None:
    term, generator = ConstraintTerm(PARAMETERS, {}), np.random.default_rng(1)
    sampler = term.sampler(THETA[0])
    draws = [sampler(generator) for _ in range(3000)]
    assert list(draws[0]) == ["gamma", "alpha", "lumi", "empty"]
    table = np.array([list(draw.values()) for draw in draws])
    for column, distribution in enumerate(
        (stats.poisson(22.5), stats.norm(-0.4, 1.0), stats.norm(1.01, 0.02), stats.poisson(0.3))
    ):
        mean, spread = distribution.mean(), distribution.std()
        assert table[:, column].mean() == pytest.approx(mean, abs=4 * spread / np.sqrt(3000))
        assert table[:, column].std() == pytest.approx(spread, rel=0.12)
    assert term.sampler(THETA[0])(np.random.default_rng(2)) == term.sampler(THETA[0])(
        np.random.default_rng(2)
    )


def test_no_constraints_at_all() -> None:
    result = ConstraintTerm(PARAMETERS[:1], {}).evaluate(torch.ones(3, 1, dtype=torch.float64), 2)
    assert result.value.tolist() == [0.0, 0.0, 0.0]
    assert result.hessian is not None
    assert result.hessian.abs().max() == 0.0


@pytest.mark.parametrize("value", [0.0, -0.2])
def test_poisson_constraint_needs_a_positive_parameter(value: float) -> None:
    theta = THETA.clone()
    theta[1, 1] = value
    with pytest.raises(
        LikelihoodError, match="'gamma' has a Poisson constraint, which needs a positive value"
    ):
        ConstraintTerm(PARAMETERS, {}).evaluate(theta, 0)


@pytest.mark.parametrize("name", ["mu", "nobody"])
def test_global_observable_without_constraint(name: str) -> None:
    with pytest.raises(
        LikelihoodError, match=f"parameter '{name}' has no constraint, so no global observable"
    ):
        ConstraintTerm(PARAMETERS, {name: 1.0})


def test_rows_of_a_batch_have_their_own_global_observables() -> None:
    term = ConstraintTerm(PARAMETERS, {})
    sampler = term.sampler(THETA[0])
    drawn = [sampler(np.random.default_rng(seed)) for seed in range(3)]
    batch = term.with_observed({name: np.array([one[name] for one in drawn]) for name in term.names})
    theta = THETA[:1].expand(3, -1)
    result = batch.evaluate(theta, 2)
    for i, one in enumerate(drawn):
        alone = term.with_observed(one).evaluate(THETA[0], 2)
        assert result.value[i].item() == pytest.approx(alone.value.item(), rel=1e-14)
        np.testing.assert_array_equal(result.gradient[i], alone.gradient)
        np.testing.assert_array_equal(result.hessian[i], alone.hessian)


def test_undefined_rows_when_not_strict() -> None:
    theta = THETA[:1].repeat(2, 1)
    theta[1, 1] = -0.5
    result = ConstraintTerm(PARAMETERS, {}).evaluate(theta, 2, strict=False)
    good = ConstraintTerm(PARAMETERS, {}).evaluate(THETA[0], 2)
    assert result.value.tolist() == [good.value.item(), float("inf")]
    np.testing.assert_array_equal(result.hessian[0], good.hessian)
    assert bool(result.gradient[1].isnan().all())

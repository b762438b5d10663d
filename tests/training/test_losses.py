"""Losses and links of density-ratio training against their defining property and high-precision references."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr

from neyman.errors import ConfigError
from neyman.networks import links
from neyman.training.losses import BCE, CEILING, MLC, PULL, Loss

LOSSES: list[Loss] = [
    BCE("sigmoid"),
    BCE("gaussian"),
    BCE("arctan"),
    MLC("exp"),
    MLC("relu"),
    MLC("square"),
]
LINKS: tuple[links.Link, ...] = ("identity", "gaussian", "arctan", "relu", "square")
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__}-{loss.link}")


def output_of(loss: Loss, log_ratio: float) -> float:
    """Invert the link by bisection, on the rising branch."""
    low, high = (-1.0 + 1e-12, 1e5) if loss.link in ("relu", "square") else (-1e5, 1e5)
    for _ in range(75):
        middle = 0.5 * (low + high)
        value = float(loss.log_ratio(torch.tensor(middle, dtype=torch.float64)))
        low, high = (middle, high) if value < log_ratio else (low, middle)
    return 0.5 * (low + high)


@every_loss
@settings(max_examples=40)
@given(true=st.floats(-8.0, 8.0), total=st.floats(0.1, 10.0))
def test_gradient_in_function_space_vanishes_at_the_exact_ratio(
    loss: Loss, true: float, total: float
) -> None:
    p, q = total * math.exp(0.5 * true), total * math.exp(-0.5 * true)
    z = torch.tensor(output_of(loss, true), dtype=torch.float64, requires_grad=True)
    up, down = p * loss.numerator(z), q * loss.denominator(z)
    (pull,) = torch.autograd.grad(up, z, retain_graph=True)
    (push,) = torch.autograd.grad(down, z)
    assert float(pull) < 0.0 < float(push)
    assert float(pull + push) == pytest.approx(0.0, abs=1e-6 * float(push))


@every_loss
@settings(max_examples=40)
@given(true=st.floats(-8.0, 8.0))
def test_log_ratio_is_where_the_pointwise_loss_is_smallest(loss: Loss, true: float) -> None:
    """Nothing is assumed of the link: the minimum over z is found numerically, from a bracket around z = 0."""
    p, q = math.exp(0.5 * true), math.exp(-0.5 * true)

    def risk(z: Any) -> Any:
        raw = torch.as_tensor(z, dtype=torch.float64)
        return (p * loss.numerator(raw) + q * loss.denominator(raw)).numpy()

    bounds = (-1.0, 4e3) if loss.link in ("relu", "square") else (-12.0, 12.0)
    if loss.link == "arctan":
        bounds = (-2e3, 2e3)
    grid = np.sign(bounds) * np.geomspace(1e-5, 1.0, 400)[:, None] * np.abs(bounds)
    coarse = np.sort(np.append(grid.ravel(), 0.0))
    k = int(np.argmin(risk(coarse)))
    left, right = coarse[max(k - 1, 0)], coarse[min(k + 1, len(coarse) - 1)]
    best = minimize_scalar(risk, bounds=(left, right), method="bounded", options={"xatol": 1e-12}).x
    assert float(loss.log_ratio(torch.tensor(best, dtype=torch.float64))) == pytest.approx(true, abs=1e-4)


@every_loss
@given(a=st.floats(-50.0, 50.0), b=st.floats(-50.0, 50.0))
def test_losses_of_the_two_classes_fall_and_rise_with_the_ratio(loss: Loss, a: float, b: float) -> None:
    z = torch.tensor([a, b], dtype=torch.float64)
    ratio = loss.log_ratio(z)
    if float(ratio[0]) < float(ratio[1]):
        assert float(loss.numerator(z)[0]) >= float(loss.numerator(z)[1])
        assert float(loss.denominator(z)[0]) <= float(loss.denominator(z)[1])


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_finite_for_extreme_outputs(loss: Loss, dtype: torch.dtype) -> None:
    values = [0.0, -1.0, *(s * v for v in (1e-30, 0.5, 1.0, 19.0, 88.0, 90.0, 710.0, 1e4) for s in (1, -1))]
    z = torch.tensor(values, dtype=dtype, requires_grad=True)
    for function in (loss.numerator, loss.denominator, loss.log_ratio):
        out = function(z)
        (gradient,) = torch.autograd.grad(out.sum(), z)
        assert bool(torch.isfinite(out).all())
        assert bool(torch.isfinite(gradient).all())


@every_loss
def test_output_zero_is_ratio_one_and_has_the_flat_loss(loss: Loss) -> None:
    zero = torch.zeros(3)
    assert loss.log_ratio(zero).tolist() == [0.0, 0.0, 0.0]
    mean = 0.5 * (loss.numerator(zero) + loss.denominator(zero))
    assert loss.flat() == pytest.approx(float(mean[0]), abs=1e-7)
    assert loss.flat() == (math.log(2.0) if isinstance(loss, BCE) else 0.0)


@every_loss
def test_losses_are_the_formulas_of_the_probability_or_ratio(loss: Loss) -> None:
    """Table II, eqs. 31 and 32, in plain numpy where nothing saturates."""
    z = np.linspace(-0.9, 3.0, 40)
    f: Any = {
        "sigmoid": 1.0 / (1.0 + np.exp(-z)),
        "gaussian": np.exp(log_ndtr(z)),
        "arctan": 0.5 + np.arctan(z) / np.pi,
        "exp": np.exp(z),
        "relu": np.maximum(1.0 + z, 0.0),
        "square": (1.0 + z) ** 2,
    }[loss.link]
    minus, ratio = (-np.log1p(-f), f / (1.0 - f)) if isinstance(loss, BCE) else (f - 1.0, f)
    raw = torch.from_numpy(z)
    np.testing.assert_allclose(loss.numerator(raw), -np.log(f), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(loss.denominator(raw), minus, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(loss.log_ratio(raw), np.log(ratio), rtol=1e-12, atol=1e-13)


def test_gaussian_logarithm_and_gradient_hold_in_single_precision() -> None:
    z = torch.tensor([-1e4, -3e3, -300.0, -50.0, -20.1, -19.9, -5.0, 0.0, 5.0], requires_grad=True)
    value = links.log_normal_cdf(z)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    exact = z.detach().double().numpy()
    np.testing.assert_allclose(value.detach(), log_ndtr(exact), rtol=3e-6)
    slope = np.exp(-0.5 * exact**2 - 0.5 * np.log(2.0 * np.pi) - log_ndtr(exact))
    np.testing.assert_allclose(gradient, slope, rtol=1e-3)
    np.testing.assert_allclose(gradient[2:], slope[2:], rtol=1e-5)


def test_gaussian_logarithm_is_smooth_where_the_series_takes_over() -> None:
    z = torch.linspace(-20.01, -19.99, 41, dtype=torch.float64)
    np.testing.assert_allclose(links.log_normal_cdf(z), log_ndtr(z.numpy()), rtol=1e-10)


def test_arctan_keeps_its_tails() -> None:
    """f = 1/2 + atan(z)/pi falls as 1/(pi |z|): the plain formula has no digits left at z = -1e9 in float32."""
    z = torch.tensor([-1e9, -1e4], dtype=torch.float32)
    np.testing.assert_allclose(
        links.log_angle(z), [-math.log(math.pi * 1e9), -math.log(math.pi * 1e4)], rtol=1e-6
    )


@pytest.mark.parametrize("link", ["relu", "square"])
def test_ratio_zero_is_reported_at_the_floor(link: links.Link) -> None:
    edge = -1.0 + (links.FLOOR if link == "relu" else math.sqrt(links.FLOOR))
    z = torch.tensor([-5.0, -1.0, edge * (1 + 1e-9), edge * (1 - 1e-9), 0.0, 3.0], dtype=torch.float64)
    expected = [link == "relu", True, True, False, False, False]
    assert links.floored(link, z).tolist() == expected
    log_ratio = links.log_ratio(link, z)
    assert bool((log_ratio[links.floored(link, z)] == math.log(links.FLOOR)).all())
    assert bool((log_ratio[~links.floored(link, z)] > math.log(links.FLOOR)).all())


@pytest.mark.parametrize("link", ["identity", "gaussian", "arctan"])
def test_other_links_have_no_floor(link: links.Link) -> None:
    assert not bool(links.floored(link, torch.linspace(-1e4, 1e4, 101)).any())


@pytest.mark.parametrize("loss", [MLC("relu"), MLC("square")], ids=lambda loss: loss.link)
def test_events_behind_the_floor_are_pulled_back(loss: MLC) -> None:
    """Numerator events at ratio 0 have a loss, which goes on continuously at the floor, and a gradient."""
    edge = -1.0 + (links.FLOOR if loss.link == "relu" else math.sqrt(links.FLOOR))
    z = torch.tensor([edge - 1e-9, edge + 1e-9, -1.0 - 1e-4, -3.0], dtype=torch.float64, requires_grad=True)
    value = loss.numerator(z)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    value = value.detach()
    assert float(value[0]) == pytest.approx(float(value[1]), abs=1e-3)
    if loss.link == "relu":
        assert gradient[[0, 2, 3]].tolist() == [-PULL] * 3
        assert float(value[3]) > float(value[2]) > 10.0
    else:
        assert float(gradient[0]) == pytest.approx(float(gradient[1]), rel=1e-3)
        assert float(gradient[2]) > 0.0, "the mirror image of the same ratio"


def test_exponential_goes_on_along_its_tangent() -> None:
    z = torch.tensor([CEILING - 1e-6, CEILING + 1e-6, CEILING + 3.0], dtype=torch.float64, requires_grad=True)
    value = MLC().denominator(z)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    np.testing.assert_allclose(gradient, [math.exp(CEILING - 1e-6), math.exp(CEILING), math.exp(CEILING)])
    assert float(value[2].detach()) == pytest.approx(4.0 * math.exp(CEILING))


@every_loss
def test_output_link_gives_the_same_log_ratio_in_a_model_file(loss: Loss) -> None:
    z = torch.linspace(-3.0, 3.0, 31)
    assert loss.output_link in LINKS
    assert torch.equal(links.log_ratio(loss.output_link, z), loss.log_ratio(z))


def test_unknown_links_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"BCE has no link 'sigmod'(.|\n)*sigmoid"):
        BCE("sigmod")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"MLC has no link 'sigmoid'(.|\n)*exp, relu, square"):
        MLC("sigmoid")  # type: ignore[arg-type]
    for function in (links.log_ratio, links.floored):
        with pytest.raises(ConfigError, match=r"unknown link 'gauss'(.|\n)*gaussian"):
            function("gauss", torch.zeros(1))  # type: ignore[arg-type]

"""Stand-ins for the derivative of a bin's content, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neyman.errors import ConfigError
from neyman.sannt import EdgeKernel, GaussianDerivative, Linear, StraightThrough

EDGES = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
Y = torch.linspace(-0.2, 1.2, 57, dtype=torch.float64)
ALL = [EdgeKernel(), GaussianDerivative(), Linear(), StraightThrough()]


def own_bin(y: float) -> int:
    return int(np.clip(np.searchsorted(EDGES.numpy(), y, side="right") - 1, 0, 3))


@pytest.mark.parametrize("function", ALL, ids=lambda f: type(f).__name__)
def test_shapes_and_edges_of_each_event(function) -> None:
    once = function(Y, EDGES)
    assert once.shape == (57, 4)
    members = function(torch.stack([Y, Y]), EDGES)
    torch.testing.assert_close(members, torch.stack([once, once]))
    torch.testing.assert_close(function(Y, EDGES.expand(57, 5)), once)


def test_linear_by_hand() -> None:
    found = Linear()(Y, EDGES).numpy()
    for y, row in zip(Y.tolist(), found, strict=True):
        own = own_bin(y)
        width = float(EDGES[own + 1] - EDGES[own])
        centre = float(EDGES[own + 1] + EDGES[own]) / 2.0
        expected = np.zeros(4)
        expected[own] = -2.0 * (y - centre) / width**2
        np.testing.assert_allclose(row, expected, atol=1e-12)
    assert Linear()(EDGES[1:2], EDGES)[0, 1].item() == pytest.approx(1.0 / 0.2)  # 1/d at the left edge


def test_straight_through_is_the_indicator() -> None:
    found = StraightThrough()(Y, EDGES)
    assert found.sum(dim=1).tolist() == [1.0] * 57
    assert found.argmax(dim=1).tolist() == [own_bin(y) for y in Y.tolist()]


def test_gaussian_derivative_is_one() -> None:
    y = Y.clone().requires_grad_()
    s = 0.5 * EDGES.diff()
    centres = 0.5 * (EDGES[1:] + EDGES[:-1])
    gaussians = torch.exp(-0.5 * ((y[:, None] - centres) / s) ** 2)
    for k in range(4):
        (slope,) = torch.autograd.grad(gaussians[:, k].sum(), y, retain_graph=True)
        torch.testing.assert_close(GaussianDerivative()(Y, EDGES)[:, k], slope, rtol=1e-10, atol=1e-12)


def test_edge_kernel_conserves_the_number_of_events() -> None:
    assert EdgeKernel()(Y, EDGES).sum(dim=-1).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [EdgeKernel, GaussianDerivative])
def test_widths_are_positive(kind) -> None:
    with pytest.raises(ConfigError, match=r"positive width, got 0\.0"):
        kind(0.0)

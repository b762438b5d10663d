"""The differentiable histogram: exact forward, backward by its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neyman.errors import ConfigError, TrainingError
from neyman.sannt import EdgeKernel, histogram

EDGES = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)


def smeared(y: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor, width: float) -> torch.Tensor:
    """Content of bins whose inner edges are smeared by the kernel: what EdgeKernel is the derivative of."""
    bins = edges.diff()
    h = width * torch.minimum(bins[:-1], bins[1:])
    above = torch.special.ndtr((y[:, None] - edges[1:-1]) / h)
    one = torch.ones(len(y), 1, dtype=y.dtype)
    passed = torch.cat([one, above, 0.0 * one], dim=1)
    return weight @ (passed[:, :-1] - passed[:, 1:])


def test_forward_is_numpy_with_signed_weights_and_end_bins() -> None:
    rng = np.random.default_rng(1)
    y, w = rng.normal(0.5, 0.6, 5000), rng.normal(0.3, 1.0, 5000)
    contents = histogram(torch.from_numpy(y), torch.from_numpy(w), EDGES, EdgeKernel())
    expected, _ = np.histogram(np.clip(y, 0.0, 0.999), EDGES.numpy(), weights=w)
    np.testing.assert_allclose(contents.numpy(), expected, rtol=1e-12)
    assert contents.sum().item() == pytest.approx(w.sum(), rel=1e-12)


def test_events_on_an_edge_belong_to_the_bin_above() -> None:
    y = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0, -5.0, 7.0], dtype=torch.float64)
    contents = histogram(y, torch.ones(7), EDGES, EdgeKernel())
    assert contents.tolist() == [2.0, 1.0, 1.0, 3.0]


def test_members_and_sets_of_weights_are_filled_together() -> None:
    rng = np.random.default_rng(2)
    y = torch.from_numpy(rng.uniform(-0.1, 1.1, (3, 200)))
    weights = torch.from_numpy(rng.normal(size=(5, 200)))
    together = histogram(y, weights, EDGES, EdgeKernel())
    assert together.shape == (3, 5, 4)
    for m in range(3):
        for k in range(5):
            alone = histogram(y[m], weights[k], EDGES, EdgeKernel())
            torch.testing.assert_close(together[m, k], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [0.1, 0.25])
def test_backward_is_the_derivative_of_the_smeared_histogram(width: float) -> None:
    rng = np.random.default_rng(3)
    y = torch.from_numpy(rng.uniform(-0.2, 1.2, 300)).requires_grad_()
    weight, slope = torch.from_numpy(rng.normal(size=300)), torch.from_numpy(rng.normal(size=4))
    (found,) = torch.autograd.grad(histogram(y, weight, EDGES, EdgeKernel(width)) @ slope, y)
    (exact,) = torch.autograd.grad(smeared(y, weight, EDGES, width) @ slope, y)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


def test_backward_sums_over_the_sets_of_weights() -> None:
    rng = np.random.default_rng(4)
    y = torch.from_numpy(rng.uniform(0, 1, (2, 50))).requires_grad_()
    weights, slope = torch.from_numpy(rng.normal(size=(3, 50))), torch.from_numpy(rng.normal(size=(2, 3, 4)))
    (found,) = torch.autograd.grad((histogram(y, weights, EDGES, EdgeKernel()) * slope).sum(), y)
    for m in range(2):
        row = y[m].detach().requires_grad_()
        total = sum((smeared(row, w, EDGES, 0.25) * s).sum() for w, s in zip(weights, slope[m], strict=True))
        (exact,) = torch.autograd.grad(total, row)
        torch.testing.assert_close(found[m], exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("edges", [[0.0, 1.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.5, float("inf")]])
def test_unusable_edges(edges: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"bin edges .* are not usable"):
        histogram(torch.zeros(2), torch.ones(2), torch.tensor(edges), EdgeKernel())


def test_other_errors() -> None:
    with pytest.raises(ConfigError, match=r"weights of shape \(3,\) for outputs of shape \(2,\)"):
        histogram(torch.zeros(2), torch.ones(3), EDGES, EdgeKernel())
    with pytest.raises(TrainingError, match=r"1 network outputs are not finite\n.*event 1"):
        histogram(torch.tensor([0.0, float("nan")]), torch.ones(2), EDGES, EdgeKernel())
    for width in (0.0, float("nan"), "wide"):
        with pytest.raises(ConfigError, match="positive width"):
            EdgeKernel(width)
    with pytest.raises(TrainingError, match="the weight of event 1 is not finite"):
        histogram(torch.zeros(2), torch.tensor([1.0, float("nan")]), EDGES, EdgeKernel())
    with pytest.raises(ConfigError, match="outputs, weights and edges are list, Tensor, Tensor"):
        histogram([0.1, 0.2], torch.ones(2), EDGES, EdgeKernel())

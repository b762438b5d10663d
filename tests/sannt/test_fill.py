"""Filling for trainings: members, classes, learned edges, and the smeared comparators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import ConfigError, TrainingError
from neyman.networks import MLP
from neyman.sannt import KDE, EdgeKernel, Exact, Inferno
from neyman.sannt.binned import BinnedStack
from neyman.sannt.histogram import bin_index, fill


def scores(members: int, events: int, classes: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.0, 1.0, (members, events, classes)))


def edges(members: int, classes: int) -> torch.Tensor:
    inner = np.sort(np.random.default_rng(9).uniform(0.1, 0.9, (members, classes, 3)), axis=2)
    return torch.from_numpy(
        np.pad(inner, ((0, 0), (0, 0), (1, 1)), constant_values=((0, 0), (0, 0), (0.0, 1.0)))
    )


def test_classes_are_filled_by_the_largest_score() -> None:
    y, own = scores(2, 300, 3), edges(2, 3)
    weight = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 300)))
    found = fill(y, weight, own, EdgeKernel())
    assert found.shape == (2, 2, 12)
    for m in range(2):
        winner = y[m].argmax(dim=1).numpy()
        for c in range(3):
            mask = winner == c
            for k in range(2):
                expected, _ = np.histogram(
                    y[m, mask, c].numpy(), own[m, c].numpy(), weights=weight[k, mask].numpy()
                )
                np.testing.assert_allclose(found[m, k, 4 * c : 4 * c + 4].numpy(), expected, atol=1e-12)
        filled = np.bincount(bin_index(y, own)[m].numpy(), weight[0].numpy(), minlength=12)
        np.testing.assert_allclose(filled, found[m, 0].numpy(), atol=1e-12)


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(2, 6),
    st.integers(0, 2**32 - 1),
)
def test_every_event_is_in_one_bin_and_gradients_conserve_events(
    members, events, classes, n_bins, seed
) -> None:
    rng = np.random.default_rng(seed)
    own = torch.from_numpy(np.cumsum(rng.uniform(0.1, 1.0, (members, classes, n_bins + 1)), axis=2))
    low, high = float(own.min()), float(own.max())
    y = torch.from_numpy(rng.uniform(low - 0.5, high + 0.5, (members, events, classes))).requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(2, events)))
    found = fill(y, weight, own, EdgeKernel(), 0.3)
    torch.testing.assert_close(found.sum(dim=2), weight.sum(dim=1).expand(members, 2), rtol=1e-9, atol=1e-9)
    index = bin_index(y.detach(), own)
    again = torch.stack(
        [torch.stack([torch.bincount(i, w, classes * n_bins) for w in weight]) for i in index]
    )
    torch.testing.assert_close(found.detach(), again, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(found.sum(), y)  # the total does not depend on where events are
    assert slope.abs().max() < 1e-9


def smeared(y: torch.Tensor, weight: torch.Tensor, own: torch.Tensor, margin: float) -> torch.Tensor:
    """What the gradient with two classes is the derivative of: the class is smeared in the difference of the
    scores, the bin within each class by the edge kernel (at their product, first order in each)."""
    n_bins = own.shape[1] - 1
    h = margin * float((own[:, -1] - own[:, 0]).mean()) / n_bins
    winner = torch.special.ndtr((y[:, 0] - y[:, 1]) / h)
    hard = (y[:, :, None] >= own[:, 1:-1]).sum(dim=2)
    inside = torch.nn.functional.one_hot(hard, n_bins).to(y.dtype)
    both = torch.cat([winner[:, None] * inside[:, 0], (1.0 - winner[:, None]) * inside[:, 1]], dim=1)
    return weight @ both


def test_events_between_two_classes_feel_the_other_one() -> None:
    y = scores(1, 400, 2, seed=5)[0].requires_grad_()
    own, weight = edges(1, 2), torch.from_numpy(np.random.default_rng(3).normal(size=400))
    slope = torch.from_numpy(np.random.default_rng(4).normal(size=8))
    margin = 0.2

    def gradient(width: float) -> torch.Tensor:
        return torch.autograd.grad(
            (fill(y[None], weight[None], own, EdgeKernel(), width)[0, 0] * slope).sum(), y
        )[0]

    found = gradient(margin) - gradient(0.0)
    (exact,) = torch.autograd.grad(smeared(y, weight, own[0], margin) @ slope, y)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)  # cut at five widths
    assert found.abs().max() > 0.1


def test_gradient_of_learned_edges_is_that_of_the_smeared_content() -> None:
    rng = np.random.default_rng(6)
    y = torch.from_numpy(rng.uniform(0.0, 1.0, (1, 500, 1)))
    weight, slope = torch.from_numpy(rng.normal(size=(1, 500))), torch.from_numpy(rng.normal(size=4))
    own = edges(1, 1).requires_grad_()
    (found,) = torch.autograd.grad((fill(y, weight, own, EdgeKernel())[0, 0] * slope).sum(), own)
    bins = own.detach()[0, 0].diff()
    h = 0.25 * torch.minimum(bins[:-1], bins[1:])  # the kernels keep their widths
    inner = own.detach()[0, 0, 1:-1].clone().requires_grad_()
    above = torch.special.ndtr((y[0, :, 0, None] - inner) / h)
    passed = torch.cat([torch.ones(500, 1), above, torch.zeros(500, 1)], dim=1)
    content = weight[0] @ (passed[:, :-1] - passed[:, 1:])
    (exact,) = torch.autograd.grad(content @ slope, inner)
    torch.testing.assert_close(found[0, 0, 1:-1], exact, rtol=1e-9, atol=1e-9)
    assert found[0, 0, [0, -1]].tolist() == [0.0, 0.0]


def test_learned_edges_start_where_they_are_told_and_ascend() -> None:
    start = torch.tensor([[0.0, 0.2, 0.3, 1.0], [0.0, 0.5, 0.6, 1.0]], dtype=torch.float64)
    stack = BinnedStack(MLP((4,)).build(2, outputs=2, members=3), start, learned=True)
    torch.testing.assert_close(stack.edges(), start.expand(3, 2, 4), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        stack.widths.add_(
            torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        )
    assert bool((stack.edges().diff(dim=-1) > 0).all())
    assert stack.edges()[..., [0, -1]].unique().tolist() == [0.0, 1.0]


def test_float32_weights_are_summed_well() -> None:
    y, own = scores(1, 50_000, 1), edges(1, 1)
    weight = torch.from_numpy(np.random.default_rng(2).uniform(size=(3, 50_000)))
    exact = fill(y, weight, own, EdgeKernel())
    torch.testing.assert_close(fill(y, weight.float(), own, EdgeKernel()), exact, rtol=1e-6, atol=0.0)


def test_kde_approaches_the_histogram_and_has_its_own_gradient() -> None:
    y, own = scores(2, 2000, 1), edges(2, 1)
    weight = torch.ones(1, 2000, dtype=torch.float64)
    exact = fill(y, weight, own, EdgeKernel())
    wide, narrow = (KDE(h).contents(y, weight, own) for h in (0.5, 0.001))
    torch.testing.assert_close(narrow, exact, rtol=0.02, atol=5.0)
    assert (wide - exact).abs().max() > 5.0
    torch.testing.assert_close(wide.sum(dim=2), exact.sum(dim=2))
    small = scores(1, 20, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: KDE(0.5).contents(s, weight[:, :20], edges(1, 1)), (small,))


def test_inferno_shares_events_and_judges_by_the_largest_output() -> None:
    out = torch.randn(2, 100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cold, warm = Inferno(1e-4), Inferno(1.0)
    weight = torch.rand(3, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    index = warm.index(warm.scores(out), edges(2, 1))
    hard = torch.stack([torch.stack([torch.bincount(i, w, 5) for w in weight]) for i in index])
    torch.testing.assert_close(cold.contents(cold.scores(out), weight, edges(2, 1)), hard)
    shared = warm.contents(warm.scores(out), weight, edges(2, 1))
    torch.testing.assert_close(shared.sum(dim=2), weight.sum(dim=1).expand(2, 3))
    assert warm.outputs(1, 8) == 8


def test_errors() -> None:
    y = scores(1, 5, 1)
    y[0, 3] = torch.nan
    with pytest.raises(TrainingError, match=r"1 network outputs are not finite\n.*event 3"):
        fill(y, torch.ones(1, 5), edges(1, 1), EdgeKernel())
    with pytest.raises(ConfigError, match="KDE histogram has one output"):
        KDE().outputs(3, 8)
    with pytest.raises(ConfigError, match="INFERNO has no classes"):
        Inferno().outputs(3, 8)
    with pytest.raises(ConfigError, match="temperature must be positive"):
        Inferno(0.0)
    for bandwidth in (-1.0, float("inf"), "wide"):
        with pytest.raises(ConfigError, match="positive bandwidth"):
            KDE(bandwidth)
    with pytest.raises(ConfigError, match="the bin function is 'edge'"):
        Exact("edge")
    with pytest.raises(ConfigError, match="margin must be a number that is not negative"):
        Exact(margin=-0.1)

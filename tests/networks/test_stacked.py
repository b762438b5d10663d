"""Stacks of networks: a member is the same network whatever the size of its stack."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from neyman.errors import ConfigError
from neyman.networks import MLP


def test_initial_members_do_not_depend_on_the_size_of_the_stack() -> None:
    big = MLP((8, 5)).build(3, members=4, seed=7).state_dict()
    for m in range(1, 5):
        small = MLP((8, 5)).build(3, members=m, seed=7).state_dict()
        for name, tensor in small.items():
            if name.startswith("layers"):
                assert torch.equal(tensor, big[name][:m])


def test_members_and_seeds_differ() -> None:
    nets = [MLP((4,)).build(2, members=2, seed=seed).state_dict()["layers.0.weight"] for seed in (0, 1)]
    members = [member for net in nets for member in net]
    for a, b in itertools.combinations(members, 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "tanh"])
def test_forward_is_the_plain_network_of_each_member(activation: str, outputs: int) -> None:
    scaling = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
    net = MLP((6, 5), activation).build(2, outputs=outputs, members=3, seed=1, scaling=scaling)  # type: ignore[arg-type]
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32))
    function = {"silu": torch.nn.SiLU(), "relu": torch.relu, "gelu": torch.nn.GELU(), "tanh": torch.tanh}[
        activation
    ]
    state = net.state_dict()
    with torch.no_grad():
        together = net(x)
        for m in range(3):
            h = (x - scaling[0]) / scaling[1]
            for i in range(3):
                h = h @ state[f"layers.{i}.weight"][m] + state[f"layers.{i}.bias"][m]
                h = function(h) if i < 2 else h
            torch.testing.assert_close(together[m], h)
        torch.testing.assert_close(net(x.expand(3, -1, -1)), together)


@pytest.mark.parametrize("outputs", [1, 3])
def test_gradient_of_a_member_is_its_own(outputs: int) -> None:
    stack = MLP((32, 16)).build(4, outputs=outputs, members=3, seed=1)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 50, 4)).astype(np.float32))
    stack(x).square().sum().backward()
    for m in range(3):
        single = MLP((32, 16)).build(4, outputs=outputs, members=1, seed=1)
        for own, stacked in zip(single.parameters(), stack.parameters(), strict=True):
            own.data = stacked.detach()[m : m + 1].clone()
        single(x[m]).square().sum().backward()
        for own, stacked in zip(single.parameters(), stack.parameters(), strict=True):
            torch.testing.assert_close(own.grad[0], stacked.grad[m])  # type: ignore[index]


def test_initial_weights_fill_the_range_of_their_width() -> None:
    weight = MLP((64,)).build(100, members=2).state_dict()["layers.0.weight"]
    assert 0.099 < float(weight.abs().max()) <= 0.1
    assert float(weight.std()) == pytest.approx(0.1 / np.sqrt(3.0), rel=0.03)


@pytest.mark.parametrize(
    ("hidden", "activation", "message"),
    [
        ((), "silu", r"positive widths, got \(\)"),
        ((4, 0), "silu", r"positive widths, got \(4, 0\)"),
        ((4,), "swish", "unknown activation 'swish'"),
    ],
)
def test_unusable_architectures(hidden: tuple[int, ...], activation: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MLP(hidden, activation)  # type: ignore[arg-type]


def test_an_ensemble_has_members() -> None:
    with pytest.raises(ConfigError, match="at least one member, got 0"):
        MLP((4,)).build(2, members=0)

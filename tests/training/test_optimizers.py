"""Optimizers by name."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from neyman.errors import ConfigError, MissingExtraError
from neyman.networks import MLP
from neyman.training.ecd import ECD, default_eta
from neyman.training.losses import BCE, MLC
from neyman.training.optimizers import make, needs_closure


def parameters(members: int = 2) -> list[Tensor]:
    return list(MLP((4, 4)).build(2, members=members, seed=1).parameters())


def build(name: str, options: dict[str, Any] | None = None, **arguments: Any) -> torch.optim.Optimizer:
    given = {"learning_rate": 1e-3, "steps": 100, "members": 2, "loss": BCE(), "options": options} | arguments
    return make(name, parameters(), **given)


def minimise(optimizer: torch.optim.Optimizer, values: list[Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p - 0.5).square().sum() for p in values).backward()  # type: ignore[union-attr]
        optimizer.step()


def test_adam_is_torch_s_adam() -> None:
    ours, theirs = parameters(), parameters()
    minimise(
        make("adam", ours, learning_rate=1e-2, steps=20, members=2, options={"betas": [0.8, 0.9]}), ours, 20
    )
    minimise(torch.optim.Adam(theirs, lr=1e-2, betas=(0.8, 0.9)), theirs, 20)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_weight_decay_of_adam_is_decoupled() -> None:
    """Without a gradient every parameter shrinks by lr x decay a step, whatever its history."""
    values = parameters()
    before = [p.detach().clone() for p in values]
    optimizer = make("adam", values, learning_rate=0.1, steps=1, members=2, options={"weight_decay": 0.5})
    for p in values:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, old in zip(values, before, strict=True):
        torch.testing.assert_close(p.detach(), 0.95 * old)


def test_lion_moves_every_number_by_the_rate() -> None:
    values = parameters()
    before = [p.detach().clone() for p in values]
    minimise(make("lion", values, learning_rate=1e-3, steps=1, members=2), values, 1)
    for p, old in zip(values, before, strict=True):
        torch.testing.assert_close((p - old).detach().abs(), torch.full_like(p, 1e-3), rtol=0.0, atol=1e-7)


def test_ecd_takes_its_defaults_from_the_training() -> None:
    optimizer = build("ecd", learning_rate=0.5, loss=MLC("square"))
    assert isinstance(optimizer, ECD)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.5
    assert group["F0"] == -1.0
    assert group["eta"] == default_eta(parameters(), 100, members=2)
    assert optimizer.members == 2


def test_options_of_ecd_win_over_the_defaults() -> None:
    options = {"eta": 7.0, "F0": -0.2, "nu": 1e-6, "q": 2, "renormalise": False, "seed": 3}
    (group,) = build("ecd", options, loss=None).param_groups
    assert {name: group[name] for name in options if name != "seed"} == {
        name: value for name, value in options.items() if name != "seed"
    }


def test_only_ecd_needs_the_value_of_the_loss() -> None:
    assert [needs_closure(build(name)) for name in ("adam", "lion", "ecd")] == [False, False, True]


@pytest.mark.parametrize(
    ("name", "options", "arguments", "message"),
    [
        ("adm", {}, {}, r"unknown optimizer 'adm'(.|\n)*adam, lion, ecd(.|\n)*nearest: adam"),
        ("adam", {"beta": 1}, {}, r"'adam' has no option 'beta'(.|\n)*nearest: betas"),
        ("lion", {"eps": 1}, {}, r"'lion' has no option 'eps'(.|\n)*betas, weight_decay"),
        ("ecd", {"f0": -1.0}, {}, r"'ecd' has no option 'f0'(.|\n)*nearest: F0"),
        ("adam", {"betas": [2.0, 0.9]}, {}, "'adam' refuses .*betas.*: Invalid beta"),
        ("lion", {"betas": [2.0, 0.9]}, {}, "'lion' refuses .*betas"),
        ("adam", {"betas": ["a", "b"]}, {}, "'adam' refuses"),
        ("ecd", {"eta": "large"}, {}, "'ecd' refuses"),
        ("ecd", {"weight_decay": 0.1}, {}, "ECD has no weight decay"),
        ("ecd", {}, {"loss": None}, r"no default of F0(.|\n)*give the option F0"),
        ("adam", {}, {"learning_rate": 0.0}, "learning_rate must be positive, got 0"),
        ("ecd", {}, {"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
    ],
)
def test_what_cannot_be_made_is_refused(
    name: str, options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, options, **arguments)


def test_nothing_to_train_is_refused() -> None:
    for name in ("adam", "lion", "ecd"):
        with pytest.raises(ConfigError, match="empty parameter list"):
            make(
                name,
                [],
                learning_rate=1.0,
                steps=1,
                members=1,
                loss=BCE(),
                options={"eta": 1.0} if name == "ecd" else {},
            )


def test_lion_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"lion_pytorch is not installed(.|\n)*neyman\[lion\]"):
        build("lion")

"""The training loop on objectives whose course is known."""

from __future__ import annotations

import json
import math

import pytest
import torch

from neyman.errors import ConfigError, TrainingError
from neyman.networks import MLP, StackedMLP
from neyman.training import Objective, Settings, train

X = torch.linspace(-1.0, 1.0, 64)[:, None]


def net(members: int = 1, seed: int = 0) -> StackedMLP:
    return MLP((8,)).build(1, members=members, seed=seed)


class Regression(Objective):
    """Least squares to a parabola; the held-out loss follows a script, a number an evaluation and member."""

    def __init__(self, script: list[list[float]] | None = None) -> None:
        self.script = script
        self.states: list[dict[str, torch.Tensor]] = []

    def loss(self, network: StackedMLP, step: int) -> torch.Tensor:
        return ((network(X) - X**2) ** 2).mean(dim=(1, 2))

    def validation(self, network: StackedMLP) -> torch.Tensor:
        self.states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        if self.script is None:
            return self.loss(network, 0)
        return torch.tensor(self.script[len(self.states) - 1])


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5), (100, 0.0)])
def test_cosine_schedule(step: int, rate: float) -> None:
    assert Settings(steps=100, warmup=0.1).rate(step) == pytest.approx(rate, abs=1e-12)


def test_constant_schedule() -> None:
    settings = Settings(steps=100, warmup=0.0, schedule="constant")
    assert [settings.rate(step) for step in (0, 50, 99)] == [1.0, 1.0, 1.0]
    assert Settings(steps=100, warmup=0.05, schedule="constant").rate(0) == 0.2


def test_the_rate_of_the_schedule_is_the_one_used() -> None:
    """The first step of Adam moves every weight by the rate, whatever its gradient."""
    network = net()
    before = network.layers[1].weight.detach().clone()
    train(network, Regression(), Settings(steps=1, learning_rate=0.01, warmup=0.0, schedule="constant"))
    moved = (network.layers[1].weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0.0)


def test_training_learns() -> None:
    network = net()
    history = train(network, Regression(), Settings(steps=400, learning_rate=0.02))
    assert history.validation[-1][0] < 1e-3 < history.validation[0][0]
    assert history.steps == list(range(20, 401, 20))
    json.dumps(history.to_dict())


def test_members_train_as_if_alone() -> None:
    settings = Settings(steps=50, learning_rate=0.01)
    together, alone = net(members=3, seed=5), net(members=1, seed=5)
    train(together, Regression(), settings)
    train(alone, Regression(), settings)
    for name, tensor in alone.state_dict().items():
        if name.startswith("layers"):
            torch.testing.assert_close(tensor[0], together.state_dict()[name][0], rtol=1e-5, atol=1e-6)


def test_every_member_ends_in_its_own_best_state() -> None:
    objective = Regression([[3.0, 1.0], [2.0, 2.0], [4.0, math.nan], [5.0, 3.0]])
    network = net(members=2)
    history = train(network, objective, Settings(steps=40, evaluations=4))
    assert history.best_step == [20, 10]
    assert history.validation[1] == [2.0, 2.0]
    for name, tensor in network.state_dict().items():
        if name.startswith("layers"):
            assert torch.equal(tensor[0], objective.states[1][name][0])
            assert torch.equal(tensor[1], objective.states[0][name][1])
            assert not torch.equal(tensor[0], objective.states[3][name][0])


def test_training_losses_are_means_between_evaluations() -> None:
    class Counted(Regression):
        def loss(self, network: StackedMLP, step: int) -> torch.Tensor:
            return 0.0 * super().loss(network, step) + float(step)

    history = train(net(), Counted(), Settings(steps=10, evaluations=4))
    assert history.steps == [2, 4, 6, 8, 10]
    assert history.training == [[0.5], [2.5], [4.5], [6.5], [8.5]]


def test_a_loss_that_is_not_finite_names_the_member_and_leaves_the_best_state() -> None:
    class Breaking(Regression):
        def loss(self, network: StackedMLP, step: int) -> torch.Tensor:
            broken = torch.tensor([0.0, math.nan if step == 7 else 0.0])
            return super().loss(network, step) + broken

    network, objective = net(members=2), Breaking()
    with pytest.raises(TrainingError, match=r"the loss of member 1 is not finite at step 7\n.*nan"):
        train(network, objective, Settings(steps=20, evaluations=4))
    assert torch.equal(network.layers[0].weight, objective.states[0]["layers.0.weight"])


def test_progress_counts_finished_steps() -> None:
    seen: list[int] = []
    train(net(), Regression(), Settings(steps=3), progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
        ({"evaluations": 0}, "evaluations must be positive"),
        ({"validation_fraction": 1.0}, r"between 0 and 1, got 1\.0"),
        ({"warmup": 1.0}, r"below 1, got 1\.0"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
    ],
)
def test_unusable_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**settings)  # type: ignore[arg-type]

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


def test_one_cycle_schedule() -> None:
    settings = Settings(steps=1000, schedule="one_cycle")
    rates = [settings.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1.0 / 25.0)
    assert max(range(1000), key=rates.__getitem__) == 300
    assert rates[300] == 1.0
    assert rates[650] == pytest.approx(0.5, abs=1e-3)
    assert rates[-1] == pytest.approx(1e-4, abs=1e-4)


def test_a_member_stops_after_its_patience_and_the_training_after_the_last() -> None:
    """Member 0 gets no better after its first evaluation; a later, lower loss comes too late for it."""
    script = [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [0.5, 6.5], [0.4, 6.6], [0.3, 6.7], [0.2, 1.0]]
    objective, network = Regression(script), net(members=2)
    history = train(network, objective, Settings(steps=70, evaluations=7, patience=2))
    assert history.steps == [10, 20, 30, 40, 50, 60]
    assert history.best_step == [10, 40]
    for name, tensor in network.state_dict().items():
        if name.startswith("layers"):
            assert torch.equal(tensor[0], objective.states[0][name][0])
            assert torch.equal(tensor[1], objective.states[3][name][1])


def test_early_stopping_is_the_same_in_a_stack_and_alone() -> None:
    """Every member is judged on a target of its own, so that they stop at different times."""

    class Moving(Regression):
        def loss(self, network: StackedMLP, step: int) -> torch.Tensor:
            return ((network(X) - X**2 * math.cos(0.05 * step)) ** 2).mean(dim=(1, 2))

    settings = Settings(steps=120, evaluations=24, patience=2, learning_rate=0.02)
    together = net(members=4, seed=3)
    history = train(together, Moving(), settings)
    assert len(set(history.best_step)) > 1
    for m in range(4):
        alone = MLP((8,)).build(1)
        start = net(members=4, seed=3).state_dict()
        alone.load_state_dict({k: v[m : m + 1] if k.startswith("layers") else v for k, v in start.items()})
        assert train(alone, Moving(), settings).best_step == history.best_step[m : m + 1]
        for name, tensor in alone.state_dict().items():
            if name.startswith("layers"):
                torch.testing.assert_close(tensor[0], together.state_dict()[name][m], rtol=1e-5, atol=1e-6)


def test_a_member_that_has_stopped_may_diverge_without_harm() -> None:
    class Diverging(Regression):
        def loss(self, network: StackedMLP, step: int) -> torch.Tensor:
            return super().loss(network, step) + torch.tensor([math.nan if step > 25 else 0.0, 0.0])

    objective = Diverging([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0]])
    network = net(members=2)
    history = train(network, objective, Settings(steps=40, evaluations=4, patience=1))
    assert history.best_step == [10, 40]
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def test_parameters_without_gradient_stay() -> None:
    network = net(members=2)
    network.layers[0].weight.requires_grad_(False)
    before = network.layers[0].weight.clone()
    train(network, Regression(), Settings(steps=5))
    assert torch.equal(network.layers[0].weight, before)
    network.requires_grad_(False)
    with pytest.raises(TrainingError, match="all parameters of the network are frozen"):
        train(network, Regression(), Settings(steps=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience must be positive, got 0"),
        ({"optimizer": "adamw"}, r"unknown optimizer 'adamw'\n.*adam, lion, ecd"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
    ],
)
def test_more_unusable_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**settings)  # type: ignore[arg-type]


def test_devices() -> None:
    assert Settings(device="auto").torch_device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        Settings(device="gpu").torch_device  # noqa: B018
    with pytest.raises(ConfigError, match="there is no device 'cuda:99' here"):
        Settings(device="cuda:99").torch_device  # noqa: B018


def test_mixed_precision_learns() -> None:
    network = net()
    history = train(network, Regression(), Settings(steps=400, learning_rate=0.02, precision="bfloat16"))
    assert history.validation[-1][0] < 5e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_the_same() -> None:
    global X  # noqa: PLW0603
    here, network = X, net(members=2)
    try:
        X = X.to("cuda")
        train(network.to("cuda"), Regression(), Settings(steps=100))
    finally:
        X = here
    alone = net(members=2)
    train(alone, Regression(), Settings(steps=100))
    torch.testing.assert_close(network.cpu()(X), alone(X), rtol=1e-2, atol=1e-2)

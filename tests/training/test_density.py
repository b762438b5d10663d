"""Objectives of density estimation against the closed forms that they stand for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from neyman.errors import TrainingError
from neyman.networks import MLP, NSF, Stack, StackedFlow
from neyman.training import BCE, MLC, Loss, Sample
from neyman.training.density import DensityObjective, ResidualObjective

N = 600
SPEC = NSF(transforms=2, hidden=(8,), bins=4)


class Gaussian(Stack):
    """ln N(x; z + offset of the member, 1), so that losses are known in closed form."""

    def __init__(self, offsets: tuple[float, ...] = (0.0, 0.5)) -> None:
        super().__init__()
        self.members, self.inputs, self.outputs = len(offsets), 2, 1
        self.offset = torch.nn.Parameter(torch.tensor(offsets)[:, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if x.ndim == 3 else x.expand(self.members, -1, -1)
        distance = x[..., 0] - x[..., 1] - self.offset
        return (-0.5 * distance**2 - 0.5 * math.log(2.0 * math.pi))[..., None]


def events(seed: int, n: int = N, *, signed: bool = False) -> Sample:
    rng = np.random.default_rng(seed)
    z = rng.uniform(-1.0, 1.0, (n, 1))
    weight = rng.uniform(0.5, 1.5, n) * (np.where(rng.random(n) < 0.2, -1.0, 1.0) if signed else 1.0)
    return Sample(rng.normal(z, 1.0).astype(np.float32), weight, z.astype(np.float32))


def nll(sample: Sample, offset: float) -> float:
    assert sample.z is not None
    each = 0.5 * (sample.x[:, 0] - sample.z[:, 0] - offset) ** 2 + 0.5 * math.log(2.0 * math.pi)
    return float(np.average(each, weights=sample.weight))


@pytest.mark.parametrize("signed", [False, True])
def test_the_loss_is_the_weighted_negative_log_likelihood(signed: bool) -> None:
    training, held_out = events(1, signed=signed), events(2, 9_000, signed=signed)
    objective = DensityObjective(training, held_out, members=2, batch_size=N, seed=1)
    network = Gaussian()
    for step in (0, 1):
        np.testing.assert_allclose(
            objective.loss(network, step).detach(), [nll(training, o) for o in (0.0, 0.5)], rtol=1e-5
        )
    np.testing.assert_allclose(
        objective.validation(network).detach(), [nll(held_out, o) for o in (0.0, 0.5)], rtol=1e-5
    )
    assert objective.classifier_loss is None


def test_a_pass_uses_every_event_once_in_an_order_of_each_member() -> None:
    training = events(1)
    objective = DensityObjective(training, events(2), members=2, batch_size=N // 4, seed=1)
    network = Gaussian((0.3, 0.3))
    parts = torch.stack([objective.loss(network, step).detach() for step in range(4)])
    np.testing.assert_allclose(parts.mean(dim=0), nll(training, 0.3), rtol=1e-5)
    assert float((parts[:, 0] - parts[:, 1]).abs().min()) > 1e-4
    alone = DensityObjective(training, events(2), members=1, batch_size=N // 4, seed=1)
    for step in (3, 0):
        torch.testing.assert_close(alone.loss(Gaussian((0.3,)), step).detach(), parts[step, :1])


def test_every_member_may_have_weights_of_its_own() -> None:
    sample = events(1)
    weights = np.stack([sample.weight, 2.0 * np.abs(sample.x[:, 0])])
    own = replace(sample, weight=weights)
    found = DensityObjective(own, own, members=2, batch_size=N, seed=1)
    expected = [nll(replace(sample, weight=w), 0.0) for w in weights]
    network = Gaussian((0.0, 0.0))
    np.testing.assert_allclose(found.loss(network, 0).detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(found.validation(network).detach(), expected, rtol=1e-5)


def residual(loss: Loss, flow: StackedFlow, batch: int = N, seed: int = 3) -> ResidualObjective:
    return ResidualObjective(loss, flow, events(1), events(2, 9_000), batch_size=batch, seed=seed)


@pytest.mark.parametrize("loss", [BCE(), MLC()])
def test_a_flat_classifier_has_the_loss_of_no_separation(loss: Loss) -> None:
    objective = residual(loss, SPEC.build(2, context=1, members=2))
    flat = MLP((4,)).build(2, members=2)
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.zero_()
    zero = torch.zeros(1)
    expected = 0.5 * float(loss.numerator(zero) + loss.denominator(zero))
    np.testing.assert_allclose(objective.loss(flat, 0).detach(), expected, atol=1e-6)
    np.testing.assert_allclose(objective.validation(flat).detach(), expected, atol=1e-6)
    assert objective.classifier_loss is loss


def test_counterparts_share_z_and_come_from_the_own_member_of_the_flow() -> None:
    """The classifier sees batches of events, then of counterparts; those have the z of the events."""
    flow = SPEC.build(2, context=1, members=2, seed=1, scaling=(torch.tensor([40.0, 0.0]), torch.ones(2)))
    objective, seen = residual(BCE(), flow, batch=50), []

    class Watching(Gaussian):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    for step in (0, 1, 0):
        objective.loss(Watching(), step)
    for x in seen:
        assert x.shape == (2, 100, 2)
        assert torch.equal(x[:, :50, 1], x[:, 50:, 1])
        assert float(x[:, :50, 0].abs().max()) < 10.0
        assert float((x[:, 50:, 0] - 40.0).abs().max()) < 10.0
        assert not torch.equal(x[0], x[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.isclose(seen[0][:, 50:, 0], seen[1][:, 50:, 0]).any()
    alone = residual(
        BCE(),
        SPEC.build(2, context=1, members=1, seed=1, scaling=(torch.tensor([40.0, 0.0]), torch.ones(2))),
        batch=50,
    )
    alone.loss(Watching((0.0,)), 0)
    torch.testing.assert_close(seen[3][0], seen[0][0])


def test_flows_and_classifiers_need_no_nuisance_parameters() -> None:
    sample = replace(events(1), z=None)
    objective = ResidualObjective(BCE(), SPEC.build(1, members=2), sample, sample, batch_size=100, seed=1)
    network = MLP((4,)).build(1, members=2)
    assert bool(torch.isfinite(objective.loss(network, 0)).all())
    assert bool(torch.isfinite(objective.validation(network)).all())
    density = DensityObjective(sample, sample, members=2, batch_size=100, seed=1)
    assert bool(torch.isfinite(density.loss(SPEC.build(1, members=2), 0)).all())


def test_the_most_extreme_input_is_named() -> None:
    sample = events(1)
    sample.x[17, 0] = 1e6
    objectives = (
        DensityObjective(sample, sample, members=2, batch_size=N, seed=1, features=("mass", "tes")),
        ResidualObjective(
            BCE(),
            SPEC.build(2, context=1, members=2),
            sample,
            sample,
            batch_size=N,
            seed=1,
            features=("mass", "tes"),
        ),
    )
    for objective in objectives:
        assert "'mass' = 1e+06" in objective.explain(0, 1)


def test_a_sample_without_weight_is_refused() -> None:
    sample = replace(events(1), weight=np.tile([1.0, -1.0], N // 2))
    message = "600 events whose weights sum to 0"
    with pytest.raises(TrainingError, match=message):
        DensityObjective(sample, sample, members=1, batch_size=10, seed=1)
    with pytest.raises(TrainingError, match=message):
        ResidualObjective(BCE(), SPEC.build(2, context=1), sample, sample, batch_size=10, seed=1)

"""Losses, batches and held-out events of two-class training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import neyman as ny
from neyman.errors import ConfigError, TrainingError
from neyman.networks import MLP, column_scaling
from neyman.training import (
    BCE,
    MLC,
    Loss,
    PairObjective,
    ReweightObjective,
    Sample,
    Settings,
    held_out,
    train,
)

RNG = np.random.default_rng(1)


def events(n: int, weight: NDArray[Any] | None = None, z: NDArray[Any] | None = None) -> Sample:
    x = RNG.normal(size=(n, 2)).astype(np.float32)
    return Sample(x, np.ones(n) if weight is None else weight, z)


def pairs(p: Sample, q: Sample, members: int = 1, batch: int = 32, loss: Loss | None = None) -> PairObjective:
    return PairObjective(loss or BCE(), (p, q), (p, q), members=members, batch_size=batch, seed=4)


@pytest.mark.parametrize("loss", [BCE(), MLC()])
def test_the_minimum_of_a_loss_is_the_log_ratio_that_it_states(loss: Loss) -> None:
    """At a point with densities p and q, the output that minimises p l+ + q l-."""
    z = torch.linspace(-4.0, 4.0, 80_001, dtype=torch.float64)
    for p, q in ((0.3, 0.7), (1.0, 1.0), (5.0, 0.5)):
        best = z[(p * loss.numerator(z) + q * loss.denominator(z)).argmin()]
        assert float(loss.log_ratio(best)) == pytest.approx(math.log(p / q), abs=2e-4)


def test_full_batches_give_the_weighted_loss_of_the_formula() -> None:
    p, q = events(50, RNG.normal(1.0, 2.0, 50)), events(80, RNG.uniform(0, 1, 80))
    network = MLP((5,)).build(2)
    objective = pairs(p, q, batch=80)

    def mean(sample: Sample, sign: float) -> float:
        with torch.no_grad():
            out = network(torch.from_numpy(sample.x))[0, :, 0].double().numpy()
        return float(np.average(np.logaddexp(0.0, sign * out), weights=sample.weight))

    expected = 0.5 * mean(p, -1.0) + 0.5 * mean(q, 1.0)
    assert objective.validation(network).item() == pytest.approx(expected, rel=1e-5)
    assert objective.loss(network, 0).item() == pytest.approx(expected, rel=1e-5)


def test_a_pass_uses_every_event_once() -> None:
    sums = []

    class Identity(BCE):
        def numerator(self, z: torch.Tensor) -> torch.Tensor:
            sums.append(float(z.detach().sum()))
            return z

        denominator = log_ratio = numerator

    p, q = events(64), events(64)
    objective = pairs(p, q, batch=16, loss=Identity())
    network = MLP((3,)).build(2)
    for step in range(8):
        objective.loss(network, step)
    whole = float(network(torch.from_numpy(p.x)).detach().sum())
    assert sum(sums[0:8:2]) == pytest.approx(whole, abs=1e-4)
    assert sum(sums[8:16:2]) == pytest.approx(whole, abs=1e-4)
    assert sums[0] != pytest.approx(sums[8], abs=1e-6)


def test_batches_of_a_member_do_not_depend_on_the_number_of_members() -> None:
    p, q = events(100), events(70)
    one, three = pairs(p, q), pairs(p, q, members=3)
    small, big = MLP((4,)).build(2), MLP((4,)).build(2, members=3)
    for step in range(7):
        a, b = one.loss(small, step).tolist(), three.loss(big, step).tolist()
        assert a[0] == pytest.approx(b[0], rel=1e-6)
        assert len(set(b)) == 3


def test_members_may_have_weights_of_their_own() -> None:
    weights, p, q = RNG.uniform(0.5, 2.0, (2, 60)), events(60), events(60)
    network = MLP((4,)).build(2, members=2)
    together = pairs(Sample(p.x, weights), q, members=2)
    for m in range(2):
        alone = pairs(Sample(p.x, weights[m]), q, members=2)
        for found, expected in (
            (together.loss(network, 0), alone.loss(network, 0)),
            (together.validation(network), alone.validation(network)),
        ):
            assert found[m].item() == pytest.approx(expected[m].item(), rel=1e-6)
        together = pairs(Sample(p.x, weights), q, members=2)


@pytest.mark.parametrize("n_denominator", [40, 100])
def test_the_denominator_takes_the_parameters_of_the_numerator(n_denominator: int) -> None:
    z = RNG.uniform(-1, 1, (60, 1)).astype(np.float32)
    seen = []
    network = MLP((4,)).build(3)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective = pairs(events(60, z=z), events(n_denominator), batch=50)
    objective.loss(network, 0)
    values = seen[0][0, :, 2]
    n_q = min(50, n_denominator)
    torch.testing.assert_close(values[50:], values[:n_q])
    objective.validation(network)
    assert torch.equal(seen[2][:40, 2], torch.from_numpy(z[:40, 0]))


def test_a_class_needs_a_positive_sum() -> None:
    with pytest.raises(TrainingError, match="a class has 5 events whose weights sum to -5"):
        pairs(events(5, -np.ones(5)), events(5))
    with pytest.raises(TrainingError, match="a class has 0 events"):
        pairs(events(5), events(0))


def table(n: int, **extra: NDArray[Any]) -> ny.EventTable:
    return ny.EventTable(("a",), np.zeros((n, 1)), np.ones(n), extra)


def test_held_out_events_follow_their_identity() -> None:
    ids = np.arange(5000)
    mask = held_out(table(5000, entry=ids), 0.3, seed=1)
    assert mask.mean() == pytest.approx(0.3, abs=0.02)
    shuffled = np.random.default_rng(2).permutation(ids)
    np.testing.assert_array_equal(held_out(table(5000, entry=shuffled), 0.3, seed=1), mask[shuffled])
    for half in table(5000, entry=ids).split(0.5, seed=1):
        assert held_out(half, 0.3, seed=1).mean() == pytest.approx(0.3, abs=0.03)
    assert (held_out(table(5000, entry=ids), 0.3, seed=2) != mask).any()
    with pytest.raises(TrainingError, match="column 'entry' is float64"):
        held_out(table(3, entry=np.ones(3)), 0.3, seed=1)


def test_held_out_rows_without_identity() -> None:
    mask = held_out(table(1000), 0.25, seed=1)
    assert mask.sum() == 250
    np.testing.assert_array_equal(mask, held_out(table(1000), 0.25, seed=1))
    assert held_out(table(3), 0.01, seed=1).sum() == 1


def test_column_scaling() -> None:
    samples = [RNG.normal(3.0, 2.0, (500, 2)).astype(np.float32) for _ in range(2)]
    mean, scale = column_scaling(np.concatenate(samples), ("a", "b"))
    np.testing.assert_allclose(mean.numpy(), np.concatenate(samples).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale.numpy(), np.concatenate(samples).std(axis=0), rtol=1e-5)
    samples[0][:, 1] = samples[1][:, 1] = 1e6
    with pytest.raises(TrainingError, match=r"feature 'b' is constant \(1e\+06\)"):
        column_scaling(np.concatenate(samples), ("a", "b"))


def test_an_extreme_input_of_the_batch_is_named() -> None:
    p, q = events(64), events(64)
    q.x[17, 1] = 1e25
    network = MLP((4,), "relu").build(2, members=2)
    objective = PairObjective(
        BCE(), (p, q), (p, q), members=2, batch_size=64, seed=4, features=("met", "jet_pt")
    )
    found = objective.explain(step=0, member=1)
    assert "'jet_pt' = 1e+25" in found
    assert "the denominator begins at 64" in found
    with pytest.raises(
        TrainingError, match=r"(?s)not finite at step \d.*'jet_pt' = 1e\+25.*best state so far"
    ):
        train(network, objective, Settings(steps=20, learning_rate=1e30, warmup=0.0))


def test_bootstrap_weights_are_poisson_and_follow_the_event() -> None:
    ids = np.repeat(np.arange(20_000), 2)
    sample = events(40_000, np.full(40_000, -0.5))
    weights = sample.bootstrapped(ids, 3, key=(1,)).weight / -0.5
    assert weights.shape == (3, 40_000)
    np.testing.assert_array_equal(weights[:, ::2], weights[:, 1::2])
    counts = np.bincount(weights[0, ::2].astype(int), minlength=8)[:8] / 20_000
    expected = np.exp(-1.0) / np.array([math.factorial(k) for k in range(8)])
    np.testing.assert_allclose(counts, expected, atol=0.012)
    assert abs(np.corrcoef(weights[0, ::2], weights[1, ::2])[0, 1]) < 0.03
    np.testing.assert_array_equal(weights, sample.bootstrapped(ids, 5, key=(1,)).weight[:3] / -0.5)
    assert (weights != sample.bootstrapped(ids, 3, key=(2,)).weight / -0.5).any()


def reweighting(x: Sample, numerator: NDArray[Any], members: int = 1, **options: Any) -> ReweightObjective:
    weights = (numerator, numerator)
    return ReweightObjective(
        BCE(), x, x, weights, **{"members": members, "batch_size": 64, "seed": 4} | options
    )


def test_two_weightings_of_one_sample_have_the_loss_of_two_samples() -> None:
    sample = events(64, RNG.uniform(0.5, 1.5, 64))
    numerator = RNG.normal(1.0, 2.0, 64)
    network = MLP((5,)).build(2)
    expected = pairs(Sample(sample.x, numerator), sample, batch=64).validation(network).item()
    objective = reweighting(sample, numerator)
    assert objective.validation(network).item() == pytest.approx(expected, rel=1e-5)
    assert objective.loss(network, 3).item() == pytest.approx(expected, rel=1e-5)


def test_reweighting_learns_the_mean_weight_given_the_features() -> None:
    """Numerator weights scatter around exp(x): its logarithm is x up to the normalisation."""
    x = RNG.normal(size=(20_000, 1)).astype(np.float32)
    numerator = np.exp(x[:, 0]) * RNG.exponential(1.0, len(x))
    network = MLP((16,)).build(1, seed=1)
    objective = reweighting(Sample(x, np.ones(len(x))), numerator, batch_size=1024)
    train(network, objective, Settings(steps=500, learning_rate=1e-2))
    points = torch.tensor([[-1.0], [0.0], [1.0]])
    with torch.no_grad():
        found = network(points)[0, :, 0].numpy()
    np.testing.assert_allclose(np.diff(found), [1.0, 1.0], atol=0.15)


def test_copies_of_members_see_the_same_events_with_their_own_weights() -> None:
    sample = events(200)
    weights = RNG.uniform(0.5, 1.5, (3, 200))
    network = MLP((5,)).build(2, members=3, seed=1)
    state = network.state_dict()
    tiled = MLP((5,)).build(2, members=6, seed=1)
    tiled.load_state_dict({k: torch.cat([t, t]) if len(t) == 3 else t for k, t in state.items()})
    one = reweighting(sample, weights, members=3)
    two = reweighting(sample, np.concatenate([weights, weights]), members=6, copies=2)
    p, q = events(100), events(150)
    several = PairObjective(BCE(), (p, q), (p, q), members=6, batch_size=32, seed=4, copies=2)
    for objective, alone in ((two, one), (several, pairs(p, q, members=3))):
        for step in (0, 5):
            both, single = objective.loss(tiled, step), alone.loss(network, step)
            torch.testing.assert_close(both, torch.cat([single, single]))


def test_an_extreme_input_of_a_reweighting_is_named() -> None:
    sample = events(64)
    sample.x[17, 1] = 1e25
    objective = reweighting(sample, np.ones(64), members=4, copies=2, features=("met", "jet_pt"))
    assert "'jet_pt' = 1e+25" in objective.explain(step=0, member=3)
    with pytest.raises(TrainingError, match="64 events whose weights sum to -64"):
        reweighting(sample, -np.ones(64))


def test_rate_factors_slow_a_part_of_the_network_down() -> None:
    p, q = events(500), Sample(RNG.normal(0.5, 1.0, (500, 2)).astype(np.float32), np.ones(500))
    moved = {}
    for factor in (1.0, 0.1, 0.0):
        network = MLP((5, 5)).build(2, members=2, seed=1)
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        settings = Settings(
            steps=3, learning_rate=1e-3, schedule="constant", rate_factors={"layers.0": factor}
        )
        train(network, pairs(p, q, members=2), settings)
        moved[factor] = {
            name: float((value.detach() - before[name]).abs().mean())
            for name, value in network.named_parameters()
        }
    assert moved[0.0]["layers.0.weight"] == 0.0
    assert moved[0.1]["layers.0.weight"] == pytest.approx(0.1 * moved[1.0]["layers.0.weight"], rel=0.1)
    assert moved[0.0]["layers.2.weight"] > 0.5 * moved[1.0]["layers.2.weight"]
    with pytest.raises(TrainingError, match="no network parameter 'layerz' with a rate of its own"):
        train(MLP((5,)).build(2), pairs(p, q), Settings(steps=3, rate_factors={"layerz": 0.5}))
    with pytest.raises(ConfigError, match="the rate factor of 'layers' is -1"):
        Settings(rate_factors={"layers": -1.0})
    with pytest.raises(ConfigError, match="ECD has one rate"):
        Settings(rate_factors={"layers": 0.5}, optimizer="ecd")

"""OmniFold against its own rule worked out exactly with histograms of a discrete world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import neyman as ny
from neyman.networks import MLP
from neyman.training import Settings
from neyman.unfolding import OmniFold, WeightSet

RESPONSE = np.array([[0.7, 0.3, 0.0], [0.2, 0.6, 0.2], [0.0, 0.3, 0.7]])
EFFICIENCY = np.array([0.6, 0.8, 0.9])
SETTINGS = Settings(steps=300, batch_size=512, learning_rate=5e-3, evaluations=10)


@dataclass
class World:
    """Three truth bins with migrations, an efficiency by bin, and 10% fakes, of which some are not seen either."""

    truth: NDArray[Any]
    reco: NDArray[Any]
    detected: NDArray[np.bool_]
    generated: NDArray[np.bool_]


def draw(n: int, p: list[float], seed: int) -> World:
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=p)
    reco = (rng.random(n)[:, None] > np.cumsum(RESPONSE[truth], axis=1)).sum(axis=1).clip(0, 2)
    fake = rng.random(n) < 0.1
    reco[fake] = rng.choice(3, fake.sum(), p=[0.6, 0.3, 0.1])
    lost = fake & (rng.random(n) < 0.3)  # these pass neither level
    return World(truth, reco, ~lost & (fake | (rng.random(n) < EFFICIENCY[truth])), ~fake)


def by_histogram(
    data: NDArray[Any],
    observed: NDArray[Any],
    world: World,
    weight: NDArray[Any],
    factor: NDArray[Any],
    iterations: int,
    *,
    missed: str,
    fakes: str,
) -> NDArray[Any]:
    """The rule with exact ratios of discrete distributions."""
    f = np.where(world.detected, factor, 0.0)
    push = np.ones(len(weight))
    target = np.bincount(data, observed, minlength=3)
    for _ in range(iterations):
        ratio = target / np.bincount(world.reco, weight * f * push, minlength=3)
        seen = push * ratio[world.reco]
        pull = np.where(world.detected, seen, push) if missed == "learned" else push + f * (seen - push)
        used = weight * f if missed == "learned" else weight
        for value in range(3):
            mine = world.generated & (world.truth == value)
            push[mine] = np.average(pull[mine], weights=used[mine])
        lost = ~world.generated
        own = world.detected & lost
        if own.any():
            push[lost] = np.average(pull[own], weights=used[own])
        if fakes == "learned":
            for value in range(3):
                like = world.generated & world.detected & (world.reco == value)
                push[own & (world.reco == value)] = np.average(pull[like], weights=(weight * f)[like])
    return push


SIMULATION, DATA = draw(20_000, [0.4, 0.35, 0.25], 5), draw(20_000, [0.25, 0.35, 0.4], 6)
WEIGHT = np.random.default_rng(7).choice([0.3, 0.5, 0.7], 20_000)
SEEN = DATA.reco[DATA.detected]


def table(x: NDArray[Any], weight: NDArray[Any]) -> ny.EventTable:
    return ny.EventTable(("x",), x[:, None], weight)


def tables() -> tuple[ny.EventTable, ny.EventTable, ny.EventTable]:
    world = SIMULATION
    return (
        table(SEEN, np.ones(len(SEEN))),
        table(np.where(world.detected, world.reco, 50.0), WEIGHT),
        table(np.where(world.generated, world.truth, -50.0), WEIGHT),
    )


def omnifold(**options: Any) -> OmniFold:
    return OmniFold(
        **{"iterations": 2, "ensemble": 2, "network": MLP((20, 20)), "settings": SETTINGS} | options
    )


PASSES = {"passes_reconstruction": SIMULATION.detected, "passes_truth": SIMULATION.generated}


@pytest.mark.parametrize("fakes", ["average", "learned"])
@pytest.mark.parametrize("missed", ["unchanged", "learned"])
def test_misses_and_fakes_follow_the_rule(missed: str, fakes: str) -> None:
    result = omnifold(missed=missed, fakes=fakes).fit(*tables(), **PASSES, seed=2)
    args = (SEEN, np.ones(len(SEEN)), SIMULATION, WEIGHT, np.ones(len(WEIGHT)), 2)
    exact = by_histogram(*args, missed=missed, fakes=fakes)
    assert exact.max() / exact.min() > 1.3
    np.testing.assert_allclose(result.push, exact, rtol=0.05)
    made = SIMULATION.generated
    assert result.unfolded.sum() == pytest.approx((WEIGHT * exact)[made].sum(), rel=5e-3)
    h = result.histogram(SIMULATION.truth, [-0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(
        h.values(), np.bincount(SIMULATION.truth[made], (WEIGHT * exact)[made]), rtol=0.03
    )
    assert result.unfolded[~made].max() == 0.0


def test_the_rules_of_missed_events_have_the_same_end() -> None:
    """With the exact rule; the learned average is nearer to it after twenty iterations."""
    world = replace(SIMULATION, generated=np.ones(len(WEIGHT), dtype=np.bool_))  # with fakes it is not unique
    args = (SEEN, np.ones(len(SEEN)), world, WEIGHT, np.ones(len(WEIGHT)))
    end, other = (
        by_histogram(*args, 1000, missed=missed, fakes="average") for missed in ("learned", "unchanged")
    )
    np.testing.assert_allclose(end, other, rtol=1e-3)
    after = {m: by_histogram(*args, 20, missed=m, fakes="average") for m in ("learned", "unchanged")}
    distance = {m: float(np.abs(push - end).mean()) for m, push in after.items()}
    assert distance["learned"] < 0.7 * distance["unchanged"]


def test_background_and_detector_factors_follow_the_rule() -> None:
    rng = np.random.default_rng(8)
    noise = rng.choice(3, 4000, p=[0.2, 0.2, 0.6])
    factor = np.where(SIMULATION.reco == 2, 0.8, 1.1)
    _, reconstructed, truth = tables()
    seen = np.concatenate([SEEN, rng.choice(3, 2000, p=[0.2, 0.2, 0.6])])
    result = omnifold().fit(
        table(seen, np.ones(len(seen))),
        reconstructed,
        truth,
        **PASSES,
        background=table(noise, np.full(4000, 0.5)),
        detector_factor=factor,
        seed=2,
    )
    both = np.concatenate([seen, noise])
    weight = np.concatenate([np.ones(len(seen)), np.full(4000, -0.5)])
    exact = by_histogram(both, weight, SIMULATION, WEIGHT, factor, 2, missed="learned", fakes="average")
    np.testing.assert_allclose(result.push, exact, rtol=0.06)
    assert result.folded.sum() == pytest.approx(weight.sum(), rel=0.02)


def test_negative_weights_of_the_simulation_follow_the_rule() -> None:
    rng = np.random.default_rng(9)
    weight = np.where(rng.random(len(WEIGHT)) < 0.15, -1.0, 1.0)
    _, reconstructed, truth = tables()
    result = omnifold().fit(
        table(SEEN, np.ones(len(SEEN))),
        ny.EventTable(("x",), reconstructed.x, weight),
        ny.EventTable(("x",), truth.x, weight),
        **PASSES,
        seed=2,
    )
    ones = np.ones(len(WEIGHT))
    exact = by_histogram(
        SEEN, np.ones(len(SEEN)), SIMULATION, weight, ones, 2, missed="learned", fakes="average"
    )
    np.testing.assert_allclose(result.push, exact, rtol=0.07)


def test_replicas_and_variations_follow_the_rule() -> None:
    """Each replica is the unfolding of its own weights, whatever else is trained beside it."""
    shift = np.where(SIMULATION.truth == 0, 1.3, 1.0)
    seen = np.where(SIMULATION.reco == 0, 0.9, 1.0)
    result = omnifold(ensemble=1).fit(
        *tables(),
        **PASSES,
        bootstrap=ny.unfolding.Bootstrap(data=2, simulation=2),
        systematics={
            "generator": shift,
            "efficiency": (WeightSet(detector=seen), WeightSet(detector=2.0 - seen)),
        },
        seed=2,
    )
    ones, made = np.ones(len(WEIGHT)), SIMULATION.generated
    assert {name: own.shape for name, own in result.replicas.items()} == {
        "data": (2, 20_000),
        "simulation": (2, 20_000),
    }
    assert [len(own) for own in result.systematics.values()] == [1, 2]

    def yields(weights: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(SIMULATION.truth[made], weights[made], minlength=3)

    def exact(weight: NDArray[Any], factor: NDArray[Any]) -> NDArray[Any]:
        push = by_histogram(
            SEEN, np.ones(len(SEEN)), SIMULATION, weight, factor, 2, missed="learned", fakes="average"
        )
        return yields(weight * push)

    nominal = yields(result.unfolded)
    for name, k, weight, factor in (
        ("generator", 0, WEIGHT * shift, ones),
        ("efficiency", 0, WEIGHT, seen),
        ("efficiency", 1, WEIGHT, 2.0 - seen),
    ):
        found = yields(result.systematics[name][k]) - nominal
        expected = exact(weight, factor) - exact(WEIGHT, ones)
        np.testing.assert_allclose(found, expected, atol=0.02 * nominal.max())
        assert np.abs(expected).max() > 0.05 * nominal.max()

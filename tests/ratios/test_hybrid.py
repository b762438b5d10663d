"""A flow and a residual classifier: what the flow has missed, the classifier adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

import neyman as ny
from neyman.errors import InputError, TrainingError
from neyman.networks import MLP, NSF
from neyman.ratios import DLE, Density, DensityRatio, Ratio
from neyman.ratios.hybrid import Hybrid
from neyman.training import BCE, MLC, Loss, Settings

N = 10_000
GRID = np.linspace(-2.5, 2.5, 51)[:, None]
FLOW = NSF(transforms=1, hidden=(8,), bins=4)
UNDERTRAINED = DLE(FLOW, ensemble=2, settings=Settings(steps=4, batch_size=256, evaluations=1))
HYBRID = Hybrid(
    UNDERTRAINED,
    MLP((32, 32)),
    settings=Settings(steps=500, batch_size=512, learning_rate=1e-2, evaluations=4),
)
QUICK = replace(HYBRID, settings=replace(HYBRID.settings, steps=3))


def two_peaks(x: np.ndarray, z: float = 0.0, side: float = 1.2) -> np.ndarray:
    """ln of the mean of N(z - side, 1/2) and N(z + side, 1/2)."""
    each = [-2.0 * (x - z - s) ** 2 for s in (-side, side)]
    return logsumexp(each, axis=0) - np.log(2.0) + 0.5 * np.log(2.0 / np.pi)


def draw(seed: int, n: int = N, side: float = 1.2) -> ny.EventTable:
    rng = np.random.default_rng(seed)
    z = rng.uniform(-0.6, 0.6, n)
    x = z + rng.choice([-side, side], n) + rng.normal(0.0, 0.5, n)
    return ny.EventTable(("x",), x[:, None], np.ones(n), {"z": z})


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("loss", [BCE(), BCE("arctan")], ids=["sigmoid", "arctan"])
def test_the_classifier_corrects_an_undertrained_flow(loss: Loss) -> None:
    events = draw(1)
    flow = UNDERTRAINED.fit(events, parameters=("z",), seed=1)
    density = replace(HYBRID, loss=loss).correct(flow, events, seed=1)
    for z in (-0.4, 0.0, 0.4):
        x = GRID[np.abs(GRID[:, 0] - z) <= 2.2]
        truth = two_peaks(x[:, 0], z)
        assert rms(flow.log_prob(x, [z]), truth) > 0.6
        assert rms(density.log_prob(x, [z]), truth) < 0.25
    axis = np.linspace(-8.0, 8.0, 4_001)[:, None]
    total = np.trapezoid(np.exp(density.log_prob(axis, [0.2]).astype(np.float64)), axis[:, 0])
    assert total == pytest.approx(1.0, abs=0.05)
    parts = density.model.description.parts
    assert [(part.sign, part.network.kind, part.link) for part in parts] == [
        (1, "nsf", "identity"),
        (1, "mlp", loss.output_link),
    ]


def test_a_ratio_of_two_hybrids() -> None:
    """Two peaks at distance 1.2 over two at 0.8: four stacks, and a ratio that is known."""
    found = HYBRID.fit(draw(1), draw(2, side=0.8), parameters=("z",), seed=1)
    assert isinstance(found, DensityRatio)
    # The reference is what the events of q are without their z: averaged over its range.
    z = np.linspace(-0.6, 0.6, 101)
    x = GRID[:, 0]
    reference = logsumexp([two_peaks(x, v, 0.8) for v in z], axis=0) - np.log(len(z))
    for value in (-0.3, 0.3):
        near = np.abs(x - value) <= 2.0
        truth = two_peaks(x, value) - reference
        assert rms(found.log_ratio(GRID, [value])[near], truth[near]) < 0.2
    signs = [(part.sign, part.network.kind, part.parameters) for part in found.model.description.parts]
    assert signs == [(1, "nsf", ("z",)), (1, "mlp", ("z",)), (-1, "nsf", ()), (-1, "mlp", ())]
    np.testing.assert_allclose(
        found.members(GRID, [0.3]),
        found.numerator.members(GRID, [0.3]) - found.denominator.members(GRID),
        atol=1e-5,
    )


def test_a_trained_density_as_the_reference() -> None:
    """One flow as the reference of a hybrid: the shared part of all processes."""
    reference = replace(UNDERTRAINED, ensemble=1).fit(draw(2), seed=5)
    steps: list[int] = []
    found = QUICK.fit(draw(1), reference, parameters=("z",), seed=1, progress=steps.append)
    np.testing.assert_allclose(
        found.log_ratio(GRID, [0.1]),
        found.log_prob(GRID, [0.1]) - reference.log_prob(GRID),
        atol=1e-5,
    )
    assert steps == list(range(1, 8))
    steps.clear()
    QUICK.fit(draw(1), draw(2), seed=1, progress=steps.append)
    assert steps == list(range(1, 15))


def test_the_flow_stays_as_it_was() -> None:
    events = draw(1)
    flow = UNDERTRAINED.fit(events, parameters=("z",), seed=1)
    before = flow.members(GRID, [0.2])
    density = QUICK.correct(flow, events, seed=1)
    np.testing.assert_array_equal(flow.members(GRID, [0.2]), before)
    assert rms(density.members(GRID, [0.2]), before) > 1e-3


def test_a_member_is_the_same_in_every_ensemble() -> None:
    one, three = (
        replace(QUICK, flow=replace(UNDERTRAINED, ensemble=m)).fit(draw(1), parameters=("z",), seed=2)
        for m in (1, 3)
    )
    np.testing.assert_allclose(three.members(GRID, [0.1])[0], one.members(GRID, [0.1])[0], atol=1e-4)


def test_bootstrap_reaches_the_classifier() -> None:
    events = draw(1)
    flow = UNDERTRAINED.fit(events, parameters=("z",), seed=1)
    plain = QUICK.correct(flow, events, seed=1)
    other = replace(QUICK, flow=replace(UNDERTRAINED, bootstrap=True)).correct(flow, events, seed=1)
    assert np.abs(plain.members(GRID, [0.2]) - other.members(GRID, [0.2])).max(axis=1).min() > 1e-5


def test_files_give_the_same_values(tmp_path: Path) -> None:
    found = QUICK.fit(draw(1), draw(2), parameters=("z",), seed=1)
    file = found.save(tmp_path / "hybrid.safetensors")
    np.testing.assert_array_equal(Ratio.load(file).members(GRID, [0.3]), found.members(GRID, [0.3]))
    density = found.numerator
    again = Density.load(density.save(tmp_path / "density.safetensors"))
    np.testing.assert_array_equal(again.log_prob(GRID, [0.3]), density.log_prob(GRID, [0.3]))


def test_what_cannot_be_done() -> None:
    events = draw(1)
    density = QUICK.fit(events, seed=1)
    with pytest.raises(InputError, match="only a flow can be sampled"):
        density.sample(10, seed=1)
    with pytest.raises(TrainingError, match="needs a density that is a flow alone"):
        QUICK.correct(density, events, seed=1)
    flow = UNDERTRAINED.fit(events, parameters=("z",), seed=1)
    with pytest.raises(TrainingError, match="no column 'z'"):
        QUICK.correct(flow, replace(events, extra={}), seed=1)
    with pytest.raises(InputError, match="no column 'x'"):
        QUICK.correct(flow, replace(events, features=("y",)), seed=1)
    with pytest.raises(TrainingError, match="different features"):
        QUICK.fit(events, replace(events, features=("y",)), seed=1)
    with pytest.raises(TrainingError, match="has no density"):
        QUICK.fit(replace(events, x=np.round(events.x)), seed=1)
    with pytest.raises(
        TrainingError, match=r"(?s)not finite at step .*most extreme input of this batch is 'x'"
    ):
        replace(QUICK, loss=MLC(), settings=Settings(steps=50, learning_rate=1e30)).fit(events, seed=1)


def test_a_stopped_residual_resumes(tmp_path: Path) -> None:
    events, file = draw(3), tmp_path / "residual.checkpoint"
    hybrid = replace(QUICK, settings=Settings(steps=20, batch_size=256, evaluations=4))
    flow = UNDERTRAINED.fit(events, seed=1)

    def stop(step: int) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hybrid.correct(flow, events, seed=1, checkpoint=file, progress=stop)
    with pytest.raises(TrainingError, match="belongs to another training"):
        hybrid.correct(UNDERTRAINED.fit(events, seed=2), events, seed=1, checkpoint=file)
    resumed = hybrid.correct(flow, events, seed=1, checkpoint=file)
    assert not file.exists()
    np.testing.assert_array_equal(resumed.members(GRID), hybrid.correct(flow, events, seed=1).members(GRID))

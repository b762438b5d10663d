"""Events of templates, the rows of a Fisher information, and the errors of variations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyhf
import pytest
import torch
import two_gaussians as toy

import neyman as ny
from neyman.errors import TrainingError
from neyman.sannt import Exact, Normalisation, Variation
from neyman.sannt.binned import BinnedStack
from neyman.sannt.measurement import Measurement
from neyman.sannt.objective import ExpectedUncertainty, exact_rows, outputs
from neyman.sannt.rows import EXPECTED, FIRST, VARIANCE, rows_of
from neyman.sannt.templates import Templates
from neyman.training import held_out

EDGES = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)[None]
N = len(toy.SIGNAL)
TILT = 0.2 * np.tanh(toy.BACKGROUND.x[:, 0])
WEIGHTS = Variation.of_weights(
    "tilt",
    "background",
    toy.BACKGROUND,
    up=toy.BACKGROUND.weight * (1.0 + TILT),
    down=toy.BACKGROUND.weight * (1.0 - 0.5 * TILT),
)
RATE = Normalisation("rate", ("signal", "background"), 1.2, 0.9)
HELD = held_out(toy.BACKGROUND, 0.5, seed=1)
FREE = Normalisation("k", "background", free=True)


def templates(*variations, fraction: float = 0.5) -> Templates:
    return Templates.of(
        {"signal": toy.SIGNAL}, {"background": toy.BACKGROUND}, variations, fraction=fraction, seed=1
    )


def stack(members: int = 1) -> BinnedStack:
    return BinnedStack(toy.NETWORK.build(2, members=members, seed=3), EDGES, learned=False)


def contents(table: ny.EventTable, network: BinnedStack) -> np.ndarray:
    with torch.no_grad():
        score = torch.sigmoid(network(torch.from_numpy(table.x))[0, :, 0]).numpy()
    return np.histogram(score, EDGES[0].numpy(), weights=table.weight)[0]


@pytest.mark.parametrize("direction", ["average", "up", "down"])
def test_rows_are_the_derivatives_of_the_templates(direction) -> None:
    both = templates(toy.SHIFT, WEIGHTS, RATE, FREE)
    assert list(both.parameters.items()) == [("shift", True), ("tilt", True), ("rate", True), ("k", False)]
    assert both.names == ("strength of signal", "shift", "tilt", "rate", "k")
    network = stack()
    rows = rows_of(both, direction, dtype=torch.float64)
    index = Exact().index(torch.sigmoid(outputs(network, rows.x)), network.edges())
    found = exact_rows(index, rows, 4)[0].detach().numpy()
    s, b = contents(toy.SIGNAL, network), contents(toy.BACKGROUND, network)

    def slope(up, down, nominal):
        return {"average": (up - down) / 2.0, "up": up - nominal, "down": nominal - down}[direction]

    def of(variation):
        return slope(contents(variation.up, network), contents(variation.down, network), b)

    rate = RATE.slope(direction)
    assert rate == pytest.approx(slope(1.2, 0.9, 1.0), rel=0.03)
    expected = [s + b, None, b, None, s, of(toy.SHIFT), of(WEIGHTS), rate * (s + b), b]
    for row, values in enumerate(expected):
        if values is not None:
            np.testing.assert_allclose(found[row], values, rtol=1e-9, atol=1e-9)
    assert found[VARIANCE].sum() == pytest.approx(
        (toy.SIGNAL.weight**2).sum() + (toy.BACKGROUND.weight**2).sum()
    )


def test_variations_of_weights_share_the_forward_pass() -> None:
    both = templates(WEIGHTS, toy.SHIFT, RATE)
    assert [len(block.keys) for block in both.blocks] == [1, 3, 1, 1]
    rows = rows_of(both, dtype=torch.float32)
    assert len(rows.x) == 4 * N  # signal, background with its weights, shift up, shift down
    assert [len(place) for place in rows.places] == [4, 6, 1, 1]


def test_halves_keep_the_yields_and_share_no_event() -> None:
    both = templates(WEIGHTS, fraction=0.3)
    halves = [both.half(held_out=h) for h in (False, True)]
    x = [half.nominal("background")[0] for half in halves]
    assert len(x[0]) + len(x[1]) == N
    assert not {tuple(row) for row in x[0].tolist()} & {tuple(row) for row in x[1].tolist()}
    for half in halves:
        assert half.nominal("background")[1].sum() == pytest.approx(1000.0)
        assert half.nominal("signal")[1].sum() == pytest.approx(50.0)
    folds = [both.fold(second) for second in (False, True)]
    assert sum(fold.nominal("signal")[1].sum() for fold in folds) == pytest.approx(50.0)
    assert folds[0].joined(folds[1]).nominal("signal")[1].sum() == pytest.approx(50.0)


def test_a_step_on_part_of_the_events_has_an_unbiased_gradient() -> None:
    half = templates(toy.SHIFT, WEIGHTS).half(held_out=False)
    rows = rows_of(half, dtype=torch.float64)
    measurement = Measurement.of(half, mc_stat=False, min_effective=0.0)

    def gradient(batch: float | None, step: int) -> torch.Tensor:
        network = stack()
        objective = ExpectedUncertainty(rows, rows, Exact(), measurement, batch=batch, seed=1)
        loss = objective.loss(network, step)
        (found,) = torch.autograd.grad(loss.sum(), network.network.layers[-1].weight)
        return torch.cat([loss.detach(), found.flatten()])

    full = gradient(None, 0)
    some = torch.stack([gradient(0.1, step) for step in range(200)])
    torch.testing.assert_close(some[:, 0], full[0].expand(200))  # the value is that of all events
    pulls = (some.mean(dim=0) - full)[1:] / (some.std(dim=0)[1:] / 200**0.5 + 1e-12)
    assert pulls.abs().max() < 4.5
    assert pulls.std() < 1.4
    torch.testing.assert_close(gradient(1.0, 3), full, rtol=1e-4, atol=1e-6)


def test_chunks_that_are_computed_again_give_the_same_gradient(monkeypatch) -> None:
    from neyman.sannt import objective

    half = templates(toy.SHIFT).half(held_out=False)
    rows = rows_of(half, dtype=torch.float32)
    measurement = Measurement.of(half)

    def gradient() -> torch.Tensor:
        network = stack(members=2)
        loss = ExpectedUncertainty(rows, rows, Exact(), measurement).loss(network, 0)
        return torch.autograd.grad(loss.sum(), network.network.layers[0].weight)[0]

    whole = gradient()
    monkeypatch.setattr(objective, "_CHUNK", 1000)
    kept = gradient()
    monkeypatch.setattr(objective, "_KEPT", 0)
    again = gradient()
    torch.testing.assert_close(kept, whole, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(again, kept, rtol=1e-6, atol=1e-7)


def test_continuous_transformations_are_taken_at_one_sigma() -> None:
    made = Variation.continuous(
        "tes", "background", toy.BACKGROUND, lambda t, z: replace(t, x=t.x * np.float32(z)), sigma=0.03
    )
    np.testing.assert_allclose(made.up.x, toy.BACKGROUND.x * 1.03, rtol=1e-6)
    np.testing.assert_allclose(made.down.x, toy.BACKGROUND.x * 0.97, rtol=1e-6)
    with pytest.raises(TrainingError, match=r"sigma of the variation 'tes' is 0\.0"):
        Variation.continuous("tes", "background", toy.BACKGROUND, lambda t, z: t, sigma=0.0)


def test_errors_name_the_cause() -> None:
    with pytest.raises(
        TrainingError, match=r"names the process 'backgrund', which does not exist\n.*background"
    ):
        templates(replace(toy.SHIFT, process="backgrund"))
    with pytest.raises(TrainingError, match="names the process 'signl'"):
        templates(Normalisation("rate", ("background", "signl")))
    for twice in (toy.SHIFT, Normalisation("shift", "background")):
        with pytest.raises(TrainingError, match="process 'background' has two variations of 'shift'"):
            templates(toy.SHIFT, twice)
    with pytest.raises(TrainingError, match="process 'signal' has two variations of 'rate'"):
        templates(Normalisation("rate", ("signal", "signal")))
    with pytest.raises(TrainingError, match="'signal' is a strength and a nuisance parameter"):
        templates(replace(toy.SHIFT, parameter="signal"))
    with pytest.raises(TrainingError, match=r"different features\n.*shiftUp of process 'background': x1"):
        templates(replace(toy.SHIFT, up=toy.BACKGROUND.with_features(("x1",))))
    with pytest.raises(TrainingError, match=r"4000 events have weights that sum to -1000\n.*shiftDown"):
        templates(replace(toy.SHIFT, down=toy.BACKGROUND.scaled(-1.0)))
    with pytest.raises(TrainingError, match=r"weights of shape \(3,\)\n.*tiltDown.*\n.*4000 events"):
        Variation.of_weights("tilt", "background", toy.BACKGROUND, up=toy.BACKGROUND.weight, down=np.ones(3))
    fewer = toy.moved(toy.BACKGROUND, 1.0).select(np.arange(100))
    with pytest.raises(
        TrainingError, match=r"shiftUp of process 'background' has 100 events, the nominal 4000"
    ):
        templates(replace(toy.SHIFT, up=fewer, paired=True))
    with pytest.raises(TrainingError, match="'shift' is free in one place and constrained in another"):
        templates(toy.SHIFT, Normalisation("shift", "signal", free=True))
    with pytest.raises(TrainingError, match=r"factor down of the normalisation 'rate' is 0\.0"):
        Normalisation("rate", "signal", 1.1, 0.0)
    lonely = replace(
        toy.BACKGROUND, weight=np.where(np.arange(N) == int(np.flatnonzero(~HELD)[0]), 1000.0, -1e-9)
    )
    half = Templates.of({"signal": toy.SIGNAL}, {"background": lonely}, (), fraction=0.5, seed=1)
    with pytest.raises(
        TrainingError, match=r"events of process 'background' \(nominal\) have weights that sum"
    ):
        half.half(held_out=True)


def test_row_numbers_are_what_the_measurement_reads() -> None:
    assert (EXPECTED, VARIANCE, FIRST) == (0, 1, 4)


@pytest.mark.parametrize(("up", "down"), [(1.05, 0.97), (1.3, 0.7), (2.0, 0.5)])
def test_slope_of_a_normalisation_is_that_of_a_normsys(up, down) -> None:
    modifiers = [
        {"name": "mu", "type": "normfactor", "data": None},
        {"name": "k", "type": "normsys", "data": {"hi": up, "lo": down}},
    ]
    model = pyhf.Model(
        {"channels": [{"name": "c", "samples": [{"name": "s", "data": [1.0], "modifiers": modifiers}]}]}
    )
    place = model.config.par_slice("k").start

    def expected(alpha: float) -> float:
        x = np.ones(2)
        x[place] = alpha
        return float(model.expected_actualdata(x)[0])

    slope = (expected(1e-4) - expected(-1e-4)) / 2e-4
    assert Normalisation("k", "s", up, down).slope() == pytest.approx(slope, rel=1e-6)
    assert Normalisation("k", "s", up, down).slope("up") == up - 1.0
    assert Normalisation("k", "s", up, down).slope("down") == 1.0 - down
    assert Normalisation("k", "s", free=True).slope() == 1.0


def test_the_variance_is_that_of_the_events_that_judge() -> None:
    both = templates(WEIGHTS, fraction=0.2)
    half = both.half(held_out=True)
    network = stack()

    def sums(judge):
        rows = rows_of(half, dtype=torch.float64, judge=judge)
        index = Exact().index(torch.sigmoid(outputs(network, rows.x)), network.edges())
        return exact_rows(index, rows, 4)[0].sum(dim=1)

    alone, judged = sums(None), sums(both)
    full = (toy.SIGNAL.weight**2).sum() + (toy.BACKGROUND.weight**2).sum()
    assert float(judged[VARIANCE]) == pytest.approx(full)
    assert float(alone[VARIANCE]) > 4.0 * full
    assert float(judged[3]) == float(alone[3])  # bins are merged by the events that there are

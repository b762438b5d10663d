"""Ratios by classification against Gaussians, whose ratio is known in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import neyman as ny
from neyman.errors import ConfigError, NeymanWarning, TrainingError
from neyman.networks import MLP, NSF
from neyman.ratios import DLE, LRE, Hybrid, Ratio
from neyman.ratios.preparation import bootstrapped
from neyman.training import BCE, MLC, Loss, Sample, Settings

N = 20_000
GRID = np.linspace(-2.0, 2.0, 41)[:, None]
SETTINGS = Settings(steps=300, batch_size=1024, learning_rate=5e-3)
NETWORK = MLP((24, 24))


def gaussian(mean: float, seed: int, n: int = N, **extra: np.ndarray) -> ny.EventTable:
    rng = np.random.default_rng(seed)
    return ny.EventTable(("x",), rng.normal(mean, 1.0, (n, 1)), np.ones(n), extra)


P, Q = gaussian(0.5, 1), gaussian(-0.5, 2)


@pytest.mark.parametrize("loss", [BCE(), MLC()])
def test_two_gaussians(loss: Loss) -> None:
    """ln N(x; 1/2, 1) / N(x; -1/2, 1) = x."""
    ratio = LRE(NETWORK, loss, ensemble=2, settings=SETTINGS).fit(P, Q, seed=1)
    error = ratio.log_ratio(GRID) - GRID[:, 0]
    assert np.sqrt(np.mean(error**2)) < 0.08
    assert np.mean(np.exp(ratio.log_ratio(Q))) == pytest.approx(1.0, abs=0.04)


def test_a_ratio_conditioned_on_a_parameter() -> None:
    """ln N(x; z, 1) / N(x; 0, 1) = z x - z^2 / 2, for z at which no two training events are."""
    rng = np.random.default_rng(3)
    z = rng.uniform(-1.5, 1.5, N)
    numerator = ny.EventTable(("x",), rng.normal(z, 1.0)[:, None], np.ones(N), {"z": z})
    ratio = LRE(NETWORK, ensemble=2, settings=replace(SETTINGS, steps=500)).fit(
        numerator, gaussian(0.0, 4), parameters=("z",), seed=1
    )
    errors = [ratio.log_ratio(GRID, [v]) - (v * GRID[:, 0] - v**2 / 2.0) for v in (-1.0, 0.0, 0.5, 1.0)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    description = ratio.model.description
    assert description.parameters == ("z",)
    np.testing.assert_allclose(description.parameter_range, [(z.min(), z.max())], atol=1e-3)


def test_signed_weights_train_like_the_sample_that_they_stand_for() -> None:
    """Events around 2 are added to P once with weight 1 and once with weight -1, by independent draws."""
    extra = [gaussian(2.0, seed, n=N // 2) for seed in (5, 6)]
    signed = ny.EventTable.concat([P, extra[0], extra[1].scaled(-1.0)])
    lre = LRE(NETWORK, ensemble=2, settings=replace(SETTINGS, steps=500))
    with pytest.warns(
        NeymanWarning, match=r"3\.4% of the numerator lies outside the range of the denominator in 'x'"
    ):
        ratio = lre.fit(signed, Q, seed=1)
    with pytest.warns(NeymanWarning, match="use a reference that covers every sample"):
        unsigned = lre.fit(ny.EventTable.concat([P, extra[0]]), Q, seed=1)
    inner = np.abs(GRID[:, 0]) <= 1.5
    error = (ratio.log_ratio(GRID) - GRID[:, 0])[inner]
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert np.sqrt(np.mean((unsigned.log_ratio(GRID) - GRID[:, 0])[inner] ** 2)) > 0.25


def test_the_sums_of_weights_do_not_matter() -> None:
    settings = Settings(steps=20, batch_size=256)
    first = LRE(NETWORK, settings=settings).fit(P, Q, seed=1)
    second = LRE(NETWORK, settings=settings).fit(P.scaled(0.25), Q.scaled(64.0), seed=1)
    np.testing.assert_array_equal(first.log_ratio(GRID), second.log_ratio(GRID))


def test_a_member_is_the_same_in_every_ensemble() -> None:
    settings = Settings(steps=40, batch_size=256)
    one, three = (LRE(NETWORK, ensemble=m, settings=settings).fit(P, Q, seed=2) for m in (1, 3))
    np.testing.assert_allclose(three.members(GRID)[0], one.members(GRID)[0], atol=1e-5)
    assert np.abs(np.diff(three.members(GRID), axis=0)).max(axis=1).min() > 1e-3


def test_same_seed_same_ratio() -> None:
    settings = Settings(steps=10, batch_size=256)
    a, b, c = (LRE(NETWORK, settings=settings).fit(P, Q, seed=s).log_ratio(GRID) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_events_held_out_never_train() -> None:
    """Events that share an identity stay on one side: with all events of one identity, nothing is left to train."""
    p, q = (replace(t, extra={"entry": np.zeros(N, dtype=np.int64)}) for t in (P, Q))
    with pytest.raises(TrainingError, match="the numerator has 0 events"):
        LRE(NETWORK, settings=SETTINGS).fit(p, q, seed=1)


def test_save_and_load(tmp_path: Path) -> None:
    ratio = LRE(NETWORK, ensemble=2, settings=Settings(steps=5)).fit(P, Q, seed=1, notes={"numerator": "p"})
    loaded = Ratio.load(ratio.save(tmp_path / "ratio.safetensors"))
    np.testing.assert_array_equal(loaded.members(P), ratio.members(P))
    assert loaded.model.description.notes == {"numerator": "p"}
    assert loaded.model.description.kind == "log_ratio"
    wide = ny.EventTable(("y", "x"), np.concatenate([P.x + 9.0, P.x], axis=1), P.weight)
    np.testing.assert_array_equal(
        loaded.log_ratio(wide, aggregate="median"), ratio.log_ratio(P, aggregate="median")
    )


def test_errors_name_the_cause() -> None:
    lre = LRE(NETWORK, settings=Settings(steps=2))
    with pytest.raises(TrainingError, match=r"different features\n.*x, y"):
        lre.fit(P, replace(Q, features=("y",)), seed=1)
    both = ny.EventTable(("x", "c"), np.concatenate([P.x, np.full((N, 1), 3.0)], axis=1), P.weight)
    with pytest.raises(TrainingError, match=r"different features\n.*another order"):
        lre.fit(both, both.with_features(("c", "x")), seed=1)
    with pytest.raises(TrainingError, match=r"feature 'c' is constant \(3\)"):
        lre.fit(both, both, seed=1)
    with pytest.raises(TrainingError, match=r"no column 'alpha'\n.*\n.*nearest names: alpha_tes"):
        lre.fit(replace(P, extra={"alpha_tes": P.weight}), Q, parameters=("alpha",), seed=1)
    with pytest.raises(TrainingError, match=r"'z' has the same value \(1\)"):
        lre.fit(replace(P, extra={"z": np.ones(N)}), Q, parameters=("z",), seed=1)
    with pytest.raises(TrainingError, match="whose weights sum to -"):
        lre.fit(P, Q.scaled(-1.0), seed=1)


def test_bootstrapped_members_spread_more() -> None:
    """With few events the members' spread contains the fluctuation of the sample only with bootstrap weights."""
    p, q = gaussian(0.1, 1, n=600), gaussian(-0.1, 2, n=600)
    settings = Settings(steps=150, batch_size=480, learning_rate=5e-3, evaluations=5)
    plain, bagged = (
        LRE(MLP((16,)), ensemble=8, settings=settings, bootstrap=b).fit(p, q, seed=1).spread(GRID).mean()
        for b in (False, True)
    )
    assert bagged > 1.5 * plain


def test_a_training_can_start_from_another_and_freeze_layers(tmp_path: Path) -> None:
    settings = Settings(steps=200, batch_size=512, learning_rate=5e-3)
    first = LRE(NETWORK, settings=settings).fit(P, Q, seed=1)
    short = Settings(steps=1, batch_size=256, learning_rate=1e-6)
    shifted = replace(P, x=P.x + 0.1)
    again = LRE(NETWORK, ensemble=3, settings=short).fit(
        shifted, Q, seed=2, start=first, freeze=("layers.0",)
    )
    np.testing.assert_allclose(again.members(GRID), np.repeat(first.members(GRID), 3, axis=0), atol=1e-3)
    old, new = first.model.stacks[0].layers, again.model.stacks[0].layers
    assert torch.equal(new[0].weight, old[0].weight.expand(3, -1, -1))
    assert not torch.equal(new[1].weight, old[1].weight.expand(3, -1, -1))
    loaded = Ratio.load(again.save(tmp_path / "r.safetensors"))
    LRE(NETWORK, ensemble=3, settings=short).fit(shifted, Q, seed=2, start=loaded)
    with pytest.raises(TrainingError, match=r"no network parameter 'head' to freeze"):
        LRE(NETWORK, settings=short).fit(P, Q, seed=1, freeze=("head",))
    with pytest.raises(
        TrainingError, match=r"(?s)another architecture: MLP\(hidden=\(24, 24\).*hidden=\(9, 24\)"
    ):
        LRE(MLP((9, 24)), settings=short).fit(P, Q, seed=1, start=first)
    with pytest.raises(TrainingError, match=r"another architecture: .*activation='silu'"):
        LRE(MLP((24, 24), "tanh"), settings=short).fit(P, Q, seed=1, start=first)
    with pytest.raises(TrainingError, match=r"(?s)the link 'identity'.*the link 'square'"):
        LRE(NETWORK, MLC("square"), settings=short).fit(P, Q, seed=1, start=first)
    with pytest.raises(TrainingError, match=r"another architecture: .* is \(3, "):
        LRE(NETWORK, ensemble=2, settings=short).fit(P, Q, seed=1, start=again)
    other = replace(P, features=("y",)), replace(Q, features=("y",))
    with pytest.raises(TrainingError, match=r"has other inputs\n.*x\n.*y"):
        LRE(NETWORK, settings=short).fit(*other, seed=1, start=first)


def test_a_stopped_training_resumes_and_refuses_other_events(tmp_path: Path) -> None:
    lre = LRE(NETWORK, ensemble=2, settings=Settings(steps=40, batch_size=256, evaluations=4))
    file = tmp_path / "training.safetensors"

    def stop(step: int) -> None:
        if step == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lre.fit(P, Q, seed=1, checkpoint=file, progress=stop)
    with pytest.raises(TrainingError, match="belongs to another training"):
        lre.fit(P, Q.scaled(2.0), seed=1, checkpoint=file)
    resumed = lre.fit(P, Q, seed=1, checkpoint=file)
    np.testing.assert_array_equal(resumed.members(GRID), lre.fit(P, Q, seed=1).members(GRID))


def test_weights_that_depend_on_the_parameter_are_told() -> None:
    z = np.random.default_rng(1).uniform(-1.0, 1.0, N)
    numerator = replace(P, weight=1.0 + 0.1 * z, extra={"z": z})
    with pytest.warns(NeymanWarning, match=r"depends on 'z' \(0\.9\d+ below.*1\.0\d+ above"):
        LRE(NETWORK, settings=Settings(steps=2)).fit(numerator, Q, parameters=("z",), seed=1)


@pytest.mark.parametrize("loss", [BCE("gaussian"), BCE("arctan"), MLC("square"), MLC("relu")])
def test_every_link_learns_two_gaussians(loss: Loss, tmp_path: Path) -> None:
    ratio = LRE(NETWORK, loss, ensemble=2, settings=SETTINGS).fit(P, Q, seed=1)
    inner = GRID[np.abs(GRID[:, 0]) < 1.6]
    assert np.sqrt(np.mean((ratio.log_ratio(inner) - inner[:, 0]) ** 2)) < 0.12
    np.testing.assert_array_equal(
        Ratio.load(ratio.save(tmp_path / "r.safetensors")).log_ratio(inner), ratio.log_ratio(inner)
    )


def test_a_denominator_with_parameters_of_its_own() -> None:
    """Drawn alike they are used; a constant column, or one drawn otherwise, tells the classes apart by itself."""
    rng = np.random.default_rng(1)
    z, other = rng.uniform(-1.0, 1.0, (2, N))
    lre = LRE(NETWORK, settings=Settings(steps=2))
    numerator = replace(P, extra={"z": z})
    lre.fit(numerator, replace(Q, extra={"z": other}), parameters=("z",), seed=1)
    with pytest.raises(
        TrainingError, match=r"(?s)'z' is 0 in all events of the denominator.*without that column"
    ):
        lre.fit(numerator, replace(Q, extra={"z": np.zeros(N)}), parameters=("z",), seed=1)
    with pytest.warns(NeymanWarning, match=r"'z' is distributed differently .*distance 0\.1"):
        lre.fit(numerator, replace(Q, extra={"z": other**2 * np.sign(other)}), parameters=("z",), seed=1)


def test_bootstraps_of_the_two_sides_are_independent_unless_they_share_events() -> None:
    """With one draw for row i of both sides their fluctuations would cancel where rows are in a common order."""
    own = [Sample(P.x[:500], np.ones(500)) for _ in range(2)]
    with_ids = replace(P.select(np.arange(500)), extra={"entry": np.arange(500)})
    for table, same in ((P.select(np.arange(500)), False), (with_ids, True)):
        p, q = (
            bootstrapped(table, one, range(2), seed=1, side=side).weight
            for one, side in zip(own, ("numerator", "denominator"), strict=True)
        )
        assert np.array_equal(p, q) == same


def test_parameters_on_one_side_in_part() -> None:
    z = np.random.default_rng(1).uniform(-1.0, 1.0, N)
    numerator, denominator = replace(P, extra={"a": z, "b": z**3}), replace(Q, extra={"a": z})
    with pytest.raises(TrainingError, match="the denominator has a of the parameters a, b"):
        LRE(NETWORK, settings=Settings(steps=2)).fit(numerator, denominator, parameters=("a", "b"), seed=1)
    one = LRE(NETWORK, settings=Settings(steps=2)).fit(
        numerator, Q, parameters="a", seed=1, freeze="layers.0"
    )
    assert one.model.parameters == ("a",)
    numerator = replace(P, extra={"a": np.where(np.arange(N) < N // 2, np.nan, z)})
    with pytest.raises(TrainingError, match="'a' is nan in event 0 of the numerator"):
        LRE(NETWORK, settings=Settings(steps=2)).fit(numerator, Q, parameters=("a",), seed=3)


def test_estimators_refuse_networks_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="a flow is not a classifier"):
        LRE(NSF())
    with pytest.raises(ConfigError, match="MLP is not a density"):
        DLE(MLP())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a classifier, not a flow"):
        Hybrid(network=NSF())


def test_a_resumed_training_knows_where_it_started(tmp_path: Path) -> None:
    settings = Settings(steps=20, batch_size=256, evaluations=4)
    starts = [LRE(NETWORK, settings=Settings(steps=2)).fit(P, Q, seed=s) for s in (1, 2)]
    file = tmp_path / "c"

    def stop(step: int) -> None:
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LRE(NETWORK, settings=settings).fit(P, Q, seed=1, start=starts[0], checkpoint=file, progress=stop)
    with pytest.raises(TrainingError, match="belongs to another training"):
        LRE(NETWORK, settings=settings).fit(P, Q, seed=1, start=starts[1], checkpoint=file)


def test_events_must_be_tables() -> None:
    with pytest.raises(TrainingError, match=r"(?s)the denominator is a dict.*EventTable\.from_arrays"):
        LRE(NETWORK).fit(P, {"x": [1.0]}, seed=1)  # type: ignore[arg-type]

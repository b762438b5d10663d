"""Densities by flows against Gaussians, whose density and ratio are known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest, norm

import neyman as ny
from neyman.errors import ConfigError, InputError, NeymanWarning, TrainingError, WorkspaceError
from neyman.networks import NSF, Model
from neyman.ratios import DLE, Density, DensityRatio, Ratio
from neyman.training import Settings

N = 10_000
GRID = np.linspace(-2.0, 2.0, 41)[:, None]
SETTINGS = Settings(steps=150, batch_size=512, learning_rate=1e-2, evaluations=5)
NETWORK = NSF(transforms=1, hidden=(16,), bins=6)
QUICK = DLE(NETWORK, settings=Settings(steps=4, batch_size=64, evaluations=2))


def gaussian(mean: float, seed: int, n: int = N, **extra: np.ndarray) -> ny.EventTable:
    rng = np.random.default_rng(seed)
    return ny.EventTable(("x",), rng.normal(mean, 1.0, (n, 1)), np.ones(n), extra)


def conditioned(seed: int, n: int = N) -> ny.EventTable:
    rng = np.random.default_rng(seed)
    z = rng.uniform(-1.5, 1.5, n)
    return ny.EventTable(("x",), rng.normal(z, 1.0)[:, None], np.ones(n), {"z": z})


P, Q = gaussian(0.5, 1), gaussian(-0.5, 2)


@pytest.fixture(scope="module")
def ratio() -> DensityRatio:
    """A process conditioned on z over a reference at z = 0, each by two flows."""
    dle = DLE(NETWORK, ensemble=2, settings=replace(SETTINGS, steps=300))
    return dle.fit(conditioned(3), gaussian(0.0, 4), parameters=("z",), seed=1, notes={"process": "signal"})


def test_two_gaussians() -> None:
    """ln N(x; 1/2, 1) / N(x; -1/2, 1) = x, and the densities themselves."""
    found = DLE(NETWORK, ensemble=2, settings=SETTINGS).fit(P, Q, seed=1)
    assert np.sqrt(np.mean((found.log_ratio(GRID) - GRID[:, 0]) ** 2)) < 0.08
    truth = norm(0.5, 1.0).logpdf(GRID[:, 0])
    assert np.sqrt(np.mean((found.log_prob(GRID) - truth) ** 2)) < 0.06
    assert np.mean(np.exp(found.log_ratio(Q))) == pytest.approx(1.0, abs=0.04)


def test_a_density_conditioned_on_a_parameter(ratio: DensityRatio) -> None:
    """ln N(x; z, 1) / N(x; 0, 1) = z x - z^2 / 2, for z at which no two training events are."""
    points = (-1.0, 0.0, 0.5, 1.0)
    errors = [ratio.log_ratio(GRID, [z]) - (z * GRID[:, 0] - z**2 / 2.0) for z in points]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    errors = [ratio.log_prob(GRID, [z]) - norm(z, 1.0).logpdf(GRID[:, 0]) for z in points]
    assert np.sqrt(np.mean(np.square(errors))) < 0.08
    description = ratio.model.description
    assert description.kind == "log_ratio"
    assert [(part.sign, part.parameters) for part in description.parts] == [(1, ("z",)), (-1, ())]
    assert description.notes == {"process": "signal"}
    np.testing.assert_allclose(description.parameter_range, [(-1.5, 1.5)], atol=2e-3)


def test_the_ratio_is_the_difference_of_its_densities(ratio: DensityRatio) -> None:
    p, q = ratio.numerator, ratio.denominator
    assert (p.model.parameters, q.model.parameters) == (("z",), ())
    np.testing.assert_allclose(
        ratio.members(GRID, [0.3]), p.members(GRID, [0.3]) - q.members(GRID), atol=1e-5
    )
    np.testing.assert_allclose(ratio.log_prob(GRID, [0.3]), p.log_prob(GRID, [0.3]))
    assert len(p.history.best_step) == len(q.history.best_step) == 2
    assert p.history.validation != q.history.validation


def test_the_learned_density_is_normalised(ratio: DensityRatio) -> None:
    """At every z each member integrates to 1; their geometric mean to a little less."""
    axis = np.linspace(-9.0, 9.0, 6_001)[:, None]
    for z in (-1.2, 0.0, 0.9):
        members = np.exp(ratio.numerator.members(axis, [z]).astype(np.float64))
        np.testing.assert_allclose(np.trapezoid(members, axis[:, 0], axis=1), 1.0, atol=1e-3)
        total = [
            np.trapezoid(np.exp(ratio.log_prob(axis, [z], aggregate=a).astype(np.float64)), axis[:, 0])
            for a in ("mean_ratio", "mean")
        ]
        assert total[0] == pytest.approx(1.0, abs=1e-3)
        assert 0.97 < total[1] < total[0]


def test_samples_follow_the_mean_of_the_members(ratio: DensityRatio) -> None:
    density, n = ratio.numerator, 4_001
    z = np.linspace(-1.4, 1.4, n)[:, None]
    drawn = density.sample(n, z, seed=3)
    assert drawn.shape == (n, 1)
    assert drawn.dtype == np.float32
    assert kstest(drawn[:, 0] - z[:, 0], "norm").pvalue > 1e-3
    assert np.corrcoef(drawn[:, 0], z[:, 0])[0, 1] > 0.4
    axis = np.linspace(-9.0, 9.0, 3_001)[:, None]
    cdf = np.cumsum(np.exp(density.log_prob(axis, [0.7], aggregate="mean_ratio")))
    fixed = density.sample(n, [0.7], seed=4)[:, 0]
    assert kstest(np.interp(fixed, axis[:, 0], cdf / cdf[-1]), "uniform").pvalue > 0.01
    np.testing.assert_array_equal(density.sample(n, [0.7], seed=4)[:, 0], fixed)
    assert ratio.denominator.sample(0, seed=1).shape == (0, 1)


def test_signed_weights_train_like_the_sample_that_they_stand_for() -> None:
    """Events around 2 are added to P once with weight 1 and once with weight -1, by independent draws."""
    extra = [gaussian(2.0, seed, n=N // 2) for seed in (5, 6)]
    signed = ny.EventTable.concat([P, extra[0], extra[1].scaled(-1.0)])
    dle = DLE(NETWORK, ensemble=2, settings=SETTINGS)
    inner = GRID[np.abs(GRID[:, 0]) <= 1.5]
    truth = norm(0.5, 1.0).logpdf(inner[:, 0])
    error, unsigned = (
        dle.fit(table, seed=1).log_prob(inner) - truth
        for table in (signed, ny.EventTable.concat([P, extra[0]]))
    )
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert np.sqrt(np.mean(unsigned**2)) > 0.25


def test_the_mean_weight_may_depend_on_z() -> None:
    """Unlike a classifier, a flow learns p(x|z) alone: weights exp(z) change nothing in the limit."""
    table = conditioned(3)
    weighted = replace(table, weight=np.exp(table.extra["z"]))
    density = DLE(NETWORK, settings=replace(SETTINGS, steps=300)).fit(weighted, parameters=("z",), seed=1)
    for z in (-0.8, 0.8):
        error = density.log_prob(GRID, [z]) - norm(z, 1.0).logpdf(GRID[:, 0])
        assert np.sqrt(np.mean(error**2)) < 0.15


def test_a_member_is_the_same_in_every_ensemble() -> None:
    one, three = (replace(QUICK, ensemble=m).fit(P, seed=2) for m in (1, 3))
    np.testing.assert_allclose(three.members(GRID)[0], one.members(GRID)[0], atol=1e-5)
    assert np.abs(np.diff(three.members(GRID), axis=0)).max(axis=1).min() > 1e-3


def test_bootstrap_gives_each_member_weights_of_its_own() -> None:
    plain, other = (replace(QUICK, ensemble=2, bootstrap=b).fit(P, seed=2) for b in (False, True))
    assert np.abs(plain.members(GRID) - other.members(GRID)).max(axis=1).min() > 1e-4


def test_a_reference_is_trained_once_for_all_processes() -> None:
    reference = QUICK.fit(Q, seed=7)
    before = reference.members(GRID)
    steps: list[int] = []
    first, second = (
        replace(QUICK, ensemble=3).fit(p, reference, seed=2, progress=steps.append) for p in (P, Q)
    )
    assert steps == [1, 2, 3, 4, 1, 2, 3, 4]
    np.testing.assert_array_equal(first.denominator.members(GRID), before)
    np.testing.assert_allclose(second.members(GRID), second.numerator.members(GRID) - before, atol=1e-5)
    assert first.members(GRID).shape == (3, 41)
    steps.clear()
    QUICK.fit(P, Q, seed=2, progress=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_reference_may_be_conditioned_too() -> None:
    """The parameters of both sides become inputs, over the range that both have seen."""
    reference = QUICK.fit(conditioned(3), parameters=("z",), seed=1)
    table = conditioned(4)
    wide = replace(table, extra={"z": 2.0 * table.extra["z"], "y": np.arange(-5_000.0, 5_000.0)})
    found = QUICK.fit(wide, reference, parameters=("y", "z"), seed=1)
    assert found.model.parameters == ("y", "z")
    np.testing.assert_allclose(found.model.description.parameter_range[1], (-1.5, 1.5), atol=2e-3)
    expected = found.numerator.log_prob(GRID, [400.0, 0.5]) - reference.log_prob(GRID, [0.5])
    np.testing.assert_allclose(found.log_ratio(GRID, [400.0, 0.5], aggregate="mean"), expected, atol=1e-5)


def test_files_give_the_same_values(tmp_path: Path, ratio: DensityRatio) -> None:
    file = ratio.save(tmp_path / "ratio.safetensors")
    for kind in (DensityRatio, Ratio):
        np.testing.assert_array_equal(kind.load(file).members(GRID, [0.3]), ratio.members(GRID, [0.3]))
    again = DensityRatio.load(file)
    assert isinstance(again, DensityRatio)
    np.testing.assert_array_equal(again.log_prob(GRID, [0.3]), ratio.log_prob(GRID, [0.3]))
    density = ratio.numerator
    again_density = Density.load(density.save(tmp_path / "density.safetensors"))
    np.testing.assert_array_equal(again_density.log_prob(GRID, [0.3]), density.log_prob(GRID, [0.3]))
    np.testing.assert_array_equal(again_density.sample(9, [0.3], seed=1), density.sample(9, [0.3], seed=1))
    assert again_density.model.description == density.model.description
    with pytest.raises(InputError, match="a log_ratio, not a log_density"):
        Density.load(file)


def test_a_file_with_other_tensors_is_refused(tmp_path: Path, ratio: DensityRatio) -> None:
    description = ratio.model.description
    wrong = description.parts[0].model_copy(update={"network": replace(NETWORK, bins=7)})
    model = Model(ratio.model.stacks, description.model_copy(update={"parts": (wrong, description.parts[1])}))
    with pytest.raises(WorkspaceError, match=r"do not fit its description\n.*parts.0.transforms.0.bias.1 is"):
        Model.load(model.save(tmp_path / "wrong.safetensors"))


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(step: int) -> None:
        if step == 3:
            raise StopError

    file = tmp_path / "state.safetensors"
    dle = replace(QUICK, ensemble=2)
    with pytest.raises(StopError):
        dle.fit(P, seed=2, checkpoint=file, progress=stop)
    assert file.is_file()
    steps: list[int] = []
    resumed = dle.fit(P, seed=2, checkpoint=file, progress=steps.append)
    assert steps == [3, 4]
    np.testing.assert_array_equal(resumed.members(GRID), dle.fit(P, seed=2).members(GRID))
    assert not file.is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.random.default_rng(1).integers(0, 8, N).astype(float),
            r"feature 'n' has no density: 1[23]\.\d% of",
        ),
        (np.where(np.arange(N) % 20, np.random.default_rng(1).normal(size=N), -999.0), "5.0% .* value -999"),
        (
            np.minimum(np.random.default_rng(1).exponential(size=N), 3.0),
            r"feature 'n' has no density: .* value 3",
        ),
    ],
    ids=["count", "fill value", "overflow"],
)
def test_features_without_a_density(values: np.ndarray, message: str) -> None:
    table = ny.EventTable(("x", "n"), np.stack([P.x[:, 0], values], axis=1), np.ones(N))
    with pytest.raises(TrainingError, match=message) as error:
        QUICK.fit(table, seed=1)
    assert error.value.fix == "remove it from the features, or use LRE"


def test_rounded_features_have_a_density() -> None:
    """NanoAOD keeps some ten bits of a number: equal values in a few per mille of the events are no spike."""
    table = replace(P, x=np.round(P.x, 2))
    assert np.isfinite(QUICK.fit(table, seed=1).log_prob(GRID)).all()
    few = P.select(np.arange(N) < 60)
    few.x[:8] = 1.0
    assert np.isfinite(QUICK.fit(few, seed=1).log_prob(GRID)).all()


def test_what_cannot_be_trained() -> None:
    empty = P.select(np.zeros(N, dtype=bool))
    with pytest.raises(TrainingError, match="no events to learn a density from"):
        QUICK.fit(empty, seed=1)
    with pytest.raises(TrainingError, match="whose weights sum to -"):
        QUICK.fit(P.scaled(-1.0), seed=1)
    constant = ny.EventTable(("x", "c"), np.stack([P.x[:, 0], np.full(N, 3.0)], axis=1), np.ones(N))
    with pytest.raises(TrainingError, match="feature 'c' is constant"):
        QUICK.fit(constant, seed=1)
    with pytest.raises(TrainingError, match="nuisance parameter 'z' has the same value"):
        QUICK.fit(gaussian(0.0, 1, z=np.ones(N)), parameters=("z",), seed=1)
    with pytest.raises(TrainingError, match="no column 'tes'"):
        QUICK.fit(conditioned(1), parameters=("tes",), seed=1)
    other = ny.EventTable(("y",), Q.x, Q.weight)
    with pytest.raises(TrainingError, match="different features"):
        QUICK.fit(P, other, seed=1)
    with pytest.raises(TrainingError, match="different features"):
        QUICK.fit(P, QUICK.fit(other, seed=1), seed=1)
    with pytest.raises(TrainingError, match="the reference has 3 members"):
        replace(QUICK, ensemble=2).fit(P, replace(QUICK, ensemble=3).fit(Q, seed=1), seed=1)
    with pytest.raises(TrainingError, match="one checkpoint cannot keep two trainings"):
        QUICK.fit(P, Q, seed=1, checkpoint="state")
    with pytest.raises(
        TrainingError, match=r"(?s)not finite at step .*most extreme input of this batch is 'x'"
    ):
        DLE(NETWORK, settings=Settings(steps=50, learning_rate=1e30)).fit(P, seed=1)


def test_a_numerator_beyond_the_reference_is_warned_about() -> None:
    with pytest.warns(NeymanWarning, match="lies outside the range of the denominator"):
        QUICK.fit(gaussian(4.0, 1), Q, seed=1)


def test_what_cannot_be_evaluated(ratio: DensityRatio) -> None:
    density = ratio.numerator
    with pytest.raises(InputError, match="this model is conditioned on z"):
        density.log_prob(GRID)
    with pytest.raises(InputError, match="outside the range"):
        density.log_prob(GRID, [1.7])
    with pytest.raises(InputError, match=r"'z' goes from 1.7 to 1.7"):
        density.sample(10, [1.7], seed=1)
    with pytest.raises(InputError, match="nuisance parameters have shape None"):
        density.sample(10, seed=1)
    with pytest.raises(InputError, match=r"shape \(3, 1\)"):
        density.sample(10, np.zeros((3, 1)), seed=1)
    with pytest.raises(InputError, match="no parameters"):
        ratio.denominator.sample(10, [0.1], seed=1)
    with pytest.raises(InputError, match="a log_ratio, not a log_density"):
        Density(ratio.model)
    with pytest.raises(ConfigError, match="bins of a flow is 0"):
        NSF(bins=0)
    assert math.isfinite(float(density.log_prob([[1e4]], [0.0])[0]))

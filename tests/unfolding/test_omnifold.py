"""OmniFold against Gaussians of known truth and against its own rule worked out with histograms."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import neyman as ny
from neyman.errors import ConfigError, InputError, NeymanWarning, TrainingError
from neyman.networks import MLP
from neyman.training import Settings
from neyman.unfolding import Bootstrap, OmniFold, Unfolding, WeightSet

N = 10_000
EFFICIENCY = 0.9
NETWORK = MLP((20, 20))
SETTINGS = Settings(steps=200, batch_size=512, learning_rate=5e-3, evaluations=10)


def table(x: NDArray[Any], weight: NDArray[Any] | None = None) -> ny.EventTable:
    return ny.EventTable(("x",), x[:, None], np.ones(len(x)) if weight is None else weight)


def sample(mean: float, width: float, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Truth, its smeared value, and whether it is reconstructed."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(mean, width, N)
    return truth, truth + rng.normal(0.0, 0.5, N), rng.random(N) < EFFICIENCY


TRUTH, RECO, PASSES = sample(0.0, 1.0, 1)
_, DATA, OBSERVED = sample(0.4, 0.85, 2)


@cache
def unfold(mode: str, **settings: Any) -> Unfolding:
    omnifold = OmniFold(iterations=3, ensemble=3, mode=mode, network=NETWORK, settings=SETTINGS)  # type: ignore[arg-type]
    return replace(omnifold, **settings).fit(
        table(DATA[OBSERVED]), table(RECO), table(TRUTH), passes_reconstruction=PASSES, seed=3
    )


@pytest.fixture(scope="module", params=["parallel", "step"])
def gaussian(request: pytest.FixtureRequest) -> Unfolding:
    return unfold(request.param)


def test_gaussian_truth_is_recovered(gaussian: Unfolding) -> None:
    mean = np.average(TRUTH, weights=gaussian.unfolded)
    width = np.sqrt(np.average((TRUTH - mean) ** 2, weights=gaussian.unfolded))
    assert mean == pytest.approx(0.4, abs=0.035)
    assert width == pytest.approx(0.85, abs=0.04)
    for push in gaussian.members:
        assert np.average(TRUTH, weights=push) == pytest.approx(0.4, abs=0.05)


def test_yield_is_the_data_corrected_for_efficiency(gaussian: Unfolding) -> None:
    assert gaussian.unfolded.sum() == pytest.approx(OBSERVED.sum() / PASSES.mean(), rel=3e-3)
    assert 0.5 * N < gaussian.effective_size < N


def test_histogram_and_files(gaussian: Unfolding, tmp_path: Path) -> None:
    edges = [-3.0, -1.0, 0.0, 1.0, 3.0]
    h = gaussian.histogram(TRUTH, edges)
    values, _ = np.histogram(TRUTH, edges, weights=gaussian.unfolded)
    squares, _ = np.histogram(TRUTH, edges, weights=gaussian.unfolded**2)
    np.testing.assert_allclose(h.values(), values, rtol=1e-9)
    np.testing.assert_allclose(h.variances(), squares, rtol=1e-9)
    assert h.sum(flow=True).value == pytest.approx(gaussian.unfolded.sum())
    one = gaussian.histogram(TRUTH, edges, member=1)
    np.testing.assert_allclose(
        one.values(), np.histogram(TRUTH, edges, weights=gaussian.members[1])[0], rtol=1e-9
    )

    gaussian.to_parquet(tmp_path / "weights.parquet")
    stored = pq.read_table(tmp_path / "weights.parquet")
    assert stored.column_names[:6] == [
        "weight",
        "push",
        "pull",
        "passes_truth",
        "passes_reconstruction",
        "factor",
    ]
    np.testing.assert_array_equal(stored["push_2"].to_numpy(), gaussian.members[2])
    np.testing.assert_allclose(stored["push"].to_numpy(), gaussian.members.mean(axis=0), rtol=1e-6)
    gaussian.to_numpy(tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["pull_1"], gaussian.pull_members[1])
    record = json.loads(json.dumps(gaussian.to_dict()))
    assert [(s["iteration"], s["level"]) for s in record["steps"]] == [
        (i, level) for i in range(3) for level in ("detector", "particle")
    ]


def test_aggregation_can_be_chosen_afterwards(gaussian: Unfolding) -> None:
    """Up to one factor, with which the yield is the average of the members'."""
    for aggregate, exact in (
        ("median", np.median(gaussian.members, axis=0)),
        ("truncated_mean", np.sort(gaussian.members, axis=0)[1]),
    ):
        push = gaussian.aggregated_by(aggregate).push  # type: ignore[arg-type]
        ratio = push / exact
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
        assert ratio[0] == pytest.approx(1.0, abs=0.01)
        assert push.sum() == pytest.approx(gaussian.members.sum(axis=1).mean(), rel=1e-6)
    with pytest.raises(ConfigError, match="unknown aggregate 'mean_ratio' of weights"):
        gaussian.aggregated_by("mean_ratio")


def test_parallel_members_are_independent_unfoldings() -> None:
    three, one = unfold("parallel"), unfold("parallel", ensemble=1)
    np.testing.assert_allclose(three.members[0], one.members[0], rtol=1e-4)
    assert np.abs(three.members[1] / three.members[0] - 1.0).mean() > 1e-3


def test_step_members_share_the_weights_of_earlier_steps() -> None:
    """After the same first step, members differ by their own training alone: they are closer than in parallel."""
    spread = {mode: float(np.mean(unfold(mode).members.std(axis=0))) for mode in ("parallel", "step")}
    assert spread["step"] < spread["parallel"]


def test_same_seed_same_weights() -> None:
    first, second = (unfold.__wrapped__("step", iterations=1, ensemble=2).members for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("mode", ["parallel", "step"])
def test_weights_stay_one_where_data_is_the_simulation(mode: str) -> None:
    omnifold = OmniFold(iterations=2, ensemble=2, mode=mode, network=NETWORK, settings=SETTINGS)  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = omnifold.fit(table(RECO), table(RECO), table(TRUTH), seed=1)
    np.testing.assert_allclose(result.push, 1.0, atol=0.05)
    assert not any(all(step.separates) for step in result.steps)
    assert {type(w.message) for w in caught} <= {NeymanWarning}


def test_a_step_that_separates_nothing_says_so_and_leaves_weights_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flat output that no network can beat."""
    monkeypatch.setattr(ny.training.BCE, "flat", lambda loss: -1.0)
    omnifold = OmniFold(iterations=2, ensemble=2, network=NETWORK, settings=replace(SETTINGS, steps=20))
    half = table(DATA[OBSERVED], np.full(OBSERVED.sum(), 0.5))
    with pytest.warns(NeymanWarning, match="no classifier separates the data and the simulation"):
        result = omnifold.fit(half, table(RECO), table(TRUTH), seed=1)
    np.testing.assert_allclose(result.push, half.weight.sum() / N, rtol=1e-5)
    assert not any(any(step.separates) for step in result.steps)
    np.testing.assert_allclose(result.model(table(TRUTH).x), np.log(result.push), atol=1e-5)


def test_input_errors() -> None:
    fit = OmniFold(iterations=1, ensemble=1, network=NETWORK, settings=SETTINGS).fit
    data, reco, truth = table(DATA), table(RECO), table(TRUTH)
    with pytest.raises(InputError, match="10000 events at detector and 9999 at particle level"):
        fit(data, reco, table(TRUTH[1:]), seed=1)
    with pytest.raises(InputError, match=r"data have the features y\n.*simulation: x"):
        fit(replace(data, features=("y",)), reco, truth, seed=1)
    with pytest.raises(InputError, match="no simulated event passes both"):
        fit(data, reco, truth, passes_reconstruction=PASSES, passes_truth=~PASSES, seed=1)
    with pytest.raises(InputError, match=r"passes_truth is bool of shape \(3,\)"):
        fit(data, reco, truth, passes_truth=[True, False, True], seed=1)
    with pytest.raises(InputError, match="passes_reconstruction is int64"):
        fit(data, reco, truth, passes_reconstruction=np.ones(N, dtype=np.int64), seed=1)
    weight = np.ones(N)
    weight[7] = 2.0
    with pytest.raises(
        InputError, match="event 7 has the weight 1 at detector level and 2 at particle level"
    ):
        fit(data, reco, table(TRUTH, weight), seed=1)
    with pytest.raises(TrainingError, match="the data have events whose weights sum to -"):
        fit(data.scaled(-1.0), reco, truth, seed=1)
    with pytest.raises(TrainingError, match="the detected simulation has events whose weights sum to 0"):
        fit(data, reco, truth, detector_factor=np.zeros(N), seed=1)
    with pytest.raises(InputError, match=r"detector_factor has shape \(3,\)"):
        fit(data, reco, truth, detector_factor=np.ones(3), seed=1)
    with pytest.raises(InputError, match=r"the weight factor of 'scale' \(down\) is nan in event 4"):
        fit(
            data,
            reco,
            truth,
            systematics={"scale": (np.ones(N), np.where(np.arange(N) == 4, np.nan, 1))},
            seed=1,
        )
    with pytest.raises(ConfigError, match=r"variation 'scale' \(up\) changes nothing"):
        fit(data, reco, truth, systematics={"scale": WeightSet()}, seed=1)
    with pytest.raises(ConfigError, match="cannot be called 'data'"):
        fit(data, reco, truth, systematics={"data": np.ones(N)}, seed=1)
    with pytest.raises(InputError, match=r"the background has the features y"):
        fit(data, reco, truth, background=replace(data, features=("y",)), seed=1)
    with pytest.raises(InputError, match="data is a ndarray"):
        fit(DATA, reco, truth, seed=1)  # type: ignore[arg-type]


def test_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="0 iterations"):
        OmniFold(iterations=0)
    with pytest.raises(ConfigError, match="unknown mode 'both'"):
        OmniFold(mode="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown missed 'no'"):
        OmniFold(missed="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown fakes 'no'"):
        OmniFold(fakes="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 3 members"):
        OmniFold(ensemble=2, aggregate="truncated_mean")
    with pytest.raises(ConfigError, match="unknown aggregate 'max'"):
        OmniFold(aggregate="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a flow is not a classifier"):
        OmniFold(network=ny.networks.NSF())
    with pytest.raises(ConfigError, match="body_rate is 2"):
        OmniFold(body_rate=2)
    with pytest.raises(ConfigError, match="1 bootstrap replicas of the data"):
        Bootstrap(data=1)
    with pytest.raises(ConfigError, match="0 members of a replica"):
        Bootstrap(data=2, ensemble=0)
    with pytest.raises(ConfigError, match="0 passes"):
        OmniFold().passes(0, table(DATA), table(RECO), table(TRUTH), seed=1)


def test_an_exploding_ratio_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neyman.networks.links.log_ratio", lambda link, z: 1e4 * z)
    omnifold = OmniFold(iterations=1, ensemble=1, network=NETWORK, settings=SETTINGS)
    with pytest.raises(
        TrainingError,
        match=r"the detector-level ratio of member 0 cannot be normalised: \d+ weights are infinite",
    ):
        omnifold.fit(table(DATA), table(RECO), table(TRUTH), seed=1)


def test_histogram_errors(gaussian: Unfolding) -> None:
    with pytest.raises(InputError, match=r"the observable has shape \(3,\)"):
        gaussian.histogram([1.0, 2.0, 3.0], [0, 1])
    with pytest.raises(InputError, match="x is nan in event 5"):
        gaussian.histogram(np.where(np.arange(N) == 5, np.nan, TRUTH), [0, 1])
    with pytest.raises(InputError, match=r"no member 3\n.*0 to 2"):
        gaussian.histogram(TRUTH, [0, 1], member=3)

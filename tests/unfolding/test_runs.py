"""How an unfolding is run: interruptions, starts, mixed levels, other machines, and what is done with its result."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
from coffea import processor
from numpy.typing import NDArray

import neyman as ny
from neyman.errors import ConfigError, InputError, NeymanWarning, TrainingError
from neyman.networks import MLP, PET
from neyman.training import Settings
from neyman.unfolding import Bootstrap, OmniFold, Reweighter, WeightSet, closure_test

N = 3000
NETWORK = MLP((16,))
SETTINGS = Settings(steps=60, batch_size=256, learning_rate=5e-3, evaluations=6)
RNG = np.random.default_rng(1)
TRUTH = RNG.normal(0.0, 1.0, N)
RECO = TRUTH + RNG.normal(0.0, 0.5, N)
DATA = RNG.normal(0.4, np.hypot(0.85, 0.5), N)


def table(x: NDArray[Any], *features: str) -> ny.EventTable:
    return ny.EventTable(features or ("x",), x.reshape(N, -1), np.ones(N))


TABLES = table(DATA), table(RECO), table(TRUTH)


def omnifold(**options: Any) -> OmniFold:
    return OmniFold(**{"iterations": 2, "ensemble": 2, "network": NETWORK, "settings": SETTINGS} | options)


class Stop(Exception):
    pass


def stop_after(steps: int) -> Any:
    def progress(done: int) -> None:
        if done >= steps:
            raise Stop

    return progress


@pytest.mark.parametrize("steps", [25, 60, 61, 130, 200, 330])
def test_an_interrupted_run_ends_in_the_same_weights(steps: int, tmp_path: Path) -> None:
    """In a training, at its end, in the second iteration, and among the replicas; also the networks are kept."""
    run = omnifold(warm_start=True, mode="step")
    options: dict[str, Any] = {"seed": 3, "bootstrap": Bootstrap(data=2)}
    whole = run.fit(*TABLES, **options)
    with pytest.raises(Stop):
        run.fit(*TABLES, **options, checkpoint=tmp_path, progress=stop_after(steps))
    counted: list[int] = []
    again = run.fit(*TABLES, **options, checkpoint=tmp_path, progress=counted.append)
    assert len(counted) <= 480 - steps + 61  # no more than the training that was under way is done again
    np.testing.assert_array_equal(again.members, whole.members)
    np.testing.assert_array_equal(again.pull_members, whole.pull_members)
    np.testing.assert_array_equal(again.replicas["data"], whole.replicas["data"])
    np.testing.assert_array_equal(again.iterations[0].push, whole.iterations[0].push)
    assert again.steps == whole.steps
    assert again.support == whole.support
    x = table(TRUTH).x
    np.testing.assert_allclose(again.model(x), whole.model(x), rtol=1e-6)

    finished: list[int] = []
    run.fit(*TABLES, **options, checkpoint=tmp_path, progress=finished.append)
    assert not finished


def test_a_state_of_another_unfolding_is_refused(tmp_path: Path) -> None:
    run = omnifold(iterations=1, ensemble=1)
    run.fit(*TABLES, seed=3, checkpoint=tmp_path)
    with pytest.raises(
        TrainingError, match=r"the kept state nominal\.safetensors belongs to another unfolding"
    ):
        run.fit(*TABLES, seed=4, checkpoint=tmp_path)
    (tmp_path / "nominal.safetensors").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"the kept state nominal\.safetensors is broken"):
        run.fit(*TABLES, seed=3, checkpoint=tmp_path)


def test_more_replicas_keep_what_is_there(tmp_path: Path) -> None:
    """The nominal unfolding is not made again; another set of weights is."""
    run = omnifold(iterations=1, ensemble=1)
    run.fit(*TABLES, seed=3, checkpoint=tmp_path, bootstrap=Bootstrap(data=2))
    counted: list[int] = []
    more = Bootstrap(data=4)
    run.fit(*TABLES, seed=3, checkpoint=tmp_path, bootstrap=more, progress=counted.append)
    assert len(counted) == 120
    tables = [replace(t, extra={"entry": np.arange(N) + 10 * N}) for t in TABLES]
    with pytest.raises(TrainingError, match="belongs to another unfolding"):
        run.fit(*tables, seed=3, checkpoint=tmp_path, bootstrap=more)
    factor = np.where(TRUTH > 0, 0.9, 1.0)
    inputs = [
        ny.unfolding.inputs.prepare(
            *TABLES,
            passes_reconstruction=None,
            passes_truth=None,
            background=None,
            detector_factor=None,
            systematics={"s": WeightSet(**{level: factor})},
            seed=1,
        )
        for level in ("weight", "detector")
    ]
    assert inputs[0].digest() != inputs[1].digest()


def test_a_pretrained_run_resumes_with_the_start_read_again(tmp_path: Path) -> None:
    classifier().save(tmp_path / "start.safetensors")
    run = omnifold(iterations=1, fakes="learned")
    options: dict[str, Any] = {"seed": 3, "passes_truth": np.arange(N) % 7 > 0}
    for progress in (stop_after(150), None):
        start = ny.networks.Model.load(tmp_path / "start.safetensors")
        try:
            result = run.fit(*TABLES, **options, start=start, checkpoint=tmp_path / "kept", progress=progress)
        except Stop:
            continue
    whole = run.fit(*TABLES, **options, start=start)
    np.testing.assert_array_equal(result.members, whole.members)


def test_a_particle_step_that_fails_late_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are those of the prior again."""
    from neyman.unfolding.steps import Learner

    learn, count = Learner.learn, iter(range(10))

    def spoiled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(count) == 3:
            monkeypatch.setattr(ny.training.BCE, "flat", lambda loss: -1.0)  # nothing is better than that
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "learn", spoiled)
    with pytest.warns(NeymanWarning, match="iteration 2, particle level: 2 of 2 networks separate nothing"):
        result = omnifold().fit(*TABLES, seed=1)
    np.testing.assert_allclose(result.push, 1.0, rtol=1e-5)


def test_arguments_of_another_type_are_named() -> None:
    run = omnifold(iterations=1)
    for options, message in (
        ({"bootstrap": 5}, "bootstrap is 5"),
        ({"start": "model.safetensors"}, r"start is 'model\.safetensors'"),
        ({"start": (None, None, None)}, r"start is \(None, None, None\)"),
        ({"client": 3}, "client is 3"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            run.fit(*TABLES, **{"seed": 1} | options)
    with pytest.raises(InputError, match="background is a ndarray"):
        run.fit(*TABLES, seed=1, background=DATA)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="systematics are a list"):
        run.fit(*TABLES, seed=1, systematics=[np.ones(N)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="detector_factor is -1 in event 0"):
        run.fit(*TABLES, seed=1, detector_factor=-np.ones(N))
    with pytest.raises(InputError, match=r"(?s)detector_factor is 1\.5 in event 0: more than all.*missed"):
        omnifold(missed="unchanged").fit(*TABLES, seed=1, detector_factor=np.full(N, 1.5))
    mixed = [
        replace(t, extra={"entry": ids})
        for t, ids in zip(TABLES[1:], (np.arange(N), np.arange(N)[::-1]), strict=True)
    ]
    with pytest.raises(
        InputError, match=rf"row 0 is event 0 at detector and event {N - 1} at particle level"
    ):
        run.fit(TABLES[0], *mixed, seed=1)
    with pytest.raises(ConfigError, match=r"iterations is 1\.5"):
        omnifold(iterations=1.5)
    with pytest.raises(ConfigError, match="3 networks"):
        omnifold(network=(NETWORK,) * 3)
    with pytest.raises(ConfigError, match="ECD has one rate"):
        omnifold(body_rate=0.5, settings=replace(SETTINGS, optimizer="ecd"))
    with pytest.raises(InputError, match="a closure test has no background"):
        closure_test(run, *TABLES[1:], {}, background=TABLES[0], seed=1)
    with pytest.raises(TrainingError, match=r"(?s)weights sum to.*iteration 1, detector level, weights: s"):
        run.fit(*TABLES, seed=1, systematics={"s": -np.ones(N)})


def test_progress_counts_all_optimizer_steps() -> None:
    counted: list[int] = []
    run, bootstrap = omnifold(), Bootstrap(data=5, simulation=2)
    weights = {"scale": (np.ones(N), np.ones(N)), "other": np.ones(N)}
    run.fit(*TABLES, seed=1, bootstrap=bootstrap, systematics=weights, at_once=4, progress=counted.append)
    total = run.optimizer_steps(bootstrap=bootstrap, systematics=3, at_once=4)
    assert total == (1 + 2 + 2) * 4 * 60
    assert counted == sorted(counted)
    assert counted[-1] == total


def test_replicas_do_not_depend_on_what_is_trained_beside_them() -> None:
    options: dict[str, Any] = {"seed": 3, "bootstrap": Bootstrap(data=4)}
    together, apart = (omnifold(ensemble=1).fit(*TABLES, **options, at_once=n) for n in (4, 1))
    np.testing.assert_allclose(together.replicas["data"], apart.replicas["data"], rtol=2e-3)


def test_a_replica_is_the_unfolding_of_weighted_data() -> None:
    """And the same networks and batches make it differ from the nominal one by its weights alone."""
    run = omnifold(ensemble=1)
    result = run.fit(*TABLES, seed=3, bootstrap=Bootstrap(data=2))
    counts = ny.unfolding.inputs.poisson("data", 3, 1, np.arange(N))
    assert 0.9 < counts.mean() < 1.1
    weighted = ny.EventTable(("x",), DATA[:, None], counts.astype(np.float64))
    alone = run.fit(weighted, *TABLES[1:], seed=3)
    np.testing.assert_allclose(result.replicas["data"][1], alone.unfolded, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:iteration")
def test_a_warm_start_goes_on_from_the_networks_before() -> None:
    """Its losses in the second iteration begin where the first ended."""
    slow = replace(SETTINGS, steps=10, learning_rate=1e-3)
    cold, warm = (
        omnifold(settings=slow, iterations=8, warm_start=w).fit(*TABLES, seed=2) for w in (False, True)
    )
    assert np.mean(warm.steps[-1].losses) < np.mean(cold.steps[-1].losses)
    np.testing.assert_array_equal(warm.iterations[0].push, cold.iterations[0].push)


def classifier(members: int = 1) -> ny.networks.Model:
    shift = ny.EventTable(("y",), RNG.normal(0.4, 1.0, (N, 1)), np.ones(N))
    nominal = ny.EventTable(("y",), RNG.normal(0.0, 1.0, (N, 1)), np.ones(N))
    lre = ny.ratios.LRE(NETWORK, ensemble=members, settings=replace(SETTINGS, steps=300))
    return lre.fit(shift, nominal, seed=1).model


@pytest.mark.filterwarnings("ignore:iteration")
def test_pretraining_starts_all_members_from_a_saved_classifier(tmp_path: Path) -> None:
    """One whose feature has another name: levels are matched by position."""
    classifier().save(tmp_path / "start.safetensors")
    start = ny.networks.Model.load(tmp_path / "start.safetensors")
    still = omnifold(settings=replace(SETTINGS, steps=1, learning_rate=1e-9), iterations=1)
    fresh, both, one = (still.fit(*TABLES, seed=2, start=s) for s in (None, start, (start, None)))
    given = start.members(table(TRUTH).x)[0]
    np.testing.assert_allclose(
        both.models["particle"].replace(offsets=()).members(table(TRUTH).x), np.stack([given] * 2), atol=1e-4
    )
    assert np.mean(both.steps[0].losses) < np.mean(fresh.steps[0].losses)
    assert one.steps[0].losses == both.steps[0].losses
    assert one.steps[1].losses != both.steps[1].losses


def test_replicas_start_from_the_members_of_a_pretrained_ensemble() -> None:
    """Of another number of members; two of them have no truncated mean."""
    start = classifier(3)
    run = omnifold(iterations=1, ensemble=4, aggregate="truncated_mean", mode="step")
    options: dict[str, Any] = {"seed": 2, "start": start, "bootstrap": Bootstrap(data=2, ensemble=2)}
    still = replace(run, settings=replace(SETTINGS, steps=1, learning_rate=1e-9)).fit(*TABLES, **options)
    members = still.models["particle"].replace(offsets=()).members(table(TRUTH).x)
    given = start.members(table(TRUTH).x)
    np.testing.assert_allclose(members, given[[0, 1, 2, 0]], atol=1e-4)
    assert np.isfinite(run.fit(*TABLES, **options).replicas["data"]).all()


def test_the_body_of_a_pretrained_network_can_stand_still() -> None:
    start = classifier()
    result = omnifold(iterations=1, body_rate=0.0).fit(*TABLES, seed=2, start=start)
    trained, given = (dict(m.stacks[0].named_parameters()) for m in (result.models["detector"], start))
    np.testing.assert_array_equal(
        trained["layers.0.weight"].detach()[1].numpy(), given["layers.0.weight"].detach()[0].numpy()
    )
    assert (trained["layers.1.weight"] != given["layers.1.weight"]).any()


def test_a_start_that_does_not_fit_is_refused() -> None:
    run = omnifold(network=MLP((8,)))
    with pytest.raises(TrainingError, match="the model to start from has another architecture"):
        run.fit(*TABLES, seed=1, start=classifier())
    two = table(np.stack([DATA, DATA], axis=1), "a", "b"), table(np.stack([RECO, TRUTH], axis=1), "a", "b")
    with pytest.raises(TrainingError, match="the model to start from has 1 feature, the detector level 2"):
        omnifold().fit(*two, TABLES[2], seed=1, start=classifier())


@pytest.mark.parametrize("optimizer", ["lion", "ecd"])
def test_optimizers(optimizer: str) -> None:
    rate = {"lion": 3e-3, "ecd": 0.3}[optimizer]
    settings = replace(SETTINGS, optimizer=optimizer, learning_rate=rate, steps=200)  # type: ignore[arg-type]
    result = omnifold(settings=settings, iterations=3).fit(*TABLES, seed=1)
    assert np.average(TRUTH, weights=result.unfolded) == pytest.approx(0.4, abs=0.1)


def particles(x: NDArray[Any], seed: int) -> ny.EventTable:
    """Jets of up to four particles whose transverse momentum carries x, and one feature of the event."""
    rng = np.random.default_rng(seed)
    p = rng.normal(0.0, 0.3, (N, 4, 3))
    p[..., 2] = x[:, None] + rng.normal(0.0, 0.2, (N, 4))
    p[np.arange(4) >= rng.integers(1, 5, N)[:, None]] = 0.0
    names = [f"p{i}_{name}" for i in range(4) for name in ("eta", "phi", "pt")]
    return ny.EventTable(
        (*names, "n"), np.column_stack([p.reshape(N, -1), (p != 0).any(2).sum(1)]), np.ones(N)
    )


def test_particles_at_one_level_and_features_at_the_other() -> None:
    pet = PET(4, 3, dim=8, neighbours=2, local_blocks=1, blocks=1, heads=2, head_blocks=1)
    settings = replace(SETTINGS, steps=120, batch_size=128)
    run = omnifold(network=(pet, NETWORK), settings=settings)
    result = run.fit(particles(DATA, 5), particles(RECO, 6), TABLES[2], seed=1)
    assert np.average(TRUTH, weights=result.unfolded) == pytest.approx(0.4, abs=0.12)
    assert result.models["detector"].description.parts[0].network == pet
    assert result.models["particle"].features == ("x",)


def test_data_outside_the_simulation_are_counted() -> None:
    far = DATA.copy()
    far[:150] = 30.0
    with (
        pytest.warns(NeymanWarning, match="of the data have a log-ratio above"),
        pytest.warns(
            NeymanWarning, match=r"5\.\d% of the data lie outside the range of the simulation in 'x'"
        ),
    ):
        result = omnifold(iterations=1).fit(table(far), *TABLES[1:], seed=1)
    assert result.support.features["x"] == pytest.approx(0.05, abs=0.002)
    assert result.support.beyond >= 0.04
    inside = omnifold(iterations=1).fit(*TABLES, seed=1)
    assert inside.support.beyond < 0.01


@pytest.mark.filterwarnings("ignore:.*of the data have a log-ratio")
def test_an_extreme_weight_is_named() -> None:
    weight = np.ones(N)
    weight[7] = 500.0
    tables = (ny.EventTable(("x",), t.x, weight) for t in TABLES[1:])
    with pytest.warns(NeymanWarning, match=r"one event carries \d+% of the weight of member \d \(event 7 "):
        omnifold(iterations=1).fit(TABLES[0], *tables, seed=1)


def test_passes_are_unfoldings_with_other_seeds(tmp_path: Path) -> None:
    run = omnifold(iterations=1)
    first, second = run.passes(2, *TABLES, seed=5, checkpoint=tmp_path)
    assert np.abs(first.push - second.push).max() > 1e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pass-000", "pass-001"]
    again = run.passes(1, *TABLES, seed=5)
    np.testing.assert_array_equal(again[0].push, first.push)


def test_passes_and_replicas_over_dask_are_the_same() -> None:
    from distributed import Client, LocalCluster

    run = omnifold(iterations=1)
    options: dict[str, Any] = {"bootstrap": Bootstrap(simulation=2), "systematics": {"s": np.full(N, 1.1)}}
    alone = run.passes(2, *TABLES, seed=5)
    whole = run.fit(*TABLES, seed=5, **options)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        spread = run.passes(2, *TABLES, seed=5, client=client)
        parts = run.fit(*TABLES, seed=5, client=client, **options)
    for one, other in zip(alone, spread, strict=True):
        np.testing.assert_array_equal(one.members, other.members)
    np.testing.assert_array_equal(parts.replicas["simulation"], whole.replicas["simulation"])
    np.testing.assert_array_equal(parts.systematics["s"], whole.systematics["s"])


SCRIPT = """
import sys
from dataclasses import replace
import numpy as np
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_runs as t
from neyman.training import join

with join("gloo") as (rank, processes):
    assert processes == 2
    run = t.omnifold(settings=replace(t.SETTINGS, data_parallel=True, batch_size=255))
    result = run.fit(*t.TABLES, seed=3)
    if rank == 0:
        np.save(sys.argv[2], result.members)
"""


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(tmp_path / "members.npy")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    alone = omnifold(settings=replace(SETTINGS, batch_size=255)).fit(*TABLES, seed=3)
    np.testing.assert_allclose(np.load(tmp_path / "members.npy"), alone.members, rtol=2e-3)


def test_data_parallel_training_needs_a_group() -> None:
    run = omnifold(settings=replace(SETTINGS, data_parallel=True))
    with pytest.raises(ConfigError, match=r"belongs to no torch\.distributed group"):
        run.fit(*TABLES, seed=1)
    with (
        pytest.raises(ConfigError, match="this process was not started by torchrun: RANK, WORLD_SIZE"),
        ny.training.join(),
    ):
        pass


class Unfolded(processor.ProcessorABC):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        self.reweight = Reweighter(path)

    def process(self, events: Any) -> Any:
        h = hist.Hist.new.Reg(20, -3, 3, name="x").Weight()
        h.fill(events.x, weight=self.reweight(events))
        return {"x": h, "sum": float(self.reweight(events).sum())}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


@pytest.mark.parametrize(
    ("aggregate", "members"), [("mean", 3), ("median", 3), ("median", 4), ("truncated_mean", 3)]
)
def test_a_finished_unfolding_in_a_processor(aggregate: str, members: int, tmp_path: Path) -> None:
    result = omnifold(ensemble=members).fit(*TABLES, seed=1).aggregated_by(aggregate)  # type: ignore[arg-type]
    result.save(tmp_path / "unfolding")
    mine = pickle.loads(pickle.dumps(Unfolded(tmp_path / "unfolding")))  # noqa: S301
    assert mine.reweight.features == ("x",)
    events = ak.Array({"x": TRUTH, "other": DATA})
    out = mine.process(events)
    np.testing.assert_allclose(mine.reweight(events), result.push, rtol=1e-4)
    np.testing.assert_allclose(
        out["x"].values(), np.histogram(TRUTH, np.linspace(-3, 3, 21), weights=result.push)[0], rtol=1e-4
    )
    assert len(pickle.dumps(mine.reweight)) < 1000
    again = ny.unfolding.Unfolding.load(tmp_path / "unfolding")
    np.testing.assert_allclose(again.model(table(TRUTH).x), result.model(table(TRUTH).x), rtol=1e-6)
    with pytest.raises(InputError, match="there is no unfolding at 'nowhere'"):
        Reweighter(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the events have no feature 'x'"):
        mine.reweight(events[["other"]])


def test_closure_and_a_distortion() -> None:
    """The truth of the distorted half is found again, and the comparison has a fair chi2."""
    settings = replace(SETTINGS, steps=150)
    distortion = np.exp(0.5 * TRUTH)
    test = closure_test(
        omnifold(ensemble=2, settings=settings, iterations=3),
        *TABLES[1:],
        {"x": (TRUTH, np.linspace(-2.5, 2.5, 6))},
        distortion=distortion,
        detector_factor=np.where(RECO > 0, 0.8, 1.0),
        bootstrap=Bootstrap(data=30, simulation=30),
        seed=4,
    )
    found = test.comparisons["x"]
    assert found.ndof == 5
    assert found.p_value > 1e-3
    before = (test.priors["x"] - test.truths["x"].values) / test.spectra["x"].errors
    assert np.abs(before).max() > 3.0 * np.abs(found.pulls).max()
    assert set(test.to_dict()["x"]) == {"spectrum", "truth", "prior", "comparison"}
    with pytest.raises(InputError, match=r"distortion has shape \(2,\)"):
        closure_test(omnifold(), *TABLES[1:], {}, distortion=np.ones(2), seed=1)

"""Events on the workers of a cluster: the local likelihood's numbers, whoever computes them and whoever is lost."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neyman as ny
from neyman.cluster import connect
from neyman.errors import LikelihoodError, NeymanWarning, WorkspaceError
from neyman.files import sha256
from neyman.likelihood import Events, Likelihood, distributed
from neyman.likelihood.distributed import DistributedEvents, cut
from neyman.likelihood.distributed_client import Held
from neyman.networks import MLP, Description, Model, Part
from neyman.workspace import validate
from neyman.workspace.columns import RowGroup, read_columns

N_DATA, N_REFERENCE = 2500, 3100


@pytest.fixture(scope="module")
def client():
    with connect("local:2") as client:
        yield client


@pytest.fixture(scope="module")
def alone():
    """One worker with two threads, in this process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def many_small_shards(monkeypatch):
    monkeypatch.setattr(distributed, "_SMALLEST", 300)
    monkeypatch.setattr("neyman.likelihood.load.WORTH", 1)


def table(n: int, seed: int, kind=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) + rng.integers(0, 2, n)
    q = np.logaddexp(-0.5 * (x - 1) ** 2, -0.5 * x**2) - np.log(2)
    columns = {"weight": rng.uniform(0.5, 1.5, n), "s": -0.5 * (x - 1) ** 2 - q, "b": -0.5 * x**2 - q}
    columns |= {"up": 0.05 * x, "down": -0.04 * x, "s#0": 0.1 * x, "x:pt": x}
    columns |= {f"b@{z}": 0.05 * z * x for z in (-2, 0, 2)}
    return {name: values.astype(kind) for name, values in columns.items()}


def document(data: str = "data.parquet") -> dict:
    columns = {"hi": "up", "lo": "down"}
    network = {"file": "networks/b.safetensors", "features": ["x:pt"], "parameters": ["ees"]}
    tabulated = {"nodes": [-2, 0, 2], "columns": ["b@-2", "b@0", "b@2"]}
    signal = [
        {"name": "mu", "type": "normfactor"},
        {"name": "spread_s", "type": "spread", "data": {"columns": ["s#0"]}},
        {"name": "refstat_s", "type": "refstat"},
        {"name": "jer", "type": "ratiosys", "data": columns},
    ]
    background = [
        {"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
        {"name": "jes", "type": "ratiosys", "data": columns | {"code": "code1"}},
        {"name": "jer", "type": "ratiosys", "data": columns},
        {"name": "tes", "type": "network", "data": tabulated},
        {"name": "ees", "type": "network", "data": network},
    ]
    samples = [
        {"name": "s", "yield": 0.2 * N_DATA, "log_ratio": "s", "modifiers": signal},
        {"name": "b", "yield": 0.8 * N_DATA, "log_ratio": "b", "modifiers": background},
    ]
    channel = {"name": "SR", "data": {"file": data}, "reference": {"file": "reference.parquet"}}
    settings = {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-5.0, 10.0]]}]}
    return {
        "channels": [channel | {"samples": samples}],
        "measurements": [{"name": "m", "config": settings}],
        "version": "1.0.0",
    }


def write(path: Path, columns: dict[str, np.ndarray]) -> None:
    pq.write_table(pa.table(columns), path, use_dictionary=False, row_group_size=700)


@pytest.fixture
def folder(tmp_path):
    """A workspace with a shape of every kind."""
    part = Part(network=MLP((8,)), members=2, parameters=("ees",))
    described = Description(
        features=("pt",), parameters=("ees",), parameter_range=((-3.0, 3.0),), parts=(part,)
    )
    (tmp_path / "networks").mkdir()
    Model([MLP((8,)).build(2, members=2, seed=4)], described).save(tmp_path / "networks" / "b.safetensors")
    write(tmp_path / "data.parquet", table(N_DATA, 1))
    write(tmp_path / "reference.parquet", table(N_REFERENCE, 2))
    (tmp_path / "unbinned.json").write_text(json.dumps(document()))
    return tmp_path


def points(likelihood, n: int = 3):
    rng = np.random.default_rng(3)
    return [likelihood.inits + 0.3 * rng.normal(size=len(likelihood.names)) for _ in range(n)]


def close(found, expected):
    """Gradients are sums that cancel: what they are rounded to is set by the size of the Hessian."""
    scale = np.abs(expected[2]).max() if expected[2] is not None else np.abs(expected[1]).max()
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-12 * scale)


def same(found, expected):
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


# The same numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_value_gradient_and_hessian_are_the_local_ones(folder, client, kind):
    write(folder / "data.parquet", table(N_DATA, 1, kind))
    local, far = Likelihood.load(folder), Likelihood.load(folder, client=client)
    assert far.names == local.names
    (term,) = far.terms
    assert isinstance(term.data, DistributedEvents)
    assert isinstance(term.reference, DistributedEvents)
    assert len(term.data.files) == 7
    for x in points(local):
        close(far.evaluate(x, 2), local.evaluate(x, 2))
    batch = np.stack(points(local, 10))
    close(far.evaluate(batch, 2), local.evaluate(batch, 2))


def test_large_shards_keep_their_functions(tmp_path, client):
    """Shards of more than a span of events are evaluated as large samples in memory are."""
    columns = table(70_000, 1)
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=70_000)
    write(tmp_path / "reference.parquet", table(500, 2))
    simple = document()
    simple["channels"][0]["samples"][1]["modifiers"] = simple["channels"][0]["samples"][1]["modifiers"][:3]
    (tmp_path / "unbinned.json").write_text(json.dumps(simple))
    local = Likelihood.load(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "_SMALLEST", 1 << 15)
        patch.setattr("neyman.likelihood.load.WORTH", 1000)
        far = Likelihood.load(tmp_path, client=client)
    (term,) = far.terms
    assert isinstance(term.reference, Events), "a small file stays here"
    assert len(term.data.files) == 2
    close(far.evaluate(points(local)[0], 2), local.evaluate(points(local)[0], 2))


def test_not_a_bit_depends_on_the_workers(folder, client, alone):
    one, two = Likelihood.load(folder, client=alone), Likelihood.load(folder, client=client)
    for x in points(one):
        same(one.evaluate(x, 2), two.evaluate(x, 2))


def test_a_folder_of_files_is_one_sample(folder, client):
    columns = table(N_DATA, 1)
    (folder / "events").mkdir()
    for i, (a, b) in enumerate(((0, 900), (900, 900), (900, 1000), (1000, N_DATA))):
        write(folder / "events" / f"part-{i}.parquet", {name: c[a:b] for name, c in columns.items()})
    whole = Likelihood.load(folder)
    (folder / "unbinned.json").write_text(json.dumps(document("events")))
    local, far = Likelihood.load(folder), Likelihood.load(folder, client=client)
    x = points(local)[0]
    same(local.evaluate(x, 2), whole.evaluate(x, 2))
    close(far.evaluate(x, 2), whole.evaluate(x, 2))
    streamed = Likelihood.load(folder, memory_budget=1)
    close(streamed.evaluate(x, 2), whole.evaluate(x, 2))
    rows = read_columns(folder / "events", ["s"], 850, 1100)["s"]
    assert np.array_equal(rows, columns["s"][850:1100])
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "data.parquet"]
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / "manifest.json").write_text(json.dumps({"files": digests}))
    checks = {check.name: check.passed for check in validate(folder)}
    assert all(checks.values())
    assert {"manifest", "digest of events/part-3.parquet"} <= set(checks)


def test_asimov_data_and_events_one_by_one(folder, client):
    local, far = Likelihood.load(folder), Likelihood.load(folder, client=client)
    x = points(local)[0]
    asimov = [lh.asimov(x) for lh in (local, far)]
    assert isinstance(asimov[1].terms[0].data, DistributedEvents)
    close(asimov[1].evaluate(x, 2), asimov[0].evaluate(x, 2))
    assert asimov[1].terms[0].data.weight == pytest.approx(asimov[0].terms[0].data.weight, rel=1e-12)
    other = points(local)[1]
    close(far.with_data(asimov[1].data).evaluate(other, 1), asimov[0].evaluate(other, 1))
    again = Likelihood.load(folder, client=client).with_data(asimov[1].data)  # of another likelihood
    close(again.evaluate(other, 1), asimov[0].evaluate(other, 1))
    (ours,), (theirs,) = far.terms, local.terms
    theta = torch.tensor(x)
    assert ours.log_density(theta) == pytest.approx(theirs.log_density(theta), rel=1e-12)
    assert ours.scores(theta).numpy() == pytest.approx(theirs.scores(theta).numpy(), rel=1e-9, abs=1e-12)
    weight = np.linspace(0.5, 1.5, N_REFERENCE)
    swapped = [Likelihood([term.with_reference_weight(weight)]).evaluate(x, 2) for term in (ours, theirs)]
    close(*swapped)
    assert np.array_equal(ours.with_reference_weight(weight).reference.weight, weight)


def test_toys_are_the_local_ones(folder, client):
    local, far = Likelihood.load(folder), Likelihood.load(folder, client=client)
    x = points(local)[0]
    drawn = [[lh.sample(x, generator=np.random.default_rng(seed)) for seed in (1, 2)] for lh in (local, far)]
    for ours, theirs in zip(*drawn, strict=True):
        assert np.array_equal(ours.terms[0].weight, theirs.terms[0].weight)
    rows = np.stack([x, x])
    batch = [
        lh.with_data(lh.stack(toys)).evaluate(rows, 2) for lh, toys in zip((local, far), drawn, strict=True)
    ]
    close(batch[1], batch[0])
    sets = [lh.with_data(lh.stack([lh.data, lh.asimov(x).data])) for lh in (local, far)]
    close(sets[1].evaluate(rows, 2), sets[0].evaluate(rows, 2))


def test_an_empty_data_set(folder, client):
    write(folder / "data.parquet", {name: column[:0] for name, column in table(5, 1).items()})
    local, far = Likelihood.load(folder), Likelihood.load(folder, client=client)
    x = points(local)[0]
    close(far.evaluate(x, 2), local.evaluate(x, 2))
    assert len(far.terms[0].data.weight) == 0


@given(
    st.lists(st.integers(0, 4_000_000), min_size=1, max_size=12),
    st.integers(1, 1 << 20),
)
def test_shards_cover_all_events_in_order(sizes, smallest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "_SMALLEST", smallest)
        groups = [RowGroup(Path(f"{i}.parquet"), 0, size) for i, size in enumerate(sizes)]
        shards = cut(groups)
    seen = [(group.path, row) for shard in shards for group in shard for row in (group.start, group.stop)]
    for path, size in zip((g.path for g in groups), sizes, strict=True):
        rows = [row for file, row in seen if file == path]
        assert rows[1:-1:2] == rows[2::2]
        assert not rows or (rows[0], rows[-1]) == (0, size)
        assert rows or size == 0
    counts = [sum(g.stop - g.start for g in shard) for shard in shards]
    assert sum(counts) == sum(sizes)
    assert all(0 < n <= 2 * max(smallest, min(sum(sizes) // 64, 1 << 20)) for n in counts)


# Loss of workers ---------------------------------------------------------------------------------------------


def test_a_fit_survives_the_loss_of_a_worker(folder, client, monkeypatch):
    expected = ny.fit(Likelihood.load(folder, client=client), fixed={"ees": 0.0})
    far = Likelihood.load(folder, client=client)
    evaluations = 0
    sums = distributed.ShardedEvents.sums

    def killing(self, *arguments):
        nonlocal evaluations
        evaluations += 1
        if evaluations == 7:
            victim = min(client.scheduler_info()["workers"])
            client.run(os._exit, 1, workers=[victim], on_error="ignore")
        return sums(self, *arguments)

    monkeypatch.setattr(distributed.ShardedEvents, "sums", killing)
    fit = ny.fit(far, fixed={"ees": 0.0})
    assert evaluations > 7
    assert fit.fval == expected.fval
    assert np.array_equal(fit.covariance, expected.covariance)
    local = ny.fit(Likelihood.load(folder), fixed={"ees": 0.0})
    assert fit.fval == pytest.approx(local.fval, rel=1e-10)
    client.wait_for_workers(1, timeout=120)


def test_workers_that_die_in_the_middle_of_an_evaluation(folder, client, monkeypatch):
    far = Likelihood.load(folder, client=client)
    asimov = far.asimov()
    (term,) = asimov.terms
    flag = folder / "died"

    def dying(shards, workers):
        if not flag.exists():
            flag.touch()
            os._exit(1)
        yield from (float(shard.source.weight.sum()) for shard in shards)

    parts = term._data._map(dying)
    assert flag.exists()
    edges = term.data.edges
    own = [term.data.weight[a:b].sum() for a, b in itertools.pairwise(edges)]
    assert parts == pytest.approx(own, rel=1e-12)

    client.wait_for_workers(1, timeout=120)


def test_workers_that_are_lost_again_and_again(folder, alone, monkeypatch):
    far = Likelihood.load(folder, client=alone)
    monkeypatch.setattr(distributed, "_LOSSES", 2)
    monkeypatch.setattr(alone, "run", lambda *_, **__: {"tcp://there": OSError("closed")})
    with pytest.raises(
        LikelihoodError, match=r"(?s)lost 2 times in one evaluation.*7 of 7 shards are missing"
    ):
        far.terms[0]._data.sums(
            far.terms[0]._model.point(torch.zeros(1, 6).double(), 0, far.device), None, None
        )
    monkeypatch.setattr(alone, "run", lambda *_, **__: {"tcp://there": MemoryError("no space")})
    with pytest.raises(MemoryError, match="no space"):
        far.value(far.inits)

    def gone(*_, **__):
        raise OSError("connection closed")

    monkeypatch.setattr(alone, "run", gone)
    with pytest.raises(LikelihoodError, match=r"(?s)Dask cluster is lost: connection closed.*load again"):
        far.value(far.inits)


def test_parts_that_no_worker_can_hold(monkeypatch):
    import distributed as dask_distributed

    killed = dask_distributed.scheduler.KilledWorker("neyman-0", SimpleNamespace(address="tcp://there"), 3)
    for status, error in (("error", killed), ("lost", None)):
        future = SimpleNamespace(status=status, exception=lambda error=error: error)
        monkeypatch.setattr(dask_distributed, "wait", lambda *_, **__: None)
        with pytest.raises(
            LikelihoodError, match=r"(?s)workers could not hold a part.*SR, data.*more memory"
        ):
            Held("neyman", (future,)).wait("channel SR, data")

    def late(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(dask_distributed, "wait", late)
    monkeypatch.setattr("neyman.likelihood.distributed_client._PATIENCE", 0.0)
    with pytest.raises(LikelihoodError, match=r"(?s)have not read all events within 0 s.*SR, data"):
        Held("neyman", ()).wait("channel SR, data")


# Messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["b", "weight"])
def test_a_number_that_is_not_finite_names_the_event(folder, client, column):
    columns = table(N_DATA, 1)
    columns[column][[1201, 2200]] = np.nan
    write(folder / "data.parquet", columns)
    with pytest.raises(LikelihoodError, match=rf"(?s){column}.*not finite.*SR, data, first at event 1201"):
        Likelihood.load(folder, client=client)


def test_a_density_that_is_not_positive_names_file_and_event(folder, client):
    columns = table(N_DATA, 1)
    columns["s"][[1733, 2001]] = 9.0
    write(folder / "data.parquet", columns)
    far = Likelihood.load(folder, client=client)
    bad = far.vector({"mu": -0.01})
    with pytest.raises(LikelihoodError, match=r"density of event 1733 of .*data\.parquet is -.*must be"):
        far.value(bad)
    assert far.evaluate(bad, strict=False)[0] == np.inf
    with pytest.raises(LikelihoodError, match=r"'tes' = 3 is outside the range"):
        far.value(far.vector({"tes": 3.0}))
    columns = table(N_REFERENCE, 2)
    columns["up"][3000], columns["down"][3000] = 20.0, 40.0
    write(folder / "reference.parquet", columns)
    far = Likelihood.load(folder, client=client)
    with pytest.raises(LikelihoodError, match=r"(?s)code4 polynomial is not positive.*event 3000 of .*refer"):
        far.value(far.vector({"jer": 0.5}))


def test_columns_and_files_that_are_missing(folder, client):
    columns = table(N_DATA, 1)
    del columns["up"]
    write(folder / "data.parquet", columns)
    with pytest.raises(WorkspaceError, match=r"data\.parquet has no column 'up'"):
        Likelihood.load(folder, client=client)
    events = DistributedEvents(client, folder / "reference.parquet", None, ["s"])
    assert np.array_equal(events.weight, np.ones(N_REFERENCE))
    (folder / "none").mkdir()
    with pytest.raises(WorkspaceError, match="none holds no Parquet file"):
        DistributedEvents(client, folder / "none", None, ["s"])


def test_a_file_that_is_not_the_one_it_was(folder, client):
    far = Likelihood.load(folder, client=client)
    events = DistributedEvents(client, folder / "data.parquet", "weight", far.terms[0].data.columns)
    write(folder / "data.parquet", table(N_DATA, 5))
    assert np.isfinite(far.value(far.inits)), "the workers have read it"
    with pytest.raises(LikelihoodError, match=r"(?s)data\.parquet has changed since.*load the workspace"):
        far.with_data(ny.likelihood.Data((events,), far.global_observables))
    (folder / "data.parquet").unlink()
    with pytest.raises(LikelihoodError, match=r"(?s)data\.parquet cannot be read.*every worker sees it"):
        far.with_data(ny.likelihood.Data((events,), far.global_observables))


def test_what_is_refused(folder, client):
    far = Likelihood.load(folder, client=client)
    with pytest.raises(LikelihoodError, match="cannot be sent to workers"):
        pickle.dumps(far)
    with pytest.raises(LikelihoodError, match="by their processors, not on meta"):
        far.to("meta")
    with pytest.raises(LikelihoodError, match="memory budget and a Dask client are given"):
        Likelihood.load(folder, client=client, memory_budget="1 GB")
    with pytest.raises(LikelihoodError, match=r"'local:2' is not a Dask client"):
        Likelihood.load(folder, client="local:2")


def test_a_cluster_without_workers(folder):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as empty,
        pytest.raises(LikelihoodError, match="Dask cluster has no workers"),
    ):
        Likelihood.load(folder, client=empty)


def test_a_client_that_is_closed(folder, alone):
    from distributed import Client

    with Client(alone.scheduler.address) as second:
        far = Likelihood.load(folder, client=second)
        far.value(far.inits)
    with pytest.raises(LikelihoodError, match=r"(?s)Dask client that holds the events is closed"):
        far.value(far.inits)
    with pytest.raises(LikelihoodError, match=r"Dask client that holds the events is closed"):
        Likelihood.load(folder, client=second)


def test_slow_allocators_are_reported(folder, alone, monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    with pytest.warns(NeymanWarning, match=r"1 workers give memory back .*MALLOC_MMAP_THRESHOLD_"):
        Likelihood.load(folder, client=alone)


def test_the_workers_free_what_is_not_used(folder, alone):
    def held(dask_worker):
        return sum(key.startswith("neyman-") for key in dask_worker.data)

    far = Likelihood.load(folder, client=alone)
    (before,) = alone.run(held).values()
    assert before >= len(far.terms[0].data.files) + len(far.terms[0].reference.files)
    del far
    deadline = time.monotonic() + 60.0
    while (after := sum(alone.run(held).values())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert after == 0

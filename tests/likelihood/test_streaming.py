"""Events streamed from Parquet files: the same results as in memory, and messages that name file and event."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from neyman.errors import LikelihoodError, WorkspaceError
from neyman.likelihood import Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.events import StreamedEvents
from neyman.likelihood.shapes import TabulatedNetwork, UpDownRatio
from neyman.likelihood.yields import NormFactor
from neyman.workspace.columns import ColumnFile, read_columns

NODES = (-2.0, 0.0, 2.0)
COLUMNS = ("s", "b", "s:u", "s:d", "b:u", "b:d", *(f"b@{z}" for z in NODES))
THETA = torch.tensor([1.3, 0.4, -0.7], dtype=torch.float64)


def table(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).astype(np.float32)
    columns = {
        "s": 0.5 * x,
        "b": -0.3 * x,
        "s:u": 0.1 * x,
        "s:d": -0.12 * x,
        "b:u": 0.05 * x**2,
        "b:d": -0.1 * x,
    }
    columns |= {f"b@{z}": columns["b"] + np.float32(0.05 * z) * x for z in NODES}
    return {"weight": rng.uniform(0.5, 1.5, n), "number": np.arange(n), **columns}


def write(path: Path, columns: dict[str, np.ndarray], **options) -> Path:
    pq.write_table(pa.table(columns), path, use_dictionary=False, **{"row_group_size": 700, **options})
    return path


def in_memory(path: Path) -> Events:
    columns = read_columns(path, ["weight", *COLUMNS])
    return Events(columns.pop("weight"), columns)


def term(data, reference, **options) -> UnbinnedTerm:
    network = TabulatedNetwork("tes", NODES, tuple(f"b@{z}" for z in NODES))
    model = [
        UnbinnedSample("s", 30.0, "s", (NormFactor("mu"),), (UpDownRatio("jes", "s:u", "s:d"),)),
        UnbinnedSample("b", 200.0, "b", (), (UpDownRatio("jes", "b:u", "b:d"), network)),
    ]
    names = [
        Parameter("mu", 1.0, -9.0, 9.0),
        Parameter("jes", 0.0, -5.0, 5.0),
        Parameter("tes", 0.0, -2.0, 2.0),
    ]
    return UnbinnedTerm("SR", model, names, data=data, reference=reference, **options)


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "data.parquet", table(2500, 1)), write(
        tmp_path / "reference.parquet", table(3100, 2)
    )


def close(found, expected):
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-13)
    scale = float(expected.hessian.abs().max())
    assert found.gradient.numpy() == pytest.approx(expected.gradient.numpy(), rel=1e-10, abs=1e-11 * scale)
    assert found.hessian.numpy() == pytest.approx(expected.hessian.numpy(), rel=1e-10, abs=1e-11 * scale)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunk", [300, 1024, 10_000])
@pytest.mark.parametrize("which", ["data", "reference", "both"])
def test_streamed_equals_in_memory(files, which, chunk, threads, monkeypatch):
    monkeypatch.setattr("neyman.likelihood.passes._SPAN", 256)
    memory = [in_memory(path) for path in files]
    streams = [StreamedEvents(path, "weight", COLUMNS, chunk=chunk) for path in files]
    data = memory[0] if which == "reference" else streams[0]
    reference = memory[1] if which == "data" else streams[1]
    expected = term(*memory).evaluate(THETA, 2)
    close(term(data, reference, threads=threads).evaluate(THETA, 2), expected)


def test_asimov_of_a_streamed_reference_keeps_one_weight_an_event(files):
    memory = term(*(in_memory(path) for path in files))
    streamed = term(*(StreamedEvents(path, "weight", COLUMNS) for path in files))
    asimov = streamed.expected_data(THETA)
    assert isinstance(asimov, StreamedEvents)
    assert asimov.weight == pytest.approx(memory.expected_data(THETA).weight, rel=1e-12)
    assert asimov.weight.sum() == pytest.approx(streamed.yields(THETA.numpy()).sum())
    x = THETA.numpy()
    assert Likelihood([streamed]).asimov(x).gradient(x) == pytest.approx(np.zeros(3), abs=1e-8)


def test_toys_of_a_streamed_reference(files):
    memory = term(*(in_memory(path) for path in files))
    streamed = term(*(StreamedEvents(path, "weight", COLUMNS, chunk=500) for path in files))
    toys = [t.sampler(THETA)(np.random.default_rng(4)) for t in (memory, streamed)]
    assert isinstance(toys[1], Events)
    assert np.array_equal(toys[0].weight, toys[1].weight)
    for name in COLUMNS:
        assert np.array_equal(toys[0].columns[name], toys[1].columns[name])


def test_scores_and_log_density(files):
    memory = term(*(in_memory(path) for path in files))
    streamed = term(*(StreamedEvents(path, "weight", COLUMNS, chunk=500) for path in files))
    assert streamed.log_density(THETA) == pytest.approx(memory.log_density(THETA), rel=1e-13)
    assert streamed.scores(THETA).numpy() == pytest.approx(memory.scores(THETA).numpy(), rel=1e-10, abs=1e-12)


def test_unit_weights(files):
    streamed = StreamedEvents(files[0], None, COLUMNS, chunk=500)
    assert np.array_equal(streamed.weight, np.ones(2500))
    ones = in_memory(files[0]).with_weight(np.ones(2500))
    reference = in_memory(files[1])
    close(term(streamed, reference).evaluate(THETA, 2), term(ones, reference).evaluate(THETA, 2))


def test_reference_weights_are_swapped(files):
    streamed = term(*(StreamedEvents(path, "weight", COLUMNS, chunk=500) for path in files))
    weight = np.linspace(0.5, 1.5, 3100)
    memory = term(*(in_memory(path) for path in files)).with_reference_weight(weight)
    close(streamed.with_reference_weight(weight).evaluate(THETA, 2), memory.evaluate(THETA, 2))


def test_density_not_positive_names_file_and_event(files):
    columns = table(2500, 1)
    columns["s"][1733] = 9.0  # a signal-like event that a negative signal strength cannot describe
    path = write(files[0].parent / "other.parquet", columns)
    t = term(StreamedEvents(path, "weight", COLUMNS, chunk=400), in_memory(files[1]))
    bad = torch.tensor([-0.01, 0.0, 0.0], dtype=torch.float64)
    with pytest.raises(
        LikelihoodError, match=r"density of event 1733 of .*other\.parquet is -.*must be positive"
    ):
        t.evaluate(bad)
    assert float(t.evaluate(bad, 1, strict=False).value) == np.inf


@pytest.mark.parametrize("column", ["b", "b:u", "weight"])
def test_a_number_that_is_not_finite_names_file_and_event(files, column):
    for which, message in ((0, "data"), (1, "reference")):
        columns = table((2500, 3100)[which], which + 1)
        columns[column][1201] = np.nan
        path = write(files[0].parent / "other.parquet", columns)
        sources = [StreamedEvents(p, "weight", COLUMNS, chunk=400) for p in files]
        sources[which] = StreamedEvents(path, "weight", COLUMNS, chunk=400)
        pattern = rf"(?s){column}.*not finite.*SR, {message}.*event 1201"
        with pytest.raises(LikelihoodError, match=pattern):
            term(*sources).evaluate(THETA, 1)


def test_missing_columns(files):
    with pytest.raises(WorkspaceError, match=r"(?s)data\.parquet has no column 'c:u'.*nearest: "):
        StreamedEvents(files[0], "weight", ["s", "c:u"])
    few = StreamedEvents(files[0], "weight", ["s", "b"])
    with pytest.raises(LikelihoodError, match=r"(?s)no column 's:u'.*channel SR, data"):
        term(few, in_memory(files[1]))


def test_a_file_that_changes_under_the_fit(files):
    t = term(StreamedEvents(files[0], "weight", COLUMNS), in_memory(files[1]))
    t.evaluate(THETA)
    write(files[0], table(1000, 1))
    with pytest.raises(LikelihoodError, match=r"data\.parquet now holds 1000 events, it held 2500"):
        t.evaluate(THETA)
    files[0].unlink()
    with pytest.raises(WorkspaceError, match=r"data\.parquet is not a readable Parquet file"):
        t.evaluate(THETA)


def test_no_threads_are_left_behind(files):
    before = threading.active_count()
    t = term(*(StreamedEvents(path, "weight", COLUMNS, chunk=100) for path in files), threads=2)
    t.evaluate(THETA, 1)
    next(StreamedEvents(files[0], "weight", COLUMNS, chunk=100).blocks(COLUMNS))
    assert threading.active_count() == before


def test_an_empty_file(files):
    path = write(
        files[0].parent / "empty.parquet", {name: column[:0] for name, column in table(5, 1).items()}
    )
    t = term(StreamedEvents(path, "weight", COLUMNS), in_memory(files[1]))
    assert float(t.evaluate(THETA).value) == pytest.approx(2 * t.yields(THETA.numpy()).sum())


def test_types_are_kept_and_whole_numbers_become_float64(files):
    found = read_columns(files[0], ["s", "number", "weight", "s"])
    assert {name: c.dtype for name, c in found.items()} == {
        "s": np.float32,
        "number": np.float64,
        "weight": np.float64,
    }
    assert np.array_equal(found["number"], np.arange(2500))
    columns = table(2500, 1)
    assert np.array_equal(found["s"], columns["s"])


def test_an_empty_value_names_the_event(files):
    values = [None if i == 1503 else 0.5 for i in range(2500)]
    path = files[0].parent / "empty.parquet"
    pq.write_table(pa.table({"s": pa.array(values, pa.float32())}), path)
    pattern = r"(?s)'s' \(float\) is empty in 1 of .* events.*first at event 1503"
    with pytest.raises(WorkspaceError, match=pattern):
        read_columns(path, ["s"])
    with pytest.raises(WorkspaceError, match=pattern):
        list(ColumnFile(path, ["s"]).blocks(1000))


PROGRAM = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from neyman.likelihood import Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.events import StreamedEvents
from neyman.likelihood.shapes import UpDownRatio
path, columns = Path(sys.argv[1]), [f"c{i}" for i in range(21)]
shapes = tuple(UpDownRatio(f"a{k}", f"c{2 * k + 1}", f"c{2 * k + 2}") for k in range(10))
events = StreamedEvents(path, None, columns, chunk=1 << 14)
model = [UnbinnedSample("s", 10.0, "c0", shapes=shapes)]
names = [Parameter(f"a{k}", 0.0, -5.0, 5.0) for k in range(10)]
term = UnbinnedTerm("SR", model, names, data=events, reference=events, threads=2)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
term.evaluate(torch.full((10,), 0.3, dtype=torch.float64), 2)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """The peak of a pass over 126 MB of columns stays under a third of them."""
    n = 1_500_000
    rng = np.random.default_rng(0)
    column = rng.normal(0.0, 0.1, n).astype(np.float32)
    names = [f"c{i}" for i in range(21)]
    pq.write_table(pa.table(dict.fromkeys(names, column)), tmp_path / "large.parquet", use_dictionary=False)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "large.parquet")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < n * 21 * 4 / 3

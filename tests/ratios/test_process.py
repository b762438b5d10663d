"""Ratios of a process: columns, tabulation in a nuisance parameter, and the files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.interpolate import BarycentricInterpolator

import neyman as ny
from neyman.errors import TrainingError, WorkspaceError
from neyman.networks import MLP, Description, Model, Part
from neyman.ratios import ProcessRatios, RatioTable, tabulate
from neyman.ratios.process import lobatto

EVENTS = ny.EventTable(
    ("a", "b"),
    np.random.default_rng(1).normal(size=(300, 2)),
    np.random.default_rng(2).normal(1.0, 0.5, 300),
    {"entry": np.arange(300)},
)


def model(parameters: tuple[str, ...] = (), seed: int = 1, **changes: Any) -> Model:
    settings: dict[str, Any] = {
        "features": ("a", "b"),
        "hidden": (16, 16),
        "activation": "silu",
        "parameter_range": ((-3.0, 3.0),) * len(parameters),
    } | changes
    architecture = MLP(settings.pop("hidden"), settings.pop("activation"))
    part = Part(network=architecture, members=2, parameters=parameters)
    network = architecture.build(2 + len(parameters), members=2, seed=seed)
    return Model([network], Description(parameters=parameters, parts=(part,), **settings))


@pytest.mark.parametrize(("low", "high", "n"), [(-2.0, 2.0, 5), (-3.0, 1.0, 9)])
def test_lobatto_points_are_the_extrema_of_a_chebyshev_polynomial(low: float, high: float, n: int) -> None:
    points = np.array(lobatto(low, high, n))
    assert (points[0], points[-1], points[n // 2]) == (low, high, (low + high) / 2.0)
    unit = (2.0 * points - (low + high)) / (high - low)
    np.testing.assert_allclose(np.abs(np.cos((n - 1) * np.arccos(unit))), 1.0, atol=1e-9)
    assert (np.diff(points) > 0).all()


def test_tabulation_reproduces_the_network() -> None:
    smooth = model(("z",))
    nodes, error = tabulate(smooth, EVENTS, -2.0, 2.0)
    assert 0.0 in nodes
    assert (nodes[0], nodes[-1]) == (-2.0, 2.0)
    assert error <= 1e-3
    table = np.stack([smooth(EVENTS.x, [node]) for node in nodes])
    between = [(a + b) / 2.0 for a, b in pairwise(nodes)]
    exact = np.stack([smooth(EVENTS.x, [z]) for z in between])
    polynomial = BarycentricInterpolator(nodes, table.astype(np.float64))(between)
    assert np.sqrt(np.mean((polynomial - exact) ** 2)) == pytest.approx(error, rel=0.05, abs=1e-6)
    elsewhere = np.linspace(-1.9, 1.9, 7)
    exact = np.stack([smooth(EVENTS.x, [z]) for z in elsewhere])
    assert np.abs(BarycentricInterpolator(nodes, table.astype(np.float64))(elsewhere) - exact).max() < 5e-3
    tighter, smaller = tabulate(smooth, EVENTS, -2.0, 2.0, tolerance=2e-5)
    assert len(tighter) > len(nodes)
    assert smaller <= 2e-5


def test_tabulation_errors() -> None:
    with pytest.raises(
        TrainingError, match=r"\[-4, 2\] of 'z' exceeds the trained range\n.*inside \[-3, 3\]"
    ):
        tabulate(model(("z",)), EVENTS, -4.0, 2.0)
    with pytest.raises(TrainingError, match=r"a model of \(\) over \[-1, 1\]"):
        tabulate(model(), EVENTS, -1.0, 1.0)
    with pytest.raises(TrainingError, match=r"over \[1, -1\]"):
        tabulate(model(("z",)), EVENTS, 1.0, -1.0)
    rough = model(("z",), activation="relu", hidden=(64, 64))
    with pytest.raises(TrainingError, match=r"'z' is too rough to tabulate: error .* with 9 nodes"):
        tabulate(rough, EVENTS, -2.0, 2.0, tolerance=1e-6, largest=9)


def test_columns_of_a_process() -> None:
    up, down = model(seed=2), model(seed=3, features=("b", "a"))
    process = ProcessRatios("ztt", model(("tes",)), {"jes": (up, down)}, nodes=(-1.0, 0.0, 1.0))
    assert process.conditioned_on == "tes"
    columns = process.columns(EVENTS)
    assert list(columns) == [
        "ztt",
        "ztt@tes=-1.0000",
        "ztt@tes=+0.0000",
        "ztt@tes=+1.0000",
        "ztt:jes:up",
        "ztt:jes:down",
    ]
    np.testing.assert_array_equal(columns["ztt"], process.nominal(EVENTS.x, [0.0]))
    np.testing.assert_array_equal(columns["ztt@tes=+0.0000"], columns["ztt"])
    np.testing.assert_array_equal(columns["ztt@tes=+1.0000"], process.nominal(EVENTS.x, [1.0]))
    np.testing.assert_array_equal(columns["ztt:jes:up"], up(EVENTS.x))
    np.testing.assert_array_equal(columns["ztt:jes:down"], down(EVENTS.x[:, ::-1]))


def test_a_process_without_nuisance_parameters_has_one_column() -> None:
    process = ProcessRatios("signal", model())
    assert process.conditioned_on is None
    assert list(process.columns(EVENTS)) == ["signal"]


def test_ratio_table_round_trip(tmp_path: Path) -> None:
    processes = [ProcessRatios("signal", model()), ProcessRatios("ztt", model(seed=5))]
    table = RatioTable.evaluate(EVENTS, processes)
    file = table.to_parquet(tmp_path / "events.parquet")
    stored = pq.read_table(file)
    assert stored.column_names == ["weight", "x:a", "x:b", "x:entry", "signal", "ztt"]
    np.testing.assert_array_equal(stored["weight"].to_numpy(), EVENTS.weight)
    np.testing.assert_array_equal(stored["x:b"].to_numpy(), EVENTS.x[:, 1])
    np.testing.assert_array_equal(stored["x:entry"].to_numpy(), EVENTS.extra["entry"])
    np.testing.assert_array_equal(stored["ztt"].to_numpy(), processes[1].nominal(EVENTS.x))
    assert [p.name for p in tmp_path.iterdir()] == ["events.parquet"]
    again = ny.EventTable.from_parquet(file, features=("x:a", "x:b"), weight="weight")
    np.testing.assert_array_equal(again.x, EVENTS.x)


def test_processes_that_cannot_be_described() -> None:
    with pytest.raises(WorkspaceError, match="'s' is conditioned on 2 nuisance parameters"):
        ProcessRatios("s", model(("y", "z")), nodes=(0.0,))
    for conditioned, nodes in ((model(("z",)), ()), (model(), (0.0,))):
        with pytest.raises(WorkspaceError, match="needs nodes exactly when it is conditioned"):
            ProcessRatios("s", conditioned, nodes=nodes)

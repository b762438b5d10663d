"""Jagged collections as flat columns."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from neyman.errors import ConfigError, InputError, NeymanWarning
from neyman.events import EventTable
from neyman.events.particles import padded

JETS = ak.Array(
    [
        [{"eta": 0.5, "phi": 1.0, "pt": 50.0}, {"eta": 0.0, "phi": 0.0, "pt": 30.0}],
        [],
        [{"eta": -1.5, "phi": -3.0, "pt": 20.0}],
    ]
)


def test_columns_are_particle_by_particle() -> None:
    columns = padded(JETS, ("eta", "pt"), 3, "jet")
    assert list(columns) == [f"jet{i}_{field}" for i in range(3) for field in ("eta", "pt")]
    expected = [[0.5, 50.0, 0.0, 30.0, 0.0, 0.0], [0.0] * 6, [-1.5, 20.0, 0.0, 0.0, 0.0, 0.0]]
    table = EventTable.from_arrays(columns, features=tuple(columns))
    np.testing.assert_array_equal(table.x, np.asarray(expected, dtype=np.float32))
    again = EventTable.from_awkward(ak.zip(columns), features=tuple(columns))
    np.testing.assert_array_equal(again.x, table.x)


def test_large_samples_agree_with_a_loop() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 9, 300)
    flat = rng.normal(size=(counts.sum(), 2))
    jets = ak.unflatten(ak.zip({"a": flat[:, 0], "b": flat[:, 1]}), counts)
    x = np.stack(list(padded(jets, ("a", "b"), 8, "p").values()), axis=1)
    for event, row in zip(ak.to_list(jets), x, strict=True):
        values = [v for p in event for v in (p["a"], p["b"])]
        np.testing.assert_array_equal(row, np.asarray(values + [0.0] * (16 - len(values)), dtype=np.float32))


def test_left_out_particles_are_reported() -> None:
    with pytest.warns(
        NeymanWarning, match="jet: 1 particles of 1 of 3 events are left out; the largest event has 2"
    ):
        columns = padded(JETS, ("eta", "phi", "pt"), 1, "jet")
    np.testing.assert_array_equal(columns["jet0_pt"], [50.0, 0.0, 20.0])


def test_no_events() -> None:
    assert padded(JETS[:0], ("eta",), 2)["particle1_eta"].shape == (0,)
    assert padded(JETS[1:2], ("eta",), 2)["particle0_eta"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("fields", "particles", "message"),
    [
        ("eta", 2, "fields are 'eta'"),
        ((), 2, "fields are"),
        (("eta", "eta"), 2, "fields are"),
        (("eta",), 0, "room for 0"),
    ],
)
def test_unusable_arguments(fields: tuple[str, ...], particles: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        padded(JETS, fields, particles)


def test_unusable_collections() -> None:
    with pytest.raises(InputError, match=r"no column 'Eta'[\s\S]*expected: eta"):
        padded(JETS, ("Eta",), 2)
    with pytest.raises(InputError, match=r"'eta' is not one number a particle: it has 1 axes"):
        padded(ak.Array([{"eta": 1.0}]), ("eta",), 2)
    with pytest.raises(InputError, match=r"'eta' is not one number a particle: values are missing"):
        padded(ak.Array([[{"eta": 1.0}, {"eta": None}]]), ("eta",), 2)
    with pytest.raises(InputError, match=r"'eta' is not one number a particle: values are missing"):
        padded(ak.Array([[{"eta": 1.0}], None]), ("eta",), 2)
    with pytest.raises(InputError, match=r"'eta' is not one number a particle: it has 3 axes"):
        padded(ak.Array([[{"eta": [1.0]}]]), ("eta",), 2)
    with pytest.raises(InputError, match=r"'eta' is not one number a particle"):
        padded(ak.Array([[{"eta": "large"}]]), ("eta",), 2)


def test_a_particle_of_zeros_is_not_padding() -> None:
    with pytest.raises(
        InputError, match=r"the features of 1 particles are all 0[\s\S]*jet, first in event 0"
    ):
        padded(JETS, ("eta", "phi"), 2, "jet")

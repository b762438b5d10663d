"""Variations, regions, and the draws of sampled shifts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neyman.errors import ConfigError
from neyman.events import RegionSpec, Variation
from neyman.events.draws import uniform
from neyman.events.processing.selection import Shifts

IDS = np.arange(20_000) + (123 << 28)


def test_draws_are_uniform_and_independent():
    u, v = uniform(("shift", 1, "tes", 0), IDS), uniform(("shift", 1, "tes", 1), IDS)
    assert stats.kstest(u, "uniform").pvalue > 0.01
    assert u.min() >= 0
    assert u.max() < 1
    for a, b in ((u, v), (u[:-1], u[1:]), (u, IDS)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


def test_a_draw_belongs_to_its_id():
    order = np.random.default_rng(0).permutation(len(IDS))
    np.testing.assert_array_equal(uniform(("k", 1), IDS)[order], uniform(("k", 1), IDS[order]))
    assert not np.any(uniform(("k", 1), IDS) == uniform(("k", 2), IDS))


def test_shifts_are_a_mapping_with_the_drawn_values():
    variation = Variation("v", shifts={"jes": 1.03}, sampled={"tes": (0.9, 1.1)}, replicas=2)
    shifts = Shifts(variation, IDS, seed=1, replica=1)
    assert shifts.get("jes") == 1.03
    assert shifts.get("met", 1.0) == 1.0
    assert set(shifts) == {"jes", "tes"}
    assert len(shifts) == 2
    assert stats.kstest((shifts["tes"] - 0.9) / 0.2, "uniform").pvalue > 0.01
    again, other = (Shifts(variation, IDS, seed=1, replica=r)["tes"] for r in (1, 0))
    np.testing.assert_array_equal(shifts["tes"], again)
    assert not np.any(shifts["tes"] == other)


def test_a_shift_that_is_never_read_is_named():
    shifts = Shifts(Variation("tse_up", shifts={"tse": 1.1}), IDS, seed=1, replica=0)
    shifts.get("tes", 1.0)
    with pytest.raises(
        ConfigError, match=r"shifts 'tse', which the function never reads[\s\S]*it reads: tes"
    ):
        shifts.check_used("processor.py")
    assert shifts["tse"] == 1.1
    shifts.check_used("processor.py")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../up"}, "name '../up' is not usable"),
        ({"name": ".hidden"}, "not usable"),
        ({"name": "up", "shifts": {"tes": float("nan")}}, "sets tes to nan"),
        ({"name": "s", "sampled": {"tes": (1.1, 0.9)}}, r"samples tes from 1.1 to 0.9[\s\S]*low < high"),
        ({"name": "s", "sampled": {"weight": (0, 1)}}, "cannot sample 'weight'"),
        ({"name": "s", "sampled": {"tes": (0, 1)}, "shifts": {"tes": 1}}, "cannot sample 'tes'"),
        ({"name": "s", "replicas": 2}, "has replicas = 2"),
        ({"name": "s", "sampled": {"tes": (0, 1)}, "replicas": 0}, "has replicas = 0"),
    ],
)
def test_variation_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        Variation(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "keeps nothing"),
        ({"columns": ("a", "b", "a")}, "column 'a' cannot be chosen"),
        ({"columns": ("a", "entry")}, "column 'entry' cannot be chosen"),
        ({"histogram": ("a", (0.0,))}, "bin edges of a"),
        ({"histogram": ("a", (0.0, 2.0, 1.0))}, "increasing"),
        ({"histogram": ("a", (0.0, float("inf")))}, "bin edges"),
    ],
)
def test_region_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        RegionSpec(**options)

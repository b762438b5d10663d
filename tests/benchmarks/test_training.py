"""Training time of an ensemble in one pass, beside a loop in the same run."""

from __future__ import annotations

import numpy as np
import pytest

import neyman as ny
from neyman.networks import MLP
from neyman.ratios import LRE
from neyman.training import Settings

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("batch_size", [256, 512])
def test_training_time(record, seconds, show, batch_size):
    """Five members in one pass against a Python loop over five single networks."""
    rng = np.random.default_rng(1)
    p, q = (
        ny.EventTable.from_arrays(
            {f"x{i}": rng.normal(m, 1, 40_000) for i in range(15)}, features=tuple(f"x{i}" for i in range(15))
        )
        for m in (0.1, -0.1)
    )
    settings = Settings(steps=200, batch_size=batch_size, evaluations=2)
    stacked = LRE(MLP((64, 64, 64)), ensemble=5, settings=settings)
    single = LRE(MLP((64, 64, 64)), ensemble=1, settings=settings)
    one_pass = seconds(lambda: stacked.fit(p, q, seed=1), repeat=2)
    loop = seconds(lambda: [single.fit(p, q, seed=s) for s in range(5)], repeat=2)
    rows = [
        {"what": "five members in one pass", "s": one_pass, "ms a step": 1e3 * one_pass / 200},
        {"what": "loop over five networks", "s": loop, "ms a step": 1e3 * loop / 200},
    ]
    show(
        f"training, batch {batch_size} of each class, 64 x 64 x 64: loop / one pass = {loop / one_pass:.2f}",
        rows,
    )
    record(f"training_{batch_size}", {"rows": rows, "speedup": loop / one_pass})

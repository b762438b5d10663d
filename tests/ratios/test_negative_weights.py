r"""A sample with 20% of negative weights trains what the positive sample of the same density trains.

:math:`p = \frac43 \mathcal N(0, 1) - \frac13 \mathcal N(0.5, 0.7^2)`, positive everywhere.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

import neyman as ny

N = 30_000
P1, P2, Q = norm(0.0, 1.0), norm(0.5, 0.7), norm(0.0, 1.3)
GRID = np.linspace(-1.5, 1.5, 61)
EXACT = np.log(4.0 * P1.pdf(GRID) - P2.pdf(GRID)) - np.log(3.0)
WITHOUT_SIGNS = np.log(4.0 * P1.pdf(GRID) + P2.pdf(GRID)) - np.log(5.0)


def table(x, weight) -> ny.EventTable:
    return ny.EventTable.from_arrays({"x": x, "w": weight}, features=("x",), weight="w")


def samples() -> dict[str, ny.EventTable]:
    """The same density and the same sum of weights, with and without negative weights."""
    rng = np.random.default_rng(1)
    weight = np.where(rng.uniform(size=N) < 0.2, -1.0, 1.0)
    x = np.where(weight > 0.0, P1.rvs(N, random_state=rng), P2.rvs(N, random_state=rng))
    proposed = P1.rvs(N, random_state=rng)
    accepted = rng.uniform(size=N) < 1.0 - P2.pdf(proposed) / (4.0 * P1.pdf(proposed))
    positive = proposed[accepted][: round(0.6 * N)]
    return {"signed": table(x, weight), "positive": table(positive, np.ones(len(positive)))}


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("kind", ["bce", "mlc", "dle"])
def test_signed_and_positive_samples_agree_within_the_spread(kind: str) -> None:
    settings = ny.training.Settings(
        steps=250, batch_size=1024, learning_rate=1e-2, evaluations=5, validation_fraction=0.1
    )
    if kind == "dle":
        flow = ny.networks.NSF(transforms=1, hidden=(8,), bins=8)
        estimator = ny.ratios.DLE(flow, ensemble=4, bootstrap=True, settings=settings)
        exact = EXACT
    else:
        loss = ny.training.BCE() if kind == "bce" else ny.training.MLC("exp")
        estimator = ny.ratios.LRE(
            ny.networks.MLP((16, 16)), loss=loss, ensemble=4, bootstrap=True, settings=settings
        )
        exact = EXACT - Q.logpdf(GRID)
    reference = table(Q.rvs(N, random_state=np.random.default_rng(2)), np.ones(N))
    members = {}
    for name, sample in samples().items():
        arguments = (sample,) if kind == "dle" else (sample, reference)
        members[name] = estimator.fit(*arguments, seed=1).members(GRID[:, None]).astype(np.float64)
    mean = {name: one.mean(axis=0) for name, one in members.items()}
    spread = rms(np.hypot(*(one.std(axis=0, ddof=1) for one in members.values())))
    assert rms(mean["signed"] - mean["positive"]) < 1.5 * spread
    error = rms(mean["signed"] - exact)
    assert error < 2.0 * spread
    assert spread < 0.4 * rms(WITHOUT_SIGNS - EXACT)

r"""Ratios and densities learned from a sample with 20% of negative weights beside those from a positive sample.

Both samples have the density :math:`p = \frac43 p_1 - \frac13 p_2` of two Gaussians in the plane and the same sum of
weights: 200,000 events of weights 1 and -1 (as of a next-to-leading-order generator), and 120,000 of weight 1 drawn
by rejection. Members train on bootstrapped events, so that their spread is the statistical error of one training
sample; the ensembles must agree within the spreads of both.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import neyman as ny

pytestmark = pytest.mark.benchmark
P1 = multivariate_normal([0.0, 0.0], 1.0)
P2 = multivariate_normal([0.5, 0.0], 0.7**2)
Q = multivariate_normal([0.0, 0.0], 1.3**2)
N, SEED = 200_000, 1
SHOWN = (
    "rms_difference",
    "rms_spread",
    "rms_difference_in_spreads",
    "rms_error_signed",
    "rms_error_positive",
)


def density(x):
    """Exact p(x), positive everywhere: p2 is at most 2.6 p1."""
    return (4.0 * P1.pdf(x) - P2.pdf(x)) / 3.0


def table(x, weight=None):
    columns = {"x0": x[:, 0], "x1": x[:, 1]} | ({} if weight is None else {"w": weight})
    return ny.EventTable.from_arrays(columns, features=("x0", "x1"), weight=None if weight is None else "w")


def signed(rng):
    """Each event is negative with probability 1/5."""
    n = rng.binomial(N, 0.2)
    x = np.concatenate([P1.rvs(N - n, random_state=rng), P2.rvs(n, random_state=rng)])
    order = rng.permutation(N)
    return table(x[order], np.repeat([1.0, -1.0], [N - n, n])[order])


def positive(n, rng):
    x = P1.rvs(2 * n, random_state=rng)
    kept = x[rng.uniform(size=2 * n) < 3.0 * density(x) / (4.0 * P1.pdf(x))]
    return table(kept[:n])


def settings(**changes):
    return ny.training.Settings(**{"batch_size": 1024, "learning_rate": 1e-2, "evaluations": 10} | changes)


ESTIMATORS = {
    "lre_bce": ny.ratios.LRE(
        ny.networks.MLP((32, 32)), ensemble=5, bootstrap=True, settings=settings(steps=2500)
    ),
    "lre_mlc": ny.ratios.LRE(
        ny.networks.MLP((32, 32)),
        loss=ny.training.MLC("exp"),
        ensemble=5,
        bootstrap=True,
        settings=settings(steps=2500),
    ),
    "dle": ny.ratios.DLE(
        ny.networks.NSF(transforms=2, hidden=(32, 32), bins=8),
        ensemble=6,
        bootstrap=True,
        settings=settings(steps=500, learning_rate=3e-3),
    ),
}


def test_signed_sample_against_positive_sample(record, show):
    """Mean log-ratios (log-densities) on independent events of p, within the spread of the members."""
    rng = np.random.default_rng(SEED)
    samples = {"signed": signed(rng), "positive": positive(round(0.6 * N), rng)}
    reference = table(Q.rvs(N, random_state=rng))
    test = positive(20_000, rng)
    x = test.x.astype(np.float64)
    bias_if_ignored = np.log((4.0 * P1.pdf(x) + P2.pdf(x)) / 5.0) - np.log(density(x))
    figures: dict = {
        "events": {name: len(sample) for name, sample in samples.items()},
        "sum_of_weights": {name: float(sample.weight.sum()) for name, sample in samples.items()},
        "negative_fraction": float((samples["signed"].weight < 0.0).mean()),
        "rms_error_if_signs_were_ignored": rms(bias_if_ignored),
    }
    for name, estimator in ESTIMATORS.items():
        start = time.process_time()
        members, exact = {}, np.log(density(x)) - (0.0 if name == "dle" else Q.logpdf(x))
        for kind, sample in samples.items():
            arguments = (sample,) if name == "dle" else (sample, reference)
            members[kind] = estimator.fit(*arguments, seed=SEED).members(test).astype(np.float64)
        mean = {kind: one.mean(axis=0) for kind, one in members.items()}
        spread = {kind: one.std(axis=0, ddof=1) for kind, one in members.items()}
        both = np.hypot(*spread.values())
        difference = mean["signed"] - mean["positive"]
        figures[name] = {
            "rms_difference": rms(difference),
            "mean_difference": float(difference.mean()),
            "rms_spread": rms(both),
            "rms_difference_in_spreads": rms(difference) / rms(both),
            "within_2_spreads": float((np.abs(difference) < 2.0 * both).mean()),
        }
        for kind in samples:
            off = mean[kind] - exact
            figures[name] |= {
                f"rms_error_{kind}": rms(off),
                f"rms_spread_{kind}": rms(spread[kind]),
                f"error_in_spreads_{kind}": rms(off) / rms(spread[kind]),
            }
        figures[name]["training_cpu_s"] = time.process_time() - start
    record("negative_weights", figures)
    show(
        "20% of negative weights",
        [{"estimator": name} | {key: figures[name][key] for key in SHOWN} for name in ESTIMATORS],
    )
    for name in ESTIMATORS:
        own = figures[name]
        assert own["rms_difference_in_spreads"] < 1.0
        assert own["rms_error_signed"] < 0.2 * figures["rms_error_if_signs_were_ignored"]


def rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))

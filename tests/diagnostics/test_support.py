"""Supports that overlap, and that do not."""

from __future__ import annotations

import numpy as np
import pytest

from neyman.diagnostics.support import support
from neyman.errors import InputError


def samples(seed, n=20_000, negative=0.0, distance=1.0):
    """Two features of N(+-d/2, 1) and N(0, 1); the exact log-ratio is d times the first."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(2, n, 2))
    p[:, 0] += 0.5 * distance
    q[:, 0] -= 0.5 * distance
    w_p, w_q = (np.where(rng.random(n) < negative, -1.0, 1.0) for _ in "pq")
    return (p, w_p), (q, w_q), distance * p[:, 0], distance * q[:, 0]


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_gate_passes_supports_that_overlap(seed, negative):
    found = support(["x", "y"], *samples(seed, negative=negative))
    assert found.passed, found.reason
    assert "at most" in found.reason


@pytest.mark.parametrize("negative", [0.0, 0.2])
def test_gate_fails_disjoint_supports_and_names_the_feature(negative):
    found = support(["x", "y"], *samples(1, negative=negative, distance=9.0))
    assert not found.passed
    assert found.above[0] > 0.9
    assert found.beyond > 0.9
    assert "lies outside the range of the reference in x, " in found.reason
    assert "in y" not in found.reason


def test_a_hole_that_only_the_log_ratio_sees():
    rng = np.random.default_rng(2)
    p, q = rng.normal(size=(2, 5000, 2))
    q = q[np.hypot(q[:, 0], q[:, 1]) > 0.4]
    l_p, l_q = (np.where(np.hypot(x[:, 0], x[:, 1]) > 0.4, 0.0, 5.0) for x in (p, q))
    found = support(["x", "y"], (p, np.ones(5000)), (q, np.ones(len(q))), l_p, l_q)
    assert not found.passed
    assert found.above.max() < 0.01
    assert found.beyond == pytest.approx(1.0 - np.exp(-0.08), abs=0.01)
    assert "has a log-ratio above 0, where the reference has no event" in found.reason


def test_shares_by_hand():
    target = (np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1.0, 1.0, 2.0, -1.0]))
    reference = (np.array([[0.5], [2.5]]), np.ones(2))
    found = support(["x"], target, reference, [0.0, 0.0, 1.0, 2.0], [0.0, 0.5], tolerance=0.5)
    assert found.below == pytest.approx([0.2])
    assert found.above == pytest.approx([0.2])
    assert found.threshold == 0.5
    assert found.beyond == pytest.approx(0.6)
    assert (found.target.sum(), found.reference.sum()) == pytest.approx((1.0, 1.0))
    assert not found.passed


def test_light_reference_events_do_not_count_as_one():
    target, (q, w), l_p, l_q = samples(3)
    plain = support(["x", "y"], target, (q, w), l_p, l_q)
    assert plain.threshold == l_q.max()
    order = np.argsort(l_q)
    light = w.copy()
    light[order[-10:]] = 1e-3  # ten events, a hundredth of an effective one
    assert support(["x", "y"], target, (q, light), l_p, l_q).threshold == l_q[order[-11]]


def test_impossible_input():
    (p, w), (q, v), l_p, l_q = samples(4, 100)
    with pytest.raises(InputError, match=r"features of the reference have shape \(100, 1\)"):
        support(["x", "y"], (p, w), (q[:, :1], v), l_p, l_q)
    with pytest.raises(InputError, match="log-ratios of the reference are not finite"):
        support(["x", "y"], (p, w), (q, v), l_p, np.where(l_q > 1.0, np.nan, l_q))
    with pytest.raises(InputError, match="the target has a total weight of 0"):
        support(["x", "y"], (p, 0.0 * w), (q, v), l_p, l_q)
    with pytest.raises(InputError, match="the reference has a total weight of 0"):
        support(["x", "y"], (p, w), (q[:0], v[:0]), l_p, l_q[:0])

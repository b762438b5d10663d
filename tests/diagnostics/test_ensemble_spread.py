"""Spread of members that differ by a known amount."""

from __future__ import annotations

import numpy as np
import pytest

from neyman.diagnostics.spread import ensemble_spread
from neyman.errors import InputError


def ensemble(seed, noise, n=10_000, members=6, negative=0.0):
    """The exact log-ratio x with slopes that differ between the members."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-0.5, 1.0, n)
    slopes = rng.normal(1.0, noise, members)
    return slopes[:, None] * x, np.where(rng.random(n) < negative, -1.0, 1.0)


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_gate_passes_members_that_agree(seed, negative):
    found = ensemble_spread(*ensemble(seed, 0.02, negative=negative))
    assert found.passed, found.reason
    assert found.relative < 1.0


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_gate_fails_noisy_members(seed, negative):
    found = ensemble_spread(*ensemble(seed, 0.5, negative=negative))
    assert not found.passed
    assert found.relative > 1.0
    assert "the spread of 6 members moves the bins" in found.reason


def test_spread_of_an_event_is_the_error_of_the_mean():
    x = np.random.default_rng(1).normal(size=1000)
    members = x + np.array([-1.0, 0.0, 1.0])[:, None] * 0.3
    found = ensemble_spread(members, np.ones(1000))
    assert (found.median, found.upper) == pytest.approx((0.3 / np.sqrt(3.0),) * 2)
    assert found.per_event == pytest.approx(0.3 / np.sqrt(3.0))
    assert found.spread == pytest.approx(
        0.0, abs=1e-12
    )  # a common factor does not change normalised contents


def test_bins_against_a_direct_sum():
    members, w = ensemble(2, 0.2, 2000)
    found = ensemble_spread(members, w, bins=5)
    each = np.exp(members)
    inside = (members.mean(axis=0) >= found.edges[2]) & (members.mean(axis=0) < found.edges[3])
    shares = each[:, inside].sum(axis=1) / each.sum(axis=1)
    mean = np.exp(members.mean(axis=0))
    content = mean[inside].sum() / mean.sum()
    assert found.contents[2] == pytest.approx(content)
    assert found.spread[2] == pytest.approx(shares.std(ddof=1) / np.sqrt(6.0) / content)
    assert found.statistical[2] == pytest.approx(np.sqrt((mean[inside] ** 2).sum()) / mean[inside].sum())
    assert found.contents == pytest.approx(0.2, abs=0.005)


def test_the_data_set_decides():
    members, w = ensemble(3, 0.2)
    assert not ensemble_spread(members, w, expected=100_000.0).passed
    few = ensemble_spread(members, w, expected=100.0)
    assert few.passed
    assert few.statistical == pytest.approx(1.0 / np.sqrt(100.0 * few.contents))
    assert "of 100 events" in few.reason


def test_tiny_spreads_pass_whatever_the_statistics():
    members, w = ensemble(4, 0.01)
    found = ensemble_spread(members, w, expected=1e9)
    assert found.relative > 1.0
    assert found.passed


def test_another_score():
    members, w = ensemble(5, 0.3)
    flat = ensemble_spread(members, w, score=np.random.default_rng(5).random(10_000))
    assert (
        flat.effect < 0.3 * ensemble_spread(members, w).effect
    )  # members differ in x, not in a random number
    counts = ensemble_spread(members, w, score=np.arange(10_000) % 3)
    assert len(counts.contents) == 3


def test_impossible_input():
    members, w = ensemble(6, 0.1, 100)
    with pytest.raises(InputError, match=r"shape \(1, 100\) have no spread"):
        ensemble_spread(members[:1], w)
    bad = members.copy()
    bad[2, 0] = 50.0
    with pytest.raises(InputError, match="reweighted by member 2 has a total weight of -"):
        ensemble_spread(bad, np.where(np.arange(100) == 0, -1.0, w))
    with pytest.raises(InputError, match="expected number of events is 0"):
        ensemble_spread(members, w, expected=0.0)
    with pytest.raises(InputError, match=r"score have shape \(99,\)"):
        ensemble_spread(members, w, score=members[0, 1:])
    with pytest.raises(InputError, match="have no positive content"):
        ensemble_spread(members, np.where(np.abs(members[0]) < 0.3, -1.0, w), bins=20)

"""ExactSum: equal to exact arithmetic, in any order and grouping, for numbers, arrays and histograms."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from functools import reduce
from operator import add

import hist
import numpy as np
import pytest
from coffea.processor import accumulate
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import InputError
from neyman.events.processing.exact import ExactSum, sorted_categories, totals

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@given(st.lists(finite, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_sum_is_the_exact_one_rounded_once(values, rng):
    shuffled = list(values)
    rng.shuffle(shuffled)
    expected = float(sum(map(Fraction, values)))
    assert reduce(add, map(ExactSum, shuffled)).total() == expected
    half = len(values) // 2
    parts = [reduce(add, map(ExactSum, part)) for part in (values[:half], values[half:]) if part]
    assert reduce(add, parts).total() == expected == math.fsum(values)


def test_arrays_and_extremes():
    smallest, largest = 5e-324, 1.7e308
    values = np.array([[smallest, largest, 0.0], [-smallest, -1.0, 1e-200]])
    total = (ExactSum(values) + ExactSum(np.ones((2, 3)))).total()
    np.testing.assert_array_equal(total, values + 1.0)
    np.testing.assert_array_equal(ExactSum(values).total(), values)
    assert ExactSum(np.zeros((0, 2))).total().shape == (0, 2)
    assert ExactSum(-0.0).total() == 0.0


def test_many_summands_do_not_overflow_a_limb():
    one = ExactSum(np.full(3, np.nextafter(1.0, 0.0)))
    total = one
    for _ in range(20):  # 2^20 summands
        total = total + total
    np.testing.assert_array_equal(total.total(), np.nextafter(1.0, 0.0) * 2.0**20)


def chunk(seed: int, categories: str, storage=None) -> hist.Hist:
    rng = np.random.default_rng(seed)
    h = hist.Hist(
        hist.axis.StrCategory([], growth=True, name="channel"),
        hist.axis.StrCategory([], growth=True, name="variation"),
        hist.axis.Regular(7, 0, 1, name="x", label="an x"),
        storage=storage or hist.storage.Weight(),
        label="events",
    )
    for category in categories:
        h.fill(category, f"v{category}", rng.random(30) * 1.2, weight=rng.normal(1.0, 0.7, 30))
    return h


@pytest.mark.parametrize("storage", [hist.storage.Weight(), hist.storage.Double()])
def test_histograms_have_the_same_bits_in_every_order(storage):
    chunks = [chunk(i, c, storage) for i, c in enumerate(["b", "ab", "", "ca", "dbca", "b", "d"])]
    expected = reduce(add, chunks)
    seen = []
    for seed in range(5):
        order = random.Random(seed).sample(chunks, len(chunks))
        seen.append(reduce(add, map(ExactSum, order)).total())
        left, right = (accumulate([ExactSum(h) for h in part]) for part in (order[:3], order[3:]))
        seen.append(accumulate([right, left]).total())
    for total in seen:
        assert total == seen[0]
        assert list(total.axes[0]) == ["a", "b", "c", "d"]
        assert total.axes[2].label == "an x"
        assert total.label == "events"
        np.testing.assert_array_equal(total.view(flow=True), seen[0].view(flow=True))
        ours, theirs = total.values(flow=True), sorted_categories(expected).values(flow=True)
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_a_sum_does_not_change_what_it_is_made_of():
    one, two = ExactSum(chunk(1, "a")), ExactSum(chunk(2, "ab"))
    before = one.total(), two.total()
    both = one + two
    both += two
    assert (one.total(), two.total()) == before


def test_sorted_categories_moves_contents_bit_by_bit():
    h = chunk(3, "cab")
    ordered = sorted_categories(h)
    assert list(ordered.axes["variation"]) == ["va", "vb", "vc"]
    for c in "abc":
        for v in ("va", "vb", "vc"):
            one, other = (x[{"channel": c, "variation": v}].view(flow=True) for x in (h, ordered))
            np.testing.assert_array_equal(one, other)


def test_totals_goes_through_dictionaries():
    nested = {"a": {"n": 3, "sumw": ExactSum(0.5)}, "b": [1]}
    assert totals(nested) == {"a": {"n": 3, "sumw": 0.5}, "b": [1]}


def test_errors():
    h = chunk(1, "a")
    h.view(flow=True)["value"][0, 0, 0] = np.nan
    for bad in (np.nan, np.inf, h):
        with pytest.raises(InputError, match=r"1 of \d+ numbers to be summed are not finite"):
            ExactSum(bad)
    other = hist.Hist(hist.axis.Regular(3, 0, 1, name="y"), storage=hist.storage.Weight())
    for bad in (ExactSum(other), ExactSum(1.0)):
        with pytest.raises(InputError, match=r"different axes[\s\S]*channel, variation, x and (y|a number)"):
            ExactSum(chunk(1, "a")) + bad
    large = ExactSum(1.7e308)
    assert (large + large + ExactSum(-1.7e308)).total() == 1.7e308
    with pytest.raises(InputError, match=r"a sum is larger than a float can be[\s\S]*at most 1.8e\+308"):
        (large + large).total()
    mean = hist.Hist(hist.axis.Regular(3, 0, 1), storage=hist.storage.Mean())
    with pytest.raises(InputError, match=r"Mean storage cannot be summed[\s\S]*Weight or Double"):
        ExactSum(mean)

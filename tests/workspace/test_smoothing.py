"""`smooth_353qh`: what it keeps, what it takes away, and a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neyman.workspace.smoothing import smooth_353qh

SEQUENCES = st.tuples(st.integers(0, 2**32), st.integers(3, 30)).map(
    lambda drawn: np.random.default_rng(drawn[0]).normal(size=drawn[1])
)


def reference(values):
    """353QH twice with lists, medians by sorting and the parabola by solving for its coefficients."""

    def median(*v):
        return sorted(v)[len(v) // 2]

    def threes(y):
        out = [y[0], *(median(*y[i - 1 : i + 2]) for i in range(1, len(y) - 1)), y[-1]]
        left = median(y[0], out[1], 3 * out[1] - 2 * out[2])
        right = median(y[-1], out[-2], 3 * out[-2] - 2 * out[-3])
        return [left, *out[1:-1], right]

    def fives(y):
        middle = [median(*y[max(i - 2, 0) : i + 3]) for i in range(2, len(y) - 2)]
        if len(y) == 3:
            return [y[0], median(*y), y[2]]
        return [y[0], median(*y[:3]), *middle, median(*y[-3:]), y[-1]]

    tiny = 1e-12 * max(map(abs, values))

    def parabolas(y):
        out = list(y)
        for i in range(2, len(y) - 2):
            low, high = y[i] - tiny, y[i] + tiny
            flat = low <= min(y[i - 1 : i + 2]) and max(y[i - 1 : i + 2]) <= high
            top, bottom = max(y[i - 2], y[i + 2]) < low, min(y[i - 2], y[i + 2]) > high
            if not (flat and (top or bottom)):
                continue
            kept = -1 if abs(y[i - 2] - y[i]) >= abs(y[i + 2] - y[i]) else 1
            nodes = [-2, kept, 2]
            c = np.linalg.solve(np.vander(nodes, 3), [y[i + k] for k in nodes])
            for k in (0, -kept):
                out[i + k] = np.polyval(c, k)
        return out

    def hanning(y):
        inner = [(y[i - 1] + 2 * y[i] + y[i + 1]) / 4 for i in range(1, len(y) - 1)]
        return [y[0], *inner, y[-1]]

    def once(y):
        return hanning(parabolas(threes(fives(threes(y)))))

    smooth = once(list(values))
    rest = once([v - s for v, s in zip(values, smooth, strict=True)])
    return np.array(smooth) + rest


@given(SEQUENCES)
def test_it_is_the_slow_reference(values):
    assert smooth_353qh(values) == pytest.approx(reference(values), abs=1e-12)


@given(st.integers(3, 30), st.integers(-10, 10), st.integers(-10, 10))
def test_straight_lines_do_not_change(n, start, step):
    line = start + 0.25 * step * np.arange(n)
    assert smooth_353qh(line) == pytest.approx(line, abs=1e-12)


@given(SEQUENCES)
def test_it_has_no_direction(values):
    assert smooth_353qh(values[::-1])[::-1] == pytest.approx(smooth_353qh(values), abs=1e-9)


@given(SEQUENCES, st.floats(-4.0, 4.0), st.floats(-5.0, 5.0))
def test_it_follows_scale_and_shift(values, scale, shift):
    assert smooth_353qh(scale * values + shift) == pytest.approx(
        scale * smooth_353qh(values) + shift, abs=1e-9
    )


def test_a_single_outlier_leaves_no_trace():
    values = 1.0 + 0.01 * np.arange(12)
    spoilt = values.copy()
    spoilt[6] = 5.0
    assert smooth_353qh(spoilt) == pytest.approx(values, abs=0.02)


def test_an_edge_stays():
    step = np.repeat([1.0, 2.0], 10)
    smooth = smooth_353qh(step)
    assert smooth[:8] == pytest.approx(1.0)
    assert smooth[12:] == pytest.approx(2.0)


def test_a_flat_top_becomes_a_parabola():
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 2.0, 1.0, 0.0, 0.0])
    assert smooth_353qh(values).max() > 3.9
    assert smooth_353qh(values)[5] > 4.0


def test_noise_becomes_less():
    rng = np.random.default_rng(1)
    truth = 1.0 + 0.1 * np.sin(np.arange(40) / 8.0)
    noisy = truth + rng.normal(0.0, 0.02, (200, 40))
    before = np.sqrt(((noisy - truth) ** 2).mean())
    after = np.sqrt(((np.stack([smooth_353qh(y) for y in noisy]) - truth) ** 2).mean())
    assert after < 0.75 * before


@pytest.mark.parametrize("values", [[], [2.0], [2.0, 5.0]])
def test_short_sequences_are_left_alone(values):
    values = np.array(values)
    smooth = smooth_353qh(values)
    assert smooth.tolist() == values.tolist()
    assert smooth is not values

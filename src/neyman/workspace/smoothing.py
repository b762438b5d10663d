"""`smooth_353qh`: running medians, parabolas, Hanning means and twicing, for the ratio of two histograms."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEAST_BINS = 3
_ROUNDING = 1e-12  # of the largest value: values nearer than this are equal


def smooth_353qh(values: Array) -> Array:
    r"""Smooth a sequence with the algorithm 353QH, twice.

    One pass S takes running medians of 3, 5 and 3 values (an outlier leaves no trace; monotone stretches and edges
    stay), lifts the flat tops that the medians leave to parabolas (Q), and takes Hanning means
    :math:`(y_{i-1} + 2 y_i + y_{i+1}) / 4` (H). Twicing gives back the structure that a pass takes away:
    :math:`S(y) + S(y - S(y))`. Straight lines do not change, and :math:`a y + b` gives a times the smoothed y
    plus b.

    J. Friedman, in: Proc. 1974 CERN School of Computing, CERN 74-23; J. Tukey, Exploratory Data Analysis (1977)
    for the ends: the first value is the median of itself, its smoothed neighbour and the straight line through
    the next two smoothed values, :math:`3 y_2 - 2 y_3`. ROOT's ``TH1::Smooth`` is based on the same description.

    Parameters
    ----------
    values
        Shape ``(n,)``, finite; fewer than 3 come back as they are.
    """
    if len(values) < LEAST_BINS:
        return values.copy()
    rounding = _ROUNDING * float(np.abs(values).max())
    smooth = _pass(values, rounding)
    twiced: Array = smooth + _pass(values - smooth, rounding)
    return twiced


def _pass(y: Array, rounding: float) -> Array:
    return _hanning(_parabolas(_medians_of_3(_medians_of_5(_medians_of_3(y))), rounding))


def _medians_of_3(y: Array) -> Array:
    out = y.copy()
    out[1:-1] = np.median(sliding_window_view(y, 3), axis=1)
    first = np.median([y[0], out[1], 3.0 * out[1] - 2.0 * out[2]])
    last = np.median([y[-1], out[-2], 3.0 * out[-2] - 2.0 * out[-3]])
    out[0], out[-1] = first, last
    return out


def _medians_of_5(y: Array) -> Array:
    """Medians of 5, of 3 next to the ends, and the ends as they are."""
    out = y.copy()
    out[1], out[-2] = np.median(y[:3]), np.median(y[-3:])
    if len(y) >= 5:
        out[2:-2] = np.median(sliding_window_view(y, 5), axis=1)
    return out


def _parabolas(y: Array, rounding: float) -> Array:
    """Where three equal values lie above both neighbours, or below, put a parabola in place of two of them.

    It passes through both neighbours and through the equal value beside the farther of them, so that the extremum
    moves towards the nearer neighbour. Without a tolerance, rounding in the residuals of the first pass would
    decide what is equal and what lies above.
    """
    out = y.copy()
    for i in range(2, len(y) - 2):
        before, after = y[i - 2] - y[i], y[i + 2] - y[i]
        flat = max(abs(y[i - 1] - y[i]), abs(y[i + 1] - y[i])) <= rounding
        if flat and before * after > 0.0 and min(abs(before), abs(after)) > rounding:
            side = 1 if abs(before) >= abs(after) else -1
            far, near = (before, after) if side == 1 else (after, before)
            # Lagrange polynomials of the nodes -2, -1, 2 (-1: no change) at 0 and 1; steps relative to the flat
            out[i] += -0.5 * far + near / 6.0
            out[i + side] += 0.5 * (near - far)
    return out


def _hanning(y: Array) -> Array:
    out = y.copy()
    out[1:-1] = 0.25 * (y[:-2] + 2.0 * y[1:-1] + y[2:])
    return out

"""`ToyTests`: CLs counted in toys of both hypotheses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from neyman.inference.asymptotic import SIGMAS, AsymptoticTests
from neyman.inference.checks import positive_count
from neyman.inference.experiments import PoiToys, at_least, binomial_error, counted, drawn, some_valid
from neyman.inference.results import Array, HypothesisTest

_MOST_ADDED = 8


class ToyTests:
    """The tests of `AsymptoticTests` with toys; those of the background are drawn and fitted once for all values.

    Parameters
    ----------
    asymptotic
        The data's profile, whose conditional fits the toys are drawn at.
    n_toys
        Toys of each hypothesis.
    seed
        Entropy; each hypothesis has its own stream.
    client
        A ``dask.distributed.Client``, over whose workers the fits of toys are spread.
    progress
        Whether to show a progress bar of the fits on standard error.
    """

    def __init__(
        self, asymptotic: AsymptoticTests, n_toys: int, seed: int, client: Any = None, progress: bool = False
    ) -> None:
        self._asymptotic, self._n, self._seed = asymptotic, positive_count(n_toys, "toys"), seed
        self._client, self._progress = client, progress
        self._background: PoiToys | None = None
        self._done = 0

    def _toys(self, value: float, stream: int) -> PoiToys:
        curve = self._asymptotic.data
        at = curve.at(value).values.array
        data = drawn(curve.likelihood, self._n, at, self._seed, stream)
        return PoiToys(
            curve.likelihood, curve.i, curve.held, data, client=self._client, progress=self._progress
        )

    def test(self, value: float) -> HypothesisTest:
        """Return the test of one value."""
        if self._background is None:
            self._background = self._toys(0.0, 0)
        self._done += 1
        signal, first = self._statistics(self._toys(value, self._done), value, "signal toys")
        background, second = self._statistics(self._background, value, "background toys")
        q = self._asymptotic.statistic_at(value)
        n_s, n_b = len(signal), len(background)
        k_s, k_b = int(at_least(q, signal)), int(at_least(q, background))
        errors = binomial_error(k_s, n_s), binomial_error(k_b, n_b)
        cls = k_s / n_s / (k_b / n_b) if k_b else math.nan
        return HypothesisTest(
            poi=self._asymptotic.name,
            value=value,
            calculator="toys",
            test_statistic=self._asymptotic.statistic,
            q=q,
            q_asimov=None,
            clsb=k_s / n_s,
            clb=k_b / n_b,
            cls=cls,
            clsb_error=errors[0],
            clb_error=errors[1],
            cls_error=math.hypot(errors[0], cls * errors[1]) / (k_b / n_b) if k_b else math.nan,
            expected=self._band(signal, background) if self._asymptotic.expected else None,
            n_toys=(n_s, n_b),
            signal_toys=signal,
            background_toys=background,
            messages=(*self._asymptotic.messages, *first, *second),
        )

    def _statistics(self, made: PoiToys, value: float, what: str) -> tuple[Array, list[str]]:
        rise, valid = made.rise(value)
        if self._asymptotic.statistic == "qtilde":
            rise = made.rise_above_zero(rise)
        note = some_valid(valid, what)
        return np.where(made.fitted > value, 0.0, rise)[valid], [note] if note else []

    @staticmethod
    def _band(signal: Array, background: Array) -> tuple[float, ...]:
        """Quantiles of CLs over the background toys, as if each were the observation."""
        clsb = at_least(background, signal) / len(signal)
        clb = at_least(background, background) / len(background)
        return tuple(np.quantile(clsb / clb, norm.cdf(SIGMAS)).tolist())

    def bracket(self, alpha: float, grid: Array | None, progress: bool = False) -> list[HypothesisTest]:
        """Test the values of a grid; without one, values around the asymptotic limits, and more until every
        limit lies between two of them."""
        values = self._grid(alpha) if grid is None else grid
        tests = [self.test(float(v)) for v in counted(values, "toys at each value", progress)]
        outcomes = range(-1, 5 if self._asymptotic.expected else 0)
        for _ in range(_MOST_ADDED if grid is None else 0):
            curves = [cls_along(tests, k) for k in outcomes]
            if all(curve[0] >= alpha for curve in curves) or tests[0].value == 0.0:
                break
            tests.insert(0, self.test(0.5 * tests[0].value))
        for _ in range(_MOST_ADDED if grid is None else 0):
            curves = [cls_along(tests, k) for k in outcomes]
            if all(curve[-1] < alpha for curve in curves) or tests[-1].value == self._asymptotic.upper:
                break
            tests.append(self.test(min(1.25 * tests[-1].value, self._asymptotic.upper)))
        return tests

    def _grid(self, alpha: float) -> Array:
        found = [self._asymptotic.limit(alpha)]
        if self._asymptotic.expected:
            found += [one for one in self._asymptotic.expected_limits(alpha)[0] if math.isfinite(one)]
        return np.linspace(
            0.6 * min(found), min(1.3 * max(found), self._asymptotic.upper), 6 if len(found) == 1 else 12
        )


def cls_along(tests: Sequence[HypothesisTest], k: int) -> Array:
    """CLs along the grid: observed (`k` -1) or of one of the expected outcomes."""
    return np.array([t.cls if k < 0 else (t.expected or ())[k] for t in tests], dtype=np.float64)


def falls_below(values: Array, cls: Array, errors: Array | None, alpha: float) -> tuple[float, float]:
    """Return where CLs last falls below `alpha`, with the error that its binomial error means; NaN if nowhere.

    ln CLs is nearly straight in the value; where no toy was counted, CLs itself is interpolated.
    """
    down = np.nonzero((cls[:-1] >= alpha) & (cls[1:] < alpha))[0]
    if not len(down):
        return math.nan, math.nan
    k = int(down[-1])
    (x0, x1), (y0, y1) = values[k : k + 2], cls[k : k + 2]
    part = math.log(y0 / alpha) / math.log(y0 / y1) if y1 > 0.0 else (y0 - alpha) / (y0 - y1)
    where = x0 + part * (x1 - x0)
    if errors is None:
        return float(where), 0.0
    slope = (alpha * math.log(y0 / y1) if y1 > 0.0 else y0 - y1) / (x1 - x0)
    return float(where), float(((1.0 - part) * errors[k] + part * errors[k + 1]) / slope)

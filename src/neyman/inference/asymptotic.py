"""`AsymptoticTests`: CLs from the asymptotic distributions of the test statistics, with pyhf's definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from neyman.errors import InferenceError
from neyman.inference.crossing import crossing
from neyman.inference.profile import ProfileCurve
from neyman.inference.results import Array, HypothesisTest
from neyman.likelihood import Likelihood

SIGMAS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])


class AsymptoticTests:
    """Tests of values of one parameter: from the profile of the data and that of background-only Asimov data.

    Parameters
    ----------
    likelihood
        Model and data.
    i
        Position of the parameter of interest.
    held
        Parameters that are not fitted, with their values.
    statistic
        ``qtilde`` or ``q``.
    expected
        Whether the tests contain the expected band.

    Raises
    ------
    InferenceError
        When a fit fails.
    """

    def __init__(
        self, likelihood: Likelihood, i: int, held: Mapping[str, float], statistic: str, expected: bool
    ) -> None:
        self.statistic, self.expected = statistic, expected
        self.data = ProfileCurve(likelihood, i, held)
        background = self.data.at(0.0).values.array
        self.asimov = ProfileCurve(likelihood.asimov(background), i, held, start=background)
        self.name = likelihood.names[i]
        self.lower, self.upper = (float(bound) for bound in likelihood.bounds[i])
        self.messages: tuple[str, ...] = ()
        if statistic == "q" and self.lower >= 0.0:
            self.messages = (
                f"{self.name} is bounded by {self.lower:g}, as for qtilde: q is meant for no such bound",
            )

    @property
    def fitted(self) -> float:
        """Best fit of the parameter of interest."""
        return self.data.best.values[self.data.i]

    def statistic_at(self, value: float) -> float:
        """Return the observed test statistic, Cowan et al., eqs. 14 and 16."""
        rise = self.data.rise(value)
        if self.fitted > value:
            return 0.0
        if self.statistic == "qtilde" and self.fitted < 0.0:
            return max(rise - self.data.rise(0.0), 0.0)
        return rise

    def test(self, value: float) -> HypothesisTest:
        """Return the test of one value, Cowan et al., eqs. 57, 59, 64 and 66."""
        q, q_asimov = self.statistic_at(value), self.asimov.rise(value)
        root, width = math.sqrt(q), math.sqrt(q_asimov)
        beyond = self.statistic == "qtilde" and root > width
        # Without sensitivity (value 0, or none at all) both hypotheses are the same.
        t = root - width if not beyond else (q - q_asimov) / (2.0 * width) if width else 0.0
        clsb, clb = float(norm.sf(t + width)), float(norm.sf(t))
        band = np.exp(norm.logsf(width - SIGMAS) - norm.logsf(-SIGMAS))
        return HypothesisTest(
            poi=self.name,
            value=value,
            calculator="asymptotic",
            test_statistic=self.statistic,
            q=q,
            q_asimov=q_asimov,
            clsb=clsb,
            clb=clb,
            cls=math.exp(norm.logsf(t + width) - norm.logsf(t)),
            expected=tuple(band.tolist()) if self.expected else None,
            messages=self.messages,
        )

    def limit(self, alpha: float) -> float:
        """Return where the observed CLs is `alpha`."""

        def excess(value: float) -> float:
            return math.log(max(self.test(value).cls, 1e-300) / alpha)

        low = max(self.fitted, 0.0) if alpha < 0.5 else 0.0
        step = self._sigma() * (norm.isf(0.5 * alpha) if alpha < 0.5 else 1.0)
        high = min(low + step, self.upper)
        while excess(high) > 0.0:
            if high == self.upper:
                cls = self.test(high).cls
                raise InferenceError(
                    f"the limit on {self.name!r} is above its upper bound: CLs is still {cls:.3g} at {high:g}",
                    expected=f"CLs below {alpha:g} within the bounds",
                    fix="raise the upper bound of the parameter",
                )
            low, high = high, min(high + 1.5 * (high - low), self.upper)
        return float(brentq(excess, low, high, xtol=1e-6 * high, rtol=1e-8))

    def expected_limits(self, alpha: float) -> tuple[Array, list[str]]:
        """Return the limits at -2 to +2 sigma of the background, NaN beyond the upper bound."""
        centre = self.asimov.best.values[self.asimov.i]
        found, unit = np.full(5, np.nan), self._sigma()
        for k, sigmas in enumerate(SIGMAS):
            goal = float(norm.isf(alpha * norm.cdf(sigmas)) + sigmas)
            reached = crossing(self.asimov.rise, centre, unit * goal, self.upper, goal**2)
            if reached is None:
                bound = f"the upper bound {self.upper:g} of {self.name}"
                return found, [f"the expected limits from {sigmas:+g} sigma on are above {bound}"]
            found[k], unit = reached, (reached - centre) / goal
        return found, []

    def _sigma(self) -> float:
        """Return a guess of the error of the parameter of interest under the background."""
        error = self.asimov.best.errors[self.asimov.i]
        return error if error > 0.0 else 0.1 * min(self.upper - self.lower, 1.0)

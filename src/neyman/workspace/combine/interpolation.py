r"""How far pyhf and Combine are apart between the varied predictions, and elsewhere.

Both are exact at 0 and at one standard deviation up and down. The shapes, fractions of the total, agree everywhere:
the smooth step of Combine's ``shape`` is HistFactory's ``code4p``. The totals do not: for :math:`|\theta| < 1`
``code4`` is a polynomial, Combine's ``lnN`` a power whose base is the mean of the two, smoothly, for
:math:`|\theta| < 1/2`, and one of the two beyond.

Source: Combine documentation, "Preparing the datacard" and "Model and likelihood"; K. Cranmer et al.,
CERN-OPEN-2012-016, section 4.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
REACH = 3.0
"""Standard deviations within which differences are looked for."""
SMALL = 1e-3
"""Combine leaves out a change of the total by a shape that is smaller, up and down."""
NEGLIGIBLE = 1e-6
"""Relative differences that are not worth a note."""
STATISTICS = "its size relative to the rate follows the parameters in Combine, and is the nominal one in pyhf"
"""How the statistical uncertainty of the simulation differs."""
_THETA = np.linspace(-REACH, REACH, 241)


def combine_factor(theta: Array, up: float, down: float) -> Array:
    """Return the factor of Combine's lnN; `up` and `down` are the factors at plus and minus one."""
    high, low = np.log(up), -np.log(down)
    step = np.where(np.abs(theta) < 0.5, _step(2.0 * theta), np.sign(theta))
    return np.asarray(np.exp(theta * 0.5 * ((high + low) + step * (high - low))))


def code4_factor(theta: Array, up: float, down: float) -> Array:
    """Return the factor of pyhf's normsys."""
    # The polynomial has the values and two derivatives of the powers at plus and minus one.
    rows, values = [], []
    for sign, base in ((1.0, up), (-1.0, down)):
        powers = np.arange(1, 7)
        rows += [
            sign**powers,
            powers * sign ** (powers - 1),
            powers * (powers - 1) * sign**powers,
        ]
        values += [base - 1.0, sign * np.log(base) * base, np.log(base) ** 2 * base]
    coefficients = np.linalg.solve(np.array(rows), np.array(values))
    inside = 1.0 + sum(a * theta ** (i + 1) for i, a in enumerate(coefficients))
    outside = np.where(theta > 0.0, up ** np.abs(theta), down ** np.abs(theta))
    return np.where(np.abs(theta) < 1.0, inside, outside)


def shift(theta: Array, up: Array, down: Array) -> Array:
    """Return the shift of each bin, shape ``(n_theta, n_bins)``, by Combine's smooth step, which is ``code4p``.

    `up` and `down` are varied minus nominal, shape ``(n_bins,)``.
    """
    x = theta[:, None]
    return np.asarray(0.5 * x * ((up - down) + _step(x) * (up + down)))


def factor_difference(up: float, down: float) -> float:
    """Return the largest relative difference of pyhf's factor from Combine's."""
    return float(np.abs(code4_factor(_THETA, up, down) / combine_factor(_THETA, up, down) - 1.0).max())


def linear_difference(uncertainty: float) -> float:
    """Return the largest relative difference of a power from the linear factor of a luminosity."""
    linear = 1.0 + _THETA * uncertainty
    power = combine_factor(_THETA, 1.0 + uncertainty, 1.0 / (1.0 + uncertainty))
    return float(np.abs(linear / power - 1.0).max())


def split_difference(nominal: Array, up: Array, down: Array, factors: tuple[float, float]) -> float:
    """Return the largest relative difference of a histosys and normsys from its split into shape and total.

    `up` and `down` are the bins of the histosys, `factors` those of the normsys. Bins whose rate is not positive are
    left out.
    """
    total = nominal.sum()
    whole = (nominal + shift(_THETA, up - nominal, down - nominal)) * code4_factor(_THETA, *factors)[:, None]
    shapes = [bins * (total / bins.sum()) - nominal for bins in (up, down)]
    totals = [float(bins.sum() / total) * factor for bins, factor in zip((up, down), factors, strict=True)]
    split = (nominal + shift(_THETA, *shapes)) * code4_factor(_THETA, *totals)[:, None]
    positive = (whole > 0.0) & (split > 0.0)
    ratio = np.divide(whole, split, out=np.ones_like(whole), where=positive)
    return float(np.abs(ratio - 1.0).max())


def _step(x: Array) -> Array:
    """Return the smooth step from -1 to 1 over that range."""
    inside = 0.125 * x * (x**2 * (3.0 * x**2 - 10.0) + 15.0)
    return np.where(np.abs(x) < 1.0, inside, np.sign(x))

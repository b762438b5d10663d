"""MINUIT's view of a minimum that was found without it: its uncertainties, its correlations, its object.

Users of pyhf compare numbers with MINUIT's, whose definition differs from twice the inverse Hessian near a bound.

* `minuit_errors` computes them in closed form from the exact Hessian.
* `minuit_at` gives an ``iminuit.Minuit`` at the minimum, ready for MINOS and its drawings.
"""

from __future__ import annotations

import warnings

import numpy as np
from iminuit import Minuit
from iminuit.util import IMinuitWarning
from numpy.typing import NDArray

from neyman.inference.minimise import inverse_of, silent
from neyman.inference.results import Array, FitResult
from neyman.likelihood import Likelihood

_EDGE = 1.6e-3  # MINUIT keeps its internal coordinate this far from a limit


def free_positions(likelihood: Likelihood) -> NDArray[np.intp]:
    """Return the positions of the parameters that a fit varies."""
    lower, upper = likelihood.bounds.T
    return np.nonzero(~likelihood.fixed & (lower < upper))[0]


def minuit_errors(likelihood: Likelihood, best: FitResult) -> tuple[Array | None, Array | None]:
    r"""Return uncertainties and correlations as MINUIT's HESSE defines them; zero for fixed parameters.

    MINUIT replaces a parameter with bounds by :math:`u` with :math:`x = m + h \sin u`. Its uncertainty is half
    the way in :math:`x` between :math:`u \pm \delta u`, with :math:`\delta u` from the Hessian in `u`,

    .. math:: H^u_{ij} = x_i' H_{ij} x_j' + \delta_{ij}\, g_i x_i'',

    here exact. Well inside the bounds it is that of `neyman.inference.fit`; at a bound it is about what lets
    :math:`-2\ln L` rise by one, and arbitrary where the gradient vanishes there too. F. James, M. Winkler, MINUIT
    user's guide (2004), section 1.2.

    Parameters
    ----------
    likelihood
        Its bounds and fixed parameters are those of the fit.
    best
        The minimum.

    Returns
    -------
    tuple
        Shapes ``(n,)`` and ``(n, n)``; None where the Hessian is not positive definite.
    """
    x, free = best.values.array, free_positions(likelihood)
    errors, correlations = np.zeros(len(x)), np.zeros((len(x), len(x)))
    if not len(free):
        return errors, correlations
    _, gradient, hessian = likelihood.evaluate(x, 2)
    g, h = np.asarray(gradient)[free], np.asarray(hessian)[np.ix_(free, free)]
    lower, upper = likelihood.bounds[free].T
    limited = np.isfinite(lower) & np.isfinite(upper)
    half = np.where(limited, 0.5 * (upper - lower), 1.0)
    middle = np.where(limited, 0.5 * (upper + lower), x[free])
    edge = 0.5 * np.pi - _EDGE
    u = np.clip(np.arcsin(np.clip((x[free] - middle) / half, -1.0, 1.0)), -edge, edge)
    slope, bend = half * np.cos(u), np.where(limited, -half * np.sin(u), 0.0)
    inverse = inverse_of(slope[:, None] * h * slope + np.diag(g * bend))
    if inverse is None:
        return None, None
    covariance = 2.0 * inverse
    du = np.sqrt(np.diag(covariance))
    up, down = (half * np.abs(np.sin(u + step) - np.sin(u)) for step in (du, -du))
    sizes = 0.5 * (np.where(du > 1.0, 2.0 * half, up) + down)
    errors[free] = np.where(limited, sizes, du)
    correlations[np.ix_(free, free)] = covariance / np.outer(du, du)
    return errors, correlations


def minuit_at(likelihood: Likelihood, best: FitResult, errors: Array | None) -> Minuit:
    """Return a Minuit object over all parameters, after MIGRAD and HESSE at the minimum.

    iminuit takes the Hessian in `x` over the free parameters first, and multiplies it by the slopes alone: what
    the bend of the internal coordinates adds is divided by their squared slopes here.
    """
    lower, upper = likelihood.bounds.T
    width = np.where(upper > lower, np.minimum(upper - lower, 1.0), 1.0)

    def value(x: Array) -> float:
        return float(likelihood.evaluate(x, strict=False)[0])

    def gradient(x: Array) -> Array:
        return np.asarray(likelihood.evaluate(x, 1, strict=False)[1])

    def bent(x: Array) -> Array:
        _, slope, plain = likelihood.evaluate(x, 2, strict=False)
        bend = 0.5 / np.maximum(x - lower, 1e-12 * width) - 0.5 / np.maximum(upper - x, 1e-12 * width)
        return np.asarray(plain) + np.diag(slope * bend)

    def hessian(x: Array) -> Array:
        free, full = np.nonzero(~np.array(minuit.fixed))[0], bent(x)
        shown = np.zeros_like(full)
        shown[: len(free), : len(free)] = full[np.ix_(free, free)]
        return shown

    def g2(x: Array) -> Array:
        return np.diag(bent(x)).copy()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IMinuitWarning)
        minuit = Minuit(
            value, best.values.array, grad=gradient, g2=g2, hessian=hessian, name=likelihood.names
        )
    minuit.limits[:] = list(likelihood.bounds)
    minuit.fixed[:] = likelihood.fixed | (lower == upper)
    steps = np.full(len(lower), 0.1) if errors is None else np.where(errors > 0.0, errors, 0.1)
    minuit.errors[:] = steps
    minuit.strategy = 0
    with silent(minuit):
        minuit.migrad()
        if minuit.nfit:
            minuit.hesse()
    minuit.errors[:] = steps  # exact also where MIGRAD went on to a bound, where the internal slope is zero
    return minuit

"""`significance`: how improbable the data are without a signal."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from scipy.stats import norm

from neyman.inference.arguments import Fixed, held_values
from neyman.inference.checks import inside_bounds, one_of, parameter_of_interest, positive_count
from neyman.inference.experiments import PoiToys, at_least, clopper_pearson, drawn, seed_of, some_valid
from neyman.inference.profile import ProfileCurve
from neyman.inference.results import Array, Significance
from neyman.likelihood import Likelihood


def significance(
    likelihood: Likelihood,
    poi: str | int,
    *,
    calculator: Literal["asymptotic", "toys"] = "asymptotic",
    expected_at: float | None = 1.0,
    n_toys: int = 10_000,
    seed: int | None = None,
    fixed: Fixed = None,
    client: Any = None,
    progress: bool = False,
) -> Significance:
    r"""Test the background-only hypothesis by the discovery test statistic.

    .. math:: q_0 = -2\ln\frac{L(0,\hat{\hat\theta}(0))}{L(\hat\mu,\hat\theta)} \text{ for } \hat\mu \ge 0,
        \text{ else } 0; \qquad Z = \sqrt{q_0}, \quad p_0 = 1 - \Phi(Z)

    (Cowan, Cranmer, Gross, Vitells, Eur. Phys. J. C 71 (2011) 1554, eqs. 12, 52 and 53). The expected significance
    is that of the Asimov data at `expected_at`, with the nuisance parameters of the conditional fit to the data
    there, as in pyhf. With toys, :math:`p_0` is the fraction of background-only toys (at the conditional fit of
    `poi` = 0) with as large a :math:`q_0`, and the expectation is the median of toys at `expected_at`.

    Parameters
    ----------
    likelihood
        Model and data.
    poi
        Parameter of interest; 0 is no signal.
    calculator
        ``asymptotic`` or ``toys``. Z needs about :math:`10 / p_0` toys.
    expected_at
        Signal of the expectation; None for no expectation.
    n_toys, seed
        Toys of each hypothesis, and their seed, which is needed with toys.
    fixed
        Parameters that are not fitted, as in `fit`.
    client
        A ``dask.distributed.Client``, over whose workers the fits of toys are spread.
    progress
        Whether to show progress bars on standard error.

    Raises
    ------
    InferenceError
        When `poi` is unknown, fixed or without effect, 0 or `expected_at` is outside its bounds, the calculator is
        unknown, a seed missing, or a fit failed.
    """
    one_of(calculator, ("asymptotic", "toys"), "calculator")
    held = held_values(likelihood, fixed, None)
    i = parameter_of_interest(likelihood, poi, held)
    inside_bounds(likelihood, i, [0.0] if expected_at is None else [0.0, expected_at])
    curve = ProfileCurve(likelihood, i, held)
    q0 = _q0(curve)
    messages = []
    if curve.best.values[i] < 0.0:
        messages.append(
            f"the best fit {likelihood.names[i]} = {curve.best.values[i]:g} is negative, so q0 is 0"
        )
    expected = None
    if expected_at is not None:
        point = curve.at(expected_at).values.array
        expected = math.sqrt(_q0(ProfileCurve(likelihood.asimov(point), i, held, start=point)))
    found = Significance(
        poi=likelihood.names[i],
        calculator="asymptotic",
        q0=q0,
        p_value=float(norm.sf(math.sqrt(q0))),
        p_value_interval=None,
        z=math.sqrt(q0),
        expected_at=expected_at,
        expected_z=expected,
        expected_p_value=None if expected is None else float(norm.sf(expected)),
        n_toys=None,
        toys=None,
        best=curve.best,
        messages=tuple(messages),
    )
    if calculator == "toys":
        return _by_toys(curve, found, positive_count(n_toys, "toys"), seed_of(seed), client, progress)
    return found


def _q0(curve: ProfileCurve) -> float:
    rise = curve.rise(0.0)
    return rise if curve.best.values[curve.i] >= 0.0 else 0.0


def _by_toys(
    curve: ProfileCurve, asymptotic: Significance, n: int, seed: int, client: Any, progress: bool
) -> Significance:
    """Replace the asymptotic probabilities by counts of toys."""
    background, note = _statistics(curve, 0.0, n, seed, 0, client, progress)
    notes = [note] if note else []
    k = int(at_least(asymptotic.q0, background))
    interval = clopper_pearson(k, len(background))
    if not k:
        notes.append(
            f"no toy has as large a q0: p < {interval[1]:.2g}, Z > {norm.isf(interval[1]):.2f} at 84%"
        )
    expected_p = None
    if asymptotic.expected_at is not None:
        signal, note = _statistics(curve, asymptotic.expected_at, n, seed, 1, client, progress)
        notes += [note] if note else []
        expected_p = int(at_least(float(np.median(signal)), background)) / len(background)
    return replace(
        asymptotic,
        calculator="toys",
        p_value=k / len(background),
        p_value_interval=interval,
        z=float(norm.isf(k / len(background))),
        expected_z=None if expected_p is None else float(norm.isf(expected_p)),
        expected_p_value=expected_p,
        n_toys=len(background),
        toys=background,
        messages=(*asymptotic.messages, *notes),
    )


def _statistics(
    curve: ProfileCurve, value: float, n: int, seed: int, stream: int, client: Any, progress: bool
) -> tuple[Array, str | None]:
    """Return q0 of toys at one signal and their conditional nuisance parameters, with a note on failures."""
    at = curve.at(value).values.array
    data = drawn(curve.likelihood, n, at, seed, stream)
    made = PoiToys(curve.likelihood, curve.i, curve.held, data, client=client, progress=progress)
    rise, valid = made.rise(0.0)
    return np.where(made.fitted >= 0.0, rise, 0.0)[valid], some_valid(valid, f"toys at {value:g}")

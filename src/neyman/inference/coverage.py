"""`coverage`: how often the intervals of a parameter contain its true value, counted in toys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from neyman.errors import InferenceError
from neyman.inference.arguments import Fixed, Values, held_values, starting_point
from neyman.inference.checks import confidence_level, one_of, parameter_of_interest, positive_count
from neyman.inference.experiments import PoiToys, clopper_pearson, drawn, seed_of, some_valid
from neyman.inference.results import Array, Coverage, MethodCoverage
from neyman.likelihood import Likelihood

_METHODS = ("profile", "hesse")


def coverage(
    likelihood: Likelihood,
    poi: str | int,
    *,
    n_toys: int = 1000,
    seed: int,
    at: Values = None,
    cl: float = 0.683,
    methods: Sequence[str] = _METHODS,
    fixed: Fixed = None,
    client: Any = None,
    progress: bool = False,
) -> Coverage:
    r"""Return the fraction of toys whose interval contains the truth, with bias and pulls.

    ``profile`` intervals contain it where :math:`-2\ln[L(\mu,\hat{\hat\theta})/L(\hat\mu,\hat\theta)] \le
    F^{-1}_{\chi^2_1}(\mathrm{CL})` (Wilks), which takes one more fit with the parameter at the truth and no search
    for the ends; ``hesse`` intervals where :math:`|\hat\mu-\mu| \le \Phi^{-1}((1+\mathrm{CL})/2)\,\hat\sigma`.

    Parameters
    ----------
    likelihood
        Model of the toys and of the fits; its data are not used.
    poi
        Parameter of interest.
    n_toys, seed
        Number of toys, and their seed.
    at
        Truth: an earlier fit, a mapping over some parameters, or a full vector; the likelihood's starting values
        by default. Global observables are drawn around it.
    cl
        Confidence level of the intervals.
    methods
        ``profile``, ``hesse`` or both.
    fixed
        Parameters that are not fitted, as in `fit`.
    client
        A ``dask.distributed.Client``, over whose workers the fits of toys are spread.
    progress
        Whether to show progress bars on standard error.

    Raises
    ------
    InferenceError
        When `poi` is unknown, fixed or without effect, the truth is outside the bounds, `cl` is not between 0 and
        1, a method is unknown, or no toy could be fitted.
    """
    chosen = [methods] if isinstance(methods, str) else list(methods)
    for method in chosen:
        one_of(method, _METHODS, "interval")
    if not chosen:
        raise InferenceError("no kind of interval was chosen", expected=" or ".join(_METHODS))
    level, n = confidence_level(cl), positive_count(n_toys, "toys")
    truth = starting_point(likelihood, at, fixed)[0]
    held = held_values(likelihood, fixed, None)
    held = {name: float(truth[likelihood.index(name)]) for name in held}
    i = parameter_of_interest(likelihood, poi, held)
    data = drawn(likelihood, n, truth, seed_of(seed))
    made = PoiToys(likelihood, i, held, data, errors=True, client=client, progress=progress)
    valid, rise = made.valid, None
    if "profile" in chosen:
        rise, valid = made.rise(float(truth[i]))
    note = some_valid(valid, "toys")
    values, errors = made.fitted[valid], made.errors[valid]
    # At a bound without curvature there is no HESSE error, so no interval and no pull.
    measured = errors > 0.0
    pulls = (values - truth[i])[measured] / errors[measured]
    reach = float(norm.isf(0.5 * (1.0 - level)))
    found = []
    for method in dict.fromkeys(chosen):
        if method == "profile" and rise is not None:
            found.append(_counted(method, rise[valid] <= chi2.ppf(level, 1), None))
        else:
            found.append(
                _counted(
                    method, np.abs(values - truth[i]) <= reach * errors, float(2.0 * reach * errors.mean())
                )
            )
    messages = [note] if note else []
    at_bound = int(np.isin(values, likelihood.bounds[i]).sum())
    if at_bound:
        messages.append(f"{at_bound} of {len(values)} toys end at a bound of {likelihood.names[i]}")
    if not measured.all():
        messages.append(f"{int((~measured).sum())} of {len(values)} toys have no HESSE error, so no pull")
    pull_mean, pull_mean_error, pull_width, pull_width_error = _moments(pulls)
    bias, bias_error, *_ = _moments(values - truth[i])
    return Coverage(
        poi=likelihood.names[i],
        truth=float(truth[i]),
        cl=level,
        methods=tuple(found),
        bias=bias,
        bias_error=bias_error,
        pull_mean=pull_mean,
        pull_mean_error=pull_mean_error,
        pull_width=pull_width,
        pull_width_error=pull_width_error,
        n_toys=len(values),
        n_failed=n - len(values),
        values=values,
        errors=errors,
        messages=tuple(messages),
    )


def _counted(method: str, inside: Array, width: float | None) -> MethodCoverage:
    k, n = int(inside.sum()), len(inside)
    return MethodCoverage(method, k, k / n, clopper_pearson(k, n), width)


def _moments(sample: Array) -> tuple[float, float, float, float]:
    """Return mean and standard deviation with their errors, NaN where there are too few numbers."""
    n = len(sample)
    if not n:
        return math.nan, math.nan, math.nan, math.nan
    width = float(sample.std(ddof=1)) if n > 1 else math.nan
    return float(sample.mean()), width / n**0.5, width, width / (2.0 * n) ** 0.5

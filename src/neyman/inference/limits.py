r"""`upper_limit` and `hypothesis_test`: exclusion of signals by :math:`\mathrm{CL}_s`.

Definitions as in pyhf: the asymptotic formulae of Cowan, Cranmer, Gross, Vitells, Eur. Phys. J. C 71 (2011) 1554,
the ratio :math:`\mathrm{CL}_s` of Read, J. Phys. G 28 (2002) 2693.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import InferenceError
from neyman.inference.arguments import Fixed, held_values
from neyman.inference.asymptotic import AsymptoticTests
from neyman.inference.checks import confidence_level, inside_bounds, one_of, parameter_of_interest
from neyman.inference.experiments import seed_of
from neyman.inference.results import Array, HypothesisTest, UpperLimit
from neyman.inference.toy_tests import ToyTests, cls_along, falls_below
from neyman.likelihood import Likelihood

Calculator = Literal["asymptotic", "toys"]
Statistic = Literal["qtilde", "q"]


def hypothesis_test(
    likelihood: Likelihood,
    poi: str | int,
    value: float,
    *,
    calculator: Calculator = "asymptotic",
    test_statistic: Statistic = "qtilde",
    n_toys: int = 2000,
    seed: int | None = None,
    expected: bool = True,
    fixed: Fixed = None,
    client: Any = None,
    progress: bool = False,
) -> HypothesisTest:
    r"""Test one value of the parameter of interest: :math:`\mathrm{CL}_{s+b}`, :math:`\mathrm{CL}_b`,
    :math:`\mathrm{CL}_s` and the band expected from the background.

    With :math:`q_\mu = -2\ln[L(\mu,\hat{\hat\theta})/L(\hat\mu,\hat\theta)]` for :math:`\hat\mu \le \mu`, else 0
    (Cowan et al., eq. 14), and :math:`\tilde q_\mu` with :math:`L(0,\hat{\hat\theta}(0))` in the denominator where
    :math:`\hat\mu < 0` (eq. 16), the probabilities under Asimov data A of :math:`\mu = 0` are

    .. math:: \mathrm{CL}_{s+b} = 1 - \Phi(t + \sqrt{q_A}), \quad \mathrm{CL}_b = 1 - \Phi(t), \quad
        t = \sqrt{q} - \sqrt{q_A} \ \text{ or, for } \tilde q > q_A, \ \frac{\tilde q - q_A}{2\sqrt{q_A}}

    (eqs. 59 and 66). The nuisance parameters of A, and of the toys of both hypotheses, are those of the
    conditional fits to the data.

    Parameters
    ----------
    likelihood
        Model and data.
    poi
        Parameter of interest.
    value
        The value that is tested, 0 or more.
    calculator
        ``asymptotic``, or ``toys`` for probabilities counted in toys of both hypotheses.
    test_statistic
        ``qtilde``, or ``q`` for a signal that may be negative. The bounds of `poi` always hold: with a lower
        bound of 0, q is qtilde in all but the asymptotic formula.
    n_toys
        Toys of each hypothesis.
    seed
        Needed with toys.
    expected
        Whether to compute the expected band.
    fixed
        Parameters that are not fitted, as in `fit`.
    client
        A ``dask.distributed.Client``, over whose workers the fits of toys are spread.
    progress
        Whether to show a progress bar on standard error.

    Raises
    ------
    InferenceError
        When `poi` is unknown, fixed or without effect, `value` negative or outside its bounds, the calculator or
        the statistic unknown, a seed missing, or a fit failed.
    """
    i, held = _prepared(likelihood, poi, calculator, test_statistic, fixed)
    tested = float(_not_negative(likelihood, i, [value])[0])
    asymptotic = AsymptoticTests(likelihood, i, held, test_statistic, expected)
    if calculator == "toys":
        return ToyTests(asymptotic, n_toys, seed_of(seed), client, progress).test(tested)
    return asymptotic.test(tested)


def upper_limit(
    likelihood: Likelihood,
    poi: str | int,
    *,
    cl: float = 0.95,
    calculator: Calculator = "asymptotic",
    test_statistic: Statistic = "qtilde",
    n_toys: int = 2000,
    seed: int | None = None,
    expected: bool = True,
    grid: ArrayLike | None = None,
    fixed: Fixed = None,
    client: Any = None,
    progress: bool = False,
) -> UpperLimit:
    r"""Return the value above which :math:`\mathrm{CL}_s < 1 - \mathrm{CL}`, and those expected from the background.

    Asymptotically the observed limit is a root of :math:`\mathrm{CL}_s(\mu)` and the expected ones are where the
    profile likelihood of the Asimov data reaches
    :math:`\sqrt{q_A} = \Phi^{-1}(1-\alpha\Phi(N)) + N,\ N = -2 \dots 2` (Cowan et al., eq. 89). With toys,
    :math:`\mathrm{CL}_s` is counted on a grid and interpolated logarithmically; `hypothesis_test` has the
    definitions.

    Parameters
    ----------
    likelihood, poi, calculator, test_statistic, seed, fixed, client, progress
        As in `hypothesis_test`.
    cl
        Confidence level.
    n_toys
        Toys of the background, and of the signal at each value of the grid.
    expected
        Whether to compute the limits expected from the background, at -2 to +2 standard deviations.
    grid
        Values of `poi` that are tested too and kept in the result; with toys the values that are interpolated.
        With toys they are chosen around the asymptotic limits by default, and more are added until the level is
        bracketed.

    Raises
    ------
    InferenceError
        As in `hypothesis_test`; when `cl` is not between 0 and 1, the grid is outside the bounds, or the observed
        limit lies above the upper bound of `poi`.
    """
    i, held = _prepared(likelihood, poi, calculator, test_statistic, fixed)
    alpha = 1.0 - confidence_level(cl)
    values = None if grid is None else _not_negative(likelihood, i, grid)
    asymptotic = AsymptoticTests(likelihood, i, held, test_statistic, expected)
    if calculator == "toys":
        tests = ToyTests(asymptotic, n_toys, seed_of(seed), client).bracket(alpha, values, progress)
        return _interpolated(asymptotic, tests, alpha, extended=values is None)
    observed = asymptotic.limit(alpha)
    found, messages = asymptotic.expected_limits(alpha) if expected else (None, [])
    return UpperLimit(
        poi=likelihood.names[i],
        cl=1.0 - alpha,
        calculator="asymptotic",
        test_statistic=test_statistic,
        observed=observed,
        error=0.0,
        expected=None if found is None else tuple(found.tolist()),
        tests=() if values is None else tuple(asymptotic.test(float(value)) for value in values),
        best=asymptotic.data.best,
        messages=(*asymptotic.messages, *messages),
    )


def _prepared(
    likelihood: Likelihood, poi: str | int, calculator: str, test_statistic: str, fixed: Fixed
) -> tuple[int, dict[str, float]]:
    one_of(calculator, ("asymptotic", "toys"), "calculator")
    one_of(test_statistic, ("qtilde", "q"), "test statistic of a limit")
    held = held_values(likelihood, fixed, None)
    i = parameter_of_interest(likelihood, poi, held)
    inside_bounds(likelihood, i, [0.0])
    return i, held


def _not_negative(likelihood: Likelihood, i: int, values: ArrayLike) -> Array:
    found = inside_bounds(likelihood, i, values)
    if found[0] < 0.0:
        raise InferenceError(
            f"an upper limit tests values of {likelihood.names[i]!r} from 0 on, got {found[0]:g}"
        )
    return found


def _interpolated(
    asymptotic: AsymptoticTests, tests: Sequence[HypothesisTest], alpha: float, *, extended: bool
) -> UpperLimit:
    values = np.array([test.value for test in tests])
    observed, error = falls_below(values, cls_along(tests, -1), np.array([t.cls_error for t in tests]), alpha)
    expected = None
    if asymptotic.expected:
        expected = tuple(falls_below(values, cls_along(tests, k), None, alpha)[0] for k in range(5))
    messages = list(dict.fromkeys(message for test in tests for message in test.messages))
    if not np.isfinite([observed, *(expected or ())]).all():
        fix = "raise the upper bound of the parameter" if extended else "give a wider grid"
        messages.append(f"a limit is outside [{values[0]:g}, {values[-1]:g}]: {fix}")
    best, name = asymptotic.data.best, asymptotic.name
    return UpperLimit(
        name,
        1.0 - alpha,
        "toys",
        asymptotic.statistic,
        observed,
        error,
        expected,
        tuple(tests),
        best,
        tuple(messages),
    )

"""Spread of an ensemble: do the members of a ratio disagree by more than the statistics of the events?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.diagnostics.gates import Check
from neyman.diagnostics.samples import column, histogram, quantiles, reweighted, weight
from neyman.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EnsembleSpread(Check):
    r"""Spread of the members per event, and what it does to a histogram of the reweighted reference.

    Parameters
    ----------
    members
        Number of members M.
    median, upper
        Median and 95% quantile, over the reweighted reference, of the standard deviation of the mean log-ratio,
        :math:`s/\sqrt M` with the standard deviation s over the members.
    edges
        Bin edges in the score, ``(n_bins + 1,)``.
    contents
        Normalised contents by the aggregated ratio, ``(n_bins,)``.
    spread
        Standard deviation of the mean over the members of the contents, relative, ``(n_bins,)``.
    statistical
        Relative statistical error of the contents, ``(n_bins,)``.
    per_event
        Median of the events' :math:`s/\sqrt M` in each bin.
    relative
        Root-mean-square over the bins, weighted by content, of the spread over the statistical error.
    effect
        The same of the relative spread itself.
    tolerance
        `relative` and the relative spread that are still accepted.
    """

    members: int
    median: float
    upper: float
    edges: Array
    contents: Array
    spread: Array
    statistical: Array
    per_event: Array
    relative: float
    effect: float
    tolerance: tuple[float, float]


def ensemble_spread(
    members: ArrayLike,
    w: ArrayLike,
    *,
    score: ArrayLike | None = None,
    expected: float | None = None,
    bins: int = 20,
    tolerance: tuple[float, float] = (1.0, 0.01),
) -> EnsembleSpread:
    r"""Compare the spread of the members with the statistical error, in bins of the score.

    Every member reweights the reference to the target; the normalised bin contents of the members scatter by s, their
    mean by :math:`s/\sqrt M`. Fails when this exceeds the statistical error and the tolerated relative spread, both as
    root mean squares over the bins.

    Parameters
    ----------
    members
        Log-ratios of every member, ``(n_members, n_events)``.
    w
        Weights of the reference events, of any sign, ``(n_events,)``.
    score
        What to histogram, ``(n_events,)``; the mean log-ratio without it.
    expected
        Number of data events that will be analysed: the statistical error of a content c is then
        :math:`\sqrt{c/n}`. Without it, that of the reweighted reference itself.
    bins
        Number of bins with equal contents.
    tolerance
        Accepted spread over statistical error, and accepted relative spread.

    Raises
    ------
    InputError
        When there are fewer than two members, shapes disagree, a number is not finite, a total weight is not positive,
        or `expected` is not positive.
    """
    l = np.asarray(members, dtype=np.float64)
    if l.ndim != 2 or len(l) < 2:
        raise InputError(
            f"log-ratios of members of shape {l.shape} have no spread",
            expected="(n_members, n_events), at least two members",
        )
    if expected is not None and not expected > 0.0:
        raise InputError(f"the expected number of events is {expected:g}", expected="a positive number")
    q = weight("reference", w, l.shape[1])
    each = np.stack([reweighted(f"reference reweighted by member {i}", q, one) for i, one in enumerate(l)])
    mean = l.mean(axis=0)
    m = reweighted("reweighted reference", q, mean)
    m /= m.sum()
    of_mean = l.std(axis=0, ddof=1) / np.sqrt(len(l))
    x = mean if score is None else column("score", score, l.shape[1])
    inner = quantiles(x, m, np.arange(1, bins) / bins)
    edges = np.unique([x.min(), *np.nextafter(inner, np.inf), np.nextafter(x.max(), np.inf)])
    contents, variance = histogram(x, m, edges)
    by_member = np.stack([histogram(x, one / one.sum(), edges)[0] for one in each])
    keep = contents > 0.0
    if not keep.all():
        raise InputError(
            f"{int((~keep).sum())} of {len(keep)} bins have no positive content", fix="use fewer bins"
        )
    spread = by_member.std(axis=0, ddof=1) / np.sqrt(len(l)) / contents
    statistical = np.sqrt(variance if expected is None else contents / expected) / contents
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(contents) - 1)
    per_event = np.array([float(np.median(of_mean[index == b])) for b in range(len(contents))])
    relative = float(np.sqrt(np.average((spread / statistical) ** 2, weights=contents)))
    effect = float(np.sqrt(np.average(spread**2, weights=contents)))
    median, upper = quantiles(of_mean, m, [0.5, 0.95])
    what = "of the reweighted reference" if expected is None else f"of {expected:g} events"
    reason = (
        f"the spread of {len(l)} members moves the bins of the score by {effect:.2%} (root mean square, "
        f"{tolerance[1]:.2%} is accepted), {relative:.2f} times the statistical error {what} "
        f"({tolerance[0]:g} is accepted)"
    )
    return EnsembleSpread(
        "ensemble spread", not (relative > tolerance[0] and effect > tolerance[1]), reason, len(l), float(median),
        float(upper), edges, contents, spread, statistical, per_event, relative, effect, tolerance,
    )  # fmt: skip

"""`toys` and `fit_toys`: pseudo-experiments, drawn when asked for, and their fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.arguments import Fixed, Values, locate, starting_point, vector
from neyman.inference.batch import fit_batch
from neyman.inference.minimise import Cost, migrad_alone
from neyman.inference.results import Array, NamedVector, ToyFits
from neyman.likelihood import Data, Likelihood

_TOGETHER = 1000  # toys drawn and fitted at a time
_CHECK_EVERY, _MOST_CHECKS = 200, 10


@dataclass(frozen=True)
class Toys:
    """Data sets drawn at one point, global observables included; nothing is kept in memory.

    Toy i depends on the seed and on i alone: the first 100 of 1,000 toys are those of 100 toys.

    Parameters
    ----------
    likelihood
        Model that they are drawn from.
    truth
        Parameters that they are drawn at.
    n
        Number of toys.
    seed
        Entropy of the random streams.
    """

    likelihood: Likelihood
    truth: NamedVector
    n: int
    seed: int

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Data:
        if not -self.n <= i < self.n:
            message = f"toy {i} of {self.n}"
            raise IndexError(message)
        stream = np.random.SeedSequence(self.seed, spawn_key=(i % self.n,))
        return self._draw(np.random.default_rng(stream))

    @cached_property
    def _draw(self) -> Callable[[np.random.Generator], Data]:
        return self.likelihood.sampler(self.truth.array)

    def __iter__(self) -> Iterator[Data]:
        return (self[i] for i in range(self.n))


def toys(likelihood: Likelihood, n: int, *, at: Values = None, seed: int | np.random.Generator) -> Toys:
    """Return `n` toys of a likelihood.

    Parameters
    ----------
    likelihood
        Model that they are drawn from.
    n
        Number of toys.
    at
        Parameters that they are drawn at: an earlier fit, a mapping over some, or a full vector; the
        likelihood's starting values by default.
    seed
        A number, or a generator that one is drawn from.

    Raises
    ------
    InferenceError
        When `n` or `seed` is negative, a parameter is unknown or a value is not finite.
    """
    entropy = int(seed.integers(2**63)) if isinstance(seed, np.random.Generator) else int(seed)
    if n < 0 or entropy < 0:
        raise InferenceError(f"the number of toys and the seed must not be negative, got {n} and {seed}")
    truth = vector(likelihood, at)
    if not np.isfinite(truth).all():
        name = likelihood.names[int(np.argmin(np.isfinite(truth)))]
        raise InferenceError(f"toys cannot be drawn: parameter {name!r} is not finite")
    return Toys(likelihood, NamedVector(likelihood.names, truth), int(n), entropy)


def fit_toys(
    likelihood: Likelihood,
    toys: Toys | Sequence[Data],
    *,
    parameters: Sequence[str | int] | None = None,
    fixed: Fixed = None,
    start: Values = None,
    errors: bool = True,
    progress: bool = False,
) -> ToyFits:
    """Fit all toys, many at a time, by bounded Newton steps on the exact Hessians.

    A toy that does not converge that way is fitted again by MIGRAD with its fallbacks, and one toy in 200 (at most
    ten) is also fitted by MIGRAD alone: where that finds a lower minimum, `ToyFits.lower` says so. A toy whose fit
    fails is kept as invalid, with the reason. Ctrl-C closes the progress bar and is passed on.

    Parameters
    ----------
    likelihood
        Model that is fitted.
    toys
        From `toys`, or any sequence of data sets.
    parameters
        Parameters whose values and errors are kept; all by default.
    fixed
        Parameters that are not fitted, as in `fit`; those without a value stay at the start.
    start
        Where the fits start: the truth of `toys`, else the likelihood's own start, by default.
    errors
        Whether to compute HESSE errors; without them `ToyFits.errors` is NaN.
    progress
        Whether to show a progress bar on standard error.

    Raises
    ------
    InferenceError
        When a parameter is unknown, or the start or a fixed value is not finite or outside its bounds.
    """
    names = likelihood.names if parameters is None else parameters
    kept = [locate(likelihood, name) for name in names]
    truth = toys.truth if isinstance(toys, Toys) else None
    x, free = starting_point(likelihood, truth if start is None else start, fixed)
    held = np.ones(len(x), dtype=bool)
    held[free] = False
    n = len(toys)
    out = ToyFits(
        tuple(likelihood.names[k] for k in kept),
        np.full((n, len(kept)), np.nan),
        np.full((n, len(kept)), np.nan),
        np.full(n, np.nan),
        np.zeros(n, dtype=bool),
        truth,
    )
    failures: dict[int, str] = {}
    lower: dict[int, float] = {}
    refitted: list[int] = []
    every = max(_CHECK_EVERY, -(-n // _MOST_CHECKS))
    for rows in _counted(n, progress):
        drawn = [toys[i] for i in rows]
        batch = likelihood.with_data(likelihood.stack(drawn))
        found = fit_batch(batch, np.tile(x, (len(rows), 1)), held, errors=errors)
        span = slice(rows.start, rows.stop)
        out.values[span], out.errors[span] = found.values[:, kept], found.errors[:, kept]
        out.fvals[span], out.valid[span] = found.fvals, found.valid
        failures |= {rows[i]: reason for i, reason in found.reasons.items()}
        refitted += [rows[i] for i in found.refitted]
        for i in range(every - 1 - rows.start % every, len(rows), every):
            fall = found.fvals[i] - _checked(likelihood.with_data(drawn[i]), x, free)
            if fall > 1e-3:
                lower[rows[i]] = float(fall)
    return replace(out, failures=failures, lower=lower, refitted=tuple(refitted))


def _checked(likelihood: Likelihood, x: Array, free: NDArray[np.intp]) -> float:
    """Return the minimum that MIGRAD finds by itself; infinite where the likelihood is undefined at the start."""
    if not len(free):
        return np.inf
    try:
        cost = Cost(likelihood, x.copy(), free)
    except LikelihoodError:
        return np.inf
    names = tuple(likelihood.names[i] for i in free)
    minuit = migrad_alone(cost, x[free], likelihood.bounds[free], names)
    return float(minuit.fval) + cost.offset


def _counted(n: int, progress: bool) -> Iterator[range]:
    chunks = [range(first, min(first + _TOGETHER, n)) for first in range(0, n, _TOGETHER)]
    if not progress:
        yield from chunks
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("toy fits", total=n)
        for chunk in chunks:
            yield chunk
            bar.update(task, completed=chunk.stop)

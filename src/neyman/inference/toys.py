"""`toys` and `fit_toys`: pseudo-experiments, drawn when asked for, and their fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.cluster import run_tasks
from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.arguments import Fixed, Values, locate, starting_point, vector
from neyman.inference.batch import fit_batch
from neyman.inference.minimise import Cost, migrad_alone
from neyman.inference.results import Array, NamedVector, ToyFits
from neyman.likelihood import Data, Likelihood, UnbinnedTerm

# Toys drawn and fitted at a time: one array operation serves many toys of counts, toys of events fill memory.
_BINNED, _UNBINNED = 500, 50
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

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what `_draw` keeps, which does not pickle.
        return Toys, (self.likelihood, self.truth, self.n, self.seed)

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
    client: Any = None,
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
    client
        A ``dask.distributed.Client`` (:func:`neyman.cluster.connect`), over whose workers the toys are spread. Blocks
        of toys are the same without one, and so are their fits on workers with the same libraries.
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
    every = max(_CHECK_EVERY, -(-n // _MOST_CHECKS))
    work = _Work(likelihood, toys, x, free, held, kept, errors, every)
    size = _UNBINNED if any(isinstance(t, UnbinnedTerm) for t in likelihood.terms) else _BINNED
    blocks = [range(first, min(first + size, n)) for first in range(0, n, size)]
    failures: dict[int, str] = {}
    lower: dict[int, float] = {}
    refitted: list[int] = []
    with _bar(n, progress) as tell:
        fitted = run_tasks(
            client,
            _fit,
            blocks,
            shared=work,
            progress=lambda done, _: tell(min(done * size, n)),
            label="block of toys",
        )
    for rows, block in zip(blocks, fitted, strict=True):
        span = slice(rows.start, rows.stop)
        out.values[span], out.errors[span] = block.values, block.errors
        out.fvals[span], out.valid[span] = block.fvals, block.valid
        failures |= block.failures
        lower |= block.lower
        refitted += block.refitted
    return replace(out, failures=failures, lower=lower, refitted=tuple(refitted))


@dataclass(frozen=True)
class _Work:
    """What all blocks of toys have in common."""

    likelihood: Likelihood
    toys: Toys | Sequence[Data]
    x: Array
    free: NDArray[np.intp]
    held: NDArray[np.bool_]
    kept: Sequence[int]
    errors: bool
    every: int


@dataclass(frozen=True)
class _Block:
    """Fits of some toys, in the columns of `ToyFits`."""

    values: Array
    errors: Array
    fvals: Array
    valid: NDArray[np.bool_]
    failures: dict[int, str]
    lower: dict[int, float]
    refitted: list[int]


def _fit(rows: range, work: _Work) -> _Block:
    """Fit a block of toys; it depends on nothing but the toys in it."""
    drawn = [work.toys[i] for i in rows]
    batch = work.likelihood.with_data(work.likelihood.stack(drawn))
    found = fit_batch(batch, np.tile(work.x, (len(rows), 1)), work.held, errors=work.errors)
    lower = {}
    for i in range(work.every - 1 - rows.start % work.every, len(rows), work.every):
        fall = found.fvals[i] - _checked(work.likelihood.with_data(drawn[i]), work.x, work.free)
        if fall > 1e-3:
            lower[rows[i]] = float(fall)
    return _Block(
        found.values[:, work.kept],
        found.errors[:, work.kept],
        found.fvals,
        found.valid,
        {rows[i]: reason for i, reason in found.reasons.items()},
        lower,
        [rows[i] for i in found.refitted],
    )


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


@contextmanager
def _bar(n: int, progress: bool) -> Iterator[Callable[[int], None]]:
    if not progress:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("toy fits", total=n)
        yield lambda done: bar.update(task, completed=done)

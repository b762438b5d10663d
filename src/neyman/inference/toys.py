"""`toys` and `fit_toys`: pseudo-experiments, drawn when asked for, and their fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference.arguments import Fixed, Values, locate, vector
from neyman.inference.fit import fit
from neyman.inference.results import NamedVector, ToyFits
from neyman.likelihood import Data, Likelihood


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
        return self.likelihood.sample(self.truth.array, generator=np.random.default_rng(stream))

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
    progress: bool = False,
) -> ToyFits:
    """Fit each toy, starting from the truth.

    A toy whose fit raises is kept as invalid, with NaN and the reason. Ctrl-C closes the progress bar and is
    passed on.

    Parameters
    ----------
    likelihood
        Model that is fitted.
    toys
        From `toys`, or any sequence of data sets.
    parameters
        Parameters whose values and errors are kept; all by default.
    fixed
        Parameters that are not fitted, as in `fit`; those without a value stay at the truth.
    progress
        Whether to show a progress bar on standard error.
    """
    names = likelihood.names if parameters is None else parameters
    kept = [locate(likelihood, name) for name in names]
    truth = toys.truth if isinstance(toys, Toys) else None
    n = len(toys)
    values, errors = np.full((n, len(kept)), np.nan), np.full((n, len(kept)), np.nan)
    fvals, valid = np.full(n, np.nan), np.zeros(n, dtype=bool)
    failures: dict[int, str] = {}
    for i in _counted(n, progress):
        try:
            result = fit(likelihood.with_data(toys[i]), start=truth, fixed=fixed)
        except LikelihoodError as error:
            failures[i] = error.what
            continue
        values[i], errors[i] = result.values.array[kept], result.errors.array[kept]
        fvals[i], valid[i] = result.fval, result.valid
        if not result.valid:
            failures[i] = "; ".join(result.messages)
    return ToyFits(tuple(likelihood.names[k] for k in kept), values, errors, fvals, valid, truth, failures)


def _counted(n: int, progress: bool) -> Iterator[int]:
    if not progress:
        yield from range(n)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(range(n), description="toy fits", console=Console(stderr=True))

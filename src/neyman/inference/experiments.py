"""Toys of a test statistic: the fits, free and conditional, that toy-based inference is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from neyman.errors import InferenceError
from neyman.inference.results import Array, ToyFits
from neyman.inference.toys import Toys, fit_toys, toys
from neyman.likelihood import Data, Likelihood

T = TypeVar("T")
_TIE = 1e-6  # two fits of the same data differ by less


def seed_of(seed: int | None) -> int:
    """Return the seed of a calculation with toys, which must be given."""
    if seed is None:
        raise InferenceError("toys need a seed", fix="seed=1, or any other whole number")
    if int(seed) != seed or seed < 0:
        raise InferenceError(f"the seed is {seed}", expected="a whole number, not negative")
    return int(seed)


def drawn(likelihood: Likelihood, n: int, at: Array, seed: int, *stream: int) -> Toys:
    """Return toys of one of the streams that belong to a seed."""
    return toys(likelihood, n, at=at, seed=np.random.default_rng([seed, *stream]))


class PoiToys:
    """Toys drawn at one point, and their fits with everything free but the parameters `held`.

    Parameters
    ----------
    likelihood
        Model of the toys and of the fits.
    i
        Position of the parameter of interest.
    held
        Parameters that are not fitted.
    data
        The toys.
    errors
        Whether the free fits compute HESSE errors.
    client
        A ``dask.distributed.Client``, over whose workers the fits of toys are spread.
    progress
        Whether to show a progress bar on standard error.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        i: int,
        held: Mapping[str, float],
        data: Toys,
        *,
        errors: bool = False,
        client: Any = None,
        progress: bool = False,
    ) -> None:
        self._likelihood, self._i, self._held, self._data = likelihood, i, dict(held), data
        self._client, self._progress = client, progress
        free = fit_toys(
            likelihood,
            data,
            fixed=self._held,
            parameters=[i],
            errors=errors,
            client=client,
            progress=progress,
        )
        self.fitted, self.errors = free.values[:, 0], free.errors[:, 0]
        self.fvals, self.valid = free.fvals, free.valid

    def rise(self, value: float) -> tuple[Array, NDArray[np.bool_]]:
        """Return each toy's ``-2 ln L`` with the parameter at `value` above its minimum, and which are valid."""
        at = self._conditional(self._data, value)
        return np.maximum(at.fvals - self.fvals, 0.0), self.valid & at.valid

    def rise_above_zero(self, rise: Array) -> Array:
        """Return `rise` with the minimum of toys whose best fit is negative taken at 0 instead."""
        below = np.nonzero(self.valid & (self.fitted < 0.0))[0]
        if len(below):
            at_zero = self._conditional([self._data[int(k)] for k in below], 0.0)
            rise = rise.copy()
            rise[below] = np.maximum(rise[below] - (at_zero.fvals - self.fvals[below]), 0.0)
        return rise

    def _conditional(self, data: Toys | Sequence[Data], value: float) -> ToyFits:
        fixed = {**self._held, self._likelihood.names[self._i]: value}
        return fit_toys(
            self._likelihood,
            data,
            fixed=fixed,
            start=self._data.truth,
            parameters=[self._i],
            errors=False,
            client=self._client,
            progress=self._progress,
        )


def at_least(observed: float | Array, sample: Array) -> NDArray[np.intp]:
    """Return how many of `sample` are as large as `observed`; values that differ by rounding are equal."""
    ordered = np.sort(sample)
    threshold = np.asarray(observed) - _TIE * (1.0 + np.abs(observed))
    return np.asarray(len(ordered) - np.searchsorted(ordered, threshold, side="left"), dtype=np.intp)


def binomial_error(successes: int, n: int) -> float:
    """Standard error of ``successes / n``, never 0: that of one success where there are none, or all."""
    p = min(max(successes, 1), max(n - 1, 1)) / n if n else 1.0
    return float(np.sqrt(p * (1.0 - p) / n)) if n > 1 else 1.0


def clopper_pearson(successes: int, n: int, cl: float = 0.683) -> tuple[float, float]:
    """Exact central confidence interval of a binomial probability (Clopper, Pearson, Biometrika 26 (1934) 404)."""
    tail = 0.5 * (1.0 - cl)
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.isf(tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def some_valid(valid: NDArray[np.bool_], what: str) -> str | None:
    """Return a note when fits of toys failed; none valid at all is an error."""
    failed = int((~valid).sum())
    if failed == len(valid):
        raise InferenceError(f"no {what} could be fitted", fix="look at fit_toys(...).failures")
    return f"{failed} of {len(valid)} {what} could not be fitted and are left out" if failed else None


def counted(items: Iterable[T], what: str, progress: bool, *, total: int | None = None) -> Iterator[T]:
    """Iterate, with a progress bar on standard error when `progress`."""
    if not progress:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=what, total=total, console=Console(stderr=True))

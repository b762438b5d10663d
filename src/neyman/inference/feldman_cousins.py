"""`feldman_cousins`: confidence intervals that cover by construction, also near a bound and for small counts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neyman.cluster import completed
from neyman.errors import InferenceError, InputError
from neyman.files import digest, read_json, write_json
from neyman.inference.arguments import Fixed, held_values
from neyman.inference.checks import confidence_level, inside_bounds, parameter_of_interest, positive_count
from neyman.inference.experiments import (
    PoiToys,
    at_least,
    binomial_error,
    counted,
    drawn,
    seed_of,
    some_valid,
)
from neyman.inference.profile import ProfileCurve
from neyman.inference.results import Array, FeldmanCousins
from neyman.inference.results.construction import accepted
from neyman.likelihood import Likelihood


def feldman_cousins(
    likelihood: Likelihood,
    poi: str | int,
    grid: ArrayLike,
    *,
    cl: float = 0.683,
    n_toys: int = 1000,
    seed: int,
    fixed: Fixed = None,
    store: str | os.PathLike[str] | None = None,
    client: Any = None,
    progress: bool = False,
) -> FeldmanCousins:
    r"""Return the confidence interval of the Neyman construction with likelihood-ratio ordering.

    At each value :math:`\mu` toys are drawn, with the nuisance parameters of the conditional fit to the data there
    (profile construction), and fitted twice. The value is accepted when

    .. math:: P\big(\lambda_\mu \ge \lambda_\mu^\mathrm{obs} \,\big|\, \mu, \hat{\hat\theta}(\mu)\big)
        > 1 - \mathrm{CL}, \qquad \lambda_\mu = -2\ln\frac{L(\mu,\hat{\hat\theta})}{L(\hat\mu,\hat\theta)}

    (Feldman, Cousins, Phys. Rev. D 57 (1998) 3873). The bounds of `poi` are the physical boundary: with a lower
    bound of 0, :math:`\hat\mu` is never negative and the interval changes from two-sided to an upper limit by
    itself.

    Parameters
    ----------
    likelihood
        Model and data.
    poi
        Parameter of interest.
    grid
        Its values that are tested; the ends are interpolated between them.
    cl
        Confidence level.
    n_toys
        Toys at each value.
    seed
        Each value has its own stream of random numbers.
    fixed
        Parameters that are not fitted, as in `fit`.
    store
        JSON file that keeps the finished values: after an interruption the same call goes on from there.
    client
        A ``dask.distributed.Client``, over whose workers the values of the grid are spread.
    progress
        Whether to show a progress bar on standard error.

    Raises
    ------
    InferenceError
        When `poi` is unknown, fixed or without effect, the grid is empty, not finite or outside the bounds, `cl` is
        not between 0 and 1, a conditional fit or all toys of a value failed, or `store` belongs to another
        calculation.
    """
    held = held_values(likelihood, fixed, None)
    i = parameter_of_interest(likelihood, poi, held)
    level, n = confidence_level(cl), positive_count(n_toys, "toys")
    values = inside_bounds(likelihood, i, grid)
    curve = ProfileCurve(likelihood, i, held)
    # All conditional fits come first: one may meet a lower minimum than the first fit.
    for value in values:
        curve.at(float(value))
    finished = _Store(
        store, [likelihood.names, i, held, values.tolist(), level, n, seed_of(seed)], curve.best.fval
    )
    missing = [k for k in range(len(values)) if finished.get(k) is None]
    work = _Work(curve, values, level, n, seed)
    counting = completed(client, _point, missing, shared=work, label="value of the grid")
    what = f"toys at {len(missing)} values"
    for j, point in counted(counting, what, progress, total=len(missing)):
        finished.put(missing[j], point)
    points = [finished.get(k) or {} for k in range(len(values))]
    columns = {key: np.array([point[key] for point in points], dtype=np.float64) for key in _COLUMNS}
    intervals = accepted(values, columns["p_values"], 1.0 - level)
    messages = [note for point in points for note in point["notes"]]
    for end, bound, side in ((0, 0, "below"), (-1, 1, "above")):
        if columns["p_values"][end] > 1.0 - level and values[end] != likelihood.bounds[i, bound]:
            messages.append(f"the interval goes on {side} the grid, {values[end]:g}: give a wider grid")
    if not intervals:
        messages.append("no value of the grid is accepted: give more values around the best fit")
    return FeldmanCousins(
        poi=likelihood.names[i],
        cl=level,
        grid=values,
        observed=np.array([curve.rise(float(value)) for value in values]),
        **columns,
        intervals=intervals,
        best=curve.best,
        messages=tuple(messages),
    )


_COLUMNS = ("critical", "critical_error", "p_values", "p_errors", "n_toys")


@dataclass(frozen=True)
class _Work:
    """What all values of the grid have in common."""

    curve: ProfileCurve
    values: Array
    cl: float
    n: int
    seed: int


def _point(k: int, work: _Work) -> dict[str, Any]:
    """Count the toys at one value."""
    curve, value, cl, n = work.curve, float(work.values[k]), work.cl, work.n
    at = curve.at(value).values.array
    made = PoiToys(curve.likelihood, curve.i, curve.held, drawn(curve.likelihood, n, at, work.seed, k))
    rise, valid = made.rise(value)
    note = some_valid(valid, f"toys at {value:g}")
    ordered = np.sort(rise[valid])
    n_valid = len(ordered)
    covered = int(at_least(curve.rise(value), ordered))
    # One standard deviation of the number of toys below the quantile, on either side of it.
    spread = np.sqrt(n_valid * cl * (1.0 - cl))
    rank = (
        np.ceil(np.clip([n_valid * cl, n_valid * cl - spread, n_valid * cl + spread], 1, n_valid)).astype(int)
        - 1
    )
    return {
        "critical": float(ordered[rank[0]]),
        "critical_error": float(0.5 * (ordered[rank[2]] - ordered[rank[1]])),
        "p_values": covered / n_valid,
        "p_errors": binomial_error(covered, n_valid),
        "n_toys": n_valid,
        "notes": [note] if note else [],
    }


class _Store:
    """Finished values of the grid in a JSON file, when there is one."""

    def __init__(self, path: str | os.PathLike[str] | None, request: list[Any], fval: float) -> None:
        self._path = None if path is None else Path(path)
        # The minimum stands for the data; rounding must not make it another calculation.
        self._document: dict[str, Any] = {"calculation": digest(request, f"{fval:.6f}"), "points": {}}
        if self._path is None or not self._path.exists():
            return
        try:
            document = read_json(self._path)
        except InputError as error:
            raise InferenceError(
                error.what, where=error.where, fix="delete the file, or choose another"
            ) from error
        if not isinstance(document, Mapping) or document.get("calculation") != self._document["calculation"]:
            raise InferenceError(
                f"{self._path.name} belongs to another calculation",
                where=str(self._path),
                expected="the same likelihood, data, grid, cl, n_toys and seed",
                fix="delete the file, or choose another",
            )
        self._document = dict(document)

    def get(self, k: int) -> dict[str, Any] | None:
        point: dict[str, Any] | None = self._document["points"].get(str(k))
        return point

    def put(self, k: int, point: dict[str, Any]) -> None:
        self._document["points"][str(k)] = point
        if self._path is not None:
            write_json(self._path, self._document)

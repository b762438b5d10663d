"""What every estimator does before its training: held-out events, samples, ranges, and a look at the supports."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import ks_2samp

from neyman.errors import NeymanWarning, TrainingError, nearest
from neyman.events import EventTable
from neyman.events.support import outside
from neyman.networks import Scaling
from neyman.training import Sample, held_out

Ranges = tuple[tuple[float, float], ...]
_UNLIKE, _SIGNIFICANT = 0.02, 1e-6  # distance of two distributions of a parameter, and its p-value
_OUTSIDE = 0.01  # weight of numerator events beyond the denominator's range that is worth a warning


def split(table: EventTable, fraction: float, *, seed: int) -> tuple[EventTable, EventTable]:
    """Return the events to train on, and those held out."""
    mask = held_out(table, fraction, seed=seed)
    return table.select(~mask), table.select(mask)


def names(given: Sequence[str] | str) -> tuple[str, ...]:
    """Return names as a tuple; a single one may come as it is."""
    return (given,) if isinstance(given, str) else tuple(given)


def sample(table: EventTable, parameters: tuple[str, ...], side: str) -> Sample:
    """Return the events of one `side` with these columns as their nuisance parameters.

    Raises
    ------
    TrainingError
        When there are no events, or a column is missing.
    """
    if not len(table):
        raise TrainingError(
            f"the {side} has 0 events to train on or to hold out",
            expected="events on both sides of the split",
        )
    for name in parameters:
        if name not in table.extra:
            raise TrainingError(
                f"the {side} has no column {name!r}",
                expected="the value of the nuisance parameter of each event",
                fix=f"nearest names: {nearest(name, table.extra)}",
            )
    total = float(table.weight.sum())
    if not total > 0.0:
        raise TrainingError(
            f"the {side} has {len(table)} events whose weights sum to {total:g}",
            expected="a positive sum of weights",
        )
    z = np.stack([table.extra[p] for p in parameters], axis=1).astype(np.float32) if parameters else None
    for k, name in enumerate(parameters):
        if z is not None and not np.isfinite(z[:, k]).all():
            event = int(np.argmin(np.isfinite(z[:, k])))
            raise TrainingError(f"{name!r} is {z[event, k]} in event {event} of the {side}")
    return Sample(table.x, table.weight, z)


def bootstrapped(table: EventTable, own: Sample, members: range, *, seed: int, side: str) -> Sample:
    """Return the sample with bootstrap weights for these members.

    Events of the same column ``entry`` share theirs, on both sides; without it the sides are independent.
    """
    if "entry" in table.extra:
        ids = np.asarray(table.extra["entry"]).astype(np.int64)
        return own.bootstrapped(ids, len(members), key=(seed,), first=members.start)
    return own.bootstrapped(np.arange(len(table)), len(members), key=(seed, side), first=members.start)


def parameter_scaling(numerator: Sample, parameters: tuple[str, ...]) -> tuple[Ranges, Scaling]:
    """Return the trained range of each nuisance parameter, and the scaling that takes it to [-1, 1].

    Raises
    ------
    TrainingError
        When a parameter is constant.
    """
    if numerator.z is None:
        return (), (torch.zeros(0), torch.ones(0))
    z = np.asarray(numerator.z, dtype=np.float64)
    low, high = z.min(axis=0), z.max(axis=0)
    for name, a, b in zip(parameters, low, high, strict=True):
        if not b > a:
            raise TrainingError(
                f"nuisance parameter {name!r} has the same value ({a:g}) in all training events",
                expected="values drawn over the range of use and beyond",
            )
    ranges = tuple(zip(low.tolist(), high.tolist(), strict=True))
    return ranges, (torch.from_numpy((low + high) / 2.0), torch.from_numpy((high - low) / 2.0))


def check_features(numerator: EventTable, denominator: EventTable) -> None:
    """Raise :class:`TrainingError` when features differ, warn when the denominator does not cover the numerator."""
    for side, table in (("numerator", numerator), ("denominator", denominator)):
        if not isinstance(table, EventTable):
            raise TrainingError(
                f"the {side} is a {type(table).__name__}",
                expected="an EventTable",
                fix="EventTable.from_arrays takes dictionaries and data frames",
            )
    if numerator.features != denominator.features:
        odd = sorted(set(numerator.features) ^ set(denominator.features))
        raise TrainingError(
            "numerator and denominator have different features",
            where=", ".join(odd) or "the same names in another order",
        )
    if not len(numerator) or not len(denominator):
        return  # the training says which class is empty
    share = np.add(*outside(numerator.x, numerator.weight, denominator.x))
    worst = int(np.argmax(share))
    if share[worst] > _OUTSIDE:
        low, high = denominator.x.min(axis=0), denominator.x.max(axis=0)
        warnings.warn(
            f"{100 * share[worst]:.1f}% of the numerator lies outside the range of the denominator in "
            f"{numerator.features[worst]!r} ([{low[worst]:.4g}, {high[worst]:.4g}]): the ratio is not defined there; "
            "use a reference that covers every sample, or cut",
            NeymanWarning,
            stacklevel=3,
        )


def check_parameters(numerator: Sample, denominator: Sample, parameters: tuple[str, ...]) -> None:
    """Look at a denominator that has nuisance parameters of its own.

    Raises
    ------
    TrainingError
        When one of them is constant, as in a reference sample made at the nominal point.

    Warns
    -----
    NeymanWarning
        When one is distributed otherwise than in the numerator: the ratio then contains that of the two
        distributions.
    """
    if numerator.z is None or denominator.z is None:
        return
    for name, p, q in zip(parameters, numerator.z.T, denominator.z.T, strict=True):
        if q.min() == q.max():
            raise TrainingError(
                f"{name!r} is {q.min():g} in all events of the denominator, which would be told apart by it alone",
                expected="a denominator without that column: its events then take the numerator's values",
                fix=f"read the denominator without {name!r}",
            )
        distance, p_value = ks_2samp(p, q)
        if distance > _UNLIKE and p_value < _SIGNIFICANT:
            warnings.warn(
                f"{name!r} is distributed differently in numerator and denominator (Kolmogorov distance "
                f"{distance:.2g}): the ratio contains that of the two distributions; remove the column from the "
                "denominator, or draw it alike",
                NeymanWarning,
                stacklevel=3,
            )


def check_weights(numerator: Sample, parameters: tuple[str, ...]) -> None:
    """Warn when the mean weight of the numerator depends on a nuisance parameter: p(z) then does not cancel."""
    if numerator.z is None:
        return
    weight = np.asarray(numerator.weight, dtype=np.float64)
    for name, z in zip(parameters, numerator.z.T, strict=True):
        upper = z > np.median(z)
        if not upper.any() or upper.all():
            continue
        means = [weight[half].mean() for half in (upper, ~upper)]
        error = np.hypot(*(weight[half].std() / np.sqrt(half.sum()) for half in (upper, ~upper)))
        if abs(means[0] - means[1]) > max(5.0 * error, 0.01 * abs(weight.mean())):
            warnings.warn(
                f"the mean weight of the numerator depends on {name!r} ({means[1]:.4g} below its median, "
                f"{means[0]:.4g} above): the ratio would contain the yield; draw {name!r} with a weight that does not "
                "depend on it",
                NeymanWarning,
                stacklevel=3,
            )


def fingerprint(*samples: Sample) -> str:
    """Digest of the events, for the key of a checkpoint."""
    digest = hashlib.sha256()
    for one in samples:
        for array in (one.x, one.weight, one.z):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

"""How the weights of several members become one weight an event."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError
from neyman.networks import Aggregate

Array = NDArray[np.float64]

OF_LOG_RATIOS: dict[Aggregate, Aggregate] = {
    "mean": "mean_ratio",
    "median": "median",
    "truncated_mean": "truncated_mean_ratio",
}
"""What each aggregate of weights is called for the log-ratios of a model file."""


def check(aggregate: str, members: int) -> None:
    """Refuse an aggregate that does not exist for weights.

    Raises
    ------
    ConfigError
        For an unknown one, or a truncated mean of fewer than three members.
    """
    if aggregate not in OF_LOG_RATIOS:
        raise ConfigError(f"unknown aggregate {aggregate!r} of weights", expected=", ".join(OF_LOG_RATIOS))
    if aggregate == "truncated_mean" and members < 3:
        raise ConfigError(f"a truncated mean needs at least 3 members, got {members}")


def joined(members: Array, aggregate: Aggregate) -> Array:
    """Combine weights, ``(n_members, n_events)``, event by event.

    Between the middle two of an even number of members lies their geometric mean, which is the median of their
    log-ratios in a model file.
    """
    if len(members) == 1:
        return np.asarray(members[0])
    if aggregate == "mean":
        return np.asarray(members.mean(axis=0))
    ordered = np.sort(members, axis=0)
    if aggregate == "truncated_mean":
        return np.asarray(ordered[1:-1].mean(axis=0))
    low, high = ordered[(len(members) - 1) // 2], ordered[len(members) // 2]
    middle = np.where(low > 0.0, np.sqrt(np.abs(low)) * np.sqrt(np.abs(high)), 0.5 * (low + high))
    return np.asarray(middle)


def aggregated(members: Array, aggregate: Aggregate, weight: Array) -> Array:
    r"""Combine the weights of members, keeping the yield.

    Parameters
    ----------
    members
        Push or pull weights, ``(n_members, n_events)``.
    aggregate
        ``mean``, ``median`` or ``truncated_mean`` (without the lowest and the highest).
    weight
        Weights w of the events that make the yield, ``(n_events,)``.
    """
    own = joined(members, aggregate)
    return own if len(members) == 1 else np.asarray(own * keeping_yield(members, own, weight))


def keeping_yield(members: Array, own: Array, weight: Array) -> float:
    r"""Return the factor on combined weights with which :math:`\sum_i w_i \nu_i` is the average of the members'.

    The median and the truncated mean of weights have another sum than the weights themselves.
    """
    return float((members @ weight).mean() / (own @ weight))

"""How the weights of several members become one weight an event."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError
from neyman.networks import Aggregate, combine

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
    if len(members) == 1:
        return np.asarray(members[0])
    joined = combine(members.astype(np.float32), aggregate).astype(np.float64)
    return np.asarray(joined * keeping_yield(members, joined, weight))


def keeping_yield(members: Array, joined: Array, weight: Array) -> float:
    r"""Return the factor on combined weights with which :math:`\sum_i w_i \nu_i` is the average of the members'.

    The median and the truncated mean of weights have another sum than the weights themselves.
    """
    return float((members @ weight).mean() / (joined @ weight))

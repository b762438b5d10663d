"""How the members of an ensemble become one log-ratio; chosen after training."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from neyman.errors import InputError

Array = NDArray[np.float32]
Aggregate = Literal["mean", "median", "truncated_mean", "mean_ratio", "truncated_mean_ratio"]


def combine(members: Array, aggregate: Aggregate = "mean") -> Array:
    r"""Aggregate the first axis of log-ratios :math:`\ell_m`.

    Parameters
    ----------
    members
        Shape ``(n_members, ...)``.
    aggregate
        ``mean`` :math:`\frac1M\sum_m \ell_m`, ``median``, ``truncated_mean`` (without the lowest and the highest);
        ``mean_ratio`` :math:`\ln \frac1M\sum_m e^{\ell_m}` and ``truncated_mean_ratio`` average the ratios instead.
        The median of the ratios is that of the log-ratios.

    Raises
    ------
    InputError
        For an unknown aggregate, or a truncated mean of fewer than three members.
    """
    if aggregate == "median":
        return np.asarray(np.median(members, axis=0), dtype=np.float32)
    if aggregate in ("truncated_mean", "truncated_mean_ratio"):
        if len(members) < 3:
            raise InputError(f"a truncated mean needs at least 3 members, got {len(members)}")
        members = np.sort(members, axis=0)[1:-1]
    if aggregate in ("mean", "truncated_mean"):
        return np.asarray(members.mean(axis=0, dtype=np.float64), dtype=np.float32)
    if aggregate in ("mean_ratio", "truncated_mean_ratio"):
        mean = logsumexp(members.astype(np.float64), axis=0) - np.log(len(members))
        return np.asarray(mean, dtype=np.float32)
    raise InputError(
        f"unknown aggregate {aggregate!r}",
        expected="mean, median, truncated_mean, mean_ratio or truncated_mean_ratio",
    )

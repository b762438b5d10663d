"""Losses of two-class density-ratio training, each with the log-ratio that its minimum means.

With numerator events x ~ p (weights w) and denominator events x ~ q, both normalised to equal total weight, the
minimum of every loss is reached where :meth:`Loss.log_ratio` equals ``ln p(x)/q(x)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch.nn.functional import softplus


class Loss(Protocol):
    """Per-event losses of the two classes as functions of the raw network output."""

    def numerator(self, z: torch.Tensor) -> torch.Tensor:
        """Loss of numerator events."""

    def denominator(self, z: torch.Tensor) -> torch.Tensor:
        """Loss of denominator events."""

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Log-ratio that the output stands for, in closed form."""


@dataclass(frozen=True)
class BCE:
    r"""Binary cross-entropy of :math:`f = 1/(1+e^{-z})`, log-ratio :math:`z` (arXiv:2501.18419, Table II)."""

    link: Literal["sigmoid"] = "sigmoid"

    def numerator(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`-\\ln f`."""
        return softplus(-z)

    def denominator(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`-\\ln(1-f)`."""
        return softplus(z)

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`\\ln f/(1-f) = z`."""
        return z


@dataclass(frozen=True)
class MLC:
    r"""Maximum-likelihood classifier with :math:`f = e^z`, log-ratio :math:`z` (arXiv:2501.18419, Table II)."""

    link: Literal["exp"] = "exp"

    def numerator(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`-\\ln f`."""
        return -z

    def denominator(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`f - 1`."""
        return torch.expm1(z)

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`\\ln f = z`."""
        return z

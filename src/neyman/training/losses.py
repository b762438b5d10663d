r"""Losses of two-class density-ratio training, each with the log-ratio that its minimum means.

With numerator events x ~ p and denominator events x ~ q, both of total weight 1, a network is trained on

.. math:: L = \tfrac12 \langle l_+(z(x)) \rangle_p + \tfrac12 \langle l_-(z(x)) \rangle_q

and its minimum over all functions z(x) is where :meth:`Loss.log_ratio` equals :math:`\ln p(x)/q(x)`.

* `BCE` judges probabilities. It is the one to start with: every event's gradient is bounded.
* `MLC` judges ratios and is the maximum likelihood of them; its gradient grows with the ratio, so it follows
  large ratios closely and needs smaller learning rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch.nn.functional import softplus

from neyman.errors import ConfigError, nearest
from neyman.networks import links
from neyman.networks.links import Link

CEILING = 20.0
"""Log-ratio above which the loss of denominator events under ``MLC("exp")`` goes on along its tangent."""

PULL = 100.0
"""Slope of the loss of numerator events to which ``MLC("relu")`` gives ratio 0: that of a ratio of 0.01."""


class Loss(Protocol):
    """Per-event losses of the two classes as functions of the raw network output.

    Attributes
    ----------
    link
        The loss's own name of the function from output to probability or ratio.
    output_link
        The link under which a model file keeps a network trained with the loss.
    """

    @property
    def link(self) -> str:
        """Name of the function from raw output to probability or ratio."""

    @property
    def output_link(self) -> Link:
        """Link of :mod:`neyman.networks.links` that gives the log-ratio."""

    def numerator(self, z: torch.Tensor) -> torch.Tensor:
        """Loss of numerator events."""

    def denominator(self, z: torch.Tensor) -> torch.Tensor:
        """Loss of denominator events."""

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Log-ratio that the output stands for, in closed form."""

    def flat(self) -> float:
        """Loss of ratio 1 everywhere, the mean of both classes: what a network that knows nothing has."""


BCELink = Literal["sigmoid", "gaussian", "arctan"]
MLCLink = Literal["exp", "relu", "square"]


@dataclass(frozen=True)
class BCE:
    r"""Binary cross-entropy, :math:`l_+ = -\ln f`, :math:`l_- = -\ln(1-f)`, with ratio :math:`f/(1-f)`
    (arXiv:2501.18419, eq. 32 and Table II).

    Parameters
    ----------
    link
        ``sigmoid`` :math:`f = 1/(1+e^{-z})`, ``gaussian`` :math:`f = \Phi(z)`, or ``arctan``
        :math:`f = 1/2 + \arctan(z)/\pi`. All are evaluated as logarithms, without saturation.
    """

    link: BCELink = "sigmoid"

    def __post_init__(self) -> None:
        _check(self.link, get_args(BCELink), "BCE")

    @property
    def output_link(self) -> Link:
        """Link of the log-ratio in a model file."""
        return "identity" if self.link == "sigmoid" else self.link

    def numerator(self, z: torch.Tensor) -> torch.Tensor:
        r""":math:`-\ln f`."""
        match self.link:
            case "sigmoid":
                return softplus(-z)
            case "gaussian":
                return -links.log_normal_cdf(z)
            case "arctan":
                return -links.log_angle(z)

    def denominator(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`-\\ln(1-f)`: all three f are symmetric, :math:`1 - f(z) = f(-z)`."""
        return self.numerator(-z)

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Log-ratio that the output stands for (:func:`neyman.networks.links.log_ratio`)."""
        return links.log_ratio(self.output_link, z)

    def flat(self) -> float:
        """Loss of ratio 1 everywhere, ln 2."""
        return math.log(2.0)


@dataclass(frozen=True)
class MLC:
    r"""Maximum-likelihood classifier, :math:`l_+ = -\ln f`, :math:`l_- = f - 1`, with ratio f
    (arXiv:2501.18419, eq. 31 and Table II).

    Parameters
    ----------
    link
        ``exp`` :math:`f = e^z`, ``relu`` :math:`f = \max(1+z, 0)`, or ``square`` :math:`f = (1+z)^2`. The paper has
        z where we have 1 + z: an untrained network, whose outputs are near 0, would then stand for ratio 0, where
        ``square`` has an infinite barrier and ``relu`` half of its events without gradient.

    Notes
    -----
    Where f = 0 the loss of a numerator event is infinite, and behind the kink of ``relu`` its gradient is lost. So
    below :math:`\epsilon` = :data:`neyman.networks.links.FLOOR` the loss goes on as a straight line,
    :math:`l_+ = -\ln\epsilon + s\,(\epsilon - g)`: for ``square`` its tangent, g = f and :math:`s = 1/\epsilon`;
    for ``relu`` :math:`g = 1 + z` of any sign, so that the event is pulled back, with s = `PULL`, because a few
    events at the tangent's slope of 22,000 rule the gradient of a batch. The minimum is the exact ratio wherever
    that exceeds :math:`e\,\epsilon`. Trained ratios below :math:`\epsilon` are reported as :math:`\epsilon`;
    :func:`neyman.networks.links.floored` counts them. ``relu`` needs overlapping densities; ``exp`` and the
    cross-entropies do not.

    ``exp`` keeps :math:`l_- = e^z - 1` up to z = `CEILING`, then its tangent, so that it never overflows.
    """

    link: MLCLink = "exp"

    def __post_init__(self) -> None:
        _check(self.link, get_args(MLCLink), "MLC")

    @property
    def output_link(self) -> Link:
        """Link of the log-ratio in a model file."""
        return "identity" if self.link == "exp" else self.link

    def numerator(self, z: torch.Tensor) -> torch.Tensor:
        r""":math:`-\ln f`, on a straight line below the floor."""
        if self.link == "exp":
            return -z
        g = 1.0 + z if self.link == "relu" else (1.0 + z).square()
        pull = PULL if self.link == "relu" else 1.0 / links.FLOOR
        return -torch.log(g.clamp_min(links.FLOOR)) + pull * (links.FLOOR - g).clamp_min(0.0)

    def denominator(self, z: torch.Tensor) -> torch.Tensor:
        """:math:`f - 1`, for ``exp`` on its tangent above the ceiling."""
        if self.link == "exp":
            return torch.expm1(z.clamp_max(CEILING)) + math.exp(CEILING) * (z - CEILING).clamp_min(0.0)
        return links.ratio(self.link, z) - 1.0

    def log_ratio(self, z: torch.Tensor) -> torch.Tensor:
        """Log-ratio that the output stands for (:func:`neyman.networks.links.log_ratio`)."""
        return links.log_ratio(self.output_link, z)

    def flat(self) -> float:
        """Loss of ratio 1 everywhere, 0."""
        return 0.0


def _check(link: str, known: tuple[str, ...], loss: str) -> None:
    if link not in known:
        raise ConfigError(
            f"{loss} has no link {link!r}",
            expected=f"one of {', '.join(known)}",
            fix=f"nearest: {nearest(str(link), known, n=1)}",
        )

r"""Links: what the raw output z of a network means as a log-ratio.

A model file names the link of its output, and every evaluation of the file goes through `log_ratio`. The closed
forms hold far beyond the point where a probability is 0 or 1 in floating point, and at z = 0 every link means
ratio 1, so that an untrained network is flat.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from neyman.errors import ConfigError, nearest

Link = Literal["identity", "gaussian", "arctan", "relu", "square"]

FLOOR = math.exp(-10.0)
"""Smallest ratio that ``relu`` and ``square`` stand for: they reach ratio 0, whose logarithm is not a number that
can be averaged, stored or added to a likelihood. Events at the floor are counted by `floored`."""

_ASYMPTOTIC = -20.0


def log_ratio(link: Link, z: torch.Tensor) -> torch.Tensor:
    r"""Return the log-ratio of raw outputs.

    ============ ==================================== =================================================
    link         ratio                                log-ratio
    ============ ==================================== =================================================
    ``identity`` :math:`e^z`                          :math:`z`
    ``gaussian`` :math:`\Phi(z)/\Phi(-z)`             :math:`\ln\Phi(z) - \ln\Phi(-z)`
    ``arctan``   :math:`f/(1-f)`,                     :math:`\ln\,\mathrm{atan2}(1, -z)
                 :math:`f = 1/2 + \arctan(z)/\pi`     - \ln\,\mathrm{atan2}(1, z)`
    ``relu``     :math:`\max(1 + z, 0)`               :math:`\ln\max(1 + z, \epsilon)`
    ``square``   :math:`(1 + z)^2`                    :math:`\ln\max((1 + z)^2, \epsilon)`
    ============ ==================================== =================================================

    The sigmoid of the binary cross-entropy and the exponential of the maximum-likelihood classifier are
    ``identity`` (arXiv:2501.18419, Table II, with 1 + z for z in the last two rows). :math:`\epsilon` is `FLOOR`.

    Parameters
    ----------
    link
        Name of the link.
    z
        Raw outputs, any shape.

    Raises
    ------
    ConfigError
        When there is no such link.
    """
    match check(link):
        case "identity":
            return z
        case "gaussian":
            return log_normal_cdf(z) - log_normal_cdf(-z)
        case "arctan":
            return log_angle(z) - log_angle(-z)
        case _:
            return torch.log(ratio(link, z).clamp_min(FLOOR))


def floored(link: Link, z: torch.Tensor) -> torch.Tensor:
    """Tell which outputs stand for a ratio of `FLOOR` or less, bool, the shape of `z`.

    Their mean is the fraction of events whose ratio the network calls 0; only ``relu`` and ``square`` have any.
    """
    if check(link) in ("relu", "square"):
        return ratio(link, z) <= FLOOR
    return torch.zeros_like(z, dtype=torch.bool)


def ratio(link: Link, z: torch.Tensor) -> torch.Tensor:
    """Return the ratio itself for the links whose output is one up to a polynomial, without the floor."""
    return (1.0 + z).clamp_min(0.0) if link == "relu" else (1.0 + z).square()


def check(link: str) -> Link:
    """Return the name of a link, or say which ones there are."""
    for known in get_args(Link):
        if link == known:
            name: Link = known
            return name
    raise ConfigError(
        f"unknown link {link!r}",
        expected=f"one of {', '.join(get_args(Link))}",
        fix=f"nearest: {nearest(str(link), get_args(Link), n=1)}",
    )


def log_normal_cdf(z: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\ln\Phi(z)`, its value and its gradient right in single precision for any z.

    The gradient of ``torch.special.log_ndtr`` is off by a factor 6 at z = -10,000; below -20 the asymptotic series
    :math:`-z^2/2 - \ln(-z\sqrt{2\pi}) + \ln(1 - z^{-2} + 3z^{-4} - 15z^{-6})` takes its place.
    """
    far = z.clamp_max(_ASYMPTOTIC)
    s = far.reciprocal().square()
    tail = (
        -0.5 * far.square()
        - torch.log(-far * math.sqrt(2.0 * math.pi))
        + torch.log1p(-s * (1.0 - s * (3.0 - 15.0 * s)))
    )
    return torch.where(z < _ASYMPTOTIC, tail, torch.special.log_ndtr(z.clamp_min(_ASYMPTOTIC)))


def log_angle(z: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\ln(1/2 + \arctan(z)/\pi)`, through the angle :math:`\mathrm{atan2}(1, -z)` from 0 to pi."""
    return torch.log(torch.atan2(torch.ones_like(z), -z) / math.pi)

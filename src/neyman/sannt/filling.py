"""How network outputs become bins while a network is trained: exactly, by a kernel, or by soft assignment.

* `Exact`: the histogram that is fitted later, with a `BinFunction` for its gradient: SANNT.
* `KDE`: contents smeared by a Gaussian kernel, as in neos (arXiv:2203.05570).
* `Inferno`: one output a bin, events shared among them by a softmax (arXiv:1806.04743).

Whatever trains it, a network is judged and exported by the exact histogram of `Filling.index`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.nn.functional import pad

from neyman.errors import ConfigError
from neyman.sannt.bin_functions import BinFunction, EdgeKernel, positive
from neyman.sannt.histogram import bin_index, fill


class Filling(Protocol):
    """How the outputs of a stack fill bins."""

    @property
    def pretrained(self) -> bool:
        """Whether the network begins as the cross-entropy classifier."""

    @property
    def ordered(self) -> bool:
        """Whether neighbouring bins are close in the score."""

    def outputs(self, n_classes: int, n_bins: int) -> int:
        """Return the number of network outputs for bins of so many classes."""

    def scores(self, out: torch.Tensor) -> torch.Tensor:
        """Return what is binned, from raw outputs ``(n_members, n_events, n_outputs)``, of the same shape."""

    def index(self, scores: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return the bin of each event, int64 ``(n_members, n_events)``."""

    def contents(self, scores: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return differentiable contents, float64 ``(n_members, n_sets, n_classes * n_bins)``.

        `weight` has shape ``(n_sets, n_events)`` and `edges` ``(n_members, n_classes, n_bins + 1)``.
        """


class _Scores:
    """Sigmoid scores in [0, 1]; an event goes into the bins of the largest."""

    pretrained = True
    ordered = True

    def outputs(self, n_classes: int, n_bins: int) -> int:  # noqa: ARG002
        """Return one output a class."""
        return n_classes

    def scores(self, out: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid of the outputs."""
        return torch.sigmoid(out)

    def index(self, scores: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return the bin of each event."""
        return bin_index(scores, edges)


@dataclass(frozen=True)
class Exact(_Scores):
    """The exact histogram, with a stand-in for its derivative (CMS-PAS-MLG-23-005, arXiv:2502.13047).

    Parameters
    ----------
    bin_function
        The stand-in.
    margin
        With several classes: by how much an event between two of them feels the bin that it would have in the other
        one, as the width of a kernel in units of the mean bin width. 0: only within the class, as in the paper.
    """

    bin_function: BinFunction = field(default_factory=EdgeKernel)
    margin: float = 0.25

    def __post_init__(self) -> None:
        positive("margin must be a number that is not negative", self.margin, zero=True)
        given: object = self.bin_function
        if not callable(given) or isinstance(given, type):
            raise ConfigError(f"the bin function is {given!r}", expected="EdgeKernel() or another one")

    def contents(self, scores: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return the exact contents."""
        return fill(scores, weight, edges, self.bin_function, self.margin)


@dataclass(frozen=True)
class KDE(_Scores):
    r"""Contents smeared by a Gaussian kernel of standard deviation h, one output only.

    .. math:: H_i = \sum_e w_e \left[\Phi\left(\frac{b_i - y_e}{h}\right) -
        \Phi\left(\frac{a_i - y_e}{h}\right)\right]

    with the outermost edges at infinity.

    Parameters
    ----------
    bandwidth
        h as a fraction of the mean bin width.
    """

    bandwidth: float = 0.5

    def __post_init__(self) -> None:
        positive("the kernel needs a positive bandwidth", self.bandwidth)

    def outputs(self, n_classes: int, n_bins: int) -> int:
        """Return 1; several classes have no smeared histogram."""
        if n_classes > 1:
            raise ConfigError("a KDE histogram has one output", fix="use Exact for several classes")
        return super().outputs(n_classes, n_bins)

    def contents(self, scores: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return the smeared contents."""
        out = []
        for y, own in zip(scores[..., 0], edges[:, 0].to(scores.dtype), strict=True):
            h = self.bandwidth * (own[-1] - own[0]) / (len(own) - 1)
            below = torch.special.ndtr((own[1:-1] - y[:, None]) / h)
            share = pad(below, (0, 1), value=1.0) - pad(below, (1, 0))
            out.append((weight @ share.to(weight.dtype)).double())
        return torch.stack(out)


@dataclass(frozen=True)
class Inferno:
    r"""One output a bin; in training an event is shared among the bins (de Castro and Dorigo, arXiv:1806.04743).

    .. math:: H_i = \sum_e w_e \frac{e^{f_i(x_e)/T}}{\sum_j e^{f_j(x_e)/T}}

    The bin of an event is that of the largest output. The network starts from random values: its outputs are no
    classes.

    Parameters
    ----------
    temperature
        T; smaller is closer to the final histogram and harder to train.
    """

    temperature: float = 0.1
    pretrained = False
    ordered = False

    def __post_init__(self) -> None:
        positive("the temperature must be positive", self.temperature)

    def outputs(self, n_classes: int, n_bins: int) -> int:
        """Return one output a bin."""
        if n_classes > 1:
            raise ConfigError("INFERNO has no classes", fix="use Exact for several classes")
        return n_bins

    def scores(self, out: torch.Tensor) -> torch.Tensor:
        """Return the shares of the bins."""
        return torch.softmax(out / self.temperature, dim=-1)

    def index(self, scores: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the bin with the largest share."""
        return scores.argmax(dim=-1)

    def contents(self, scores: torch.Tensor, weight: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the shared contents."""
        return (weight @ scores.to(weight.dtype)).double()

"""Systematics-aware training of a network whose output histogram is fitted (SANNT).

* `train` takes a signal, backgrounds and `Variation` objects and returns a `SANNT`.
* `histogram` fills bins with gradients; `EdgeKernel` is its backward pass, a `BinFunction`.
* `fisher_information`, `expected_uncertainty` are the closed-form figures of merit.
"""

from neyman.sannt.fisher import expected_uncertainty, fisher_information
from neyman.sannt.histogram import BinFunction, EdgeKernel, histogram
from neyman.sannt.templates import Templates, Variation
from neyman.sannt.training import SANNT, Stage, Uncertainty, train

__all__ = [
    "SANNT",
    "BinFunction",
    "EdgeKernel",
    "Stage",
    "Templates",
    "Uncertainty",
    "Variation",
    "expected_uncertainty",
    "fisher_information",
    "histogram",
    "train",
]

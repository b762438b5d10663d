"""Density ratios learned from simulation.

* `LRE` trains an ensemble of classifiers, `DLE` one of flows, `Hybrid` flows and a classifier of what they miss;
  each result is a `Ratio`, with the same calls.
* `ProcessRatios` gathers what was learned for one process; `RatioTable` is its evaluation on events.
* `tabulate` chooses the nodes at which a network conditioned on a nuisance parameter is tabulated.
"""

from neyman.ratios.density import Density, DensityRatio
from neyman.ratios.dle import DLE
from neyman.ratios.hybrid import Hybrid
from neyman.ratios.lre import LRE
from neyman.ratios.process import ProcessRatios, RatioTable, tabulate
from neyman.ratios.ratio import Ratio

__all__ = [
    "DLE",
    "LRE",
    "Density",
    "DensityRatio",
    "Hybrid",
    "ProcessRatios",
    "Ratio",
    "RatioTable",
    "tabulate",
]

"""Density ratios learned from simulation.

* `LRE` trains an ensemble of classifiers; its result is a `Ratio`.
* `ProcessRatios` gathers what was learned for one process; `RatioTable` is its evaluation on events.
* `tabulate` chooses the nodes at which a network conditioned on a nuisance parameter is tabulated.
"""

from neyman.ratios.lre import LRE
from neyman.ratios.process import ProcessRatios, RatioTable, tabulate
from neyman.ratios.ratio import Ratio

__all__ = ["LRE", "ProcessRatios", "Ratio", "RatioTable", "tabulate"]

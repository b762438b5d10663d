"""Jobs from files to results, in steps that are kept and resumed.

* `run` does everything from ROOT files to the report of a measurement; `load_config` reads its ``analysis.toml``.
* `train_sannt` does it for a systematics-aware network on flat files, ending in a pyhf workspace; `sannt_workspace` and
  `compare_uncertainties` do its last steps for networks trained in Python.
* `train_ratio` trains one density ratio from two sets of files, checks it, and exports it when it passes.
* `unfold` unfolds data with a simulation from flat files: weights, spectra with covariance, closure, HEPData.
* `trust` runs all checks of a density ratio on events that its training has not seen.
"""

from neyman.analysis.config import Config, load_config, parse_config
from neyman.analysis.ratio_job import train_ratio
from neyman.analysis.run import Run, run
from neyman.analysis.sannt_fits import compare_uncertainties, sannt_workspace
from neyman.analysis.sannt_job import TrainedSannt, train_sannt
from neyman.analysis.trust import trust
from neyman.analysis.unfold_job import Unfolded, unfold

__all__ = [
    "Config",
    "Run",
    "TrainedSannt",
    "Unfolded",
    "compare_uncertainties",
    "load_config",
    "parse_config",
    "run",
    "sannt_workspace",
    "train_ratio",
    "train_sannt",
    "trust",
    "unfold",
]

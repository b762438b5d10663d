"""Jobs from files to results, in steps that are kept and resumed.

* `run` does everything from ROOT files to the report of a measurement; `load_config` reads its ``analysis.toml``.
* `train_ratio` trains one density ratio from two sets of files, checks it, and exports it when it passes.
* `trust` runs all checks of a density ratio on events that its training has not seen.
"""

from neyman.analysis.config import Config, load_config, parse_config
from neyman.analysis.ratio_job import train_ratio
from neyman.analysis.run import Run, run
from neyman.analysis.trust import trust

__all__ = ["Config", "Run", "load_config", "parse_config", "run", "train_ratio", "trust"]

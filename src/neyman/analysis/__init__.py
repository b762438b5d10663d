"""The main job as steps: events, training, workspace, fit, report.

* `run` does everything and resumes; `load_config` reads an ``analysis.toml``.
"""

from neyman.analysis.config import Config, load_config, parse_config
from neyman.analysis.run import Run, run

__all__ = ["Config", "Run", "load_config", "parse_config", "run"]

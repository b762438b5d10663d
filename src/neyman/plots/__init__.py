"""Figures of every result, and the HTML report of a run; needs the extra ``plot``.

Each function takes plain data (a result record or its ``to_dict``) and returns a `matplotlib.figure.Figure`
that belongs to no pyplot state.

* `comparison`: expected uncertainty and likelihood scan of several descriptions of the same events.
* `profile_scan`, `profiles`: likelihood scan of one parameter, of many.
* `pulls_and_impacts`, `correlation`: what the uncertainty comes from, and how parameters hang together.
* `closure`, `discriminant`: events against what was learned, and the stacked classifier histogram.
* `training`: losses of all networks.
* `report.write`: all of them in one self-contained page.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "closure": "neyman.plots.distributions",
    "comparison": "neyman.plots.scans",
    "correlation": "neyman.plots.parameters",
    "discriminant": "neyman.plots.distributions",
    "profile_scan": "neyman.plots.scans",
    "profiles": "neyman.plots.scans",
    "pulls_and_impacts": "neyman.plots.parameters",
    "training": "neyman.plots.losses",
}

__all__ = [
    "closure",
    "comparison",
    "correlation",
    "discriminant",
    "profile_scan",
    "profiles",
    "pulls_and_impacts",
    "report",
    "training",
]

if TYPE_CHECKING:
    from neyman.plots import report as report
    from neyman.plots.distributions import closure as closure
    from neyman.plots.distributions import discriminant as discriminant
    from neyman.plots.losses import training as training
    from neyman.plots.parameters import correlation as correlation
    from neyman.plots.parameters import pulls_and_impacts as pulls_and_impacts
    from neyman.plots.scans import comparison as comparison
    from neyman.plots.scans import profile_scan as profile_scan
    from neyman.plots.scans import profiles as profiles


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name == "report":
        return importlib.import_module("neyman.plots.report")
    raise AttributeError(f"module 'neyman.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

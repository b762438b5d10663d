"""neyman: neural likelihood ratios and systematics-aware networks for the scikit-hep statistics stack.

Names are imported on first use, so that ``import neyman`` stays fast and needs neither torch nor coffea.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "EventTable": "neyman.events",
    "FeatureSpec": "neyman.events",
    "Likelihood": "neyman.likelihood",
    "NeymanError": "neyman.errors",
    "Scorer": "neyman.events",
    "accelerate_pyhf": "neyman.inference.pyhf_optimizer",
    "blind": "neyman.inference",
    "breakdown": "neyman.inference",
    "contour": "neyman.inference",
    "coverage": "neyman.inference",
    "feldman_cousins": "neyman.inference",
    "fit": "neyman.inference",
    "fit_toys": "neyman.inference",
    "goodness_of_fit": "neyman.inference",
    "hypothesis_test": "neyman.inference",
    "impacts": "neyman.inference",
    "profile": "neyman.inference",
    "significance": "neyman.inference",
    "toys": "neyman.inference",
    "upper_limit": "neyman.inference",
}
__all__ = [
    "EventTable",
    "FeatureSpec",
    "Likelihood",
    "NeymanError",
    "Scorer",
    "__version__",
    "accelerate_pyhf",
    "analysis",
    "blind",
    "breakdown",
    "cluster",
    "contour",
    "coverage",
    "diagnostics",
    "events",
    "feldman_cousins",
    "fit",
    "fit_toys",
    "goodness_of_fit",
    "hypothesis_test",
    "impacts",
    "inference",
    "likelihood",
    "networks",
    "plots",
    "profile",
    "ratios",
    "sannt",
    "significance",
    "toys",
    "training",
    "unfolding",
    "upper_limit",
    "workspace",
]

if TYPE_CHECKING:
    from neyman.errors import NeymanError as NeymanError
    from neyman.events import EventTable as EventTable
    from neyman.events import FeatureSpec as FeatureSpec
    from neyman.events import Scorer as Scorer
    from neyman.inference import blind as blind
    from neyman.inference import breakdown as breakdown
    from neyman.inference import contour as contour
    from neyman.inference import coverage as coverage
    from neyman.inference import feldman_cousins as feldman_cousins
    from neyman.inference import fit as fit
    from neyman.inference import fit_toys as fit_toys
    from neyman.inference import goodness_of_fit as goodness_of_fit
    from neyman.inference import hypothesis_test as hypothesis_test
    from neyman.inference import impacts as impacts
    from neyman.inference import profile as profile
    from neyman.inference import significance as significance
    from neyman.inference import toys as toys
    from neyman.inference import upper_limit as upper_limit
    from neyman.inference.pyhf_optimizer import accelerate_pyhf as accelerate_pyhf
    from neyman.likelihood import Likelihood as Likelihood


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in __all__:
        return importlib.import_module(f"neyman.{name}")
    raise AttributeError(f"module 'neyman' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

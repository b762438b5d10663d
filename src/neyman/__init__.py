"""neyman: neural likelihood ratios and systematics-aware networks for the scikit-hep statistics stack.

Names are imported on first use, so that ``import neyman`` stays fast and needs neither torch nor coffea.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "EventTable": "neyman.events",
    "Scorer": "neyman.events",
    "Likelihood": "neyman.likelihood",
    "NeymanError": "neyman.errors",
    "fit": "neyman.inference",
    "fit_toys": "neyman.inference",
    "impacts": "neyman.inference",
    "profile": "neyman.inference",
    "toys": "neyman.inference",
}
__all__ = [
    "EventTable",
    "Likelihood",
    "NeymanError",
    "Scorer",
    "__version__",
    "analysis",
    "diagnostics",
    "events",
    "fit",
    "fit_toys",
    "impacts",
    "inference",
    "likelihood",
    "networks",
    "plots",
    "profile",
    "ratios",
    "sannt",
    "toys",
    "training",
    "unfolding",
    "workspace",
]

if TYPE_CHECKING:
    from neyman.errors import NeymanError as NeymanError
    from neyman.events import EventTable as EventTable
    from neyman.events import Scorer as Scorer
    from neyman.inference import fit as fit
    from neyman.inference import fit_toys as fit_toys
    from neyman.inference import impacts as impacts
    from neyman.inference import profile as profile
    from neyman.inference import toys as toys
    from neyman.likelihood import Likelihood as Likelihood


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in __all__:
        return importlib.import_module(f"neyman.{name}")
    raise AttributeError(f"module 'neyman' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

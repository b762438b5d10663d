"""Trained networks evaluated inside processors.

:class:`Scorer` evaluates models on events, wherever it is sent. :func:`export_onnx` and :func:`export_pt2` write models
for other engines and other programs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Scorer": "neyman.events.scoring.scorer",
    "export_onnx": "neyman.events.scoring.export",
    "export_pt2": "neyman.events.scoring.export",
}

__all__ = ["Scorer", "export_onnx", "export_pt2"]

if TYPE_CHECKING:
    from neyman.events.scoring.export import export_onnx as export_onnx
    from neyman.events.scoring.export import export_pt2 as export_pt2
    from neyman.events.scoring.scorer import Scorer as Scorer


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'neyman.events.scoring' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

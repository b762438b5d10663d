"""Events in, tables out.

:class:`EventTable` holds features and weights. :func:`process_files` runs a :class:`TableProcessor` over
NanoAOD files with coffea, for every :class:`Variation`, into the regions described by :class:`RegionSpec`.
:func:`padded` makes flat columns of the leading particles of a collection, the input of :class:`neyman.networks.PET`.
:class:`Scorer` evaluates exported networks inside a processor.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "EventTable": "neyman.events.table",
    "PythonRef": "neyman.events.processing.source",
    "RegionSpec": "neyman.events.processing.selection",
    "Scorer": "neyman.events.scoring.scorer",
    "TableProcessor": "neyman.events.processing.processor",
    "Variation": "neyman.events.processing.selection",
    "padded": "neyman.events.particles",
    "process_files": "neyman.events.processing.runner",
}

__all__ = [
    "EventTable",
    "PythonRef",
    "RegionSpec",
    "Scorer",
    "TableProcessor",
    "Variation",
    "padded",
    "process_files",
]

if TYPE_CHECKING:
    from neyman.events.particles import padded as padded
    from neyman.events.processing.processor import TableProcessor as TableProcessor
    from neyman.events.processing.runner import process_files as process_files
    from neyman.events.processing.selection import RegionSpec as RegionSpec
    from neyman.events.processing.selection import Variation as Variation
    from neyman.events.processing.source import PythonRef as PythonRef
    from neyman.events.scoring.scorer import Scorer as Scorer
    from neyman.events.table import EventTable as EventTable


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'neyman.events' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

"""Events in, tables, histograms and scores out.

* `EventTable` holds features and weights; `FeatureSpec` declares features as expressions over collections, and `padded`
  makes flat columns of the leading particles of a collection, the input of `neyman.networks.PET`.
* `Scorer` evaluates trained networks inside a processor; `export_onnx` and `export_pt2` write them for other engines.
* `process_files` runs a processor over files with coffea, or on Dask: a `TableProcessor` of a `build` function for
  every `Variation` into regions (`RegionSpec`), a `HistProcessor` or a `RatioProcessor` without one.
* For any processor: `fill_systematics` (with `systematic_hist`, `Shifted`, `CorrectionWeight`), `ParquetSink`,
  `Checkpointer`, `ExactSum`, `sorted_categories`, `entry_ids`, `preload_branches`; `arranged` gives the output of
  other frameworks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Checkpointer": "neyman.events.processing.checkpoint",
    "CorrectionWeight": "neyman.events.processing.corrections",
    "EventTable": "neyman.events.table",
    "ExactSum": "neyman.events.processing.exact",
    "FeatureSpec": "neyman.events.features",
    "HistProcessor": "neyman.events.processing.histogram",
    "ParquetSink": "neyman.events.processing.sink",
    "PythonRef": "neyman.events.processing.source",
    "RatioProcessor": "neyman.events.processing.ratio",
    "RegionSpec": "neyman.events.processing.selection",
    "Scorer": "neyman.events.scoring.scorer",
    "Shifted": "neyman.events.processing.systematics",
    "TableProcessor": "neyman.events.processing.processor",
    "Variation": "neyman.events.processing.selection",
    "arranged": "neyman.events.processing.layout",
    "entry_ids": "neyman.events.processing.chunk",
    "export_onnx": "neyman.events.scoring.export",
    "export_pt2": "neyman.events.scoring.export",
    "fill_systematics": "neyman.events.processing.systematics",
    "padded": "neyman.events.particles",
    "preload_branches": "neyman.events.processing.fileset",
    "process_files": "neyman.events.processing.runner",
    "sorted_categories": "neyman.events.processing.exact",
    "systematic_hist": "neyman.events.processing.systematics",
}

__all__ = [
    "Checkpointer",
    "CorrectionWeight",
    "EventTable",
    "ExactSum",
    "FeatureSpec",
    "HistProcessor",
    "ParquetSink",
    "PythonRef",
    "RatioProcessor",
    "RegionSpec",
    "Scorer",
    "Shifted",
    "TableProcessor",
    "Variation",
    "arranged",
    "entry_ids",
    "export_onnx",
    "export_pt2",
    "fill_systematics",
    "padded",
    "preload_branches",
    "process_files",
    "sorted_categories",
    "systematic_hist",
]

if TYPE_CHECKING:
    from neyman.events.features import FeatureSpec as FeatureSpec
    from neyman.events.particles import padded as padded
    from neyman.events.processing.checkpoint import Checkpointer as Checkpointer
    from neyman.events.processing.chunk import entry_ids as entry_ids
    from neyman.events.processing.corrections import CorrectionWeight as CorrectionWeight
    from neyman.events.processing.exact import ExactSum as ExactSum
    from neyman.events.processing.exact import sorted_categories as sorted_categories
    from neyman.events.processing.fileset import preload_branches as preload_branches
    from neyman.events.processing.histogram import HistProcessor as HistProcessor
    from neyman.events.processing.layout import arranged as arranged
    from neyman.events.processing.processor import TableProcessor as TableProcessor
    from neyman.events.processing.ratio import RatioProcessor as RatioProcessor
    from neyman.events.processing.runner import process_files as process_files
    from neyman.events.processing.selection import RegionSpec as RegionSpec
    from neyman.events.processing.selection import Variation as Variation
    from neyman.events.processing.sink import ParquetSink as ParquetSink
    from neyman.events.processing.source import PythonRef as PythonRef
    from neyman.events.processing.systematics import Shifted as Shifted
    from neyman.events.processing.systematics import fill_systematics as fill_systematics
    from neyman.events.processing.systematics import systematic_hist as systematic_hist
    from neyman.events.scoring.export import export_onnx as export_onnx
    from neyman.events.scoring.export import export_pt2 as export_pt2
    from neyman.events.scoring.scorer import Scorer as Scorer
    from neyman.events.table import EventTable as EventTable


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'neyman.events' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)

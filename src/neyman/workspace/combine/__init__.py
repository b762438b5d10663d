"""Combine datacards: `read_datacard` makes a pyhf workspace of one, `write_datacard` one of a pyhf workspace."""

from neyman.workspace.combine.reading import Datacard, read_datacard
from neyman.workspace.combine.writing import write_datacard

__all__ = ["Datacard", "read_datacard", "write_datacard"]

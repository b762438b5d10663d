"""Unbinned unfolding: `OmniFold` reweights the simulation to the data; `Unfolding` is its result."""

from neyman.unfolding.omnifold import OmniFold
from neyman.unfolding.result import StepRecord, Unfolding

__all__ = ["OmniFold", "StepRecord", "Unfolding"]

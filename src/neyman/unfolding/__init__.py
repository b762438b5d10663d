"""Unbinned unfolding: `OmniFold` reweights the simulation to the data; `Unfolding` is its result.

* `OmniFold` runs the two-step iterations as stacks of networks; `Bootstrap` and `WeightSet` add replicas of the data
  and of the simulation, from which the covariance comes.
* `Unfolding` holds one weight an event: `Spectrum` and `Moments` of any observable, files, iterations.
* `closure_test` unfolds the simulation with itself; `mse_rel` and `sigma_rel` judge repeated passes.
* `Reweighter` applies a finished unfolding to other events, in any processor; `to_hepdata` writes a record.
"""

from neyman.unfolding.closure import ClosureTest, closure_test
from neyman.unfolding.hepdata import to_hepdata
from neyman.unfolding.inputs import Bootstrap, Support, WeightSet
from neyman.unfolding.iterate import Iteration
from neyman.unfolding.metrics import mse_rel, sigma_rel
from neyman.unfolding.omnifold import OmniFold
from neyman.unfolding.result import Moments, Unfolding
from neyman.unfolding.reweighter import Reweighter
from neyman.unfolding.spectrum import Comparison, Spectrum
from neyman.unfolding.steps import StepRecord

__all__ = [
    "Bootstrap",
    "ClosureTest",
    "Comparison",
    "Iteration",
    "Moments",
    "OmniFold",
    "Reweighter",
    "Spectrum",
    "StepRecord",
    "Support",
    "Unfolding",
    "WeightSet",
    "closure_test",
    "mse_rel",
    "sigma_rel",
    "to_hepdata",
]

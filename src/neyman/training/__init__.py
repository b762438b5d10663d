"""Training: one loop for stacks of networks, and the losses of density-ratio estimation.

* `Settings` says how long and how fast; `train` runs the loop on an `Objective`.
* `PairObjective` is the two-class objective of ratio estimation and unfolding.
* `BCE`, `MLC` are losses that know the log-ratio of their minimum.
* `held_out`, `input_scaling` prepare events in the same way for every training.
"""

from neyman.training.loop import History, Objective, Settings, train
from neyman.training.losses import BCE, MLC, Loss
from neyman.training.pairs import PairObjective, Sample
from neyman.training.preparation import held_out, input_scaling

__all__ = [
    "BCE",
    "MLC",
    "History",
    "Loss",
    "Objective",
    "PairObjective",
    "Sample",
    "Settings",
    "held_out",
    "input_scaling",
    "train",
]

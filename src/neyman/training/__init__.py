"""Training: one loop for stacks of networks, losses and optimizers of density-ratio estimation.

* `Settings` says how long, how fast and with which optimizer; `train` runs the loop on an `Objective`, and a
  `Checkpoint` lets it go on after an interruption.
* `PairObjective` is the two-class objective of ratio estimation and unfolding; `BCE` and `MLC` are its losses, which
  know the log-ratio of their minimum. `DensityObjective` trains flows, `ResidualObjective` what they miss.
* `ECD` is the energy-conserving optimizer; `default_eta` and `default_F0` choose its constants.
* `ReweightObjective` is the same for two weightings of the same events.
* `join` makes processes share the batches of a training (``torchrun``).
* `warm_start` gives a stack the weights of trained networks.
* `held_out` chooses the events that judge a training, in the same way for every training.
"""

from neyman.training.batches import Order, Sample, Tensors
from neyman.training.checkpoint import Checkpoint, History
from neyman.training.density import DensityObjective, ResidualObjective
from neyman.training.ecd import ECD, default_eta, default_F0
from neyman.training.loop import Objective, train
from neyman.training.losses import BCE, MLC, Loss
from neyman.training.pairs import PairObjective, ReweightObjective
from neyman.training.parallel import join
from neyman.training.preparation import held_out
from neyman.training.settings import Settings
from neyman.training.start import warm_start

__all__ = [
    "BCE",
    "ECD",
    "MLC",
    "Checkpoint",
    "DensityObjective",
    "History",
    "Loss",
    "Objective",
    "Order",
    "PairObjective",
    "ResidualObjective",
    "ReweightObjective",
    "Sample",
    "Settings",
    "Tensors",
    "default_F0",
    "default_eta",
    "held_out",
    "join",
    "train",
    "warm_start",
]

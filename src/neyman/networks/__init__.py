"""Networks: architectures as frozen descriptions, stacks of members, and the model file.

* `MLP` describes a fully connected network, `PET` a transformer of sets of particles, `NSF` a normalising flow;
  ``build`` makes a stack of M members.
* `Model` is a signed sum of trained stacks with its feature list; it saves to and loads from one safetensors file.
"""

from neyman.networks.architecture import Architecture
from neyman.networks.calibration import Calibration
from neyman.networks.description import Description, Part
from neyman.networks.ensemble import Aggregate, combine
from neyman.networks.flow import NSF, StackedFlow
from neyman.networks.model import Model, match_features, tensors_digest
from neyman.networks.pet import PET, StackedPET
from neyman.networks.scaling import Scaling, column_scaling
from neyman.networks.stacked import MLP, Draws, Stack, StackedLinear, StackedMLP, Standardise, joined

__all__ = [
    "MLP",
    "NSF",
    "PET",
    "Aggregate",
    "Architecture",
    "Calibration",
    "Description",
    "Draws",
    "Model",
    "Part",
    "Scaling",
    "Stack",
    "StackedFlow",
    "StackedLinear",
    "StackedMLP",
    "StackedPET",
    "Standardise",
    "column_scaling",
    "combine",
    "joined",
    "match_features",
    "tensors_digest",
]

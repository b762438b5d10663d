"""Networks: architectures as frozen descriptions, stacks of members, and the model file.

* `MLP` describes a fully connected network; ``build`` makes a stack of M members.
* `Model` is a trained stack with its feature list; it saves to and loads from one safetensors file.
"""

from neyman.networks.model import Aggregate, Description, Model, combine, match_features
from neyman.networks.stacked import MLP, StackedLinear, StackedMLP, Standardise

__all__ = [
    "MLP",
    "Aggregate",
    "Description",
    "Model",
    "StackedLinear",
    "StackedMLP",
    "Standardise",
    "combine",
    "match_features",
]

"""What a model file says about itself: a `Description`, with one `Part` for every stack of networks."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from neyman.networks.calibration import Calibration
from neyman.networks.ensemble import Aggregate
from neyman.networks.flow import NSF
from neyman.networks.links import Link
from neyman.networks.pet import PET
from neyman.networks.stacked import MLP, Stack

_LONGEST = 1 << 19  # characters of a document inside a description


class Part(BaseModel):
    """One stack of networks of a model.

    Attributes
    ----------
    network
        Architecture.
    members, outputs
        Sizes of the stack.
    parameters
        Which of the model's nuisance parameters follow the features as inputs.
    link
        How the raw output becomes a log-ratio.
    sign
        Whether the part is added or subtracted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Annotated[MLP | NSF | PET, Field(discriminator="kind")]
    members: int = Field(ge=1, le=10_000)
    outputs: int = Field(default=1, ge=1, le=10_000)
    parameters: tuple[str, ...] = ()
    link: Link = "identity"
    sign: Literal[1, -1] = 1

    def build(self, n_features: int, seed: int | None) -> Stack:
        """Make the stack; without a seed its parameters have shapes alone."""
        return self.network.build(
            n_features + len(self.parameters),
            context=len(self.parameters),
            outputs=self.outputs,
            members=self.members,
            seed=seed,
        )


class Description(BaseModel):
    """What a model takes and gives.

    Attributes
    ----------
    features
        Names of the event features, in order.
    parameters
        Nuisance-parameter inputs that follow the features.
    parameter_range
        Trained range of each nuisance parameter.
    parts
        The stacks whose signed sum is the output. The parts have the same number of members, or one.
    kind
        ``log_ratio`` of two densities; ``log_density``; ``score``: any other network output.
    aggregate
        How members are combined unless a caller asks for something else.
    offsets
        Numbers added to the output of each member, such as the logarithms of normalisations; none, or one a member.
    calibration
        Monotone map of the aggregated log-ratio.
    notes
        Free text such as the names of the two densities.
    inputs
        How the features are computed from events, a document of :class:`neyman.events.features.FeatureSpec`; none where
        the events have them as fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["neyman-model-2"] = "neyman-model-2"
    features: tuple[str, ...] = Field(min_length=1, max_length=10_000)
    parameters: tuple[str, ...] = ()
    parameter_range: tuple[tuple[float, float], ...] = ()
    parts: tuple[Part, ...] = Field(min_length=1, max_length=16)
    kind: Literal["log_ratio", "log_density", "score"] = "log_ratio"
    aggregate: Aggregate = "mean"
    offsets: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    calibration: Calibration | None = None
    notes: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        if len(self.parameter_range) != len(self.parameters):
            raise ValueError(f"{len(self.parameters)} parameters but {len(self.parameter_range)} ranges")
        for part in self.parts:
            if not set(part.parameters) <= set(self.parameters):
                raise ValueError(f"a part has the inputs {part.parameters}, the model {self.parameters}")
            if part.outputs > 1 and (len(self.parts) > 1 or self.kind != "score"):
                raise ValueError("only a score of a single part can have several outputs")
            if part.members not in (1, self.members):
                raise ValueError(f"parts have {part.members} and {self.members} members")
        if len(self.offsets) not in (0, self.members):
            raise ValueError(f"{len(self.offsets)} offsets for {self.members} members")
        if self.inputs is not None and len(json.dumps(self.inputs)) > _LONGEST:
            raise ValueError(f"the document of the features is longer than {_LONGEST} characters")
        if self.calibration is not None and self.kind != "log_ratio":
            raise ValueError(f"a {self.kind} cannot have a calibration, only a log-ratio")
        return self

    @property
    def members(self) -> int:
        """Number of members of the ensemble."""
        return max(part.members for part in self.parts)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.parts[0].outputs

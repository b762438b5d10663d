"""The documents of a workspace folder as pydantic models; `unbinned.schema.json` is published from them.

``unbinned.json`` mirrors a pyhf workspace: channels with samples with modifiers, and measurements. The same
parameter name is the same parameter in every channel of both files.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=500)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\x00" in path:
        raise ValueError(f"{path!r} must be a relative path inside the workspace folder")
    return path


InsidePath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_inside)]


class Document(BaseModel):
    """Base: unknown keys are errors, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EventFile(Document):
    """A Parquet file with one row an event."""

    file: InsidePath
    weight: Name = "weight"


class Factors(Document):
    """Multiplicative effect at +-1 standard deviation."""

    hi: Positive
    lo: Positive


class RatioColumns(Document):
    """Columns with the log-ratios up/nominal and down/nominal."""

    hi: Name
    lo: Name


class NetworkColumns(Document):
    """A conditioned network tabulated at nodes: column k is the log-ratio at nodes[k]."""

    nodes: tuple[Finite, ...] = Field(min_length=2, max_length=1000)
    columns: tuple[Name, ...] = Field(min_length=2, max_length=1000)
    file: InsidePath | None = None

    @model_validator(mode="after")
    def _same_length(self) -> NetworkColumns:
        if len(self.nodes) != len(self.columns):
            raise ValueError(f"{len(self.nodes)} nodes but {len(self.columns)} columns")
        return self


class NormFactorModifier(Document):
    """Free factor on the yield."""

    name: Name
    type: Literal["normfactor"]
    data: None = None


class LumiModifier(Document):
    """Luminosity factor on the yield; the measurement gives its auxiliary data and sigma."""

    name: Name
    type: Literal["lumi"]
    data: None = None


class NormSysModifier(Document):
    """Normalisation uncertainty of the yield (HistFactory code4)."""

    name: Name
    type: Literal["normsys"]
    data: Factors


class RatioSysModifier(Document):
    """Shape uncertainty from learned up and down ratios (HistFactory code4, event by event)."""

    name: Name
    type: Literal["ratiosys"]
    data: RatioColumns


class NetworkModifier(Document):
    """Shape dependence learned by a network with the nuisance parameter as an input."""

    name: Name
    type: Literal["network"]
    data: NetworkColumns


Modifier = Annotated[
    NormFactorModifier | LumiModifier | NormSysModifier | RatioSysModifier | NetworkModifier,
    Field(discriminator="type"),
]


class Sample(Document):
    """A process: nominal yield, column of its log-ratio to the reference density, modifiers."""

    name: Name
    expected: Annotated[float, Field(alias="yield", ge=0.0, allow_inf_nan=False)]
    log_ratio: Name
    network: InsidePath | None = None
    modifiers: tuple[Modifier, ...] = ()


class Channel(Document):
    """An unbinned channel.

    ``replaces`` names binned channels over the same events: a combination uses one or the other.
    """

    name: Name
    data: EventFile
    reference: EventFile
    samples: tuple[Sample, ...] = Field(min_length=1, max_length=10_000)
    replaces: tuple[Name, ...] = ()
    features: tuple[Name, ...] = ()


class ParameterConfig(Document):
    """Settings of a parameter, with pyhf's keys."""

    name: Name
    inits: tuple[Finite, ...] | None = None
    bounds: tuple[tuple[Finite, Finite], ...] | None = None
    auxdata: tuple[Finite, ...] | None = None
    sigmas: tuple[Positive, ...] | None = None
    fixed: bool | None = None
    factors: tuple[Positive, ...] | None = None


class MeasurementConfig(Document):
    """Parameter of interest and parameter settings."""

    poi: str
    parameters: tuple[ParameterConfig, ...] = ()


class Measurement(Document):
    """A named measurement, as in pyhf."""

    name: Name
    config: MeasurementConfig


class Unbinned(Document):
    """The whole of ``unbinned.json``."""

    channels: tuple[Channel, ...] = Field(min_length=1, max_length=10_000)
    measurements: tuple[Measurement, ...] = Field(min_length=1, max_length=1000)
    version: Literal["1.0.0"] = "1.0.0"


class Manifest(Document):
    """``manifest.json``: digests of every file and how the workspace was made."""

    files: dict[InsidePath, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    configuration: dict[str, Any] = Field(default_factory=dict)
    version: Literal["1.0.0"] = "1.0.0"


def unbinned_schema() -> dict[str, Any]:
    """Return the published JSON schema of ``unbinned.json``."""
    text = resources.files("neyman.workspace").joinpath("unbinned.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def generated_schema() -> dict[str, Any]:
    """Return the schema as the models define it; a test keeps the published file equal to it."""
    schema = Unbinned.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "neyman unbinned workspace",
    } | {key: value for key, value in schema.items() if key != "title"}

"""The documents of a workspace folder as pydantic models; `unbinned.schema.json` is published from them.

``unbinned.json`` mirrors a pyhf workspace: channels with samples with modifiers, and measurements. The same
parameter name is the same parameter in every channel of both files.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Name = Annotated[str, Field(min_length=1, max_length=500)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\x00" in path:
        raise ValueError(f"{path!r} must be a relative path inside the workspace folder")
    return path


def _form_of_network(data: Any) -> str:
    tabulated = "nodes" in data if isinstance(data, dict) else isinstance(data, NetworkColumns)
    return "tabulated" if tabulated else "direct"


InsidePath = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_inside)]
Code = Literal["code1", "code4"]


class Document(BaseModel):
    """Base: unknown keys are errors, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EventFile(Document):
    """A Parquet file with one row an event, or a folder of them."""

    file: InsidePath
    weight: Name = "weight"


class Factors(Document):
    """Multiplicative effect at +-1 standard deviation, and the HistFactory code between and beyond."""

    hi: Positive
    lo: Positive
    code: Code = "code4"


class RatioColumns(Document):
    """Columns with the log-ratios up/nominal and down/nominal, and the HistFactory code between and beyond."""

    hi: Name
    lo: Name
    code: Code = "code4"


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


class NetworkFile(Document):
    """A conditioned network that the fit evaluates itself.

    ``features`` are the event columns of the network's features, in its order, called as the feature or ``x:`` and
    the feature. ``parameters`` are the nuisance parameters, called as the network's inputs; the modifier's name if
    left out.
    """

    file: InsidePath
    features: tuple[Name, ...] = Field(min_length=1, max_length=10_000)
    parameters: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=1000)


class PolynomialTerm(Document):
    """Coefficient times the parameters to these powers."""

    coefficient: Finite
    powers: tuple[Annotated[int, Field(ge=0, le=100)], ...] = Field(min_length=1, max_length=1000)


class PolynomialData(Document):
    """Sum of terms; ``parameters`` is the modifier's name if left out."""

    parameters: tuple[Name, ...] | None = Field(default=None, min_length=1, max_length=1000)
    terms: tuple[PolynomialTerm, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _one_power_a_parameter(self) -> PolynomialData:
        n = len(self.parameters or "1")
        for k, term in enumerate(self.terms):
            if len(term.powers) != n:
                raise ValueError(f"term {k} has {len(term.powers)} powers for {n} parameters")
        return self


class SpreadColumns(Document):
    """Columns with the change of the log-ratio by one standard deviation of each parameter ``name[k]``."""

    columns: tuple[Name, ...] = Field(min_length=1, max_length=1000)


class BaseModifier(Document):
    """What every modifier says: its name, the parameters that it depends on and the event columns that it reads."""

    name: Name

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return (self.name,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Event columns with log-ratios."""
        return ()

    @property
    def features(self) -> tuple[str, ...]:
        """Event columns with features or other numbers that are not log-ratios."""
        return ()

    @property
    def file(self) -> str | None:
        """File of a network."""
        return None


class NormFactorModifier(BaseModifier):
    """Free factor on the yield."""

    type: Literal["normfactor"]
    data: None = None


class LumiModifier(BaseModifier):
    """Luminosity factor on the yield; the measurement gives its auxiliary data and sigma."""

    type: Literal["lumi"]
    data: None = None


class NormSysModifier(BaseModifier):
    """Normalisation uncertainty of the yield."""

    type: Literal["normsys"]
    data: Factors


class PolynomialModifier(BaseModifier):
    """Factor on the yield that is a polynomial in free parameters (interference, effective field theories)."""

    type: Literal["polynomial"]
    data: PolynomialData

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return self.data.parameters or (self.name,)


class RatioSysModifier(BaseModifier):
    """Shape uncertainty from learned up and down ratios, interpolated event by event."""

    type: Literal["ratiosys"]
    data: RatioColumns

    @property
    def columns(self) -> tuple[str, ...]:
        """Event columns with log-ratios."""
        return self.data.hi, self.data.lo


class NetworkModifier(BaseModifier):
    """Shape dependence learned by a network with nuisance parameters as inputs: tabulated, or evaluated in the fit."""

    type: Literal["network"]
    data: Annotated[
        Annotated[NetworkColumns, Tag("tabulated")] | Annotated[NetworkFile, Tag("direct")],
        Discriminator(_form_of_network),
    ]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        named = self.data.parameters if isinstance(self.data, NetworkFile) else None
        return named or (self.name,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Event columns with log-ratios."""
        return self.data.columns if isinstance(self.data, NetworkColumns) else ()

    @property
    def features(self) -> tuple[str, ...]:
        """Event columns with features."""
        return self.data.features if isinstance(self.data, NetworkFile) else ()

    @property
    def file(self) -> str | None:
        """File of the network."""
        return self.data.file


class SpreadModifier(BaseModifier):
    """Uncertainty of a learned log-ratio from the spread of its ensemble: ``name[k]`` moves along column k."""

    type: Literal["spread"]
    data: SpreadColumns

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(f"{self.name}[{k}]" for k in range(len(self.data.columns)))

    @property
    def features(self) -> tuple[str, ...]:
        """Event columns with the components."""
        return self.data.columns


class RefStatModifier(BaseModifier):
    """Statistical uncertainty of the reference sample, as far as it moves the sample's normalisation."""

    type: Literal["refstat"]
    data: None = None


Modifier = Annotated[
    NormFactorModifier
    | LumiModifier
    | NormSysModifier
    | PolynomialModifier
    | RatioSysModifier
    | NetworkModifier
    | SpreadModifier
    | RefStatModifier,
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

    ``form`` says whether the number of events is part of the likelihood (``extended``) or the samples' fractions
    alone (``fraction``). ``replaces`` names binned channels over the same events: a combination uses one or the
    other.
    """

    name: Name
    form: Literal["extended", "fraction"] = "extended"
    data: EventFile
    reference: EventFile
    samples: tuple[Sample, ...] = Field(min_length=1, max_length=10_000)
    replaces: tuple[Name, ...] = ()
    features: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _one_refstat_a_sample(self) -> Channel:
        names = [m.name for s in self.samples for m in s.modifiers if m.type == "refstat"]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"refstat {name!r} is used twice: every sample has its own")
        return self

    @property
    def log_ratios(self) -> tuple[str, ...]:
        """Event columns with log-ratios that the samples read."""
        names = (
            name for s in self.samples for name in (s.log_ratio, *(c for m in s.modifiers for c in m.columns))
        )
        return tuple(dict.fromkeys(names))

    @property
    def columns(self) -> tuple[str, ...]:
        """All event columns that the samples read."""
        others = (name for s in self.samples for m in s.modifiers for name in m.features)
        return tuple(dict.fromkeys((*self.log_ratios, *others)))


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

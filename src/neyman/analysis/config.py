"""`analysis.toml` as pydantic models: every key is checked, an unknown one names the nearest valid key."""

from __future__ import annotations

import os
import tomllib
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neyman.errors import ConfigError, NeymanError, nearest

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """Base: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AnalysisSection(Section):
    """``[analysis]``: what is measured.

    Attributes
    ----------
    luminosity
        Integrated luminosity in inverse femtobarn.
    luminosity_uncertainty
        Relative uncertainty; 0 for none.
    data
        What stands for data: ``pseudo``, one Poisson pseudo-experiment drawn from the simulation, or ``weighted``,
        the simulated events with their weights.
    seed
        Seed of everything random.
    """

    name: Name
    title: str = ""
    luminosity: Positive
    luminosity_uncertainty: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    poi: Name = "mu"
    data: Literal["pseudo", "weighted"] = "pseudo"
    seed: Annotated[int, Field(ge=0)] = 1


class EventsSection(Section):
    """``[events]``: the files and the user's ``build(events, shifts)`` function.

    Attributes
    ----------
    data
        Folder of the ROOT files, relative to the TOML file.
    metadata
        JSON in `data` with ``events_per_inverse_fb`` for each sample: the expected number of stored events.
    processor
        ``file.py:function`` relative to the TOML file.
    labels
        Axis labels of features in figures, with units.
    """

    data: str = "data"
    metadata: str = "samples.json"
    tree: str = "Events"
    processor: str
    features: tuple[str, ...] = Field(min_length=1)
    labels: dict[str, str] = Field(default_factory=dict)
    executor: Literal["iterative", "threads"] = "threads"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    chunk_size: Annotated[int, Field(ge=100)] = 100_000
    replicas: Annotated[int, Field(ge=1, le=100)] = 3


class SampleSection(Section):
    """``[[samples]]``: a process.

    Attributes
    ----------
    normfactors
        Free factors on its yield; the parameter of interest makes it a signal.
    normsys
        Normalisation uncertainties, name to ``[up, down]`` factors.
    """

    name: Name
    files: tuple[Annotated[str, Field(pattern=r"^[^/]")], ...] = Field(min_length=1)
    label: str = ""
    normfactors: tuple[Name, ...] = ()
    normsys: dict[Name, tuple[Positive, Positive]] = Field(default_factory=dict)


class SystematicSection(Section):
    """``[[systematics]]``: a nuisance parameter that shifts events.

    Attributes
    ----------
    shift
        Key of ``shifts`` in ``build``; its value is ``nominal + alpha * sigma``.
    ratio
        ``network``: an input of the ratio networks, trained for alpha in +-`trained`;
        ``updown``: ratios learned between the +-1 sigma variations and the nominal.
    range
        Largest absolute alpha that a fit may use (network only).
    """

    name: Name
    shift: Name
    nominal: Finite = 1.0
    sigma: Positive
    ratio: Literal["network", "updown"]
    range: Positive = 3.0
    trained: Positive = 4.0

    @model_validator(mode="after")
    def _wider(self) -> SystematicSection:
        if self.trained < self.range:
            raise ValueError(f"trained ({self.trained:g}) must be at least range ({self.range:g})")
        return self

    def value(self, alpha: float) -> float:
        """Return the shift in natural units at `alpha` standard deviations."""
        return self.nominal + alpha * self.sigma


class RegionSection(Section):
    """``[regions.NAME]``: a region that ``build`` returns.

    Attributes
    ----------
    fit
        ``unbinned`` (one region: the signal region) or ``binned`` (a control region).
    observable, edges
        Column and bin edges of a binned region; the last bin holds the overflow.
    """

    fit: Literal["unbinned", "binned"]
    observable: str | None = None
    edges: tuple[Finite, ...] | None = None

    @model_validator(mode="after")
    def _binning(self) -> RegionSection:
        if self.fit == "binned":
            if not self.observable or self.edges is None or len(self.edges) < 2:
                raise ValueError("a binned region needs an observable and at least two edges")
            if list(self.edges) != sorted(set(self.edges)):
                raise ValueError("edges must increase")
        return self


class NetworkSection(Section):
    """``[training.*]``: architecture and schedule of one kind of network.

    Attributes
    ----------
    bootstrap
        Whether every member is trained on a Poisson bootstrap of the events of its own.
    device
        ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.
    group
        Members that a Dask worker trains together: one on processors, more on a GPU.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(default=(64, 64, 64), min_length=1)
    ensemble: Annotated[int, Field(ge=1, le=1000)] = 5
    steps: Annotated[int, Field(ge=1)] = 1500
    batch_size: Annotated[int, Field(ge=1)] = 1024
    learning_rate: Positive = 2e-3
    bootstrap: bool = False
    device: Annotated[str, Field(pattern=r"^(cpu|auto|cuda(:\d+)?)$")] = "cpu"
    group: Annotated[int, Field(ge=1, le=1000)] = 1


class TrainingSection(Section):
    """``[training]``: the networks.

    Attributes
    ----------
    fraction
        Part of the simulated events used for training; the rest makes the likelihood and all checks.
    nominal, updown
        Networks of the process ratios and of the up/down ratios.
    spread
        Whether the fit may move each process ratio within the spread of its members: a nuisance parameter
        ``spread_PROCESS[k]`` for each of the leading `spread_components` directions. With ``bootstrap`` members it
        contains the statistical error of the training events, otherwise the noise of the training alone.
    """

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    spread: bool = False
    spread_components: Annotated[int, Field(ge=1, le=100)] = 4
    nominal: NetworkSection = NetworkSection()
    updown: NetworkSection = NetworkSection(hidden=(32, 32), ensemble=3, steps=600, learning_rate=1e-3)


class CompareSection(Section):
    """``[compare]``: the binned alternatives on the same events.

    Attributes
    ----------
    observable, bins, range
        The histogram of a single feature.
    classifier_bins
        Number of bins of the classifier output.
    """

    observable: str
    label: str = ""
    bins: Annotated[int, Field(ge=1, le=10_000)] = 30
    range: tuple[Finite, Finite]
    classifier_bins: Annotated[int, Field(ge=1, le=10_000)] = 30

    @model_validator(mode="after")
    def _increasing(self) -> CompareSection:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range must increase, got {list(self.range)}")
        return self


class FitSection(Section):
    """``[fit]``: bounds of parameters and the number of points of a profile."""

    bounds: dict[str, tuple[Finite, Finite]] = Field(default_factory=dict)
    profile_points: Annotated[int, Field(ge=3, le=1000)] = 15


class Config(Section):
    """The whole of ``analysis.toml``."""

    analysis: AnalysisSection
    events: EventsSection
    samples: tuple[SampleSection, ...] = Field(min_length=2)
    systematics: tuple[SystematicSection, ...] = ()
    regions: dict[Name, RegionSection]
    training: TrainingSection = TrainingSection()
    compare: CompareSection
    fit: FitSection = FitSection()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        poi = self.analysis.poi
        if sum(poi in s.normfactors for s in self.samples) != 1:
            raise ValueError(
                f"exactly one sample must carry the parameter of interest {poi!r} as a normfactor"
            )
        if sum(r.fit == "unbinned" for r in self.regions.values()) != 1:
            raise ValueError("exactly one region must have fit = 'unbinned'")
        if self.compare.observable not in self.events.features:
            raise ValueError(f"compare.observable {self.compare.observable!r} is not a feature")
        if sum(s.ratio == "network" for s in self.systematics) > 1:
            raise ValueError("at most one systematic may have ratio = 'network'; use 'updown' for the others")
        _check_declarations(self)
        if self.training.spread and self.training.nominal.ensemble <= self.training.spread_components:
            raise ValueError(
                f"training.spread_components = {self.training.spread_components} needs an ensemble of more members "
                f"than {self.training.nominal.ensemble}"
            )
        return self

    @property
    def signal_region(self) -> str:
        """Name of the unbinned region."""
        return next(name for name, region in self.regions.items() if region.fit == "unbinned")

    @property
    def signal(self) -> SampleSection:
        """The sample that carries the parameter of interest."""
        return next(s for s in self.samples if self.analysis.poi in s.normfactors)

    @property
    def conditioning(self) -> SystematicSection | None:
        """The systematic that is a network input, if any."""
        return next((s for s in self.systematics if s.ratio == "network"), None)

    @property
    def updown(self) -> tuple[SystematicSection, ...]:
        """The systematics with up/down ratios."""
        return tuple(s for s in self.systematics if s.ratio == "updown")


def _check_declarations(config: Config) -> None:
    """A parameter name must mean one thing: its constraint is declared once."""
    kinds: dict[str, str] = {}
    if config.analysis.luminosity_uncertainty:
        kinds["lumi"] = "luminosity"
    declared = [(s.name, "systematic") for s in config.systematics]
    declared += [(n, "normfactor") for n in {n for s in config.samples for n in s.normfactors}]
    declared += [(n, "normsys") for n in {n for s in config.samples for n in s.normsys}]
    for name, kind in declared:
        if name in kinds:
            raise ValueError(
                f"nuisance parameter {name!r} is declared twice with different constraints: "
                f"as {kinds[name]} and as {kind}; rename one"
            )
        kinds[name] = kind
    for what, names in (
        ("sample", [s.name for s in config.samples]),
        ("shift", [s.shift for s in config.systematics]),
    ):
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{what} {name!r} is declared twice")
    reserved = {f"{config.signal_region}_{kind}" for kind in ("classifier", "single")}
    for name in reserved & set(config.regions):
        raise ValueError(f"region {name!r} takes the name of a histogram of the signal region; rename it")
    taken = {"weight", "entry", "process", "fold", "expected", *config.events.features}
    for what, name in [("sample", x.name) for x in config.samples] + [
        ("systematic", x.name) for x in config.systematics
    ]:
        if name in taken:
            raise ValueError(f"{what} {name!r} has the name of an event column; rename it")
    starts = {name: 1.0 if kind in ("normfactor", "luminosity") else 0.0 for name, kind in kinds.items()}
    for name, (low, high) in config.fit.bounds.items():
        if name in kinds and not low <= starts[name] <= high:
            raise ValueError(
                f"fit.bounds of {name!r} are [{low:g}, {high:g}] and do not contain its start {starts[name]:g}"
            )
        if name not in kinds:
            raise ValueError(
                f"fit.bounds names an unknown parameter {name!r}; nearest: {nearest(name, kinds)}"
            )


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check an ``analysis.toml``.

    Raises
    ------
    ConfigError
        Naming the key, what was expected, and for an unknown key the nearest valid one.
    """
    return parse_config(read_toml(path), where=str(path))


def parse_config(document: dict[str, Any], *, where: str) -> Config:
    """Check a configuration given as a dictionary."""
    return check(Config, document, where=where)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML document; a missing or broken file is a :class:`ConfigError`."""
    file = Path(path)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{file.name} does not exist", where=str(file)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file.name} is not readable TOML: {error}", where=str(file)) from error


def check(kind: type[S], document: dict[str, Any], *, where: str) -> S:
    """Return the document as sections of this kind; the first thing that is wrong is a :class:`ConfigError`."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            *parents, key = first["loc"]
            raise ConfigError(
                f"unknown key {key!r}",
                where=f"{where}: [{'.'.join(str(p) for p in parents) or 'top level'}]",
                fix=f"nearest valid keys: {nearest(str(key), _keys(kind, parents))}",
            ) from error
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(message, where=f"{where}: {place or 'top level'}") from error
    except NeymanError as error:
        if error.where is not None:
            raise
        # A network, loss or training setting refuses its own values and does not know the file.
        raise type(error)(error.what, where=where, expected=error.expected, fix=error.fix) from error


def _keys(kind: type[Section], parents: list[int | str]) -> list[str]:
    """Valid keys of the section at `parents`, found by walking the models' annotations."""
    places: list[Any] = [kind]
    for parent in parents:
        found = [getattr(place, "model_fields", {}).get(parent) for place in places]
        inner = [model for field in found if field is not None for model in _models(field.annotation)]
        chosen = [place for place in places if getattr(place, "kind", None) == parent]
        # Neither: an index, or a key of a dictionary such as the name of a region.
        places = inner or chosen or places
    names = [getattr(place, "model_fields", None) or place.__dataclass_fields__ for place in places]
    return list(dict.fromkeys(name for fields in names for name in fields))


def _models(annotation: Any) -> list[Any]:
    """Models and dataclasses in an annotation."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]

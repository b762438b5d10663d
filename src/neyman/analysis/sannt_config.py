"""The TOML of `neyman sannt`: samples, regions and systematics of a measurement, and the network that is trained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neyman.analysis.config import Name, Section, check, read_toml
from neyman.analysis.sannt_sections import (
    DATA,
    BinsSection,
    DataSection,
    EstimateSection,
    Factors,
    FillingSection,
    FitSection,
    MeasurementSection,
    SampleSection,
    SanntRegion,
    SystematicSection,
    Text,
)
from neyman.errors import ConfigError, nearest
from neyman.events import expression
from neyman.networks import MLP
from neyman.sannt import ClassConstraint
from neyman.sannt.training import PRETRAINING, SETTINGS
from neyman.training import Settings
from neyman.workspace import Treatment


class SanntConfig(Section):
    """The whole of a ``sannt.toml``.

    Attributes
    ----------
    features
        Columns that are inputs of the network.
    columns
        New columns, name to expression of the files' columns and of new ones above.
    cuts
        Cuts of all regions, name to expression.
    labels
        Axis labels of features in figures.
    network, pretraining, settings
        Architecture, and the training for the cross-entropy and for the measurement; what is not given is as in
        `neyman.sannt.train`.
    ensemble, folds
        Networks that are trained, of which the best is taken, and parts of the events for cross-evaluation.
    direction
        Derivative by a nuisance parameter: half the difference of ``up`` and ``down``, or one side alone.
    batch
        Fraction of the events that have a gradient in a step; all without it.
    noise
        A warning names variations whose statistical uncertainty is at least this fraction of their effect.
    constraint, keep_classes
        What keeps the meaning of the classes in the second training, and whether anything does.
    classes
        For an output a class: name of the class to its samples and estimates.
    export
        What is done to the templates before they are written; nothing by default.
    """

    measurement: MeasurementSection = MeasurementSection()
    features: tuple[str, ...] = Field(min_length=1)
    columns: dict[Name, Text] = Field(default_factory=dict)
    cuts: dict[Name, Text] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    network: MLP = MLP((64, 64))
    pretraining: Settings = PRETRAINING
    settings: Settings = SETTINGS
    bins: BinsSection = BinsSection()
    filling: FillingSection = FillingSection()
    ensemble: Annotated[int, Field(ge=1, le=1000)] = 1
    folds: Literal[1, 2] = 1
    direction: Literal["average", "up", "down"] = "average"
    batch: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    noise: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 0.5
    constraint: ClassConstraint = ClassConstraint()
    keep_classes: bool = True
    classes: dict[Name, tuple[Name, ...]] | None = None
    samples: tuple[SampleSection, ...] = Field(min_length=2)
    data: DataSection | None = None
    estimates: tuple[EstimateSection, ...] = ()
    regions: dict[Name, SanntRegion]
    systematics: tuple[SystematicSection, ...] = ()
    export: Treatment = Treatment()
    fit: FitSection = FitSection()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, document: Any) -> Any:
        if not isinstance(document, Mapping):
            return document
        out = dict(document)
        for name, defaults in (("pretraining", PRETRAINING), ("settings", SETTINGS)):
            if isinstance(given := out.get(name), Mapping):
                out[name] = {**defaults.to_dict(), **given}
        return out

    @model_validator(mode="after")
    def _consistent(self) -> SanntConfig:
        if sum(region.fit == "sannt" for region in self.regions.values()) != 1:
            raise ValueError("exactly one region must have fit = 'sannt'")
        if not self.strengths:
            raise ValueError("no sample has a strength: give one signal = 'r'")
        if all(sample.signal for sample in self.samples) and not self.estimates:
            raise ValueError("every sample is a signal; at least one must be a background")
        if self.estimates and self.data is None:
            raise ValueError(f"the estimate {self.estimates[0].name!r} is made of data: give [data]")
        _check_names(self)
        _check_parameters(self)
        _check_columns(self)
        _check_estimates(self)
        _check_classes(self)
        taken = {f"{self.region}_{name}" for name in self.classes or ()}
        for name in taken & set(self.regions):
            raise ValueError(f"region {name!r} has the name of a class's channel; rename it")
        return self

    @property
    def parts(self) -> tuple[SampleSection | EstimateSection, ...]:
        """Samples and estimates."""
        return (*self.samples, *self.estimates)

    @property
    def region(self) -> str:
        """Name of the region of the network."""
        return next(name for name, region in self.regions.items() if region.fit == "sannt")

    @property
    def strengths(self) -> dict[str, tuple[str, ...]]:
        """Strengths of signals, each with the names of its samples."""
        out: dict[str, tuple[str, ...]] = {}
        for sample in self.samples:
            if sample.signal is not None:
                out[sample.signal] = (*out.get(sample.signal, ()), sample.name)
        return out

    @property
    def signals(self) -> dict[str, str]:
        """Signal processes, each with the name of its strength."""
        return {"_".join(names): strength for strength, names in self.strengths.items()}

    @property
    def processes(self) -> dict[str, tuple[str, ...]]:
        """Processes with the names of their samples or their estimate; the signals first.

        Samples of one strength cannot be told apart by a fit: they are one process.
        """
        out = {"_".join(names): names for names in self.strengths.values()}
        out |= {s.name: (s.name,) for s in self.samples if s.signal is None}
        return out | {e.name: (e.name,) for e in self.estimates}

    def labelled(self) -> dict[str, str]:
        """What each process is called in figures."""
        labels = {part.name: part.label or part.name for part in self.parts}
        return {
            process: " + ".join(labels[name] for name in names) for process, names in self.processes.items()
        }

    def part(self, name: str) -> SampleSection | EstimateSection:
        """Return a sample or an estimate by its name."""
        return next(part for part in self.parts if part.name == name)

    def region_cuts(self, region: str) -> dict[str, str]:
        """Cuts of a region, the common ones included."""
        return {**self.cuts, **self.regions[region].cuts}

    def sideband_cuts(self, region: str, estimate: EstimateSection) -> dict[str, str]:
        """Cuts of the events that an estimate takes for a region; none where no cut of the region is replaced."""
        cuts = self.region_cuts(region)
        return {name: estimate.replace.get(name, cut) for name, cut in cuts.items()}

    def factors(self, part: str) -> dict[str, Factors]:
        """Normalisation uncertainties of a sample or an estimate, ``factor`` systematics included."""
        section = self.part(part)
        shared: dict[str, Factors] = {}
        if isinstance(section, SampleSection):
            acting = [s for s in self.systematics if s.acts_on(part)]
            shared = {s.name: s.factor for s in acting if s.factor is not None}
        return {**shared, **section.normsys}

    def normsys(self, process: str) -> dict[str, Factors]:
        """Normalisation uncertainties of a process: those that are the same for all its samples.

        The others change its shape and are variations of the weights.
        """
        parts = [self.factors(part) for part in self.processes[process]]
        return {name: f for name, f in parts[0].items() if all(part.get(name) == f for part in parts)}


def _check_names(config: SanntConfig) -> None:
    parts = [part.name for part in config.parts]
    for name in parts:
        if parts.count(name) > 1:
            raise ValueError(f"sample or estimate {name!r} is declared twice")
    if DATA in config.processes or DATA in parts:
        raise ValueError(f"{DATA!r} is the name of what was observed; rename the sample")
    signals = {name for names in config.strengths.values() for name in names}
    for name in set(config.signals) & (set(parts) - signals):
        raise ValueError(f"the samples of a strength together are named {name!r}, as a background; rename it")
    samples = [s.name for s in config.samples]
    lists: list[tuple[str, Iterable[str]]] = [
        (f"systematic {s.name!r}", s.samples or ()) for s in config.systematics
    ]
    lists += [(f"subtract of {e.name!r}", e.subtract or ()) for e in config.estimates]
    for where, names in lists:
        for name in names:
            if name not in samples:
                raise ValueError(
                    f"{where} names an unknown sample {name!r}; nearest: {nearest(name, samples)}"
                )


def _check_parameters(config: SanntConfig) -> None:
    """A parameter must mean one thing, and act once on a sample."""
    kinds: dict[str, str] = dict.fromkeys(config.strengths, "a strength")
    frees = [part.free for part in config.parts if part.free is not None]
    constrained = {name for part in config.parts for name in part.normsys} | {
        s.name for s in config.systematics
    }
    for names, kind in ((frees, "a free factor"), (sorted(constrained), "a constrained parameter")):
        for name in names:
            if kinds.setdefault(name, kind) != kind:
                raise ValueError(f"{name!r} is {kinds[name]} and {kind}; rename one")
    for sample in config.samples:
        acting = [s.name for s in config.systematics if s.acts_on(sample.name)] + list(sample.normsys)
        for name in acting:
            if acting.count(name) > 1:
                raise ValueError(f"{name!r} acts twice on sample {sample.name!r}")
        if sample.signal and sample.free:
            raise ValueError(f"sample {sample.name!r} has a strength and a free factor; one is enough")
    for name in config.fit.bounds:
        if name not in kinds:
            raise ValueError(
                f"fit.bounds names an unknown parameter {name!r}; nearest: {nearest(name, kinds)}"
            )


def _check_columns(config: SanntConfig) -> None:
    for name in config.features:
        if config.features.count(name) > 1:
            raise ValueError(f"feature {name!r} is given twice")
    for name in ("weight", "entry"):
        if name in config.features or name in config.columns:
            raise ValueError(
                f"{name!r} cannot be a feature or a new column; give it another name in [columns]"
            )
    for name in config.labels:
        known = [*config.features, *(r.observable for r in config.regions.values() if r.observable)]
        if name not in known:
            raise ValueError(f"labels names {name!r}, which is no feature; nearest: {nearest(name, known)}")
    above: list[str] = []
    for name, text in config.columns.items():
        used = _names(text)
        for other in (name, *(o for o in config.columns if o not in above and o != name)):
            if other in used:
                raise ValueError(f"column {name!r} uses {other!r}, which is not defined above it")
        above.append(name)


def _names(text: str) -> tuple[str, ...]:
    try:
        return expression.names(text)
    except ConfigError as error:
        raise ValueError(f"{error.what}: {text!r}") from error


def _check_estimates(config: SanntConfig) -> None:
    known = list(dict.fromkeys([*config.cuts, *(c for r in config.regions.values() for c in r.cuts)]))
    for estimate in config.estimates:
        for name in estimate.replace:
            if name not in known:
                raise ValueError(
                    f"estimate {estimate.name!r} replaces the cut {name!r}, which no region has; "
                    f"nearest: {nearest(name, known)}"
                )
        for region in config.regions:
            if config.sideband_cuts(region, estimate) == config.region_cuts(region):
                raise ValueError(
                    f"estimate {estimate.name!r} would take the events of region {region!r} itself: "
                    f"it replaces none of the cuts {', '.join(config.region_cuts(region)) or '(none)'}"
                )


def _check_classes(config: SanntConfig) -> None:
    if config.classes is None:
        return
    listed = [name for names in config.classes.values() for name in names]
    parts = [part.name for part in config.parts]
    for name in listed:
        if name not in parts:
            raise ValueError(f"classes names an unknown sample {name!r}; nearest: {nearest(name, parts)}")
    for name in parts:
        if listed.count(name) != 1:
            raise ValueError(f"sample {name!r} is in {listed.count(name)} classes; it must be in one")
    for process, names in config.processes.items():
        if not any(set(names) <= set(one) for one in config.classes.values()):
            raise ValueError(f"the samples of {process!r} have one strength and must be in one class")


def load_sannt_config(path: str | os.PathLike[str]) -> SanntConfig:
    """Read and check a ``sannt.toml``.

    Raises
    ------
    ConfigError
        Naming the key, what was expected, and for an unknown key the nearest valid one.
    """
    return parse_sannt_config(read_toml(path), where=str(path))


def parse_sannt_config(document: Mapping[str, Any], *, where: str) -> SanntConfig:
    """Check a configuration given as a dictionary."""
    return check(SanntConfig, dict(document), where=where)

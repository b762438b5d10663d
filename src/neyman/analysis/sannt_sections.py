"""The sections of the TOML of `neyman sannt`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neyman.analysis.config import Finite, Name, Positive, Section
from neyman.analysis.ratio_config import Texts
from neyman.sannt import (
    KDE,
    EdgeKernel,
    EdgeScan,
    Exact,
    GaussianDerivative,
    Inferno,
    Linear,
    StraightThrough,
)

Text = Annotated[str, Field(min_length=1)]
Factors = tuple[Positive, Positive]
SIDES = ("up", "down")
DATA = "data"


class MeasurementSection(Section):
    """``[measurement]``: what is measured, and the seed of everything random."""

    name: Name = "sannt"
    title: str = ""
    seed: Annotated[int, Field(ge=0)] = 1


class SampleSection(Section):
    """``[[samples]]``: simulated events of a process.

    Attributes
    ----------
    files
        Paths, URLs, patterns, folders or lists (``@files.txt``) of ROOT (``.root``) or Parquet files, relative to the
        TOML file.
    tree
        Tree of the ROOT files.
    weight, scale
        A column or an expression, times a number: the expected count of an event.
    cut
        Expression that keeps an event, beside the cuts of the regions.
    signal
        Name of its strength; samples with the same strength are one signal. Without it the sample is a background.
    normsys
        Normalisation uncertainties, name to ``[up, down]`` factors.
    free
        Name of a factor on its yield that the data alone determine.
    """

    name: Name
    files: Texts = Field(min_length=1)
    tree: str = "Events"
    weight: Text | None = None
    scale: Positive = 1.0
    cut: Text | None = None
    label: str = ""
    signal: Name | None = None
    normsys: dict[Name, Factors] = Field(default_factory=dict)
    free: Name | None = None


class DataSection(Section):
    """``[data]``: what was observed; every event counts 1. Without it the expectation takes its place."""

    files: Texts = Field(min_length=1)
    tree: str = "Events"
    cut: Text | None = None


class EstimateSection(Section):
    """``[[estimates]]``: a background taken from data beside each region, simulation subtracted.

    Its events are those of the data, with weight `factor`, and of the samples, with weight ``-factor * weight``, that
    pass the cuts of the region with some of them replaced.

    Attributes
    ----------
    replace
        Names of cuts of the regions, to the expressions that take their place.
    factor
        Events in a region for one event beside it.
    subtract
        Samples that are subtracted; all of them by default.
    normsys, free
        As for ``[[samples]]``.
    """

    name: Name
    replace: dict[Name, Text] = Field(min_length=1)
    factor: Positive = 1.0
    subtract: tuple[Name, ...] | None = None
    label: str = ""
    normsys: dict[Name, Factors] = Field(default_factory=dict)
    free: Name | None = None


class Expressions(Section):
    """Factors on the weight of an event."""

    up: Text
    down: Text


class Replacements(Section):
    """Columns with other values, as expressions of the nominal columns."""

    up: dict[Name, Text] = Field(min_length=1)
    down: dict[Name, Text] = Field(min_length=1)


class Files(Section):
    """Other files."""

    up: Texts = Field(min_length=1)
    down: Texts = Field(min_length=1)


class SystematicSection(Section):
    """``[[systematics]]``: a nuisance parameter and what one standard deviation of it does; one of four kinds.

    The same name for other samples is the same parameter.

    Attributes
    ----------
    samples
        Samples that it acts on; all of them by default. Estimates have a `normsys` alone.
    factor
        ``[up, down]`` factors on the yield.
    weight
        ``{up, down}`` factors on the weights, as expressions.
    columns
        ``{up, down}``, each column name to expression: weights, cuts, features and ``[columns]`` follow.
    files
        ``{up, down}`` files, read as the nominal ones of one sample.
    """

    name: Name
    samples: tuple[Name, ...] | None = None
    factor: Factors | None = None
    weight: Expressions | None = None
    columns: Replacements | None = None
    files: Files | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> SystematicSection:
        kinds = ("factor", "weight", "columns", "files")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"systematic {self.name!r} has {' and '.join(given) or 'no effect'}: give one of {', '.join(kinds)}"
            )
        if self.files is not None and len(self.samples or ()) != 1:
            raise ValueError(
                f"systematic {self.name!r} has files: give the one sample whose events they hold"
            )
        return self

    def acts_on(self, sample: str) -> bool:
        """Whether it changes a sample."""
        return self.samples is None or sample in self.samples


class SanntRegion(Section):
    """``[regions.NAME]``: events that pass the common ``[cuts]`` and its own.

    Attributes
    ----------
    fit
        ``sannt`` (one region): bins of the network's output; ``binned``: a control region.
    cuts
        Name to expression; a common cut of the same name does not apply.
    observable, edges
        Column and bin edges of a binned region; the last bin holds the overflow.
    """

    fit: Literal["sannt", "binned"]
    cuts: dict[Name, Text] = Field(default_factory=dict)
    label: str = ""
    observable: Name | None = None
    edges: tuple[Finite, ...] | None = None

    @model_validator(mode="after")
    def _binning(self) -> SanntRegion:
        given = self.observable is not None or self.edges is not None
        if self.fit == "sannt" and given:
            raise ValueError("observable and edges belong to a binned region; fit = 'sannt' has [bins]")
        if self.fit == "binned":
            if self.observable is None or self.edges is None or len(self.edges) < 2:
                raise ValueError("a binned region needs an observable and at least two edges")
            if list(self.edges) != sorted(set(self.edges)):
                raise ValueError("edges must increase")
        return self


class BinsSection(Section):
    """``[bins]``: the bins of the network's output.

    Attributes
    ----------
    number, edges
        Equal bins of the score in [0, 1], or their edges.
    learn_edges
        Whether the edges are trained too.
    min_effective
        Least effective number of simulated background events in a bin.
    mc_stat
        Whether the statistical uncertainty of the simulation enters the figure of merit and the workspace.
    """

    number: Annotated[int, Field(ge=2, le=1000)] = 8
    edges: tuple[Finite, ...] | None = None
    learn_edges: bool = False
    min_effective: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 10.0
    mc_stat: bool = True

    def made(self) -> int | tuple[float, ...]:
        """Return what `neyman.sannt.train` takes."""
        return self.number if self.edges is None else self.edges


_FUNCTIONS: dict[str, Any] = {
    "edge": EdgeKernel, "gaussian": GaussianDerivative, "linear": Linear, "straight": StraightThrough,
}  # fmt: skip
_OPTIONS = {
    "exact": ("function", "width", "margin"),
    "kde": ("bandwidth",),
    "inferno": ("temperature",),
    "scan": ("places",),
}


class FillingSection(Section):
    """``[filling]``: how events fill bins in the training.

    Attributes
    ----------
    kind
        ``exact`` counts with the gradient of a bin `function`, ``kde`` smeared counts, ``inferno`` soft assignment;
        ``scan`` only chooses bin edges of the cross-entropy network.
    function, width
        Of ``exact``: ``edge`` or ``gaussian``, of a width, ``linear`` or ``straight``.
    margin
        Of ``exact`` with several classes.
    bandwidth
        Of ``kde``.
    temperature
        Of ``inferno``.
    places
        Of ``scan``.
    """

    kind: Literal["exact", "kde", "inferno", "scan"] = "exact"
    function: Literal["edge", "gaussian", "linear", "straight"] | None = None
    width: Positive | None = None
    margin: Annotated[float, Field(ge=0.0)] | None = None
    bandwidth: Positive | None = None
    temperature: Positive | None = None
    places: Annotated[int, Field(ge=3)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> FillingSection:
        for kind, names in _OPTIONS.items():
            for name in names:
                if kind != self.kind and getattr(self, name) is not None:
                    raise ValueError(f"{name!r} has no effect with kind = {self.kind!r}; remove it")
        if self.width is not None and self.function not in (None, "edge", "gaussian"):
            raise ValueError(f"'width' has no effect with function = {self.function!r}; remove it")
        self.made()
        return self

    def made(self) -> Exact | KDE | Inferno | EdgeScan:
        """Return what `neyman.sannt.train` takes."""
        if self.kind == "kde":
            return KDE() if self.bandwidth is None else KDE(self.bandwidth)
        if self.kind == "inferno":
            return Inferno() if self.temperature is None else Inferno(self.temperature)
        if self.kind == "scan":
            return EdgeScan() if self.places is None else EdgeScan(self.places)
        function = _FUNCTIONS[self.function or "edge"]
        made = function() if self.width is None else function(self.width)
        return Exact(made) if self.margin is None else Exact(made, self.margin)


class FitSection(Section):
    """``[fit]``: bounds of parameters."""

    bounds: dict[str, tuple[Finite, Finite]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _increasing(self) -> FitSection:
        for name, (low, high) in self.bounds.items():
            if not low < high:
                raise ValueError(f"the bounds of {name!r} do not increase: [{low:g}, {high:g}]")
        return self

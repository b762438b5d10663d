"""The TOML of `neyman unfold`: data and simulation at two levels, how they are unfolded, and what is made of it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from neyman.analysis.config import Finite, Name, Section, check, read_toml
from neyman.analysis.ratio_config import LossSection, Network, SampleFiles, Texts
from neyman.networks import MLP, NSF, PET
from neyman.training import Settings
from neyman.unfolding import Bootstrap, OmniFold
from neyman.unfolding.iterate import Fakes, Missed, Mode

SIDES = ("up", "down")
_RESERVED = ("nominal", "data", "simulation", "training")
_MANY = 10_000
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def _expanded(features: tuple[str, ...]) -> tuple[str, ...]:
    """Columns of names with braces: ``jet{0..1}_{eta,phi}`` is jet0_eta, jet0_phi, jet1_eta, jet1_phi."""
    found: list[str] = []
    for text in features:
        pieces = _BRACES.split(text)  # text, first, last, words, text, ...
        choices: list[Sequence[Any]] = [pieces[:1]]
        for first, last, words, after in zip(*(pieces[k::4] for k in (1, 2, 3, 4)), strict=True):
            choices += [words.split(",") if words else range(int(first), int(last) + 1), [after]]
        if not 1 <= math.prod(len(own) for own in choices) <= _MANY:
            raise ValueError(f"{text!r} stands for no column, or for more than {_MANY}")
        found += ["".join(map(str, parts)) for parts in product(*choices)]
    return tuple(found)


def _both(given: Any) -> Any:
    """One file is for both levels."""
    return {"detector": given, "particle": given} if isinstance(given, str) else given


Features = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_expanded)]


class SimulationFiles(Section):
    """``[simulation]``: flat files with one row an event and the columns of both levels.

    There is no cut: an event that is not selected at a level fails its `passes`, and stays in the table.

    Attributes
    ----------
    files
        Paths, URLs, patterns, folders or lists (``@files.txt``) of ROOT (``.root``) or Parquet files, relative to the
        TOML file.
    tree
        Tree of the ROOT files.
    weight
        A column or an expression of columns: the expected count of an event. Every event counts 1 without it.
    """

    files: Texts = Field(min_length=1)
    tree: str = "Events"
    weight: str | None = None


class LevelSection(Section):
    """``[particle]``, and what ``[detector]`` has in common with it.

    Attributes
    ----------
    features
        Columns of what is unfolded; braces stand for several, ``part{0..19}_{eta,phi,log_z}``. Values of an event that
        fails the level do not matter.
    passes
        Boolean column, or expression, of the simulated events that have the level; all without it.
    network
        Architecture of its classifier, ``kind = "mlp"`` or ``"pet"``, whose particles are the first features.
    """

    features: Features
    passes: str | None = None
    network: Network = MLP()

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, document: Any) -> Any:
        if isinstance(document, Mapping) and isinstance(document.get("network"), Mapping):
            return {**document, "network": {"kind": "mlp", **document["network"]}}
        return document

    @model_validator(mode="after")
    def _consistent(self) -> LevelSection:
        for name in self.features:
            if self.features.count(name) > 1:
                raise ValueError(f"{name!r} is given twice among the features")
            if name == "weight":
                raise ValueError("'weight' cannot be a feature; name another column, or a copy")
        if isinstance(self.network, NSF):
            raise ValueError("a flow is not a classifier; use kind = 'mlp' or 'pet'")
        if isinstance(self.network, PET) and self.network.columns > len(self.features):
            raise ValueError(
                f"{self.network.particles} particles of {self.network.particle_features} features are "
                f"{self.network.columns} columns, and {len(self.features)} are given"
            )
        return self


class DetectorSection(LevelSection):
    """``[detector]``: the level of the data.

    Attributes
    ----------
    factor
        Expression of factors on the simulation's weights at this level alone, such as efficiency scale factors.
    """

    factor: str | None = None


class StartSection(Section):
    """``start`` of ``[unfold]``: model files to start from, relative to the TOML file; one file is for both levels."""

    detector: str | None = None
    particle: str | None = None


class UnfoldSection(Section):
    """``[unfold]``: the arguments of :class:`neyman.unfolding.OmniFold`, `start`, and the seed of everything random."""

    iterations: Annotated[int, Field(ge=1, le=1000)] = 5
    ensemble: Annotated[int, Field(ge=1, le=1000)] = 5
    mode: Mode = "parallel"
    aggregate: Literal["mean", "median", "truncated_mean"] = "mean"
    missed: Missed = "learned"
    fakes: Fakes = "average"
    warm_start: bool = False
    body_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    start: Annotated[StartSection, BeforeValidator(_both)] = StartSection()
    seed: Annotated[int, Field(ge=0)] = 1


class UncertaintiesSection(Section):
    """``[uncertainties]``: replicas of the unfolding.

    Attributes
    ----------
    bootstrap_data, bootstrap_simulation
        Bootstrap replicas of the data, and of simulation and background: 0, or at least 2.
    ensemble
        Members of each replica.
    at_once
        Networks of replicas and systematics trained together.
    """

    bootstrap_data: Annotated[int, Field(ge=0)] = 0
    bootstrap_simulation: Annotated[int, Field(ge=0)] = 0
    ensemble: Annotated[int, Field(ge=1, le=1000)] = 1
    at_once: Annotated[int, Field(ge=1, le=10_000)] = 32

    @model_validator(mode="after")
    def _known(self) -> UncertaintiesSection:
        self.made()
        return self

    def made(self) -> Bootstrap:
        """Return the numbers of replicas."""
        return Bootstrap(self.bootstrap_data, self.bootstrap_simulation, self.ensemble)


class VariationSection(Section):
    """``[systematics.NAME]``: a variation of the simulation's weights.

    Attributes
    ----------
    up, down
        Expressions of factors on the weight, ``"w_up / w"`` for a column of weights; one side alone is enough.
    detector
        Whether the factors act at detector level alone, as an efficiency does.
    """

    up: str
    down: str | None = None
    detector: bool = False

    def sides(self) -> dict[str, str]:
        """Expressions by side."""
        return {side: text for side in SIDES if (text := getattr(self, side)) is not None}


class ObservableSection(Section):
    """``[[observables]]``: a spectrum of the unfolded events.

    Attributes
    ----------
    column
        Column, or expression of columns, at particle level; `name` by default.
    detector
        The same at detector level, of data and simulation, for a comparison of both after the unfolding.
    edges
        Bin edges; the last one belongs to the last bin.
    density
        Whether the spectrum is normalised to 1 over all bins and divided by their widths.
    """

    name: Name
    column: str | None = None
    detector: str | None = None
    edges: tuple[Finite, ...] = Field(min_length=2)
    unit: str = ""
    density: bool = False

    @model_validator(mode="after")
    def _increasing(self) -> ObservableSection:
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"the edges of {self.name!r} must increase")
        return self

    @property
    def particle(self) -> str:
        """Column or expression at particle level."""
        return self.name if self.column is None else self.column


class ClosureSection(Section):
    """``[closure]``: half of the simulation, as if it were data, is unfolded with the other half.

    Attributes
    ----------
    on
        Whether it is done.
    distortion
        Expression of factors on the weights of the half that plays the data; they act on events with a particle level.
        Without it the test is a technical closure.
    replicas
        Bootstrap replicas of each half, from which the covariance of chi2 is known.
    p_value
        The test fails when an observable has a smaller one.
    """

    on: bool = True
    distortion: str | None = None
    replicas: Annotated[int, Field(ge=2)] = 100
    p_value: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-3


class UnfoldConfig(Section):
    """The whole of an ``unfold.toml``.

    Attributes
    ----------
    data, background
        Observed events at detector level, and simulated ones that are subtracted.
    detector, particle
        The two levels; the data have the features of the first.
    loss, settings
        Loss and training of every classifier.
    closure
        Done where the section is given and `on`.
    """

    name: Name = "unfolding"
    title: str = ""
    data: SampleFiles
    background: tuple[SampleFiles, ...] = ()
    simulation: SimulationFiles
    detector: DetectorSection
    particle: LevelSection
    unfold: UnfoldSection = UnfoldSection()
    loss: LossSection = LossSection()
    settings: Settings = Settings()
    uncertainties: UncertaintiesSection = UncertaintiesSection()
    systematics: dict[Name, VariationSection] = Field(default_factory=dict)
    observables: tuple[ObservableSection, ...] = Field(min_length=1)
    closure: ClosureSection = ClosureSection(on=False)

    @model_validator(mode="after")
    def _consistent(self) -> UnfoldConfig:
        names = [one.name for one in self.observables]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"observable {name!r} is declared twice")
        for name in self.systematics:
            if name in _RESERVED:
                raise ValueError(f"a systematic cannot be called {name!r}; rename it")
        if self.unfold.aggregate == "truncated_mean" and self.uncertainties.ensemble == 2:
            raise ValueError("a truncated mean needs 3 members: [uncertainties] ensemble is 1, or at least 3")
        self.made()
        return self

    def made(self) -> OmniFold:
        """Return how to unfold."""
        arguments = self.unfold.model_dump(exclude={"start", "seed"})
        networks = self.detector.network, self.particle.network
        return OmniFold(network=networks, loss=self.loss.made(), settings=self.settings, **arguments)


def load_unfold_config(path: str | os.PathLike[str]) -> UnfoldConfig:
    """Read and check an ``unfold.toml``.

    Raises
    ------
    ConfigError
        Naming the key, what was expected, and for an unknown key the nearest valid one.
    """
    return parse_unfold_config(read_toml(path), where=str(path))


def parse_unfold_config(document: dict[str, Any], *, where: str) -> UnfoldConfig:
    """Check a configuration given as a dictionary."""
    return check(UnfoldConfig, document, where=where)

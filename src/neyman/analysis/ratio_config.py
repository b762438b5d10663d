"""The TOML of `neyman train`: two sets of files, an estimator, and what the result must pass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from neyman.analysis.config import Name, Positive, Section, check, read_toml
from neyman.analysis.trust import Tolerances
from neyman.events.features import FeatureSpec
from neyman.networks import MLP, NSF, PET, Aggregate
from neyman.ratios import DLE, LRE, Hybrid
from neyman.training import BCE, MLC, Loss, Settings

Network = Annotated[MLP | NSF | PET, Field(discriminator="kind")]
Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]


class SampleFiles(Section):
    """``[numerator]`` and ``[denominator]``: the events of a density.

    Attributes
    ----------
    files
        Paths, URLs, patterns, folders or lists (``@files.txt``) of ROOT (``.root``) or Parquet files, relative to the
        TOML file.
    label
        What it is called in the report and in the model file.
    tree
        Tree of the ROOT files.
    weight
        A column or an expression of columns; every event counts 1 without it.
    cut
        Expression that keeps an event.
    """

    files: Texts = Field(min_length=1)
    label: str = ""
    tree: str = "Events"
    weight: str | None = None
    cut: str | None = None


class LossSection(Section):
    """``[loss]``: loss of a classifier, ``bce`` or ``mlc``, and its link."""

    kind: Literal["bce", "mlc"] = "bce"
    link: Literal["sigmoid", "gaussian", "arctan", "exp", "relu", "square"] | None = None

    @model_validator(mode="after")
    def _known(self) -> LossSection:
        self.made()
        return self

    def made(self) -> Loss:
        """Return the loss."""
        kind: Any = BCE if self.kind == "bce" else MLC
        loss: Loss = kind() if self.link is None else kind(self.link)
        return loss


class ResidualSection(Section):
    """``[residual]``: the classifier that corrects the flows of a hybrid."""

    network: Network = MLP()
    settings: Settings = Settings()


class CalibrationSection(Section):
    """``[calibration]``: the monotone map learned from half of the held-back events."""

    method: Literal["none", "isotonic", "histogram", "temperature", "platt"] = "none"


class ChecksSection(Section):
    """``[checks]``: what the ratio must pass before it is exported.

    Attributes
    ----------
    fraction
        Part of the events that takes no part in the training, for calibration and checks.
    slices
        Features in slices of which closure is checked; slices of the log-ratio always are.
    expected
        Number of data events that will be analysed: the spread of the members is compared with their statistical
        error, and with that of the held-back events without it.
    tolerance
        What is accepted.
    """

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    slices: tuple[str, ...] = ()
    expected: Positive | None = None
    tolerance: Tolerances = Tolerances()


class RatioConfig(Section):
    """The whole of a ``ratio.toml``.

    Attributes
    ----------
    estimator
        ``lre``: classifiers; ``dle``: flows of both densities; ``hybrid``: flows, each with a residual classifier.
    features, parameters
        Columns that are inputs: features of the event, and nuisance parameters of the numerator's events. Features may
        also be a file, ``features = "features.toml"``, by which they are computed from collections of objects (see
        :class:`neyman.events.features.FeatureSpec`); the model file then carries it.
    inputs
        The content of that file.
    labels
        Axis labels of features in figures.
    ensemble, bootstrap, aggregate
        Number of members, whether each sees the events with bootstrap weights of its own, and how they are combined.
    network, loss, residual, settings
        Architecture and training; the network of a ``dle`` or ``hybrid`` is its flow, the loss of a ``hybrid`` that of
        its residual classifiers.
    start, freeze
        Model file (relative to the TOML file) of an earlier job whose networks are the start of these, and beginnings
        of names of network parameters that stay as they are.
    """

    name: Name = "ratio"
    title: str = ""
    seed: Annotated[int, Field(ge=0)] = 1
    estimator: Literal["lre", "dle", "hybrid"] = "lre"
    features: tuple[str, ...] = Field(min_length=1)
    inputs: dict[str, Any] | None = None
    parameters: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    ensemble: Annotated[int, Field(ge=1, le=1000)] = 1
    bootstrap: bool = False
    aggregate: Aggregate = "mean"
    start: str | None = None
    freeze: Texts = ()
    numerator: SampleFiles
    denominator: SampleFiles
    network: Network
    loss: LossSection = LossSection()
    residual: ResidualSection = ResidualSection()
    settings: Settings = Settings()
    calibration: CalibrationSection = CalibrationSection()
    checks: ChecksSection = ChecksSection()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, document: Any) -> Any:
        if not isinstance(document, Mapping):
            return document
        out = dict(document)
        if (given := out.get("inputs")) is not None:
            spec = FeatureSpec.from_dict(given)
            if out.setdefault("features", spec.features) != spec.features:
                raise ValueError("'features' and 'inputs' name different features")
            out["inputs"] = spec.to_dict()
        network, residual = out.get("network", {}), out.get("residual", {})
        if isinstance(network, Mapping):
            out["network"] = {"kind": "mlp" if out.get("estimator", "lre") == "lre" else "nsf", **network}
        if isinstance(residual, Mapping) and isinstance(residual.get("network"), Mapping):
            out["residual"] = {**residual, "network": {"kind": "mlp", **residual["network"]}}
        return out

    @model_validator(mode="after")
    def _consistent(self) -> RatioConfig:
        given, lre = self.model_fields_set, self.estimator == "lre"
        if lre == isinstance(self.network, NSF):
            wanted = "'mlp' or 'pet'" if lre else "'nsf'"
            raise ValueError(
                f"a network of kind {self.network.kind!r} cannot be that of estimator = {self.estimator!r}; "
                f"use {wanted}"
            )
        if isinstance(self.residual.network, NSF):
            raise ValueError("the network of [residual] is a classifier; use kind = 'mlp' or 'pet'")
        trained = {
            "loss": ("lre", "hybrid"),
            "residual": ("hybrid",),
            "start": ("lre", "dle"),
            "freeze": ("lre", "dle"),
        }
        for name, users in trained.items():
            if name in given and self.estimator not in users:
                raise ValueError(f"{name!r} has no effect with estimator = {self.estimator!r}; remove it")
        if self.aggregate.startswith("truncated") and self.ensemble < 3:
            raise ValueError(f"aggregate = {self.aggregate!r} needs an ensemble of at least 3 members")
        columns = [*self.features, *self.parameters]
        for name in columns:
            if columns.count(name) > 1:
                raise ValueError(f"{name!r} is given twice among features and parameters")
            if name == "weight":
                raise ValueError("'weight' cannot be a feature or parameter; name another column, or a copy")
        for name in self.checks.slices:
            if name not in self.features:
                raise ValueError(f"checks.slices names {name!r}, which is not a feature")
        return self

    @property
    def spec(self) -> FeatureSpec | None:
        """How the features are computed from collections; None if they are columns."""
        return None if self.inputs is None else FeatureSpec.from_dict(self.inputs)

    def names(self) -> tuple[str, str]:
        """What numerator and denominator are called."""
        return self.numerator.label or "numerator", self.denominator.label or "denominator"

    def made(self) -> LRE | DLE | Hybrid:
        """Return the estimator."""
        if isinstance(self.network, NSF):
            flow = DLE(self.network, self.ensemble, self.settings, self.bootstrap)
            if self.estimator == "dle":
                return flow
            return Hybrid(flow, self.residual.network, self.loss.made(), self.residual.settings)
        return LRE(self.network, self.loss.made(), self.ensemble, self.settings, self.bootstrap)


def load_ratio_config(path: str | os.PathLike[str]) -> RatioConfig:
    """Read and check a ``ratio.toml``.

    Raises
    ------
    ConfigError
        Naming the key, what was expected, and for an unknown key the nearest valid one.
    """
    document = read_toml(path)
    if isinstance(file := document.get("features"), str):
        spec = FeatureSpec.load(Path(path).parent / file)
        document |= {"features": spec.features, "inputs": spec.to_dict()}
    return parse_ratio_config(document, where=str(path))


def parse_ratio_config(document: dict[str, Any], *, where: str) -> RatioConfig:
    """Check a configuration given as a dictionary."""
    return check(RatioConfig, document, where=where)

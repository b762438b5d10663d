"""The document ``gaussian.json`` as pydantic models; `gaussian.schema.json` is published from them.

It holds measured spectra, such as unfolded ones: values and a covariance, beside the predictions of samples with
pyhf's modifiers. The same parameter name is the same parameter in every document of a folder.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from neyman.errors import WorkspaceError, nearest
from neyman.workspace.covariance import checked_covariance
from neyman.workspace.documents import Document, Finite, Measurement, MeasurementConfig, Name, Positive

FORMAT: Literal["neyman-gaussian"] = "neyman-gaussian"
_SUM_TOLERANCE = 1e-6  # of the standard deviations: rounding of printed tables

NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Contents = Annotated[tuple[Finite, ...], Field(min_length=1, max_length=100_000)]
Matrix = Annotated[tuple[tuple[Finite, ...], ...], Field(max_length=100_000)]


class FreeModifier(Document):
    """A factor on the sample (normfactor, lumi) or on each of its bins (shapefactor)."""

    name: Name
    type: Literal["normfactor", "lumi", "shapefactor"]
    data: None = None


class Factors(Document):
    """Multiplicative effect at +-1 standard deviation."""

    hi: Positive
    lo: Positive


class NormModifier(Document):
    """Normalisation uncertainty of the sample."""

    name: Name
    type: Literal["normsys"]
    data: Factors


class Varied(Document):
    """Predictions at +-1 standard deviation."""

    hi_data: Contents
    lo_data: Contents


class ShapeModifier(Document):
    """Uncertainty of the sample's shape."""

    name: Name
    type: Literal["histosys"]
    data: Varied


class BinModifier(Document):
    """Uncertainties of the predictions of single bins (staterror, shapesys); the covariance has those of the data."""

    name: Name
    type: Literal["staterror", "shapesys"]
    data: Annotated[tuple[NotNegative, ...], Field(min_length=1, max_length=100_000)]


Modifier = Annotated[FreeModifier | NormModifier | ShapeModifier | BinModifier, Field(discriminator="type")]


class Sample(Document):
    """Prediction of one process, a sample of pyhf; contents may be negative."""

    name: Name
    data: Contents
    modifiers: tuple[Modifier, ...] = ()


class Channel(Document):
    """Measured values of one observable or of several.

    ``data`` holds the bins of all axes in C order, in the units of the samples' predictions. ``edges`` are those of
    each axis, with its name and unit in ``names`` and ``units``.
    """

    name: Name
    data: Contents
    samples: tuple[Sample, ...] = Field(min_length=1, max_length=10_000)
    edges: tuple[Annotated[tuple[Finite, ...], Field(min_length=2)], ...] = ()
    names: tuple[Name, ...] = ()
    units: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Channel:
        where, n = f"channel {self.name!r}", len(self.data)
        _check_axes(self, where)
        _refuse_repeats("sample", (s.name for s in self.samples), where)
        for sample in self.samples:
            place = f"{where}, sample {sample.name!r}"
            sizes = {"data": len(sample.data)}
            for m in sample.modifiers:
                if isinstance(m, ShapeModifier):
                    sizes |= {f"{m.name} {key}": len(values) for key, values in m.data}
                elif isinstance(m, BinModifier):
                    sizes[f"{m.type} {m.name}"] = len(m.data)
            for what, size in sizes.items():
                if size != n:
                    raise WorkspaceError(
                        f"{what} has {size} bins", where=place, expected=f"{n}, as the measured values"
                    )
            _refuse_repeats("modifier", (f"{m.type} {m.name}" for m in sample.modifiers), place)
        self._refuse_errors_of_nothing(where)
        return self

    def _refuse_errors_of_nothing(self, where: str) -> None:
        """The uncertainties of bins are relative to their predictions, which have to be positive."""
        carried: dict[tuple[str, str], list[tuple[Sample, BinModifier]]] = {}
        for sample in self.samples:
            for m in sample.modifiers:
                if isinstance(m, BinModifier):
                    carried.setdefault((m.type, m.name), []).append((sample, m))
        for (kind, name), pairs in carried.items():
            predicted = np.sum([sample.data for sample, _ in pairs], axis=0)
            certain = ~np.any([m.data for _, m in pairs], axis=0)
            if len(bad := np.flatnonzero((predicted < 0.0) & ~certain)):
                raise WorkspaceError(
                    f"{kind} {name!r} is relative to the negative prediction {predicted[bad[0]]:.4g} of bin {bad[0]}",
                    where=f"{where}: {', '.join(sample.name for sample, _ in pairs)}",
                    fix="leave it out, or give the uncertainty as a histosys",
                )


def _check_axes(channel: Channel, where: str) -> None:
    n_axes = len(channel.edges)
    for what, given in (("names", channel.names), ("units", channel.units)):
        if given and len(given) != n_axes:
            raise WorkspaceError(
                f"{len(given)} {what} for {n_axes} axes", where=where, expected="one an axis"
            )
    for i, edges in enumerate(channel.edges):
        if not np.all(np.diff(edges) > 0.0):
            raise WorkspaceError(
                f"the edges of axis {i} do not increase",
                where=where,
                expected="each larger than the one before",
            )
    n_bins = math.prod(len(edges) - 1 for edges in channel.edges)
    if channel.edges and n_bins != len(channel.data):
        raise WorkspaceError(
            f"{len(channel.data)} values for {n_bins} bins",
            where=where,
            expected=" x ".join(str(len(edges) - 1) for edges in channel.edges)
            + " bins of the axes, in C order",
        )


class Spectrum(Document):
    """Channels whose values have a common covariance: over the bins of all of them, in their order.

    ``sources`` may hold what the covariance is the sum of.
    """

    name: Name
    channels: tuple[Channel, ...] = Field(min_length=1, max_length=10_000)
    covariance: Matrix
    sources: dict[Name, Matrix] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _covers(self) -> Spectrum:
        _refuse_repeats("channel", (c.name for c in self.channels), f"spectrum {self.name!r}")
        total = checked_covariance(self.covariance, self.bins, where=f"the covariance of {self.name!r}")
        if self.sources:
            parts = [
                checked_covariance(
                    matrix,
                    self.bins,
                    where=f"source {source!r} of the covariance of {self.name!r}",
                    definite=False,
                )
                for source, matrix in self.sources.items()
            ]
            widths = np.sqrt(total.diagonal())
            missing = np.abs(np.sum(parts, axis=0) - total) / np.outer(widths, widths)
            if missing.max() > _SUM_TOLERANCE:
                i, j = divmod(int(missing.argmax()), len(missing))
                raise WorkspaceError(
                    f"the sources do not add up to the covariance of {self.bins[i]} and {self.bins[j]}: "
                    f"{sum(part[i, j] for part in parts):.6g}, not {total[i, j]:.6g}",
                    where=f"spectrum {self.name!r}: sources {', '.join(self.sources)}",
                    fix="give all sources, or none",
                )
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Number of bins by channel."""
        return {c.name: len(c.data) for c in self.channels}

    @property
    def bins(self) -> list[str]:
        """What the bins are called, in the order of the covariance."""
        return [f"bin {i} of {name}" for name, n in self.sizes.items() for i in range(n)]

    def workspace(self, config: MeasurementConfig) -> dict[str, Any]:
        """Return the channels as a pyhf workspace with these settings, the measured values as observations."""
        carried = _parameters([self])
        settings = config.model_dump(mode="json", exclude_none=True)
        settings["parameters"] = [p for p in settings["parameters"] if p["name"] in carried]
        return {
            "channels": [c.model_dump(mode="json", include={"name", "samples"}) for c in self.channels],
            "observations": [{"name": c.name, "data": list(c.data)} for c in self.channels],
            "measurements": [{"name": self.name, "config": settings}],
            "version": "1.0.0",
        }


class Gaussian(Document):
    """The whole of ``gaussian.json``; its spectra are independent of each other."""

    format: Literal["neyman-gaussian"] = FORMAT
    spectra: tuple[Spectrum, ...] = Field(min_length=1, max_length=10_000)
    measurements: tuple[Measurement, ...] = Field(min_length=1, max_length=1000)
    version: Literal["1.0.0"] = "1.0.0"

    @model_validator(mode="after")
    def _consistent(self) -> Gaussian:
        _refuse_repeats("spectrum", (s.name for s in self.spectra), "gaussian.json")
        _refuse_repeats("channel", (c.name for c in self.channels), "gaussian.json")
        _refuse_repeats("measurement", (m.name for m in self.measurements), "gaussian.json")
        carried = self.parameters
        for measurement in self.measurements:
            for setting in measurement.config.parameters:
                if setting.name not in carried:
                    raise WorkspaceError(
                        f"no sample carries {setting.name!r}, of which there are settings",
                        where=f"measurement {measurement.name!r}",
                        fix=f"nearest names: {nearest(setting.name, carried)}",
                    )
        return self

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels of all spectra."""
        return tuple(channel for spectrum in self.spectra for channel in spectrum.channels)

    @property
    def parameters(self) -> set[str]:
        """Names of the modifiers."""
        return _parameters(self.spectra)

    def dump(self) -> dict[str, Any]:
        """Return the document as it is written."""
        document = self.model_dump(mode="json")
        document["measurements"] = [m.model_dump(mode="json", exclude_none=True) for m in self.measurements]
        return document


def _parameters(spectra: Iterable[Spectrum]) -> set[str]:
    return {m.name for spectrum in spectra for c in spectrum.channels for s in c.samples for m in s.modifiers}


def _refuse_repeats(what: str, names: Iterable[str], where: str) -> None:
    """Raise where a name is used twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise WorkspaceError(
                f"{what} {name!r} appears {times} times", where=where, fix="rename one of them"
            )


def gaussian_schema() -> dict[str, Any]:
    """Return the published JSON schema of ``gaussian.json``."""
    text = resources.files("neyman.workspace").joinpath("gaussian.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def generated_schema() -> dict[str, Any]:
    """Return the schema as the models define it; a test keeps the published file equal to it."""
    schema = Gaussian.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "neyman Gaussian workspace",
    } | {key: value for key, value in schema.items() if key != "title"}

"""What `train` is given, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neyman.errors import ConfigError, TrainingError, nearest
from neyman.events import EventTable
from neyman.sannt.filling import Inferno
from neyman.sannt.histogram import check_edges
from neyman.sannt.scan import EdgeScan
from neyman.sannt.templates import DIRECTIONS
from neyman.sannt.variations import Normalisation, Variation
from neyman.training import Settings


def check_tables(signals: Any, backgrounds: Any) -> None:
    """Raise :class:`TrainingError` unless there are tables of signals and of backgrounds with names of their own."""
    for what, tables in (("signals", signals), ("backgrounds", backgrounds)):
        if not isinstance(tables, Mapping):
            raise TrainingError(
                f"the {what} are a {type(tables).__name__}",
                expected="event tables by name, {'ztautau': table}",
            )
        for name, table in tables.items():
            if not isinstance(name, str) or not name or not isinstance(table, EventTable):
                raise TrainingError(
                    f"process {name!r} is a {type(table).__name__}", expected="a name, and an EventTable"
                )
    common = [name for name in backgrounds if name in signals]
    if not signals or not backgrounds or common:
        raise TrainingError(
            f"the backgrounds are {', '.join(backgrounds) or 'missing'}" if signals else "there is no signal",
            expected="at least one process of each kind, none named "
            f"{', '.join(map(repr, common or signals))} as {'the signals' if len(signals) > 1 else 'the signal'}",
        )


def check_variations(variations: Any) -> None:
    """Raise :class:`TrainingError` unless these are variations and normalisations with names."""
    given: list[Any] = list(variations)
    for one in given:
        if not isinstance(one, Variation | Normalisation):
            raise TrainingError(
                f"a variation is a {type(one).__name__}", expected="a Variation or a Normalisation"
            )
        name: Any = one.parameter
        if not isinstance(name, str) or not name:
            raise TrainingError(f"a nuisance parameter is called {name!r}", expected="a name")
        if isinstance(one, Variation):
            sides: list[tuple[str, Any]] = [("up", one.up), ("down", one.down)]
            for side, table in sides:
                if not isinstance(table, EventTable):
                    raise TrainingError(
                        f"{side} of the variation {one.parameter!r} is a {type(table).__name__}",
                        where=f"process {one.process!r}",
                        expected="an EventTable",
                    )


def check_options(
    *,
    model: Any,
    region: Any,
    classes: Any,
    strengths: Any,
    control: Any,
    filling: Any,
    learn_edges: bool,
    pretraining: Any,
    settings: Any,
    direction: Any,
    batch: Any,
    folds: Any,
    ensemble: Any,
    noise: Any,
    min_effective: Any,
    seed: Any,
) -> None:
    """Raise :class:`ConfigError` when an argument of `train` makes no sense."""
    if not hasattr(model, "build"):
        raise ConfigError(
            f"the model is a {type(model).__name__}", expected="an architecture, MLP((64, 64)) say"
        )
    if not isinstance(region, str) or not region:
        raise ConfigError(f"the region is called {region!r}", expected="a name")
    for name, given, expected in (
        ("classes", classes, "{'ggH': ('ggH',), 'background': ('Z', 'tt')}"),
        ("strengths", strengths, "{'r': ('ggH', 'qqH')}"),
        ("control", control, "{'CR': {'background': histogram}}"),
    ):
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"{name} is a {type(given).__name__}", expected=expected)
        if not all(isinstance(key, str) and key for key in given or ()):
            raise ConfigError(f"a key of {name} is no name", expected=expected)
    for channel, own in (control or {}).items():
        if not isinstance(own, Mapping) or not all(hasattr(h, "axes") for h in own.values()):
            raise ConfigError(
                f"control channel {channel!r} has no histograms", expected="{'CR': {'background': histogram}}"
            )
        if channel in channels(region, classes):
            raise ConfigError(
                f"the control channel {channel!r} has the name of a channel of the network",
                fix="rename it, or the region",
            )
    if not isinstance(filling, EdgeScan) and (
        isinstance(filling, type) or not hasattr(filling, "contents") or not hasattr(filling, "outputs")
    ):
        raise ConfigError(
            f"filling is {filling!r}", expected="Exact(EdgeKernel()), KDE(), Inferno() or EdgeScan()"
        )
    if isinstance(filling, EdgeScan | Inferno) and learn_edges:
        raise ConfigError(f"learn_edges has no effect with {type(filling).__name__}", fix="leave it out")
    if isinstance(filling, EdgeScan) and batch is not None:
        raise ConfigError("batch has no effect with EdgeScan", fix="leave it out")
    for name, given in (("pretraining", pretraining), ("settings", settings)):
        if not isinstance(given, Settings):
            raise ConfigError(f"{name} is a {type(given).__name__}", expected="neyman.training.Settings(...)")
    if direction not in DIRECTIONS:
        raise ConfigError(
            f"unknown direction {direction!r}",
            expected=", ".join(DIRECTIONS),
            fix=f"nearest: {nearest(str(direction), DIRECTIONS, n=1)}",
        )
    if batch is not None and not (_number(batch) and 0.0 < batch <= 1.0):
        raise ConfigError(f"batch is a fraction of the events, got {batch!r}")
    if folds not in (1, 2):
        raise ConfigError(f"there are one or two folds, got {folds!r}")
    if not isinstance(ensemble, Integral) or int(ensemble) < 1:
        raise ConfigError(f"an ensemble needs at least one member, got {ensemble!r}")
    if not isinstance(seed, Integral) or int(seed) < 0:
        raise ConfigError(f"the seed is {seed!r}", expected="a whole number that is not negative")
    for name, given, least in (("noise", noise, 1e-300), ("min_effective", min_effective, 0.0)):
        if not (_number(given) and least <= given < math.inf):
            raise ConfigError(f"{name} = {given!r}", expected="a positive number")


def channels(region: str, classes: Mapping[str, Sequence[str]] | None) -> tuple[str, ...]:
    """Return the names of the network's channels."""
    return (region,) if classes is None else tuple(f"{region}_{name}" for name in classes)


def edges_of(bins: Any, n_classes: int) -> torch.Tensor:
    """Return the edges of each class, ``(n_classes, n_bins + 1)``.

    Raises
    ------
    ConfigError
        When there are fewer than two bins, edges do not ascend, or inner ones are outside (0, 1).
    """
    if isinstance(bins, Integral):
        if int(bins) < 2:
            raise ConfigError(f"a histogram needs at least two bins, got {bins}")
        edges = torch.linspace(0.0, 1.0, int(bins) + 1, dtype=torch.float64)
    else:
        try:
            edges = torch.from_numpy(np.array(bins, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"bins = {bins!r}", expected="a number of bins, or edges") from error
    check_edges(edges)
    if not (float(edges[1]) > 0.0 and float(edges[-2]) < 1.0):
        raise ConfigError(
            f"bin edges {edges.tolist()} do not fit scores in [0, 1]",
            expected="inner edges between 0 and 1",
        )
    return edges.expand(n_classes, -1).clone()


def folder_of(checkpoints: Any) -> Path | None:
    """Return the folder of checkpoints."""
    if checkpoints is None:
        return None
    try:
        return Path(checkpoints)
    except TypeError as error:
        raise ConfigError(f"checkpoints is a {type(checkpoints).__name__}", expected="a folder") from error


def _number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)

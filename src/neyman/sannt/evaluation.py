"""From trained networks to a `Stage`: contents of events that have not trained them, uncertainties and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hist
import numpy as np
import torch
from numpy.typing import NDArray

from neyman.events.scoring.bins import Bins
from neyman.networks import Architecture, Description, Model, Part, Stack
from neyman.sannt.binned import BinnedStack
from neyman.sannt.classifier import Classifier, raw_index
from neyman.sannt.filling import Filling
from neyman.sannt.fisher import covariance, uncertainties
from neyman.sannt.measurement import Measurement, negative_class
from neyman.sannt.noise import variation_noise
from neyman.sannt.objective import exact_rows, outputs
from neyman.sannt.result import Stage, Uncertainty
from neyman.sannt.rows import rows_of
from neyman.sannt.templates import NOMINAL, Direction, Templates
from neyman.training import History

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Notes = dict[tuple[str, ...], str]


@dataclass(frozen=True)
class Fold:
    """A trained stack and the events that judge it.

    Parameters
    ----------
    network
        All members.
    best
        The member to export.
    judge
        Events that have not trained it; those of all folds together have the full yields.
    history
        Of the training.
    """

    network: BinnedStack
    best: int
    judge: Templates
    history: History


def evaluate(
    folds: Sequence[Fold],
    model: Architecture,
    filling: Filling,
    measurement: Measurement,
    *,
    region: str,
    classes: Sequence[str],
    direction: Direction,
    seed: int,
    notes: Mapping[str, str],
    name: str,
    noise: float,
) -> tuple[Stage, Notes]:
    """Judge the networks of one or two folds; also say what is wrong with their bins.

    Raises
    ------
    TrainingError
        When the expectation of a class is negative, or the information is singular.
    """
    filled = [_rows(fold, filling, direction) for fold in folds]
    members = torch.stack(filled).sum(dim=0)
    chosen = torch.stack([rows[fold.best] for rows, fold in zip(filled, folds, strict=True)]).sum(dim=0)[None]
    if (error := negative_class(torch.cat([chosen, members]), measurement.n_classes)) is not None:
        raise error
    groups = measurement.groups(chosen)
    merged = measurement.merged(chosen, groups)
    classifier = Classifier(
        tuple(_exported(fold, model, notes) for fold in folds),
        tuple(
            Bins(
                region=region,
                classes=tuple(classes),
                edges=tuple(map(tuple, fold.network.edges()[fold.best].tolist())),
                groups=tuple(groups[0].tolist()),
                assignment="score" if filling.ordered else "argmax",
                fold=k,
                folds=len(folds),
                seed=seed,
            )
            for k, fold in enumerate(folds)
        ),
    )
    whole, bins, offsets = _binned(classifier, [fold.judge for fold in folds])
    stage = Stage(
        classifier,
        _uncertainty(measurement, merged),
        _members(measurement, members),
        _impacts(measurement, merged),
        _histograms(classifier, whole, bins, offsets),
        tuple(fold.history for fold in folds),
    )
    said = _notes(stage, measurement, whole, bins, offsets[-1], noise)
    if lost := len(members) - len(stage.members):
        said["members",] = (
            f"{lost} of {len(members)} networks cannot measure all strengths and are left out of the spread"
        )
    return stage, {about: text if about[0] == "noise" else f"{text} ({name})" for about, text in said.items()}


def _notes(
    stage: Stage,
    measurement: Measurement,
    whole: Templates,
    bins: Sequence[Index],
    n_bins: int,
    share: float,
) -> Notes:
    """Say what is wrong with the bins of a stage: noisy variations, processes in one bin, channels that are lost."""
    classifier = stage.classifier
    contents = {process: np.zeros(n_bins) for process in whole.processes}
    for block, own in zip(whole.blocks, bins, strict=True):
        for (process, category), weight in zip(block.keys, block.weight, strict=True):
            if category == NOMINAL:
                contents[process] += np.bincount(own, weight, minlength=n_bins)
    expected = np.sum(list(contents.values()), axis=0)
    notes: Notes = {}
    for one in variation_noise(whole, list(bins), n_bins, expected):
        if (text := one.complaint(share)) is not None:
            notes["noise", one.process, one.parameter] = text
    for channel in classifier.channels:
        if channel not in stage.histograms:
            notes["empty", channel] = f"no events are left in {channel}"
        elif classifier.n_bins(channel) == 1:
            notes["one bin", channel] = (
                f"only one bin is left in {channel}: the fit is a counting experiment there"
            )
    full = measurement.check_processes(contents)
    return notes | {("full", process): text for process, text in full.items()}


def _rows(fold: Fold, filling: Filling, direction: Direction) -> torch.Tensor:
    device = next(fold.network.parameters()).device
    rows = rows_of(fold.judge, direction, dtype=torch.float64, device=device)
    with torch.no_grad():
        edges = fold.network.edges()
        index = filling.index(filling.scores(outputs(fold.network, rows.x)), edges)
        return exact_rows(index, rows, edges.shape[1] * (edges.shape[2] - 1)).cpu()


def _uncertainty(measurement: Measurement, merged: torch.Tensor) -> Uncertainty:
    """Of the exported networks; raises when their bins cannot measure all strengths."""
    chosen = range(len(measurement.signals))
    total, statistical = (
        uncertainties(measurement.information(merged, statistical=s), chosen, measurement.parameters)[
            0
        ].tolist()
        for s in (False, True)
    )
    return _record(measurement, total, statistical)


def _members(measurement: Measurement, rows: torch.Tensor) -> tuple[Uncertainty, ...]:
    """Of all members that can measure all strengths."""
    (total, good), (statistical, also) = (
        measurement.uncertainties(rows, statistical=s) for s in (False, True)
    )
    return tuple(
        _record(measurement, t, s)
        for t, s, usable in zip(total.tolist(), statistical.tolist(), (good & also).tolist(), strict=True)
        if usable
    )


def _record(measurement: Measurement, total: list[float], statistical: list[float]) -> Uncertainty:
    pairs = zip(total, statistical, strict=True)
    return Uncertainty(sum(total), sum(statistical), dict(zip(measurement.signals, pairs, strict=True)))


def _impacts(measurement: Measurement, merged: torch.Tensor) -> dict[str, dict[str, float]]:
    matrix = covariance(measurement.information(merged)[0], measurement.parameters)
    sigma = matrix.diagonal().sqrt()
    n = len(measurement.signals)
    names = measurement.parameters[n:]
    return {
        signal: dict(zip(names, (matrix[s, n:] / sigma[n:]).tolist(), strict=True))
        for s, signal in enumerate(measurement.signals)
    }


def _exported(fold: Fold, model: Architecture, notes: Mapping[str, str]) -> Model:
    """The chosen member as a model of its own."""
    network = fold.network.network
    outputs_ = network.outputs
    copy: Stack = model.build(network.inputs, outputs=outputs_)
    own = dict(network.named_parameters())
    copy.load_state_dict(
        {
            name: (tensor[fold.best : fold.best + 1] if name in own else tensor).detach().cpu().clone()
            for name, tensor in network.state_dict().items()
        }
    )
    description = Description(
        features=fold.judge.features,
        parts=(Part.model_validate({"network": model, "members": 1, "outputs": outputs_}),),
        kind="score",
        notes=dict(notes),
        inputs=fold.judge.inputs,
    )
    return Model([copy], description)


def _binned(classifier: Classifier, folds: Sequence[Templates]) -> tuple[Templates, list[Index], list[int]]:
    """The events of all folds as one set, the bin of every event among all channels, and where each channel begins."""
    sizes = [classifier.n_bins(channel) for channel in classifier.channels]
    offsets = [0, *np.cumsum(sizes).tolist()]
    found: list[list[Index]] = []
    for templates, model, own in zip(folds, classifier.models, classifier.bins, strict=True):
        places = np.array([offsets[c] + b for c, b in own.places()])
        found.append([places[raw_index(model, own, block.x)] for block in templates.blocks])
    if len(folds) == 1:
        return folds[0], found[0], offsets
    return folds[0].joined(folds[1]), [np.concatenate(both) for both in zip(*found, strict=True)], offsets


def _histograms(
    classifier: Classifier, whole: Templates, bins: Sequence[Index], offsets: Sequence[int]
) -> dict[str, dict[str, hist.Hist[hist.storage.Weight]]]:
    n_bins = offsets[-1]
    columns: dict[str, dict[str, tuple[Array, Array]]] = {process: {} for process in whole.processes}
    for block, own in zip(whole.blocks, bins, strict=True):
        for (process, category), weight in zip(block.keys, block.weight, strict=True):
            columns[process][category] = (
                np.bincount(own, weight, minlength=n_bins).astype(np.float64),
                np.bincount(own, weight**2, minlength=n_bins).astype(np.float64),
            )
    out: dict[str, dict[str, Any]] = {}
    for c, channel in enumerate(classifier.channels):
        part = slice(offsets[c], offsets[c + 1])
        if not any(values[NOMINAL][0][part].any() for values in columns.values()):
            continue  # a class without any events has no place in a fit
        out[channel] = {}
        for process, templates in columns.items():
            h = hist.Hist(
                classifier.axis(channel),
                hist.axis.StrCategory(list(templates), name="variation"),
                storage=hist.storage.Weight(),
            )
            for k, (value, variance) in enumerate(templates.values()):
                h.view().value[:, k] = value[part]
                h.view().variance[:, k] = variance[part]
            out[channel][process] = h
    return out

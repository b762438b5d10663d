r"""Training for the measurement: cross-entropy first, then the expected uncertainty of the signals' strengths.

:func:`train` is the way in; it returns a :class:`SANNT`. The loss of the second phase is the total uncertainty
:math:`\sum_s \Delta r_s`, :math:`\Delta r_s = \sqrt{(F^{-1})_{ss}}`, of the binned likelihood of the score
(arXiv:2502.13047).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from neyman.errors import NeymanWarning, TrainingError
from neyman.events import EventTable
from neyman.networks import Architecture
from neyman.sannt.arguments import (
    check_options,
    check_tables,
    check_variations,
    edges_of,
    folder_of,
)
from neyman.sannt.binned import BinnedStack
from neyman.sannt.classes import check_classes, cross_entropy
from neyman.sannt.control import Channels, control_information, control_parameters
from neyman.sannt.evaluation import Fold, Notes, evaluate
from neyman.sannt.filling import Exact, Filling
from neyman.sannt.kept import Kept, forget, training_key
from neyman.sannt.measurement import Measurement
from neyman.sannt.objective import ClassConstraint, ExpectedUncertainty
from neyman.sannt.result import SANNT, Stage
from neyman.sannt.rows import Rows, rows_of
from neyman.sannt.scan import EdgeScan
from neyman.sannt.templates import Direction, Templates
from neyman.sannt.variations import Normalisation, Variation
from neyman.training import History, Settings

PRETRAINING = Settings(steps=1000)
SETTINGS = Settings(steps=400, learning_rate=1e-3, validation_fraction=0.5)
_EXACT = Exact()
_CONSTRAINT = ClassConstraint()


@dataclass(frozen=True)
class _Plan:
    """What is the same for both folds."""

    model: Architecture
    edges: torch.Tensor
    learn_edges: bool
    filling: Filling
    scan: EdgeScan | None
    classes: Mapping[str, Sequence[str]] | None
    constraint: ClassConstraint | None
    measurement: Measurement
    pretraining: Settings
    settings: Settings
    direction: Direction
    batch: float | None
    ensemble: int
    seed: int


def train(
    model: Architecture,
    table: EventTable | Mapping[str, EventTable],
    backgrounds: Mapping[str, EventTable],
    *,
    variations: Sequence[Variation | Normalisation] = (),
    signal: str = "signal",
    strengths: Mapping[str, Sequence[str]] | None = None,
    control: Channels | None = None,
    region: str = "SR",
    classes: Mapping[str, Sequence[str]] | None = None,
    bins: int | ArrayLike = 8,
    learn_edges: bool = False,
    filling: Filling | EdgeScan = _EXACT,
    constraint: ClassConstraint | None = _CONSTRAINT,
    pretraining: Settings = PRETRAINING,
    settings: Settings = SETTINGS,
    mc_stat: bool = True,
    min_effective: float = 10.0,
    noise: float = 0.5,
    direction: Direction = "average",
    batch: float | None = None,
    folds: Literal[1, 2] = 1,
    ensemble: int = 1,
    seed: int,
    checkpoints: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> SANNT:
    r"""Train a network for the smallest expected uncertainty of signal strengths, systematics included.

    Parameters
    ----------
    model
        Architecture, an :class:`neyman.networks.MLP` say.
    table
        Signal events, or those of several signals by name; weights are expected counts.
    backgrounds
        Background events by process name.
    variations
        What nuisance parameters do. A variation that changes weights alone costs no further evaluation of the network.
    signal
        Name of the signal where there is one table.
    strengths
        Signals that each strength scales, such as ``{"r": ("ggH", "qqH")}``; each has its own if not given.
    control
        Other channels of the fit as histograms, by channel and process in the form of :attr:`Stage.histograms`, such
        as a control region that measures a free normalisation. What they say of the parameters is part of the
        uncertainty that is minimised.
    region
        Name of the channel of the fit; with classes, channels are called ``region_class``.
    classes
        Processes of each class for a network with one output a class: an event goes into the bins of its largest
        score. None: one output, signals against backgrounds.
    bins
        Number of equal bins of the score in [0, 1], or their edges; with classes, of each class.
    learn_edges
        Whether the inner edges are trained along.
    filling
        How outputs become bins in training: :class:`Exact` with a bin function, :class:`KDE`, :class:`Inferno`; or an
        :class:`EdgeScan` in place of the second training.
    constraint
        What keeps the meaning of the classes; without classes there is none.
    pretraining
        The cross-entropy phase, all classes at equal total weight.
    settings
        The second phase; ``batch_size`` is not used. Its ``validation_fraction`` holds for both phases.
    mc_stat
        Whether the uncertainty contains the statistics of the simulation.
    min_effective
        Bins with fewer effective simulated events of the backgrounds are merged with the next, in training and for the
        fit.
    noise
        A warning names variations whose statistical uncertainty is at least this fraction of their effect.
    direction
        Derivative to a nuisance parameter at 0: ``average``, half the difference of up and down for variations and the
        slope of pyhf's default interpolation for normalisations, or that of ``up`` or ``down`` alone.
    batch
        Fraction of the events that have a gradient in a step, chosen anew each time; the contents of the bins always
        are those of all events, so that the gradient is unbiased. None: all events.
    folds
        1: the held-out events select the best state and judge it. 2: the events with an even and an odd hash of their
        id (column ``entry``) train a network each, which is judged by the other half: all events are used, and none
        is binned by a network that has seen it.
    ensemble
        Number of networks from different initial values, trained in one pass. The one that is best on the selecting
        events is exported; the spread of all is in :attr:`Stage.members`.
    seed
        Seed of initialisation, batch order, held-out events and folds.
    checkpoints
        Folder in which an interrupted training keeps its state.
    progress
        Called with the number of finished steps of all phases and folds together.

    Returns
    -------
    SANNT
        Its uncertainty is never larger than that of the cross-entropy network, which is kept where the training for
        the measurement brings nothing (not with :class:`Inferno`, which starts anew). With one fold the events that
        choose the state also judge it, so the figures are slightly optimistic for a small sample.

    Raises
    ------
    TrainingError
        When features, names, classes, pairs or weights do not fit, a class has a negative expectation, or the Fisher
        information is singular (names the degenerate parameters).
    ConfigError
        When edges or options make no sense.

    Examples
    --------
    ::

        result = train(
            MLP((64, 64)),
            {"ggH": ggh, "qqH": vbf},
            {"Z": ztautau, "tt": ttbar},
            variations=[
                Variation("tes", "Z", ztautau_up, ztautau_down),
                Variation.of_weights("trigger", "Z", ztautau, up=w_up, down=w_down),
                Normalisation("luminosity", ("ggH", "qqH", "Z", "tt"), 1.02, 0.98),
                Normalisation("tt_norm", "tt", free=True),
            ],
            strengths={"r": ("ggH", "qqH")},
            control={"b_tagged": {"tt": histogram_of_tt, "Z": histogram_of_z}},
            seed=1,
        )
        print(result.pretrained.uncertainty, result.trained.uncertainty)
        spec = neyman.analysis.sannt_workspace(result.trained, {"ggH": "r", "qqH": "r"}, variations, control=control)
        result.save("out/networks")
    """
    signals = dict(table) if isinstance(table, Mapping) else {signal: table}
    check_tables(signals, backgrounds)
    check_variations(variations)
    check_options(
        model=model,
        region=region,
        classes=classes,
        strengths=strengths,
        control=control,
        filling=filling,
        learn_edges=learn_edges,
        pretraining=pretraining,
        settings=settings,
        direction=direction,
        batch=batch,
        folds=folds,
        ensemble=ensemble,
        noise=noise,
        min_effective=min_effective,
        seed=seed,
    )
    folder = folder_of(checkpoints)
    if classes is not None:
        check_classes(classes, [*signals, *backgrounds])
    edges = edges_of(bins, 1 if classes is None else len(classes))
    templates = Templates.of(
        signals,
        backgrounds,
        variations,
        fraction=settings.validation_fraction,
        seed=seed,
        strengths=strengths,
        further=control_parameters(control or {}),
    )
    if folds == 2 and any(block.entry is None for block in templates.blocks):
        raise TrainingError(
            "two folds need the identity of every event",
            expected="an integer column 'entry' in all tables",
            fix="read it with extra=('entry',), or use folds=1",
        )
    scan = filling if isinstance(filling, EdgeScan) else None
    own_filling = filling.filling if isinstance(filling, EdgeScan) else filling
    own_filling.outputs(edges.shape[0], edges.shape[1] - 1)  # refuses what it cannot fill
    plan = _Plan(
        model,
        edges,
        learn_edges,
        own_filling,
        scan,
        classes,
        constraint,
        Measurement.of(
            templates,
            n_classes=edges.shape[0],
            mc_stat=mc_stat,
            min_effective=min_effective,
            control=control_information(control, templates, direction=direction, mc_stat=mc_stat)
            if control
            else None,
        ),
        pretraining,
        settings,
        direction,
        batch,
        ensemble,
        seed,
    )
    parts = [templates] if folds == 1 else [templates.fold(second) for second in (False, True)]
    judges = [templates.half(held_out=True)] if folds == 1 else parts[::-1]
    per_fold = pretraining.steps + (settings.steps if scan is None else 0)
    done = [
        _train_fold(
            plan,
            part if folds == 1 else part.scaled_like(templates, "fold's"),
            judge,
            judge if folds == 1 else templates,
            checkpoints=None if folder is None else folder / f"fold{k}",
            progress=_shifted(progress, k * per_fold),
        )
        for k, (part, judge) in enumerate(zip(parts, judges, strict=True))
    ]
    stages, found = [], []
    for name, filling_, pair in zip(
        ("cross-entropy network", "trained network"),
        (_EXACT, own_filling),
        zip(*done, strict=True),
        strict=True,
    ):
        stage, said = _stage(plan, pair, filling_, region, name=name, noise=noise)
        stages.append(stage)
        found.append(said)
    if folder is not None:
        forget(folder)
    if own_filling.pretrained and not stages[1].uncertainty.total <= stages[0].uncertainty.total:
        # Only with two folds: one fold is judged by the events that chose the state.
        stages[1] = replace(stages[0], members=stages[1].members, histories=stages[1].histories)
        found[1] = {}
    notes = found[1] | found[0]
    for text in notes.values():
        warnings.warn(text, NeymanWarning, stacklevel=2)
    return SANNT(
        templates.strengths,
        templates.processes,
        tuple(templates.parameters),
        stages[0],
        stages[1],
        tuple(notes.values()),
    )


def _train_fold(
    plan: _Plan,
    templates: Templates,
    judge: Templates,
    statistics: Templates,
    *,
    checkpoints: Path | None,
    progress: Callable[[int], None] | None,
) -> tuple[Fold, Fold]:
    """Train both phases on one set of events; the folds before and after the second."""
    training, selection = (templates.half(held_out=held) for held in (False, True))
    device = plan.settings.torch_device
    features = training.features
    x = np.concatenate([training.nominal(name)[0] for name in training.processes])
    scaling = plan.model.scaling(x, features)
    n_classes, n_bins = plan.edges.shape[0], plan.edges.shape[1] - 1

    def build(outputs: int, learned: bool) -> BinnedStack:
        network = plan.model.build(
            len(features), outputs=outputs, members=plan.ensemble, seed=plan.seed, scaling=scaling
        )
        return BinnedStack(network.to(device), plan.edges, learned=learned).to(device)

    network = build(n_classes, False)
    entropy = cross_entropy(
        training,
        selection,
        plan.classes,
        members=plan.ensemble,
        batch_size=plan.pretraining.batch_size,
        seed=plan.seed,
        device=device,
    )
    kept = Kept(
        checkpoints, training_key(repr(plan), [plan.edges, plan.measurement.control], [training, selection])
    )
    history = kept.run("pretraining", network, entropy, plan.pretraining, progress)
    rows = [
        rows_of(half, plan.direction, dtype=torch.float32, device=device, judge=statistics)
        for half in (training, selection)
    ]
    before = _objective(plan, rows, _EXACT, plan.measurement)
    before_values = before.validation(network)
    pretrained = Fold(network, _best(before_values), judge, history)
    if plan.scan is not None:
        scanned = BinnedStack(network.network, plan.edges, learned=False)
        scanned.place(plan.scan.run(network, rows[0], plan.measurement))
        values = before.validation(scanned)
        keep = ~(values < before_values)
        scanned.place(torch.where(keep[:, None, None], network.edges(), scanned.edges()))
        best = _best(torch.where(keep, before_values, values))
        return pretrained, Fold(scanned, best, judge, History())
    trained = build(plan.filling.outputs(n_classes, n_bins), plan.learn_edges)
    if plan.filling.pretrained:
        trained.network.load_state_dict(network.network.state_dict())
    measurement = replace(plan.measurement, ordered=plan.filling.ordered)
    objective = _objective(plan, rows, plan.filling, measurement)
    objective.start(trained)
    start = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    start_values = objective.validation(trained)
    history = kept.run(
        "training", trained, objective, plan.settings, _shifted(progress, plan.pretraining.steps)
    )
    values = objective.validation(trained)
    worse = ~(values < start_values)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            parameter[worse] = start[name][worse]
    return pretrained, Fold(trained, _best(torch.where(worse, start_values, values)), judge, history)


def _objective(
    plan: _Plan, rows: Sequence[Rows], filling: Filling, measurement: Measurement
) -> ExpectedUncertainty:
    return ExpectedUncertainty(
        rows[0],
        rows[1],
        filling,
        measurement,
        batch=plan.batch,
        seed=plan.seed,
        classes=plan.classes,
        constraint=plan.constraint,
    )


def _stage(
    plan: _Plan, folds: Sequence[Fold], filling: Filling, region: str, *, name: str, noise: float
) -> tuple[Stage, Notes]:
    measurement = replace(plan.measurement, ordered=filling.ordered)
    notes = {
        "output": "logits; scores are their sigmoids" if filling.ordered else "one output a bin",
        "signals": ", ".join(plan.measurement.signals),
        "processes": ", ".join(folds[0].judge.processes),
    }
    return evaluate(
        folds,
        plan.model,
        filling,
        measurement,
        region=region,
        classes=() if plan.classes is None else tuple(plan.classes),
        direction=plan.direction,
        seed=plan.seed,
        notes=notes,
        name=name,
        noise=noise,
    )


def _best(values: torch.Tensor) -> int:
    """Return the member with the smallest value, the first where all are infinite."""
    return int(torch.nan_to_num(values, nan=math.inf).argmin())


def _shifted(progress: Callable[[int], None] | None, before: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda step: progress(before + step)

r"""Training for the measurement: cross-entropy first, then the expected uncertainty of the signal strength.

:func:`train` is the way in; it returns a :class:`SANNT`. The loss of the second phase is the total uncertainty
:math:`\Delta r_s = \sqrt{(F^{-1})_{ss}}` of the binned likelihood of the score (arXiv:2502.13047), on all training
events at once, as the uncertainty is no sum over events.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hist
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import TrainingError
from neyman.events import EventTable
from neyman.networks import MLP, Description, Model, Part, Stack
from neyman.sannt.fisher import expected_uncertainty, usable_bins
from neyman.sannt.histogram import BinFunction, EdgeKernel, bin_index, check_edges
from neyman.sannt.templates import Templates, Variation
from neyman.training import BCE, History, Objective, PairObjective, Sample, Settings
from neyman.training import train as run

Histograms = Mapping[str, hist.Hist[hist.storage.Weight]]
PRETRAINING = Settings(steps=1000)
SETTINGS = Settings(steps=400, learning_rate=1e-3, validation_fraction=0.5)
_KERNEL = EdgeKernel()


@dataclass(frozen=True)
class Uncertainty:
    """Expected uncertainty of the signal strength: `total`, and `statistical` without nuisance parameters."""

    total: float
    statistical: float


@dataclass(frozen=True)
class Stage:
    """A network with what it achieves on held-out events.

    Parameters
    ----------
    model
        Its output is the logit of the score.
    uncertainty
        Expected uncertainty of the signal strength.
    histograms
        One a process, scaled to the full yields: axes ``score`` and ``variation``, input of
        :func:`neyman.workspace.from_hists`.
    history
        Losses during its training.
    """

    model: Model
    uncertainty: Uncertainty
    histograms: Histograms
    history: History


@dataclass(frozen=True)
class SANNT:
    """A systematics-aware network, and the cross-entropy network (CENNT) that it started from.

    The model file holds the network up to its logit, as every neyman model does: the score in [0, 1], in which the
    bins are defined, is the sigmoid of what :class:`neyman.Scorer` returns. The file's notes repeat the edges.

    Parameters
    ----------
    edges
        Bin edges of the score; the end bins take everything beyond.
    pretrained
        The network after cross-entropy training.
    trained
        The network after training for the measurement; `pretrained` again where that was no improvement.
    """

    edges: NDArray[np.float64]
    pretrained: Stage
    trained: Stage

    @property
    def model(self) -> Model:
        """The trained network."""
        return self.trained.model

    def score(self, events: EventTable | ArrayLike) -> NDArray[np.float32]:
        """Return the score in [0, 1], shape ``(n_events,)``."""
        x = events.with_features(self.model.features).x if isinstance(events, EventTable) else events
        return np.asarray(torch.sigmoid(torch.from_numpy(self.model(x))).numpy())

    def contents(self, events: EventTable) -> NDArray[np.float64]:
        """Return the binned weights of events, such as the observed counts of data, shape ``(n_bins,)``."""
        bins = bin_index(torch.from_numpy(self.score(events)), torch.from_numpy(self.edges)).numpy()
        return np.asarray(np.bincount(bins, events.weight, minlength=len(self.edges) - 1), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: edges, and uncertainties and losses of both stages."""
        stages = {"pretrained": self.pretrained, "trained": self.trained}
        return {"edges": self.edges.tolist()} | {
            name: {
                "total": stage.uncertainty.total,
                "statistical": stage.uncertainty.statistical,
                "history": stage.history.to_dict(),
            }
            for name, stage in stages.items()
        }


def train(
    model: MLP,
    table: EventTable,
    backgrounds: Mapping[str, EventTable],
    *,
    variations: Sequence[Variation] = (),
    signal: str = "signal",
    bins: int | ArrayLike = 8,
    pretraining: Settings = PRETRAINING,
    settings: Settings = SETTINGS,
    bin_function: BinFunction = _KERNEL,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> SANNT:
    """Train a network for the smallest expected uncertainty of a signal strength, systematics included.

    Parameters
    ----------
    model
        Architecture.
    table
        Signal events; weights are expected counts.
    backgrounds
        Background events by process name.
    variations
        Nuisance parameters, each with a unit Gaussian constraint. One that changes weights alone costs no further
        evaluation of the network.
    signal
        Name of the signal process.
    bins
        Number of equal bins of the score in [0, 1], or their edges.
    pretraining
        The cross-entropy phase, signal against all backgrounds at equal total weight.
    settings
        The second phase; every step sees all training events. Its ``validation_fraction`` holds for both phases.
    bin_function
        Backward pass of the histogram.
    seed
        Seed of initialisation, batch order and held-out events.
    progress
        Called with the number of finished steps of both phases together.

    Returns
    -------
    SANNT
        Its held-out uncertainty is never larger than that of the cross-entropy network. The held-out events chose
        the state of the network, so the figures are slightly optimistic for a small sample.

    Raises
    ------
    TrainingError
        When features, names or weights do not fit, a bin of the cross-entropy network has no positive expectation,
        or the Fisher information is singular.
    """
    edges = torch.from_numpy(
        np.linspace(0.0, 1.0, bins + 1) if isinstance(bins, int) else np.array(bins, dtype=np.float64)
    )
    check_edges(edges)
    if not backgrounds or signal in backgrounds:
        raise TrainingError(
            f"the backgrounds are {', '.join(backgrounds) or 'missing'}",
            expected=f"at least one process, none named {signal!r} as the signal",
        )
    templates = Templates.of(
        {signal: table, **backgrounds}, variations, fraction=settings.validation_fraction, seed=seed
    )
    training, validation = templates.half(held_out=False), templates.half(held_out=True)
    pairs = [_classes(half, tuple(backgrounds)) for half in (training, validation)]
    network = model.build(
        len(table.features),
        seed=seed,
        scaling=model.scaling(np.concatenate([sample.x for sample in pairs[0]]), table.features),
    )
    cross_entropy = PairObjective(BCE(), *pairs, members=1, batch_size=pretraining.batch_size, seed=seed)

    def stage(history: History) -> Stage:
        description = Description(
            features=table.features,
            parts=(Part(network=model, members=1),),
            kind="score",
            notes={
                "output": "logit; the score is its sigmoid",
                "signal": signal,
                "backgrounds": ", ".join(backgrounds),
                "edges": json.dumps(edges.tolist()),
            },
        )
        copy = model.build(len(table.features))
        copy.load_state_dict(network.state_dict())
        return Stage(
            Model([copy], description),
            objective.uncertainty(network),
            validation.histograms(network, edges),
            history,
        )

    objective = _TotalUncertainty(training, validation, edges, bin_function)
    pretrained = stage(run(network, cross_entropy, pretraining, progress=progress))
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    later = None if progress is None else lambda step: progress(pretraining.steps + step)
    history = run(network, objective, settings, progress=later)
    with torch.no_grad():
        if not float(objective.validation(network)) < pretrained.uncertainty.total:
            network.load_state_dict(start)
    return SANNT(edges.numpy(), pretrained, stage(history))


def _classes(half: Templates, backgrounds: Sequence[str]) -> tuple[Sample, Sample]:
    parts = [half.nominal(name) for name in backgrounds]
    x, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Sample(*half.nominal(half.signal)), Sample(x, weight)


class _TotalUncertainty(Objective):
    """Objective of the second phase."""

    def __init__(
        self, training: Templates, validation: Templates, edges: torch.Tensor, bin_function: BinFunction
    ) -> None:
        self._training, self._validation = training, validation
        self._edges, self._bin_function = edges, bin_function
        self._names = (f"strength of {training.signal}", *training.parameters)
        self._constrained = (False, *(True for _ in training.parameters))

    def loss(self, network: Stack, step: int) -> torch.Tensor:  # noqa: ARG002
        return self._total(self._training, network)[0]

    def validation(self, network: Stack) -> torch.Tensor:
        total, possible = self._total(self._validation, network)
        return torch.where(possible, total, math.inf)

    def uncertainty(self, network: Stack) -> Uncertainty:
        with torch.no_grad():
            expected, jacobian = self._validation.asimov(network, self._edges, self._bin_function)
        total = expected_uncertainty(expected, jacobian, self._constrained, names=self._names)
        statistical = expected_uncertainty(expected, jacobian[..., :1], (False,), names=self._names)
        return Uncertainty(float(total), float(statistical))

    def _total(self, templates: Templates, network: Stack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the members' uncertainties from the bins that a fit could use, and whether these are all."""
        expected, jacobian = templates.asimov(network, self._edges, self._bin_function)
        usable = usable_bins(expected.detach(), jacobian.detach())
        expected = torch.where(usable, expected, 0.0)
        jacobian = torch.where(usable[..., None], jacobian, 0.0)
        total = expected_uncertainty(expected, jacobian, self._constrained, names=self._names)
        return total, usable.all(dim=-1)

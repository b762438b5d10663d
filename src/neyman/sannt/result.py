"""What a training gives: a `SANNT` with its two `Stage`s, before and after the training for the measurement."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from neyman.events import EventTable
from neyman.sannt.classifier import Classifier
from neyman.training import History

Histograms = Mapping[str, Mapping[str, "hist.Hist[hist.storage.Weight]"]]


@dataclass(frozen=True)
class Uncertainty:
    """Expected uncertainties of the signals' strengths from the Fisher information.

    Parameters
    ----------
    total, statistical
        Sums over the signals, with all nuisance parameters and without any.
    signals
        Total and statistical uncertainty of each.
    """

    total: float
    statistical: float
    signals: Mapping[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        signals = {name: {"total": t, "statistical": s} for name, (t, s) in self.signals.items()}
        return {"total": self.total, "statistical": self.statistical, "signals": signals}


@dataclass(frozen=True)
class Stage:
    """Networks with what they achieve on events that have not trained them.

    Parameters
    ----------
    classifier
        The networks of the chosen member with their bins.
    uncertainty
        Expected uncertainty of the strengths.
    members
        That of every member of the ensemble that can measure all strengths; where the cross-entropy network is kept,
        those of the training that brought nothing.
    impacts
        For each signal, what the expected error of each nuisance parameter does to its strength,
        :math:`\\mathrm{cov}(r, \\theta)/\\sigma_\\theta`.
    histograms
        By channel and process, at full yields: axes ``score`` (or ``bin``) and ``variation``, input of
        :func:`neyman.workspace.from_hists`.
    histories
        Losses during the training, one history a fold.
    """

    classifier: Classifier
    uncertainty: Uncertainty
    members: tuple[Uncertainty, ...]
    impacts: Mapping[str, Mapping[str, float]]
    histograms: Histograms
    histories: tuple[History, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "uncertainty": self.uncertainty.to_dict(),
            "members": [one.to_dict() for one in self.members],
            "impacts": {signal: dict(own) for signal, own in self.impacts.items()},
            "histograms": {
                channel: {process: _plain(h) for process, h in own.items()}
                for channel, own in self.histograms.items()
            },
            "histories": [one.to_dict() for one in self.histories],
        }


@dataclass(frozen=True)
class SANNT:
    """A systematics-aware network, and the cross-entropy network (CENNT) that it started from.

    The model files hold the networks up to their raw outputs, as every neyman model does: scores in [0, 1], in which
    the bins are defined, are the sigmoids of what :class:`neyman.Scorer` returns.

    Parameters
    ----------
    strengths
        Signal strengths, and the signal processes that each scales.
    processes, parameters
        Names of all processes and of the nuisance parameters.
    pretrained
        The networks after cross-entropy training.
    trained
        The networks after training for the measurement; `pretrained` again where that was no improvement.
    warnings
        What deserves a look.
    """

    strengths: Mapping[str, tuple[str, ...]]
    processes: tuple[str, ...]
    parameters: tuple[str, ...]
    pretrained: Stage
    trained: Stage
    warnings: tuple[str, ...] = ()

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signal strengths."""
        return tuple(self.strengths)

    @property
    def classifier(self) -> Classifier:
        """The trained networks with their bins."""
        return self.trained.classifier

    def score(self, events: EventTable) -> NDArray[np.float32]:
        """Return the scores of the trained networks in [0, 1]."""
        return self.classifier.score(events)

    def contents(self, events: EventTable) -> dict[str, NDArray[np.float64]]:
        """Return the binned weights of events, such as the observed counts of data, by channel."""
        return self.classifier.contents(events)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the trained networks with their bins; :meth:`Classifier.load` reads them."""
        return self.classifier.save(folder)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "signals": list(self.signals),
            "strengths": {name: list(own) for name, own in self.strengths.items()},
            "processes": list(self.processes),
            "parameters": list(self.parameters),
            "warnings": list(self.warnings),
            "pretrained": self.pretrained.to_dict(),
            "trained": self.trained.to_dict(),
        }


def _plain(h: hist.Hist[hist.storage.Weight]) -> dict[str, Any]:
    values, variances = h.values(), h.variances()
    categories = list(h.axes["variation"])
    column = {name: values[:, k].tolist() for k, name in enumerate(categories)}
    varied = [name.removesuffix("Up") for name in categories if name.endswith("Up")]
    return {
        "edges": np.asarray(h.axes[0].edges).tolist(),
        "nominal": column["nominal"],
        "variance": np.asarray(variances)[:, categories.index("nominal")].tolist(),
        "variations": {name: {"up": column[f"{name}Up"], "down": column[f"{name}Down"]} for name in varied},
    }

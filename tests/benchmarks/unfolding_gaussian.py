r"""Unfolding of a Gaussian: events of known truth, a binned unfolding, and how far an answer is from the truth.

The simulation is :math:`x \sim N(0, 1)`, nature :math:`x \sim N(0.2, 0.8^2)`; the detector adds a bias and a Gaussian
resolution and misses some events, at random or more of them at small x.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, ndtr

import neyman as ny
from neyman.unfolding import OmniFold

Array = NDArray[Any]
EDGES = np.linspace(-1.8, 2.2, 21)
"""Edges of the 20 bins in which answers are compared with the truth: 98.8% of it."""


@dataclass(frozen=True)
class Case:
    """Nature and detector.

    Parameters
    ----------
    mean, width
        Of nature's Gaussian; the simulation has 0 and 1.
    bias, resolution
        The detector measures x + N(bias, resolution^2).
    efficiency
        Least and largest efficiency: it rises from one to the other around x = 0 over about one unit.
    """

    mean: float = 0.2
    width: float = 0.8
    bias: float = 0.1
    resolution: float = 0.4
    efficiency: tuple[float, float] = (0.9, 0.9)

    def detect(self, x: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return what is measured of each x, and whether it is detected."""
        low, high = self.efficiency
        detected = rng.random(len(x)) < low + (high - low) * expit(2.0 * x)
        return x + rng.normal(self.bias, self.resolution, len(x)), detected

    @property
    def fractions(self) -> Array:
        """True fractions of events in the bins of `EDGES`."""
        return np.diff(ndtr((EDGES - self.mean) / self.width))


CASES = {"flat efficiency": Case(), "rising efficiency": Case(efficiency=(0.5, 0.95))}


@dataclass(frozen=True)
class Events:
    """Simulated events at both levels, which of them are detected, and observed data."""

    truth: Array
    reco: Array
    passes: Array
    data: Array

    @classmethod
    def draw(cls, case: Case, n: int, seed: int) -> Events:
        """Draw `n` simulated events and `n` events of nature, of which the detected ones are data."""
        rng = np.random.default_rng([seed, 1])
        truth = rng.normal(0.0, 1.0, n)
        reco, passes = case.detect(truth, rng)
        data, detected = case.detect(rng.normal(case.mean, case.width, n), rng)
        return cls(truth, reco, passes, data[detected])

    @cached_property
    def binned(self) -> Binned:
        return Binned(self)


class Binned:
    """The events in fine bins at both levels, the last of which also hold what lies beyond."""

    def __init__(self, events: Events, bins: int = 60) -> None:
        self._truth, self._reco = np.linspace(-3.0, 3.0, bins + 1), np.linspace(-3.2, 3.4, bins + 1)
        self.bins, self._events = bins, events
        self.of_truth = _bin(events.truth, self._truth)
        self._cell = self.of_truth * bins + _bin(events.reco, self._reco)
        self._data = _bin(events.data, self._reco)

    def unfold(
        self,
        iterations: int,
        *,
        missed: str = "corrected",
        rng: np.random.Generator | None = None,
    ) -> Array:
        r"""Iterative Bayesian unfolding: a factor on every simulated event, that of its fine bin.

        With the response :math:`R_{rt}`, the probability that an event of truth bin t is detected in bin r, data
        :math:`d_r`, and the simulation's spectrum as :math:`n_t^0`,

        .. math:: n_t^{k+1} = \frac{n_t^k}{\epsilon_t} \sum_r \frac{R_{rt} d_r}{\sum_{t'} R_{rt'} n_{t'}^k},
            \qquad \epsilon_t = \sum_r R_{rt}

        Source: D'Agostini, Nucl. Instrum. Meth. A 362 (1995) 487; in this form arXiv:1010.0632.

        Parameters
        ----------
        iterations
            Number of times the rule is applied.
        missed
            ``corrected`` as above, which is OmniFold with ``missed="learned"`` and the exact ratios of histograms; or
            ``kept``: events that are not detected keep their weight, as with ``missed="unchanged"``,
            :math:`n_t^{k+1} = n_t^k (\sum_r R_{rt} d_r / \sum_{t'} R_{rt'} n_{t'}^k + 1 - \epsilon_t)`, with the
            same fixed point, to which an iteration comes less close.
        rng
            Where given, every simulated and every observed event counts a Poisson number of times (a bootstrap).

        Returns
        -------
        Weights ``(n_simulated,)``, the number of copies in a bootstrap times the factor.
        """
        bins, passes = self.bins, self._events.passes
        copies = np.ones(len(passes)) if rng is None else rng.poisson(1.0, len(passes)).astype(float)
        seen = None if rng is None else rng.poisson(1.0, len(self._data))
        data = np.bincount(self._data, seen, minlength=bins)
        generated = np.bincount(self.of_truth, copies, minlength=bins)
        joint = np.bincount(self._cell[passes], copies[passes], minlength=bins * bins).reshape(bins, bins)
        response = joint / np.maximum(generated, 1.0)[:, None]  # (truth, reco)
        efficiency = response.sum(axis=1)
        known = efficiency > 0.0  # a bin of which nothing is detected keeps its weight
        factor = np.ones(bins)
        for _ in range(iterations):
            folded = (factor * generated) @ response
            gain = response @ np.divide(data, folded, out=np.zeros(bins), where=folded > 0.0)
            if missed == "corrected":
                factor[known] *= gain[known] / efficiency[known]
            else:
                factor *= gain + 1.0 - efficiency
        return copies * factor[self.of_truth]


def _bin(x: Array, edges: Array) -> Array:
    return np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)


@dataclass(frozen=True)
class Answer:
    """Mean, width and fractions in the bins of `EDGES` of an unfolded spectrum."""

    mean: float
    width: float
    fractions: Array

    @classmethod
    def of(cls, truth: Array, weights: Array) -> Answer:
        total = weights.sum()
        mean = float(truth @ weights / total)
        width = float(np.sqrt((truth - mean) ** 2 @ weights / total))
        return cls(mean, width, np.histogram(truth, EDGES, weights=weights)[0] / total)


@dataclass(frozen=True)
class Errors:
    """Standard deviations of mean, width and fractions, by the statistics of data and simulation."""

    mean: float
    width: float
    fractions: Array

    @classmethod
    def bootstrap(cls, events: Events, iterations: int, replicas: int, seed: int) -> Errors:
        """Take them from binned unfoldings of resampled events."""
        rng = np.random.default_rng([seed, 2])
        found = [Answer.of(events.truth, events.binned.unfold(iterations, rng=rng)) for _ in range(replicas)]
        return cls(
            float(np.std([a.mean for a in found], ddof=1)),
            float(np.std([a.width for a in found], ddof=1)),
            np.std([a.fractions for a in found], axis=0, ddof=1),
        )

    def judge(self, case: Case, answer: Answer) -> dict[str, float]:
        """Return distances from the truth in standard deviations, and their mean square over the bins.

        The bins are correlated; the mean square of standardised differences is 1 all the same where the spectrum
        has no bias, which the form with the inverse covariance cannot promise: unfolding leaves directions of
        almost no variance, in which it would judge the number of iterations alone.
        """
        pulls = (answer.fractions - case.fractions) / self.fractions
        return {
            "mean": answer.mean,
            "width": answer.width,
            "mean_pull": (answer.mean - case.mean) / self.mean,
            "width_pull": (answer.width - case.width) / self.width,
            "chi2_per_bin": float(np.mean(pulls**2)),
        }


def measured(work: Callable[[], Array], threads: int = 1) -> tuple[Array, dict[str, float]]:
    """Run work with some torch threads; return its result with wall and CPU seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    start = time.perf_counter(), time.process_time()
    try:
        result = work()
    finally:
        torch.set_num_threads(before)
    return result, {"wall_s": time.perf_counter() - start[0], "cpu_s": time.process_time() - start[1]}


def table(x: Array) -> ny.EventTable:
    return ny.EventTable(("x",), x[:, None], np.ones(len(x)))


def neyman_weights(omnifold: OmniFold, events: Events, seed: int) -> tuple[Array, dict[str, float]]:
    """Unfold with this package."""
    return measured(
        lambda: (
            omnifold.fit(
                table(events.data),
                table(events.reco),
                table(events.truth),
                passes_reconstruction=events.passes,
                seed=seed,
            ).unfolded
        )
    )


def peer_python() -> str | None:
    """Interpreter that has the `omnifold` package: this one, or that of NEYMAN_PEERS_PYTHON."""
    if importlib.util.find_spec("omnifold"):
        return sys.executable
    return os.environ.get("NEYMAN_PEERS_PYTHON")


def peer_weights(
    events: Events, settings: Mapping[str, Any], folder: Path
) -> tuple[Array, dict[str, Any]] | None:
    """Unfold with the `omnifold` package; None where it is not installed. Its imports are not in the times."""
    python = peer_python()
    if python is None:
        return None
    files = folder / "events.npz", folder / "weights.npy"
    np.savez(files[0], truth=events.truth, reco=events.reco, passes=events.passes, data=events.data)
    worker = Path(__file__).parent / "omnifold_worker.py"
    command = [python, str(worker), str(files[0]), json.dumps(dict(settings)), str(files[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{worker.name} failed:\n{done.stderr[-3000:]}")
    return np.load(files[1]).astype(np.float64), json.loads(done.stdout.splitlines()[-1])

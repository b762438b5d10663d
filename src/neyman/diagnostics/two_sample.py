"""Classifier two-sample test: can a new classifier tell the reweighted reference from the target?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.diagnostics.gates import Check
from neyman.diagnostics.samples import histogram, matrix, quantiles, reweighted, weight
from neyman.errors import NeymanWarning

if TYPE_CHECKING:
    from neyman.ratios import LRE

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TwoSample(Check):
    r"""Area under the receiver operating characteristic (AUC) of a classifier of target against reweighted reference.

    Parameters
    ----------
    auc, auc_error
        Probability that a target event has a larger score than a reference event, and its standard deviation.
    false_positive, true_positive
        The characteristic: shares of reference and target above falling thresholds, ``(n_points,)``.
    edges
        Bin edges in the score, ``(n_bins + 1,)``.
    target, target_error, model, model_error
        Normalised contents of the test half with their statistical errors, ``(n_bins,)``.
    tolerance
        Deviation of the AUC from 1/2 that is accepted even if significant.
    """

    auc: float
    auc_error: float
    false_positive: Array
    true_positive: Array
    edges: Array
    target: Array
    target_error: Array
    model: Array
    model_error: Array
    tolerance: float


def two_sample(
    features: Sequence[str],
    target: tuple[ArrayLike, ArrayLike],
    reference: tuple[ArrayLike, ArrayLike],
    log_ratio: ArrayLike,
    *,
    seed: int,
    estimator: LRE | None = None,
    tolerance: float = 0.01,
) -> TwoSample:
    """Train a classifier on half of the events and measure its AUC on the other half.

    Passes when the AUC is 1/2 within three standard deviations or the tolerance. It sees all features at once, unlike
    closure, and not the normalisation, unlike the calibration curve (Lopez-Paz and Oquab, arXiv:1610.06545).

    Parameters
    ----------
    features
        Names of the columns.
    target, reference
        Features ``(n_events, n_features)`` and weights, of any sign, ``(n_events,)`` of each.
    log_ratio
        ``ln p_target/q`` of the reference events.
    seed
        Seed of the halves and of the training.
    estimator
        Classifier; by default one network of 64 x 64 units and 500 steps of 512 events a class.
    tolerance
        Deviation of the AUC from 1/2 that is accepted even if significant.

    Raises
    ------
    InputError
        When shapes disagree, a number is not finite, or a sample or its half has no positive total weight.
    TrainingError
        When the classifier cannot be trained.
    """
    names = tuple(features)
    x_t, x_r = matrix("target", target[0], len(names)), matrix("reference", reference[0], len(names))
    w_t = weight("target", target[1], len(x_t))
    w_m = reweighted("reweighted reference", weight("reference", reference[1], len(x_r)), log_ratio)
    rng = np.random.default_rng(seed)
    train_t, train_m = (rng.permutation(len(w)) < len(w) // 2 for w in (w_t, w_m))
    classifier = _train(estimator, names, (x_t[train_t], w_t[train_t]), (x_r[train_m], w_m[train_m]), seed)
    t, m = classifier(x_t[~train_t]), classifier(x_r[~train_m])
    w_t, w_m = (
        weight(f"test half of the {name}", w[~train], int((~train).sum()))
        for name, w, train in (("target", w_t, train_t), ("reweighted reference", w_m, train_m))
    )
    w_t, w_m = w_t / w_t.sum(), w_m / w_m.sum()
    area, error = auc(t, w_t, m, w_m)
    thresholds = quantiles(np.concatenate([t, m]), np.concatenate([w_t, w_m]), np.linspace(1.0, 0.0, 101))
    edges = np.unique(thresholds[::5])
    if len(edges) < 2:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    (in_t, v_t), (in_m, v_m) = histogram(t, w_t, edges), histogram(m, w_m, edges)
    passed = abs(area - 0.5) <= max(3.0 * error, tolerance)
    reason = (
        f"AUC = {area:.4f} ± {error:.4f} between target and reweighted reference "
        f"(1/2 within 3 standard deviations or {tolerance:g})"
    )
    false, true = (
        np.array([float(w[scores >= cut].sum()) for cut in thresholds]) for scores, w in ((m, w_m), (t, w_t))
    )
    return TwoSample(
        "two-sample test", passed, reason, area, error, np.concatenate([[0.0], false]), np.concatenate([[0.0], true]),
        edges, in_t, np.sqrt(v_t), in_m, np.sqrt(v_m), tolerance,
    )  # fmt: skip


def auc(score_p: Array, w_p: Array, score_q: Array, w_q: Array) -> tuple[float, float]:
    r"""Return the weighted AUC :math:`A = \sum_{ij} w_i v_j ([s_i > s_j] + \tfrac12 [s_i = s_j])` and its error.

    The variance :math:`\sum_i w_i^2 (A_i - A)^2 + \sum_j v_j^2 (A_j - A)^2`, with the mean :math:`A_i` of the
    comparisons of one event, is that of DeLong et al. (Biometrics 44 (1988) 837) for weighted events; weights of any
    sign, normalised to 1.
    """

    def wins(score: Array, other: Array, w: Array) -> Array:
        order = np.argsort(other)
        below = np.concatenate([[0.0], np.cumsum(w[order])])
        left, right = (np.searchsorted(other[order], score, side=side) for side in ("left", "right"))
        return np.asarray(0.5 * (below[left] + below[right]), dtype=np.float64)

    of_p, of_q = wins(score_p, score_q, w_q), 1.0 - wins(score_q, score_p, w_p)
    area = float(w_p @ of_p)
    variance = w_p**2 @ (of_p - area) ** 2 + w_q**2 @ (of_q - area) ** 2
    return area, float(np.sqrt(variance))


def _train(
    estimator: LRE | None,
    names: tuple[str, ...],
    target: tuple[Array, Array],
    reference: tuple[Array, Array],
    seed: int,
) -> Callable[[Array], Array]:
    from neyman.events import EventTable
    from neyman.networks import MLP
    from neyman.ratios import LRE as Estimator
    from neyman.training import Settings

    chosen = estimator or Estimator(MLP((64, 64)), settings=Settings(steps=500, batch_size=512))
    p, q = (EventTable(names, x.astype(np.float32), w) for x, w in (target, reference))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", NeymanWarning
        )  # what the reference does not cover is the check `support`
        ratio = chosen.fit(p, q, seed=seed)
    return lambda x: np.asarray(ratio.log_ratio(x.astype(np.float32)), dtype=np.float64)

r"""Calibration of a trained log-ratio: a monotone map, learned on held-out events, that makes its odds come true.

A log-ratio :math:`\ell` is calibrated when among the events with this value, both classes of equal total weight, the
numerator has the share :math:`1/(1+e^{-\ell})`. `Calibration.fit` learns the map; it is part of the model file.

* ``isotonic``: any non-decreasing map; for 10,000 held-out events and more.
* ``histogram``: the ratio of contents in bins of equal weight; coarser, for some thousand events.
* ``platt``: scale and shift of the log-ratio; for few events and smooth miscalibration.
* ``temperature``: scale alone; the ratio at :math:`\ell = 0` stays 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import isotonic_regression, minimize

from neyman.errors import InputError

Array = NDArray[np.float64]
Method = Literal["isotonic", "histogram", "temperature", "platt"]
_KNOTS = 1000
_HISTOGRAM = (50, 100)  # at most this many bins, at least that many events in each
_FEWEST, _AT_THE_ENDS = 50.0, 5.0  # effective events of each class: in all, and in an outermost block
_STEEPEST, _SEPARATED = 100.0, 1e-6  # largest scale, and the cross-entropy of classes without overlap


class Calibration(BaseModel):
    r"""A non-decreasing map of log-ratios, :math:`\ell \mapsto m(a \ell + b)`.

    Attributes
    ----------
    method
        How it was learned.
    scale, shift
        a > 0 and b.
    knots, values
        m is linear between these points and constant beyond them, where no events could tell more; without points it
        is the identity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Method
    scale: float = Field(default=1.0, gt=0.0)
    shift: float = 0.0
    knots: tuple[float, ...] = Field(default=(), max_length=_KNOTS)
    values: tuple[float, ...] = Field(default=(), max_length=_KNOTS)

    @model_validator(mode="after")
    def _monotone(self) -> Calibration:
        if len(self.knots) != len(self.values):
            raise ValueError(f"{len(self.knots)} knots but {len(self.values)} values")
        if bool(self.knots) != (self.method in ("isotonic", "histogram")):
            raise ValueError(f"a calibration by {self.method} has {len(self.knots)} knots")
        if not (np.diff(self.knots) > 0.0).all() or not (np.diff(self.values) >= 0.0).all():
            raise ValueError("knots must ascend and values must not descend")
        return self

    def __call__(self, log_ratio: ArrayLike) -> Array:
        """Calibrate log-ratios of any shape, float64.

        Raises
        ------
        InputError
            When a log-ratio is not finite.
        """
        raw = np.asarray(log_ratio, dtype=np.float64)
        if not np.isfinite(raw).all():
            raise InputError(f"{int((~np.isfinite(raw)).sum())} log-ratios to calibrate are not finite")
        out = self.scale * raw + self.shift
        return np.interp(out, self.knots, self.values) if self.knots else out

    @classmethod
    def fit(
        cls,
        method: Method,
        log_ratio_p: ArrayLike,
        w_p: ArrayLike,
        log_ratio_q: ArrayLike,
        w_q: ArrayLike,
    ) -> Calibration:
        r"""Learn the map from events that the training has not seen.

        ``isotonic`` pools adjacent violators of the share of the numerator in at most 1,000 groups of equal weight
        (Zadrozny and Elkan, KDD 2002); the log-ratio of a block, :math:`\ln P/Q` of its contents, stands at its mean
        log-ratio. ``histogram`` does the same with at most 50 bins of at least 100 events. The outermost blocks grow
        until both classes have five effective events, so that no log-ratio is infinite. ``platt`` and ``temperature``
        minimise the binary cross-entropy.

        Parameters
        ----------
        method
            Kind of map.
        log_ratio_p, w_p
            Log-ratios and weights, of any sign, of numerator events, each ``(n_p,)``.
        log_ratio_q, w_q
            The same of denominator events, ``(n_q,)``. Both classes are normalised to equal total weight.

        Raises
        ------
        InputError
            When a class has too few effective events or no positive total weight, or when a larger log-ratio does not
            mean a larger share of the numerator.
        """
        p, q = _class("numerator", log_ratio_p, w_p), _class("denominator", log_ratio_q, w_q)
        _check_direction(p, q)
        if method in ("platt", "temperature"):
            scale, shift = _affine(p, q, shifted=method == "platt")
            return cls(method=method, scale=scale, shift=shift)
        if method not in ("isotonic", "histogram"):
            raise InputError(
                f"unknown calibration {method!r}", expected="isotonic, histogram, platt or temperature"
            )
        events = len(p[0]) + len(q[0])
        groups = _KNOTS if method == "isotonic" else min(_HISTOGRAM[0], max(events // _HISTOGRAM[1], 2))
        knots, values = _pooled(p, q, groups)
        return cls(method=method, knots=tuple(knots.tolist()), values=tuple(values.tolist()))


def _class(name: str, log_ratio: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Return checked log-ratios, and weights with sum 1."""
    l, w = np.asarray(log_ratio, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if l.ndim != 1 or w.shape != l.shape:
        raise InputError(
            f"the {name} has log-ratios {l.shape} and weights {w.shape}", expected="two of (n_events,)"
        )
    if not (np.isfinite(l).all() and np.isfinite(w).all()):
        raise InputError(f"a log-ratio or weight of the {name} is not finite")
    if len(w) and not w.sum() > 0.0:
        raise InputError(
            f"the {name} has a total weight of {w.sum():g}", expected="a positive sum of weights"
        )
    n = w.sum() ** 2 / (w @ w) if len(w) else 0.0
    if n < _FEWEST:
        raise InputError(
            f"the {name} has {n:.3g} effective events to calibrate on",
            expected=f"at least {_FEWEST:g}",
            fix="hold out a larger fraction",
        )
    return l, w / w.sum()


def _check_direction(p: tuple[Array, Array], q: tuple[Array, Array]) -> None:
    (mean_p, variance_p), (mean_q, variance_q) = (
        (mean, w**2 @ (l - mean) ** 2) for l, w in (p, q) for mean in [float(w @ l)]
    )
    if mean_p - mean_q < -3.0 * np.sqrt(variance_p + variance_q):
        raise _reversed(
            f"the mean log-ratio is {mean_p:.3g} in the numerator, {mean_q:.3g} in the denominator"
        )


def _reversed(where: str) -> InputError:
    return InputError(
        "the log-ratio is reversed: the numerator is where it is small",
        where=where,
        fix="exchange numerator and denominator, or change the sign",
    )


def _affine(p: tuple[Array, Array], q: tuple[Array, Array], *, shifted: bool) -> tuple[float, float]:
    """Return scale and shift of least binary cross-entropy."""
    l, w = np.concatenate([p[0], q[0]]), np.concatenate([p[1], q[1]])
    sign = np.repeat([-1.0, 1.0], [len(p[0]), len(q[0])])
    width = float(l.std())
    if not width > 0.0:
        raise InputError(f"all log-ratios to calibrate are {l[0]:g}", expected="a trained network")

    def loss(theta: Array) -> tuple[float, Array]:
        u = sign * (theta[0] / width * l + theta[1])
        slope = w * sign * np.exp(-np.logaddexp(0.0, -u))
        return float(w @ np.logaddexp(0.0, u)), np.array([slope @ l / width, slope.sum() if shifted else 0.0])

    limits = [(-_STEEPEST * width, _STEEPEST * width), (None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-10}
    found = minimize(loss, [width, 0.0], jac=True, method="L-BFGS-B", bounds=limits, options=options)
    scale = float(found.x[0]) / width
    if not scale > 0.0:
        raise _reversed(f"best scale {scale:.3g}")
    if scale >= _STEEPEST or found.fun < _SEPARATED:
        raise InputError(
            "the log-ratio separates the classes without overlap: it cannot be calibrated by a scale",
            fix="leave it as it is: events that overlap are needed to calibrate",
        )
    return scale, float(found.x[1])


def _pooled(p: tuple[Array, Array], q: tuple[Array, Array], groups: int) -> tuple[Array, Array]:
    """Return mean log-ratio and log of the ratio of contents of the blocks of an isotonic regression."""
    l, size = np.concatenate([p[0], q[0]]), np.abs(np.concatenate([p[1], q[1]]))
    order = np.argsort(l, kind="stable")
    share = np.cumsum(size[order])
    inner = np.searchsorted(share, share[-1] * np.arange(1, groups) / groups)
    edges = np.unique(l[order][inner])
    in_p, in_q = (np.searchsorted(edges, one[0], side="left") for one in (p, q))

    def total(index: NDArray[np.intp], values: Array) -> Array:
        return np.bincount(index, values, len(edges) + 1).astype(np.float64)

    # Rows: contents of both classes, their squared errors, weight, and first moment of the log-ratio.
    sums = np.stack(
        [
            total(in_p, p[1]),
            total(in_q, q[1]),
            total(in_p, p[1] ** 2),
            total(in_q, q[1] ** 2),
            total(in_p, np.abs(p[1])) + total(in_q, np.abs(q[1])),
            total(in_p, np.abs(p[1]) * p[0]) + total(in_q, np.abs(q[1]) * q[0]),
        ]
    )
    sums = _merge(sums, _positive(sums[0] + sums[1]))
    content = sums[0] + sums[1]
    blocks = isotonic_regression(sums[0] / content, weights=content).blocks[:-1]
    starts = _firm_ends(_merge(sums, blocks), blocks)
    if len(starts) < 2 <= len(blocks):
        raise InputError(
            "the log-ratio separates the classes: too few events lie where both occur to calibrate it",
            fix="leave it as it is: events that overlap are needed to calibrate",
        )
    sums = _merge(sums, starts)
    return sums[5] / sums[4], np.maximum.accumulate(np.log(sums[0] / sums[1]))


def _merge(sums: Array, starts: NDArray[np.intp]) -> Array:
    return np.asarray(np.add.reduceat(sums, starts, axis=1), dtype=np.float64)


def _positive(content: Array) -> NDArray[np.intp]:
    """Return the starts of the smallest runs of groups that have a positive content each."""
    starts, running = [0], 0.0
    for i, one in enumerate(content):
        if running > 0.0:
            starts.append(i)
            running = 0.0
        running += one
    while content[starts[-1] :].sum() <= 0.0:
        starts.pop()
    return np.array(starts)


def _firm_ends(blocks: Array, starts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Drop the starts of blocks that the outermost ones must swallow to have enough events of both classes."""
    enough = []
    for ordered in (blocks, blocks[:, ::-1]):
        running = np.cumsum(ordered[:4], axis=1)
        firm = (running[:2] > 0.0) & (running[:2] ** 2 >= _AT_THE_ENDS * running[2:])
        enough.append(int(np.argmax(firm.all(axis=0))))
    first, last = enough[0] + 1, blocks.shape[1] - enough[1] - 1
    return np.concatenate([starts[:1], starts[first : last + 1]])

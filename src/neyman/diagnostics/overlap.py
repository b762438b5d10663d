r"""Likelihood of a signal fraction mu and a nuisance parameter z from learned log-ratios, and its overlap with the
true likelihood.

* `mixture_nll` sums the fraction-form likelihood over the events of one data set, or of many at once, on a grid.
* `MixtureSurface` does so at few nodes and is exact to rounding between them; use it where the log-ratios are smooth
  functions of z and there are many data sets, or to profile with derivatives instead of a grid.
* `profiles` and `overlap` (arXiv:2503.07962, eq. 8) work on any grid of negative log-likelihoods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from neyman.diagnostics.gates import Check
from neyman.errors import InputError

Array = NDArray[np.float64]
_EVENTS, _CELLS = 1 << 10, 1 << 19  # blocks whose logarithms stay in the processor's cache
_SETS = 4


def mixture_nll(
    log_signal: ArrayLike, log_background: ArrayLike, mu: ArrayLike, *, multiplicity: ArrayLike | None = None
) -> Array:
    r"""Return the negative log-likelihood of the fraction form on a (mu, z) grid.

    .. math:: -\ln L(\mu, z) = -\sum_i m_i \left[\ln(\mu\, r_s(x_i; z) + r_b(x_i; z)) - \ln(1 + \mu)\right]

    (arXiv:2503.07962, eq. 4). Ratios to any common reference and densities give the same up to a constant.

    Parameters
    ----------
    log_signal, log_background
        :math:`\ln r_s` and :math:`\ln r_b` of every event at the z values of the grid, ``(n_events, n_z)``.
    mu
        Signal over background, ``(n_mu,)``, not negative.
    multiplicity
        How often each event counts in each data set, ``(n_sets, n_events)``; one data set with every event once
        when not given.

    Returns
    -------
    float64 array ``(n_mu, n_z)``, or ``(n_sets, n_mu, n_z)`` with `multiplicity`.

    Raises
    ------
    InputError
        When a shape is wrong, a log-ratio is not finite, or mu is negative.
    """
    strengths = _strengths(mu)
    background, contrast, counts = _tables(log_signal, log_background, multiplicity)
    sums = _log_sums(contrast, torch.from_numpy(strengths), counts)
    common = (counts @ background)[:, None, :] - (
        counts.sum(dim=1)[:, None] * torch.log1p(torch.from_numpy(strengths))
    )[..., None]
    nll: Array = -(sums + common).numpy()
    return nll[0] if multiplicity is None else nll


def chebyshev_nodes(low: float, high: float, n: int) -> Array:
    """Return the `n` nodes between `low` and `high` at which `MixtureSurface` wants the log-ratios, rising."""
    if not (n > 1 and low < high):
        raise InputError(f"cannot place {n} nodes between {low:g} and {high:g}", expected="n > 1, low < high")
    return 0.5 * (low + high) + 0.5 * (high - low) * chebyshev.chebpts1(n)


@dataclass(frozen=True, eq=False)
class MixtureSurface:
    r"""The likelihood of `mixture_nll` for many data sets, as a polynomial in :math:`(\ln\mu, z)`.

    In :math:`\ln\mu` the singularities of :math:`\ln(\mu r_s + r_b)` lie at a distance of pi from the real axis
    whatever the ratios are, so the interpolation error falls as :math:`2.4^{-n}` over three decades of mu: 32 nodes
    are exact to rounding. In z it is as smooth as the log-ratios: compare with `mixture_nll` when in doubt.

    Parameters
    ----------
    mu_range
        Smallest and largest mu > 0; mu = 0 itself is allowed as well.
    z_range
        Smallest and largest z.
    coefficients
        Chebyshev coefficients in :math:`(\ln\mu, z)`, ``(n_sets, n_mu, n_z)``.
    at_zero
        Those in z at mu = 0, ``(n_sets, n_z)``.

    Examples
    --------
    >>> z, x = chebyshev_nodes(0.0, 1.0, 17), np.linspace(-2.0, 2.0, 50)[:, None]
    >>> surface = MixtureSurface.from_log_ratios(x * z, -x * z, z_range=(0.0, 1.0), mu_range=(1e-3, 1.0))
    >>> exact = mixture_nll(x * 0.3, -x * 0.3, [0.0, 0.2])
    >>> bool(np.allclose(surface([0.0, 0.2], [0.3])[0], exact, rtol=0, atol=1e-9))
    True
    """

    mu_range: tuple[float, float]
    z_range: tuple[float, float]
    coefficients: Array
    at_zero: Array

    @classmethod
    def from_log_ratios(
        cls,
        log_signal: ArrayLike,
        log_background: ArrayLike,
        *,
        z_range: tuple[float, float],
        mu_range: tuple[float, float],
        multiplicity: ArrayLike | None = None,
        mu_nodes: int = 32,
    ) -> MixtureSurface:
        """Sum over events at the nodes; the log-ratios are those of `mixture_nll` at `chebyshev_nodes(*z_range, n)`.

        Raises
        ------
        InputError
            As in `mixture_nll`, or when a range is empty or `mu_range` does not begin above 0.
        """
        if not 0.0 < mu_range[0] < mu_range[1]:
            raise InputError(f"mu_range {mu_range} must begin above 0 and rise")
        n_z = np.shape(log_signal)[-1]
        chebyshev_nodes(*z_range, n_z)
        mu = np.exp(chebyshev_nodes(float(np.log(mu_range[0])), float(np.log(mu_range[1])), mu_nodes))
        every = np.ones((1, len(np.asarray(log_signal)))) if multiplicity is None else multiplicity
        nll = mixture_nll(log_signal, log_background, np.concatenate([[0.0], mu]), multiplicity=every)
        in_z = nll @ _to_coefficients(n_z).T
        return cls(mu_range, z_range, _to_coefficients(mu_nodes) @ in_z[:, 1:], in_z[:, 0])

    def __getitem__(self, sets: slice) -> MixtureSurface:
        """Return the surface of some of the data sets."""
        return replace(self, coefficients=self.coefficients[sets], at_zero=self.at_zero[sets])

    def __call__(self, mu: ArrayLike, z: ArrayLike) -> Array:
        """Return the negative log-likelihood on a grid, ``(n_sets, n_mu, n_z)``.

        Raises
        ------
        InputError
            When a value lies outside the range of the nodes.
        """
        strengths = _strengths(mu)
        zero = strengths == 0.0
        in_mu = self._vander(self._log_mu(np.where(zero, self.mu_range[1], strengths)), axis=1)
        in_z = self._vander(self._scaled_z(z), axis=2).T
        grid: Array = in_mu @ (self.coefficients @ in_z)
        grid[:, zero] = (self.at_zero @ in_z)[:, None]
        return grid

    def profile_mu(self, mu: ArrayLike) -> Array:
        """Return the minimum over z at each mu, by Newton steps, ``(n_sets, n_mu)``."""
        strengths = _strengths(mu)
        zero = strengths == 0.0
        t = self._log_mu(np.where(zero, self.mu_range[1], strengths))
        in_z = self._vander(t, axis=1) @ self.coefficients
        in_z[:, zero] = self.at_zero[:, None]
        return _lowest(in_z)

    def profile_z(self, z: ArrayLike) -> Array:
        """Return the minimum over mu in `mu_range` and 0 at each z, by Newton steps, ``(n_sets, n_z)``."""
        in_z = self._vander(self._scaled_z(z), axis=2).T
        inside = _lowest(np.swapaxes(self.coefficients @ in_z, 1, 2))
        return np.minimum(inside, self.at_zero @ in_z)

    def _vander(self, t: Array, axis: int) -> Array:
        return np.asarray(chebyshev.chebvander(t, self.coefficients.shape[axis] - 1))

    def _log_mu(self, mu: Array) -> Array:
        low, high = np.log(self.mu_range)
        return _scaled(np.log(mu), float(low), float(high), "mu")

    def _scaled_z(self, z: ArrayLike) -> Array:
        return _scaled(np.asarray(z, dtype=np.float64), *self.z_range, "z")


def profiles(nll: ArrayLike) -> tuple[Array, ...]:
    """Return the profile of each parameter of a two-dimensional grid ``(..., n_mu, n_z)``: the minimum over the other
    one, ``(..., n_mu)`` and ``(..., n_z)``."""
    grid = np.asarray(nll, dtype=np.float64)
    if grid.ndim < 2:
        raise InputError(
            f"a grid over two parameters is needed, got shape {grid.shape}", expected="(..., n_mu, n_z)"
        )
    return grid.min(axis=-1), grid.min(axis=-2)


@dataclass(frozen=True, eq=False)
class Overlap(Check):
    r"""Overlap of likelihoods with the true ones, 1 where they agree.

    :math:`o = 1 - \frac12 \sum_{\theta\in\mathrm{grid}} |\hat p(\theta) - p(\theta)|`, both normalised over the grid
    (arXiv:2503.07962, eq. 8).

    Parameters
    ----------
    total
        Mean overlap over the grid.
    profiled
        Mean overlap of the profiled likelihoods, by parameter.
    spread
        Standard deviation of the total overlap over the data sets.
    totals
        Total overlap of each data set, ``(n_sets,)``.
    minimum
        The smallest `total` that passes.
    """

    total: float
    profiled: dict[str, float]
    spread: float
    totals: Array
    minimum: float


def overlap(
    log_likelihood_hat: ArrayLike,
    log_likelihood_true: ArrayLike,
    *,
    parameters: tuple[str, str] = ("mu", "z"),
    minimum: float = 0.9,
) -> Overlap:
    """Compare estimated with true likelihoods on the same grid.

    Parameters
    ----------
    log_likelihood_hat, log_likelihood_true
        Log-likelihoods up to a constant, ``(n_mu, n_z)`` or ``(n_sets, n_mu, n_z)``: minus `mixture_nll`.
    parameters
        Names of the two parameters, in the order of the axes.
    minimum
        Smallest mean overlap that passes.

    Raises
    ------
    InputError
        When the grids differ in shape, or a likelihood has no finite maximum.
    """
    hat, true = (
        torch.as_tensor(np.asarray(v), dtype=torch.float64) for v in (log_likelihood_hat, log_likelihood_true)
    )
    if hat.shape != true.shape or hat.ndim not in (2, 3) or not hat.numel():
        raise InputError(
            f"the likelihoods have shapes {tuple(hat.shape)} and {tuple(true.shape)}",
            expected="the same shape, (n_mu, n_z) or (n_sets, n_mu, n_z)",
        )
    hat, true = (grid.reshape(-1, *grid.shape[-2:]) for grid in (hat, true))
    for name, grid in (("estimated", hat), ("true", true)):
        peaked = torch.isfinite(grid.amax(dim=(1, 2)))
        if not bool(peaked.all()):
            k = int(torch.nonzero(~peaked)[0, 0])
            raise InputError(f"the {name} likelihood of data set {k} has no finite maximum on the grid")
    found = np.concatenate(
        [
            _overlaps(a, b).numpy()
            for a, b in zip(torch.split(hat, _SETS), torch.split(true, _SETS), strict=True)
        ]
    )
    total, *profiled = found.mean(axis=0).tolist()
    passed = total >= minimum
    means = ", ".join(f"{name} {value:.3f}" for name, value in zip(parameters, profiled, strict=True))
    return Overlap(
        name="overlap",
        passed=passed,
        reason=f"mean overlap {total:.3f} of {len(found)} data sets {'reaches' if passed else 'is below'} {minimum:g}"
        f" ({means})",
        total=total,
        profiled=dict(zip(parameters, profiled, strict=True)),
        spread=float(found[:, 0].std()),
        totals=found[:, 0],
        minimum=minimum,
    )


def _overlaps(hat: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the overlap over the grid and of both profiled likelihoods, ``(n_sets, 3)``."""
    pairs = (
        (hat.flatten(1), true.flatten(1)),
        (hat.amax(dim=2), true.amax(dim=2)),
        (hat.amax(dim=1), true.amax(dim=1)),
    )
    return torch.stack(
        [1.0 - 0.5 * (a.softmax(dim=1) - b.softmax(dim=1)).abs().sum(dim=1) for a, b in pairs], dim=1
    )


def _strengths(mu: ArrayLike) -> Array:
    values = np.atleast_1d(np.asarray(mu, dtype=np.float64))
    if values.ndim != 1 or not bool((values >= 0.0).all()):
        raise InputError("mu must be a list of values that are not negative", where=f"shape {values.shape}")
    return values


def _tables(
    log_signal: ArrayLike, log_background: ArrayLike, multiplicity: ArrayLike | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ln r_b, ln r_s - ln r_b and the multiplicities, in float64."""
    signal, background = (
        torch.as_tensor(np.asarray(table), dtype=torch.float64) for table in (log_signal, log_background)
    )
    if signal.ndim != 2 or signal.shape != background.shape or not signal.numel():
        raise InputError(
            f"the log-ratios have shapes {tuple(signal.shape)} and {tuple(background.shape)}",
            expected="(n_events, n_z) both",
        )
    for name, table in (("signal", signal), ("background", background)):
        good = torch.isfinite(table).all(dim=1)
        if not bool(good.all()):
            bad = torch.nonzero(~good)[:, 0]
            raise InputError(
                f"the {name} log-ratio of {len(bad)} events is not finite",
                where=f"first at event {int(bad[0])}",
            )
    if multiplicity is None:
        return background, signal - background, torch.ones(1, len(signal), dtype=torch.float64)
    counts = torch.as_tensor(np.asarray(multiplicity), dtype=torch.float64)
    if counts.ndim != 2 or counts.shape[1] != len(signal):
        raise InputError(
            f"multiplicities of shape {tuple(counts.shape)} for {len(signal)} events",
            expected=f"(n_sets, {len(signal)})",
        )
    return background, signal - background, counts


def _log_sums(contrast: torch.Tensor, mu: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return sum_i m_i ln(1 + mu e^t_i), ``(n_sets, n_mu, n_z)``, for the log-ratios t of signal to background."""
    n_z = contrast.shape[1]
    sums = torch.zeros(len(counts), len(mu), n_z, dtype=torch.float64)
    block = max(1, _CELLS // (_EVENTS * n_z))
    for start in range(0, len(contrast), _EVENTS):
        t, m = contrast[start : start + _EVENTS], counts[:, start : start + _EVENTS]
        # ln(1 + mu e^t) = max(t, 0) + ln(e^-max(t, 0) + mu e^min(t, 0)) cannot overflow.
        above = t.clamp_min(0.0)
        one, ratio = torch.exp(-above)[:, None, :], torch.exp(t - above)[:, None, :]
        sums += (m @ above)[:, None, :]
        for k in range(0, len(mu), block):
            part = mu[k : k + block, None]
            logs = torch.log(one + part * ratio)
            logs = torch.where(
                part == 0.0, -above[:, None, :], logs
            )  # e^-above may underflow, and ln 0 with it
            sums[:, k : k + block] += (m @ logs.flatten(1)).view(len(m), -1, n_z)
    return sums


def _scaled(x: Array, low: float, high: float, name: str) -> Array:
    t = np.atleast_1d((2.0 * x - low - high) / (high - low))
    if not bool((np.abs(t) <= 1.0 + 1e-12).all()):
        raise InputError(
            f"{name} lies outside the range of the surface",
            fix="make the surface with a range that holds the whole grid",
        )
    return np.asarray(np.clip(t, -1.0, 1.0), dtype=np.float64)


def _to_coefficients(n: int) -> Array:
    """Return the matrix from values at the n nodes to Chebyshev coefficients."""
    return np.asarray(np.linalg.inv(chebyshev.chebvander(chebyshev.chebpts1(n), n - 1)), dtype=np.float64)


def _lowest(coefficients: Array, steps: int = 8) -> Array:
    """Return the minimum over [-1, 1] of polynomials with the Chebyshev coefficients in the last axis."""
    series = [np.moveaxis(coefficients, -1, 0)]
    series += [np.asarray(chebyshev.chebder(series[0], k), dtype=np.float64) for k in (1, 2)]
    start = np.linspace(-1.0, 1.0, 4 * coefficients.shape[-1])
    rough = coefficients @ chebyshev.chebvander(start, coefficients.shape[-1] - 1).T
    t, best = start[rough.argmin(axis=-1)], rough.min(axis=-1)
    for _ in range(steps):
        slope, curvature = (chebyshev.chebval(t, s, tensor=False) for s in series[1:])
        step = np.divide(-slope, curvature, out=np.zeros_like(slope), where=curvature > 0.0)
        reach = 2.0 / len(start)
        t = np.clip(t + np.clip(step, -reach, reach), -1.0, 1.0)
        best = np.minimum(best, chebyshev.chebval(t, series[0], tensor=False))
    return np.asarray(best)

"""The extended unbinned term: per-event density ratios of several samples to one reference density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.shapes import CompiledShape, Shape, TabulatedNetwork, required_columns
from neyman.likelihood.term import Derivatives
from neyman.likelihood.yields import YieldFactor, yield_derivatives

Array = NDArray[np.float64]
_CHUNK = 1 << 15  # events evaluated at a time: the temporaries of a chunk stay in the processor's cache


@dataclass(frozen=True)
class UnbinnedSample:
    """One process: its yield, the column of its nominal log-ratio and what its parameters do.

    Parameters
    ----------
    name
        Name of the process.
    expected
        Nominal number of events.
    log_ratio
        Column with ``ln p_s(x)/q(x)`` at the nominal parameters.
    factors
        Effects on the yield.
    shapes
        Effects on the density.
    """

    name: str
    expected: float
    log_ratio: str
    factors: tuple[YieldFactor, ...] = ()
    shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Events:
    """Weighted events as columns of log-ratios.

    Parameters
    ----------
    weight
        Event weights (1 for data, any sign for Asimov sets), shape ``(n_events,)``.
    columns
        Log-ratio columns by name, each of shape ``(n_events,)``.
    """

    weight: Array
    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.weight)

    def take(self, rows: NDArray[np.intp], weight: Array) -> Events:
        """Return some events with new weights."""
        return Events(weight, {name: column[rows] for name, column in self.columns.items()})


class UnbinnedTerm:
    r"""Extended unbinned likelihood of one channel.

    .. math::
        -2\ln L = 2\nu(\theta) - 2\sum_i w_i \ln \sum_s \nu_s(\theta)\, r_s(x_i;\theta), \qquad
        r_s = \frac{e^{\ell_s(x;\theta)}}{E_q[e^{\ell_s(\cdot;\theta)}]}

    with :math:`\nu=\sum_s\nu_s` and :math:`\ell_s` the log-ratio of sample s to the reference density q. The
    denominator is the mean over the reference sample, so every density is normalised at every
    :math:`\theta`, and its derivatives are part of the gradient and Hessian.

    Parameters
    ----------
    name
        Name of the channel.
    samples
        Processes.
    parameters
        Parameters of the yields and shapes.
    data, reference
        Observed events, and events drawn from q with the weights that make them follow q.

    Raises
    ------
    LikelihoodError
        When a column is missing, a column or a weight is not finite, the reference weights do not sum to a
        positive number, or the samples and parameters do not match.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[UnbinnedSample],
        parameters: Sequence[Parameter],
        *,
        data: Events,
        reference: Events,
    ) -> None:
        self.name = name
        self.samples = tuple(samples)
        self.parameters = tuple(parameters)
        self._columns = {p.name: i for i, p in enumerate(self.parameters)}
        used = {f.parameter for s in self.samples for f in s.factors}
        used |= {e.parameter for s in self.samples for e in s.shapes}
        if used != set(self._columns):
            odd = sorted(used ^ set(self._columns))
            raise LikelihoodError(
                f"channel {name!r}: parameters {', '.join(odd)} are not both declared and used",
                where=f"channel {name}",
            )
        self._shape_names = tuple(dict.fromkeys(e.parameter for s in self.samples for e in s.shapes))
        self.reference = reference
        self._reference = _Compiled(self, reference, "reference")
        self._reference_weight = _normalised(reference.weight, name)
        self._nominal_norm = self._norms(torch.zeros(len(self._shape_names), dtype=torch.float64))
        self._bind(data)

    def _bind(self, data: Events) -> None:
        self.data = data
        self._data = (
            self._reference if data.columns is self.reference.columns else _Compiled(self, data, "data")
        )
        self._weight = _finite(data.weight, "the weight", f"channel {self.name}, data")

    def with_data(self, data: Events) -> Self:
        """Return the same term with other events; the reference is shared."""
        term = object.__new__(type(self))
        term.__dict__.update(self.__dict__)
        term._bind(data)
        return term

    def with_reference_weight(self, weight: Array) -> Self:
        """Return the same term normalised with other weights of the reference events; data are kept."""
        term = object.__new__(type(self))
        term.__dict__.update(self.__dict__)
        term.reference = Events(weight, self.reference.columns)
        term._reference_weight = _normalised(weight, self.name)
        term._nominal_norm = term._norms(torch.zeros(len(self._shape_names), dtype=torch.float64))
        return term

    # Evaluation -------------------------------------------------------------------------------------------

    def yields(self, theta: Array) -> Array:
        """Return the expected events of each sample at `theta`, shape ``(n_samples,)``."""
        return np.array(
            [yield_derivatives(s.expected, s.factors, theta, self._columns)[0] for s in self.samples]
        )

    def evaluate(self, theta: torch.Tensor, order: int = 0) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``."""
        if theta.ndim == 1:
            return self._evaluate(theta.numpy(), order)
        rows = [self._evaluate(row, order) for row in theta.numpy()]
        return Derivatives(
            torch.stack([row.value for row in rows]),
            torch.stack([row.gradient for row in rows if row.gradient is not None]) if order > 0 else None,
            torch.stack([row.hessian for row in rows if row.hessian is not None]) if order > 1 else None,
        )

    def _evaluate(self, theta: Array, order: int) -> Derivatives:
        # The sum over events is differentiated by y = (yields, shape parameters), then by the chain rule.
        parts = [yield_derivatives(s.expected, s.factors, theta, self._columns) for s in self.samples]
        nu = torch.tensor([p[0] for p in parts], dtype=torch.float64)
        alpha = self._shape_values(theta)
        norm = self._norms(alpha) if self._shape_names else self._nominal_norm
        value, first, second = self._event_sums(nu, alpha, norm, order)
        value = 2.0 * nu.sum() - 2.0 * value
        if order == 0:
            return Derivatives(value)
        n_samples = len(self.samples)
        jacobian = self._jacobian(parts, len(theta))
        by_y = -2.0 * first
        by_y[:n_samples] += 2.0
        gradient = by_y @ jacobian
        if order == 1:
            return Derivatives(value, gradient)
        curvature = torch.from_numpy(np.stack([p[2] for p in parts]))
        hessian = jacobian.T @ (-2.0 * second) @ jacobian + torch.einsum(
            "s,sjk->jk", by_y[:n_samples], curvature
        )
        return Derivatives(value, gradient, hessian)

    def _jacobian(self, parts: Sequence[tuple[float, Array, Array]], n_parameters: int) -> torch.Tensor:
        """Derivatives of (yields, shape parameters) by the parameters."""
        jacobian = torch.zeros(len(parts) + len(self._shape_names), n_parameters, dtype=torch.float64)
        jacobian[: len(parts)] = torch.from_numpy(np.stack([p[1] for p in parts]))
        for k, name in enumerate(self._shape_names):
            jacobian[len(parts) + k, self._columns[name]] = 1.0
        return jacobian

    def _shape_values(self, theta: Array) -> torch.Tensor:
        return torch.tensor([theta[self._columns[name]] for name in self._shape_names], dtype=torch.float64)

    def _norms(self, alpha: torch.Tensor) -> _Norms:
        """Means of the ratios over the reference sample, with derivatives by the shape parameters."""
        n_samples, n_shapes = len(self.samples), len(alpha)
        mean = torch.zeros(n_samples, dtype=torch.float64)
        first = torch.zeros(n_samples, n_shapes, dtype=torch.float64)
        second = torch.zeros(n_samples, n_shapes, n_shapes, dtype=torch.float64)
        for rows in self._reference.chunks():
            for s in range(n_samples):
                log_ratio, slopes, curvatures = self._reference.log_ratio(s, alpha, rows)
                weighted = self._reference_weight[rows] * log_ratio.exp()
                mean[s] += weighted.sum()
                if n_shapes:
                    first[s] += slopes @ weighted
                    second[s] += (slopes * weighted) @ slopes.T + torch.diag(curvatures @ weighted)
        if not bool((torch.isfinite(mean) & (mean > 0.0)).all()):
            bad = [
                s.name for s, m in zip(self.samples, mean, strict=True) if not (m > 0 and torch.isfinite(m))
            ]
            raise LikelihoodError(
                f"the mean ratio of {', '.join(bad)} over the reference sample is not a positive number",
                where=f"channel {self.name}, parameters {dict(zip(self._shape_names, alpha.tolist(), strict=True))}",
            )
        slope = first / mean[:, None]
        return _Norms(mean.log(), slope, second / mean[:, None, None] - slope[:, :, None] * slope[:, None, :])

    def _event_sums(
        self, nu: torch.Tensor, alpha: torch.Tensor, norm: _Norms, order: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sum of ``w ln rho`` over the events with derivatives by (yields, shape parameters)."""
        n_samples, n_shapes = len(nu), len(alpha)
        n = n_samples + n_shapes
        value = torch.zeros((), dtype=torch.float64)
        first = torch.zeros(n, dtype=torch.float64)
        second = torch.zeros(n, n, dtype=torch.float64)
        for rows in self._data.chunks():
            weight = self._weight[rows]
            density, slope_by_y, share, slopes, curvatures = self._density(nu, alpha, norm, rows)
            value += weight @ density.log()
            if order == 0:
                continue
            first += slope_by_y @ weight
            if order == 1:
                continue
            second -= (slope_by_y * weight) @ slope_by_y.T
            if not n_shapes:
                continue
            mixed = torch.einsum("sn,skn->sk", share * weight, slopes)
            second[:n_samples, n_samples:] += mixed
            second[n_samples:, :n_samples] += mixed.T
            for s in range(n_samples):
                w = weight * nu[s] * share[s]
                second[n_samples:, n_samples:] += (
                    (slopes[s] * w) @ slopes[s].T
                    + torch.diag(curvatures[s] @ w)
                    - norm.curvature[s] * w.sum()
                )
        return value, first, second

    def _density(
        self, nu: torch.Tensor, alpha: torch.Tensor, norm: _Norms, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Density ``rho`` of the events `rows` and what its derivatives are made of.

        Returns ``rho (n,)``, its logarithmic slopes by (yields, shapes) ``(n_samples + n_shapes, n)``, the shares
        ``r_s/rho (n_samples, n)``, and the samples' log-ratio slopes and curvatures
        ``(n_samples, n_shapes, n)``.
        """
        parts = [self._data.log_ratio(s, alpha, rows) for s in range(len(nu))]
        log_ratio, slopes, curvatures = (torch.stack(part) for part in zip(*parts, strict=True))
        ratio = (log_ratio - norm.log_mean[:, None]).exp_()
        density = nu @ ratio
        if not bool((density > 0.0).all()):
            self._refuse(rows, density, nu, ratio)
        share = ratio / density
        slopes = slopes - norm.slope[:, :, None]
        by_shape = torch.einsum("sn,skn->kn", nu[:, None] * share, slopes)
        return density, torch.cat([share, by_shape]), share, slopes, curvatures

    def _refuse(self, rows: slice, density: torch.Tensor, nu: torch.Tensor, ratio: torch.Tensor) -> None:
        i = int(torch.nonzero(~(density > 0.0))[0])
        shares = ", ".join(
            f"{s.name}: {n:.4g} x {r:.4g}" for s, n, r in zip(self.samples, nu, ratio[:, i], strict=True)
        )
        raise LikelihoodError(
            f"the total density of event {rows.start + i} is {float(density[i]):.4g}, it must be positive",
            where=f"channel {self.name}; yield x ratio of the samples: {shares}",
            fix="raise the lower bound of the signal strength, or look at this event's log-ratios",
        )

    def scores(self, theta: torch.Tensor) -> torch.Tensor:
        r"""Return the events' scores :math:`\partial\ln\rho(x_i;\theta)/\partial\theta`,
        :math:`\rho = \sum_s \nu_s r_s`, shape ``(n_events, n_parameters)``."""
        x = theta.numpy()
        parts = [yield_derivatives(s.expected, s.factors, x, self._columns) for s in self.samples]
        nu = torch.tensor([p[0] for p in parts], dtype=torch.float64)
        alpha = self._shape_values(x)
        norm = self._norms(alpha)
        jacobian = self._jacobian(parts, len(x))
        out = [self._density(nu, alpha, norm, rows)[1].T @ jacobian for rows in self._data.chunks()]
        return torch.cat(out) if out else torch.zeros(0, len(x), dtype=torch.float64)

    # Pseudo-data ------------------------------------------------------------------------------------------

    def expected_data(self, theta: torch.Tensor) -> Events:
        """Return the reference events with the weights of the model at `theta`; they sum to the yield."""
        x = theta.numpy()
        nu = torch.from_numpy(self.yields(x))
        alpha = self._shape_values(x)
        norm = self._norms(alpha)
        weight = torch.empty_like(self._reference_weight)
        for rows in self._reference.chunks():
            parts = [self._reference.log_ratio(s, alpha, rows)[0] for s in range(len(self.samples))]
            ratio = (torch.stack(parts) - norm.log_mean[:, None]).exp()
            weight[rows] = self._reference_weight[rows] * (nu @ ratio)
        return Events(weight.numpy(), self.reference.columns)

    def sample(self, theta: torch.Tensor, generator: np.random.Generator) -> Events:
        """Draw events at `theta` by Poisson resampling of the weighted reference sample."""
        asimov = self.expected_data(theta)
        if (asimov.weight < 0.0).any():
            raise LikelihoodError(
                f"channel {self.name!r}: pseudo-data cannot be drawn from a reference with negative weights",
                where=f"{int((asimov.weight < 0.0).sum())} of {len(asimov)} events",
                fix="use a reference sample with positive weights",
            )
        counts = generator.poisson(asimov.weight)
        rows = np.nonzero(counts)[0]
        return asimov.take(rows, counts[rows].astype(np.float64))


@dataclass(frozen=True)
class _Norms:
    """``ln E_q[r_s]`` with gradient and Hessian by the shape parameters."""

    log_mean: torch.Tensor
    slope: torch.Tensor
    curvature: torch.Tensor


class _Compiled:
    """Events with the coefficients of every sample's shape effects."""

    def __init__(self, term: UnbinnedTerm, events: Events, what: str) -> None:
        where = f"channel {term.name}, {what}"
        self._n_events = len(events)
        names = dict.fromkeys(
            name for s in term.samples for name in (s.log_ratio, *required_columns(s.shapes))
        )
        columns = {name: _column(events, name, where) for name in names}
        position = {name: k for k, name in enumerate(term._shape_names)}
        self._n_shapes = len(position)
        self._base = [columns[s.log_ratio] for s in term.samples]
        self._effects: list[list[tuple[int, CompiledShape]]] = [
            [(position[shape.parameter], shape.compile(columns)) for shape in s.shapes] for s in term.samples
        ]

    def chunks(self) -> list[slice]:
        n = self._n_events
        return [slice(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]

    def log_ratio(
        self, sample: int, alpha: torch.Tensor, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-ratio ``(n,)`` with first and (diagonal) second derivatives ``(n_shapes, n)``."""
        base = self._base[sample][rows]
        first = torch.zeros(self._n_shapes, len(base), dtype=torch.float64)
        second = torch.zeros(self._n_shapes, len(base), dtype=torch.float64)
        for k, effect in self._effects[sample]:
            delta, slope, curvature = effect.delta(float(alpha[k]), rows)
            base = base + delta
            first[k] += slope
            second[k] += curvature
        return base, first, second


def _column(events: Events, name: str, where: str) -> torch.Tensor:
    if name not in events.columns:
        raise LikelihoodError(
            f"the events have no column {name!r}",
            where=where,
            fix=f"nearest names: {nearest(name, events.columns)}",
        )
    return _finite(events.columns[name], f"log-ratio {name!r}", where)


def _finite(values: Array, what: str, where: str) -> torch.Tensor:
    found = torch.tensor(np.asarray(values), dtype=torch.float64)
    bad = torch.nonzero(~torch.isfinite(found))
    if len(bad):
        raise LikelihoodError(
            f"{what} is not finite for {len(bad)} events", where=f"{where}, first at event {int(bad[0])}"
        )
    return found


def _normalised(weight: Array, channel: str) -> torch.Tensor:
    """Return reference weights divided by their sum."""
    weights = _finite(weight, "the weight", f"channel {channel}, reference")
    total = float(np.sum(weight))
    if not total > 0.0:
        raise LikelihoodError(
            f"channel {channel!r}: the reference weights sum to {total:g}, not a positive number"
        )
    return weights / total


def tabulated_range(samples: Sequence[UnbinnedSample], parameter: str) -> tuple[float, float]:
    """Return the widest range of `parameter` inside which every conditioned network was tabulated."""
    ranges = [
        shape.range
        for s in samples
        for shape in s.shapes
        if isinstance(shape, TabulatedNetwork) and shape.parameter == parameter
    ]
    return max((r[0] for r in ranges), default=-np.inf), min((r[1] for r in ranges), default=np.inf)

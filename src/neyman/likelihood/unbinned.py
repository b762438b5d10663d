"""The unbinned term: per-event density ratios of several samples to one reference density.

The work is split: `density` computes ratios and their sums over a chunk of events, `passes` runs it over all chunks
and threads, `events` holds the events or streams them, `distributed` leaves them to the workers of a cluster, and this
module puts the sums together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.likelihood.assembly import Norms, Yields, assemble, coefficient_jacobian, full_jacobian
from neyman.likelihood.density import RatioModel, Ratios, Sums, UnbinnedSample, join_rows, log_slopes
from neyman.likelihood.diagnosis import undefined_data, undefined_reference
from neyman.likelihood.distributed import bind
from neyman.likelihood.events import Events, EventSource, StreamedEvents
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.passes import BoundEvents, Workers
from neyman.likelihood.term import Derivatives
from neyman.likelihood.yields import yield_derivatives

__all__ = ["Events", "StreamedEvents", "UnbinnedSample", "UnbinnedTerm"]

Array = NDArray[np.float64]
Form = Literal["extended", "fraction"]
Observed: TypeAlias = EventSource | BoundEvents
Batch: TypeAlias = list[Observed] | tuple[Observed, ...]
_ROWS = 8  # parameter values that share a pass over the same events


class UnbinnedTerm:
    r"""Unbinned likelihood of one channel.

    .. math::
        -2\ln L = 2\nu(\theta) - 2\sum_i w_i \ln \sum_s \nu_s(\theta)\, r_s(x_i;\theta), \qquad
        r_s = \frac{R_s(x;\theta)}{E_q[R_s(\cdot;\theta)]}

    with :math:`\nu=\sum_s\nu_s` and :math:`R_s` the ratio of sample s to the reference density q before its
    normalisation. The denominator is the mean over the reference sample, so every density is normalised at every
    :math:`\theta`, and its derivatives are part of the gradient and Hessian.

    Without the number of events (``form="fraction"``),

    .. math:: -2\ln L = - 2\sum_i w_i \ln \frac{\sum_s \nu_s(\theta)\, r_s(x_i;\theta)}{\nu(\theta)}

    which with yields :math:`\mu` and 1 is the density :math:`\frac{\mu}{1+\mu} p_1 + \frac{1}{1+\mu} p_2`.

    The yield of a sample may be negative (interference) as long as the density of every event and the total yield
    are positive.

    Parameters
    ----------
    name
        Name of the channel.
    samples
        Processes.
    parameters
        Parameters of the yields and shapes.
    data
        Observed events.
    reference
        Events drawn from q with the weights that make them follow q.
    form
        ``extended`` or ``fraction``.
    threads
        Threads that share the events; as many as torch uses by default.

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
        data: EventSource,
        reference: EventSource,
        form: Form = "extended",
        threads: int | None = None,
    ) -> None:
        self.name, self.form, self.threads = name, form, threads
        self.samples = tuple(samples)
        self.parameters = tuple(parameters)
        self.device = torch.device("cpu")
        self._columns = {p.name: i for i, p in enumerate(self.parameters)}
        if form not in ("extended", "fraction"):
            raise LikelihoodError(
                f"channel {name!r}: unknown form {form!r}", expected="'extended' or 'fraction'"
            )
        self._check_parameters()
        self._shape_names = tuple(
            dict.fromkeys(n for s in self.samples for shape in s.shapes for n in shape.parameters)
        )
        self._positions = torch.tensor([self._columns[n] for n in self._shape_names], dtype=torch.long)
        self._model = RatioModel(self.samples, self._shape_names)
        self._bind_reference(reference)
        self._bind_data(data)

    def _check_parameters(self) -> None:
        used = {n for s in self.samples for factor in s.factors for n in factor.parameters}
        used |= {n for s in self.samples for shape in s.shapes for n in shape.parameters}
        if used != set(self._columns):
            odd = sorted(used ^ set(self._columns))
            raise LikelihoodError(
                f"channel {self.name!r}: parameters {', '.join(odd)} are not both declared and used",
                where=f"channel {self.name}",
            )

    # Events -----------------------------------------------------------------------------------------------

    def _bind_reference(self, reference: EventSource) -> None:
        self._reference = bind(self._model, reference, self.device, f"channel {self.name}, reference")
        self._check_reference()

    def _check_reference(self) -> None:
        total = self._reference.total_weight
        if not (np.isfinite(total) and total > 0.0):
            raise LikelihoodError(
                f"channel {self.name!r}: the reference weights sum to {total:g}, not a positive number"
            )
        self._last_norms: dict[bytes, tuple[int, Norms]] = {}  # shared by all data sets of the term

    def _bind(self, events: Observed) -> BoundEvents:
        if isinstance(events, BoundEvents):
            if events.model is self._model and events.device == self.device:
                return events
            events = events.source
        own = self._reference
        if isinstance(events, Events) and events.columns is own.source.columns:
            return own.with_weight(events.weight, f"channel {self.name}, data")
        return bind(self._model, events, self.device, f"channel {self.name}, data")

    def _bind_data(self, data: Observed | Batch) -> None:
        self._data = (
            tuple(self._bind(one) for one in data) if isinstance(data, list | tuple) else self._bind(data)
        )

    @property
    def data(self) -> EventSource | tuple[BoundEvents, ...]:
        """Observed events, or a batch of them."""
        return self._data if isinstance(self._data, tuple) else self._data.source

    @property
    def reference(self) -> EventSource:
        """Events of the reference density."""
        return self._reference.source

    def with_data(self, data: Observed | Batch) -> Self:
        """Return the same term with other events, or with a batch of data sets; the reference is shared."""
        term = copy.copy(self)
        term._bind_data(data)
        return term

    def stack(self, data: Sequence[EventSource]) -> tuple[BoundEvents, ...]:
        """Join data sets into a batch."""
        return tuple(self._bind(one) for one in data)

    def with_reference_weight(self, weight: Array) -> Self:
        """Return the same term normalised with other weights of the reference events; data are kept."""
        term = copy.copy(self)
        term._reference = self._reference.with_weight(weight)
        term._check_reference()
        return term

    def to(self, device: torch.device | str) -> Self:
        """Return the term with its events in memory on a device; streamed events go there block by block."""
        term = copy.copy(self)
        term.device = torch.device(device)
        term._bind_reference(self.reference)
        term._bind_data(
            [d.source for d in self._data] if isinstance(self._data, tuple) else self._data.source
        )
        return term

    def _workers(self) -> Workers:
        return Workers(self.threads if self.device.type == "cpu" else 1)

    # Evaluation -------------------------------------------------------------------------------------------

    def yields(self, theta: Array) -> Array:
        """Return the expected events of each sample at `theta`, shape ``(n_samples,)``."""
        return np.array(
            [yield_derivatives(s.expected, s.factors, theta, self._columns)[0] for s in self.samples]
        )

    def evaluate(self, theta: torch.Tensor, order: int = 0, *, strict: bool = True) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``.

        Parameters
        ----------
        theta
            One point, or a batch ``(n_rows, n_parameters)``: row i goes with data set i of a batch of data, or all
            rows with the same data.
        order
            0, 1 or 2.
        strict
            Whether an undefined likelihood is an error; if not, the row has the value ``+inf`` and derivatives NaN.

        Raises
        ------
        LikelihoodError
            When `strict` and the density of an event, the mean of a ratio or the total yield is not positive. The
            message names the event and the samples.
        """
        rows = theta.detach().cpu().reshape(-1, len(self.parameters))
        if isinstance(self._data, tuple) and len(rows) != len(self._data):
            raise LikelihoodError(
                f"channel {self.name!r}: {len(self._data)} data sets but {len(rows)} rows of parameters",
                expected="one row a data set",
            )
        nu = self._yields(rows)
        alpha = rows[:, self._positions]
        with self._workers() as workers:
            norms = self._norms(alpha, order, workers, strict=strict)
            coefficients = nu.value / norms.mean
            sums = self._data_sums(alpha, coefficients, order, workers, strict=strict)
            total = nu.value.sum(1)
            defined = (
                (norms.mean > 0.0).all(1) & (sums.lowest > 0.0) & torch.isfinite(sums.log) & (total > 0.0)
            )
            if strict and not bool(defined.all()):
                raise self._undefined(rows, nu.value, norms, int(torch.nonzero(~defined)[0]))
        weights = (
            [d.total_weight for d in self._data] if isinstance(self._data, tuple) else self._data.total_weight
        )
        found = assemble(
            self._model,
            self._positions,
            nu,
            norms,
            sums,
            order,
            form=self.form,
            total_weight=torch.as_tensor(weights, dtype=torch.float64),
        )
        if not strict:
            found = found.undefined_where(~defined)
        return Derivatives(
            found.value.reshape(theta.shape[:-1]).to(theta.device),
            None if found.gradient is None else found.gradient.reshape(theta.shape).to(theta.device),
            None
            if found.hessian is None
            else found.hessian.reshape(*theta.shape, len(self.parameters)).to(theta.device),
        )

    def _yields(self, theta: torch.Tensor) -> Yields:
        parts = [
            [yield_derivatives(s.expected, s.factors, row, self._columns) for s in self.samples]
            for row in theta.numpy()
        ]
        n_rows, p = theta.shape
        sizes = ((), (p,), (p, p))
        return Yields(
            *(
                torch.from_numpy(
                    np.array([[part[k] for part in row] for row in parts]).reshape(n_rows, -1, *size)
                )
                for k, size in enumerate(sizes)
            )
        )

    def _norms(self, alpha: torch.Tensor, order: int, workers: Workers, *, strict: bool = True) -> Norms:
        """Means of the ratios over the reference sample; rows with the same shape parameters share them."""
        if alpha.shape[1]:
            unique, index = torch.unique(alpha, dim=0, return_inverse=True)
        else:
            unique, index = alpha[:1], torch.zeros(len(alpha), dtype=torch.long)
        key = unique.numpy().tobytes()
        known, norms = self._last_norms.get(key, (-1, None))
        if norms is None or known < order:
            model = self._reference.model
            parts = [
                self._reference.sums(model.point(group, order, self.device, strict=strict), None, workers)
                for group in torch.split(unique, _ROWS)
            ]
            norms = Norms.of(model, join_rows(parts), self._reference.total_weight)
            self._last_norms.clear()
            self._last_norms[key] = order, norms
        return norms.rows(index)

    def _data_sums(
        self, alpha: torch.Tensor, coefficients: torch.Tensor, order: int, workers: Workers, *, strict: bool
    ) -> Sums:
        def sums(data: BoundEvents, rows: slice, workers: Workers) -> Sums:
            point = self._model.point(alpha[rows], order, self.device, strict=strict)
            return data.sums(point, coefficients[rows], workers)

        n = len(alpha)
        if isinstance(self._data, tuple):
            data, alone = self._data, Workers(1)
            return join_rows(list(workers.map(lambda i: sums(data[i], slice(i, i + 1), alone), range(n))))
        groups = [slice(i, min(i + _ROWS, n)) for i in range(0, n, _ROWS)]
        return join_rows([sums(self._data, rows, workers) for rows in groups])

    def _undefined(
        self, theta: torch.Tensor, yields: torch.Tensor, norms: Norms, row: int
    ) -> LikelihoodError:
        """Say why the likelihood is undefined in one row of a batch."""
        total = float(yields[row].sum())
        if not total > 0.0:
            shares = zip(self.samples, yields[row].tolist(), strict=True)
            return LikelihoodError(
                f"the total yield is {total:.4g}, it must be positive",
                where=f"channel {self.name}; yields: " + ", ".join(f"{s.name}: {n:.4g}" for s, n in shares),
                fix="raise the lower bound of the signal strength",
            )
        alpha = theta[row : row + 1, self._positions]
        if not bool((norms.mean[row] > 0.0).all()):
            point = self._reference.model.point(alpha, 0, self.device)
            values = dict(zip(self._shape_names, alpha[0].tolist(), strict=True))
            return undefined_reference(
                self._reference, self.samples, point, norms.mean[row], f"parameters {values}"
            )
        data = self._data[row] if isinstance(self._data, tuple) else self._data
        point = self._model.point(alpha, 0, self.device)
        return undefined_data(data, self.samples, point, yields[row], norms.mean[row])

    # Events one by one ------------------------------------------------------------------------------------

    def log_density(self, theta: torch.Tensor, events: EventSource | None = None) -> Array:
        r"""Return :math:`\ln \sum_s \nu_s(\theta)\, r_s(x_i;\theta)` of the observed or of other events, shape
        ``(n_events,)``.

        Raises
        ------
        LikelihoodError
            When the density of an event is not positive.
        """
        data = self._one_data_set() if events is None else self._bind(events)
        with self._workers() as workers:
            yields, norms, coefficients = self._coefficients(theta, 0, workers)
            point = self._model.point(theta.detach().cpu()[None, self._positions], 0, self.device)
            density = data.densities(point, coefficients, workers)
            if not (density > 0.0).all():
                raise undefined_data(data, self.samples, point, yields.value[0], norms.mean[0])
        return np.log(density)

    def scores(self, theta: torch.Tensor) -> torch.Tensor:
        r"""Return the events' scores :math:`\partial\ln\rho(x_i;\theta)/\partial\theta`,
        :math:`\rho = \sum_s \nu_s r_s`, shape ``(n_events, n_parameters)``."""
        data = self._one_data_set()
        with self._workers() as workers:
            yields, norms, coefficients = self._coefficients(theta, 1, workers)
            jacobian = full_jacobian(self._positions, coefficient_jacobian(self._positions, yields, norms))[0]
            point = self._model.point(theta[None, self._positions], 1, self.device)
            work = partial(
                _scores,
                model=self._model,
                coefficients=coefficients.to(self.device),
                jacobian=jacobian.to(self.device),
            )
            parts = list(data.each(point, work, workers))
        return torch.cat(parts) if parts else torch.zeros(0, len(self.parameters), dtype=torch.float64)

    def _one_data_set(self) -> BoundEvents:
        if isinstance(self._data, tuple):
            raise LikelihoodError(
                f"channel {self.name!r} holds a batch of {len(self._data)} data sets", fix="give one of them"
            )
        return self._data

    def _coefficients(
        self, theta: torch.Tensor, order: int, workers: Workers
    ) -> tuple[Yields, Norms, torch.Tensor]:
        rows = theta.detach().cpu()[None]
        yields = self._yields(rows)
        norms = self._norms(rows[:, self._positions], order, workers)
        if not bool((norms.mean > 0.0).all()):
            raise self._undefined(rows, yields.value, norms, 0)
        return yields, norms, yields.value / norms.mean

    # Pseudo-data ------------------------------------------------------------------------------------------

    def expected_data(self, theta: torch.Tensor) -> EventSource:
        """Return the reference events with the weights of the model at `theta`; they sum to the yield."""
        with self._workers() as workers:
            _, _, coefficients = self._coefficients(theta, 0, workers)
            point = self._model.point(theta.detach().cpu()[None, self._positions], 0, self.device)
            return self._reference.expected(point, coefficients, workers)

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], Events]:
        """Return a function that draws events at `theta` by Poisson resampling of the weighted reference sample.

        Each reference event is drawn a Poisson number of times with its expected count as mean. A data set holds
        the drawn events alone, weighted by how often they were drawn.

        Raises
        ------
        LikelihoodError
            When a reference event has a negative expected count.
        """
        weight = self.expected_data(theta).weight
        if (weight < 0.0).any():
            raise LikelihoodError(
                f"channel {self.name!r}: pseudo-data cannot be drawn from a reference with negative weights",
                where=f"{int((weight < 0.0).sum())} of {len(weight)} events",
                fix="use a reference sample with positive weights",
            )
        # Independent Poisson counts are a Poisson total, divided among the events by their weights.
        cumulative = np.cumsum(weight)
        total = float(cumulative[-1]) if len(weight) else 0.0

        def draw(generator: np.random.Generator) -> Events:
            drawn = np.searchsorted(
                cumulative, total * generator.random(generator.poisson(total)), side="right"
            )
            rows, counts = np.unique(drawn, return_counts=True)
            return self.reference.take(rows, counts.astype(np.float64))

        return draw


def _scores(
    ratios: Ratios,
    _: torch.Tensor,
    *,
    model: RatioModel,
    coefficients: torch.Tensor,
    jacobian: torch.Tensor,
) -> torch.Tensor:
    return log_slopes(model, ratios, coefficients)[:, 0].T @ jacobian

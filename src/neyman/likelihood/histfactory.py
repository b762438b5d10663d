r"""`HistFactoryTerm`: the binned term of a likelihood, Poisson counts in the bins of channels.

.. math:: -2\ln L = 2\sum_b \big(\lambda_b(\theta) - n_b \ln\lambda_b(\theta) + \ln\Gamma(n_b+1)\big)

With the constraints it equals ``pyhf.infer.mle.twice_nll``. Build it from a pyhf document by `binned_term`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.rates import Channel, RatePoint, Rates
from neyman.likelihood.term import Derivatives
from neyman.likelihood.threads import one_thread

_CHUNK = 2**18


def binned_term(
    spec: Any,
    *,
    data: ArrayLike | None = None,
    measurement: str | None = None,
    normsys: str | None = None,
    histosys: str | None = None,
) -> tuple[HistFactoryTerm, dict[str, float]]:
    """Compile a pyhf document into a term and its observed global observables by parameter name.

    Parameters
    ----------
    spec
        ``pyhf.Workspace``, ``pyhf.Model``, the JSON of either as a dictionary, or a path to it.
    data
        Main data followed by auxiliary data, in the order of ``model.config.channels`` and
        ``model.config.auxdata_order``. A workspace brings its own.
    measurement
        Name of the measurement of a workspace; the first by default.
    normsys
        Interpolation code of normsys, ``code4`` or ``code1``; by default that of a ``pyhf.Model``, else ``code4``.
    histosys
        Interpolation code of histosys, ``code4p``, ``code0`` or ``code2``; by default that of a
        ``pyhf.Model``, else ``code4p``.

    Raises
    ------
    WorkspaceError
        When the document cannot be read, fails the schema, or describes an impossible model.
    LikelihoodError
        When data are missing or have the wrong length, or a code is unknown.
    """
    from neyman.likelihood import pyhf_document, pyhf_spec

    document = pyhf_document.read(spec, measurement, normsys=normsys, histosys=histosys)
    counts, global_observables = pyhf_document.observed(document, data)
    channels, parameters = pyhf_spec.compile_model(document.model)
    term = HistFactoryTerm(
        channels,
        parameters,
        counts,
        poi=document.poi,
        normsys=document.normsys,
        histosys=document.histosys,
    )
    return term, global_observables


class HistFactoryTerm:
    """Binned term of a likelihood.

    Parameters
    ----------
    channels
        Channels in the order of the bins.
    parameters
        Parameters in the order of the last axis of `theta`, each used by a channel.
    data
        Observed counts, shape ``(n_bins,)``.
    poi
        Name of the parameter of interest.
    normsys, histosys
        Interpolation codes.

    Attributes
    ----------
    channels
        Bins of each channel, by name.
    samples
        Names of all samples, sorted.
    data
        Observed counts, shape ``(n_bins,)``.
    """

    name = "binned"

    def __init__(
        self,
        channels: Sequence[Channel],
        parameters: Sequence[Parameter],
        data: ArrayLike,
        *,
        poi: str | None = None,
        normsys: str = "code4",
        histosys: str = "code4p",
    ) -> None:
        self._channels = tuple(channels)
        self._codes = {"normsys": normsys, "histosys": histosys}
        self._rates = Rates(self._channels, len(parameters), **self._codes)
        self.parameters = tuple(parameters)
        self.poi = poi
        self.samples = tuple(sorted({name for channel in channels for name in channel.samples}))
        ends = np.cumsum([channel.nominal.shape[1] for channel in channels]).tolist()
        self.channels: Mapping[str, slice] = {
            channel.name: slice(end - channel.nominal.shape[1], end)
            for channel, end in zip(channels, ends, strict=True)
        }
        self._set_data(data)

    # Evaluating -------------------------------------------------------------------------------------------

    def evaluate(self, theta: torch.Tensor, order: int = 0, *, strict: bool = True) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``.

        Raises
        ------
        LikelihoodError
            When `strict` and a bin expects a negative number of events, or none although some are observed.
        """
        batch, n_parameters = theta.shape[:-1], len(self.parameters)
        rows = theta.reshape(batch.numel(), n_parameters)
        size = max(1, self._rates.nominal.numel(), n_parameters**2)
        step = max(1, _CHUNK // size)
        if len(rows) <= step:
            with one_thread(len(rows) * size):
                chunks = [self._evaluate(rows, slice(0, len(rows)), order, strict)]
        else:
            starts = range(0, len(rows), step)
            chunks = [self._evaluate(rows[i : i + step], slice(i, i + step), order, strict) for i in starts]
        joined = [torch.cat(pieces) if len(chunks) > 1 else pieces[0] for pieces in zip(*chunks, strict=True)]
        return Derivatives(*(part.reshape(batch + part.shape[1:]) for part in joined))

    def _evaluate(
        self, theta: torch.Tensor, rows: slice, order: int, strict: bool
    ) -> tuple[torch.Tensor, ...]:
        point = self._rates.at(theta)
        batched = self.data.ndim == 2
        data = self.data[rows] if batched else self.data
        undefined = self._undefined(point, data)
        if undefined is not None and strict:
            self._refuse(point, data, undefined, rows.start, len(self.data) if batched else len(theta))
        parts = self._poisson(point, data, self._constant[rows] if batched else self._constant, order)
        if undefined is None:
            return parts
        result = Derivatives(*parts).undefined_where(undefined.any(-1))
        return tuple(part for part in (result.value, result.gradient, result.hessian) if part is not None)

    def _poisson(
        self, point: RatePoint, data: torch.Tensor, constant: torch.Tensor, order: int
    ) -> tuple[torch.Tensor, ...]:
        expected = point.expected
        value = 2.0 * (expected - torch.xlogy(data, expected)).sum(-1) + constant
        if order == 0:
            return (value,)
        # An empty bin has no logarithm, so its expectation may be zero.
        ratio = torch.where(data > 0.0, data / expected, 0.0)
        weight = 2.0 * (1.0 - ratio)
        if order == 1:
            return value, point.slope(weight)
        second = torch.where(data > 0.0, 2.0 * ratio / expected, 0.0)
        return value, *point.curvature(weight, second)

    @staticmethod
    def _undefined(point: RatePoint, data: torch.Tensor) -> torch.Tensor | None:
        """Return the bins whose Poisson term is undefined, shape ``(n, n_bins)``; None when there are none."""
        expected = point.expected
        good = (expected > 0.0) & (expected < torch.inf)
        if bool(good.all()):
            return None
        good |= (expected == 0.0) & (data == 0.0)
        return None if bool(good.all()) else ~good

    def _refuse(
        self, point: RatePoint, data: torch.Tensor, undefined: torch.Tensor, first_row: int, n_rows: int
    ) -> None:
        row, bin_ = torch.nonzero(undefined)[0].tolist()
        name, bins = next((n, b) for n, b in self.channels.items() if bin_ < b.stop)
        samples = next(channel.samples for channel in self._channels if channel.name == name)
        rates = point.rates[row, : len(samples), bin_]
        observed = data[row, bin_] if data.ndim == 2 else data[bin_]
        raise LikelihoodError(
            f"bin {bin_ - bins.start} of channel {name!r} expects {float(point.expected[row, bin_]):.6g} events, "
            f"{float(observed):g} are observed",
            where="rates "
            + ", ".join(f"{s} {rate:.4g}" for s, rate in zip(samples, rates.tolist(), strict=True))
            + (f", in row {first_row + row} of the batch" if n_rows > 1 else ""),
            expected="a positive expectation, or zero where nothing is observed",
            fix="narrow the bounds of the parameters whose variations exceed the prediction, or merge the bin",
        )

    def expected(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the expected counts, shape ``batch + (n_bins,)``."""
        point = self._rates.at(theta.reshape(theta.shape[:-1].numel(), len(self.parameters)))
        return point.expected.reshape(*theta.shape[:-1], self._rates.n_bins)

    def expected_by_sample(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the expected counts of each of `samples`, shape ``batch + (n_samples, n_bins)``."""
        rates = self._rates.at(theta.reshape(theta.shape[:-1].numel(), len(self.parameters))).rates
        full = rates.new_zeros(len(rates), len(self.samples), self._rates.n_bins)
        for channel, bins in zip(self._channels, self._rates.bins, strict=True):
            rows = [self.samples.index(name) for name in channel.samples]
            full[:, rows, bins] = rates[:, : len(rows), bins]
        return full.reshape(*theta.shape[:-1], *full.shape[1:])

    # Data -------------------------------------------------------------------------------------------------

    def _set_data(self, data: ArrayLike | torch.Tensor) -> None:
        counts = (
            torch.as_tensor(data, dtype=torch.float64)
            if isinstance(data, torch.Tensor)
            else torch.tensor(np.asarray(data, dtype=np.float64))
        )
        if counts.ndim not in (1, 2) or counts.shape[-1] != self._rates.n_bins:
            raise LikelihoodError(
                f"the binned data have shape {tuple(counts.shape)}",
                expected=f"{self._rates.n_bins} counts: "
                + ", ".join(f"{name} {bins.stop - bins.start}" for name, bins in self.channels.items()),
            )
        bad = ~((counts >= 0.0) & torch.isfinite(counts))
        if bool(bad.any()):
            *_, bin_ = place = torch.nonzero(bad)[0].tolist()
            name, bins = next((n, b) for n, b in self.channels.items() if bin_ < b.stop)
            raise LikelihoodError(
                f"the observed count {float(counts[tuple(place)])} is not a number of events",
                where=f"bin {bin_ - bins.start} of channel {name!r}",
                expected="finite and not negative",
            )
        self.data = counts.to(self._rates.nominal.device)
        self._constant = 2.0 * torch.lgamma(self.data + 1.0).sum(-1)

    def with_data(self, data: ArrayLike | torch.Tensor) -> Self:
        """Return the same term with other counts, shape ``(n_bins,)``, or ``(n_rows, n_bins)`` for a batch."""
        term = copy.copy(self)
        term._set_data(data)
        return term

    def stack(self, data: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join data sets into a batch, shape ``(n_rows, n_bins)``."""
        return torch.stack(list(data))

    def expected_data(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the Asimov counts at `theta`, shape ``(n_parameters,)``."""
        return self.expected(theta)

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], torch.Tensor]:
        """Return a function that draws counts at `theta`, shape ``(n_parameters,)``."""
        point = self._rates.at(theta.unsqueeze(0))
        nothing = torch.zeros_like(point.expected)
        if (undefined := self._undefined(point, nothing)) is not None:
            self._refuse(point, nothing, undefined, 0, 1)
        expected = point.expected[0].cpu().numpy()
        return lambda generator: torch.from_numpy(generator.poisson(expected).astype(np.float64))

    def to(self, device: torch.device | str) -> Self:
        """Return the term with its tensors on a device."""
        term = copy.copy(self)
        term._rates = self._rates.to(device)
        term._set_data(self.data)
        return term

    # Channels ---------------------------------------------------------------------------------------------

    def select_channels(self, names: Iterable[str]) -> Self:
        """Return the term of some channels, with only the parameters that they use.

        Raises
        ------
        LikelihoodError
            When a channel does not exist, or none are chosen.
        """
        chosen = list(names)
        for name in chosen:
            if name not in self.channels:
                raise LikelihoodError(
                    f"the binned term has no channel {name!r}",
                    fix=f"nearest names: {nearest(name, self.channels)}",
                )
        channels = [channel for channel in self._channels if channel.name in chosen]
        if not channels:
            raise LikelihoodError("no channels chosen", expected=f"some of {', '.join(self.channels)}")
        used = sorted(set().union(*(channel.parameters for channel in channels)))
        index = {old: new for new, old in enumerate(used)}
        parameters = [self.parameters[i] for i in used]
        return type(self)(
            [channel.renumbered(index) for channel in channels],
            parameters,
            torch.cat([self.data[self.channels[channel.name]] for channel in channels]),
            poi=self.poi if any(p.name == self.poi for p in parameters) else None,
            **self._codes,
        )

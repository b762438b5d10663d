r"""`HistFactoryTerm`: the binned term of a likelihood, Poisson counts in the bins of channels.

.. math:: -2\ln L = 2\sum_b \big(\lambda_b(\theta) - n_b \ln\lambda_b(\theta) + \ln\Gamma(n_b+1)\big)

With the constraints it equals ``pyhf.infer.mle.twice_nll``. Build it from a pyhf document by `binned_term`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.rates import Channel, RatePoint, Rates
from neyman.likelihood.term import Derivatives

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

    def evaluate(self, theta: torch.Tensor, order: int = 0) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``.

        Raises
        ------
        LikelihoodError
            When a bin expects a negative number of events, or none although some are observed.
        """
        batch, n_parameters = theta.shape[:-1], len(self.parameters)
        step = max(1, _CHUNK // (len(self._rates.nominal) * max(1, n_parameters)))
        parts = torch.split(theta.reshape(batch.numel(), n_parameters), step)
        chunks = [self._evaluate(part, order, i * step) for i, part in enumerate(parts)]
        joined = [torch.cat(pieces) if len(chunks) > 1 else pieces[0] for pieces in zip(*chunks, strict=True)]
        return Derivatives(*(part.reshape(batch + part.shape[1:]) for part in joined))

    def _evaluate(self, theta: torch.Tensor, order: int, first_row: int) -> tuple[torch.Tensor, ...]:
        point, data = self._rates.at(theta), self.data
        expected = point.expected
        self._check(point, data, first_row)
        value = 2.0 * (expected - torch.xlogy(data, expected)).sum(-1) + self._constant
        if order == 0:
            return (value,)
        # An empty bin has no logarithm, so its expectation may be zero.
        ratio = torch.where(data > 0.0, data / expected, 0.0)
        weight = 2.0 * (1.0 - ratio)
        gradient = (point.jacobian @ weight.unsqueeze(-1)).squeeze(-1)
        if order == 1:
            return value, gradient
        second = torch.where(data > 0.0, 2.0 * ratio / expected, 0.0)
        hessian = (point.jacobian * second.unsqueeze(1)) @ point.jacobian.mT
        return value, gradient, hessian.add_(point.curvature(weight))

    def _check(self, point: RatePoint, data: torch.Tensor, first_row: int = 0) -> None:
        expected = point.expected
        good = (expected > 0.0) & (expected < torch.inf)
        if bool(good.all()):
            return
        good |= (expected == 0.0) & (data == 0.0)
        if bool(good.all()):
            return
        row, bin_ = torch.nonzero(~good)[0].tolist()
        name, bins = next((n, b) for n, b in self.channels.items() if bin_ < b.stop)
        rates = point.rates[row][self._rates.bin == bin_]
        samples = next(channel.samples for channel in self._channels if channel.name == name)
        raise LikelihoodError(
            f"bin {bin_ - bins.start} of channel {name!r} expects {float(expected[row, bin_]):.6g} events, "
            f"{float(data[bin_]):g} are observed",
            where="rates "
            + ", ".join(f"{s} {rate:.4g}" for s, rate in zip(samples, rates.tolist(), strict=True))
            + (f", in row {first_row + row} of the batch" if first_row + len(expected) > 1 else ""),
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
        rows = [self.samples.index(name) for channel in self._channels for name in channel.samples]
        cell = torch.tensor(rows, dtype=torch.long)[self._rates.group] * self._rates.n_bins + self._rates.bin
        full = rates.new_zeros(len(rates), len(self.samples) * self._rates.n_bins)
        full[:, cell] = rates
        return full.reshape(*theta.shape[:-1], len(self.samples), self._rates.n_bins)

    # Data -------------------------------------------------------------------------------------------------

    def _set_data(self, data: ArrayLike | torch.Tensor) -> None:
        counts = torch.tensor(np.asarray(data, dtype=np.float64))
        if counts.shape != (self._rates.n_bins,):
            raise LikelihoodError(
                f"the binned data have shape {tuple(counts.shape)}",
                expected=f"{self._rates.n_bins} counts: "
                + ", ".join(f"{name} {bins.stop - bins.start}" for name, bins in self.channels.items()),
            )
        bad = ~((counts >= 0.0) & torch.isfinite(counts))
        if bool(bad.any()):
            bin_ = int(torch.nonzero(bad)[0])
            name, bins = next((n, b) for n, b in self.channels.items() if bin_ < b.stop)
            raise LikelihoodError(
                f"the observed count {float(counts[bin_])} is not a number of events",
                where=f"bin {bin_ - bins.start} of channel {name!r}",
                expected="finite and not negative",
            )
        self.data = counts
        self._constant = float(2.0 * torch.lgamma(counts + 1.0).sum())

    def with_data(self, data: ArrayLike | torch.Tensor) -> Self:
        """Return the same term with other counts, shape ``(n_bins,)``."""
        term = copy.copy(self)
        term._set_data(data)
        return term

    def expected_data(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the Asimov counts at `theta`, shape ``(n_parameters,)``."""
        return self.expected(theta)

    def sample(self, theta: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Draw counts at `theta`, shape ``(n_parameters,)``."""
        point = self._rates.at(theta.unsqueeze(0))
        self._check(point, torch.zeros_like(self.data))
        return torch.from_numpy(generator.poisson(point.expected[0].numpy()).astype(np.float64))

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

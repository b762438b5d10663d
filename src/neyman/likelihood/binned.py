"""`BinnedTerm`: what the terms with bins share, a HistFactory prediction with data in its bins."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from neyman.errors import LikelihoodError
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.rates import Channel, RatePoint, Rates
from neyman.likelihood.term import Derivatives
from neyman.likelihood.threads import one_thread

_CHUNK = 2**18


class BinnedTerm:
    """Base of the terms with bins: a subclass says how probable the data are, in `_parts`.

    Parameters
    ----------
    channels
        Channels in the order of the bins.
    parameters
        Parameters in the order of the last axis of `theta`, each used by a channel.
    data
        Observed contents, shape ``(n_bins,)``.
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
        Observed contents, shape ``(n_bins,)``.
    """

    name = "binned"
    _contents = "values"  # what the data are, for messages
    _constant: torch.Tensor  # what of the value depends on no parameter, one number or one a data set

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
        self.channels: Mapping[str, slice] = dict(
            zip((channel.name for channel in channels), self._rates.bins, strict=True)
        )
        self._set_data(data)

    # Evaluating -------------------------------------------------------------------------------------------

    def evaluate(self, theta: torch.Tensor, order: int = 0, *, strict: bool = True) -> Derivatives:
        """Return ``-2 ln L`` and its derivatives at `theta`, shape ``batch + (n_parameters,)``.

        Raises
        ------
        LikelihoodError
            When `strict` and the likelihood is undefined: the message names the bin and its rates.
        """
        batch = theta.shape[:-1]
        rows = theta.reshape(batch.numel(), len(self.parameters))
        size = max(1, self._row_size())
        step = max(1, _CHUNK // size)
        if len(rows) <= step:
            with one_thread(len(rows) * size):
                chunks = [self._evaluate(rows, slice(0, len(rows)), order, strict)]
        else:
            starts = range(0, len(rows), step)
            chunks = [self._evaluate(rows[i : i + step], slice(i, i + step), order, strict) for i in starts]
        joined = [torch.cat(pieces) if len(chunks) > 1 else pieces[0] for pieces in zip(*chunks, strict=True)]
        return Derivatives(*(part.reshape(batch + part.shape[1:]) for part in joined))

    def _row_size(self) -> int:
        """Return how many numbers the largest temporary has for one parameter vector."""
        return max(int(self._rates.nominal.numel()), len(self.parameters) ** 2)

    def _evaluate(
        self, theta: torch.Tensor, rows: slice, order: int, strict: bool
    ) -> tuple[torch.Tensor, ...]:
        """Return value, gradient and Hessian up to `order` of some rows of a batch."""
        point = self._rates.at(theta)
        batched = self.data.ndim == 2
        data = self.data[rows] if batched else self.data
        undefined = self._undefined(point, data)
        if undefined is not None and strict:
            self._refuse(point, data, undefined, rows.start, len(self.data) if batched else len(theta))
        constant = self._constant[rows] if self._constant.ndim else self._constant
        parts = self._parts(point, data, constant, order)
        if undefined is None:
            return parts
        result = Derivatives(*parts).undefined_where(undefined.any(-1))
        return tuple(part for part in (result.value, result.gradient, result.hessian) if part is not None)

    def _parts(
        self, point: RatePoint, data: torch.Tensor, constant: torch.Tensor, order: int
    ) -> tuple[torch.Tensor, ...]:
        """Return value, gradient and Hessian up to `order`; `constant` is part of the value."""
        raise NotImplementedError

    @staticmethod
    def _undefined(point: RatePoint, data: torch.Tensor) -> torch.Tensor | None:
        """Return the bins whose part is undefined, shape ``(n, n_bins)``; None when there are none."""
        raise NotImplementedError

    def _refuse(
        self, point: RatePoint, data: torch.Tensor, undefined: torch.Tensor, first_row: int, n_rows: int
    ) -> None:
        """Raise for the first bin that is undefined."""
        row, bin_ = torch.nonzero(undefined)[0].tolist()
        name, local = self._place(bin_)
        observed = float(data[row, bin_] if data.ndim == 2 else data[bin_])
        what, expected = self._why_undefined(float(point.expected[row, bin_]), observed)
        samples = next(channel.samples for channel in self._channels if channel.name == name)
        rates = point.rates[row, : len(samples), bin_].tolist()
        raise LikelihoodError(
            f"bin {local} of channel {name!r} {what}",
            where="rates "
            + ", ".join(f"{s} {rate:.4g}" for s, rate in zip(samples, rates, strict=True))
            + (f", in row {first_row + row} of the batch" if n_rows > 1 else ""),
            expected=expected,
            fix="narrow the bounds of the parameters whose variations exceed the prediction, or merge the bin",
        )

    @staticmethod
    def _why_undefined(expected: float, observed: float) -> tuple[str, str]:
        """Return what is wrong with a bin, after its name, and what would be right."""
        raise NotImplementedError

    def expected(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the expected contents, shape ``batch + (n_bins,)``."""
        point = self._rates.at(theta.reshape(theta.shape[:-1].numel(), len(self.parameters)))
        return point.expected.reshape(*theta.shape[:-1], self._rates.n_bins)

    def expected_by_sample(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the expected contents of each of `samples`, shape ``batch + (n_samples, n_bins)``."""
        rates = self._rates.at(theta.reshape(theta.shape[:-1].numel(), len(self.parameters))).rates
        full = rates.new_zeros(len(rates), len(self.samples), self._rates.n_bins)
        for channel, bins in zip(self._channels, self._rates.bins, strict=True):
            rows = [self.samples.index(name) for name in channel.samples]
            full[:, rows, bins] = rates[:, : len(rows), bins]
        return full.reshape(*theta.shape[:-1], *full.shape[1:])

    def _place(self, bin_: int) -> tuple[str, int]:
        """Return the channel of a bin and its number there."""
        name, bins = next((n, b) for n, b in self.channels.items() if bin_ < b.stop)
        return name, bin_ - bins.start

    # Data -------------------------------------------------------------------------------------------------

    def _set_data(self, data: ArrayLike | torch.Tensor) -> None:
        values = (
            torch.as_tensor(data, dtype=torch.float64)
            if isinstance(data, torch.Tensor)
            else torch.tensor(np.asarray(data, dtype=np.float64))
        )
        if values.ndim not in (1, 2) or values.shape[-1] != self._rates.n_bins:
            raise LikelihoodError(
                f"the {self.name} data have shape {tuple(values.shape)}",
                expected=f"{self._rates.n_bins} {self._contents}: "
                + ", ".join(f"{name} {bins.stop - bins.start}" for name, bins in self.channels.items()),
            )
        bad = ~self._possible(values)
        if bool(bad.any()):
            *_, bin_ = place = torch.nonzero(bad)[0].tolist()
            name, local = self._place(bin_)
            self._refuse_data(float(values[tuple(place)]), f"bin {local} of channel {name!r}")
        self.data = values.to(self._rates.nominal.device)

    @staticmethod
    def _possible(values: torch.Tensor) -> torch.Tensor:
        """Return which values can be observed."""
        return torch.isfinite(values)

    def _refuse_data(self, value: float, where: str) -> None:
        raise LikelihoodError(
            f"the {self.name} data are not finite: {value}", where=where, expected="finite values"
        )

    def with_data(self, data: ArrayLike | torch.Tensor) -> Self:
        """Return the same term with other data, shape ``(n_bins,)``, or ``(n_rows, n_bins)`` for a batch."""
        term = copy.copy(self)
        term._set_data(data)
        return term

    def stack(self, data: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join data sets into a batch, shape ``(n_rows, n_bins)``."""
        return torch.stack(list(data))

    def expected_data(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the Asimov data at `theta`, shape ``(n_parameters,)``: what is expected."""
        return self.expected(theta)

    def to(self, device: torch.device | str) -> Self:
        """Return the term with its tensors on a device."""
        term = copy.copy(self)
        term._rates = self._rates.to(device)
        term._set_data(self.data)
        return term

r"""`GaussianTerm`: measured values with a covariance, compared with a HistFactory prediction.

.. math:: -2\ln L = (x-\nu(\theta))^T C^{-1} (x-\nu(\theta)) + \ln\det(2\pi C)

The covariance C is constant. An unfolded spectrum is fitted like this. Build the terms of a ``gaussian.json`` by
`gaussian_terms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neyman.errors import LikelihoodError, NeymanError
from neyman.likelihood.binned import BinnedTerm
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.rates import Channel, RatePoint
from neyman.workspace.covariance import checked_covariance
from neyman.workspace.documents import MeasurementConfig
from neyman.workspace.gaussian import Gaussian

Array = NDArray[np.float64]


def gaussian_terms(document: Gaussian, config: MeasurementConfig) -> list[GaussianTerm]:
    """Compile the spectra of a ``gaussian.json``, one term each.

    Parameters
    ----------
    document
        The document.
    config
        Settings of the parameters, of one of its measurements.

    Raises
    ------
    WorkspaceError
        When a spectrum describes an impossible model.
    LikelihoodError
        When a parameter has impossible settings.
    """
    from neyman.likelihood import pyhf_document, pyhf_spec

    terms = []
    for spectrum in document.spectra:
        with _placed(f"spectrum {spectrum.name!r} of gaussian.json"):
            opened = pyhf_document.read(spectrum.workspace(config))
            values, _ = pyhf_document.observed(opened)
            channels, parameters = pyhf_spec.compile_model(opened.model)
            bins = np.concatenate([np.arange(s.start, s.stop) for s in _slices(spectrum.sizes, channels)])
            terms.append(
                GaussianTerm(
                    spectrum.name,
                    channels,
                    parameters,
                    values,
                    np.asarray(spectrum.covariance)[np.ix_(bins, bins)],
                    poi=opened.poi,
                    normsys=opened.normsys,
                    histosys=opened.histosys,
                )
            )
    return terms


def _slices(sizes: dict[str, int], channels: Sequence[Channel]) -> list[slice]:
    """Return the bins of the document in the order of the channels."""
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
    return [slice(ends[c.name] - sizes[c.name], ends[c.name]) for c in channels]


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Say where in the document an error comes from."""
    try:
        yield
    except NeymanError as error:
        where = f"{place}; {error.where}" if error.where else place
        raise type(error)(error.what, where=where, expected=error.expected, fix=error.fix) from error


class GaussianTerm(BinnedTerm):
    """Term of measured values with a constant covariance; contents and predictions may be negative.

    Parameters
    ----------
    name
        Name of the term.
    channels
        Channels in the order of the bins.
    parameters
        Parameters in the order of the last axis of `theta`, each used by a channel.
    data
        Measured values, shape ``(n_bins,)``.
    covariance
        Of all bins of all channels, shape ``(n_bins, n_bins)``.
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
        Measured values, shape ``(n_bins,)``.
    covariance
        As given.

    Raises
    ------
    LikelihoodError
        When the values are not finite or not one a bin, or the covariance is not symmetric and positive definite.
    """

    def __init__(
        self,
        name: str,
        channels: Sequence[Channel],
        parameters: Sequence[Parameter],
        data: ArrayLike,
        covariance: ArrayLike,
        *,
        poi: str | None = None,
        normsys: str = "code4",
        histosys: str = "code4p",
    ) -> None:
        self.name = name
        super().__init__(channels, parameters, data, poi=poi, normsys=normsys, histosys=histosys)
        labels = [
            f"bin {i} of {c}" for c, bins in self.channels.items() for i in range(bins.stop - bins.start)
        ]
        self.covariance: Array = checked_covariance(
            covariance, labels, where=f"the covariance of {name!r}", error=LikelihoodError
        )
        self._factor = torch.linalg.cholesky(torch.from_numpy(self.covariance))
        # The residuals times this have unit covariance.
        self._whitening = torch.linalg.solve_triangular(
            self._factor, torch.eye(len(labels), dtype=torch.float64), upper=False
        )
        self._constant = len(labels) * math.log(2.0 * math.pi) + 2.0 * self._factor.diagonal().log().sum()

    def chi_square(self, theta: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`(x-\nu)^T C^{-1} (x-\nu)`, shape ``batch``."""
        residual: torch.Tensor = (self.data - self.expected(theta)) @ self._whitening.T
        return residual.square().sum(-1)

    def _row_size(self) -> int:
        return max(super()._row_size(), len(self.parameters) * len(self._factor))

    def _parts(
        self, point: RatePoint, data: torch.Tensor, constant: torch.Tensor, order: int
    ) -> tuple[torch.Tensor, ...]:
        whitening = self._whitening
        residual = (data - point.expected) @ whitening.T
        value = residual.square().sum(-1) + constant
        if order == 0:
            return (value,)
        weight = -2.0 * (residual @ whitening)
        if order == 1:
            return value, point.slope(weight)
        gradient, bent = point.curvature(weight, torch.zeros_like(weight))
        slopes = point.jacobian() @ whitening.T
        return value, gradient, bent + 2.0 * (slopes @ slopes.mT)

    @staticmethod
    def _undefined(point: RatePoint, _data: torch.Tensor) -> torch.Tensor | None:
        good = torch.isfinite(point.expected)
        return None if bool(good.all()) else ~good

    @staticmethod
    def _why_undefined(expected: float, _observed: float) -> tuple[str, str]:
        return f"has the prediction {expected:g}", "a finite prediction"

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], torch.Tensor]:
        """Return a function that draws values at `theta`, shape ``(n_parameters,)``, with the covariance."""
        point = self._rates.at(theta.unsqueeze(0))
        if (undefined := self._undefined(point, self.data)) is not None:
            self._refuse(point, self.data, undefined, 0, 1)
        expected, factor = point.expected[0].cpu().numpy(), self._factor.cpu().numpy()
        return lambda generator: torch.from_numpy(
            expected + factor @ generator.standard_normal(len(expected))
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the term with its tensors on a device."""
        term = super().to(device)
        term._factor, term._whitening = self._factor.to(device), self._whitening.to(device)
        term._constant = self._constant.to(device)
        return term

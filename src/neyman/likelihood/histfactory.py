r"""`HistFactoryTerm`: the binned term of a likelihood, Poisson counts in the bins of channels.

.. math:: -2\ln L = 2\sum_b \big(\lambda_b(\theta) - n_b \ln\lambda_b(\theta) + \ln\Gamma(n_b+1)\big)

With the constraints it equals ``pyhf.infer.mle.twice_nll``. Build it from a pyhf document by `binned_term`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.binned import BinnedTerm
from neyman.likelihood.rates import RatePoint


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


class HistFactoryTerm(BinnedTerm):
    """Binned term of a likelihood, Poisson counts; parameters and attributes as of `BinnedTerm`."""

    name = "binned"
    _contents = "counts"

    # Evaluating -------------------------------------------------------------------------------------------

    def _parts(
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
        expected = point.expected
        good = (expected > 0.0) & (expected < torch.inf)
        if bool(good.all()):
            return None
        good |= (expected == 0.0) & (data == 0.0)
        return None if bool(good.all()) else ~good

    @staticmethod
    def _why_undefined(expected: float, observed: float) -> tuple[str, str]:
        what = f"expects {expected:.6g} events, {observed:g} are observed"
        return what, "a positive expectation, or zero where nothing is observed"

    # Data -------------------------------------------------------------------------------------------------

    def _set_data(self, data: ArrayLike | torch.Tensor) -> None:
        super()._set_data(data)
        self._constant = 2.0 * torch.lgamma(self.data + 1.0).sum(-1)

    @staticmethod
    def _possible(values: torch.Tensor) -> torch.Tensor:
        return (values >= 0.0) & torch.isfinite(values)

    def _refuse_data(self, value: float, where: str) -> None:
        raise LikelihoodError(
            f"the observed count {value} is not a number of events",
            where=where,
            expected="finite and not negative",
        )

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], torch.Tensor]:
        """Return a function that draws counts at `theta`, shape ``(n_parameters,)``."""
        point = self._rates.at(theta.unsqueeze(0))
        nothing = torch.zeros_like(point.expected)
        if (undefined := self._undefined(point, nothing)) is not None:
            self._refuse(point, nothing, undefined, 0, 1)
        expected = point.expected[0].cpu().numpy()
        return lambda generator: torch.from_numpy(generator.poisson(expected).astype(np.float64))

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

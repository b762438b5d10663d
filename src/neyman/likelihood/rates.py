r"""Expected counts of a binned model with closed first and second derivatives.

A *cell* is one bin of one sample; its rate is

.. math::
    r_c(\theta) = \Big(\nu_c + \sum_k \delta_{ck}(\alpha_k)\Big)\, \prod_k f_{ck}(\alpha_k)\, \prod_j \theta_{l(c,j)}

with the additive shifts of histosys, the factors of normsys, and the parameters that multiply directly
(normfactor, lumi, shapefactor, shapesys, staterror). The expectation of a bin is the sum of its cells.

* `Channel` is the plain description of one channel, as compiled from a specification.
* `Rates` joins channels; `Rates.at` gives a `RatePoint` with the expectation, its Jacobian, and the
  contraction of its second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.likelihood.interpolation import ADDITIVE, MULTIPLICATIVE, Three

Array = NDArray[np.float64]


class Variation(NamedTuple):
    """Effect of one interpolated parameter on one sample: differences (histosys) or factors (normsys)."""

    parameter: int
    sample: int
    up: Array | float
    down: Array | float


@dataclass(frozen=True)
class Channel:
    """One channel of a binned model; parameters are given by their index in the model.

    Parameters
    ----------
    name
        Name of the channel.
    samples
        Names of its samples.
    nominal
        Nominal counts, shape ``(n_samples, n_bins)``.
    shifts
        Varied minus nominal counts.
    scalings
        Varied over nominal normalisations.
    factors
        Parameters that multiply each cell, shape ``(n_samples, n_bins, n_slots)``, -1 where a slot is unused.
    """

    name: str
    samples: tuple[str, ...]
    nominal: Array
    shifts: tuple[Variation, ...]
    scalings: tuple[Variation, ...]
    factors: NDArray[np.int64]

    @property
    def parameters(self) -> set[int]:
        """Indices of the parameters that the channel depends on."""
        varied = {v.parameter for v in self.shifts + self.scalings}
        return varied | set(self.factors[self.factors >= 0].tolist())

    def renumbered(self, index: dict[int, int]) -> Channel:
        """Return the channel with other parameter indices."""
        table = np.array([index.get(i, -1) for i in range(max(index, default=-1) + 1)] + [-1], dtype=np.int64)
        return Channel(
            self.name,
            self.samples,
            self.nominal,
            tuple(v._replace(parameter=index[v.parameter]) for v in self.shifts),
            tuple(v._replace(parameter=index[v.parameter]) for v in self.scalings),
            table[self.factors],
        )


class Rates:
    """Expected counts of all channels as a function of the parameters.

    Parameters
    ----------
    channels
        Channels in the order of the bins.
    n_parameters
        Length of the parameter vector; every parameter must be used by a channel.
    normsys, histosys
        Names of the interpolation codes.
    """

    def __init__(self, channels: Sequence[Channel], n_parameters: int, normsys: str, histosys: str) -> None:
        self.shapes = [channel.nominal.shape for channel in channels]
        self.nominal = torch.from_numpy(np.concatenate([channel.nominal.ravel() for channel in channels]))
        self.n_parameters = n_parameters
        self.n_bins = sum(bins for _, bins in self.shapes)
        self._ends = np.cumsum([samples * bins for samples, bins in self.shapes])
        self._index_cells()
        self._index_factors(channels)
        self._index_variations(channels, normsys, histosys)
        order = torch.cat([self.varied, self.direct])
        self.column = torch.argsort(order)

    def _index_cells(self) -> None:
        bins, groups, first_bin, first_group = [], [], 0, 0
        for n_samples, n_bins in self.shapes:
            bins.append(np.tile(np.arange(n_bins) + first_bin, n_samples))
            groups.append(np.repeat(np.arange(n_samples) + first_group, n_bins))
            first_bin, first_group = first_bin + n_bins, first_group + n_samples
        self.bin = torch.from_numpy(np.concatenate(bins))
        self.group = torch.from_numpy(np.concatenate(groups))
        self.n_groups = first_group

    def _index_factors(self, channels: Sequence[Channel]) -> None:
        width = max(2, *(channel.factors.shape[-1] for channel in channels))
        slots = np.full((len(self.nominal), width), -1)
        for channel, end in zip(channels, self._ends, strict=True):
            flat = channel.factors.reshape(channel.nominal.size, -1)
            slots[end - len(flat) : end, : flat.shape[1]] = flat
        direct = np.unique(slots[slots >= 0])
        # Unused slots point at one more entry, which is held at 1.
        self.slots = torch.from_numpy(np.where(slots < 0, len(direct), np.searchsorted(direct, slots)))
        self.direct = torch.from_numpy(direct)
        self.pairs = torch.combinations(torch.arange(width))
        self.without_one = ~torch.eye(width, dtype=torch.bool)
        self.without_two = self.without_one[self.pairs[:, 0]] & self.without_one[self.pairs[:, 1]]

    def _index_variations(self, channels: Sequence[Channel], normsys: str, histosys: str) -> None:
        used = {v.parameter for channel in channels for v in channel.shifts + channel.scalings}
        self.varied = torch.tensor(sorted(used), dtype=torch.long)
        row = {parameter: i for i, parameter in enumerate(sorted(used))}
        shifts = np.zeros((2, len(row), len(self.nominal)))
        scalings = np.ones((2, len(row), self.n_groups))
        first_cell, first_group = 0, 0
        for channel in channels:
            n_samples, n_bins = channel.nominal.shape
            for parameter, sample, up, down in channel.shifts:
                start = first_cell + sample * n_bins
                shifts[:, row[parameter], start : start + n_bins] = up, down
            for parameter, sample, up, down in channel.scalings:
                scalings[:, row[parameter], first_group + sample] = up, down
            first_cell, first_group = first_cell + n_samples * n_bins, first_group + n_samples
        self.shift = ADDITIVE[histosys](*torch.from_numpy(shifts), axes=1)
        self.scaling = MULTIPLICATIVE[normsys](*torch.from_numpy(scalings), axes=1)

    def at(self, theta: torch.Tensor) -> RatePoint:
        """Return the expectation at `theta`, shape ``(n, n_parameters)``."""
        return RatePoint(self, theta)

    def by_bin(self, cells: torch.Tensor) -> torch.Tensor:
        """Sum over samples, last axis ``n_cells`` to ``n_bins``."""
        return torch.cat([block.sum(-2) for block in self._blocks(cells)], dim=-1)

    def by_group(self, cells: torch.Tensor) -> torch.Tensor:
        """Sum over the bins of each sample of a channel, last axis ``n_cells`` to ``n_groups``."""
        return torch.cat([block.sum(-1) for block in self._blocks(cells)], dim=-1)

    def _blocks(self, cells: torch.Tensor) -> list[torch.Tensor]:
        starts = [0, *self._ends[:-1]]
        return [
            cells[..., start:end].reshape(*cells.shape[:-1], *shape)
            for start, end, shape in zip(starts, self._ends, self.shapes, strict=True)
        ]


class RatePoint:
    """Rates at one batch of parameter vectors; derivatives are computed when asked for.

    Attributes
    ----------
    rates
        Rate of every cell, shape ``(n, n_cells)``.
    expected
        Expectation of every bin, shape ``(n, n_bins)``.
    """

    def __init__(self, rates: Rates, theta: torch.Tensor) -> None:
        self._model = rates
        alpha = theta[:, rates.varied]
        self._bend: Three = rates.shift.bend(alpha)
        self._additive = (
            rates.nominal + alpha @ rates.shift.symmetric + self._bend[0] @ rates.shift.asymmetric
        )
        self._scaling = rates.scaling.factor(alpha)
        self._scale = self._scaling[0].prod(dim=1)[:, rates.group]
        direct = torch.cat([theta[:, rates.direct], theta.new_ones(len(theta), 1)], dim=1)
        self._slots = direct[:, rates.slots]
        self._direct = self._slots.prod(dim=-1)
        self.rates = self._additive * self._scale * self._direct
        self.expected = rates.by_bin(self.rates)

    @cached_property
    def _slopes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Derivative of the shifts, logarithmic derivative of the scalings, and both joined per cell without
        the direct factors: ``(n, n_varied, n_cells or n_groups)``."""
        model = self._model
        shift = model.shift.symmetric + self._bend[1].unsqueeze(-1) * model.shift.asymmetric
        scaling = self._scaling[1] / self._scaling[0]
        joined = shift + self._additive.unsqueeze(1) * scaling.index_select(2, model.group)
        return shift, scaling, joined * self._scale.unsqueeze(1)

    @cached_property
    def _without_one(self) -> torch.Tensor:
        """Product of the other direct factors of the cell, for every slot: ``(n, n_cells, n_slots)``."""
        return self._leave_out(self._model.without_one)

    def _leave_out(self, keep: torch.Tensor) -> torch.Tensor:
        # Products are formed without the factors instead of dividing by them: a factor may be zero.
        return torch.where(keep, self._slots.unsqueeze(-2), 1.0).prod(dim=-1)

    @cached_property
    def jacobian(self) -> torch.Tensor:
        """Derivatives of the expectation, shape ``(n, n_parameters, n_bins)``."""
        model, n = self._model, len(self.rates)
        varied = model.by_bin(self._slopes[2] * self._direct.unsqueeze(1))
        cells = (self._additive * self._scale).unsqueeze(-1) * self._without_one
        size = len(model.direct) + 1
        target = (model.slots * model.n_bins + model.bin.unsqueeze(-1)).flatten().expand(n, -1)
        direct = cells.new_zeros(n, size * model.n_bins).scatter_add_(1, target, cells.flatten(1))
        direct = direct.view(n, size, model.n_bins)[:, :-1]
        return torch.cat([varied, direct], dim=1).index_select(1, model.column)

    def curvature(self, weight: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`\sum_b w_b\, \partial^2 \lambda_b / \partial\theta\partial\theta'`.

        Parameters
        ----------
        weight
            Weights of the bins, shape ``(n, n_bins)``.
        """
        model, n = self._model, len(self.rates)
        weight = weight[:, model.bin]
        shift, scaling, joined = self._slopes
        # Varied with varied: d2 r = r (u_p u_q) + shift_p u_q + shift_q u_p off the diagonal, u = d ln f.
        common = weight * self._scale * self._direct
        total = model.by_group(common * self._additive)
        half = model.by_group(common.unsqueeze(1) * shift) + 0.5 * total.unsqueeze(1) * scaling
        varied = scaling @ half.mT
        varied = varied + varied.mT
        diagonal = self._bend[2] * (common @ model.shift.asymmetric.T)
        diagonal += ((self._scaling[2] / self._scaling[0] - scaling**2) @ total.unsqueeze(-1)).squeeze(-1)
        varied.diagonal(dim1=1, dim2=2).add_(diagonal)
        # Varied with direct.
        size = len(model.direct) + 1
        slots = model.slots.expand(n, -1, -1)
        cells = weight.unsqueeze(-1) * self._without_one
        mixed = joined @ cells.new_zeros(n, len(model.nominal), size).scatter_(2, slots, cells)
        # Direct with direct: the rate is linear in each, so only pairs of slots of one cell.
        cells = (weight * self._additive * self._scale).unsqueeze(-1) * self._leave_out(model.without_two)
        target = (model.slots[:, model.pairs[:, 0]] * size + model.slots[:, model.pairs[:, 1]]).flatten()
        direct = cells.new_zeros(n, size * size).scatter_add_(1, target.expand(n, -1), cells.flatten(1))
        direct = direct.view(n, size, size)
        direct = direct + direct.mT
        mixed, direct = mixed[:, :, :-1], direct[:, :-1, :-1]
        hessian = torch.cat([torch.cat([varied, mixed], 2), torch.cat([mixed.mT, direct], 2)], dim=1)
        return hessian.index_select(1, model.column).index_select(2, model.column)

r"""Expected counts of a binned model with closed first and second derivatives.

A *cell* is one bin of one sample; its rate is

.. math::
    r_c(\theta) = \Big(\nu_c + \sum_k \delta_{ck}(\alpha_k)\Big)\, \prod_k f_{ck}(\alpha_k)\, \prod_j \theta_{l(c,j)}

with the additive shifts of histosys, the factors of normsys, and the parameters that multiply directly. The
expectation of a bin is the sum of its cells.

* `Channel` is the plain description of one channel, as compiled from a specification.
* `Rates` joins channels; `Rates.at` gives a `RatePoint`.
* `RatePoint` has the expectation and contracts its derivatives with weights of the bins. Shifts are linear in fixed
  templates, so derivatives are matrix products with these, never an array over parameters *and* cells.

Parameters are of three kinds. *Varied* ones interpolate (histosys, normsys). *Wide* ones multiply cells of many bins
(normfactor, lumi). *Local* ones multiply cells of a single bin (staterror, shapesys, shapefactor): their part of the
Hessian is diagonal but for parameters that share a bin.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.likelihood.interpolation import ADDITIVE, MULTIPLICATIVE, Three

Array = NDArray[np.float64]
Tensor = torch.Tensor


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

    Cells form a grid ``(n_samples, n_bins)`` over the bins of all channels, with as many rows as the channel of the
    most samples has; cells that do not exist have no events. A *group* is one row of one channel.

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
        sizes = [channel.nominal.shape[1] for channel in channels]
        ends = np.cumsum(sizes).tolist()
        self.bins = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.n_parameters, self.n_bins = n_parameters, sum(sizes)
        self.n_samples = max(len(channel.samples) for channel in channels)
        self.channel = torch.from_numpy(np.repeat(np.arange(len(channels)), sizes))
        self.in_channel = torch.nn.functional.one_hot(self.channel, len(channels)).double()
        nominal = np.zeros((self.n_samples, self.n_bins))
        for channel, bins in zip(channels, self.bins, strict=True):
            nominal[: len(channel.samples), bins] = channel.nominal
        self.nominal = torch.from_numpy(nominal)
        self._index_variations(channels, normsys, histosys)
        self._index_factors(channels)
        self.column = torch.argsort(torch.cat([self.varied, self.wide, self.local]))

    def _index_variations(self, channels: Sequence[Channel], normsys: str, histosys: str) -> None:
        shifted = sorted({v.parameter for channel in channels for v in channel.shifts})
        scaled = sorted({v.parameter for channel in channels for v in channel.scalings})
        shifts = np.zeros((2, len(shifted), self.n_samples, self.n_bins))
        scalings = np.ones((2, len(scaled), self.n_samples, len(channels)))
        for c, channel in enumerate(channels):
            for parameter, sample, up, down in channel.shifts:
                shifts[:, shifted.index(parameter), sample, self.bins[c]] = up, down
            for parameter, sample, up, down in channel.scalings:
                scalings[:, scaled.index(parameter), sample, c] = up, down
        varied = sorted({*shifted, *scaled})
        self.varied = torch.tensor(varied, dtype=torch.long)
        self.shifted, self.scaled = (torch.tensor(p, dtype=torch.long) for p in (shifted, scaled))
        self.shift_rows, self.scaling_rows = (
            torch.tensor([varied.index(p) for p in some], dtype=torch.long) for some in (shifted, scaled)
        )
        self.shift = ADDITIVE[histosys](*torch.from_numpy(shifts), axes=1)
        self.scaling = MULTIPLICATIVE[normsys](*torch.from_numpy(scalings).flatten(3).flatten(2), axes=1)
        # The templates of the shifts for matrix products: over all cells, and bin by bin.
        templates = torch.cat([self.shift.symmetric, self.shift.asymmetric])
        self.templates = templates.flatten(1).contiguous()
        self.templates_by_bin = templates.permute(2, 1, 0).contiguous()

    def _index_factors(self, channels: Sequence[Channel]) -> None:
        width = max(2, *(channel.factors.shape[-1] for channel in channels))
        slots = np.full((self.n_samples, self.n_bins, width), -1)
        for channel, bins in zip(channels, self.bins, strict=True):
            slots[: len(channel.samples), bins, : channel.factors.shape[-1]] = channel.factors
        used = {
            int(p): np.unique(np.nonzero((slots == p).any(axis=(0, 2)))[0])
            for p in np.unique(slots[slots >= 0])
        }
        local = [p for p, bins in used.items() if len(bins) == 1]
        wide = [p for p, bins in used.items() if len(bins) > 1]
        order = [*wide, *local]
        # Unused slots point at one more entry, which is held at 1.
        table = np.full(self.n_parameters + 1, len(order))
        table[order] = np.arange(len(order))
        self.direct = torch.tensor(order, dtype=torch.long)
        self.wide, self.local = self.direct[: len(wide)], self.direct[len(wide) :]
        self.slots = torch.from_numpy(table[slots])
        self.local_bin = torch.tensor([int(used[p][0]) for p in local], dtype=torch.long)
        self.local_templates = self.templates_by_bin[self.local_bin]
        self.same_bin = torch.nonzero(
            self.local_bin.unsqueeze(0) == self.local_bin.unsqueeze(1)
        ).T.contiguous()
        self._index_scatters(len(wide), len(local))

    def _index_scatters(self, n_wide: int, n_local: int) -> None:
        """Positions that the values of the slots are added to; what does not belong goes to one more entry."""
        samples = torch.arange(self.n_samples).reshape(-1, 1, 1)
        bins = torch.arange(self.n_bins).reshape(1, -1, 1)
        cells = samples * self.n_bins + bins
        wide = torch.where(self.slots < n_wide, self.slots, n_wide)
        local = torch.where(
            (self.slots >= n_wide) & (self.slots < n_wide + n_local), self.slots - n_wide, n_local
        )
        self.to_direct = self.slots.flatten()
        self.to_wide_bin = (wide * self.n_bins + bins).flatten()
        self.to_wide_cell = (wide * cells.numel() + cells).flatten()
        self.to_local = local.flatten()
        self.to_local_sample = (local * self.n_samples + samples).flatten()
        width = self.slots.shape[-1]
        one = ~torch.eye(width, dtype=torch.bool)
        pairs = torch.combinations(torch.arange(width))
        self.without_one, self.without_two = one, one[pairs[:, 0]] & one[pairs[:, 1]]
        first, second = self.slots[..., pairs[:, 0]].flatten(), self.slots[..., pairs[:, 1]].flatten()
        size = n_wide + n_local
        both = torch.where((first < size) & (second < size), first * (size + 1) + second, (size + 1) ** 2)
        pair, self.to_pair = torch.unique(both, return_inverse=True)
        # The last pair collects what is none, if there is any.
        self.n_pairs = len(pair)
        pair = pair[pair < (size + 1) ** 2]
        self.pair = torch.stack([pair // (size + 1), pair % (size + 1)])

    def at(self, theta: Tensor) -> RatePoint:
        """Return the expectation at `theta`, shape ``(n, n_parameters)``."""
        return RatePoint(self, theta)

    def to(self, device: torch.device | str) -> Rates:
        """Return the same with its tensors on a device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        moved.shift, moved.scaling = self.shift.to(device), self.scaling.to(device)
        return moved


class RatePoint:
    """Rates at one batch of parameter vectors; derivatives are computed when asked for.

    Attributes
    ----------
    rates
        Rate of every cell, shape ``(n, n_samples, n_bins)``.
    expected
        Expectation of every bin, shape ``(n, n_bins)``.
    """

    def __init__(self, rates: Rates, theta: Tensor) -> None:
        self._model, self._n = rates, len(theta)
        alpha = theta[:, rates.shifted]
        self._bend: Three = rates.shift.bend(alpha)
        shift = torch.cat([alpha, self._bend[0]], dim=1) @ rates.templates
        self._additive = rates.nominal + shift.view(self._n, *rates.nominal.shape)
        self._scaling = rates.scaling.factor(theta[:, rates.scaled]) if len(rates.scaled) else None
        self._scale = self._spread_scale()
        one = theta.new_ones(self._n, 1)
        self._slots = torch.cat([theta[:, rates.direct], one], dim=1)[:, rates.slots]
        self._direct = self._slots.prod(dim=-1)
        self._factor = self._direct if self._scale is None else self._scale * self._direct
        self.rates = self._additive * self._factor
        self.expected = self.rates.sum(1)

    def _spread_scale(self) -> Tensor | None:
        if self._scaling is None:
            return None
        by_group = self._scaling[0].prod(dim=1).view(self._n, self._model.n_samples, -1)
        return by_group.index_select(2, self._model.channel)

    # Pieces -----------------------------------------------------------------------------------------------

    @cached_property
    def _scaling_slopes(self) -> Tensor:
        """Logarithmic derivatives of the scalings, shape ``(n, n_scaled, n_groups)``."""
        value, first, _ = self._scaling if self._scaling is not None else (torch.ones(()),) * 3
        return first / value

    @cached_property
    def _without_one(self) -> Tensor:
        """Product of everything but the additive part and one slot: ``(n, n_samples, n_bins, n_slots)``."""
        return self._leave_out(self._model.without_one)

    def _leave_out(self, keep: Tensor) -> Tensor:
        # Products are formed without the factors instead of dividing by them: a factor may be zero.
        product = torch.where(keep, self._slots.unsqueeze(-2), 1.0).prod(dim=-1)
        return product if self._scale is None else product * self._scale.unsqueeze(-1)

    def _by_group(self, cells: Tensor) -> Tensor:
        """Sum over the bins of each group, shape ``(n, n_groups)``."""
        return (cells @ self._model.in_channel).flatten(1)

    def _shift_slopes(self, templates: Tensor) -> Tensor:
        """Join products with the two templates of each shift, last axis ``2 n_shifted`` to ``n_shifted``."""
        symmetric, asymmetric = templates.tensor_split(2, dim=-1)
        slope = self._bend[1]
        return symmetric + slope.reshape(self._n, *(1,) * (templates.ndim - 2), -1) * asymmetric

    def _added(self, values: Tensor, to: Tensor, size: int) -> Tensor:
        """Add the values of all slots up, shape ``(n, size)``; the last entry is dropped."""
        total = values.new_zeros(self._n, size + 1)
        return total.scatter_add_(1, to.expand(self._n, -1), values.flatten(1))[:, :size]

    # Derivatives ------------------------------------------------------------------------------------------

    def slope(self, weight: Tensor) -> Tensor:
        r"""Return :math:`\sum_b w_b\, \partial \lambda_b / \partial\theta`, shape ``(n, n_parameters)``.

        Parameters
        ----------
        weight
            Weights of the bins, shape ``(n, n_bins)``.
        """
        model, weight = self._model, weight.unsqueeze(1)
        varied = weight.new_zeros(self._n, len(model.varied))
        if len(model.shifted):
            products = (weight * self._factor).flatten(1) @ model.templates.T
            varied.index_add_(1, model.shift_rows, self._shift_slopes(products))
        if len(model.scaled):
            total = self._by_group(weight * self.rates)
            varied.index_add_(1, model.scaling_rows, (self._scaling_slopes @ total.unsqueeze(-1)).squeeze(-1))
        cells = (weight * self._additive).unsqueeze(-1) * self._without_one
        direct = self._added(cells, model.to_direct, len(model.direct))
        return torch.cat([varied, direct], dim=1).index_select(1, model.column)

    @cached_property
    def _jacobian(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the expectation: by varied and wide parameters ``(n, n_varied + n_wide, n_bins)``, and by
        local ones, of their bin, ``(n, n_local)``."""
        model, n = self._model, self._n
        varied = self.rates.new_zeros(n, len(model.varied), model.n_bins)
        if len(model.shifted):
            products = torch.bmm(self._factor.permute(2, 0, 1), model.templates_by_bin)
            varied.index_add_(1, model.shift_rows, self._shift_slopes(products.transpose(0, 1)).mT)
        if len(model.scaled):
            slopes = self._scaling_slopes.view(n, len(model.scaled), model.n_samples, -1)
            parts = [slopes[..., c] @ self.rates[:, :, bins] for c, bins in enumerate(model.bins)]
            varied.index_add_(1, model.scaling_rows, torch.cat(parts, dim=2))
        cells = self._additive.unsqueeze(-1) * self._without_one
        size = len(model.wide)
        wide = self._added(cells, model.to_wide_bin, (size + 1) * model.n_bins)[:, : size * model.n_bins]
        dense = torch.cat([varied, wide.view(n, size, model.n_bins)], dim=1)
        return dense, self._added(cells, model.to_local, len(model.local))

    def jacobian(self) -> Tensor:
        r"""Return :math:`\partial \lambda_b / \partial\theta`, shape ``(n, n_parameters, n_bins)``."""
        dense, local = self._jacobian
        single = dense.new_zeros(self._n, len(self._model.local), self._model.n_bins)
        single.scatter_(2, self._model.local_bin.expand(self._n, -1).unsqueeze(2), local.unsqueeze(2))
        return torch.cat([dense, single], dim=1).index_select(1, self._model.column)

    def curvature(self, weight: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return gradient and Hessian of a sum over bins :math:`\sum_b F_b(\lambda_b)`.

        .. math::
            \sum_b F'_b\, \partial_i\lambda_b, \qquad
            \sum_b F''_b\, \partial_i\lambda_b\, \partial_j\lambda_b + \sum_b F'_b\, \partial_i\partial_j\lambda_b

        Parameters
        ----------
        weight, second
            :math:`F'_b` and :math:`F''_b`, shape ``(n, n_bins)``.
        """
        model, n = self._model, self._n
        dense, local = self._jacobian
        at_local = dense.index_select(2, model.local_bin) * local.unsqueeze(1)
        gradient = torch.cat(
            [(dense @ weight.unsqueeze(-1)).squeeze(-1), local * weight[:, model.local_bin]], dim=1
        ).index_select(1, model.column)

        n_varied, n_wide = len(model.varied), len(model.wide)
        n_dense, size = n_varied + n_wide, n_varied + n_wide + len(model.local)
        hessian = dense.new_zeros(n, size, size)
        hessian[:, :n_dense, :n_dense] = (dense * second.unsqueeze(1)) @ dense.mT
        mixed = at_local * second[:, model.local_bin].unsqueeze(1)
        i, j = model.same_bin
        hessian[:, n_dense + i, n_dense + j] = second[:, model.local_bin[i]] * local[:, i] * local[:, j]

        hessian[:, :n_varied, :n_varied] += self._varied_with_varied(weight)
        wide_part, local_part = self._varied_with_direct(weight)
        hessian[:, :n_varied, n_varied:n_dense] += wide_part
        hessian[:, n_varied:n_dense, :n_varied] += wide_part.mT
        mixed[:, :n_varied] += local_part
        hessian[:, :n_dense, n_dense:] = mixed
        hessian[:, n_dense:, :n_dense] = mixed.mT
        # The rate is linear in each direct factor, so only pairs of slots of one cell.
        cells = (weight.unsqueeze(1) * self._additive).unsqueeze(-1) * self._leave_out(model.without_two)
        total = cells.new_zeros(n, model.n_pairs).scatter_add_(
            1, model.to_pair.expand(n, -1), cells.flatten(1)
        )
        total = total[:, : model.pair.shape[1]]
        i, j = model.pair + n_varied
        hessian[:, i, j] += total
        hessian[:, j, i] += total
        return gradient, hessian.index_select(1, model.column).index_select(2, model.column)

    def _varied_with_varied(self, weight: Tensor) -> Tensor:
        """Second derivatives by interpolated parameters: ``A'' F + A' F' + F' A' + A F''`` of additive part and
        scaling, shape ``(n, n_varied, n_varied)``."""
        model, n = self._model, self._n
        size = len(model.varied)
        total = weight.new_zeros(n, size, size)
        common = weight.unsqueeze(1) * self._factor
        if len(model.shifted):
            asymmetric = model.templates[len(model.shifted) :]
            bend = self._bend[2] * (common.flatten(1) @ asymmetric.T)
            total[:, model.shift_rows, model.shift_rows] += bend
        if len(model.scaled):
            slopes, events = self._scaling_slopes, self._by_group(weight.unsqueeze(1) * self.rates)
            both = (slopes * events.unsqueeze(1)) @ slopes.mT
            value, _, bent = self._scaling if self._scaling is not None else (torch.ones(()),) * 3
            both.diagonal(dim1=1, dim2=2).copy_(((bent / value) @ events.unsqueeze(-1)).squeeze(-1))
            total[:, model.scaling_rows.unsqueeze(1), model.scaling_rows] += both
            if len(model.shifted):
                parts = [
                    torch.bmm(
                        common[:, :, bins].transpose(0, 1), model.templates_by_bin[bins].transpose(0, 1)
                    )
                    for bins in model.bins
                ]
                # (n_channels, n_samples, n, 2 n_shifted) to (n, n_groups, n_shifted)
                products = torch.stack(parts, dim=1).flatten(0, 1).transpose(0, 1)
                mixed = slopes @ self._shift_slopes(products)
                total[:, model.scaling_rows.unsqueeze(1), model.shift_rows] += mixed
                total[:, model.shift_rows.unsqueeze(1), model.scaling_rows] += mixed.mT
        return total

    def _varied_with_direct(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Second derivatives by an interpolated and a direct parameter: ``(n, n_varied, n_wide)`` and
        ``(n, n_varied, n_local)``."""
        model, n = self._model, self._n
        cells = weight[:, None, :, None] * self._without_one
        n_wide, n_local, n_cells = len(model.wide), len(model.local), model.nominal.numel()
        on_cells = self._added(cells, model.to_wide_cell, (n_wide + 1) * n_cells)[:, : n_wide * n_cells]
        on_cells = on_cells.view(n, n_wide, n_cells)
        on_samples = self._added(cells, model.to_local_sample, (n_local + 1) * model.n_samples)
        on_samples = on_samples[:, : n_local * model.n_samples].view(n, n_local, model.n_samples)
        wide = weight.new_zeros(n, len(model.varied), n_wide)
        local = weight.new_zeros(n, len(model.varied), n_local)
        if len(model.shifted):
            wide.index_add_(1, model.shift_rows, self._shift_slopes(on_cells @ model.templates.T).mT)
            products = torch.bmm(on_samples.transpose(0, 1), model.local_templates).transpose(0, 1)
            local.index_add_(1, model.shift_rows, self._shift_slopes(products).mT)
        if len(model.scaled):
            events = (on_cells * self._additive.flatten(1).unsqueeze(1)).view(n, n_wide, *model.nominal.shape)
            groups = (events @ model.in_channel).flatten(2)
            wide.index_add_(1, model.scaling_rows, self._scaling_slopes @ groups.mT)
            slopes = self._scaling_slopes.view(n, len(model.scaled), model.n_samples, -1)
            slopes = slopes.index_select(3, model.channel[model.local_bin])
            events = on_samples * self._additive.index_select(2, model.local_bin).mT
            local.index_add_(1, model.scaling_rows, torch.einsum("npsl,nls->npl", slopes, events))
        return wide, local

r"""Ratios of all samples at a chunk of events, and the sums over events that the unbinned term is made of.

With :math:`R_s(x;\alpha)` the ratio of sample s before its normalisation, everything the term needs are sums of
two kinds, with derivatives: over the reference :math:`\sum_i w_i R_s(x_i)`, and over the data
:math:`\sum_i w_i \ln \sum_s c_s R_s(x_i)` with coefficients c. A sample has slopes
:math:`q_k = \partial \ln R_s / \partial \alpha_k` for its own parameters alone.

`RatioModel` says what the samples are made of, `BoundRatios` is the model bound to events, `Point` is where it is
evaluated (a batch of parameter values), and `Sums` are what is added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from neyman.errors import LikelihoodError
from neyman.likelihood.shapes import Columns, CompiledShape, Effect, Shape, UpDownRatio
from neyman.likelihood.updown import Code4Point, Scratch, UpDownStack
from neyman.likelihood.yields import YieldFactor

_TO_BASE_2 = 1.0 / math.log(2.0)


@dataclass(frozen=True)
class UnbinnedSample:
    """One process: its yield, the column of its nominal log-ratio and what its parameters do.

    Parameters
    ----------
    name
        Name of the process.
    expected
        Nominal number of events; negative for a component that interferes destructively.
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


class _Layout(NamedTuple):
    """Where the effects of one sample are: its ratios in the stack, then the other shapes with their parameters.

    `positions` gives the parameter of each row of the sample's slopes.
    """

    log_ratio: str
    stack: slice
    others: tuple[tuple[Shape, tuple[int, ...]], ...]
    positions: torch.Tensor


class Point(NamedTuple):
    """Shape parameters `alpha`, float64 ``(n_rows, n_parameters)`` on the CPU, prepared for a model.

    `code4` is None where no up/down ratio has an effect.
    """

    alpha: torch.Tensor
    order: int
    strict: bool
    code4: Code4Point | None


class Ratios(NamedTuple):
    r"""Ratios at n events with their logarithmic derivatives, for each row of a batch.

    Parameters
    ----------
    ratio
        :math:`R_s`, shape ``(n_samples, n_rows, n)``.
    lowest
        Smallest code4 factor; when it is not positive the ratios mean nothing, shape ``(n_rows,)``.
    slopes
        :math:`q_k` of each sample, shape ``(n_slopes, n_rows, n)``; empty below order 1.
    bends
        Second derivatives of :math:`\ln R_s` that are diagonal, as `slopes`; empty below order 2.
    full
        Those that are not, of each sample: first row, and shape ``(p, p, n_rows, n)``.
    """

    ratio: torch.Tensor
    lowest: torch.Tensor
    slopes: tuple[torch.Tensor, ...] = ()
    bends: tuple[torch.Tensor, ...] = ()
    full: tuple[tuple[tuple[int, torch.Tensor], ...], ...] = ()


class RatioModel:
    """What the ratios of all samples are made of.

    Parameters
    ----------
    samples
        Processes.
    names
        Shape parameters, in the order of `alpha`.
    """

    def __init__(self, samples: Sequence[UnbinnedSample], names: Sequence[str]) -> None:
        position = {name: k for k, name in enumerate(names)}
        self.n_parameters = len(names)
        self._ratios: list[UpDownRatio] = []
        self.layouts: list[_Layout] = []
        for sample in samples:
            stacked = [shape for shape in sample.shapes if isinstance(shape, UpDownRatio)]
            others = [shape for shape in sample.shapes if not isinstance(shape, UpDownRatio)]
            first = len(self._ratios)
            self._ratios += stacked
            index = [position[name] for shape in [*stacked, *others] for name in shape.parameters]
            self.layouts.append(
                _Layout(
                    sample.log_ratio,
                    slice(first, len(self._ratios)),
                    tuple((shape, tuple(position[name] for name in shape.parameters)) for shape in others),
                    torch.tensor(index, dtype=torch.long),
                )
            )
        self._stacked = torch.tensor([position[r.parameter] for r in self._ratios], dtype=torch.long)
        shapes = [*self._ratios, *(shape for layout in self.layouts for shape, _ in layout.others)]
        names_read = [s.log_ratio for s in samples] + [name for shape in shapes for name in shape.columns]
        self.columns = tuple(dict.fromkeys(names_read))

    @property
    def n_slopes(self) -> int:
        """Number of (sample, parameter) pairs."""
        return sum(len(layout.positions) for layout in self.layouts)

    def point(self, alpha: torch.Tensor, order: int, device: torch.device, *, strict: bool = True) -> Point:
        """Prepare a batch of parameter values, shape ``(n_rows, n_parameters)``."""
        code4 = Code4Point(alpha[:, self._stacked].T, order, device) if self._ratios else None
        return Point(alpha, order, strict, None if code4 is None or code4.idle else code4)

    def bind(self, columns: Columns, *, keep: int = 0) -> BoundRatios:
        """Bind the model to events; `keep` is that of `UpDownStack`."""
        return BoundRatios(
            self,
            UpDownStack(
                [columns[r.up] for r in self._ratios], [columns[r.down] for r in self._ratios], keep=keep
            ),
            [columns[layout.log_ratio] for layout in self.layouts],
            [[shape.compile(columns) for shape, _ in layout.others] for layout in self.layouts],
        )


class BoundRatios:
    """A `RatioModel` bound to events."""

    def __init__(
        self,
        model: RatioModel,
        stack: UpDownStack,
        nominal: Sequence[torch.Tensor],
        others: Sequence[Sequence[CompiledShape]],
    ) -> None:
        self.model, self._stack, self._nominal, self._others = model, stack, nominal, others

    def __len__(self) -> int:
        return len(self._nominal[0])

    def columns(self, point: Point) -> list[torch.Tensor]:
        """Return the columns that `at` wants gathered, in its order."""
        return [*self._nominal, *(self._stack.columns(point.code4) if point.code4 else ())]

    def not_positive(self, point: Point, rows: slice) -> tuple[int, UpDownRatio] | None:
        """Return the first of the events `rows` with a factor that is not positive, and that factor's ratio."""
        if point.code4 is None:
            return None
        scratch = Scratch()
        logs = scratch.gather(self.columns(point), rows)[len(self._nominal) :]
        factors = self._stack.factors(point.code4, rows, logs, scratch)[:, 0, 0]
        bad = torch.nonzero(~(factors > 0.0).T)
        return None if not len(bad) else (rows.start + int(bad[0, 0]), self.model._ratios[int(bad[0, 1])])

    def at(self, point: Point, rows: slice, scratch: Scratch, gathered: torch.Tensor | None = None) -> Ratios:
        """Return the ratios of the events `rows`; they are valid until `scratch` is used again.

        `gathered` may give the `columns` of these events, shape ``(n_columns, n)``.
        """
        if gathered is None:
            gathered = scratch.gather(self.columns(point), rows)
        layouts, n_rows, n = self.model.layouts, len(point.alpha), gathered.shape[1]
        ratio = scratch.empty("ratio", len(layouts), n_rows, n, device=gathered.device)
        ratio.copy_(gathered[: len(layouts), None]).mul_(_TO_BASE_2).exp2_()
        effects = [
            [
                [self._effect(shape, point, row, at, rows) for row in range(n_rows)]
                for shape, (_, at) in zip(compiled, layout.others, strict=True)
            ]
            for compiled, layout in zip(self._others, layouts, strict=True)
        ]
        factors, lowest = None, ratio.new_full((n_rows,), torch.inf)
        if point.code4 is not None:
            factors = self._stack.factors(point.code4, rows, gathered[len(layouts) :], scratch)
            lowest = factors[:, 0].amin(-1).amin(0)
        for s, layout in enumerate(layouts):
            if factors is not None and layout.stack.stop > layout.stack.start:
                ratio[s] *= factors[layout.stack, 0].prod(0)
            for shape in effects[s]:
                for row, effect in enumerate(shape):
                    if effect.log is not None:
                        ratio[s, row] *= effect.log.to(ratio.device).exp()
                    if effect.factor is not None:
                        ratio[s, row] *= effect.factor.to(ratio.device)
        if point.order == 0:
            return Ratios(ratio, lowest)
        if factors is not None:  # from derivatives of the factors to those of their logarithms
            factors[:, 1:] /= factors[:, :1]
        slopes = _slopes(factors, layouts, effects, ratio)
        if point.order == 1:
            return Ratios(ratio, lowest, slopes)
        if factors is not None:
            factors[:, 2].addcmul_(factors[:, 1], factors[:, 1], value=-1.0)
        return Ratios(ratio, lowest, slopes, *_bends(factors, layouts, effects, slopes))

    @staticmethod
    def _effect(shape: CompiledShape, point: Point, row: int, at: tuple[int, ...], rows: slice) -> Effect:
        try:
            return shape.at(point.alpha[row, list(at)], rows, point.order)
        except LikelihoodError:
            if point.strict:
                raise
            nothing = torch.full((rows.stop - rows.start,), torch.nan, dtype=torch.float64)
            return Effect(log=nothing, first=nothing.expand(len(at), -1))


Effects = Sequence[Sequence[Sequence[Effect]]]


def _slopes(
    factors: torch.Tensor | None, layouts: Sequence[_Layout], effects: Effects, like: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    found = []
    for layout, shapes in zip(layouts, effects, strict=True):
        parts = [] if factors is None else [factors[layout.stack, 1]]
        parts += [
            torch.stack([_given(effect.first) for effect in rows], 1).to(like.device) for rows in shapes
        ]
        none = like.new_zeros(0, *like.shape[1:])
        found.append(parts[0] if len(parts) == 1 else torch.cat(parts) if parts else none)
    return tuple(found)


def _bends(
    factors: torch.Tensor | None,
    layouts: Sequence[_Layout],
    effects: Effects,
    slopes: Sequence[torch.Tensor],
) -> tuple[tuple[torch.Tensor, ...], tuple[tuple[tuple[int, torch.Tensor], ...], ...]]:
    diagonal, full = [], []
    for layout, shapes, slope in zip(layouts, effects, slopes, strict=True):
        parts = [] if factors is None else [factors[layout.stack, 2]]
        blocks = []
        row = layout.stack.stop - layout.stack.start
        for by_row in shapes:
            second = [effect.second for effect in by_row]
            p = len(_given(by_row[0].first))
            if all(one is not None and one.ndim == 2 for one in second):
                parts.append(torch.stack([_given(one) for one in second], 1).to(slope.device))
            else:
                parts.append(torch.zeros_like(slope[row : row + p]))
            if any(one is not None and one.ndim == 3 for one in second):
                zero = slope.new_zeros(p, p, slope.shape[-1])
                given = [zero if one is None else one.to(slope.device) for one in second]
                blocks.append((row, torch.stack(given, 2)))
            row += p
        diagonal.append(parts[0] if len(parts) == 1 else torch.cat(parts) if parts else slope)
        full.append(tuple(blocks))
    return tuple(diagonal), tuple(full)


def _given(tensor: torch.Tensor | None) -> torch.Tensor:
    if tensor is None:
        raise LikelihoodError("a shape gave no derivatives although they were asked for")
    return tensor


class Sums(NamedTuple):
    r"""Sums over events for each row of a batch, all float64 with leading axis ``n_rows``.

    With weights :math:`t_s`, which are :math:`w R_s` over the reference and :math:`w R_s / \rho` over the data for
    the density :math:`\rho = \sum_s c_s R_s`:

    Parameters
    ----------
    log
        :math:`\sum w \ln\rho`; zero over the reference.
    share
        :math:`\sum t_s`, shape ``(n_rows, n_samples)``.
    first
        :math:`\sum t_s q_k` of each sample, shape ``(n_rows, n_slopes)``.
    second
        :math:`c_s \sum t_s (q_k q_l + \partial_k q_l)` of each sample, ``(n_rows, n_slopes, n_slopes)``.
    outer
        :math:`\sum w\, g g^T` with :math:`g = \partial\ln\rho/\partial(c, \alpha)`; zero over the reference.
    lowest
        Smallest density or factor.
    """

    log: torch.Tensor
    share: torch.Tensor
    lowest: torch.Tensor
    first: tuple[torch.Tensor, ...] = ()
    second: tuple[torch.Tensor, ...] = ()
    outer: torch.Tensor | None = None

    def plus(self, other: Sums) -> Sums:
        """Return the sums over the events of both."""
        return Sums(
            self.log + other.log,
            self.share + other.share,
            torch.minimum(self.lowest, other.lowest),
            tuple(a + b for a, b in zip(self.first, other.first, strict=True)),
            tuple(a + b for a, b in zip(self.second, other.second, strict=True)),
            None if self.outer is None or other.outer is None else self.outer + other.outer,
        )

    def packed(self) -> torch.Tensor:
        """Return all numbers of a row side by side, `lowest` first, shape ``(n_rows, n_numbers)``."""
        outer = () if self.outer is None else (self.outer,)
        tensors = [self.lowest, self.log, self.share, *self.first, *self.second, *outer]
        return torch.cat([tensor.reshape(len(self.log), tensor[0].numel()) for tensor in tensors], 1)

    def unpacked(self, numbers: torch.Tensor) -> Sums:
        """Return sums of the same shapes with other numbers, as `packed` gives them."""
        start = 0

        def following(like: torch.Tensor) -> torch.Tensor:
            nonlocal start
            start += like[0].numel()
            return numbers[:, start - like[0].numel() : start].reshape(like.shape)

        lowest, log, share = following(self.lowest), following(self.log), following(self.share)
        first = tuple(following(one) for one in self.first)
        second = tuple(following(one) for one in self.second)
        return Sums(log, share, lowest, first, second, None if self.outer is None else following(self.outer))

    def to(self, device: torch.device | str) -> Sums:
        """Return the sums on a device."""
        return Sums(
            self.log.to(device),
            self.share.to(device),
            self.lowest.to(device),
            tuple(part.to(device) for part in self.first),
            tuple(part.to(device) for part in self.second),
            None if self.outer is None else self.outer.to(device),
        )


def zero_sums(model: RatioModel, n_rows: int, order: int, device: torch.device) -> Sums:
    """Return the sums over no events."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(n_rows, *shape, dtype=torch.float64, device=device)

    sizes, n = [len(layout.positions) for layout in model.layouts], len(model.layouts) + model.n_parameters
    return Sums(
        zeros(),
        zeros(len(sizes)),
        zeros() + torch.inf,
        tuple(zeros(k) for k in sizes) if order > 0 else (),
        tuple(zeros(k, k) for k in sizes) if order > 1 else (),
        zeros(n, n) if order > 1 else None,
    )


def join_rows(parts: Sequence[Sums]) -> Sums:
    """Return the sums of several batches as one batch."""
    if len(parts) == 1:
        return parts[0]
    outer = [part.outer for part in parts if part.outer is not None]
    return Sums(
        torch.cat([part.log for part in parts]),
        torch.cat([part.share for part in parts]),
        torch.cat([part.lowest for part in parts]),
        tuple(torch.cat(of_sample) for of_sample in zip(*(part.first for part in parts), strict=True)),
        tuple(torch.cat(of_sample) for of_sample in zip(*(part.second for part in parts), strict=True)),
        torch.cat(outer) if outer else None,
    )


def by_parameter(model: RatioModel, sums: Sums) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and second moments by shape parameter, zero for those that a sample does not have.

    Shapes ``(n_rows, n_samples, n_parameters)`` and ``(n_rows, n_samples, n_parameters, n_parameters)``.
    """
    n_rows, n_samples = sums.share.shape
    k = model.n_parameters
    first = sums.share.new_zeros(n_rows, n_samples, k)
    second = sums.share.new_zeros(n_rows, n_samples, k, k)
    for s, layout in enumerate(model.layouts):
        if sums.first:
            first[:, s].index_add_(1, layout.positions, sums.first[s])
        if sums.second:
            rows = second.new_zeros(n_rows, k, len(layout.positions)).index_add_(
                1, layout.positions, sums.second[s]
            )
            second[:, s].index_add_(2, layout.positions, rows)
    return first, second


def reference_sums(ratios: Ratios, weight: torch.Tensor, order: int) -> Sums:
    """Return the sums over a chunk of reference events with `weight`, shape ``(n,)``."""
    none = torch.zeros_like(ratios.lowest)
    share = ratios.ratio * weight
    first = _first(ratios, share) if order > 0 else ()
    second = tuple(_second(ratios, s, own)[0] for s, own in enumerate(share)) if order > 1 else ()
    return Sums(none, share.sum(-1).T, ratios.lowest, first, second)


def data_sums(
    model: RatioModel, ratios: Ratios, weight: torch.Tensor, coefficients: torch.Tensor, order: int
) -> Sums:
    """Return the sums over a chunk of data with `weight`, shape ``(n,)``, and `coefficients` of the samples, shape
    ``(n_rows, n_samples)``."""
    density = mixture(ratios, coefficients)
    lowest = torch.minimum(ratios.lowest, density.amin(-1))
    log = density.log() @ weight
    if order == 0:
        return Sums(log, torch.zeros_like(coefficients), lowest)
    share = ratios.ratio * (weight / density)
    first = _first(ratios, share)
    if order == 1:
        return Sums(log, share.sum(-1).T, lowest, first)
    by_shape = density.new_zeros(model.n_parameters, *density.shape)
    second = []
    for s, layout in enumerate(model.layouts):
        block, weighted = _second(ratios, s, share[s] * coefficients[:, s, None])
        second.append(block)
        by_shape.index_add_(0, layout.positions.to(density.device), weighted)
    weighted = torch.cat([share, by_shape]).transpose(0, 1)
    slopes = weighted * torch.where(weight == 0.0, 0.0, 1.0 / weight)
    outer = weighted @ slopes.transpose(1, 2)
    return Sums(log, share.sum(-1).T, lowest, first, tuple(second), outer)


def mixture(ratios: Ratios, coefficients: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\rho = \sum_s c_s R_s` for coefficients ``(n_rows, n_samples)``, shape ``(n_rows, n)``."""
    return (coefficients.T[..., None] * ratios.ratio).sum(0)


def log_slopes(model: RatioModel, ratios: Ratios, coefficients: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\partial\ln\rho/\partial(c, \alpha)`, shape ``(n_samples + n_parameters, n_rows, n)``."""
    share = ratios.ratio / mixture(ratios, coefficients)
    by_shape = share.new_zeros(model.n_parameters, *share.shape[1:])
    for s, layout in enumerate(model.layouts):
        weighted = ratios.slopes[s] * (share[s] * coefficients[:, s, None])
        by_shape.index_add_(0, layout.positions.to(share.device), weighted)
    return torch.cat([share, by_shape])


def _first(ratios: Ratios, share: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(
        (slope.transpose(0, 1) @ own[..., None])[..., 0]
        for slope, own in zip(ratios.slopes, share, strict=True)
    )


def _second(ratios: Ratios, s: int, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the second moments of one sample, and its slopes times `share`, which is ``(n_rows, n)``."""
    slope = ratios.slopes[s]
    weighted = slope * share
    block = weighted.transpose(0, 1) @ slope.permute(1, 2, 0)
    block.diagonal(dim1=1, dim2=2).add_((ratios.bends[s].transpose(0, 1) @ share[..., None])[..., 0])
    for row, full in ratios.full[s]:
        p = len(full)
        block[:, row : row + p, row : row + p] += torch.einsum("klrn,rn->rkl", full, share)
    return block, weighted

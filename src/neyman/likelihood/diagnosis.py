"""Why an unbinned likelihood is undefined: a second pass that finds the event and names it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from neyman.errors import LikelihoodError
from neyman.likelihood.density import Point, UnbinnedSample, mixture
from neyman.likelihood.passes import BoundEvents, Piece
from neyman.likelihood.updown import Scratch


def undefined_data(
    data: BoundEvents,
    samples: Sequence[UnbinnedSample],
    point: Point,
    yields: torch.Tensor,
    mean: torch.Tensor,
) -> LikelihoodError:
    """Return the error of the first event whose density is not positive, or whose ratios are undefined.

    Parameters
    ----------
    data
        Observed events.
    samples
        Processes.
    point
        One point of order 0.
    yields, mean
        Yields and mean ratios of the samples there, shape ``(n_samples,)``.
    """
    find = partial(_undefined_event, samples=samples, point=point, yields=yields, mean=mean)
    return data.first(find) or LikelihoodError("the sum over the events is not finite", where=data.where)


def _undefined_event(
    data: BoundEvents,
    *,
    samples: Sequence[UnbinnedSample],
    point: Point,
    yields: torch.Tensor,
    mean: torch.Tensor,
) -> LikelihoodError | None:
    coefficients = (yields / mean).to(data.device)
    for piece in data.spans():
        if (error := _bad_factor(data, point, piece)) is not None:
            return error
        ratios = piece.ratios.at(point, piece.rows, Scratch())
        density = mixture(ratios, coefficients[None])[0]
        defined = (density > 0.0) & torch.isfinite(density * piece.weight[piece.rows])
        bad = torch.nonzero(~defined)
        if not len(bad):
            continue
        i = int(bad[0])
        event = piece.rows.start + i
        if (error := _bad_column(data, piece, event)) is not None:
            return error
        terms = zip(samples, yields.tolist(), (ratios.ratio[:, 0, i].cpu() / mean).tolist(), strict=True)
        shares = ", ".join(f"{s.name}: {n:.4g} x {r:.4g}" for s, n, r in terms)
        return LikelihoodError(
            f"the total density of {data.source.place(piece.start + event)} is {float(density[i]):.4g}, it must be "
            f"positive",
            where=f"{data.where}; yield x ratio of the samples: {shares}",
            fix="raise the lower bound of the signal strength, or look at this event's log-ratios",
        )
    return None


def undefined_reference(
    reference: BoundEvents, samples: Sequence[UnbinnedSample], point: Point, mean: torch.Tensor, values: str
) -> LikelihoodError:
    """Return the error of mean ratios that are not positive; parameters as for `undefined_data`, `values` names the
    shape parameters' values."""
    if (error := reference.first(partial(_undefined_ratio, point=point))) is not None:
        return error
    bad = [s.name for s, m in zip(samples, mean.tolist(), strict=True) if not m > 0.0]
    return LikelihoodError(
        f"the mean ratio of {', '.join(bad)} over the reference sample is not a positive number",
        where=f"{reference.where}; {values}",
    )


def _undefined_ratio(reference: BoundEvents, *, point: Point) -> LikelihoodError | None:
    for piece in reference.spans():
        if (error := _bad_factor(reference, point, piece)) is not None:
            return error
        ratio = piece.ratios.at(point, piece.rows, Scratch()).ratio[:, 0]
        for row in torch.nonzero(~torch.isfinite(ratio).all(0))[:1, 0].tolist():
            if (error := _bad_column(reference, piece, piece.rows.start + row)) is not None:
                return error
    return None


def _bad_factor(events: BoundEvents, point: Point, piece: Piece) -> LikelihoodError | None:
    found = piece.ratios.not_positive(point, piece.rows)
    if found is None:
        return None
    row, ratio = found
    if (error := _bad_column(events, piece, row)) is not None:
        return error
    return LikelihoodError(
        f"a code4 polynomial is not positive between the nominal and the varied ratios {ratio.up!r} and "
        f"{ratio.down!r}",
        where=f"{events.where}, first at {events.source.place(piece.start + row)}",
        expected="up and down log-ratios closer to 0",
        fix="use code1, or look at this event's log-ratios",
    )


def _bad_column(events: BoundEvents, piece: Piece, row: int) -> LikelihoodError | None:
    for name, value in piece.values_at(row).items():
        if not math.isfinite(value):
            return LikelihoodError(
                f"{name!r} is not finite ({value})",
                where=f"{events.where}, {events.source.place(piece.start + row)}",
            )
    return None

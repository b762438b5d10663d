"""Numbers per event and lists of numbers per event, as plain numpy arrays.

A :class:`Column` is what every branch becomes, however the events were read; the functions here act on columns,
without a loop over events. A number per event stands for a list of one wherever a list is asked for, and a missing
number for an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Column:
    """One number per event, or one list of numbers per event.

    Parameters
    ----------
    values
        One number per event ``(n_events,)``, or those of all lists, one list after the other.
    valid
        False where a number is missing, of the shape of `values`; None when none is.
    offsets
        Of the lists, ``(n_events + 1,)``: event i has ``values[offsets[i]:offsets[i + 1]]``. None for one number
        per event.
    """

    values: NDArray[Any]
    valid: Mask | None = None
    offsets: Offsets | None = None


Value = Column | float


class LengthError(ValueError):
    """Lists that are to be combined do not have the same lengths."""


def lists(column: Column) -> tuple[NDArray[Any], Mask | None, Offsets]:
    """Values, validity and offsets of a column as lists."""
    if column.offsets is not None:
        return column.values, column.valid, column.offsets
    if column.valid is None:
        return column.values, None, np.arange(len(column.values) + 1)
    return column.values[column.valid], None, _cumulative(column.valid)


def apply(function: Callable[..., Any], arguments: Sequence[Value]) -> Column:
    """Apply a function of numbers, element by element; numbers per event go to every element of a list.

    The result is missing where an argument is; for ``numpy.where``, where the condition or the choice is.
    """
    offsets, aligned = _align(arguments)
    values = function(*(a.values if isinstance(a, Column) else a for a in aligned))
    known = [a.valid if isinstance(a, Column) else None for a in aligned]
    if function is np.where and (known[1] is not None or known[2] is not None):
        first, second = (np.True_ if valid is None else valid for valid in known[1:])
        condition = aligned[0].values if isinstance(aligned[0], Column) else aligned[0]
        known[1:] = [np.where(condition, first, second)]
    valid = None
    for mask in known:
        if mask is not None:
            valid = mask if valid is None else valid & mask
    return Column(values, valid, offsets)


def fill(column: Column, other: Value) -> Column:
    """Replace missing numbers by those of `other`."""
    offsets, aligned = _align([column, other])
    first, second = aligned
    values = first.values if isinstance(first, Column) else np.asarray(first)
    valid = first.valid if isinstance(first, Column) else None
    known = np.ones(len(values), dtype=bool) if valid is None else valid
    if not isinstance(second, Column):
        return Column(np.where(known, values, second), None, offsets)
    chosen = np.where(known, values, second.values)
    return Column(chosen, None if second.valid is None else known | second.valid, offsets)


def select(column: Column, condition: Column) -> Column:
    """Keep the elements of lists where a condition is true; a missing condition is not."""
    if condition.values.dtype != bool and len(condition.values):
        raise TypeError(f"the condition in brackets is {condition.values.dtype}, not true or false")
    offsets, (first, second) = _align([Column(*lists(column)), condition])
    if not isinstance(first, Column) or not isinstance(second, Column) or offsets is None:
        raise TypeError("a condition needs a list")
    keep = second.values.astype(bool, copy=False)
    if second.valid is not None:
        keep = keep & second.valid
    return _compress(first, keep, offsets)


def take(column: Column, index: int) -> Column:
    """Number `index` of every list, from the end if negative; missing where a list is too short."""
    values, known, offsets = lists(column)
    counts = np.diff(offsets)
    if index >= 0:
        valid, where = counts > index, offsets[:-1] + index
    else:
        valid, where = counts >= -index, offsets[1:] + index
    if valid.all():
        result, known = values[where], None if known is None else known[where]
        return Column(result, known)
    result = np.zeros(len(counts), dtype=values.dtype)
    result[valid] = values[where[valid]]
    if known is not None:
        valid[valid] = known[where[valid]]
    return Column(result, valid)


def cut(column: Column, start: int | None, stop: int | None) -> Column:
    """Elements `start` to `stop` of every list, as in a slice of Python."""
    values, known, offsets = lists(column)
    counts = np.diff(offsets)
    position = np.arange(len(values)) - np.repeat(offsets[:-1], counts)
    keep = np.ones(len(values), dtype=bool)
    for bound, sign in ((start, 1), (stop, -1)):
        if bound is not None:
            edge = bound if bound >= 0 else np.repeat(counts + bound, counts)
            keep &= position >= edge if sign > 0 else position < edge
    return _compress(Column(values, known), keep, offsets)


def order(key: Column) -> Column:
    """Indices that bring every list into decreasing order of a key; equal ones stay in order, missing ones go last."""
    values, known, offsets = lists(key)
    identity = np.arange(len(values))
    event = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if values.dtype == bool:
        values = values.astype(np.int64)
    if known is None:
        descends = (values[1:] <= values[:-1]) | (event[1:] != event[:-1])
        if descends.all():
            return Column(identity, None, offsets)
        return Column(np.lexsort((-values, event)), None, offsets)
    return Column(np.lexsort((-values, ~known, event)), None, offsets)


def arrange(column: Column, indices: Column) -> Column:
    """Bring lists into the order of :func:`order`."""
    column = Column(*lists(column))
    offsets, _ = _align([column, indices])
    valid = None if column.valid is None else column.valid[indices.values]
    return Column(column.values[indices.values], valid, offsets)


def join(columns: Sequence[Column]) -> Column:
    """Concatenate the lists of every event."""
    parts = [lists(column) for column in columns]
    counts = [np.diff(offsets) for _, _, offsets in parts]
    offsets = np.concatenate([[0], np.cumsum(sum(counts))]).astype(np.int64)
    values = np.empty(int(offsets[-1]), dtype=np.result_type(*(values for values, _, _ in parts)))
    valid = None if all(known is None for _, known, _ in parts) else np.ones(len(values), dtype=bool)
    begin = offsets[:-1]
    for (part, known, own), count in zip(parts, counts, strict=True):
        target = np.repeat(begin - own[:-1], count) + np.arange(len(part))
        values[target] = part
        if valid is not None and known is not None:
            valid[target] = known
        begin = begin + count
    return Column(values, valid, offsets)


def reduce(kind: str, column: Column) -> Column:
    """One number for every list, missing elements left out.

    ``sum`` (float64 or int64) and ``count`` of an empty list are 0, ``any`` is false and ``all`` true; ``max`` and
    ``min`` are missing.
    """
    values, known, offsets = lists(column)
    if known is not None:
        values, _, offsets = lists(_compress(Column(values), known, offsets))
    counts = np.diff(offsets)
    if kind == "count":
        return Column(counts)
    if kind == "sum":
        values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    if kind in ("any", "all"):
        values = values.astype(bool)
    filled = counts > 0
    result = np.full(len(counts), kind == "all", dtype=values.dtype)
    if filled.any():
        result[filled] = _REDUCE[kind].reduceat(values, offsets[:-1][filled])
    return Column(result, None if kind not in ("max", "min") or filled.all() else filled)


_REDUCE: dict[str, np.ufunc] = {
    "sum": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}


def _align(arguments: Sequence[Value]) -> tuple[Offsets | None, list[Value]]:
    """Offsets of the lists among the arguments, which must agree, and all arguments in the same shape."""
    offsets: Offsets | None = None
    for argument in arguments:
        if isinstance(argument, Column) and argument.offsets is not None:
            if offsets is None:
                offsets = argument.offsets
            elif offsets is not argument.offsets and not np.array_equal(offsets, argument.offsets):
                event = int(np.argmax(np.diff(offsets) != np.diff(argument.offsets)))
                raise LengthError(
                    f"lists of different lengths, first in event {event}: "
                    f"{np.diff(offsets)[event]} and {np.diff(argument.offsets)[event]}"
                )
    if offsets is None:
        return None, list(arguments)
    counts = np.diff(offsets)
    return offsets, [
        Column(np.repeat(a.values, counts), None if a.valid is None else np.repeat(a.valid, counts), offsets)
        if isinstance(a, Column) and a.offsets is None
        else a
        for a in arguments
    ]


def _compress(column: Column, keep: Mask, offsets: Offsets) -> Column:
    valid = None if column.valid is None else column.valid[keep]
    return Column(column.values[keep], valid, _cumulative(keep)[offsets])


def _cumulative(mask: Mask) -> Offsets:
    total = np.zeros(len(mask) + 1, dtype=np.int64)
    np.cumsum(mask, out=total[1:])
    return total

"""Columns out of events of any kind: NanoEvents, eager or virtual, records of awkward, and flat columns by name.

The same branch gives the same :class:`~neyman.events.features.columns.Column`, bit by bit, whatever it was read
with; only the fields asked for are read. Arrays are taken by their layout, because the vector classes of coffea
refuse a collection that lacks one of their fields. Works with awkward 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

from neyman.errors import InputError, nearest
from neyman.events.expression import widen
from neyman.events.features.columns import Column
from neyman.events.features.layout import branch, counter, members, spellings


class Reader:
    """Reads fields of collections and plain columns.

    Parameters
    ----------
    events
        An array of awkward with fields, such as NanoEvents, or a mapping from names to arrays.

    Raises
    ------
    InputError
        Neither, or there are no columns.
    """

    def __init__(self, events: Any) -> None:
        if isinstance(events, ak.Array):
            self.names = list(ak.fields(events))
        elif isinstance(events, Mapping) or hasattr(events, "columns"):
            self.names = [str(name) for name in events]
        else:
            self.names = []
        if not self.names:
            raise InputError(
                f"the events, a {type(events).__name__}, have no named columns",
                expected="NanoEvents, records of awkward, or a dictionary of arrays",
            )
        self.events = events
        self.size = len(events) if isinstance(events, ak.Array) else -1
        """Number of events; of flat columns, once the first is read."""
        self._first = "the record"
        self._fields: dict[str, list[str]] = {}

    def has(self, collection: str | None, field: str | None) -> bool:
        """Whether a field, or the objects of a collection if `field` is None, can be read."""
        return self._path(collection, field) is not None

    def read(self, collection: str | None, field: str | None) -> Column:
        """Return a field of a collection, a plain column, or True for each object of a collection.

        Raises
        ------
        InputError
            It is not there, not numbers, or nested more deeply than one list per event.
        """
        path = self._path(collection, field)
        label = ".".join(filter(None, (collection, field)))
        if path is None:
            raise InputError(f"the events have no {label}", expected=self._alternatives(collection, field))
        array = self.events.layout if isinstance(self.events, ak.Array) else self.events
        for name in path:
            array = array[name]
        column = _objects(array, label) if field is None else _numbers(array, label)
        if field is None and column.offsets is None and collection and path[0] == counter(collection, path):
            column = _counted(column, label)
        length = len(column.values) if column.offsets is None else len(column.offsets) - 1
        if self.size < 0:
            self.size, self._first = length, label
        if length != self.size:
            raise InputError(f"{label} has {length} events, {self._first} has {self.size}")
        return column

    def where(self, event: int) -> str:
        """Say which event this is, for a message."""
        metadata = getattr(self.events, "metadata", None)
        known = metadata if isinstance(metadata, Mapping) else {}
        chunk = [str(known[key]) for key in ("filename", "dataset") if key in known]
        if "entrystart" in known and "entrystop" in known:
            chunk.append(f"chunk of entries {known['entrystart']} to {known['entrystop']}")
        return f"event {event} of the {self.size} given" + (f" ({', '.join(chunk)})" if chunk else "")

    def _path(self, collection: str | None, field: str | None) -> tuple[str, ...] | None:
        """Names that lead from the events to an array."""
        if collection is None:
            return (field,) if field and field in self.names else None
        inside = self._inside(collection)
        if field is None:
            if inside or collection in self.names:
                return (collection,)
            flat = counter(collection, self.names) or next(iter(members(collection, self.names)), None)
            return (flat,) if flat else None
        for name in spellings(field):
            if name in inside:
                return (collection, name)
        flat = branch(collection, field, self.names)
        return (flat,) if flat else None

    def _inside(self, collection: str) -> list[str]:
        if collection not in self._fields:
            nested = isinstance(self.events, ak.Array) and collection in self.names
            self._fields[collection] = list(ak.fields(self.events.layout[collection])) if nested else []
        return self._fields[collection]

    def _alternatives(self, collection: str | None, field: str | None) -> str:
        if collection is None:
            return nearest(str(field), self.names)
        inside = self._inside(collection)
        if inside:
            return ", ".join(f"{collection}.{name}" for name in nearest(str(field), inside).split(", "))
        return nearest(f"{collection}_{field}", members(collection, self.names) or self.names)


def _layout(array: Any) -> Any:
    if isinstance(array, ak.Array):
        return array.layout
    if hasattr(array, "purelist_depth"):
        return array
    return ak.Array(np.asarray(array) if hasattr(array, "__array__") else array).layout


def _objects(array: Any, label: str) -> Column:
    """True for each object; reads the lengths of lists and no field."""
    layout = _layout(array)
    if not ak.fields(layout):
        column = _numbers(layout, label)
        if column.offsets is None:
            return column  # perhaps a counter
        return Column(np.ones(len(column.values), dtype=bool), None, column.offsets)
    try:
        if layout.purelist_depth > 1:
            offsets = _offsets(layout)
            return Column(np.ones(int(offsets[-1]), dtype=bool), None, offsets)
        everywhere = np.ones(len(layout), dtype=bool)
        kind = ak.type(layout)
        kind = kind.content if isinstance(kind, ak.types.ArrayType) else kind  # awkward 2, 1
        if not isinstance(kind, ak.types.OptionType):
            return Column(everywhere)
        missing = np.asarray(ak.is_none(layout))
        return Column(everywhere, ~missing if missing.any() else None)
    except (TypeError, ValueError) as error:
        raise _unusable(label, layout, error) from error


def _counted(counts: Column, label: str) -> Column:
    if counts.values.dtype.kind not in "iu" or counts.valid is not None or (counts.values < 0).any():
        raise InputError(f"the number of {label} is not a whole number for each event")
    offsets = np.concatenate([[0], np.cumsum(counts.values)]).astype(np.int64)
    return Column(np.ones(int(offsets[-1]), dtype=bool), None, offsets)


def _numbers(array: Any, label: str) -> Column:
    try:
        if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "biuf":
            return Column(_native(array))
        layout = _layout(array)
        if ak.fields(layout):
            raise InputError(
                f"{label} is a collection with fields, not a number",
                expected=", ".join(f"{label}.{name}" for name in ak.fields(layout)[:3]),
            )
        depth = layout.purelist_depth
        if depth == 1:
            values, valid = _flat(layout)
            return Column(values, valid)
        if depth > 2:
            raise ValueError(f"it has {depth} axes")
        values, valid = _flat(ak.flatten(layout, axis=1))
        return Column(values, valid, _offsets(layout))
    except (TypeError, ValueError, OverflowError) as error:
        raise _unusable(label, array, error) from error


def _offsets(array: Any) -> Any:
    """Offsets of lists; an event without a list has an empty one."""
    counts = ak.num(array, axis=1)
    numbers = np.ma.filled(ak.to_numpy(counts, allow_missing=True), 0)
    return np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64)


def _flat(array: Any) -> tuple[Any, Any]:
    """Values and validity of an array of one axis."""
    numbers = ak.to_numpy(array, allow_missing=True)
    valid = None
    if isinstance(numbers, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(numbers)
        # What lies under the mask differs between ways of reading.
        numbers = np.where(missing, np.zeros((), numbers.dtype), numbers.data)
        valid = ~missing if missing.any() else None
    if numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
        raise ValueError(f"it holds {numbers.dtype}")
    return _native(numbers), valid


def _native(numbers: Any) -> Any:
    if numbers.dtype == np.float16:
        return numbers.astype(np.float32)
    return widen(numbers.astype(numbers.dtype.newbyteorder("="), copy=False))


def _unusable(label: str, array: Any, error: Exception) -> InputError:
    return InputError(
        f"{label} is not a number, or a list of numbers, for each event: {str(error).splitlines()[0]}",
        where=str(ak.type(array))[:200],
    )

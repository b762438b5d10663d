"""Events to the matrix that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError, nearest

Array = NDArray[np.float32]
_NUMBERS = "biuf"  # kinds of numpy types


def is_matrix(events: Any) -> bool:
    """Tell whether events are a matrix, in which features have an order in place of names."""
    if isinstance(events, np.ndarray):
        return events.dtype.names is None
    return not isinstance(events, Mapping) and hasattr(events, "fields") and not events.fields


def matrix(events: Any, features: Sequence[str], width: int | None = None) -> Array:
    """Return the features of `events` as a finite float32 matrix ``(n_events, n_features)``.

    Parameters
    ----------
    events
        Mapping of arrays, awkward array or numpy record array with a field for every feature, one number an event; or
        a matrix.
    features
        Names of the features, in order.
    width
        Number of features of a matrix without names.

    Raises
    ------
    InputError
        When a feature is missing, masked, jagged, of another length, or not finite: with the number of events and the
        first.
    """
    if is_matrix(events):
        x = _numbers(events, features, len(features) if width is None else width)
    else:
        x = _stacked(events, features)
    if not np.isfinite(x).all():
        bad = np.argwhere(~np.isfinite(x))
        event, column = bad[0]
        raise InputError(
            f"feature {features[column] if features else column!r} is not finite",
            where=f"event {event}; {len(np.unique(bad[:, 0]))} of {len(x)} events have such features",
            fix="fill or drop these events before scoring",
        )
    return x


def _numbers(events: Any, features: Sequence[str], width: int) -> Array:
    expected = f"columns {', '.join(features)}" if features else None
    if isinstance(events, np.ma.MaskedArray):
        if np.ma.getmaskarray(events).any():
            raise InputError("the matrix of features has masked values", fix="fill them, or drop the events")
        events = events.data
    try:
        given = events if isinstance(events, np.ndarray) else _to_numpy(events)
    except (TypeError, ValueError) as error:
        raise InputError(f"the events are no matrix of numbers: {error}", expected=expected) from error
    if given.dtype.kind not in _NUMBERS:
        raise InputError(f"the events are no matrix of numbers: {given.dtype}", expected=expected)
    x = _float32(given)
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(f"expected a matrix of shape (n_events, {width}), got {x.shape}", expected=expected)
    return x


def _stacked(events: Any, features: Sequence[str]) -> Array:
    if isinstance(events, Mapping):
        available = list(events)
    elif isinstance(events, np.ndarray):
        available = list(events.dtype.names or ())
    elif hasattr(events, "fields"):
        available = list(events.fields)
    else:
        raise InputError(
            f"the events are a {type(events).__name__}",
            expected="an awkward array, a mapping of arrays, or a matrix",
        )
    for name in features:
        if name not in available:
            raise InputError(
                f"the events have no feature {name!r}",
                where="fields of the events",
                fix=f"nearest names: {nearest(name, available)}; or describe the features by a FeatureSpec",
            )
    columns = [_flat(events[name], name) for name in features]
    lengths = {name: len(column) for name, column in zip(features, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InputError(
            "features have different lengths", where=", ".join(f"{n}: {k}" for n, k in lengths.items())
        )
    x = np.empty((len(columns[0]) if columns else 0, len(columns)), dtype=np.float32)
    for k, column in enumerate(columns):
        x[:, k] = column
    return x


def _flat(values: Any, name: str) -> Array:
    """Return one number an event as float32; a masked one is an error, never a NaN."""
    if isinstance(values, np.ma.MaskedArray):
        if missing := int(np.ma.getmaskarray(values).sum()):
            raise _masked(name, missing, len(values))
        values = values.data
    try:
        array = values if isinstance(values, np.ndarray) else _to_numpy(values)
    except (TypeError, ValueError) as error:
        raise _unfit(values, name) from error
    if array.ndim != 1:
        raise InputError(
            f"feature {name!r} is jagged: {array.ndim} dimensions",
            expected="one number an event",
            fix="take e.g. [:, 0]",
        )
    if array.dtype.kind not in _NUMBERS:
        raise InputError(f"feature {name!r} is not a number an event: {array.dtype}")
    return _float32(array)


def _unfit(values: Any, name: str) -> InputError:
    """Say why values cannot be one number an event."""
    import awkward as ak

    array = values if isinstance(values, ak.Array) else ak.Array(values)
    missing = int(ak.sum(ak.is_none(array)))
    if array.ndim != 1:
        return InputError(
            f"feature {name!r} is jagged: {array.ndim} dimensions",
            expected="one number an event",
            fix="take e.g. [:, 0]",
        )
    if missing:
        return _masked(name, missing, len(array))
    return InputError(f"feature {name!r} is not a number an event: {ak.type(array)}")


def _masked(name: str, missing: int, n: int) -> InputError:
    return InputError(
        f"feature {name!r} is missing (masked) in {missing} of {n} events", fix="use ak.fill_none"
    )


def _to_numpy(values: Any) -> NDArray[Any]:
    if not hasattr(values, "fields"):
        return np.asarray(values)
    import awkward as ak

    return np.asarray(ak.to_numpy(values, allow_missing=False))


def _float32(array: NDArray[Any]) -> Array:
    with np.errstate(over="ignore"):  # to infinity, which is refused with the number of events
        return np.asarray(array, dtype=np.float32)

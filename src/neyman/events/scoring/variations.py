"""All systematic variations of a chunk: their features, and one evaluation of a model on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError, NeymanError
from neyman.events.scoring.features import Features
from neyman.events.scoring.matrix import is_matrix, matrix
from neyman.events.scoring.reference import Options, Reference, session
from neyman.events.scoring.signature import Signature

Array = NDArray[np.float32]


class Tables:
    """The features of all variations, computed once for all models that share a description of them."""

    def __init__(self, variations: Mapping[str, Any]) -> None:
        self.variations = variations
        self._computed: dict[tuple[str, str], Any] = {}

    def matrices(self, spec: Features | None, names: Sequence[str], width: int) -> dict[str, Array]:
        out = {}
        for name, events in self.variations.items():
            with variation_named(name):
                columns = self._columns(name, events, spec)
                if not names and not is_matrix(columns):
                    raise InputError(
                        "the model does not name its features",
                        fix="say which fields they are: features=('pt', ...), or give a matrix",
                    )
                out[name] = matrix(columns, names, width)
        return out

    def _columns(self, name: str, events: Any, spec: Features | None) -> Any:
        if spec is None or isinstance(events, Mapping) or is_matrix(events):
            return events
        key = (name, spec.digest)
        if key not in self._computed:
            self._computed[key] = spec(events)
        return self._computed[key]


def evaluate(
    reference: Reference,
    options: Options,
    own: Signature,
    x: Mapping[str, Array],
    z: NDArray[np.float32],
) -> dict[str, Array]:
    """Evaluate a model on several matrices at once, ``(n, n_outputs)`` each.

    Rows that equal those of the same place in the base are evaluated once; bits are compared, so that it is exact.
    """
    if not sum(map(len, x.values())):
        return {name: np.empty((len(rows), own.outputs), dtype=np.float32) for name, rows in x.items()}
    base = "nominal" if "nominal" in x else next(iter(x))
    others = {name: _changed(rows, x[base]) for name, rows in x.items() if name != base}
    pieces = [x[base], *(x[name][rows] for name, rows in others.items())]
    inputs = np.concatenate(pieces) if others else x[base]
    if len(z):
        inputs = np.concatenate([inputs, np.broadcast_to(z, (len(inputs), len(z)))], axis=1)
    scores = session(reference, options)(inputs)
    ends = np.cumsum([len(piece) for piece in pieces])
    out = {base: _finite(scores[: ends[0]], base)}
    for (name, rows), result in zip(others.items(), np.split(scores, ends[:-1])[1:], strict=True):
        if len(result) == len(x[name]):
            out[name] = _finite(result, name)
        else:
            out[name] = out[base].copy()
            out[name][rows] = result
            _finite(out[name], name)
    return out


def _changed(rows: Array, base: Array) -> Any:
    """Return which rows are not those of the base, all of them where there are not as many."""
    if rows.shape != base.shape:
        return slice(None)
    different = (rows.view(np.int32) != base.view(np.int32)).any(axis=1)
    return slice(None) if different.all() else np.flatnonzero(different)


def _finite(y: Array, name: str) -> Array:
    if not np.isfinite(y).all():
        bad = np.flatnonzero(~np.isfinite(y).all(axis=1))
        with variation_named(name):
            raise InputError(
                f"the network output of {len(bad)} events is not finite",
                where=f"first at event {bad[0]}",
                fix="look for extreme features of these events",
            )
    return y


@contextmanager
def variation_named(name: str) -> Iterator[None]:
    """Say in which variation an error is."""
    try:
        yield
    except NeymanError as error:
        if not name:
            raise
        where = f"variation {name!r}" + (f", {error.where}" if error.where else "")
        raise type(error)(error.what, where=where, expected=error.expected, fix=error.fix) from error

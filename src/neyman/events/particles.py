"""Sets of particles as flat columns, which is how tables, training and model files carry them.

:func:`padded` turns a jagged collection of coffea or awkward into the columns that
:class:`neyman.networks.PET` reads: all features of the first particle, then of the second, ..., with 0 after the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, InputError, NeymanWarning
from neyman.events.columns import require


def padded(
    collection: ak.Array, fields: Sequence[str], particles: int, name: str = "particle"
) -> dict[str, NDArray[np.float32]]:
    """Give every event the same number of particles.

    Parameters
    ----------
    collection
        Records, a list of any length for each event, in the order in which they are to be kept (sort by transverse
        momentum first).
    fields
        Features of a particle. A :class:`~neyman.networks.PET` takes the first two as eta and phi relative to an
        axis, wrapped to [-pi, pi].
    particles
        Number of particles to keep; events with fewer are filled up with 0.
    name
        Beginning of the names of the columns.

    Returns
    -------
    Columns ``{name}{i}_{field}``, each float32 ``(n_events,)``, particle by particle.

    Raises
    ------
    ConfigError
        When there are no fields, or no room for a particle.
    InputError
        When the collection is not a list of records for each event, a field is missing or not a number, or the
        features of a particle are all 0, which stands for no particle.

    Warns
    -----
    NeymanWarning
        When particles are left out, with their number and that of the events.

    Examples
    --------
    >>> jets = ak.Array([[{"eta": 0.1, "phi": 3.0, "pt": 50.0}], []])
    >>> columns = padded(jets, ("eta", "phi"), particles=2, name="jet")
    >>> {name: column.tolist() for name, column in columns.items()}["jet0_phi"]
    [3.0, 0.0]
    >>> list(columns)
    ['jet0_eta', 'jet0_phi', 'jet1_eta', 'jet1_phi']
    """
    if isinstance(fields, str) or not fields or len(set(fields)) != len(fields):
        raise ConfigError(f"fields are {fields!r}", expected="different names, e.g. ('eta', 'phi', 'pt')")
    if particles < 1:
        raise ConfigError(f"there is room for {particles} particles", expected="at least 1")
    for field in fields:
        require(field, ak.fields(collection), name)
    flat = [_numbers(collection[field], field, name) for field in fields]
    counts = np.asarray(ak.num(collection[fields[0]], axis=1))
    event = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(event)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.stack(flat, axis=1)
    empty = ~values.any(axis=1)
    if empty.any():
        raise InputError(
            f"the features of {int(empty.sum())} particles are all 0, which stands for no particle",
            where=f"{name}, first in event {event[empty.argmax()]}",
            fix="cut them away, or add a feature that is not 0, such as the transverse momentum",
        )
    kept = position < particles
    if not kept.all():
        longer = int((counts > particles).sum())
        warnings.warn(
            f"{name}: {len(kept) - int(kept.sum())} particles of {longer} of {len(counts)} events are left out; the "
            f"largest event has {counts.max()}, kept are {particles}",
            NeymanWarning,
            stacklevel=2,
        )
    table = np.zeros((len(counts), particles, len(fields)), dtype=np.float32)
    table[event[kept], position[kept]] = values[kept]
    return {
        f"{name}{i}_{field}": np.ascontiguousarray(table[:, i, k])
        for i in range(particles)
        for k, field in enumerate(fields)
    }


def _numbers(values: ak.Array, field: str, name: str) -> NDArray[np.float32]:
    """All particles' values, one event after the other."""
    try:
        if values.ndim != 2:
            raise ValueError(f"it has {values.ndim} axes")
        if bool(ak.any(ak.is_none(values, axis=0))) or bool(ak.any(ak.is_none(values, axis=1), axis=None)):
            raise ValueError("values are missing")
        numbers = ak.to_numpy(ak.flatten(values, axis=1), allow_missing=False)
        if numbers.dtype.kind not in "biuf":
            raise ValueError(f"it holds {numbers.dtype}")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"field {field!r} is not one number a particle: {error}",
            where=f"{name}, {values.type}",
            expected="a list of numbers for each event",
        ) from error
    with np.errstate(over="ignore"):
        return np.asarray(numbers, dtype=np.float32)

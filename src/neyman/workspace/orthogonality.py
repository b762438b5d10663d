"""`check_orthogonal`: no event stands in two regions of one likelihood."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import WorkspaceError

EventIds: TypeAlias = ArrayLike | tuple[ArrayLike, ...]
Ids: TypeAlias = NDArray[np.integer]


def check_orthogonal(
    regions: Mapping[str, Mapping[str, EventIds]], *, alternatives: Collection[frozenset[str]] = ()
) -> None:
    """Check that no event of a sample is in two regions, so that the product of their likelihoods is one.

    Samples are compared with the sample of the same name alone, the data too if it is given as one.

    Parameters
    ----------
    regions
        Region to sample to the integer ids of its events: one array of shape ``(n,)``, or a tuple of arrays of
        that shape (run, event). An id that a region holds twice (replicas, variations) is fine.
    alternatives
        Pairs of regions that never stand in one likelihood, such as an unbinned channel and the binned one that
        it replaces; they may share events.

    Raises
    ------
    WorkspaceError
        When two regions share events, or ids are not integers, differ in length, or regions give different columns.
    """
    samples = dict.fromkeys(sample for of_region in regions.values() for sample in of_region)
    for sample in samples:
        columns = {
            region: _columns(of_region[sample], f"region {region}, sample {sample}")
            for region, of_region in regions.items()
            if sample in of_region
        }
        codes = _codes(columns, sample)
        for one, other in combinations(columns, 2):
            if frozenset((one, other)) in alternatives:
                continue
            shared = np.intersect1d(codes[one], codes[other])
            if len(shared):
                first = int(np.argmax(np.isin(codes[one], shared)))
                ids = tuple(int(column[first]) for column in columns[one])
                raise WorkspaceError(
                    f"regions {one!r} and {other!r} share {len(shared)} events of sample {sample!r}",
                    where=f"first id {ids[0] if len(ids) == 1 else ids}",
                    expected="every event in one region of a likelihood, or it counts twice",
                    fix="make the selections exclusive: veto in one region what the other selects",
                )


def _columns(ids: EventIds, where: str) -> tuple[Ids, ...]:
    columns = tuple(np.asarray(column) for column in (ids if isinstance(ids, tuple) else (ids,)))
    if not columns or any(column.ndim != 1 for column in columns):
        raise WorkspaceError(
            f"event ids have shape {', '.join(str(c.shape) for c in columns) or '()'}",
            where=where,
            expected="one array of n ids, or a tuple of such arrays (run, event)",
        )
    if len({len(column) for column in columns}) > 1:
        raise WorkspaceError(
            f"the columns of the event ids have {', '.join(str(len(c)) for c in columns)} events",
            where=where,
            expected="one length",
        )
    for column in columns:
        # An empty list is an array of floats.
        if column.dtype.kind not in "iu" and len(column):
            raise WorkspaceError(
                f"event ids are {column.dtype}",
                where=where,
                expected="integers",
                fix="use the event's number, not a feature; rounded ids would coincide",
            )
    return tuple(column if len(column) else column.astype(np.int64) for column in columns)


def _codes(columns: Mapping[str, Sequence[Ids]], sample: str) -> dict[str, Ids]:
    """Return by region one integer an event, equal for the same id and for nothing else."""
    widths = {region: len(of_region) for region, of_region in columns.items()}
    if len(set(widths.values())) > 1:
        given = ", ".join(f"{region} {n}" for region, n in widths.items())
        raise WorkspaceError(
            f"the event ids of sample {sample!r} have different numbers of columns: {given}",
            expected="the same columns, such as (run, event), in every region",
        )
    codes, *others = (_joined(parts, sample) for parts in zip(*columns.values(), strict=True))
    for column in others:
        # Places among the distinct ids are below the number of events, whose square fits 64 bits.
        first, second = (np.unique(ids, return_inverse=True)[1] for ids in (codes, column))
        codes = first * (second.max(initial=0) + 1) + second
    ends = np.cumsum([len(of_region[0]) for of_region in columns.values()])
    return dict(zip(columns, np.split(codes, ends[:-1]), strict=True))


def _joined(parts: Sequence[Ids], sample: str) -> Ids:
    """Return one array; signed and unsigned 64 bits together would become floats that are equal too often."""
    if np.result_type(*parts).kind in "iu":
        return np.concatenate(parts)
    largest = np.iinfo(np.int64).max
    if any(part.dtype.kind == "u" and part.max(initial=0) > largest for part in parts):
        raise WorkspaceError(
            f"event ids of sample {sample!r} are signed in one region and above {largest} in another",
            expected="one integer type in every region",
            fix="give all of them as int64: ids.view(np.int64)",
        )
    return np.concatenate([part.astype(np.int64) for part in parts])

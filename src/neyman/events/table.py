"""Events as a matrix of features with weights: what every network, ratio and histogram is trained from.

Build an :class:`EventTable` with ``from_root``, ``from_parquet``, ``from_awkward`` or ``from_arrays``; all of
them apply the same cut, weight and checks. Features are columns of a flat ntuple, or expressions over collections
(:class:`~neyman.events.features.FeatureSpec`), which the networks trained on the table then carry in their files.
Several regions and shifted objects go through :func:`~neyman.events.processing.runner.process_files` first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import ConfigError, InputError
from neyman.events.columns import (
    Columns,
    MemorySource,
    ParquetSource,
    Paths,
    RootSource,
    Source,
    check_finite,
    check_fraction,
    expand,
    require,
    write_parquet,
)
from neyman.events.draws import uniform
from neyman.events.features import FeatureSpec
from neyman.events.wanted import Features, Wanted


@dataclass(frozen=True, eq=False)
class EventTable:
    """Features, weights and further columns of a set of events.

    Parameters
    ----------
    features
        Names of the columns of `x`.
    x
        float32, (n_events, n_features).
    weight
        float64, (n_events,), of any sign.
    extra
        Further columns by name, each (n_events,): values of nuisance parameters, the event's id ``entry``, ...
    spec
        How the features were computed from collections, where they were; dropped where one of them is not of it.

    Raises
    ------
    InputError
        Shapes disagree, or a feature or a weight is NaN or infinite.
    """

    features: tuple[str, ...]
    x: NDArray[np.float32]
    weight: NDArray[np.float64]
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    spec: FeatureSpec | None = None

    def __post_init__(self) -> None:
        features = tuple(self.features)
        if len(set(features)) != len(features) or set(features) & {"weight", *self.extra}:
            raise ConfigError(f"a column has two meanings: features {features}, extra {tuple(self.extra)}")
        if self.spec is not None and not set(features) <= set(self.spec.features):
            object.__setattr__(self, "spec", None)  # some of them come from elsewhere
        with np.errstate(over="ignore"):
            x = np.asarray(self.x, dtype=np.float32)
        weight = np.asarray(self.weight, dtype=np.float64)
        extra = {name: np.asarray(column) for name, column in self.extra.items()}
        shapes = {"x": x.shape, "weight": weight.shape} | {n: c.shape for n, c in extra.items()}
        n = len(weight) if weight.ndim else 0
        if shapes.pop("x") != (n, len(features)) or any(shape != (n,) for shape in shapes.values()):
            raise InputError(
                f"shapes disagree: x {x.shape}, " + ", ".join(f"{k} {v}" for k, v in shapes.items()),
                expected=f"x (n_events, {len(features)}), all others (n_events,)",
            )
        for index, name in enumerate(features):
            check_finite(x[:, index], f"feature {name}", "event table")
        check_finite(weight, "weight", "event table")
        for name, value in (("features", features), ("x", x), ("weight", weight), ("extra", extra)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_root(
        cls,
        files: Paths,
        *,
        features: Features,
        weight: str | None = None,
        cut: str | None = None,
        tree: str = "Events",
        extra: Sequence[str] = (),
        entry_stop: int | None = None,
    ) -> EventTable:
        """Read TTrees or RNTuples.

        Parameters
        ----------
        files
            A path, a URL, a glob pattern, or a list of them.
        features
            Names of columns that hold one number per event, or a :class:`~neyman.events.features.FeatureSpec`, by
            which features are computed from the collections of NanoAOD and other trees.
        weight
            A column or an expression of columns; every event counts 1 without it.
        cut
            An expression; see :func:`neyman.events.expression.evaluate`. Beside a specification it is an expression of
            its language, with its definitions; where it is missing, as ``Tau.pt[0] > 20`` is without a tau, an event
            does not pass. Only events that pass need to have all features.
        extra
            Names of further columns that hold one number per event.
        tree
            Name of the tree in the files.
        entry_stop
            Read at most this many entries of each file.

        Raises
        ------
        InputError
            A file, tree or column is missing or of the wrong kind; a feature or weight is not finite (names
            the event and the file); no event passes the cut; the weights do not sum to a positive number.
        ConfigError
            The cut or the weight is not a legal expression.
        """
        sources = [RootSource(path, tree, entry_stop) for path in expand(files)]
        return cls._from_sources(sources, features, weight, cut, extra)

    @classmethod
    def from_parquet(
        cls,
        files: Paths,
        *,
        features: Features,
        weight: str | None = None,
        cut: str | None = None,
        extra: Sequence[str] = (),
    ) -> EventTable:
        """Read Parquet files; a folder stands for all ``*.parquet`` below it. Otherwise as `from_root`."""
        sources = [ParquetSource(path) for path in expand(files, ".parquet")]
        return cls._from_sources(sources, features, weight, cut, extra)

    @classmethod
    def from_awkward(
        cls, array: ak.Array, *, features: Features, weight: str | None = None, extra: Sequence[str] = ()
    ) -> EventTable:
        """Take the fields of an awkward record array, one record an event; a specification takes NanoEvents too."""
        columns: dict[str, Any] = {name: array[name] for name in ak.fields(array)}
        if not isinstance(features, FeatureSpec):
            return cls._from_sources(
                [MemorySource(columns, "the awkward array")], features, weight, None, extra
            )
        source = MemorySource(columns | features(array), "the awkward array")
        return replace(cls._from_sources([source], features.features, weight, None, extra), spec=features)

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, ArrayLike],
        *,
        features: Features,
        weight: str | None = None,
        cut: str | None = None,
        extra: Sequence[str] = (),
    ) -> EventTable:
        """Take columns by name: a dictionary of arrays, or a pandas data frame."""
        arrays: dict[str, Any] = {name: columns[name] for name in columns}
        arrays = {n: a if isinstance(a, ak.Array) else np.asanyarray(a) for n, a in arrays.items()}
        return cls._from_sources([MemorySource(arrays)], features, weight, cut, extra)

    @classmethod
    def _from_sources(
        cls,
        sources: Sequence[Source],
        features: Features,
        weight: str | None,
        cut: str | None,
        extra: Sequence[str],
    ) -> EventTable:
        wanted = Wanted.of(features, weight, cut, extra)
        parts = [part for source in sources for part in wanted.read(source)]
        n_read, n_kept = sum(part.n_read for part in parts), sum(len(part.weight) for part in parts)
        where = sources[0].where + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
        if not n_kept:
            what = f"no event passes the cut {cut!r}; {n_read} before" if cut else "there are no events"
            raise InputError(what, where=where)
        table = cls.concat(EventTable(wanted.features, p.x, p.weight, p.extra, wanted.spec) for p in parts)
        if table.weight.sum() <= 0:
            n_negative = int((table.weight < 0).sum())
            raise InputError(
                f"the weights sum to {table.weight.sum():g}; {n_negative} of {n_kept} are negative",
                where=where,
                expected="a positive sum",
                fix=f"check the weight {weight!r}",
            )
        return table

    def __len__(self) -> int:
        return len(self.weight)

    def column(self, name: str) -> NDArray[Any]:
        """Return a feature, an extra column or ``"weight"``, (n_events,)."""
        if name in self.features:
            return self.x[:, self.features.index(name)]
        if name == "weight":
            return self.weight
        require(name, [*self.features, "weight", *self.extra], "event table")
        return self.extra[name]

    def select(self, mask: ArrayLike) -> EventTable:
        """Return the events where `mask` is true, or at these indices."""
        index = np.asarray(mask)
        if index.dtype.kind not in "biu" or (index.dtype == bool and index.shape != (len(self),)):
            raise InputError(
                f"mask is {index.dtype} of shape {index.shape}",
                expected=f"bool of shape ({len(self)},) or integer indices",
            )
        extra = {name: column[index] for name, column in self.extra.items()}
        return replace(self, x=self.x[index], weight=self.weight[index], extra=extra)

    @staticmethod
    def concat(tables: Iterable[EventTable]) -> EventTable:
        """Put tables one after the other; they must have the same features and extra columns."""
        parts = list(tables)
        if not parts:
            raise InputError("no tables to concatenate")
        first = parts[0]
        for part in parts[1:]:
            if part.features != first.features or set(part.extra) != set(first.extra):
                raise InputError(
                    "tables have different columns",
                    where=f"{(*part.features, *part.extra)}",
                    expected=f"{(*first.features, *first.extra)}",
                    fix="choose the same ones with with_features, or when reading",
                )
        return EventTable(
            first.features,
            np.concatenate([part.x for part in parts]),
            np.concatenate([part.weight for part in parts]),
            {name: np.concatenate([part.extra[name] for part in parts]) for name in first.extra},
            first.spec if all(part.spec == first.spec for part in parts) else None,
        )

    def scaled(self, factor: float) -> EventTable:
        """Return the table with every weight multiplied by `factor`."""
        return replace(self, weight=self.weight * factor)

    def with_features(self, names: Sequence[str]) -> EventTable:
        """Return the table with these features, in this order; extra columns may become features."""
        x = np.stack([self.column(name) for name in names], axis=1) if names else self.x[:, :0]
        extra = {name: column for name, column in self.extra.items() if name not in names}
        return EventTable(tuple(names), x, self.weight, extra, self.spec)

    @property
    def inputs(self) -> dict[str, Any] | None:
        """How a network trained on the table gets its features from events, for its file; None if they are columns."""
        return None if self.spec is None else self.spec.to_dict()

    def split(self, fraction: float, *, seed: int, by: str = "entry") -> tuple[EventTable, EventTable]:
        """Split into two tables, `fraction` of the events in the first.

        An event's side depends on `seed` and on its integer id in column `by` alone: tables of the nominal
        and of a varied processing, or replicas of an event, never put one event on both sides.
        """
        check_fraction(fraction)
        ids = self.column(by)
        if ids.dtype.kind not in "iu":
            raise InputError(f"column {by!r} is {ids.dtype}", expected="integer ids of events")
        first = uniform(("split", seed), ids.astype(np.int64)) < fraction
        return self.select(first), self.select(~first)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write one Parquet file, atomically: features float32, then ``weight`` and the extra columns."""
        columns: Columns = {name: self.x[:, i] for i, name in enumerate(self.features)}
        write_parquet(path, columns | {"weight": self.weight} | dict(self.extra))

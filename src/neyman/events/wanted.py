"""What is wanted of each event, and reading it: features, weight, cut and further columns of a :class:`Source`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, InputError
from neyman.events import expression
from neyman.events.columns import Columns, Source, check_finite, require
from neyman.events.features import FeatureSpec

Features: TypeAlias = Sequence[str] | FeatureSpec
_CUT = "passes"


class Part(NamedTuple):
    """Events of a chunk that pass the cut, and how many there were before it."""

    n_read: int
    x: NDArray[np.float32]
    weight: NDArray[np.float64]
    extra: Columns


@dataclass(frozen=True)
class Wanted:
    """Features, weight, cut and further columns; see :meth:`neyman.events.table.EventTable.from_root`."""

    features: tuple[str, ...]
    weight: str | None
    cut: str | None
    extra: tuple[str, ...]
    spec: FeatureSpec | None = None

    @classmethod
    def of(cls, features: Features, weight: str | None, cut: str | None, extra: Sequence[str]) -> Wanted:
        """Check the arguments.

        Raises
        ------
        ConfigError
            One is of the wrong kind, or there are no features.
        """
        if isinstance(features, str) or isinstance(extra, str):
            raise ConfigError("features and extra are lists of names", expected="features=['lep_pt', 'met']")
        if weight is not None and not isinstance(weight, str):
            raise ConfigError(
                f"weight is a {type(weight).__name__}",
                expected="the name of a column, or an expression of columns",
                fix="add the array to the columns and give its name",
            )
        spec = features if isinstance(features, FeatureSpec) else None
        names = features.features if isinstance(features, FeatureSpec) else tuple(features)
        if not names:
            raise ConfigError("no features are given", expected="at least one column name")
        return cls(names, weight, cut, tuple(extra), spec)

    @cached_property
    def _selection(self) -> FeatureSpec | None:
        """The cut, in the language and with the definitions of the specification; missing, it is not passed."""
        if self.spec is None or self.cut is None:
            return None
        return FeatureSpec({_CUT: self.cut}, {_CUT: 0.0}, self.spec.to_dict()["definitions"])

    def read(self, source: Source) -> Iterator[Part]:
        """Yield what is wanted, chunk by chunk.

        Raises
        ------
        InputError
            A column is missing or not a number an event, or a feature or weight is not finite, naming event and file.
        ConfigError
            The cut or the weight is not a legal expression, or gives something else.
        """
        available = source.names
        flat = [] if self.spec is not None else list(self.features)
        flat += self.extra
        for text in (self.weight, self.cut if self._selection is None else None):
            if text is not None:
                flat += [text] if text in available else expression.names(text)
        for name in flat:
            require(name, available, source.where)
        lists: dict[str, None] = {}
        for spec in (self.spec, self._selection):
            if spec is not None:
                lists |= dict.fromkeys(spec.branches(available))
        if not (flat or lists):
            raise InputError(
                "none of the branches that the features need are there",
                where=source.where,
                expected=", ".join(self.spec.branches()[:6]) if self.spec is not None else None,
            )
        for start, chunk in source.chunks(list(dict.fromkeys(flat)), tuple(lists)):
            yield self._select(chunk, start, source.where, tuple(lists))

    def _select(self, chunk: Columns, start: int, where: str, lists: tuple[str, ...]) -> Part:
        """Return the events that pass, checked while the file and entry are still known."""
        n = len(next(iter(chunk.values())))
        kept = np.flatnonzero(self._mask(chunk, n, lists, where, start))
        columns = {name: column[kept] for name, column in chunk.items()}
        events = start + kept
        x = np.empty((len(events), len(self.features)), dtype=np.float32)
        if self.spec is not None:
            given = {name: columns[name] for name in lists}
            place = f"{where}, entries from {start}, {len(kept)} events after the cut"
            for index, values in enumerate(_placed(self.spec, given, place).values()):
                x[:, index] = values
        else:
            with np.errstate(over="ignore"):
                for index, name in enumerate(self.features):
                    x[:, index] = columns[name]
                    check_finite(x[:, index], f"feature {name}", where, events)
        weights = np.ones(len(events))
        if self.weight is not None:
            own = self.weight
            weights[:] = columns[own] if own in columns else _number(own, columns)
            check_finite(weights, f"weight {own}", where, events)
        return Part(n, x, weights, {name: columns[name] for name in self.extra})

    def _mask(
        self, chunk: Columns, n: int, lists: tuple[str, ...], where: str, start: int
    ) -> NDArray[np.bool_]:
        if self.cut is None:
            return np.ones(n, dtype=bool)
        if self._selection is not None:
            given = {name: chunk[name] for name in lists}
            passes = _placed(self._selection, given, f"{where}, entries from {start}")[_CUT]
            if not np.isin(passes, (0.0, 1.0)).all():
                raise _no_condition("numbers", self.cut)
            return np.asarray(passes, dtype=bool)
        mask = np.asarray(expression.evaluate(self.cut, chunk))
        if mask.dtype != bool:
            raise _no_condition(str(mask.dtype), self.cut)
        return np.broadcast_to(mask, n)


def _placed(spec: FeatureSpec, columns: Mapping[str, Any], place: str) -> dict[str, NDArray[np.float32]]:
    """Compute a specification; an error says in which file."""
    try:
        return spec(columns)
    except InputError as error:
        raise InputError(
            error.what,
            where=f"{error.where} ({place})" if error.where else place,
            expected=error.expected,
            fix=error.fix,
        ) from error


def _no_condition(kind: str, cut: str) -> ConfigError:
    return ConfigError(f"the cut gives {kind}, not true or false", where=cut, fix="compare it: 'n_jets > 0'")


def _number(text: str, columns: Columns) -> NDArray[Any]:
    weight = np.asarray(expression.evaluate(text, columns))
    if weight.dtype.kind not in "biuf":
        raise ConfigError(f"the weight gives {weight.dtype}", where=text, expected="a number per event")
    return weight

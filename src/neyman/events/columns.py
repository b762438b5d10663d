"""Columns of numbers, one per event, from ROOT trees, Parquet files and arrays in memory.

Each kind of input is a :class:`Source`: it knows its column names and hands over chunks of the columns asked
for. :class:`~neyman.events.table.EventTable` is built from sources; nothing else reads files event by event.
Files may be URLs, of which only the bytes of these columns are read; see :mod:`~neyman.events.remote`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import awkward as ak
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import ConfigError, InputError, NeymanError, nearest
from neyman.events import remote
from neyman.files import atomic

Columns = dict[str, NDArray[Any]]
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

STEP = 500_000
INCOMPLETE = "check that the file is complete, or copy it again"


class Source(Protocol):
    """One file, or one set of arrays."""

    @property
    def where(self) -> str:
        """What to call it in a message."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""

    def chunks(self, names: Sequence[str], lists: Sequence[str] = ()) -> Iterator[tuple[int, Columns]]:
        """Yield (index of the first event, columns); those of `lists` are awkward arrays of any kind."""


@dataclass(frozen=True)
class RootSource:
    """A TTree or an RNTuple of one ROOT file."""

    where: str
    tree: str
    entry_stop: int | None = None

    @cached_property
    def names(self) -> list[str]:
        """Names of the branches."""
        with open_tree(self.where, self.tree) as tree:
            return list(tree.keys())

    def chunks(self, names: Sequence[str], lists: Sequence[str] = ()) -> Iterator[tuple[int, Columns]]:
        with open_tree(self.where, self.tree) as tree:
            total = int(tree.num_entries)
            stop = total if self.entry_stop is None else min(self.entry_stop, total)
            for start in range(0, stop, STEP):
                last = min(start + STEP, stop)
                columns = {name: self._read(tree, name, start, last) for name in lists}
                for name in names:
                    array = columns[name] if name in columns else self._read(tree, name, start, last)
                    columns[name] = as_numbers(array, name, self.where, start)
                yield start, columns

    def _read(self, tree: Any, name: str, start: int, stop: int) -> ak.Array:
        try:
            return tree[name].array(entry_start=start, entry_stop=stop, library="ak")
        except NeymanError:
            raise
        except Exception as error:
            raise InputError(
                f"cannot read branch {name!r}: {type(error).__name__}: {error}",
                where=f"{self.where}, entries {start} to {stop}",
                fix=INCOMPLETE,
            ) from error


@dataclass(frozen=True)
class ParquetSource:
    """One Parquet file."""

    where: str

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns."""
        import pyarrow.parquet

        return list(self._call(pyarrow.parquet.read_schema).names)

    def chunks(self, names: Sequence[str], lists: Sequence[str] = ()) -> Iterator[tuple[int, Columns]]:
        import pyarrow.parquet

        wanted = list(dict.fromkeys([*names, *lists]))
        table = self._call(pyarrow.parquet.read_table, columns=wanted, partitioning=None)
        columns = {name: ak.from_arrow(table[name]) for name in wanted}
        yield 0, columns | {name: as_numbers(columns[name], name, self.where) for name in names}

    def _call(self, function: Any, **options: Any) -> Any:
        import pyarrow as pa

        def at_url() -> Any:
            with remote.opened(self.where) as file:
                return function(file, **options)

        try:
            if remote.is_remote(self.where):
                return remote.patiently(at_url, self.where)
            return function(self.where, **options)
        except FileNotFoundError as error:
            raise _missing(self.where) from error
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"not a readable Parquet file: {str(error).splitlines()[0]}",
                where=self.where,
                fix="check the path; a ROOT file is read with EventTable.from_root",
            ) from error


@dataclass(frozen=True)
class MemorySource:
    """Arrays by name, all of one length."""

    columns: Mapping[str, ArrayLike | ak.Array]
    where: str = "the arrays given"

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def chunks(self, names: Sequence[str], lists: Sequence[str] = ()) -> Iterator[tuple[int, Columns]]:
        columns: dict[str, Any] = {name: self.columns[name] for name in lists}
        columns |= {name: as_numbers(self.columns[name], name, self.where) for name in names}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                "columns have different lengths",
                where=", ".join(f"{n}: {length}" for n, length in lengths.items()),
            )
        yield 0, columns


def expand(files: Paths, suffix: str = "") -> list[str]:
    """Paths and URLs of `files`.

    Patterns are expanded and sorted. Folders (URLs that end with ``/``, and those that a pattern matches) are
    searched for ``*suffix`` if `suffix` is given. ``@list.txt`` stands for the files of a list; see
    :func:`~neyman.events.remote.read_list`.

    Raises
    ------
    InputError
        No file matches, or a list cannot be read.
    """
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    found: list[str] = []
    for item in [os.fspath(path) for path in given]:
        for one in remote.read_list(item[1:]) if item.startswith("@") else [item]:
            found += _matches(one, suffix)
    if not found:
        raise InputError("no files are given", expected="a path, a URL, a pattern, or a list of them")
    return found


def _matches(item: str, suffix: str) -> list[str]:
    fix = "check the pattern and the folder"
    if remote.is_remote(item):
        if not (remote.is_pattern(item) or (suffix and item.endswith("/"))):
            return [item]
        matches = remote.find(item, suffix)
        fix = "check the URL; many web servers do not list their files: name them all, or use a list '@files.txt'"
    elif Path(item).is_file():
        return [item]
    elif suffix and Path(item).is_dir():
        matches = _below(item, suffix)
    elif any(c in item for c in "*?["):
        matches = []
        for match in sorted(glob.glob(item, recursive=True)):  # noqa: PTH207
            matches += _below(match, suffix) if suffix and Path(match).is_dir() else [match]
    else:
        raise _missing(item)
    if not matches:
        raise InputError("no file matches", where=item, fix=fix)
    return matches


def _below(folder: str, suffix: str) -> list[str]:
    return sorted(map(str, Path(folder).rglob(f"*{suffix}")))


def _missing(path: str) -> InputError:
    folder = Path(path).parent
    beside = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    expected = (
        f"in {folder}: {nearest(Path(path).name, beside)}" if beside else f"{folder} is missing or empty"
    )
    return InputError(f"{Path(path).name} does not exist", where=path, expected=expected)


def open_root(path: str) -> Any:
    """Open a ROOT file, as a context manager.

    Raises
    ------
    InputError
        The file is missing, cannot be reached, or is no ROOT file.
    MissingExtraError
        The package of a URL's protocol is not installed.
    """
    from neyman.events.ranges import open_file

    try:
        return open_file(path)
    except NeymanError:
        raise
    except FileNotFoundError as error:
        raise _missing(path) from error
    except Exception as error:
        raise InputError(
            f"not a readable ROOT file: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}",
            where=path,
            fix="check the path; a Parquet file is read with EventTable.from_parquet",
        ) from error


@contextmanager
def open_tree(path: str, name: str) -> Iterator[Any]:
    """Open a TTree or an RNTuple.

    Raises
    ------
    InputError, MissingExtraError
        As for :func:`open_root`, or the file has no such tree (lists the trees that it has).
    """
    file = open_root(path)
    with file:
        try:
            kinds = file.classnames(cycle=False)
            if name not in kinds or not _is_tree(kinds[name]):
                trees = [key for key, kind in kinds.items() if _is_tree(kind)]
                raise InputError(
                    f"no tree {name!r} in the file",
                    where=path,
                    expected=", ".join(trees) or "(it has no tree)",
                )
            tree = file[name]
        except NeymanError:
            raise
        except Exception as error:
            raise InputError(f"cannot open tree {name!r}: {error}", where=path, fix=INCOMPLETE) from error
        yield tree


def _is_tree(kind: str) -> bool:
    return kind in {"TTree", "TNtuple", "TNtupleD"} or "RNTuple" in kind


def as_numbers(array: ArrayLike | ak.Array, name: str, where: str, start: int = 0) -> NDArray[Any]:
    """Return `array` as numpy numbers, one per event.

    Raises
    ------
    InputError
        It is jagged, a record or text, or an event's value is missing (names the event, counted from `start`).
    """
    try:
        layout = array if isinstance(array, ak.Array) else ak.Array(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not one number per event: {error}", where=where) from error
    try:
        missing = np.asarray(ak.is_none(layout, axis=0))
        if missing.any():
            raise InputError(
                f"{name} has no value in {int(missing.sum())} of {len(missing)} events",
                where=f"{where}, first in event {start + int(missing.argmax())}",
                fix="give the missing values a number (ak.fill_none) or cut these events away",
            )
        numbers = np.asarray(ak.to_numpy(ak.drop_none(layout, axis=0), allow_missing=False))
    except (TypeError, ValueError) as error:
        raise _not_a_number(name, layout, where) from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
        raise _not_a_number(name, layout, where)
    return numbers


def _not_a_number(name: str, array: ak.Array, where: str) -> InputError:
    return InputError(
        f"{name} is not one number per event but {array.type.content}",
        where=where,
        fix="choose or compute a flat column, for example the first object's value or 0 where there is none",
    )


def write_parquet(path: str | os.PathLike[str], columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns to one Parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic(path) as part:
        # Dictionaries do not pay for continuous values: 8 times slower to write and larger.
        pq.write_table(pa.table(dict(columns)), part, use_dictionary=False)


def require(name: str, names: Sequence[str], where: str) -> None:
    """Raise an :class:`InputError` with the nearest spellings if `name` is not among `names`."""
    if name not in names:
        raise InputError(f"no column {name!r}", where=where, expected=nearest(name, names))


def check_finite(
    values: NDArray[Any], name: str, where: str, events: NDArray[np.int64] | None = None
) -> None:
    """Raise an :class:`InputError` if `values` has NaN or infinity; `events` are their indices in `where`."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        first = int(bad[0]) if events is None else int(events[bad[0]])
        raise InputError(
            f"{name} is {values[bad[0]]} in event {first}; not finite in {len(bad)} of {len(values)} events",
            where=where,
            expected="finite numbers",
            fix="compute the column differently for these events, or remove them with a cut",
        )


def check_fraction(fraction: float) -> None:
    """Raise a :class:`ConfigError` unless 0 < `fraction` < 1."""
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"fraction is {fraction}", expected="a number between 0 and 1")

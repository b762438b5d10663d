"""Event files that a configuration names, and the expressions of their columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.analysis.steps import file_key
from neyman.errors import ConfigError
from neyman.events import expression, remote
from neyman.events.columns import ParquetSource, RootSource, Source, expand

_SUFFIXES = (".root", ".parquet")
Home = str | os.PathLike[str]


def event_files(given: Sequence[str], home: Home) -> list[str]:
    """Return the files of paths, URLs, patterns, folders and lists (``@files.txt``), relative to `home`.

    Raises
    ------
    ConfigError
        When one is neither ROOT nor Parquet.
    InputError
        When there is none.
    """
    found = expand([remote.join(home, one) for one in given], ".parquet")
    for path in found:
        if not _name(path).endswith(_SUFFIXES):
            raise ConfigError(
                f"{Path(path).name} is of no known kind",
                where=path,
                expected=f"a {' or '.join(_SUFFIXES)} file",
            )
    return found


def identity(path: str) -> tuple[str, str]:
    """Return what a step's key keeps of a file: its name and content; of a URL, and what the server tells of it."""
    return (path, remote.version(path)) if remote.is_remote(path) else file_key(path)


def event_source(path: str, tree: str) -> Source:
    """Return the columns of one of these files; `tree` is that of a ROOT file."""
    return RootSource(path, tree) if _name(path).endswith(".root") else ParquetSource(path)


def _name(path: str) -> str:
    return path.partition("?")[0] if remote.is_remote(path) else path


def used_columns(text: str, available: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that a column or an expression of columns uses."""
    return (text,) if text in available else expression.names(text)


def condition(text: str, columns: Mapping[str, Any], n: int, *, what: str = "the cut") -> NDArray[np.bool_]:
    """Return a column or an expression that is true or false for each of n events.

    Raises
    ------
    ConfigError
        When it is something else.
    """
    mask = np.asarray(columns[text] if text in columns else expression.evaluate(text, columns))
    if mask.dtype != bool:
        raise ConfigError(
            f"{what} gives {mask.dtype}, not true or false", where=text, fix="compare it: 'n_jets > 0'"
        )
    return np.broadcast_to(mask, n)


def numbers(text: str, columns: Mapping[str, Any], n: int) -> NDArray[Any]:
    """Return a column or an expression that is a number for each of n events.

    Raises
    ------
    ConfigError
        When it is something else.
    """
    array = np.asarray(columns[text] if text in columns else expression.evaluate(text, columns))
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{text!r} gives {array.dtype}", expected="a number per event")
    return np.broadcast_to(array, n)

"""Event files that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neyman.analysis.steps import file_key
from neyman.errors import ConfigError
from neyman.events.columns import expand

_SUFFIXES = (".root", ".parquet")


def event_files(given: Sequence[str], home: Path) -> list[str]:
    """Return the files of paths, glob patterns and folders, relative to `home`.

    Raises
    ------
    ConfigError
        When one is neither ROOT nor Parquet.
    InputError
        When there is none.
    """
    found = expand([f if "://" in f else str(home / f) for f in given], ".parquet")
    for path in found:
        if not path.endswith(_SUFFIXES):
            raise ConfigError(
                f"{Path(path).name} is of no known kind",
                where=path,
                expected=f"a {' or '.join(_SUFFIXES)} file",
            )
    return found


def identity(path: str) -> tuple[str, str]:
    """Return what a step's key keeps of a file: its name and content; of a remote one its address."""
    return (path, "") if "://" in path else file_key(path)

"""Atomic writes, JSON and digests: nothing half-written is ever left under its final name."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neyman.errors import InputError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    Works for files and for folders (create the yielded path as a folder). On an error the temporary is
    removed and what stood at `path` stays. A full disk becomes an :class:`InputError` that names the file.
    """
    final = Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".part", dir=final.parent)
        os.close(handle)
        part = Path(name)
        part.unlink()
    except OSError as error:
        raise _cannot_write(final, error) from error
    old = part.with_suffix(".old")
    try:
        yield part
        if part.is_dir() and final.exists():
            final.rename(old)
            part.rename(final)
        elif part.is_file():
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(final)
        else:
            part.rename(final)
    except OSError as error:
        raise _cannot_write(final, error) from error
    finally:
        if old.exists() and not final.exists():  # stopped between the two renames
            old.rename(final)
        for rest in (part, old):
            if rest.is_dir() and not rest.is_symlink():
                shutil.rmtree(rest, ignore_errors=True)
            else:
                rest.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {path.name}: {error.strerror or error}",
        where=str(path),
        fix="free disk space or choose a writable output folder, then run again: finished steps are kept",
    )


def jsonable(value: Any) -> Any:
    """Return `value` made of lists, dictionaries, strings and finite numbers; what is not finite is None."""
    if hasattr(value, "to_dict"):
        return jsonable(value.to_dict())
    if hasattr(value, "tolist"):  # a numpy array or number
        return jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write `document` as JSON, atomically; refuses NaN and infinity."""
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document; a missing or broken file is an :class:`InputError`."""
    file = Path(path)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file.name} does not exist", where=str(file)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file.name} is not readable JSON: {error}", where=str(file)) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """Hexadecimal SHA-256 of JSON-like values, independent of the order of dictionary keys."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()

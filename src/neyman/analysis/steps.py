"""Steps that run once: each is keyed by a digest of its configuration, inputs and code, and kept when done.

An output is written under a temporary name and renamed when complete, then stamped. A run that was stopped at
any moment continues with the first step whose stamp is missing or whose digest has changed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from neyman.errors import ConfigError, InputError, NeymanWarning
from neyman.files import atomic, digest, read_json, sha256, write_json

_STATE = ".neyman"


@dataclass(frozen=True)
class Stamp:
    """Proof that a step is done.

    Parameters
    ----------
    step
        Name of the step.
    digest
        What it was made from.
    seconds
        How long it took.
    summary
        Small results for later steps and for the report.
    """

    step: str
    digest: str
    seconds: float
    summary: dict[str, Any] = field(default_factory=dict)


class Steps:
    """The steps of one output folder.

    Parameters
    ----------
    output
        Folder of all outputs; the stamps are in ``.neyman`` inside it.
    announce
        Called with the step, ``kept`` or ``run``, when a step starts.
    """

    def __init__(self, output: Path, announce: Callable[[str, str], None]) -> None:
        self.output = output
        self._announce = announce
        self.stamps: dict[str, Stamp] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: a second run in the same folder is refused at once."""
        path = self.output / _STATE / "lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        except OSError as error:
            raise InputError(
                f"cannot write to the output folder: {error.strerror}", where=str(self.output)
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    "another run is using this output folder",
                    where=str(self.output),
                    fix="wait for it, or use --output",
                ) from error
            # What a killed run left half-written; only where steps write, the folder may hold other files too.
            for place in (".", _STATE, "model", "model/updown"):
                for stale in (self.output / place).glob(".*.part"):
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
            yield

    def scratch(self, name: str) -> Path:
        """A file in which a step may keep what lets it go on after an interruption."""
        return self.output / _STATE / name

    def kept(self, name: str, output: str, key: tuple[Any, ...]) -> Stamp | None:
        """Return the stamp of a step that is done, from the same key, and None otherwise."""
        stamp = _read_stamp(self.output / _STATE / f"{name}.json")
        done = stamp is not None and stamp.digest == digest(name, key) and (self.output / output).exists()
        return stamp if done else None

    def do(
        self,
        name: str,
        output: str,
        key: tuple[Any, ...],
        work: Callable[[Path], dict[str, Any]],
        *,
        since: float | None = None,
    ) -> Stamp:
        """Run a step unless it is done.

        Parameters
        ----------
        name
            Name of the step.
        output
            File or folder that it makes, relative to the output folder.
        key
            Everything that its result depends on.
        work
            Writes the output to the path that it is given; returns the summary.
        since
            Time of :func:`time.perf_counter` when it began, if earlier than now.
        """
        wanted = digest(name, key)
        target, stamp_file = self.output / output, self.output / _STATE / f"{name}.json"
        stamp = self.kept(name, output, key)
        if stamp is not None:
            self._announce(name, "kept")
            self.stamps[name] = stamp
            return stamp
        self._announce(name, "run")
        stamp_file.unlink(missing_ok=True)
        start = time.perf_counter() if since is None else since
        with atomic(target) as part:
            summary = work(part)
        stamp = Stamp(name, wanted, time.perf_counter() - start, summary)
        write_json(stamp_file, {"step": name, "digest": wanted, "seconds": stamp.seconds, "summary": summary})
        self.stamps[name] = stamp
        return stamp


def _read_stamp(path: Path) -> Stamp | None:
    try:
        document = read_json(path)
        return Stamp(document["step"], document["digest"], document["seconds"], document["summary"])
    except (InputError, KeyError, TypeError):
        return None


@cache
def code_digest(*parts: str) -> str:
    """Digest of the code that a step depends on.

    Parameters
    ----------
    parts
        Packages or files of neyman, relative to its root. The modules beside the packages and the versions of
        the libraries that compute are always part of it.
    """
    root = Path(__file__).parents[1]
    files = sorted(root.glob("*.py"))
    for part in parts:
        files += sorted((root / part).rglob("*.py")) if (root / part).is_dir() else [root / part]
    return digest([(f.relative_to(root).as_posix(), sha256(f)) for f in files], _versions())


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("numpy", "scipy", "torch", "awkward", "uproot", "coffea", "iminuit", "pyhf", "matplotlib"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def file_key(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Identity of an input file: its name and content."""
    try:
        return Path(path).name, sha256(path)
    except OSError as error:
        raise InputError(f"cannot read {Path(path).name}: {error.strerror}", where=str(path)) from error


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect neyman's warnings as text; others stay warnings."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    for warning in caught:
        if issubclass(warning.category, NeymanWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

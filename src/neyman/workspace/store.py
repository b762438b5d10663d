"""Writing and reading a workspace folder: its documents (binned, unbinned, Gaussian), Parquet, networks, manifest."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from neyman.errors import WorkspaceError
from neyman.files import atomic, sha256
from neyman.workspace.columns import Column, read_columns
from neyman.workspace.documents import Channel, EventFile, Manifest, Unbinned
from neyman.workspace.gaussian import FORMAT, Gaussian
from neyman.workspace.orthogonality import EventIds, check_orthogonal

BINNED, UNBINNED, GAUSSIAN, MANIFEST = "binned.json", "unbinned.json", "gaussian.json", "manifest.json"
D = TypeVar("D", bound=BaseModel)
_LARGEST_JSON = 1 << 28
_PACKAGES = ("neyman", "torch", "numpy", "pyhf", "iminuit", "awkward", "uproot", "coffea")


@dataclass(frozen=True)
class Workspace:
    """A workspace folder that was read and checked.

    Parameters
    ----------
    folder
        Where it is.
    binned
        The pyhf workspace, if there is one.
    unbinned
        The unbinned channels, if there are any.
    manifest
        Digests and origin, if recorded.
    gaussian
        The spectra with a covariance, if there are any.
    """

    folder: Path
    binned: dict[str, Any] | None
    unbinned: Unbinned | None
    manifest: Manifest | None = None
    gaussian: Gaussian | None = None

    def events(self, channel: Channel, which: EventFile) -> tuple[NDArray[np.float64], dict[str, Column]]:
        """Read the weights, float64, and the columns, as stored, of a channel's data or reference."""
        wanted = [which.weight, *channel.columns]
        table = read_columns(self.path(which.file, folder=True), wanted)
        return table.pop(which.weight).astype(np.float64, copy=False), table

    def path(self, relative: str, *, folder: bool = False) -> Path:
        """Return the file (or, where it may be one, `folder`) of a relative path; it must lie inside the workspace
        folder, links resolved."""
        root = self.folder.resolve()
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            raise WorkspaceError(f"{relative!r} points outside the workspace folder", where=str(self.folder))
        if not path.is_file() and not (folder and path.is_dir()):
            raise WorkspaceError(f"{relative} is missing from the workspace", where=str(self.folder))
        return path


@dataclass(frozen=True)
class Draft:
    """Everything that goes into a workspace folder.

    Parameters
    ----------
    binned, unbinned, gaussian
        The documents; at least one.
    files
        Files to copy in, by their relative path in the folder.
    seed, configuration
        How it was made, for the manifest.
    entries
        Channel to sample to the ids of its events, as `check_orthogonal` takes them: when given, a channel that
        shares events with another is not written. A channel may share events with the one that it replaces.
    """

    binned: Mapping[str, Any] | None = None
    unbinned: Unbinned | None = None
    gaussian: Gaussian | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    seed: int | None = None
    configuration: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, EventIds]] | None = None

    def write(self, folder: str | os.PathLike[str]) -> Workspace:
        """Write the folder atomically, with its manifest, and return it as read back.

        Raises
        ------
        WorkspaceError
            When there is no document, or two channels share events; nothing is written then.
        """
        if self.binned is None and self.unbinned is None and self.gaussian is None:
            raise WorkspaceError("a workspace needs binned, unbinned or Gaussian channels, it has none")
        if self.entries is not None:
            channels = self.unbinned.channels if self.unbinned is not None else ()
            check_orthogonal(
                self.entries,
                alternatives={frozenset((c.name, binned)) for c in channels for binned in c.replaces},
            )
        with atomic(folder) as part:
            part.mkdir(parents=True)
            if self.binned is not None:
                _dump(part / BINNED, self.binned)
            if self.unbinned is not None:
                _dump(
                    part / UNBINNED, self.unbinned.model_dump(mode="json", by_alias=True, exclude_none=True)
                )
            if self.gaussian is not None:
                _dump(part / GAUSSIAN, self.gaussian.dump())
            for relative, source in self.files.items():
                target = part / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            names = sorted(p.relative_to(part).as_posix() for p in part.rglob("*") if p.is_file())
            manifest = Manifest(
                files={name: sha256(part / name) for name in names},
                versions=_versions(),
                seed=self.seed,
                configuration=dict(self.configuration),
            )
            _dump(part / MANIFEST, manifest.model_dump(mode="json"))
        return read(folder)


def read(path: str | os.PathLike[str]) -> Workspace:
    """Read a workspace folder, or one of its documents: a pyhf JSON file, ``unbinned.json`` or ``gaussian.json``.

    A file of another name is a Gaussian document where its ``format`` says so.

    Raises
    ------
    WorkspaceError
        When there is no document, a document is not JSON, or it does not fit its schema.
    """
    folder = Path(path)
    if folder.is_file() and folder.name == UNBINNED:
        return Workspace(folder.parent, None, _parse(folder, Unbinned))
    if folder.is_file():
        document = _json(folder)
        if folder.name == GAUSSIAN or document.get("format") == FORMAT:
            return Workspace(folder.parent, None, None, gaussian=_fitted(folder, document, Gaussian))
        return Workspace(folder.parent, document, None)
    if not folder.is_dir():
        raise WorkspaceError(f"workspace {folder.name!r} does not exist", where=str(folder))
    binned = _json(folder / BINNED) if (folder / BINNED).is_file() else None
    unbinned = _parse(folder / UNBINNED, Unbinned) if (folder / UNBINNED).is_file() else None
    gaussian = _parse(folder / GAUSSIAN, Gaussian) if (folder / GAUSSIAN).is_file() else None
    manifest = _parse(folder / MANIFEST, Manifest) if (folder / MANIFEST).is_file() else None
    if binned is None and unbinned is None and gaussian is None:
        raise WorkspaceError(
            f"{folder.name!r} holds neither {BINNED} nor {UNBINNED} nor {GAUSSIAN}",
            where=str(folder),
            fix="give a workspace folder",
        )
    return Workspace(folder, binned, unbinned, manifest, gaussian)


def _parse(path: Path, kind: type[D]) -> D:
    return _fitted(path, _json(path), kind)


def _fitted(path: Path, document: Mapping[str, Any], kind: type[D]) -> D:
    try:
        return kind.model_validate(document)
    except WorkspaceError as error:  # of a validator that knows better what to say than pydantic
        where = f"{path}: {error.where}" if error.where else str(path)
        raise WorkspaceError(error.what, where=where, expected=error.expected, fix=error.fix) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "/".join(str(part) for part in first["loc"])
        raise WorkspaceError(
            f"{path.name} does not fit its schema: {first['msg']} ({error.error_count()} problem(s))",
            where=f"{path}: {place or 'top level'}",
        ) from error


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_JSON:
        raise WorkspaceError(f"{path.name} is larger than {_LARGEST_JSON >> 20} MiB", where=str(path))
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise WorkspaceError(f"{path.name} is not readable JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise WorkspaceError(f"{path.name} must hold a JSON object", where=str(path))
    return document


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

"""Results of finished chunks on disk, so that an interrupted run goes on where it stopped: :class:`Checkpointer`.

Imports coffea; import it inside functions only.
"""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coffea.processor import CheckpointerABC

from neyman.errors import NeymanWarning
from neyman.events.processing.accumulators import decode, encode
from neyman.events.processing.chunk import file_id
from neyman.events.processing.identity import identity
from neyman.files import atomic, digest

_VERSION = 1


class Checkpointer(CheckpointerABC):  # type: ignore[misc]
    """Keeps what a processor returns for each chunk; give it to ``process_files`` or coffea's ``Runner``.

    A result is found again for the same file, entries, metadata, and identity of the processor: its settings, its
    code and the digests of the models in it (:func:`~neyman.events.processing.identity.identity`). After a change
    of any of them chunks are processed anew, into another folder; the old one may be removed. The schema is not
    known here, so change `version` with it.

    Files are written atomically, and read without running any code
    (:mod:`~neyman.events.processing.accumulators`); one that cannot be read is processed anew with a warning.

    Parameters
    ----------
    folder
        Seen by all workers: ``<folder>/<processor>/<dataset>/<file>-<start>-<stop>-<metadata>.json.gz``.
    version
        Anything else that the results depend on.
    """

    def __init__(self, folder: str | os.PathLike[str], *, version: str = "") -> None:
        self.folder = str(Path(folder).absolute())
        self.version = version
        self._looked: dict[str, Path] = {}

    def path(self, metadata: Mapping[str, Any], processor_instance: Any) -> Path:
        """Return where the result of a chunk is kept.

        Raises
        ------
        ConfigError
            The identity of the processor cannot be known.
        """
        processor = digest(identity(processor_instance), self.version)[:16]
        file = file_id(str(metadata["fileuuid"]), str(metadata["filename"]))
        rest = digest({key: repr(value) for key, value in metadata.items() if key != "filename"})[:8]
        name = f"{file}-{metadata['entrystart']}-{metadata['entrystop']}-{rest}.json.gz"
        return Path(self.folder) / processor / str(metadata["dataset"]) / name

    def load(self, metadata: Mapping[str, Any], processor_instance: Any) -> Any:
        """Return the result of a chunk, or None if there is none; called by coffea."""
        path = self.path(metadata, processor_instance)
        if not path.is_file():
            self._looked[_chunk(metadata)] = path
            return None
        try:
            document = json.loads(gzip.decompress(path.read_bytes()))
            if document["version"] != _VERSION:
                raise ValueError(f"version {document['version']} instead of {_VERSION}")
            return decode(document["output"])
        except Exception as error:
            self._looked[_chunk(metadata)] = path
            warnings.warn(
                f"checkpoint {path} cannot be read and is made anew: {type(error).__name__}: {error}",
                NeymanWarning,
                stacklevel=2,
            )
            return None

    def save(self, output: Any, metadata: Mapping[str, Any], processor_instance: Any) -> None:
        """Keep the result of a chunk; called by coffea.

        Raises
        ------
        ConfigError
            The result holds something that cannot be kept (names it).
        InputError
            The file cannot be written.
        """
        now = self.path(metadata, processor_instance)
        path = self._looked.pop(_chunk(metadata), now)  # the metadata have been added to since
        if path.parent != now.parent:
            warnings.warn(
                "the checkpoints will not be found again: the processor, or a variable of its module such as a cache, "
                "changes while it runs; give the processor an attribute 'digest' of what its results depend on",
                NeymanWarning,
                stacklevel=2,
            )
        text = json.dumps({"version": _VERSION, "output": encode(output)})
        with atomic(path) as part:
            part.write_bytes(gzip.compress(text.encode(), 1, mtime=0))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_looked": {}}


def _chunk(metadata: Mapping[str, Any]) -> str:
    return "/".join(str(metadata[key]) for key in ("dataset", "fileuuid", "entrystart", "entrystop"))

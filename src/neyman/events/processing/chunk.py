"""The part of a file that a processor is given: where it is, which events it has, and how much they count."""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError
from neyman.events.columns import as_numbers, check_finite
from neyman.events.processing.selection import check_name

ENTRY_BITS = 28


class Chunk:
    """Entries `start` to `stop` of a file.

    Parameters
    ----------
    events
        The NanoEvents that coffea hands to a processor, with their metadata.

    Attributes
    ----------
    entry
        int64, (size,): identifies an event among all files, whatever the chunk size.

    Raises
    ------
    InputError
        The events carry no metadata, or the file has 2^28 entries or more.
    ConfigError
        The name of the dataset is not fit for a folder.
    """

    def __init__(self, events: Any) -> None:
        metadata = getattr(events, "metadata", None) or {}
        missing = [
            k for k in ("dataset", "filename", "fileuuid", "entrystart", "entrystop") if k not in metadata
        ]
        if missing:
            raise InputError(
                f"the events do not say which chunk of which file they are: no {', '.join(missing)}",
                expected="events as coffea's Runner hands them to a processor",
                fix="run the processor with neyman.events.process_files or a coffea Runner",
            )
        self.events = events
        self.metadata = metadata
        self.dataset = str(metadata["dataset"])
        check_name("dataset", self.dataset)
        self.start, self.stop = int(metadata["entrystart"]), int(metadata["entrystop"])
        self.size = len(events)
        self.where = f"{metadata['filename']}, entries {self.start} to {self.stop} ({self.dataset})"
        self.file = file_id(str(metadata["fileuuid"]), str(metadata["filename"]))
        if self.stop >= 1 << ENTRY_BITS:
            raise InputError(
                f"a file has more than {1 << ENTRY_BITS} entries", where=self.where, fix="split the file"
            )
        base = int(self.file, 16) >> 1 << ENTRY_BITS
        self.entry = base + np.arange(self.start, self.start + self.size, dtype=np.int64)

    @cached_property
    def weight(self) -> NDArray[np.float64]:
        """``genWeight`` of each event, or 1 without it.

        Raises
        ------
        InputError
            A weight is missing or not finite; names the event.
        """
        if "genWeight" not in self.events.fields or not self.size:
            return np.ones(self.size)
        weight = as_numbers(self.events.genWeight, "genWeight", self.where, self.start).astype(np.float64)
        check_finite(weight, "genWeight", self.where, self.start + np.arange(self.size))
        return weight


def entry_ids(events: Any) -> NDArray[np.int64]:
    """Return an int64 for each event of a chunk that identifies it among all files, whatever the chunk size."""
    return Chunk(events).entry


def file_id(uuid: str, path: str) -> str:
    """Nine hexadecimal digits that identify a file by its UUID and name, wherever it lies."""
    return sha256(f"{uuid}/{Path(path).name}".encode()).hexdigest()[:9]

"""How uproot reads event files: byte ranges through fsspec, with the patience and the errors of `remote`.

Imports uproot; import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import uproot
from uproot.source.fsspec import FSSpecSource

from neyman.errors import InputError
from neyman.events.remote import is_remote, options, patiently, whole_file


class RangeSource(FSSpecSource):  # type: ignore[misc]
    """uproot's reader of byte ranges: ``uproot.open({url: None}, handler=RangeSource)``.

    A range is read again when the connection or the server fails for a moment. What cannot be read of a URL is an
    :class:`~neyman.errors.InputError` that names it and never an ``OSError``, for which coffea's ``skipbadfiles``
    would drop the chunk. Paths are read as uproot does it.
    """

    _fs: Any
    _fsspec_options: dict[str, Any]

    def _open(self) -> None:
        url = self._file_path_orig
        if not is_remote(url):
            super()._open()
            return
        self._fsspec_options = {**self._fsspec_options, **options(url)}
        patiently(super()._open, url)
        self._fs = _Ranges(self._fs, url)
        # Requests are then made in a thread of their own and may wait there between two attempts.
        self._async_impl = False


class _Ranges:
    """A file system of which ranges of one file are read."""

    def __init__(self, fs: Any, url: str) -> None:
        self._fs, self._url = fs, url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def size(self, path: str) -> int:
        size: int = patiently(lambda: self._fs.size(path), self._url)
        return size

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        data: bytes = patiently(lambda: self._fs.cat_file(path, start=start, end=end), self._url)
        if len(data) > end - start:
            raise whole_file(self._url)
        return data  # less at the end of a file: uproot asks for more than a small one has

    def cat_ranges(self, paths: list[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        found: list[bytes] = patiently(
            lambda: self._fs.cat_ranges(paths, starts, ends, on_error="raise"), self._url
        )
        for data, start, end in zip(found, starts, ends, strict=True):
            if len(data) > end - start:
                raise whole_file(self._url)
            if len(data) < end - start:
                raise InputError(
                    f"the file ends early: {len(data)} bytes where {end - start} should be",
                    where=self._url,
                    fix="check that the file is complete, or copy it again",
                )
        return found


def open_file(path: str) -> Any:
    """Open a ROOT file, here or at a URL, as uproot does it."""
    return uproot.open({path: None}, handler=RangeSource)

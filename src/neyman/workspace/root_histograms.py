"""`from_root`: histograms of a ROOT file become `Templates`, by how their names are made of channel and sample."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from neyman.errors import InputError, WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.notes import Note
from neyman.workspace.templates import Groups, Part, Templates, gather, matches
from neyman.workspace.uhi import Binned, binned, same_edges

LAYOUTS = {
    "combine": ("{channel}/{sample}", Naming()),
    "combine_flat": ("{sample}", Naming()),
    "trexfitter": ("{channel}_{sample}", Naming(up="_Up", down="_Down")),
}
"""Pattern of the nominal histograms, and the suffixes of the variations, by name of the layout."""
_FIELDS = ("channel", "sample", "systematic")


class _Reading(NamedTuple):
    """How a name may be read; the systematic is a category, as ``jesUp``, or the nominal one."""

    channel: str
    sample: str
    systematic: str

    def __str__(self) -> str:
        return f"channel {self.channel!r}, sample {self.sample!r}, {self.systematic!r}"


def from_root(
    path: str | os.PathLike[str],
    layout: str = "combine",
    *,
    channels: Groups | None = None,
    samples: Groups | None = None,
    data: str | Sequence[str] | None = None,
    scale: Mapping[str, float] | None = None,
    naming: Naming | str | None = None,
) -> Templates:
    """Read the one-dimensional histograms of a ROOT file.

    Parameters
    ----------
    path
        ROOT file.
    layout
        ``combine`` (``channel/sample`` and ``channel/sample_systematicUp``), ``combine_flat`` (``sample`` and
        ``sample_systematicUp``, one channel), ``trexfitter`` (``channel_sample`` and ``channel_sample_systematic_Up``),
        or a pattern of the nominal names with ``{channel}`` and ``{sample}``, such as ``{sample}_{channel}``: names of
        variations go on with ``_`` and the category. A pattern may hold the category itself, as in
        ``{channel}/{systematic}/{sample}``.
    channels
        Channels to read; or names for them, each with the name or names in the file whose histograms are added up.
        A layout without channel has one, named by `channels`, else ``channel``.
    samples
        Samples to read; or names for them, each with the name or names in the file.
    data
        Name or names in the file that are data; ``data_obs`` where it is there, by default.
    scale
        Factors by name in the file.
    naming
        Nominal category and suffixes of the variations, where they are not those of the layout.

    Raises
    ------
    InputError
        When the file cannot be read or holds no histograms.
    WorkspaceError
        When the name of a nominal histogram can be read in two ways, or no name can be read. A variation whose name can
        be is that of the nominal histogram with the longest name, and noted.

    Examples
    --------
    >>> from_root("shapes.root", "{sample}_{channel}", channels={"SR": "m_vis"}, data=["dataB", "dataC"])
    ... # doctest: +SKIP
    """
    pattern, own = LAYOUTS.get(layout, (layout, Naming()))
    fields = re.findall(r"\{(.*?)\}", pattern)
    if "sample" not in fields or not set(fields) <= set(_FIELDS):
        raise WorkspaceError(
            f"{layout!r} is no layout",
            expected=f"{', '.join(LAYOUTS)}, or a pattern with {{sample}} and perhaps {{channel}} and {{systematic}}",
            fix=f"nearest: {nearest(layout, LAYOUTS)}",
        )
    naming = own if naming is None else Naming.of(naming)
    wanted = ["data_obs"] if data is None else [data] if isinstance(data, str) else list(data)
    keys, others = _keys(Path(path))
    only = next(iter(_members(channels) or ["channel"]))
    names = _Names(pattern, naming, _members(channels), _members(samples), wanted, only)
    read, unread = names.read(keys, Path(path).name)
    histograms = _histograms(Path(path), read)
    found: dict[tuple[str, str], dict[str, Binned]] = {}
    for key, reading in read.items():
        one = binned(histograms[key], naming, f"{Path(path).name}, {key}")
        found.setdefault((reading.channel, reading.sample), {})[reading.systematic] = one
    parts = [
        Part(sample, "", channel, _joined(several, naming, f"{sample} in {channel}"))
        for (channel, sample), several in found.items()
    ]
    notes = [
        *_together("not used", {key: f"it is a {kind}" for key, kind in others.items()} | unread),
        *_together("ambiguous", names.ambiguous),
    ]
    if data is None:
        wanted = [name for name in wanted if any(name == part.process for part in parts)]
    return gather(parts, naming, samples, channels, wanted, scale, notes)


def _together(what: str, reasons: Mapping[str, str]) -> list[Note]:
    """Return one note for all histograms with the same reason."""
    together: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        together.setdefault(reason, []).append(key)
    shown = 3
    return [
        Note(
            ", ".join(keys[:shown]) + (f" and {len(keys) - shown} more" if len(keys) > shown else ""),
            what,
            reason,
        )
        for reason, keys in together.items()
    ]


def _members(groups: Groups | None) -> list[str] | None:
    if groups is None:
        return None
    values = groups.values() if isinstance(groups, Mapping) else groups
    return [name for value in values for name in ([value] if isinstance(value, str) else value)]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import uproot

    try:
        with uproot.open(path) as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path.name} does not exist", where=str(path)) from error
    except (OSError, ValueError, uproot.exceptions.KeyInFileError) as error:
        raise InputError(f"{path.name} cannot be read as a ROOT file: {error}", where=str(path)) from error


def _keys(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of the one-dimensional histograms of a file, without cycle, and the classes of all else."""
    with _opened(path) as file:
        classes = file.classnames(cycle=False)
    classes = {key: name for key, name in classes.items() if not name.startswith("TDirectory")}
    keys = {key: None for key, name in classes.items() if re.match(r"TH1[A-Z]$", name)}
    if not keys:
        kinds = ", ".join(sorted(set(classes.values()))) or "nothing"
        raise InputError(
            f"{path.name} holds no TH1", where=str(path), expected=f"histograms; it holds {kinds}"
        )
    return list(keys), {key: name for key, name in classes.items() if key not in keys}


def _histograms(path: Path, keys: Collection[str]) -> dict[str, Any]:
    with _opened(path) as file:
        return {key: file[key] for key in keys}


class _Names:
    """Reads the names of histograms by a pattern.

    Parameters
    ----------
    pattern
        Of the nominal histograms, or of all if it holds ``{systematic}``.
    naming
        Nominal category and suffixes.
    channels, samples
        Names in the file that are wanted; None for all. Patterns with ``*`` match too.
    data
        Samples that are data.
    only
        The channel where the pattern has none.
    """

    def __init__(
        self,
        pattern: str,
        naming: Naming,
        channels: Sequence[str] | None,
        samples: Sequence[str] | None,
        data: Sequence[str],
        only: str,
    ) -> None:
        self.pattern, self.naming, self.only = pattern, naming, only
        self.channels = channels if "{channel}" in pattern else None
        self.samples = None if samples is None else [*samples, *data]
        self.data = data
        self.ambiguous: dict[str, str] = {}

    def read(self, keys: Sequence[str], file: str) -> tuple[dict[str, _Reading], dict[str, str]]:
        """Return the reading of each name, and why others have none.

        Raises
        ------
        WorkspaceError
            When a nominal name has two readings, or no name has one.
        """
        read: dict[str, _Reading] = {}
        unread: dict[str, str] = {}
        whole = "{systematic}" in self.pattern
        varied = [key for key in keys if not whole and self.naming.split(key) is not None]
        plain = {key: list(self._readings(self.pattern, key)) for key in keys if key not in varied}
        channels = self._channels(plain)
        for key, readings in plain.items():
            allowed = [r for r in readings if channels is None or r.channel in channels]
            self._decide(
                key, allowed, read, unread, f"it does not fit {self.pattern!r} and what is asked for", file
            )
        nominal = {(r.channel, r.sample) for r in read.values()}
        for key in varied:
            allowed = [
                r
                for r in self._readings(self.pattern + "_{systematic}", key)
                if (r.channel, r.sample) in nominal
            ]
            if len(allowed) > 1:  # a variation of the nominal histogram with the longest name
                shortest, *others = sorted(allowed, key=lambda r: len(r.systematic))
                self.ambiguous[key] = f"read as {shortest}; not as {'; or '.join(str(r) for r in others)}"
                allowed = [shortest]
            self._decide(key, allowed, read, unread, "no sample that is read has this variation", file)
        if not read:
            raise WorkspaceError(
                f"no histogram of {file} fits {self.pattern!r}",
                where=", ".join(keys[:5]) + (" ..." if len(keys) > 5 else ""),
                expected=f"names such as {self.pattern}, with channels {self.channels or 'of any name'} and samples "
                f"{self.samples or 'of any name'}",
                fix=f"nearest: {nearest(self._example(), keys)}",
            )
        return read, unread

    def _example(self) -> str:
        """Return a name that would have been read."""
        given = {"channel": self.channels, "sample": self.samples, "systematic": [self.naming.nominal]}
        return re.sub(r"\{(\w+)\}", lambda field: str((given[field[1]] or [""])[0]), self.pattern)

    def _channels(self, plain: Mapping[str, Sequence[_Reading]]) -> set[str] | None:
        """Return the channels that have data, which tells names with several underscores apart."""
        if self.channels is not None:
            return None
        found = {r.channel for readings in plain.values() for r in readings if r.sample in self.data}
        return found or None

    def _decide(
        self,
        key: str,
        readings: Collection[_Reading],
        read: dict[str, _Reading],
        unread: dict[str, str],
        why: str,
        file: str,
    ) -> None:
        if len(readings) > 1:
            raise WorkspaceError(
                f"the name {key!r} can be read in {len(readings)} ways",
                where=file,
                expected="; or ".join(str(r) for r in readings),
                fix="name the channels=, the samples=, or both",
            )
        if readings:
            (read[key],) = readings
        else:
            unread[key] = why

    def _readings(self, pattern: str, key: str) -> Iterator[_Reading]:
        for fields in _split(re.split(r"(\{\w+\})", pattern), key):
            reading = _Reading(
                fields.get("channel", self.only),
                fields["sample"],
                fields.get("systematic", self.naming.nominal),
            )
            systematic = reading.systematic
            if (
                _wanted(reading.channel, self.channels)
                and _wanted(reading.sample, self.samples)
                and (systematic == self.naming.nominal or self.naming.split(systematic) is not None)
            ):
                yield reading


def _wanted(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or matches(name, patterns)


def _split(pieces: Sequence[str], text: str) -> Iterator[dict[str, str]]:
    """Yield all values of the fields of a pattern, its pieces, that make a text; none holds a slash."""
    if not pieces:
        if not text:
            yield {}
        return
    piece, *rest = pieces
    field = piece[1:-1]
    if piece.startswith("{") and field in _FIELDS:
        for end in range(1, len(text) + 1):
            if text[end - 1] == "/":
                return
            for fields in _split(rest, text[end:]):
                if fields.get(field, text[:end]) == text[:end]:
                    yield {**fields, field: text[:end]}
    elif text.startswith(piece):
        yield from _split(rest, text[len(piece) :])


def _joined(parts: Mapping[str, Binned], naming: Naming, where: str) -> Binned:
    """Return one sample's histograms as one."""
    nominal = naming.nominal
    if nominal not in parts:
        raise WorkspaceError(
            f"{where} has variations and no nominal histogram", expected=f"one named {nominal!r}"
        )
    edges = parts[nominal].edges
    for name, one in parts.items():
        if not same_edges(edges, one.edges):
            raise WorkspaceError(f"{name!r} of {where} has other bins than the nominal histogram")
    return Binned(
        edges,
        {name: one.values[nominal] for name, one in parts.items()},
        {name: one.variances[nominal] for name, one in parts.items()},
    )

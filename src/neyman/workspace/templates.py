"""`Templates`: histograms by channel and sample with the observed ones, as read from elsewhere.

`from_axes` makes them of one histogram with several category axes; `from_root` and `from_accumulator` of files and of
the output of coffea processors. All go into :func:`neyman.workspace.from_hists`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import hist
import numpy as np

from neyman.errors import WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.notes import Note
from neyman.workspace.uhi import Binned, Dense, Histogram, dense, reduced, same_edges

Groups: TypeAlias = Mapping[str, str | Sequence[str]] | Sequence[str]
"""Names to keep; or new names, each with the name or names (``*`` and ``?`` match) that it stands for."""


@dataclass(frozen=True, eq=False)
class Templates:
    """What `from_hists` needs of histograms.

    Parameters
    ----------
    channels
        Channel to sample to histogram, with the systematic axis of `naming`.
    observed
        Histograms of the data by channel.
    naming
        Names on the systematic axis.
    notes
        What was not used or filled in.
    """

    channels: Mapping[str, Mapping[str, hist.Hist[Any]]]
    observed: Mapping[str, hist.Hist[Any]] = field(default_factory=dict)
    naming: Naming = field(default_factory=Naming)
    notes: tuple[Note, ...] = ()


def from_axes(
    histogram: Histogram,
    *,
    process: str = "process",
    channel: str | None = "channel",
    samples: Groups | None = None,
    channels: Groups | None = None,
    data: str | Sequence[str] = (),
    select: Mapping[str, Any] | None = None,
    scale: Mapping[str, float] | None = None,
    naming: Naming | str | None = None,
) -> Templates:
    """Split one histogram by its process and channel axes.

    Categories are text: those of integer axes are written as ``"3"``. A variation whose bins are all empty for a
    process that has events is left out, as nothing was filled; in a sum of processes, one that lacks a variation
    enters it with its nominal histogram. Both are noted.

    Parameters
    ----------
    histogram
        With category axes for process, channel and systematic, and one numeric axis.
    process, channel
        Names of these axes; no channel axis makes one channel ``channel``.
    samples
        Samples of these processes; by default each process is one, without those of `data`.
    channels
        Channels of these categories; by default each category is one.
    data
        Processes that are data.
    select
        The category of each further axis.
    scale
        Factors of processes.
    naming
        Names on the systematic axis.

    Raises
    ------
    WorkspaceError
        When an axis or a category is missing, or an axis is left over.
    """
    naming = Naming.of(naming)
    parts = [
        Part(row, "", column, reduced(one, naming, f"process {row}, channel {column}"))
        for row, column, one in rows(selected(dense(histogram, "the histogram"), select), process, channel)
    ]
    return gather(parts, naming, samples, channels, data, scale)


def rows(
    full: Dense, process: str, channel: str | None, only: str = "channel"
) -> Iterator[tuple[str, str, Dense]]:
    """Yield process, channel and the rest of a histogram along these axes; no channel axis has the channel `only`."""
    for row, one in along(full, process).items():
        for column, rest in ({only: one} if channel is None else along(one, channel)).items():
            yield row, column, rest


@dataclass(frozen=True, eq=False)
class Part:
    """A histogram of one process in one channel.

    Parameters
    ----------
    process, dataset
        Two names of it, either of which `samples` and `scale` may use; the second may be empty.
    channel
        Category of the channel.
    histogram
        Nominal and variations.
    """

    process: str
    dataset: str
    channel: str
    histogram: Binned

    @property
    def names(self) -> set[str]:
        """The names by which it is known."""
        return {self.process, self.dataset} - {""}


def gather(
    parts: Sequence[Part],
    naming: Naming,
    samples: Groups | None,
    channels: Groups | None,
    data: str | Sequence[str],
    scale: Mapping[str, float] | None,
    notes: Iterable[Note] = (),
) -> Templates:
    """Add histograms up to samples and channels; arguments and errors as of `from_axes`."""
    data, scale = [data] if isinstance(data, str) else list(data), scale or {}
    names = list(dict.fromkeys(name for part in parts for name in sorted(part.names)))
    for name, factor in scale.items():
        if name not in names:
            raise WorkspaceError(
                f"a factor is given for {name!r}, which is not there", fix=f"nearest: {nearest(name, names)}"
            )
        if not np.isfinite(factor):
            raise WorkspaceError(f"the factor of {name!r} is {factor}", expected="a finite number")
    is_data = {name for members in grouped({"data": data}, names, "data").values() for name in members}
    if samples is None:
        samples = list(dict.fromkeys(part.process for part in parts if not part.names & is_data))
    groups = [(sample, set(members), False) for sample, members in grouped(samples, names, "process").items()]
    groups.append(("data", is_data, True))
    regions = grouped(channels, dict.fromkeys(part.channel for part in parts), "channel")
    columns_of = [column for columns in regions.values() for column in columns]
    for column in columns_of:
        if columns_of.count(column) > 1:
            raise WorkspaceError(
                f"{column!r} is in two channels", expected="one, as its events would count twice"
            )
    gathering = _Gathering(naming, list(notes))
    used: set[str] = set()
    empty: dict[str, list[str]] = {}
    owners: dict[tuple[str, str], str] = {}
    for region, columns in regions.items():
        for sample, members, observed in groups:
            for part in parts:
                if not part.names & members:
                    continue
                used |= part.names
                owner = owners.setdefault((part.process, part.dataset), sample)
                if owner != sample:
                    raise WorkspaceError(
                        f"{part.dataset or part.process!r} is in {owner!r} and in {sample!r}",
                        expected="each process in one sample",
                    )
                if part.channel not in columns:
                    continue
                if observed or any(v.any() for v in part.histogram.values.values()):
                    factor = float(np.prod([scale.get(name, 1.0) for name in part.names]))
                    source = part.dataset or part.process
                    gathering.add(region, sample, part.histogram.scaled(factor), source, observed=observed)
                else:
                    empty.setdefault(region, []).append(part.dataset or part.process)
    for region, sources in empty.items():
        gathering.notes.append(Note(f"channel {region}", "no events", f"left out: {', '.join(sources)}"))
    gathering.notes += [
        Note(name, "not used", "no sample is made of it") for name in names if name not in used
    ]
    left = dict.fromkeys(part.channel for part in parts if part.channel not in columns_of)
    gathering.notes += [Note(name, "not used", "no channel is made of it") for name in left]
    return gathering.templates()


class _Gathering:
    """Adds histograms up to samples and channels.

    Parameters
    ----------
    naming
        Names on the systematic axis of what is added, and of the result.
    notes
        Those to begin with.
    """

    def __init__(self, naming: Naming, notes: list[Note]) -> None:
        self.naming, self.notes = naming, notes
        self._parts: dict[tuple[str, str, bool], list[tuple[str, Binned]]] = {}

    def add(self, channel: str, sample: str, one: Binned, source: str, *, observed: bool = False) -> None:
        """Add a histogram; `source` names it in messages."""
        self._parts.setdefault((channel, sample, observed), []).append((source, one))

    def templates(self) -> Templates:
        """Return the sums."""
        channels: dict[str, dict[str, hist.Hist[Any]]] = {}
        observed: dict[str, hist.Hist[Any]] = {}
        for (channel, sample, is_data), parts in self._parts.items():
            where = f"channel {channel}, sample {sample}"
            total = self._sum(
                [(source, self._filled(one, source, channel, is_data)) for source, one in parts], where
            )
            if is_data:
                observed[channel] = total.to_hist(self.naming)
            else:
                channels.setdefault(channel, {})[sample] = total.to_hist(self.naming)
        if observed:
            detail = "others have; from_hists takes the sum of the samples instead"
            self.notes += [
                Note(f"channel {name}", "no data", detail) for name in channels if name not in observed
            ]
        return Templates(channels, observed, self.naming, tuple(self.notes))

    def _filled(self, one: Binned, source: str, channel: str, is_data: bool) -> Binned:
        """Return a histogram without the variations that were not filled; data have none."""
        nominal = self.naming.nominal
        if nominal not in one.values:
            raise WorkspaceError(
                f"{source!r} has no category {nominal!r}",
                where=f"channel {channel}",
                fix=f"nearest: {nearest(nominal, one.values)}",
            )
        empty = [n for n, v in one.values.items() if n != nominal and (is_data or not v.any())]
        if not is_data and not one.values[nominal].any():
            empty = []
        if empty and not is_data:
            detail = f"variations without events: {', '.join(empty)}"
            self.notes.append(Note(f"channel {channel}, {source}", "not filled", detail))
        kept = [name for name in one.values if name not in empty]
        return Binned(one.edges, {n: one.values[n] for n in kept}, {n: one.variances[n] for n in kept})

    def _sum(self, parts: Sequence[tuple[str, Binned]], where: str) -> Binned:
        first_source, first = parts[0]
        categories = list(dict.fromkeys(name for _, one in parts for name in one.values))
        values: dict[str, Any] = dict.fromkeys(categories, 0.0)
        variances: dict[str, Any] = dict.fromkeys(categories, 0.0)
        for source, one in parts:
            if not same_edges(first.edges, one.edges):
                raise WorkspaceError(
                    f"{source!r} and {first_source!r} have different bins and cannot be added", where=where
                )
            missing = [name for name in categories if name not in one.values]
            if missing:
                self.notes.append(
                    Note(f"{where}, {source}", "nominal instead", f"for the variations {', '.join(missing)}")
                )
            for name in categories:
                own = self.naming.nominal if name in missing else name
                values[name] = values[name] + one.values[own]
                known = one.variances[own]
                variances[name] = (
                    None if known is None or variances[name] is None else variances[name] + known
                )
        return Binned(first.edges, values, variances)


def grouped(groups: Groups | None, known: Iterable[str], what: str) -> dict[str, list[str]]:
    """Return the members of each group among the known names.

    Raises
    ------
    WorkspaceError
        When a group has no member.
    """
    names = list(known)
    if groups is None:
        return {name: [name] for name in names}
    if not isinstance(groups, Mapping):
        groups = {name: name for name in groups}
    out = {}
    for group, patterns in groups.items():
        listed = [patterns] if isinstance(patterns, str) else list(patterns)
        for pattern in listed:
            if not _members([pattern], names):
                raise WorkspaceError(
                    f"there is no {what} {pattern!r}", where=group, fix=f"nearest: {nearest(pattern, names)}"
                )
        out[group] = _members(listed, names)
    return out


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name is one of the patterns, or fits one with ``*`` or ``?``."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _members(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if matches(name, patterns)]


def selected(full: Dense, select: Mapping[str, Any] | None) -> Dense:
    """Return the part of a histogram at a category of each of some axes."""
    for axis, category in (select or {}).items():
        parts = along(full, axis)
        if str(category) not in parts:
            raise WorkspaceError(
                f"axis {axis!r} has no category {str(category)!r}",
                fix=f"nearest: {nearest(str(category), parts)}",
            )
        full = parts[str(category)]
    return full


def along(full: Dense, axis: str) -> dict[str, Dense]:
    """Return the parts of a histogram along a category axis."""
    if axis not in full.names or full.categories[full.names.index(axis)] is None:
        kinds = [name for name, c in zip(full.names, full.categories, strict=True) if c is not None]
        raise WorkspaceError(
            f"the histogram has no category axis {axis!r}",
            where=f"axes {', '.join(full.names)}",
            fix=f"nearest: {nearest(axis, kinds)}",
        )
    i = full.names.index(axis)
    rest = [j for j in range(len(full.names)) if j != i]
    return {
        label: Dense(
            tuple(full.names[j] for j in rest),
            tuple(full.categories[j] for j in rest),
            tuple(full.edges[j] for j in rest),
            np.take(full.values, k, axis=i),
            None if full.variances is None else np.take(full.variances, k, axis=i),
        )
        for k, label in enumerate(full.categories[i] or ())
    }

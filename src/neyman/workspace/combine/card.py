"""`parse`: the text of a Combine datacard becomes a `Card`; every error names the line and the word."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NoReturn

from neyman.errors import WorkspaceError, nearest

REFUSED = {
    "constr": "a constraint by a formula",
    "dFD": "a constraint with flat top",
    "dFD2": "a constraint with flat top",
    "discrete": "a choice among functions",
    "edit": "an edit of other lines",
    "extArg": "a parameter of a RooFit workspace",
    "flatParam": "a parameter of a RooFit workspace",
    "gmM": "a gamma constraint",
    "lnU": "a uniform constraint",
    "param": "a constraint of a parameter of a RooFit workspace or of a rateParam",
    "shapeL": "linear morphing",
    "shapeN": "logarithmic morphing",
    "shapeN2": "logarithmic morphing",
    "shapeU": "a uniform constraint",
    "trG": "a truncated Gaussian",
    "unif": "a uniform constraint",
}
"""Directives that pyhf has no counterpart of, or that are outside the common subset."""
READ = ("lnN", "shape", "shape?", "gmN", "rateParam", "autoMCStats", "group")
_HEADER = ("imax", "jmax", "kmax", "shapes", "bin", "observation", "process", "rate")


@dataclass(frozen=True)
class Shapes:
    """A ``shapes`` line; the names of histograms are empty for a counting experiment (``FAKE``)."""

    line: int
    process: str
    channel: str
    file: str
    nominal: str
    varied: str


@dataclass(frozen=True)
class Column:
    """One process in one channel; a rate of -1 is that of the histogram."""

    channel: str
    process: str
    signal: bool
    rate: float


@dataclass(frozen=True)
class Systematic:
    """A line with one effect a column: the text between blanks, None for no effect.

    `events` is the number of events in the control region of a ``gmN``.
    """

    line: int
    name: str
    kind: str
    effects: tuple[str | None, ...]
    events: int = 0


@dataclass(frozen=True)
class RateParameter:
    """A ``rateParam`` line with a number; channel and process may hold ``*``."""

    line: int
    name: str
    channel: str
    process: str
    start: float
    bounds: tuple[float, float] | None


@dataclass(frozen=True)
class AutoStatistics:
    """An ``autoMCStats`` line; the channel may hold ``*``, and `signal` counts for the threshold or not."""

    line: int
    channel: str
    threshold: float
    signal: bool
    mode: int


@dataclass(frozen=True)
class Card:
    """What a datacard says.

    Parameters
    ----------
    name
        Of the file, for messages.
    shapes
        In order.
    observed
        By channel, in order; -1 is that of the histogram, None where the card says nothing.
    columns
        In order.
    systematics, rate_parameters, statistics
        In order.
    groups
        Names of the members by group.
    """

    name: str
    shapes: tuple[Shapes, ...]
    observed: dict[str, float | None]
    columns: tuple[Column, ...]
    systematics: tuple[Systematic, ...]
    rate_parameters: tuple[RateParameter, ...]
    statistics: tuple[AutoStatistics, ...]
    groups: dict[str, tuple[str, ...]]

    def error(self, line: int, what: str, *, expected: str | None = None, fix: str | None = None) -> NoReturn:
        """Raise an error about a line."""
        raise WorkspaceError(what, where=f"{self.name}, line {line}", expected=expected, fix=fix)


def parse(text: str, name: str) -> Card:
    """Read the text of a datacard.

    Raises
    ------
    WorkspaceError
        When a line is not understood, numbers do not match, or a directive is outside the common subset.
    """
    parser = _Parser(name)
    for number, full in enumerate(text.splitlines(), 1):
        # Names of files and histograms, which come before the rates, may hold a #.
        words = re.sub(r"#.*" if parser.columns else r"(^|\s+)#.*", "", full).split()
        if re.search(r"\w", " ".join(words)) and not words[0].startswith("--"):  # nor a line such as ====
            parser.number = number
            (parser.nuisance if parser.columns else parser.header)(words)
    return parser.card()


class _Parser:
    """Collects the lines of one card."""

    def __init__(self, name: str) -> None:
        self.name, self.number = name, 0
        self.declared: dict[str, int] = {}
        self.shapes: list[Shapes] = []
        self.bins: list[str] | None = None
        self.observed: list[float] | None = None
        self.observed_bins: list[str] | None = None
        self.processes: list[list[str]] = []
        self.columns: list[Column] = []
        self.systematics: list[Systematic] = []
        self.rate_parameters: list[RateParameter] = []
        self.statistics: list[AutoStatistics] = []
        self.groups: dict[str, tuple[str, ...]] = {}

    def fail(self, what: str, *, expected: str | None = None, fix: str | None = None) -> NoReturn:
        """Raise an error about the current line."""
        raise WorkspaceError(what, where=f"{self.name}, line {self.number}", expected=expected, fix=fix)

    def real(self, word: str, what: str) -> float:
        """Return a word as a finite number."""
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.fail(f"{what} {word!r} is not a number")
        return value

    def count(self, word: str, what: str) -> int:
        """Return a word as a whole number."""
        value = self.real(word, what)
        if not value.is_integer():
            self.fail(f"{what} {word!r} is not a whole number")
        return int(value)

    # The lines up to the rates --------------------------------------------------------------------------

    def header(self, words: Sequence[str]) -> None:
        """Read a line up to the rates."""
        key, *rest = words
        match key.lower():
            case "imax" | "jmax" | "kmax":
                if not rest:
                    self.fail(f"{key} has no number", expected=f"{key} 2, or {key} *")
                if rest[0] != "*":
                    self.declared[key] = self.count(rest[0], key)
            case "shapes":
                self._shapes(rest)
            case "bin":
                self.bins = rest
            case "observation":
                self.observed = [self.real(word, "observation") for word in rest]
                self.observed_bins, self.bins = self.bins, None
                if self.observed_bins is not None and len(self.observed_bins) != len(rest):
                    self.fail(
                        f"{len(rest)} observations are given",
                        expected=f"{len(self.observed_bins)}, one a bin",
                    )
            case "process":
                self.processes.append(rest)
                if self.bins is None or len(rest) != len(self.bins):
                    given = 0 if self.bins is None else len(self.bins)
                    self.fail(f"the line has {len(rest)} processes", expected=f"{given}, as the line 'bin'")
            case "rate":
                self._rates(rest)
            case _ if self.declared or self.shapes or self.bins is not None:
                self.fail(
                    f"{key!r} is not understood",
                    expected=f"{', '.join(_HEADER)} up to the line 'rate'",
                    fix=f"nearest: {nearest(key, _HEADER)}",
                )
            case _:
                pass  # a description, as combineCards.py writes

    def _shapes(self, words: Sequence[str]) -> None:
        if len(words) == 3 and words[2] == "FAKE":
            words = [*words[:2], "", "", ""]
        elif not 4 <= len(words) <= 5:
            self.fail(
                f"the line has {len(words)} words after 'shapes'",
                expected="shapes PROCESS CHANNEL FILE HISTOGRAM [HISTOGRAM_WITH_SYSTEMATIC], or ... FAKE",
            )
        process, channel, file, nominal, varied = (*words, "")[:5]
        for word in (nominal, varied):
            if ":" in word:
                self.fail(
                    f"{word!r} is an object of a RooFit workspace",
                    expected="histograms (TH1): parametric shapes are outside the common subset",
                )
        for other in self.shapes:
            if (other.process, other.channel) == (process, channel):
                self.fail(f"the shapes of {process!r} in {channel!r} are given on line {other.line} already")
        self.shapes.append(Shapes(self.number, process, channel, file, nominal, varied))

    def _rates(self, words: Sequence[str]) -> None:
        if self.bins is None or len(self.processes) != 2:
            self.fail(
                f"{len(self.processes)} lines 'process' come before the rates",
                expected="the line 'bin' and two lines 'process', with names and with numbers",
            )
        names, numbers = self.processes
        if all(re.fullmatch(r"-?\d+", word) for word in names) and not re.fullmatch(r"-?\d+", numbers[0]):
            names, numbers = numbers, names
        if len(words) != len(self.bins):
            self.fail(f"{len(words)} rates are given", expected=f"{len(self.bins)}, one a column")
        for channel, process, number, word in zip(self.bins, names, numbers, words, strict=True):
            signal, rate = self.count(number, "process number") <= 0, self.real(word, "rate")
            if rate < 0.0 and rate != -1.0:
                self.fail(f"the rate of {process!r} in {channel!r} is {word}", expected="0 or more, or -1")
            for other in self.columns:
                if other.process == process and other.signal != signal:
                    self.fail(f"process {process!r} is signal in one channel and background in another")
                if (other.channel, other.process) == (channel, process):
                    self.fail(f"process {process!r} has two columns in {channel!r}")
            self.columns.append(Column(channel, process, signal, rate))
        self._check_declared()

    def _check_declared(self) -> None:
        channels = list(dict.fromkeys(c.channel for c in self.columns))
        processes = list(dict.fromkeys(c.process for c in self.columns))
        for key, names, what in (
            ("imax", channels, "channels"),
            ("jmax", processes[1:], "processes minus one"),
        ):
            declared = self.declared.get(key, len(names))
            if declared != len(names):
                self.fail(
                    f"{key} is {declared}, but there are {len(names)} {what}", fix=f"{key} * counts them"
                )
        if self.observed is None:
            return
        if self.observed_bins is None:
            self.observed_bins = channels
        if len(self.observed) != len(self.observed_bins) or set(self.observed_bins) != set(channels):
            self.fail(
                f"the observations are of {', '.join(self.observed_bins)}",
                expected=f"{', '.join(channels)}, as in the columns",
            )

    # The lines after the rates --------------------------------------------------------------------------

    def nuisance(self, words: Sequence[str]) -> None:
        """Read a line after the rates."""
        if len(words) < 2:
            self.fail(f"{words[0]!r} stands alone", expected="NAME KIND EFFECTS, after the rates")
        name, kind, *rest = words
        match kind:
            case "lnN" | "shape" | "shape?":
                self._systematic(name, kind, rest)
            case "gmN":
                if not rest:
                    self.fail(f"gmN {name!r} has no number of events")
                events = self.count(rest[0], "number of events")
                self._systematic(name, kind, rest[1:], events)
            case "rateParam":
                self._rate_parameter(name, rest)
            case "autoMCStats":
                self._statistics(name, rest)
            case "group":
                self._group(name, rest)
            case _ if kind in REFUSED:
                self.fail(
                    f"{kind!r} of {name!r}, {REFUSED[kind]}, is outside the common subset",
                    expected=", ".join(READ),
                )
            case _:
                self.fail(
                    f"{kind!r} of {name!r} is not understood",
                    expected=", ".join(READ),
                    fix=f"nearest: {nearest(kind, READ)}",
                )

    def _systematic(self, name: str, kind: str, words: Sequence[str], events: int = 0) -> None:
        if name.endswith("[nofloat]"):
            self.fail(f"{name!r} does not float", expected="parameters that do", fix="delete the line")
        if name[0].isdigit():
            name = "theta" + name  # as Combine does
        if len(words) < len(self.columns):
            self.fail(f"{name!r} has {len(words)} effects", expected=f"{len(self.columns)}, one a column")
        for other in self.systematics:
            if other.name == name:
                self.fail(
                    f"{name!r} has a line already, line {other.line}",
                    fix="one line of kind 'shape?', or two names",
                )
        self._check_kind(name, self.rate_parameters)
        effects = tuple(
            None if re.fullmatch(r"-+", word) else self._effect(word, name, kind)
            for word in words[: len(self.columns)]
        )
        self.systematics.append(Systematic(self.number, name, kind, effects, events))

    def _check_kind(self, name: str, others: Sequence[Systematic] | Sequence[RateParameter]) -> None:
        """Refuse a name that is that of a parameter of the other kind."""
        for other in others:
            if other.name == name:
                self.fail(
                    f"{name!r} is a parameter of another kind already, line {other.line}",
                    expected="a systematic or a free rateParam, not both",
                    fix="two names",
                )

    def _effect(self, word: str, name: str, kind: str) -> str | None:
        parts = word.split("/")
        if len(parts) > (2 if kind in ("lnN", "shape?") else 1):
            self.fail(
                f"the effect {word!r} of {name!r} has {len(parts)} numbers", expected=f"one, for {kind}"
            )
        values = [self.real(part, f"the effect of {name!r}") for part in parts]
        if any(value < 0.0 for value in values) or (len(values) == 2 and 0.0 in values):
            self.fail(f"the effect {word!r} of {name!r} is not positive", expected="a factor, or - for none")
        no_effect = values == [0.0] or (kind == "lnN" and all(value == 1.0 for value in values))
        return None if no_effect else word

    def _rate_parameter(self, name: str, words: Sequence[str]) -> None:
        if len(words) not in (3, 4) or (len(words) == 4 and not re.fullmatch(r"\[.*\]", words[3])):
            self.fail(
                f"rateParam {name!r} is not a number with a range",
                expected=f"{name} rateParam CHANNEL PROCESS START [MIN,MAX]; formulae are outside the common subset",
            )
        if ":" in words[2]:
            self.fail(f"rateParam {name!r} is taken from a RooFit workspace", expected="a number")
        bounds = None
        if len(words) == 4:
            ends = words[3][1:-1].split(",")
            if len(ends) != 2:
                self.fail(f"the range {words[3]!r} of {name!r} has {len(ends)} ends", expected="[MIN,MAX]")
            bounds = (self.real(ends[0], "the range"), self.real(ends[1], "the range"))
            if not bounds[0] < bounds[1]:
                self.fail(f"the range {words[3]!r} of {name!r} is empty")
        start = self.real(words[2], f"the start of {name!r}")
        if bounds is not None and not bounds[0] <= start <= bounds[1]:
            self.fail(f"the start {words[2]} of {name!r} is outside its range {words[3]}")
        self._check_kind(name, self.systematics)
        self.rate_parameters.append(RateParameter(self.number, name, words[0], words[1], start, bounds))

    def _statistics(self, channel: str, words: Sequence[str]) -> None:
        if not 1 <= len(words) <= 3:
            self.fail(
                f"autoMCStats of {channel!r} has {len(words)} numbers",
                expected="THRESHOLD [INCLUDE_SIGNAL [MODE]]",
            )
        channels = list(dict.fromkeys(c.channel for c in self.columns))
        if not any(fnmatchcase(name, channel) for name in channels):
            self.fail(
                f"autoMCStats is for {channel!r}, which is no channel",
                fix=f"nearest: {nearest(channel, channels)}",
            )
        threshold, signal, mode = (*words, *("0", "1")[len(words) - 1 :])
        self.statistics.append(
            AutoStatistics(
                self.number,
                channel,
                self.real(threshold, "the threshold"),
                self.count(signal, "the flag of the signal") != 0,
                self.count(mode, "the mode"),
            )
        )

    def _group(self, name: str, words: Sequence[str]) -> None:
        if len(words) < 2 or words[0] not in ("=", "+="):
            self.fail(f"group {name!r} has no members", expected=f"{name} group = NAME NAME")
        before = self.groups.get(name, ())
        if (words[0] == "=") != (name not in self.groups):
            self.fail(f"group {name!r} is {'defined twice' if before else 'not defined yet'}")
        self.groups[name] = (*before, *words[1:])

    def card(self) -> Card:
        """Return the card."""
        if not self.columns:
            raise WorkspaceError(
                f"{self.name} has no line 'rate'",
                expected="a Combine datacard",
                fix="see Combine's documentation",
            )
        if not any(column.signal for column in self.columns):
            raise WorkspaceError(
                f"{self.name} has no signal", expected="a process whose number is 0 or negative"
            )
        acting = [s for s in self.systematics if any(effect is not None for effect in s.effects)]
        declared = self.declared.get("kmax", len(acting))
        if declared not in (len(acting), len(self.systematics)):
            raise WorkspaceError(
                f"kmax is {declared}, but there are {len(acting)} systematics",
                where=self.name,
                fix="kmax * counts them",
            )
        channels = dict.fromkeys(c.channel for c in self.columns)
        given = dict(zip(self.observed_bins or [], self.observed or [], strict=True))
        return Card(
            self.name,
            tuple(self.shapes),
            {channel: given.get(channel) for channel in channels},
            tuple(self.columns),
            tuple(acting),
            tuple(self.rate_parameters),
            tuple(self.statistics),
            self.groups,
        )

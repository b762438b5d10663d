"""`write_datacard`: a pyhf workspace becomes a Combine datacard with its histograms."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from neyman.errors import WorkspaceError, nearest
from neyman.files import atomic
from neyman.workspace.combine.histograms import DATA
from neyman.workspace.combine.interpolation import (
    NEGLIGIBLE,
    REACH,
    SMALL,
    STATISTICS,
    factor_difference,
    linear_difference,
    split_difference,
)
from neyman.workspace.notes import Note
from neyman.workspace.pyhf_schema import check_schema

Array = NDArray[np.float64]
_ROUNDING = 1e-9  # relative: totals and products nearer than this are equal
_HEADER = """\
# Written by neyman from a workspace of pyhf, measurement {measurement}
imax {channels} number of channels
jmax {processes} number of processes minus one
kmax {systematics} number of systematics
"""


def write_datacard(
    workspace: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    name: str = "datacard",
    measurement: str | None = None,
) -> tuple[Note, ...]:
    """Write a pyhf workspace as ``NAME.txt`` and ``NAME.root`` for Combine.

    The parameter of interest becomes Combine's ``r``, and the samples that carry it the signals. A normsys becomes
    ``lnN``; a parameter with a histosys anywhere becomes ``shape`` everywhere, with histograms that carry both effects;
    other free factors become ``rateParam``, staterror ``autoMCStats`` with threshold 0, a shapesys of a single bin
    ``gmN``, the luminosity ``lnN``. What Combine models otherwise is noted with the size of the difference.

    Parameters
    ----------
    workspace
        pyhf workspace, as `from_hists` returns.
    folder
        Where the two files go.
    name
        Of the files.
    measurement
        Name of the measurement; the first by default.

    Returns
    -------
    Where Combine and pyhf differ.

    Raises
    ------
    WorkspaceError
        When the workspace has what a datacard cannot say: a shapefactor, a shapesys of several bins, a signal that is
        background in another channel, a name that Combine refuses, a channel without data or expected events, a start
        outside its bounds; or when bins do not match.
    InputError
        When a file cannot be written.
    """
    check_schema(workspace, "workspace")
    _check_bins(workspace)
    writer = _Writer(workspace, measurement, f"{name}.root")
    text = writer.text()
    target = Path(folder)
    with atomic(target / f"{name}.root") as part:
        _write_root(part, writer.histograms)
    with atomic(target / f"{name}.txt") as part:
        part.write_text(text, encoding="utf-8")
    return tuple(writer.notes)


def _check_bins(workspace: Mapping[str, Any]) -> None:
    """Refuse what the schema lets pass: channels without data, twin samples, and bins that do not match."""
    observed = {o["name"]: o["data"] for o in workspace["observations"]}
    for channel in workspace["channels"]:
        name, samples = channel["name"], [s["name"] for s in channel["samples"]]
        if name not in observed:
            raise WorkspaceError(
                f"nothing is observed in channel {name!r}",
                where="observations",
                fix=f"nearest: {nearest(name, observed)}",
            )
        if len(set(samples)) < len(samples):
            raise WorkspaceError(
                f"two samples of channel {name!r} have the same name", where=", ".join(samples)
            )
        contents = [("the data", observed[name])]
        for sample in channel["samples"]:
            contents.append((f"sample {sample['name']}", sample["data"]))
            for modifier in sample["modifiers"]:
                data = modifier["data"]
                lists = data.items() if modifier["type"] == "histosys" else [("data", data)]
                where = f"sample {sample['name']}, {modifier['type']} {modifier['name']}"
                contents += [(f"{where}, {key}", bins) for key, bins in lists if np.ndim(bins)]
        for where, bins in contents:
            if len(bins) != len(observed[name]) or not np.isfinite(bins).all():
                raise WorkspaceError(
                    f"{len(bins)} bins are {', '.join(f'{value:g}' for value in bins[:8])}",
                    where=f"channel {name}, {where}",
                    expected=f"{len(observed[name])} finite numbers, as there are data",
                )


def _write_root(path: Path, histograms: Mapping[str, tuple[Array, Array]]) -> None:
    import uproot

    with uproot.recreate(path) as file:
        for key, (values, variances) in histograms.items():
            made = hist.Hist(
                hist.axis.Regular(len(values), 0, len(values), name="bin"), storage=hist.storage.Weight()
            )
            view: Any = made.view()
            view["value"], view["variance"] = values, variances
            file[key] = made


class _Column:
    """One sample in one channel, by type of modifier."""

    def __init__(self, channel: str, sample: Mapping[str, Any]) -> None:
        self.channel, self.process = channel, str(sample["name"])
        self.where = f"channel {channel}, sample {self.process}"
        self.nominal = np.asarray(sample["data"], dtype=np.float64)
        self.modifiers: dict[str, dict[str, Any]] = {}
        for modifier in sample["modifiers"]:
            self.modifiers.setdefault(modifier["type"], {})[modifier["name"]] = modifier["data"]
        if (self.nominal < 0.0).any():
            raise WorkspaceError(
                "a bin expects a negative number of events, which Combine cuts", where=self.where
            )

    def of(self, kind: str) -> dict[str, Any]:
        """Return the data of the modifiers of a type by name."""
        return self.modifiers.get(kind, {})

    def factors(self, parameter: str) -> tuple[float, float]:
        """Return the factors up and down of a normsys; 1 where there is none."""
        data = self.of("normsys").get(parameter, {"hi": 1.0, "lo": 1.0})
        up, down = float(data["hi"]), float(data["lo"])
        if not (up > 0.0 and down > 0.0):
            raise WorkspaceError(f"a factor of normsys {parameter!r} is not positive", where=self.where)
        return up, down

    def templates(self, parameter: str) -> tuple[Array, Array]:
        """Return the histograms up and down of a parameter, both effects together."""
        up, down = self.factors(parameter)
        data = self.of("histosys").get(parameter, {"hi_data": self.nominal, "lo_data": self.nominal})
        return up * np.asarray(data["hi_data"], dtype=np.float64), down * np.asarray(
            data["lo_data"], dtype=np.float64
        )


class _Writer:
    """Makes the lines and the histograms of a card; collects what differs."""

    def __init__(self, workspace: Mapping[str, Any], measurement: str | None, file: str) -> None:
        self.file = file
        self.notes: list[Note] = []
        self.histograms: dict[str, tuple[Array, Array]] = {}
        measurements = {m["name"]: m["config"] for m in workspace["measurements"]}
        self.measurement = measurement or next(iter(measurements))
        if self.measurement not in measurements:
            raise WorkspaceError(
                f"the workspace has no measurement {self.measurement!r}",
                fix=f"nearest: {nearest(self.measurement, measurements)}",
            )
        config = measurements[self.measurement]
        self.poi = str(config["poi"])
        self.settings = {p["name"]: p for p in config["parameters"]}
        self.observed = {
            o["name"]: np.asarray(o["data"], dtype=np.float64) for o in workspace["observations"]
        }
        every = [_Column(c["name"], sample) for c in workspace["channels"] for sample in c["samples"]]
        for one in every:
            if not one.nominal.any():
                self.notes.append(Note(one.where, "no events", "left out"))
        self.columns = [c for c in every if c.nominal.any()]
        self.channels = [c["name"] for c in workspace["channels"]]
        for name in self.channels:
            if not any(c.channel == name for c in self.columns):
                raise WorkspaceError(
                    f"no sample expects events in channel {name!r}, which Combine refuses", fix="leave it out"
                )
        self.processes = self._numbers()
        self._check()

    def text(self) -> str:
        """Return the card."""
        systematics = self._systematics()
        lines = [("shapes", "*", "*", self.file, "$CHANNEL/$PROCESS", "$CHANNEL/$PROCESS_$SYSTEMATIC")]
        for channel in self.channels:
            counts = self.observed[channel]
            self.histograms[f"{channel}/{DATA}"] = counts, counts
        observations = [
            ("bin", *self.channels),
            ("observation", *(_number(float(self.observed[channel].sum())) for channel in self.channels)),
        ]
        for column in self.columns:
            errors = next(iter(column.of("staterror").values()), np.zeros(len(column.nominal)))
            self.histograms[f"{column.channel}/{column.process}"] = column.nominal, np.square(errors)
        columns = [
            ("bin", "", *(c.channel for c in self.columns)),
            ("process", "", *(c.process for c in self.columns)),
            ("process", "", *(str(self.processes[c.process]) for c in self.columns)),
            ("rate", "", *("-1" for _ in self.columns)),
            *systematics,
        ]
        header = _HEADER.format(
            measurement=self.measurement,
            channels=len(self.channels),
            processes=len(self.processes) - 1,
            systematics=len(systematics),
        )
        rest = [*self._rate_parameters(), *self._statistics()]
        blocks = [lines, observations, columns, *([rest] if rest else [])]
        return header + "".join(f"{'-' * 60}\n{_aligned(block)}" for block in blocks)

    def _numbers(self) -> dict[str, int]:
        """Return the number of each process: 0 and below for signals."""
        signal: dict[str, bool] = {}
        for column in self.columns:
            carries = self.poi in column.of("normfactor")
            if signal.setdefault(column.process, carries) != carries:
                raise WorkspaceError(
                    f"sample {column.process!r} carries {self.poi!r} in one channel and not in another",
                    where=column.where,
                    fix="rename the sample in one of them",
                )
        signals = [name for name, is_signal in signal.items() if is_signal]
        if not signals:
            raise WorkspaceError(f"no sample carries the parameter of interest {self.poi!r}")
        backgrounds = [name for name, is_signal in signal.items() if not is_signal]
        return {name: -i for i, name in enumerate(signals)} | {n: i for i, n in enumerate(backgrounds, 1)}

    def _check(self) -> None:
        """Refuse what a datacard cannot say; note what it leaves to the command line."""
        names = {name for c in self.columns for by_name in c.modifiers.values() for name in by_name}
        for what, known in (
            ("channel", self.channels),
            ("sample", list(self.processes)),
            ("parameter", sorted(names)),
        ):
            for one in known:
                if (
                    not re.fullmatch(r"[\w.+-]+", one)
                    or (one[0].isdigit() and what != "sample")
                    or one == DATA
                ):
                    raise WorkspaceError(
                        f"Combine does not take {one!r} as the name of a {what}",
                        expected="letters, digits, _ . + -, and no digit first",
                        fix="rename it",
                    )
        for column in self.columns:
            if column.of("shapefactor"):
                raise WorkspaceError(
                    f"shapefactor {next(iter(column.of('shapefactor')))!r} has no counterpart in a datacard",
                    where=column.where,
                )
            if len(column.of("staterror")) > 1:
                raise WorkspaceError("a sample has two staterrors", where=column.where)
        if self.poi != "r":
            if "r" in names:
                raise WorkspaceError(
                    "a parameter is called 'r', which is what Combine calls the signal strength",
                    where=f"measurement {self.measurement}, parameter of interest {self.poi!r}",
                    fix="rename the parameter",
                )
            self.notes.append(Note(self.poi, "renamed", "Combine calls the signal strength r"))
        for channel in self.channels:
            if not any(self.processes[c.process] > 0 for c in self.columns if c.channel == channel):
                detail = "Combine refuses a channel without background, unless --X-allow-no-background"
                self.notes.append(Note(f"channel {channel}", "no background", detail))
        for name, setting in self.settings.items():
            if name in names:
                self._check_setting(name, setting)

    def _check_setting(self, name: str, setting: Mapping[str, Any]) -> None:
        of_lumi = any("lumi" in c.modifiers and name in c.of("lumi") for c in self.columns)
        if not of_lumi and ("auxdata" in setting or "sigmas" in setting or "factors" in setting):
            raise WorkspaceError(
                f"the constraint of {name!r} is not the usual one, which a datacard cannot say",
                where=f"measurement {self.measurement}",
                expected="no auxdata, sigmas or factors",
            )
        if setting.get("fixed"):
            detail = f"--freezeParameters {name} --setParameters {name}={setting.get('inits', ['START'])[0]}"
            self.notes.append(Note(name, "fixed", f"a datacard cannot say so: {detail}"))
        if name == self.poi and "bounds" in setting:
            low, high = setting["bounds"][0]
            self.notes.append(
                Note(name, "bounds", f"a datacard cannot say so: --rMin {low:g} --rMax {high:g}")
            )

    def _systematics(self) -> list[tuple[str, ...]]:
        """Return the lines of lnN, shape and gmN."""
        lines: list[tuple[str, ...]] = []
        parameters = dict.fromkeys(
            name for c in self.columns for kind in ("normsys", "histosys") for name in c.of(kind)
        )
        for parameter in parameters:
            is_shape = any(parameter in c.of("histosys") for c in self.columns)
            lines.append((parameter, "shape" if is_shape else "lnN", *self._effects(parameter, is_shape)))
        for parameter in dict.fromkeys(name for c in self.columns for name in c.of("lumi")):
            uncertainty = self._luminosity(parameter)
            effects = (_number(1.0 + uncertainty) if parameter in c.of("lumi") else "-" for c in self.columns)
            lines.append((parameter, "lnN", *effects))
            detail = f"a power in Combine, linear in pyhf; largest difference within {REACH:g} uncertainties"
            self.notes.append(Note(parameter, "luminosity", detail, linear_difference(uncertainty)))
        for i, column in enumerate(self.columns):
            for parameter, data in column.of("shapesys").items():
                events, weight = self._gamma(column, parameter, data)
                effects = (weight if j == i else "-" for j in range(len(self.columns)))
                lines.append((parameter, f"gmN {events}", *effects))
        return lines

    def _effects(self, parameter: str, is_shape: bool) -> list[str]:
        effects, difference, split = [], 0.0, 0.0
        for column in self.columns:
            if parameter not in column.of("normsys") and parameter not in column.of("histosys"):
                effects.append("-")
                continue
            up, down = column.factors(parameter)
            if not is_shape:
                symmetric = abs(up * down - 1.0) < _ROUNDING
                effects.append(_number(up) if symmetric else f"{_number(down)}/{_number(up)}")
                difference = max(difference, factor_difference(up, down))
                continue
            effects.append("1")
            templates = column.templates(parameter)
            total = column.nominal.sum()
            for direction, bins in zip(("Up", "Down"), templates, strict=True):
                if not bins.sum() > 0.0:
                    raise WorkspaceError(
                        f"{parameter!r} leaves no events, which Combine refuses", where=column.where
                    )
                if (bins < 0.0).any():
                    detail = f"{direction} by {parameter}; Combine cuts them"
                    self.notes.append(Note(column.where, "negative bins", detail))
                key = f"{column.channel}/{column.process}_{parameter}{direction}"
                self.histograms[key] = bins, np.zeros(len(bins))
            factors = [float(bins.sum() / total) for bins in templates]
            difference = max(difference, factor_difference(*factors))
            largest = max(abs(factor - 1.0) for factor in factors)
            if _ROUNDING < largest < SMALL:
                detail = f"of {column.process} in {column.channel}, which Combine leaves out below {SMALL:g}"
                self.notes.append(Note(parameter, "small total", detail, largest))
            shapes = [bins / factor for bins, factor in zip(templates, (up, down), strict=True)]
            if any(abs(bins.sum() / total - 1.0) > _ROUNDING for bins in shapes):
                split = max(split, split_difference(column.nominal, shapes[0], shapes[1], (up, down)))
        if difference > NEGLIGIBLE:
            detail = (
                f"largest difference of Combine's log-normal from code4 within {REACH:g} standard deviations"
            )
            self.notes.append(Note(parameter, "interpolation", detail, difference))
        if split > 0.0:
            detail = "its histosys changes the total, which Combine interpolates as a log-normal"
            self.notes.append(Note(parameter, "split", detail, split))
        return effects

    def _luminosity(self, parameter: str) -> float:
        setting = self.settings.get(parameter, {})
        center, uncertainty = float(setting.get("auxdata", [1.0])[0]), setting.get("sigmas", [None])[0]
        if uncertainty is None or center != 1.0:
            raise WorkspaceError(
                f"the luminosity {parameter!r} is {center:g} with an uncertainty of {uncertainty}",
                where=f"measurement {self.measurement}",
                expected="1 with its relative uncertainty",
            )
        return float(uncertainty)

    def _gamma(self, column: _Column, parameter: str, data: Sequence[float]) -> tuple[int, str]:
        """Return the events and the weight of a shapesys."""
        users = sum(parameter in c.of("shapesys") for c in self.columns)
        rate, error = float(column.nominal[0]), float(data[0])
        events = (rate / error) ** 2 if error > 0.0 else math.inf
        whole = math.isfinite(events) and abs(events - round(events)) < 1e-6 * events
        if len(column.nominal) != 1 or users != 1 or not whole:
            raise WorkspaceError(
                f"shapesys {parameter!r} has no counterpart in a datacard",
                where=column.where,
                expected="one sample with one bin, whose uncertainty is that of a whole number of events (gmN)",
            )
        return round(events), _number(rate / round(events))

    def _rate_parameters(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = []
        for column in self.columns:
            for name in column.of("normfactor"):
                if name != self.poi:
                    setting = self.settings.get(name, {})
                    start = float(setting.get("inits", [1.0])[0])
                    low, high = setting.get("bounds", [[0.0, 10.0]])[0]
                    if not low <= start <= high:
                        raise WorkspaceError(
                            f"{name!r} starts at {start:g}, outside its bounds {low:g} to {high:g}",
                            where=f"measurement {self.measurement}",
                        )
                    ends = f"[{_number(low)},{_number(high)}]"
                    lines.append((name, "rateParam", column.channel, column.process, _number(start), ends))
        return lines

    def _statistics(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = []
        for channel in self.channels:
            own = [c for c in self.columns if c.channel == channel]
            if not any(np.any(list(c.of("staterror").values())) for c in own):
                continue
            lines.append((channel, "autoMCStats", "0", "1"))
            self.notes.append(Note(f"channel {channel}", "autoMCStats", STATISTICS))
        return lines


def _number(value: float) -> str:
    """Return the shortest text that is read back as the same number."""
    return repr(float(value)).removesuffix(".0")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths: dict[int, int] = {}
    for row in rows:
        for i, word in enumerate(row):
            widths[i] = max(widths.get(i, 0), len(word))
    return "".join(
        "  ".join(word.ljust(widths[i]) for i, word in enumerate(row)).rstrip() + "\n" for row in rows
    )

"""`read_datacard`: a Combine datacard with histograms or counts becomes a pyhf workspace."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError, WorkspaceError
from neyman.naming import Naming
from neyman.workspace.combine.card import Card, Column, Systematic, parse
from neyman.workspace.combine.histograms import DATA, ShapeFiles
from neyman.workspace.combine.interpolation import NEGLIGIBLE, REACH, SMALL, STATISTICS, factor_difference
from neyman.workspace.histograms import SampleModel, modifier_names, pyhf_channel
from neyman.workspace.notes import Note
from neyman.workspace.parameter_settings import default_bounds, parameter_settings
from neyman.workspace.treatment import Treated, Treatment
from neyman.workspace.uhi import Binned

Array = NDArray[np.float64]
COMBINE_BOUNDS = (0.0, 20.0)
"""Of the signal strength in Combine."""
_NAMING = Naming()


@dataclass(frozen=True, eq=False)
class Datacard:
    """A datacard as a pyhf workspace.

    Parameters
    ----------
    workspace
        pyhf workspace.
    notes
        Where Combine and pyhf differ, by how much, and what was left out.
    treated
        What a treatment did.
    """

    workspace: dict[str, Any]
    notes: tuple[Note, ...]
    treated: tuple[Treated, ...] = ()


def read_datacard(
    path: str | os.PathLike[str],
    *,
    poi: str = "r",
    bounds: Mapping[str, tuple[float, float]] | None = None,
    mass: float = 120.0,
    keywords: Mapping[str, str] | None = None,
    treatment: Treatment | None = None,
    measurement: str = "measurement",
) -> Datacard:
    r"""Read a Combine datacard, plain or gzipped, and the histograms that it names.

    The common subset: counting experiments and TH1 histograms, ``lnN`` (symmetric and ``down/up``), ``shape`` and
    ``shape?`` with any scale, ``gmN`` of one column of one bin, ``rateParam`` with a number, ``autoMCStats``. Groups
    are noted; all else is refused by name.

    What is the same, and what is not (each is noted, with its size):

    * Shapes: the same at every value of the parameter. The total of a ``shape`` is a log-normal of its own in Combine,
      and a normsys beside the histosys here, as `from_hists` splits it. Combine leaves out totals that change by less
      than 0.1%, and cuts negative bins.
    * Totals: Combine's log-normal and pyhf's ``code4`` agree at 0 and :math:`\pm 1` and, for symmetric factors, beyond.
      ``Likelihood.from_pyhf(workspace, normsys="code1")`` is Combine's for symmetric factors, and for asymmetric ones
      beyond half a standard deviation.
    * ``autoMCStats``: one parameter a bin in both where there are enough events. Its size relative to the rate is that
      of the nominal model here and follows the parameters there. Below the threshold, Combine has one a process.
    * Free factors without a range have none in Combine; here they get that of `from_hists` (`bounds` changes it).

    Parameters
    ----------
    path
        The datacard.
    poi
        Name of the signal strength, which multiplies the processes whose number is 0 or negative.
    bounds
        Of the signal strength and other free factors, in place of the card's; 0 to 20 for the signal strength, as in
        Combine.
    mass
        For ``$MASS``.
    keywords
        For other words after ``$``.
    treatment
        Of the shapes, as for `from_hists`.
    measurement
        Name of the measurement.

    Raises
    ------
    InputError
        When the file cannot be read.
    WorkspaceError
        When the card is broken or outside the common subset; with the line and the word.
    """
    file = Path(path)
    card = parse(_text(file), file.name)
    words = {"MASS": f"{mass:g}", **(keywords or {})}
    with ShapeFiles(card, file.parent, words) as files:
        reader = _Reader(card, files, poi, treatment or Treatment())
        channels = [reader.channel(name) for name in card.observed]
    if poi not in modifier_names([channel for channel, _ in channels]):
        raise WorkspaceError("no signal has events in any channel", where=file.name)
    settings, limits = reader.parameters(bounds or {})
    workspace = {
        "channels": [channel for channel, _ in channels],
        "observations": [{"name": channel["name"], "data": data.tolist()} for channel, data in channels],
        "measurements": [
            {
                "name": measurement,
                "config": {
                    "poi": poi,
                    "parameters": parameter_settings([c for c, _ in channels], poi, settings, limits, None),
                },
            }
        ],
        "version": "1.0.0",
    }
    return Datacard(workspace, tuple(reader.all_notes()), tuple(reader.treated))


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except FileNotFoundError as error:
        raise InputError(f"{file.name} does not exist", where=str(file)) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file.name} cannot be read: {error}", where=str(file), expected="a Combine datacard, text"
        ) from error


class _Reader:
    """Makes the channels of a card; collects what differs."""

    def __init__(self, card: Card, files: ShapeFiles, poi: str, treatment: Treatment) -> None:
        self.card, self.files, self.poi, self.treatment = card, files, poi, treatment
        self.notes: list[Note] = []
        self.treated: list[Treated] = []
        self._factors: dict[str, list[tuple[float, float]]] = {}
        self._carried: dict[str, int] = {}  # free factors that act, with their line
        for systematic in card.systematics:
            if systematic.name == poi:
                card.error(
                    systematic.line, f"{poi!r} is the signal strength and a systematic", fix="another poi="
                )
        for parameter in card.rate_parameters:
            if parameter.name == poi:
                card.error(
                    parameter.line, f"{poi!r} is the signal strength and a rateParam", fix="another poi="
                )
            if not any(_acts(parameter.channel, parameter.process, column) for column in card.columns):
                card.error(
                    parameter.line,
                    f"rateParam {parameter.name!r} acts on no column",
                    expected=f"a channel and a process that fit {parameter.channel!r} and {parameter.process!r}",
                )

    def channel(self, name: str) -> tuple[dict[str, Any], Array]:
        """Return a channel of the workspace and its observed counts."""
        columns = [(i, c) for i, c in enumerate(self.card.columns) if c.channel == name]
        histograms: dict[str, Binned] = {}
        models: dict[str, SampleModel] = {}
        gammas: dict[str, tuple[str, float]] = {}
        for i, column in columns:
            one = self._nominal(column)
            if one is None:
                self._check_gammas(i, column)
                self.notes.append(
                    Note(f"channel {name}, {column.process}", "no events", "left out, as in Combine")
                )
                continue
            histograms[column.process], models[column.process] = self._varied(i, column, one, gammas)
        if not histograms:
            raise WorkspaceError(f"no process has events in channel {name!r}", where=self.card.name)
        statistics = self._statistics(name, histograms)
        made, treated = pyhf_channel(
            name,
            {process: one.to_hist(_NAMING) for process, one in histograms.items()},
            models,
            naming=_NAMING,
            staterror=f"staterror_{name}" if statistics else None,
            treatment=self.treatment,
            notes=self.notes,
        )
        self.treated += treated
        for sample in made["samples"]:
            # A sample without statistical uncertainty does not carry that of the others.
            sample["modifiers"] = [
                m for m in sample["modifiers"] if m["type"] != "staterror" or any(m["data"])
            ]
            if sample["name"] in gammas:
                parameter, error = gammas[sample["name"]]
                sample["modifiers"].append({"name": parameter, "type": "shapesys", "data": [error]})
        return made, self._observed(name, made)

    def parameters(
        self, bounds: Mapping[str, tuple[float, float]]
    ) -> tuple[list[dict[str, Any]], dict[str, tuple[float, float]]]:
        """Return starts and bounds of the free factors."""
        limits = {self.poi: COMBINE_BOUNDS, **bounds}
        settings = []
        for parameter in self.card.rate_parameters:
            if parameter.name not in self._carried or self._carried[parameter.name] != parameter.line:
                continue
            settings.append({"name": parameter.name, "inits": [parameter.start]})
            if parameter.name in bounds:
                continue
            if parameter.bounds is None:
                where = f"line {parameter.line}, {parameter.name}"
                low, high = default_bounds(parameter.start, poi=False)
                self.notes.append(Note(where, "no range", f"from {low:g} to {high:g} here"))
            else:
                limits[parameter.name] = parameter.bounds
        return settings, limits

    def all_notes(self) -> list[Note]:
        """Return the notes, one on the interpolation of each parameter."""
        differences = {
            name: max(factor_difference(*f) for f in pairs) for name, pairs in self._factors.items()
        }
        detail = f"largest difference of code4 from Combine's log-normal within {REACH:g} standard deviations"
        return [
            *self.notes,
            *(
                Note(name, "interpolation", detail, size)
                for name, size in differences.items()
                if size > NEGLIGIBLE
            ),
            *(
                Note(name, "group", f"of {', '.join(names)}; left out")
                for name, names in self.card.groups.items()
            ),
        ]

    def _nominal(self, column: Column) -> Binned | None:
        """Return the expected events; None where there are none."""
        shapes = self.files.line(column.channel, column.process)
        where = f"of {column.process!r} in {column.channel!r}"
        if column.rate == 0.0:
            return None
        if shapes is None:
            if column.rate < 0.0:
                raise WorkspaceError(
                    f"the rate {where} is -1 without a histogram", where=self.card.name, expected="a rate"
                )
            return _single(column.rate)
        one = self.files.get(shapes, column.channel, column.process)
        total = float(one.values["nominal"][1:-1].sum())
        if column.rate < 0.0:
            return one if total != 0.0 else None
        if abs(total - column.rate) > 0.01 * max(1.0, column.rate):
            self.card.error(
                shapes.line,
                f"the histogram {where} holds {total:g} events, the rate is {column.rate:g}",
                expected="the same within 1%, or the rate -1",
            )
        return one.scaled(column.rate / total) if total != 0.0 else None

    def _varied(
        self, i: int, column: Column, one: Binned, gammas: dict[str, tuple[str, float]]
    ) -> tuple[Binned, SampleModel]:
        """Return the histogram of a column with its variations, and its other modifiers."""
        shapes = self.files.line(column.channel, column.process)
        values, scales = dict(one.values), {}
        normsys: dict[str, tuple[float, float]] = {}
        nominal, written = values["nominal"], 0.0
        if shapes is not None:
            file = self.files.get(shapes, column.channel, column.process)
            written = float(file.values["nominal"][1:-1].sum())
        for systematic in self.card.systematics:
            effect = systematic.effects[i]
            if effect is None:
                continue
            is_shape = systematic.kind.startswith("shape")
            if systematic.kind == "shape?":
                is_shape = shapes is not None and self.files.has(
                    shapes, column.channel, column.process, f"{systematic.name}Up"
                )
            if systematic.kind == "gmN":
                gammas[column.process] = self._gamma(systematic, column, one, float(effect))
            elif not is_shape:
                pair = _factors(effect)
                normsys[systematic.name] = pair
                self._factors.setdefault(systematic.name, []).append(pair)
            elif shapes is None:
                self.card.error(
                    systematic.line,
                    f"{systematic.name!r} is a shape, and {column.process!r} in {column.channel!r} has no histogram",
                    fix="make it lnN",
                )
            elif "/" in effect:
                self.card.error(systematic.line, f"the scale {effect!r} of a shape is two numbers")
            else:
                scales[systematic.name] = float(effect)
                for direction in ("Up", "Down"):
                    varied = self.files.get(
                        shapes, column.channel, column.process, systematic.name + direction
                    )
                    if len(varied.values["nominal"]) != len(nominal):
                        self.card.error(
                            systematic.line,
                            f"{systematic.name + direction!r} of {column.process!r} in {column.channel!r} has "
                            f"{len(varied.values['nominal']) - 2} bins",
                            expected=f"{len(nominal) - 2}, as its nominal histogram",
                        )
                    values[systematic.name + direction] = self._scaled(
                        one, written, varied, float(effect), systematic, column
                    )
                self._examine(systematic, column, values)
        self._check_regions(column, scales)
        free = [p for p in self.card.rate_parameters if _acts(p.channel, p.process, column)]
        names = tuple(dict.fromkeys(p.name for p in free))
        for parameter in free:
            self._carried.setdefault(parameter.name, parameter.line)
        variances = dict.fromkeys(values, one.variances["nominal"])
        model = SampleModel(((self.poi,) if column.signal else ()) + names, normsys)
        return Binned(one.edges, values, variances), model

    def _scaled(
        self,
        one: Binned,
        written: float,
        varied: Binned,
        scale: float,
        systematic: Systematic,
        column: Column,
    ) -> Array:
        """Return a variation at one standard deviation, where the histogram is `1 / scale` of them away.

        Combine raises the change of the total to the power of the scale, and multiplies that of the fractions.
        `written` is the total of the nominal histogram in the file, which the rate may differ from a little.
        """
        nominal, bins = one.values["nominal"][1:-1], varied.values["nominal"][1:-1]
        if not bins.sum() > 0.0:
            self.card.error(
                systematic.line,
                f"a variation by {systematic.name!r} of {column.process!r} in {column.channel!r} holds "
                f"{bins.sum():g} events",
                expected="more than 0",
            )
        total = float(nominal.sum()) * float(bins.sum() / written) ** scale
        fractions = nominal / nominal.sum() + scale * (bins / bins.sum() - nominal / nominal.sum())
        return np.pad(total * fractions, 1)

    def _examine(self, systematic: Systematic, column: Column, values: Mapping[str, Array]) -> None:
        """Note how the change of the total by a shape is interpolated, or that Combine leaves it out."""
        nominal = values["nominal"][1:-1].sum()
        up, down = (float(values[systematic.name + d][1:-1].sum() / nominal) for d in ("Up", "Down"))
        largest = max(abs(up - 1.0), abs(down - 1.0))
        if largest == 0.0:
            return
        if largest < SMALL:
            detail = f"of {column.process} in {column.channel}, which Combine leaves out below {SMALL:g}"
            where = f"line {systematic.line}, {systematic.name}"
            self.notes.append(Note(where, "small total", detail, largest))
        self._factors.setdefault(systematic.name, []).append((up, down))

    def _check_regions(self, column: Column, scales: Mapping[str, float]) -> None:
        """Note the shapes that Combine smooths over less than one standard deviation."""
        region = min(1.0, *scales.values()) if scales else 1.0
        for name, scale in scales.items():
            if scale > region:
                detail = (
                    f"scale {scale:g} of {column.process} in {column.channel}: Combine smooths up to "
                    f"{region / scale:.3g} standard deviations, pyhf up to 1; the same at 0 and 1 and beyond"
                )
                self.notes.append(Note(name, "scaled shape", detail))

    def _gamma(self, systematic: Systematic, column: Column, one: Binned, weight: float) -> tuple[str, float]:
        """Return name and uncertainty of the shapesys with the same Poisson constraint."""
        used = sum(effect is not None for effect in systematic.effects)
        if used != 1 or len(one.edges) != 2 or systematic.events == 0:
            self.card.error(
                systematic.line,
                f"gmN {systematic.name!r} of {systematic.events} events acts on {used} columns and "
                f"{len(one.edges) - 1} bins",
                expected="one column of one bin, and events: pyhf has no other parameter with a Poisson constraint",
            )
        rate = float(one.values["nominal"][1])
        if abs(rate - weight * systematic.events) > 0.01 * rate:
            self.card.error(
                systematic.line,
                f"gmN {systematic.name!r} expects {weight * systematic.events:g} events of {column.process!r}",
                expected=f"the rate, {rate:g}",
            )
        return systematic.name, rate / systematic.events**0.5

    def _check_gammas(self, i: int, column: Column) -> None:
        """Refuse a ``gmN`` of a column without events: in Combine, it is what makes the rate."""
        for systematic in self.card.systematics:
            if systematic.kind == "gmN" and systematic.effects[i] is not None:
                self.card.error(
                    systematic.line,
                    f"gmN {systematic.name!r} of {systematic.events} events acts on {column.process!r} in "
                    f"{column.channel!r}, whose rate is 0",
                    expected="a rate and events above 0: pyhf has no parameter for a control region without events",
                )

    def _statistics(self, channel: str, histograms: Mapping[str, Binned]) -> bool:
        """Return whether the simulation's uncertainty enters, and note what differs."""
        lines = [s for s in self.card.statistics if fnmatchcase(channel, s.channel)]
        if not lines or lines[-1].threshold < 0.0 or self.files.line(channel, DATA) is None:
            return False
        line = lines[-1]
        where = f"line {line.line}, channel {channel}"
        self.notes.append(Note(where, "autoMCStats", STATISTICS))
        if line.mode != 1:
            detail = f"mode {line.mode} morphs shapes with their totals; read as mode 1"
            self.notes.append(Note(where, "autoMCStats", detail))
        counted = {c.process for c in self.card.columns if line.signal or not c.signal} & set(histograms)
        total = sum(histograms[p].values["nominal"][1:-1] for p in sorted(counted))
        variance = sum(_variance(histograms[p]) for p in sorted(counted))
        if counted:
            total, variance = np.asarray(total), np.asarray(variance)
            effective = np.divide(total**2, variance, out=np.full_like(total, np.inf), where=variance > 0.0)
            few = np.flatnonzero(np.rint(effective) <= line.threshold)
            if len(few):
                bins = ", ".join(f"{b} ({effective[b]:.3g} events)" for b in few)
                detail = f"Combine has a parameter for each process, and this one for all, in bin {bins}"
                self.notes.append(Note(where, "autoMCStats", detail))
        return True

    def _observed(self, name: str, made: Mapping[str, Any]) -> Array:
        given, shapes = self.card.observed[name], self.files.line(name, DATA)
        n_bins = len(made["samples"][0]["data"])
        if shapes is None:
            if given is not None and given < 0.0:
                raise WorkspaceError(
                    f"the observation of {name!r} is {given:g} without a histogram", where=self.card.name
                )
            counts = None if given is None else np.array([given])
        else:
            counts = self.files.get(shapes, name, DATA).values["nominal"][1:-1]
            total = float(counts.sum())
            if given is not None and given >= 0.0 and abs(total - given) > 0.005 * given + 0.01:
                self.card.error(
                    shapes.line,
                    f"the data of {name!r} hold {total:g} events, the observation is {given:g}",
                    expected="the same, or the observation -1",
                )
        if counts is None:
            self.notes.append(Note(f"channel {name}", "no data", "the sum of the processes instead"))
            return np.asarray(np.sum([sample["data"] for sample in made["samples"]], axis=0))
        if len(counts) != n_bins or (counts < 0.0).any() or not np.isfinite(counts).all():
            raise WorkspaceError(
                f"the data of {name!r} are {', '.join(f'{c:g}' for c in counts[:8])}",
                where=self.card.name,
                expected=f"{n_bins} counts that are not negative",
            )
        return counts


def _single(rate: float) -> Binned:
    bins = np.array([0.0, rate, 0.0])
    return Binned(np.array([0.0, 1.0]), {"nominal": bins}, {"nominal": np.zeros(3)})


def _factors(effect: str) -> tuple[float, float]:
    """Return the factors up and down of a log-normal: ``1.1`` or ``down/up``."""
    parts = [float(part) for part in effect.split("/")]
    return (parts[0], 1.0 / parts[0]) if len(parts) == 1 else (parts[1], parts[0])


def _acts(channel: str, process: str, column: Column) -> bool:
    return fnmatchcase(column.channel, channel) and fnmatchcase(column.process, process)


def _variance(one: Binned) -> Array:
    variances = one.variances["nominal"]
    return np.abs(one.values["nominal"][1:-1]) if variances is None else variances[1:-1]

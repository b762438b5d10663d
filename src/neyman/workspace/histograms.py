"""`from_hists`: histograms with a systematic axis become an ordinary pyhf workspace."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import NeymanWarning, WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.notes import Note
from neyman.workspace.parameter_settings import parameter_settings
from neyman.workspace.templates import Templates
from neyman.workspace.treatment import Treated, Treating, Treatment
from neyman.workspace.uhi import Flow, Histogram, binned, same_edges

Array = NDArray[np.float64]
Histograms = Mapping[str, Mapping[str, Histogram]]


@dataclass(frozen=True)
class SampleModel:
    """What acts on a sample beside the variations that its histograms carry.

    Parameters
    ----------
    normfactors
        Names of free factors (the signal strength, a normalisation).
    normsys
        Normalisation uncertainties: name to (up, down) factors.
    lumi
        Whether the luminosity parameter acts on it.

    Raises
    ------
    WorkspaceError
        When the names are one text, a name is there twice, or factors are no pair of positive numbers.
    """

    normfactors: tuple[str, ...] = ()
    normsys: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    lumi: bool = False

    def __post_init__(self) -> None:
        if _is_text(self.normfactors) or len(set(self.normfactors)) < len(self.normfactors):
            raise WorkspaceError(
                f"the normfactors of a sample are {self.normfactors!r}", expected="a tuple of different names"
            )
        for name, factors in self.normsys.items():
            pair = np.asarray(factors, dtype=np.float64)
            if pair.shape != (2,) or not (np.isfinite(pair) & (pair > 0.0)).all():
                raise WorkspaceError(
                    f"the factors of normsys {name!r} are {factors}",
                    expected="a factor up and one down, both above 0, such as (1.1, 0.9)",
                )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def from_hists(
    channels: Histograms | Templates,
    models: Mapping[str, SampleModel],
    *,
    poi: str = "mu",
    observed: Mapping[str, ArrayLike | Histogram] | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
    bounds: Mapping[str, tuple[float, float]] | None = None,
    lumi: float | None = None,
    naming: Naming | str | None = None,
    staterror: bool = True,
    flow: Flow | None = None,
    measurement: str = "measurement",
    treatment: Treatment | None = None,
    report: list[Treated] | None = None,
    notes: list[Note] | None = None,
) -> dict[str, Any]:
    """Make a pyhf workspace from histograms of hist, boost-histogram, uproot or any UHI library.

    Each up/down pair on the systematic axis becomes a normsys (ratio of the totals) and, where the shape changes
    too, a histosys of the same name (the variation scaled to the nominal total), so that the two effects keep
    the interpolations that suit them.

    The measurement states the start and the bounds of every free factor and of the luminosity, so that pyhf,
    cabinetry and neyman fit the same: left to itself, pyhf bounds a parameter of interest to 0 to 10. The default is
    -10 to 10 for the parameter of interest and factors that start below 0, and 0 to 10 for others, times the size of
    the start where that is above 1.

    Parameters
    ----------
    channels
        Channel name to sample name to histogram: one numeric axis, and optionally the systematic axis. Bins'
        contents are expected counts; the variances give the staterror. Or the `Templates` that `from_axes`,
        `from_root` and `from_accumulator` return, with their data and naming.
    models
        Further modifiers of each sample, by sample name.
    poi
        Parameter of interest.
    observed
        Observed counts or histogram by channel; the sum of the nominal samples (Asimov data) where not given.
    parameters
        Parameter settings with pyhf's keys (``name, inits, bounds, auxdata, sigmas, fixed``); they win over `bounds`
        and `lumi`.
    bounds
        Lower and upper bound of free factors.
    lumi
        Relative uncertainty of the luminosity, where samples carry it.
    naming
        Names on the systematic axis, or a framework's name (see `Naming.of`).
    staterror
        Whether the simulation's statistical uncertainty becomes a staterror a channel.
    flow
        ``merge`` adds the events below and above the edges to the first and last bin, ``ignore`` leaves them out;
        by default they are left out, with a warning unless there is a `report`.
    measurement
        Name of the measurement.
    treatment
        Smoothing, symmetrisation, pruning and floors of the variations; nothing by default.
    report
        A list that gets a record of everything that the treatment did, in the order of the channels and samples.
    notes
        A list that gets what deserves a look and was left as it is: the notes of the `Templates`, variations that
        are one-sided (up and down move the total the same way) or fill bins that are empty nominally, bins without
        statistical uncertainty, and bins where no sample of a channel expects events.

    Raises
    ------
    WorkspaceError
        When an axis is missing, binnings differ, a bin of the nominal or of a variation is negative or not finite,
        a variation has lost its partner, variances are not known, no sample carries the POI, parameters of two kinds
        have one name, a start is outside its bounds, the luminosity has no uncertainty, or observed counts have
        another length.

    Warns
    -----
    NeymanWarning
        When events beyond the edges are left out without a word about it in `flow` or a `report`.
    """
    found: list[Note] = []
    if isinstance(channels, Templates):
        found += channels.notes
        observed = {**channels.observed, **(observed or {})}
        naming = channels.naming if naming is None else naming
        channels = channels.channels
    unseen = sorted(set(observed or {}) - set(channels))
    if unseen:
        raise WorkspaceError(
            f"there is no channel {unseen[0]!r} of which counts were observed",
            fix=f"nearest: {nearest(unseen[0], channels)}",
        )
    naming = Naming.of(naming)
    spec_channels, records = pyhf_channels(
        channels,
        models,
        poi=poi,
        naming=naming,
        staterror=staterror,
        flow=flow or "ignore",
        treatment=treatment,
        notes=found,
    )
    if notes is not None:
        notes += found
    if report is not None:
        report += records
    elif flow is None:
        _warn_of_lost([r for r in records if r.what == "flow ignored"])
    return {
        "channels": spec_channels,
        "observations": [
            {
                "name": c["name"],
                "data": _observation(c, (observed or {}).get(c["name"]), naming, flow or "ignore"),
            }
            for c in spec_channels
        ],
        "measurements": [
            {
                "name": measurement,
                "config": {
                    "poi": poi,
                    "parameters": parameter_settings(spec_channels, poi, parameters, bounds or {}, lumi),
                },
            }
        ],
        "version": "1.0.0",
    }


def pyhf_channels(
    channels: Histograms,
    models: Mapping[str, SampleModel],
    *,
    poi: str,
    naming: Naming | str | None = None,
    staterror: bool = True,
    flow: Flow = "ignore",
    treatment: Treatment | None = None,
    notes: list[Note] | None = None,
    signed: bool = False,
) -> tuple[list[dict[str, Any]], list[Treated]]:
    """Return the channels of a pyhf workspace and the record of the treatment.

    Arguments and errors as of `from_hists`; with `signed`, bins may be negative, and `poi` may be empty.
    """
    naming, treatment = Naming.of(naming), treatment or Treatment()
    records: list[Treated] = []
    spec_channels = []
    for channel, samples in channels.items():
        made, done = pyhf_channel(
            channel,
            samples,
            models,
            naming=naming,
            staterror=f"staterror_{channel}" if staterror else None,
            flow=flow,
            treatment=treatment,
            notes=notes,
            signed=signed,
        )
        spec_channels.append(made)
        records += done
    names = modifier_names(spec_channels)
    if poi not in names and not (signed and not poi):
        raise WorkspaceError(
            f"no sample carries the parameter of interest {poi!r}", fix=f"nearest: {nearest(poi, names)}"
        )
    return spec_channels, records


def pyhf_channel(
    channel: str,
    samples: Mapping[str, Histogram],
    models: Mapping[str, SampleModel],
    *,
    naming: Naming,
    staterror: str | None,
    flow: Flow = "ignore",
    treatment: Treatment | None = None,
    notes: list[Note] | None = None,
    signed: bool = False,
) -> tuple[dict[str, Any], list[Treated]]:
    """Return one channel of a pyhf workspace and the record of its treatment; `staterror` is the name of it."""
    treatment = treatment or Treatment()
    contents = {
        name: _Contents(h, naming, flow, Treating(treatment, channel, name, signed=signed))
        for name, h in samples.items()
    }
    _check_bins(channel, contents)
    unknown = sorted(set(samples) - set(models))
    if unknown:
        raise WorkspaceError(
            f"sample {unknown[0]!r} of channel {channel!r} has no model",
            fix=f"add an entry for it; nearest: {nearest(unknown[0], models)}",
        )
    made = {
        "name": channel,
        "samples": [
            {
                "name": name,
                "data": c.nominal.tolist(),
                "modifiers": _modifiers(models[name], c, staterror),
            }
            for name, c in contents.items()
        ],
    }
    if notes is not None:
        notes += [note for c in contents.values() for note in c.treating.notes]
        empty = np.flatnonzero(np.sum([np.abs(c.nominal) for c in contents.values()], axis=0) == 0.0)
        if len(empty):
            bins = ", ".join(str(i) for i in empty)
            detail = f"no sample expects events in bin {bins}: data there make the likelihood 0"
            notes.append(Note(f"channel {channel}", "empty bins", detail))
    return made, [record for c in contents.values() for record in c.treating.records]


def _check_bins(channel: str, contents: Mapping[str, _Contents]) -> None:
    if not contents:
        raise WorkspaceError(f"channel {channel!r} has no samples", expected="one or more")
    n_bins = {len(c.nominal) for c in contents.values()}
    if len(n_bins) != 1:
        raise WorkspaceError(
            f"the samples of channel {channel!r} have different numbers of bins {sorted(n_bins)}"
        )
    (first, reference), *others = contents.items()
    for name, c in others:
        if not same_edges(reference.edges, c.edges):
            raise WorkspaceError(
                f"samples {first!r} and {name!r} have different edges",
                where=f"channel {channel!r}",
                expected="the same bins in all samples of a channel",
            )


def _warn_of_lost(records: Sequence[Treated]) -> None:
    if not records:
        return
    worst = max(records, key=lambda r: r.size)
    warnings.warn(
        f"events beyond the edges of {len(records)} histograms are left out, {worst.size:.2g} of the events of "
        f"{worst.sample} in {worst.channel}: {worst.detail}; say flow='merge' or flow='ignore'",
        NeymanWarning,
        stacklevel=3,
    )


def modifier_names(channels: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of all modifiers of pyhf channels."""
    return {m["name"] for c in channels for s in c["samples"] for m in s["modifiers"]}


class _Contents:
    """Nominal counts, variances and treated variations of one histogram."""

    def __init__(self, h: Histogram, naming: Naming, flow: Flow, treating: Treating) -> None:
        self.treating, where = treating, treating.where
        given = binned(h, naming, where)
        self.edges, categories = given.edges, list(given.values)
        if naming.nominal not in categories:
            raise WorkspaceError(
                f"the systematic axis has no category {naming.nominal!r}",
                where=where,
                fix=f"nearest: {nearest(naming.nominal, categories)}",
            )

        def counts(category: str) -> Array:
            values, _ = given.inside(category, flow)
            bad = np.nonzero(~np.isfinite(values))[0]
            if len(bad):
                raise WorkspaceError(f"bin {bad[0]} of {category!r} is not finite", where=where)
            return values

        nominal, variances = counts(naming.nominal), given.inside(naming.nominal, flow)[1]
        treating.flow(given.values[naming.nominal], naming.nominal, flow)
        self.nominal = treating.nominal(nominal, naming.nominal)
        # Storages without variances have a negative one where the nominal bin was, before its floor.
        self.variances = None if variances is None else np.where(nominal < 0.0, np.abs(variances), variances)
        bases = [c.removesuffix(naming.up) for c in categories if c.endswith(naming.up)]
        paired = {naming.nominal, *(base + suffix for base in bases for suffix in (naming.up, naming.down))}
        single = {base for base in bases if base + naming.down not in categories}
        mirrored = single if treating.treatment.mirror_missing else set()
        for category in sorted(set(categories) ^ paired - {base + naming.down for base in mirrored}):
            raise WorkspaceError(
                f"variation {category!r} has no up/down partner"
                if category in categories
                else f"variation {category!r} is missing",
                where=where,
                expected=f"pairs NAME{naming.up}, NAME{naming.down}",
                fix="rename it, as labels= of from_accumulator does, or leave it out"
                if category in categories
                else "fill it, or take it as the mirror of the other by Treatment(mirror_missing=True)",
            )
        pairs = {
            base: (
                counts(base + naming.up),
                None if base in mirrored else counts(base + naming.down),
            )
            for base in sorted(bases)
        }
        self.variations = treating.variations(self.nominal, pairs, (naming.up, naming.down))


def _modifiers(model: SampleModel, contents: _Contents, staterror: str | None) -> list[dict[str, Any]]:
    for name in contents.variations:
        if name in model.normsys or name in model.normfactors:
            raise WorkspaceError(
                f"{name!r} varies the histogram and is a {'normsys' if name in model.normsys else 'normfactor'} too",
                where=contents.treating.where,
                fix="give the two effects different names, or put both into the histograms",
            )
    out: list[dict[str, Any]] = [
        {"name": name, "type": "normfactor", "data": None} for name in model.normfactors
    ]
    if model.lumi:
        out.append({"name": "lumi", "type": "lumi", "data": None})
    keeps_norm, keeps_shape = contents.treating.keeps_norm, contents.treating.keeps_shape
    out += [
        {"name": name, "type": "normsys", "data": {"hi": up, "lo": down}}
        for name, (up, down) in model.normsys.items()
        if keeps_norm(name, up, down)
    ]
    total = float(contents.nominal.sum())
    for name, (up, down) in contents.variations.items():
        if not (contents.nominal.any() or up.any() or down.any()):
            continue
        hi, lo = float(up.sum()), float(down.sum())
        if contents.treating.signed and not (
            min(total, hi, lo) > 0.0 and min(contents.nominal.min(), up.min(), down.min()) >= 0.0
        ):
            # Where contents cancel, the ratio of the totals means nothing, so the variation stays whole.
            if keeps_shape(name, contents.nominal, (up, down)):
                data = {"hi_data": up.tolist(), "lo_data": down.tolist()}
                out.append({"name": name, "type": "histosys", "data": data})
            continue
        if not (total > 0.0 and hi > 0.0 and lo > 0.0):
            raise WorkspaceError(
                f"variation {name!r} has totals nominal {total:g}, up {hi:g}, down {lo:g}",
                where=contents.treating.where,
                expected="positive totals, or no events in all three",
            )
        if keeps_norm(name, hi / total, lo / total):
            out.append({"name": name, "type": "normsys", "data": {"hi": hi / total, "lo": lo / total}})
        shapes = up * (total / hi), down * (total / lo)
        contents.treating.examine(name, contents.nominal, (up, down))
        differs = any(np.abs(shape - contents.nominal).max() > 1e-9 * total for shape in shapes)
        if differs and keeps_shape(name, contents.nominal, shapes):
            data = {"hi_data": shapes[0].tolist(), "lo_data": shapes[1].tolist()}
            out.append({"name": name, "type": "histosys", "data": data})
    if staterror is not None:
        out.append({"name": staterror, "type": "staterror", "data": _errors(contents).tolist()})
    return out


def _errors(contents: _Contents) -> Array:
    variances, where = contents.variances, contents.treating.where
    if variances is None:
        raise WorkspaceError(
            "the histogram does not know its variances: weights went into a storage that keeps none",
            where=where,
            fix="use Weight storage, or staterror=False",
        )
    bad = np.flatnonzero(~(np.isfinite(variances) & (variances >= 0.0)))
    if len(bad):
        raise WorkspaceError(f"the variance of bin {bad[0]} is {variances[bad[0]]:g}", where=where)
    contents.treating.certain(contents.nominal, variances)
    return np.sqrt(variances)


def _observation(
    channel: Mapping[str, Any], observed: ArrayLike | Histogram | None, naming: Naming, flow: Flow
) -> list[float]:
    expected = np.sum([sample["data"] for sample in channel["samples"]], axis=0)
    if observed is None:
        counts = expected
    elif hasattr(observed, "values"):
        where = f"observed in {channel['name']!r}"
        one = binned(observed, naming, where)
        counts, _ = one.inside(one.main(naming, where), flow)
    else:
        counts = np.asarray(observed, dtype=np.float64)
    if counts.shape != expected.shape:
        raise WorkspaceError(
            f"channel {channel['name']!r} is observed in {counts.size} bins but has {expected.size}",
        )
    bad = np.flatnonzero(~(np.isfinite(counts) & (counts >= 0.0)))
    if len(bad) and observed is not None:
        raise WorkspaceError(
            f"the observed count of bin {bad[0]} is {counts[bad[0]]:g}",
            where=f"channel {channel['name']!r}",
            expected="a number that is not negative",
        )
    return [float(c) for c in counts]

"""`from_hists`: histograms with a systematic axis become an ordinary pyhf workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hist
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.treatment import Treated, Treating, Treatment

Array = NDArray[np.float64]
Histograms = Mapping[str, Mapping[str, hist.Hist[Any]]]


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
    """

    normfactors: tuple[str, ...] = ()
    normsys: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    lumi: bool = False


def from_hists(
    channels: Histograms,
    models: Mapping[str, SampleModel],
    *,
    poi: str = "mu",
    observed: Mapping[str, ArrayLike] | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
    naming: Naming | str | None = None,
    staterror: bool = True,
    measurement: str = "measurement",
    treatment: Treatment | None = None,
    report: list[Treated] | None = None,
) -> dict[str, Any]:
    """Make a pyhf workspace from `hist` histograms.

    Each up/down pair on the systematic axis becomes a normsys (ratio of the totals) and, where the shape changes
    too, a histosys of the same name (the variation scaled to the nominal total), so that the two effects keep
    the interpolations that suit them.

    Parameters
    ----------
    channels
        Channel name to sample name to histogram: one numeric axis, and optionally the systematic axis. Bins'
        contents are expected counts; the variances of Weight storage give the staterror.
    models
        Further modifiers of each sample, by sample name.
    poi
        Parameter of interest.
    observed
        Observed counts by channel; the sum of the nominal samples (Asimov data) where not given.
    parameters
        Parameter settings with pyhf's keys (``name, inits, bounds, auxdata, sigmas, fixed``).
    naming
        Names on the systematic axis, or a framework's name (see `Naming.of`).
    staterror
        Whether the simulation's statistical uncertainty becomes a staterror a channel.
    measurement
        Name of the measurement.
    treatment
        Smoothing, symmetrisation, pruning and floors of the variations; nothing by default.
    report
        A list that gets a record of everything that the treatment did, in the order of the channels and samples.

    Raises
    ------
    WorkspaceError
        When an axis is missing, binnings differ, a bin of the nominal or of a variation is negative or not finite,
        a variation has lost its partner, no sample carries the POI, or observed counts have another length.
    """
    unseen = sorted(set(observed or {}) - set(channels))
    if unseen:
        raise WorkspaceError(
            f"there is no channel {unseen[0]!r} of which counts were observed",
            fix=f"nearest: {nearest(unseen[0], channels)}",
        )
    spec_channels, records = pyhf_channels(
        channels, models, poi=poi, naming=naming, staterror=staterror, treatment=treatment
    )
    names = modifier_names(spec_channels)
    if report is not None:
        report += records
    return {
        "channels": spec_channels,
        "observations": [
            {"name": c["name"], "data": _observation(c, (observed or {}).get(c["name"]))}
            for c in spec_channels
        ],
        "measurements": [
            {
                "name": measurement,
                "config": {"poi": poi, "parameters": [dict(p) for p in parameters if p["name"] in names]},
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
    treatment: Treatment | None = None,
    signed: bool = False,
) -> tuple[list[dict[str, Any]], list[Treated]]:
    """Return the channels of a pyhf workspace and the record of the treatment.

    Arguments and errors as of `from_hists`; with `signed`, bins may be negative, and `poi` may be empty.
    """
    naming, treatment = Naming.of(naming), treatment or Treatment()
    records: list[Treated] = []
    spec_channels: list[dict[str, Any]] = []
    for channel, samples in channels.items():
        contents = {
            name: _Contents(h, naming, Treating(treatment, channel, name, signed=signed))
            for name, h in samples.items()
        }
        n_bins = {len(c.nominal) for c in contents.values()}
        if len(n_bins) != 1:
            raise WorkspaceError(
                f"the samples of channel {channel!r} have different numbers of bins {sorted(n_bins)}"
            )
        unknown = sorted(set(samples) - set(models))
        if unknown:
            raise WorkspaceError(
                f"sample {unknown[0]!r} of channel {channel!r} has no model",
                fix=f"add an entry for it; nearest: {nearest(unknown[0], models)}",
            )
        spec_channels.append(
            {
                "name": channel,
                "samples": [
                    {
                        "name": name,
                        "data": c.nominal.tolist(),
                        "modifiers": _modifiers(
                            models[name], c, f"staterror_{channel}" if staterror else None
                        ),
                    }
                    for name, c in contents.items()
                ],
            }
        )
        for c in contents.values():
            records += c.treating.records
    names = modifier_names(spec_channels)
    if poi not in names and not (signed and not poi):
        raise WorkspaceError(
            f"no sample carries the parameter of interest {poi!r}", fix=f"nearest: {nearest(poi, names)}"
        )
    return spec_channels, records


def modifier_names(channels: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of all modifiers of pyhf channels."""
    return {m["name"] for c in channels for s in c["samples"] for m in s["modifiers"]}


class _Contents:
    """Nominal counts, variances and treated variations of one histogram."""

    def __init__(self, h: hist.Hist[Any], naming: Naming, treating: Treating) -> None:
        self.treating, where = treating, treating.where
        axes = [axis.name for axis in h.axes]
        categories = list(h.axes[naming.axis]) if naming.axis in axes else [naming.nominal]
        if len(h.axes) != 1 + (naming.axis in axes):
            raise WorkspaceError(
                "a histogram needs one numeric axis and at most the systematic axis",
                where=f"{where}: axes {', '.join(axes)}",
                expected=f"one numeric axis and {naming.axis!r}",
            )
        if naming.nominal not in categories:
            raise WorkspaceError(
                f"the systematic axis has no category {naming.nominal!r}",
                where=where,
                fix=f"nearest: {nearest(naming.nominal, categories)}",
            )

        def counts(category: str) -> tuple[Array, Array]:
            one: Any = h[{naming.axis: category}] if naming.axis in axes else h
            values = np.asarray(one.values(), dtype=np.float64)
            variances = one.variances()
            bad = np.nonzero(~np.isfinite(values))[0]
            if len(bad):
                raise WorkspaceError(f"bin {bad[0]} of {category!r} is not finite", where=where)
            return values, values if variances is None else np.asarray(variances, dtype=np.float64)

        nominal, variances = counts(naming.nominal)
        self.nominal = treating.nominal(nominal, naming.nominal)
        # Storages without variances have a negative one where the nominal bin was, before its floor.
        self.variances = np.where(nominal < 0.0, np.abs(variances), variances)
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
                fix=None
                if category in categories
                else "fill it, or take it as the mirror of the other by Treatment(mirror_missing=True)",
            )
        given = {
            base: (
                counts(base + naming.up)[0],
                None if base in mirrored else counts(base + naming.down)[0],
            )
            for base in sorted(bases)
        }
        self.variations = treating.variations(self.nominal, given, (naming.up, naming.down))


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
        differs = any(np.abs(shape - contents.nominal).max() > 1e-9 * total for shape in shapes)
        if differs and keeps_shape(name, contents.nominal, shapes):
            data = {"hi_data": shapes[0].tolist(), "lo_data": shapes[1].tolist()}
            out.append({"name": name, "type": "histosys", "data": data})
    if staterror is not None:
        out.append({"name": staterror, "type": "staterror", "data": np.sqrt(contents.variances).tolist()})
    return out


def _observation(channel: Mapping[str, Any], observed: ArrayLike | None) -> list[float]:
    expected = np.sum([sample["data"] for sample in channel["samples"]], axis=0)
    counts = expected if observed is None else np.asarray(observed, dtype=np.float64)
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

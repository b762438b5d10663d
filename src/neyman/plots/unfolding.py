"""Figures of an unfolded spectrum: the spectrum itself, its errors by source, its correlation.

Bins of several observables are drawn in one row, in the order of the contents: those of the last observable side by
side, in slices of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    Array,
    figure,
    label,
    legend_above,
    styled,
    tint,
)
from neyman.plots.unfolding_bins import (
    DASHED,
    FILL,
    MANY,
    REPLICAS,
    Bins,
    across,
    around_one,
    edge,
    plain_decades,
    scaled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.unfolding import Spectrum

_COLOURS = {"data": BLUE, "simulation": ORANGE, "training": "#832db6", FILL: ORANGE}
_SYSTEMATICS = ("#bd1f01", "#ffa90e", "#a96b59", "#92dadd", "#b9ac70", "#717581")
_DEPTH = 1e9  # range of the logarithmic axis at most
_FULL = 150.0  # percent; a bin without events would need any range


@styled
def unfolded_spectrum(
    spectrum: Spectrum | Mapping[str, Any], *, truth: Any = None, prior: Any = None
) -> Figure:
    """Draw an unfolded spectrum with its total errors, and its ratio to the truth.

    The shaded part of an error is that of training and systematic variations. Without a truth the ratio is to the
    prior; a diamond stands for a point outside its panel.

    Parameters
    ----------
    spectrum
        The spectrum, of one or several observables.
    truth
        What is expected: contents of the bins, ``(n_bins,)``, or a spectrum.
    prior
        The simulation before the unfolding, likewise.

    Raises
    ------
    InputError
        When bins differ, or one is a density and another is not.
    """
    bins = Bins.of(spectrum)
    lines = {
        name: bins.contents(given, name)
        for name, given in (("truth", truth), ("prior", prior))
        if given is not None
    }
    drawn = figure(bins.width, 5.8 if lines else 4.6)
    panels = drawn.subplots(
        2 if lines else 1, 1, squeeze=False, sharex=True, height_ratios=[2.3, 1.0][: 1 + bool(lines)]
    )[:, 0]
    main = panels[0]
    _contents(main, bins, lines)
    bins.lay_out(main, bottom=not lines)
    bins.name_slices(main)
    if lines:
        name, reference = next(iter(lines.items()))
        ratio(panels[1], bins, reference, lines)
        bins.lay_out(panels[1])
        panels[1].set_ylabel(f"ratio to {name}", loc="center", fontsize="medium")
        drawn.align_ylabels(panels)
    handles = sorted(main.get_legend_handles_labels()[0], key=lambda one: one.get_label() != "unfolded")
    legend_above(main, columns=4, handles=handles)
    return drawn


_LINES: dict[str, dict[str, Any]] = {
    "truth": {"color": BLUE, "linewidth": 1.6},
    "prior": {"color": ORANGE, "linewidth": 1.4, "linestyle": DASHED},
}


def _band(bins: Bins) -> tuple[Array, str] | None:
    """Errors of training and systematics together, and what they are called."""
    parts = {name: own for name, own in bins.sources.items() if name not in REPLICAS}
    if not parts:
        return None
    kinds = ["systematics"] * (len(parts) > ("training" in parts)) + ["training"] * ("training" in parts)
    return np.sqrt(np.diag(np.sum(list(parts.values()), axis=0))), " and ".join(kinds)


def _contents(axes: Axes, bins: Bins, lines: Mapping[str, Array]) -> None:
    errors = bins.errors
    every = np.concatenate([bins.values, *lines.values()])
    positive = every[every > 0.0]
    top = float(max((bins.values + errors).max(), every.max()))
    steep = positive.size > 0 and positive.max() > 40.0 * positive.min()
    low = max(0.4 * float(positive.min()), top / _DEPTH) if steep else 0.0
    if (band := _band(bins)) is not None:
        floor = np.maximum(bins.values - band[0], 1e-3 * low) if steep else bins.values - band[0]
        axes.stairs(
            bins.values + band[0],
            bins.places,
            baseline=floor,
            fill=True,
            color=tint(GREY, 0.4),
            label=band[1],
        )
    for name, values in lines.items():
        axes.stairs(values, bins.places, baseline=None, label=name, **_LINES[name])
    if not lines:
        axes.stairs(bins.values, bins.places, baseline=None, color=tint(INK, 0.45), linewidth=0.9)
    axes.errorbar(
        bins.centres, bins.values, errors, fmt="o", color=INK, markersize=3.6, linewidth=1.2, label="unfolded"
    )
    room = 0.16 if bins.slices else 0.06
    if steep:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(low, top * (top / low) ** room * 1.3)
        axes.set_ylabel(_quantity(bins))
        return
    bottom = min(0.0, 1.1 * float((bins.values - errors).min()))
    axes.set_ylim(bottom, top + (room + 0.04) * (top - bottom))
    scaled(axes, _quantity(bins), top)


def _quantity(bins: Bins) -> str:
    if not bins.density:
        return "events in a bin"
    units = " ".join(label(unit) for unit in bins.units if unit)
    return f"normalised density{f' [1/({units})]' if ' ' in units else f' [1/{units}]' if units else ''}"


def ratio(axes: Axes, bins: Bins, reference: Array, lines: Mapping[str, Array]) -> None:
    """Draw the spectrum and other contents over a reference, around 1; diamonds mark points outside."""
    safe = np.where(reference > 0.0, reference, np.nan)
    points, errors = bins.values / safe, bins.errors / safe
    if (band := _band(bins)) is not None:
        width = np.nan_to_num(band[0] / safe)
        middle = np.nan_to_num(points, nan=1.0)
        axes.stairs(middle + width, bins.places, baseline=middle - width, fill=True, color=tint(GREY, 0.4))
    for name, values in lines.items():
        axes.stairs(np.nan_to_num(values / safe, nan=1.0), bins.places, baseline=None, **_LINES[name])
    axes.errorbar(bins.centres, points, errors, fmt="o", color=INK, markersize=3.6, linewidth=1.2)
    around_one(axes, bins, points, errors, [values / safe for values in lines.values()])


@styled
def spectrum_errors(spectrum: Spectrum | Mapping[str, Any], *, largest: int = 6) -> Figure:
    """Draw the relative errors of a spectrum by source.

    Without bootstrap replicas the statistical error is that of the fill, which knows nothing of the fluctuations of
    the data.

    Parameters
    ----------
    spectrum
        The spectrum.
    largest
        Number of systematic variations with a line of their own; the others are added in quadrature.
    """
    bins = Bins.of(spectrum)
    found = bins.by_source()
    varied = [name for name in found if name not in _COLOURS]
    if len(varied) > largest + 1:
        rest = [found.pop(name) for name in varied[largest:]]
        others = f"{len(rest)} others"
        found[others] = np.sqrt(np.square(rest).sum(axis=0))
    colours = dict(zip((n for n in found if n not in _COLOURS), _SYSTEMATICS * len(found), strict=False))
    if len(varied) > largest + 1:
        colours[others] = GREY
    total = bins.percent(bins.errors)
    drawn = figure(bins.width, 4.6)
    axes = drawn.subplots()
    axes.stairs(np.nan_to_num(total), bins.places, fill=True, color=tint(GREY, 0.22))
    axes.stairs(np.nan_to_num(total), bins.places, baseline=None, color=INK, linewidth=1.8, label="total")
    for name, errors in found.items():
        values = np.nan_to_num(bins.percent(errors))
        known = name in _COLOURS
        axes.stairs(
            values, bins.places, baseline=None, label=label(name), linewidth=1.6,
            color=_COLOURS[name] if known else colours[name], linestyle="-" if known else DASHED,
        )  # fmt: skip
    top = min(float(np.nanmax(total, initial=0.0)), _FULL) or 1.0
    smallest = float(np.nanmin(total[total > 0.0], initial=top))
    if top > 6.0 * float(np.nanmedian(total)):  # in most bins nothing could be read
        low, high = 0.03 * smallest, top * (3.0 if bins.slices else 1.5)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(low, high)
        plain_decades(axes.yaxis, low, high)
    else:
        axes.set_ylim(0.0, (1.2 if bins.slices else 1.1) * top)
    bins.lay_out(axes)
    bins.name_slices(axes)
    axes.set_ylabel("relative error [%]")
    legend_above(axes, columns=across(["total", *found], bins.width))
    return drawn


@styled
def spectrum_correlation(spectrum: Spectrum | Mapping[str, Any]) -> Figure:
    """Draw the correlation matrix of the bins; up to 24 bins have their numbers, in percent.

    Parameters
    ----------
    spectrum
        The spectrum.
    """
    bins = Bins.of(spectrum)
    errors, n = bins.errors, len(bins.values)
    safe = np.where(errors > 0.0, errors, np.inf)
    matrix = bins.covariance / np.outer(safe, safe)
    side = float(np.clip(2.6 + 0.34 * n, 4.6, 8.4))
    drawn = figure(side + (0.0 if n <= MANY else 0.9), side)
    axes = drawn.subplots()
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    if n > MANY:
        drawn.colorbar(image, ax=axes, shrink=0.85, label="correlation")
    else:
        size = float(np.clip(58.0 * (side - 1.6) / n * 0.36, 5.0, 10.0))
        for i, j in np.ndindex(n, n):
            value = float(matrix[i, j])
            colour = "white" if abs(value) > 0.6 else INK if abs(value) >= 0.005 else FAINT
            words = f"{round(100.0 * value) + 0:d}".replace("-", "−")
            axes.text(j, i, words, ha="center", va="center", color=colour, fontsize=size)
    every = math.ceil(n / MANY)
    if bins.slices:
        chosen = [i for i in range(n) if i % bins.block % every == 0]
        ticks = [(float(i), bins.words[i]) for i in chosen]
        for at in np.arange(bins.block, n, bins.block) - 0.5:
            axes.axhline(at, color=INK, linewidth=0.7)
            axes.axvline(at, color=INK, linewidth=0.7)
        for k, words in enumerate(bins.slices):
            middle = (k + 0.5) * bins.block - 0.5
            axes.text(
                n - 0.35, middle, words, rotation=270, ha="left", va="center", color=GREY, fontsize="small"
            )
    else:
        ticks = [(i - 0.5, edge(x)) for i, x in enumerate(bins.edges[0])][::every]
    at, names = zip(*ticks, strict=True)
    axes.set_xticks(at, names, rotation=90, fontsize="x-small")
    axes.set_yticks(at, names, fontsize="x-small")
    axes.minorticks_off()
    axes.tick_params(which="both", top=False, right=False, direction="out", length=0 if bins.slices else 3)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(-0.5, n - 0.5)
    axes.set_xlabel(bins.label)
    axes.set_ylabel(bins.label)
    axes.set_title("correlation of the bins" if n > MANY else "correlation of the bins [%]")
    return drawn

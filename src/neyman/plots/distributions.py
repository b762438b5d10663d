"""Figures of event distributions: closure of a density ratio, and the stacked classifier histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError, nearest
from neyman.plots.style import (
    BLUE,
    INK,
    PALETTE,
    RED,
    Array,
    figure,
    grid,
    label,
    legend_above,
    numbers,
    plain,
    styled,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.diagnostics import Closure

SUSPICIOUS = 0.01


@styled
def closure(
    closures: Sequence[Closure | Mapping[str, Any]],
    *,
    labels: Mapping[str, str] | None = None,
    columns: int = 4,
) -> Figure:
    r"""Draw the closure of one process in all features: the target, the reweighted reference, and their ratio.

    Contents are divided by the bin width. A title gives :math:`\chi^2/\mathrm{ndf}` and its p-value, in red below
    0.01. The outermost bins, which reach to the most extreme event, are cut where they are far wider than their
    neighbours.

    Parameters
    ----------
    closures
        Results of one process.
    labels
        Labels by name of the feature (axis) or of the process (legend).
    columns
        Panels in a row.
    """
    data = [plain(one) for one in closures]
    if len({one["process"] for one in data}) != 1:
        raise InputError("a closure figure shows one process", expected="the closures of a single process")
    rows, columns = grid(len(data), columns)
    drawn = figure(2.9 * columns, 0.5 + 2.9 * rows)
    panels = drawn.subplots(2 * rows, columns, squeeze=False, height_ratios=[3.0, 1.2] * rows)
    for i, one in enumerate(data):
        row, column = divmod(i, columns)
        main, ratio = panels[2 * row, column], panels[2 * row + 1, column]
        feature, process = (label((labels or {}).get(one[key], one[key])) for key in ("feature", "process"))
        _closure(main, ratio, one, process)
        ratio.set_xlabel(feature)
        if column == 0:
            main.set_ylabel("density")
            ratio.set_ylabel("ratio", loc="center")
    for i in range(len(data), rows * columns):
        row, column = divmod(i, columns)
        panels[2 * row, column].remove()
        panels[2 * row + 1, column].remove()
    handles, names = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper left", ncols=len(names))
    return drawn


def _closure(main: Axes, ratio: Axes, one: Mapping[str, Any], process: str) -> None:
    edges = numbers(one["edges"])
    target, target_error, model, model_error = (
        numbers(one[key]) for key in ("target", "target_error", "model", "model_error")
    )
    width, view = np.diff(edges), _view(edges)
    centre = 0.5 * (view[1:] + view[:-1])
    main.stairs(model / width, view, color=BLUE, linewidth=1.5, label="reference × learned ratio")
    main.errorbar(
        centre, target / width, target_error / width, fmt="o", color=INK, markersize=2.6, linewidth=1.0,
        label=f"simulated {process}",
    )  # fmt: skip
    main.set_xlim(view[0], view[-1])
    main.tick_params(labelbottom=False)
    main.yaxis.get_offset_text().set_fontsize("x-small")
    _density_range(main, target / width, np.maximum(target + target_error, model) / width)
    main.minorticks_off()
    ratio.minorticks_off()
    p = one["p_value"]
    main.set_title(
        "too few events" if p is None else f"χ²/ndf = {one['chi2']:.1f}/{one['n_bins'] - 1},  p = {p:.2g}",
        fontsize="small",
        color=RED if p is not None and p < SUSPICIOUS else INK,
    )
    safe = np.where(model > 0.0, model, np.nan)
    points, errors, band = target / safe, target_error / safe, model_error / safe
    ratio.stairs(
        1.0 + np.nan_to_num(band), view, baseline=1.0 - np.nan_to_num(band), fill=True, color=tint(BLUE, 0.3)
    )
    ratio.axhline(1.0, color=BLUE, linewidth=0.9)
    ratio.errorbar(centre, points, errors, fmt="o", color=INK, markersize=2.6, linewidth=1.0)
    _ratio_range(ratio, centre, points, errors)
    ratio.set_xlim(view[0], view[-1])


def _density_range(axes: Axes, density: Array, highest: Array) -> None:
    """Range from 0; logarithmic where one bin (a fill value) would press all others onto the axis."""
    ordered = np.sort(density[density > 0.0])
    if len(ordered) > 1 and ordered[-1] > 10.0 * ordered[-2]:
        axes.set_yscale("log")
        axes.set_ylim(0.3 * ordered[0], 3.0 * float(highest.max()))
    else:
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
        axes.set_ylim(0.0, 1.2 * float(highest.max()))


def _view(edges: Array) -> Array:
    """Edges to draw: an outermost bin is cut at three times the width of its neighbour or of the typical bin."""
    view, widths = edges.copy(), np.diff(edges)
    if len(widths) > 2:
        typical = float(np.median(widths[1:-1]))
        view[0] = max(edges[0], edges[1] - 3.0 * max(widths[1], typical))
        view[-1] = min(edges[-1], edges[-2] + 3.0 * max(widths[-2], typical))
    return view


def _ratio_range(axes: Axes, centre: Array, points: Array, errors: Array) -> None:
    """Range around 1 that holds all points with their errors, up to a factor of two; a diamond stands for the rest."""
    furthest = float(np.nanmax(np.abs(points - 1.0) + errors, initial=0.0))
    reach = min(max(1.15 * furthest, 0.1), 1.0)
    axes.set_ylim(1.0 - reach, 1.0 + reach)
    outside = np.abs(points - 1.0) > reach
    if outside.any():
        edge = np.where(points > 1.0, 1.0 + 0.94 * reach, 1.0 - 0.94 * reach)
        axes.plot(centre[outside], edge[outside], linestyle="none", marker="d", color=RED, markersize=4)


@styled
def discriminant(
    contents: Mapping[str, Any], *, signal: str, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw the stacked expectation in the bins of the classifier output against the observed counts.

    Bins have equal widths: their edges are quantiles, ordered by the signal-to-background ratio.

    Parameters
    ----------
    contents
        ``samples`` (expected counts by name), ``observed`` counts and ``error``, the statistical error of the
        simulation.
    signal
        Name of the signal; it is drawn on top of the stack and again as a scaled line.
    labels
        Sample labels by name.
    """
    samples = {name: numbers(values) for name, values in contents["samples"].items()}
    if signal not in samples:
        raise InputError(f"there is no sample {signal!r}", fix=f"nearest: {nearest(signal, samples)}")
    observed = numbers(contents["observed"])
    shown = {name: label((labels or {}).get(name) or name) for name in samples}
    backgrounds = sorted((name for name in samples if name != signal), key=lambda name: samples[name].sum())
    edges = np.arange(len(observed) + 1.0)
    centre = edges[:-1] + 0.5

    drawn = figure(8.0, 5.6)
    main, ratio = drawn.subplots(2, 1, sharex=True, height_ratios=[3.2, 1.0])
    total = np.zeros(len(observed))
    colours = dict(zip([signal, *reversed(backgrounds)], (RED, *_stack_colours()), strict=False))
    for name in [*backgrounds, signal]:
        main.stairs(
            total + samples[name], edges, baseline=total, fill=True, color=tint(colours[name], 0.75),
            label=shown[name],
        )  # fmt: skip
        total = total + samples[name]
    main.stairs(total, edges, color=INK, linewidth=0.9)
    factor = _round_factor(samples, signal)
    name = shown[signal] if factor == 1 else f"{shown[signal]} × {factor}"
    main.stairs(factor * samples[signal], edges, baseline=None, color=RED, linewidth=1.8, label=name)
    low, high = poisson_interval(observed)
    main.errorbar(
        centre, observed, [observed - low, high - observed], fmt="o", color=INK, markersize=3.5, linewidth=1.1,
        label="observed",
    )  # fmt: skip
    main.set_yscale("log")
    positive = np.concatenate([samples[signal], samples[signal] * factor, total])
    positive = positive[positive > 0.0]
    main.set_ylim(0.4 * float(positive.min()), 2.5 * float(max(total.max(), high.max())))
    main.set_xlim(0.0, len(observed))
    main.set_ylabel("events in a bin")
    safe = np.where(total > 0.0, total, np.nan)
    ratio.axhline(1.0, color=INK, linewidth=0.9)
    band = np.asarray(contents["error"]) / safe
    ratio.stairs(1.0 + band, edges, baseline=1.0 - band, fill=True, color=tint(INK, 0.2))
    background = 1.0 - samples[signal] / safe
    without = ratio.stairs(background, edges, baseline=None, color=RED, linewidth=1.2, linestyle="--")
    without.set_label("without signal")
    error = np.stack([observed - low, high - observed]) / safe
    ratio.errorbar(centre, observed / safe, error, fmt="o", color=INK, markersize=3.5, linewidth=1.1)
    reach = float(np.nanmax(np.abs(observed / safe - 1.0) + error.max(axis=0), initial=0.1))
    reach = max(1.1 * min(reach, 1.0), 1.2 * float(np.nanmax(1.0 - background, initial=0.0)))
    ratio.set_ylim(1.0 - reach, 1.0 + reach)
    legend_above(main, columns=len(samples) + 3, handles=[*main.get_legend_handles_labels()[0], without])
    ratio.set_ylabel("obs. / exp.", loc="center")
    ratio.set_xlabel("bin of classifier output, by increasing signal-to-background ratio")
    return drawn


def _stack_colours() -> tuple[str, ...]:
    return tuple(colour for colour in PALETTE if colour != RED)


def _round_factor(samples: Mapping[str, Array], signal: str) -> int:
    """Largest 1, 2 or 5 times a power of ten that keeps the scaled signal under the tallest background bin."""
    tallest = max((float(v.max()) for n, v in samples.items() if n != signal), default=0.0)
    room = tallest / max(float(samples[signal].max()), 1e-300)
    steps = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    return max((step for step in steps if step <= room), default=1)


def poisson_interval(counts: Array) -> tuple[Array, Array]:
    """Garwood's central 68 % interval of Poisson means."""
    from scipy.stats import chi2

    tail = 0.158655
    low = np.where(counts > 0.0, chi2.ppf(tail, 2.0 * np.maximum(counts, 1.0)) / 2.0, 0.0)
    return low, np.asarray(chi2.isf(tail, 2.0 * (counts + 1.0)) / 2.0, dtype=np.float64)

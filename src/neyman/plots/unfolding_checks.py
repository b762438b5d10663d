"""Figures that test an unfolding: refolding, closure, stability of repeated passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
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
from neyman.plots.unfolding_bins import DASHED, Bins, across, around_one, axis, scaled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neyman.unfolding import ClosureTest

SUSPICIOUS = 0.01
_METHODS = (BLUE, ORANGE, "#832db6", "#a96b59", RED, "#94a4a2")


def folded_histograms(
    data: ArrayLike,
    simulation: ArrayLike,
    edges: ArrayLike,
    *,
    before: ArrayLike,
    after: ArrayLike,
    weight: ArrayLike | None = None,
    name: str = "x",
    unit: str = "",
) -> dict[str, Any]:
    """Fill what :func:`unfolding_folded` draws, as plain data.

    Parameters
    ----------
    data
        A detector-level observable of the data (and of the background that is subtracted), ``(n_data,)``.
    simulation
        The observable of every simulated event, ``(n_events,)``.
    edges
        Bin edges; the last one belongs to the last bin.
    before, after
        Weights of the simulated events at detector level before the unfolding, ``result.weight * result.factor``, and
        after it, ``result.folded``. Those with weight 0 are left out.
    weight
        Weights of the data, negative ones of the background; 1 by default.
    name, unit
        Of the observable.

    Raises
    ------
    InputError
        When there is not one weight for every value, or edges do not rise.
    """
    steps = numbers(edges)
    if steps.ndim != 1 or len(steps) < 2 or not (np.diff(steps) > 0.0).all():
        raise InputError(
            f"the edges of {name!r} do not rise", expected="at least two, each above the one before"
        )
    columns = {"data": numbers(data), "before": numbers(simulation), "after": numbers(simulation)}
    weights = {
        "data": np.ones(columns["data"].shape) if weight is None else numbers(weight),
        "before": numbers(before),
        "after": numbers(after),
    }
    made: dict[str, Any] = {"name": name, "unit": unit, "edges": steps.tolist()}
    for key, column in columns.items():
        if column.shape != weights[key].shape or column.ndim != 1:
            raise InputError(
                f"{column.shape} values have weights of shape {weights[key].shape}",
                where=f"{name}, {key}",
                expected="one weight for every value",
            )
        used = weights[key] != 0.0
        for part, own in (("", weights[key]), ("_variance", np.square(weights[key]))):
            made[key + part] = np.histogram(column[used], steps, weights=own[used])[0].tolist()
    return made


@styled
def unfolding_folded(histograms: Mapping[str, Any]) -> Figure:
    r"""Draw data against simulation at detector level, before and after the unfolding.

    Where the iterations have converged, the simulation with its new weights is like the data. :math:`\chi^2` is a sum
    over the bins with the statistical errors of data and simulation. As the weights were learned from these data, it
    is not a test of the unfolding: a large one says that it has not converged.

    Parameters
    ----------
    histograms
        What :func:`folded_histograms` gives.
    """
    edges = numbers(histograms["edges"])
    data, error = numbers(histograms["data"]), np.sqrt(numbers(histograms["data_variance"]))
    bins = Bins((histograms["name"],), (histograms["unit"],), (edges,), data, {}, error**2, False)
    safe = np.where(data > 0.0, data, np.nan)
    drawn = figure(bins.width, 5.8)
    main, low = drawn.subplots(2, 1, sharex=True, height_ratios=[2.3, 1.0])
    found, lines = [], []
    for key, colour, line in (("before", ORANGE, DASHED), ("after", BLUE, "-")):
        values, variance = numbers(histograms[key]), numbers(histograms[f"{key}_variance"])
        main.stairs(
            values,
            edges,
            baseline=None,
            color=colour,
            linestyle=line,
            label=f"simulation, {key} the unfolding",
        )
        relative, width = (
            np.nan_to_num(own / safe, nan=fill) for own, fill in ((values, 1.0), (np.sqrt(variance), 0.0))
        )
        low.stairs(
            relative + width, edges, baseline=relative - width, fill=True, color=tint(colour, 0.3), alpha=0.7
        )
        low.stairs(relative, edges, baseline=None, color=colour, linestyle=line)
        noise = error**2 + variance
        used = noise > 0.0
        found.append(float((np.square(values - data)[used] / noise[used]).sum()))
        lines.append(values)
    main.errorbar(bins.centres, data, error, fmt="o", color=INK, markersize=3.6, linewidth=1.2, label="data")
    every = np.concatenate([data + error, *lines])
    positive = np.concatenate([data, *lines])
    positive = positive[positive > 0.0]
    if positive.size and positive.max() > 40.0 * positive.min():
        main.set_yscale("log", nonpositive="clip")
        main.set_ylim(0.4 * positive.min(), 2.0 * every.max())
        main.set_ylabel("events in a bin")
    else:
        main.set_ylim(min(0.0, 1.1 * float((data - error).min())), 1.12 * float(every.max()))
        scaled(main, "events in a bin", float(every.max()))
    low.errorbar(bins.centres, data / safe, error / safe, fmt="o", color=INK, markersize=3.6, linewidth=1.2)
    around_one(low, bins, lines[1] / safe, error / safe, [lines[0] / safe])
    low.set_ylabel("ratio to data", loc="center", fontsize="medium")
    bins.lay_out(main, bottom=False)
    bins.lay_out(low)
    drawn.align_ylabels([main, low])
    main.text(
        0.97, 0.95, f"χ² of {len(data)} bins: {found[0]:.3g} → {found[1]:.3g}", transform=main.transAxes,
        ha="right", va="top", fontsize="small",
    )  # fmt: skip
    legend_above(main, columns=2)
    return drawn


@styled
def closure_test(test: ClosureTest | Mapping[str, Any], *, columns: int = 3) -> Figure:
    r"""Draw the unfolded spectra of a closure test over the truth, a panel for each observable.

    Error bars belong to the difference from the truth, whose fluctuations the data share; they are those of
    :math:`\chi^2`. Its p-value is red below 0.01.

    Parameters
    ----------
    test
        Result of ``neyman.unfolding.closure_test``.
    columns
        Panels in a row.

    Raises
    ------
    InputError
        When there is no observable.
    """
    data = plain(test)
    if not data:
        raise InputError("there is no observable to draw", expected="a closure test of at least one")
    rows, columns = grid(len(data), columns)
    drawn = figure(max(3.5 * columns + 0.5, 4.6), 0.5 + 2.9 * rows)
    panels = drawn.subplots(rows, columns, squeeze=False)
    for axes, (name, one) in zip(panels.flat, data.items(), strict=False):
        bins = Bins.of(one["spectrum"])
        truth, prior = bins.contents(one["truth"], "truth"), bins.contents(one["prior"], "prior")
        safe = np.where(truth > 0.0, truth, np.nan)
        points, errors = bins.values / safe, _of_difference(bins, truth, one["comparison"]) / safe
        axes.axhline(1.0, color=BLUE, linewidth=1.2)
        axes.stairs(
            np.nan_to_num(prior / safe, nan=1.0), bins.places, baseline=None, color=ORANGE, linestyle=DASHED,
            label="prior",
        )  # fmt: skip
        axes.errorbar(
            bins.centres, points, errors, fmt="o", color=INK, markersize=3.6, linewidth=1.2, label="unfolded"
        )
        around_one(axes, bins, points, errors, [prior / safe])
        bins.lay_out(axes)
        axes.set_xlabel(axis(name, bins.units[0]))
        found = one["comparison"]
        axes.set_title(
            f"χ² = {found['chi2']:.1f} / {found['ndof']}, p = {found['p_value']:.2g}".replace("-", "−"),
            fontsize="small",
            color=RED if found["p_value"] < SUSPICIOUS else INK,
        )
    for axes in panels.flat[len(data) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("ratio to truth")
    handles, names = panels.flat[0].get_legend_handles_labels()
    drawn.legend(handles[::-1], names[::-1], loc="outside upper left", ncols=len(names))
    return drawn


def _of_difference(bins: Bins, truth: Array, comparison: Mapping[str, Any]) -> Array:
    """Errors of the difference, from the pulls; those of the spectrum where a pull is 0."""
    pulls = numbers(comparison["pulls"])
    usable = np.isfinite(pulls) & (pulls != 0.0)
    return np.where(usable, (bins.values - truth) / np.where(usable, pulls, 1.0), bins.errors)


@styled
def unfolding_stability(
    truth: ArrayLike,
    passes: Mapping[str, ArrayLike],
    edges: ArrayLike,
    *,
    name: str = "x",
    unit: str = "",
) -> Figure:
    r"""Draw full passes of several methods against the truth, and the spread and error of each bin over the passes.

    From top to bottom: mean of the passes over the truth, with their standard deviation as bars; the relative
    standard deviation :math:`\sigma_\mathrm{rel}`; the relative mean squared error :math:`\mathrm{MSE}_\mathrm{rel}`
    (``neyman.unfolding.sigma_rel`` and ``mse_rel``).

    Parameters
    ----------
    truth
        Contents of the bins, ``(n_bins,)``.
    passes
        Contents of each pass by method, ``(n_passes, n_bins)``.
    edges
        Bin edges.
    name, unit
        Of the observable.

    Raises
    ------
    InputError
        When there is no method or fewer than two passes, shapes disagree, or a bin of the truth is not positive.
    """
    from neyman.unfolding.metrics import mse_rel, sigma_rel  # the package imports torch

    if not passes:
        raise InputError("there are no passes to draw", expected="those of at least one method")
    x, steps = numbers(truth), numbers(edges)
    if steps.shape != (len(x) + 1,):
        raise InputError(f"{len(steps)} edges do not fit the {len(x)} bins of the truth", where=name)
    bins = Bins((name,), (unit,), (steps,), x, {}, x, False)
    drawn = figure(6.8, 6.8)
    panels = drawn.subplots(3, 1, sharex=True, height_ratios=[1.5, 1.0, 1.0])
    top, middle, low = panels
    top.axhline(1.0, color=FAINT, linewidth=1.0)
    ratios, bars, squares = [], [], []
    for k, (method, given) in enumerate(passes.items()):
        several, colour = numbers(given), _METHODS[k % len(_METHODS)]
        error, spread = mse_rel(x, several), sigma_rel(several)
        ratios.append(several.mean(axis=0) / x)
        bars.append(several.std(axis=0) / x)
        squares.append(error)
        # Side by side inside a bin, so that bars of several methods stay apart.
        part = 0.5 if len(passes) == 1 else 0.25 + 0.5 * k / (len(passes) - 1)
        at = steps[:-1] + part * np.diff(steps)
        top.errorbar(
            at, ratios[-1], bars[-1], fmt="o", color=colour, markersize=3.6, linewidth=1.2,
            label=f"{label(method)} ({len(several)} passes)",
        )  # fmt: skip
        middle.stairs(100.0 * spread, steps, baseline=None, color=colour)
        low.stairs(error, steps, baseline=None, color=colour)
    around_one(top, bins, np.stack(ratios), np.stack(bars))
    middle.set_ylim(0.0, 1.15 * max(100.0 * float((b / r).max()) for b, r in zip(bars, ratios, strict=True)))
    every = np.concatenate(squares)
    if (positive := every[every > 0.0]).size and positive.max() > 20.0 * positive.min():
        low.set_yscale("log")
        low.set_ylim(0.5 * positive.min(), 2.0 * positive.max())
    else:
        low.set_ylim(0.0, 1.15 * float(every.max()) or 1.0)
    top.set_ylabel("mean / truth", loc="center")
    middle.set_ylabel("$σ_{rel}$ [%]", loc="center")
    low.set_ylabel("$MSE_{rel}$", loc="center")
    for axes in panels:
        bins.lay_out(axes, bottom=axes is low)
    drawn.align_ylabels(panels)
    legend_above(top, columns=across([*(f"{method} (00 passes)" for method in passes)], 6.8))
    return drawn

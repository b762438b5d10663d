"""Figures of the checks of a density ratio against events: closure, calibration, two-sample test.

The checks of its weights, members, support and coverage are drawn in `neyman.plots.weights`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    PALETTE,
    RED,
    Array,
    figure,
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

    from neyman.diagnostics import CalibrationCurve, Closure, ClosureCheck, TwoSample
    from neyman.networks import Calibration

_ROWS = 40


def verdict(axes: Axes, data: Mapping[str, Any], text: str, *, y: float | None = None) -> None:
    """Write the numbers of a check above the frame, with its verdict, in red where it failed."""
    passed = data["passed"]
    shown = re.sub(r"-(?=\d)", "−", f"{text}   {'passed' if passed else 'FAILED'}")
    axes.set_title(shown, loc="right", fontsize="small", color=INK if passed else RED, y=y)


@styled
def closure_check(result: ClosureCheck | Mapping[str, Any]) -> Figure:
    """Draw the deviation of every closure with the noise that hides smaller ones, the worst 40 from the top.

    A full circle is significant after the correction for the number of comparisons; red ones fail.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.check_closure``.
    """
    data = plain(result)
    pairs = zip(data["closures"], data["corrected"], strict=True)
    tested = [(one, 1.0 if p is None else p) for one, p in pairs if p is not None or one["missing"] > 0.0]
    ordered = sorted(tested, key=lambda pair: (pair[1], -pair[0]["deviation"]))[:_ROWS]
    rows = range(len(ordered))
    drawn = figure(7.4, 1.5 + 0.24 * max(len(ordered), 3))
    axes = drawn.subplots()
    tolerance, significance = data["tolerance"], data["significance"]
    noise = numbers([one["resolution"] for one, _ in ordered])
    axes.barh(rows, noise, height=0.62, color=tint(GREY, 0.35), label="noise")
    for row, (one, p) in zip(rows, ordered, strict=True):
        bad = one["missing"] > tolerance or (p < significance and one["deviation"] > tolerance)
        axes.plot(
            one["deviation"], row, "o", color=RED if bad else BLUE, markersize=5.5, markeredgewidth=1.3,
            markerfacecolor=None if p < significance else "white", clip_on=False, zorder=4,
        )  # fmt: skip
        note = f"p = {p:.2g}" + (f", {one['missing']:.0%} missing" if one["missing"] > tolerance else "")
        axes.text(
            1.015, row, note, transform=axes.get_yaxis_transform(), va="center", fontsize="x-small",
            color=RED if bad else GREY,
        )  # fmt: skip
    axes.axvline(
        tolerance,
        color=RED,
        linewidth=1.1,
        linestyle=(0, (5, 2)),
        label=f"tolerance {100.0 * tolerance:.3g}%",
    )
    names = [_comparison(one, len({c["process"] for c, _ in ordered}) > 1) for one, _ in ordered]
    axes.set_yticks(rows, names, fontsize="x-small")
    axes.tick_params(axis="y", which="both", left=False, right=False, pad=9.0)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    deviations = [one["deviation"] for one, _ in ordered]
    axes.set_xlim(0.0, 1.08 * max(*deviations, *noise, 2.0 * tolerance))
    axes.xaxis.set_major_formatter(lambda x, _: f"{100.0 * x:.4g}%")
    axes.set_xlabel("relative deviation, root mean square")
    markers = [
        axes.plot([], [], "o", color=BLUE, markersize=5.5, markerfacecolor=fill, label=name)[0]
        for fill, name in ((BLUE, "significant"), ("white", "not significant"))
    ]
    shown = [h for h in axes.get_legend_handles_labels()[0] if h not in markers]
    legend_above(axes, columns=4, handles=[*markers, *shown[::-1]])
    verdict(axes, data, "", y=1.0 + 0.27 / (0.4 + 0.24 * max(len(ordered), 3)))
    return drawn


def _comparison(one: Mapping[str, Any], several: bool) -> str:
    name = f"{one['process']}: {one['feature']}" if several else one["feature"]
    return label(f"{name}, {one['slice']}" if one["slice"] else name)


@styled
def closure_slices(closures: Sequence[Closure | Mapping[str, Any]]) -> Figure:
    """Draw target over reweighted reference: a column for each feature, a row for each slice.

    Bins have equal widths on the page; their edges are quantiles of the target in the slice. A p-value below 0.001 is
    red, and a diamond stands for a point outside the panel.

    Parameters
    ----------
    closures
        Results of ``neyman.diagnostics.closure_slices``, of one process.

    Raises
    ------
    InputError
        When there are none, or they are of several processes.
    """
    data = [plain(one) for one in closures]
    if len({one["process"] for one in data}) != 1:
        raise InputError("a figure of slices shows one process", expected="the closures of a single process")
    features, slices = (list(dict.fromkeys(one[key] for one in data)) for key in ("feature", "slice"))
    drawn = figure(1.1 + 2.5 * len(features), 0.6 + 1.55 * len(slices))
    panels = drawn.subplots(len(slices), len(features), squeeze=False, sharey=True)
    reach = float(np.clip(max(_reach(one) for one in data), 0.1, 1.0))
    for one in data:
        row, column = slices.index(one["slice"]), features.index(one["feature"])
        axes = panels[row, column]
        _ratio(axes, one, reach)
        if column == 0:
            axes.set_ylabel("target / model", loc="center", fontsize="small")
        if row == len(slices) - 1:
            axes.set_xlabel(f"quantile bin of {label(one['feature'])}", fontsize="small")
        else:
            axes.tick_params(labelbottom=False)
    return drawn


def _relative(one: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    target, error, model, band = (
        numbers(one[key]) for key in ("target", "target_error", "model", "model_error")
    )
    safe = np.where(model > 0.0, model, np.nan)
    return target / safe, error / safe, band / safe


def _reach(one: Mapping[str, Any]) -> float:
    points, errors, _ = _relative(one)
    return 1.1 * float(np.nanmax(np.abs(points - 1.0) + errors, initial=0.0))


def _ratio(axes: Axes, one: Mapping[str, Any], reach: float) -> None:
    points, errors, band = _relative(one)
    edges = np.arange(len(points) + 1.0)
    centre = 0.5 * (edges[1:] + edges[:-1])
    band = np.nan_to_num(band)
    axes.stairs(1.0 + band, edges, baseline=1.0 - band, fill=True, color=tint(BLUE, 0.3))
    axes.axhline(1.0, color=BLUE, linewidth=0.9)
    axes.errorbar(centre, points, errors, fmt="o", color=INK, markersize=2.6, linewidth=1.0)
    outside = np.abs(points - 1.0) > reach
    at = np.where(points > 1.0, 1.0 + 0.94 * reach, 1.0 - 0.94 * reach)
    axes.plot(centre[outside], at[outside], linestyle="none", marker="d", color=RED, markersize=4)
    axes.set_ylim(1.0 - reach, 1.0 + reach)
    axes.set_xlim(edges[0], edges[-1])
    axes.minorticks_off()
    p = one["p_value"]
    text = "too few events" if p is None else f"p = {p:.2g}"
    axes.set_title(
        f"{label(one['slice'])}   {text}",
        fontsize="x-small",
        color=RED if p is not None and p < 1e-3 else INK,
    )


@styled
def calibration_curve(result: CalibrationCurve | Mapping[str, Any]) -> Figure:
    """Draw the observed share of the numerator against its prediction, and their difference.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.calibration_curve``.
    """
    data = plain(result)
    predicted, observed, error = (numbers(data[key]) for key in ("predicted", "observed", "error"))
    edges, share = numbers(data["edges"]), numbers(data["share"])
    drawn = figure(5.4, 5.6)
    main, low = drawn.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.0])
    main.stairs(
        share / np.diff(edges) / np.max(share / np.diff(edges)) * 0.3, edges, fill=True, color=tint(GREY, 0.25),
        label="density of events",
    )  # fmt: skip
    main.plot([0.0, 1.0], [0.0, 1.0], color=FAINT, linewidth=1.1, label="calibrated")
    main.errorbar(
        predicted,
        observed,
        error,
        fmt="o",
        color=BLUE,
        markersize=3.8,
        linewidth=1.1,
        label="held-out events",
    )
    main.set_ylim(0.0, 1.0)
    main.set_ylabel("observed share")
    verdict(main, data, f"deviation {data['deviation']:.3f}, p = {data['p_value']:.2g}", y=1.065)
    legend_above(main, columns=3)
    tolerance = data["tolerance"]
    low.axhspan(-tolerance, tolerance, color=tint(BLUE, 0.15), linewidth=0.0)
    low.axhline(0.0, color=FAINT, linewidth=1.1)
    low.errorbar(predicted, observed - predicted, error, fmt="o", color=BLUE, markersize=3.8, linewidth=1.1)
    reach = 1.15 * max(float(np.max(np.abs(observed - predicted) + error)), 1.5 * tolerance)
    low.set_ylim(-reach, reach)
    low.set_xlim(0.0, 1.0)
    low.set_ylabel("difference", loc="center")
    low.set_xlabel("predicted share of the numerator, r / (1 + r)")
    return drawn


@styled
def calibration_map(maps: Mapping[str, Calibration], *, span: tuple[float, float] = (-4.0, 4.0)) -> Figure:
    """Draw what calibrations do to the log-ratio: the change against the log-ratio itself.

    Beyond the outermost points of a map, where the calibrated log-ratio is constant, the line is dotted.

    Parameters
    ----------
    maps
        Calibrations by their name in the legend.
    span
        Range of the log-ratio.

    Raises
    ------
    InputError
        When there are none.
    """
    if not maps:
        raise InputError("there are no calibrations to draw", expected="at least one")
    raw = np.linspace(*span, 801)
    drawn = figure(6.2, 4.6)
    axes = drawn.subplots()
    axes.axhline(0.0, color=FAINT, linewidth=1.1)
    reach = 0.1
    for (name, calibration), colour in zip(maps.items(), PALETTE * len(maps), strict=False):
        low, high = (calibration.knots[0], calibration.knots[-1]) if calibration.knots else span
        mapped = calibration.scale * raw + calibration.shift
        learned = np.where((mapped >= low) & (mapped <= high), calibration(raw) - raw, np.nan)
        reach = max(reach, 1.3 * float(np.nanmax(np.abs(learned), initial=0.0)))
        axes.plot(raw, calibration(raw) - raw, color=colour, linewidth=1.0, linestyle=":")
        axes.plot(raw, learned, color=colour, label=label(name))
    axes.set_xlim(*span)
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("log-ratio of the network")
    axes.set_ylabel("change by calibration")
    legend_above(axes, columns=4)
    return drawn


@styled
def two_sample(result: TwoSample | Mapping[str, Any]) -> Figure:
    """Draw the scores of the classifier for target and reweighted reference, and its characteristic.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.two_sample``.
    """
    data = plain(result)
    drawn = figure(9.6, 4.6)
    left, right = drawn.subplots(1, 2, width_ratios=[1.25, 1.0])
    edges = numbers(data["edges"])
    width, centre = np.diff(edges), 0.5 * (edges[1:] + edges[:-1])
    target, target_error, model, model_error = (
        numbers(data[key]) / width for key in ("target", "target_error", "model", "model_error")
    )
    left.stairs(model + model_error, edges, baseline=model - model_error, fill=True, color=tint(BLUE, 0.3))
    left.stairs(model, edges, baseline=None, color=BLUE, label="reference × ratio")
    left.errorbar(
        centre, target, target_error, fmt="o", color=INK, markersize=3.0, linewidth=1.0, label="target"
    )
    left.set_xlim(edges[0], edges[-1])
    left.set_ylim(0.0, 1.12 * float(np.max(np.maximum(target + target_error, model + model_error))))
    left.set_xlabel("log-ratio of a new classifier")
    left.set_ylabel("density")
    legend_above(left, columns=2)
    false, true = numbers(data["false_positive"]), numbers(data["true_positive"])
    right.axhline(0.0, color=FAINT, linewidth=1.1)
    right.fill_between(false, true - false, color=tint(ORANGE, 0.25), linewidth=0.0)
    right.plot(false, true - false, color=ORANGE)
    reach = 1.2 * max(float(np.max(np.abs(true - false))), 0.02)
    right.set_xlim(0.0, 1.0)
    right.set_ylim(-reach, reach)
    right.set_xlabel("share of the reference above the cut")
    right.set_ylabel("share of the target − of the reference")
    verdict(right, data, f"AUC = {data['auc']:.4f} ± {data['auc_error']:.4f}")
    return drawn

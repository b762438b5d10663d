"""Figures of the checks of a density ratio by itself: its weights, the spread of its members, its support and the
expected coverage of its likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    RED,
    figure,
    label,
    legend_above,
    numbers,
    plain,
    styled,
    tint,
)
from neyman.plots.trust import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neyman.diagnostics import EnsembleSpread, ExpectedCoverage, RatioWeights, Support


@styled
def ratio_weights(result: RatioWeights | Mapping[str, Any]) -> Figure:
    """Draw the distribution of the weights, and the share of the total that the largest ones carry.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.ratio_weights``.
    """
    data = plain(result)
    drawn = figure(9.6, 4.4)
    left, right = drawn.subplots(1, 2)
    edges, contents = numbers(data["edges"]), numbers(data["contents"])
    left.stairs(contents, 10.0**edges, fill=True, color=tint(BLUE, 0.35))
    left.stairs(contents, 10.0**edges, color=BLUE, linewidth=1.0)
    left.axvline(1.0, color=FAINT, linewidth=1.0, linestyle=(0, (5, 2)))
    left.set_xscale("log")
    left.set_yscale("log")
    left.tick_params(axis="x", which="minor", labelbottom=False)
    left.set_xlabel("weight / mean weight")
    left.set_ylabel("share of the events")
    norm, error = data["normalisation"], data["normalisation_error"]
    left.set_title(
        f"$E_q[r]$ = {norm:.4f} ± {error:.4f}, tail index {data['tail_index']:.2f}", fontsize="small"
    )
    fractions, shares = numbers(data["fractions"]), numbers(data["shares"])
    right.plot(fractions, fractions, color=FAINT, linewidth=1.1, linestyle=(0, (5, 2)), label="equal weights")
    right.plot(fractions, shares, color=BLUE, label="reweighted reference")
    for at, name in ((0.001, "top_permille"), (0.01, "top_percent")):
        right.plot(at, data[name], "o", color=BLUE, markersize=4.5)
        right.annotate(
            f"{data[name]:.1%}", (at, data[name]), xytext=(-4, 6), textcoords="offset points", ha="right",
            fontsize="small",
        )  # fmt: skip
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlim(fractions[0], 1.0)
    right.set_ylim(min(shares[0], fractions[0]), 1.3)
    right.set_xlabel("fraction of the events, largest weights first")
    right.set_ylabel("share of the total weight")
    verdict(right, data, f"{data['n_effective']:.0f} effective events", y=1.08)
    legend_above(right, columns=2)
    return drawn


@styled
def ensemble_spread(result: EnsembleSpread | Mapping[str, Any]) -> Figure:
    """Draw, in bins of the score, the spread of the bin contents over the members against the statistical error.

    Bins have equal contents and equal widths on the page. The lower panel is the spread of the log-ratio of an event.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.ensemble_spread``.
    """
    data = plain(result)
    spread, statistical, per_event = (numbers(data[key]) for key in ("spread", "statistical", "per_event"))
    edges = np.arange(len(spread) + 1.0)
    drawn = figure(6.4, 5.6)
    main, low = drawn.subplots(2, 1, sharex=True, height_ratios=[1.8, 1.0])
    main.stairs(statistical, edges, fill=True, color=tint(GREY, 0.3), label="statistical error")
    main.stairs(spread, edges, baseline=None, color=BLUE, label=f"spread of {data['members']} members")
    main.set_ylim(0.0, 1.15 * float(max(spread.max(), statistical.max())))
    main.yaxis.set_major_formatter(lambda y, _: f"{100.0 * y:.4g}%")
    main.set_ylabel("relative error of a bin")
    verdict(main, data, f"spread / statistical error = {data['relative']:.2f}", y=1.075)
    legend_above(main, columns=2)
    low.stairs(per_event, edges, baseline=None, color=ORANGE)
    low.set_ylim(0.0, 1.2 * float(max(per_event.max(), 1e-12)))
    low.set_xlim(edges[0], edges[-1])
    low.set_ylabel("s/√M of log-ratio", loc="center", fontsize="small")
    low.xaxis.get_major_locator().set_params(integer=True)
    low.tick_params(axis="x", which="minor", bottom=False, top=False)
    low.set_xlabel("bin of the score, low to high")
    return drawn


@styled
def support(result: Support | Mapping[str, Any]) -> Figure:
    """Draw the log-ratio of target and reference, and the share of the target outside the reference by feature.

    The 20 features with the largest shares are shown.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.support``.
    """
    data = plain(result)
    outside = numbers(data["below"]) + numbers(data["above"])
    worst = np.argsort(outside, kind="stable")[::-1][:20]
    drawn = figure(9.6, max(4.4, 1.4 + 0.26 * len(worst)))
    left, right = drawn.subplots(1, 2, width_ratios=[1.25, 1.0])
    edges = numbers(data["edges"])
    contents = {name: numbers(data[name]) for name in ("reference", "target")}
    for (name, shares), colour in zip(contents.items(), (BLUE, ORANGE), strict=True):
        left.stairs(shares, edges, fill=True, color=tint(colour, 0.25), alpha=0.6)
        left.stairs(shares, edges, color=colour, label=name)
    positive = np.concatenate([shares[shares > 0.0] for shares in contents.values()])
    left.axvspan(
        data["threshold"], max(edges[-1], data["threshold"]), color=tint(RED, 0.12), linewidth=0.0, zorder=0
    )
    left.axvline(
        data["threshold"], color=RED, linestyle=(0, (5, 2)), linewidth=1.2, label="last reference event"
    )
    left.set_yscale("log")
    left.set_ylim(0.4 * positive.min(), 3.0 * positive.max())
    left.set_xlim(edges[0], max(edges[-1], data["threshold"] + 0.02 * (edges[-1] - edges[0])))
    left.set_xlabel("log-ratio")
    left.set_ylabel("share of the events")
    legend_above(left, columns=3)
    rows = np.arange(len(worst))
    for key, start, colour in (("below", 0.0, BLUE), ("above", numbers(data["below"])[worst], ORANGE)):
        right.barh(
            rows, numbers(data[key])[worst], left=start, height=0.6, color=tint(colour, 0.8), label=key
        )
    tolerance = data["tolerance"]
    right.axvline(tolerance, color=RED, linestyle=(0, (5, 2)), linewidth=1.2, label="tolerance")
    right.set_yticks(rows, [label(data["features"][i]) for i in worst], fontsize="small")
    right.tick_params(axis="y", which="both", left=False, right=False)
    right.set_ylim(max(len(worst), 4) - 0.4, -0.6)
    right.set_xlim(0.0, 1.1 * max(float(outside.max()), 1.3 * tolerance))
    right.xaxis.set_major_formatter(lambda x, _: f"{100.0 * x:.3g}%")
    right.set_xlabel("share of the target outside")
    verdict(right, data, f"by log-ratio {data['beyond']:.2%}", y=1.08)
    legend_above(right, columns=3)
    return drawn


@styled
def expected_coverage(result: ExpectedCoverage | Mapping[str, Any]) -> Figure:
    """Draw the coverage against the credibility, with the band in which 95% of exact results are at each level.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.expected_coverage``.
    """
    data = plain(result)
    level, coverage = numbers(data["credibility"]), numbers(data["coverage"])
    width = 1.96 * np.sqrt(level * (1.0 - level) / len(data["ranks"]))
    drawn = figure(5.4, 5.6)
    axes = drawn.subplots()
    axes.fill_between(
        level, level - width, level + width, color=tint(GREY, 0.25), linewidth=0.0, label="95% band"
    )
    axes.plot(level, level, color=FAINT, linewidth=1.1)
    axes.plot(
        [data["tolerance"], 1.0], [0.0, 1.0 - data["tolerance"]], color=RED, linewidth=1.0, linestyle=(0, (5, 2)),
        label="tolerance",
    )  # fmt: skip
    axes.plot(level, coverage, color=BLUE, linewidth=1.8, label=f"{len(data['ranks'])} experiments")
    for x, y, text in ((0.03, 0.95, "conservative"), (0.97, 0.05, "overconfident")):
        axes.text(
            x, y, text, ha="left" if x < 0.5 else "right", va="center", color=INK, fontsize="small",
            transform=axes.transAxes,
        )  # fmt: skip
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("credibility")
    axes.set_ylabel("coverage")
    verdict(axes, data, f"shortfall {data['shortfall']:.3f}", y=1.065)
    legend_above(axes, columns=3)
    return drawn

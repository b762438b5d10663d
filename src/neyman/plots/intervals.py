"""Figures of intervals: joint regions of two parameters, CLs against the signal, the Neyman construction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    INK,
    RED,
    Array,
    figure,
    label,
    legend_above,
    levels,
    numbers,
    plain,
    styled,
    symbol,
    tint,
)
from neyman.plots.words import rounded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neyman.inference.results import ContourResult, FeldmanCousins, UpperLimit

# CMS's colours of expected bands since 2024, which colour-blind readers tell apart.
ONE_SIGMA, TWO_SIGMA = "#607641", "#F5BB54"


@styled
def contours(result: ContourResult | Mapping[str, Any]) -> Figure:
    """Draw the joint confidence regions of two parameters with their best fit.

    Points where the search failed are left out: the curve is open there.

    Parameters
    ----------
    result
        Result of ``neyman.contour``.
    """
    data = plain(result)
    first, second = data["parameters"]
    drawn = figure(6.2, 5.4)
    axes = drawn.subplots()
    best = data["best"]["values"]
    curves = sorted(data["levels"], key=lambda curve: -float(curve["level"]))
    for k, curve in enumerate(curves):
        points = numbers(curve["points"]).reshape(-1, 2)
        strength = 0.15 + 0.25 * k / max(len(curves) - 1, 1)
        closed = _closed(points, smooth=not any(curve["at_bound"]))
        if np.isfinite(points).all():
            axes.fill(*closed.T, color=tint(BLUE, strength), linewidth=0.0, zorder=1 + k)
        style = ("-", (0, (5, 2)), (0, (2, 2)))[(len(curves) - 1 - k) % 3]
        axes.plot(*closed.T, color=BLUE, linestyle=style, zorder=2 + k, label=_percent(curve["cl"]))
    axes.plot(best[first], best[second], "P", color=INK, markersize=8, zorder=20, label="best fit")
    axes.set_xlabel(_axis(first))
    axes.set_ylabel(_axis(second))
    axes.margins(0.06)
    handles, _ = axes.get_legend_handles_labels()
    legend_above(axes, columns=4, handles=[*handles[: len(curves)][::-1], *handles[len(curves) :]])
    return drawn


@styled
def cls_scan(limit: UpperLimit | Mapping[str, Any]) -> Figure:
    r"""Draw :math:`\mathrm{CL}_s` against the parameter of interest with the expected band, and the limits.

    Parameters
    ----------
    limit
        Result of ``neyman.upper_limit`` with tests on a grid.

    Raises
    ------
    InputError
        When there are fewer than two tests.
    """
    data = plain(limit)
    tests = data["tests"]
    if len(tests) < 2:
        raise InputError("a limit without tests on a grid cannot be drawn", fix="upper_limit(..., grid=...)")
    alpha = 1.0 - data["cl"]
    grid, observed = numbers([t["value"] for t in tests]), numbers([t["cls"] for t in tests])
    drawn = figure(7.0, 4.8)
    axes = drawn.subplots()
    if tests[0]["expected"]:
        band = numbers([t["expected"] for t in tests])
        for low, high, colour, name in ((0, 4, TWO_SIGMA, "±2σ"), (1, 3, ONE_SIGMA, "±1σ")):
            axes.fill_between(grid, band[:, low], band[:, high], color=colour, linewidth=0.0, label=name)
        axes.plot(grid, band[:, 2], color=INK, linestyle=(0, (5, 2)), label="expected")
    errors = numbers([t["cls_error"] for t in tests])
    if errors.any():
        axes.errorbar(
            grid, observed, errors, fmt="o-", color=INK, markersize=3.5, linewidth=1.2, label="observed"
        )
    else:
        axes.plot(grid, observed, color=INK, label="observed")
    axes.axhline(alpha, color=RED, linewidth=1.2)
    axes.text(
        1.01, alpha, f"{alpha:.3g}", color=RED, transform=axes.get_yaxis_transform(), va="center", fontsize="small"
    )  # fmt: skip
    if data["observed"] is not None:
        axes.plot([data["observed"]] * 2, [0.0, alpha], color=RED, linewidth=1.2)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(0.0, 1.05)
    axes.set_xlabel(_axis(data["poi"]))
    axes.set_ylabel(r"$\mathrm{CL}_s$")
    axes.set_title(_limit_text(data), loc="right", y=1.075)
    handles, _ = axes.get_legend_handles_labels()
    legend_above(axes, columns=4, handles=handles[::-1])
    return drawn


@styled
def construction(result: FeldmanCousins | Mapping[str, Any]) -> Figure:
    r"""Draw the test statistic of the data against its critical value from toys; accepted values are shaded.

    The dotted line is the critical value of :math:`\chi^2` with one degree of freedom, which the toys' one approaches
    for large samples far from a bound.

    Parameters
    ----------
    result
        Result of ``neyman.feldman_cousins``.
    """
    from scipy.stats import chi2

    data = plain(result)
    grid, observed, critical, error = (
        numbers(data[key]) for key in ("grid", "observed", "critical", "critical_error")
    )
    drawn = figure(7.0, 4.8)
    axes = drawn.subplots()
    for k, (low, high) in enumerate(data["intervals"]):
        axes.axvspan(low, high, color=tint(BLUE, 0.15), zorder=0, label="accepted" if k == 0 else None)
    axes.errorbar(
        grid, critical, error, fmt="s-", color=RED, markersize=3.5, linewidth=1.2, label="critical value"
    )
    axes.plot(grid, observed, "o-", color=BLUE, markersize=3.5, label="observed")
    level = float(chi2.ppf(data["cl"], 1))
    levels(axes, {level: "χ²"})
    axes.set_xlim(grid[0], grid[-1])
    # The critical value is what the eye must compare with, however far the data's curve climbs.
    tallest = max(level, float(np.nanmax(critical + error)))
    axes.set_ylim(0.0, min(3.0 * tallest, max(1.1 * float(np.nanmax(observed)), 1.3 * tallest)))
    axes.set_xlabel(_axis(data["poi"]))
    axes.set_ylabel("−2 ln λ")
    ends = " and ".join(
        f"[{rounded(low, 0.1 * (high - low))}, {rounded(high, 0.1 * (high - low))}]"
        for low, high in data["intervals"]
    )
    words = f"{_axis(data['poi'])} in {ends}" if ends else "no value is accepted"
    axes.set_title(f"{words} at {_percent(data['cl'])} CL", loc="right", y=1.075)
    legend_above(axes, columns=3)
    return drawn


def _closed(points: Array, *, smooth: bool) -> Array:
    """Return a closed curve through the points: a periodic cubic spline, or straight lines with gaps."""
    from scipy.interpolate import CubicSpline

    closed = np.concatenate([points, points[:1]])
    if not smooth or not np.isfinite(points).all():
        return closed
    spline = CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")
    return np.asarray(spline(np.linspace(0.0, len(points), 10 * len(points) + 1)), dtype=np.float64)


def _axis(parameter: str) -> str:
    return label(symbol(parameter))


def _percent(cl: float) -> str:
    return f"{100.0 * cl:.4g}%"


def _limit_text(data: Mapping[str, Any]) -> str:
    observed, expected = data["observed"], data["expected"]
    name, scale = _axis(data["poi"]), None
    words = ""
    if expected and None not in expected[1:4]:
        low, middle, high = expected[1:4]
        scale = min(middle - low, high - middle)
        up, down = rounded(high - middle, scale), rounded(middle - low, scale)
        words = f", expected {rounded(middle, scale)} +{up} −{down}"
    limit = f"{name} < {rounded(observed, scale)}" if observed is not None else f"{name}: limit not reached"
    return f"{limit} at {_percent(data['cl'])} CL{words}"

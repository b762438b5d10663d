"""Figures of likelihoods of a signal strength and a nuisance parameter against the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    PALETTE,
    RED,
    figure,
    label,
    legend_above,
    numbers,
    plain,
    styled,
    symbol,
    tint,
)
from neyman.plots.trust import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neyman.diagnostics import BootstrapCoverage, Overlap

_LEVELS = (1.0, 4.0, 9.0)  # of -2 ln lambda


@styled
def overlap(result: Overlap | Mapping[str, Any]) -> Figure:
    """Draw how much each data set's likelihood overlaps with its true one.

    Parameters
    ----------
    result
        Result of ``neyman.diagnostics.overlap``.
    """
    data = plain(result)
    totals = numbers(data["totals"])
    drawn = figure(6.4, 4.2)
    axes = drawn.subplots()
    low = max(0.0, float(np.floor(20.0 * min(totals.min(), data["minimum"])) / 20.0))
    contents, edges = np.histogram(totals, np.linspace(low, 1.0, 26))
    axes.stairs(contents, edges, fill=True, color=tint(BLUE, 0.35))
    axes.stairs(contents, edges, color=BLUE)
    axes.axvline(
        data["minimum"], color=FAINT, linestyle=(0, (5, 2)), linewidth=1.1, label="needed on average"
    )
    axes.axvline(data["total"], color=INK, linewidth=1.4, label="mean")
    axes.set_xlim(low, 1.0)
    axes.set_ylim(0.0, 1.15 * max(1.0, float(contents.max())))
    axes.set_xlabel("overlap with the true likelihood")
    axes.set_ylabel("data sets")
    means = ", ".join(f"{symbol(name)} {value:.3f}" for name, value in data["profiled"].items())
    verdict(axes, data, f"mean {data['total']:.3f}, profiled {means}", y=1.08)
    legend_above(axes, columns=2)
    return drawn


@styled
def likelihoods(
    values: Sequence[ArrayLike],
    log_likelihoods: Mapping[str, ArrayLike],
    *,
    parameters: tuple[str, str] = ("mu", "z"),
    truth: tuple[float, float] | None = None,
) -> Figure:
    r"""Draw the contours :math:`-2\ln\lambda = 1, 4, 9` of several likelihoods of the same data.

    Parameters
    ----------
    values
        Grid of each parameter, ``(n_mu,)`` and ``(n_z,)``.
    log_likelihoods
        Log-likelihoods on the grid, ``(n_mu, n_z)``, by name; the first is filled, as the one to compare with.
    parameters
        Names of the parameters.
    truth
        True values, marked by a cross.
    """
    if not log_likelihoods:
        raise InputError("there is no likelihood to draw")
    drawn = figure(6.4, 5.4)
    axes = drawn.subplots()
    x, y = numbers(values[0]), numbers(values[1])
    colours = (GREY, *PALETTE[:1], *PALETTE[2:3], *PALETTE[4:])
    handles = []
    for k, (name, log_likelihood) in enumerate(log_likelihoods.items()):
        grid = numbers(log_likelihood)
        if grid.shape != (len(x), len(y)):
            raise InputError(
                f"the likelihood {name!r} has shape {grid.shape}", expected=f"({len(x)}, {len(y)})"
            )
        height = 2.0 * (grid.max() - grid).T
        colour = colours[k % len(colours)]
        if k == 0:
            shades = [tint(colour, strength) for strength in (0.55, 0.35, 0.2)]
            axes.contourf(x, y, height, (0.0, *_LEVELS), colors=shades)
            handles.append(_patch(shades[1], name))
            continue
        axes.contour(x, y, height, _LEVELS, colors=colour, linewidths=(1.7, 1.3, 1.0))
        handles.append(_line(colour, name))
    if truth is not None:
        (cross,) = axes.plot(
            *truth, "+", color=RED, markersize=11, markeredgewidth=2.0, label="truth", linestyle=""
        )
        handles.append(cross)
    axes.set_xlabel(label(symbol(parameters[0])))
    axes.set_ylabel(label(symbol(parameters[1])))
    legend_above(axes, columns=min(len(handles), 4), handles=handles)
    return drawn


@styled
def bootstrap_coverage(results: Mapping[str, BootstrapCoverage | Mapping[str, Any]]) -> Figure:
    """Draw coverage and mean width of the intervals of several estimators, beside what is expected.

    Parameters
    ----------
    results
        Results of ``neyman.diagnostics.bootstrap_coverage`` for one parameter, by the name of the estimator.
    """
    rows = {name: plain(result) for name, result in results.items()}
    if not rows:
        raise InputError("there is no coverage to draw")
    drawn = figure(8.4, 1.7 + 0.42 * len(rows))
    left, right = drawn.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))
    for place, data in zip(places, rows.values(), strict=True):
        colour = BLUE if data["passed"] else RED
        for axes, name in ((left, "coverage"), (right, "width")):
            if data[name] is not None:
                error = data[f"{name}_error"] or 0.0
                axes.errorbar(
                    data[name], place, xerr=error, fmt="o", color=colour, markersize=5.5, capsize=2.5
                )
    first = next(iter(rows.values()))
    _expected(left, first["expected"], first["tolerance"])
    if first["expected_width"] is not None:
        width = first["expected_width"]
        _expected(right, width, width * first["width_tolerance"])
    left.set_yticks(places, [label(name) for name in rows])
    left.minorticks_off()
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel("coverage of the intervals")
    right.set_xlabel("mean width")
    parameter = first["name"].rpartition(" ")[2]
    failed = sum(not data["passed"] for data in rows.values())
    left.set_title(
        f"{symbol(parameter)}: {failed} of {len(rows)} fail" if failed else f"{symbol(parameter)}: all pass",
        fontsize="small",
    )
    return drawn


def _expected(axes: Any, value: float, tolerance: float) -> None:
    axes.axvspan(value - tolerance, value + tolerance, color=tint(GREY, 0.25), linewidth=0.0, zorder=0)
    axes.axvline(value, color=FAINT, linestyle=(0, (5, 2)), linewidth=1.1, zorder=0)


def _patch(colour: str, name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=name)


def _line(colour: str, name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=name)

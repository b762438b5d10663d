"""Figures of the parameters of a fit: ranked impacts with pulls, impacts of groups, correlation matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    RED,
    Array,
    figure,
    label,
    legend_above,
    numbers,
    plain,
    styled,
    symbol,
)
from neyman.plots.words import rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.inference.results import FitResult, ImpactsResult


@styled
def pulls_and_impacts(impacts: ImpactsResult | Mapping[str, Any], *, largest: int = 20) -> Figure:
    r"""Draw the nuisance parameters ranked by their impact, with their pulls.

    Bars (upper axis) are the shifts of the parameter of interest when a nuisance parameter goes up or down. Points
    (lower axis) are pulls :math:`(\hat\theta-\theta_0)/\Delta\theta` with the post-fit over the pre-fit error as
    their bar; a free parameter has its value instead.

    Parameters
    ----------
    impacts
        Result of ``neyman.impacts``.
    largest
        Number of parameters to draw.
    """
    data = plain(impacts)
    ranked = sorted(data["impacts"], key=_size, reverse=True)[:largest]
    if not ranked:
        raise InputError("there are no nuisance parameters to rank", where=f"impacts on {data['poi']!r}")
    rows = np.arange(len(ranked))
    drawn = figure(8.0, 1.9 + 0.34 * len(ranked))
    bars = drawn.subplots()
    pulls = bars.twiny()
    up, down = (np.nan_to_num(numbers([impact[side] for impact in ranked])) for side in ("up", "down"))
    bars.barh(rows, up, height=0.72, facecolor=BLUE, edgecolor=BLUE, label="impact, up")
    bars.barh(
        rows, down, height=0.72, facecolor="none", edgecolor=ORANGE, hatch="/////", label="impact, down"
    )
    constrained = [i for i, impact in enumerate(ranked) if impact["pull"] is not None]
    centre, spread = (
        numbers([ranked[i][key] for i in constrained]).reshape(-1) for key in ("pull", "constraint")
    )
    pulls.errorbar(
        centre, constrained, xerr=np.nan_to_num(spread), fmt="o", color=INK, markersize=4.5, capsize=2.5,
        linewidth=1.4, label="pull",
    )  # fmt: skip
    for i in sorted(set(range(len(ranked))) - set(constrained)):
        pulls.text(
            0.0, i, _free(data["best"], ranked[i]["name"]), ha="center", va="center", fontsize="small",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": FAINT, "linewidth": 0.6},
        )  # fmt: skip
    for x in (-1.0, 0.0, 1.0):
        pulls.axvline(x, color=FAINT, linewidth=0.8, linestyle="-" if x == 0.0 else (0, (4, 3)), zorder=0)

    bars.set_yticks(rows, [_name(impact["name"]) for impact in ranked])
    for text, impact in zip(bars.get_yticklabels(), ranked, strict=True):
        text.set_color(INK if impact["valid"] else RED)
    bars.set_ylim(len(ranked) - 0.4, -0.6)
    # Where a bound holds the parameter of interest all impacts are zero, up to rounding.
    reach = 1.3 * max(float(np.abs([up, down]).max()), 1e-3 * (data["best"]["errors"][data["poi"]] or 1.0))
    bars.set_xlim(-reach, reach)
    bars.xaxis.set_major_formatter(lambda x, _: f"{x:.4g}".replace("-", "−"))
    reach = max(2.0, 1.15 * float(np.max(np.abs(centre) + np.nan_to_num(spread), initial=0.0)))
    pulls.set_xlim(-reach, reach)
    _sides(bars, pulls)
    bars.set_xlabel(f"impact Δ{symbol(data['poi'])}")
    pulls.set_xlabel(r"pull $(\hat{\theta} - \theta_0)\,/\,\Delta\theta$")
    handles = [*bars.get_legend_handles_labels()[0], *pulls.get_legend_handles_labels()[0]]
    drawn.legend(handles=handles, loc="outside upper left", ncols=3)
    return drawn


@styled
def group_impacts(impacts: ImpactsResult | Mapping[str, Any]) -> Figure:
    """Draw the impacts of groups of nuisance parameters, the largest first, beside the whole uncertainty.

    Parameters
    ----------
    impacts
        Result of ``neyman.impacts`` with groups.
    """
    data = plain(impacts)
    groups = sorted(data["groups"], key=lambda group: -float(group["size"]))
    if not groups:
        raise InputError("there are no groups to draw", where=f"impacts on {data['poi']!r}")
    total = data["best"]["errors"][data["poi"]]
    sizes, rows = numbers([group["size"] for group in groups]), np.arange(len(groups))
    drawn = figure(7.0, 1.6 + 0.42 * len(groups))
    axes = drawn.subplots()
    axes.barh(rows, sizes, height=0.66, color=BLUE, label="impact of the group")
    axes.axvline(total, color=INK, linestyle=(0, (5, 2)), label=f"uncertainty {rounded(total, total)}")
    reach = 1.3 * max(total, float(sizes.max()))
    for row, group in zip(rows, groups, strict=True):
        n = len(group["parameters"])
        words = f"{rounded(group['size'], group['size'] or total)}  ({n} parameter{'s' if n > 1 else ''})"
        inside = group["size"] > 0.45 * reach
        axes.annotate(
            words,
            (group["size"], row),
            xytext=(-6 if inside else 6, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize="small",
            color="white" if inside else INK,
            # The line of the whole uncertainty must not run through the words.
            bbox=None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    axes.set_yticks(rows, [_name(group["name"]) for group in groups])
    axes.tick_params(axis="y", which="both", left=False, right=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0.0, reach)
    axes.set_xlabel(f"impact on {label(symbol(data['poi']))}")
    legend_above(axes, columns=2)
    return drawn


@styled
def correlation(
    fit: FitResult | Mapping[str, Any], *, names: Sequence[str] | None = None, largest: int = 25
) -> Figure:
    """Draw the correlation matrix of a fit with its numbers in percent.

    Parameters
    ----------
    fit
        The fit; it needs a covariance.
    names
        Parameters to draw; by default the free ones without the simulation's ``staterror``.
    largest
        Number of parameters to draw by default, those with the largest correlation to another one.

    Raises
    ------
    InputError
        When the fit has no covariance or no such parameter.
    """
    data = plain(fit)
    if data["correlation"] is None:
        raise InputError(
            "the fit has no covariance", where="; ".join(data["messages"]) or "hesse was switched off"
        )
    every, matrix = list(data["names"]), numbers(data["correlation"])
    candidates = shown(data)
    chosen = list(names or _most_correlated(candidates, every, matrix, largest))
    missing = [name for name in chosen if name not in every]
    if missing or not chosen:
        raise InputError(f"the fit has no parameter {', '.join(missing) or 'to draw'}")
    index = [every.index(name) for name in chosen]
    matrix = matrix[np.ix_(index, index)]
    n = len(chosen)
    side = min(3.0 + 0.55 * n, 12.0)
    drawn = figure(side, side)
    axes = drawn.subplots()
    axes.imshow(matrix, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    size = float(np.clip(200.0 / n, 4.0, 10.0))
    for i, j in np.ndindex(n, n):
        value = float(matrix[i, j])
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 else INK if abs(value) >= 0.005 else FAINT
            axes.text(j, i, _percent(value), ha="center", va="center", color=colour, fontsize=size)
    ticks = [_name(name) for name in chosen]
    axes.set_xticks(range(n), ticks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), ticks)
    axes.tick_params(which="both", length=0)
    axes.minorticks_off()
    some = "" if names or len(chosen) == len(candidates) else f", {n} of {len(candidates)} parameters"
    axes.set_title(f"correlation [%]{some}")
    return drawn


def shown(fit: Mapping[str, Any]) -> list[str]:
    """Parameters of a fit's dictionary that are worth a row of a matrix: free, and not the simulation's statistics."""
    return [n for n in fit["names"] if n not in fit["fixed"] and not n.startswith(("staterror_", "spread_"))]


def _most_correlated(names: list[str], every: list[str], matrix: Array, largest: int) -> list[str]:
    """Return those of some parameters with the largest correlation to another of them, in their order."""
    if len(names) <= largest:
        return names
    index = [every.index(name) for name in names]
    part = np.abs(np.nan_to_num(matrix[np.ix_(index, index)]))
    np.fill_diagonal(part, 0.0)
    kept = set(np.argsort(-part.max(axis=1), kind="stable")[:largest].tolist())
    return [name for k, name in enumerate(names) if k in kept]


def _size(impact: Mapping[str, Any]) -> float:
    return float(np.max(np.abs(np.nan_to_num(numbers([impact["up"], impact["down"]])))))


def _name(parameter: str, longest: int = 40) -> str:
    """Name for an axis; a very long one is cut, or nothing would be left of the figure."""
    words = symbol(parameter)
    return label(words if len(words) <= longest else words[: longest - 1] + "…")


def _percent(value: float) -> str:
    return f"{round(100 * value) + 0:d}".replace("-", "−")


def _free(best: Mapping[str, Any], name: str) -> str:
    value, error = best["values"][name], best["errors"][name]
    return f"{rounded(value, error)} ± {rounded(error, error)}" if error else rounded(value, error)


def _sides(bars: Axes, pulls: Axes) -> None:
    """Bars read from the upper axis, pulls from the lower one, each with ticks on its own side alone."""
    bars.xaxis.set_label_position("top")
    pulls.xaxis.set_label_position("bottom")
    bars.tick_params(axis="x", which="both", bottom=False, top=True, labelbottom=False, labeltop=True)
    pulls.tick_params(axis="x", which="both", bottom=True, top=False, labelbottom=True, labeltop=False)
    bars.tick_params(axis="y", which="both", left=False, right=False)

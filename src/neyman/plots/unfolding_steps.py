"""Figures that say how an unfolding went: its iterations, its trainings, its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    RED,
    Array,
    figure,
    legend_above,
    numbers,
    plain,
    styled,
    tint,
)
from neyman.plots.unfolding_bins import DASHED, Bins, across, around_one, plain_decades, scaled, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.unfolding import Unfolding

_LEVELS = {"detector": BLUE, "particle": ORANGE, "fakes": "#832db6"}
_NAMES = {
    "detector": "detector level",
    "particle": "particle level",
    "fakes": "events without particle level",
}


@styled
def unfolding_iterations(spectra: Sequence[Any], *, truth: Any = None) -> Figure:
    r"""Draw the spectrum after every iteration over the truth or the last one, and how far an iteration changes it.

    The right panel is the root mean square over the bins of the change of an iteration, and of the distance from the
    truth, in units of the error :math:`\sigma` of the last spectrum:

    .. math:: \sqrt{\tfrac1n \sum_j (x^{(k)}_j - x^{(k-1)}_j)^2 / \sigma_j^2}, \qquad
        \sqrt{\tfrac1n \sum_j (x^{(k)}_j - t_j)^2 / \sigma_j^2}

    Parameters
    ----------
    spectra
        The prior, then the spectrum after each iteration; all but the last may be contents, ``(n_bins,)``.
    truth
        Contents of the bins, or a spectrum.

    Raises
    ------
    InputError
        When there are fewer than two, or bins differ.
    """
    if len(spectra) < 2:
        raise InputError(
            f"there are {len(spectra)} spectra to compare",
            expected="the prior and that after each iteration",
        )
    bins = Bins.of(spectra[-1])
    contents = [
        bins.contents(one, f"spectrum after {k} iterations" if k else "prior")
        for k, one in enumerate(spectra)
    ]
    target = None if truth is None else bins.contents(truth, "truth")
    reference = bins.values if target is None else target
    safe = np.where(reference > 0.0, reference, np.nan)
    drawn = figure(bins.width + 3.6, 4.5)
    left, right = drawn.subplots(1, 2, width_ratios=[bins.width, 3.4])
    last = len(contents) - 1
    width, middle = (
        np.nan_to_num(own / safe, nan=fill) for own, fill in ((bins.errors, 0.0), (bins.values, 1.0))
    )
    left.stairs(
        middle + width, bins.places, baseline=middle - width, fill=True, color=tint(GREY, 0.3), label="error"
    )
    left.axhline(1.0, color=FAINT, linewidth=0.9, zorder=0.5)
    for k, values in enumerate(contents):
        style = {"color": ORANGE, "linestyle": DASHED} if k == 0 else {"color": _shade(k, last)}
        left.stairs(
            np.nan_to_num(values / safe, nan=1.0),
            bins.places,
            baseline=None,
            label=_iteration(k, last),
            **style,
        )
    around_one(left, bins, bins.values / safe, bins.errors / safe, [own / safe for own in contents])
    bins.lay_out(left)
    if bins.slices:
        low, high = left.get_ylim()
        left.set_ylim(low, high + 0.1 * (high - low))
        bins.name_slices(left)
    left.set_ylabel(f"ratio to {'the last' if target is None else 'truth'}")
    handles = [h for h in left.get_legend_handles_labels()[0] if h.get_label() != "_"]
    legend_above(left, columns=across([h.get_label() for h in handles], bins.width), handles=handles)
    _steps(right, bins, contents, target)
    return drawn


def _shade(k: int, last: int) -> str:
    """The later, the darker."""
    return tint(BLUE, 0.3 + 0.7 * k / last) if k < last else INK


def _iteration(k: int, last: int) -> str:
    """Name in the legend; of many iterations the first and the last have one."""
    if k == 0:
        return "prior"
    return f"iteration {k}" if last <= 5 or k in (1, 2, last // 2, last) else "_"


def _steps(axes: Axes, bins: Bins, contents: Sequence[Array], target: Array | None) -> None:
    errors = bins.errors
    known = errors > 0.0

    def distance(one: Array, other: Array) -> float:
        return (
            float(np.sqrt(np.mean(np.square((one - other)[known] / errors[known]))))
            if known.any()
            else math.nan
        )

    series = {
        "change": (
            range(1, len(contents)),
            [distance(b, a) for a, b in pairwise(contents)],
        )
    }
    if target is not None:
        series["distance from the truth"] = (
            range(len(contents)),
            [distance(one, target) for one in contents],
        )
    for (name, (at, values)), colour in zip(series.items(), (BLUE, RED), strict=False):
        axes.plot(at, values, "o-", color=colour, markersize=4.5, label=name)
    every = np.array([value for _, values in series.values() for value in values])
    every = every[every > 0.0]
    if every.size and every.max() > 15.0 * every.min():
        low, high = 0.7 * float(every.min()), 1.4 * float(every.max())
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        plain_decades(axes.yaxis, low, high)
    else:
        axes.set_ylim(0.0, 1.15 * float(every.max(initial=0.5)))
    axes.axhline(1.0, color=FAINT, linestyle=DASHED, linewidth=0.9)
    axes.set_xlim(-0.4 if target is not None else 0.6, len(contents) - 0.6)
    whole_numbers(axes)
    axes.set_xlabel("iteration")
    axes.set_ylabel("rms over the bins / error")
    legend_above(axes, columns=1)


@styled
def unfolding_trainings(result: Unfolding | Mapping[str, Any], *, flat: float = math.log(2.0)) -> Figure:
    """Draw what the networks of every step and iteration have learned, and what became of the weights.

    Clockwise: by how much the best held-out loss of every member is below that of a constant output; the factor that
    a step gives to the yield; the largest ratio given to one event; the effective number of events after the step.

    Parameters
    ----------
    result
        The unfolding.
    flat
        Loss of ratio 1 everywhere: ln 2 of the cross-entropy, 0 of the maximum-likelihood classifier.

    Raises
    ------
    InputError
        When there are no trainings, or members that separate nothing have a loss below `flat`.
    """
    steps = plain(result)["steps"]
    if not steps:
        raise InputError("there are no trainings to draw", expected="an unfolding with at least one step")
    for step in steps:
        for loss, separates in zip(step["losses"], step["separates"], strict=True):
            if loss is not None and separates != (loss < flat):
                raise InputError(
                    f"a member with the loss {loss:.4g} {'separates' if separates else 'separates nothing'}, "
                    f"but a constant output is said to have {flat:.4g}",
                    where=f"iteration {step['iteration'] + 1}, {step['level']} level",
                    fix="give flat=0.0 for MLC, settings.loss.flat() in general",
                )
    levels = [level for level in _LEVELS if any(step["level"] == level for step in steps)]
    drawn = figure(9.6, 6.6)
    panels = drawn.subplots(2, 2)
    _losses(panels[0, 0], steps, levels, flat)
    for axes, key, text in (
        (panels[0, 1], "normalisation", "factor on the yield"),
        (panels[1, 0], "effective_size", "effective events"),
        (panels[1, 1], "largest", "largest ratio"),
    ):
        for level in levels:
            at, values = zip(
                *((s["iteration"] + 1, s[key]) for s in steps if s["level"] == level), strict=True
            )
            axes.plot(at, numbers(values), "o-", color=_LEVELS[level], markersize=4.5)
        every = numbers([s[key] for s in steps])
        _range(axes, every, text, key)
    for axes in panels.flat:
        axes.set_xlim(0.5, max(s["iteration"] for s in steps) + 1.5)
        whole_numbers(axes)
    for axes in panels[1]:
        axes.set_xlabel("iteration")
    drawn.align_ylabels(panels)
    drawn.legend(handles=_handles(levels, steps), loc="outside upper left", ncols=4)
    return drawn


def _losses(axes: Axes, steps: Sequence[Mapping[str, Any]], levels: Sequence[str], flat: float) -> None:
    gains = {id(step): flat - numbers(step["losses"]) for step in steps}
    good = np.concatenate(list(gains.values()))
    good = good[good > 0.0]
    floor = 0.3 * float(good.min()) if good.size else 0.1
    for step in steps:
        gain = gains[id(step)]
        offset = 0.16 * (levels.index(step["level"]) - 0.5 * (len(levels) - 1))
        spread = np.linspace(-0.05, 0.05, len(gain)) if len(gain) > 1 else np.zeros(1)
        at, separates = step["iteration"] + 1 + offset + spread, gain > 0.0
        colour = _LEVELS[step["level"]]
        axes.plot(at[separates], gain[separates], "o", color=colour, markersize=4.0, alpha=0.8)
        axes.plot(
            at[~separates], np.full((~separates).sum(), floor), "v", color=colour, markersize=5.0,
            markerfacecolor="white",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(0.6 * floor, 2.5 * float(good.max(initial=floor)))
    axes.set_ylabel("loss of a constant − best", loc="center")


def _range(axes: Axes, every: Array, text: str, key: str) -> None:
    if key == "normalisation":
        axes.axhline(1.0, color=FAINT, linewidth=0.9, linestyle=DASHED)
        reach = max(1.3 * float(np.abs(every - 1.0).max()), 0.02)
        axes.set_ylim(1.0 - reach, 1.0 + reach)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_ylabel(text, loc="center")
    elif key == "largest" and every.max() > 20.0 * every.min() > 0.0:
        axes.set_yscale("log")
        axes.set_ylabel(text, loc="center")
    else:
        axes.set_ylim(0.0, 1.2 * float(every.max()))
        scaled(axes, text, 1.2 * float(every.max()), loc="center")


def _handles(levels: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    made = [
        Line2D([], [], color=_LEVELS[level], marker="o", markersize=4.5, label=_NAMES[level])
        for level in levels
    ]
    if not all(all(step["separates"]) for step in steps):
        made.append(
            Line2D(
                [], [], color=GREY, marker="v", markersize=5.0, markerfacecolor="white", linestyle="none",
                label="separates nothing",
            )
        )  # fmt: skip
    return made


@styled
def unfolding_weights(result: Unfolding | Mapping[str, Any]) -> Figure:
    """Draw the distribution of the push weights of the simulated events, and the share that the largest carry.

    Parameters
    ----------
    result
        The unfolding, or the columns of its ``weights()``.

    Raises
    ------
    InputError
        When there are no weights.
    """
    columns: Mapping[str, Any] = result if isinstance(result, Mapping) else result.weights()
    missing = [key for key in ("weight", "push", "passes_truth") if key not in columns]
    if missing:
        raise InputError(
            f"there are no weights: {', '.join(missing)} missing", expected="the columns of result.weights()"
        )
    chosen = np.asarray(columns["passes_truth"], dtype=np.bool_)
    weight = numbers(columns["weight"])[chosen]
    push = numbers(columns["push"])[chosen]
    members = [numbers(own)[chosen] for name, own in columns.items() if name.startswith("push_")]
    drawn = figure(9.6, 4.4)
    left, right = drawn.subplots(1, 2)
    every = np.concatenate([push, *members])
    positive = every[every > 0.0]
    low, high = float(positive.min(initial=1.0)) / 1.05, 1.05 * float(positive.max(initial=1.0))
    edges = np.geomspace(low, high, 61)
    for i, own in enumerate(members if len(members) > 1 else ()):
        shares = np.histogram(own, edges)[0] / len(own)
        left.stairs(
            shares,
            edges,
            baseline=None,
            color=tint(BLUE, 0.4),
            linewidth=0.7,
            label="members" if i == 0 else None,
        )
    shares = np.histogram(push, edges)[0] / len(push)
    left.stairs(shares, edges, baseline=None, color=BLUE, linewidth=1.8, label="push weight")
    left.axvline(1.0, color=FAINT, linewidth=1.0, linestyle=DASHED)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_ylim(0.5 / len(push), 3.0 * float(shares.max()))
    left.set_xlim(low, high)
    plain_decades(left.xaxis, low, high)
    left.set_xlabel("push weight")
    left.set_ylabel("share of the events")
    legend_above(left, columns=2)
    unfolded = weight * push
    for values, colour, name in ((weight, ORANGE, "prior"), (unfolded, BLUE, "unfolded")):
        largest = np.sort(np.abs(values))[::-1]
        fraction = np.arange(1.0, len(largest) + 1.0) / len(largest)
        # Every event of a large sample would be a point of the curve.
        at = np.unique(np.geomspace(1, len(largest), 400).astype(int)) - 1
        right.plot(
            fraction[at], (largest.cumsum() / largest.sum())[at], color=colour, label=name,
            linestyle=DASHED if name == "prior" else "-",
        )  # fmt: skip
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlim(1.0 / len(weight), 1.0)
    right.set_ylim(top=1.5)
    right.set_xlabel("fraction of the events, largest weights first")
    right.set_ylabel("share of the total weight")
    before, after = (_effective(values) for values in (weight, unfolded))
    right.set_title(f"{after:,.0f} of {before:,.0f} effective events", loc="right", fontsize="small", y=1.08)
    legend_above(right, columns=2)
    return drawn


def _effective(weight: Array) -> float:
    return float(weight.sum() ** 2 / np.square(weight).sum())

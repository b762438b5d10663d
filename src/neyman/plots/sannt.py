"""Figures of a systematics-aware training (SANNT) beside the cross-entropy training (CENNT) that it started from.

Its histograms are in `neyman.plots.sannt_bins`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError, nearest
from neyman.plots import words
from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    RED,
    Array,
    figure,
    label,
    legend_above,
    levels,
    numbers,
    plain,
    styled,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.sannt import SANNT, Uncertainty

STAGES = {"pretrained": "CENNT", "trained": "SANNT"}
_METHODS = (GREY, BLUE, RED, "#832db6", "#a96b59")
_QUANTILES = (0.158655, 0.5, 0.841345)  # of the members: central 68 % and the median
_TOP = 5.2


def three(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def signal_names(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the signals of a result, at least one."""
    signals = tuple(result["signals"])
    if not signals:
        raise InputError("the result has no signal", expected="the result of a training")
    return signals


def signal_processes(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the processes that the signal strengths scale; a strength alone has the name of its process."""
    given = result.get("strengths") or {}
    return tuple(process for name in signal_names(result) for process in given.get(name, (name,)))


def caption(
    stage: str,
    uncertainty: Mapping[str, Any],
    signals: Sequence[str],
    labels: Mapping[str, str],
    *,
    lines: bool = False,
) -> str:
    """Return a title: the training with the uncertainty that it reaches for each signal, on a line each or on one."""
    several, parts = len(signals) > 1, []
    for signal in signals:
        one = uncertainty["signals"][signal]
        of = f" of {label(labels.get(signal, signal))}" if several else ""
        parts.append(f"Δr{of} = {three(one['total'])} (stat. {three(one['statistical'])})")
    return "\n".join([stage, *parts]) if lines and several else f"{stage}:  " + ",  ".join(parts)


@styled
def uncertainty_band(
    stages: Mapping[str, Sequence[Uncertainty | Mapping[str, Any]]], *, signal: str | None = None
) -> Figure:
    r"""Draw the likelihood that the members of an ensemble expect, in the approximation of a parabola.

    .. math:: -2 \Delta\ln L = \Big(\frac{r-1}{\Delta r}\Big)^2

    with the median of :math:`\Delta r` over the members and the band of its central 68 %, solid with all
    uncertainties and dashed with the statistical one alone.

    Parameters
    ----------
    stages
        Uncertainties of the members by name of the training, such as ``{"CENNT": result.pretrained.members, ...}``.
    signal
        Whose strength to draw; may be left out if there is a single one.

    Raises
    ------
    InputError
        When a training has no members, there is no such signal, or several and none is chosen.
    """
    if not stages:
        raise InputError("there is no ensemble to draw", expected="the members of at least one training")
    found = {name: _members(name, members, signal) for name, members in stages.items()}
    widest = max(float(values.max()) for total, alone in found.values() for values in (total, alone))
    r = np.linspace(1.0 - 2.15 * widest, 1.0 + 2.15 * widest, 501)
    drawn = figure(7.6, 4.7 + 0.24 * len(found))
    axes = drawn.subplots()
    handles: list[list[Any]] = [[], []]
    for colour, (name, kinds) in zip(_cycle(len(found)), found.items(), strict=True):
        looks = (("-", ""), ((0, (5, 2)), ", statistical"))
        for values, column, (line, what) in zip(kinds, handles, looks, strict=True):
            low, median, high = np.quantile(values, _QUANTILES)
            if high > low:
                axes.fill_between(
                    r,
                    _parabola(r, high),
                    _parabola(r, low),
                    color=tint(colour, 0.6),
                    alpha=0.5,
                    linewidth=0.0,
                )
            between = f"  [{three(low)}, {three(high)}]" if len(values) > 1 else ""
            column.extend(axes.plot(
                r, _parabola(r, median), color=colour, linestyle=line,
                label=f"{name}{what}: Δr = {three(median)}{between}",
            ))  # fmt: skip
    levels(axes, {1.0: "1σ", 4.0: "2σ"})
    axes.set_xlim(r[0], r[-1])
    axes.set_ylim(0.0, _TOP)
    axes.set_xlabel(f"signal strength r{f' of {label(signal)}' if signal else ''}")
    axes.set_ylabel("−2 Δ ln L")
    legend_above(axes, columns=2, handles=[*handles[0], *handles[1]])  # a row is a training
    n = {len(total) for total, _ in found.values()}
    if max(n) > 1:
        size = f"{max(n)}" if len(n) == 1 else f"{min(n)} to {max(n)}"
        axes.text(
            0.98, 0.03, f"median and 68% of {size} members", transform=axes.transAxes, ha="right", va="bottom",
            fontsize="small", color=GREY, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    return drawn


def _parabola(r: Array, error: float) -> Array:
    return ((r - 1.0) / error) ** 2


def _cycle(n: int) -> list[str]:
    return [_METHODS[i % len(_METHODS)] for i in range(n)]


def _members(name: str, members: Sequence[Any], signal: str | None) -> tuple[Array, Array]:
    """Total and statistical uncertainties of the members."""
    data = [plain(one) for one in members]
    if not data:
        raise InputError(f"{name} has no members", expected="at least one uncertainty")
    signals = list(data[0]["signals"])
    if signal is None and len(signals) > 1:
        raise InputError(
            f"{name} has {len(signals)} signals",
            expected="one",
            fix=f"choose signal={signals[0]!r} or another",
        )
    chosen = signals[0] if signal is None else signal
    if chosen not in signals:
        raise InputError(
            f"there is no signal {chosen!r} in {name}", fix=f"nearest: {nearest(chosen, signals)}"
        )
    own = [one["signals"][chosen] for one in data]
    return numbers([one["total"] for one in own]), numbers([one["statistical"] for one in own])


@styled
def impact_comparison(
    impacts: Mapping[str, Mapping[str, float | None]],
    *,
    first: int = 20,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the size of the impact of each nuisance parameter, ordered by that in the first training.

    Parameters
    ----------
    impacts
        Impact on the strength by name of the training and of the parameter; a parameter may be absent.
    first
        Number of parameters to draw.
    labels
        Labels by name of the parameter.

    Raises
    ------
    InputError
        When there is no parameter, or `first` is below 1.
    """
    if first < 1:
        raise InputError(f"first is {first}", expected="at least one parameter to draw")
    sizes = {
        name: {parameter: abs(float(value)) for parameter, value in own.items() if value is not None}
        for name, own in impacts.items()
    }
    every = {parameter for own in sizes.values() for parameter in own}
    if not every:
        raise InputError("there are no impacts to draw", expected="impacts of at least one training")
    ranked = sorted(every, key=lambda p: ([-own.get(p, 0.0) for own in sizes.values()], p))
    shown = ranked[:first]
    rows, height = np.arange(len(shown)), 0.78 / len(sizes)
    drawn = figure(8.0, 1.3 + (0.14 + 0.075 * len(sizes)) * max(len(shown), 3))
    axes = drawn.subplots()
    for i, (colour, (name, own)) in enumerate(zip(_cycle(len(sizes)), sizes.items(), strict=True)):
        axes.barh(
            rows + height * (i - 0.5 * (len(sizes) - 1)), [own.get(p, 0.0) for p in shown], height=height,
            color=colour, label=name,
        )  # fmt: skip
    axes.set_yticks(rows, [_shortened((labels or {}).get(p, p)) for p in shown])
    axes.tick_params(axis="y", which="both", left=False, right=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    largest = max(own.get(p, 0.0) for own in sizes.values() for p in shown)
    axes.set_xlim(0.0, 1.06 * largest or 1.0)
    for x in axes.get_xticks():
        axes.axvline(x, color=tint(FAINT, 0.35), linewidth=0.7, zorder=0)
    axes.set_xlabel("|impact on r|")
    if len(shown) < len(every):
        axes.set_title(f"{len(shown)} of {len(every)} parameters", loc="right", fontsize="small", color=GREY)
    legend_above(axes, columns=len(sizes))
    return drawn


def _shortened(text: str, longest: int = 40) -> str:
    return label(text if len(text) <= longest else text[: longest - 1] + "…")


@styled
def uncertainty_comparison(rows: Mapping[str, Mapping[str, Any]], *, signal: str | None = None) -> Figure:
    """Draw total and statistical uncertainties of several trainings or methods, with their spread over the members.

    Parameters
    ----------
    rows
        By name: ``total`` and ``statistical``, and where known ``total_interval`` and ``statistical_interval``, the
        ends of the 68 % interval of the members. The printed change is relative to the first row.
    signal
        Name of the signal for the axis.

    Raises
    ------
    InputError
        When there are no rows.
    """
    if not rows:
        raise InputError("there are no uncertainties to compare", expected="at least one row")
    drawn = figure(8.4, 1.3 + 0.62 * len(rows))
    axes = drawn.subplots()
    base: float | None = None
    ends, texts = [], []
    for i, row in enumerate(rows.values()):
        end = 0.0
        for key, thick, colour in (("total", 0.62, tint(BLUE, 0.45)), ("statistical", 0.3, BLUE)):
            value = row.get(key)
            if value is None:
                continue
            axes.barh(i, value, height=thick, color=colour)
            interval = row.get(f"{key}_interval")
            if interval is not None:
                low, high = interval
                axes.errorbar(
                    value, i, xerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]], color=INK, capsize=3.0,
                    linewidth=1.2,
                )  # fmt: skip
            end = max(end, value, *(interval or ()))
        ends.append(end)
        texts.append(_row_text(row, base))
        base = row.get("total") if i == 0 else base
    reach = max(ends) or 1.0
    for i, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(
            text,
            (end, i),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize="small",
        )
    axes.set_yticks(range(len(rows)), [label(name) for name in rows])
    axes.tick_params(axis="y", which="both", left=False, right=False, labelsize="medium")
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0.0, 1.5 * reach)
    axes.set_xlabel(f"expected Δr{f' of {label(signal)}' if signal else ''}")
    legend_above(axes, columns=3, handles=_row_handles(any("total_interval" in row for row in rows.values())))
    return drawn


def _row_text(row: Mapping[str, Any], base: float | None) -> str:
    total, alone = row.get("total"), row.get("statistical")
    text = "no valid fit" if total is None else three(total)
    if alone is not None:
        text += f" (stat. {three(alone)})"
    if total is not None and base:
        text += f"   {words.change(total, base)}"
    return text


def _row_handles(spread: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=tint(BLUE, 0.45), label="total"),
        Patch(color=BLUE, label="statistical only"),
    ]
    if spread:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, marker="|", label="68% of the members"))
    return handles


@styled
def sannt_training(result: SANNT | Mapping[str, Any]) -> Figure:
    """Draw the losses of both phases against the step: the cross-entropy, and the expected uncertainty.

    Thin lines are members (of all folds), the thick one is their median, and dots are the states that were kept.
    Horizontal lines mark what both trainings reach on all events that judge them, in the median of the members;
    held-out events are fewer, and their statistics are part of the loss.

    Parameters
    ----------
    result
        Result of ``neyman.sannt.train``.

    Raises
    ------
    InputError
        When no phase has a history.
    """
    data = plain(result)
    phases = [key for key in STAGES if data[key].get("histories")]
    if not phases:
        raise InputError("there are no trainings to draw", expected="a history in at least one phase")
    drawn = figure(4.9 * len(phases) + 0.4, 3.9)
    panels = drawn.subplots(1, len(phases), squeeze=False)[0]
    several = len(data["signals"]) > 1
    titles = {
        "pretrained": ("CENNT", "cross-entropy"),
        "trained": ("SANNT", "loss: sum of expected Δr" if several else "expected Δr"),
    }
    for axes, key in zip(panels, phases, strict=True):
        _phase(axes, data[key]["histories"])
        title, name = titles[key]
        axes.set_title(title)
        axes.set_ylabel(name)
        axes.set_xlabel("step")
    if "trained" in phases:
        for key, line in (("pretrained", (0, (5, 2))), ("trained", (0, (1, 1.5)))):
            members = data[key].get("members") or (data[key]["uncertainty"],)
            reached = float(np.median([plain(one)["total"] for one in members]))
            panels[-1].axhline(
                reached, color=INK, linestyle=line, linewidth=1.3, label=f"reached by {STAGES[key]}"
            )
            _include(panels[-1], reached)
    handles, names = panels[-1].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper left", ncols=len(names))
    return drawn


def _phase(axes: Axes, histories: Sequence[Any]) -> None:
    data = [plain(one) for one in histories]
    n = sum(len(one["best_step"]) for one in data)
    median = ", median" if n > 1 else ""
    seen: list[Array] = []
    for key, colour, name in (("training", ORANGE, "training"), ("validation", BLUE, "held out")):
        for one in data:
            values = numbers(one[key])
            axes.plot(numbers(one["steps"]), values, color=tint(colour, 0.3), linewidth=0.5)
            seen.append(values[np.isfinite(values)])
        axes.plot(*_median(data, key), color=colour, linewidth=2.0, zorder=3, label=f"{name}{median}")
    for one in data:
        steps, held_out = numbers(one["steps"]), numbers(one["validation"])
        best = [int(np.argmin(np.abs(steps - step))) for step in one["best_step"]]
        axes.plot(
            steps[best], held_out[best, np.arange(len(best))], "o", color=BLUE, zorder=4,
            markersize=3.0 if n > 20 else 5.5, markeredgecolor="white", markeredgewidth=0.5,
            label="kept state" if one is data[0] else None,
        )  # fmt: skip
    if finite := np.concatenate(seen).tolist():
        low, high = np.quantile(finite, (0.0, 0.995))  # a few steps that run away do not set the range
        pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0.0, 1.03 * max(float(one["steps"][-1]) for one in data))
    axes.minorticks_off()
    axes.ticklabel_format(axis="y", useOffset=False)


def _median(histories: Sequence[Mapping[str, Any]], key: str) -> tuple[Array, Array]:
    """Median over the members of all folds at the steps that at least half of them reached."""
    steps = np.unique(np.concatenate([numbers(one["steps"]) for one in histories]))
    columns = []
    for one in histories:
        whole = np.full((len(steps), len(one["best_step"])), np.nan)
        whole[np.searchsorted(steps, numbers(one["steps"]))] = numbers(one[key])
        columns.append(whole)
    values = np.concatenate(columns, axis=1)
    enough = np.isfinite(values).sum(axis=1) >= max(0.5 * values.shape[1], 1)
    return steps[enough], np.nanmedian(values[enough], axis=1)


def _include(axes: Axes, height: float) -> None:
    low, high = axes.get_ylim()
    pad = 0.06 * (high - low)
    axes.set_ylim(min(low, height - pad), max(high, height + pad))

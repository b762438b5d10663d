"""Figures of the bins of a systematics-aware training: histograms before and after it, and gradients of bins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError, nearest
from neyman.plots.distributions import poisson_interval
from neyman.plots.sannt import STAGES, caption, signal_names, signal_processes
from neyman.plots.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALETTE,
    RED,
    Array,
    figure,
    grid,
    label,
    numbers,
    plain,
    styled,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from neyman.sannt import SANNT

COLUMNS = 7  # channels side by side
_SIGNALS = (RED, "#832db6", "#e76300", "#a96b59", "#1b1f24")
_BACKGROUNDS = tuple(colour for colour in PALETTE if colour not in _SIGNALS)
_CURVES = (BLUE, ORANGE, "#832db6", "#94a4a2", RED, "#a96b59")
_SYSTEMATICS: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": tint(INK, 0.75),
    "hatch": "//////",
    "linewidth": 0.0,
}
_SIMULATION: dict[str, Any] = {"facecolor": tint(INK, 0.5), "alpha": 0.6, "linewidth": 0.0}
_HEIGHTS = (3.4, 1.0, 1.0)
_DEPTH = 1e5  # range of the logarithmic axis at most
_FULL = 100.0  # percent; a bin without events would need any range


@dataclass(frozen=True)
class _Bins:
    """Expectation in the bins of a channel: contents and half of up minus down of each parameter, by process."""

    edges: Array
    contents: dict[str, Array]
    variance: Array
    shifts: dict[str, dict[str, Array]]
    observed: Array | None

    @classmethod
    def of(cls, channel: str, processes: Mapping[str, Any], observed: Sequence[float] | None) -> _Bins:
        edges = numbers(next(iter(processes.values()))["edges"])
        contents, shifts = {}, {}
        variance = np.zeros(len(edges) - 1)
        for name, one in processes.items():
            contents[name] = numbers(one["nominal"])
            if contents[name].shape != variance.shape or len(one["edges"]) != len(edges):
                raise InputError(
                    f"process {name!r} has {len(contents[name])} bins in {channel!r}",
                    expected=f"the same {len(variance)} bins for every process of a channel",
                )
            variance = variance + numbers(one["variance"])
            shifts[name] = {
                parameter: 0.5 * (numbers(v["up"]) - numbers(v["down"]))
                for parameter, v in one.get("variations", {}).items()
            }
        counts = None if observed is None else numbers(observed)
        if counts is not None and counts.shape != variance.shape:
            raise InputError(
                f"{len(counts)} bins were observed in {channel!r}", expected=f"{len(variance)} counts"
            )
        return cls(edges, contents, variance, shifts, counts)

    @property
    def total(self) -> Array:
        return self.sum()

    def sum(self, without: Sequence[str] = ()) -> Array:
        kept = [values for name, values in self.contents.items() if name not in without]
        return np.sum(kept, axis=0) if kept else np.zeros(len(self.edges) - 1)

    def systematics(self, without: Sequence[str] = ()) -> Array:
        """Quadratic sum over the parameters; a parameter moves all its processes together."""
        sums: dict[str, Array] = {}
        for name, shifts in self.shifts.items():
            if name not in without:
                for parameter, shift in shifts.items():
                    sums[parameter] = sums.get(parameter, 0.0) + shift
        squares = np.zeros(len(self.edges) - 1)
        for shift in sums.values():
            squares = squares + shift**2
        return np.asarray(np.sqrt(squares), dtype=np.float64)

    def relative(self) -> tuple[Array, Array]:
        """Systematics and statistics of the simulation, in percent of the expectation."""
        safe = np.where(self.total > 0.0, self.total, np.nan)
        return 100.0 * self.systematics() / safe, 100.0 * np.sqrt(self.variance) / safe

    def sensitivity(self, signal: str) -> Array:
        r""":math:`s/\sqrt{b+\sigma_b^2}`, everything but this signal being background."""
        noise = self.sum((signal,)) + self.systematics((signal,)) ** 2
        return self.contents[signal] / np.sqrt(np.where(noise > 0.0, noise, np.nan))

    def places(self) -> tuple[Array, list[str] | None]:
        """Edges to draw, and their labels where widths differ and bins are drawn equally wide."""
        widths = np.diff(self.edges)
        if np.allclose(widths, widths.mean(), rtol=1e-3):
            return self.edges, None
        return np.arange(len(self.edges), dtype=np.float64), _edge_labels(self.edges)


@dataclass(frozen=True)
class _Look:
    """What all panels share: order and colours of the stack, scale of the signal lines, ranges."""

    signals: tuple[str, ...]
    stack: tuple[str, ...]
    colours: dict[str, str]
    names: dict[str, str]
    factors: dict[str, int]
    events: tuple[float, float]
    percent: float
    sensitivity: float

    @classmethod
    def of(
        cls, stages: Sequence[Mapping[str, _Bins]], signals: Sequence[str], names: dict[str, str]
    ) -> _Look:
        every = [bins for stage in stages for bins in stage.values()]
        contents = {name: np.concatenate([b.contents[name] for b in every]) for name in every[0].contents}
        backgrounds = sorted((n for n in contents if n not in signals), key=lambda n: contents[n].sum())
        colours = {n: _SIGNALS[i % len(_SIGNALS)] for i, n in enumerate(signals)}
        colours |= {n: _BACKGROUNDS[i % len(_BACKGROUNDS)] for i, n in enumerate(reversed(backgrounds))}
        tallest = max((float(contents[n].max()) for n in backgrounds), default=0.0)
        factors = {n: _factor(tallest, float(contents[n].max())) for n in signals}
        total = np.concatenate([b.total for b in every])
        counts = [b.observed for b in every if b.observed is not None]
        lowest = np.concatenate([total, *(b.sum(signals) for b in every)])
        top = float(max(total.max(), *(c.max() for c in counts), 1e-300))
        low = max(0.25 * float(np.min(lowest[lowest > 0.0], initial=top)), top / _DEPTH)
        percent = max(float(np.nanmax(np.stack(b.relative()), initial=0.0)) for b in every)
        sensitivity = max(float(np.nanmax(b.sensitivity(n), initial=0.0)) for b in every for n in signals)
        return cls(
            tuple(signals),
            (*backgrounds, *reversed(signals)),
            colours,
            {n: label(names.get(n, n)) for n in contents},
            factors,
            (low, 3.0 * top),
            min(1.15 * percent, _FULL) or 1.0,
            1.15 * sensitivity or 1.0,
        )


@styled
def sannt_histograms(
    result: SANNT | Mapping[str, Any],
    *,
    channel: str | None = None,
    labels: Mapping[str, str] | None = None,
    observed: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    r"""Draw the expectation in the bins of the network's output, before (CENNT) and after (SANNT) the training.

    From top to bottom: the stacked processes with the signals on top and again as scaled lines; the relative
    uncertainty of a bin by the systematic variations, in quadrature over the parameters,

    .. math:: \sigma_i^2 = \sum_j \Big( \sum_p \tfrac12 (u_{jpi} - d_{jpi}) \Big)^2,

    and by the statistics of the simulation; and :math:`s/\sqrt{b+\sigma_b^2}`, in which everything but one signal
    counts as background. Bins of different widths are drawn equally wide and labelled by their edges.

    Parameters
    ----------
    result
        Result of ``neyman.sannt.train``.
    channel
        The channel to draw; by default all. Several are drawn side by side, CENNT above SANNT; one is drawn with
        CENNT on the left and SANNT on the right.
    labels
        Labels by name of the process or of the channel.
    observed
        Observed counts in the bins of the SANNT, by channel.

    Raises
    ------
    InputError
        When there is no such channel, a signal has no histogram, or numbers of bins differ.
    """
    data, names, counts = plain(result), dict(labels or {}), observed or {}
    signals = signal_processes(data)
    stages = [_channels(data, key, channel, signals, counts if key == "trained" else {}) for key in STAGES]
    look = _Look.of(stages, signals, names)
    one = len(stages[0]) == 1
    titles = [
        caption(name, data[key]["uncertainty"], signal_names(data), names, lines=one)
        for key, name in STAGES.items()
    ]
    drawn = _pair(stages, titles, look) if one else _blocks(stages, titles, look, names)
    handles = _legend(look, observed=bool(counts))
    drawn.legend(handles=handles, loc="outside upper left", ncols=_columns(handles, drawn.get_figwidth()))
    return drawn


def _channels(
    data: Mapping[str, Any],
    key: str,
    channel: str | None,
    signals: Sequence[str],
    observed: Mapping[str, Sequence[float]],
) -> dict[str, _Bins]:
    histograms = data[key]["histograms"]
    if not histograms:
        raise InputError("there are no histograms to draw", where=STAGES[key])
    if channel is not None and channel not in histograms:
        raise InputError(f"there is no channel {channel!r}", fix=f"nearest: {nearest(channel, histograms)}")
    chosen = list(histograms) if channel is None else [channel]
    for name in chosen:
        for signal in signals:
            if signal not in histograms[name]:
                raise InputError(f"the signal {signal!r} has no histogram in {name!r}", where=STAGES[key])
    return {name: _Bins.of(name, histograms[name], observed.get(name)) for name in chosen}


def _pair(stages: Sequence[Mapping[str, _Bins]], titles: Sequence[str], look: _Look) -> Figure:
    """CENNT left, SANNT right."""
    drawn = figure(9.6, 6.0)
    panels = drawn.subplots(3, 2, height_ratios=_HEIGHTS)
    for column, (stage, title) in enumerate(zip(stages, titles, strict=True)):
        (bins,) = stage.values()
        _column(panels[:, column], bins, look, first=column == 0, most=11)
        panels[0, column].set_title(title)
        even = bins.places()[1] is None
        panels[2, column].set_xlabel("network output" if even else "network output (edges of the bins)")
    drawn.align_ylabels(panels[:, 0])
    return drawn


def _blocks(
    stages: Sequence[Mapping[str, _Bins]], titles: Sequence[str], look: _Look, names: Mapping[str, str]
) -> Figure:
    """CENNT above SANNT, in each one column a channel; more than seven channels continue below."""
    rows, _ = grid(len(stages[0]), COLUMNS)
    columns = math.ceil(len(stages[0]) / rows)
    drawn = figure(1.3 + max(1.48 * columns, 6.0), 0.9 + 2.0 * (0.4 + 3.7 * rows))
    drawn.set_layout_engine("constrained", w_pad=0.025, wspace=0.0)
    halves = drawn.subfigures(2, 1, squeeze=False)
    for half, stage, title in zip(halves[:, 0], stages, titles, strict=True):
        _block(half, stage, look, names, rows, columns)
        half.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return drawn


def _block(
    half: SubFigure,
    stage: Mapping[str, _Bins],
    look: _Look,
    names: Mapping[str, str],
    rows: int,
    columns: int,
) -> None:
    titles = _channel_titles(list(stage), names)
    panels = half.subplots(3 * rows, columns, squeeze=False, height_ratios=_HEIGHTS * rows)
    for i, (channel, bins) in enumerate(stage.items()):
        row, column = divmod(i, columns)
        these = panels[3 * row : 3 * row + 3, column]
        _column(these, bins, look, first=column == 0, most=9, narrow=True)
        these[0].set_title(titles[channel], fontsize="small", loc="center")
        if i == len(stage) - 1:
            these[2].set_xlabel("network output")
    for i in range(len(stage), rows * columns):
        row, column = divmod(i, columns)
        for axes in panels[3 * row : 3 * row + 3, column]:
            axes.remove()
    half.align_ylabels(panels[:, 0])


def _channel_titles(channels: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Labels of the channels; what they have in common (the region) is left out where they have none."""
    first = channels[0]
    ends = (i + 1 for i, letter in enumerate(first) if letter == "_")
    region = max((n for n in ends if all(c.startswith(first[:n]) for c in channels)), default=0)
    short = {channel: channel[region:] for channel in channels}
    return {c: label(names.get(c) or names.get(short[c]) or short[c]) for c in channels}


def _column(panels: Any, bins: _Bins, look: _Look, *, first: bool, most: int, narrow: bool = False) -> None:
    """Draw stack, relative uncertainty and sensitivity of one channel."""
    edges, words = bins.places()
    main, relative, purity = panels
    _stack(main, bins, edges, look)
    systematic, simulation = bins.relative()
    relative.stairs(np.nan_to_num(systematic), edges, fill=True, **_SYSTEMATICS)
    relative.stairs(np.nan_to_num(systematic), edges, baseline=None, color=GREY, linewidth=0.9)
    relative.stairs(np.nan_to_num(simulation), edges, fill=True, **_SIMULATION)
    relative.set_ylim(0.0, look.percent)
    for signal in look.signals:
        values = np.nan_to_num(bins.sensitivity(signal))
        if len(look.signals) == 1:
            purity.stairs(values, edges, fill=True, color=tint(look.colours[signal], 0.3))
        purity.stairs(values, edges, baseline=None, color=look.colours[signal], linewidth=1.4)
    purity.set_ylim(0.0, look.sensitivity)
    for axes in panels:
        axes.set_xlim(edges[0], edges[-1])
        axes.minorticks_off()
        _ticks(axes, edges, words, most, narrow=narrow)
        axes.tick_params(labelbottom=axes is purity, labelleft=first)
    main.yaxis.set_minor_locator(_decades())
    if first:
        main.set_ylabel("events in a bin")
        relative.set_ylabel("unc. [%]", loc="center")
        purity.set_ylabel("s / √(b + σ²)", loc="center", fontsize="medium" if not narrow else "small")


def _stack(axes: Axes, bins: _Bins, edges: Array, look: _Look) -> None:
    base = np.zeros(len(edges) - 1)
    for name in look.stack:
        axes.stairs(
            base + bins.contents[name], edges, baseline=base, fill=True, color=tint(look.colours[name], 0.75),
            label=look.names[name],
        )  # fmt: skip
        base = base + bins.contents[name]
    axes.stairs(base, edges, baseline=None, color=INK, linewidth=0.9)
    low = look.events[0] * 1e-3  # a logarithmic axis has no zero
    for error, style in ((np.sqrt(bins.variance), _SIMULATION), (bins.systematics(), _SYSTEMATICS)):
        axes.stairs(base + error, edges, baseline=np.maximum(base - error, low), fill=True, **style)
    for name in look.signals:
        factor = look.factors[name]
        axes.stairs(
            factor * bins.contents[name], edges, baseline=None, color=look.colours[name], linewidth=1.8,
            label=look.names[name] if factor == 1 else f"{look.names[name]} × {factor}",
        )  # fmt: skip
    if bins.observed is not None:
        below, above = poisson_interval(bins.observed)
        axes.errorbar(
            0.5 * (edges[1:] + edges[:-1]), bins.observed, [bins.observed - below, above - bins.observed],
            fmt="o", color=INK, markersize=3.5, linewidth=1.1,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(*look.events)


def _ticks(axes: Axes, edges: Array, words: Sequence[str] | None, most: int, *, narrow: bool) -> None:
    """Ticks at the edges where bins are drawn equally wide, at most so many; round numbers elsewhere."""
    axes.tick_params(axis="x", labelsize="x-small" if narrow else "small")
    if words is not None:
        every = math.ceil(len(words) / most)
        axes.set_xticks(edges[::every], words[::every], rotation=90 if narrow else 0)
    elif narrow:  # the ends would run into those of the neighbours
        low, high = float(edges[0]), float(edges[-1])
        axes.set_xticks([low + part * (high - low) for part in (0.25, 0.5, 0.75)])
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}")


def _edge_labels(edges: Array) -> list[str]:
    """As few decimals as tell all edges apart, two at least."""
    for digits in range(2, 7):
        words = [f"{edge:.{digits}f}" for edge in edges]
        if len(set(words)) == len(words):
            break
    return [_shortened(word) for word in words]


def _shortened(word: str) -> str:
    return word.rstrip("0").rstrip(".").replace("-", "−") or "0"


def _decades() -> Any:
    """Minor ticks without labels inside the decades."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs="auto", numticks=20)


def _columns(handles: Sequence[Any], width: float) -> int:
    """Most columns of a legend, filled one after the other, that a figure of this width in inches holds."""
    lengths = [0.75 + 0.075 * len(handle.get_label()) for handle in handles]
    for columns in range(len(lengths), 1, -1):
        rows = math.ceil(len(lengths) / columns)
        if sum(max(lengths[i : i + rows]) for i in range(0, len(lengths), rows)) <= width:
            return math.ceil(len(lengths) / rows)  # as many, or fewer that are equally full
    return 1


def _factor(tallest: float, highest: float) -> int:
    """Largest 1, 2 or 5 times a power of ten that keeps the scaled signal below the highest background bin."""
    room = tallest / max(highest, 1e-300)
    return max((m * 10**e for e in range(7) for m in (1, 2, 5) if m * 10**e <= room), default=1)


def _legend(look: _Look, *, observed: bool) -> list[Any]:
    """Handles: signals and backgrounds from the top of the stack, scaled lines, uncertainties."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=tint(look.colours[name], 0.75), label=look.names[name]) for name in reversed(look.stack)
    ]
    handles += [
        Line2D([], [], color=look.colours[name], linewidth=1.8, label=f"{look.names[name]} × {factor}")
        for name, factor in look.factors.items()
        if factor != 1
    ]
    handles += [
        Patch(**_SYSTEMATICS, label="systematics"),
        Patch(**_SIMULATION, label="simulation statistics"),
    ]
    if observed:
        handles.append(
            Line2D([], [], color=INK, marker="o", markersize=3.5, linestyle="none", label="observed")
        )
    return handles


@styled
def bin_functions(curves: Mapping[str, Mapping[str, Any]], *, columns: int = 2) -> Figure:
    """Draw what takes the place of the derivative of the bins' contents during a training, a panel each.

    Parameters
    ----------
    curves
        By title: positions ``y``, shape (n,), ``values`` :math:`B_i(y)`, shape (number of bins, n), and the
        ``edges`` of the bins.
    columns
        Panels in a row.

    Raises
    ------
    InputError
        When there is no curve, or its shapes do not fit.
    """
    if not curves:
        raise InputError("there are no bin functions to draw", expected="at least one")
    rows, columns = grid(len(curves), columns)
    drawn = figure(0.6 + 3.9 * columns, 0.4 + 2.6 * rows)
    panels = drawn.subplots(rows, columns, squeeze=False)
    for axes, (title, curve) in zip(panels.flat, curves.items(), strict=False):
        y, values, edges = (numbers(curve[key]) for key in ("y", "values", "edges"))
        if values.shape != (len(edges) - 1, len(y)):
            raise InputError(
                f"the bin function {title!r} has values of shape {values.shape}",
                expected=f"{(len(edges) - 1, len(y))}: {len(edges) - 1} bins at {len(y)} positions",
            )
        for x in edges[1:-1]:
            axes.axvline(x, color=tint(GREY, 0.4), linewidth=0.7, zorder=0)
        axes.axhline(0.0, color=INK, linewidth=0.7, zorder=0)
        for i, one in enumerate(values):
            axes.plot(y, _support(one), color=_CURVES[i % len(_CURVES)], linewidth=1.8)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_title(title)
        axes.minorticks_off()
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    for axes in panels.flat[len(curves) :]:
        axes.remove()
    for i, axes in enumerate(panels.flat[: len(curves)]):
        if i + columns >= len(curves):
            axes.set_xlabel("network output y")
    for axes in panels[:, 0]:
        axes.set_ylabel("$B_i(y)$")
    return drawn


def _support(values: Array) -> Array:
    """Values with gaps where they stay at zero; a crossing of zero stays whole."""
    zero = np.pad(np.abs(values) <= 1e-3 * np.abs(values).max(initial=0.0), 1, constant_values=True)
    return np.where(zero[1:-1] & (zero[:-2] | zero[2:]), np.nan, values)

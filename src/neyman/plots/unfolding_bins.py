"""Bins of an unfolded spectrum on a page: contents, errors and axis, for one observable or several in a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import FAINT, GREY, RED, Array, label, numbers, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from neyman.unfolding import Spectrum

DASHED = (0, (5, 2))
MANY = 24  # bins, above which not each has a label or a number of its own
REPLICAS = ("data", "simulation")  # sources that come from bootstrap replicas
FILL = "statistics of the fill"


@dataclass(frozen=True)
class Bins:
    """A spectrum as it is drawn: contents and covariances of its bins, and where they are on the page."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    edges: tuple[Array, ...]
    values: Array
    sources: dict[str, Array]
    statistics: Array
    density: bool

    @classmethod
    def of(cls, spectrum: Spectrum | Mapping[str, Any]) -> Bins:
        """Read a record or its dictionary."""
        data = plain(spectrum)
        return cls(
            tuple(data["names"]),
            tuple(data["units"]),
            tuple(numbers(edges) for edges in data["edges"]),
            numbers(data["values"]),
            {name: numbers(own) for name, own in data["sources"].items()},
            numbers(data["statistics"]),
            bool(data["density"]),
        )

    @property
    def fluctuates(self) -> bool:
        """Whether bootstrap replicas say how the contents fluctuate."""
        return any(name in self.sources for name in REPLICAS)

    @property
    def covariance(self) -> Array:
        """Total covariance; that of the fill counts where there are no bootstrap replicas."""
        start = np.zeros((len(self.values),) * 2) if self.fluctuates else np.diag(self.statistics)
        return np.asarray(sum(self.sources.values(), start))

    @property
    def errors(self) -> Array:
        """Total errors."""
        return np.sqrt(np.diag(self.covariance))

    def by_source(self) -> dict[str, Array]:
        """Errors by source: the statistical ones, training, and systematics with the largest first."""
        found = {name: np.sqrt(np.diag(own)) for name, own in self.sources.items()}
        first = {} if self.fluctuates else {FILL: np.sqrt(self.statistics)}
        first |= {name: found.pop(name) for name in (*REPLICAS, "training") if name in found}
        relative = {name: float(np.nanmax(self.percent(own), initial=0.0)) for name, own in found.items()}
        return first | {name: found[name] for name in sorted(found, key=lambda name: -relative[name])}

    def percent(self, errors: Array) -> Array:
        """Errors in percent of the contents; NaN where there are none."""
        return np.asarray(100.0 * errors / np.where(self.values > 0.0, self.values, np.nan))

    def contents(self, given: Any, name: str) -> Array:
        """Contents of another spectrum, its dictionary or an array in these bins."""
        if hasattr(given, "to_dict") or isinstance(given, Mapping):
            other = Bins.of(given)
            if other.density != self.density:
                words = ("is a density", "is not") if other.density else ("is not a density", "is one")
                raise InputError(
                    f"the {name} {words[0]}, the spectrum {words[1]}", fix="normalise both or none"
                )
            given = other.values
        values = numbers(given).reshape(-1)
        if values.shape != self.values.shape:
            raise InputError(
                f"the {name} has {values.size} bins", expected=f"{self.values.size}, those of the spectrum"
            )
        return values

    # On the page ------------------------------------------------------------------------------------------

    @property
    def places(self) -> Array:
        """Edges on the page: those of one observable, or the numbers of the bins of several."""
        return self.edges[0] if len(self.edges) == 1 else np.arange(len(self.values) + 1.0)

    @property
    def logarithmic(self) -> bool:
        """Whether the narrowest bin of one observable would be lost on a linear axis."""
        widths = np.diff(self.edges[0])
        return len(self.edges) == 1 and self.edges[0][0] > 0.0 and bool(widths.max() > 25.0 * widths.min())

    @property
    def centres(self) -> Array:
        """Middle of each bin on the page."""
        low, high = self.places[:-1], self.places[1:]
        return np.asarray(np.sqrt(low * high) if self.logarithmic else 0.5 * (low + high))

    @property
    def block(self) -> int:
        """Bins in a slice."""
        return len(self.edges[-1]) - 1

    @property
    def slices(self) -> list[str]:
        """Intervals of all observables but the last, slice by slice; none for one observable."""
        if len(self.edges) == 1:
            return []
        return [", ".join(parts) for parts in product(*(_intervals(edges) for edges in self.edges[:-1]))]

    @property
    def words(self) -> list[str]:
        """Interval of the last observable in each bin."""
        return _intervals(self.edges[-1]) * (len(self.values) // self.block)

    @property
    def label(self) -> str:
        """What the bins are of."""
        *outer, last = (axis(name, unit) for name, unit in zip(self.names, self.units, strict=True))
        return f"{last} in slices of {' and '.join(outer)}" if outer else last

    @property
    def width(self) -> float:
        """Width of a figure in inches."""
        return 6.6 if len(self.edges) == 1 else float(np.clip(2.4 + 0.27 * len(self.values), 6.6, 13.0))

    def lay_out(self, axes: Axes, *, bottom: bool = True) -> None:
        """Set up the horizontal axis."""
        axes.set_xlim(self.places[0], self.places[-1])
        if len(self.edges) > 1:
            for at in self.places[self.block : -1 : self.block]:
                axes.axvline(at, color=FAINT, linewidth=0.8, zorder=0)
            axes.tick_params(axis="x", which="both", bottom=False, top=False)
            chosen = self._labelled()
            axes.set_xticks(self.centres[chosen], [self.words[i] for i in chosen], fontsize="x-small")
            axes.tick_params(axis="x", rotation=90 if len(chosen) > 8 else 0)
        elif self.logarithmic:
            axes.set_xscale("log")
            plain_decades(axes.xaxis, float(self.places[0]), float(self.places[-1]))
        axes.tick_params(axis="x", labelbottom=bottom)
        if bottom:
            axes.set_xlabel(self.label)

    def _labelled(self) -> list[int]:
        every = math.ceil(len(self.values) / (2 * MANY))
        return [i for i in range(len(self.values)) if i % self.block % every == 0]

    def name_slices(self, axes: Axes) -> None:
        """Write the interval of each slice into its upper end, where the range leaves room."""
        for i, words in enumerate(self.slices):
            at = 0.5 * (self.places[i * self.block] + self.places[(i + 1) * self.block])
            axes.text(
                at, 0.97, words, transform=axes.get_xaxis_transform(), ha="center", va="top", color=GREY,
                fontsize="small" if self.block > 3 else "x-small",
            )  # fmt: skip


def axis(name: str, unit: str) -> str:
    """Name of an observable with its unit."""
    return f"{label(name)} [{label(unit)}]" if unit else label(name)


def edge(x: float) -> str:
    """An edge as short as it can be."""
    return f"{x:.4g}".replace("-", "−")


def _intervals(edges: Array) -> list[str]:
    between = "–" if edges[0] >= 0.0 else " to "  # no dash before a minus
    return [f"{edge(low)}{between}{edge(high)}" for low, high in pairwise(edges)]


def scaled(axes: Axes, text: str, top: float, *, loc: Literal["top", "center"] = "top") -> None:
    """Name the vertical axis; a power of ten of long numbers goes into the name, its usual place has the legend."""
    power = 3 * math.floor(math.log10(top) / 3) if top > 0.0 and not 0.05 <= top < 1e4 else 0
    if power:
        axes.yaxis.set_major_formatter(lambda y, _: edge(y / 10.0**power))
    axes.set_ylabel(f"{text} / $10^{{{power}}}$" if power else text, loc=loc)


def around_one(axes: Axes, bins: Bins, points: Array, errors: Array, others: Sequence[Array] = ()) -> None:
    """Choose the range of a ratio by its points, and mark those that it leaves out.

    Other lines may widen the range threefold, no more: the errors of the points must be seen.
    """
    ends = []
    for sign in (-1.0, 1.0):
        own = max(float(np.nanmax(sign * (points - 1.0) + errors, initial=0.0)), 0.01)
        other = float(np.nanmax(sign * (np.stack([*others, *np.atleast_2d(points)]) - 1.0), initial=0.0))
        ends.append(min(1.15 * max(own, min(other, 3.0 * own)), 1.0))
    low, high = (max(end, 0.35 * max(ends), 0.02) for end in ends)
    centres = np.broadcast_to(bins.centres, points.shape)
    for outside, at in ((points > 1.0 + high, 1.0 + 0.92 * high), (points < 1.0 - low, 1.0 - 0.92 * low)):
        axes.plot(
            centres[outside],
            np.full(outside.sum(), at),
            linestyle="none",
            marker="d",
            color=RED,
            markersize=4.5,
        )
    axes.set_ylim(1.0 - low, 1.0 + high)


def across(names: Sequence[str], width: float) -> int:
    """Most columns of a legend, filled one after the other, that a figure of this width in inches holds."""
    lengths = [0.62 + 0.07 * len(label(name).replace("$", "")) for name in names]
    for columns in range(len(lengths), 1, -1):
        rows = math.ceil(len(lengths) / columns)
        if sum(max(lengths[i : i + rows]) for i in range(0, len(lengths), rows)) <= width - 0.8:
            return math.ceil(len(lengths) / rows)  # as many, or fewer that are equally full
    return 1


def whole_numbers(axes: Axes) -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.tick_params(axis="x", which="minor", bottom=False, top=False)


def plain_decades(axis: Axis, low: float, high: float) -> None:
    """Labels without powers on a logarithmic axis of a few decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if low > 1e-4 and high < min(1e4 * low, 1e5):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300.0 * low else (1.0,)))
        axis.set_major_formatter(lambda x, _: edge(x))
    axis.set_minor_formatter(NullFormatter())

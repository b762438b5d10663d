"""A ready processor that fills histograms of features and network outputs with all systematic variations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import hist

from neyman.errors import ConfigError, nearest
from neyman.events import expression
from neyman.events.columns import Columns
from neyman.events.processing.chunk import Chunk
from neyman.events.processing.exact import ExactSum, totals
from neyman.events.processing.layout import LAYOUTS, arranged
from neyman.events.processing.selection import check_name
from neyman.events.processing.systematics import fill_variation, systematic_hist
from neyman.events.processing.varied import Varied, VariedProcessor, selected

Axes = Any | tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class HistProcessor(VariedProcessor):
    """Fill histograms for each channel and systematic variation; run it with ``process_files`` or coffea's Runner.

    Parameters
    ----------
    axes
        A ``hist`` axis for each variable, named as its column: a feature or an output of the scorer. A tuple of
        axes makes a histogram of several variables.
    channels
        Expression of columns by the channel's name, ``{"SR": "nn > 0.5 and n_jets >= 2"}``; all selected events
        in one channel ``inclusive`` by default. Channels may overlap.
    layout
        Return what a framework's processor returns: ``"pocketcoffea"``, ``"columnflow"``, ``"topcoffea"`` or
        ``"agc"``; see :func:`~neyman.events.processing.layout.arranged`. It also sets `naming` where that is
        None.
    features, scorer, selection, weights, corrections, objects, naming
        See :class:`~neyman.events.processing.varied.VariedProcessor`.

    Notes
    -----
    Without a layout the result is, for each dataset::

        {"process": name, "n_events": events read, "sumw": their sum of genWeight,
         "cutflow": {"selection" or channel: {"n": events, "sumw": nominal sum of weights}},
         "hists": {variable: hist.Hist (axes channel, variation (as the naming says), variable; Weight storage)}}

    Sums do not depend on the order of the chunks (:class:`~neyman.events.processing.exact.ExactSum`) and
    categories are sorted: every executor gives the same bits, and memory does not grow with the number of chunks.

    Examples
    --------
    >>> HistProcessor(
    ...     features=FeatureSpec.load("features.toml"),
    ...     scorer=Scorer.load("out/model"),
    ...     axes=(hist.axis.Regular(20, 0, 1, name="nn"),),
    ...     channels={"SR": "n_jets >= 2", "CR": "n_jets < 2"},
    ... )  # doctest: +SKIP
    """

    axes: Sequence[Axes]
    channels: Mapping[str, str | None] = field(default_factory=lambda: {"inclusive": None})
    layout: Literal["pocketcoffea", "columnflow", "topcoffea", "agc"] | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ConfigError(f"unknown layout {self.layout!r}", expected=", ".join(LAYOUTS))
        if self.naming is None and self.layout is not None:
            object.__setattr__(self, "naming", self.layout)
        super().__post_init__()
        if not self.axes or not self.channels:
            raise ConfigError("no histogram to fill", expected="at least one axis and one channel")
        groups = tuple(group if isinstance(group, tuple) else (group,) for group in self.axes)
        object.__setattr__(self, "axes", groups)
        taken = ("channel", self.style.axis)
        for axis in (axis for group in groups for axis in group):
            if not getattr(axis, "name", "") or axis.name in taken:
                raise ConfigError(
                    f"an axis is named {getattr(axis, 'name', None)!r}",
                    expected=f"the name of a column, and not {' or '.join(taken)}",
                )
        names = list(map(_variable, groups))
        if len(set(names)) < len(names):
            raise ConfigError("two histograms have the same variables", where=", ".join(names))
        for channel, text in self.channels.items():
            check_name("channel", channel)
            if text is not None:
                expression.names(text)

    def __call__(self, events: Any) -> dict[str, Any]:
        """Process one chunk; called by coffea.

        Raises
        ------
        InputError
            A value, weight or score that goes into a histogram is missing or not finite (names event, variation
            and file), or a correction is not defined for an event.
        ConfigError
            A column, an expression or a function is not as described.
        """
        chunk = Chunk(events)
        hists = {
            _variable(group): systematic_hist(*group, naming=self.style, categories=("channel",))
            for group in self.axes
        }
        cutflow: dict[str, Any] = {}
        for i, varied in enumerate(self.varied(chunk, select="each").values()):
            self._fill(hists, varied, chunk, cutflow if i == 0 else {})
        result = {
            "process": {self.process_of(chunk)},
            "n_events": chunk.size,
            "sumw": ExactSum(chunk.weight.sum()),
            "cutflow": cutflow,
            "hists": {name: ExactSum(h) for name, h in hists.items()},
        }
        return {chunk.dataset: result}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Round the sums and put them into the layout; called by coffea.

        Raises
        ------
        ConfigError
            The metadata of one dataset name several processes.
        """
        result = {}
        for dataset, summed in sorted(accumulator.items()):
            if len(summed["process"]) > 1:
                raise ConfigError(f"dataset {dataset!r} has processes {', '.join(sorted(summed['process']))}")
            result[dataset] = totals(summed) | {"process": next(iter(summed["process"]))}
        return result if self.layout is None else arranged(result, self.layout, naming=self.style)

    def _fill(
        self, hists: Mapping[str, hist.Hist[Any]], varied: Varied, chunk: Chunk, cutflow: dict[str, Any]
    ) -> None:
        cutflow["selection"] = _count(next(iter(varied.weights.values())))
        for channel, text in self.channels.items():
            mask = selected(text, varied.columns, len(varied.index))
            events = chunk.start + varied.index[mask]
            weights = {name: weight[mask] for name, weight in varied.weights.items()}
            cutflow[channel] = _count(next(iter(weights.values())))
            where = f"channel {channel} of {chunk.where}"
            for h in hists.values():
                values: dict[str, Any] = {
                    axis.name: _column(varied.columns, axis.name)[mask] for axis in h.axes[2:]
                }
                values["channel"] = channel
                for name, weight in weights.items():
                    fill_variation(h, values, weight, (self.style.axis, name), where, events)


def _column(columns: Columns, name: str) -> Any:
    if name not in columns:
        raise ConfigError(
            f"there is no feature or score {name!r} for an axis", expected=nearest(name, columns)
        )
    return columns[name]


def _variable(group: tuple[Any, ...]) -> str:
    return "-".join(axis.name for axis in group)


def _count(weight: Any) -> dict[str, Any]:
    return {"n": len(weight), "sumw": ExactSum(weight.sum())}

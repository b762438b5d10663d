"""The output of :class:`HistProcessor` in the shape that the processors of public frameworks return.

Code that reads a framework's output (plots, fits, and neyman's own reader of accumulators) then reads ours.

============  ==========================================================================================
pocketcoffea  ``{"variables": {variable: {process: {dataset: Hist(cat, variation, variable)}}},
              "sumw": {cat: {dataset: {process: x}}}, "cutflow": {"initial": {dataset: n},
              cat: {dataset: {process: n}}}, "sum_genweights": {dataset: x}}``
columnflow    ``{variable: Hist(category, process, shift, variable)}``
topcoffea     ``{variable: Hist(process, channel, systematic, variable)}``
agc           ``{"nevents": {dataset: n}, "hist": Hist(observable, region, process, variation)}``;
              ``"hist_<variable>"`` for each, where there are several
============  ==========================================================================================

All histograms have Weight storage and growing ``StrCategory`` axes in alphabetical order; columnflow's own carry
integer ids on the category and process axes until its plots translate them to names. A framework's sample is our
process, its category or region our channel. What we return has no ``appl`` axis of topcoffea, and data have a
variation axis with the nominal.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import hist
import numpy as np

from neyman.errors import ConfigError, nearest
from neyman.events.processing.exact import sorted_categories
from neyman.events.processing.systematics import category
from neyman.naming import Naming

# Names of the axes in their order; "systematic" and "variable" stand for the names that vary.
_ORDER = {
    "columnflow": {
        "category": "channel",
        "process": "process",
        "systematic": "systematic",
        "variable": "variable",
    },
    "topcoffea": {
        "process": "process",
        "channel": "channel",
        "systematic": "systematic",
        "variable": "variable",
    },
    "agc": {"observable": "variable", "region": "channel", "process": "process", "systematic": "systematic"},
}
LAYOUTS = ("pocketcoffea", *_ORDER)


def arranged(output: Mapping[str, Any], layout: str, *, naming: Naming | str | None = None) -> dict[str, Any]:
    """Return the output of a :class:`HistProcessor` in a framework's shape and naming.

    Parameters
    ----------
    output
        Of a :class:`HistProcessor` without layout, by dataset.
    layout
        ``"pocketcoffea"``, ``"columnflow"``, ``"topcoffea"`` or ``"agc"``; see the module.
    naming
        Style in which the output was filled.

    Raises
    ------
    ConfigError
        No such layout, or one of several variables in one histogram is asked of ``"agc"``.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}", expected=nearest(layout, LAYOUTS, n=4))
    before, after = Naming.of(naming), Naming.of(layout)
    variables = dict.fromkeys(name for of in output.values() for name in of["hists"])
    if layout == "pocketcoffea":
        return _pocketcoffea(output, list(variables), before, after)
    found = {}
    for variable in variables:
        by_process: dict[str, hist.Hist[Any]] = {}
        for of in (output[dataset] for dataset in sorted(output)):
            h, process = of["hists"][variable], of["process"]
            by_process[process] = by_process[process] + h if process in by_process else h
        key = variable if layout != "agc" else "hist" if len(variables) == 1 else f"hist_{variable}"
        found[key] = _stacked(by_process, layout, before, after)
    if layout == "agc":
        return {"nevents": {dataset: output[dataset]["n_events"] for dataset in sorted(output)}, **found}
    return found


def _stacked(
    by_process: Mapping[str, hist.Hist[Any]], layout: str, before: Naming, after: Naming
) -> hist.Hist[Any]:
    first = next(iter(by_process.values()))
    if layout == "agc" and len(first.axes) > 3:
        raise ConfigError(
            "the layout of the AGC has one observable a histogram",
            where=", ".join(axis.name for axis in first.axes[2:]),
        )
    processes = sorted(by_process)
    names = {process: _category_names(h, before, after) for process, h in by_process.items()}
    channels, systematics = (sorted({c for both in names.values() for c in both[i]}) for i in (0, 1))
    variables = list(first.axes[2:])
    shape = (len(processes), len(channels), len(systematics), *(axis.extent for axis in variables))
    full = np.zeros(shape, dtype=first.view(flow=True).dtype)
    for i, (process, (own_channels, own_systematics)) in enumerate(sorted(names.items())):
        places = np.ix_(
            list(map(channels.index, own_channels)), list(map(systematics.index, own_systematics))
        )
        full[i][places] = by_process[process].view(flow=True)
    categories = {"process": processes, "channel": channels, "systematic": systematics}
    axes: list[Any] = []
    order: list[int] = []
    for name, role in _ORDER[layout].items():
        if role in categories:
            axes.append(_growing(after.axis if role == "systematic" else name, categories[role]))
            order.append(list(categories).index(role))
        else:
            axes += variables if name == role else [_renamed(variables[0], name)]
            order += range(3, full.ndim)
    result = hist.Hist(*axes, storage=hist.storage.Weight())
    result.view(flow=True)[...] = full.transpose(order)
    return result


def _pocketcoffea(
    output: Mapping[str, Any], variables: list[str], before: Naming, after: Naming
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "variables": {variable: {} for variable in variables},
        "sumw": {},
        "cutflow": {"initial": {}},
        "sum_genweights": {},
    }
    for dataset in sorted(output):
        of, process = output[dataset], output[dataset]["process"]
        result["cutflow"]["initial"][dataset] = of["n_events"]
        result["sum_genweights"][dataset] = of["sumw"]
        for channel, counts in of["cutflow"].items():
            result["cutflow"].setdefault(channel, {})[dataset] = {process: counts["n"]}
            result["sumw"].setdefault(channel, {})[dataset] = {process: counts["sumw"]}
        for variable, h in of["hists"].items():
            channels, systematics = _category_names(h, before, after)
            axes = (_growing("cat", channels), _growing(after.axis, systematics), *h.axes[2:])
            renamed = hist.Hist(*axes, storage=hist.storage.Weight())
            renamed.view(flow=True)[...] = h.view(flow=True)
            result["variables"][variable].setdefault(process, {})[dataset] = sorted_categories(renamed)
    return result


def _category_names(h: hist.Hist[Any], before: Naming, after: Naming) -> tuple[list[str], list[str]]:
    """Channels and variations of a histogram, the latter in the new naming."""
    renamed = [category(name, after) if before != after else name for name in h.axes[1]]
    return list(h.axes[0]), renamed


def _growing(name: str, categories: list[str]) -> Any:
    return hist.axis.StrCategory(categories, name=name, growth=True)


def _renamed(axis: Any, name: str) -> Any:
    renamed = deepcopy(axis)
    renamed.__dict__["name"] = name
    return renamed

"""`from_accumulator`: the output of a coffea processor becomes `Templates`, by the framework that made it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from neyman.errors import ConfigError, WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.templates import Groups, Part, Templates, along, gather, rows, selected
from neyman.workspace.uhi import Dense, dense, reduced


@dataclass(frozen=True)
class _Layout:
    """How a framework nests its histograms and names their axes.

    Parameters
    ----------
    process, channel
        Names of the axes; without a process axis, the keys under the variable are the processes.
    nested
        Whether datasets of a process are keys under it.
    under
        Key above the variables, where there is one.
    regions
        Keys of a dictionary of histograms by region, without variables.
    """

    process: str | None
    channel: str
    nested: bool = False
    under: str | None = None
    regions: tuple[str, ...] = ()


_LAYOUTS = {
    "pocketcoffea": _Layout(None, "cat", nested=True, under="variables"),
    "topcoffea": _Layout("process", "channel"),
    "columnflow": _Layout("process", "category"),
    "agc": _Layout("process", "region", regions=("hist_dict", "hists")),
    "datasets": _Layout(None, "channel"),
}
Convention = Literal["pocketcoffea", "topcoffea", "columnflow", "agc", "datasets"]


def from_accumulator(
    output: Mapping[str, Any],
    convention: Convention,
    *,
    variable: str,
    samples: Groups | None = None,
    channels: Groups | None = None,
    data: str | Sequence[str] = (),
    select: Mapping[str, Any] | None = None,
    scale: Mapping[str, float] | None = None,
    labels: Mapping[str, Mapping[int | str, str]] | None = None,
    naming: Naming | str | None = None,
) -> Templates:
    """Gather the histograms of one variable from the output of a coffea processor.

    ``pocketcoffea``
        ``{"variables": {variable: {sample: {dataset: Hist(cat, variation, x)}}}}``; data have no `variation`.
    ``topcoffea``
        ``{variable: Hist(process, channel, systematic, x)}``, with the variances under ``variable + "_sumw2"`` where it
        is there. Of a ``HistEFT``, give its ``as_hist({})``.
    ``columnflow``
        ``{variable: Hist(category, process, shift, x)}``; before it names its integer categories, `labels` does.
    ``agc``
        ``{"hist_dict": {region: Hist(x, process, variation)}}``, with `variable` the name of the numeric axis, or
        ``{"hist": Hist(x, region, process, variation)}``, also under the name of the variable or
        ``"hist_<variable>"``.
    ``datasets``
        ``{dataset: {"process": name, "hists": {variable: Hist(channel, variation, x)}}}``, as the ``HistProcessor`` of
        `neyman.events.processing` returns, or ``{dataset: {variable: Hist(channel, variation, x)}}``.

    Channel axes may be missing; then there is one channel, named as the variable. A variation whose bins are all empty
    for a process that has events is left out, as nothing was filled; in a sum, a process that lacks a variation enters
    it with its nominal histogram. Both are noted, as coffea's own sum would take nothing for the latter.

    Parameters
    ----------
    output
        The accumulator.
    convention
        The framework.
    variable
        Name of the variable.
    samples
        Samples of these processes or datasets; by default each process is one, without those of `data`. Names match
        with ``*``.
    channels
        Channels of these categories; by default each category is one.
    data
        Processes that are data.
    select
        The category of each further axis, such as ``{"appl": "isSR_2lSS"}``.
    scale
        Factors by process or dataset, see `normalisation`.
    labels
        Other names of categories by axis, such as ``{"shift": {0: "nominal"}}`` for integers or
        ``{"variation": {"ME_var": "ME_up"}}`` for variations without the suffixes of the framework.
    naming
        Names on the systematic axis, where they are not those of the framework.

    Raises
    ------
    ConfigError
        When the convention is not known.
    WorkspaceError
        When the variable, an axis or a process is missing.
    """
    if convention not in _LAYOUTS:
        raise ConfigError(
            f"no accumulator layout is known as {convention!r}",
            expected=", ".join(_LAYOUTS),
            fix=f"nearest: {nearest(str(convention), _LAYOUTS, n=1)}",
        )
    layout = _LAYOUTS[convention]
    own = None if convention == "datasets" else convention
    naming = Naming.of(own if naming is None else naming)
    parts = []
    axes: dict[str, None] = {}
    for process, dataset, region, histogram in _found(output, layout, variable):
        where = " of ".join(name for name in (variable, dataset or process, region) if name)
        full = dense(histogram, where)
        axes |= dict.fromkeys(full.names)
        if convention == "topcoffea" and (squares := output.get(f"{variable}_sumw2")) is not None:
            full = _with_variances(full, dense(squares, f"{variable}_sumw2"))
        full = selected(_labelled(full, labels or {}, where), select)
        channel = layout.channel if layout.channel in full.names else None
        if layout.process is None:
            columns = {variable: full} if channel is None else along(full, channel)
            cells = [(process, column, one) for column, one in columns.items()]
        else:
            cells = list(rows(full, layout.process, channel, region or variable))
        parts += [Part(row, dataset, column, reduced(one, naming, where)) for row, column, one in cells]
    for axis in labels or {}:
        if axis not in axes:
            raise WorkspaceError(
                f"labels are given for the axis {axis!r}, which no histogram of {variable!r} has",
                fix=f"nearest: {nearest(axis, axes)}",
            )
    return gather(parts, naming, samples, channels, data, scale)


def normalisation(
    cross_sections: Mapping[str, float], sums_of_weights: Mapping[str, float], luminosity: float
) -> dict[str, float]:
    """Return the factor of each dataset that makes its sum of weights the expected number of events.

    Parameters
    ----------
    cross_sections
        By dataset, branching fractions and K factors included, in pb.
    sums_of_weights
        Of all generated events, before any selection.
    luminosity
        In inverse pb.

    Raises
    ------
    WorkspaceError
        When a dataset has no sum of weights, or a number is not positive.

    Examples
    --------
    >>> normalisation({"tt": 800.0}, {"tt": 4.0e6}, 1000.0)
    {'tt': 0.2}
    """
    if missing := sorted(set(cross_sections) - set(sums_of_weights)):
        raise WorkspaceError(
            f"dataset {missing[0]!r} has a cross section and no sum of weights",
            fix=f"nearest: {nearest(missing[0], sums_of_weights)}",
        )
    for name, cross_section in cross_sections.items():
        for what, number in (("cross section", cross_section), ("sum of weights", sums_of_weights[name])):
            if not 0.0 < number < math.inf:
                raise WorkspaceError(f"the {what} of {name!r} is {number}", expected="a positive number")
    return {name: x * luminosity / sums_of_weights[name] for name, x in cross_sections.items()}


def _found(output: Mapping[str, Any], layout: _Layout, variable: str) -> Iterator[tuple[str, str, str, Any]]:
    """Yield process, dataset, channel (empty where an axis or nothing says them) and histogram."""
    if layout.process is None and not layout.nested:  # datasets first, then variables
        for dataset, entry in output.items():
            where = f"dataset {dataset!r}"
            inner = entry.get("hists", entry) if isinstance(entry, Mapping) else entry
            one = _item(inner, variable, where)
            yield str(entry.get("process", dataset)), dataset, "", one
        return
    top = output.get(layout.under, output) if layout.under else output
    if regions := next((output[key] for key in layout.regions if key in output), None):
        for region, one in regions.items():
            if variable not in _axis_names(one):
                raise WorkspaceError(
                    f"the histogram of {region!r} has no axis {variable!r}",
                    fix=f"nearest: {nearest(variable, _axis_names(one))}",
                )
            yield "", "", region, one
        return
    if layout.regions:
        names = (variable, f"hist_{variable}", "hist")
        variable = next((name for name in names if name in top), variable)
    found = _item(top, variable, "the output")
    if not layout.nested:
        yield "", "", "", found
        return
    for process, datasets in found.items():
        for dataset, one in datasets.items():
            yield process, dataset, "", one


def _item(mapping: Any, name: str, where: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise WorkspaceError(f"{where} is a {type(mapping).__name__}", expected="a dictionary with variables")
    if name not in mapping:
        raise WorkspaceError(f"{where} has no variable {name!r}", fix=f"nearest: {nearest(name, mapping)}")
    return mapping[name]


def _axis_names(histogram: Any) -> list[str]:
    return [str(getattr(axis, "name", "")) for axis in getattr(histogram, "axes", ())]


def _with_variances(full: Dense, squares: Dense) -> Dense:
    """Return a histogram with the contents of another one, of the same axes but for the variable's name, as variances.

    Raises
    ------
    WorkspaceError
        When the axes differ.
    """
    if full.categories != squares.categories or full.values.shape != squares.values.shape:
        raise WorkspaceError(
            "the histograms of the weights and of their squares have different axes",
            where=f"axes {', '.join(squares.names)} of the squares",
            expected=f"the categories and bins of axes {', '.join(full.names)}",
        )
    return replace(full, variances=squares.values)


def _labelled(full: Dense, labels: Mapping[str, Mapping[int | str, str]], where: str) -> Dense:
    """Return a histogram with other names for its categories."""
    categories = list(full.categories)
    for axis, names in labels.items():
        if axis not in full.names:  # as data, which may have no variations
            continue
        i = full.names.index(axis)
        text = {str(old): name for old, name in names.items()}
        categories[i] = tuple(text.get(category, category) for category in categories[i] or ())
        if len(set(categories[i] or ())) < len(categories[i] or ()):
            raise WorkspaceError(f"two categories of {axis!r} have the same label", where=where)
    return replace(full, categories=tuple(categories))

"""Histograms of any library as arrays: hist, boost-histogram, uproot, numpy pairs, everything that follows UHI.

* `dense` reads a histogram with any axes, `binned` one with a numeric axis and at most the systematic axis.
* `Flow` says what happens to the events beyond the outer edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import hist
import numpy as np
from numpy.typing import NDArray
from uhi.numpy_plottable import ensure_plottable_histogram

from neyman.errors import WorkspaceError
from neyman.naming import Naming

Array = NDArray[np.float64]
Flow = Literal["ignore", "merge"]
Histogram: TypeAlias = Any
"""A ``PlottableHistogram`` of the UHI protocol, a PyROOT histogram, or a pair of numpy counts and edges."""
_SAME = 1e-6  # of the smallest bin: edges nearer than this are equal


@dataclass(frozen=True, eq=False)
class Dense:
    """A histogram with any axes.

    Parameters
    ----------
    names
        Of the axes; empty where an axis has none.
    categories
        Of each axis, as text; None for a numeric axis.
    edges
        Of each axis; those of category axes are the integers.
    values
        Contents; numeric axes have a bin below and one above the edges, category axes have none.
    variances
        Of the contents, in the same shape; None where the histogram does not know them.
    """

    names: tuple[str, ...]
    categories: tuple[tuple[str, ...] | None, ...]
    edges: tuple[Array, ...]
    values: Array
    variances: Array | None


@dataclass(frozen=True, eq=False)
class Binned:
    """A nominal histogram and its variations, with a bin below and one above the edges.

    Parameters
    ----------
    edges
        Shape ``(n_bins + 1,)``.
    values, variances
        By category, shape ``(n_bins + 2,)``; None for variances that are not known.
    """

    edges: Array
    values: Mapping[str, Array]
    variances: Mapping[str, Array | None]

    def inside(self, category: str, flow: Flow) -> tuple[Array, Array | None]:
        """Return contents and variances of the bins between the edges, shape ``(n_bins,)``."""
        variances = self.variances[category]
        return _inside(self.values[category], flow), None if variances is None else _inside(variances, flow)

    def main(self, naming: Naming, where: str) -> str:
        """Return the nominal category, or the only one.

        Raises
        ------
        WorkspaceError
            When there are several and none is the nominal one.
        """
        if naming.nominal not in self.values and len(self.values) != 1:
            raise WorkspaceError(
                f"there is no category {naming.nominal!r} among {', '.join(self.values) or 'no categories'}",
                where=where,
            )
        return naming.nominal if naming.nominal in self.values else next(iter(self.values))

    def scaled(self, factor: float) -> Binned:
        """Return the histogram times a factor."""
        return Binned(
            self.edges,
            {name: factor * v for name, v in self.values.items()},
            {name: None if v is None else factor**2 * v for name, v in self.variances.items()},
        )

    def to_hist(self, naming: Naming) -> hist.Hist[Any]:
        """Return the histogram with the systematic axis, in Weight storage, or in Double without any variances."""
        axes = (
            hist.axis.StrCategory(list(self.values), name=naming.axis),
            hist.axis.Variable(self.edges.tolist(), name="x"),
        )
        known = [v for v in self.variances.values() if v is not None]
        if len(known) < len(self.values):
            plain: hist.Hist[Any] = hist.Hist(*axes, storage=hist.storage.Double())
            plain.fill([], [], weight=[])  # after weights, this storage knows no variances
            plain.view(flow=True)[:-1] = list(self.values.values())
            return plain
        made: hist.Hist[Any] = hist.Hist(*axes, storage=hist.storage.Weight())
        view: Any = made.view(flow=True)
        view["value"][:-1], view["variance"][:-1] = list(self.values.values()), known
        return made


def _inside(values: Array, flow: Flow) -> Array:
    inner = values[1:-1]
    if flow == "ignore":
        return inner
    inner = inner.copy()
    inner[0] += values[0]
    inner[-1] += values[-1]
    return inner


def same_edges(one: Array, other: Array) -> bool:
    """Return whether two binnings are equal within rounding."""
    return len(one) == len(other) and bool(np.abs(one - other).max() <= _SAME * np.diff(one).min())


def dense(histogram: Histogram, where: str) -> Dense:
    """Read a histogram with any axes.

    Raises
    ------
    WorkspaceError
        When it is no histogram of counts, or events of categories that are not listed are in it.
    """
    try:
        h = ensure_plottable_histogram(histogram)
    except TypeError as error:
        raise WorkspaceError(
            f"{type(histogram).__name__} is not a histogram",
            where=where,
            expected="hist.Hist, boost_histogram.Histogram, an uproot TH1, a pair of numpy counts and edges, or what "
            "follows the UHI protocol",
        ) from error
    if str(h.kind) == "MEAN":
        raise WorkspaceError(
            "the histogram holds means, not counts", where=where, fix="fill it with Weight storage"
        )
    values, variances = _contents(h)
    names, categories, edges = [], [], []
    for i, axis in enumerate(h.axes):
        labels = _categories(axis)
        name = str(getattr(axis, "name", None) or "")
        values = _with_flow(values, i, axis, labels is not None)
        variances = None if variances is None else _with_flow(variances, i, axis, labels is not None)
        if labels is not None:
            lost = float(np.abs(np.take(values, -1, axis=i)).sum())
            if lost > 0.0:
                raise WorkspaceError(
                    f"{lost:g} events have a category that is not on the axis {name!r}",
                    where=where,
                    expected=f"categories {', '.join(labels)}",
                    fix="give the axis growth=True",
                )
            inner = [slice(None)] * i + [slice(0, -1)]
            values = values[tuple(inner)]
            variances = None if variances is None else variances[tuple(inner)]
        names.append(name)
        categories.append(labels)
        edges.append(_edges(axis) if labels is None else np.arange(len(labels) + 1, dtype=np.float64))
    return Dense(tuple(names), tuple(categories), tuple(edges), values, variances)


def binned(histogram: Histogram, naming: Naming, where: str) -> Binned:
    """Read a histogram with one numeric axis and at most the systematic axis.

    Raises
    ------
    WorkspaceError
        When it has other axes, or as for `dense`.
    """
    return reduced(dense(histogram, where), naming, where)


def reduced(full: Dense, naming: Naming, where: str) -> Binned:
    """Return a histogram with one numeric axis and at most the systematic axis; errors as for `binned`."""
    systematic = full.names.index(naming.axis) if naming.axis in full.names else None
    others = [i for i in range(len(full.names)) if i != systematic]
    if len(others) != 1:
        raise WorkspaceError(
            "a histogram needs one numeric axis and at most the systematic axis",
            where=f"{where}: axes {', '.join(name or '(no name)' for name in full.names)}",
            expected=f"one numeric axis and {naming.axis!r}",
            fix="from_axes splits a histogram by its process and channel axes, and selects a category of others",
        )
    values, variances = full.values, full.variances
    if full.categories[others[0]] is not None:  # categories as bins, such as numbers of jets, have no flow
        widths = [(1, 1) if i == others[0] else (0, 0) for i in range(values.ndim)]
        values = np.pad(values, widths)
        variances = None if variances is None else np.pad(variances, widths)
    labels = [naming.nominal] if systematic is None else list(full.categories[systematic] or ())
    if systematic is None:
        values, variances = values[None], None if variances is None else variances[None]
    elif systematic == 1:
        values, variances = values.T, None if variances is None else variances.T
    return Binned(
        full.edges[others[0]],
        dict(zip(labels, values, strict=True)),
        {name: None if variances is None else variances[i] for i, name in enumerate(labels)},
    )


def _contents(h: Any) -> tuple[Array, Array | None]:
    """Return contents and variances, with flow bins where the library gives them."""
    try:
        values, variances = h.values(flow=True), h.variances(flow=True)
    except TypeError:  # the protocol itself has no flow bins
        values, variances = h.values(), h.variances()
    values = np.asarray(values, dtype=np.float64)
    return values, None if variances is None else np.asarray(variances, dtype=np.float64)


def _categories(axis: Any) -> tuple[str, ...] | None:
    ordered = getattr(axis.traits, "ordered", None)
    if ordered is None:
        # Only boost-histogram says it; a ROOT axis is numeric even where its bins have labels.
        labels = not hasattr(axis, "edges") and len(axis) > 0 and isinstance(axis[0], str)
        return tuple(str(axis[i]) for i in range(len(axis))) if labels else None
    return None if ordered else tuple(str(label) for label in axis)


def _edges(axis: Any) -> Array:
    edges = getattr(axis, "edges", None)
    if edges is None:
        pairs = [axis[i] for i in range(len(axis))]
        edges = [pairs[0][0], *(pair[1] for pair in pairs)]
    return np.asarray(edges() if callable(edges) else edges, dtype=np.float64)


def _with_flow(values: Array, i: int, axis: Any, category: bool) -> Array:
    """Return contents with both flow bins of a numeric axis, or the overflow of a category axis."""
    missing = len(axis) + (1 if category else 2) - values.shape[i]
    if missing == 0:
        return values
    below = 0 if category or (missing == 1 and getattr(axis.traits, "underflow", False)) else 1
    widths = [(0, 0)] * values.ndim
    widths[i] = (below, missing - below)
    return np.pad(values, widths)

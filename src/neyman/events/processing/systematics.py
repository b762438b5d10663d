"""Histograms with all systematic variations, filled inside any processor: :func:`fill_systematics`.

It takes what analyses have: coffea's ``Weights`` with its variations (correctionlib weights come in with
:class:`~neyman.events.processing.corrections.CorrectionWeight`), and the columns of events with shifted objects.
Names of variations may be in any framework's style, ``jesUp`` or ``jes_up``; the categories of the histogram are
in the one asked for.

Histograms of chunks can be summed in any order as they are: the systematic axis grows. Then the order of its
categories, and the last bits of the sums, depend on which chunk came first. To have the same bits from every
executor return ``ExactSum(h)`` and take the total in ``postprocess``; for sorted categories alone,
:func:`~neyman.events.processing.exact.sorted_categories` will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import awkward as ak
import hist
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import ConfigError, InputError, nearest
from neyman.events.columns import as_numbers, check_finite
from neyman.naming import Naming

Values = Mapping[str, Any]
_WHOLE = (hist.axis.Integer, hist.axis.IntCategory, hist.axis.Boolean)
_STYLES = (Naming(), Naming.of("agc"))


class Shifted(NamedTuple):
    """Events with shifted objects: the values that are filled, and their weights.

    Parameters
    ----------
    values
        As in :func:`fill_systematics`, of the events that are selected after the shift.
    weights
        One an event; the nominal weights of the same events if None.
    """

    values: Any
    weights: Any = None


def category(name: str, naming: Naming) -> str:
    """Return the category of a variation that may be named in another style.

    Examples
    --------
    >>> category("jesUp", Naming.of("columnflow")), category("jes_up", Naming.of("topcoffea"))
    ('jes_up', 'jesUp')
    """
    if name in ("nominal", naming.nominal):
        return naming.nominal
    for style in (naming, *_STYLES):
        if found := style.split(name):
            up, down = naming.varied(found[0])
            return up if found[1] == "up" else down
    return name


def systematic_hist(
    *axes: Any, naming: Naming | str | None = None, categories: Iterable[str] = ()
) -> hist.Hist[Any]:
    """Return an empty histogram of Weight storage with a growing systematic axis.

    Parameters
    ----------
    axes
        The axes of the variables.
    naming
        A :class:`~neyman.naming.Naming` or the name of a framework; its ``axis`` names the systematic axis.
    categories
        Names of further growing category axes, which come first: ``("process", "channel")``.
    """
    names = [*categories, Naming.of(naming).axis]
    growing = [hist.axis.StrCategory([], name=name, growth=True) for name in names]
    return hist.Hist(*growing, *axes, storage=hist.storage.Weight())


def fill_systematics(
    h: hist.Hist[Any],
    values: Values | ArrayLike | ak.Array,
    weights: Any = None,
    *,
    objects: Mapping[str, Shifted | tuple[Any, ...]] | None = None,
    naming: Naming | str | None = None,
    where: str = "the events given",
) -> None:
    """Fill the nominal and every variation.

    Parameters
    ----------
    h
        Has a growing ``StrCategory`` axis of the naming's name, such as :func:`systematic_hist` makes.
    values
        For each other axis an array with a number per event, or the name of the category that all events go
        to: ``{"observable": mass, "region": "4j2b"}``. A bare array where there is one other axis.
    weights
        coffea's ``Weights``, whose nominal and variations are all filled; or a mapping from ``"nominal"`` and
        variations to arrays; or an array. 1 if None.
    objects
        Events with shifted objects by the variation's name, each a :class:`Shifted` or such a tuple. Of coffea's
        ``Weights`` their nominal counts there.
    naming
        Style of the categories; see :class:`~neyman.naming.Naming`.
    where
        What to call the events in a message: file and entries.

    Raises
    ------
    InputError
        A value or weight is missing, NaN or infinite (names variation and event), or lengths differ. Nothing of
        that variation is filled then.
    ConfigError
        The histogram has no such axis, or a category would be lost because an axis does not grow; a variation
        comes twice.
    """
    style = Naming.of(naming)
    variables = _check_axes(h, style)
    nominal = _named(values, variables)
    varied = {
        name: (nominal, weight) for name, weight in weight_variations(weights, _size(nominal), style).items()
    }
    for name, shifted in (objects or {}).items():
        found = category(name, style)
        if found in varied:
            raise ConfigError(f"variation {found!r} comes twice", where=where, fix="give it one name and way")
        of_shift, own = Shifted(*shifted)
        columns = _named(of_shift, variables)
        all_weights = weight_variations(own if own is not None else weights, _size(columns), style)
        varied[found] = (columns, all_weights[style.nominal])
    for name in sorted(varied):
        columns, weight = varied[name]
        fill_variation(h, columns, weight, (style.axis, name), where)


def weight_variations(weights: Any, size: int | None, naming: Naming) -> dict[str, NDArray[np.float64]]:
    """Return the nominal weights and all variations by category, in alphabetical order.

    Parameters
    ----------
    weights
        As in :func:`fill_systematics`. coffea gives the names of variations as a set without an order.
    size
        Number of events, for weights that are None or one number.
    naming
        Style of the categories.

    Raises
    ------
    ConfigError
        There is no nominal, or two variations are the same category.
    InputError
        Weights are not one number an event.
    """
    if weights is None:
        given: Mapping[str, Any] = {naming.nominal: np.ones(size or 0)}
    elif hasattr(weights, "variations") and hasattr(weights, "weight"):
        given = {naming.nominal: weights.weight()}
        given |= {name: weights.weight(name) for name in sorted(weights.variations)}
    elif isinstance(weights, Mapping):
        given = weights
    else:
        given = {naming.nominal: weights}
    result: dict[str, NDArray[np.float64]] = {}
    for name, array in given.items():
        found = category(name, naming)
        if found in result:
            raise ConfigError(f"two weights are variation {found!r}", where=", ".join(given))
        flat = np.full(size, array) if np.ndim(array) == 0 and size is not None else array
        result[found] = _numbers(flat, f"weight of {found}", "the weights").astype(np.float64)
    if naming.nominal not in result:
        raise ConfigError(
            "the weights have no nominal", where=", ".join(given), expected=f"a key {naming.nominal!r}"
        )
    return dict(sorted(result.items()))


def _check_axes(h: hist.Hist[Any], naming: Naming) -> list[Any]:
    """The axes other than the systematic one."""
    names = [axis.name for axis in h.axes]
    if naming.axis not in names:
        raise ConfigError(
            f"the histogram has no axis {naming.axis!r}",
            expected=f"a growing StrCategory axis of that name; it has {', '.join(names)}",
            fix="make it with systematic_hist, or name the framework with naming=",
        )
    axis = h.axes[naming.axis]
    if not isinstance(axis, hist.axis.StrCategory) or not axis.traits.growth:
        raise ConfigError(
            f"axis {naming.axis!r} does not grow: a variation that is not listed would be lost in the overflow",
            expected=f"hist.axis.StrCategory([], growth=True, name={naming.axis!r})",
        )
    return [axis for axis in h.axes if axis.name != naming.axis]


def _named(values: Values | ArrayLike | ak.Array, axes: list[Any]) -> dict[str, Any]:
    """Values by axis; categories are checked to exist where an axis does not grow."""
    named: dict[str, Any]
    if isinstance(values, Mapping):
        named = dict(values)
    elif len(axes) == 1:
        named = {axes[0].name: values}
    else:
        raise ConfigError(
            "values are one array, and the histogram has several axes",
            expected=f"a dictionary with {', '.join(axis.name for axis in axes)}",
        )
    known = [axis.name for axis in axes]
    for name in [*known, *named]:
        if name not in named or name not in known:
            raise ConfigError(
                f"axis {name!r} gets no values" if name in known else f"the histogram has no axis {name!r}",
                expected=nearest(name, named if name in known else known),
            )
    for axis in axes:
        value = named[axis.name]
        if isinstance(value, str) and not axis.traits.growth and value not in list(axis):
            raise ConfigError(
                f"axis {axis.name!r} has no category {value!r}, and does not grow",
                expected=nearest(value, map(str, axis)),
                fix="make the axis with growth=True",
            )
    return named


def _size(values: Mapping[str, Any]) -> int | None:
    return next((len(value) for value in values.values() if not isinstance(value, str)), None)


def fill_variation(
    h: hist.Hist[Any],
    values: Mapping[str, Any],
    weight: NDArray[np.float64],
    variation: tuple[str, str],
    where: str,
    events: NDArray[np.int64] | None = None,
) -> None:
    """Fill one category of the systematic axis, after all values and weights were checked.

    Parameters
    ----------
    h, values, where
        As in :func:`fill_systematics`.
    weight
        float64, (n_events,).
    variation
        Name of the systematic axis and the category.
    events
        Indices of the events in what `where` names; 0, 1, ... if None.
    """
    axis, name = variation
    place = f"{where}, variation {name}"
    check_finite(weight, "weight", place, events)
    columns: dict[str, Any] = {axis: name}
    for variable, value in values.items():
        if isinstance(value, str):
            columns[variable] = value
            continue
        columns[variable] = numbers = _numbers(value, variable, place)
        if len(numbers) != len(weight):
            raise InputError(
                f"{len(weight)} weights for {len(numbers)} values of {variable}",
                where=place,
                expected="one weight a value",
                fix="apply the same mask to both; give shifted events their own weights",
            )
        check_finite(numbers, variable, place, events)
        if isinstance(h.axes[variable], _WHOLE) and numbers.dtype.kind == "f":
            columns[variable] = whole = numbers.astype(np.int64)
            if (whole != numbers).any():
                raise InputError(
                    f"axis {variable!r} takes whole numbers, got {numbers[whole != numbers][0]}", where=place
                )
    if len(weight):
        h.fill(**columns, weight=weight)
    elif not any(axis.traits.growth for axis in h.axes if not isinstance(columns[axis.name], str)):
        # The category is there also in a chunk without events.
        nothing: dict[str, Any] = {
            k: v if isinstance(v, str) else np.zeros(1, dtype=np.int64) for k, v in columns.items()
        }
        h.fill(**nothing, weight=np.zeros(1))


def _numbers(value: Any, name: str, where: str) -> NDArray[Any]:
    if type(value) is np.ndarray and value.ndim == 1 and value.dtype.kind in "biuf":
        return value
    return as_numbers(value, name, where)

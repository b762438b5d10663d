"""Sums that do not depend on the order of the summands, not even in the last bit.

Executors add up chunks in the order in which they arrive, or in a tree; floating-point sums then differ in their
last bits from run to run. :class:`ExactSum` splits every number into integers of fixed weight, whose sums are
exact, and rounds once at the end (the idea of R. M. Neal, arXiv:1505.05571). Nothing has to be kept by chunk, so
memory stays flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import hist
import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError

Key = tuple[str, ...]
Limbs = dict[int, NDArray[np.int64]]
# With 40 bits a limb, an int64 holds the sum of 2^23 chunks.
_BITS = 40


class ExactSum:
    """A number, an array or a histogram that is summed over chunks.

    Put one into what a processor returns, in the place of the number or histogram, and call :meth:`total` in
    its ``postprocess``. It adds with ``+``, as coffea's ``accumulate`` does.

    Parameters
    ----------
    value
        A finite number or array, or a ``hist.Hist`` of Weight or Double storage. Histograms of one sum may have
        different categories on their growing ``StrCategory`` axes; all other axes must agree.

    Raises
    ------
    InputError
        A number or a bin is NaN or infinite, or the storage is another one; on addition, the axes differ.

    Examples
    --------
    >>> a, b, c = (ExactSum(x) for x in (0.1, 1e16, -1e16))
    >>> (a + b + c).total() == (b + c + a).total() == 0.1
    True
    """

    def __init__(self, value: ArrayLike | hist.Hist[Any]) -> None:
        self.template: hist.Hist[Any] | None = None
        if isinstance(value, hist.Hist):
            self.template = _with_axes(value, [_emptied(axis) for axis in value.axes])
            self.parts = _blocks(value)
        else:
            self.parts = {(): _limbs(np.asarray(value, dtype=np.float64))}

    def __add__(self, other: ExactSum) -> ExactSum:
        result = ExactSum.__new__(ExactSum)
        result.__dict__ |= self.__dict__
        result.parts = {
            key: {exponent: limb.copy() for exponent, limb in limbs.items()}
            for key, limbs in self.parts.items()
        }
        result += other
        return result

    def __iadd__(self, other: ExactSum) -> ExactSum:  # noqa: PYI034
        if not _alike(self.template, other.template):
            raise InputError(
                "histograms with different axes cannot be summed",
                where=f"{_names(self.template)} and {_names(other.template)}",
                expected="the same axes in every chunk; only growing StrCategory axes may differ in categories",
            )
        for key, limbs in other.parts.items():
            mine = self.parts.setdefault(key, {})
            for exponent, limb in limbs.items():
                if exponent in mine:
                    mine[exponent] += limb
                else:
                    mine[exponent] = limb.copy()
        return self

    def total(self) -> Any:
        """Return the sum, correctly rounded: a float, an array, or a histogram with sorted categories.

        Raises
        ------
        InputError
            The sum is larger than the largest float.
        """
        if self.template is not None:
            return self._histogram(self.template)
        shape = next((limb.shape for limb in self.parts[()].values()), ())
        value = _rounded(self.parts[()], shape)
        return value if value.ndim else float(value)

    def _histogram(self, template: hist.Hist[Any]) -> hist.Hist[Any]:
        axes = list(template.axes)
        growing = [i for i, axis in enumerate(axes) if _grows(axis)]
        categories = [sorted({key[n] for key in self.parts}) for n in range(len(growing))]
        filled = list(axes)
        for i, names in zip(growing, categories, strict=True):
            filled[i] = _with_categories(axes[i], names)
        result = _with_axes(template, filled)
        view = result.view(flow=True)
        for key, limbs in self.parts.items():
            where: list[Any] = [slice(None)] * len(axes)
            for i, names, name in zip(growing, categories, key, strict=True):
                where[i] = names.index(name)
            place = view[tuple(where)]
            block = _rounded(limbs, (*place.shape, 2) if place.dtype.names else place.shape)
            if place.dtype.names:
                place["value"], place["variance"] = block[..., 0], block[..., 1]
            else:
                place[...] = block
        return result


def sorted_categories(h: hist.Hist[Any]) -> hist.Hist[Any]:
    """Return the histogram with the categories of its growing ``StrCategory`` axes in alphabetical order.

    A growing axis has its categories in the order of their first filling, which depends on the chunk that came
    first. Contents are copied bit by bit.
    """
    order = [
        sorted(range(axis.size), key=list(axis).__getitem__) if _grows(axis) else range(axis.extent)
        for axis in h.axes
    ]
    axes = [_with_categories(axis, sorted(axis)) if _grows(axis) else axis for axis in h.axes]
    result = _with_axes(h, axes)
    result.view(flow=True)[...] = h.view(flow=True)[np.ix_(*order)]
    return result


def totals(accumulator: Any) -> Any:
    """Return nested dictionaries with every :class:`ExactSum` in them replaced by its total."""
    if isinstance(accumulator, ExactSum):
        return accumulator.total()
    if isinstance(accumulator, Mapping):
        return {key: totals(value) for key, value in accumulator.items()}
    return accumulator


def _grows(axis: Any) -> bool:
    return isinstance(axis, hist.axis.StrCategory) and axis.traits.growth


def _with_categories(axis: Any, names: list[str]) -> Any:
    made = hist.axis.StrCategory(names, growth=True)
    made.__dict__ |= axis.__dict__
    return made


def _emptied(axis: Any) -> Any:
    return _with_categories(axis, []) if _grows(axis) else axis


def _with_axes(h: hist.Hist[Any], axes: list[Any]) -> hist.Hist[Any]:
    return hist.Hist(*axes, storage=h.storage_type(), name=h.name, label=h.label)


def _alike(one: hist.Hist[Any] | None, other: hist.Hist[Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return list(one.axes) == list(other.axes) and one.storage_type is other.storage_type


def _names(template: hist.Hist[Any] | None) -> str:
    return "a number" if template is None else ", ".join(str(axis.name) for axis in template.axes)


def _blocks(h: hist.Hist[Any]) -> dict[Key, Limbs]:
    """Contents by the categories of the growing axes; a last dimension holds value and variance."""
    view: Any = h.view(flow=True)
    if view.dtype.names == ("value", "variance"):
        numbers = np.stack([view["value"], view["variance"]], axis=-1)
    elif view.dtype.names is None:
        numbers = np.asarray(view, dtype=np.float64)
    else:
        raise InputError(
            f"a histogram of {h.storage_type.__name__} storage cannot be summed exactly",
            expected="Weight or Double storage",
        )
    growing = [i for i, axis in enumerate(h.axes) if _grows(axis)]
    # Split before it is cut into blocks: numpy is called a few times, not for each category.
    limbs = {e: np.moveaxis(limb, growing, range(len(growing))) for e, limb in _limbs(numbers).items()}
    lowest = min(limbs)
    blocks = {}
    for place in product(*(enumerate(h.axes[i]) for i in growing)):
        block = {e: limb[tuple(index for index, _ in place)] for e, limb in limbs.items()}
        kept = {e: limb for e, limb in block.items() if limb.any()}
        blocks[tuple(name for _, name in place)] = kept or {lowest: block[lowest]}
    return blocks


def _limbs(values: NDArray[np.float64]) -> Limbs:
    """Integers `n_e`, at most 40 bits each, with ``values = sum_e n_e 2^(40 e)`` exactly."""
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} numbers to be summed are not finite",
            fix="check weights and values before they are filled",
        )
    rest = values.astype(np.float64)
    limbs: Limbs = {}
    while (largest := np.abs(rest).max(initial=0.0)) > 0.0:
        exponent = (int(np.frexp(largest)[1]) - 1) // _BITS
        limb = np.trunc(np.ldexp(rest, -_BITS * exponent))
        rest -= np.ldexp(limb, _BITS * exponent)  # exact: limb is the leading part of rest
        limbs[exponent] = limb.astype(np.int64)
    return limbs or {0: np.zeros(values.shape, dtype=np.int64)}


def _rounded(limbs: Limbs, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The sum of the limbs, rounded once."""
    lowest = min(limbs, default=0)
    exact = np.zeros(shape, dtype=object)
    for exponent, limb in limbs.items():
        exact = exact + limb.astype(object) * (1 << _BITS * (exponent - lowest))
    scale = _BITS * lowest
    try:
        # Division of Python integers rounds correctly, also where numerator and denominator are no floats.
        exact = exact / (1 << -scale) if scale < 0 else exact * (1 << scale)
        return np.asarray(exact, dtype=np.float64)
    except OverflowError as error:
        raise InputError(
            "a sum is larger than a float can be", expected=f"at most {np.finfo(np.float64).max:.2g}"
        ) from error

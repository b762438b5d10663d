"""Numbers as words for the report: rounding to the error, signs, relative changes, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def rounded(value: float | None, error: float | None) -> str:
    """Two significant digits of the error; four of the value where there is none."""
    if value is None:
        return "–"
    if not error or not np.isfinite(error):
        return f"{value:.4g}".replace("-", "−")
    digits = int(np.clip(1 - np.floor(np.log10(abs(error))), 0, 12))
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Four decimals with a sign."""
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def count(n: int) -> str:
    """A whole number with separators."""
    return f"{n:,}"


def change(value: float, base: float) -> str:
    """Relative change in percent."""
    if not base:
        return "–"
    percent = round(100.0 * (value / base - 1.0), 1)
    return f"{percent:+.1f}%".replace("-", "−") if percent else "0.0%"


def minos(ends: Sequence[float | None]) -> str:
    """Upper and lower distance of an interval given as (lower, upper)."""
    return " ".join(signed(end) for end in reversed(ends))


def interval(fit: Mapping[str, Any], name: str) -> str:
    """Value with its MINOS interval, or with its HESSE error where MINOS found none."""
    value, found = fit["values"][name], fit["minos"].get(name)
    error = fit["errors"][name]
    if found is None or found["lower"] is None or found["upper"] is None:
        return f"{rounded(value, error)} ± {rounded(error, error)}"
    scale = min(abs(found["lower"]), found["upper"])
    low, high = (rounded(abs(found[side]), scale) for side in ("lower", "upper"))
    return f"{rounded(value, scale)} +{high} −{low}"


def spread(fit: Mapping[str, Any], name: str) -> str:
    """Uncertainty alone: MINOS, or HESSE where MINOS found none."""
    found, error = fit["minos"].get(name), fit["errors"][name]
    if found is None or found["lower"] is None or found["upper"] is None:
        return f"± {rounded(error, error)}"
    return f"+{rounded(found['upper'], error)} −{rounded(abs(found['lower']), error)}"

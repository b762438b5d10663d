"""What a processing writes: the variations of the events and the regions they are selected into.

:class:`Variation` and :class:`RegionSpec` are plain configuration; :class:`Shifts` is what the user's function
sees of a variation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError
from neyman.events.draws import uniform

RESERVED = ("entry", "entry_index", "weight")


@dataclass(frozen=True)
class Variation:
    """One way to process every event.

    Parameters
    ----------
    name
        Such as ``"nominal"`` or ``"tes_up"``; becomes a folder and a histogram category.
    shifts
        Values of shifts in natural units: ``{"tes": 1.02}``. A shift left out is nominal.
    sampled
        Shifts drawn uniformly for each event, ``{"tes": (0.9, 1.1)}``; the drawn value becomes a column of
        that name. Used to train a network conditioned on a nuisance parameter.
    replicas
        How often a sampled variation repeats each event, every time with new values and the full weight:
        the sum of weights grows as the number of events.
    """

    name: str
    shifts: Mapping[str, float] = field(default_factory=dict)
    sampled: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    replicas: int = 1

    def __post_init__(self) -> None:
        check_name("variation", self.name)
        for shift, value in self.shifts.items():
            if not math.isfinite(value):
                raise ConfigError(f"variation {self.name!r} sets {shift} to {value}", expected="a number")
        for shift, (low, high) in self.sampled.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"variation {self.name!r} samples {shift} from {low} to {high}", expected="low < high"
                )
            if shift in self.shifts or shift in RESERVED:
                raise ConfigError(f"variation {self.name!r} cannot sample {shift!r}: the name is taken")
        if self.replicas < 1 or (self.replicas > 1 and not self.sampled):
            raise ConfigError(
                f"variation {self.name!r} has replicas = {self.replicas}",
                expected="1, or more where a shift is sampled",
            )


@dataclass(frozen=True)
class RegionSpec:
    """What to keep of a region.

    Parameters
    ----------
    columns
        Columns written to Parquet; none are written if None.
    histogram
        A column and its bin edges: filled for every variation that is not sampled, with under- and overflow.
    variations
        Names of the variations to keep; all if None.
    """

    columns: tuple[str, ...] | None = None
    histogram: tuple[str, tuple[float, ...]] | None = None
    variations: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.columns and self.histogram is None:
            raise ConfigError("a region keeps nothing", expected="columns, a histogram, or both")
        columns = self.columns or ()
        taken = [name for name in columns if name in RESERVED or columns.count(name) > 1]
        if taken:
            raise ConfigError(
                f"column {taken[0]!r} cannot be chosen: it is always written, or named twice",
                where=", ".join(columns),
            )
        if self.histogram is not None:
            column, edges = self.histogram
            if len(edges) < 2 or not np.isfinite(edges).all() or any(a >= b for a, b in pairwise(edges)):
                raise ConfigError(
                    f"bin edges of {column} are {tuple(edges)}", expected="at least 2 increasing numbers"
                )

    def writes(self, variation: Variation) -> bool:
        """Whether columns of this variation are written."""
        return bool(self.columns) and self._keeps(variation)

    def fills(self, variation: Variation) -> bool:
        """Whether the histogram gets this variation."""
        return self.histogram is not None and not variation.sampled and self._keeps(variation)

    def _keeps(self, variation: Variation) -> bool:
        return self.variations is None or variation.name in self.variations


class Shifts(Mapping[str, Any]):
    """The shifts of one variation for one chunk: floats, or an array with a value per event.

    It remembers which shifts were asked for, so that a misspelt one cannot pass for the nominal.
    """

    def __init__(self, variation: Variation, ids: NDArray[np.int64], seed: int, replica: int) -> None:
        self.sampled = {
            name: _draw(uniform(("shift", seed, name, replica), ids), low, high)
            for name, (low, high) in variation.sampled.items()
        }
        self._variation = variation
        self._values: dict[str, Any] = {**variation.shifts, **self.sampled}
        self._asked: dict[str, None] = {}

    def __getitem__(self, name: str) -> Any:
        self._asked[name] = None
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        self._asked |= dict.fromkeys(self._values)
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def check_used(self, where: str) -> None:
        """Raise a :class:`ConfigError` if a shift was never read."""
        for name in self._values:
            if name not in self._asked:
                raise ConfigError(
                    f"variation {self._variation.name!r} shifts {name!r}, which the function never reads",
                    where=where,
                    expected=f"one that it reads: {', '.join(self._asked)}",
                )


def _draw(u: NDArray[np.float64], low: float, high: float) -> NDArray[np.float32]:
    # Rounded before use, so that the column that is written is exactly what the event was shifted by.
    return (low + (high - low) * u).astype(np.float32)


def check_name(kind: str, name: str) -> None:
    """Raise a :class:`ConfigError` unless `name` is fit to be a folder."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        raise ConfigError(
            f"{kind} name {name!r} is not usable", expected="letters, digits, underscore, dot, plus or minus"
        )

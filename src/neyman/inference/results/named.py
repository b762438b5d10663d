"""Vectors and matrices over parameters, and the base of all records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InferenceError, nearest
from neyman.files import jsonable

Array = NDArray[np.float64]


class Record:
    """A frozen dataclass whose fields can be written as JSON."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-safe: None for what is missing or not finite."""
        return {name: jsonable(getattr(self, name)) for name in self.__dataclass_fields__}


def position(names: Sequence[str], key: str | int) -> int:
    """Return the position of a parameter given by name or index.

    Raises
    ------
    InferenceError
        When there is no such parameter.
    """
    if isinstance(key, str):
        if key in names:
            return names.index(key)
        raise InferenceError(f"there is no parameter {key!r}", fix=f"nearest names: {nearest(key, names)}")
    if not -len(names) <= key < len(names):
        raise InferenceError(f"parameter index {key} is out of range for {len(names)} parameters")
    return int(key) % len(names)


def _frozen(array: Any) -> Array:
    own = np.array(array, dtype=np.float64)
    own.flags.writeable = False
    return own


class NamedVector(Mapping[str, float]):
    """One number a parameter: ``v["mu"]``, ``v[0]``, ``np.asarray(v)``, and a mapping over the names."""

    __slots__ = ("array", "names")

    def __init__(self, names: Sequence[str], array: Any) -> None:
        self.names = tuple(names)
        self.array: Array = _frozen(array)

    def __getitem__(self, key: str | int) -> float:
        return float(self.array[position(self.names, key)])

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NamedVector)
            and self.names == other.names
            and np.array_equal(self.array, other.array, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"NamedVector({', '.join(f'{name}={value:.6g}' for name, value in self.items())})"

    def to_dict(self) -> dict[str, float | None]:
        """Return the values by name, None where a value is missing."""
        return {name: jsonable(value) for name, value in self.items()}


class NamedMatrix:
    """A square matrix over the parameters: ``m["mu", "tes"]``, ``m[0, 1]``, ``np.asarray(m)``, ``m.array``."""

    __slots__ = ("array", "names")

    def __init__(self, names: Sequence[str], array: Any) -> None:
        self.names = tuple(names)
        self.array: Array = _frozen(array)

    def __getitem__(self, key: tuple[str | int, str | int]) -> float:
        row, column = key
        return float(self.array[position(self.names, row), position(self.names, column)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, NamedMatrix)
            and self.names == other.names
            and np.array_equal(self.array, other.array, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"NamedMatrix(names={self.names}, array={self.array!r})"

    def to_dict(self) -> list[list[float | None]]:
        """Return the rows, in the order of the names."""
        rows: list[list[float | None]] = jsonable(self.array)
        return rows

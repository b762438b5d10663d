"""Event weights from correctionlib files, declared rather than programmed: :class:`CorrectionWeight`."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman import files
from neyman.errors import ConfigError, InputError, nearest, optional
from neyman.events import expression
from neyman.events.columns import check_finite

NOMINAL = "nominal"
# Read once a process: a processor is unpickled for every chunk.
_SETS: dict[str, Any] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class CorrectionWeight:
    """A weight that a correction of a correctionlib file gives each event, with its uncertainty.

    Parameters
    ----------
    name
        Of the nuisance parameter.
    file
        A correctionlib JSON file, ``.json`` or ``.json.gz``, that the workers see.
    correction
        Name of the correction (or compound correction) in the file.
    inputs
        For each input of the correction but `systematic`: an expression of columns or a number for a real or
        integer input, ``"abs(mu_eta)"``; the value itself for a string input.
    systematic
        The string input that chooses the variation, if there is one.
    nominal, up, down
        Its values. Without `nominal` the nominal weight is 1; without `up` and `down` there is no variation.
    sha256
        Expected SHA-256 of the file; that of the file as it is when not given.

    Raises
    ------
    ConfigError
        The file, the correction or an input does not exist, or an input is not declared.

    Examples
    --------
    >>> CorrectionWeight(
    ...     "mu_id", "muon.json.gz", "NUM_TightID", {"abseta": "abs(mu_eta)", "pt": "mu_pt"},
    ...     systematic="scale_factors", up="systup", down="systdown",
    ... )  # doctest: +SKIP
    """

    name: str
    file: str | os.PathLike[str]
    correction: str
    inputs: Mapping[str, str | float]
    systematic: str | None = None
    nominal: str | None = NOMINAL
    up: str | None = None
    down: str | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        path = Path(self.file).absolute()
        if not path.is_file():
            raise ConfigError("there is no such correctionlib file", where=str(path))
        object.__setattr__(self, "file", str(path))
        object.__setattr__(self, "sha256", self.sha256 or files.sha256(path))
        names = [variable.name for variable in self._evaluator().inputs]
        given = [*self.inputs, *([self.systematic] if self.systematic else [])]
        for name in given:
            if name not in names:
                raise ConfigError(
                    f"correction {self.correction!r} has no input {name!r}",
                    where=self._where,
                    expected=nearest(name, names),
                )
        for name in names:
            if name not in given:
                raise ConfigError(
                    f"input {name!r} of correction {self.correction!r} is not given",
                    where=self._where,
                    expected=f"a value for each of {', '.join(names)}",
                )
        if self.systematic is None and (self.up or self.down):
            raise ConfigError(
                f"correction weight {self.name!r} varies, but no input chooses the variation",
                where=self._where,
                fix=f"name the string input as systematic=: one of {', '.join(names)}",
            )

    def evaluate(self, columns: Mapping[str, ArrayLike], where: str = "the events") -> dict[str, Any]:
        """Return ``{"nominal": weights, "<name>Up": ..., "<name>Down": ...}``, float64, (n_events,) each.

        Parameters
        ----------
        columns
            Arrays by name that the expressions of the inputs use.
        where
            What to call the events in a message.

        Raises
        ------
        InputError
            The correction is not defined for an event (names the event and its inputs), or gives NaN.
        """
        correction = self._evaluator()
        arguments: dict[str, Any] = {}
        for variable in correction.inputs:
            if variable.name != self.systematic:
                arguments[variable.name] = self._argument(variable, columns)
        size = len(next(iter(columns.values())))  # type: ignore[arg-type]
        values = {NOMINAL: self.nominal, self.name + "Up": self.up, self.name + "Down": self.down}
        result: dict[str, NDArray[np.float64]] = {}
        for name, value in values.items():
            if value is None and name == NOMINAL and self.systematic is not None:
                result[name] = np.ones(size)
            elif value is not None:
                chosen = arguments | ({self.systematic: value} if self.systematic else {})
                ordered = {variable.name: chosen[variable.name] for variable in correction.inputs}
                result[name] = self._call(correction, ordered, size, f"{where}, {name}")
        return result

    def add_to(self, weights: Any, columns: Mapping[str, ArrayLike], where: str = "the events") -> None:
        """Add the weight and its variations to coffea's ``Weights``; otherwise as :meth:`evaluate`."""
        found = self.evaluate(columns, where)
        weights.add(self.name, found[NOMINAL], found.get(self.name + "Up"), found.get(self.name + "Down"))

    @property
    def _where(self) -> str:
        return str(self.file)

    def _evaluator(self) -> Any:
        with _LOCK:
            if self.sha256 not in _SETS:
                correctionlib = optional("correctionlib", "coffea")
                path = Path(self.file)
                if not path.is_file() or files.sha256(path) != self.sha256:
                    raise InputError(
                        f"the file of correction weight {self.name!r} is not the one that it was made with",
                        where=self._where,
                        fix="let all workers see the same file, and make the processor anew after a change",
                    )
                try:
                    _SETS[self.sha256] = correctionlib.CorrectionSet.from_file(self._where)
                except (RuntimeError, ValueError, OSError, IndexError) as error:
                    raise ConfigError(
                        f"not a correctionlib file: {str(error).splitlines()[0]}", where=self._where
                    ) from error
            found = _SETS[self.sha256]
        for group in (found, found.compound):
            if self.correction in list(group):
                return group[self.correction]
        raise ConfigError(
            f"the file has no correction {self.correction!r}",
            where=self._where,
            expected=nearest(self.correction, [*found, *found.compound]),
        )

    def _argument(self, variable: Any, columns: Mapping[str, ArrayLike]) -> Any:
        value = self.inputs[variable.name]
        if variable.type == "string":
            return str(value)
        number = expression.evaluate(value, columns) if isinstance(value, str) else value
        array = np.asarray(number, dtype=np.float64)
        if variable.type != "int":
            return array
        if (array != np.rint(array)).any():
            raise InputError(
                f"input {variable.name!r} of correction {self.correction!r} is not an integer",
                where=f"{value}, first {array[array != np.rint(array)].flat[0]}",
            )
        return array.astype(np.int64)

    def _call(self, correction: Any, arguments: dict[str, Any], size: int, where: str) -> NDArray[np.float64]:
        def part(start: int, stop: int) -> Any:
            cut = {k: v[start:stop] if np.ndim(v) else v for k, v in arguments.items()}
            return np.broadcast_to(correction.evaluate(*cut.values()), (stop - start,))

        if not size:
            return np.ones(0)
        try:
            weights = np.array(part(0, size), dtype=np.float64)
        except (RuntimeError, IndexError, ValueError) as error:
            low, high = 0, size  # the first event that fails is in [low, high)
            while high - low > 1:
                middle = (low + high) // 2
                try:
                    part(low, middle)
                    low = middle
                except (RuntimeError, IndexError, ValueError):
                    high = middle
            inputs = ", ".join(f"{k} = {v[low] if np.ndim(v) else v}" for k, v in arguments.items())
            raise InputError(
                f"correction {self.correction!r} is not defined for event {low}: {inputs}",
                where=f"{where}; {self._where}: {str(error).splitlines()[0]}",
                fix="cut these events away, or limit the input to the range of the correction, as in "
                "'minimum(maximum(pt, 20), 200)'",
            ) from error
        check_finite(weights, f"correction {self.correction!r}", where)
        return weights

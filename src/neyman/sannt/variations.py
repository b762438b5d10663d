"""What nuisance parameters do to processes: `Variation` changes events, `Normalisation` a yield."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import TrainingError
from neyman.events import EventTable


@dataclass(frozen=True)
class Variation:
    """One standard deviation of a nuisance parameter, up and down, in one process.

    Build it from two tables, or with :meth:`of_weights` or :meth:`continuous`.

    Parameters
    ----------
    parameter
        Name of the nuisance parameter; the same name in several processes is one parameter. Its constraint is a unit
        Gaussian.
    process
        Name of the process.
    up, down
        The process as it would be: other weights, other features, or other events.
    paired
        Whether the rows of `up`, `down` and the nominal table are the same events. Where the tables have an integer
        column ``entry``, events are matched by it, and this is not needed. Events that are the same on both sides
        fluctuate together, which matters for the statistical uncertainty of the variation.
    """

    parameter: str
    process: str
    up: EventTable
    down: EventTable
    paired: bool = False

    @classmethod
    def of_weights(
        cls, parameter: str, process: str, table: EventTable, *, up: ArrayLike, down: ArrayLike
    ) -> Variation:
        """Vary the weights of the nominal events; costs no further evaluation of a network.

        Parameters
        ----------
        parameter, process
            As above.
        table
            The nominal events.
        up, down
            Expected counts of each event, shape ``(n_events,)``.

        Raises
        ------
        TrainingError
            When there is not one weight an event.
        """
        tables = []
        for direction, given in (("Up", up), ("Down", down)):
            weight = np.asarray(given, dtype=np.float64)
            if weight.shape != (len(table),):
                raise TrainingError(
                    f"the variation {parameter!r} has weights of shape {weight.shape}",
                    where=f"{parameter}{direction} of process {process!r}",
                    expected=f"one for each of the {len(table)} events",
                )
            tables.append(replace(table, weight=weight))
        return cls(parameter, process, tables[0], tables[1], paired=True)

    @classmethod
    def continuous(
        cls,
        parameter: str,
        process: str,
        table: EventTable,
        transform: Callable[[EventTable, float], EventTable],
        *,
        nominal: float = 1.0,
        sigma: float,
    ) -> Variation:
        """Vary a continuous quantity, such as an energy scale, by one standard deviation.

        Parameters
        ----------
        parameter, process, table
            As above.
        transform
            Returns the events at a value of the quantity. It may drop or add events if the table has an ``entry``.
        nominal, sigma
            Value of the quantity and its uncertainty.
        """
        if not (sigma > 0.0 and math.isfinite(sigma)):
            raise TrainingError(
                f"sigma of the variation {parameter!r} is {sigma}", expected="a positive number"
            )
        up, down = (transform(table, nominal + step * sigma) for step in (1.0, -1.0))
        return cls(parameter, process, up, down)


@dataclass(frozen=True)
class Normalisation:
    """A nuisance parameter that scales the yield of processes.

    Parameters
    ----------
    parameter
        Its name.
    process
        Name of the process, or several.
    up, down
        Factors at plus and minus one standard deviation.
    free
        Whether the parameter is the factor itself, without a constraint (a normfactor); `up` and `down` are then not
        used.
    """

    parameter: str
    process: str | Sequence[str]
    up: float = 1.05
    down: float = 0.95
    free: bool = False

    def __post_init__(self) -> None:
        for name, factor in (("up", self.up), ("down", self.down)):
            number: object = factor
            if not (isinstance(number, int | float) and number > 0.0 and math.isfinite(number)):
                raise TrainingError(
                    f"factor {name} of the normalisation {self.parameter!r} is {factor!r}",
                    expected="a positive number, 1.05 for 5%",
                )

    def slope(self, direction: str = "average") -> float:
        r"""Return the derivative of the yield's factor at 0.

        Parameters
        ----------
        direction
            ``average``: of the polynomial and exponential interpolation that a normsys has in pyhf (code 4),

            .. math:: \frac18 \left(15 A_0 - 7 S_1 + A_2\right), \quad A_0 = \frac{u - d}{2},\;
                S_1 = \frac{u \ln u - d \ln d}{2},\; A_2 = \frac{u \ln^2 u - d \ln^2 d}{2}

            which is :math:`(u - d)/2` up to third order; ``up`` :math:`u - 1`; ``down`` :math:`1 - d`.
        """
        if self.free:
            return 1.0
        if direction != "average":
            return self.up - 1.0 if direction == "up" else 1.0 - self.down
        log_up, log_down = math.log(self.up), math.log(self.down)
        a0 = 0.5 * (self.up - self.down)
        s1 = 0.5 * (self.up * log_up - self.down * log_down)
        a2 = 0.5 * (self.up * log_up**2 - self.down * log_down**2)
        return (15.0 * a0 - 7.0 * s1 + a2) / 8.0

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of the processes."""
        return (self.process,) if isinstance(self.process, str) else tuple(self.process)

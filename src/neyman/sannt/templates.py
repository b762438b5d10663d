"""`Templates`: the events of all nominal templates and variations of a measurement.

It chooses those that train, select or judge. Variations that change the weights alone share the features, and so the
forward pass, of the nominal events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neyman.errors import TrainingError, nearest
from neyman.events import EventTable
from neyman.events.draws import uniform
from neyman.sannt.variations import Normalisation, Variation
from neyman.training import held_out

NOMINAL = "nominal"
Direction = Literal["average", "up", "down"]
DIRECTIONS = ("average", "up", "down")
Key = tuple[str, str]  # process and category: nominal, NAMEUp or NAMEDown


@dataclass(frozen=True)
class Block:
    """Events of one process that share their features, with the weights of one or more templates.

    Parameters
    ----------
    x
        Features, ``(n_events, n_features)``.
    keys
        The templates, process and category.
    weight
        ``(n_templates, n_events)``.
    entry
        Identities of the events, if known; otherwise rows of aligned blocks are the same events.
    second
        Which events are in the second fold.
    held_out
        Which events select the best state of a training.
    """

    x: NDArray[np.float32]
    keys: tuple[Key, ...]
    weight: NDArray[np.float64]
    entry: NDArray[np.int64] | None
    second: NDArray[np.bool_]
    held_out: NDArray[np.bool_]


@dataclass(frozen=True)
class Templates:
    """Nominal templates and variations of signals and backgrounds; build with :meth:`of`.

    Parameters
    ----------
    blocks
        The events.
    features
        Names of the features.
    processes
        Names of the processes, signals first.
    strengths
        Signal strengths, and the processes that each scales.
    parameters
        Nuisance parameters in order of appearance, and whether each is constrained.
    normalisations
        Those that scale yields.
    paired
        Variations (process, parameter) whose rows are aligned.
    inputs
        How features are computed from events, see :attr:`neyman.events.EventTable.inputs`.
    """

    blocks: tuple[Block, ...]
    features: tuple[str, ...]
    processes: tuple[str, ...]
    strengths: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, bool]
    normalisations: tuple[Normalisation, ...]
    paired: frozenset[Key]
    inputs: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        signals: Mapping[str, EventTable],
        backgrounds: Mapping[str, EventTable],
        variations: Sequence[Variation | Normalisation],
        *,
        fraction: float,
        seed: int,
        strengths: Mapping[str, Sequence[str]] | None = None,
        further: Sequence[str] = (),
    ) -> Templates:
        """Gather the events of all templates.

        Parameters
        ----------
        signals, backgrounds
            Events by name; the weights are expected counts.
        variations
            What the nuisance parameters do.
        fraction, seed
            Choice of the held-out events, see :func:`neyman.training.held_out`, and of the folds.
        strengths
            Signals that each strength scales; each signal has its own if not given.
        further
            Nuisance parameters that act in other channels of the fit.

        Raises
        ------
        TrainingError
            When features differ, a variation has no process or comes twice, paired tables have different lengths, or
            weights have no positive sum.
        """
        processes = dict(signals) | dict(backgrounds)
        tables: dict[Key, EventTable] = {(name, NOMINAL): table for name, table in processes.items()}
        own_strengths = _strengths(signals, strengths)
        parameters: dict[str, bool] = {}
        acting: set[Key] = set()
        for v in variations:
            free = isinstance(v, Normalisation) and v.free
            if parameters.setdefault(v.parameter, not free) == free:
                raise TrainingError(
                    f"the parameter {v.parameter!r} is free in one place and constrained in another",
                    fix="give the two different names",
                )
            for process in v.processes if isinstance(v, Normalisation) else (v.process,):
                _check_process(v.parameter, process, processes)
                if (process, v.parameter) in acting:
                    raise TrainingError(
                        f"process {process!r} has two variations of {v.parameter!r}",
                        expected="one effect of a parameter on a process",
                        fix="put both effects into one Variation",
                    )
                acting.add((process, v.parameter))
            if isinstance(v, Variation):
                _check_variation(v, processes)
                tables |= {(v.process, f"{v.parameter}Up"): v.up, (v.process, f"{v.parameter}Down"): v.down}
        for name in further:
            if not parameters.setdefault(name, True):
                raise TrainingError(
                    f"the free parameter {name!r} varies histograms of control channels",
                    fix="give the two different names",
                )
        for name in own_strengths:
            if name in parameters:
                raise TrainingError(
                    f"{name!r} is a strength and a nuisance parameter", fix="give the two different names"
                )
        first = next(iter(processes.values()))
        features = first.features
        groups: list[dict[Key, EventTable]] = []
        for key, table in tables.items():
            _check_table(key, table, features)
            shared = (g for g in groups if next(iter(g))[0] == key[0] and _same_events(g, table))
            group = next(shared, None)
            if group is None:
                groups.append({key: table})
            else:
                group[key] = table
        return cls(
            tuple(_block(group, fraction, seed) for group in groups),
            features,
            tuple(processes),
            own_strengths,
            parameters,
            tuple(v for v in variations if isinstance(v, Normalisation)),
            frozenset((v.process, v.parameter) for v in variations if isinstance(v, Variation) and v.paired),
            first.inputs,
        )

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signal processes."""
        return tuple(process for own in self.strengths.values() for process in own)

    @property
    def keys(self) -> tuple[Key, ...]:
        """All templates."""
        return tuple(key for block in self.blocks for key in block.keys)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters of the measurement: the strengths of the signals, then the nuisance parameters."""
        return (*(f"strength of {name}" for name in self.strengths), *self.parameters)

    @property
    def constrained(self) -> tuple[bool, ...]:
        """Which parameters of the measurement have a constraint."""
        return (*(False for _ in self.strengths), *self.parameters.values())

    def fold(self, second: bool) -> Templates:
        """Return the events of one of two folds, with their own weights."""
        return self._chosen([block.second == second for block in self.blocks])

    def half(self, *, held_out: bool) -> Templates:
        """Return the held-out events or the others, every template scaled to its full yield.

        Raises
        ------
        TrainingError
            When the weights of a template have no positive sum there.
        """
        chosen = self._chosen([block.held_out == held_out for block in self.blocks])
        return chosen.scaled_like(self, "held-out" if held_out else "training")

    def joined(self, other: Templates) -> Templates:
        """Return the events of two folds together."""
        blocks = []
        for a, b in zip(self.blocks, other.blocks, strict=True):
            entry = None
            if a.entry is not None and b.entry is not None:
                entry = np.concatenate([a.entry, b.entry])
            blocks.append(
                Block(
                    np.concatenate([a.x, b.x]),
                    a.keys,
                    np.concatenate([a.weight, b.weight], axis=1),
                    entry,
                    np.concatenate([a.second, b.second]),
                    np.concatenate([a.held_out, b.held_out]),
                )
            )
        return replace(self, blocks=tuple(blocks))

    def scaled_like(self, whole: Templates, where: str) -> Templates:
        """Return the templates, each scaled to its yield in another set of events."""
        blocks = []
        for block, full in zip(self.blocks, whole.blocks, strict=True):
            totals = block.weight.sum(axis=1)
            if not (totals > 0.0).all():
                process, category = block.keys[int(np.argmin(totals))]
                raise TrainingError(
                    f"{block.weight.shape[1]} {where} events of process {process!r} "
                    f"({category}) have weights that sum to {totals.min():g}",
                    fix="use more events, or another validation_fraction",
                )
            factor = full.weight.sum(axis=1) / totals
            blocks.append(replace(block, weight=block.weight * factor[:, None]))
        return replace(self, blocks=tuple(blocks))

    def nominal(self, process: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return features and weights of the nominal events of a process."""
        key = (process, NOMINAL)
        block = next(block for block in self.blocks if key in block.keys)
        return block.x, block.weight[block.keys.index(key)]

    def _chosen(self, masks: Sequence[NDArray[np.bool_]]) -> Templates:
        blocks = [
            Block(
                block.x[mask],
                block.keys,
                block.weight[:, mask],
                None if block.entry is None else block.entry[mask],
                block.second[mask],
                block.held_out[mask],
            )
            for block, mask in zip(self.blocks, masks, strict=True)
        ]
        return replace(self, blocks=tuple(blocks))


def in_second_fold(entry: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which events are in the second of two folds; a function of the event's id and the seed alone."""
    return uniform(("fold", seed), entry) < 0.5


def _strengths(
    signals: Mapping[str, EventTable], given: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    if given is None:
        return {name: (name,) for name in signals}
    named = [process for own in given.values() for process in own]
    for process in (*named, *signals):
        if named.count(process) != 1 or process not in signals:
            raise TrainingError(
                f"the process {process!r} is in {named.count(process)} strengths"
                if process in signals
                else f"a strength names the process {process!r}, which is no signal",
                expected="every signal in one strength",
                fix=f"signals: {', '.join(signals)}",
            )
    return {name: tuple(own) for name, own in given.items()}


def _block(group: Mapping[Key, EventTable], fraction: float, seed: int) -> Block:
    first = next(iter(group.values()))
    held = held_out(first, fraction, seed=seed)  # checks that the ids are integers
    entry, second = None, np.zeros(len(first), dtype=np.bool_)
    if "entry" in first.extra:
        entry = first.extra["entry"].astype(np.int64)
        second = in_second_fold(entry, seed)
    weight = np.stack([table.weight for table in group.values()])
    return Block(first.x, tuple(group), weight, entry, second, held)


def _same_events(group: Mapping[Key, EventTable], table: EventTable) -> bool:
    first = next(iter(group.values()))
    return first.x is table.x or np.array_equal(first.x, table.x)


def _check_table(key: Key, table: EventTable, features: tuple[str, ...]) -> None:
    where = f"{key[1]} of process {key[0]!r}"
    if table.features != features:
        raise TrainingError(
            "processes and variations have different features",
            where=f"{where}: {', '.join(table.features)}",
            expected=", ".join(features),
        )
    if not table.weight.sum() > 0.0:
        raise TrainingError(
            f"{len(table)} events have weights that sum to {table.weight.sum():g}",
            where=where,
            expected="a positive sum",
        )


def _check_process(parameter: str, process: str, processes: Mapping[str, EventTable]) -> None:
    if process not in processes:
        raise TrainingError(
            f"the variation {parameter!r} names the process {process!r}, which does not exist",
            fix=f"nearest: {nearest(process, processes)}",
        )


def _check_variation(v: Variation, processes: Mapping[str, EventTable]) -> None:
    n = len(processes[v.process])
    for name, table in (("Up", v.up), ("Down", v.down)):
        if v.paired and len(table) != n:
            raise TrainingError(
                f"{v.parameter}{name} of process {v.process!r} has {len(table)} events, the nominal {n}",
                expected="the same events in the same order, as the variation is paired",
                fix="keep all events and set weights to 0, or give the tables an integer column 'entry' and "
                "paired=False",
            )

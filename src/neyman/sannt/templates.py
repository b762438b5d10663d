"""The expected bins of a measurement as functions of a network: nominal templates and their variations.

A :class:`Variation` is what a nuisance parameter does to a process. :class:`Templates` holds the events of all
templates, fills them for a network, with gradients, and exports them as `hist` histograms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import hist
import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import TrainingError, nearest
from neyman.events import EventTable
from neyman.networks import Stack
from neyman.sannt.histogram import BinFunction, bin_index, histogram
from neyman.training import held_out

NOMINAL = "nominal"


@dataclass(frozen=True)
class Variation:
    """One standard deviation of a nuisance parameter, up and down, in one process.

    Parameters
    ----------
    parameter
        Name of the nuisance parameter; the same name in several processes is one parameter.
    process
        Name of the process.
    up, down
        The process as it would be: other weights, other features, or other events.
    """

    parameter: str
    process: str
    up: EventTable
    down: EventTable


@dataclass(frozen=True)
class _Block:
    """Events with one set of features and the templates, (process, category), that weight them."""

    x: NDArray[np.float32]
    keys: tuple[tuple[str, str], ...]
    weight: NDArray[np.float64]
    held_out: NDArray[np.bool_]


class Templates:
    """Nominal templates and variations of a signal and its backgrounds.

    Build with :meth:`of`. Variations that change the weights alone share the features, and so the forward pass, of
    the nominal events.
    """

    def __init__(
        self, blocks: Sequence[_Block], features: tuple[str, ...], parameters: tuple[str, ...]
    ) -> None:
        self._blocks, self.features, self.parameters = blocks, features, parameters
        self.keys = tuple(key for block in blocks for key in block.keys)
        self.signal = self.keys[0][0]
        self._x = torch.from_numpy(np.concatenate([block.x for block in blocks]))
        self._weights = [torch.from_numpy(block.weight) for block in blocks]
        # Rows: the expectation, the signal, and half the difference of up and down of each nuisance parameter.
        rows = torch.zeros(2 + len(parameters), len(self.keys), dtype=torch.float64)
        for column, (process, category) in enumerate(self.keys):
            rows[0, column] = category == NOMINAL
            rows[1, column] = category == NOMINAL and process == self.signal
            for row, parameter in enumerate(parameters, start=2):
                rows[row, column] = 0.5 * ((category == f"{parameter}Up") - (category == f"{parameter}Down"))
        self._rows = rows

    @classmethod
    def of(
        cls,
        processes: Mapping[str, EventTable],
        variations: Sequence[Variation],
        *,
        fraction: float,
        seed: int,
    ) -> Templates:
        """Gather the events of all templates.

        Parameters
        ----------
        processes
            Events by name, the signal first; the weights are expected counts.
        variations
            What the nuisance parameters do.
        fraction, seed
            Choice of the held-out events, see :func:`neyman.training.held_out`.

        Raises
        ------
        TrainingError
            When features differ, a variation has no process or comes twice, or weights have no positive sum.
        """
        tables = {(name, NOMINAL): table for name, table in processes.items()}
        for v in variations:
            _check_variation(v, processes, tables)
            tables |= {(v.process, f"{v.parameter}Up"): v.up, (v.process, f"{v.parameter}Down"): v.down}
        features = next(iter(processes.values())).features
        groups: list[dict[tuple[str, str], EventTable]] = []
        for key, table in tables.items():
            _check_table(key, table, features)
            shared = (g for g in groups if next(iter(g))[0] == key[0] and _same_events(g, table))
            group = next(shared, None)
            if group is None:
                groups.append({key: table})
            else:
                group[key] = table
        blocks = []
        for group in groups:
            first = next(iter(group.values()))
            weight = np.stack([table.weight for table in group.values()])
            blocks.append(_Block(first.x, tuple(group), weight, held_out(first, fraction, seed=seed)))
        return cls(blocks, features, tuple(dict.fromkeys(v.parameter for v in variations)))

    def half(self, *, held_out: bool) -> Templates:
        """Return the held-out events or the others, every template scaled to its full yield.

        Raises
        ------
        TrainingError
            When the weights of a template have no positive sum there.
        """
        blocks = []
        for block in self._blocks:
            chosen = block.held_out == held_out
            weight = block.weight[:, chosen]
            totals = weight.sum(axis=1)
            if not (totals > 0.0).all():
                process, category = block.keys[int(np.argmin(totals))]
                raise TrainingError(
                    f"{chosen.sum()} {'held-out' if held_out else 'training'} events of process {process!r} "
                    f"({category}) have weights that sum to {totals.min():g}",
                    fix="use more events, or another validation_fraction",
                )
            weight = weight * (block.weight.sum(axis=1) / totals)[:, None]
            blocks.append(_Block(block.x[chosen], block.keys, weight, block.held_out[chosen]))
        return Templates(blocks, self.features, self.parameters)

    def nominal(self, process: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return features and weights of the nominal events of a process."""
        key = (process, NOMINAL)
        block = next(block for block in self._blocks if key in block.keys)
        return block.x, block.weight[block.keys.index(key)]

    def asimov(
        self, network: Stack, edges: torch.Tensor, bin_function: BinFunction
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return expected bins and their Jacobian, with gradients to the network.

        Returns
        -------
        float64, shapes ``(n_members, n_bins)`` and ``(n_members, n_bins, 1 + n_nuisance_parameters)``; the first
        parameter is the signal strength.
        """
        scores = torch.sigmoid(network(self._x)[..., 0])
        parts = torch.split(scores, [len(block.x) for block in self._blocks], dim=-1)
        contents = [histogram(y, w, edges, bin_function) for y, w in zip(parts, self._weights, strict=True)]
        rows = self._rows @ torch.cat(contents, dim=-2)
        return rows[:, 0], rows[:, 1:].transpose(-1, -2)

    def histograms(self, network: Stack, edges: torch.Tensor) -> dict[str, hist.Hist[hist.storage.Weight]]:
        """Return one histogram a process, axes ``score`` and ``variation`` (nominal, NAMEUp, NAMEDown), from the
        first member of the network."""
        with torch.no_grad():
            scores = torch.sigmoid(network(self._x)[0, :, 0])
        bins = torch.split(bin_index(scores, edges), [len(block.x) for block in self._blocks])
        found = {
            key: (weight, index.numpy())
            for block, index in zip(self._blocks, bins, strict=True)
            for key, weight in zip(block.keys, block.weight, strict=True)
        }
        out = {}
        for process in dict.fromkeys(name for name, _ in self.keys):
            categories = [category for name, category in self.keys if name == process]
            h = hist.Hist(
                hist.axis.Variable(edges.tolist(), name="score", label="network score"),
                hist.axis.StrCategory(categories, name="variation"),
                storage=hist.storage.Weight(),
            )
            n = len(edges) - 1
            for column, category in enumerate(categories):
                weight, index = found[process, category]
                h.view().value[:, column] = np.bincount(index, weight, minlength=n)
                h.view().variance[:, column] = np.bincount(index, weight**2, minlength=n)
            out[process] = h
        return out


def _same_events(group: Mapping[tuple[str, str], EventTable], table: EventTable) -> bool:
    return np.array_equal(next(iter(group.values())).x, table.x)


def _check_table(key: tuple[str, str], table: EventTable, features: tuple[str, ...]) -> None:
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


def _check_variation(
    v: Variation, processes: Mapping[str, EventTable], tables: Mapping[tuple[str, str], EventTable]
) -> None:
    if v.process not in processes:
        raise TrainingError(
            f"the variation {v.parameter!r} names the process {v.process!r}, which does not exist",
            fix=f"nearest: {nearest(v.process, processes)}",
        )
    if (v.process, f"{v.parameter}Up") in tables:
        raise TrainingError(f"process {v.process!r} has two variations of {v.parameter!r}")

"""What a `neyman sannt` job hands to the training: processes, variations and normalisations of its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import hist
import numpy as np

from neyman.analysis.sannt_config import SanntConfig
from neyman.analysis.sannt_events import SelectedEvents
from neyman.analysis.sannt_reading import ENTRY
from neyman.analysis.simulation import NAMING, NOMINAL, derive, make_hist
from neyman.events import EventTable
from neyman.sannt import Normalisation, Variation
from neyman.training import held_out
from neyman.workspace import Treated

_UNRELATED = 1 << 61


def normalisations(config: SanntConfig) -> list[Normalisation]:
    """What acts on the yields of the processes."""
    out = []
    for process, parts in config.processes.items():
        out += [
            Normalisation(name, process, up, down) for name, (up, down) in config.normsys(process).items()
        ]
        if (name := config.part(parts[0]).free) is not None:
            out.append(Normalisation(name, process, free=True))
    return out


def variations(
    config: SanntConfig, events: SelectedEvents, tables: Mapping[str, EventTable]
) -> list[Variation]:
    """What changes the events of the processes."""
    out = []
    files = {one.name for one in config.systematics if one.files is not None}
    for process in config.processes:
        table = tables[process]
        out += [
            Variation.of_weights(name, process, table, up=up, down=down)
            for name, (up, down) in events.weights(process).items()
        ]
        out += [
            # Events of other files are other events, though they have the same numbers.
            Variation(name, process, _renumbered(up, 1), _renumbered(down, 2))
            if name in files
            else Variation(name, process, up, down)
            for name, (up, down) in events.tables(process).items()
        ]
    return out


def _renumbered(table: EventTable, side: int) -> EventTable:
    return replace(table, extra=dict(table.extra) | {ENTRY: table.extra[ENTRY] + side * _UNRELATED})


def bare(table: EventTable) -> EventTable:
    """Return a table without the weights of variations."""
    return replace(table, extra={ENTRY: table.extra[ENTRY]})


def numbers(config: SanntConfig, events: SelectedEvents) -> dict[str, Any]:
    """Events of each process: that train a network, that judge it, and expected.

    With two folds, half of the events train or select each network, and in the end all have judged one.
    """
    out: dict[str, Any] = {}
    seed, fraction = derive(config.measurement.seed, "training"), config.settings.validation_fraction
    for process in config.processes:
        table = events.table(process)
        back = int(held_out(table, fraction, seed=seed).sum())
        out[process] = {
            "training": (len(table) - back) // config.folds,
            "held_out": back if config.folds == 1 else len(table),
            "expected": float(table.weight.sum()),
        }
    return out


def closure(
    config: SanntConfig, spec: Mapping[str, Any], regions: Mapping[str, Any], treated: Sequence[Treated]
) -> list[dict[str, Any]]:
    """Check that the channels of a workspace hold what was selected.

    The bins of the network are those of the events that judge it, scaled to all. What a floor adds to negative bins is
    taken off.
    """
    channels: dict[str, list[Any]] = {name: [] for name in regions}
    for channel in spec["channels"]:
        # Channels that are no region are the classes of the network's.
        channels[channel["name"] if channel["name"] in channels else config.region].append(channel)
    out = []
    for region, found in regions.items():
        names = [channel["name"] for channel in channels[region]]
        for process, events in found["processes"].items():
            total = sum(
                sum(s["data"]) for c in channels[region] for s in c["samples"] if s["name"] == process
            )
            floors = sum(
                one.size
                for one in treated
                if (one.what, one.sample, one.parameter) == ("floored", process, NOMINAL)
                and one.channel in names
            )
            expected = events["expected"]
            # A control region loses what lies below its first edge.
            loses = config.regions[region].fit == "binned"
            excess = total - floors - expected
            text = f"{total:.1f} in the bins, {expected:.1f} selected"
            out.append(
                {
                    "name": f"{process} in {region}",
                    "passed": abs(excess) < 1e-3 * abs(expected) or (loses and excess <= 0.0),
                    "reason": f"{text}, {floors:.1f} of a floor" if floors else text,
                }
            )
    return out


def histograms(channels: Mapping[str, Any]) -> dict[str, dict[str, hist.Hist[Any]]]:
    """Histograms of a stage from its plain data."""
    return {
        channel: {
            process: make_hist(
                "score",
                one["edges"],
                {
                    NOMINAL: (np.array(one["nominal"]), np.array(one["variance"])),
                    **{
                        name + suffix: (np.array(sides[side]), np.array(one["variance"]))
                        for name, sides in one["variations"].items()
                        for side, suffix in (("up", NAMING.up), ("down", NAMING.down))
                    },
                },
            )
            for process, one in own.items()
        }
        for channel, own in channels.items()
    }

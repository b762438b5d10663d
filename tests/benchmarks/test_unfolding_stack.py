"""Full unfoldings: five members as one stack of networks against five unfoldings of one network each, in turn."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import neyman as ny
from neyman.networks import MLP, PET
from neyman.training import Settings
from neyman.unfolding import OmniFold

sys.path.insert(0, str(Path(__file__).parent))

from unfolding_gaussian import measured

# Times alone are of interest: what so few steps have learned is not.
pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore::neyman.errors.NeymanWarning")]
MEMBERS, ITERATIONS, EVENTS, ROUNDS, THREADS = 5, 1, 10_000, 2, (1,)
PARTICLES = 8
PROBLEMS = {  # network, batch of each class, steps
    "MLP 64 x 3, batch 256": (MLP((64, 64, 64)), 256, 100),
    "MLP 64 x 3, batch 1024": (MLP((64, 64, 64)), 1024, 50),
    "PET 8 particles, dim 16, batch 256": (
        PET(PARTICLES, 3, dim=16, neighbours=3, local_blocks=1, blocks=1, heads=2, head_blocks=1),
        256,
        10,
    ),
}


def problem(network: MLP | PET) -> tuple[ny.EventTable, ny.EventTable, ny.EventTable]:
    """Data, and the simulation at both levels: six features, or three a particle, all a bit larger in data."""
    rng = np.random.default_rng(1)
    columns = PARTICLES * 3 if isinstance(network, PET) else 6
    names = tuple(f"x{k}" for k in range(columns))
    truth, nature = (rng.normal(shift, 1.0, (EVENTS, columns)).astype(np.float32) for shift in (0.0, 0.1))
    noise = rng.normal(0.0, 0.3, (2, EVENTS, columns)).astype(np.float32)
    tables = (nature + noise[0], truth + noise[1], truth)
    data, reco, particle = (ny.EventTable(names, x, np.ones(EVENTS)) for x in tables)
    return data, reco, particle


def test_unfolding_of_a_stack(record, show):
    """The shortest of some rounds, of stack and loop in turn."""
    rows = []
    for (name, (network, batch, steps)), threads in itertools.product(PROBLEMS.items(), THREADS):
        events = problem(network)
        settings = Settings(steps=steps, batch_size=batch, evaluations=2)
        stack = OmniFold(ITERATIONS, MEMBERS, network=network, settings=settings, keep_iterations=False)
        single = replace(stack, ensemble=1)

        def one_stack(stack=stack, events=events):
            return stack.fit(*events, seed=1).unfolded

        def loop(single=single, events=events):
            return np.mean(
                [single.fit(*events, seed=seed).unfolded for seed in range(1, MEMBERS + 1)], axis=0
            )

        times = {"one stack": [], "loop": []}
        for _, (peer, work) in itertools.product(range(ROUNDS), (("one stack", one_stack), ("loop", loop))):
            times[peer].append(measured(work, threads)[1]["wall_s"])
        best = {f"{peer}, s": min(found) for peer, found in times.items()}
        rows.append(
            {"network": name, "threads": threads} | best | {"speedup": best["loop, s"] / best["one stack, s"]}
        )
    show(f"unfolding of {EVENTS} events, {ITERATIONS} iterations, {MEMBERS} members", rows)
    figures = {"members": MEMBERS, "iterations": ITERATIONS, "events": EVENTS, "rows": rows}
    record("unfolding_stack", figures)

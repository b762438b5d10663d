"""The stabilisation study of Torales Acosta et al. at reduced size, on jets as sets of particles.

Full passes of OmniFold without ensembling, with parallel and with step ensembling, from random and from pre-trained
networks. Every finished pass is a file in the folder of the events, so that a run can be stopped, or be shared by
processes that each make some of the methods::

    python tests/benchmarks/unfolding_jets_study.py parallel step
    python tests/benchmarks/unfolding_jets_study.py parallel-pretrained step-pretrained
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import neyman as ny
from neyman.files import digest, read_json, write_json
from neyman.networks import PET, Model
from neyman.training import Settings
from neyman.unfolding import OmniFold

sys.path.insert(0, str(Path(__file__).parent))
import unfolding_jets as jets

PASSES, MEMBERS = 10, 5
AGGREGATES = ("mean", "median", "truncated_mean")


@dataclass(frozen=True)
class Size:
    """How large the study is: on a CPU an hour of one core, on a GPU closer to the paper."""

    events: int = 100_000
    particles: int = 8
    dim: int = 8
    iterations: int = 3
    steps: int = 250
    pretraining: int = 1000
    batch: int = 256
    rate: float = 5e-3
    device: str = "cpu"


CPU = Size()
GPU = Size(
    particles=16, dim=32, iterations=5, steps=4000, pretraining=8000, batch=1024, rate=1e-3, device="cuda"
)


def size() -> Size:
    return GPU if torch.cuda.is_available() else CPU


def network(of: Size) -> PET:
    return PET(of.particles, 3, dim=of.dim, neighbours=3, local_blocks=1, blocks=1, heads=2, head_blocks=1)


def settings(of: Size) -> Settings:
    return Settings(
        steps=of.steps,
        batch_size=of.batch,
        learning_rate=of.rate,
        evaluations=4,
        validation_fraction=0.1,
        device=of.device,
    )


def methods(of: Size) -> dict[str, OmniFold]:
    """The runs; a member of a parallel ensemble is an unfolding without any, so that these need no run."""
    parallel = OmniFold(
        of.iterations, MEMBERS, "parallel", network=network(of), settings=settings(of), keep_iterations=False
    )
    step = replace(parallel, mode="step")
    pretrained = {"warm_start": True, "body_rate": 0.2}
    return {
        "parallel": parallel,
        "step": step,
        "parallel-pretrained": replace(parallel, **pretrained),
        "step-pretrained": replace(step, **pretrained),
    }


@dataclass(frozen=True)
class Sample:
    """Tables without observables, masks, and the observables of the particle level."""

    gen: ny.EventTable
    reco: ny.EventTable
    passes_gen: NDArray[np.bool_]
    passes_reco: NDArray[np.bool_]
    observables: dict[str, NDArray[Any]]


@cache
def sample(folder: Path, name: str, of: Size) -> Sample:
    tables = [
        jets.load(folder, name, level, particles=of.particles, events=of.events) for level in ("gen", "reco")
    ]
    bare = [ny.EventTable(table.features, table.x, table.weight) for table in tables]
    observables = {observable: tables[0].extra[observable] for observable in jets.EDGES}
    return Sample(*bare, *(table.extra["passes"].astype(bool) for table in tables), observables)


def truths(folder: Path, of: Size) -> dict[str, NDArray[Any]]:
    """Particle-level histograms of the tune that plays the data."""
    own = sample(folder, "data", of)
    return {
        name: np.histogram(own.observables[name][own.passes_gen], edges)[0].astype(float)
        for name, edges in jets.EDGES.items()
    }


def priors(folder: Path, of: Size) -> dict[str, NDArray[Any]]:
    own = sample(folder, "simulation", of)
    found = {
        name: np.histogram(own.observables[name][own.passes_gen], edges)[0].astype(float)
        for name, edges in jets.EDGES.items()
    }
    total = sample(folder, "data", of).passes_gen.sum() / own.passes_gen.sum()
    return {name: total * content for name, content in found.items()}


def classifier(folder: Path, of: Size) -> tuple[Model, float]:
    """The network of pre-training: the two tunes at detector level, as in the first step of the first iteration."""
    file = folder / f"pretrained-{digest(asdict(of))[:8]}.safetensors"
    record = file.with_suffix(".json")
    if not record.is_file():
        data, simulation = (sample(folder, name, of) for name in ("data", "simulation"))
        lre = ny.ratios.LRE(network(of), settings=replace(settings(of), steps=of.pretraining))
        start = time.perf_counter()
        ratio = lre.fit(
            data.reco.select(data.passes_reco), simulation.reco.select(simulation.passes_reco), seed=99
        )
        ratio.save(file)
        write_json(record, {"seconds": time.perf_counter() - start})
    return Model.load(file), float(read_json(record)["seconds"])


def run(folder: Path, name: str, k: int, of: Size) -> dict[str, Any]:
    """Return the histograms of one full pass by observable and aggregate, and how long it took."""
    file = folder / "study" / f"{name}-{digest(asdict(of))[:8]}-{k:02d}.json"
    if file.is_file():
        found: dict[str, Any] = read_json(file)
        return found
    data, simulation = (sample(folder, which, of) for which in ("data", "simulation"))
    start = classifier(folder, of)[0] if name.endswith("pretrained") else None
    before = time.perf_counter(), time.process_time()
    result = methods(of)[name].fit(
        data.reco.select(data.passes_reco),
        simulation.reco,
        simulation.gen,
        passes_reconstruction=simulation.passes_reco,
        passes_truth=simulation.passes_gen,
        start=start,
        seed=1000 + k,
    )
    wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    histograms: dict[str, Any] = {}
    for observable, edges in jets.EDGES.items():
        x = simulation.observables[observable]
        histograms[observable] = {
            "members": [result.histogram(x, edges, member=m).values().tolist() for m in range(MEMBERS)],
            **{a: result.aggregated_by(a).histogram(x, edges).values().tolist() for a in AGGREGATES},  # type: ignore[arg-type]
        }
    losses = [{"level": step.level, "losses": step.losses} for step in result.steps]
    write_json(file, {"histograms": histograms, "seconds": wall, "cpu_seconds": cpu, "steps": losses})
    return run(folder, name, k, of)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, chosen = jets.cache(), size()
    jets.make(place, chosen.events)
    for own in sys.argv[1:]:
        for k in range(PASSES):
            print(own, k, f"{run(place, own, k, chosen)['cpu_seconds']:.0f} s", flush=True)

"""The Gaussian case of arXiv:2503.07962: likelihoods from learned ratios and densities beside the true likelihood.

Figures as in the paper: 45 test sets of 9,000 events, 100 bootstrap sets of 1,000 events from each, overlap with the
true likelihood on 600 x 300 points of (mu, z), coverage and width of the intervals. Trainings are kept in the folder
``NEYMAN_BENCHMARK_CACHE`` where it is set; an interrupted one goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import gaussian_case as gaussian
import numpy as np
import pytest

import neyman as ny
from neyman.diagnostics.overlap import chebyshev_nodes, mixture_nll, profiles
from neyman.files import digest, write_json

pytestmark = pytest.mark.benchmark
RESULTS = Path(__file__).parent / "results" / "gaussian_overlap.json"
SEED, N_EVENTS, MEMBERS = 1, 1_000_000, 10
N_EACH, N_BOOTSTRAP = 5, 100

ESTIMATORS = {
    "lre": ny.ratios.LRE(
        ny.networks.MLP((64, 64, 64)),
        ensemble=MEMBERS,
        settings=ny.training.Settings(
            steps=4000, batch_size=1024, learning_rate=3e-3, validation_fraction=0.05, evaluations=10
        ),
    ),
    "dle": ny.ratios.DLE(
        ny.networks.NSF(),
        ensemble=MEMBERS,
        settings=ny.training.Settings(
            steps=1000, batch_size=2048, learning_rate=2e-3, validation_fraction=0.05, evaluations=10
        ),
    ),
}
TARGETS = {("lre", "short"): 0.92, ("lre", "long"): 0.95, ("dle", "short"): 0.96, ("dle", "long"): 0.97}
# Table I of the paper: one trained model each.
PAPER = {
    ("lre", "short"): (0.41, 0.69, 0.47, 0.64, 0.63, 0.089, 0.17),
    ("dle", "short"): (0.29, 0.55, 0.41, 0.61, 0.50, 0.096, 0.15),
    ("lre", "long"): (0.52, 0.94, 0.52, 0.66, 0.60, 0.036, 0.031),
    ("dle", "long"): (0.47, 0.95, 0.47, 0.65, 0.52, 0.035, 0.032),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Folder of trained models."""
    folder = os.environ.get("NEYMAN_BENCHMARK_CACHE")
    path = Path(folder) if folder else tmp_path_factory.mktemp("gaussian")
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


def trained(case: str, name: str, cache: Path):
    """Train the estimator of each process, or read it; return the ratios and the seconds that the training took."""
    estimator, models, used = ESTIMATORS[name], {}, {"cpu_s": 0.0, "wall_s": 0.0}
    for process in gaussian.PROCESSES:
        key = f"{case}_{name}_{process}_{digest(repr(estimator), SEED, N_EVENTS)[:12]}"
        file, log = cache / f"{key}.safetensors", cache / f"{key}.json"
        result = ny.ratios.Ratio if name == "lre" else ny.ratios.Density
        if not log.is_file():
            events = gaussian.training_sample(case, process, N_EVENTS, SEED)
            reference = gaussian.reference_sample(case, N_EVENTS, SEED) if name == "lre" else None
            start = time.process_time(), time.perf_counter()
            every = estimator.settings.steps // 10
            fitted = estimator.fit(
                events,
                reference,
                parameters=("z",),
                seed=SEED,
                checkpoint=cache / f"{key}.checkpoint",
                progress=lambda n, key=key, every=every: n % every or say(f"{key}: step {n}"),
            )
            fitted.save(file)
            cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
            write_json(log, {"cpu_s": cpu, "wall_s": wall} | fitted.history.to_dict())
        models[process] = result.load(file)
        spent = json.loads(log.read_text())
        used = {unit: used[unit] + spent[unit] for unit in used}
    return models, used

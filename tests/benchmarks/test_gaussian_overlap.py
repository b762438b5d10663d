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

import numpy as np
import pytest

import neyman as ny
from neyman.diagnostics.bootstrap import resample
from neyman.diagnostics.overlap import chebyshev_nodes, mixture_nll, profiles
from neyman.files import digest, write_json

sys.path.insert(0, str(Path(__file__).parent))

import gaussian_case as gaussian

pytestmark = pytest.mark.benchmark
RESULTS = Path(__file__).parent / "results" / "gaussian_overlap.json"
SEED, N_EVENTS, MEMBERS = 1, 1_000_000, 10
N_EACH, N_BOOTSTRAP = 5, 100
SINGLES, N_NORMALISATION = 3, 400_000  # members that are judged one by one; reference events
AGGREGATE = {
    "lre": "mean",
    "dle": "mean_ratio",
}  # the mean of densities is a density, that of their logarithms is not
NODES = {"lre": 15, "dle": 21}  # the second derivative of a spline in z is not continuous

ESTIMATORS = {
    "lre": ny.ratios.LRE(
        ny.networks.MLP((64, 64, 64)),
        ensemble=MEMBERS,
        settings=ny.training.Settings(
            steps=8000, batch_size=1024, learning_rate=3e-3, validation_fraction=0.05, evaluations=10
        ),
    ),
    "dle": ny.ratios.DLE(
        ny.networks.NSF(transforms=2),
        ensemble=MEMBERS,
        settings=ny.training.Settings(
            steps=8000, batch_size=512, learning_rate=5e-3, validation_fraction=0.05, evaluations=10
        ),
    ),
}
TARGETS = {("lre", "short"): 0.92, ("lre", "long"): 0.95, ("dle", "short"): 0.96, ("dle", "long"): 0.97}
COLUMNS = ("overlap_total", "overlap_mu", "overlap_z", "coverage_mu", "coverage_z", "width_mu", "width_z")
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


def judged(case: str, name: str, models: dict) -> dict:
    """Figures of the members and of the ensemble; ratios are normalised over the reference events of the training."""
    z = chebyshev_nodes(*gaussian.USED_Z, NODES[name])
    plain = {p: (models[p].members, None) for p in gaussian.PROCESSES}
    if name == "lre":
        x = gaussian.reference_sample(case, N_EVENTS, SEED).x[:N_NORMALISATION]
        normalised = {}
        for process, model in models.items():
            normalised[process] = (model.members, gaussian.log_normalisation(model.members, x, z))
            say(f"{case} {name} {process}: normalised")
        estimators = {name: (normalised, SINGLES, "mean"), "lre_not_normalised": (plain, 0, "mean")}
    else:
        estimators = {name: (plain, SINGLES, AGGREGATE[name])}
    sets = gaussian.make_test_sets(case, N_EACH, SEED, 9000)
    found = gaussian.evaluate(
        case,
        estimators,
        sets,
        n_bootstrap=N_BOOTSTRAP,
        nodes=NODES[name],
        progress=lambda n: say(f"{case} {name}: {n} of {len(sets)} test sets judged"),
    )
    figures = {}
    for key, each in found.items():
        figures[key] = {column: float(np.mean([one[column] for one in each])) for column in each[0]}
        if len(each) > 1:
            figures[key]["spread_of_members"] = {
                column: float(np.std([one[column] for one in each], ddof=1)) for column in each[0]
            }
    return figures | {"fast_likelihood": agreement(models, NODES[name], sets[0], AGGREGATE[name])}


def agreement(models: dict, nodes: int, one, aggregate: str) -> dict:
    """Largest differences between the fast likelihood of the ensemble and the plain sum on the whole grid, in two data
    sets of one test set, where the likelihood has not fallen by more than five standard deviations; `profiles` are by
    Newton steps against the lowest point of the grid."""
    counts = resample(len(one.x), size=1000, n_sets=2, seed=one.seed)

    def tables(z):
        for process in gaussian.PROCESSES:
            parts = [
                gaussian.log_ratios(models[process].members, x, z, aggregate=aggregate)[-1]
                for x in np.array_split(one.x, 30)
            ]
            yield np.concatenate(parts)

    surface = gaussian.surface_of(*tables(chebyshev_nodes(*gaussian.USED_Z, nodes)), counts)
    slow = mixture_nll(*tables(gaussian.Z_GRID), gaussian.MU_GRID, multiplicity=counts)
    newton = surface.profile_mu(gaussian.MU_GRID), surface.profile_z(gaussian.Z_GRID)

    def difference(fast, grid) -> float:
        near = grid - slow.min() < 12.5
        return float(np.abs(fast - grid)[near].max())

    return {
        "grid": difference(surface(gaussian.MU_GRID, gaussian.Z_GRID), slow),
        "profiles": [difference(*pair) for pair in zip(newton, profiles(slow), strict=True)],
    }


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("case", list(gaussian.RADIUS))
def test_overlap_coverage_and_width(record, show, cache, case, name):
    """Ten members of both processes against the true likelihood, beside Table I of the paper."""
    models, used = trained(case, name, cache)
    found = judged(case, name, models)
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    figures = {key: stored[key] for key in gaussian.RADIUS if key in stored}
    estimator = ESTIMATORS[name]
    figures[case] = figures.get(case, {}) | {
        key: one for key, one in found.items() if key != "fast_likelihood"
    }
    figures[case][f"{name}_training"] = used | {
        "members": MEMBERS,
        "events_per_class": N_EVENTS,
        "network": repr(estimator.network),
        "settings": repr(estimator.settings),
    }
    figures[case][f"{name}_fast_likelihood"] = found["fast_likelihood"]
    record("gaussian_overlap", figures)
    rows = [{"likelihood": "paper, Table I"} | dict(zip(COLUMNS, PAPER[name, case], strict=True))]
    rows += [
        {"likelihood": key} | {c: one[c] for c in COLUMNS}
        for key, one in found.items()
        if "overlap_mu" in one
    ]
    show(f"{case} distance, {name}: training {used['cpu_s']:.0f} CPU s", rows)
    assert found["fast_likelihood"]["grid"] < 0.05
    assert max(found["fast_likelihood"]["profiles"]) < 0.05
    ensemble, truth = found[f"{name}_ensemble"], found["truth"]
    assert ensemble["overlap_total"] >= TARGETS[name, case]
    for parameter in ("mu", "z"):
        coverage, width = f"coverage_{parameter}", f"width_{parameter}"
        assert ensemble[coverage] == pytest.approx(truth[coverage], abs=0.02)
        assert ensemble[width] == pytest.approx(truth[width], rel=0.03)

"""OmniFold beside binned iterative Bayesian unfolding and the `omnifold` package, where the truth is known.

The same events, network, optimizer, peak rate, batches and number of steps for both implementations of OmniFold, one
thread each; five independent sets of data and simulation (NEYMAN_UNFOLDING_SETS), fewer for the package, whose ensemble
takes minutes. The package keeps its rate constant where ours follows a cosine, so that it is shown with its own default
rate, too.

Distances from the truth are in units of the statistical standard deviation of a binned unfolding (of data and
simulation): without bias their mean square is 1, plus what networks add. The package runs in this interpreter or in
that of NEYMAN_PEERS_PYTHON.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from neyman.networks import MLP
from neyman.training import Settings
from neyman.unfolding import OmniFold

sys.path.insert(0, str(Path(__file__).parent))

import unfolding_gaussian as gaussian

pytestmark = pytest.mark.benchmark
SETS = int(os.environ.get("NEYMAN_UNFOLDING_SETS", "5"))
EVENTS = int(os.environ.get("NEYMAN_UNFOLDING_EVENTS", "100000"))
ITERATIONS, MEMBERS, REPLICAS, SEED = 5, 5, 200, 1
NETWORK = MLP((32, 32))
SETTINGS = Settings(
    steps=680, batch_size=256, learning_rate=5e-3, validation_fraction=0.1, evaluations=5, schedule="cosine"
)
ONE = OmniFold(ITERATIONS, 1, network=NETWORK, settings=SETTINGS)
NEYMAN = {
    "single": ONE,
    "single, as the package": replace(
        ONE, missed="unchanged", warm_start=True, settings=replace(SETTINGS, schedule="constant", warmup=0.0)
    ),
    f"parallel {MEMBERS}": replace(ONE, ensemble=MEMBERS),
    f"step {MEMBERS}": replace(ONE, ensemble=MEMBERS, mode="step"),
}
PEER = {
    "hidden": NETWORK.hidden,
    "activation": NETWORK.activation,
    "iterations": ITERATIONS,
    "steps": SETTINGS.steps,
    "batch_size": 2 * SETTINGS.batch_size,  # it counts both classes together
    "learning_rate": SETTINGS.learning_rate,
    "validation_fraction": SETTINGS.validation_fraction,
    "threads": 1,
}
OWN_RATE = {"learning_rate": 1e-4}  # its default
PEERS = {  # settings, and the number of sets with flat and with rising efficiency
    "single": ({"ensemble": 1}, (2, 1)),
    "single, its rate": ({"ensemble": 1} | OWN_RATE, (1, 0)),
    f"step {MEMBERS}": ({"ensemble": MEMBERS}, (1, 0)),
}
MEASURED = ("mean_pull", "width_pull", "chi2_per_bin", "wall_s", "cpu_s")


def say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


def unfolded(name: str, events: gaussian.Events, seed: int, folder: Path):
    """Weights and times by method, for one set of events."""
    for rule in ("corrected", "kept"):
        yield (
            f"histogram, misses {rule}",
            gaussian.measured(lambda rule=rule: events.binned.unfold(ITERATIONS, missed=rule)),
        )
    for method, omnifold in NEYMAN.items():
        yield f"neyman, {method}", gaussian.neyman_weights(omnifold, events, seed)
    for method, (own, sets) in PEERS.items():
        if seed <= sets[list(gaussian.CASES).index(name)]:
            yield f"omnifold, {method}", gaussian.peer_weights(events, PEER | own | {"seed": seed}, folder)


def summary(each: list[dict[str, float]]) -> dict[str, float]:
    """Averages over the sets, and root mean squares of the pulls."""
    out = {key: float(np.mean([one[key] for one in each])) for key in ("mean", "width", *MEASURED)}
    for key in ("mean_pull", "width_pull"):
        out[f"{key}_rms"] = float(np.sqrt(np.mean([one[key] ** 2 for one in each])))
    return out | {"sets": len(each)}


def test_gaussian_unfolding(record, show, tmp_path):
    """Bias, width, agreement in 20 bins, and time, of all methods with both kinds of efficiency."""
    figures = {}
    for name, case in gaussian.CASES.items():
        sets = [gaussian.Events.draw(case, EVENTS, seed) for seed in range(1, SETS + 1)]
        errors = gaussian.Errors.bootstrap(sets[0], ITERATIONS, REPLICAS, SEED)
        each: dict[str, list[dict[str, float]]] = {}
        missing = []
        for seed, events in enumerate(sets, start=1):
            for method, found in unfolded(name, events, seed, tmp_path):
                if found is None:
                    missing.append(method)
                    continue
                weights, used = found
                own = errors.judge(case, gaussian.Answer.of(events.truth, weights)) | used
                each.setdefault(method, []).append(own)
                say(f"{name}, set {seed}, {method}: " + ", ".join(f"{k} {own[k]:.3g}" for k in MEASURED))
        found = {method: summary(own) for method, own in each.items()}
        rows = [{"method": method} | own for method, own in found.items()]
        rows += [{"method": f"{method}: not installed"} for method in dict.fromkeys(missing)]
        show(
            f"{name}: averages of pulls, chi2 a bin and seconds; true mean {case.mean}, width {case.width}",
            rows,
        )
        figures[name] = {
            "case": asdict(case),
            "errors": {"mean": errors.mean, "width": errors.width, "fractions": errors.fractions.tolist()},
            "methods": found,
            "each": each,
            "not_installed": sorted(set(missing)),
        }
    setup = {"events": EVENTS, "iterations": ITERATIONS, "members": MEMBERS, "threads": 1, "peer": PEER}
    record(
        "unfolding_gaussian",
        figures | {"setup": setup | {"network": repr(NETWORK), "settings": SETTINGS.to_dict()}},
        "omnifold",
        "tensorflow",
    )
    if EVENTS >= 100_000:
        for name in gaussian.CASES:
            for method in (
                f"neyman, parallel {MEMBERS}",
                f"neyman, step {MEMBERS}",
                "histogram, misses corrected",
            ):
                assert figures[name]["methods"][method]["chi2_per_bin"] < 2.0, (name, method)

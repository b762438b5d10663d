"""ECD against Adam and Lion on two problems with exactly known ratio, after arXiv:2501.18419, section III.

Every line trains all its initialisations as one stack, on the same events and with the same number of steps. The
paper's mean absolute error (MAE) of the ratio is averaged over them. It is taken after the last step (``mae``) and in
the state of the best held-out loss (``mae_best``). Unlike the paper there is no dropout.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neyman.networks import MLP
from neyman.training import BCE, PairObjective, Sample, Settings, train
from neyman.training.ecd import default_eta

sys.path.insert(0, str(Path(__file__).parent))
from ecd_problems import PROBLEMS, Problem

pytestmark = pytest.mark.benchmark

EVENTS, HELD_OUT, STEPS, BATCH, INITIALISATIONS = 100_000, 5_000, 800, 256, 10
PAPER = {
    "thrust": {
        "ECD default": "1.48(29)e-3",
        "Adam default": "3.20(87)e-3",
        "Adam scanned": "2.59(27)e-3",
        "ECD default, wide": "1.58(18)e-3",
        "Adam default, wide": "3.23(19)e-3",
        "ECD default, deep": "1.87(58)e-3",
        "Adam default, deep": "2.72(42)e-3",
    },
    "jets": {"ECD scanned": "0.391(4)", "Adam default": "0.398(5)", "Adam scanned": "0.398(5)"},
}


@dataclass(frozen=True)
class Line:
    """One way to train."""

    name: str
    optimizer: str
    learning_rate: float
    schedule: str = "constant"
    eta_factor: float = 1.0


LINES = (
    Line("ECD default", "ecd", 1.0),
    *(Line(f"ECD dt {rate:g}", "ecd", rate) for rate in (0.1, 0.5, 2.0)),
    Line("ECD dt 1, eta/10", "ecd", 1.0, eta_factor=0.1),
    Line("ECD dt 1, 10 eta", "ecd", 1.0, eta_factor=10.0),
    Line("ECD dt 0.3, cosine", "ecd", 0.3, "cosine"),
    Line("ECD dt 1, eta/10, cosine", "ecd", 1.0, "cosine", eta_factor=0.1),
    Line("ECD dt 1, 10 eta, cosine", "ecd", 1.0, "cosine", eta_factor=10.0),
    Line("Adam default", "adam", 1e-3),
    *(Line(f"Adam {rate:g}", "adam", rate) for rate in (1e-4, 3e-4, 1e-2)),
    Line("Adam 3e-3, cosine", "adam", 3e-3, "cosine"),
    Line("Lion 3e-4, cosine", "lion", 3e-4, "cosine"),
)
LARGE = tuple(line for line in LINES if line.name in ("ECD default", "Adam default", "Adam 3e-3, cosine"))


def result(problem: Problem, line: Line, hidden: tuple[int, ...], members: int) -> dict[str, Any]:
    """Train and judge."""
    started = time.process_time()
    events = torch.from_numpy(np.concatenate([problem.numerator, problem.denominator]))
    network = MLP(hidden, "relu").build(
        events.shape[1], members=members, seed=3, scaling=(events.mean(dim=0), events.std(dim=0))
    )
    options = {}
    if line.optimizer == "ecd":
        options["eta"] = line.eta_factor * default_eta(network.parameters(), STEPS, members=members)
    settings = Settings(
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=line.learning_rate,
        optimizer=line.optimizer,  # type: ignore[arg-type]
        optimizer_options=options,
        schedule=line.schedule,  # type: ignore[arg-type]
        warmup=0.05 if line.schedule == "cosine" else 0.0,
        evaluations=8,
    )
    parts = [
        [Sample(x, np.ones(len(x))) for x in (side[HELD_OUT:], side[:HELD_OUT])]
        for side in (problem.numerator, problem.denominator)
    ]
    objective = PairObjective(
        BCE(),
        (parts[0][0], parts[1][0]),
        (parts[0][1], parts[1][1]),
        members=members,
        batch_size=BATCH,
        seed=5,
    )
    last: list[np.ndarray] = []

    def log_ratio() -> np.ndarray:
        with torch.no_grad():
            batches = torch.from_numpy(problem.test).split(8192)
            return BCE().log_ratio(torch.cat([network(x)[..., 0] for x in batches], dim=1)).numpy()

    def at_the_end(step: int) -> None:
        if step == STEPS:
            last.append(log_ratio())

    history = train(network, objective, settings, progress=at_the_end)
    errors, best = problem.errors(last[0]), problem.errors(log_ratio())
    return {
        "name": line.name,
        "mae": float(errors.mean()),
        "mae_std": float(errors.std(ddof=1)),
        "mae_best": float(best.mean()),
        "mae_best_std": float(best.std(ddof=1)),
        "mae_of_mean": float(problem.errors(last[0].mean(axis=0)[None])[0]),
        "spread": float(np.exp(last[0]).std(axis=0, ddof=1) @ problem.weight),
        "held_out_loss": float(np.mean(history.validation[-1])),
        "learning_rate": line.learning_rate,
        "eta": options.get("eta"),
        "members": members,
        "cpu_s": time.process_time() - started,
    }


def best(rows: list[dict[str, Any]], optimizer: str, schedule: str) -> dict[str, Any]:
    """The line of least error among those of an optimizer and a schedule."""
    own = [line.name for line in LINES if (line.optimizer, line.schedule) == (optimizer, schedule)]
    return min((row for row in rows if row["name"] in own), key=lambda row: row["mae"])


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return {"events_per_class": EVENTS, "steps": STEPS, "batch_per_class": BATCH, "paper": PAPER}


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_optimizers_on_a_known_ratio(document, record, show, name):
    """Each learns the ratio, and a falling rate beats a constant one for Adam."""
    torch.set_num_threads(1)
    problem = PROBLEMS[name](EVENTS, 1)
    rows = [result(problem, line, problem.hidden, INITIALISATIONS) for line in LINES]
    for scanned, optimizer, schedule in (
        ("ECD scanned", "ecd", "constant"),
        ("ECD cosine, scanned", "ecd", "cosine"),
        ("Adam scanned", "adam", "constant"),
    ):
        row = best(rows, optimizer, schedule)
        rows.append(row | {"name": scanned, "line": row["name"]})
    if name == "thrust":
        shapes = {"wide": tuple(4 * n for n in problem.hidden), "deep": 4 * problem.hidden}
        rows += [
            result(problem, line, hidden, 3) | {"name": f"{line.name}, {shape}"}
            for shape, hidden in shapes.items()
            for line in LARGE
        ]
    for row in rows:
        row["paper"] = PAPER[name].get(row["name"])
    columns = ("name", "mae", "mae_std", "mae_best", "mae_best_std", "spread", "paper")
    show(
        f"{name}: MAE of the ratio, {INITIALISATIONS} initialisations, {STEPS} steps of {BATCH} events a class",
        [{key: row[key] for key in columns} for row in rows],
    )
    flat = float(problem.errors(np.zeros((1, len(problem.test)), dtype=np.float32))[0])
    document[name] = {"mae_of_ratio_one": flat, "rows": rows}
    record("ecd", document, "lion-pytorch")

    error = {row["name"]: row["mae"] for row in rows}
    for line in ("ECD scanned", "Adam default", "Adam 3e-3, cosine", "Lion 3e-4, cosine"):
        assert error[line] < 0.65 * flat
    assert error["Adam 3e-3, cosine"] < error["Adam default"]

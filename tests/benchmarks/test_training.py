"""Training and fit times of the main job's pieces, each beside a named peer in the same run."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager

import numpy as np
import pytest

import neyman as ny
from neyman.networks import MLP
from neyman.ratios import LRE
from neyman.training import Settings

pytestmark = pytest.mark.benchmark


def seconds(work, repeat=3):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def show(title, rows):
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


@pytest.mark.parametrize("batch_size", [256, 512])
def test_training_time(record, batch_size):
    """Five members in one pass against a Python loop over five single networks."""
    rng = np.random.default_rng(1)
    p, q = (
        ny.EventTable.from_arrays(
            {f"x{i}": rng.normal(m, 1, 40_000) for i in range(15)}, features=tuple(f"x{i}" for i in range(15))
        )
        for m in (0.1, -0.1)
    )
    settings = Settings(steps=200, batch_size=batch_size, evaluations=2)
    stacked = LRE(MLP((64, 64, 64)), ensemble=5, settings=settings)
    single = LRE(MLP((64, 64, 64)), ensemble=1, settings=settings)
    one_pass = seconds(lambda: stacked.fit(p, q, seed=1), repeat=2)
    loop = seconds(lambda: [single.fit(p, q, seed=s) for s in range(5)], repeat=2)
    rows = [
        {"what": "five members in one pass", "s": one_pass, "ms a step": 1e3 * one_pass / 200},
        {"what": "loop over five networks", "s": loop, "ms a step": 1e3 * loop / 200},
    ]
    show(
        f"training, batch {batch_size} of each class, 64 x 64 x 64: loop / one pass = {loop / one_pass:.2f}",
        rows,
    )
    record(f"training_{batch_size}", {"rows": rows, "speedup": loop / one_pass})


@contextmanager
def pyhf_minuit():
    """pyhf's numpy backend with minuit; its state is restored."""
    import pyhf

    backend, optimizer = pyhf.get_backend()
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer())
    try:
        yield pyhf
    finally:
        pyhf.set_backend(backend, optimizer)


def test_fit_time(record, repository, shared_data):
    """Fits with errors: pyhf (numpy, minuit) against neyman on the same documents, and the unbinned fit."""
    documents = {
        "htautau binned": repository / "workspaces" / "htautau" / "workspace" / "binned.json",
        "ATLAS ttbar l+jets": shared_data / "pyhf" / "atlas_ttbar_ljets_xsec.json",
    }
    rows, figures = [], {}
    with pyhf_minuit() as pyhf:
        for name, path in documents.items():
            spec = json.loads(path.read_text())
            workspace = pyhf.Workspace(spec)
            model = workspace.model()
            data = workspace.data(model)
            peer = seconds(
                lambda m=model, d=data: pyhf.infer.mle.fit(d, m, return_uncertainties=True), repeat=1
            )
            lh = ny.Likelihood.from_pyhf(spec)
            own = seconds(lambda lh=lh: ny.fit(lh))
            rows.append(
                {
                    "fit": name,
                    "parameters": len(lh.names),
                    "neyman s": own,
                    "pyhf s": peer,
                    "ratio": peer / own,
                }
            )
            figures[name] = {
                "parameters": len(lh.names),
                "neyman_s": own,
                "pyhf_s": peer,
                "ratio": peer / own,
            }
    lh = ny.Likelihood.load(repository / "workspaces" / "htautau" / "workspace")
    own = seconds(lambda: ny.fit(lh))
    rows.append(
        {
            "fit": "htautau unbinned + binned",
            "parameters": len(lh.names),
            "neyman s": own,
            "pyhf s": "-",
            "ratio": "-",
        }
    )
    figures["htautau unbinned + binned"] = {"parameters": len(lh.names), "neyman_s": own}
    show("fits with HESSE", rows)
    record("fit", figures, "pyhf", "iminuit")

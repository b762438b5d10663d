"""Jets of two tunes of Pythia behind a detector, for OmniFold: tables in the order of a PET, observables and bins.

`examples/unfolding/generate.py` makes the events and says what the columns are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import neyman as ny

GENERATE = Path(__file__).parents[2] / "examples" / "unfolding" / "generate.py"
SAMPLES = ("simulation", "data")
PARTICLES = 16
PARTICLE = ("eta", "phi", "log_z")
EVENT = ("log_pt", "log_mass", "log_multiplicity")

EDGES: dict[str, NDArray[Any]] = {
    name: np.array(edges)
    for name, edges in {
        "pt": (110.0, 120.0, 130.0, 140.0, 155.0, 170.0, 190.0, 215.0, 250.0, 300.0, 400.0, 6500.0),
        "mass": (0.0, 4.0, 6.0, 7.5, 9.0, 10.5, 12.0, 14.0, 17.0, 21.0, 27.0, 40.0, 3000.0),
        "multiplicity": (1.5, 5.5, 7.5, 9.5, 11.5, 13.5, 15.5, 17.5, 20.5, 24.5, 29.5, 36.5, 300.5),
        "width": (0.0, 0.01, 0.015, 0.02, 0.027, 0.035, 0.045, 0.06, 0.08, 0.11, 0.15, 0.2, 0.6),
        "tau21": (0.0, 0.2, 0.3, 0.4, 0.48, 0.54, 0.6, 0.65, 0.7, 0.75, 0.8, 1.0),
        "zg": (0.0, 0.1, 0.13, 0.17, 0.22, 0.28, 0.34, 0.4, 0.45, 0.501),
        "z_lead": (0.0, 0.1, 0.14, 0.18, 0.22, 0.26, 0.3, 0.35, 0.41, 0.48, 0.57, 0.7, 1.01),
    }.items()
}
"""Edges of the bins of the observables; all events of the particle level are inside, the last bins are the tails.

At detector level, where jets count from 100 GeV, some are below the first bin of pt. zg is 0 in the first bin: no
splitting.
"""


def cache() -> Path:
    """Folder of the events: NEYMAN_JETS, or one among the temporary files."""
    return Path(os.environ.get("NEYMAN_JETS") or Path(tempfile.gettempdir()) / "neyman_jets")


def make(folder: Path, events: int = 100_000, seed: int = 1) -> dict[str, Path]:
    """Generate the samples that are not in the folder with as many events, each in a process; return their files."""
    files = {sample: folder / f"{sample}.parquet" for sample in SAMPLES}
    running = {
        sample: subprocess.Popen(
            [sys.executable, GENERATE, sample, f"--events={events}", f"--seed={seed}", "--output", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for sample, file in files.items()
        if not (file.is_file() and pq.read_metadata(file).num_rows == events)
    }
    errors = {sample: process.communicate()[1] for sample, process in running.items()}
    failed = [f"{sample}:\n{errors[sample][-3000:]}" for sample, p in running.items() if p.returncode]
    if failed:
        raise RuntimeError("\n".join(["events could not be generated", *failed]))
    return files


def load(
    folder: Path, sample: str, level: str, *, particles: int = PARTICLES, events: int | None = None
) -> ny.EventTable:
    """Read a level of a sample.

    Parameters
    ----------
    folder
        Where `make` put the samples.
    sample
        ``simulation`` or ``data``.
    level
        ``gen`` or ``reco``.
    particles
        Number of the hardest particles to keep.
    events
        Number of events; all by default.

    Returns
    -------
    Features: eta, phi and log_z of each particle, particle by particle, then `EVENT`. Extra columns: the observables
    of `EDGES`, and ``passes``. Rows are the same events at both levels; features and observables of those that do
    not pass are 0.
    """
    names = [f"particle{i}_{name}" for i in range(particles) for name in PARTICLE]
    observables = list(EDGES)
    table = pq.read_table(
        folder / f"{sample}.parquet",
        columns=[f"pass_{level}", *(f"{level}_{name}" for name in (*names, *observables))],
    ).slice(0, events)
    columns = {key.removeprefix(f"{level}_"): table[key].to_numpy() for key in table.column_names}
    passes = columns.pop(f"pass_{level}")
    # A jet of two collinear particles has no mass.
    least = {"pt": 1.0, "mass": 0.1, "multiplicity": 1.0}
    columns |= {
        f"log_{name}": np.where(passes, np.log(np.maximum(columns[name], low)), 0.0)
        for name, low in least.items()
    }
    return ny.EventTable(
        (*names, *EVENT),
        np.stack([columns[name] for name in (*names, *EVENT)], axis=1),
        np.ones(len(passes)),
        {"passes": passes} | {name: columns[name] for name in observables},
    )

"""A small analysis on synthetic ROOT files: two Gaussian processes, an energy scale, an up/down scale."""

from __future__ import annotations

import json
import uuid

import numpy as np
import uproot

PROCESSOR = """
import awkward as ak
import numpy as np


def build(events, shifts):
    x = events.x * shifts.get("scale", 1.0)
    y = events.y + 0.1 * (shifts.get("offset", 1.0) - 1.0) / 0.1
    records = ak.zip({"x": x, "y": y, "entry_index": ak.local_index(events.x, axis=0)})
    passed = records.x > -2.5
    return {"SR": records[passed & (events.tag == 0)], "CR": records[passed & (events.tag == 1)]}
"""

TOML = """
[analysis]
name = "toy"
luminosity = 2.0
luminosity_uncertainty = 0.02
seed = 3

[events]
processor = "processor.py:build"
features = ["x", "y"]
executor = "iterative"
chunk_size = 3000
replicas = 2

[[samples]]
name = "sig"
files = ["sig.root"]
normfactors = ["mu"]

[[samples]]
name = "bkg"
files = ["bkg_*.root"]
normsys = { bkg_norm = [1.1, 0.9] }

[[systematics]]
name = "scale"
shift = "scale"
sigma = 0.05
ratio = "network"

[[systematics]]
name = "offset"
shift = "offset"
sigma = 0.1
ratio = "updown"

[regions.SR]
fit = "unbinned"

[regions.CR]
fit = "binned"
observable = "y"
edges = [-3.0, 0.0, 3.0]

[training.nominal]
hidden = [16, 16]
ensemble = 2
steps = 300
batch_size = 256
learning_rate = 0.01

[training.updown]
hidden = [8]
ensemble = 2
steps = 40
batch_size = 256

[compare]
observable = "x"
bins = 8
range = [-3.0, 4.0]
classifier_bins = 8

[fit]
bounds = { mu = [-1.0, 10.0] }
profile_points = 5
"""


def write_root(path, mean, n, seed, **replaced):
    rng = np.random.default_rng(seed)
    columns = {
        "x": rng.normal(mean, 1.0, n).astype(np.float32),
        "y": rng.normal(-0.6 * mean, 1.0, n).astype(np.float32),
        "tag": (rng.random(n) < 0.2).astype(np.int32),
        "genWeight": np.ones(n, dtype=np.float32),
    } | replaced
    columns = {name: column for name, column in columns.items() if column is not None}
    # A fixed UUID: the ids of events, and with them all splits and draws, are the same in every run.
    with uproot.recreate(path, uuid_function=lambda: uuid.UUID(int=seed)) as file:
        file.mktree("Events", {name: column.dtype for name, column in columns.items()})
        file["Events"].extend(columns)


def make_toy(folder):
    """Write the analysis into `folder`; returns the path of its TOML."""
    data = folder / "data"
    data.mkdir(parents=True)
    write_root(data / "sig.root", 1.0, 4000, 1)
    write_root(data / "bkg_a.root", -0.5, 4000, 2)
    write_root(data / "bkg_b.root", -0.5, 2000, 3)
    rates = {"sig": {"events_per_inverse_fb": 100.0}, "bkg": {"events_per_inverse_fb": 1000.0}}
    (data / "samples.json").write_text(json.dumps(rates))
    (folder / "processor.py").write_text(PROCESSOR)
    (folder / "analysis.toml").write_text(TOML)
    return folder / "analysis.toml"


class Recorder:
    """Reporter that remembers the steps and can stop the run in the middle of one."""

    def __init__(self, stop_in=None):
        self.steps, self.stop_in = {}, stop_in

    def step(self, name, state):
        self.steps[name] = state

    def progress(self, name, done, total):
        if name == self.stop_in and done > total // 3:
            raise KeyboardInterrupt

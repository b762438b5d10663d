"""Two Gaussians at particle level, smeared, with misses, fakes and background, and the TOML of their unfolding."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ratio_toy import write

MEAN, WIDTH = 0.4, 0.85  # of the data at particle level; the simulation has 0 and 1
EFFICIENCY, FAKES = 0.9, 0.05
N = 5000
TOML = """
name = "toy"

[data]
files = "data.parquet"
cut = "reco_x > -50"

[[background]]
files = "background.parquet"
weight = "w"
cut = "reco_x > -50"

[simulation]
files = "simulation.parquet"
weight = "w"

[detector]
features = ["reco_x"]
passes = "pass_reco"
network = {hidden = [16]}

[particle]
features = ["gen_x"]
passes = "gen_status == 1"
network = {hidden = [16]}

[unfold]
iterations = 2
ensemble = 2
seed = 3

[settings]
steps = 80
batch_size = 512
learning_rate = 0.01
evaluations = 10

[uncertainties]
bootstrap_data = 10
bootstrap_simulation = 10

[systematics]
slope = {up = "exp(0.1 * theory)", down = "exp(-0.1 * theory)"}
efficiency = {up = "1 + 0.02 * (1 + tanh_y)", detector = true}

[[observables]]
name = "x"
column = "gen_x"
detector = "reco_x"
edges = [-2, -1, 0, 1, 2]
unit = "GeV"

[[observables]]
name = "square"
column = "gen_x ** 2"
edges = [0, 0.5, 1, 4]
density = true
"""
# A few steps of one network, no replicas: for what does not depend on how good the result is.
QUICK: dict[str, Any] = {
    "unfold": {"iterations": 1, "ensemble": 1},
    "settings": {"steps": 20, "batch_size": 128, "evaluations": 4},
    "uncertainties": None,
    "systematics": None,
}


def simulated(n: int = N, seed: int = 1, *, mean: float = 0.0, width: float = 1.0) -> dict[str, Any]:
    """Columns of both levels. What a failed level has is NaN in even rows and -999 in odd ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, width, n)
    detected, generated = rng.random(n) < EFFICIENCY, rng.random(n) >= FAKES
    gone = np.where(np.arange(n) % 2, -999.0, np.nan)
    return {
        "gen_x": np.where(generated, x, gone),
        "gen_status": generated.astype(np.int8),
        "reco_x": np.where(detected, x + rng.normal(0.0, 0.5, n), gone),
        "pass_reco": detected,
        "theory": np.where(generated, x, 0.0),
        "tanh_y": np.where(detected, np.tanh(rng.normal(size=n)), gone),
        "w": np.full(n, 0.5),
    }


def samples(n: int = N) -> dict[str, dict[str, Any]]:
    """Columns of data, background and simulation; one of ten data events is background."""
    rng = np.random.default_rng(7)
    seen = simulated(n, 2, mean=MEAN, width=WIDTH)
    seen = seen["reco_x"][seen["pass_reco"]]
    more = rng.normal(1.0, 0.7, (2, n // 10))
    return {
        "data": {"reco_x": np.concatenate([seen, more[0]])},
        "background": {"reco_x": more[1], "w": np.ones(n // 10)},
        "simulation": simulated(n),
    }


def document(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The TOML as a dictionary with changes; a section is merged, None removes a key."""
    return _changed(tomllib.loads(TOML), changes)


def _changed(old: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(old)
    for key, value in changes.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict) and isinstance(new.get(key), dict):
            new[key] = _changed(new[key], value)
        else:
            new[key] = value
    return new


def make_job(
    folder: Path, changes: Mapping[str, Any] | None = None, *, suffix: str = ".parquet", n: int = N
) -> Path:
    """Write events and TOML into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in samples(n).items():
        write(folder / f"{name}{suffix}", columns)
    return configure(folder, changes, suffix=suffix)


def configure(folder: Path, changes: Mapping[str, Any] | None = None, *, suffix: str = ".parquet") -> Path:
    """Write the TOML alone."""
    path = folder / "unfold.toml"
    lines = [f"{key} = {_text(value)}" for key, value in document(changes or {}).items()]
    path.write_text("\n".join(lines).replace(".parquet", suffix))
    return path


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)

"""A small measurement on flat files: a signal, three simulated backgrounds, one from data, and data."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from ratio_toy import write

TOML = """
features = ["x", "y2"]
ensemble = 1

[measurement]
name = "toy"
seed = 3

[columns]
y2 = "0.5 * y"

[cuts]
charge = "q < 0"

[network]
hidden = [8]

[pretraining]
steps = 60
batch_size = 256
learning_rate = 1e-2
evaluations = 5

[settings]
steps = 15
learning_rate = 1e-3
evaluations = 3

[bins]
number = 4

[regions.SR]
fit = "sannt"
cuts = {m = "m < 1"}

[regions.CR]
fit = "binned"
cuts = {m = "m > 2"}
observable = "y"
edges = [-9, 0, 1, 9]

[data]
files = "data.parquet"
"""
SAMPLES: list[dict[str, Any]] = [
    {"name": "sig", "files": "sig.parquet", "weight": "w", "signal": "r", "label": "signal"},
    {
        "name": "bkg",
        "files": ["bkg*.parquet"],
        "weight": "2 * w",
        "scale": 0.5,
        "normsys": {"xs": [1.1, 0.9]},
    },
    {"name": "top", "files": "top.parquet", "weight": "w", "cut": "good", "free": "top_norm"},
]
ESTIMATES: list[dict[str, Any]] = [
    {"name": "fakes", "replace": {"charge": "q > 0"}, "factor": 1.1, "normsys": {"fake_rate": [1.2, 0.8]}}
]
SYSTEMATICS: list[dict[str, Any]] = [
    {"name": "lumi", "factor": [1.02, 0.98]},
    {"name": "scale", "samples": ["sig", "bkg"], "columns": {
        "up": {"x": "x + 0.3", "m": "1.02 * m"}, "down": {"x": "x - 0.3", "m": "0.98 * m"}}},
    {"name": "tilt", "samples": ["bkg"], "weight": {"up": "1 + 0.1 * x", "down": "1 - 0.1 * x"}},
]  # fmt: skip
YIELDS = {"sig": 90.0, "bkg": 3000.0, "top": 900.0, "fakes": 600.0}
MEAN = {"sig": (0.0, 0.0), "bkg": (1.0, 1.0), "top": (-0.5, 1.5), "fakes": (1.5, 0.0)}


def events(kind: str, n: int, seed: int) -> dict[str, Any]:
    """Columns of simulated events; the weights sum to the yield."""
    rng = np.random.default_rng(seed)
    # Charges are opposite but for fakes, and `top` is mostly in the control region.
    opposite = 0.5 if kind == "fakes" else 0.95
    return {
        "x": rng.normal(MEAN[kind][0], 1.0, n),
        "y": rng.normal(MEAN[kind][1], 1.0, n),
        "m": 3.0 * rng.uniform(size=n) ** (0.5 if kind == "top" else 1.5),
        "q": np.where(rng.uniform(size=n) < opposite, -1, 1).astype(np.int32),
        "w": np.full(n, YIELDS[kind] / n),
        "good": rng.uniform(size=n) < 2.0,
    }


def data(seed: int = 9) -> dict[str, Any]:
    """Observed events, without weights."""
    rng = np.random.default_rng(seed)
    parts = [
        events(kind, int(rng.poisson(total)), seed + k) for k, (kind, total) in enumerate(YIELDS.items())
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y", "m", "q")}


def document(**changes: Any) -> dict[str, Any]:
    """The TOML as a dictionary with changes; a section is merged, None removes a key."""
    out = tomllib.loads(TOML) | {"samples": SAMPLES, "estimates": ESTIMATES, "systematics": SYSTEMATICS}
    for key, value in changes.items():
        out[key] = {**out.get(key, {}), **value} if isinstance(value, dict) else value
        if value is None:
            del out[key]
    return out


def make_files(folder: Path, n: int = 3000, suffix: str = ".parquet") -> Path:
    """Write the files of the toy."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, kind in enumerate(("sig", "bkg", "top")):
        write(folder / f"{kind}{suffix}", events(kind, n, k))
    write(folder / f"data{suffix}", data())
    return folder


def make_job(folder: Path, suffix: str = ".parquet", n: int = 3000, **changes: Any) -> Path:
    """Write files and TOML into a folder."""
    make_files(folder, n, suffix)
    path = folder / "sannt.toml"
    path.write_text(as_toml(document(**changes)).replace(".parquet", suffix))
    return path


def as_toml(sections: dict[str, Any]) -> str:
    """A dictionary as TOML, with inline tables below the first level."""
    plain = {key: value for key, value in sections.items() if not _is_section(value)}
    lines = [f"{key} = {_text(value)}" for key, value in plain.items()]
    for key, value in sections.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{_key(k)} = {_text(v)}" for k, v in value.items())]
        elif _is_section(value):
            for one in value:
                lines += [f"[[{key}]]", *(f"{_key(k)} = {_text(v)}" for k, v in one.items())]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(key: str) -> str:
    return key if key.isidentifier() else f'"{key}"'


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)

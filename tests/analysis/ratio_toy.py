"""Two Gaussians of known ratio in files, the TOML of a job on them, and a ratio that is exact."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from neyman.events import EventTable
from neyman.networks import MLP, Description, Part
from neyman.ratios import LRE
from neyman.training import Settings

MEAN = 0.4  # of x in the numerator; -MEAN in the denominator: the log-ratio is 2 MEAN xSHIFT = 0.3  # of that mean by z
SHIFT = 0.3  # of the mean of the numerator by z
TOML = """
name = "toy"
seed = 2
estimator = "lre"
features = ["x", "y"]
ensemble = 2

[numerator]
files = "p.parquet"
label = "signal"

[denominator]
files = ["q.parquet"]

[network]
hidden = [16]

[settings]
steps = 120
batch_size = 512
learning_rate = 0.01
evaluations = 10
"""
# A few steps, and held-back events too few for anything but a large error to fail.
QUICK = {"ensemble": 1, "settings": {"steps": 20, "batch_size": 64, "evaluations": 4}}
SMALL = LRE(MLP((8,)), settings=Settings(steps=60, batch_size=256, learning_rate=1e-2))


def gaussians(n: int = 5000, seed: int = 5) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of numerator and denominator; y is noise, z and entry are further columns."""
    rng = np.random.default_rng(seed)

    def columns(mean: float) -> dict[str, Any]:
        return {
            "x": rng.normal(mean, 1.0, n),
            "y": rng.normal(0.0, 1.0, n),
            "z": rng.uniform(-1.0, 1.0, n),
            "w": np.full(n, 0.5),
            "entry": np.arange(n, dtype=np.int64),
        }

    return columns(MEAN), columns(-MEAN)


def write(path: Path, columns: dict[str, Any]) -> None:
    """Write columns as Parquet or as a ROOT tree, by the suffix."""
    if path.suffix == ".root":
        with uproot.recreate(path) as file:
            file["Events"] = columns
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def make_job(
    folder: Path, changes: dict[str, Any] | None = None, *, suffix: str = ".parquet", n: int = 5000
) -> Path:
    """Write events and TOML into a folder; `changes` replace keys at top level or in a section."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in zip(("p", "q"), gaussians(n), strict=True):
        write(folder / f"{name}{suffix}", columns)
    path = folder / "ratio.toml"
    path.write_text(as_toml(document(changes or {})).replace(".parquet", suffix))
    return path


def document(changes: dict[str, Any]) -> dict[str, Any]:
    """The TOML as a dictionary with changes; a section is merged, None removes a key."""
    parsed = tomllib.loads(TOML)
    for key, value in changes.items():
        if isinstance(value, dict):
            parsed[key] = {**parsed.get(key, {}), **value}
        else:
            parsed[key] = value
        if value is None:
            del parsed[key]
    return parsed


def as_toml(sections: dict[str, Any], prefix: str = "") -> str:
    """A dictionary of numbers, texts, lists and dictionaries as TOML."""
    plain = {k: v for k, v in sections.items() if not isinstance(v, dict)}
    lines = [f"{k} = {_text(v)}" for k, v in plain.items()]
    for key, inner in sections.items():
        if isinstance(inner, dict):
            lines += [f"[{prefix}{key}]", as_toml(inner, f"{prefix}{key}.")]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


class Steps:
    """A reporter that remembers; `stop` raises Ctrl-C when a step has done so much."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.states: dict[str, str] = {}
        self.first: dict[str, int] = {}
        self._stop = stop

    def step(self, name: str, state: str) -> None:
        self.states[name] = state

    def progress(self, name: str, done: int, total: int) -> None:
        assert done <= total
        self.first.setdefault(name, done)
        if self._stop is not None and name == self._stop[0] and done >= self._stop[1]:
            raise KeyboardInterrupt


@dataclass
class ExactModel:
    """Stands for the networks of a ratio: N(MEAN + SHIFT z, 1) over N(-MEAN, 1) in x, times a wrong factor."""

    parameters: tuple[str, ...] = ()
    wrong: Any = lambda x, z: 0.0
    spread: float = 0.0
    range: tuple[float, float] = (-1.0, 1.0)

    @property
    def features(self) -> tuple[str, ...]:
        return ("x", "y")

    @property
    def description(self) -> Description:
        part = Part(network=MLP(), members=2 if self.spread else 1, parameters=self.parameters)
        return Description(
            features=self.features,
            parameters=self.parameters,
            parameter_range=(self.range,) * len(self.parameters),
            parts=(part,),
        )

    def __call__(self, x, z=None, *, aggregate=None):
        x = np.asarray(x, dtype=np.float64)[:, 0]
        at = 0.0 if z is None else np.asarray(z)[:, 0]
        centre = MEAN + SHIFT * at
        return 0.5 * ((x + MEAN) ** 2 - (x - centre) ** 2) + self.wrong(x, at)

    def members(self, x, z=None):
        out = self(x, z)
        return np.stack(
            [
                out + self.spread * np.sin(3.0 * np.asarray(x)[:, 0]),
                out - self.spread * np.sin(3.0 * np.asarray(x)[:, 0]),
            ]
        )


def tables(n: int = 6000, *, shifted: bool = False, seed: int = 8) -> tuple[EventTable, EventTable]:
    """Numerator and denominator events; with `shifted` the numerator's mean follows its z."""
    p, q = gaussians(n, seed)
    if shifted:
        p["x"] = p["x"] + SHIFT * p["z"]
    return (
        EventTable.from_arrays(p, features=("x", "y"), extra=("z",) if shifted else ()),
        EventTable.from_arrays(q, features=("x", "y")),
    )

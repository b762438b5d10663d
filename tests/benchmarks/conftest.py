"""Benchmarks write their figures to ``results/<name>.json``, with what is needed to read them later."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neyman.files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("neyman", "numpy", "torch", "awkward", "uproot", "coffea", "dask", "iminuit", "pyhf", "zuko")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@pytest.fixture(scope="session")
def record() -> Callable[..., None]:
    """``record(name, figures, *peers)`` writes the figures beside versions, processor and load average."""

    def write(name: str, figures: dict[str, Any], *peers: str) -> None:
        versions = {package: _version(package) for package in (*PACKAGES, *peers)}
        document = figures | {
            "versions": {"python": platform.python_version()} | {k: v for k, v in versions.items() if v},
            "processor": {"model": _processor_model(), "cores": os.cpu_count()},
            "load_average": [round(load, 2) for load in os.getloadavg()],
        }
        write_json(RESULTS / f"{name}.json", document)

    return write


@pytest.fixture(scope="session")
def seconds() -> Callable[..., float]:
    """``seconds(work, repeat=3)``: the shortest wall time of some calls."""

    def measure(work: Callable[[], object], repeat: int = 3) -> float:
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    return measure


@pytest.fixture(scope="session")
def show() -> Callable[..., None]:
    """``show(title, rows)`` prints a list of dictionaries as a table."""

    def table(title: str, rows: list[dict[str, Any]]) -> None:
        from rich.console import Console
        from rich.table import Table

        out = Table(title=title)
        for column in dict.fromkeys(key for row in rows for key in row):
            out.add_column(column)
        for row in rows:
            cells = (row.get(column.header, "-") for column in out.columns)
            out.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
        Console(width=140).print(out)

    return table


@pytest.fixture(scope="session")
def pyhf_backend() -> Callable[..., Any]:
    """``with pyhf_backend("numpy", "minuit") as pyhf``: pyhf with a backend and optimizer; restored afterwards."""

    @contextmanager
    def use(backend: str, optimizer: str) -> Iterator[Any]:
        import pyhf

        before = pyhf.get_backend()
        pyhf.set_backend(backend, getattr(pyhf.optimize, f"{optimizer}_optimizer")())
        try:
            yield pyhf
        finally:
            pyhf.set_backend(*before)

    return use


@pytest.fixture(scope="session")
def shape_model() -> Callable[..., dict[str, Any]]:
    """``shape_model(...)`` makes a pyhf workspace of many shape systematics."""
    return _shape_model


def _shape_model(
    channels: int = 12, bins: int = 8, systematics: int = 86, *, staterror: bool = True, seed: int = 1
) -> dict[str, Any]:
    """Return a pyhf workspace of 1 + `systematics` + `channels` x `bins` parameters: a signal strength, histosys
    that act on both samples of every channel, and (unless not wanted) a staterror a bin. By default 183 parameters."""
    rng = np.random.default_rng(seed)
    specification: dict[str, Any] = {
        "channels": [],
        "observations": [],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    for c in range(channels):
        edges = np.linspace(0.0, 1.0, bins)
        background = 200.0 * np.exp(-1.5 * edges) * rng.uniform(0.8, 1.2)
        signal = 30.0 * np.exp(-0.5 * ((edges - 0.6) / 0.15) ** 2) * rng.uniform(0.5, 1.5)
        samples = []
        for name, counts in (("signal", signal), ("background", background)):
            modifiers: list[dict[str, Any]] = []
            if name == "signal":
                modifiers.append({"name": "mu", "type": "normfactor", "data": None})
            for k in range(systematics):
                tilt = rng.normal(0.0, 0.02) + rng.normal(0.0, 0.03) * (edges - 0.5)
                up, down = counts * (1.0 + tilt), counts * (1.0 - tilt * rng.uniform(0.7, 1.3))
                modifiers.append(
                    {
                        "name": f"syst{k}",
                        "type": "histosys",
                        "data": {"hi_data": up.tolist(), "lo_data": down.tolist()},
                    }
                )
            if staterror and name == "background":
                error = counts * rng.uniform(0.02, 0.05, bins)
                modifiers.append({"name": f"stat_{c}", "type": "staterror", "data": error.tolist()})
            samples.append({"name": name, "data": counts.tolist(), "modifiers": modifiers})
        specification["channels"].append({"name": f"channel{c}", "samples": samples})
        observed = rng.poisson(signal + background).astype(float)
        specification["observations"].append({"name": f"channel{c}", "data": observed.tolist()})
    return specification

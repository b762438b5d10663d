"""Benchmarks write their figures to ``results/<name>.json``, with what is needed to read them later."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

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
    """``record(name, figures, *peers)`` writes the figures with versions, processor and load average."""

    def write(name: str, figures: dict[str, Any], *peers: str) -> None:
        versions = {package: _version(package) for package in (*PACKAGES, *peers)}
        document = {
            "figures": figures,
            "versions": {"python": platform.python_version()} | {k: v for k, v in versions.items() if v},
            "processor": {"model": _processor_model(), "cores": os.cpu_count()},
            "load_average": [round(load, 2) for load in os.getloadavg()],
        }
        write_json(RESULTS / f"{name}.json", document)

    return write

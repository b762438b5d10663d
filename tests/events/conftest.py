"""Small NanoAOD-like files, written in every layout that the readers know, and a function that selects them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation

BUILD = """\
import awkward as ak

def build(events, shifts):
    tes = shifts.get("tes", 1.0)
    jets = events.Jet[events.Jet.pt * shifts.get("jes", 1.0) > 30]
    taus = ak.firsts(events.Tau.pt) * tes
    columns = {
        "entry_index": ak.local_index(events, axis=0),
        "tau_pt": ak.fill_none(taus, 0.0),
        "met": events.MET.pt,
        "n_jets": ak.num(jets),
        "jet_charge": ak.sum(events.Jet.charge, axis=1),
    }
    records = ak.zip(columns)
    return {"signal": records[records.tau_pt > 25], "control": records[records.tau_pt <= 25]}
"""


def collections(n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def objects(counts: np.ndarray, *fields: str) -> ak.Array:
        columns = {f: rng.exponential(30.0, counts.sum()).astype(np.float32) for f in fields}
        if "charge" in fields:
            columns["charge"] = rng.choice(np.array([-1, 1], dtype=np.int32), counts.sum())
        return ak.zip({f: ak.unflatten(v, counts) for f, v in columns.items()})

    return {
        "run": np.ones(n, dtype=np.uint32),
        "luminosityBlock": np.ones(n, dtype=np.uint32),
        "event": np.arange(n, dtype=np.uint64),
        "genWeight": rng.normal(1.0, 0.3, n).astype(np.float32),
        "MET_pt": rng.exponential(30.0, n).astype(np.float32),
        "MET_phi": rng.uniform(-3, 3, n).astype(np.float32),
        "Tau": objects(rng.integers(0, 3, n), "pt", "eta", "phi", "mass", "charge"),
        "Jet": objects(rng.integers(0, 5, n), "pt", "eta", "phi", "mass"),
    }


def write_nano(path: Path, n: int = 1000, seed: int = 1, layout: str = "ttree", **changes: Any) -> Path:
    """Write the same events as a TTree, an RNTuple of records, of vectors, or of vectors with counters."""
    data = {key: value for key, value in (collections(n, seed) | changes).items() if value is not None}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if not ak.fields(value):
            flat[key] = value
            continue
        if layout == "rntuple_counters":
            flat[f"n{key}"] = ak.num(value)
        flat |= {f"{key}_{member}": value[member] for member in ak.fields(value)}
    with uproot.recreate(path) as file:
        if layout == "ttree":
            kinds = {k: v.type.content if isinstance(v, ak.Array) else v.dtype for k, v in data.items()}
            file.mktree("Events", kinds).extend(data)
        else:
            file.mkrntuple("Events", data if layout == "rntuple" else flat)
    return path


@pytest.fixture(scope="session")
def nano() -> Callable[..., Path]:
    """The writer of small files."""
    return write_nano


@pytest.fixture
def reference(tmp_path: Path) -> Callable[..., PythonRef]:
    """Make a reference to a function from the text of a file."""

    def make(source: str = BUILD, name: str = "build") -> PythonRef:
        (tmp_path / "processor.py").write_text(source)
        return PythonRef.parse(f"processor.py:{name}", tmp_path)

    return make


@pytest.fixture
def processor(tmp_path: Path, reference: Callable[..., PythonRef]) -> Callable[..., TableProcessor]:
    """Make a processor that writes below tmp_path."""

    def make(source: str = BUILD, folder: str = "out", **changes: Any) -> TableProcessor:
        options: dict[str, Any] = {
            "build": reference(source),
            "variations": (
                Variation("nominal"),
                Variation("tes_up", shifts={"tes": 1.1}),
                Variation("tes_all", sampled={"tes": (0.8, 1.2)}, replicas=2),
            ),
            "regions": {
                "signal": RegionSpec(columns=("tau_pt", "met", "n_jets", "jet_charge")),
                "control": RegionSpec(histogram=("n_jets", (0.0, 1.0, 2.0, 3.0))),
            },
            "folder": tmp_path / folder,
            "seed": 3,
        }
        return TableProcessor(**(options | changes))

    return make

"""The unbinned term beside the same formula by torch autograd, and streamed beside in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.benchmark
WORKER = Path(__file__).parent / "unbinned_worker.py"
COLUMN_BYTES = 63 * 4


@pytest.fixture
def measured():
    """``measured(kind, n, file, threads)`` runs one measurement in a process of its own."""

    def run(kind: str, n: int, path: Path, threads: int = 1, repeat: int = 3) -> dict:
        done = subprocess.run(
            [sys.executable, str(WORKER), kind, str(n), str(path), str(repeat)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        return json.loads(done.stdout) if done.stdout else {}

    return run


def bandwidth(seconds, threads: int) -> float:
    """Bytes a second at which this machine reads memory in a plain sum."""
    array = torch.ones(1 << 27, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return 4.0 * len(array) / seconds(array.sum, repeat=5)
    finally:
        torch.set_num_threads(before)


def test_value_and_gradient(record, seconds, show, measured, tmp_path):
    """1,000,000 events, 3 samples, 10 ratiosys nuisance parameters on each."""
    n, path = 1_000_000, tmp_path / "events.parquet"
    measured("write", n, path)
    rows = []
    for threads in (1, 2):
        ours, peer = (measured(kind, n, path, threads) for kind in ("memory", "autograd"))
        assert ours["value"] == pytest.approx(peer["value"], rel=1e-10)
        np.testing.assert_allclose(ours["gradient"], peer["gradient"], rtol=1e-6, atol=1e-3)
        own_memory, peer_memory = (one["peak_mb"] - one["imports_mb"] for one in (ours, peer))
        speed = (n + 100_000) * COLUMN_BYTES / ours["s"]
        rows += [
            {
                "engine": name,
                "threads": threads,
                "s": one["s"],
                "peak MB": one["peak_mb"],
                "without imports MB": memory,
                "time ratio": peer["s"] / one["s"],
                "memory ratio": memory / peer_memory,
                "columns GB/s": (n + 100_000) * COLUMN_BYTES / one["s"] / 1e9,
            }
            for name, one, memory in (("neyman", ours, own_memory), ("torch autograd", peer, peer_memory))
        ]
        rows[-2]["of read bandwidth"] = speed / bandwidth(seconds, threads)
    show("unbinned value + gradient, 1,000,000 events", rows)
    record("unbinned", {"rows": rows})


def test_streaming(record, show, measured, tmp_path):
    """10,000,000 events from Parquet under 1 GB beside the same in memory."""
    n, path = 10_000_000, tmp_path / "events.parquet"
    measured("write", n, path)
    rows, values = [], []
    for threads in (1, 2):
        memory, streamed = (measured(kind, n, path, threads, repeat=2) for kind in ("memory", "streamed"))
        values += [memory["value"], streamed["value"]]
        rows += [
            {
                "events": name,
                "threads": threads,
                "s": one["s"],
                "peak MB": one["peak_mb"],
                "time ratio": one["s"] / memory["s"],
            }
            for name, one in (("in memory", memory), ("streamed", streamed))
        ]
    assert values == pytest.approx([values[0]] * 4, rel=1e-12)
    show("unbinned value + gradient, 10,000,000 events", rows)
    record("streaming", {"rows": rows, "file_gb": path.stat().st_size / 1e9})

"""One measurement of the unbinned term in a process of its own, so that its peak memory is its own.

``python unbinned_worker.py KIND N_EVENTS FILE`` prints JSON; KIND is ``memory``,
``streamed``, ``autograd`` or ``write``.
Three samples, each with a normfactor and ten ratiosys nuisance parameters: 63 columns of float32.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from neyman.likelihood import Constraint, Events, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.events import StreamedEvents
from neyman.likelihood.shapes import UpDownRatio
from neyman.likelihood.yields import NormFactor
from neyman.workspace.columns import read_columns

SAMPLES, RATIOS, N_REFERENCE, ROWS = 3, 10, 100_000, 1 << 17
COLUMNS = [f"s{s}" for s in range(SAMPLES)] + [
    f"s{s}k{k}{side}" for s in range(SAMPLES) for k in range(RATIOS) for side in "ud"
]
THETA = np.array([1.1, 0.9, 1.05, *np.linspace(-0.8, 0.9, RATIOS)])


def drawn(n: int, seed: int) -> dict[str, np.ndarray]:
    """Log-ratios of the size that classifiers give: nominal ones around one unit, variations of a few per cent."""
    generator = np.random.default_rng(seed)
    return {
        name: (1.0 if "k" not in name else 0.05) * generator.standard_normal(n, dtype=np.float32)
        for name in COLUMNS
    }


def write(n: int, path: Path) -> None:
    """Write `n` events in pieces, uncompressed floats in row groups of a moderate size."""
    schema = pa.schema([(name, pa.float32()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer:
        for piece, first in enumerate(range(0, n, ROWS)):
            writer.write_table(pa.table(drawn(min(ROWS, n - first), 100 + piece), schema=schema))


def read(path: Path) -> Events:
    columns = read_columns(path, COLUMNS)
    return Events(np.ones(len(columns[COLUMNS[0]])), columns)


def term(data: Events | StreamedEvents) -> UnbinnedTerm:
    samples = [
        UnbinnedSample(
            f"s{s}",
            len(data) / SAMPLES,
            f"s{s}",
            (NormFactor(f"mu{s}"),),
            tuple(UpDownRatio(f"a{k}", f"s{s}k{k}u", f"s{s}k{k}d") for k in range(RATIOS)),
        )
        for s in range(SAMPLES)
    ]
    unit = Constraint("normal", 0.0, 1.0)
    parameters = [Parameter(f"mu{s}", 1.0, 0.0, 10.0) for s in range(SAMPLES)]
    parameters += [Parameter(f"a{k}", 0.0, -5.0, 5.0, constraint=unit) for k in range(RATIOS)]
    reference = Events(np.ones(N_REFERENCE), drawn(N_REFERENCE, 1))
    return UnbinnedTerm("x", samples, parameters, data=data, reference=reference)


def autograd(data: Events):
    """The slow reference of the tests, as it stands."""
    path = Path(__file__).parents[1] / "likelihood" / "unbinned_reference.py"
    spec = importlib.util.spec_from_file_location("unbinned_reference", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    samples = [
        module.Sample(
            lambda theta, s=s: theta[s] * (len(data) / SAMPLES),
            f"s{s}",
            [(SAMPLES + k, f"s{s}k{k}u", f"s{s}k{k}d") for k in range(RATIOS)],
        )
        for s in range(SAMPLES)
    ]
    reference = (np.ones(N_REFERENCE), drawn(N_REFERENCE, 1))
    return module.Model(samples, (data.weight, data.columns), reference)


def megabytes() -> float:
    """Peak memory of this process; ``ru_maxrss`` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024.0


def main(kind: str, n: int, path: Path, repeat: int) -> None:
    imported = megabytes()
    if kind == "write":
        write(n, path)
        return
    data = StreamedEvents(path, None, COLUMNS) if kind == "streamed" else read(path)
    if kind == "autograd":
        model = autograd(data)
        del data
        work = lambda: model.value_and_gradient(THETA)  # noqa: E731
    else:
        model, theta = term(data), torch.tensor(THETA)

        def work():
            found = model.evaluate(theta, 1)
            return float(found.value), found.gradient.numpy()

    value, gradient = work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "s": min(times),
                "value": value,
                "gradient": gradient.tolist(),
                "imports_mb": imported,
                "peak_mb": megabytes(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))

"""A scorer where the rest of the package's dependencies is absent or old, as in frameworks pinned to coffea 0.7."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

ABSENT = (
    "awkward",
    "uproot",
    "hist",
    "boost_histogram",
    "pyhf",
    "iminuit",
    "vector",
    "coffea",
    "dask",
    "pyarrow",
)
CODE = """
import sys
for name in {absent}:
    sys.modules[name] = None
import numpy as np
from neyman.events.scoring.scorer import Scorer
assert not [name for name in {heavy} if sys.modules.get(name)]
x = np.load({x!r})
scorer = Scorer.load({folder!r}, backend={backend!r}, device="cpu")
scores = scorer(x, {{"tes": 0.4}})
assert np.array_equal(scorer({{"b": x[:, 1], "a": x[:, 0]}}, {{"tes": 0.4}}), scores)
assert np.array_equal(scorer.many({{"nominal": x, "up": x}}, {{"tes": 0.4}})["up"], scores)
np.save({out!r}, scores)
"""


@pytest.mark.parametrize(
    ("backend", "absent"),
    [("torch", ("zuko",)), ("onnx", ("torch", "zuko", "scipy", "safetensors", "onnx", "onnxscript"))],
)
def test_lean_environment(exported, x, tmp_path, backend, absent):
    np.save(tmp_path / "x.npy", x)
    model = exported / ("m.safetensors" if backend == "torch" else "m.onnx")
    code = CODE.format(
        absent=(*ABSENT, *absent),
        heavy={"torch", "onnxruntime", "aiohttp", "scipy"},
        x=str(tmp_path / "x.npy"),
        folder=str(model),
        backend=backend,
        out=str(tmp_path / "y.npy"),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from neyman import Scorer

    expected = Scorer.load(exported, backend="torch")(x, {"tes": 0.4})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=2e-6)

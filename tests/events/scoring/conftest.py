"""Small models in files, as they are and exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from neyman.events.scoring import export_onnx, export_pt2
from neyman.events.scoring import reference as cache
from neyman.networks import MLP, Calibration, Description, Model, Part


def make_model(
    features: tuple[str, ...] = ("a", "b"),
    parameters: tuple[str, ...] = (),
    seed: int = 1,
    members: int = 3,
    outputs: int = 1,
    **description: Any,
) -> Model:
    inputs = len(features) + len(parameters)
    network = MLP((8,)).build(inputs, members=members, outputs=outputs, seed=seed)
    parts = (Part(network=MLP((8,)), members=members, outputs=outputs, parameters=parameters),)
    return Model(
        [network],
        Description(
            features=features,
            parameters=parameters,
            parameter_range=((-1.0, 1.0),) * len(parameters),
            parts=parts,
            **description,
        ),
    )


@pytest.fixture(scope="session")
def make() -> Callable[..., Model]:
    """Make an untrained model."""
    return make_model


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Model]:
    """``save("m", ...)`` makes a model and writes it to ``tmp_path/m.safetensors``."""

    def write(name: str = "m", **options: Any) -> Model:
        model = make_model(**options)
        model.save(tmp_path / f"{name}.safetensors")
        return model

    return write


@pytest.fixture
def events() -> ak.Array:
    """50 records with the fields a, b, c."""
    rng = np.random.default_rng(1)
    return ak.zip({name: rng.normal(size=50) for name in "abc"})


@pytest.fixture
def x(events: ak.Array) -> np.ndarray:
    """The fields a and b as a matrix."""
    return np.stack([events.a.to_numpy(), events.b.to_numpy()], axis=1).astype(np.float32)


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make this process as a fresh worker: nothing is opened."""

    def fresh() -> None:
        monkeypatch.setattr(cache, "_CACHE", cache._Cache())

    return fresh


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditioned and calibrated ensemble as ``m`` with the suffixes of all backends."""
    folder = tmp_path_factory.mktemp("exported")
    calibration = Calibration(
        method="isotonic",
        scale=1.5,
        shift=0.1,
        knots=(-0.5, -0.1, 0.0, 0.2, 0.6),
        values=(-1.0, -0.2, 0.1, 0.1, 0.9),
    )
    model = make_model(parameters=("tes",), members=4, aggregate="median", calibration=calibration)
    model.save(folder / "m.safetensors")
    export_onnx(model, folder / "m.onnx")
    export_pt2(model, folder / "m.pt2")
    return folder

"""`neyman export` and what scorers make of its files."""

from __future__ import annotations

import numpy as np
import pytest

import neyman as ny
from neyman.networks import MLP, Description, Model, Part

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


@pytest.fixture
def model(tmp_path):
    part = Part(network=MLP((8,)), members=3)
    description = Description(features=("x", "y"), parts=(part,))
    return Model([part.build(2, seed=1)], description).save(tmp_path / "model.safetensors")


def test_onnx_stands_beside_the_model_and_is_used(model, as_json):
    document = as_json("export", model.parent, "--aggregate", "median")
    assert document["files"] == [str(model.with_suffix(".onnx"))]
    x = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    scorer = ny.Scorer.load(model, device="cpu", aggregate="median")
    assert scorer.backends == {"model": "onnx"}
    np.testing.assert_allclose(scorer(x), Model.load(model)(x, aggregate="median"), atol=1e-5)


def test_pt2_goes_where_it_is_told(model, call, tmp_path):
    assert "other.pt2" in call("export", model, tmp_path / "other.pt2", "--to", "pt2").stdout
    assert (tmp_path / "other.pt2").is_file()


def test_errors(model, tmp_path, call):
    def fails(*arguments, match):
        assert match in call("export", *arguments, code=1).stderr

    fails(tmp_path / "no.safetensors", match="no.safetensors does not exist")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", match="there is no model to export")
    model.with_name("second.safetensors").write_bytes(model.read_bytes())
    fails(tmp_path, tmp_path / "one.onnx", match="2 models and one output file")

"""The model file: bit-identical round trip, and files that are broken or made to harm."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neyman.errors import InputError, WorkspaceError
from neyman.networks import MLP, NSF, PET, Description, Model, Part, combine, match_features

RNG = np.random.default_rng(1)
X = RNG.normal(size=(9000, 2)).astype(np.float32)  # more than one batch


def make(**changes: Any) -> Model:
    settings: dict[str, Any] = {
        "features": ("a", "b"),
        "hidden": (6, 4),
        "activation": "silu",
        "members": 3,
        "outputs": 1,
        "kind": "score",
        "parameters": (),
    } | changes
    architecture = MLP(settings.pop("hidden"), settings.pop("activation"))
    sizes = {"members": settings.pop("members"), "outputs": settings.pop("outputs")}
    inputs = len(settings["features"]) + len(settings["parameters"])
    scaling = (torch.full((inputs,), 0.5), torch.full((inputs,), 2.0))
    network = architecture.build(inputs, **sizes, seed=3, scaling=scaling)
    part = Part(network=architecture, parameters=settings["parameters"], **sizes)
    return Model([network], Description(parts=(part,), **settings))


def conditioned() -> Model:
    return make(parameters=("z",), parameter_range=((-2.0, 2.0),), kind="log_ratio", notes={"p": "signal"})


@pytest.mark.parametrize("model", [make(), conditioned(), make(outputs=2, activation="relu")])
def test_save_and_load_is_bit_identical(model: Model, tmp_path: Path) -> None:
    loaded = Model.load(model.save(tmp_path / "m.safetensors"))
    assert loaded.description == model.description
    z = [0.5] if model.parameters else None
    np.testing.assert_array_equal(loaded.members(X, z), model.members(X, z))
    again = loaded.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "m.safetensors"]


def test_shapes_and_batches() -> None:
    model = make()
    whole = model.members(X)
    assert whole.shape == (3, 9000)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole[:, :10], model.members(X[:10]), atol=1e-6)
    assert make(outputs=2).members(X).shape == (3, 9000, 2)
    assert model.members(X[:0]).shape == (3, 0)
    assert model(X[:0]).shape == (0,)


def test_one_value_of_a_parameter_or_one_an_event() -> None:
    model = conditioned()
    np.testing.assert_array_equal(model(X, [0.7]), model(X, np.full((len(X), 1), 0.7)))
    np.testing.assert_array_equal(model(X, 0.7), model(X, [0.7]))
    assert not np.allclose(model(X, [0.7]), model(X, [-0.7]))


def test_aggregates() -> None:
    members = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [10.0, 9.0]], dtype=np.float32)
    np.testing.assert_array_equal(combine(members), [4.0, 6.0])
    np.testing.assert_array_equal(combine(members, "median"), [2.5, 5.0])
    np.testing.assert_array_equal(combine(members, "truncated_mean"), [2.5, 5.0])
    model = make()
    np.testing.assert_array_equal(model(X, aggregate="median"), np.median(model.members(X), axis=0))
    with pytest.raises(InputError, match="at least 3 members, got 2"):
        combine(members[:2], "truncated_mean")
    with pytest.raises(InputError, match="unknown aggregate 'max'"):
        combine(members, "max")  # type: ignore[arg-type]


def test_input_errors() -> None:
    plain, model = make(), conditioned()
    with pytest.raises(InputError, match=r"shape \(n_events, 2\), got \(5, 3\)\n.*features a, b"):
        plain.members(np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"got \(2,\)"):
        plain.members(np.zeros(2))
    with pytest.raises(InputError, match="no nuisance-parameter inputs, but values were given"):
        plain.members(X, [0.0])
    with pytest.raises(InputError, match="conditioned on z: give their values"):
        model.members(X)
    with pytest.raises(InputError, match=r"nuisance parameters have shape \(2,\)"):
        model.members(X, [0.0, 1.0])
    with pytest.raises(InputError, match=r"nuisance parameters have shape \(3, 1\)"):
        model.members(X, np.zeros((3, 1)))
    bad = X.copy()
    bad[[8500, 8600], 1] = np.nan
    with pytest.raises(InputError, match=r"output of 2 events is not finite\n.*first at event 8500"):
        plain.members(bad)
    with pytest.raises(InputError, match=r"no feature 'pt'\n.*\n.*Pt"):
        match_features(["pt"], ["Pt", "eta"], "events")


# Files ------------------------------------------------------------------------------------------------------


def broken(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> Path:
    save_file(tensors, path, metadata=metadata)
    return path


def state(model: Model) -> dict[str, torch.Tensor]:
    return {f"parts.0.{name}": tensor.clone() for name, tensor in model.stacks[0].state_dict().items()}


def test_files_that_are_no_model(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    with pytest.raises(WorkspaceError, match=r"m\.safetensors does not exist"):
        Model.load(file)
    for content in (b"", b"not a model", pickle.dumps({"a": 1}), b"\xff" * 8 + b"{}"):
        file.write_bytes(content)
        with pytest.raises(WorkspaceError, match="not a readable safetensors file"):
            Model.load(file)
    whole = make().save(tmp_path / "whole.safetensors").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkspaceError, match="not a readable safetensors file"):
        Model.load(file)


def test_missing_and_broken_descriptions(tmp_path: Path) -> None:
    tensors = state(make())
    for metadata in (None, {"other": "x"}):
        with pytest.raises(WorkspaceError, match="carries no neyman description"):
            Model.load(broken(tmp_path / "m.safetensors", tensors, metadata))
    good = json.loads(make().description.model_dump_json())
    part = good["parts"][0]
    for text in (
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({**good, "format": "neyman-model-1"}),
        json.dumps({**good, "code": "import os"}),
        json.dumps({**good, "parts": []}),
        json.dumps({**good, "parts": [{**part, "members": 0}]}),
        json.dumps({**good, "parts": [{**part, "link": "pickle"}]}),
        json.dumps({**good, "parts": [{**part, "parameters": ["z"]}]}),
        json.dumps({**good, "parts": [{**part, "network": {**part["network"], "activation": "os.system"}}]}),
        json.dumps({**good, "parts": [{**part, "network": {**part["network"], "kind": "lambda"}}]}),
        json.dumps({**good, "parts": [part, {**part, "members": 2}]}),
        json.dumps({**good, "features": []}),
        json.dumps({**good, "parameters": ["z"]}),
        json.dumps({**good, "parameter_range": [[-1.0, 1.0]]}),
    ):
        with pytest.raises(WorkspaceError, match="has a broken description"):
            Model.load(broken(tmp_path / "m.safetensors", tensors, {"neyman": text}))


@pytest.mark.parametrize(
    ("features", "part", "where"),
    [
        (("a", "b", "c"), {}, "layers.0.weight"),
        (("a", "b"), {"network": MLP((6, 5))}, "layers.1.bias"),
        (("a", "b"), {"network": MLP((6,))}, "layers.1.bias"),
        (("a", "b"), {"members": 10_000}, "layers.0.bias"),
        (("a", "b"), {"network": MLP((1_000_000_000, 4))}, "layers.0.bias"),  # must not ask for the memory
        (("a", "b"), {"outputs": 2}, "layers.2.bias"),
    ],
)
def test_tensors_that_do_not_fit_the_description(
    features: tuple[str, ...], part: dict[str, Any], where: str, tmp_path: Path
) -> None:
    description = make().description
    changed = description.parts[0].model_copy(update=part)
    text = description.model_copy(update={"features": features, "parts": (changed,)}).model_dump_json()
    with pytest.raises(WorkspaceError, match=rf"do not fit its description\n.*{where}"):
        Model.load(broken(tmp_path / "m.safetensors", state(make()), {"neyman": text}))


def test_missing_and_foreign_tensors(tmp_path: Path) -> None:
    text = {"neyman": make().description.model_dump_json()}
    tensors = state(make())
    del tensors["parts.0.layers.1.bias"]
    with pytest.raises(WorkspaceError, match=r"layers\.1\.bias is missing"):
        Model.load(broken(tmp_path / "m.safetensors", tensors, text))
    with pytest.raises(WorkspaceError, match=r"layers\.9\.bias: not present"):
        Model.load(
            broken(tmp_path / "m.safetensors", state(make()) | {"parts.0.layers.9.bias": torch.ones(1)}, text)
        )


def test_non_finite_tensors_do_not_pass_in_silence(tmp_path: Path) -> None:
    tensors = state(make())
    tensors["parts.0.layers.2.bias"][1] = torch.nan
    loaded = Model.load(
        broken(tmp_path / "m.safetensors", tensors, {"neyman": make().description.model_dump_json()})
    )
    with pytest.raises(InputError, match="output of 5 events is not finite"):
        loaded.members(X[:5])


@pytest.mark.parametrize(
    ("architecture", "parameters", "settings"),
    [
        (NSF(transforms=2, hidden=(8,), bins=4), ("z",), {"kind": "log_density"}),
        (PET(particles=3, particle_features=2, dim=8, neighbours=2, blocks=1), ("z",), {"kind": "log_ratio"}),
    ],
    ids=["flow", "particles"],
)
def test_every_architecture_has_a_file(
    architecture: NSF | PET, parameters: tuple[str, ...], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Six particle features, or plain ones; loading takes the shapes from the description alone."""
    features = tuple("abcdef")
    part = Part(network=architecture, members=2, parameters=parameters)
    stack = architecture.build(len(features) + 1, context=1, members=2, seed=3)
    description = Description(
        features=features, parameters=parameters, parameter_range=((-1.0, 1.0),), parts=(part,), **settings
    )
    model = Model([stack], description)
    x = RNG.normal(size=(50, 6)).astype(np.float32)
    loaded = Model.load(model.save(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(loaded.members(x, [0.3]), model.members(x, [0.3]))
    assert loaded.description == description


def test_a_sum_of_parts_and_one_member_beside_many(tmp_path: Path) -> None:
    """Numerator minus a reference without the nuisance parameter, which has a single member."""
    features, architecture = ("a", "b"), MLP((5,))
    stacks = [architecture.build(3, members=4, seed=1), architecture.build(2, members=1, seed=2)]
    parts = (
        Part(network=architecture, members=4, parameters=("z",)),
        Part(network=architecture, members=1, sign=-1),
    )
    model = Model(
        stacks,
        Description(features=features, parameters=("z",), parameter_range=((-1.0, 1.0),), parts=parts),
    )
    inputs = torch.from_numpy(np.c_[X[:20], np.full(20, 0.5, dtype=np.float32)])
    with torch.no_grad():
        expected = (stacks[0](inputs) - stacks[1](inputs[:, :2]))[..., 0].numpy()
    np.testing.assert_allclose(model.members(X[:20], [0.5]), expected, rtol=1e-6)
    assert model.description.members == 4
    loaded = Model.load(model.save(tmp_path / "sum.safetensors"))
    np.testing.assert_array_equal(loaded.members(X, [0.5]), model.members(X, [0.5]))


def test_links_are_applied() -> None:
    model = make(kind="log_ratio")
    raw = model.members(X[:50])
    linked = Model(
        model.stacks,
        model.description.model_copy(
            update={"parts": (model.description.parts[0].model_copy(update={"link": "gaussian"}),)}
        ),
    )
    z = torch.from_numpy(raw).double()
    exact = torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)
    np.testing.assert_allclose(linked.members(X[:50]), exact.numpy(), rtol=1e-4, atol=1e-5)


def test_parameters_outside_the_trained_range() -> None:
    model = conditioned()
    model.members(X, [2.0])
    for value in (2.1, np.nan):
        with pytest.raises(InputError, match=r"(?s)'z' = .* is outside the range.*-2 to 2.*wider range"):
            model.members(X, [value])
    each = np.zeros((len(X), 1))
    each[77] = -2.5
    with pytest.raises(InputError, match=r"'z' = -2\.5 is outside"):
        model.members(X, each)


def test_values_that_changed_on_the_way_are_noticed(tmp_path: Path) -> None:
    file = make().save(tmp_path / "m.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40
    file.write_bytes(bytes(content))
    with pytest.raises(WorkspaceError, match="are not those that were written"):
        Model.load(file)

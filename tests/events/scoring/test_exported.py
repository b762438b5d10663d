"""Exported models: the same numbers in every backend, one file, no code of strangers, the choice of `auto`."""

from __future__ import annotations

import contextlib
import shutil
import zipfile
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neyman import Scorer
from neyman.errors import ConfigError, InputError, WorkspaceError
from neyman.events.scoring import choice, export, export_onnx, export_pt2, onnx_file, session
from neyman.events.scoring.signature import AGGREGATES
from neyman.networks import MLP, NSF, PET, Aggregate, Calibration, Description, Model, Part, combine

SUFFIX = {"torch": ".safetensors", "onnx": ".onnx", "pt2": ".pt2"}


@pytest.mark.parametrize("backend", ["torch", "onnx", "pt2"])
@pytest.mark.parametrize("given_by", ["model", "own file"])
def test_backends_agree(exported, events, x, backend, given_by):
    file = exported / ("m.safetensors" if given_by == "model" else f"m{SUFFIX[backend]}")
    scorer = Scorer.load(file, backend=backend, trusted=backend == "pt2", batch_size=20)
    assert scorer.backends == {"m": backend}
    assert (scorer.features, scorer.parameters) == (("a", "b"), ("tes",))
    expected = Model.load(exported / "m.safetensors")(x, [0.4])
    for n in (50, 1, 0):
        scores = scorer(events[:n], {"tes": 0.4})
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected[:n], atol=2e-6)
    shifted = events[::-1]
    together = scorer.many({"nominal": events, "up": shifted})
    np.testing.assert_allclose(together["up"], scorer(shifted), atol=1e-6)
    with pytest.raises(InputError, match="'tes' = 2 is outside the range"):
        scorer(events, {"tes": 2.0})


@given(
    aggregate=st.sampled_from(AGGREGATES),
    members=st.integers(3, 6),
    seed=st.integers(0, 100),
)
def test_aggregates_in_the_graph(aggregate, members, seed):
    values = np.random.default_rng(seed).normal(0.0, 3.0, (members, 7)).astype(np.float32)
    found = export._combined(torch.from_numpy(values).double()[..., None], aggregate)[:, 0]
    np.testing.assert_allclose(found.numpy(), combine(values, aggregate), rtol=1e-6, atol=1e-6)


@settings(max_examples=200)
@given(n=st.integers(1, 70), seed=st.integers(0, 1000))
def test_calibration_in_the_graph(n, seed):
    generator = np.random.default_rng(seed)
    knots = np.cumsum(generator.exponential(1.0, n))
    values = np.cumsum(generator.exponential(1.0, n) * generator.integers(0, 2, n))
    x = np.concatenate([generator.uniform(-2.0, n + 2.0, 50), knots])
    found = export._interpolated(*(torch.from_numpy(t) for t in (x, knots, values)))
    np.testing.assert_allclose(found.numpy(), np.interp(x, knots, values), rtol=1e-12, atol=1e-12)


def test_functions_in_the_graph():
    z = torch.cat([torch.linspace(-20.0, 40.0, 1201), torch.tensor([-0.0, 1e-30, 1e4, torch.inf])])
    np.testing.assert_allclose(export._log_normal_cdf(z), torch.special.log_ndtr(z), rtol=2e-7, atol=2e-7)
    x = torch.cat([torch.linspace(-5.0, 5.0, 101), torch.tensor([0.0, 1e-30, -1e30, 1e30])])
    for y in (1.0, -2.0):
        np.testing.assert_allclose(
            export._angle(torch.full_like(x, y), x), torch.atan2(torch.full_like(x, y), x), rtol=1e-6
        )


@pytest.mark.parametrize("link", ["gaussian", "arctan"])
def test_links_as_onnx(tmp_path, link):
    """Their tails, where a log-ratio is large, and the middle, where it is 0."""
    network = MLP((2,))
    stack = network.build(1, members=1, seed=1)
    with torch.no_grad():
        stack.layers[-1].weight *= 100.0
        stack.layers[-1].bias.zero_()
    model = Model([stack], Description(features=("a",), parts=(Part(network=network, members=1, link=link),)))
    path = model.save(tmp_path / "m.safetensors")
    export_onnx(model, tmp_path / "m.onnx")
    x = np.linspace(-4.0, 4.0, 801, dtype=np.float32)[:, None]
    expected = model(x)
    assert np.abs(expected).max() > (500.0 if link == "gaussian" else 5.0)
    scores = Scorer.load(path, backend="onnx", device="cpu")(x)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("aggregate", ["median", "truncated_mean_ratio"])
def test_extreme_members(tmp_path, make, aggregate):
    """Ratios that overflow are combined as by torch, and a member that is not finite is not left out."""
    model = make(members=4, aggregate=aggregate)
    with torch.no_grad():
        model.stacks[0].layers[-1].weight *= 1e4
    path = model.save(tmp_path / "m.safetensors")
    export_onnx(model, path.with_suffix(".onnx"))
    export_pt2(model, path.with_suffix(".pt2"))
    generator = np.random.default_rng(1)
    x = generator.normal(0.0, 3.0, (100, 2)).astype(np.float32)
    expected = model(x)
    assert np.abs(expected).max() > 2000.0
    members = make(members=4, aggregate=aggregate)
    with torch.no_grad():
        members.stacks[0].layers[-1].bias[2] = torch.inf
    members.save(tmp_path / "inf.safetensors")
    for backend in ("torch", "onnx", "pt2"):
        scorer = Scorer.load(path, backend=backend, trusted=True, device="cpu")
        np.testing.assert_allclose(scorer(x), expected, rtol=1e-5, atol=1e-2)
    infinite = export._Graph(members, None)
    assert torch.isnan(infinite(torch.from_numpy(x))).all()


def other_model(network):
    columns = 2 if isinstance(network, NSF) else 7
    names = tuple(f"x{k}" for k in range(columns))
    stack = network.build(columns, members=2, seed=1)
    return Model([stack], Description(features=names, parts=(Part(network=network, members=2),)))


NETWORKS = (
    NSF(transforms=1, bins=3, hidden=(4,)),
    PET(3, 2, dim=4, heads=1, local_blocks=1, blocks=1, head_blocks=1),
)


@pytest.mark.parametrize("network", [NETWORKS[0], pytest.param(NETWORKS[1], marks=pytest.mark.slow)])
def test_other_networks(tmp_path, network):
    model = other_model(network)
    export_pt2(model, tmp_path / "m.pt2")
    inputs = export.random_inputs(model, 600, seed=1)
    scores = Scorer.load(tmp_path, trusted=True)(inputs)
    np.testing.assert_allclose(scores, model(inputs), atol=1e-5)
    many = np.tile(inputs, (40, 1))  # more than a flow evaluates at once elsewhere
    assert len(Scorer.load(tmp_path, trusted=True, batch_size=1 << 20)(many)) == len(many)
    assert "_block" not in vars(model.stacks[0])


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_other_networks_as_onnx(tmp_path, network):
    model = other_model(network)
    export_onnx(model, tmp_path / "m.onnx")
    inputs = export.random_inputs(model, 600, seed=1)
    np.testing.assert_allclose(Scorer.load(tmp_path, backend="onnx")(inputs), model(inputs), atol=1e-5)


def test_one_file_that_says_what_it_is(exported):
    document = onnx.load(exported / "m.onnx", load_external_data=False)
    assert sorted(p.name for p in exported.iterdir()) == ["m.onnx", "m.pt2", "m.safetensors"]
    assert [port.name for port in (*document.graph.input, *document.graph.output)] == ["inputs", "scores"]
    assert [d.dim_param or d.dim_value for d in document.graph.input[0].type.tensor_type.shape.dim][1] == 3
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in document.graph.initializer)


def test_a_wrong_export_is_not_written(tmp_path, make, monkeypatch):
    monkeypatch.setattr(export, "_combined", lambda members, aggregate: members[0] + 0.25)
    with pytest.raises(InputError, match=r"(?s)differs from the model by 0\.\d+ on random events"):
        export_pt2(make(), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_an_aggregate_that_the_model_cannot_have(tmp_path, make):
    with pytest.raises(InputError, match="a truncated mean needs at least 3 members"):
        export_pt2(make(members=2), tmp_path / "m.pt2", aggregate="truncated_mean")


def test_auto_takes_onnx_where_it_can(exported, tmp_path, monkeypatch):
    def backend(**options):
        return Scorer.load(exported, **options).backends["m"]

    monkeypatch.setattr(choice, "_DRIVER", tmp_path / "no driver")
    assert backend() == backend(device="cpu") == "onnx"
    assert backend(device="cuda") == backend(backend="torch") == "torch"
    monkeypatch.setattr(choice, "_DRIVER", tmp_path)  # a driver, of a GPU that torch sees or not
    assert backend() == ("torch" if torch.cuda.is_available() else "onnx")
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert backend() == "torch"


def test_another_aggregate_than_the_exported_one(exported):
    assert Scorer.load(exported, device="cpu", aggregate="median").backends == {"m": "onnx"}
    with pytest.raises(
        ConfigError, match=r"(?s)the median of the members is part of the exported model 'm', not"
    ):
        Scorer.load(exported / "m.onnx", aggregate="mean")


def test_auto_evaluates_another_aggregate_by_torch(tmp_path, save):
    model = save()
    export_onnx(model, tmp_path / "m.onnx")
    assert Scorer.load(tmp_path, device="cpu", aggregate="mean").backends == {"m": "onnx"}
    assert Scorer.load(tmp_path, device="cpu", aggregate="median").backends == {"m": "torch"}


def test_an_aggregate_that_a_model_cannot_have_is_refused_at_once(exported, tmp_path, save):
    """Not on the workers."""
    with pytest.raises(
        ConfigError, match=r"(?s)'m' was calibrated for the median of its members, not for mean"
    ):
        Scorer.load(exported, aggregate="mean", backend="torch")
    save(members=2)
    with pytest.raises(ConfigError, match="a truncated mean needs at least 3 members, the model 'm' has 2"):
        Scorer.load(tmp_path, aggregate="truncated_mean_ratio")
    with pytest.raises(ConfigError, match=r"(?s)unknown aggregate 'mode'.*one of mean, median"):
        Scorer.load(tmp_path, aggregate="mode")
    assert get_args(Aggregate) == AGGREGATES


def test_an_export_of_another_model(exported, make, tmp_path):
    for name in ("m.onnx", "m.pt2"):
        shutil.copy(exported / name, tmp_path)
    make(parameters=("tes",), members=4, seed=7).save(tmp_path / "m.safetensors")
    with pytest.raises(WorkspaceError, match=r"(?s)m\.onnx was exported from another model.*export it again"):
        Scorer.load(tmp_path, device="cpu")
    with pytest.raises(WorkspaceError, match=r"m\.pt2 was exported from another model"):
        Scorer.load(tmp_path, backend="pt2", trusted=True)


def test_not_exported(tmp_path, save):
    save()
    with pytest.raises(
        WorkspaceError, match=r"(?s)'m' has not been exported to \.onnx.*scoring\.export_onnx\("
    ):
        Scorer.load(tmp_path, backend="onnx")
    (tmp_path / "m.pt2").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"m\.pt2 is not evaluated by onnx"):
        Scorer.load(tmp_path / "m.pt2", backend="onnx")


def test_a_pt2_file_is_not_opened_unless_trusted(exported, tmp_path, monkeypatch):
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(torch.export, "load", opened)
    for path in (exported, exported / "m.pt2"):
        with pytest.raises(ConfigError, match=r"(?s)m\.pt2 can run code when torch opens it.*trusted=True"):
            Scorer.load(path, backend="pt2")


def test_only_the_trusted_bytes_are_opened(exported, tmp_path, events, forget, monkeypatch):
    shutil.copy(exported / "m.pt2", tmp_path)
    scorer = Scorer.load(tmp_path, trusted=True)
    (tmp_path / "m.pt2").write_bytes(b"other")
    forget()
    with pytest.raises(WorkspaceError, match="is not the one that this scorer was made with"):
        scorer(events)


def test_broken_files(tmp_path, exported):
    for suffix, message in (
        (".onnx", "the model 'm' is no ONNX file: a field"),
        (".pt2", "not a readable torch.export program"),
    ):
        (tmp_path / f"m{suffix}").write_bytes(b"broken")
        with pytest.raises(WorkspaceError, match=message):
            Scorer.load(tmp_path / f"m{suffix}", trusted=True)
    document = onnx.load(exported / "m.onnx")
    document.metadata_props[0].value = '{"width": 0}'
    onnx.save(document, tmp_path / "m.onnx")
    with pytest.raises(WorkspaceError, match="the description of the model is broken"):
        Scorer.load(tmp_path / "m.onnx")


def test_external_data_are_refused(exported, tmp_path, monkeypatch):
    """Also where ONNX runtime finds them: in the working directory."""
    document = onnx.load(exported / "m.onnx")
    onnx.save(document, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        WorkspaceError, match=r"(?s)model 'm' has data in other files.*in one file \(external_data=False\)"
    ):
        Scorer.load(tmp_path / "m.onnx")


def elsewhere(location="m.data"):
    tensor = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=[2], data_location=onnx.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    return tensor


def place_in(document, where):
    """Hide a tensor in one of the places that a model has for them."""
    branch = onnx.GraphProto(name="branch", initializer=[elsewhere()])
    sparse = onnx.SparseTensorProto(values=elsewhere(), dims=[2])
    attributes = {
        "constant": {"t": elsewhere()},
        "constants": {"tensors": [elsewhere()]},
        "branch": {"g": branch},
        "branches": {"graphs": [branch]},
        "sparse constant": {"sparse_tensor": sparse},
    }
    if where == "initializer":
        document.graph.initializer.append(elsewhere())
    elif where == "sparse":
        document.graph.sparse_initializer.append(sparse)
    elif where == "function":
        document.functions.add().node.add().attribute.add(name="v", t=elsewhere())
    elif where == "training":
        document.training_info.add().algorithm.initializer.append(elsewhere())
    else:
        document.graph.node.add().attribute.add(name="v", **attributes[where])


@pytest.mark.parametrize(
    "where",
    [
        *("initializer", "sparse", "constant", "constants", "branch", "branches", "sparse constant"),
        *("function", "training"),
    ],
)
def test_external_data_are_found_anywhere(where):
    document = onnx.ModelProto(ir_version=10)
    document.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3), "x"))
    assert onnx_file.is_complete(document.SerializeToString())
    place_in(document, where)
    assert not onnx_file.is_complete(document.SerializeToString())


def test_the_fields_are_those_of_onnx():
    for name, fields in onnx_file.FIELDS.items():
        kind = getattr(onnx, name).DESCRIPTOR
        own = {f.number: f.message_type.name for f in kind.fields if f.message_type is not None}
        assert fields == {number: other for number, other in own.items() if other in onnx_file.FIELDS}
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["data_location"].number == onnx_file.LOCATION


@settings(max_examples=200)
@given(data=st.binary(max_size=40))
def test_any_bytes(data):
    with contextlib.suppress(ValueError):
        onnx_file.is_complete(data)


def test_a_damaged_program(exported, tmp_path):
    """What a decompressor says of a damaged archive is an error of ours."""
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/extra/neyman.json", "{" + " " * 1000 + "}")
    data = bytearray(path.read_bytes())
    data[49:55] = b"\xff" * 6  # the compressed text follows a header of 30 bytes and its name
    path.write_bytes(bytes(data))
    with pytest.raises(WorkspaceError, match=r"not a readable torch\.export program"):
        Scorer.load(path, trusted=True)


def foreign(path, outputs, inputs=1):
    helper = onnx.helper
    kind = onnx.TensorProto.FLOAT
    ports = [helper.make_tensor_value_info(f"x{k}", kind, ["n", 2]) for k in range(inputs)]
    shape = ["n"] if outputs is None else ["n", outputs]
    out = helper.make_tensor_value_info("y", kind, shape)
    nodes = (
        [helper.make_node("ReduceSum", ["x0", "axis"], ["y"], keepdims=0)]
        if outputs is None
        else [helper.make_node("Identity", ["x0"], ["y"])]
    )
    axis = helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "foreign", ports, [out], [axis])
    document = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(document, path)


def test_onnx_of_other_origin(tmp_path, events, x):
    foreign(tmp_path / "sum.onnx", None)
    foreign(tmp_path / "same.onnx", 2)
    scorer = Scorer.load(tmp_path / "sum.onnx", features=("a", "b"))
    np.testing.assert_allclose(scorer(events), x.sum(axis=1), rtol=1e-6)
    assert np.array_equal(Scorer.load(tmp_path / "same.onnx")(x), x)
    spec = Scorer.load(tmp_path / "same.onnx", features={"features": {"one": "b", "two": "a"}})
    assert np.array_equal(spec(events), x[:, ::-1])
    with pytest.raises(InputError, match=r"(?s)does not name its features.*features=\('pt'"):
        Scorer.load(tmp_path / "sum.onnx")(events)
    with pytest.raises(ConfigError, match="1 features are described, but the model 'sum' takes 2"):
        Scorer.load(tmp_path / "sum.onnx", features=("a",))
    foreign(tmp_path / "two.onnx", None, inputs=2)
    with pytest.raises(WorkspaceError, match=r"(?s)takes and gives x0 .*x1 .*expected: one float32 matrix"):
        Scorer.load(tmp_path / "two.onnx")


def test_an_output_on_its_side_is_not_taken_for_rows():
    for good in (np.zeros((64, 2)), np.zeros((64, 1, 2)), np.zeros((64, 2, 1))):
        assert session.shaped(good, 64, 2, "m").shape == (64, 2)
    for bad in (np.zeros((2, 64)), np.zeros(128), np.zeros((64, 3)), np.zeros(())):
        with pytest.raises(WorkspaceError, match=r"(?s)gave an array of shape .* for 64 events.*\(64, 2\)"):
            session.shaped(bad, 64, 2, "m")


def test_conditioned_and_calibrated_flow_of_parts(tmp_path):
    """A sum of parts with different inputs, offsets and an affine calibration."""
    parts = (
        Part(network=MLP((4,)), members=2, parameters=("z",), link="gaussian"),
        Part(network=MLP((4,)), members=1, sign=-1),
    )
    stacks = [MLP((4,)).build(3, members=2, seed=1), MLP((4,)).build(2, members=1, seed=2)]
    description = Description(
        features=("a", "b"),
        parameters=("z",),
        parameter_range=((-2.0, 3.0),),
        parts=parts,
        offsets=(0.1, 0.2),
        calibration=Calibration(method="platt", scale=2.0, shift=-0.3),
    )
    model = Model(stacks, description)
    export_pt2(model, tmp_path / "m.pt2")
    x = np.random.default_rng(1).normal(size=(100, 2)).astype(np.float32)
    scores = Scorer.load(tmp_path / "m.pt2", trusted=True)(x, {"z": 2.5})
    np.testing.assert_allclose(scores, model(x, [2.5]), atol=1e-6)

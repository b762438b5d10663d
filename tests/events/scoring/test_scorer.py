"""The scorer inside a processor: what it accepts and gives, and what it refuses."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from neyman import Scorer
from neyman.errors import ConfigError, InputError, WorkspaceError
from neyman.networks import MLP, Model


def test_awkward_mapping_records_and_matrix_agree(tmp_path, save, events, x):
    model = save()
    scorer = Scorer.load(tmp_path / "m.safetensors")
    expected = model(x)
    records = np.rec.fromarrays([events.b, events.a], names="b,a")
    matrix = ak.from_regular(ak.Array(x), axis=1)
    for given in (events, {"b": events.b, "a": x[:, 0]}, x, x.astype(np.float64), matrix, records):
        np.testing.assert_allclose(scorer(given), expected, atol=1e-6)
    assert scorer(events).dtype == np.float32


def test_several_models_give_a_record(tmp_path, save, events, x):
    one, two = save("one"), save("two", features=("b", "c"), seed=2)
    scorer = Scorer.load(tmp_path)
    scores = scorer(events)
    assert scorer.features == ("a", "b", "c")
    assert scores.fields == ["one", "two"]
    np.testing.assert_allclose(scores.one, one(x), atol=1e-6)
    np.testing.assert_allclose(scores.two, two(np.stack([events.b, events.c], axis=1)), atol=1e-6)


def test_several_outputs(tmp_path, save, events, x):
    model = save(outputs=3, kind="score")
    scorer = Scorer.load(tmp_path)
    assert scorer(events).shape == (50, 3)
    np.testing.assert_allclose(scorer(events), model(x), atol=1e-6)
    assert scorer(events[:0]).shape == (0, 3)
    save("other")
    records = Scorer.load(tmp_path)(events)
    np.testing.assert_allclose(records.m, model(x), atol=1e-6)
    assert str(records[:0].type) == "0 * {m: 3 * float32, other: float32}"


@pytest.mark.parametrize("aggregate", ["median", "truncated_mean", "mean_ratio"])
def test_aggregate(tmp_path, save, events, x, aggregate):
    model = save()
    np.testing.assert_allclose(
        Scorer.load(tmp_path, aggregate=aggregate)(events), model(x, aggregate=aggregate), atol=1e-6
    )


def test_score_is_the_sigmoid(tmp_path, save, events, x):
    model = save()
    score = Scorer.load(tmp_path, output="score")(events)
    np.testing.assert_allclose(score, 1.0 / (1.0 + np.exp(-model(x).astype(float))), rtol=1e-7)
    save(kind="log_density")
    with pytest.raises(ConfigError, match=r"(?s)has no scores: it gives a log_density.*output=\"log_ratio\""):
        Scorer.load(tmp_path, output="score")


def test_nuisance_parameter_inputs(tmp_path, save, events, x):
    model = save(parameters=("tes",))
    scorer = Scorer.load(tmp_path)
    assert scorer.parameters == ("tes",)
    np.testing.assert_allclose(scorer(events), model(x, [0.0]), atol=1e-6)
    np.testing.assert_allclose(scorer(events, {"tes": 0.7}), model(x, [0.7]), atol=1e-6)


def test_nuisance_parameters_are_known_and_in_range(tmp_path, save, events):
    save("one", parameters=("tes",))
    save("two", parameters=("jes",))
    scorer = Scorer.load(tmp_path)
    assert len(scorer(events, {"jes": 1.0})) == 50
    with pytest.raises(InputError, match=r"(?s)no model is conditioned on 'tse'.*nearest names: tes"):
        scorer(events, {"tse": 0.5})
    for value in (1.2, np.nan):
        with pytest.raises(InputError, match=rf"(?s)'jes' = {value} is outside the range.*-1 to 1"):
            scorer(events, {"jes": value})
    for value in ("0.5", [0.1, 0.2], None, True):
        with pytest.raises(
            InputError, match=r"(?s)nuisance parameter 'jes' is .*one number, the same for all"
        ):
            scorer(events, {"jes": value})
    with pytest.raises(InputError, match="z is a list"):
        scorer(events, [0.5])


@pytest.mark.parametrize("n", [0, 1, 2])
def test_short_chunks(tmp_path, save, events, x, n):
    model = save()
    scores = Scorer.load(tmp_path)(events[:n])
    assert scores.shape == (n,)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, model(x)[:n], atol=1e-6)


def test_scores_do_not_depend_on_the_batch(tmp_path, save, events, x):
    save(members=10)
    expected = Scorer.load(tmp_path)(events)
    for batch in (1, 7, 49, 50):
        assert np.array_equal(Scorer.load(tmp_path, batch_size=batch)(events), expected)


def test_scaling_is_part_of_the_model(tmp_path, make, events, x):
    scaling = (np.array([3.0, -2.0]), np.array([0.5, 4.0]))
    import torch

    network = MLP((8,)).build(2, members=3, seed=1, scaling=tuple(map(torch.tensor, scaling)))
    plain = make()
    Model([network], plain.description).save(tmp_path / "m.safetensors")
    scaled = ((x - scaling[0]) / scaling[1]).astype(np.float32)
    np.testing.assert_allclose(Scorer.load(tmp_path)(events), plain(scaled), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: ak.without_field(e, "b"), r"(?s)no feature 'b'.*nearest names"),
        (
            lambda e: ak.with_field(e, ak.mask(e.b, e.b > 0), "b"),
            r"feature 'b' is missing \(masked\) in \d+ of 50 events",
        ),
        (
            lambda e: {"a": e.a, "b": np.ma.masked_array(e.b, e.b > 0)},
            r"feature 'b' is missing \(masked\) in \d+ of 50 events",
        ),
        (
            lambda e: np.ma.masked_array(np.zeros((5, 2)), np.eye(5, 2)),
            "the matrix of features has masked values",
        ),
        (lambda e: ak.with_field(e, ak.singletons(e.b), "b"), r"feature 'b' is jagged: 2 dimensions"),
        (lambda e: ak.with_field(e, ak.unflatten(e.b, [0, 2, 48] + [0] * 47), "b"), "feature 'b' is jagged"),
        (
            lambda e: ak.with_field(e, np.where(np.arange(50) == 7, np.nan, e.b), "b"),
            r"(?s)'b' is not finite.*event 7; 1 of 50",
        ),
        (lambda e: {"a": e.a, "b": e.b * 1e300}, r"(?s)'b' is not finite.*event 0; 50 of 50"),
        (lambda e: ak.with_field(e, ["x"] * 50, "b"), r"feature 'b' is (jagged|not a number)"),
        (lambda e: ak.with_field(e, ak.zip({"x": e.b}), "b"), "feature 'b' is not a number"),
        (lambda e: {"a": e.a, "b": e.b[:7]}, r"(?s)different lengths.*a: 50, b: 7"),
        (lambda e: np.zeros((5, 3)), r"expected a matrix of shape \(n_events, 2\), got \(5, 3\)"),
        (lambda e: np.array([["x", "y"]]), "no matrix of numbers"),
        (lambda e: np.array([["1", "2"]]), "no matrix of numbers: <U1"),
        (lambda e: np.array([[1, 2]], dtype=object), "no matrix of numbers: object"),
        (lambda e: np.ones((1, 2)) * 1j, "no matrix of numbers: complex128"),
        (lambda e: "events.root", "the events are a str"),
    ],
)
def test_bad_events(tmp_path, save, events, change, message):
    save()
    with pytest.raises(InputError, match=message):
        Scorer.load(tmp_path)(change(events))


def test_outputs_that_are_not_finite(tmp_path, make, events):
    import torch

    model = make(members=1)
    with torch.no_grad():
        model.stacks[0].layers[-1].weight *= 1e37
    model.save(tmp_path / "m.safetensors")
    large = ak.with_field(events, np.where(np.arange(50) % 20 == 7, 1e3, 0.0), "a")
    scorer = Scorer.load(tmp_path)
    with pytest.raises(InputError, match=r"(?s)output of 3 events is not finite.*first at event 7"):
        scorer(large)
    with pytest.raises(InputError, match=r"(?s)3 events is not finite.*variation 'up', first at event 7"):
        scorer.many({"nominal": events[:0], "up": large})


def test_no_model(tmp_path, save):
    with pytest.raises(WorkspaceError, match="there is no model at"):
        Scorer.load(tmp_path)
    with pytest.raises(WorkspaceError, match="the file of model 'a' does not exist"):
        Scorer({"a": tmp_path / "a.safetensors"})
    with pytest.raises(WorkspaceError, match="at least one model file"):
        Scorer({})
    with pytest.raises(WorkspaceError, match=r"(?s)'a' is of an unknown kind.*\.safetensors, \.onnx, \.pt2"):
        Scorer({"a": tmp_path / "a.h5"})
    (tmp_path / "b.safetensors").write_bytes(b"not a model")
    with pytest.raises(WorkspaceError, match="'b' carries no neyman description"):
        Scorer.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, r"(?s)unknown backend 'tensorflow'.*auto, torch, onnx"),
        ({"device": "gpu"}, r"(?s)unknown device 'gpu'.*cuda:0"),
        ({"output": "logit"}, "unknown output 'logit'"),
        ({"output": "bin"}, "has no bins"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threads": True}, "threads is True"),
        ({"features": 3}, "features are a int"),
        ({"features": ("a",)}, "1 features are described|do not describe 'b'"),
        ({"backend": "triton"}, "is not evaluated by triton"),
    ],
)
def test_bad_options(tmp_path, save, options, message):
    save()
    with pytest.raises(ConfigError, match=message):
        Scorer.load(tmp_path, **options)


def test_a_gpu_that_is_not_there(tmp_path, save, events):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    save()
    with pytest.raises(ConfigError, match=r"(?s)no device 'cuda:1' on this machine: 0 CUDA.*device=\"auto\""):
        Scorer.load(tmp_path, device="cuda:1")(events)


def test_digest_is_of_models_options_and_features(tmp_path, save):
    def digest(**options):
        return Scorer.load(tmp_path, **options).digest

    save()
    first = digest()
    assert first == digest(device="cpu", batch_size=7, threads=1)
    others = [digest(aggregate="median"), digest(output="score"), digest(features=("a", "b"))]
    save(seed=2)
    assert len({first, *others, digest()}) == 5

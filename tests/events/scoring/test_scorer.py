"""The scorer inside a processor: what it accepts, refuses, and carries across processes."""

from __future__ import annotations

import pickle

import awkward as ak
import numpy as np
import pytest

from neyman import Scorer
from neyman.errors import InputError, WorkspaceError
from neyman.events.scoring import scorer as module
from neyman.networks import MLP, Description, Model, Part


def save(path, features=("a", "b"), parameters=(), seed=1):
    network = MLP((8,)).build(len(features) + len(parameters), members=3, seed=seed)
    description = Description(
        features=features,
        parameters=parameters,
        parameter_range=((-1.0, 1.0),) * len(parameters),
        parts=(Part(network=MLP((8,)), members=3, parameters=parameters),),
    )
    model = Model([network], description)
    model.save(path)
    return model


@pytest.fixture
def events():
    rng = np.random.default_rng(1)
    return ak.zip({"a": rng.normal(size=50), "b": rng.normal(size=50), "other": rng.normal(size=50)})


def test_awkward_mapping_and_matrix_agree(tmp_path, events):
    model = save(tmp_path / "m.safetensors")
    scorer = Scorer.load(tmp_path / "m.safetensors")
    matrix = np.stack([events.a, events.b], axis=1)
    expected = model(matrix)
    assert np.array_equal(scorer(events), expected)
    assert np.array_equal(scorer({"b": events.b, "a": events.a}), expected)
    assert np.array_equal(scorer(matrix), expected)
    assert scorer(events).dtype == np.float32


def test_several_models_give_a_record(tmp_path, events):
    one, two = save(tmp_path / "one.safetensors"), save(tmp_path / "two.safetensors", ("b", "other"), seed=2)
    scores = Scorer.load(tmp_path)(events)
    assert scores.fields == ["one", "two"]
    assert np.array_equal(scores.one, one(np.stack([events.a, events.b], axis=1)))
    assert np.array_equal(scores.two, two(np.stack([events.b, events.other], axis=1)))


def test_nuisance_parameter_inputs(tmp_path, events):
    model = save(tmp_path / "m.safetensors", parameters=("tes",))
    scorer = Scorer.load(tmp_path)
    matrix = np.stack([events.a, events.b], axis=1)
    assert np.array_equal(scorer(events), model(matrix, [0.0]))
    assert np.array_equal(scorer(events, {"tes": 0.7}), model(matrix, [0.7]))


def test_nuisance_parameters_are_known_and_in_range(tmp_path, events):
    save(tmp_path / "one.safetensors", parameters=("tes",))
    save(tmp_path / "two.safetensors", parameters=("jes",))
    scorer = Scorer.load(tmp_path)
    assert len(scorer(events, {"jes": 1.0})) == 50
    with pytest.raises(InputError, match=r"(?s)no model is conditioned on 'tse'.*nearest names: tes"):
        scorer(events, {"tse": 0.5})
    for value in (1.2, np.nan):
        with pytest.raises(InputError, match=rf"(?s)'jes' = {value} is outside the range.*-1 to 1"):
            scorer(events, {"jes": value})


def test_pickle_is_small_and_loads_once_per_process(tmp_path, events, monkeypatch):
    save(tmp_path / "m.safetensors")
    scorer = Scorer.load(tmp_path)
    expected = scorer(events)
    text = pickle.dumps(scorer)
    assert len(text) < 1000
    loads = []
    monkeypatch.setattr(module, "_CACHE", {})
    original = Model.load
    monkeypatch.setattr(Model, "load", lambda path: loads.append(path) or original(path))
    for _ in range(5):  # coffea unpickles the processor for every chunk
        assert np.array_equal(pickle.loads(text)(events), expected)  # noqa: S301
    assert len(loads) == 1


def test_empty_chunk(tmp_path, events):
    save(tmp_path / "m.safetensors")
    scores = Scorer.load(tmp_path)(events[:0])
    assert scores.shape == (0,)
    assert scores.dtype == np.float32


def test_replaced_model_file_is_noticed(tmp_path, events, monkeypatch):
    save(tmp_path / "m.safetensors")
    scorer = Scorer.load(tmp_path)
    save(tmp_path / "m.safetensors", seed=9)
    monkeypatch.setattr(module, "_CACHE", {})
    with pytest.raises(WorkspaceError, match="is not the one that this scorer was made with"):
        scorer(events)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: ak.without_field(e, "b"), r"(?s)no feature 'b'.*nearest names"),
        (
            lambda e: ak.with_field(e, ak.mask(e.b, e.b > 0), "b"),
            r"feature 'b' is missing \(masked\) in \d+ of 50 events",
        ),
        (lambda e: ak.with_field(e, ak.singletons(e.b), "b"), r"feature 'b' is jagged: 2 dimensions"),
        (
            lambda e: ak.with_field(e, np.where(np.arange(50) == 7, np.nan, e.b), "b"),
            r"(?s)'b' is not finite.*event 7; 1 of 50",
        ),
        (lambda e: ak.with_field(e, ["x"] * 50, "b"), r"feature 'b' is (jagged|not a number)"),
        (lambda e: np.zeros((5, 3)), r"expected a matrix of shape \(n_events, 2\), got \(5, 3\)"),
    ],
)
def test_bad_events(tmp_path, events, change, message):
    save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=message):
        Scorer.load(tmp_path)(change(events))


def test_no_model(tmp_path):
    with pytest.raises(WorkspaceError, match="there is no model at"):
        Scorer.load(tmp_path)
    with pytest.raises(WorkspaceError, match="the file of model 'a' does not exist"):
        Scorer({"a": tmp_path / "a.safetensors"})
    with pytest.raises(WorkspaceError, match="at least one model file"):
        Scorer({})

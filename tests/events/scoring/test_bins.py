"""Bins of systematics-aware networks from a scorer: those of `neyman.sannt.Classifier`."""

from __future__ import annotations

import json

import awkward as ak
import numpy as np
import pytest

from neyman import EventTable, Scorer
from neyman.errors import ConfigError, InputError, WorkspaceError
from neyman.events.scoring.bins import Bins as FileBins
from neyman.sannt import Bins, Classifier

N = 3000


@pytest.fixture
def table():
    rng = np.random.default_rng(5)
    x = rng.normal(0.0, 2.0, (N, 2)).astype(np.float32)
    return EventTable(("a", "b"), x, np.ones(N), extra={"entry": np.arange(N) * 7})


@pytest.fixture
def records(table):
    return ak.zip({"a": table.x[:, 0], "b": table.x[:, 1], "entry": table.extra["entry"]})


def bins(outputs=1, **changes):
    edges = tuple(
        (0.0, *np.round(np.linspace(0.42, 0.58, 4) + 0.01 * k, 3).tolist(), 1.0) for k in range(outputs)
    )
    options = {"region": "SR", "edges": edges, "groups": (0, 0, 2, 3, 4, *range(5, 5 * outputs))}
    if outputs > 1:
        options["classes"] = tuple(f"c{k}" for k in range(outputs))
    return Bins(**options | changes)


def save(make, folder, own, outputs=1):
    models = tuple(make(outputs=outputs, kind="score", seed=k + 3, members=2) for k in range(len(own)))
    return Classifier(models, own).save(folder)


@pytest.mark.parametrize("outputs", [1, 3])
def test_scores_and_bins_are_those_of_the_classifier(tmp_path, make, table, records, outputs):
    folder = save(make, tmp_path / "networks", (bins(outputs),), outputs)
    classifier = Classifier.load(folder)
    channel, index = classifier.index(table)
    scorer = Scorer.load(folder, output="bin")
    found = scorer(records)
    assert found.dtype == np.int64
    assert len(np.unique(index)) > 3
    assert np.array_equal(found, index if outputs == 1 else np.stack([channel, index], axis=1))
    np.testing.assert_allclose(
        Scorer.load(folder, output="score")(records), classifier.score(table), atol=1e-7
    )
    assert scorer.bins["sannt"].channels == classifier.channels
    assert scorer(records[:0]).shape == ((0,) if outputs == 1 else (0, 2))
    assert scorer(records[:0]).dtype == np.int64
    many = scorer.many({"nominal": records, "up": records[::-1]})
    assert np.array_equal(many["up"], found[::-1])


def test_one_output_a_bin(tmp_path, make, table, records):
    own = bins(assignment="argmax", groups=(0, 3, 2, 3, 4))
    folder = save(make, tmp_path / "networks", (own,), 5)
    classifier = Classifier.load(folder)
    assert np.array_equal(Scorer.load(folder, output="bin")(records), classifier.index(table)[1])
    np.testing.assert_allclose(
        Scorer.load(folder, output="score")(records), classifier.score(table), atol=1e-6
    )


def test_two_folds_are_one_output(tmp_path, make, table, records):
    folds = tuple(bins(fold=k, folds=2, seed=11) for k in (0, 1))
    folds = (folds[0], folds[1].model_copy(update={"edges": ((0.0, 0.4, 0.45, 0.5, 0.6, 1.0),)}))
    folder = save(make, tmp_path / "networks", folds)
    classifier = Classifier.load(folder)
    scorer = Scorer.load(folder, output="bin")
    assert scorer.outputs == ("SR",)
    assert np.array_equal(scorer(records), classifier.index(table)[1])
    np.testing.assert_allclose(
        Scorer.load(folder, output="score")(records), classifier.score(table), atol=1e-7
    )
    selected = records[::3]
    many = scorer.many({"nominal": records, "selected": selected})
    assert np.array_equal(many["selected"], scorer(selected))
    assert Scorer.load(folder).outputs == ("fold0", "fold1")
    with pytest.raises(InputError, match=r"(?s)share the events by their ids.*an integer field 'entry'"):
        scorer(records[["a", "b"]])
    with pytest.raises(WorkspaceError, match=r"(?s)1 models do not make a classifier of two folds.*fold0"):
        Scorer.load(folder / "fold0.safetensors", output="bin")


def test_the_two_descriptions_of_bins_are_one():
    """The scorer reads the bins below the layer that makes them."""
    ours, theirs = FileBins.model_json_schema(), Bins.model_json_schema()
    for schema in (ours, theirs):
        schema.pop("description")
    assert ours == theirs
    own = bins(3)
    assert FileBins.model_validate_json(own.model_dump_json()).places() == own.places()


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{", "the bins of the model are broken"),
        (
            json.dumps({"region": "SR", "edges": [[0, 1, 0.5]], "groups": [0, 1]}),
            "edges must be finite and ascend",
        ),
        (json.dumps({"region": "SR", "edges": [[0, 0.5, 1]], "groups": [0, 7]}), "group 7 of another class"),
        (json.dumps({"region": "SR", "edges": [[0, 0.5, 1]], "groups": [1, 0]}), "must ascend"),
        (json.dumps({"region": "SR", "edges": [[0, 0.5, 1]], "groups": [0, 1, 2]}), "do not fit"),
        (
            json.dumps(
                {"region": "SR", "classes": ["a", "b"], "edges": [[0, 0.5, 1]] * 2, "groups": [0, 1, 2, 3]}
            ),
            "has 1 outputs for 2",
        ),
    ],
)
def test_broken_bins(tmp_path, make, note, message):
    make(kind="score", notes={"sannt": note}).save(tmp_path / "m.safetensors")
    with pytest.raises(WorkspaceError, match=message):
        Scorer.load(tmp_path, output="bin")


def test_no_bins(tmp_path, make):
    make(kind="score").save(tmp_path / "m.safetensors")
    for output in ("bin", "score"):
        with pytest.raises(ConfigError, match=rf"the model 'm' has no {output}s: it gives a score"):
            Scorer.load(tmp_path, output=output)

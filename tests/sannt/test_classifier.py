"""Networks with their bins in files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import two_gaussians as toy

import neyman as ny
from neyman.errors import InputError, WorkspaceError
from neyman.networks import Model
from neyman.sannt import SANNT, Bins, Classifier


@pytest.fixture(scope="module")
def sannt() -> SANNT:
    return toy.run(settings=replace(toy.SETTINGS, steps=8), folds=2)


def test_a_folder_gives_back_the_same_bins(sannt: SANNT, tmp_path: Path) -> None:
    folder = sannt.save(tmp_path / "networks")
    assert sorted(path.name for path in folder.iterdir()) == ["fold0.safetensors", "fold1.safetensors"]
    back = Classifier.load(folder)
    assert back.channels == ("SR",)
    assert back.features == ("x1", "x2")
    for table in (toy.SIGNAL, toy.BACKGROUND):
        np.testing.assert_array_equal(back.contents(table)["SR"], sannt.contents(table)["SR"])
        np.testing.assert_array_equal(back.score(table), sannt.score(table))
        channel, bins = back.index(table)
        assert set(channel) == {0}
        assert bins.max() < back.n_bins("SR")
    assert back.axis("SR") == sannt.classifier.axis("SR")


def test_the_model_file_scores_like_the_result(tmp_path: Path) -> None:
    result = toy.run(settings=replace(toy.SETTINGS, steps=8))
    result.save(tmp_path / "networks")
    scorer = ny.Scorer.load(tmp_path / "networks")
    logit = scorer({"x1": toy.SIGNAL.x[:, 0], "x2": toy.SIGNAL.x[:, 1]})
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-logit)), result.score(toy.SIGNAL), atol=1e-6)
    notes = Model.load(tmp_path / "networks" / "sannt.safetensors").description.notes
    assert json.loads(notes["sannt"])["edges"] == [list(edges) for edges in result.classifier.bins[0].edges]
    one = Classifier.load(tmp_path / "networks" / "sannt.safetensors")
    np.testing.assert_array_equal(one.contents(toy.SIGNAL)["SR"], result.contents(toy.SIGNAL)["SR"])


def test_groups_make_the_bins_of_the_fit() -> None:
    own = Bins(
        region="R",
        classes=("a", "b"),
        edges=((0.0, 0.3, 0.6, 1.0), (0.0, 0.5, 0.7, 1.0)),
        groups=(0, 0, 2, 3, 4, 4),
    )
    assert own.channels == ("R_a", "R_b")
    assert own.places() == [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]
    argmax = Bins(region="R", edges=((0.0, 0.3, 0.6, 1.0),), groups=(2, 1, 2), assignment="argmax")
    assert argmax.places() == [(0, 0), (0, 1), (0, 0)]
    assert argmax.channels == ("R",)


def broken(tmp_path: Path, sannt: SANNT, **changes) -> Path:
    folder = tmp_path / "broken"
    folder.mkdir()
    model = sannt.classifier.models[0]
    notes = json.loads(sannt.classifier.bins[0].model_dump_json()) | changes
    model.replace(notes={"sannt": json.dumps(notes)}).save(folder / "sannt.safetensors")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"edges": [[0.0, 0.5]]},
        {"edges": [[0.0, 0.5, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0]]},
        {"groups": [0] * 7 + [99]},
        {"groups": [0, 1, 2, 3, 2, 5, 6, 7]},
        {"classes": ["a", "b"]},
        {"assignment": "magic"},
        {"more": 1},
    ],
)
def test_broken_bins_are_refused(tmp_path: Path, sannt: SANNT, changes) -> None:
    with pytest.raises(WorkspaceError, match=r"the bins of sannt\.safetensors are broken"):
        Classifier.load(broken(tmp_path, sannt, **changes))


@pytest.mark.parametrize("changes", [{"region": "other"}, {"seed": 5}, {"groups": [0] * 8}])
def test_networks_of_two_trainings_are_refused(tmp_path: Path, sannt: SANNT, changes) -> None:
    folder = sannt.save(tmp_path / "networks")
    model = sannt.classifier.models[1]
    notes = json.loads(sannt.classifier.bins[1].model_dump_json()) | changes
    model.replace(notes={"sannt": json.dumps(notes)}).save(folder / "fold1.safetensors")
    with pytest.raises(WorkspaceError, match="not the two of one training"):
        Classifier.load(folder)


def test_outputs_must_be_what_bins_are_made_of(tmp_path: Path, sannt: SANNT) -> None:
    edges = [list(sannt.classifier.bins[0].edges[0])] * 2
    changes = {"classes": ["a", "b"], "edges": edges, "groups": list(range(16)), "folds": 1}
    with pytest.raises(WorkspaceError, match="has 1 outputs for 2"):
        Classifier.load(broken(tmp_path, sannt, **changes))


def test_folders_that_are_none(tmp_path: Path, sannt: SANNT) -> None:
    with pytest.raises(WorkspaceError, match="0 networks at 'nothing' do not make a classifier"):
        Classifier.load(tmp_path / "nothing")
    with pytest.raises(WorkspaceError, match="1 networks at 'broken' do not make a classifier"):
        Classifier.load(broken(tmp_path, sannt))  # the first fold alone
    plain = tmp_path / "plain"
    plain.mkdir()
    sannt.classifier.models[0].replace(notes={}).save(plain / "m.safetensors")
    with pytest.raises(WorkspaceError, match=r"m\.safetensors has no bins"):
        Classifier.load(plain)


def test_events_must_have_the_features(sannt: SANNT) -> None:
    with pytest.raises(InputError, match="x2"):
        sannt.contents(toy.SIGNAL.with_features(("x1",)))

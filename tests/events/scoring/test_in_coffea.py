"""The scorer inside coffea's processors, on its executors, with NanoEvents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import awkward as ak
import hist
import numpy as np
import pytest
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import FuturesExecutor, IterativeExecutor, ProcessorABC, Runner

from neyman import Scorer
from neyman.errors import InputError, WorkspaceError
from neyman.events.features import FeatureSpec
from neyman.events.processing.schema import NanoSchema
from neyman.events.scoring import torch as engine

SPEC = {"features": {"a": "log(MET.pt + 1)", "b": "Jet.pt[0] / 50"}, "fill": {"b": 0.0}}


class Scores(ProcessorABC):
    """A histogram of scores, nominal and with larger jets."""

    def __init__(self, scorer):
        self.scorer = scorer

    def process(self, events):
        up = ak.with_field(events, ak.with_field(events.Jet, events.Jet.pt * 1.1, "pt"), "Jet")
        h = hist.Hist.new.StrCat([], growth=True, name="variation").Reg(20, -1, 1, name="score").Weight()
        for name, scores in self.scorer.many({"nominal": events, "jesUp": up}).items():
            h.fill(variation=name, score=scores)
        return {"scores": h, "events": len(events)}

    def postprocess(self, accumulator):
        return accumulator


@pytest.fixture
def files(tmp_path, nano):
    return {
        "sample": {"treename": "Events", "files": [str(nano(tmp_path / f"{k}.root", 300, k)) for k in (1, 2)]}
    }


@pytest.fixture
def scorer(tmp_path, save):
    save("nn")
    return Scorer.load(tmp_path / "nn.safetensors", features=SPEC)


def run(files, scorer, executor=None, **options):
    runner = Runner(executor or IterativeExecutor(status=False), schema=NanoSchema, chunksize=100, **options)
    return runner(files, Scores(scorer))


@pytest.mark.parametrize("executor", ["iterative", "threads"])
def test_every_executor_gives_the_same_and_opens_the_model_once(files, scorer, monkeypatch, forget, executor):
    opened = []
    original = engine.open_session
    monkeypatch.setattr(engine, "open_session", lambda *args: opened.append(1) or original(*args))
    forget()
    kind = (
        None if executor == "iterative" else FuturesExecutor(workers=2, pool=ThreadPoolExecutor, status=False)
    )
    out = run(files, scorer, kind)
    assert out["events"] == 600
    assert opened == [1]
    total = NanoEventsFactory.from_root(
        {files["sample"]["files"][0]: "Events"}, schemaclass=NanoSchema, mode="eager"
    ).events()
    scores = scorer(total)
    assert out["scores"]["nominal", ...].sum(flow=True).value == 600
    assert np.isfinite(scores).all()


@pytest.mark.filterwarnings("ignore:Performed attempt")
def test_a_missing_model_is_never_a_bad_file(files, scorer, tmp_path, forget):
    (tmp_path / "nn.safetensors").unlink()
    forget()
    with pytest.raises(Exception, match="the file of model 'nn' does not exist"):
        run(files, scorer, skipbadfiles=True)


def test_virtual_and_eager_events_agree_and_only_branches_are_read(files, scorer):
    def open_events(mode):
        return NanoEventsFactory.from_root(
            {files["sample"]["files"][0]: "Events"}, schemaclass=NanoSchema, mode=mode, access_log=log
        ).events()

    log: list = []
    virtual = scorer(open_events("virtual"))
    read = {entry.branch for entry in log}
    assert np.array_equal(virtual, scorer(open_events("eager")))
    assert read <= set(scorer.branches()) | {"nJet"}
    assert {"MET_pt", "Jet_pt"} <= read


def test_no_events(files, scorer):
    events = NanoEventsFactory.from_root(
        {files["sample"]["files"][0]: "Events"}, schemaclass=NanoSchema, entry_stop=0
    ).events()
    out = scorer.many({"nominal": events, "jesUp": events})
    assert [(s.shape, s.dtype) for s in out.values()] == [((0,), np.float32)] * 2


def test_features_in_the_model_file(tmp_path, save, events):
    spec = FeatureSpec({"b": "c * 2", "a": "a"})
    model = save(inputs=spec.to_dict())
    scorer = Scorer.load(tmp_path)
    expected = model(np.stack([events.a.to_numpy(), 2 * events.c.to_numpy()], axis=1))
    np.testing.assert_allclose(scorer(events), expected, atol=1e-6)
    np.testing.assert_allclose(
        scorer(spec(events)), expected, atol=1e-6
    )  # computed features are taken as they are
    assert scorer.branches() == ("a", "c")
    assert scorer.branches(["c", "x"]) == ("c",)
    explicit = Scorer.load(tmp_path, features={"features": {"a": "a", "b": "b"}})
    assert explicit.digest != scorer.digest
    assert not np.array_equal(explicit(events), scorer(events))


def test_broken_features_in_the_model_file(tmp_path, save):
    save(inputs={"features": {"a": "__import__('os')", "b": "b"}})
    with pytest.raises(WorkspaceError, match="the features in the file of model 'm' are broken"):
        Scorer.load(tmp_path).branches()


def test_a_description_of_features_is_bounded(save):
    with pytest.raises(ValueError, match="the document of the features is longer than 524288 characters"):
        save(inputs={"features": {"a": "a" * (1 << 19)}})


def test_features_of_two_models_are_computed_once(tmp_path, save, events):
    one, two = save("one"), save("two", features=("c",), seed=2)
    spec = FeatureSpec({"a": "a", "b": "b", "c": "c"})
    calls = []

    class Counted:
        features, digest, branches = spec.features, spec.digest, spec.branches

        def __call__(self, given):
            calls.append(len(given))
            return spec(given)

    scorer = Scorer.load(tmp_path, features=Counted())
    scores = scorer.many({"nominal": events, "up": events[:7]})["nominal"]
    assert calls == [50, 7]
    np.testing.assert_allclose(scores.two, two(events.c.to_numpy()[:, None]), atol=1e-6)
    assert scorer.features == (*one.features, *two.features)


def test_features_from_a_file(tmp_path, save, events):
    save()
    (tmp_path / "features.toml").write_text('[features]\na = "a"\nb = "b"\n')
    plain = Scorer.load(tmp_path)(events)
    assert np.array_equal(Scorer.load(tmp_path, features=tmp_path / "features.toml")(events), plain)


def test_missing_feature_names_the_variation(tmp_path, save, events):
    save()
    scorer = Scorer.load(tmp_path, features={"features": {"a": "a", "b": "b"}})
    with pytest.raises(InputError, match=r"(?s)b.*variation 'up'"):
        scorer.many({"nominal": events, "up": ak.without_field(events, "b")})

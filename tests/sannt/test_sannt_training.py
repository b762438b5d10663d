"""SANNT on the toy of Wunsch et al.: two Gaussians, the background's second feature shifted by the systematic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import two_gaussians as toy

import neyman as ny
from neyman.errors import ConfigError, NeymanWarning, TrainingError
from neyman.networks import MLP
from neyman.sannt import (
    KDE,
    SANNT,
    EdgeKernel,
    EdgeScan,
    Exact,
    Inferno,
    Linear,
    Normalisation,
    StraightThrough,
    Variation,
    train,
)
from neyman.sannt.templates import Templates
from neyman.training import Settings
from neyman.workspace import SampleModel, from_hists


@pytest.fixture(scope="module")
def sannt() -> SANNT:
    return toy.run()


def nominal(h) -> np.ndarray:
    return h[:, "nominal"].values()


def test_sannt_beats_cross_entropy(sannt: SANNT) -> None:
    before, after = sannt.pretrained.uncertainty, sannt.trained.uncertainty
    assert 0.40 < before.total < 0.50  # 0.4425 in a run with 25 times the events
    assert after.total < 0.92 * before.total
    assert after.statistical < 1.06 * before.statistical
    assert after.total > after.statistical
    assert before.signals == {"signal": (before.total, before.statistical)}
    assert sannt.trained.members == (after,)
    assert abs(sannt.trained.impacts["signal"]["shift"]) < abs(sannt.pretrained.impacts["signal"]["shift"])
    assert not sannt.warnings


def test_impact_is_what_the_nuisance_parameter_adds(sannt: SANNT) -> None:
    one = sannt.pretrained.uncertainty
    impact = sannt.pretrained.impacts["signal"]["shift"]
    assert one.total**2 == pytest.approx(one.statistical**2 + impact**2, rel=1e-9)


def test_contents_of_new_events_agree_with_the_exported_histograms(sannt: SANNT) -> None:
    score = sannt.score(toy.SIGNAL)
    assert 0.0 < score.min() < 0.3
    assert 0.6 < score.max() < 1.0
    out = Templates.of(
        {"signal": toy.SIGNAL}, {"background": toy.BACKGROUND}, [toy.SHIFT], fraction=0.5, seed=1
    ).half(held_out=True)
    exported = sannt.trained.histograms["SR"]
    for name in ("signal", "background"):
        x, weight = out.nominal(name)
        found = sannt.contents(ny.EventTable(("x1", "x2"), x, weight))["SR"]
        np.testing.assert_allclose(nominal(exported[name]), found, rtol=1e-12)
        assert exported[name][:, "nominal"].variances().sum() == pytest.approx((weight**2).sum(), rel=1e-12)
    assert list(exported["background"].axes["variation"]) == ["nominal", "shiftUp", "shiftDown"]
    assert exported["background"][{"variation": "shiftUp"}].sum().value == pytest.approx(1000.0)


@pytest.mark.parametrize("stage", ["pretrained", "trained"])
@pytest.mark.parametrize("mc_stat", [False, True])
def test_the_fit_of_the_exported_histograms_has_the_expected_uncertainty(stage: str, mc_stat: bool) -> None:
    sannt = toy.run(
        [
            toy.SHIFT,
            Normalisation("rate", "background", 1.02, 0.98),
            Normalisation("k", "background", free=True),
        ],
        replace(toy.SETTINGS, steps=10),
        mc_stat=mc_stat,
    )
    result = getattr(sannt, stage)
    models = {
        "signal": SampleModel(normfactors=("mu",)),
        "background": SampleModel(normfactors=("k",), normsys={"rate": (1.02, 0.98)}),
    }
    spec = from_hists(result.histograms, models, staterror=mc_stat)
    fit = ny.fit(ny.Likelihood.from_pyhf(spec))
    assert fit.values["mu"] == pytest.approx(1.0, abs=1e-4)
    assert fit.errors["mu"] == pytest.approx(result.uncertainty.total, rel=0.01)
    impact = result.impacts["signal"]
    for name in ("shift", "rate", "k"):
        expected = fit.covariance["mu", name] / fit.errors[name]
        assert impact[name] == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_two_folds_use_every_event_and_bin_none_by_its_own_network() -> None:
    sannt = toy.run(folds=2)
    after = sannt.trained
    assert len(after.classifier.models) == len(after.histories) == 2
    assert after.uncertainty.total < 0.94 * sannt.pretrained.uncertainty.total
    for name, table in (("signal", toy.SIGNAL), ("background", toy.BACKGROUND)):
        h = after.histograms["SR"][name]
        np.testing.assert_allclose(nominal(h), sannt.contents(table)["SR"], rtol=1e-12)
        assert h[:, "nominal"].variances().sum() == pytest.approx((table.weight**2).sum())
    from neyman.sannt.templates import in_second_fold

    second = in_second_fold(toy.SIGNAL.extra["entry"], 1)
    first_network = 1.0 / (1.0 + np.exp(-after.classifier.models[0](toy.SIGNAL.x[second])))
    np.testing.assert_allclose(sannt.score(toy.SIGNAL)[second], first_network, atol=1e-6)
    nameless = replace(toy.SIGNAL, extra={})
    with pytest.raises(ny.errors.InputError, match=r"these have none\n.*integer column 'entry'"):
        sannt.contents(nameless)
    with pytest.raises(TrainingError, match="two folds need the identity of every event"):
        toy.run(folds=2, signal_table=nameless)


def test_an_ensemble_is_its_members_trained_alone() -> None:
    settings = replace(toy.SETTINGS, steps=12, evaluations=4)
    one, three = (toy.run(settings=settings, ensemble=n) for n in (1, 3))
    assert len(three.trained.members) == 3
    assert three.trained.members[0].total == pytest.approx(one.trained.members[0].total, rel=2e-3)
    assert three.pretrained.members[0].total == pytest.approx(one.pretrained.members[0].total, rel=2e-3)
    # The member that is exported is the best one.
    assert three.trained.uncertainty.total == min(member.total for member in three.trained.members)


@pytest.mark.parametrize("filling", [Exact(Linear()), KDE(), EdgeScan()], ids=["linear", "kde", "scan"])
def test_every_method_that_starts_from_the_classifier_improves_on_it(filling) -> None:
    result = toy.run(filling=filling)
    assert result.trained.uncertainty.total < 0.97 * result.pretrained.uncertainty.total


def test_inferno_bins_by_the_largest_output() -> None:
    result = toy.run(filling=Inferno(), settings=replace(toy.SETTINGS, steps=120, learning_rate=1e-2))
    assert result.trained.uncertainty.total < result.pretrained.uncertainty.total
    h = result.trained.histograms["SR"]["background"]
    assert h.axes[0].name == "bin"
    assert result.contents(toy.BACKGROUND)["SR"].sum() == pytest.approx(1000.0)
    assert result.score(toy.BACKGROUND).shape == (4000, 8)


def test_learned_edges_move_and_are_kept() -> None:
    result = toy.run(learn_edges=True)
    edges = np.array(result.classifier.bins[0].edges[0])
    assert np.abs(edges - np.linspace(0.0, 1.0, 9)).max() > 0.005
    assert result.trained.uncertainty.total < 0.92 * result.pretrained.uncertainty.total
    np.testing.assert_allclose(result.trained.histograms["SR"]["signal"].axes["score"].edges[[0, -1]], [0, 1])


def test_the_record_is_plain_data(sannt: SANNT) -> None:
    record = json.loads(json.dumps(sannt.to_dict()))
    assert record["trained"]["uncertainty"]["total"] == sannt.trained.uncertainty.total
    history = record["trained"]["histories"][0]
    assert len(history["steps"]) == 16
    best = min(v[0] for v in history["validation"])
    assert record["trained"]["uncertainty"]["total"] == pytest.approx(best, rel=1e-5)
    h = record["trained"]["histograms"]["SR"]["background"]
    assert sum(h["variations"]["shift"]["up"]) == pytest.approx(1000.0)
    assert len(h["edges"]) == len(h["nominal"]) + 1 == len(h["variance"]) + 1


def test_same_seed_same_network() -> None:
    settings = Settings(steps=5, validation_fraction=0.5)
    first, second = (toy.run(settings=settings).score(toy.SIGNAL) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("stop", "kept"), [(7, "pretraining"), (20 + 7, "training"), (32 + 20 + 3, "training")]
)
def test_an_interrupted_training_goes_on(tmp_path: Path, stop: int, kept: str) -> None:
    signals, backgrounds, variations = toy.two_signals(800)
    settings = Settings(steps=12, learning_rate=5e-3, evaluations=6, validation_fraction=0.5)
    short = Settings(steps=20, learning_rate=1e-2, batch_size=256, evaluations=10)

    def train(checkpoints, stop=None, **more):
        seen = []

        def progress(step):
            seen.append(step)
            if stop is not None and step == stop:
                raise KeyboardInterrupt

        options = {
            "signal_table": signals,
            "backgrounds": backgrounds,
            "classes": toy.CLASSES,
            "pretraining": short,
            "folds": 2,
        }
        result = toy.run(variations, settings, checkpoints=checkpoints, progress=progress, **options | more)
        return result, seen

    whole, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(str(tmp_path), stop=stop)
    fold = 0 if stop < 32 else 1
    assert (tmp_path / f"fold{fold}.{kept}.safetensors").is_file()
    with pytest.raises(TrainingError, match="belongs to another training"):
        train(tmp_path, strengths={"r": ("ggH", "qqH")})
    again, seen = train(tmp_path)
    assert len(seen) < 64 - (20 if stop > 20 else 0) - (
        30 if stop > 32 else 0
    )  # finished phases are not repeated
    assert not list(tmp_path.iterdir())
    for name in signals:
        np.testing.assert_array_equal(whole.score(signals[name]), again.score(signals[name]))
    assert whole.trained.histories == again.trained.histories
    assert whole.pretrained.histories == again.pretrained.histories


def test_progress_counts_all_steps() -> None:
    seen: list[int] = []
    settings = replace(toy.SETTINGS, steps=3)
    pretraining = replace(toy.PRETRAINING, steps=4)
    toy.run(settings=settings, pretraining=pretraining, folds=2, progress=seen.append)
    assert seen == list(range(1, 15))


def test_a_normalisation_uncertainty_does_no_harm() -> None:
    rate = Normalisation("rate", "background", 1.1, 0.9)
    result = toy.run([rate], Settings(steps=40, learning_rate=2e-3, validation_fraction=0.5))
    before, after = result.pretrained.uncertainty, result.trained.uncertainty
    assert after.total <= before.total
    assert after.total > 0.93 * before.total  # the best score for a rate is the likelihood ratio as it is


def test_never_worse_than_cross_entropy() -> None:
    wild = Settings(steps=6, learning_rate=3.0, schedule="constant", warmup=0.0, validation_fraction=0.5)
    result = toy.run(settings=wild, filling=Exact(StraightThrough()))
    assert min(v[0] for v in result.trained.histories[0].validation) > result.pretrained.uncertainty.total
    assert result.trained.uncertainty == result.pretrained.uncertainty
    np.testing.assert_array_equal(result.score(toy.SIGNAL), result.pretrained.classifier.score(toy.SIGNAL))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_nearly_the_same_network() -> None:
    signals, backgrounds, variations = toy.two_signals(1000)
    options = {"signal_table": signals, "backgrounds": backgrounds, "classes": toy.CLASSES, "folds": 2}
    found = [
        toy.run(
            variations,
            replace(toy.SETTINGS, steps=5, device=device),
            pretraining=replace(toy.PRETRAINING, steps=20, device=device),
            **options,
        )
        for device in ("cpu", "cuda")
    ]
    assert found[0].trained.uncertainty.total == pytest.approx(found[1].trained.uncertainty.total, rel=0.05)


# Several signals and classes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def multiclass() -> SANNT:
    signals, backgrounds, variations = toy.two_signals()
    return toy.run(
        variations,
        Settings(steps=60, learning_rate=3e-3, validation_fraction=0.5, evaluations=12),
        signal_table=signals,
        backgrounds=backgrounds,
        classes=toy.CLASSES,
        bins=5,
        mc_stat=True,
    )


def test_two_signals_in_three_classes(multiclass: SANNT) -> None:
    before, after = multiclass.pretrained.uncertainty, multiclass.trained.uncertainty
    assert after.total < 0.8 * before.total
    assert set(after.signals) == {"ggH", "qqH"}
    assert after.total == pytest.approx(sum(total for total, _ in after.signals.values()))
    assert list(multiclass.trained.histograms) == ["SR_ggH", "SR_qqH", "SR_background"]
    signals, backgrounds, _ = toy.two_signals()
    for name, table in (signals | backgrounds).items():
        found = multiclass.contents(table)
        assert sum(values.sum() for values in found.values()) == pytest.approx(table.weight.sum())
        held = multiclass.trained.histograms
        assert {c: len(v) for c, v in found.items()} == {c: len(nominal(h[name])) for c, h in held.items()}
    # Classes keep their meaning: each signal is most frequent in its own.
    for name, channel in (("ggH", "SR_ggH"), ("qqH", "SR_qqH")):
        contents = multiclass.contents(signals[name])
        assert max(contents, key=lambda c: contents[c].sum()) == channel


def test_the_multiclass_fit_has_the_expected_uncertainties(multiclass: SANNT) -> None:
    models = {
        name: SampleModel(
            normfactors=(f"r_{name}",) if name in multiclass.signals else ("tt_norm",) * (name == "tt"),
            normsys={"lumi": (1.02, 0.98)} | ({"Z_norm": (1.05, 0.95)} if name == "Z" else {}),
        )
        for name in multiclass.processes
    }
    spec = from_hists(multiclass.trained.histograms, models, poi="r_ggH")
    fit = ny.fit(ny.Likelihood.from_pyhf(spec))
    for name, (total, _) in multiclass.trained.uncertainty.signals.items():
        # Up and down are not quite symmetric here, which moves the slope of the interpolation.
        assert fit.errors[f"r_{name}"] == pytest.approx(total, rel=0.04)


def test_without_the_constraint_classes_lose_their_meaning() -> None:
    signals, backgrounds, variations = toy.two_signals()
    options = {"signal_table": signals, "backgrounds": backgrounds, "classes": toy.CLASSES, "bins": 5}
    settings = Settings(steps=120, learning_rate=3e-3, validation_fraction=0.5, evaluations=12)

    def entropy(result: SANNT) -> float:
        """Binary cross-entropy of every class on its score, classes at equal weight."""
        found = []
        for c, names in enumerate(toy.CLASSES.values()):
            table = ny.EventTable.concat((signals | backgrounds)[name] for name in names)
            score = result.score(table).astype(np.float64)
            score[:, [k for k in range(3) if k != c]] = 1.0 - score[:, [k for k in range(3) if k != c]]
            found.append(-np.average(np.log(score).sum(axis=1), weights=table.weight))
        return float(np.mean(found))

    kept, lost = (toy.run(variations, settings, **options, **more) for more in ({}, {"constraint": None}))
    start = entropy(replace(kept, trained=kept.pretrained))
    assert entropy(kept) < 1.06 * start
    assert entropy(lost) > 1.10 * start
    assert kept.trained.uncertainty.total < 0.8 * kept.pretrained.uncertainty.total


def test_two_signals_with_one_strength() -> None:
    halves = {
        "one": toy.SIGNAL.scaled(0.4),
        "two": replace(toy.SIGNAL, x=toy.SIGNAL.x[:, ::-1].copy()).scaled(0.6),
    }
    result = toy.run(signal_table=halves, strengths={"r": ("one", "two")})
    assert result.signals == ("r",)
    assert result.to_dict()["strengths"] == {"r": ["one", "two"]}
    assert result.processes == ("one", "two", "background")
    assert result.trained.uncertainty.total < 0.95 * result.pretrained.uncertainty.total
    models = {
        name: SampleModel(normfactors=("r",) if name != "background" else ()) for name in result.processes
    }
    spec = from_hists(result.trained.histograms, models, poi="r", staterror=False)
    drawn = ny.plots.sannt_histograms(result)  # both processes of the strength are signals of the figure
    assert {"one", "two", "background"} <= {text.get_text() for text in drawn.legends[0].get_texts()}
    fit = ny.fit(ny.Likelihood.from_pyhf(spec))
    assert fit.errors["r"] == pytest.approx(result.trained.uncertainty.total, rel=0.01)
    for strengths, message in (
        ({"r": ("one",)}, "the process 'two' is in 0 strengths"),
        ({"r": ("one", "two"), "s": ("two",)}, "the process 'two' is in 2 strengths"),
        ({"r": ("one", "two", "background")}, "'background', which is no signal"),
    ):
        with pytest.raises(TrainingError, match=message):
            toy.run(signal_table=halves, strengths=strengths)


# Bad input ------------------------------------------------------------------------------------------------------


def test_errors_name_the_cause() -> None:
    for options, message in (
        ({"direction": "sideways"}, "unknown direction 'sideways'"),
        ({"filling": EdgeKernel()}, r"filling is EdgeKernel\(.*\n.*Exact\(EdgeKernel"),
        ({"filling": Exact}, "filling is <class"),
        ({"classes": [("signal",)]}, "classes is a list"),
        ({"strengths": ["signal"]}, "strengths is a list"),
        ({"control": [1]}, "control is a list"),
        ({"control": {"CR": {"background": [1.0]}}}, "control channel 'CR' has no histograms"),
        ({"control": {"SR": {}}}, "'SR' has the name of a channel of the network"),
        ({"region": ""}, "the region is called ''"),
        ({"settings": {"steps": 3}}, "settings is a dict"),
        ({"pretraining": None}, "pretraining is a NoneType"),
        ({"seed": -1}, "the seed is -1"),
        ({"ensemble": 1.5}, r"at least one member, got 1\.5"),
        ({"batch": "x"}, "batch is a fraction of the events, got 'x'"),
        ({"bins": "abc"}, "bins = 'abc'"),
        ({"bins": [-3.0, 0.0, 3.0]}, r"do not fit scores in \[0, 1\]"),
        ({"checkpoints": 3}, "checkpoints is a int"),
        ({"noise": 0.0}, r"noise = 0\.0"),
        ({"learn_edges": True, "filling": Inferno()}, "learn_edges has no effect with Inferno"),
        ({"learn_edges": True, "filling": EdgeScan()}, "learn_edges has no effect with EdgeScan"),
        ({"batch": 0.5, "filling": EdgeScan()}, "batch has no effect with EdgeScan"),
    ):
        with pytest.raises(ConfigError, match=message):
            toy.run(**options)
    with pytest.raises(ConfigError, match="the model is a str"):
        train("mlp", toy.SIGNAL, {"background": toy.BACKGROUND}, seed=1)
    with pytest.raises(TrainingError, match="the backgrounds are a EventTable"):
        toy.run([], backgrounds=toy.BACKGROUND)
    with pytest.raises(TrainingError, match="process 'signal' is a ndarray"):
        toy.run([], signal_table=np.zeros((3, 2)))
    with pytest.raises(TrainingError, match="a variation is a str"):
        toy.run(["shift"])
    with pytest.raises(TrainingError, match="a nuisance parameter is called ''"):
        toy.run([replace(toy.SHIFT, parameter="")])
    with pytest.raises(TrainingError, match="down of the variation 'shift' is a NoneType"):
        toy.run([replace(toy.SHIFT, down=None)])
    with pytest.raises(TrainingError, match="the backgrounds are missing"):
        toy.run([], backgrounds={})
    with pytest.raises(TrainingError, match="none named 'signal'"):
        toy.run([], backgrounds={"signal": toy.BACKGROUND})
    with pytest.raises(TrainingError, match="there is no signal"):
        toy.run([], signal_table={})
    with pytest.raises(ConfigError, match=r"batch is a fraction of the events, got 1\.5"):
        toy.run(batch=1.5)
    with pytest.raises(ConfigError, match="one or two folds, got 3"):
        toy.run(folds=3)
    with pytest.raises(ConfigError, match="at least one member, got 0"):
        toy.run(ensemble=0)
    with pytest.raises(ConfigError, match=r"min_effective = -1\.0"):
        toy.run(min_effective=-1.0)
    with pytest.raises(ConfigError, match="at least two bins, got 1"):
        toy.run(bins=1)
    with pytest.raises(ConfigError, match="a KDE histogram has one output"):
        toy.run(filling=KDE(), classes={"s": ("signal",), "b": ("background",)})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"s": ("signal",)}, "process 'background' is in no class"),
        ({"s": ("signal",), "b": ("backgrund",)}, r"'backgrund', which does not exist\n.*background"),
        ({"s": ("signal",), "b": ("background", "signal")}, "process 'signal' is in the classes 's' and 'b'"),
        ({"s": "signal", "b": ("background",)}, "class 's' has no list of processes"),
        ({"all": ("signal", "background")}, "there are 1 classes"),
    ],
)
def test_classes_must_fit(classes, message) -> None:
    with pytest.raises(TrainingError, match=message):
        toy.run(classes=classes)


def test_degenerate_parameters_are_named() -> None:
    twin = {"one": toy.SIGNAL, "two": toy.SIGNAL.scaled(2.0)}
    with pytest.raises(TrainingError, match="no bin can tell strength of one, strength of two apart"):
        toy.run([], replace(toy.SETTINGS, steps=1), signal_table=twin)
    free = [Normalisation("a", "background", free=True), Normalisation("b", "background", free=True)]
    with pytest.raises(TrainingError, match="no bin can tell a, b apart"):
        toy.run(free, replace(toy.SETTINGS, steps=1))


def test_bins_without_positive_expectation_are_merged() -> None:
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=len(toy.BACKGROUND), p=[0.4, 0.6])
    result = toy.run(
        [],
        replace(toy.SETTINGS, steps=10),
        backgrounds={"background": replace(toy.BACKGROUND, weight=5.0 * toy.BACKGROUND.weight * signs)},
        bins=60,
    )
    held = result.trained.histograms["SR"]
    total = nominal(held["signal"]) + nominal(held["background"])
    assert 2 <= len(total) < 40
    background = held["background"][:, "nominal"]
    assert (background.values()[1:] ** 2 >= 10.0 * background.variances()[1:] * (1 - 1e-9)).all()


def test_a_process_in_one_bin_is_reported() -> None:
    sharp = replace(toy.SIGNAL, x=toy.SIGNAL.x * 1e-3 + 1.0)
    with pytest.warns(NeymanWarning, match=r"all events of process '\w+' are in bin \d of \d"):
        toy.run([], replace(toy.SETTINGS, steps=1), signal_table=sharp)


def test_members_that_cannot_measure_are_left_out() -> None:
    free = [toy.SHIFT, Normalisation("k", "background", free=True)]
    settings = replace(toy.SETTINGS, steps=3)
    pretraining = Settings(steps=3, learning_rate=1e-3, batch_size=64)
    with pytest.warns(NeymanWarning, match=r"\d+ of 30 networks cannot measure all strengths"):
        result = train(
            MLP((3,), "relu"),
            toy.SIGNAL,
            {"background": toy.BACKGROUND},
            variations=free,
            pretraining=pretraining,
            settings=settings,
            ensemble=30,
            seed=1,
        )
    assert 1 <= len(result.pretrained.members) < 30
    assert np.isfinite(result.trained.uncertainty.total)


def test_a_class_of_negative_weight_is_refused() -> None:
    table = replace(toy.BACKGROUND, weight=np.where(toy.BACKGROUND.x[:, 0] > 1.5, -0.5, 0.6))
    signals = {"signal": toy.SIGNAL.scaled(0.01)}
    other = replace(toy.gaussian(3.0, 1.0, 5), extra={})
    with pytest.raises(TrainingError, match=r"bins of class \d have the expectation -\d"):
        toy.run(
            [],
            replace(toy.SETTINGS, steps=1),
            signal_table=signals,
            backgrounds={"background": table, "other": other},
            classes={"s": ("signal",), "b": ("background",), "o": ("other",)},
        )


def test_variations_of_one_name_act_together() -> None:
    both = [
        toy.SHIFT,
        Variation("shift", "signal", toy.moved(toy.SIGNAL, 1.0), toy.moved(toy.SIGNAL, -1.0)),
    ]
    result = toy.run(both, replace(toy.SETTINGS, steps=2))
    assert result.parameters == ("shift",)
    assert list(result.trained.histograms["SR"]["signal"].axes["variation"]) == [
        "nominal",
        "shiftUp",
        "shiftDown",
    ]

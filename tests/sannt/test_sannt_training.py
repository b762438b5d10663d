"""SANNT on the toy of Wunsch et al.: two Gaussians, the background's second feature shifted by the systematic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import neyman as ny
from neyman.errors import TrainingError
from neyman.networks import MLP
from neyman.sannt import SANNT, EdgeKernel, Templates, Variation, train
from neyman.training import Settings
from neyman.workspace import from_hists
from neyman.workspace.histograms import SampleModel

N = 4000
NETWORK = MLP((60,), "relu")
PRETRAINING = Settings(steps=300, learning_rate=1e-2, batch_size=512)
SETTINGS = Settings(steps=80, learning_rate=5e-3, validation_fraction=0.5, evaluations=16)


def gaussian(mean: float, total: float, seed: int) -> ny.EventTable:
    x = np.random.default_rng(seed).normal(mean, 1.0, (N, 2))
    return ny.EventTable(("x1", "x2"), x, np.full(N, total / N), {"entry": np.arange(N)})


SIGNAL, BACKGROUND = gaussian(0.0, 50.0, 1), gaussian(1.0, 1000.0, 2)


def shifted(by: float) -> ny.EventTable:
    return replace(BACKGROUND, x=BACKGROUND.x + np.array([0.0, by], dtype=np.float32))


def run(variations: list[Variation], settings: Settings = SETTINGS, seed: int = 1) -> SANNT:
    return train(
        NETWORK,
        SIGNAL,
        {"background": BACKGROUND},
        variations=variations,
        pretraining=PRETRAINING,
        settings=settings,
        seed=seed,
    )


SHIFT = Variation("shift", "background", shifted(1.0), shifted(-1.0))


@pytest.fixture(scope="module")
def sannt() -> SANNT:
    return run([SHIFT])


def test_sannt_beats_cross_entropy(sannt: SANNT) -> None:
    before, after = sannt.pretrained.uncertainty, sannt.trained.uncertainty
    assert 0.40 < before.total < 0.50  # 0.4425 in a run with 25 times the events
    assert after.total < 0.92 * before.total
    assert after.statistical < 1.06 * before.statistical
    assert after.total > after.statistical


def test_score_and_contents_agree_with_the_exported_histograms(sannt: SANNT) -> None:
    score = sannt.score(SIGNAL)
    assert 0.0 < score.min() < 0.3
    assert 0.6 < score.max() < 1.0
    out = Templates.of({"signal": SIGNAL, "background": BACKGROUND}, [SHIFT], fraction=0.5, seed=1).half(
        held_out=True
    )
    exported = sannt.trained.histograms
    network, edges = sannt.model.stacks[0], torch.from_numpy(sannt.edges)
    for name in ("signal", "background"):
        x, weight = out.nominal(name)
        table = ny.EventTable(("x1", "x2"), x, weight)
        nominal = (
            exported[name][{"variation": "nominal"}] if name == "background" else exported[name][:, "nominal"]
        )
        np.testing.assert_allclose(nominal.values(), sannt.contents(table), rtol=1e-12)
        assert nominal.variances().sum() == pytest.approx((weight**2).sum(), rel=1e-12)
    assert list(exported["background"].axes["variation"]) == ["nominal", "shiftUp", "shiftDown"]
    assert exported["background"][{"variation": "shiftUp"}].sum().value == pytest.approx(1000.0)
    expected, jacobian = out.asimov(network, edges, EdgeKernel())
    up, down = (exported["background"][{"variation": c}].values() for c in ("shiftUp", "shiftDown"))
    np.testing.assert_allclose(jacobian[0, :, 1].detach().numpy(), (up - down) / 2.0, atol=1e-9)
    total = sum(exported[name][:, "nominal"].values() for name in exported)
    np.testing.assert_allclose(expected[0].detach().numpy(), total, rtol=1e-12)


@pytest.mark.parametrize("stage", ["pretrained", "trained"])
def test_the_fit_of_the_exported_histograms_has_the_expected_uncertainty(sannt: SANNT, stage: str) -> None:
    result = getattr(sannt, stage)
    spec = from_hists(
        {"SR": result.histograms},
        {"signal": SampleModel(normfactors=("mu",)), "background": SampleModel()},
        staterror=False,
    )
    fit = ny.fit(ny.Likelihood.from_pyhf(spec))
    assert fit.values["mu"] == pytest.approx(1.0, abs=1e-4)
    assert fit.errors["mu"] == pytest.approx(result.uncertainty.total, rel=0.01)


def test_the_model_file_scores_like_the_result(sannt: SANNT, tmp_path: Path) -> None:
    sannt.model.save(tmp_path / "sannt.safetensors")
    scorer = ny.Scorer.load(tmp_path)
    logit = scorer({"x1": SIGNAL.x[:, 0], "x2": SIGNAL.x[:, 1]})
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-logit)), sannt.score(SIGNAL), atol=1e-6)
    notes = ny.networks.Model.load(tmp_path / "sannt.safetensors").description.notes
    assert json.loads(notes["edges"]) == sannt.edges.tolist()


def test_the_record_is_plain_data(sannt: SANNT) -> None:
    record = json.loads(json.dumps(sannt.to_dict()))
    assert record["trained"]["total"] == sannt.trained.uncertainty.total
    assert len(record["trained"]["history"]["steps"]) == 16
    best = min(v[0] for v in record["trained"]["history"]["validation"])
    assert record["trained"]["total"] == pytest.approx(best, rel=1e-6)


def test_same_seed_same_network() -> None:
    settings = Settings(steps=5, validation_fraction=0.5)
    first, second = (run([SHIFT], settings).score(SIGNAL) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_normalisation_uncertainty_does_no_harm() -> None:
    both = Variation("rate", "background", BACKGROUND.scaled(1.1), BACKGROUND.scaled(0.9))
    result = run([both], Settings(steps=40, learning_rate=2e-3, validation_fraction=0.5))
    before, after = result.pretrained.uncertainty, result.trained.uncertainty
    assert after.total <= before.total
    assert after.total > 0.93 * before.total  # the best score for a rate is the likelihood ratio as it is


def test_never_worse_than_cross_entropy() -> None:
    wild = Settings(steps=6, learning_rate=3.0, schedule="constant", warmup=0.0, validation_fraction=0.5)
    result = run([SHIFT], wild)
    assert min(v[0] for v in result.trained.history.validation) > result.pretrained.uncertainty.total
    assert result.trained.uncertainty == result.pretrained.uncertainty
    np.testing.assert_array_equal(result.model(SIGNAL.x), result.pretrained.model(SIGNAL.x))


def test_variations_of_weights_share_the_forward_pass() -> None:
    rate = Variation("rate", "background", BACKGROUND.scaled(1.2), BACKGROUND.scaled(0.8))
    templates = Templates.of(
        {"signal": SIGNAL, "background": BACKGROUND}, [rate, SHIFT], fraction=0.5, seed=1
    )
    seen = []
    network = NETWORK.build(2)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        _, jacobian = templates.asimov(network, torch.linspace(0, 1, 9).double(), EdgeKernel())
    assert seen == [4 * N]  # signal, background with its rates, shift up, shift down
    assert jacobian.shape == (1, 8, 3)
    assert float(jacobian[0, :, 1].sum()) == pytest.approx(200.0)


def test_halves_keep_the_yields_and_share_no_event() -> None:
    rate = Variation("rate", "background", BACKGROUND.scaled(1.2), BACKGROUND.scaled(0.8))
    both = Templates.of({"signal": SIGNAL, "background": BACKGROUND}, [rate], fraction=0.3, seed=5)
    halves = [both.half(held_out=h) for h in (False, True)]
    x = [half.nominal("background")[0] for half in halves]
    assert len(x[0]) + len(x[1]) == N
    assert not {tuple(row) for row in x[0].tolist()} & {tuple(row) for row in x[1].tolist()}
    for half in halves:
        assert half.nominal("background")[1].sum() == pytest.approx(1000.0)
        assert half.nominal("signal")[1].sum() == pytest.approx(50.0)


def test_errors_name_the_cause() -> None:
    other = BACKGROUND.with_features(("x1",))
    with pytest.raises(
        TrainingError, match=r"names the process 'backgrund', which does not exist\n.*background"
    ):
        run([replace(SHIFT, process="backgrund")])
    with pytest.raises(TrainingError, match="process 'background' has two variations of 'shift'"):
        run([SHIFT, SHIFT])
    with pytest.raises(TrainingError, match=r"different features\n.*shiftUp of process 'background': x1"):
        run([replace(SHIFT, up=other)])
    with pytest.raises(TrainingError, match=r"4000 events have weights that sum to -1000\n.*shiftDown"):
        run([replace(SHIFT, down=BACKGROUND.scaled(-1.0))])
    with pytest.raises(TrainingError, match="the backgrounds are missing"):
        train(NETWORK, SIGNAL, {}, seed=1)
    with pytest.raises(TrainingError, match="none named 'signal'"):
        train(NETWORK, SIGNAL, {"signal": BACKGROUND}, seed=1)


def test_a_bin_without_positive_expectation_is_named() -> None:
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=N, p=[0.4, 0.6])
    with pytest.raises(TrainingError, match=r"bin \d+ has the expectation -\d"):
        train(
            NETWORK,
            SIGNAL,
            {"background": replace(BACKGROUND, weight=BACKGROUND.weight * signs)},
            pretraining=PRETRAINING,
            settings=SETTINGS,
            bins=60,
            seed=1,
        )

"""The TOML of an unfolding: every wrong key is named, with the nearest right one."""

from __future__ import annotations

import pytest
from unfold_toy import document

from neyman.analysis.unfold_config import load_unfold_config, parse_unfold_config
from neyman.errors import ConfigError
from neyman.networks import MLP, PET
from neyman.training import BCE, MLC
from neyman.unfolding import Bootstrap

PARTICLES = {"kind": "pet", "particles": 2, "particle_features": 3, "dim": 8, "heads": 2, "hidden": None}


def parsed(**changes):
    return parse_unfold_config(document(changes), where="toy.toml")


def test_everything_that_is_given_reaches_the_unfolding():
    omnifold = parsed(
        unfold={"mode": "step", "aggregate": "median", "missed": "unchanged", "fakes": "learned", "warm_start": True},
        loss={"kind": "mlc", "link": "square"},
        particle={"network": {"hidden": [8, 8]}},
    ).made()  # fmt: skip
    assert omnifold.network == (MLP((16,)), MLP((8, 8)))
    assert (omnifold.iterations, omnifold.ensemble, omnifold.mode) == (2, 2, "step")
    assert (omnifold.aggregate, omnifold.missed, omnifold.fakes) == ("median", "unchanged", "learned")
    assert (omnifold.warm_start, omnifold.body_rate, omnifold.loss) == (True, 1.0, MLC("square"))
    assert (omnifold.settings.steps, omnifold.settings.learning_rate) == (80, 0.01)


def test_little_is_needed():
    config = parse_unfold_config(
        {
            "data": {"files": "d.root"},
            "simulation": {"files": "s.root"},
            "detector": {"features": ["a"]},
            "particle": {"features": ["b"]},
            "observables": [{"name": "b", "edges": [0, 1]}],
        },
        where="toy.toml",
    )
    assert (config.made().ensemble, config.made().loss) == (5, BCE())
    assert config.uncertainties.made() == Bootstrap()
    assert not config.closure.on
    assert config.observables[0].particle == "b"


def test_section_switches_the_closure_on():
    assert parsed(closure={}).closure.on
    assert not parsed(closure={"on": False, "distortion": "gen_x"}).closure.on


def test_braces_stand_for_the_columns_of_particles_one_after_the_other():
    features = ["reco_part{0..1}_{eta,phi,log_z}", "reco_x"]
    detector = parsed(detector={"features": features, "network": PARTICLES}).detector
    assert detector.features[:4] == (
        "reco_part0_eta", "reco_part0_phi", "reco_part0_log_z", "reco_part1_eta"
    )  # fmt: skip
    assert len(detector.features) == 7
    assert isinstance(detector.network, PET)
    assert parsed(particle={"features": ["gen{x}", "{0..12}"]}).particle.features[-2:] == ("11", "12")


def test_one_model_file_is_for_both_levels():
    assert parsed(unfold={"start": "m"}).unfold.start.particle == "m"
    assert parsed(unfold={"start": {"particle": "m"}}).unfold.start.detector is None


def test_one_sided_variation():
    config = parsed()
    assert config.systematics["efficiency"].sides() == {"up": "1 + 0.02 * (1 + tanh_y)"}
    assert list(config.systematics["slope"].sides()) == ["up", "down"]


OBSERVABLE = {"name": "x", "edges": [0, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observable": []}, r"(?s)unknown key 'observable'.*\[top level\].*nearest valid keys: observables"),
        ({"data": {"file": "x"}}, r"(?s)unknown key 'file'.*\[data\].*nearest valid keys: files"),
        (
            {"background": [{"files": "x", "wieght": "w"}]},
            r"(?s)unknown key 'wieght'.*\[background\.0\].*nearest valid keys: weight",
        ),
        ({"simulation": {"cut": "x > 0"}}, r"(?s)unknown key 'cut'.*\[simulation\].*nearest valid keys: "),
        ({"detector": {"pass": "x"}}, r"(?s)unknown key 'pass'.*\[detector\].*nearest valid keys: passes"),
        ({"particle": {"factor": "x"}}, r"(?s)unknown key 'factor'.*\[particle\].*nearest valid keys: "),
        (
            {"detector": {"network": {"hiden": [3]}}},
            r"(?s)unknown key 'hiden'.*\[detector\.network\.mlp\].*nearest valid keys: hidden",
        ),
        ({"unfold": {"iteration": 3}}, r"(?s)unknown key 'iteration'.*\[unfold\].*keys: iterations"),
        (
            {"unfold": {"start": {"detectr": "m"}}},
            r"(?s)unknown key 'detectr'.*\[unfold\.start\].*nearest valid keys: detector",
        ),
        ({"settings": {"step": 3}}, r"(?s)unknown key 'step'.*\[settings\].*nearest valid keys: steps"),
        (
            {"uncertainties": {"bootstrap": 3}},
            r"(?s)unknown key 'bootstrap'.*\[uncertainties\].*keys: bootstrap_data",
        ),
        (
            {"systematics": {"slope": {"upp": "1"}}},
            r"(?s)unknown key 'upp'.*\[systematics\.slope\].*nearest valid keys: up",
        ),
        (
            {"observables": [OBSERVABLE | {"edge": [0, 1]}]},
            r"(?s)unknown key 'edge'.*\[observables\.0\].*nearest valid keys: edges",
        ),
        ({"closure": {"distort": "x"}}, r"(?s)unknown key 'distort'.*\[closure\].*keys: distortion"),
        ({"observables": []}, r"(?s)at least 1 item.*toy\.toml: observables"),
        ({"observables": [OBSERVABLE, OBSERVABLE]}, "observable 'x' is declared twice"),
        ({"observables": [OBSERVABLE | {"edges": [1, 0]}]}, "the edges of 'x' must increase"),
        ({"observables": [OBSERVABLE | {"edges": [0, 0]}]}, "the edges of 'x' must increase"),
        ({"observables": [OBSERVABLE | {"edges": [0]}]}, r"(?s)at least 2 items.*observables\.0\.edges"),
        ({"observables": [OBSERVABLE | {"name": "a b"}]}, r"(?s)match pattern.*observables\.0\.name"),
        ({"particle": {"features": []}}, r"(?s)at least 1 item.*toy\.toml: particle\.features"),
        ({"particle": {"features": ["a", "a"]}}, "'a' is given twice among the features"),
        ({"particle": {"features": ["a{1..0}"]}}, r"'a\{1\.\.0\}' stands for no column"),
        ({"particle": {"features": ["a{0..99999}"]}}, "stands for no column, or for more than 10000"),
        ({"detector": {"features": ["weight"]}}, "'weight' cannot be a feature"),
        ({"detector": {"network": {"kind": "nsf"}}}, "a flow is not a classifier; use kind = 'mlp' or 'pet'"),
        (
            {"detector": {"network": PARTICLES}},
            "2 particles of 3 features are 6 columns, and 1 are given",
        ),
        ({"detector": {"network": 3}}, r"(?s)toy\.toml: detector\.network"),
        ({"unfold": {"mode": "both"}}, r"(?s)'parallel' or 'step'.*toy\.toml: unfold\.mode"),
        ({"unfold": {"iterations": 0}}, r"(?s)greater than or equal to 1.*unfold\.iterations"),
        ({"unfold": {"aggregate": "mean_ratio"}}, r"(?s)'mean', 'median' or 'truncated_mean'.*aggregate"),
        ({"unfold": {"aggregate": "truncated_mean"}}, r"(?s)truncated mean needs at least 3 members, got 2.*toy\.toml"),
        (
            {"unfold": {"aggregate": "truncated_mean", "ensemble": 3}, "uncertainties": {"ensemble": 2}},
            "a truncated mean needs 3 members",
        ),
        ({"unfold": {"body_rate": 2}}, r"(?s)less than or equal to 1.*unfold\.body_rate"),
        ({"unfold": {"start": 3}}, r"(?s)toy\.toml: unfold\.start"),
        ({"settings": {"steps": 0}}, r"(?s)steps must be positive, got 0.*toy\.toml"),
        ({"uncertainties": {"bootstrap_data": 1}}, r"(?s)1 bootstrap replicas of the data.*toy\.toml.*at least 2"),
        ({"systematics": {"data": {"up": "1"}}}, "a systematic cannot be called 'data'"),
        ({"systematics": {"slope": {"up": None}}}, r"(?s)Field required.*systematics\.slope\.up"),
        ({"closure": {"replicas": 1}}, r"(?s)greater than or equal to 2.*closure\.replicas"),
        ({"closure": {"p_value": 1.0}}, r"(?s)less than 1.*closure\.p_value"),
        ({"simulation": None}, r"(?s)Field required.*toy\.toml: simulation"),
        ({"name": "a/b"}, r"(?s)match pattern.*toy\.toml: name"),
    ],
)  # fmt: skip
def test_wrong_configuration(changes, message):
    with pytest.raises(ConfigError, match=message):
        parsed(**changes)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_unfold_config(tmp_path / "nowhere.toml")

"""The TOML of a ratio: every wrong key is named, with the nearest right one."""

from __future__ import annotations

import pytest
from ratio_toy import document

from neyman.analysis.ratio_config import load_ratio_config, parse_ratio_config
from neyman.errors import ConfigError
from neyman.networks import MLP, NSF
from neyman.ratios import DLE, LRE, Hybrid
from neyman.training import BCE, MLC


def parsed(**changes):
    return parse_ratio_config(document(changes), where="toy.toml")


def test_example_is_valid(repository):
    config = load_ratio_config(repository / "examples" / "ratio" / "ratio.toml")
    assert isinstance(config.made(), LRE)
    assert config.names()[0] == "Z → ττ"


def test_lre():
    lre = parsed(loss={"kind": "mlc", "link": "square"}, bootstrap=True).made()
    assert isinstance(lre, LRE)
    assert lre.network == MLP((16,))
    assert (lre.ensemble, lre.bootstrap, lre.loss) == (2, True, MLC("square"))
    assert (lre.settings.steps, lre.settings.learning_rate) == (120, 0.01)


def test_point_edge_transformer():
    changed = document({}) | {"network": {"kind": "pet", "particles": 4, "particle_features": 3}}
    assert parse_ratio_config(changed, where="toy").made().network.columns == 12


def test_dle():
    config = parsed(estimator="dle", network={"bins": 4, "transforms": 1})
    dle = config.made()
    assert isinstance(dle, DLE)
    assert dle.network == NSF(transforms=1, hidden=(16,), bins=4)


def test_hybrid():
    hybrid = parsed(
        estimator="hybrid",
        residual={"network": {"hidden": [8]}, "settings": {"steps": 7}},
        loss={"link": "gaussian"},
    ).made()
    assert isinstance(hybrid, Hybrid)
    assert hybrid.flow.network == NSF(hidden=(16,))
    assert hybrid.flow.settings.steps == 120
    assert (hybrid.network, hybrid.settings.steps, hybrid.loss) == (MLP((8,)), 7, BCE("gaussian"))


def test_one_file_may_be_a_text():
    config = parsed(denominator={"files": "x.root"})
    assert config.denominator.files == ("x.root",)
    assert config.names() == ("signal", "denominator")


def test_settings_know_the_optimizer():
    settings = parsed(
        settings={"optimizer": "ecd", "optimizer_options": {"eta": 100.0}, "patience": 3}
    ).settings
    assert settings.optimizer_options == {"eta": 100.0}
    assert settings.patience == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregate": "truncated_mean", "ensemble": 2}, r"needs an ensemble of at least 3 members"),
        ({"feature": ["x"]}, r"(?s)unknown key 'feature'.*\[top level\].*nearest valid keys: features"),
        ({"numerator": {"file": "x"}}, r"(?s)unknown key 'file'.*\[numerator\].*nearest valid keys: files"),
        (
            {"network": {"hiden": [3]}},
            r"(?s)unknown key 'hiden'.*\[network\.mlp\].*nearest valid keys: hidden",
        ),
        ({"settings": {"step": 3}}, r"(?s)unknown key 'step'.*\[settings\].*nearest valid keys: steps"),
        (
            {"estimator": "hybrid", "residual": {"settings": {"learning_rat": 1}}},
            r"(?s)unknown key 'learning_rat'.*\[residual\.settings\].*nearest valid keys:.*learning_rate",
        ),
        (
            {"checks": {"tolerance": {"closur": 1}}},
            r"(?s)unknown key 'closur'.*\[checks\.tolerance\].*nearest valid keys: closure",
        ),
        (
            {"network": {"kind": "mlpp"}},
            r"(?s)'mlpp'.*expected tags.*'mlp', 'nsf', 'pet'.*toy\.toml: network",
        ),
        ({"network": {"hidden": []}}, r"(?s)hidden layers must be positive widths.*toy\.toml"),
        ({"settings": {"steps": 0}}, r"(?s)steps must be positive, got 0.*toy\.toml"),
        ({"settings": {"steps": "many"}}, r"(?s)valid integer.*toy\.toml: settings\.steps"),
        ({"settings": {"optimizer": "sgd"}}, r"(?s)'adam', 'lion' or 'ecd'.*toy\.toml: settings\.optimizer"),
        (
            {"loss": {"kind": "mlc", "link": "sigmoid"}},
            r"(?s)MLC has no link 'sigmoid'.*toy\.toml.*exp, relu, square",
        ),
        ({"loss": {"kind": "mse"}}, r"(?s)'bce' or 'mlc'.*toy\.toml: loss\.kind"),
        ({"estimator": "nre"}, r"(?s)'lre', 'dle' or 'hybrid'.*toy\.toml: estimator"),
        ({"numerator": None}, r"(?s)Field required.*toy\.toml: numerator"),
        ({"numerator": {"files": []}}, r"(?s)at least 1 item.*toy\.toml: numerator\.files"),
        ({"features": []}, r"(?s)at least 1 item.*toy\.toml: features"),
        ({"features": ["x", "x"]}, "'x' is given twice among features and parameters"),
        ({"parameters": ["y"]}, "'y' is given twice among features and parameters"),
        ({"features": ["weight"]}, "'weight' cannot be a feature or parameter"),
        ({"checks": {"slices": ["u"]}}, "checks.slices names 'u', which is not a feature"),
        ({"checks": {"fraction": 1.0}}, r"(?s)less than 1.*checks\.fraction"),
        ({"checks": {"tolerance": {"closure": 0}}}, r"(?s)greater than 0.*checks\.tolerance\.closure"),
        ({"network": {"kind": "nsf"}}, r"kind 'nsf' cannot be that of estimator = 'lre'; use 'mlp' or 'pet'"),
        ({"estimator": "dle", "network": {"kind": "mlp"}}, "kind 'mlp' cannot be that of estimator = 'dle'"),
        (
            {"estimator": "hybrid", "residual": {"network": {"kind": "nsf"}}},
            r"the network of \[residual\] is a classifier",
        ),
        ({"estimator": "dle", "loss": {"kind": "bce"}}, "'loss' has no effect with estimator = 'dle'"),
        ({"residual": {"settings": {"steps": 5}}}, "'residual' has no effect with estimator = 'lre'"),
        (
            {"estimator": "hybrid", "start": "m.safetensors"},
            "'start' has no effect with estimator = 'hybrid'",
        ),
        ({"calibration": {"method": "isotone"}}, r"(?s)'isotonic'.*calibration\.method"),
        ({"aggregate": "max"}, r"(?s)'mean', 'median'.*aggregate"),
        ({"name": "a b"}, r"(?s)match pattern.*toy\.toml: name"),
        ({"network": 3}, r"(?s)toy\.toml: network"),
    ],
)
def test_wrong_configuration(changes, message):
    with pytest.raises(ConfigError, match=message):
        parsed(**changes)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_ratio_config(tmp_path / "nowhere.toml")


def test_features_may_be_a_file(tmp_path):
    (tmp_path / "features.toml").write_text('[features]\nmet = "MET.pt"\nn = "count(Jet)"\n')
    text = 'features = "features.toml"\n[numerator]\nfiles = "p"\n[denominator]\nfiles = "q"\n'
    (tmp_path / "ratio.toml").write_text(text)
    config = load_ratio_config(tmp_path / "ratio.toml")
    assert config.features == ("met", "n")
    assert config.spec.branches() == ("MET_pt", "nJet")
    (tmp_path / "ratio.toml").write_text(text.replace("features.toml", "feature.toml"))
    with pytest.raises(ConfigError, match=r"feature.toml does not exist"):
        load_ratio_config(tmp_path / "ratio.toml")


def test_features_and_inputs_must_agree():
    with pytest.raises(ConfigError, match="'features' and 'inputs' name different features"):
        parsed(inputs={"features": {"x": "MET.pt"}})
    with pytest.raises(ConfigError, match="not allowed"):
        parsed(features=["x"], inputs={"features": {"x": "MET.__class__"}})

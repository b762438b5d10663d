"""The TOML of a measurement: every wrong key is named, with the nearest right one, and names mean one thing."""

from __future__ import annotations

import copy

import pytest
from sannt_toy import ESTIMATES, SAMPLES, SYSTEMATICS, document

from neyman.analysis.sannt_config import load_sannt_config, parse_sannt_config
from neyman.errors import ConfigError
from neyman.networks import MLP
from neyman.sannt import KDE, EdgeKernel, EdgeScan, Exact, GaussianDerivative, Inferno, Linear
from neyman.sannt.training import PRETRAINING, SETTINGS
from neyman.workspace import Treatment


def parsed(**changes):
    return parse_sannt_config(document(**changes), where="toy.toml")


def sample(k, **changes):
    """The samples with one of them changed."""
    out = copy.deepcopy(SAMPLES)
    out[k] |= changes
    return out


def systematic(**changes):
    return [*SYSTEMATICS, {"name": "extra", **changes}]


def test_example_is_valid(repository):
    config = load_sannt_config(repository / "examples" / "opendata" / "sannt.toml")
    assert config.strengths == {"r": ("ggH", "qqH")}
    assert config.signals == {"ggH_qqH": "r"}
    assert config.labelled()["ggH_qqH"] == "gg → H + qq → H"


def test_processes_and_what_acts_on_them():
    config = parsed()
    assert config.region == "SR"
    assert list(config.processes) == ["sig", "bkg", "top", "fakes"]
    assert config.normsys("bkg") == {"lumi": (1.02, 0.98), "xs": (1.1, 0.9)}
    assert config.normsys("fakes") == {"fake_rate": (1.2, 0.8)}
    assert config.region_cuts("CR") == {"charge": "q < 0", "m": "m > 2"}
    assert config.sideband_cuts("CR", config.estimates[0]) == {"charge": "q > 0", "m": "m > 2"}


def test_region_may_replace_a_common_cut():
    regions = document()["regions"]
    regions["CR"]["cuts"] = {"charge": "q < 0 and m > 2"}
    assert parsed(regions=regions).region_cuts("CR") == {"charge": "q < 0 and m > 2"}


def test_samples_of_a_strength_are_one_process():
    second = {"name": "sig2", "files": "sig.parquet", "signal": "r", "normsys": {"other": [1.2, 0.8]}}
    config = parsed(samples=[*SAMPLES, second])
    assert config.signals == {"sig_sig2": "r"}
    assert config.normsys("sig_sig2") == {"lumi": (1.02, 0.98)}
    assert config.labelled()["sig_sig2"] == "signal + sig2"


def test_defaults_are_those_of_the_training():
    config = parsed(pretraining=None, settings=None)
    assert (config.pretraining, config.settings) == (PRETRAINING, SETTINGS)
    assert parsed().settings.validation_fraction == SETTINGS.validation_fraction
    assert parsed().settings.steps == 15
    assert parsed(network={"hidden": [3, 4]}).network == MLP((3, 4))


@pytest.mark.parametrize(
    ("filling", "made"),
    [
        ({}, Exact()),
        ({"function": "linear"}, Exact(Linear())),
        ({"width": 0.4}, Exact(EdgeKernel(0.4))),
        ({"function": "gaussian", "width": 0.3, "margin": 0.1}, Exact(GaussianDerivative(0.3), 0.1)),
        ({"kind": "kde"}, KDE()),
        ({"kind": "kde", "bandwidth": 0.2}, KDE(0.2)),
        ({"kind": "inferno"}, Inferno()),
        ({"kind": "inferno", "temperature": 0.2}, Inferno(0.2)),
        ({"kind": "scan"}, EdgeScan()),
        ({"kind": "scan", "places": 50}, EdgeScan(50)),
    ],
)
def test_fillings(filling, made):
    assert parsed(filling=filling).filling.made() == made


def test_bins_and_export():
    assert parsed(bins={"edges": [0, 0.3, 1]}).bins.made() == (0.0, 0.3, 1.0)
    assert parsed().bins.made() == 4
    assert parsed(export={"floor_negative": 0.01, "smooth": "353QH"}).export == Treatment(0.01, "353QH")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature": ["x"]}, r"(?s)unknown key 'feature'.*\[top level\].*nearest valid keys: features"),
        ({"bins": {"numbre": 3}}, r"(?s)unknown key 'numbre'.*\[bins\].*nearest valid keys: number"),
        ({"samples": sample(0, wieght="w")}, r"(?s)unknown key 'wieght'.*\[samples\.0\].*nearest.*weight"),
        ({"settings": {"step": 3}}, r"(?s)unknown key 'step'.*\[settings\].*nearest valid keys: steps"),
        (
            {"regions": {"SR": {"fit": "sannt", "cut": {}}}},
            r"(?s)unknown key 'cut'.*\[regions\.SR\].*nearest valid keys: cuts",
        ),
        (
            {"systematics": systematic(columns={"up": {"x": "1"}, "donw": {"x": "1"}})},
            r"(?s)toy\.toml.*(donw|down)",
        ),
        ({"export": {"prune": 0.1}}, r"(?s)unknown key 'prune'.*\[export\].*nearest valid keys: prune"),
        ({"export": {"smooth": "spline"}}, r"(?s)'none' or '353QH'.*toy\.toml: export\.smooth"),
        ({"settings": {"steps": 0}}, r"(?s)steps must be positive, got 0.*toy\.toml"),
        ({"folds": 3}, r"(?s)1 or 2.*toy\.toml: folds"),
        ({"bins": {"number": 1}}, r"(?s)greater than or equal to 2.*bins\.number"),
        ({"samples": SAMPLES[:1]}, r"(?s)at least 2 items.*toy\.toml: samples"),
        ({"samples": SAMPLES[1:]}, "no sample has a strength"),
        ({"samples": sample(1, name="sig")}, "'sig' is declared twice"),
        ({"samples": sample(1, name="data")}, "'data' is the name of what was observed"),
        ({"samples": sample(0, free="k")}, "'sig' has a strength and a free factor"),
        ({"samples": sample(2, free="r")}, "'r' is a strength and a free factor; rename one"),
        ({"samples": sample(2, free="xs")}, "'xs' is a free factor and a constrained parameter"),
        ({"samples": sample(1, normsys={"tilt": [1.1, 0.9]})}, "'tilt' acts twice on sample 'bkg'"),
        ({"samples": sample(1, normsys={"xs": [1.1, -0.9]})}, r"(?s)greater than 0.*normsys\.xs"),
        ({"systematics": systematic()}, "'extra' has no effect: give one of factor, weight, columns, files"),
        (
            {"systematics": systematic(factor=[1.1, 0.9], weight={"up": "1", "down": "1"})},
            "'extra' has factor and weight: give one of",
        ),
        (
            {"systematics": systematic(factor=[1.1, 0.9], samples=["bgk"])},
            r"systematic 'extra' names an unknown sample 'bgk'; nearest: bkg",
        ),
        (
            {"systematics": systematic(files={"up": "u", "down": "d"})},
            "'extra' has files: give the one sample",
        ),
        ({"systematics": [*SYSTEMATICS, SYSTEMATICS[2]]}, "'tilt' acts twice on sample 'bkg'"),
        ({"data": None}, r"the estimate 'fakes' is made of data: give \[data\]"),
        (
            {"estimates": [{**ESTIMATES[0], "replace": {"chrage": "q > 0"}}]},
            "'fakes' replaces the cut 'chrage', which no region has; nearest: charge",
        ),
        (
            {"estimates": [{**ESTIMATES[0], "replace": {"charge": "q < 0"}}]},
            "'fakes' would take the events of region 'SR' itself",
        ),
        (
            {"estimates": [{**ESTIMATES[0], "subtract": ["topp"]}]},
            "subtract of 'fakes' names an unknown sample 'topp'; nearest: top",
        ),
        (
            {
                "regions": {"SR_s": {"fit": "binned", "observable": "y", "edges": [0, 1]}},
                "classes": {"s": ["sig"], "b": ["bkg", "top", "fakes"]},
            },
            "region 'SR_s' has the name of a class's channel",
        ),
        ({"noise": 0.0}, r"(?s)greater than 0.*toy\.toml: noise"),
        ({"constraint": {"rate": -1.0}}, r"(?s)rate must be positive, got -1\.0.*toy\.toml"),
        ({"regions": {"CR": {"fit": "sannt"}}}, "exactly one region must have fit = 'sannt'"),
        ({"regions": {"SR": {"fit": "binned"}}}, "a binned region needs an observable and at least two edges"),
        (
            {"regions": {"CR": {"fit": "binned", "observable": "y", "edges": [1, 0]}}},
            "edges must increase",
        ),
        ({"regions": {"SR": {"fit": "sannt", "observable": "y"}}}, "observable and edges belong to a binned"),
        ({"features": ["x", "x"]}, "feature 'x' is given twice"),
        ({"features": ["weight"]}, "'weight' cannot be a feature"),
        ({"columns": {"y2": "y2 + 1"}}, "column 'y2' uses 'y2', which is not defined above it"),
        ({"columns": {"a": "b", "b": "x"}}, "column 'a' uses 'b', which is not defined above it"),
        ({"columns": {"a": "x +"}}, r"(?s)not an expression.*'x \+'"),
        ({"labels": {"xx": "X"}}, "labels names 'xx', which is no feature; nearest: x"),
        ({"fit": {"bounds": {"rr": [0, 1]}}}, "fit.bounds names an unknown parameter 'rr'; nearest: r"),
        ({"fit": {"bounds": {"r": [1, 0]}}}, "the bounds of 'r' do not increase"),
        ({"filling": {"kind": "kde", "function": "edge"}}, "'function' has no effect with kind = 'kde'"),
        ({"filling": {"function": "linear", "width": 0.1}}, "'width' has no effect with function = 'linear'"),
        ({"filling": {"kind": "kdee"}}, r"(?s)'exact', 'kde', 'inferno' or 'scan'.*filling\.kind"),
        ({"classes": {"a": ["sig"], "b": ["bkg", "top"]}}, "sample 'fakes' is in 0 classes"),
        ({"classes": {"a": ["sgi"]}}, "classes names an unknown sample 'sgi'; nearest: sig"),
        (
            {
                "samples": [*SAMPLES, {"name": "sig2", "files": "s", "signal": "r"}],
                "classes": {"a": ["sig"], "b": ["sig2", "bkg", "top", "fakes"]},
            },
            "the samples of 'sig_sig2' have one strength and must be in one class",
        ),
        (
            {"samples": [*SAMPLES, {"name": "s2", "files": "s", "signal": "r"}, {"name": "sig_s2", "files": "s"}]},
            "the samples of a strength together are named 'sig_s2'",
        ),
        (
            {"samples": [{**one, "signal": f"r{k}", "free": None} for k, one in enumerate(SAMPLES)], "estimates": []},
            "every sample is a signal",
        ),
    ],
)  # fmt: skip
def test_wrong_configuration(changes, message):
    with pytest.raises(ConfigError, match=message):
        parsed(**changes)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_sannt_config(tmp_path / "nowhere.toml")


def test_not_a_document():
    with pytest.raises(ConfigError, match="measurement"):
        parsed(measurement={"name": "a b"})

"""`analysis.toml`: every wrong key is named, with the nearest right one."""

from __future__ import annotations

import tomllib

import pytest
from analysis_toy import TOML

from neyman.analysis import load_config, parse_config
from neyman.errors import ConfigError


def document(**changes):
    parsed = tomllib.loads(TOML)
    for path, value in changes.items():
        *parents, key = path.split("__")
        section = parsed
        for parent in parents:
            section = section[int(parent)] if parent.isdigit() else section[parent]
        section[key] = value
    return parsed


def test_example_and_toy_are_valid(repository):
    config = load_config(repository / "examples" / "htautau" / "analysis.toml")
    assert config.signal.name == "htautau"
    assert config.signal_region == "signal"
    assert config.conditioning.value(-1.0) == pytest.approx(0.98)
    assert [s.name for s in config.updown] == ["jes"]
    parse_config(document(), where="toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events__procesor": "x"}, r"(?s)unknown key 'procesor'.*\[events\].*nearest valid keys: processor"),
        ({"systematics__0__sgma": 1}, r"(?s)unknown key 'sgma'.*\[systematics\.0\].*sigma"),
        ({"regions__CR__edge": [1]}, r"(?s)unknown key 'edge'.*\[regions\.CR\].*edges"),
        ({"training__nominal__step": 3}, r"(?s)unknown key 'step'.*\[training\.nominal\].*steps"),
        ({"fits": {}}, r"(?s)unknown key 'fits'.*\[top level\].*fit"),
        ({"analysis__luminosity": -1.0}, r"(?s)greater than 0.*analysis\.luminosity"),
        ({"analysis__luminosity": "much"}, r"(?s)valid number.*analysis\.luminosity"),
        ({"analysis__poi": "mv"}, "exactly one sample must carry the parameter of interest 'mv'"),
        ({"regions__CR__fit": "unbinned"}, "exactly one region must have fit = 'unbinned'"),
        ({"regions__CR__edges": [2.0, 1.0]}, "edges must increase"),
        ({"regions__CR__observable": ""}, "a binned region needs an observable"),
        ({"compare__observable": "z"}, "'z' is not a feature"),
        ({"systematics__1__ratio": "network"}, "at most one systematic may have ratio = 'network'"),
        ({"systematics__1__shift": "scale"}, "shift 'scale' is declared twice"),
        ({"systematics__0__trained": 2.0}, r"trained \(2\) must be at least range \(3\)"),
        ({"samples__1__name": "sig"}, "sample 'sig' is declared twice"),
        ({"systematics__0__name": "bkg_norm"}, r"'bkg_norm' is declared twice.*as systematic and as normsys"),
        ({"systematics__0__name": "lumi"}, r"'lumi' is declared twice.*as luminosity and as systematic"),
        (
            {"fit__bounds": {"bkg_norm": [0.5, 2.0]}},
            r"bounds of 'bkg_norm' are \[0.5, 2\] and do not contain its start 0",
        ),
        ({"compare__range": [4.0, -3.0]}, "range must increase"),
        ({"samples__0__name": "weight"}, "sample 'weight' has the name of an event column"),
        ({"systematics__0__name": "x"}, "systematic 'x' has the name of an event column"),
        ({"samples__0__files": ["/abs/x.root"]}, r"(?s)match pattern.*samples\.0\.files\.0"),
        ({"fit__bounds": {"mv": [0, 1]}}, r"unknown parameter 'mv'; nearest: .*mu"),
        ({"events__executor": "spark"}, r"(?s)'iterative' or 'threads'.*events\.executor"),
    ],
)
def test_wrong_configuration(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(document(**changes), where="toy.toml")


def test_missing_section():
    broken = document()
    del broken["compare"]
    with pytest.raises(ConfigError, match=r"(?s)Field required.*toy\.toml: compare"):
        parse_config(broken, where="toy.toml")


@pytest.mark.parametrize("text", ["[analysis", "a = ", "\x00", "a = 1\na = 2"])
def test_broken_toml(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.toml is not readable TOML"):
        load_config(tmp_path / "a.toml")


def test_missing_toml(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.toml does not exist"):
        load_config(tmp_path / "a.toml")

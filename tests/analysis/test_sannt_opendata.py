"""Collision data: the CMS open data of 2012 through the whole chain, from flat ntuples to an observed strength."""

from __future__ import annotations

import tomllib

import pyhf
import pytest

from neyman.analysis.sannt_config import parse_sannt_config
from neyman.analysis.sannt_events import SanntEvents
from neyman.analysis.sannt_job import train_sannt
from neyman.likelihood import Likelihood
from neyman.workspace import read, validate


@pytest.fixture(scope="module")
def example(repository):
    return repository / "examples" / "opendata" / "sannt.toml"


@pytest.fixture(scope="module")
def skims(shared_data):
    folder = shared_data / "cms_open_data_htautau"
    if not folder.is_dir():
        pytest.skip(f"the skims are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def finished(example, skims, tmp_path_factory):
    """The example with a short training and no report."""
    folder = tmp_path_factory.mktemp("opendata")
    text = example.read_text()
    for long, short in (
        ("ensemble = 5 ", "ensemble = 1 "),
        ("steps = 600", "steps = 200"),
        ("steps = 300", "steps = 30"),
    ):
        assert long in text
        text = text.replace(long, short)
    (folder / "sannt.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neyman.plots.sannt_report.write", lambda folder, *_: None)
        return train_sannt(folder / "sannt.toml", output=folder / "out", data=skims)


def test_selection_is_that_of_the_published_exercise(example, skims, tmp_path):
    """Counts with opposite charges, isolation below 0.1 and mT below 30 or above 70, a QCD factor of 1."""
    document = tomllib.loads(example.read_text())
    document["estimates"][0]["factor"] = 1.0
    config = parse_sannt_config(document, where="sannt.toml")
    found = SanntEvents.find(config, skims).write(tmp_path / "events", lambda done, total: None)
    expected = {
        region: {name: one["expected"] for name, one in found[region]["processes"].items()}
        for region in found
    }
    qcd = {region: one.pop("QCD") for region, one in expected.items()}
    assert found["signal"]["data"] == 7527
    assert sum(expected["signal"].values()) == pytest.approx(6310, abs=1)
    assert qcd["signal"] == pytest.approx(2438 - 771, abs=1)
    assert found["w_jets"]["data"] == 3842
    assert sum(expected["w_jets"].values()) == pytest.approx(3943, abs=1)
    assert expected["signal"]["ggH_qqH"] == pytest.approx(229.0 + 22.1, abs=0.1)


def test_observed_and_expected_strength(finished):
    results = finished.results
    assert finished.invalid == []
    for stage in ("pretrained", "trained"):
        fit = results["fits"][stage]
        assert 0.3 < fit["hesse"]["ggH_qqH"] < 1.0
        assert fit["hesse"]["ggH_qqH"] == pytest.approx(fit["fisher"]["ggH_qqH"], rel=0.01)
        assert fit["pyhf"]["ggH_qqH"] == pytest.approx(fit["hesse"]["ggH_qqH"], rel=0.01)
    for name in ("observed", "observed_cennt"):
        observed = results[name]
        low, high = observed["minos"]["r"]
        assert -2.0 < low < 0.0 < high < 2.0
        assert abs(observed["values"]["r"] - 1.0) < 4.0 * results["fits"]["trained"]["hesse"]["ggH_qqH"]
        assert observed["goodness_of_fit"]["p_value"] > 0.01
        assert max(abs(pull) for pull in observed["pulls"].values()) < 3.0
        assert observed["values"]["w_norm"] == pytest.approx(1.0, abs=0.2)
    assert all(check["passed"] for check in results["closure of the yields"])


def test_workspace(finished):
    folder = finished.output / "workspace"
    assert all(check.passed for check in validate(folder))
    spec = read(folder).binned
    model = pyhf.Workspace(spec).model()
    assert model.config.channels == ["signal", "w_jets"]
    assert sum(spec["observations"][0]["data"]) == 7527
    assert Likelihood.load(folder).poi == "r"


@pytest.mark.slow
def test_example_as_it_is(example, skims, tmp_path):
    done = train_sannt(example, output=tmp_path / "out", data=skims)
    assert done.invalid == []
    assert done.results["fits"]["trained"]["hesse"]["ggH_qqH"] < 0.8
    page = (done.output / "report" / "index.html").read_text()
    for words in ("gg → H + qq → H", "multijet", "w_jets", "7,527"):
        assert words in page

"""cabinetry builds its workspace from our histograms, and it is the one that `from_hists` makes."""

from __future__ import annotations

import hist
import numpy as np
import pytest

from neyman import Likelihood
from neyman.errors import MissingExtraError, WorkspaceError
from neyman.workspace import SampleModel, from_hists
from neyman.workspace.cabinetry_router import cabinetry_router

CATEGORIES = ("nominal", "jesUp", "jesDown")


@pytest.fixture
def cabinetry():
    return pytest.importorskip("cabinetry")


def histogram(scale, seed, categories=CATEGORIES):
    rng = np.random.default_rng(seed)
    h = hist.Hist(
        hist.axis.StrCategory(categories, name="variation"),
        hist.axis.Regular(4, 0, 1, name="m"),
        storage=hist.storage.Weight(),
    )
    nominal = scale * rng.uniform(1.0, 2.0, 4)
    for i in range(len(categories)):
        h.view()["value"][i] = nominal * (1.0 if i == 0 else rng.uniform(0.9, 1.1, 4))
        h.view()["variance"][i] = 0.05 * nominal
    return h


CHANNELS = {
    region: {"sig": histogram(5.0, 10 + i, CATEGORIES[:1]), "bkg": histogram(50.0, 20 + i)}
    for i, region in enumerate(("SR", "CR"))
}
OBSERVED = {"SR": np.array([60.0, 70.0, 90.0, 80.0]), "CR": np.array([75.0, 66.0, 91.0, 88.0])}


def configuration(folder):
    effect = {"Normalization": 0.1}
    return {
        "General": {
            "Measurement": "measurement",
            "POI": "mu",
            "HistogramFolder": str(folder),
            "InputPath": "nothing",
        },
        "Regions": [{"Name": name, "Variable": "m", "Binning": [0, 1]} for name in CHANNELS],
        "Samples": [
            {"Name": "data", "Tree": "-", "SamplePath": "-", "Data": True},
            {"Name": "sig", "Tree": "-", "SamplePath": "-"},
            {"Name": "bkg", "Tree": "-", "SamplePath": "-"},
        ],
        "NormFactors": [{"Name": "mu", "Samples": "sig", "Nominal": 1, "Bounds": [-10, 10]}],
        "Systematics": [
            {
                "Name": "xsec",
                "Type": "Normalization",
                "Samples": "bkg",
                "Up": effect,
                "Down": {"Normalization": -0.1},
            },
            {
                "Name": "jes",
                "Type": "NormPlusShape",
                "Samples": "bkg",
                "Up": {"Tree": "-"},
                "Down": {"Tree": "-"},
            },
        ],
    }


def test_the_same_workspace(cabinetry, tmp_path):
    config = configuration(tmp_path)
    cabinetry.templates.build(config, router=cabinetry_router(CHANNELS, observed=OBSERVED))
    cabinetry.templates.postprocess(config)
    theirs = cabinetry.workspace.build(config, with_validation=False)
    models = {"sig": SampleModel(("mu",)), "bkg": SampleModel(normsys={"xsec": (1.1, 0.9)})}
    ours = from_hists(CHANNELS, models, observed=OBSERVED)
    assert theirs["measurements"][0]["config"]["parameters"] == [
        {"name": "mu", "inits": [1], "bounds": [[-10, 10]]}
    ]
    one, other = Likelihood.from_pyhf(ours), Likelihood.from_pyhf(theirs)
    assert sorted(one.names) == sorted(other.names)
    at = [other.names.index(name) for name in one.names]
    np.testing.assert_array_equal(one.bounds, other.bounds[at])
    rng = np.random.default_rng(1)
    for _ in range(5):
        x = one.inits + 0.3 * rng.normal(size=len(one.names)) * np.where(one.inits == 0.0, 1.0, 0.2)
        y = np.empty_like(x)
        y[at] = x
        assert other.value(y) == pytest.approx(one.value(x), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["Regions"][0].update(Name="VR"), r"(?s)no histogram for region 'VR'.*nearest: (SR|CR)"),
        (
            lambda c: c["Samples"][1].update(Name="signal"),
            r"(?s)for sample 'signal'.*region SR.*nearest: sig",
        ),
        (
            lambda c: c["Systematics"][1].update(Name="jer"),
            r"(?s)for variation 'jerUp'.*region SR, sample bkg",
        ),
    ],
)
def test_a_configuration_that_asks_for_more(cabinetry, tmp_path, change, message):
    config = configuration(tmp_path)
    change(config)
    with pytest.raises(WorkspaceError, match=message):
        cabinetry.templates.build(config, router=cabinetry_router(CHANNELS, observed=OBSERVED))


def test_data(cabinetry, tmp_path):
    config = configuration(tmp_path)
    for observed, message in (
        ({}, r"(?s)for data in region 'SR'.*sample data"),
        ({"SR": [1.0, 2.0]}, r"(?s)2 counts are observed.*expected: 4"),
    ):
        with pytest.raises(WorkspaceError, match=message):
            cabinetry.templates.build(config, router=cabinetry_router(CHANNELS, observed=observed))
    as_histograms = {region: histogram(60.0, 3, ("jesUp", "nominal")) for region in CHANNELS}
    cabinetry.templates.build(config, router=cabinetry_router(CHANNELS, observed=as_histograms))
    cabinetry.templates.postprocess(config)
    made = cabinetry.workspace.build(config, with_validation=False)
    for observation in made["observations"]:
        wanted = as_histograms[observation["name"]]["nominal", :].values()
        assert observation["data"] == pytest.approx(wanted)


def test_without_cabinetry(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cabinetry.route", None)
    with pytest.raises(MissingExtraError, match=r"(?s)cabinetry is not installed.*neyman\[cabinetry\]"):
        cabinetry_router(CHANNELS)

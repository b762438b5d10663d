"""`from_hists`: an ordinary pyhf workspace from hist histograms."""

from __future__ import annotations

import hist
import numpy as np
import pyhf
import pytest

from neyman import Likelihood, fit
from neyman.errors import WorkspaceError
from neyman.workspace import from_hists
from neyman.workspace.histograms import Naming, SampleModel

NOMINAL = np.array([40.0, 30.0, 20.0])
MODELS = {
    "sig": SampleModel(("mu",), lumi=True),
    "bkg": SampleModel(normsys={"xsec": (1.1, 0.92)}, lumi=True),
}
LUMI = [{"name": "lumi", "inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0], "sigmas": [0.02]}]


def histogram(contents, axis="variation", variances=None):
    h = hist.Hist(
        hist.axis.StrCategory(list(contents), name=axis),
        hist.axis.Regular(3, 0, 3, name="x"),
        storage=hist.storage.Weight(),
    )
    for i, values in enumerate(contents.values()):
        h.view()["value"][i] = values
        h.view()["variance"][i] = np.asarray(values) * 0.1 if variances is None else variances
    return h


def channels(**variations):
    return {
        "SR": {
            "sig": histogram({"nominal": [2.0, 6.0, 9.0]}),
            "bkg": histogram({"nominal": NOMINAL} | variations),
        }
    }


def test_expected_counts_at_one_sigma_are_the_variations():
    up, down = np.array([44.0, 35.0, 22.0]), np.array([37.0, 24.0, 19.0])
    spec = from_hists(channels(jesUp=up, jesDown=down), MODELS, parameters=LUMI)
    model = pyhf.Workspace(spec).model()
    for alpha, wanted in ((0.0, NOMINAL), (1.0, up), (-1.0, down)):
        x = dict.fromkeys(model.config.par_names, 1.0) | {"jes": alpha, "xsec": 0.0, "mu": 0.0}
        found = model.expected_actualdata([x[name] for name in model.config.par_names])
        assert found == pytest.approx(wanted, rel=1e-9)


def test_staterror_is_the_simulation_uncertainty():
    spec = from_hists(channels(), MODELS, parameters=LUMI)
    modifiers = {m["type"]: m["data"] for m in spec["channels"][0]["samples"][1]["modifiers"]}
    assert modifiers["staterror"] == pytest.approx(np.sqrt(0.1 * NOMINAL))
    without = from_hists(channels(), MODELS, parameters=LUMI, staterror=False)
    assert "staterror" not in str(without)


def test_pure_normalisation_has_no_histosys():
    spec = from_hists(channels(jesUp=1.1 * NOMINAL, jesDown=0.9 * NOMINAL), MODELS, parameters=LUMI)
    found = [m for m in spec["channels"][0]["samples"][1]["modifiers"] if m["name"] == "jes"]
    assert [m["type"] for m in found] == ["normsys"]
    assert found[0]["data"] == pytest.approx({"hi": 1.1, "lo": 0.9})


def test_asimov_observation_fits_to_one():
    spec = from_hists(channels(jesUp=1.1 * NOMINAL, jesDown=0.9 * NOMINAL), MODELS, parameters=LUMI)
    result = fit(Likelihood.from_pyhf(spec))
    assert result.valid
    assert result.values["mu"] == pytest.approx(1.0, abs=1e-3 * result.errors["mu"])


def test_other_naming():
    h = histogram({"central": NOMINAL, "jes_up": 1.1 * NOMINAL, "jes_down": 0.9 * NOMINAL}, axis="systematic")
    naming = Naming("systematic", "central", "_up", "_down")
    spec = from_hists({"SR": {"sig": h}}, {"sig": SampleModel(("mu",))}, naming=naming)
    assert [m["name"] for m in spec["channels"][0]["samples"][0]["modifiers"]] == [
        "mu",
        "jes",
        "staterror_SR",
    ]


@pytest.mark.parametrize(
    ("contents", "changes", "message"),
    [
        ({"jesUp": NOMINAL}, {}, r"(?s)'jesDown' is missing.*pairs NAMEUp, NAMEDown"),
        ({"jes": NOMINAL}, {}, r"(?s)'jes' has no up/down partner"),
        ({"jesUp": 0 * NOMINAL, "jesDown": NOMINAL}, {}, r"'jes' has totals nominal 90, up 0"),
        ({"jesUp": [np.nan, 1, 1], "jesDown": NOMINAL}, {}, r"bin 0 of 'jesUp' is not finite"),
        ({}, {"poi": "mv"}, r"(?s)no sample carries the parameter of interest 'mv'.*mu"),
        ({}, {"observed": {"SR": [1.0, 2.0]}}, r"'SR' is observed in 2 bins but has 3"),
        ({}, {"observed": {"SRR": [1.0, 2.0, 3.0]}}, r"(?s)no channel 'SRR' of which counts.*nearest: SR"),
        ({}, {"observed": {"SR": [1.0, -2.0, 3.0]}}, r"(?s)observed count of bin 1 is -2.*channel 'SR'"),
        ({}, {"observed": {"SR": [1.0, np.nan, 3.0]}}, r"observed count of bin 1 is nan"),
    ],
)
def test_bad_histograms(contents, changes, message):
    with pytest.raises(WorkspaceError, match=message):
        from_hists(channels(**contents), MODELS, parameters=LUMI, **changes)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (SampleModel(normsys={"jes": (1.1, 0.9)}), "normsys"),
        (SampleModel(normfactors=("jes",)), "normfactor"),
    ],
)
def test_a_parameter_has_one_effect_on_a_sample(model, kind):
    models = MODELS | {"bkg": model}
    with pytest.raises(
        WorkspaceError, match=rf"(?s)'jes' varies the histogram and is a {kind} too.*sample bkg"
    ):
        from_hists(channels(jesUp=1.1 * NOMINAL, jesDown=0.9 * NOMINAL), models, parameters=LUMI)


def test_a_sample_may_be_absent_from_a_channel():
    nothing = 0.0 * NOMINAL
    histograms = channels()
    histograms["SR"]["bkg"] = histogram({"nominal": nothing, "jesUp": nothing, "jesDown": nothing})
    spec = from_hists(histograms, MODELS, parameters=LUMI)
    assert "jes" not in str(spec)
    lh = Likelihood.from_pyhf(spec)
    assert np.isfinite(lh.value(lh.inits))
    histograms["SR"]["bkg"] = histogram({"nominal": nothing, "jesUp": NOMINAL, "jesDown": nothing})
    with pytest.raises(WorkspaceError, match="'jes' has totals nominal 0, up 90, down 0"):
        from_hists(histograms, MODELS, parameters=LUMI)


def test_negative_bin():
    bad = {"SR": {"sig": histogram({"nominal": [1.0, -0.5, 2.0]})}}
    with pytest.raises(
        WorkspaceError, match=r"(?s)bin 1 has a negative expectation -0\.5.*channel SR, sample sig"
    ):
        from_hists(bad, {"sig": SampleModel(("mu",))})


def test_sample_without_model():
    with pytest.raises(WorkspaceError, match="sample 'bkg' of channel 'SR' has no model"):
        from_hists(channels(), {"sig": MODELS["sig"]})


def test_wrong_axes():
    h = hist.Hist(hist.axis.Regular(3, 0, 3, name="x"), hist.axis.Regular(3, 0, 3, name="y"))
    with pytest.raises(WorkspaceError, match=r"(?s)one numeric axis.*axes x, y"):
        from_hists({"SR": {"sig": h}}, {"sig": SampleModel(("mu",))})


def test_missing_nominal():
    with pytest.raises(WorkspaceError, match=r"no category 'nominal'"):
        from_hists({"SR": {"sig": histogram({"central": NOMINAL})}}, {"sig": SampleModel(("mu",))})


def test_different_binnings():
    h = hist.Hist(hist.axis.Regular(2, 0, 2, name="x"), storage=hist.storage.Weight())
    with pytest.raises(WorkspaceError, match="different numbers of bins"):
        from_hists({"SR": {"sig": histogram({"nominal": NOMINAL}), "bkg": h}}, MODELS)

"""Starts and bounds are written, and what findings `from_hists` notes."""

from __future__ import annotations

import hist
import numpy as np
import pyhf
import pytest

from neyman import Likelihood, fit
from neyman.errors import WorkspaceError
from neyman.workspace import SampleModel, from_hists


def histogram(**contents):
    values = np.array(list(contents.values()), dtype=float)
    h = hist.Hist(
        hist.axis.StrCategory(list(contents), name="variation"),
        hist.axis.Regular(values.shape[1], 0, 1, name="x"),
        storage=hist.storage.Weight(),
    )
    h.view()["value"] = values
    h.view()["variance"] = 0.1 * values
    return h


SIGNAL, BACKGROUND = histogram(nominal=[2.0, 5.0]), histogram(nominal=[40.0, 30.0])
MODELS = {"sig": SampleModel(("mu",), lumi=True), "bkg": SampleModel(("k",), lumi=True)}
CHANNELS = {"SR": {"sig": SIGNAL, "bkg": BACKGROUND}}


def settings(**options):
    spec = from_hists(CHANNELS, MODELS, **{"lumi": 0.02} | options)
    return {p.pop("name"): p for p in spec["measurements"][0]["config"]["parameters"]}


def test_defaults():
    assert settings() == {
        "mu": {"inits": [1.0], "bounds": [[-10.0, 10.0]]},
        "k": {"inits": [1.0], "bounds": [[0.0, 10.0]]},
        "lumi": {"auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.9, 1.1]]},
    }


def test_what_is_given_wins():
    lumi = {"name": "lumi", "inits": [1.0], "bounds": [[0.5, 1.5]], "auxdata": [1.0], "sigmas": [0.1]}
    made = settings(
        parameters=[
            {"name": "k", "inits": [3.0]},
            {"name": "mu", "bounds": [[0.0, 2.0]], "fixed": True},
            lumi,
        ],
        bounds={"mu": (-5.0, 5.0)},
    )
    assert made["k"] == {"inits": [3.0], "bounds": [[0.0, 30.0]]}
    assert made["mu"] == {"bounds": [[0.0, 2.0]], "fixed": True}
    assert made["lumi"]["sigmas"] == [0.1]
    assert settings(bounds={"mu": (-5, 5)})["mu"]["bounds"] == [[-5.0, 5.0]]


def test_pyhf_has_the_same_bounds():
    spec = from_hists(
        CHANNELS, {**MODELS, "bkg": SampleModel(lumi=True)}, lumi=0.02, observed={"SR": [39.0, 26.0]}
    )
    model = pyhf.Workspace(spec).model()
    lh = Likelihood.from_pyhf(spec)
    assert list(model.config.suggested_bounds()[model.config.par_slice("mu").start]) == [-10.0, 10.0]
    assert lh.bounds[lh.names.index("mu")].tolist() == [-10.0, 10.0]
    assert fit(lh).values["mu"] < 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lumi": None}, r"(?s)luminosity, whose uncertainty is not given.*lumi=0\.02"),
        ({"lumi": 2.0}, r"(?s)uncertainty of the luminosity is 2\.0.*between 0 and 1"),
        ({"bounds": {"mv": (0.0, 1.0)}}, r"(?s)bounds are given for 'mv'.*nearest: mu"),
        (
            {"bounds": {"mu": (2.0, 5.0)}},
            r"(?s)'mu' starts at 1, outside its bounds 2 to 5.*'inits': \[START\]",
        ),
        ({"bounds": {"mu": (2.0, 1.0)}}, r"(?s)bounds of 'mu' are \(2\.0, 1\.0\).*lower and an upper"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(WorkspaceError, match=message):
        settings(**options)


def test_what_deserves_a_look_is_noted():
    notes, report = [], []
    nominal = [40.0, 30.0, 0.0, 0.0]
    h = histogram(nominal=nominal, jesUp=[44.0, 33.0, 1.0, 0.0], jesDown=[41.0, 31.0, 0.0, 0.0])
    h.view()["variance"][0, 1] = 0.0
    spec = from_hists({"SR": {"bkg": h}}, {"bkg": SampleModel(("mu",))}, notes=notes, report=report)
    assert report == []
    assert [(n.where, n.what) for n in notes] == [
        ("channel SR, sample bkg", "one-sided"),
        ("channel SR, sample bkg", "fills empty bins"),
        ("channel SR, sample bkg", "no uncertainty"),
        ("channel SR", "empty bins"),
    ]
    assert [n.size for n in notes] == pytest.approx([8 / 70, 1 / 70, 3 / 7, 0.0])
    assert notes[0].detail == "'jes' changes the total by 1.11429 up and 1.02857 down"
    assert notes[3].detail.startswith("no sample expects events in bin 2, 3")
    assert notes[0].to_dict()["what"] == "one-sided"
    assert np.isfinite(Likelihood.from_pyhf(spec).value(Likelihood.from_pyhf(spec).inits))


def test_one_name_for_two_kinds():
    models = {"sig": SampleModel(("mu",)), "bkg": SampleModel(normsys={"mu": (1.1, 0.9)})}
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)'mu' is a free factor elsewhere and a systematic here.*SR, sample bkg.*two differ",
    ):
        from_hists(CHANNELS, models)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mu",), r"(?s)normfactors of a sample are 'mu'.*tuple of different names"),
        ((("mu", "mu"),), "a tuple of different names"),
        (((), {"k": 1.1}), r"(?s)factors of normsys 'k' are 1\.1.*such as \(1\.1, 0\.9\)"),
        (((), {"k": (1.1, -0.9)}), r"factors of normsys 'k' are \(1\.1, -0\.9\)"),
        (((), {"k": (1.1, float("nan"))}), r"factors of normsys 'k' are \(1\.1, nan\)"),
    ],
)
def test_models_that_no_sample_can_have(arguments, message):
    with pytest.raises(WorkspaceError, match=message):
        SampleModel(*arguments)

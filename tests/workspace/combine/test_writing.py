"""`write_datacard`: what is written is read back as the same likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neyman import Likelihood, fit
from neyman.errors import WorkspaceError
from neyman.workspace import SampleModel, from_hists
from neyman.workspace.combine import read_datacard, write_datacard
from neyman.workspace.root_histograms import from_root


def modifier(kind, name, data=None):
    return {"name": name, "type": kind, "data": data}


def sample(name, data, *modifiers):
    return {"name": name, "data": [float(v) for v in data], "modifiers": list(modifiers)}


def workspace(channels, observed=None, poi="r", parameters=()):
    return {
        "channels": [{"name": name, "samples": samples} for name, samples in channels.items()],
        "observations": [
            {"name": n, "data": list((observed or {}).get(n, np.sum([x["data"] for x in s], axis=0)))}
            for n, s in channels.items()
        ],
        "measurements": [{"name": "m", "config": {"poi": poi, "parameters": list(parameters)}}],
        "version": "1.0.0",
    }


@st.composite
def workspaces(draw):
    """Channels of a signal and backgrounds with every modifier of the common subset."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    channels = {}
    for channel in ("SR", "CR")[: draw(st.integers(1, 2))]:
        bins = draw(st.integers(1, 4))
        samples = []
        for name in ("sig", "tt", "w"):
            data = rng.uniform(1.0, 50.0, bins)
            modifiers = [modifier("normfactor", "r")] if name == "sig" else []
            if name == "w" and draw(st.booleans()):
                modifiers.append(modifier("normfactor", "k_w"))
            for parameter in ("lnn", "asym", "jes"):
                if not draw(st.booleans()):
                    continue
                up = rng.uniform(1.02, 1.3)
                low = 1.0 / up if parameter == "lnn" else rng.uniform(0.7, 0.98)
                modifiers.append(modifier("normsys", parameter, {"hi": up, "lo": low}))
                if parameter == "jes" and bins > 1:
                    shapes = [data * rng.uniform(0.9, 1.1, bins) for _ in range(2)]
                    hi, lo = (shape * (data.sum() / shape.sum()) for shape in shapes)
                    effect = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
                    modifiers.append(modifier("histosys", parameter, effect))
            if draw(st.booleans()):
                modifiers.append(
                    modifier("staterror", f"staterror_{channel}", (0.1 * np.sqrt(data)).tolist())
                )
            samples.append(sample(name, data, *modifiers))
        channels[channel] = samples
    return workspace(
        channels, {c: rng.poisson(40.0, len(s[0]["data"])).tolist() for c, s in channels.items()}
    )


def compare(spec, back, seed=1, rename=None):
    """Largest difference of the two likelihoods at random points, and their values."""
    one, other = Likelihood.from_pyhf(spec), Likelihood.from_pyhf(back)
    names = [(rename or {}).get(name, name) for name in one.names]
    assert sorted(names) == sorted(other.names)
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(3):
        x = np.where(
            one.inits == 0.0, rng.normal(size=len(names)), one.inits * rng.uniform(0.8, 1.2, len(names))
        )
        x = np.where(one.fixed, one.inits, x)
        y = np.empty_like(x)
        y[[other.names.index(name) for name in names]] = x
        differences.append(abs(other.value(y) - one.value(x)) / abs(one.value(x)))
    return max(differences)


@settings(max_examples=15)
@given(workspaces())
def test_there_and_back(tmp_path_factory, spec):
    folder = tmp_path_factory.mktemp("card")
    write_datacard(spec, folder)
    card = read_datacard(folder / "datacard.txt")
    assert compare(spec, card.workspace) < 1e-9
    write_datacard(card.workspace, folder, name="again")
    again = (folder / "again.txt").read_text().replace("again.root", "datacard.root")
    strip = [line.split() for line in again.splitlines() if not line.startswith("#")]
    assert strip == [
        line.split()
        for line in (folder / "datacard.txt").read_text().splitlines()
        if not line.startswith("#")
    ]


def test_the_text(tmp_path):
    spec = workspace(
        {
            "SR": [
                sample("sig", [2.0, 3.0], modifier("normfactor", "mu"), modifier("lumi", "lumi")),
                sample("bkg", [20.0, 10.0], modifier("normsys", "xsec", {"hi": 1.1, "lo": 0.9})),
                sample("none", [0.0, 0.0]),
            ],
            "one": [
                sample("sig", [1.0], modifier("normfactor", "mu")),
                sample("side", [8.0], modifier("shapesys", "side", [4.0]), modifier("normfactor", "k")),
            ],
        },
        {"SR": [21.0, 13.0], "one": [9.0]},
        poi="mu",
        parameters=[
            {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.9, 1.1]]},
            {"name": "mu", "bounds": [[-5.0, 5.0]]},
            {"name": "k", "inits": [1.5], "bounds": [[0.0, 4.0]], "fixed": True},
        ],
    )
    notes = write_datacard(spec, tmp_path, name="card")
    lines = [line.split() for line in (tmp_path / "card.txt").read_text().splitlines()]
    for wanted in (
        "imax 2 number of channels",
        "jmax 2 number of processes minus one",
        "kmax 3 number of systematics",
        "shapes * * card.root $CHANNEL/$PROCESS $CHANNEL/$PROCESS_$SYSTEMATIC",
        "observation 34 9",
        "process sig bkg sig side",
        "process 0 1 0 2",
        "rate -1 -1 -1 -1",
        "xsec lnN - 0.9/1.1 - -",
        "lumi lnN 1.02 - - -",
        "side gmN 4 - - - 2",
        "k rateParam one side 1.5 [0,4]",
    ):
        assert wanted.split() in lines
    assert {(n.where, n.what) for n in notes} == {
        ("channel SR, sample none", "no events"),
        ("mu", "renamed"),
        ("mu", "bounds"),
        ("k", "fixed"),
        ("xsec", "interpolation"),
        ("lumi", "luminosity"),
    }
    sizes = {n.what: n.size for n in notes}
    assert sizes["luminosity"] == pytest.approx(0.0025, abs=1e-3)
    back = read_datacard(tmp_path / "card.txt", poi="mu").workspace
    assert [m["type"] for m in back["channels"][1]["samples"][1]["modifiers"]] == ["normfactor", "shapesys"]


def test_a_histosys_with_another_total_is_split(tmp_path):
    effect = {"hi_data": [24.0, 11.0], "lo_data": [17.0, 9.5]}
    spec = workspace(
        {
            "SR": [
                sample("sig", [2.0, 3.0], modifier("normfactor", "r")),
                sample("bkg", [20.0, 10.0], modifier("histosys", "jes", effect)),
            ]
        }
    )
    notes = {n.what: n for n in write_datacard(spec, tmp_path)}
    assert 0.001 < notes["split"].size < 0.15
    back = read_datacard(tmp_path / "datacard.txt").workspace
    assert compare(spec, back) > 1e-9
    for alpha in (-1.0, 0.0, 1.0):  # the same where both are exact
        one, other = Likelihood.from_pyhf(spec), Likelihood.from_pyhf(back)
        x = np.array([{"r": 1.0, "jes": alpha}[name] for name in one.names])
        y = np.array([{"r": 1.0, "jes": alpha}[name] for name in other.names])
        assert other.value(y) == pytest.approx(one.value(x), rel=1e-9)


SIGNAL = sample("sig", [2.0, 3.0], modifier("normfactor", "r"))


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (
            [sample("bkg", [1.0, 1.0], modifier("shapefactor", "s"))],
            {},
            r"(?s)shapefactor 's' has no counterpart.*bkg",
        ),
        (
            [sample("bkg", [4.0, 4.0], modifier("shapesys", "s", [2.0, 2.0]))],
            {},
            r"(?s)shapesys 's' has no counterpart.*one sample with one bin",
        ),
        (
            [sample("bkg", [1.0, 4.0], modifier("normfactor", "k"))],
            {"poi": "k"},
            r"(?s)a parameter is called 'r'.*parameter of interest 'k'.*rename the parameter",
        ),
        (
            [sample("bkg", [1.0, 4.0], modifier("normfactor", "k"))],
            {"parameters": [{"name": "k", "inits": [-1.0]}]},
            r"(?s)'k' starts at -1, outside its bounds 0 to 10.*measurement m",
        ),
        ([sample("bkg", [-1.0, 4.0])], {}, r"(?s)a bin expects a negative number.*sample bkg"),
        ([sample("b kg", [1.0, 4.0])], {}, r"(?s)does not take 'b kg' as the name of a sample.*rename it"),
        ([sample("data_obs", [1.0, 4.0])], {}, r"does not take 'data_obs' as the name of a sample"),
        (
            [sample("bkg", [1.0, 4.0], modifier("normsys", "x", {"hi": -1.0, "lo": 1.0}))],
            {},
            r"a factor of normsys 'x' is not positive",
        ),
        (
            [
                sample(
                    "bkg",
                    [1.0, 4.0],
                    modifier("histosys", "x", {"hi_data": [0.0, 0.0], "lo_data": [1.0, 4.0]}),
                )
            ],
            {},
            r"(?s)'x' leaves no events, which Combine refuses.*sample bkg",
        ),
        (
            [sample("bkg", [1.0, 4.0], modifier("lumi", "lumi"))],
            {},
            r"luminosity 'lumi' is 1 with an uncertainty of N",
        ),
        (
            [sample("bkg", [1.0, 4.0], modifier("normsys", "x", {"hi": 1.1, "lo": 0.9}))],
            {"parameters": [{"name": "x", "auxdata": [0.5]}]},
            r"(?s)the constraint of 'x' is not the usual one.*measurement m",
        ),
        ([], {"poi": "mu"}, "no sample carries the parameter of interest 'mu'"),
    ],
)
def test_what_a_datacard_cannot_say(tmp_path, samples, options, message):
    with pytest.raises(WorkspaceError, match=message):
        write_datacard(workspace({"SR": [SIGNAL, *samples]}, **options), tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_of_channels_and_of_the_measurement(tmp_path):
    with pytest.raises(
        WorkspaceError, match=r"(?s)does not take '1b' as the name of a channel.*no digit first"
    ):
        write_datacard(workspace({"1b": [SIGNAL]}), tmp_path)
    with pytest.raises(WorkspaceError, match=r"(?s)no measurement 'n'.*nearest: m"):
        write_datacard(workspace({"SR": [SIGNAL]}), tmp_path, measurement="n")
    bare = sample("sig", [1.0, 2.0])
    with pytest.raises(
        WorkspaceError, match=r"(?s)'sig' carries 'r' in one channel and not in another.*channel CR"
    ):
        write_datacard(workspace({"SR": [SIGNAL], "CR": [bare]}), tmp_path)
    notes = write_datacard(workspace({"SR": [SIGNAL]}), tmp_path)
    assert [n.what for n in notes] == ["no background"]


def test_open_data(shared_data, tmp_path):
    """From 20 histograms of real collisions to a fit, and there and back by a datacard."""
    made = from_root(
        shared_data / "cms_open_data_htautau" / "histograms.root",
        "{sample}_{channel}",
        channels={"OS": "m_vis"},
        samples={"H": ["ggH", "qqH"], "W": "W?J"} | {name: name for name in ("ZTT", "ZLL", "TT")},
        data=["dataRunB", "dataRunC"],
    )
    both = {"lumi": (1.026, 1 / 1.026)}
    models = {
        "H": SampleModel(("r",), both | {"tau": (1.06, 1 / 1.06)}),
        "ZTT": SampleModel((), both | {"tau": (1.06, 1 / 1.06), "z": (1.04, 0.97)}),
        "ZLL": SampleModel((), both | {"fake": (1.3, 0.8)}),
        "TT": SampleModel((), both),
        "W": SampleModel(("k_W",)),
    }
    spec = from_hists(made, models, poi="r", flow="ignore")
    write_datacard(spec, tmp_path)
    back = read_datacard(tmp_path / "datacard.txt", bounds={"r": (-10.0, 10.0)}).workspace
    assert compare(spec, back) < 1e-12
    fits = [fit(Likelihood.from_pyhf(one)) for one in (spec, back)]
    assert all(one.valid for one in fits)
    assert fits[0].values["r"] == pytest.approx(fits[1].values["r"], rel=1e-6)
    assert fits[0].errors["k_W"] == pytest.approx(fits[1].errors["k_W"], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w["observations"][0].update(name="CR"),
            r"(?s)nothing is observed in channel 'SR'.*nearest: CR",
        ),
        (
            lambda w: w["observations"][0].update(data=[1.0]),
            r"(?s)2 bins are 2, 3.*channel SR, sample sig.*expected: 1 finite",
        ),
        (
            lambda w: w["channels"][0]["samples"][1].update(data=[float("nan"), 1.0]),
            r"(?s)bins are nan, 1.*channel SR, sample bkg.*2 finite numbers",
        ),
        (
            lambda w: w["channels"][0]["samples"][1]["modifiers"][0]["data"].update(lo_data=[1.0]),
            r"(?s)1 bins are 1.*sample bkg, histosys x, lo_data",
        ),
        (
            lambda w: w["channels"][0]["samples"][1]["modifiers"][1].update(data=[1.0, 2.0, 3.0]),
            r"(?s)3 bins are 1, 2, 3.*sample bkg, staterror st, data",
        ),
        (
            lambda w: w["channels"][0]["samples"][1].update(name="sig"),
            r"(?s)two samples of channel 'SR'.*sig, sig",
        ),
        (
            lambda w: [s.update(data=[0.0, 0.0], modifiers=[]) for s in w["channels"][0]["samples"]],
            r"(?s)no sample expects events in channel 'SR'.*leave it out",
        ),
    ],
)
def test_workspaces_whose_parts_do_not_match(tmp_path, change, message):
    shape = modifier("histosys", "x", {"hi_data": [2.0, 4.0], "lo_data": [1.0, 3.0]})
    spec = workspace(
        {"SR": [SIGNAL, sample("bkg", [1.0, 4.0], shape, modifier("staterror", "st", [0.1, 0.2]))]}
    )
    change(spec)
    with pytest.raises(WorkspaceError, match=message):
        write_datacard(spec, tmp_path)

"""`read_datacard`: counting experiments and histograms as a pyhf workspace."""

from __future__ import annotations

import gzip

import hist
import numpy as np
import pyhf
import pytest
import uproot

from neyman import Likelihood, fit
from neyman.errors import InputError, WorkspaceError
from neyman.workspace.combine import read_datacard
from neyman.workspace.combine.interpolation import combine_factor

COUNTING = """\
imax 1
jmax 3
kmax *
bin A
observation 1
bin      A      A     A     A
process  ggH    qqWW  ggWW  others
process  0      1     2     3
rate     1.47   0.64  0.06  0.22
lumi       lnN    1.11  -     1.11  -
xs_ggH     lnN    1.16  -     -     -
WW_norm    gmN 4  -     0.16  -     -
xs_ggWW    lnN    -     -     1.50  -
bg_others  lnN    -     -     -     0.8/1.30
"""


def written(tmp_path, text, name="card.txt", **histograms):
    (tmp_path / name).write_text(text)
    with uproot.recreate(tmp_path / "shapes.root") as file:
        for key, values in histograms.items():
            h = hist.Hist(hist.axis.Regular(len(values), 0, 1, name="m"), storage=hist.storage.Weight())
            h.view()["value"] = values
            h.view()["variance"] = 0.1 * np.asarray(values)
            file[key.replace("__", "/")] = h
    return tmp_path / name


def expected(workspace, **values):
    """Expected events of all channels by name; parameters that are not given have their nominal value."""
    model = pyhf.Workspace(workspace).model()
    at = np.array(model.config.suggested_init())
    for name, value in values.items():
        at[model.config.par_slice(name)] = value
    counts = model.expected_actualdata(at)
    return {c: counts[model.main_model.config.channel_slices[c]] for c in model.config.channels}


def test_the_likelihood_of_a_counting_experiment(tmp_path):
    """Against the formula of Combine's documentation, at values where the log-normals agree."""
    card = read_datacard(written(tmp_path, COUNTING))
    lh = Likelihood.from_pyhf(card.workspace)
    x = dict.fromkeys(lh.names, 0.0) | {"r": 1.7, "WW_norm[0]": 1.2, "WW_norm": 1.2}
    x |= {"lumi": 1.0, "xs_ggH": -1.0, "xs_ggWW": 2.0, "bg_others": -2.0}
    point = np.array([x[name] for name in lh.names])
    rate = 1.7 * 1.47 * 1.11 / 1.16 + 0.64 * 1.2 + 0.06 * 1.11 * 1.5**2 + 0.22 * 0.8**2
    wanted = rate - np.log(rate) + 0.5 * (1 + 1 + 4 + 4) + (4 * 1.2 - 4 * np.log(1.2))
    start = np.array([{"r": 1.0, "WW_norm[0]": 1.0}.get(name, 0.0) for name in lh.names])
    nominal = 1.47 + 0.64 + 0.06 + 0.22
    wanted -= nominal - np.log(nominal) + 4
    assert lh.value(point) - lh.value(start) == pytest.approx(2.0 * wanted, rel=1e-9)
    notes = {n.where: n for n in card.notes}
    assert notes["bg_others"].what == "interpolation"
    assert notes["bg_others"].size == pytest.approx(0.0028, abs=1e-4)
    assert "xs_ggH" not in notes


def test_counts_without_observation_and_free_factors(tmp_path):
    text = """\
    imax 2
    jmax 1
    kmax 0
    bin      SR   SR   CR
    process  sig  bkg  bkg
    process  0    1    1
    rate     4    10   200
    k rateParam * b* 1.2
    m rateParam CR bkg 0.5 [0.1,2]
    theory group = k m
    """
    card = read_datacard(written(tmp_path, text))
    assert expected(card.workspace) == {"SR": [pytest.approx(16.0)], "CR": [pytest.approx(120.0)]}
    settings = {p["name"]: p for p in card.workspace["measurements"][0]["config"]["parameters"]}
    assert settings["r"]["bounds"] == [[0.0, 20.0]]
    assert (settings["k"]["inits"], settings["k"]["bounds"]) == ([1.2], [[0.0, 12.0]])
    assert (settings["m"]["inits"], settings["m"]["bounds"]) == ([0.5], [[0.1, 2.0]])
    assert sorted(n.what for n in card.notes) == ["group", "no data", "no data", "no range"]
    other = read_datacard(written(tmp_path, text), poi="mu", bounds={"mu": (-5, 5), "k": (0, 3)})
    settings = {p["name"]: p for p in other.workspace["measurements"][0]["config"]["parameters"]}
    assert (settings["mu"]["bounds"], settings["k"]["bounds"]) == ([[-5.0, 5.0]], [[0.0, 3.0]])
    best = fit(Likelihood.from_pyhf(read_datacard(written(tmp_path, text)).workspace), fixed={"m": 0.5})
    assert best.valid


SHAPES = """\
imax *
jmax *
kmax *
shapes * * shapes.root $CHANNEL/$PROCESS $CHANNEL/$PROCESS_$SYSTEMATIC
shapes sig * shapes.root $CHANNEL/sig$MASS $CHANNEL/sig$MASS_$SYSTEMATIC
shapes * CR FAKE
bin          SR  CR
observation  -1  95
bin      SR   SR   CR
process  sig  bkg  bkg
process  0    1    1
rate     -1   -1   90
jes   shape   1    0.5  -
all   shape?  1.05 1    0.95/1.1
SR autoMCStats 10
"""
SIGNAL, BACKGROUND = np.array([1.0, 3.0, 6.0]), np.array([50.0, 30.0, 20.0])
UP, DOWN = np.array([56.0, 33.0, 22.0]), np.array([48.0, 28.0, 14.0])
FILES = {
    "SR__sig125": SIGNAL,
    "SR__sig125_jesUp": 1.1 * SIGNAL,
    "SR__sig125_jesDown": 0.8 * SIGNAL,
    "SR__bkg": BACKGROUND,
    "SR__bkg_jesUp": UP,
    "SR__bkg_jesDown": DOWN,
    "SR__bkg_allUp": 1.0004 * BACKGROUND,
    "SR__bkg_allDown": 0.9996 * BACKGROUND,
    "SR__data_obs": [52.0, 31.0, 27.0],
}


def test_shapes(tmp_path):
    """Against Combine's formula for each bin: fractions by the smooth step, totals by the log-normal."""
    card = read_datacard(written(tmp_path, SHAPES, **FILES), mass=125)
    assert [o["data"] for o in card.workspace["observations"]] == [[52.0, 31.0, 27.0], [95.0]]
    for theta in (-2.5, -1.0, 0.0, 1.0, 3.0):
        found = expected(card.workspace, jes=theta)["SR"]
        factor = (UP.sum() / 100) ** 0.5, (DOWN.sum() / 100) ** 0.5
        difference = (UP / UP.sum() if theta > 0 else DOWN / DOWN.sum()) - BACKGROUND / 100
        fractions = BACKGROUND / 100 + 0.5 * abs(theta) * difference
        background = 100 * fractions * combine_factor(np.array(theta), *factor)
        signal = SIGNAL * combine_factor(np.array(theta), 1.1, 0.8)
        assert found == pytest.approx(signal + background, rel=1e-9)
    assert expected(card.workspace, all=1.0)["CR"] == pytest.approx([99.0])
    assert expected(card.workspace, all=-1.0)["CR"] == pytest.approx([85.5])
    assert expected(card.workspace, all=1.0)["SR"] == pytest.approx(1.05 * SIGNAL + 1.0004 * BACKGROUND)
    kinds = {(n.where, n.what) for n in card.notes}
    assert ("line 14, all", "small total") in kinds
    assert ("line 15, channel SR", "autoMCStats") in kinds
    (staterror,) = {
        m["name"] for c in card.workspace["channels"] for s in c["samples"] for m in s["modifiers"]
    } & {
        "staterror_SR",
        "staterror_CR",
    }
    assert staterror == "staterror_SR"


def test_few_events_and_scaled_shapes_are_noted(tmp_path):
    text = SHAPES.replace("autoMCStats 10", "autoMCStats 250 0 2").replace("1    0.5  -", "1    2    -")
    text = text.replace("shape?  1.05 1", "shape?  1.05 0.5")
    notes = read_datacard(written(tmp_path, text, **FILES), mass=125).notes
    details = {n.what: n.detail for n in notes if n.what == "scaled shape"} | {
        n.detail.split()[0]: n.detail for n in notes if n.what == "autoMCStats"
    }
    assert details["scaled shape"].startswith("scale 2 of bkg in SR: Combine smooths up to 0.25")
    assert details["Combine"].endswith("in bin 2 (200 events)")
    assert details["mode"].startswith("mode 2")


def test_gzip_and_unreadable_files(tmp_path):
    (tmp_path / "card.txt.gz").write_bytes(gzip.compress(COUNTING.encode()))
    assert (
        read_datacard(tmp_path / "card.txt.gz").workspace
        == read_datacard(written(tmp_path, COUNTING)).workspace
    )
    with pytest.raises(InputError, match=r"none\.txt does not exist"):
        read_datacard(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"(?s)binary\.txt cannot be read.*Combine datacard, text"):
        read_datacard(tmp_path / "binary.txt")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "shapes.root $CHANNEL/$PROCESS ",
            "none.root $CHANNEL/$PROCESS ",
            r"(?s)no file 'none\.root'.*line 4",
        ),
        ("$CHANNEL/$PROCESS ", "$CHANNEL/$ERA ", r"(?s)'SR/\$ERA' has a word that is not given.*keywords="),
        (
            "$CHANNEL/$PROCESS ",
            "$CHANNEL/x_$PROCESS ",
            r"(?s)no histogram 'SR/x_bkg' for 'bkg' in 'SR'.*line 4",
        ),
        (
            " $CHANNEL/$PROCESS_$SYSTEMATIC",
            "",
            r"(?s)names no histogram with systematics, which 'jesUp' of 'bkg'",
        ),
        ("shapes * * shapes.root", "shapes * XR shapes.root", r"no line gives the shape of 'bkg' in 'SR'"),
        (
            "-1   -1   90",
            "-1   50   90",
            r"(?s)of 'bkg' in 'SR' holds 100 events, the rate is 50.*or the rate -1",
        ),
        ("-1   -1   90", "-1   -1   -1", r"rate of 'bkg' in 'CR' is -1 without a histogram"),
        ("observation  -1", "observation 80", r"(?s)data of 'SR' hold 110 events, the observation is 80"),
        ("observation  -1  95", "observation -1 -1", r"observation of 'CR' is -1 without a histogram"),
        (
            "0.5  -",
            "0.5  1",
            r"(?s)'jes' is a shape, and 'bkg' in 'CR' has no histogram.*line 13.*make it lnN",
        ),
        ("1.05 1  ", "1.05 1/2", r"(?s)the scale '1/2' of a shape is two numbers.*line 14"),
        (
            "SR autoMCStats 10",
            "r rateParam SR bkg 1",
            r"(?s)'r' is the signal strength and a rateParam.*another poi",
        ),
        ("SR autoMCStats 10", "k rateParam XR bkg 1", r"(?s)rateParam 'k' acts on no column.*line 15"),
        ("SR autoMCStats 10", "g gmN 5 - 20 -", r"(?s)gmN 'g' of 5 events acts on 1 columns and 3 bins"),
        ("SR autoMCStats 10", "g gmN 5 - - 20", r"(?s)gmN 'g' expects 100 events of 'bkg'.*the rate, 90"),
        ("rate     -1   -1   90", "rate 0 -1 90", "no signal has events in any channel"),
        ("rate     -1   -1   90", "rate -1 -1 0", "no process has events in channel 'CR'"),
    ],
)
def test_cards_that_do_not_fit_their_files(tmp_path, old, new, message):
    assert old in SHAPES
    with pytest.raises(WorkspaceError, match=message):
        read_datacard(written(tmp_path, SHAPES.replace(old, new), **FILES), mass=125)


def test_histograms_that_do_not_fit(tmp_path):
    with pytest.raises(
        WorkspaceError, match=r"(?s)'jesUp' of 'bkg' in 'SR' has 2 bins.*line 13.*3, as its nominal"
    ):
        read_datacard(written(tmp_path, SHAPES, **FILES | {"SR__bkg_jesUp": [1.0, 2.0]}), mass=125)
    with pytest.raises(WorkspaceError, match=r"(?s)variation by 'jes' of 'bkg' in 'SR' holds 0 events"):
        read_datacard(written(tmp_path, SHAPES, **FILES | {"SR__bkg_jesUp": 0 * UP}), mass=125)
    with pytest.raises(WorkspaceError, match=r"the data of 'SR' are 1, 2"):
        read_datacard(written(tmp_path, SHAPES, **FILES | {"SR__data_obs": [1.0, 2.0]}), mass=125)
    (tmp_path / "shapes.root").write_text("no")
    with pytest.raises(WorkspaceError, match=r"(?s)'shapes\.root' cannot be read as a ROOT file.*line 5"):
        read_datacard(tmp_path / "card.txt", mass=125)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "0.64  0.06",
            "0  0.06",
            r"(?s)gmN 'WW_norm' of 4 events acts on 'qqWW' in 'A', whose rate is 0.*line 12.*above 0",
        ),
        (
            "xs_ggH     lnN",
            "r lnN",
            r"(?s)'r' is the signal strength and a systematic.*line 11.*another poi=",
        ),
    ],
)
def test_what_a_counting_experiment_cannot_have(tmp_path, old, new, message):
    assert old in COUNTING
    with pytest.raises(WorkspaceError, match=message):
        read_datacard(written(tmp_path, COUNTING.replace(old, new)))


def test_a_free_factor_that_starts_below_zero(tmp_path):
    card = read_datacard(written(tmp_path, COUNTING + "k rateParam A others -20\n"))
    settings = {p["name"]: p for p in card.workspace["measurements"][0]["config"]["parameters"]}
    assert settings["k"] == {"name": "k", "inits": [-20.0], "bounds": [[-200.0, 200.0]]}
    assert [n.detail for n in card.notes if n.what == "no range"] == ["from -200 to 200 here"]


def test_signal_may_count_for_the_threshold(tmp_path):
    """Ten events of the background and ninety of the signal, each with a variance of a tenth."""
    text = """\
    imax 1
    jmax 1
    kmax 0
    shapes * * shapes.root $PROCESS
    bin A
    observation -1
    bin A A
    process s b
    process 0 1
    rate -1 -1
    """
    for flag, few in (("", True), (" 0", True), (" 1", False)):
        card = f"{text}A autoMCStats 500{flag}\n"
        path = written(tmp_path, card, s=[90.0], b=[10.0], data_obs=[7.0])
        notes = [n.detail for n in read_datacard(path).notes if n.what == "autoMCStats"]
        assert any("a parameter for each process" in detail for detail in notes) == few

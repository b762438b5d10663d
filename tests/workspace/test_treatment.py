"""`Treatment`: options, what each does to a workspace, and the records of it."""

from __future__ import annotations

import json

import hist
import numpy as np
import pyhf
import pytest

from neyman import Likelihood
from neyman.errors import ConfigError, WorkspaceError
from neyman.workspace import SampleModel, Treated, Treatment, from_hists

NOMINAL = np.array([40.0, 30.0, 20.0, 10.0])
UP = np.array([46.0, 33.0, 20.0, 9.0])
DOWN = np.array([38.0, 28.0, 21.0, 14.0])


def histogram(contents, variances=None, storage=None):
    h = hist.Hist(
        hist.axis.StrCategory(list(contents), name="variation"),
        hist.axis.Regular(len(next(iter(contents.values()))), 0, 1, name="score"),
        storage=storage or hist.storage.Weight(),
    )
    for i, values in enumerate(contents.values()):
        if storage is not None:
            h.view()[i] = values
            continue
        h.view()["value"][i] = values
        h.view()["variance"][i] = np.abs(values) * 0.1 if variances is None else variances
    return h


def spec_of(treatment=None, model=None, nominal=NOMINAL, **variations):
    """Workspace of one sample and the records of its treatment."""
    report: list[Treated] = []
    spec = from_hists(
        {"SR": {"bkg": histogram({"nominal": nominal} | variations)}},
        {"bkg": model or SampleModel(("mu",))},
        treatment=treatment,
        report=report,
    )
    return spec, report


def pair(spec, parameter="jes"):
    """Up and down histogram that a workspace gives back at +-1."""
    model = pyhf.Workspace(spec).model()

    def at(alpha):
        x = dict.fromkeys(model.config.par_names, 1.0) | {
            n: 0.0 for n in model.config.par_names if n in ("jes", "jer", "xsec")
        }
        return model.expected_actualdata([(x | {parameter: alpha})[n] for n in model.config.par_names])

    return at(1.0), at(-1.0)


def types(spec, parameter="jes"):
    return [m["type"] for m in spec["channels"][0]["samples"][0]["modifiers"] if m["name"] == parameter]


# Options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"symmetrise": "averag"},
            r"(?s)symmetrise of a treatment is 'averag'.*none, average.*nearest: average",
        ),
        ({"smooth": "353qh"}, r"(?s)smooth of a treatment is '353qh'.*nearest: 353QH"),
        ({"smooth": True}, "smooth of a treatment is True"),
        ({"mirror_missing": "yes"}, r"(?s)mirror_missing of a treatment is 'yes'.*True or False"),
        ({"prune_norm": -0.1}, r"(?s)prune_norm of a treatment is -0\.1.*from 0 \(keeps all\) to below 1"),
        ({"prune_norm": True}, "prune_norm of a treatment is True"),
        ({"prune_shape": 1.0}, r"prune_shape of a treatment is 1\.0"),
        ({"prune_shape": np.nan}, "prune_shape of a treatment is nan"),
        ({"prune_shape": "1%"}, "prune_shape of a treatment is '1%'"),
        (
            {"floor_negative": 0.0},
            r"(?s)floor_negative of a treatment is 0\.0.*small positive number of events",
        ),
        ({"floor_negative": np.inf}, "floor_negative of a treatment is inf"),
        ({"floor_negative": True}, "floor_negative of a treatment is True"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Treatment(**options)


def test_nothing_is_done_by_default():
    plain, none = spec_of(jesUp=UP, jesDown=DOWN)
    treated, still_none = spec_of(Treatment(), jesUp=UP, jesDown=DOWN)
    assert plain == treated
    assert none == still_none == []
    (settings,) = plain["measurements"][0]["config"]["parameters"]
    assert settings == {"name": "mu", "inits": [1.0], "bounds": [[-10.0, 10.0]]}


def test_a_report_is_not_needed():
    h = {"SR": {"bkg": histogram({"nominal": NOMINAL, "jesUp": UP, "jesDown": DOWN})}}
    spec = from_hists(h, {"bkg": SampleModel(("mu",))}, treatment=Treatment(symmetrise="average"))
    assert types(spec) == ["normsys", "histosys"]


def test_records_are_plain_data_and_add_up_over_channels():
    contents = {"nominal": NOMINAL, "jesUp": UP, "jesDown": DOWN}
    report = [Treated("CR", "other", "jer", "norm pruned", 0.001, "earlier")]
    from_hists(
        {name: {"bkg": histogram(contents)} for name in ("A", "B")},
        {"bkg": SampleModel(("mu",))},
        treatment=Treatment(symmetrise="average"),
        report=report,
    )
    assert [(r.channel, r.what) for r in report[1:]] == [("A", "symmetrised"), ("B", "symmetrised")]
    assert json.loads(json.dumps(report[1].to_dict())) == {
        "channel": "A",
        "sample": "bkg",
        "parameter": "jes",
        "what": "symmetrised",
        "size": pytest.approx(0.15),
        "detail": "average deviation, largest change in bin 3",
    }


def test_nothing_is_reported_of_a_workspace_that_is_refused():
    report: list[Treated] = []
    h = {"SR": {"bkg": histogram({"nominal": NOMINAL, "jesUp": UP, "jesDown": DOWN})}}
    with pytest.raises(WorkspaceError, match="no sample carries the parameter of interest 'mu'"):
        from_hists(h, {"bkg": SampleModel()}, treatment=Treatment(symmetrise="average"), report=report)
    assert report == []


# Symmetrisation and mirrors ----------------------------------------------------------------------------------


def test_the_average_deviation():
    spec, (record,) = spec_of(Treatment(symmetrise="average"), jesUp=UP, jesDown=DOWN)
    up, down = pair(spec)
    assert up == pytest.approx(NOMINAL + (UP - DOWN) / 2)
    assert down == pytest.approx(NOMINAL - (UP - DOWN) / 2)
    assert record.size == pytest.approx(0.15)  # 9 becomes 7.5, of 10 nominal events


def test_the_larger_deviation_has_the_sign_of_up():
    up, down = np.array([46.0, 33.0, 20.0, 9.0]), np.array([38.0, 36.0, 21.0, 14.0])
    spec, (record,) = spec_of(Treatment(symmetrise="larger"), jesUp=up, jesDown=down)
    found = pair(spec)
    # 6 of up; 6 of down on the side of up; up does not move, so opposite to down; 4 of down on the side of up
    assert found[0] == pytest.approx(NOMINAL + np.array([6.0, 6.0, -1.0, -4.0]))
    assert found[1] == pytest.approx(NOMINAL - np.array([6.0, 6.0, -1.0, -4.0]))
    assert (record.what, record.detail) == ("symmetrised", "larger deviation, largest change in bin 1")
    assert record.size == pytest.approx(12 / 30)  # 36 becomes 24, of 30


@pytest.mark.parametrize("how", ["average", "larger"])
def test_a_symmetric_variation_stays(how):
    shift = np.array([4.0, -2.0, 1.0, 0.5])
    spec, report = spec_of(Treatment(symmetrise=how), jesUp=NOMINAL + shift, jesDown=NOMINAL - shift)
    assert report == []
    assert pair(spec)[0] == pytest.approx(NOMINAL + shift)


def test_symmetrisation_must_not_make_negative_bins():
    variations = {"jesUp": NOMINAL, "jesDown": [40.0, 30.0, 20.0, 25.0]}
    with pytest.raises(
        WorkspaceError, match=r"(?s)bin 3 of 'jesUp' is negative after symmetrisation: -5 events.*sample bkg"
    ):
        spec_of(Treatment(symmetrise="larger"), **variations)
    spec, report = spec_of(Treatment(symmetrise="larger", floor_negative=0.1), **variations)
    assert pair(spec)[0][3] == pytest.approx(0.1)
    assert [r.what for r in report] == ["symmetrised", "floored"]


def test_a_variation_without_partner_is_mirrored_on_demand():
    with pytest.raises(WorkspaceError, match=r"(?s)'jesDown' is missing.*Treatment\(mirror_missing=True\)"):
        spec_of(Treatment(), jesUp=UP)
    spec, (record,) = spec_of(Treatment(mirror_missing=True), jesUp=UP)
    up, down = pair(spec)
    assert up == pytest.approx(UP)
    assert down == pytest.approx(2 * NOMINAL - UP)
    assert record == Treated(
        "SR", "bkg", "jes", "mirrored", pytest.approx(0.15), "'jesDown' from 'jesUp', largest in bin 0"
    )


def test_a_whole_pair_is_not_mirrored():
    spec, report = spec_of(Treatment(mirror_missing=True), jesUp=UP, jesDown=DOWN)
    assert report == []
    assert pair(spec)[1] == pytest.approx(DOWN)


@pytest.mark.parametrize("name", ["jesDown", "jes"])
def test_only_up_variations_are_mirrored(name):
    with pytest.raises(WorkspaceError, match=rf"'{name}' has no up/down partner"):
        spec_of(Treatment(mirror_missing=True), **{name: DOWN})


def test_a_mirrored_bin_must_not_be_negative():
    up = [40.0, 30.0, 20.0, 23.0]
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)bin 3 of 'jesDown' is negative, mirrored from 'jesUp': -3 events.*channel SR, sample bkg",
    ):
        spec_of(Treatment(mirror_missing=True), jesUp=up)
    spec, report = spec_of(Treatment(mirror_missing=True, floor_negative=0.01), jesUp=up)
    assert pair(spec)[1][3] == pytest.approx(0.01)
    assert {r.what for r in report} == {"floored", "mirrored"}


def test_a_bin_may_double_and_vanish():
    nominal = np.array([0.3, 0.1, 0.7])
    up = 3 * nominal - nominal
    spec, _ = spec_of(Treatment(mirror_missing=True), nominal=nominal, jesUp=[up[0], *nominal[1:]])
    assert pair(spec)[1] == pytest.approx([0.0, 0.1, 0.7], abs=1e-12)


def test_a_sample_that_is_absent_stays_absent():
    nothing = 0.0 * NOMINAL
    treatment = Treatment(0.1, "353QH", True, "average", 0.01, 0.01)
    report: list[Treated] = []
    spec = from_hists(
        {
            "SR": {
                "bkg": histogram({"nominal": nothing, "jesUp": nothing}),
                "sig": histogram({"nominal": NOMINAL}),
            }
        },
        {"bkg": SampleModel(), "sig": SampleModel(("mu",))},
        treatment=treatment,
        report=report,
    )
    assert "jes" not in str(spec)
    assert report == []


# Negative bins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("treatment", [None, Treatment(symmetrise="average")])
@pytest.mark.parametrize("category", ["jesUp", "jesDown"])
def test_negative_bins_of_variations(category, treatment):
    variations = {"jesUp": UP, "jesDown": DOWN} | {category: [40.0, 30.0, -0.25, 1.0]}
    with pytest.raises(
        WorkspaceError,
        match=rf"(?s)bin 2 of '{category}' is negative: -0\.25 events.*channel SR, sample bkg.*floor_negative",
    ):
        spec_of(treatment, **variations)


def test_negative_bins_of_variations_on_the_floor():
    spec, (record,) = spec_of(Treatment(floor_negative=0.05), jesUp=[40.0, -0.5, -0.25, 1.0], jesDown=DOWN)
    assert pair(spec)[0] == pytest.approx([40.0, 0.05, 0.05, 1.0])
    assert (record.parameter, record.what, record.size) == ("jes", "floored", pytest.approx(0.85))
    assert record.detail == "'jesUp' to 0.05 in bin 1 from -0.5, 2 from -0.25"


@pytest.mark.parametrize("storage", [None, hist.storage.Double()])
def test_negative_bins_of_the_nominal_on_the_floor(storage):
    report: list[Treated] = []
    h = histogram({"nominal": [2.0, -0.5, 0.0, 1.0]}, storage=storage)
    models = {"bkg": SampleModel(("mu",))}
    with pytest.raises(WorkspaceError, match=r"(?s)bin 1 has a negative expectation -0\.5.*floor_negative"):
        from_hists({"SR": {"bkg": h}}, models, treatment=Treatment(prune_norm=0.1))
    spec = from_hists({"SR": {"bkg": h}}, models, treatment=Treatment(floor_negative=0.02), report=report)
    (sample,) = spec["channels"][0]["samples"]
    assert sample["data"] == [2.0, 0.02, 0.0, 1.0]
    assert np.isfinite(sample["modifiers"][-1]["data"]).all()
    (record,) = report
    assert (record.parameter, record.what, record.size) == ("nominal", "floored", pytest.approx(0.52))


# Pruning -----------------------------------------------------------------------------------------------------


def test_small_normalisations_are_pruned():
    shift = np.array([1.0, -1.0, 0.4, 0.0])  # 0.4 percent, and a shape
    model = SampleModel(("mu",), normsys={"xsec": (1.004, 0.998), "lumi_like": (1.004, 0.98)})
    spec, report = spec_of(Treatment(prune_norm=0.005), model, jesUp=NOMINAL + shift, jesDown=NOMINAL - shift)
    assert types(spec) == ["histosys"]
    assert types(spec, "xsec") == []
    assert types(spec, "lumi_like") == ["normsys"]
    assert [(r.parameter, r.what, r.size) for r in report] == [
        ("xsec", "norm pruned", pytest.approx(0.004)),
        ("jes", "norm pruned", pytest.approx(0.004)),
    ]
    assert report[0].detail == "factors 1.004 and 0.998"


def test_small_shapes_are_pruned():
    shift = np.array([0.4, -0.4, 0.1, -0.1])  # 1, 1.3, 0.5 and 1 percent
    variations = {"jesUp": 1.1 * (NOMINAL + shift), "jesDown": 0.9 * NOMINAL}
    spec, (record,) = spec_of(Treatment(prune_shape=0.015), **variations)
    assert types(spec) == ["normsys"]
    assert (record.what, record.detail) == ("shape pruned", "largest in bin 1")
    assert record.size == pytest.approx(0.4 / 30)
    spec, report = spec_of(Treatment(prune_shape=0.012), **variations)
    assert (types(spec), report) == (["normsys", "histosys"], [])


def test_a_shape_that_fills_an_empty_bin_is_kept():
    nominal = np.array([40.0, 30.0, 0.0])
    up = np.array([39.999, 30.0, 0.001])
    spec, report = spec_of(Treatment(prune_shape=0.5), nominal=nominal, jesUp=up, jesDown=nominal)
    assert (types(spec), report) == (["normsys", "histosys"], [])


def test_a_parameter_that_is_pruned_has_no_settings():
    settings = [{"name": "jes", "inits": [0.1]}, {"name": "mu", "bounds": [[0.0, 5.0]]}]
    contents = {"nominal": NOMINAL, "jesUp": 1.001 * NOMINAL, "jesDown": 0.999 * NOMINAL}
    spec = from_hists(
        {"SR": {"bkg": histogram(contents)}},
        {"bkg": SampleModel(("mu",))},
        parameters=settings,
        treatment=Treatment(prune_norm=0.01),
    )
    assert spec["measurements"][0]["config"]["parameters"] == settings[1:]
    assert Likelihood.from_pyhf(spec).names[0] == "mu"


# Smoothing ---------------------------------------------------------------------------------------------------

BINS = np.linspace(100.0, 20.0, 20)


def rough(seed=1, slope=0.05):
    noise = np.random.default_rng(seed).normal(0.0, 0.02, (2, 20))
    line = slope * np.linspace(-1.0, 1.0, 20)
    return BINS * (1.0 + line + noise[0]), BINS * (1.0 - line + noise[1])


def test_smoothing_reduces_noise_and_keeps_the_total():
    up, down = rough()
    spec, report = spec_of(Treatment(smooth="353QH"), nominal=BINS, jesUp=up, jesDown=down)
    truth = BINS * (1.0 + 0.05 * np.linspace(-1.0, 1.0, 20))
    found = pair(spec)
    assert found[0].sum() == pytest.approx(up.sum(), rel=1e-12)
    assert found[1].sum() == pytest.approx(down.sum(), rel=1e-12)
    assert np.std(found[0] / truth) < 0.7 * np.std(up / truth)
    assert [r.what for r in report] == ["smoothed", "smoothed"]
    largest = np.abs(found[0] - up) / BINS
    assert report[0].size == pytest.approx(largest.max())
    assert report[0].detail == f"'jesUp', largest change in bin {largest.argmax()}"


def test_constant_and_linear_ratios_do_not_change():
    line = 1.0 + 0.1 * np.linspace(-1.0, 1.0, 20)
    spec, report = spec_of(Treatment(smooth="353QH"), nominal=BINS, jesUp=BINS * line, jesDown=0.93 * BINS)
    up, down = pair(spec)
    assert up == pytest.approx(BINS * line, rel=1e-12)
    assert down == pytest.approx(0.93 * BINS, rel=1e-12)
    assert max(r.size for r in report) < 1e-12


def test_bins_without_nominal_events_take_no_part():
    nominal, (up, down) = np.insert(BINS, 5, 0.0), rough()
    spec, _ = spec_of(
        Treatment(smooth="353QH"),
        nominal=nominal,
        jesUp=np.insert(up, 5, 0.3),
        jesDown=np.insert(down, 5, 0.0),
    )
    alone, _ = spec_of(Treatment(smooth="353QH"), nominal=BINS, jesUp=up, jesDown=down)
    assert pair(spec)[0] == pytest.approx(np.insert(pair(alone)[0], 5, 0.3), rel=1e-9)


@pytest.mark.parametrize("nominal", [[5.0, 6.0], [5.0, 0.0, 6.0, 0.0]])
def test_two_bins_are_left_alone_and_reported(nominal):
    nominal = np.array(nominal)
    spec, report = spec_of(Treatment(smooth="353QH"), nominal=nominal, jesUp=1.1 * nominal, jesDown=nominal)
    assert pair(spec)[0] == pytest.approx(1.1 * nominal)
    assert [(r.what, r.size, r.detail) for r in report] == [
        ("not smoothed", 0.0, "'jesUp' has 2 bins with nominal events"),
        ("not smoothed", 0.0, "'jesDown' has 2 bins with nominal events"),
    ]


def test_a_variation_that_would_vanish_is_left_alone():
    only = np.zeros(20)
    only[9] = 30.0
    spec, report = spec_of(Treatment(smooth="353QH"), nominal=BINS, jesUp=only, jesDown=BINS)
    assert pair(spec)[0] == pytest.approx(only, abs=1e-12)
    assert (report[0].what, report[0].detail) == ("not smoothed", "nothing of 'jesUp' would be left")


def test_the_mirror_is_that_of_the_smoothed_variation():
    up, _ = rough()
    spec, report = spec_of(Treatment(smooth="353QH", mirror_missing=True), nominal=BINS, jesUp=up)
    found = pair(spec)
    assert found[0] + found[1] == pytest.approx(2 * BINS)
    assert found[0] != pytest.approx(up)
    assert [r.what for r in report] == ["smoothed", "mirrored"]


def test_a_treated_workspace_opens_in_pyhf_and_fits():
    treatment = Treatment(smooth="353QH", symmetrise="average", prune_norm=1e-4, prune_shape=1e-4)
    up, down = rough()
    spec, _ = spec_of(treatment, nominal=BINS, jesUp=up, jesDown=down)
    lh = Likelihood.from_pyhf(spec)
    assert np.isfinite(lh.value(lh.inits))
    assert pyhf.Workspace(spec).model().config.poi_name == "mu"

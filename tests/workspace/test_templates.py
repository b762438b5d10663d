"""`from_axes` and `from_accumulator`: one histogram or a coffea accumulator becomes channels of samples."""

from __future__ import annotations

import itertools

import hist
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neyman.errors import ConfigError, WorkspaceError
from neyman.naming import Naming
from neyman.workspace import SampleModel, from_hists
from neyman.workspace.accumulators import from_accumulator, normalisation
from neyman.workspace.templates import from_axes

EDGES = [0.0, 1.0, 2.0, 3.0]
CATEGORIES = ("nominal", "jesUp", "jesDown")
PROCESSES = ("sig", "tt_a", "tt_b", "data")
REGIONS = ("SR", "CR")
MODELS = {"sig": SampleModel(("mu",)), "tt": SampleModel()}
SAMPLES = {"sig": "sig", "tt": "tt_*"}


def contents(seed=1, categories=CATEGORIES):
    """Counts in bins by process, region and category; data have the nominal category."""
    rng = np.random.default_rng(seed)
    out = {}
    for process, region in itertools.product(PROCESSES, REGIONS):
        nominal = rng.uniform(5.0, 50.0, 3)
        for category in categories if process != "data" else categories[:1]:
            factor = 1.0 if category == categories[0] else rng.uniform(0.8, 1.2, 3)
            out[process, region, category] = np.round(nominal * factor, 2)
    return out


def filled(counts, names=("process", "channel", "variation"), drop=(), integers=None, order=None):
    """One histogram of the counts, with growing category axes, filled in the given order."""
    kinds = [hist.axis.StrCategory([], name=n, growth=True) for n in names]
    if integers:
        kinds = [hist.axis.IntCategory([], name=n, growth=True) for n in names]
    kept = [i for i, n in enumerate(names) if n not in drop]
    h = hist.Hist(
        *[kinds[i] for i in kept], hist.axis.Variable(EDGES, name="m"), storage=hist.storage.Weight()
    )
    for key in order or counts:
        labels = [key[i] if not integers else integers[i].index(key[i]) for i in kept]
        h.fill(*labels, np.array([0.5, 1.5, 2.5]), weight=counts[key])
    return h


def only(counts, position, value):
    return {k: v for k, v in counts.items() if k[position] == value}


def from_one(counts, **options):
    return from_axes(filled(counts), **{"samples": SAMPLES, "data": "data"} | options)


def values(templates, channel, sample, category="nominal"):
    return templates.channels[channel][sample][category, :].values()


def test_processes_are_added_and_data_are_observed():
    counts = contents()
    made = from_one(counts, scale={"tt_b": 2.0})
    assert list(made.channels) == ["SR", "CR"]
    assert list(made.channels["SR"]) == ["sig", "tt"]
    for category in CATEGORIES:
        wanted = counts["tt_a", "CR", category] + 2.0 * counts["tt_b", "CR", category]
        assert values(made, "CR", "tt", category) == pytest.approx(wanted)
    variances = made.channels["SR"]["tt"]["nominal", :].variances()
    assert variances == pytest.approx(
        counts["tt_a", "SR", "nominal"] ** 2 + 4.0 * counts["tt_b", "SR", "nominal"] ** 2
    )
    assert made.observed["SR"].values()[0] == pytest.approx(counts["data", "SR", "nominal"])
    assert made.notes == ()
    spec = from_hists(made, MODELS)
    assert spec["observations"][1]["data"] == pytest.approx(counts["data", "CR", "nominal"])
    asimov = from_hists(made, MODELS, observed={"SR": [1.0, 2.0, 3.0]})
    assert asimov["observations"][0]["data"] == [1.0, 2.0, 3.0]


@settings(max_examples=15)
@given(st.integers(0, 100), st.randoms(use_true_random=False))
def test_the_order_of_filling_does_not_matter(seed, random):
    counts = contents(seed)
    order = list(counts)
    random.shuffle(order)
    straight, mixed = from_one(counts), from_axes(filled(counts, order=order), samples=SAMPLES, data="data")
    for region, sample, category in itertools.product(REGIONS, ("sig", "tt"), CATEGORIES):
        np.testing.assert_allclose(
            values(mixed, region, sample, category), values(straight, region, sample, category)
        )


@settings(max_examples=15)
@given(st.integers(0, 100))
def test_the_sum_of_workspaces_is_the_workspace_of_the_sum(seed):
    """Expected events at plus and minus one sigma add up, also where a process lacks the variation."""
    counts = contents(seed)
    for direction in ("jesUp", "jesDown"):
        del counts["tt_b", "SR", direction]
    made = from_one(counts)
    for category in CATEGORIES:
        wanted = counts["tt_a", "SR", category] + counts.get(
            ("tt_b", "SR", category), counts["tt_b", "SR", "nominal"]
        )
        np.testing.assert_allclose(values(made, "SR", "tt", category), wanted)
    assert [(n.where, n.what) for n in made.notes] == [
        ("channel SR, tt_b", "not filled"),
        ("channel SR, sample tt, tt_b", "nominal instead"),
    ]
    from_hists(made, MODELS)


def test_what_is_not_used_is_noted():
    made = from_axes(filled(contents()), samples={"tt": ["tt_a"]}, channels={"signal": "SR"})
    assert list(made.channels) == ["signal"]
    assert [(n.where, n.detail) for n in made.notes] == [
        ("sig", "no sample is made of it"),
        ("tt_b", "no sample is made of it"),
        ("data", "no sample is made of it"),
        ("CR", "no channel is made of it"),
    ]


def test_a_channel_without_data_and_a_process_without_events_are_noted():
    counts = contents()
    del counts["data", "CR", "nominal"]
    for category in CATEGORIES:
        del counts["sig", "CR", category]
    made = from_one(counts)
    assert list(made.channels["CR"]) == ["tt"]
    assert made.observed["CR"].sum().value == 0.0  # no events observed are events observed
    assert [(n.where, n.what, n.detail) for n in made.notes] == [("channel CR", "no events", "left out: sig")]


def test_integer_axes_and_further_axes():
    counts = contents()
    labels = (PROCESSES, REGIONS, CATEGORIES)
    h = filled(counts, integers=labels)
    made = from_axes(h, samples={"sig": "0"}, channels={"SR": "0"}, naming=Naming("variation", "0"))
    assert values(made, "SR", "sig", "0") == pytest.approx(counts["sig", "SR", "nominal"])
    more = hist.Hist(
        hist.axis.StrCategory(["2017", "2018"], name="year"),
        hist.axis.StrCategory(["sig"], name="process"),
        hist.axis.Regular(2, 0, 1, name="m"),
    )
    more.view()[1] = [[3.0, 4.0]]
    made = from_axes(more, channel=None, select={"year": 2018})
    assert made.channels["channel"]["sig"].values()[0].tolist() == [3.0, 4.0]
    with pytest.raises(WorkspaceError, match=r"(?s)one numeric axis.*axes year, m.*selects a category"):
        from_axes(more, channel=None)
    with pytest.raises(WorkspaceError, match=r"(?s)'year' has no category '2016'.*nearest: 2018, 2017"):
        from_axes(more, channel=None, select={"year": 2016})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"process": "proces"},
            r"(?s)no category axis 'proces'.*axes process, channel, variation, m.*nearest: process",
        ),
        ({"samples": {"tt": "ttt"}}, r"(?s)no process 'ttt'.*where: tt.*nearest: tt_b, tt_a"),
        (
            {"samples": {"tt": "tt_*", "all": "tt_a"}},
            r"(?s)'tt_a' is in 'tt' and in 'all'.*each process in one",
        ),
        ({"channels": {"SR": "SR", "more": "*"}}, r"(?s)'SR' is in two channels.*count twice"),
        ({"scale": {"top": 2.0}}, r"(?s)a factor is given for 'top'"),
        ({"scale": {"tt_a": np.nan}}, r"the factor of 'tt_a' is nan"),
        ({"data": "dat"}, r"(?s)no data 'dat'.*nearest: data"),
        ({"naming": Naming("variation", "central")}, r"(?s)'sig' has no category 'central'.*channel SR"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(WorkspaceError, match=message):
        from_one(contents(), **options)


def test_different_bins_cannot_be_added():
    hists = {}
    for dataset, n in (("a", 3), ("b", 4)):
        hists[dataset] = {"m": hist.Hist(hist.axis.Regular(n, 0, 1, name="m")).fill([0.5])}
    with pytest.raises(WorkspaceError, match=r"(?s)'b' and 'a' have different bins.*channel m, sample tt"):
        from_accumulator(hists, "datasets", variable="m", samples={"tt": ["a", "b"]})


# Accumulators ------------------------------------------------------------------------------------------------


def accumulator(convention, counts):
    """The same counts as each framework nests and names them."""
    naming = Naming.of(None if convention == "datasets" else convention)
    names = {"nominal": "nominal", "jesUp": "jes" + naming.up, "jesDown": "jes" + naming.down}
    counts = {(p, r, names[c]): v for (p, r, c), v in counts.items()}
    if convention == "pocketcoffea":
        axes = ("process", "cat", naming.axis)
        return {
            "sum_genweights": {},
            "variables": {
                "m": {
                    sample: {
                        p: filled(
                            only(counts, 0, p),
                            axes,
                            drop=("process", *([naming.axis] if p == "data" else [])),
                        )
                        for p in PROCESSES
                        if p.startswith(sample)
                    }
                    for sample in ("sig", "tt", "data")
                }
            },
        }
    if convention == "datasets":
        axes = ("process", "channel", naming.axis)
        return {p: {"m": filled(only(counts, 0, p), axes, drop=("process",))} for p in PROCESSES}
    if convention == "agc":
        axes = ("process", "region", naming.axis)
        return {"hists": {r: filled(only(counts, 1, r), axes, drop=("region",)) for r in REGIONS}}
    return {
        "m": filled(counts, ("process", {"topcoffea": "channel"}.get(convention, "category"), naming.axis))
    }


@pytest.mark.parametrize("convention", ["pocketcoffea", "topcoffea", "columnflow", "agc", "datasets"])
def test_every_framework_gives_the_same_workspace(convention):
    counts = contents()
    samples = {"sig": "sig", "tt": "tt"} if convention == "pocketcoffea" else SAMPLES
    made = from_accumulator(
        accumulator(convention, counts), convention, variable="m", samples=samples, data="data"
    )
    assert from_hists(made, MODELS) == from_hists(from_one(counts), MODELS)


def test_datasets_of_a_pocketcoffea_sample():
    counts = contents()
    output = accumulator("pocketcoffea", counts)
    made = from_accumulator(output, "pocketcoffea", variable="m", data="data", scale={"tt_a": 3.0, "tt": 2.0})
    wanted = 6.0 * counts["tt_a", "SR", "nominal"] + 2.0 * counts["tt_b", "SR", "nominal"]
    assert values(made, "SR", "tt") == pytest.approx(wanted)
    apart = from_accumulator(output, "pocketcoffea", variable="m", samples={"b": "tt_b"}, channels=["SR"])
    assert values(apart, "SR", "b") == pytest.approx(counts["tt_b", "SR", "nominal"])
    assert {"sig", "tt_a", "data", "CR"} <= {n.where for n in apart.notes if n.what == "not used"}


def test_integer_categories_of_columnflow():
    counts = contents()
    labels = ("process", "category", "shift")
    h = filled(counts, labels, integers=(PROCESSES, REGIONS, CATEGORIES))
    named = {
        "process": dict(enumerate(PROCESSES)),
        "category": dict(enumerate(REGIONS)),
        "shift": {0: "nominal", 1: "jes_up", 2: "jes_down"},
    }
    made = from_accumulator({"m": h}, "columnflow", variable="m", samples=SAMPLES, data="data", labels=named)
    assert from_hists(made, MODELS) == from_hists(from_one(counts), MODELS)
    with pytest.raises(WorkspaceError, match=r"(?s)labels are given for the axis 'proces'.*nearest: process"):
        from_accumulator({"m": h}, "columnflow", variable="m", labels={"proces": {}})
    with pytest.raises(WorkspaceError, match="two categories of 'process' have the same label"):
        from_accumulator({"m": h}, "columnflow", variable="m", labels={"process": {0: "a", 1: "a"}})


def test_agc_with_a_region_axis_and_one_without_channels():
    counts = contents()
    names = Naming.of("agc")
    renamed = {(p, r, c.replace("Up", "_up").replace("Down", "_down")): v for (p, r, c), v in counts.items()}
    h = filled(renamed, ("process", "region", names.axis))
    made = from_accumulator({"m": h}, "agc", variable="m", samples=SAMPLES, data="data")
    assert from_hists(made, MODELS) == from_hists(from_one(counts), MODELS)
    for key in ("hist", "hist_m"):
        again = from_accumulator({"nevents": {}, key: h}, "agc", variable="m", samples=SAMPLES, data="data")
        assert from_hists(again, MODELS) == from_hists(made, MODELS)
    flat = {"a": {"m": filled(only(only(counts, 0, "sig"), 1, "SR"), drop=("process", "channel"))}}
    made = from_accumulator(flat, "datasets", variable="m")
    assert values(made, "m", "a", "jesUp") == pytest.approx(counts["sig", "SR", "jesUp"])


@pytest.mark.parametrize(
    ("convention", "options", "error", "message"),
    [
        (
            "topcofea",
            {},
            ConfigError,
            r"(?s)no accumulator layout is known as 'topcofea'.*nearest: topcoffea",
        ),
        ("topcoffea", {"variable": "mm"}, WorkspaceError, r"(?s)the output has no variable 'mm'.*nearest: m"),
        ("pocketcoffea", {"variable": "mm"}, WorkspaceError, "the output has no variable 'mm'"),
        ("agc", {"variable": "mm"}, WorkspaceError, r"(?s)histogram of 'SR' has no axis 'mm'.*nearest:"),
        ("datasets", {"variable": "mm"}, WorkspaceError, "dataset 'sig' has no variable 'mm'"),
    ],
)
def test_what_is_not_in_the_accumulator(convention, options, error, message):
    output = accumulator(convention if convention != "topcofea" else "topcoffea", contents())
    with pytest.raises(error, match=message):
        from_accumulator(output, convention, **{"variable": "m"} | options)


def test_the_wrong_layout():
    with pytest.raises(WorkspaceError, match=r"(?s)dataset 'm' is a Hist.*dictionary with variables"):
        from_accumulator(accumulator("topcoffea", contents()), "datasets", variable="m")


def test_the_output_of_our_processor():
    """Run on real histograms of it, so that the two agree on the layout."""
    from neyman.events.processing.layout import arranged

    counts = contents()
    output = {
        dataset: {
            "process": process,
            "n_events": 3,
            "sumw": 3.0,
            "cutflow": {},
            "hists": {"m": filled(only(counts, 0, dataset), drop=("process",))},
        }
        for dataset, process in {"sig": "sig", "tt_a": "tt", "tt_b": "tt", "data": "data"}.items()
    }
    made = from_accumulator(output, "datasets", variable="m", data="data")
    assert from_hists(made, MODELS) == from_hists(from_one(counts), MODELS)
    for layout in ("pocketcoffea", "topcoffea", "columnflow", "agc"):
        other = from_accumulator(
            arranged(output, layout), layout, variable="m", data="data", samples=["sig", "tt"]
        )
        one, two = (from_hists(t, MODELS)["channels"] for t in (other, made))
        for channel in two:
            (same,) = [c for c in one if c["name"] == channel["name"]]
            for sample in channel["samples"]:
                (found,) = [s for s in same["samples"] if s["name"] == sample["name"]]
                assert found["data"] == pytest.approx(sample["data"], rel=1e-12)
                assert [m["name"] for m in found["modifiers"]] == [m["name"] for m in sample["modifiers"]]


def test_normalisation():
    assert normalisation({"a": 2.0}, {"a": 4.0, "b": 1.0}, 10.0) == {"a": 5.0}
    with pytest.raises(WorkspaceError, match=r"(?s)dataset 'a' has a cross section and no sum.*nearest: b"):
        normalisation({"a": 2.0}, {"b": 1.0}, 10.0)
    with pytest.raises(WorkspaceError, match="the sum of weights of 'a' is 0"):
        normalisation({"a": 2.0}, {"a": 0.0}, 10.0)


def test_the_output_of_the_analysis_grand_challenge():
    """Regions under `hist_dict`, and variations without the suffixes of the others."""
    names = {"nominal": "nominal", "jesUp": "jes_up", "jesDown": "ME_var"}
    counts = {(p, r, names[c]): v for (p, r, c), v in contents().items()}
    regions = {
        r: filled(only(counts, 1, r), ("process", "region", "variation"), drop=("region",)) for r in REGIONS
    }
    options = {"variable": "m", "samples": SAMPLES, "data": "data"}
    with pytest.raises(
        WorkspaceError, match=r"(?s)'ME_var' has no up/down partner.*labels= of from_accumulator"
    ):
        from_hists(from_accumulator({"nevents": {}, "hist_dict": regions}, "agc", **options), MODELS)
    labels = {"variation": {"ME_var": "jes_down"}}
    made = from_accumulator({"nevents": {}, "hist_dict": regions}, "agc", labels=labels, **options)
    assert from_hists(made, MODELS) == from_hists(from_one(contents()), MODELS)


def test_labels_of_an_axis_that_data_lack():
    output = accumulator("pocketcoffea", contents())
    made = from_accumulator(
        output,
        "pocketcoffea",
        variable="m",
        data="data",
        labels={"variation": {"jesUp": "JESUp", "jesDown": "JESDown"}},
    )
    assert list(made.channels["SR"]["tt"].axes[0]) == ["nominal", "JESUp", "JESDown"]
    assert list(made.observed) == list(REGIONS)


def test_squares_of_weights_of_topcoffea():
    counts = contents()
    h = filled(counts, ("process", "channel", "systematic"))
    plain, squares = (hist.Hist(*h.axes, storage=hist.storage.Double()) for _ in range(2))
    plain.view(flow=True)[...], squares.view(flow=True)[...] = h.values(flow=True), h.variances(flow=True)
    options = {"variable": "m", "samples": SAMPLES, "data": "data"}
    made = from_accumulator({"m": plain, "m_sumw2": squares}, "topcoffea", **options)
    assert from_hists(made, MODELS) == from_hists(from_one(counts), MODELS)
    with pytest.raises(
        WorkspaceError, match=r"(?s)have different axes.*axes process, systematic, m of the squares"
    ):
        from_accumulator({"m": plain, "m_sumw2": squares[:, "SR", ...]}, "topcoffea", **options)


def test_weights_in_a_storage_without_variances():
    h = hist.Hist(*filled(contents()).axes, storage=hist.storage.Double())
    h.fill("sig", "SR", "nominal", [0.1, 0.6], weight=[0.1, 0.2])
    with pytest.raises(WorkspaceError, match=r"(?s)does not know its variances.*channel SR, sample sig"):
        from_hists(from_axes(h, samples=["sig"], channels=["SR"]), MODELS)

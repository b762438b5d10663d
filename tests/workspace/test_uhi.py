"""Histograms of every library go into `from_hists`, and what is beyond the edges is not lost unnoticed."""

from __future__ import annotations

import boost_histogram as bh
import hist
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import NeymanWarning, WorkspaceError
from neyman.naming import Naming
from neyman.workspace import SampleModel, from_hists
from neyman.workspace.uhi import binned, same_edges

COUNTS = np.array([4.0, 3.0, 2.0])
MODELS = {"sig": SampleModel(("mu",))}


def weighted(values=COUNTS, flow=(0.0, 0.0), **axis):
    h = hist.Hist(hist.axis.Regular(3, 0, 3, name="x", **axis), storage=hist.storage.Weight())
    full = h.view(flow=True)
    full["value"][-len(values) - 1 : -1] = values
    full["variance"][-len(values) - 1 : -1] = 0.5 * np.abs(values)
    if any(flow):
        full["value"][[0, -1]] = flow
        full["variance"][[0, -1]] = flow
    return h


def one_sample(h, **options):
    return from_hists({"SR": {"sig": h}}, MODELS, **options)["channels"][0]["samples"][0]


def of_root(tmp_path, h):
    with uproot.recreate(tmp_path / "h.root") as file:
        file["h"] = h
    with uproot.open(tmp_path / "h.root") as file:
        return file["h"]


class Protocol:
    """The least that the protocol asks for: no flow bins, no names, bins as pairs."""

    kind = "COUNT"

    def __init__(self):
        class Traits:
            circular = False
            discrete = False

        class Axis:
            traits = Traits()

            def __getitem__(self, i):
                return float(i), float(i + 1)

            def __len__(self):
                return 3

            def __eq__(self, other):
                return True

            __hash__ = None

        self.axes = (Axis(),)

    def values(self):
        return COUNTS

    def variances(self):
        return 0.5 * COUNTS

    def counts(self):
        return COUNTS


@pytest.mark.parametrize("kind", ["hist", "boost-histogram", "uproot", "protocol", "numpy"])
def test_every_library_gives_the_same_sample(kind, tmp_path):
    h = {
        "hist": weighted,
        "boost-histogram": lambda: bh.Histogram(weighted()),
        "uproot": lambda: of_root(tmp_path, weighted()),
        "protocol": Protocol,
        "numpy": lambda: (COUNTS, np.arange(4.0)),
    }[kind]()
    sample = one_sample(h, staterror=kind != "numpy")  # a pair of arrays says nothing of its variances
    assert sample["data"] == COUNTS.tolist()
    if kind != "numpy":
        assert sample["modifiers"][-1]["data"] == pytest.approx(np.sqrt(0.5 * COUNTS))


def test_observed_histograms(tmp_path):
    data = of_root(tmp_path, weighted([5.0, 6.0, 7.0]))
    spec = from_hists({"SR": {"sig": weighted()}}, MODELS, observed={"SR": data})
    assert spec["observations"][0]["data"] == [5.0, 6.0, 7.0]


@given(st.tuples(*[st.floats(0.0, 9.0)] * 2), st.booleans())
def test_merged_flow_keeps_the_total(flow, observed):
    h = weighted(flow=flow)
    report = []
    spec = from_hists(
        {"SR": {"sig": h}}, MODELS, flow="merge", report=report, observed={"SR": h} if observed else None
    )
    data = spec["channels"][0]["samples"][0]["data"]
    assert data == pytest.approx([4.0 + flow[0], 3.0, 2.0 + flow[1]])
    assert spec["observations"][0]["data"] == pytest.approx(data)
    assert [r.what for r in report] == (["flow merged"] if any(flow) else [])


def test_lost_flow_is_said():
    h = weighted(flow=(0.0, 3.0))
    with pytest.warns(
        NeymanWarning, match=r"1 histograms are left out, 0\.25 of the events of sig in SR: 0 events"
    ):
        sample = one_sample(h)
    assert sample["data"] == COUNTS.tolist()
    report = []
    assert one_sample(h, report=report) == one_sample(h, flow="ignore") == sample
    assert [(r.what, r.size) for r in report] == [("flow ignored", pytest.approx(0.25))]


def test_a_category_that_was_not_listed():
    axes = hist.axis.StrCategory(["nominal"], name="variation"), hist.axis.Regular(3, 0, 3, name="x")
    h = hist.Hist(*axes, storage=hist.storage.Weight())
    h.fill(variation=["nominal", "jesUp"], x=[0.5, 0.5])
    with pytest.raises(
        WorkspaceError, match=r"(?s)1 events have a category that is not on the axis.*growth=True"
    ):
        one_sample(h)


def test_unknown_variances():
    h = hist.Hist(hist.axis.Regular(3, 0, 3, name="x")).fill([0.5, 1.5, 2.5])
    assert one_sample(h)["modifiers"][-1]["data"] == [1.0, 1.0, 1.0]
    with pytest.raises(WorkspaceError, match=r"(?s)does not know its variances.*sample sig.*Weight storage"):
        one_sample(0.5 * h)
    assert one_sample(0.5 * h, staterror=False)["data"] == [0.5, 0.5, 0.5]
    passed = binned(0.5 * h, Naming(), "here").to_hist(
        Naming()
    )  # as from_axes, from_root and from_accumulator do
    with pytest.raises(WorkspaceError, match="does not know its variances"):
        one_sample(passed)
    assert one_sample(passed, staterror=False)["data"] == [0.5, 0.5, 0.5]


def test_observed_histograms_with_variations():
    """The nominal category counts, wherever it is on the axis."""
    data = hist.Hist(
        hist.axis.StrCategory(["JESUp", "nominal"], name="variation"), hist.axis.Regular(3, 0, 3, name="x")
    )
    data.fill(variation="nominal", x=[0.5, 1.5, 1.5])
    made = from_hists({"SR": {"sig": weighted()}}, MODELS, observed={"SR": data})
    assert made["observations"][0]["data"] == [1.0, 2.0, 0.0]
    with pytest.raises(
        WorkspaceError, match=r"(?s)no category 'central' among JESUp, nominal.*observed in 'SR'"
    ):
        from_hists(
            {"SR": {"sig": weighted()}}, MODELS, observed={"SR": data}, naming=Naming(nominal="central")
        )


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        ([1.0, 2.0], r"(?s)list is not a histogram.*hist\.Hist"),
        (hist.Hist(hist.axis.Regular(3, 0, 3), storage=hist.storage.Mean()), "holds means"),
        (weighted([1.0, np.nan, 2.0]), "bin 1 of 'nominal' is not finite"),
    ],
)
def test_what_is_no_histogram_of_counts(histogram, message):
    with pytest.raises(WorkspaceError, match=message):
        one_sample(histogram)


def test_different_edges():
    other = hist.Hist(hist.axis.Regular(3, 0, 6, name="x"), storage=hist.storage.Weight())
    other.view()["value"] = 1.0
    with pytest.raises(WorkspaceError, match="samples 'sig' and 'bkg' have different edges"):
        from_hists({"SR": {"sig": weighted(), "bkg": other}}, MODELS | {"bkg": SampleModel()})


def test_categories_as_bins_and_an_axis_without_underflow():
    h = hist.Hist(hist.axis.IntCategory([2, 3, 4], name="njets"), storage=hist.storage.Weight())
    h.fill([2, 2, 4])
    assert one_sample(h)["data"] == [2.0, 0.0, 1.0]
    one = binned(weighted(underflow=False), Naming(), "here")
    assert one.values["nominal"].tolist() == [0.0, *COUNTS, 0.0]
    assert same_edges(one.edges, np.array([0.0, 1.0, 2.0, 3.0 + 1e-9]))

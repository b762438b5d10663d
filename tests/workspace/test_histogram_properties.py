"""What holds for the workspace of any positive histograms."""

from __future__ import annotations

import hist
import numpy as np
import pyhf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neyman.workspace import SampleModel, Treatment, from_hists

SAMPLES = ("sig", "top", "zjets")
MODELS = {
    "sig": SampleModel(("mu",)),
    "top": SampleModel(normsys={"xsec": (1.1, 0.9)}),
    "zjets": SampleModel(),
}


@st.composite
def channels(draw, least=0.2, most=3.0):
    """One channel of three samples, two of them with up and down variations of two parameters."""
    bins = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    contents = {}
    for sample in SAMPLES:
        nominal = 10.0 ** rng.uniform(-2.0, 4.0, bins)
        contents[sample] = {"nominal": nominal}
        if sample != "sig":
            for category in ("jesUp", "jesDown", "jerUp", "jerDown"):
                contents[sample][category] = nominal * rng.uniform(least, most, bins)
    return contents


def histograms(contents):
    made = {}
    for sample, categories in contents.items():
        bins = len(categories["nominal"])
        made[sample] = hist.Hist(
            hist.axis.StrCategory(list(categories), name="variation"),
            hist.axis.Regular(bins, 0, 1, name="score"),
            storage=hist.storage.Weight(),
        )
        made[sample].view()["value"][:] = np.stack(list(categories.values()))
        made[sample].view()["variance"][:] = 0.01 * np.stack(list(categories.values()))
    return {"SR": made}


def expected(model, **values):
    x = {name: 0.0 if name in ("jes", "jer", "xsec") else 1.0 for name in model.config.par_names} | values
    return model.expected_actualdata([x[name] for name in model.config.par_names])


@settings(max_examples=30)
@given(channels())
def test_one_sigma_gives_back_the_variations(contents):
    model = pyhf.Workspace(from_hists(histograms(contents), MODELS)).model()
    for parameter in ("jes", "jer"):
        for alpha, category in ((1.0, f"{parameter}Up"), (-1.0, f"{parameter}Down")):
            wanted = sum(c.get(category, c["nominal"]) for c in contents.values())
            found = expected(model, **{parameter: alpha})
            np.testing.assert_allclose(found, wanted, rtol=1e-9)


@settings(max_examples=30)
@given(channels(), st.permutations(SAMPLES))
def test_the_order_of_the_samples_changes_nothing_else(contents, order):
    spec = from_hists(histograms(contents), MODELS)
    other = from_hists(histograms({sample: contents[sample] for sample in order}), MODELS)
    (channel,), (permuted,) = spec["channels"], other["channels"]
    assert [s["name"] for s in permuted["samples"]] == list(order)
    assert sorted(permuted["samples"], key=lambda s: s["name"]) == channel["samples"]
    assert other["measurements"] == spec["measurements"]
    assert other["observations"][0]["data"] == pytest.approx(spec["observations"][0]["data"], rel=1e-12)


@settings(max_examples=30)
@given(channels(least=0.6, most=1.4), st.sampled_from(["average", "larger"]))
def test_to_symmetrise_twice_is_to_symmetrise_once(contents, how):
    treatment = Treatment(symmetrise=how)
    once = from_hists(histograms(contents), MODELS, treatment=treatment)
    again = {}
    for sample in once["channels"][0]["samples"]:
        nominal = np.array(sample["data"])
        again[sample["name"]] = {"nominal": nominal}
        for parameter in ("jes", "jer") if sample["name"] != "sig" else ():
            effect = {m["type"]: m["data"] for m in sample["modifiers"] if m["name"] == parameter}
            for category, side in (("Up", "hi"), ("Down", "lo")):
                shape = effect["histosys"][f"{side}_data"] if "histosys" in effect else nominal
                again[sample["name"]][parameter + category] = effect["normsys"][side] * np.array(shape)
    report = []
    twice = from_hists(histograms(again), MODELS, treatment=treatment, report=report)
    assert report == []
    models = [pyhf.Workspace(spec).model() for spec in (once, twice)]
    for parameter in ("jes", "jer"):
        up, down = (expected(models[0], **{parameter: alpha}) for alpha in (1.0, -1.0))
        np.testing.assert_allclose(up + down, 2.0 * expected(models[0]), rtol=1e-9)
        np.testing.assert_allclose(expected(models[1], **{parameter: 1.0}), up, rtol=1e-9)
        np.testing.assert_allclose(expected(models[1], **{parameter: -1.0}), down, rtol=1e-9)


@given(channels())
def test_thresholds_of_zero_and_floors_that_nothing_needs_are_the_identity(contents):
    report = []
    treatment = Treatment(prune_norm=0.0, prune_shape=0.0, floor_negative=0.1, mirror_missing=True)
    treated = from_hists(histograms(contents), MODELS, treatment=treatment, report=report)
    assert treated == from_hists(histograms(contents), MODELS)
    assert report == []


@given(channels(least=0.9, most=1.1), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_a_higher_threshold_prunes_what_a_lower_one_does(contents, one, other):
    def pruned(threshold):
        report = []
        treatment = Treatment(prune_norm=threshold, prune_shape=threshold)
        from_hists(histograms(contents), MODELS, treatment=treatment, report=report)
        assert all(r.size < threshold for r in report)
        return {(r.sample, r.parameter, r.what) for r in report}

    low, high = sorted((one, other))
    assert pruned(low) <= pruned(high)


@given(channels(least=0.8, most=1.2))
def test_smoothing_keeps_totals(contents):
    treated = from_hists(histograms(contents), MODELS, treatment=Treatment(smooth="353QH"))
    plain = from_hists(histograms(contents), MODELS)
    factors = [
        {
            (s["name"], m["name"]): m["data"]
            for s in spec["channels"][0]["samples"]
            for m in s["modifiers"]
            if m["type"] == "normsys"
        }
        for spec in (treated, plain)
    ]
    assert factors[0].keys() == factors[1].keys()
    for key, data in factors[1].items():
        assert factors[0][key] == pytest.approx(data, rel=1e-12)

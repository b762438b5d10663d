"""Histograms of a network to a pyhf document, and its uncertainties by three methods against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pyhf
import pytest

from neyman.analysis import compare_uncertainties, sannt_workspace
from neyman.analysis.sannt_fits import expected_uncertainties, observed_fit
from neyman.analysis.simulation import make_hist
from neyman.errors import ConfigError, WorkspaceError
from neyman.events import EventTable
from neyman.networks import MLP
from neyman.sannt import Normalisation, Variation, train
from neyman.training import Settings
from neyman.workspace import Treatment

S, B = np.array([5.0, 20.0]), np.array([400.0, 200.0])
SHIFT = np.array([12.0, -8.0])


def hists(variances=0.0):
    def one(nominal, **varied):
        contents = {"nominal": nominal} | {
            f"{k}{side}": v for k, pair in varied.items() for side, v in pair.items()
        }
        spread = np.full(2, variances)
        return make_hist("score", [0.0, 0.5, 1.0], {k: (np.array(v), spread) for k, v in contents.items()})

    return {"SR": {"s": one(S), "b": one(B, shift={"Up": B + SHIFT, "Down": B - SHIFT})}}


def covariance(*columns, constrained):
    """Covariance of the strength of s and of nuisance parameters, from the Jacobian's further columns."""
    j = np.stack([S, *columns], axis=1)
    return np.linalg.inv(j.T @ (j / (S + B)[:, None]) + np.diag([0.0, *constrained]))


def fisher(*columns, constrained):
    """Uncertainty of the strength of s."""
    return math.sqrt(covariance(*columns, constrained=constrained)[0, 0])


def test_three_methods_agree_with_the_closed_form():
    norm = Normalisation("norm", "b", 1.1, 0.9)
    spec = sannt_workspace(hists(), ["s"], [norm], mc_stat=False)
    expected = fisher(SHIFT, 0.1 * B, constrained=(1.0, 1.0))
    found = compare_uncertainties({"s": expected}, spec, ["s"])
    assert found["fisher"] == {"s": expected}
    assert found["hesse"]["s"] == pytest.approx(expected, rel=0.01)
    assert found["pyhf"]["s"] == pytest.approx(found["hesse"]["s"], rel=0.005)
    assert found["statistical"]["s"] == pytest.approx(fisher(constrained=()), rel=1e-6)
    low, high = found["minos"]["s"]
    assert (high - low) / 2.0 == pytest.approx(expected, rel=0.02)
    assert found["valid"]
    # A shift of the global observable by its error of 1 moves the strength by the covariance.
    of_shift, of_norm = covariance(SHIFT, 0.1 * B, constrained=(1.0, 1.0))[0, 1:]
    impacts = {one["name"]: (one["up"] - one["down"]) / 2.0 for one in found["impacts"]["s"]}
    assert impacts == pytest.approx({"shift": of_shift, "norm": of_norm}, rel=0.05)


def test_free_factor_without_a_constraint():
    free = Normalisation("norm", "b", free=True)
    spec = sannt_workspace(hists(), {"s": "mu"}, [free], mc_stat=False)
    found = expected_uncertainties(spec, {"s": "mu"})
    assert found["hesse"]["s"] == pytest.approx(fisher(SHIFT, B, constrained=(1.0, 0.0)), rel=0.01)
    modifiers = {m["name"]: m["type"] for m in spec["channels"][0]["samples"][1]["modifiers"]}
    assert modifiers["norm"] == "normfactor"


def test_document():
    control = {"CR": {"b": make_hist("y", [0, 1], {"nominal": (np.array([50.0]), np.array([1.0]))})}}
    records = []
    spec = sannt_workspace(
        hists(4.0),
        ["s"],
        [Normalisation("norm", ("s", "b"), 1.2, 0.8)],
        control=control,
        observed={"SR": [410, 230]},
        bounds={"norm": (-3, 3)},
        treatment=Treatment(prune_shape=0.5),
        report=records,
        measurement="toy",
    )
    assert [c["name"] for c in spec["channels"]] == ["SR", "CR"]
    assert spec["observations"] == [{"name": "SR", "data": [410.0, 230.0]}, {"name": "CR", "data": [50.0]}]
    (measurement,) = spec["measurements"]
    assert (measurement["name"], measurement["config"]["poi"]) == ("toy", "r")
    assert {p["name"]: p["bounds"] for p in measurement["config"]["parameters"]} == {
        "r": [[-20.0, 20.0]], "norm": [[-3, 3]]
    }  # fmt: skip
    assert [r.what for r in records] == ["shape pruned"]
    model = pyhf.Workspace(spec).model()
    assert set(model.config.parameters) == {"r", "norm", "shift", "staterror_SR", "staterror_CR"}


def test_observed():
    spec = sannt_workspace(hists(4.0), ["s"], [Normalisation("norm", "b", 1.1, 0.9)], observed={"SR": S + B})
    found = observed_fit(spec, {"s": "r"})
    assert found["valid"]
    assert found["values"]["r"] == pytest.approx(1.0, abs=1e-4)
    assert found["counts"] == {"SR": [405.0, 220.0]}
    assert found["goodness_of_fit"]["p_value"] == pytest.approx(1.0, abs=1e-3)
    assert found["pulls"]["norm"] == pytest.approx(0.0, abs=1e-3)
    assert 0.0 < found["constraints"]["norm"] < 1.0
    low, high = found["minos"]["r"]
    assert low < 0.0 < high


def test_degenerate_model_is_not_valid_and_says_why():
    channels = {"SR": dict(hists()["SR"])}
    channels["SR"]["s2"] = channels["SR"]["s"]
    found = expected_uncertainties(sannt_workspace(channels, ["s", "s2"], mc_stat=False), ["s", "s2"])
    assert not found["valid"]
    assert "only a combination of r_s, r_s2 is determined" in " ".join(found["messages"])
    assert found["impacts"] == {}


def test_several_signals_have_a_strength_each():
    spec = sannt_workspace(hists(), ["s", "b"], mc_stat=False)
    found = expected_uncertainties(spec, ["s", "b"])
    assert set(found["hesse"]) == {"s", "b"}
    assert {m["name"] for m in spec["channels"][0]["samples"][0]["modifiers"]} == {"r_s"}


def test_pyhf_is_left_out_where_it_fails_or_takes_long(monkeypatch):
    spec = sannt_workspace(hists(), ["s"], mc_stat=False)

    def fail(*_, **__):
        raise pyhf.exceptions.FailedMinimization(type("result", (), {"message": "no"})())

    monkeypatch.setattr(pyhf.infer.mle, "twice_nll", fail)
    assert "pyhf" not in compare_uncertainties({"s": 1.0}, spec, ["s"])
    monkeypatch.setattr("neyman.analysis.sannt_fits._LARGEST_PYHF", 1)
    monkeypatch.setattr("pyhf.optimize.minuit_optimizer", None)
    assert "pyhf" not in compare_uncertainties({"s": 1.0}, spec, ["s"])


def test_stage_of_a_training():
    """The Fisher information of a trained network is what both fits of its workspace find."""
    rng = np.random.default_rng(1)

    def table(mean, n, total):
        x = rng.normal(mean, 1.0, (n, 2)).astype(np.float32)
        return EventTable(("x", "y"), x, np.full(n, total / n))

    s, b = table(0.0, 4000, 50.0), table(1.0, 4000, 1000.0)
    up, down = (
        EventTable(b.features, b.x + np.array([0.0, shift], dtype=np.float32), b.weight)
        for shift in (0.2, -0.2)
    )
    variations = [Variation("shift", "b", up, down, paired=True), Normalisation("norm", "b", 1.1, 0.9)]
    result = train(
        MLP((8,)),
        s,
        {"b": b},
        signal="s",
        variations=variations,
        bins=4,
        pretraining=Settings(steps=60, learning_rate=1e-2, batch_size=256),
        settings=Settings(steps=5, validation_fraction=0.5),
        seed=1,
    )
    spec = sannt_workspace(result.trained, result.signals, variations)
    found = compare_uncertainties(result.trained, spec, result.signals)
    assert found["fisher"]["s"] == result.trained.uncertainty.total
    assert found["hesse"]["s"] == pytest.approx(found["fisher"]["s"], rel=0.01)
    assert found["pyhf"]["s"] == pytest.approx(found["fisher"]["s"], rel=0.01)


@pytest.mark.parametrize(
    ("signals", "variations", "kind", "message"),
    [
        (["sig"], [], ConfigError, r"(?s)the signal is 'sig', which has no histogram.*expected: s"),
        (["s"], [Normalisation("n", "bb")], ConfigError, r"(?s)the process of 'n' is 'bb', which has no.*expected: b"),
    ],
)  # fmt: skip
def test_errors(signals, variations, kind, message):
    with pytest.raises(kind, match=message):
        sannt_workspace(hists(), signals, variations)


def test_negative_bin_says_what_helps():
    channels = hists()
    channels["SR"]["b"].view()["value"][0, 0] = -1.0
    with pytest.raises(WorkspaceError, match=r"(?s)bin 0 has a negative expectation.*floor_negative"):
        sannt_workspace(channels, ["s"])

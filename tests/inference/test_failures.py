"""Workspaces whose fit pyhf refuses, or passes over, say here what is wrong with them."""

from __future__ import annotations

import re

import pytest

from neyman.errors import InferenceError, LikelihoodError
from neyman.inference import fit, significance, upper_limit
from neyman.likelihood import Likelihood

MU = {"name": "mu", "type": "normfactor", "data": None}
K = {"name": "k", "type": "normfactor", "data": None}


def workspace(signal, background, observed, modifiers=(), **mu):
    samples = [{"name": "s", "data": signal, "modifiers": [MU]}]
    samples += [{"name": "b", "data": background, "modifiers": list(modifiers)}]
    parameters = [{"name": "mu", **mu}] if mu else []
    return {
        "channels": [{"name": "SR", "samples": samples}],
        "observations": [{"name": "SR", "data": observed}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": parameters}}],
        "version": "1.0.0",
    }


DEGENERATE = {
    "the same shape twice": workspace([5.0, 10.0], [10.0, 20.0], [17.0, 29.0], [K]),
    "a bin for every bin": workspace(
        [5.0, 1.0], [10.0, 20.0], [13.0, 21.0], [{"name": "sf", "type": "shapefactor", "data": None}]
    ),
    "no signal anywhere": workspace([0.0, 0.0], [10.0, 20.0], [13.0, 21.0]),
}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("the same shape twice", r"only a combination of (k, mu|mu, k) is determined"),
        ("a bin for every bin", r"only a combination of .*sf\[0\].* is determined"),
        ("no signal anywhere", "the likelihood does not depend on mu"),
    ],
)
def test_undetermined_parameters_are_named(name, reason):
    """pyhf returns a point on the valley of the first two, and an optimiser's dump for the third."""
    lh = Likelihood.from_pyhf(DEGENERATE[name])
    result = fit(lh)
    assert not result.valid
    (message,) = (message for message in result.messages if "not positive definite" in message)
    assert re.search(reason, message)
    match = "does not depend on 'mu'" if name == "no signal anywhere" else "is determined"
    with pytest.raises(InferenceError, match=match):
        upper_limit(lh, "mu")
    with pytest.raises(InferenceError, match=match):
        significance(lh, "mu")


def test_a_start_at_a_bound_without_events_is_moved():
    """With mu = 0 the second bin expects nothing, although one event is seen there."""
    spec = workspace([5.0, 1.0], [10.0, 0.0], [17.0, 1.0], inits=[0.0], bounds=[[0.0, 10.0]])
    result = fit(Likelihood.from_pyhf(spec))
    assert result.valid
    assert result.values["mu"] > 0.5
    assert any(message.startswith("mu moved off the bound to start: bin 1") for message in result.messages)


def test_nothing_seen_is_a_valid_fit_at_the_bound():
    spec = workspace([5.0, 1.0], [1.0, 1.0], [0.0, 0.0])
    result = fit(Likelihood.from_pyhf(spec))
    assert result.valid
    assert result.at_bounds == ("mu",)
    assert result.errors["mu"] == 0.0


def test_an_empty_bin_with_data_is_named():
    spec = workspace([5.0, 0.0], [10.0, 0.0], [17.0, 1.0])
    with pytest.raises(
        LikelihoodError, match=r"bin 1 of channel 'SR' expects 0 events, 1 are observed\n.*rates s 0, b 0"
    ):
        fit(Likelihood.from_pyhf(spec))


def test_parameters_that_hug_a_bound_are_named():
    above = fit(Likelihood.from_pyhf(workspace([5.0, 1.0], [1.0, 1.0], [170.0, 30.0])))
    assert above.at_bounds == ("mu",)
    assert above.values["mu"] == 10.0
    assert any("at a bound: mu (upper)" in message for message in above.messages)


def test_a_variation_below_zero_is_named():
    """The variation takes the prediction to nothing where nothing is seen: pyhf reports -47 as the minimum."""
    down = {"name": "h", "type": "histosys", "data": {"hi_data": [8.0, 3.0], "lo_data": [-4.0, -1.0]}}
    result = fit(Likelihood.from_pyhf(workspace([5.0, 1.0], [2.0, 1.0], [0.0, 0.0], [down])))
    assert "edge of where it is defined: beyond it, bin" in result.messages[0]
    assert "channel 'SR' expects -" in result.messages[0]

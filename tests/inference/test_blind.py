"""`blind` shows no central value, opens with its seed alone, and keeps differences between fits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from neyman.errors import InferenceError
from neyman.inference import BlindFit, blind, fit
from neyman.likelihood import Constraint, Parameter


def numbers(document):
    """All numbers of a JSON document."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        return [n for item in document for n in numbers(item)]
    return [document] if isinstance(document, float) else []


@pytest.fixture
def result(linear):
    return fit(linear[0], minos=("mu",))


def test_nothing_shown_tells_the_hidden_value(result, linear):
    hidden = blind(result, ["mu"], seed="a passphrase", likelihood=linear[0])
    value = result.values["mu"]
    document = hidden.to_dict()
    text = json.dumps(document, allow_nan=False)
    for shown in (text, repr(hidden), str(hidden)):
        for digits in range(4, 16):
            assert f"{value:.{digits}f}"[:-1] not in shown
            assert f"{result.fval:.{digits}f}"[:-1] not in shown
    assert not np.isclose(numbers(document), value, atol=1e-4).any()
    assert not np.isclose(numbers(document), result.fval, atol=1e-4).any()
    assert not {"covariance", "correlation", "fval", "minos", "minuit", "messages", "edm"} & set(document)
    assert not any(isinstance(part, type(result)) for part in vars(hidden).values())
    assert "hidden" in str(hidden)
    assert repr(hidden.sealed) not in str(hidden)


def test_errors_and_other_parameters_stay(result, linear):
    hidden = blind(result, "mu", seed=3, likelihood=linear[0])
    assert hidden.blinded == ("mu",)
    for name in ("tes", "jes", "norm"):
        assert hidden.values[name] == result.values[name]
    assert hidden.errors == result.errors
    assert set(hidden.pulls) == {"tes", "jes"}
    assert hidden.pulls["jes"] == pytest.approx((result.values["jes"] - 0.2) / 0.5)
    assert hidden.valid
    assert blind(result, 0, seed=3).pulls == {}


def test_the_seed_opens_it(result):
    opened = blind(result, ["mu", "norm"], seed="secret").unblind("secret")
    assert opened == result
    assert opened.minuit is None
    assert opened.correlation["mu", "tes"] == result.correlation["mu", "tes"]
    written = json.loads(json.dumps(blind(result, "mu", seed=7).to_dict()))
    assert BlindFit.from_dict(written).unblind(7) == result
    assert BlindFit.from_dict(written).unblind("7") == result


def test_failed_fits_come_back_too(function):
    a, b = (Parameter(name, 0.5, -1.0, 1.0) for name in "ab")
    failed = fit(function(lambda t: (t[0] + t[1] - 1.0) ** 2, a, b))
    hidden = blind(failed, "a", seed=1)
    assert not hidden.valid
    assert hidden.n_hidden_messages == len(failed.messages) > 0
    read = BlindFit.from_dict(json.loads(json.dumps(hidden.to_dict(), allow_nan=False)))
    assert math.isnan(read.errors["a"])
    opened = read.unblind(1)
    assert opened.messages == failed.messages
    assert opened.covariance is None
    assert opened.values == failed.values


def test_other_seeds_do_not(result):
    hidden = blind(result, "mu", seed="secret")
    for wrong in ("Secret", "", 0):
        with pytest.raises(
            InferenceError, match=r"not the seed that the fit was blinded with\n.*the same seed"
        ):
            hidden.unblind(wrong)
    document = hidden.to_dict()
    flipped = {**document, "sealed": ("0" if document["sealed"][0] != "0" else "1") + document["sealed"][1:]}
    with pytest.raises(InferenceError, match="not the seed"):
        BlindFit.from_dict(flipped).unblind("secret")
    with pytest.raises(InferenceError, match="sealed fit is damaged"):
        BlindFit.from_dict({**document, "sealed": "xyz"}).unblind("secret")
    with pytest.raises(InferenceError, match=r"not a blinded fit\n.*'sealed'"):
        BlindFit.from_dict({k: v for k, v in document.items() if k != "sealed"})


def test_differences_between_fits_stay_true(linear, result):
    lh, _ = linear
    other = fit(lh.with_global_observables({"tes": 0.5}))
    first, second = blind(result, "mu", seed=5), blind(other, "mu", seed=5)
    true = other.values["mu"] - result.values["mu"]
    assert second.values["mu"] - first.values["mu"] == pytest.approx(true, abs=1e-12)
    assert blind(result, "mu", seed=5).sealed == first.sealed
    assert blind(result, "mu", seed=6).values["mu"] != first.values["mu"]
    # The offset is that of the name: hiding more parameters does not change it.
    both = blind(result, ["norm", "mu"], seed=5)
    assert both.values["mu"] == first.values["mu"]
    assert both.values["norm"] - result.values["norm"] != first.values["mu"] - result.values["mu"]


def test_offsets_fill_the_scale(result):
    offsets = [blind(result, "mu", seed=s, scale=10.0).values["mu"] - result.values["mu"] for s in range(10)]
    assert max(map(abs, offsets)) < 10.0
    assert max(offsets) > 2.0
    assert min(offsets) < -2.0
    by_name = blind(result, ["mu", "norm"], seed=1, scale={"mu": 1e-3, "norm": 100.0})
    assert abs(by_name.values["mu"] - result.values["mu"]) < 1e-3
    assert by_name.scale == {"mu": 1e-3, "norm": 100.0}


def test_bounds_and_counts_of_hidden_parameters(counting):
    gamma = Parameter("gamma", 1.0, 1e-3, 10.0, constraint=Constraint("poisson", 26.0, 20.0))
    lh = counting(lambda t: 5.0 * t[:1] + 30.0 * t[1:], [20.0], Parameter("mu", 1.0, 0.0, 10.0), gamma)
    result = fit(lh)
    assert result.at_bounds == ("mu",)
    hidden = blind(result, "mu", seed=1, likelihood=lh)
    assert hidden.at_bounds == ()
    assert "bound" not in json.dumps({k: v for k, v in hidden.to_dict().items() if k != "at_bounds"}).replace(
        "blinded", ""
    )
    assert hidden.pulls["gamma"] == pytest.approx((20.0 * result.values["gamma"] - 26.0) / math.sqrt(26.0))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"parameters": "muu"}, "nearest names: mu"),
        ({"parameters": []}, "no parameter was given to blind"),
        ({"scale": 0.0}, "scale of 'mu' is 0.0"),
        ({"scale": math.inf}, "scale of 'mu' is inf"),
        ({"scale": {"norm": 1.0}}, r"no scale of 'mu'\n.*scales of norm"),
    ],
)
def test_bad_arguments(result, arguments, match):
    with pytest.raises(InferenceError, match=match):
        blind(result, **{"parameters": "mu", "seed": 1, **arguments})


def test_another_likelihood(result, one_bin):
    with pytest.raises(InferenceError, match="not one of this likelihood"):
        blind(result, "mu", seed=1, likelihood=one_bin)

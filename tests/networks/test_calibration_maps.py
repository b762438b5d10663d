"""Calibration maps against two Gaussians, whose exact log-ratio is their difference coordinate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import isotonic_regression

from neyman.errors import InputError
from neyman.networks.calibration import Calibration

METHODS = ("isotonic", "histogram", "temperature", "platt")
GRID = np.linspace(-2.0, 2.0, 81)


def samples(seed, n=20_000, negative=0.0):
    """Log-ratios x of N(+-1/2, 1) are exact; a fraction of the weights is -1."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0.5, 1.0, n), rng.normal(-0.5, 1.0, n)
    w_p, w_q = (np.where(rng.random(n) < negative, -1.0, 1.0) for _ in "pq")
    return p, w_p, q, w_q


def fit(method, scale=1.0, shift=0.0, **changes):
    p, w_p, q, w_q = samples(1, **changes)
    return Calibration.fit(method, scale * p + shift, w_p, scale * q + shift, w_q)


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize(("method", "precision"), [("isotonic", 0.12), ("histogram", 0.12), ("platt", 0.05)])
def test_a_scaled_and_shifted_log_ratio_is_put_right(method, precision, negative):
    found = fit(method, 1.3, 0.4, negative=negative)
    error = found(1.3 * GRID + 0.4) - GRID
    assert np.sqrt(np.mean(error**2)) < precision * (1.0 + 2.0 * negative)
    assert np.sqrt(np.mean((0.3 * GRID + 0.4) ** 2)) > 0.4  # what it would be without


def test_temperature_finds_the_scale_and_keeps_zero():
    found = fit("temperature", 1.3)
    assert found.scale == pytest.approx(1.0 / 1.3, rel=0.03)
    assert found(0.0) == 0.0
    assert fit("platt", 1.3, 0.4).shift == pytest.approx(-0.4 / 1.3, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_odds_come_true(method):
    p, _, q, _ = samples(2)
    found = fit(method, 1.3)
    low, high = (np.quantile(found(1.3 * np.concatenate([p, q])), share) for share in (0.4, 0.6))
    p_in, q_in = ((found(1.3 * x) >= low) & (found(1.3 * x) <= high) for x in (p, q))
    predicted = np.mean(found(1.3 * np.concatenate([p[p_in], q[q_in]])))
    assert np.log(p_in.sum() / q_in.sum()) == pytest.approx(predicted, abs=0.08)


@pytest.mark.parametrize("method", METHODS)
def test_total_weights_do_not_matter(method):
    p, w_p, q, w_q = samples(3, 4000, 0.1)
    a, b = Calibration.fit(method, p, w_p, q, w_q), Calibration.fit(method, p, 7.0 * w_p, q, 0.01 * w_q)
    assert b(GRID) == pytest.approx(a(GRID), abs=1e-6)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_an_event_of_weight_two_is_two_events(method):
    p, w_p, q, w_q = samples(4, 2000)
    times = np.random.default_rng(4).integers(1, 4, 2000)
    repeated = Calibration.fit(method, np.repeat(p, times), np.repeat(w_p, times), q, w_q)
    assert repeated(GRID) == pytest.approx(Calibration.fit(method, p, w_p * times, q, w_q)(GRID), abs=1e-6)


def test_isotonic_is_the_regression_of_all_events():
    p, w_p, q, w_q = samples(5, 200)
    found = Calibration.fit("isotonic", p, w_p, q, w_q)
    l = np.concatenate([p, q])
    order = np.argsort(l)
    fraction = isotonic_regression(np.repeat([1.0, 0.0], 200)[order]).x
    values = np.unique(fraction)[1:-1]
    exact = np.log(values / (1.0 - values))
    inner = [value for value in found.values if value not in (found.values[0], found.values[-1])]
    assert len(inner) > 3
    assert all(np.min(np.abs(exact - value)) < 1e-9 for value in inner)
    of_block = [l[order][fraction == value].mean() for value in values]
    assert all(np.min(np.abs(np.array(of_block) - knot)) < 1e-9 for knot in found.knots[1:-1])


@pytest.mark.parametrize("method", ["isotonic", "histogram"])
def test_ends_are_finite_and_constant(method):
    rng = np.random.default_rng(6)
    p, q = rng.uniform(0.0, 3.0, 3000), rng.uniform(-3.0, 1.0, 3000)  # only one class at either end
    found = Calibration.fit(method, p, np.ones(3000), q, np.ones(3000))
    assert np.isfinite(found.values).all()
    assert found(-50.0) == found.values[0] < -2.0
    assert found(50.0) == found.values[-1] > 2.0
    assert found(0.5) == pytest.approx(np.log(4.0 / 3.0), abs=0.25)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-0.2, 1.0)), min_size=80, max_size=150),
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-0.2, 1.0)), min_size=80, max_size=150),
    st.sampled_from(METHODS),
)
def test_whatever_is_learned_is_monotone_finite_and_bounded(numerator, denominator, method):
    (p, w_p), (q, w_q) = (np.array(one).T for one in (numerator, denominator))
    try:
        found = Calibration.fit(method, p, w_p, q, w_q)
    except InputError:
        return
    values = found(np.linspace(-8.0, 8.0, 300))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0.0).all()
    assert len(found.knots) <= 1000


@pytest.mark.parametrize("method", ["isotonic", "histogram"])
def test_a_log_ratio_that_says_nothing_becomes_one(method):
    rng = np.random.default_rng(8)
    p, q = rng.normal(size=(2, 20_000))
    values = Calibration.fit(method, p, np.ones(20_000), q, np.ones(20_000))(GRID)
    assert np.sqrt(np.mean(values**2)) < 0.1
    same = np.zeros(100)
    assert Calibration.fit(method, same, same + 1.0, same, same + 1.0)(GRID) == pytest.approx(0.0)


def test_identities():
    one = Calibration(method="platt")
    assert (one(GRID) == GRID).all()
    on_knots = Calibration(method="isotonic", knots=tuple(GRID), values=tuple(GRID))
    assert (on_knots(GRID) == GRID).all()
    assert on_knots(GRID.reshape(9, 9)).shape == (9, 9)
    assert Calibration(method="isotonic", knots=(0.0, 1.0), values=(0.0, 4.0))(0.25) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_files_keep_every_digit(method):
    found = fit(method, 1.3, n=2000)
    again = Calibration.model_validate(json.loads(found.model_dump_json()))
    assert again == found
    assert (again(GRID) == found(GRID)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "isotonic", "knots": (0.0, 1.0), "values": (0.0,)}, "2 knots but 1 values"),
        ({"method": "isotonic", "knots": (1.0, 0.0), "values": (0.0, 1.0)}, "knots must ascend"),
        ({"method": "isotonic", "knots": (0.0, 1.0), "values": (1.0, 0.0)}, "values must not descend"),
        ({"method": "isotonic"}, "by isotonic has 0 knots"),
        ({"method": "platt", "knots": (0.0,), "values": (0.0,)}, "by platt has 1 knots"),
        ({"method": "platt", "scale": -1.0}, "greater than 0"),
        ({"method": "platt", "shift": float("nan")}, "finite"),
        ({"method": "isotonic", "knots": tuple(range(1001)), "values": (0.0,) * 1001}, "at most 1000"),
        ({"method": "spline"}, "isotonic"),
        ({"method": "platt", "code": "x"}, "Extra inputs"),
    ],
)
def test_a_broken_description_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Calibration(**changes)


@pytest.mark.parametrize("method", METHODS)
def test_a_reversed_map_is_refused(method):
    p, w_p, q, w_q = samples(9, 4000)
    with pytest.raises(InputError, match="reversed: the numerator is where it is small"):
        Calibration.fit(method, -p, w_p, -q, w_q)


@pytest.mark.parametrize("method", METHODS)
def test_useless_events_are_refused(method):
    p, w_p, q, w_q = samples(10, 200)
    with pytest.raises(InputError, match="the numerator has 20 effective events to calibrate on"):
        Calibration.fit(method, p[:20], w_p[:20], q, w_q)
    with pytest.raises(InputError, match="the denominator has 0 effective events"):
        Calibration.fit(method, p, w_p, q[:0], w_q[:0])
    with pytest.raises(InputError, match="the denominator has a total weight of -200"):
        Calibration.fit(method, p, w_p, q, -w_q)
    with pytest.raises(InputError, match=r"log-ratios \(200,\) and weights \(199,\)"):
        Calibration.fit(method, p, w_p[1:], q, w_q)
    with pytest.raises(InputError, match="of the numerator is not finite"):
        Calibration.fit(method, np.where(p > 1.0, np.nan, p), w_p, q, w_q)


def test_other_errors():
    p, w_p, q, w_q = samples(11, 200)
    with pytest.raises(InputError, match="unknown calibration 'beta'"):
        Calibration.fit("beta", p, w_p, q, w_q)
    with pytest.raises(InputError, match="all log-ratios to calibrate are 0"):
        Calibration.fit("platt", 0.0 * p, w_p, 0.0 * q, w_q)
    with pytest.raises(InputError, match="separates the classes without overlap"):
        Calibration.fit("temperature", np.abs(p) + 1.0, w_p, -np.abs(q) - 1.0, w_q)
    with pytest.raises(InputError, match="1 log-ratios to calibrate are not finite"):
        Calibration(method="platt")([0.0, np.inf])


@pytest.mark.parametrize("method", ["isotonic", "histogram"])
def test_separated_classes_are_not_called_alike(method):
    """Every block but one would lack one of the classes, and a single block would say ratio 1 everywhere."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(5.0, 1.0, 5000), rng.normal(-5.0, 1.0, 5000)
    with pytest.raises(InputError, match="separates the classes: too few events lie where both occur"):
        Calibration.fit(method, p, np.ones(5000), q, np.ones(5000))
    alike = rng.normal(size=(2, 5000))
    assert np.abs(Calibration.fit(method, alike[0], np.ones(5000), alike[1], np.ones(5000))(0.0)) < 0.2

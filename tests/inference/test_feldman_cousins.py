"""`feldman_cousins` against the exact construction for Poisson counts."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pyhf
import pytest
from scipy.stats import poisson

from neyman.errors import InferenceError
from neyman.inference import feldman_cousins
from neyman.inference.results.construction import accepted
from neyman.likelihood import Constraint, Likelihood, Parameter

BACKGROUND = 3.0


def count(n, bounds=(0.0, 30.0)):
    samples = [
        {"name": "s", "data": [1.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]},
        {"name": "b", "data": [BACKGROUND], "modifiers": []},
    ]
    spec = {
        "channels": [{"name": "c", "samples": samples}],
        "parameters": [{"name": "mu", "bounds": [list(bounds)]}],
    }
    return Likelihood.from_pyhf(pyhf.Model(spec, poi_name="mu"), [n])


def exact_p_value(value, observed):
    """P(ratio <= that of the observed count), with the ratio of Feldman and Cousins, eq. 4.2."""
    counts = np.arange(200)
    best = np.maximum(counts - BACKGROUND, 0.0)
    ratio = poisson.logpmf(counts, value + BACKGROUND) - poisson.logpmf(counts, best + BACKGROUND)
    return poisson.pmf(counts[ratio <= ratio[observed] + 1e-9], value + BACKGROUND).sum()


@pytest.mark.parametrize(
    ("observed", "low", "high"), [(0, 0.0, 1.08), (3, 0.0, 4.42), (5, 0.0, 6.99), (10, 2.63, 13.50)]
)
def test_the_exact_construction_is_that_of_the_published_table(observed, low, high):
    """Feldman and Cousins, table IV: 90% CL, background 3. It is the reference of the next test.

    The table is widened where an end would fall as the background grows, here for no observed count.
    """
    grid = np.arange(0.0, 16.0, 0.005)
    found = accepted(grid, np.array([exact_p_value(v, observed) for v in grid]), 0.1)
    assert found[0][0] == pytest.approx(low, abs=0.011)
    assert found[-1][1] == pytest.approx(high, abs=0.011 if observed else 0.3)


@pytest.mark.parametrize("observed", [3, 10])
def test_toys_agree_with_the_exact_construction(observed):
    grid = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 12.0, 14.0])
    n = 800
    result = feldman_cousins(count(float(observed)), "mu", grid, cl=0.9, n_toys=n, seed=2)
    exact = np.array([exact_p_value(v, observed) for v in grid])
    error = np.sqrt(np.maximum(exact * (1.0 - exact), 1.0 / n) / n)
    assert (np.abs(result.p_values - exact) < 4.0 * error).all()
    assert (result.n_toys == n).all()
    # Accepted means a ratio within the critical value.
    np.testing.assert_array_equal(result.observed <= result.critical + 1e-6, result.p_values > 0.1)
    inside = [any(low <= v <= high for low, high in result.intervals) for v in grid]
    np.testing.assert_array_equal(inside, result.p_values > 0.1)
    (reference,) = accepted(grid, exact, 0.1)
    assert result.intervals[0] == pytest.approx(reference, abs=0.5)
    assert (result.intervals[0][0] == 0.0) == (observed == 3)


def test_large_counts_are_like_wilks(gaussian):
    """The critical value of a Gaussian is the quantile of chi2 everywhere, and the interval that of the error."""
    alpha = Parameter("alpha", 0.0, -9.0, 9.0, constraint=Constraint("normal", 0.0, 1.0))
    lh = gaussian([[1.0, 0.75]], [1.0], [2.0], [Parameter("mu", 1.0, -50.0, 50.0), alpha])
    result = feldman_cousins(lh, "mu", np.linspace(0.0, 4.0, 9), n_toys=250, seed=4)
    assert (np.abs(result.critical - 1.0) < 5.0 * np.maximum(result.critical_error, 0.05)).all()
    ((low, high),) = result.intervals
    # The total error is 1.25.
    assert low == pytest.approx(0.75, abs=0.3)
    assert high == pytest.approx(3.25, abs=0.3)
    assert result.messages == ()
    assert "mu in [" in str(result)


def test_grids_that_end_too_early():
    result = feldman_cousins(count(10.0), "mu", [6.0, 7.0], cl=0.9, n_toys=50, seed=1)
    assert result.intervals == ((6.0, 7.0),)
    assert result.messages == (
        "the interval goes on below the grid, 6: give a wider grid",
        "the interval goes on above the grid, 7: give a wider grid",
    )
    nothing = feldman_cousins(count(10.0), "mu", [25.0, 30.0], cl=0.9, n_toys=50, seed=1)
    assert nothing.intervals == ()
    assert "no value of the grid is accepted" in nothing.messages[0]
    assert "nowhere on the grid" in str(nothing)
    # The physical boundary closes the interval.
    assert not feldman_cousins(count(1.0), "mu", [0.0, 25.0], cl=0.9, n_toys=50, seed=1).messages


def test_an_interrupted_construction_goes_on(tmp_path, monkeypatch):
    file = tmp_path / "construction.json"
    arguments = {"grid": [0.0, 2.0, 4.0], "cl": 0.9, "n_toys": 60, "seed": 3}
    whole = feldman_cousins(count(5.0), "mu", **arguments)
    module = importlib.import_module("neyman.inference.feldman_cousins")
    point, calls = module._point, []

    def stops(*parts):
        calls.append(parts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return point(*parts)

    monkeypatch.setattr(module, "_point", stops)
    with pytest.raises(KeyboardInterrupt):
        feldman_cousins(count(5.0), "mu", **arguments, store=file)
    assert len(json.loads(file.read_text())["points"]) == 2
    resumed = feldman_cousins(count(5.0), "mu", **arguments, store=file)
    assert len(calls) == 4
    assert resumed.to_dict() == whole.to_dict()
    with pytest.raises(
        InferenceError, match=r"construction.json belongs to another calculation\n.*\n.*seed\n.*delete"
    ):
        feldman_cousins(count(6.0), "mu", **arguments, store=file)
    file.write_text("[")
    with pytest.raises(InferenceError, match=r"not readable JSON.*\n.*\n.*delete the file"):
        feldman_cousins(count(5.0), "mu", **arguments, store=file)


def test_stretches_of_a_grid():
    grid = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert accepted(grid, np.array([0.0, 0.4, 0.0, 0.2, 0.3]), 0.1) == (
        (pytest.approx(0.25), pytest.approx(1.75)),
        (pytest.approx(2.5), 4.0),
    )
    assert accepted(grid, np.full(5, 0.5), 0.1) == ((0.0, 4.0),)
    assert accepted(grid, np.zeros(5), 0.1) == ()


def test_to_dict_and_progress(capsys):
    result = feldman_cousins(count(3.0), "mu", [0.0, 1.0], n_toys=20, seed=1, progress=True)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["grid"] == [0.0, 1.0]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "toys at 2 values" in captured.err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"poi": "mmu"}, "nearest names: mu"),
        ({"grid": []}, "it is empty"),
        ({"grid": [0.0, 31.0]}, "31 is outside the bounds"),
        ({"grid": [float("nan")]}, "nan is outside the bounds"),
        ({"cl": 1.5}, "confidence level is 1.5"),
        ({"n_toys": 0}, "number of toys is 0"),
        ({"seed": None}, "toys need a seed"),
        ({"fixed": "mu"}, "parameter of interest 'mu' is fixed"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(InferenceError, match=match):
        feldman_cousins(count(3.0), **{"poi": "mu", "grid": [1.0], "seed": 1, "n_toys": 5, **arguments})

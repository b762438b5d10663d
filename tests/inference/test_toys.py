"""`toys` and `fit_toys`: reproducible, unbiased, and honest about failures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from neyman.errors import InferenceError
from neyman.inference import fit, fit_toys, toys
from neyman.likelihood import Constraint, Parameter


def test_toys_depend_on_seed_and_item_alone(one_bin):
    few, many = toys(one_bin, 3, seed=5), toys(one_bin, 50, seed=5)
    for i in (0, 2):
        assert float(few[i].terms[0]) == float(many[i].terms[0])
        assert few[i].global_observables == many[i].global_observables == few[i].global_observables
    drawn = [float(toy.terms[0]) for toy in many]
    assert len(drawn) == len(many) == 50
    assert drawn == [float(toy.terms[0]) for toy in toys(one_bin, 50, seed=5)]
    assert drawn != [float(toy.terms[0]) for toy in toys(one_bin, 50, seed=6)]
    assert len(set(drawn)) > 10
    assert many[-1].global_observables == many[49].global_observables
    with pytest.raises(IndexError, match="toy 50 of 50"):
        many[50]


def test_toys_are_drawn_at_the_given_point(one_bin):
    best = fit(one_bin.asimov({"mu": 3.0, "alpha": 1.0}))
    for at in (best, {"mu": 3.0, "alpha": 1.0}, [3.0, 1.0]):
        made = toys(one_bin, 200, at=at, seed=1)
        assert made.truth["mu"] == pytest.approx(3.0, abs=1e-7)
        counts = np.array([float(toy.terms[0]) for toy in made])
        assert counts.mean() == pytest.approx(310.0, abs=5.0 * math.sqrt(310.0 / 200.0))
        observed = np.array([toy.global_observables["alpha"] for toy in made])
        assert observed.mean() == pytest.approx(1.0, abs=5.0 / math.sqrt(200.0))
        assert observed.std() == pytest.approx(1.0, abs=0.3)


def test_a_generator_is_a_seed(one_bin):
    first, second = (toys(one_bin, 2, seed=np.random.default_rng(3)) for _ in range(2))
    assert first.seed == second.seed
    assert float(first[1].terms[0]) == float(second[1].terms[0])


def test_pulls_of_a_counting_experiment(counting):
    """Mean 0 and width 1 within 4 standard errors, at counts so large that the skew does not show."""
    alpha = Parameter("alpha", 0.0, -9.0, 9.0, constraint=Constraint("normal", 0.0, 1.0))
    lh = counting(
        lambda t: 40000.0 * t[:1] + 200.0 * t[1:], [40000.0], Parameter("mu", 1.0, 0.0, 10.0), alpha
    )
    n = 150
    fits = fit_toys(lh, toys(lh, n, at={"mu": 1.1}, seed=12))
    assert len(fits) == n
    assert fits.valid.all()
    assert not fits.failures
    pulls = fits.pulls("mu")
    assert abs(pulls.mean()) < 4.0 / math.sqrt(n)
    assert abs(pulls.std() - 1.0) < 4.0 / math.sqrt(2.0 * n)
    np.testing.assert_allclose(fits.pulls("mu", 1.1), pulls)
    np.testing.assert_allclose(fits.pulls(0, 1.0), pulls + 0.1 / fits.errors[:, 0])


def test_a_toy_fit_is_the_fit_of_its_data(linear):
    lh, covariance = linear
    made = toys(lh, 4, seed=2)
    fits = fit_toys(lh, made, parameters=["jes", "mu"])
    assert fits.names == ("jes", "mu")
    assert fits.values.shape == fits.errors.shape == (4, 2)
    alone = fit(lh.with_data(made[3]))
    np.testing.assert_allclose(fits.values[3], [alone.values["jes"], alone.values["mu"]], atol=1e-8)
    assert fits.fvals[3] == pytest.approx(alone.fval, abs=1e-8)
    np.testing.assert_allclose(fits.errors[:, 1], math.sqrt(covariance[0, 0]), rtol=1e-8)
    assert json.loads(json.dumps(fits.to_dict(), allow_nan=False))["truth"]["mu"] == 1.0


def test_fixed_parameters_and_plain_lists_of_data(linear):
    lh, _ = linear
    made = list(toys(lh, 2, seed=2))
    fits = fit_toys(lh, made, fixed={"tes": 0.5})
    assert (fits.values[:, 1] == 0.5).all()
    with pytest.raises(InferenceError, match=r"true value is unknown\n.*truth="):
        fits.pulls("mu")


def test_failures_are_kept_with_their_reason(counting):
    lh = counting(lambda t: 2.0 * t, [1.0], Parameter("mu", 0.5, -10.0, 10.0))
    data = list(toys(lh, 3, seed=1))
    fits = fit_toys(lh.with_data(data[0]), [data[0], type(data[1])((data[1].terms[0] * math.nan,), {})])
    assert not fits.valid[1]
    assert "not finite at the start" in fits.failures[1]
    assert np.isnan(fits.values[1]).all()
    assert len(fits.pulls("mu", 0.5)) == fits.valid.sum()


def test_progress_goes_to_standard_error(one_bin, capsys):
    fit_toys(one_bin, toys(one_bin, 2, seed=1), progress=True)
    captured = capsys.readouterr()
    assert "toy fits" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("progress", [False, True])
def test_interrupt_is_passed_on(one_bin, progress):
    class Interrupted(list):
        def __getitem__(self, i):
            if i == 1:
                raise KeyboardInterrupt
            return super().__getitem__(i)

    with pytest.raises(KeyboardInterrupt):
        fit_toys(one_bin, Interrupted(toys(one_bin, 3, seed=1)), progress=progress)


def test_bad_arguments(one_bin):
    with pytest.raises(InferenceError, match="must not be negative, got -1"):
        toys(one_bin, -1, seed=1)
    with pytest.raises(InferenceError, match="must not be negative, got 2 and -3"):
        toys(one_bin, 2, seed=-3)
    with pytest.raises(InferenceError, match="nearest names: mu"):
        toys(one_bin, 2, at={"muu": 1.0}, seed=1)
    with pytest.raises(InferenceError, match="parameter 'mu' is not finite"):
        toys(one_bin, 2, at={"mu": math.nan}, seed=1)
    with pytest.raises(InferenceError, match="nearest names: alpha"):
        fit_toys(one_bin, toys(one_bin, 2, seed=1), parameters=["alfa"])

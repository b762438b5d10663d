"""The batched minimiser against closed forms, and `fit_batch` and `fit_toys` against MIGRAD."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from neyman.inference import fit, fit_toys, toys
from neyman.inference.batch import fit_batch
from neyman.inference.newton import newton
from neyman.likelihood import Constraint, Derivatives, Likelihood, Parameter


def quadratic(hessians, minima):
    """Rows of ``(y - m)^T H (y - m) / 2``."""

    def evaluate(y, rows):
        away, hessian = y - minima[rows], hessians[rows]
        gradient = (hessian @ away.unsqueeze(-1)).squeeze(-1)
        return Derivatives(0.5 * (away * gradient).sum(1), gradient, hessian)

    return evaluate


def random_quadratics(n=200, p=6, seed=1):
    generator = np.random.default_rng(seed)
    roots = generator.normal(size=(n, p, p)) * np.exp(generator.normal(size=(n, p, 1)))
    hessians = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(p)
    return torch.tensor(hessians), torch.tensor(generator.normal(size=(n, p)))


def test_a_quadratic_takes_one_step():
    hessians, minima = random_quadratics()
    wide = torch.tensor([[-100.0, 100.0]] * 6, dtype=torch.float64)
    found = newton(quadratic(hessians, minima), torch.zeros(200, 6, dtype=torch.float64), wide)
    assert bool(found.converged.all())
    assert int(found.steps.max()) == 2
    np.testing.assert_allclose(found.y, minima, atol=1e-8)


def test_bounds_meet_the_conditions_of_a_minimum():
    """Karush-Kuhn-Tucker: no slope inside, and at a bound none that leads back."""
    hessians, minima = random_quadratics(seed=2)
    bounds = torch.tensor([[-0.4, 0.5]] * 6, dtype=torch.float64)
    found = newton(quadratic(hessians, minima), torch.zeros(200, 6, dtype=torch.float64), bounds)
    assert bool(found.converged.all())
    low, high = found.y <= -0.4, found.y >= 0.5
    inside = ~(low | high)
    assert int(inside.sum()) > 100
    assert int((~inside).sum()) > 300
    scale = hessians.diagonal(dim1=1, dim2=2).sqrt()
    slope = found.gradient / scale
    assert float(slope[inside].abs().max()) < 1e-5
    assert float(slope[low].min()) > -1e-5
    assert float(slope[high].max()) < 1e-5


def test_held_parameters_do_not_move():
    hessians, minima = random_quadratics(20, seed=3)
    wide = torch.tensor([[-100.0, 100.0]] * 6, dtype=torch.float64)
    held = torch.tensor([True, False, False, True, False, False])
    start = torch.full((20, 6), 0.25, dtype=torch.float64)
    found = newton(quadratic(hessians, minima), start, wide, held)
    assert bool((found.y[:, held] == 0.25).all())
    np.testing.assert_allclose(found.gradient[:, ~held], 0.0, atol=1e-7)


def test_a_curved_valley_and_negative_curvature():
    """Rosenbrock's function from points where its Hessian is indefinite."""

    def evaluate(y, _rows):
        a, b = y.unbind(1)
        value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
        gradient = torch.stack([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)], dim=1)
        off = -400 * a
        rows = [
            torch.stack([2 - 400 * b + 1200 * a**2, off], 1),
            torch.stack([off, torch.full_like(a, 200.0)], 1),
        ]
        return Derivatives(value, gradient, torch.stack(rows, dim=1))

    start = torch.tensor([[-1.2, 1.0], [0.0, 1.5], [-2.0, 3.9], [2.0, 2.0]], dtype=torch.float64)
    bounds = torch.tensor([[-5.0, 5.0]] * 2, dtype=torch.float64)
    found = newton(evaluate, start, bounds)
    assert bool(found.converged.all())
    np.testing.assert_allclose(found.y, 1.0, atol=1e-5)


def test_an_undefined_region_is_stepped_back_from():
    def evaluate(y, _rows):
        safe = y.clamp(min=1e-3)
        value, slope = (y - torch.log(safe)).sum(1), 1 - 1 / safe
        good = Derivatives(value, slope, torch.diag_embed(safe**-2))
        return good.undefined_where((y <= 0).any(1))

    bounds = torch.tensor([[-10.0, 10.0]], dtype=torch.float64)
    found = newton(evaluate, torch.tensor([[9.0], [3.0], [-1.0]], dtype=torch.float64), bounds)
    assert found.converged.tolist() == [True, True, False]
    np.testing.assert_allclose(found.y[:2], 1.0, atol=1e-6)
    assert found.value[2] == torch.inf


def test_a_flat_direction_is_not_a_failure_but_a_saddle_is():
    flat = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    saddle = torch.tensor([[[2.0, 0.0], [0.0, -1.0]]], dtype=torch.float64)
    bounds = torch.tensor([[-3.0, 3.0]] * 2, dtype=torch.float64)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    assert bool(newton(quadratic(flat, zero), zero + 1.0, bounds).converged)
    assert not bool(newton(quadratic(saddle, zero), zero.clone(), bounds).converged)


@pytest.fixture
def shapes() -> Likelihood:
    """Two channels with all kinds of modifiers; the signal is weak, so that many toys end at mu = 0."""

    def channel(name, signal, background, tilt):
        up = [b * (1 + t) for b, t in zip(background, tilt, strict=True)]
        down = [b * (1 - 0.8 * t) for b, t in zip(background, tilt, strict=True)]
        return {
            "name": name,
            "samples": [
                {
                    "name": "signal",
                    "data": signal,
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                },
                {
                    "name": "background",
                    "data": background,
                    "modifiers": [
                        {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.92}},
                        {"name": "tilt", "type": "histosys", "data": {"hi_data": up, "lo_data": down}},
                        {"name": f"stat_{name}", "type": "staterror", "data": [0.04 * b for b in background]},
                        {"name": f"count_{name}", "type": "shapesys", "data": [0.03 * b for b in background]},
                    ],
                },
            ],
        }

    spec = {
        "channels": [
            channel("a", [2.0, 6.0, 3.0], [60.0, 50.0, 40.0], [0.05, 0.0, -0.06]),
            channel("b", [1.0, 2.0], [80.0, 30.0], [0.04, -0.05]),
        ],
        "observations": [{"name": "a", "data": [63, 55, 41]}, {"name": "b", "data": [80, 33]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    return Likelihood.from_pyhf(spec)


@pytest.mark.parametrize("fixed", [None, {"mu": 0.7}])
def test_toy_fits_equal_migrad(shapes, fixed):
    drawn = toys(shapes, 30, at={"mu": 0.5}, seed=11)
    batched = fit_toys(shapes, drawn, fixed=fixed)
    assert batched.valid.all()
    assert not batched.refitted
    assert not batched.lower
    at_zero = 0
    for i in range(30):
        alone = fit(shapes.with_data(drawn[i]), fixed=fixed, strategy=1, tolerance=1e-3)
        minuit = alone.minuit
        minuit.strategy, minuit.tol = 1, 1e-4
        minuit.migrad()
        assert batched.fvals[i] <= minuit.fval + (alone.fval - minuit.fval) + 1e-7
        assert batched.fvals[i] == pytest.approx(alone.fval, abs=1e-7)
        scale = np.where(alone.errors.array > 0, alone.errors.array, 1.0)
        assert np.abs((batched.values[i] - alone.values.array) / scale).max() < 1e-4
        np.testing.assert_allclose(batched.errors[i], alone.errors.array, rtol=1e-5)
        at_zero += batched.values[i, shapes.index("mu")] == 0.0
    if fixed is None:
        assert at_zero > 5


def test_rows_of_one_data_set(shapes):
    """Without a batch of data the rows are fits of the same data, here the points of a scan."""
    grid = np.array([0.0, 0.5, 1.0, 2.5])
    starts = np.tile(shapes.inits, (4, 1))
    mu = shapes.index("mu")
    starts[:, mu] = grid
    held = np.array([name == "mu" for name in shapes.names])
    found = fit_batch(shapes, starts, held)
    assert found.valid.all()
    np.testing.assert_array_equal(found.values[:, mu], grid)
    for i, value in enumerate(grid):
        assert found.fvals[i] == pytest.approx(fit(shapes, fixed={"mu": value}).fval, abs=1e-8)


def test_rows_that_newton_cannot_fit_go_to_migrad(function):
    lh = function(lambda t: (t - 0.3).abs().sum() + 0.1 * t.sum(), Parameter("a", 1.0, -10.0, 10.0))
    found = fit_batch(lh, np.array([[1.0], [2.0]]), np.array([False]))
    assert found.refitted == (0, 1)
    assert not found.valid.any()
    assert "did not converge" in found.reasons[0]


def test_a_minimum_that_migrad_betters_is_reported(function, monkeypatch):
    """Of two minima the batch finds the one on its side; the check by MIGRAD is told to start at the other."""
    module = sys.modules["neyman.inference.toys"]
    nuisance = Parameter("a", 1.0, -3.0, 3.0, constraint=Constraint("normal", 0.0, 100.0))
    lh = function(lambda t: (10.0 * (t**2 - 1.0) ** 2 + t).sum(), nuisance)
    drawn = toys(lh, 3, seed=1)
    monkeypatch.setattr(module, "_CHECK_EVERY", 1)
    assert not fit_toys(lh, drawn, start={"a": -1.0}).lower
    checked = module._checked
    monkeypatch.setattr(module, "_checked", lambda lh, x, free: checked(lh, -x, free))
    assert sorted(fit_toys(lh, drawn, start={"a": 1.0}).lower) == [0, 1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_toy_fits_on_a_cuda_device(shapes):
    drawn = toys(shapes, 50, at={"mu": 0.5}, seed=11)
    cpu, gpu = fit_toys(shapes, drawn), fit_toys(shapes.to("cuda"), drawn)
    assert gpu.valid.all()
    np.testing.assert_allclose(gpu.values, cpu.values, atol=1e-6)
    np.testing.assert_allclose(gpu.fvals, cpu.fvals, rtol=1e-10)


def test_moving_to_a_device_changes_nothing(shapes):
    """The CPU is a device, too: the copy gives the same numbers and fits."""
    moved = shapes.to("cpu")
    x = shapes.inits + 0.1
    for a, b in zip(moved.evaluate(x, 2), shapes.evaluate(x, 2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert fit(moved).fval == fit(shapes).fval

"""pyhf's inference on the engine: the same numbers, pyhf's state put back, everything else left to pyhf."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import logging
import weakref
from pathlib import Path

import jsonpatch
import numpy as np
import pyhf
import pytest
import torch
from pyhf.exceptions import FailedMinimization, Unsupported
from pyhf.infer.intervals.upper_limits import upper_limit

from neyman.inference import fit, pyhf_optimizer
from neyman.inference.pyhf_optimizer import AccelerationWarning, EngineOptimizer, accelerate_pyhf
from neyman.likelihood import Likelihood

pytestmark = [
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays:UserWarning"),
]
TIGHT = pyhf.optimize.minuit_optimizer(tolerance=1e-6, strategy=2)
ALL_TYPES = {
    "channels": [
        {
            "name": "signal_region",
            "samples": [
                {
                    "name": "signal",
                    "data": [5.0, 10.0, 4.0],
                    "modifiers": [
                        {"name": "mu", "type": "normfactor", "data": None},
                        {"name": "lumi", "type": "lumi", "data": None},
                        {"name": "theory", "type": "normsys", "data": {"hi": 1.2, "lo": 0.85}},
                    ],
                },
                {
                    "name": "background",
                    "data": [50.0, 40.0, 20.0],
                    "modifiers": [
                        {"name": "theory", "type": "normsys", "data": {"hi": 1.1, "lo": 0.93}},
                        {
                            "name": "scale",
                            "type": "histosys",
                            "data": {"hi_data": [54.0, 42.0, 23.0], "lo_data": [47.0, 39.0, 18.0]},
                        },
                        {"name": "stat", "type": "staterror", "data": [3.0, 3.0, 2.0]},
                    ],
                },
                {
                    "name": "fakes",
                    "data": [10.0, 8.0, 9.0],
                    "modifiers": [{"name": "fakes_rate", "type": "shapesys", "data": [2.0, 1.5, 2.0]}],
                },
            ],
        },
        {
            "name": "control_region",
            "samples": [
                {
                    "name": "background",
                    "data": [90.0, 70.0],
                    "modifiers": [{"name": "theory", "type": "normsys", "data": {"hi": 1.15, "lo": 0.9}}],
                },
                {
                    "name": "multijet",
                    "data": [30.0, 30.0],
                    "modifiers": [{"name": "shape", "type": "shapefactor", "data": None}],
                },
            ],
        },
    ],
    "parameters": [
        {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]}
    ],
}
OBSERVED = [128.0, 96.0, 73.0, 64.0, 37.0]


@pytest.fixture(autouse=True)
def _pyhf_state():
    """Every test starts from pyhf's own numpy backend and leaves nothing behind."""
    before = pyhf.get_backend()
    yield
    assert not pyhf_optimizer._active
    pyhf.set_backend(*before)
    assert not isinstance(pyhf.optimizer, EngineOptimizer)


@pytest.fixture
def counting_model():
    return pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])


@pytest.fixture
def counting_data(counting_model):
    return [71.0, 57.0, *counting_model.config.auxdata]


@pytest.fixture
def full_model():
    return pyhf.Model(copy.deepcopy(ALL_TYPES))


@pytest.fixture
def full_data(full_model):
    return [*OBSERVED, *full_model.config.auxdata]


@pytest.fixture(scope="module")
def region_a(shared_data: Path):
    folder = shared_data / "pyhf" / "RegionA"
    background = json.loads((folder / "BkgOnly.json").read_text())
    patch = json.loads((folder / "patch.sbottom_1300_205_60.json").read_text())
    workspace = pyhf.Workspace(jsonpatch.apply_patch(background, patch))
    model = workspace.model()
    return model, workspace.data(model)


def tight(function, *args, **kwargs):
    """Run pyhf with MINUIT at a tolerance a hundred thousand times its default."""
    before = pyhf.get_backend()
    pyhf.set_backend(before[0], TIGHT)
    try:
        return function(*args, **kwargs)
    finally:
        pyhf.set_backend(*before)


def engine(function, *args, **kwargs):
    with accelerate_pyhf():
        return function(*args, **kwargs)


def distance(model, data, x, fixed=()) -> np.ndarray:
    """How far `x` is from where the gradient of pyhf's own function (by torch) is zero, in uncertainties."""
    before = pyhf.get_backend()
    pyhf.set_backend("pytorch")
    try:
        theta = torch.tensor(np.asarray(x), requires_grad=True)
        value = pyhf.infer.mle.twice_nll(theta, torch.tensor(data), model)
        gradient = torch.autograd.grad(value.sum(), theta)[0].numpy()
    finally:
        pyhf.set_backend(*before)
        torch.set_default_dtype(torch.float32)
    best = fit(Likelihood.from_pyhf(model, data), start=np.asarray(x), fixed=fixed)
    free = best.errors.array > 0.0
    step = 0.5 * best.covariance.array @ gradient
    return step[free] / best.errors.array[free]


# Fits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [None, ("code1", "code0"), ("code1", "code2"), ("code4", "code4p")])
def test_fit_of_all_modifiers(codes):
    settings = codes and {"normsys": {"interpcode": codes[0]}, "histosys": {"interpcode": codes[1]}}
    model = pyhf.Model(copy.deepcopy(ALL_TYPES), **({"modifier_settings": settings} if settings else {}))
    data = [*OBSERVED, *model.config.auxdata]
    expected, best = tight(pyhf.infer.mle.fit, data, model, return_uncertainties=True, return_fitted_val=True)
    found, value = engine(pyhf.infer.mle.fit, data, model, return_fitted_val=True)
    assert isinstance(found, np.ndarray)
    assert isinstance(value, np.ndarray)
    assert value.shape == ()
    np.testing.assert_allclose((found - expected[:, 0]) / expected[:, 1], 0.0, atol=1e-4)
    assert float(value) == pytest.approx(float(best), abs=1e-7)
    assert float(value) == pytest.approx(float(pyhf.infer.mle.twice_nll(found, data, model)[0]), abs=1e-9)
    assert np.abs(distance(model, data, found)).max() < 1e-6


def test_the_slsqp_of_pyhf_is_the_less_exact(counting_model):
    data = [62.0, 47.0, *counting_model.config.auxdata]
    found = engine(pyhf.infer.mle.fit, data, counting_model)
    theirs = pyhf.infer.mle.fit(data, counting_model)
    assert np.abs(distance(counting_model, data, found)).max() < 1e-6
    assert np.abs(distance(counting_model, data, theirs)).max() > 1e-5


def test_fixed_poi_fit(full_model, full_data):
    x, value = engine(pyhf.infer.mle.fixed_poi_fit, 0.5, full_data, full_model, return_fitted_val=True)
    expected, best = tight(pyhf.infer.mle.fixed_poi_fit, 0.5, full_data, full_model, return_fitted_val=True)
    poi = full_model.config.poi_index
    assert x[poi] == 0.5
    np.testing.assert_allclose(x, expected, atol=1e-4)
    assert float(value) == pytest.approx(float(best), abs=1e-7)
    assert np.abs(distance(full_model, full_data, x, fixed={"mu": 0.5})).max() < 1e-6


def test_asimov_data_move_the_global_observables(full_model):
    truth = np.array(full_model.config.suggested_init())
    truth[full_model.config.poi_index] = 1.7
    for name, value in (("theory", -0.6), ("scale", 0.8), ("stat", 1.03), ("fakes_rate", 0.9)):
        truth[full_model.config.par_slice(name)] = value
    found = engine(pyhf.infer.mle.fit, full_model.expected_data(truth), full_model)
    np.testing.assert_allclose(found, truth, atol=1e-6)


@pytest.mark.parametrize("observed", [[71.0, 57.0], [41.0, 47.0]], ids=["inside", "at the bound"])
def test_uncertainties_and_correlations(counting_model, observed):
    data = [*observed, *counting_model.config.auxdata]
    options = {"return_uncertainties": True, "return_correlations": True}
    fitted, correlations = engine(pyhf.infer.mle.fit, data, counting_model, **options)
    expected, their_correlations = tight(pyhf.infer.mle.fit, data, counting_model, **options)
    assert fitted.shape == (3, 2)
    np.testing.assert_allclose(fitted[:, 1], expected[:, 1], rtol=3e-4)
    np.testing.assert_allclose(correlations, their_correlations, atol=3e-3)


def test_uncertainties_of_all_modifiers_with_fixed_parameters(full_model, full_data):
    fixed = full_model.config.suggested_fixed()
    fixed[full_model.config.par_slice("theory").start] = True
    for stitch in (False, True):
        options = {"fixed_params": fixed, "return_uncertainties": True, "return_correlations": True}
        fitted, correlations = engine(pyhf.infer.mle.fit, full_data, full_model, **options, do_stitch=stitch)
        expected, theirs = tight(pyhf.infer.mle.fit, full_data, full_model, **options)
        np.testing.assert_allclose(fitted, expected, rtol=3e-4, atol=1e-5)
        np.testing.assert_allclose(correlations, theirs, atol=1e-3)


def test_order_of_the_returns(counting_model, counting_data):
    options = {"return_fitted_val": True, "return_result_obj": True, "return_correlations": True}
    _, correlations, value, result = engine(pyhf.infer.mle.fit, counting_data, counting_model, **options)
    assert correlations.shape == (3, 3)
    assert value.shape == ()
    assert result.success


def test_result_object(full_model, full_data):
    fixed = full_model.config.suggested_fixed()
    fixed[full_model.config.par_slice("scale").start] = True
    x, result = engine(pyhf.infer.mle.fit, full_data, full_model, fixed_params=fixed, return_result_obj=True)
    _, theirs = tight(pyhf.infer.mle.fit, full_data, full_model, fixed_params=fixed, return_result_obj=True)
    np.testing.assert_array_equal(result.x, x)
    assert result.success
    assert result.message.startswith("Optimization terminated successfully")
    assert float(result.fun) == pytest.approx(float(theirs.fun), abs=1e-7)
    np.testing.assert_allclose(result.unc, theirs.unc, rtol=3e-4)
    np.testing.assert_allclose(result.corr, theirs.corr, atol=1e-3)
    assert result.nfev > 0
    minuit = result.minuit
    assert minuit.valid
    assert minuit.fval == pytest.approx(float(theirs.minuit.fval), abs=1e-7)
    assert minuit.parameters == theirs.minuit.parameters
    assert list(minuit.fixed) == list(theirs.minuit.fixed)
    np.testing.assert_allclose(minuit.values, theirs.minuit.values, atol=1e-4)
    np.testing.assert_allclose(minuit.covariance, theirs.minuit.covariance, atol=1e-4)
    minuit.minos("mu")
    theirs.minuit.minos("mu")
    assert minuit.merrors["mu"].upper == pytest.approx(theirs.minuit.merrors["mu"].upper, abs=1e-4)


def test_minuit_of_a_minimum_at_a_bound(counting_model):
    data = [41.0, 47.0, *counting_model.config.auxdata]
    _, result = engine(pyhf.infer.mle.fit, data, counting_model, return_result_obj=True)
    assert result.minuit.valid
    np.testing.assert_allclose(result.minuit.errors, result.unc)
    assert result.minuit.fval == pytest.approx(float(result.fun), abs=1e-6)


# Starts, bounds, fixed parameters -------------------------------------------------------------------------


def test_narrower_and_wider_bounds(counting_model):
    data = [41.0, 47.0, *counting_model.config.auxdata]
    bounds = counting_model.config.suggested_bounds()
    bounds[0] = (-10.0, 10.0)
    found = engine(pyhf.infer.mle.fit, data, counting_model, par_bounds=bounds)
    assert found[0] < -0.5
    np.testing.assert_allclose(
        found, tight(pyhf.infer.mle.fit, data, counting_model, par_bounds=bounds), atol=1e-5
    )
    bounds[0] = (0.4, 3.0)
    assert engine(pyhf.infer.mle.fit, data, counting_model, par_bounds=bounds)[0] == 0.4


def test_starts_and_fixed_parameters(counting_model, counting_data):
    start, fixed = [3.0, 1.0, 1.2], [False, False, True]
    found = engine(pyhf.infer.mle.fit, counting_data, counting_model, start, fixed_params=fixed)
    assert found[2] == 1.2
    expected = tight(pyhf.infer.mle.fit, counting_data, counting_model, start, fixed_params=fixed)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("how", ["fixed", "bounds without a width"])
def test_nothing_left_to_fit(counting_model, counting_data, how):
    start = [3.0, 1.0, 1.2]
    held = {"fixed_params": [True] * 3} if how == "fixed" else {"par_bounds": [(v, v) for v in start]}
    fitted, value, result = engine(
        pyhf.infer.mle.fit,
        counting_data,
        counting_model,
        start,
        **held,
        return_uncertainties=True,
        return_fitted_val=True,
        return_result_obj=True,
    )
    np.testing.assert_array_equal(fitted, [[v, 0.0] for v in start])
    expected = pyhf.infer.mle.twice_nll(start, counting_data, counting_model)
    assert float(value) == pytest.approx(float(expected[0]))
    assert result.success


def test_poi_outside_its_bounds(counting_model, counting_data):
    """`mle.fit` refuses it before an optimizer sees it; the optimizer itself holds what it is told to hold."""
    with accelerate_pyhf():
        with pytest.raises(ValueError, match="lies outside of its bounds"):
            pyhf.infer.mle.fixed_poi_fit(12.0, counting_data, counting_model)
        x = pyhf.optimizer.minimize(
            pyhf.infer.mle.twice_nll,
            counting_data,
            counting_model,
            counting_model.config.suggested_init(),
            counting_model.config.suggested_bounds(),
            [(0, 12.0)],
        )
    assert x[0] == 12.0
    assert np.abs(distance_with_poi(counting_model, counting_data, x)).max() < 1e-6


def distance_with_poi(model, data, x) -> np.ndarray:
    wider = copy.deepcopy(model.spec)
    wider["parameters"] = [{"name": "mu", "bounds": [[0.0, 20.0]]}]
    return distance(pyhf.Model(wider), data, x, fixed={"mu": x[0]})


# Hypothesis tests and limits ------------------------------------------------------------------------------


@pytest.mark.parametrize("test_stat", ["q", "qtilde", "q0"])
@pytest.mark.parametrize("base", ["normal", "clipped_normal"])
def test_hypotest(full_model, full_data, test_stat, base):
    logging.getLogger("pyhf").setLevel(logging.ERROR)
    poi_test = 0.0 if test_stat == "q0" else 1.3
    bounds = full_model.config.suggested_bounds()
    if test_stat == "q":
        bounds[full_model.config.poi_index] = (-5.0, 10.0)
    options = {
        "test_stat": test_stat,
        "calc_base_dist": base,
        "par_bounds": bounds,
        "return_tail_probs": True,
        "return_expected": True,
        "return_expected_set": True,
    }
    found = engine(pyhf.infer.hypotest, poi_test, full_data, full_model, **options)
    expected = tight(pyhf.infer.hypotest, poi_test, full_data, full_model, **options)
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert type(ours) is type(theirs)
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-6)
        assert np.isfinite(np.array(ours)).any()


def test_hypothesis_of_no_signal_at_the_bound(counting_model):
    """The free fit ends where the other one is held; pyhf divides by zero unless the two values are equal."""
    for counts in ([41.0, 47.0], [44.0, 47.0], [30.0, 51.0]):
        data = [*counts, *counting_model.config.auxdata]
        observed, expected = engine(pyhf.infer.hypotest, 0.0, data, counting_model, return_expected_set=True)
        assert float(observed) == 1.0
        np.testing.assert_array_equal(expected, 1.0)


def test_fitted_parameters_of_the_calculator(counting_model, counting_data):
    _, calculator = engine(pyhf.infer.hypotest, 1.3, counting_data, counting_model, return_calculator=True)
    _, theirs = tight(pyhf.infer.hypotest, 1.3, counting_data, counting_model, return_calculator=True)
    for name, values in vars(calculator.fitted_pars).items():
        np.testing.assert_allclose(values, getattr(theirs.fitted_pars, name), atol=1e-5)


def test_toy_based_hypotest(counting_model, counting_data):
    """With torch: pyhf 0.7.6 asks NumPy for an argument of its percentiles that NumPy 2.4 has no more."""
    answers = []
    before = pyhf.get_backend()
    pyhf.set_backend("pytorch")
    try:
        for run in (engine, tight):
            torch.manual_seed(7)
            answers.append(
                run(
                    pyhf.infer.hypotest,
                    1.0,
                    counting_data,
                    counting_model,
                    calctype="toybased",
                    ntoys=10,
                    track_progress=False,
                    return_tail_probs=True,
                    return_expected_set=True,
                )
            )
    finally:
        pyhf.set_backend(*before)
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-6)


def test_toy_distributions(counting_model, counting_data):
    samples = []
    for run in (engine, tight):
        np.random.seed(7)  # noqa: NPY002
        calculator = pyhf.infer.calculators.ToyCalculator(
            counting_data, counting_model, ntoys=40, track_progress=False
        )
        samples.append([part.samples for part in run(calculator.distributions, 1.0)])
    np.testing.assert_allclose(*samples, atol=1e-6)
    assert len(np.unique(samples[0])) > 40


def test_scanned_upper_limit(counting_model):
    data = [53.0, 56.0, *counting_model.config.auxdata]
    scan = np.linspace(0.2, 3.0, 6)
    found = engine(upper_limit, data, counting_model, scan, return_results=True)
    expected = tight(upper_limit, data, counting_model, scan, return_results=True)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2][0], scan)
    np.testing.assert_allclose([r[0] for r in found[2][1]], [r[0] for r in expected[2][1]], atol=1e-6)


def test_upper_limit_by_root_finding(counting_model):
    data = [53.0, 56.0, *counting_model.config.auxdata]
    found = engine(upper_limit, data, counting_model)
    expected = upper_limit(data, counting_model)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=2e-4)  # toms748 stops at 1e-4
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-4)


def test_published_search(region_a):
    """Against pyhf 0.7.6 with MINUIT at a tolerance of 1e-6 and strategy 2, which takes 13 s."""
    model, data = region_a
    found = engine(pyhf.infer.hypotest, 1.3, data, model, return_expected_set=True)
    assert float(found[0]) == pytest.approx(0.1544274, abs=2e-7)
    np.testing.assert_allclose(found[1], [0.0434913, 0.1144453, 0.2742244, 0.5500699, 0.8367302], atol=3e-7)


def test_published_cross_section(shared_data: Path):
    """pyhf's MINUIT needs 30 s and stops 4e-5 higher, its SLSQP 0.2 higher: torch judges on pyhf's own function."""
    path = shared_data / "pyhf" / "atlas_ttbar_ljets_xsec.json"
    workspace = pyhf.Workspace(json.loads(path.read_text()))
    model = workspace.model()
    data = workspace.data(model)
    options = {"return_uncertainties": True, "return_fitted_val": True}
    found, value = engine(pyhf.infer.mle.fit, data, model, **options)
    assert found[model.config.poi_index, 0] == pytest.approx(0.994214, abs=1e-6)
    assert found[model.config.poi_index, 1] == pytest.approx(0.04236, abs=1e-4)
    assert float(value) < 294.946114
    assert float(value) == pytest.approx(
        float(pyhf.infer.mle.twice_nll(found[:, 0], data, model)[0]), abs=1e-7
    )
    assert np.abs(distance(model, data, found[:, 0])).max() < 1e-6


# Backends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("numpy", "64b"), ("numpy", "32b"), ("pytorch", "64b"), ("pytorch", "32b"), ("jax", "64b")],
)
def test_backends(counting_model, counting_data, backend, precision):
    if backend == "jax":
        pytest.importorskip("jax")
    expected = engine(pyhf.infer.mle.fit, counting_data, counting_model, return_uncertainties=True)
    limits = engine(pyhf.infer.hypotest, 2.0, counting_data, counting_model, return_expected_set=True)
    before = pyhf.get_backend()
    pyhf.set_backend(backend, precision=precision)
    try:
        with accelerate_pyhf():
            assert pyhf.tensorlib.name == backend
            assert pyhf.tensorlib.precision == precision
            tensor = pyhf.tensorlib.astensor(counting_data)
            fitted, correlations, value, result = pyhf.infer.mle.fit(
                tensor,
                counting_model,
                return_uncertainties=True,
                return_correlations=True,
                return_fitted_val=True,
                return_result_obj=True,
            )
            found = pyhf.infer.hypotest(2.0, tensor, counting_model, return_expected_set=True)
        kind = type(pyhf.tensorlib.astensor([1.0]))
        assert {type(part) for part in (fitted, correlations, value, result.x, result.unc)} == {kind}
        assert fitted.dtype == pyhf.tensorlib.astensor([1.0]).dtype
        tolerance = 1e-12 if precision == "64b" else 1e-4
        np.testing.assert_allclose(pyhf.tensorlib.tolist(fitted), expected, rtol=tolerance)
        assert float(found[0]) == pytest.approx(float(limits[0]), abs=tolerance)
        np.testing.assert_allclose([float(v) for v in found[1]], limits[1], atol=tolerance)
    finally:
        pyhf.set_backend(*before)
        torch.set_default_dtype(torch.float32)


# pyhf's state ---------------------------------------------------------------------------------------------


def state():
    return (*pyhf.get_backend(), *pyhf.get_backend(default=True))


def same(before) -> bool:
    return all(now is then for now, then in zip(state(), before, strict=True))


@pytest.mark.parametrize("optimizer", ["scipy", "minuit"])
def test_state_is_restored(optimizer):
    pyhf.set_backend("numpy", optimizer, precision="32b")
    before = state()
    with accelerate_pyhf():
        assert isinstance(pyhf.optimizer, EngineOptimizer)
        assert pyhf.optimizer.name == "neyman"
        assert pyhf.tensorlib is before[0]
    assert same(before)
    assert pyhf.tensorlib.precision == "32b"


def test_state_is_restored_after_an_exception():
    before = state()
    with pytest.raises(ZeroDivisionError), accelerate_pyhf():
        raise ZeroDivisionError
    assert same(before)


def test_plain_call():
    before = state()
    handle = accelerate_pyhf()
    assert isinstance(pyhf.optimizer, EngineOptimizer)
    handle.restore()
    assert same(before)
    handle.restore()
    assert same(before)
    with handle:
        assert isinstance(pyhf.optimizer, EngineOptimizer)
    assert same(before)


def test_nesting():
    before = state()
    with accelerate_pyhf():
        middle = state()
        with accelerate_pyhf():
            assert isinstance(pyhf.optimizer, EngineOptimizer)
            assert not isinstance(pyhf.optimizer.fallback, EngineOptimizer)
        assert same(middle)
    assert same(before)


def test_ending_in_another_order():
    before = state()
    first, second = accelerate_pyhf(), accelerate_pyhf()
    first.restore()
    assert isinstance(pyhf.optimizer, EngineOptimizer)
    second.restore()
    assert same(before)


def test_a_script_that_sets_its_backend(counting_model, counting_data):
    before = state()
    with accelerate_pyhf():
        pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(), precision="32b")
        assert isinstance(pyhf.optimizer, EngineOptimizer)
        assert pyhf.optimizer.fallback.name == "minuit"
        assert pyhf.tensorlib.precision == "32b"
        assert pyhf.infer.mle.fit(counting_data, counting_model).dtype == np.float32
        pyhf.set_backend("numpy", default=True)
        assert isinstance(pyhf.optimizer, EngineOptimizer)
    assert same(before)


# What is left to pyhf -------------------------------------------------------------------------------------


def test_another_objective(counting_model, counting_data):
    def penalised(pars, data, pdf):
        return pyhf.infer.mle.twice_nll(pars, data, pdf) + (pars[0] - 1.0) ** 2

    arguments = (
        penalised,
        counting_data,
        counting_model,
        counting_model.config.suggested_init(),
        counting_model.config.suggested_bounds(),
    )
    expected, value = pyhf.optimizer.minimize(*arguments, return_fitted_val=True)
    with accelerate_pyhf():
        with pytest.warns(AccelerationWarning, match=r"'scipy' runs this fit: the objective is .*penalised"):
            found, best = pyhf.optimizer.minimize(*arguments, return_fitted_val=True)
        pyhf.optimizer.minimize(*arguments)  # says so once
    np.testing.assert_array_equal(found, expected)
    assert float(best) == float(value)


def test_another_pdf(counting_model, counting_data):
    class Own:
        config = counting_model.config

        def logpdf(self, pars, data):
            return counting_model.logpdf(pars, data)

    with accelerate_pyhf(), pytest.warns(AccelerationWarning, match="the pdf is a Own, not a pyhf.Model"):
        found = pyhf.infer.mle.fit(counting_data, Own())
    np.testing.assert_array_equal(found, pyhf.infer.mle.fit(counting_data, counting_model))


def test_models_that_the_engine_refuses(counting_model, counting_data):
    clipped = pyhf.Model(counting_model.spec, clip_bin_data=0.0)
    with accelerate_pyhf(), pytest.warns(AccelerationWarning, match="clips its expectations"):
        found = pyhf.infer.mle.fit(counting_data, clipped)
    np.testing.assert_array_equal(found, pyhf.infer.mle.fit(counting_data, clipped))


def test_a_modifier_that_was_replaced(counting_model, counting_data):
    from pyhf.modifiers import histfactory_set
    from pyhf.modifiers.normfactor import normfactor_builder, normfactor_combined

    class Doubled(normfactor_combined):
        def apply(self, pars):
            factors = super().apply(pars)
            return None if factors is None else factors**1.5

    modifiers = {**histfactory_set, "normfactor": (normfactor_builder, Doubled)}
    model = pyhf.Model(counting_model.spec, modifier_set=modifiers)
    with accelerate_pyhf(), pytest.warns(AccelerationWarning, match="brings its own modifier 'normfactor'"):
        found = pyhf.infer.mle.fit(counting_data, model)
    np.testing.assert_array_equal(found, pyhf.infer.mle.fit(counting_data, model))


def test_batched_and_short_data(counting_model, counting_data):
    logging.getLogger("pyhf").setLevel(logging.CRITICAL)
    batched = pyhf.Model(counting_model.spec, batch_size=2)
    start, bounds = batched.config.suggested_init(), batched.config.suggested_bounds()
    with accelerate_pyhf():
        with (
            pytest.warns(AccelerationWarning, match=r"have the shapes \(2, 4\), \(2, 3\)"),
            pytest.raises(Exception, match=r".*"),
        ):
            pyhf.optimizer.minimize(
                pyhf.infer.mle.twice_nll, [counting_data] * 2, batched, [start] * 2, bounds
            )
        with (
            pytest.warns(AccelerationWarning, match=r"have the shapes \(2,\)"),
            pytest.raises(pyhf.exceptions.InvalidPdfData, match="has len 2 but 4 was expected"),
        ):
            pyhf.infer.mle.fit(counting_data[:2], counting_model)


def test_data_that_are_no_counts(counting_model):
    data = [-1.0, 57.0, *counting_model.config.auxdata]
    refused = pytest.warns(AccelerationWarning, match="observed count -1.0 is not a number of events")
    with accelerate_pyhf(), refused, np.errstate(all="ignore"), contextlib.suppress(FailedMinimization):
        pyhf.infer.mle.fit(data, counting_model)


@pytest.mark.parametrize(
    ("lower", "match"), [(None, "are not all finite numbers"), ("low", "are not plain numbers: .*low")]
)
def test_arguments_that_are_no_numbers(counting_model, counting_data, lower, match):
    bounds = [(lower, 10.0), *counting_model.config.suggested_bounds()[1:]]
    start = counting_model.config.suggested_init()
    arguments = (pyhf.infer.mle.twice_nll, counting_data, counting_model, start, bounds)
    refused = pytest.warns(AccelerationWarning, match=match)
    with accelerate_pyhf(), refused, contextlib.suppress(TypeError, ValueError):
        found = pyhf.optimizer.minimize(*arguments)
        np.testing.assert_array_equal(found, pyhf.optimizer.fallback.minimize(*arguments))


def test_infinite_bounds(counting_model, counting_data):
    bounds = [(0.0, np.inf), *counting_model.config.suggested_bounds()[1:]]
    options = {"par_bounds": bounds, "return_uncertainties": True}
    found = engine(pyhf.infer.mle.fit, counting_data, counting_model, **options)
    expected = tight(pyhf.infer.mle.fit, counting_data, counting_model, **options)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=0.02)


# Failures and options -------------------------------------------------------------------------------------


def test_failures_say_why(counting_model, counting_data):
    empty = pyhf.Model(
        {
            "channels": [
                {
                    "name": "empty",
                    "samples": [
                        {
                            "name": "signal",
                            "data": [3.0],
                            "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                        },
                        {
                            "name": "background",
                            "data": [0.0],
                            "modifiers": [{"name": "a", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}}],
                        },
                    ],
                }
            ]
        }
    )
    data = [4.0, *empty.config.auxdata]
    with accelerate_pyhf():
        assert float(pyhf.infer.mle.fit(data, empty)[0]) == pytest.approx(4.0 / 3.0)
        with pytest.raises(
            FailedMinimization, match="bin 0 of channel 'empty' expects 0 events, 4 are observed"
        ) as failure:
            pyhf.infer.mle.fixed_poi_fit(0.0, data, empty)
        assert not failure.value.result.success
        with pytest.raises(FailedMinimization, match="limit of calls reached") as failure:
            pyhf.infer.mle.fit(counting_data, counting_model, maxiter=1)
        assert len(failure.value.result.x) == 3


def test_uncertainties_that_do_not_exist():
    sample = {"data": [10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    twin = copy.deepcopy(sample)
    twin["modifiers"][0]["name"] = "nu"
    samples = [{"name": "a", **sample}, {"name": "b", **twin}]
    model = pyhf.Model({"channels": [{"name": "c", "samples": samples}]})
    with accelerate_pyhf():
        x, result = pyhf.infer.mle.fit([20.0], model, return_result_obj=True)
        assert x.sum() == pytest.approx(2.0)
        assert result.unc is None
        assert result.corr is None
        with pytest.raises(FailedMinimization, match="Hessian at the minimum is not positive definite"):
            pyhf.infer.mle.fit([20.0], model, return_uncertainties=True)


def test_options(counting_model, counting_data):
    with accelerate_pyhf():
        plain = pyhf.infer.mle.fit(counting_data, counting_model)
        options = {
            "maxiter": 1000,
            "verbose": 1,
            "tolerance": 1e-3,
            "strategy": 2,
            "method": "SLSQP",
            "solver_options": {"ftol": 1e-3},
            "do_grad": False,
            "do_stitch": True,
        }
        np.testing.assert_array_equal(pyhf.infer.mle.fit(counting_data, counting_model, **options), plain)
        with pytest.raises(Unsupported, match=r"Unsupported options were passed in: \['tolerence'\]"):
            pyhf.infer.mle.fit(counting_data, counting_model, tolerence=1e-3)


def test_maxiter_of_the_optimizer(counting_model, counting_data):
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(maxiter=1))
    with accelerate_pyhf(), pytest.raises(FailedMinimization, match="limit of calls reached"):
        pyhf.infer.mle.fit(counting_data, counting_model)


# Cost -----------------------------------------------------------------------------------------------------


def test_models_are_compiled_once_and_fits_not_repeated(counting_model, counting_data, monkeypatch):
    compiled, fitted = [], []
    original_compile, original_fit = Likelihood.from_pyhf, pyhf_optimizer.fit

    def from_pyhf(*args, **kwargs):
        compiled.append(args)
        return original_compile(*args, **kwargs)

    def count(*args, **kwargs):
        fitted.append(args)
        return original_fit(*args, **kwargs)

    monkeypatch.setattr(Likelihood, "from_pyhf", from_pyhf)
    monkeypatch.setattr(pyhf_optimizer, "fit", count)
    with accelerate_pyhf():
        for i in range(5):
            pyhf.infer.hypotest(1.0 + 0.1 * i, counting_data, counting_model)
    assert len(compiled) == 1
    assert len(fitted) == 5 + 4 * 2


def test_remembered_fits_know_all_that_they_depend_on(counting_model, counting_data):
    bounds = counting_model.config.suggested_bounds()
    other = [*counting_data[:3], counting_data[3] + 5.0]
    with accelerate_pyhf():
        for _ in range(2):
            x = pyhf.infer.mle.fit(counting_data, counting_model)
            x[:] = np.nan  # what is handed out is the user's
            assert pyhf.infer.mle.fit(counting_data, counting_model)[0] == pytest.approx(1.27124, abs=1e-5)
            assert pyhf.infer.mle.fit(other, counting_model)[2] > 0.95
            narrow = [(0.0, 1.1), *bounds[1:]]
            assert pyhf.infer.mle.fit(counting_data, counting_model, par_bounds=narrow)[0] == 1.1
            assert pyhf.infer.mle.fixed_poi_fit(0.7, counting_data, counting_model)[0] == 0.7


def test_models_are_not_kept_alive(counting_data):
    model = pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])
    engine(pyhf.infer.mle.fit, counting_data, model, return_result_obj=True)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None

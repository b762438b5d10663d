"""pyhf's inference on the engine gives the same numbers: fits, hypothesis tests, limits, backends."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import jsonpatch
import numpy as np
import pyhf
import pytest
import torch
from pyhf.infer.intervals.upper_limits import upper_limit

from neyman.inference import fit
from neyman.inference.pyhf_optimizer import accelerate_pyhf
from neyman.likelihood import Likelihood

pytestmark = [
    pytest.mark.usefixtures("pyhf_state"),
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


def test_infinite_bounds(counting_model, counting_data):
    bounds = [(0.0, np.inf), *counting_model.config.suggested_bounds()[1:]]
    options = {"par_bounds": bounds, "return_uncertainties": True}
    found = engine(pyhf.infer.mle.fit, counting_data, counting_model, **options)
    expected = tight(pyhf.infer.mle.fit, counting_data, counting_model, **options)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=0.02)


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

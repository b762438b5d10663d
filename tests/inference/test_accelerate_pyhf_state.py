"""Around the engine: pyhf's state put back, what is left to pyhf, failures, options, what is remembered."""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import weakref

import numpy as np
import pyhf
import pytest
from pyhf.exceptions import FailedMinimization, Unsupported

from neyman.inference import pyhf_optimizer
from neyman.inference.pyhf_optimizer import AccelerationWarning, EngineOptimizer, accelerate_pyhf
from neyman.likelihood import Likelihood

pytestmark = [
    pytest.mark.usefixtures("pyhf_state"),
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays:UserWarning"),
]


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
    with accelerate_pyhf():
        pyhf.infer.mle.fit(counting_data, model, return_result_obj=True)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None

"""`accelerate_pyhf`: an unchanged pyhf script runs on this package's likelihood and minimiser.

pyhf hands every minimisation to the optimizer of its backend. `EngineOptimizer` is such an optimizer: it compiles
the ``pyhf.Model`` once into a `Likelihood`, swaps the data, and fits by `neyman.inference.fit`. What it cannot
run goes to the optimizer that was active before, with an `AccelerationWarning`.

* `accelerate_pyhf` installs it and gives an `Acceleration`, which puts pyhf's state back.
* Tensor backend and precision stay the user's: fits are made in float64 and handed back as backend tensors.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import pyhf
from pyhf.infer.mle import twice_nll
from pyhf.modifiers import histfactory_set
from scipy.optimize import OptimizeResult

from neyman.errors import NeymanError
from neyman.inference.fit import conditional_fit, fit
from neyman.inference.minuit_view import free_positions, minuit_at, minuit_errors
from neyman.inference.results import Array, FitResult
from neyman.likelihood import Data, Likelihood
from neyman.likelihood.pyhf_document import component_names

_OPTIONS = {"maxiter", "method", "solver_options", "strategy", "tolerance", "verbose"}
_REMEMBERED = 32


class AccelerationWarning(UserWarning):
    """A minimisation cannot run on the engine and is left to pyhf's own optimizer."""


# pyhf's state ---------------------------------------------------------------------------------------------


def accelerate_pyhf() -> Acceleration:
    """Run the fits of ``pyhf.infer`` on this package's engine, from now on or within a ``with`` block.

    ``mle.fit``, ``mle.fixed_poi_fit``, ``hypotest`` (asymptotic and by toys), ``intervals.upper_limits`` and all
    else that minimises ``mle.twice_nll`` of a ``pyhf.Model`` return what they return with
    ``minuit_optimizer``, converged to rounding: parameters, uncertainties and correlations as MINUIT defines
    them, and a result object with ``x, fun, unc, corr, minuit``. The backend may be changed meanwhile; the
    optimizer that is chosen then becomes the one that is fallen back on.

    Of the options of pyhf's optimizers ``maxiter`` limits the evaluations; ``tolerance``, ``strategy``,
    ``method``, ``solver_options`` and ``verbose`` are accepted and change nothing. Fits that fail raise
    ``pyhf.exceptions.FailedMinimization`` with the reasons.

    Returns
    -------
    Acceleration
        A context manager; ``restore()`` ends the acceleration of a plain call.

    Examples
    --------
    >>> import neyman, pyhf
    >>> model = pyhf.simplemodels.uncorrelated_background([12.0], [50.0], [3.0])
    >>> with neyman.accelerate_pyhf():
    ...     best = pyhf.infer.mle.fit([62.0, *model.config.auxdata], model)
    >>> round(float(best[0]), 6)
    1.0
    """
    return Acceleration()


_active: list[Acceleration] = []


class Acceleration:
    """pyhf's state while its fits run on the engine, and the way back.

    The default and the current backend with their optimizers become again the objects that they were, whatever
    was set meanwhile. Accelerations may be nested and ended in any order; the last one that ends brings back
    pyhf's own optimizer.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._current, self._default = pyhf.get_backend(), pyhf.get_backend(default=True)
        _active.append(self)
        _install()

    def restore(self) -> None:
        """Put pyhf's backend, optimizer and precision back; a second call does nothing."""
        if self not in _active:
            return
        _active.remove(self)
        if pyhf.get_backend(default=True) != self._default:
            pyhf.set_backend(*self._default, default=True)
        backend, optimizer = self._current
        if not _active and isinstance(optimizer, EngineOptimizer):
            optimizer = optimizer.fallback
        pyhf.set_backend(backend, optimizer)

    def __enter__(self) -> Self:
        if self not in _active:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()


@pyhf.events.subscribe("change_backend::after")  # type: ignore[untyped-decorator, unused-ignore]
def _install() -> None:
    """Wrap the optimizer that is set, also after a script has called ``pyhf.set_backend``."""
    backend, optimizer = pyhf.get_backend()
    if _active and not isinstance(optimizer, EngineOptimizer):
        pyhf.set_backend(backend, EngineOptimizer(optimizer))


# The optimizer --------------------------------------------------------------------------------------------


class _NotForTheEngine(Exception):
    """The reason why a minimisation is left to pyhf."""


class EngineOptimizer:
    """A pyhf optimizer that minimises ``twice_nll`` of a ``pyhf.Model`` by `neyman.inference.fit`.

    Parameters
    ----------
    fallback
        The pyhf optimizer that runs everything else.
    """

    name = "neyman"

    def __init__(self, fallback: Any) -> None:
        self.fallback = fallback
        self._said: set[str] = set()

    def minimize(
        self,
        objective: Any,
        data: Any,
        pdf: Any,
        init_pars: Any,
        par_bounds: Any,
        fixed_vals: Any = None,
        return_fitted_val: bool = False,
        return_result_obj: bool = False,
        return_uncertainties: bool = False,
        return_correlations: bool = False,
        do_grad: bool | None = None,
        do_stitch: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Minimise as ``pyhf.optimize.mixins.OptimizerMixin.minimize`` does, with the same returns.

        Raises
        ------
        pyhf.exceptions.FailedMinimization
            When the fit is not valid or the likelihood is undefined at the start; its ``result`` says why.
        pyhf.exceptions.Unsupported
            When an option belongs to none of pyhf's optimizers.
        """
        reason, arguments = "", (objective, data, pdf, init_pars, par_bounds, fixed_vals)
        try:
            compiled, problem = self._problem(*arguments)
        except _NotForTheEngine as refusal:
            reason = str(refusal)
        if reason:
            self._say(reason)
            return self.fallback.minimize(
                *arguments,
                return_fitted_val=return_fitted_val,
                return_result_obj=return_result_obj,
                return_uncertainties=return_uncertainties,
                return_correlations=return_correlations,
                do_grad=do_grad,
                do_stitch=do_stitch,
                **kwargs,
            )
        if unknown := sorted(set(kwargs) - _OPTIONS):
            raise pyhf.exceptions.Unsupported(f"Unsupported options were passed in: {unknown}.")
        best = compiled.fit(problem, kwargs.get("maxiter", getattr(self.fallback, "maxiter", None)))
        errors = correlations = None
        if return_uncertainties or return_correlations or return_result_obj:
            errors, correlations = minuit_errors(problem, best)
            if errors is None and (return_uncertainties or return_correlations):
                raise _failure(best, "the Hessian at the minimum is not positive definite")

        tensor = pyhf.tensorlib.astensor
        fitted, fun = tensor(best.values.array.copy()), tensor(best.fval)
        unc = None if errors is None else tensor(errors)
        corr = None if correlations is None else tensor(correlations)
        if return_uncertainties:
            fitted = pyhf.tensorlib.stack([fitted, unc], axis=1)
        returns = [fitted]
        if return_correlations:
            returns.append(corr)
        if return_fitted_val:
            returns.append(fun)
        if return_result_obj:
            minuit = minuit_at(problem, best, errors)
            returns.append(_result(best, True, x=fitted, fun=fun, unc=unc, corr=corr, minuit=minuit))
        return tuple(returns) if len(returns) > 1 else fitted

    def _problem(
        self, objective: Any, data: Any, pdf: Any, init_pars: Any, par_bounds: Any, fixed_vals: Any
    ) -> tuple[_Compiled, Likelihood]:
        """Return the compiled model and the likelihood with the data, starts, bounds and fixed parameters."""
        if objective is not twice_nll:
            name = getattr(objective, "__qualname__", type(objective).__name__)
            raise _NotForTheEngine(f"the objective is {name}, not pyhf.infer.mle.twice_nll")
        if type(pdf) is not pyhf.Model:
            raise _NotForTheEngine(f"the pdf is a {type(pdf).__name__}, not a pyhf.Model")
        try:
            observed, start, bounds = (np.asarray(a, dtype=np.float64) for a in (data, init_pars, par_bounds))
            held = [(int(i), float(value)) for i, value in fixed_vals or ()]
        except (TypeError, ValueError, RuntimeError) as error:
            raise _NotForTheEngine(f"the data, starts or bounds are not plain numbers: {error}") from error
        if not (np.isfinite(observed).all() and np.isfinite(start).all()) or np.isnan(bounds).any():
            raise _NotForTheEngine("the data, starts or bounds are not all finite numbers")
        compiled = _compile(pdf)
        return compiled, compiled.problem(observed, start, bounds, held)

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            message = f"pyhf's own optimizer {self.fallback.name!r} runs this fit: {reason}"
            warnings.warn(message, AccelerationWarning, stacklevel=4)


def _result(best: FitResult, success: bool, **fields: Any) -> OptimizeResult:
    message = "Optimization terminated successfully." if success else "Optimization failed."
    return OptimizeResult(
        fields,
        success=success,
        status=int(not success),
        message=". ".join([message, *best.messages]),
        nfev=best.n_value + best.n_gradient + best.n_hessian,
        njev=best.n_gradient + best.n_hessian,
        nhev=best.n_hessian,
    )


def _failure(best: FitResult, *reasons: str) -> Exception:
    best = replace(best, messages=(*best.messages, *reasons))
    failure = _result(best, False, x=best.values.array, fun=best.fval, unc=None, corr=None)
    error: Exception = pyhf.exceptions.FailedMinimization(failure)
    return error


# Models ---------------------------------------------------------------------------------------------------


class _Compiled:
    """The likelihood of one model, and its last fits: a scan of ``hypotest`` repeats three of five."""

    def __init__(self, model: pyhf.Model) -> None:
        config, appliers = model.config, model.main_model.modifiers_appliers
        for kind, applier in appliers.items():
            if type(applier) is not histfactory_set.get(kind, (None, None))[1]:
                raise _NotForTheEngine(f"the model brings its own modifier {kind!r}")
        self._n_main = int(config.nmaindata)
        self._auxiliary = [part for name in config.auxdata_order for part in component_names(config, name)]
        self._likelihood = Likelihood.from_pyhf(model, [*np.zeros(self._n_main), *config.auxdata])
        self._fits: OrderedDict[tuple[Any, ...], FitResult] = OrderedDict()

    def problem(
        self,
        data: Array,
        start: Array,
        bounds: Array,
        held: Sequence[tuple[int, float]],
    ) -> Likelihood:
        """Return the likelihood of these data; a value held outside the bounds widens them."""
        n, n_data = len(self._likelihood.names), self._n_main + len(self._auxiliary)
        if data.shape != (n_data,) or start.shape != (n,) or bounds.shape != (n, 2):
            shapes = f"{data.shape}, {start.shape} and {bounds.shape}"
            raise _NotForTheEngine(f"data, starts and bounds have the shapes {shapes}")
        counts, auxiliary = data[: self._n_main], data[self._n_main :].tolist()
        try:
            problem = self._likelihood.with_data(
                Data((counts,), dict(zip(self._auxiliary, auxiliary, strict=True)))
            )
        except NeymanError as error:
            raise _NotForTheEngine(str(error)) from error
        bounds, fixed = bounds.copy(), np.zeros(n, dtype=np.bool_)
        x = np.clip(start, bounds[:, 0], bounds[:, 1])
        for i, value in held:
            fixed[i], x[i] = True, value
            bounds[i] = min(bounds[i, 0], value), max(bounds[i, 1], value)
        problem.inits, problem.bounds, problem.fixed = x, bounds, fixed
        return problem

    def fit(self, problem: Likelihood, max_calls: int | None) -> FitResult:
        """Return the fit of a problem, from memory when it is one of the last.

        Raises
        ------
        pyhf.exceptions.FailedMinimization
            When the fit is not valid or cannot start.
        """
        observed = (np.asarray(problem.terms[0].data), np.array([*problem.global_observables.values()]))
        data = b"".join(array.tobytes() for array in observed)
        key = (data, *(a.tobytes() for a in (problem.inits, problem.bounds, problem.fixed)), max_calls)
        if key in self._fits:
            self._fits.move_to_end(key)
            return self._fits[key]
        try:
            if len(free_positions(problem)):
                best = fit(problem, hesse=False, migrad=False, max_calls=max_calls)
            else:
                best = conditional_fit(problem, {})
        except NeymanError as error:
            result = OptimizeResult(x=problem.inits, fun=np.nan, success=False, message=str(error))
            raise pyhf.exceptions.FailedMinimization(result) from error
        if not best.valid:
            raise _failure(best)
        for other, known in self._fits.items():
            # The same minimum, reached with a parameter free at its bound and fixed there: pyhf divides by the
            # square root of the difference where it is not exactly zero.
            if other[0] == data and abs(known.fval - best.fval) < 1e-10 + 1e-12 * abs(best.fval):
                best = replace(best, fval=known.fval)
        self._fits[key] = replace(best, minuit=None)
        if len(self._fits) > _REMEMBERED:
            self._fits.popitem(last=False)
        return self._fits[key]


_compiled: WeakKeyDictionary[pyhf.Model, _Compiled | str] = WeakKeyDictionary()


def _compile(model: pyhf.Model) -> _Compiled:
    found = _compiled.get(model)
    if found is None:
        try:
            found = _Compiled(model)
        except (NeymanError, _NotForTheEngine) as error:
            found = str(error)
        _compiled[model] = found
    if isinstance(found, str):
        raise _NotForTheEngine(found)
    return found

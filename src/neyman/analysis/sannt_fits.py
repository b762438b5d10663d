"""From the stages of a SANNT to pyhf documents, and from these to expected and observed strengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neyman.errors import ConfigError, nearest
from neyman.inference import FitResult, fit, goodness_of_fit, impacts
from neyman.likelihood import Likelihood
from neyman.sannt import Normalisation, Stage, Variation
from neyman.workspace import SampleModel, Treated, Treatment, from_hists
from neyman.workspace.histograms import Histograms

BOUNDS = (-20.0, 20.0)  # of a strength: an observed one may be negative
_LARGEST_PYHF = 150  # parameters: its numerical Hessian takes minutes beyond


def strengths_of(signals: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return signals with the names of their strengths: those given, or ``r``, or ``r_SIGNAL`` if there are several."""
    if isinstance(signals, Mapping):
        return dict(signals)
    return {name: "r" if len(signals) == 1 else f"r_{name}" for name in signals}


def sannt_workspace(
    stage: Stage | Histograms,
    signals: Sequence[str] | Mapping[str, str],
    variations: Sequence[Variation | Normalisation] = (),
    *,
    control: Histograms | None = None,
    observed: Mapping[str, ArrayLike] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    mc_stat: bool = True,
    treatment: Treatment | None = None,
    report: list[Treated] | None = None,
    measurement: str = "sannt",
) -> dict[str, Any]:
    """Make a pyhf workspace of the histograms of a network.

    Parameters
    ----------
    stage
        A stage of a SANNT, or its histograms.
    signals
        Names of the signals, or each with the name of its strength. The first strength is the parameter of interest.
    variations
        Those of the training: the `Normalisation` ones become normsys and normfactors, the others are in the
        histograms.
    control
        Further channels, in the form of the stage's histograms.
    observed
        Observed counts by channel; the expectation where there are none.
    bounds
        Bounds of parameters; strengths have -20 to 20 otherwise.
    mc_stat
        Whether the statistical uncertainty of the simulation is part of the model.
    treatment, report
        Smoothing, symmetrisation and pruning, and a list that gets a record of them; see
        :func:`neyman.workspace.from_hists`.
    measurement
        Name of the measurement.

    Raises
    ------
    ConfigError
        When a signal or the process of a normalisation has no histogram.
    WorkspaceError
        When the histograms do not make a workspace, for example with a negative bin.
    """
    own = stage.histograms if isinstance(stage, Stage) else stage
    for name in control or {}:
        if name in own:
            raise ConfigError(
                f"the control channel {name!r} has the name of a channel of the network", fix="rename it"
            )
    channels = {**own, **(control or {})}
    processes = list(dict.fromkeys(name for one in channels.values() for name in one))
    strengths = strengths_of(signals)
    factors: dict[str, list[str]] = {name: [] for name in processes}
    normsys: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in processes}
    for name, strength in strengths.items():
        _known(name, processes, "signal")
        factors[name].append(strength)
    for one in variations:
        if isinstance(one, Normalisation):
            for name in one.processes:
                _known(name, processes, f"process of {one.parameter!r}")
                if one.free:
                    factors[name].append(one.parameter)
                else:
                    normsys[name][one.parameter] = (one.up, one.down)
    limits = dict.fromkeys(strengths.values(), BOUNDS) | dict(bounds or {})
    return from_hists(
        channels,
        {name: SampleModel(tuple(factors[name]), normsys[name]) for name in processes},
        poi=next(iter(strengths.values())),
        observed=observed,
        parameters=[{"name": name, "bounds": [list(pair)]} for name, pair in limits.items()],
        staterror=mc_stat,
        measurement=measurement,
        treatment=treatment,
        report=report,
    )


def _known(name: str, processes: Sequence[str], what: str) -> None:
    if name not in processes:
        raise ConfigError(
            f"the {what} is {name!r}, which has no histogram", expected=nearest(name, processes)
        )


def expected_uncertainties(
    spec: Mapping[str, Any], signals: Sequence[str] | Mapping[str, str]
) -> dict[str, Any]:
    """Fit the Asimov set of a workspace at its nominal parameters.

    Returns
    -------
    By signal: ``hesse`` and ``statistical`` (strengths alone are fitted) uncertainties of its strength, ``minos``
    distances below and above, and ``impacts``, what a shift of the global observable of each nuisance parameter by
    its uncertainty does; ``valid`` if all fits are, and ``messages``.
    """
    strengths = strengths_of(signals)
    asimov = Likelihood.from_pyhf(dict(spec)).asimov()
    best = fit(asimov, minos=tuple(strengths.values()))
    alone = fit(asimov, fixed=[name for name in asimov.names if name not in strengths.values()])
    return {
        "hesse": {name: best.errors[r] for name, r in strengths.items()},
        "minos": {name: [best.minos[r].lower, best.minos[r].upper] for name, r in strengths.items()},
        "statistical": {name: alone.errors[r] for name, r in strengths.items()},
        "impacts": {
            name: [
                {"name": one.name, "up": one.up, "down": one.down} for one in impacts(asimov, r, best=best)
            ]
            for name, r in strengths.items()
            if best.covariance is not None
        },
        "valid": best.valid and alone.valid,
        "messages": [*best.messages, *alone.messages],
    }


def compare_uncertainties(
    stage: Stage | Mapping[str, float],
    spec: Mapping[str, Any],
    signals: Sequence[str] | Mapping[str, str],
) -> dict[str, Any]:
    """Compare the Fisher information of a stage with fits of its workspace on the Asimov set.

    They agree where variations are symmetric and the likelihood is parabolic. HESSE is the curvature at the minimum,
    which the interpolation of asymmetric variations shapes; MINOS follows the likelihood.

    Parameters
    ----------
    stage
        A stage of a SANNT, or the total uncertainty of each signal from the Fisher information.
    spec
        Workspace of the same histograms and parameters, see :func:`sannt_workspace`.
    signals
        Names of the signals, or each with the name of its strength.

    Returns
    -------
    ``fisher``, what :func:`expected_uncertainties` returns, and ``pyhf``, pyhf's own fit with its MINUIT optimizer,
    which is absent when it fails or the workspace has more than 150 parameters.
    """
    strengths = strengths_of(signals)
    if isinstance(stage, Stage):
        stage = {name: total for name, (total, _) in stage.uncertainty.signals.items()}
    out = {"fisher": {name: stage[name] for name in strengths}, **expected_uncertainties(spec, strengths)}
    found = _pyhf_uncertainties(spec, strengths)
    return out if found is None else {**out, "pyhf": found}


def _pyhf_uncertainties(spec: Mapping[str, Any], strengths: Mapping[str, str]) -> dict[str, float] | None:
    """Uncertainties of the strengths from pyhf alone, without a change of its backend."""
    import pyhf

    model = pyhf.Workspace(dict(spec)).model()
    config = model.config
    if config.npars > _LARGEST_PYHF:
        return None
    start = config.suggested_init()
    held = [(i, start[i]) for i, fixed in enumerate(config.suggested_fixed()) if fixed]
    try:
        values = pyhf.optimize.minuit_optimizer().minimize(
            pyhf.infer.mle.twice_nll,
            model.expected_data(start),
            model,
            start,
            config.suggested_bounds(),
            fixed_vals=held,
            return_uncertainties=True,
            do_grad=False,
        )
    except pyhf.exceptions.FailedMinimization:
        return None
    errors = np.asarray(values, dtype=np.float64)[:, 1]
    found = {name: float(errors[config.par_names.index(r)]) for name, r in strengths.items()}
    return found if all(math.isfinite(error) for error in found.values()) else None


def observed_fit(spec: Mapping[str, Any], signals: Mapping[str, str]) -> dict[str, Any]:
    """Fit what a workspace observes.

    Returns
    -------
    ``values``, ``errors``, ``minos`` of the strengths, ``pulls`` and ``constraints`` of nuisance parameters,
    ``goodness_of_fit``, and ``counts`` by channel.
    """
    lh = Likelihood.from_pyhf(dict(spec))
    best = fit(lh, minos=tuple(signals.values()))
    counts = {one["name"]: one["data"] for one in spec["observations"]}
    poi = next(iter(signals.values()))
    ranked = impacts(lh, poi, best=best) if best.covariance is not None else ()
    return {
        "values": _named(best, best.values),
        "errors": _named(best, best.errors),
        "minos": {name: [best.minos[name].lower, best.minos[name].upper] for name in signals.values()},
        "pulls": {one.name: one.pull for one in ranked if one.pull is not None},
        "constraints": {one.name: one.constraint for one in ranked if one.constraint is not None},
        "impacts": [{"name": one.name, "up": one.up, "down": one.down} for one in ranked],
        "goodness_of_fit": _goodness(lh, best),
        "counts": counts,
        "valid": best.valid,
        "messages": list(best.messages),
    }


def _named(best: FitResult, values: Any) -> dict[str, float]:
    return {name: float(values[name]) for name in best.names}


def _goodness(lh: Likelihood, best: FitResult) -> dict[str, Any] | None:
    if not best.valid:
        return None
    found = goodness_of_fit(lh, best=best)
    return {"statistic": found.statistic, "ndof": found.ndof, "p_value": found.p_value}

"""Fits of pyhf models agree with pyhf's own (numpy backend, MINUIT with numerical derivatives)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyhf
import pytest

from neyman.inference import fit
from neyman.likelihood import Likelihood


@pytest.fixture
def pyhf_minuit():
    """pyhf with a tight MINUIT; its global backend is put back afterwards."""
    before = pyhf.get_backend()
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-6, strategy=1, maxiter=10**6))
    yield pyhf
    pyhf.set_backend(*before)


def compare(pyhf_minuit, workspace: pyhf.Workspace, atol: float) -> None:
    model = workspace.model(poi_name=None)
    found, fval = pyhf_minuit.infer.mle.fit(workspace.data(model), model, return_fitted_val=True)
    result = fit(Likelihood.from_pyhf(workspace))
    assert result.valid
    assert result.names == tuple(model.config.par_names)
    assert result.fval == pytest.approx(float(fval), abs=1e-6)
    free = result.errors.array > 0.0
    np.testing.assert_allclose(
        ((result.values.array - np.asarray(found)) / result.errors.array)[free], 0.0, atol=atol
    )


def test_small_model(pyhf_minuit):
    model = pyhf.simplemodels.correlated_background([12.0, 11.0], [50.0, 52.0], [55.0, 57.0], [45.0, 48.0])
    spec = {
        "channels": model.spec["channels"],
        "observations": [{"name": "single_channel", "data": [71.0, 57.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    compare(pyhf_minuit, pyhf.Workspace(spec), atol=1e-4)


def test_errors_of_a_small_model(pyhf_minuit):
    model = pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])
    data = [71.0, 57.0, *model.config.auxdata]
    _, correlations = pyhf_minuit.infer.mle.fit(
        data, model, return_uncertainties=True, return_correlations=True
    )
    found = pyhf_minuit.infer.mle.fit(data, model, return_uncertainties=True)
    result = fit(Likelihood.from_pyhf(model, data))
    np.testing.assert_allclose(result.values.array, found[:, 0], atol=1e-4)
    # MINUIT averages the error over its two sides in the internal coordinates of a bounded parameter.
    np.testing.assert_allclose(result.errors.array, found[:, 1], rtol=1e-2)
    np.testing.assert_allclose(result.correlation.array, correlations, atol=1e-3)


def test_published_workspace(pyhf_minuit, shared_data: Path):
    spec = json.loads((shared_data / "pyhf" / "RegionB" / "BkgOnly.json").read_text())
    compare(pyhf_minuit, pyhf.Workspace(spec), atol=1e-4)


def test_published_cross_section(shared_data: Path):
    """ATLAS ttbar, 132 parameters: pyhf needs 50,000 evaluations."""
    result = fit(Likelihood.from_pyhf(shared_data / "pyhf" / "atlas_ttbar_ljets_xsec.json"))
    assert result.valid
    assert result.values["ttbarXsec"] == pytest.approx(0.994, abs=1e-3)
    assert result.n_value + result.n_gradient + result.n_hessian < 400

"""A small results document as a run leaves it, with numbers that the tests look for again."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neyman.diagnostics import closure
from neyman.inference.results import (
    FitResult,
    Impact,
    ImpactsResult,
    MinosError,
    NamedMatrix,
    NamedVector,
    ProfileResult,
)

NAMES = ("mu", "tes", "ttbar_norm", "staterror_control[0]")
ERRORS = np.array([0.25, 0.4, 0.02, 0.01])


def make_fit(mu: float = 1.0, sigma: float = 0.25, **changes: Any) -> FitResult:
    """A fit with a correlation of -0.3 between mu and tes."""
    values, errors = np.array([mu, -0.5, 1.01, 1.0]), ERRORS.copy()
    errors[0] = sigma
    rho = np.eye(4)
    rho[0, 1] = rho[1, 0] = -0.3
    fields: dict[str, Any] = {
        "names": NAMES,
        "values": NamedVector(NAMES, values),
        "errors": NamedVector(NAMES, errors),
        "covariance": NamedMatrix(NAMES, rho * np.outer(errors, errors)),
        "fval": 123.4567,
        "valid": True,
        "edm": 1e-7,
        "minos": {"mu": MinosError(-0.9 * sigma, 1.1 * sigma, True)},
    }
    return FitResult(**(fields | changes))


def make_profile(best: FitResult, name: str = "mu", bad: tuple[int, ...] = ()) -> ProfileResult:
    """A parabola through 11 points; the fits at `bad` are not valid."""
    grid = best.values[name] + best.errors[name] * np.linspace(-2.5, 2.5, 11)
    delta = ((grid - best.values[name]) / best.errors[name]) ** 2
    valid = np.ones(11, dtype=bool)
    valid[list(bad)] = False
    delta[list(bad)] = np.nan
    return ProfileResult(name, NAMES, grid, delta, valid, np.tile(best.values.array, (11, 1)), best)


def make_impacts(best: FitResult) -> ImpactsResult:
    """Three nuisance parameters, one of them free."""
    impacts = (
        Impact("tes", 0.05, -0.08, -0.5, 0.4, "global_observables"),
        Impact("ttbar_norm", 0.02, -0.02, None, None, "shifted"),
        Impact("staterror_control[0]", 0.001, 0.002, 0.1, 0.99, "global_observables"),
    )
    return ImpactsResult("mu", "global_observables", impacts, best)


def make_closures(process: str, features: tuple[str, ...] = ("m_vis", "n_jets")) -> list[dict[str, Any]]:
    """An exact ratio of 1 for the first feature, a wrong one for the others."""
    rng = np.random.default_rng(5)
    out = []
    for i, feature in enumerate(features):
        target = rng.gamma(3.0, 20.0, (4000, 1))
        reference = rng.gamma(3.0, 20.0, (6000, 1)) * (1.0 + 0.2 * i)
        out += closure(
            process, [feature], (target, np.ones(4000)), (reference, np.ones(6000)), np.zeros(6000)
        )
    return [c.to_dict() for c in out]


def make_rows(unbinned: float = 0.24) -> list[dict[str, Any]]:
    """The three descriptions."""
    table = (
        ("single", "m_vis histogram, 30 bins", 0.45, 0.56, 0.57),
        ("classifier", "classifier histogram, 30 bins", 0.25, 0.28, 0.29),
        ("unbinned", "unbinned neural likelihood", 0.22, unbinned, unbinned + 0.01),
    )
    return [
        {
            "kind": kind,
            "label": label,
            "stat": stat,
            "syst": syst,
            "with_simulation": full,
            "minos": [-syst, syst],
            "valid": True,
            "scan": make_profile(make_fit(sigma=syst)).to_dict(),
        }
        for kind, label, stat, syst, full in table
    ]


def make_config() -> dict[str, Any]:
    """The configuration keys that the report reads."""
    return {
        "analysis": {"name": "demo", "title": "A demonstration", "luminosity": 1.0, "poi": "mu", "seed": 7},
        "samples": [
            {"name": "htautau", "label": "H → ττ", "normfactors": ["mu"]},
            {"name": "ztautau", "label": "", "normfactors": []},
        ],
        "compare": {"observable": "m_vis", "label": "visible mass"},
        "events": {"labels": {"m_vis": "visible mass [GeV]"}},
    }


def make_results() -> dict[str, Any]:
    """The results of a run, through JSON as the report gets them."""
    expected, observed = make_fit(), make_fit(1.2)
    yields = {"nominal": 200.0, "tesUp": 210.0, "tesDown": 190.0}
    document = {
        "comparison": make_rows(),
        "simulation_check": {
            "value": 1.02,
            "error": 0.25,
            "nominal": 1.0,
            "noise": 0.05,
            "claimed": 0.25,
            "spread": 0.26,
            "valid": True,
        },
        "expected": expected.to_dict(),
        "observed": {
            "single": make_fit(1.5, 0.56).to_dict(),
            "classifier": make_fit(1.1, 0.28).to_dict(),
            "unbinned": observed.to_dict(),
        },
        "profiles": {
            "expected": {name: make_profile(expected, name).to_dict() for name in NAMES[:3]},
            "observed": {"mu": make_profile(observed).to_dict()},
        },
        "impacts": make_impacts(observed).to_dict(),
        "closure": [*make_closures("htautau"), *make_closures("ztautau")],
        "checks": [
            {"name": "closure", "passed": True, "reason": "0 of 30 comparisons deviate"},
            {"name": "weights, htautau", "passed": True, "reason": "1200 effective events (at least 100)"},
        ],
        "closure_systematics": [
            {"variation": "tesUp", "process": "htautau", "feature": f, "chi2": x, "n_bins": 20, "p_value": p}
            for f, x, p in (("m_vis", 19.0, 0.45), ("met", 61.5, 3e-6))
        ],
        "discriminant": {
            "samples": {"htautau": [1.0, 5.0, 20.0], "ztautau": [1000.0, 100.0, 10.0]},
            "observed": [1010.0, 98.0, 0.0],
            "error": [10.0, 5.0, 1.0],
            "variation": "nominal",
        },
        "validation": [
            {"name": "pyhf schema", "passed": True, "detail": "binned.json is a valid pyhf workspace"}
        ],
        "workspace": {
            "yields": {"htautau": yields, "ztautau": {k: 100.0 * v for k, v in yields.items()}},
            "edges": {"classifier": [0.0, 1.0, 2.0, 3.0], "single": [0.0, 1.0]},
            "n_data": 20123,
            "n_reference": 400_000,
        },
    }
    loaded: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return loaded


def make_history() -> dict[str, Any]:
    """Four evaluations of a stack of two members."""
    return {
        "steps": [10, 20, 30, 40],
        "training": [[0.69, 0.68], [0.60, 0.61], [0.55, 0.56], [0.52, 0.51]],
        "validation": [[0.70, 0.69], [0.62, 0.61], [0.59, 0.60], [0.60, 0.58]],
        "best_step": [30, 40],
    }


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers above."""
    return SimpleNamespace(
        fit=make_fit,
        profile=make_profile,
        impacts=make_impacts,
        closures=make_closures,
        rows=make_rows,
        config=make_config,
        results=make_results,
        history=make_history,
    )


@pytest.fixture
def config() -> dict[str, Any]:
    """A fresh configuration."""
    return make_config()


@pytest.fixture
def results() -> dict[str, Any]:
    """Fresh results."""
    return make_results()


@pytest.fixture
def history() -> dict[str, Any]:
    """A fresh history."""
    return make_history()

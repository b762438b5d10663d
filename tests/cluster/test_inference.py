"""Toys, scans and constructions on workers: the same numbers as here, also when a worker is lost."""

from __future__ import annotations

import importlib
import pickle

import numpy as np
import pytest

import neyman as ny
from neyman.cluster import run_tasks

MODULE = importlib.import_module("neyman.inference.toys")  # hidden by the function of that name
SPEC = {
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "s",
                    "data": [5.0, 10.0, 4.0],
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                },
                {
                    "name": "b",
                    "data": [50.0, 40.0, 30.0],
                    "modifiers": [{"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}}],
                },
            ],
        }
    ],
    "observations": [{"name": "SR", "data": [56.0, 51.0, 33.0]}],
    "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
    "version": "1.0.0",
}


@pytest.fixture(scope="module")
def lh():
    return ny.Likelihood.from_pyhf(SPEC)


@pytest.fixture(scope="module")
def unbinned(repository):
    return ny.Likelihood.load(repository / "workspaces" / "htautau" / "workspace")


def value(point, likelihood):
    return float(likelihood.value(point))


def same(a, b):
    for name in ("values", "errors", "fvals", "valid"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.names, a.failures, a.lower, a.refitted) == (b.names, b.failures, b.lower, b.refitted)


def test_toys_are_fitted_alike(client, killing, lh, monkeypatch):
    monkeypatch.setattr(MODULE, "_BINNED", 40)
    drawn = ny.toys(lh, 450, seed=1)
    here = ny.fit_toys(lh, drawn)
    assert here.valid.mean() > 0.95
    assert drawn[0] is not None  # the toys pickle after one was drawn, too
    same(ny.fit_toys(lh, drawn, client=client), here)
    with killing():
        same(ny.fit_toys(lh, drawn, client=client), here)
    few = [drawn[i] for i in range(50)]
    same(ny.fit_toys(lh, few, client=client), ny.fit_toys(lh, few))


def test_unbinned_toys_are_fitted_alike(client, unbinned, monkeypatch):
    monkeypatch.setattr(MODULE, "_UNBINNED", 3)
    drawn = ny.toys(unbinned, 6, seed=1)
    same(
        ny.fit_toys(unbinned, drawn, errors=False, client=client), ny.fit_toys(unbinned, drawn, errors=False)
    )


def test_a_streamed_likelihood_travels_by_its_path(client, repository, unbinned):
    folder = repository / "workspaces" / "htautau" / "workspace"
    streamed = ny.Likelihood.load(folder, memory_budget="1 MiB")
    assert len(pickle.dumps(streamed)) < 0.2 * len(pickle.dumps(unbinned))
    points = [streamed.inits, 1.01 * streamed.inits]
    here = [value(point, streamed) for point in points]
    assert run_tasks(client, value, points, shared=streamed) == here
    assert here == pytest.approx([value(point, unbinned) for point in points], rel=1e-10)


def test_scans_are_alike(client, lh):
    best = ny.fit(lh)
    here, there = (ny.profile(lh, "mu", best=best, client=one) for one in (None, client))
    np.testing.assert_array_equal(here.delta, there.delta)
    np.testing.assert_array_equal(here.parameters, there.parameters)
    assert here.valid.all()


def test_constructions_are_alike(client, killing, lh, tmp_path):
    options = {"n_toys": 60, "seed": 2}
    grid = [0.0, 0.8, 1.6, 2.4]
    here = ny.feldman_cousins(lh, "mu", grid, **options)
    with killing():
        there = ny.feldman_cousins(lh, "mu", grid, client=client, store=tmp_path / "fc.json", **options)
    assert here.to_dict() == there.to_dict()
    assert (
        ny.feldman_cousins(lh, "mu", grid, store=tmp_path / "fc.json", **options).to_dict() == here.to_dict()
    )


@pytest.mark.parametrize("what", ["coverage", "significance", "upper_limit", "goodness_of_fit"])
def test_counts_of_toys_are_alike(client, lh, what):
    calls = {
        "coverage": lambda one: ny.inference.coverage(lh, "mu", n_toys=50, seed=1, client=one),
        "significance": lambda one: ny.significance(
            lh, "mu", calculator="toys", n_toys=50, seed=1, client=one
        ),
        "upper_limit": lambda one: ny.upper_limit(
            lh, "mu", calculator="toys", n_toys=50, seed=1, grid=[1.0, 3.0], client=one
        ),
        "goodness_of_fit": lambda one: ny.goodness_of_fit(
            lh, calculator="toys", n_toys=50, seed=1, client=one
        ),
    }
    here, there = (ny.files.jsonable(calls[what](one)) for one in (None, client))
    assert here == there

"""Likelihoods on a grid against plain sums, and overlaps of Gaussians against closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import ndtr

from neyman.diagnostics.overlap import MixtureSurface, chebyshev_nodes, mixture_nll, overlap, profiles
from neyman.errors import InputError

MU, Z = np.linspace(0.0, 0.5, 13), np.linspace(0.2, 1.0, 9)
RANGES = {"mu_range": (MU[1], MU[-1]), "z_range": (Z[0], Z[-1])}


def events(n=300, seed=1):
    return np.random.default_rng(seed).normal(0.0, 1.5, (n, 2))


def log_densities(x, z, r=1.0):
    """Up to a constant, signal and background of unit covariance around opposite points at the angle z."""
    product = r * (x[:, :1] * np.cos(z) + x[:, 1:] * np.sin(z))
    return -product, product


def slow_nll(x, mu, z, multiplicity):
    return [
        [
            -math.fsum(
                m * (math.log(s * math.exp(ls) + math.exp(lb)) - math.log1p(s))
                for m, ls, lb in zip(multiplicity, *(t[:, 0] for t in log_densities(x, [v])), strict=True)
            )
            for v in z
        ]
        for s in mu
    ]


def test_likelihood_of_resampled_data_sets():
    x = events(40)
    counts = np.random.default_rng(2).poisson(1.0, (3, 40))
    found = mixture_nll(*log_densities(x, Z), MU, multiplicity=counts)
    np.testing.assert_allclose(found, [slow_nll(x, MU, Z, m) for m in counts], rtol=1e-13)
    np.testing.assert_allclose(
        mixture_nll(*log_densities(x, Z), MU), slow_nll(x, MU, Z, np.ones(40)), rtol=1e-13
    )


def test_blocks_of_events_and_grid_points_add_up():
    x = events(2500)
    z, mu = np.linspace(0.2, 1.0, 301), np.array([0.0, 0.1, 0.3])
    found = mixture_nll(*log_densities(x, z), mu)
    signal, background = log_densities(x, z)
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(np.log(mu)[:, None, None] + signal, background) - np.log1p(mu)[:, None, None]
    np.testing.assert_allclose(found, -logs.sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("size", [1.0, 900.0])
def test_extreme_ratios_neither_overflow_nor_vanish(size):
    found = mixture_nll([[size], [-size]], [[-size], [size]], [0.0, 0.5])
    at_half = -(size + math.log(0.5 + math.exp(-2 * size)) + size + math.log1p(0.5 * math.exp(-2 * size)))
    np.testing.assert_allclose(found[:, 0], [0.0, at_half + 2.0 * math.log(1.5)], rtol=1e-13, atol=1e-13)


def test_common_reference_cancels():
    x = events()
    signal, background = log_densities(x, Z)
    shift = np.sin(x[:, :1])
    difference = mixture_nll(signal, background, MU) - mixture_nll(signal + shift, background + shift, MU)
    np.testing.assert_allclose(difference, shift.sum(), rtol=1e-10)


@pytest.mark.parametrize(("r", "n_z"), [(0.5, 21), (2.0, 81)])
def test_surface_is_exact_between_its_nodes(r, n_z):
    x = events(200)
    counts = np.random.default_rng(3).poisson(1.0, (4, 200))
    nodes = chebyshev_nodes(Z[0], Z[-1], n_z)
    surface = MixtureSurface.from_log_ratios(*log_densities(x, nodes, r), **RANGES, multiplicity=counts)
    exact = mixture_nll(*log_densities(x, Z, r), MU, multiplicity=counts)
    np.testing.assert_allclose(surface(MU, Z), exact, rtol=0, atol=1e-9)
    np.testing.assert_allclose(surface[1:3](MU, Z), exact[1:3], rtol=0, atol=1e-9)


def test_surface_has_no_difficulty_with_extreme_ratios():
    t = np.linspace(-40.0, 40.0, 101)[:, None]
    nodes = chebyshev_nodes(Z[0], Z[-1], 3)
    surface = MixtureSurface.from_log_ratios(t + 0 * nodes, -t + 0 * nodes, **RANGES)
    mu = np.geomspace(*RANGES["mu_range"], 50)
    np.testing.assert_allclose(surface(mu, Z[:1])[0], mixture_nll(t, -t, mu), rtol=1e-12)


def test_profiles_by_newton_steps_and_by_a_fine_grid():
    x = events(400, seed=4) + np.array([-0.3, -0.5])
    nodes = chebyshev_nodes(Z[0], Z[-1], 31)
    counts = np.random.default_rng(5).poisson(1.0, (5, 400))
    surface = MixtureSurface.from_log_ratios(*log_densities(x, nodes), **RANGES, multiplicity=counts)
    fine_mu, fine_z = np.geomspace(MU[1], 0.5, 4001), np.linspace(Z[0], Z[-1], 4001)
    over_z, over_mu = profiles(surface(MU, fine_z))[0], profiles(surface([0.0, *fine_mu], Z))[1]
    for newton, grid in ((surface.profile_mu(MU), over_z), (surface.profile_z(Z), over_mu)):
        assert newton.shape == grid.shape
        assert (
            newton <= grid + 1e-9
        ).all()  # a grid misses the minimum by half the curvature times step squared
        np.testing.assert_allclose(newton, grid, rtol=0, atol=1e-4)


def test_profile_finds_the_lowest_of_several_minima_and_those_at_the_ends():
    nodes = chebyshev_nodes(0.0, 1.0, 60)
    background = (-5.0 * np.cos(14.0 * nodes) + nodes)[None, :]
    surface = MixtureSurface.from_log_ratios(
        background - 50.0, background, z_range=(0.0, 1.0), mu_range=(0.01, 1.0)
    )
    z = np.linspace(0.0, 1.0, 100_001)
    lowest = (5.0 * np.cos(14.0 * z) - z).min()
    assert surface.profile_mu([0.0])[0, 0] == pytest.approx(lowest, abs=1e-8)
    rising = MixtureSurface.from_log_ratios(
        -nodes[None] - 50.0, -nodes[None], z_range=(0, 1), mu_range=(0.01, 1)
    )
    assert rising.profile_mu([0.0])[0, 0] == pytest.approx(0.0, abs=1e-8)


def normal(centre, width, grid):
    return -0.5 * ((grid - centre) / width) ** 2


def test_overlap_of_shifted_gaussians():
    mu, z = np.linspace(-8, 8, 1201), np.linspace(-9, 9, 1101)
    true = normal(0.0, 1.0, mu)[:, None] + normal(0.0, 1.5, z)
    hat = 7.0 + normal(0.6, 1.0, mu)[:, None] + normal(0.0, 1.5, z)
    found = overlap(hat, true, minimum=0.75)
    shifted = 2.0 * ndtr(-0.3)
    assert found.total == pytest.approx(shifted, abs=1e-4)
    assert found.profiled == pytest.approx({"mu": shifted, "z": 1.0}, abs=1e-4)
    assert found.passed
    assert found.reason == "mean overlap 0.764 of 1 data sets reaches 0.75 (mu 0.764, z 1.000)"


def test_overlap_of_nothing_in_common_and_of_many_data_sets():
    grid = np.arange(400.0)
    one, far = (normal(c, 2.0, grid)[:, None] + normal(c, 2.0, grid) for c in (100.0, 300.0))
    found = overlap([one, one, one, one, one, far], [one, far, one, one, one, far], parameters=("a", "b"))
    np.testing.assert_allclose(found.totals, [1, 0, 1, 1, 1, 1], atol=1e-12)
    assert found.total == pytest.approx(5 / 6)
    assert found.spread == pytest.approx(np.std([1, 0, 1, 1, 1, 1]))
    assert not found.passed
    assert "is below 0.9 (a 0.833, b 0.833)" in found.reason


def test_profiled_is_not_marginal():
    # A ridge: the profiles over one parameter ignore how wide the other one is there.
    mu, z = np.linspace(-4, 4, 161), np.linspace(-4, 4, 161)
    true = normal(0, 1, mu)[:, None] + normal(0, 1, z)
    hat = normal(0, 1, mu)[:, None] + normal(0.0, np.exp(0.5 * mu)[:, None], z[None, :])
    found = overlap(hat, true)
    assert found.profiled["mu"] == pytest.approx(1.0, abs=1e-6)
    assert found.total < 0.9
    np.testing.assert_allclose(-profiles(-hat)[0], normal(0, 1, mu), atol=1e-12)


def test_plain_data():
    found = overlap(np.zeros((2, 3)), np.zeros((2, 3))).to_dict()
    assert json.loads(json.dumps(found))["totals"] == [1.0]
    assert (found["name"], found["passed"]) == ("overlap", True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture_nll(np.zeros((3, 2)), np.zeros((3, 1)), [0.1]), r"shapes \(3, 2\) and \(3, 1\)"),
        (lambda: mixture_nll(np.zeros((0, 2)), np.zeros((0, 2)), [0.1]), r"shapes \(0, 2\)"),
        (
            lambda: mixture_nll([[0.0], [np.nan]], [[0.0], [0.0]], [0.1]),
            "signal log-ratio of 1 events.*\n.*event 1",
        ),
        (lambda: mixture_nll([[0.0]], [[-np.inf]], [0.1]), "background log-ratio of 1 events is not finite"),
        (lambda: mixture_nll([[0.0]], [[0.0]], [-0.1]), "mu must be a list of values that are not negative"),
        (lambda: mixture_nll([[0.0]], [[0.0]], [0.1], multiplicity=[1.0]), r"shape \(1,\) for 1 events"),
        (
            lambda: mixture_nll([[0.0]], [[0.0]], [0.1], multiplicity=[[1.0, 2.0]]),
            r"shape \(1, 2\) for 1 events",
        ),
        (lambda: chebyshev_nodes(1.0, 1.0, 4), "cannot place 4 nodes between 1 and 1"),
        (lambda: profiles(np.zeros(4)), r"two parameters is needed, got shape \(4,\)"),
        (lambda: overlap(np.zeros((2, 3)), np.zeros((3, 2))), r"shapes \(2, 3\) and \(3, 2\)"),
        (lambda: overlap(np.zeros(3), np.zeros(3)), r"expected: the same shape"),
        (
            lambda: overlap(np.zeros((2, 2, 2)), [np.zeros((2, 2)), np.full((2, 2), -np.inf)]),
            "the true likelihood of data set 1 has no finite maximum",
        ),
        (
            lambda: overlap(np.full((2, 2), np.nan), np.zeros((2, 2))),
            "the estimated likelihood of data set 0",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_errors_of_surfaces():
    nodes = chebyshev_nodes(0.0, 1.0, 4)
    table = np.zeros((3, 4)) + nodes
    with pytest.raises(InputError, match="must begin above 0"):
        MixtureSurface.from_log_ratios(table, table, z_range=(0.0, 1.0), mu_range=(0.0, 1.0))
    surface = MixtureSurface.from_log_ratios(table, table, z_range=(0.0, 1.0), mu_range=(0.1, 1.0))
    with pytest.raises(InputError, match="mu lies outside the range of the surface"):
        surface([0.05], [0.5])
    with pytest.raises(InputError, match="z lies outside the range"):
        surface([0.0, 0.5], [1.5])

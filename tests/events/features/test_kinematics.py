"""Kinematics agree with exact arithmetic where naive formulae lose all digits, and with vector elsewhere."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import vector
from hypothesis import given
from hypothesis import strategies as st

from neyman.events.features import kinematics

RNG = np.random.default_rng(3)
N = 2000


def particles(count, seed=1):
    rng = np.random.default_rng(seed)
    return [
        (
            rng.exponential(50.0, N),
            rng.normal(0, 2, N),
            rng.uniform(-np.pi, np.pi, N),
            rng.exponential(10.0, N),
        )
        for _ in range(count)
    ]


def vectors(parts):
    return [vector.array(dict(zip(("pt", "eta", "phi", "mass"), p, strict=True))) for p in parts]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_totals_are_those_of_vector(count):
    parts = particles(count)
    total = sum(vectors(parts)[1:], vectors(parts)[0])
    np.testing.assert_allclose(kinematics.total_mass(*(c for p in parts for c in p)), total.mass, rtol=1e-7)
    np.testing.assert_allclose(
        kinematics.total_pt(*(c for p in parts for c in (p[0], p[2]))), total.pt, rtol=1e-9
    )
    np.testing.assert_allclose(
        kinematics.total_phi(*(c for p in parts for c in (p[0], p[2]))), total.phi, rtol=1e-9
    )
    np.testing.assert_allclose(kinematics.total_eta(*(c for p in parts for c in p[:3])), total.eta, rtol=1e-7)


def test_pairs_are_those_of_vector():
    first, second = particles(2)
    a, b = vectors([first, second])
    np.testing.assert_allclose(kinematics.delta_phi(first[2], second[2]), a.deltaphi(b), atol=1e-14)
    np.testing.assert_allclose(kinematics.delta_r(*first[1:3], *second[1:3]), a.deltaR(b), rtol=1e-12)
    mt = np.sqrt(2 * first[0] * second[0] * (1 - np.cos(first[2] - second[2])))
    np.testing.assert_allclose(
        kinematics.transverse_mass(first[0], first[2], second[0], second[2]), mt, rtol=1e-9, atol=1e-9
    )


def test_two_light_collinear_particles_keep_their_digits():
    # m**2 = 2 pt1 pt2 (cosh(d) - 1) = pt1 pt2 d**2 to leading order; E**2 - p**2 has no correct digit here.
    d = 1e-6
    mass = kinematics.total_mass(1000.0, 2.0, 1.0, 0.0, 500.0, 2.0 + d, 1.0, 0.0)
    assert mass == pytest.approx(np.sqrt(1000.0 * 500.0) * d, rel=1e-9)
    assert kinematics.transverse_mass(1000.0, 1.0, 500.0, 1.0 + 1e-9) == pytest.approx(
        np.sqrt(1000.0 * 500.0) * (1.0 + 1e-9 - 1.0), rel=1e-9
    )
    # An electron of 1 TeV and eta 5 keeps its mass of half an MeV.
    assert kinematics.total_mass(1000.0, 5.0, 0.3, 0.000511) == pytest.approx(0.000511, rel=1e-15)
    # The same twice: M = 2 m.
    electron = (1000.0, 5.0, 0.3, 0.000511)
    assert kinematics.total_mass(*electron, *electron) == pytest.approx(2 * 0.000511, rel=1e-12)


def test_massless_at_rest_and_negative_masses():
    assert kinematics.total_mass(0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0) == 0.0
    assert kinematics.total_mass(0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 4.0) == 7.0
    assert kinematics.total_mass(30.0, 1.0, 0.0, -2.0) == -2.0  # a negative square, as in ROOT


@given(st.floats(-4, 4), st.floats(-4, 4))
def test_delta_phi_is_a_turn_at_most_and_exact_within_half_of_one(first, second):
    first, second = np.float32(first), np.float32(second)
    result = float(kinematics.delta_phi(first, second))
    assert abs(result) <= np.pi
    exact = Fraction(float(first)) - Fraction(float(second))
    turns = (float(exact) - result) / (2 * np.pi)
    assert turns == pytest.approx(round(turns), abs=1e-15)
    if abs(exact) < 3:
        assert result == float(exact)


@given(st.integers(1, 40))
def test_results_do_not_depend_on_how_many_are_computed_at_once(n):
    first, second = particles(2)
    every = kinematics.total_mass(*first, *second)
    some = kinematics.total_mass(*(c[:n] for c in first), *(c[:n] for c in second))
    np.testing.assert_array_equal(every[:n], some)


def test_float32_comes_in_and_float64_is_computed():
    parts = [np.float32(c) for p in particles(2) for c in p]
    assert kinematics.total_mass(*parts).dtype == np.float64
    np.testing.assert_array_equal(
        kinematics.total_mass(*parts), kinematics.total_mass(*(c.astype(np.float64) for c in parts))
    )
    assert kinematics.delta_phi(parts[2], parts[6]).dtype == np.float64

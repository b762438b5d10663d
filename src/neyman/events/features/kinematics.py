"""Formulae of relativistic kinematics from transverse momentum, pseudorapidity, azimuth and mass.

All are sums of terms of one sign, so that collinear and light particles lose no digits, and all are computed in
float64 whatever comes in. They need no vector classes: a flat ntuple gives the bits that NanoEvents give.

A particle has ``p = pt cosh(eta)`` and ``E**2 = p**2 + m**2``. A negative mass stands for a negative square, as in
ROOT and vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def delta_phi(phi1: Any, phi2: Any) -> Array:
    """Difference of two azimuths, in [-pi, pi]; exact where it needs no turn."""
    difference = np.subtract(phi1, phi2, dtype=np.float64)
    return np.asarray(difference - 2.0 * np.pi * np.round(difference / (2.0 * np.pi)))


def delta_eta(eta1: Any, eta2: Any) -> Array:
    """Difference of two pseudorapidities."""
    return np.asarray(np.subtract(eta1, eta2, dtype=np.float64))


def delta_r(eta1: Any, phi1: Any, eta2: Any, phi2: Any) -> Array:
    """Distance ``sqrt(delta_eta**2 + delta_phi**2)``."""
    return np.asarray(np.hypot(delta_eta(eta1, eta2), delta_phi(phi1, phi2)))


def transverse_mass(pt1: Any, phi1: Any, pt2: Any, phi2: Any) -> Array:
    """``sqrt(2 pt1 pt2 (1 - cos(delta_phi)))`` of two massless particles.

    As ``2 sqrt(pt1 pt2) |sin(delta_phi / 2)|``.
    """
    product = np.multiply(pt1, pt2, dtype=np.float64)
    return np.asarray(2.0 * np.sqrt(product) * np.abs(np.sin(delta_phi(phi1, phi2) / 2.0)))


def total_mass(*components: Any) -> Array:
    """Invariant mass of particles, each given as pt, eta, phi, mass.

    ``m**2 = sum_i m_i**2 + 2 sum_{i<j} (E_i E_j - p_i p_j + p_i p_j - vec p_i . vec p_j)`` with

    - ``E_i E_j - p_i p_j = (m_i**2 E_j**2 + m_j**2 p_i**2) / (E_i E_j + p_i p_j)``
    - ``p_i p_j - vec p_i . vec p_j = 2 pt_i pt_j (sinh(delta_eta / 2)**2 + sin(delta_phi / 2)**2)``
    """
    particles = []
    for pt, eta, phi, mass in _grouped(components, 4):
        square = mass * np.abs(mass)
        momentum = pt * np.cosh(eta)
        energy = np.sqrt(np.maximum(momentum**2 + square, 0.0))
        particles.append((pt, eta, phi, square, momentum, energy))
    total = sum(particle[3] for particle in particles)
    for (pt1, eta1, phi1, square1, p1, e1), (pt2, eta2, phi2, square2, p2, e2) in combinations(particles, 2):
        heavy = square1 * e2**2 + square2 * p1**2
        # Two particles at rest without mass have no energy: 0 / 0.
        light = np.divide(heavy, e1 * e2 + p1 * p2, out=np.zeros_like(heavy), where=heavy != 0.0)
        angle = np.sinh((eta1 - eta2) / 2.0) ** 2 + np.sin((phi1 - phi2) / 2.0) ** 2
        total = total + 2.0 * (light + 2.0 * pt1 * pt2 * angle)
    return np.asarray(np.copysign(np.sqrt(np.abs(total)), total))


def total_pt(*components: Any) -> Array:
    """Transverse momentum of the sum of particles, each given as pt, phi."""
    return np.asarray(np.hypot(*_transverse(components)))


def total_phi(*components: Any) -> Array:
    """Azimuth of the sum of particles, each given as pt, phi."""
    x, y = _transverse(components)
    return np.asarray(np.arctan2(y, x))


def total_eta(*components: Any) -> Array:
    """Pseudorapidity of the sum of particles, each given as pt, eta, phi."""
    particles = _grouped(components, 3)
    z = sum(pt * np.sinh(eta) for pt, eta, _ in particles)
    x, y = _transverse([c for pt, _, phi in particles for c in (pt, phi)])
    return np.asarray(np.arcsinh(z / np.hypot(x, y)))


def _transverse(components: Sequence[Any]) -> tuple[Array, Array]:
    particles = _grouped(components, 2)
    return (
        np.asarray(sum(pt * np.cos(phi) for pt, phi in particles)),
        np.asarray(sum(pt * np.sin(phi) for pt, phi in particles)),
    )


def _grouped(components: Sequence[Any], size: int) -> list[tuple[Array, ...]]:
    numbers = np.broadcast_arrays(*(np.asarray(component, dtype=np.float64) for component in components))
    return [tuple(numbers[i : i + size]) for i in range(0, len(numbers), size)]


TOTALS: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    "pt": (("pt", "phi"), total_pt),
    "eta": (("pt", "eta", "phi"), total_eta),
    "phi": (("pt", "phi"), total_phi),
    "mass": (("pt", "eta", "phi", "mass"), total_mass),
}
"""Fields of a sum of particles, with the fields of a particle that they take."""

PAIRS: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    "delta_r": (("eta", "phi"), delta_r),
    "delta_phi": (("phi",), delta_phi),
    "delta_eta": (("eta",), delta_eta),
    "mt": (("pt", "phi"), transverse_mass),
}
"""Functions of two particles, with the fields of a particle that they take."""

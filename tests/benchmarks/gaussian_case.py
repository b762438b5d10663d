r"""The Gaussian case of Sluijter et al. (arXiv:2503.07962, section III A): events and exact densities.

Two Gaussians of unit covariance in the plane: the background around :math:`r(\cos z, \sin z)`, the signal opposite.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import BarycentricInterpolator
from scipy.special import logsumexp

import neyman as ny
from neyman.diagnostics.bootstrap import bootstrap_coverage, intervals, resample, resampled_coverage
from neyman.diagnostics.overlap import MixtureSurface, chebyshev_nodes, overlap

RADIUS = {"short": 0.5, "long": 2.0}
TRAINED_Z, NOMINAL_Z = (0.0, 0.5 * np.pi), 0.25 * np.pi
USED_Z = (0.1 * np.pi, 0.4 * np.pi)
MU_GRID, Z_GRID = np.linspace(0.0, 0.5, 600), np.linspace(*USED_Z, 300)
TRUTHS = list(itertools.product((0.1, 0.2, 0.3), (0.15 * np.pi, 0.25 * np.pi, 0.35 * np.pi)))
PROCESSES = ("signal", "background")
FEATURES = ("x0", "x1")


def means(case: str, process: str, z):
    sign = {"background": 1.0, "signal": -1.0}[process]
    return sign * RADIUS[case] * np.stack([np.cos(z), np.sin(z)], axis=-1)


def log_density(case: str, process: str, x, z):
    """Exact ``ln p(x|z)`` of events ``(n, 2)`` at nuisance parameters ``(n_z,)``: ``(n, n_z)``."""
    distance = x[:, None, :] - means(case, process, np.asarray(z))[None, :, :]
    return -0.5 * (distance**2).sum(axis=-1) - np.log(2.0 * np.pi)


def draw(case: str, process: str, z, rng):
    return rng.normal(means(case, process, z))


def table(x, z=None):
    columns = dict(zip(FEATURES, np.asarray(x).T, strict=True)) | ({} if z is None else {"z": z})
    return ny.EventTable.from_arrays(columns, features=FEATURES, extra=() if z is None else ("z",))


def training_sample(case: str, process: str, n: int, seed: int):
    """Events of one process at their own z, uniform over the trained range."""
    rng = np.random.default_rng([seed, PROCESSES.index(process), 1])
    z = rng.uniform(*TRAINED_Z, n)
    return table(draw(case, process, z, rng), z)


def reference_sample(case: str, n: int, seed: int):
    """Events of the half-and-half mixture at the nominal z."""
    rng = np.random.default_rng([seed, 2])
    z = np.full(n // 2, NOMINAL_Z)
    x = np.concatenate([draw(case, process, z, rng) for process in PROCESSES])
    return table(x[rng.permutation(len(x))])


@dataclass(frozen=True)
class DataSet:
    """A test set: events of fixed numbers of signal and background, and the truth behind them."""

    mu: float
    z: float
    seed: int
    x: np.ndarray


def make_test_sets(case: str, n_each: int, seed: int, n_events: int) -> list[DataSet]:
    """`n_each` test sets at each of the nine points, in rounds over the points."""
    found = []
    for mu, z in n_each * TRUTHS:
        rng = np.random.default_rng([seed, 3, len(found)])
        n_signal = int(n_events * mu / (1.0 + mu))
        counts = {"signal": n_signal, "background": n_events - n_signal}
        x = np.concatenate([draw(case, p, np.full(n, z), rng) for p, n in counts.items()])
        found.append(DataSet(mu, z, len(found), x))
    return found


@dataclass
class Score:
    """Overlap, coverage and width of one likelihood, gathered over the test sets."""

    overlaps: list = field(default_factory=list)
    mu: list = field(default_factory=list)
    z: list = field(default_factory=list)

    def add(self, surface, true_grid):
        """Compare the data sets of one test set with their true log-likelihoods on the grid."""
        for k in range(0, len(true_grid), 4):  # few at a time stay in the processor's cache
            hat = -surface[k : k + 4](MU_GRID, Z_GRID)
            found = overlap(hat, true_grid[k : k + 4])
            self.overlaps.append([found.total, *found.profiled.values()])
        self.mu.append(intervals(MU_GRID, surface.profile_mu(MU_GRID)))
        self.z.append(intervals(Z_GRID, surface.profile_z(Z_GRID)))

    def figures(self, sets):
        """Means over all data sets, with the names of the results file."""
        names = ("overlap_total", "overlap_mu", "overlap_z")
        found = dict(zip(names, np.mean(self.overlaps, axis=0).tolist(), strict=True))
        for name in ("mu", "z"):
            truth = [getattr(one, name) for one in sets]
            one = bootstrap_coverage(
                getattr(self, name), truth, parameter=name, expected=resampled_coverage(9)
            )
            found |= {f"coverage_{name}": one.coverage, f"width_{name}": one.width}
            found |= {f"coverage_{name}_error": one.coverage_error, f"open_{name}": one.n_open}
        return found


def surface_of(log_signal, log_background, counts):
    return MixtureSurface.from_log_ratios(
        log_signal,
        log_background,
        z_range=USED_Z,
        mu_range=(MU_GRID[1], MU_GRID[-1]),
        multiplicity=counts,
    )


def log_normalisation(members, x, z, nodes: int = 11):
    """``ln E_q[r(.; z)]`` over reference events at the given z, of every member and of the mean of their log-ratios:
    ``(n_members, n_z)`` and ``(n_z,)``. It is smooth in z, so few passes over the events are enough."""
    at, each, mean = chebyshev_nodes(*USED_Z, nodes), [], []
    for value in at:
        table = np.asarray(members(x, [value]), dtype=np.float64)
        each.append(np.log(np.exp(table).mean(axis=1)))
        mean.append(np.log(np.exp(table.mean(axis=0)).mean()))
    return BarycentricInterpolator(at, np.array(each))(z).T, BarycentricInterpolator(at, np.array(mean))(z)


def log_ratios(members, x, z, norms=None, aggregate="mean"):
    """Log-ratios of every member and of the ensemble, ``(n_members + 1, n_events, n_z)``."""
    at = np.tile(np.asarray(z, dtype=np.float64), len(x))[:, None]
    table = np.asarray(members(np.repeat(x, len(z), axis=0), at), np.float64).reshape(-1, len(x), len(z))
    whole = table.mean(axis=0) if aggregate == "mean" else logsumexp(table, axis=0) - np.log(len(table))
    table = np.concatenate([table, whole[None]])
    if norms is not None:
        table[:-1] -= norms[0][:, None, :]
        table[-1] -= norms[1]
    return table


def evaluate(case: str, estimators: dict, sets, *, n_bootstrap: int = 100, nodes: int = 21, progress=None):
    """Figures of the true likelihood and of each estimator, ``{name: [figures of each member]}``.

    `estimators` maps names to ({process: (members, norms)}, singles, aggregate): a function of (x, z) that gives the
    log-ratio of every member, and the normalisation at the nodes (None for densities); how many members are judged
    one by one (``<name>_single``), and how all of them are combined (``<name>_ensemble``).
    """
    scores: dict = {}
    z = chebyshev_nodes(*USED_Z, nodes)
    for done, one in enumerate(sets):
        counts = resample(len(one.x), size=1000, n_sets=n_bootstrap, seed=one.seed)
        truth = surface_of(*(log_density(case, p, one.x, z) for p in PROCESSES), counts)
        true_grid = -truth(MU_GRID, Z_GRID)
        scores.setdefault(("truth", 0), Score()).add(truth, true_grid)
        for name, (processes, singles, aggregate) in estimators.items():
            signal, background = (
                log_ratios(members, one.x, z, norms, aggregate)
                for members, norms in (processes[p] for p in PROCESSES)
            )
            for m in [*range(singles), -1]:
                key = (f"{name}_single", m) if m >= 0 else (f"{name}_ensemble", 0)
                scores.setdefault(key, Score()).add(surface_of(signal[m], background[m], counts), true_grid)
        if progress:
            progress(done + 1)
    figures: dict = {}
    for (key, _), score in scores.items():
        figures.setdefault(key, []).append(score.figures(sets))
    return figures

r"""H -> tau tau against Z -> tau tau with the tau energy scale z: events, test sets and scores for the bootstrap
coverage of Sluijter et al. (arXiv:2503.07962, sections III B and IV).

Two sources of events. Pythia events go through the example's processor, which shifts and selects them; there are
enough of them for disjoint test sets. The events of the Fair Universe challenge are shifted here, and so few that
they are used in two halves, each the test of what the other one trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import neyman as ny
from neyman.diagnostics.bootstrap import bootstrap_coverage, intervals, resample, resampled_coverage
from neyman.diagnostics.closure import check_closure, closure
from neyman.diagnostics.overlap import MixtureSurface, chebyshev_nodes
from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files
from neyman.events.draws import uniform

PROCESSES = ("signal", "background")
MU, Z = (0.1, 0.2, 0.3), (0.93, 1.0, 1.07)
TRAINED_Z, USED_Z, NOMINAL_Z = (0.86, 1.14), (0.88, 1.12), 1.0
MU_GRID, Z_GRID = np.linspace(0.0, 0.6, 121), np.linspace(*USED_Z, 121)
N_NODES, SIZE, N_SETS, N_BLOCKS, N_EVENTS = 7, 1000, 100, 5, 9000

KINEMATIC = (
    "lep_pt", "tau_pt", "met", "m_vis", "pt_ratio", "deta", "dphi", "mt", "mt_tau", "pt_h", "m_tot", "dphi_met",
)  # fmt: skip
JETS = ("n_jets", "jet1_pt", "m_jj")
# Logarithms of positive quantities: the same information, without long tails for the splines of a flow.
LOGARITHMS = {f"ln_{name}": name for name in ("m_vis", "pt_ratio", "met", "pt_h", "m_tot")}
FEATURES = {"paper": ("ln_m_vis", "ln_pt_ratio"), "five": tuple(LOGARITHMS), "all": (*KINEMATIC, *JETS)}


@dataclass(frozen=True)
class TestSet:
    """Rows of the pools of one z that make up a test set, and its data sets.

    Attributes
    ----------
    block
        Test sets of different blocks share no event.
    rows
        Rows of each process in its pool.
    counts
        Multiplicities of the signal and then the background events, ``(n_sets, n_events)``.
    """

    __test__ = False
    mu: float
    z: float
    block: int
    rows: dict[str, np.ndarray]
    counts: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Events to train on, and events to test with.

    Attributes
    ----------
    name
        For messages and file names.
    training
        Of each process, at its own z, in column ``z``.
    reference
        Half-and-half mixture at the nominal z, of the training events.
    pools
        Test events by (process, z).
    sets
        Test sets, drawn from the pools.
    part
        Of each event of a pool, one of three parts; events in different parts are different ones.
    """

    name: str
    training: dict[str, ny.EventTable]
    reference: ny.EventTable
    pools: dict[tuple[str, float], ny.EventTable]
    sets: list[TestSet]

    def part(self, process: str, z: float) -> np.ndarray:
        return third(self.pools[process, z])


def third(table: ny.EventTable) -> np.ndarray:
    return np.floor(3.0 * uniform(("third",), table.extra["entry"].astype(np.int64))).astype(int)


def with_logarithms(table: ny.EventTable, z: str = "z") -> ny.EventTable:
    """The same events with the logarithms as further columns, and the nuisance parameter in column ``z``."""
    logs = {new: np.log(table.column(old)) for new, old in LOGARITHMS.items()}
    extra = dict(table.extra) | logs
    if z in extra:
        extra["z"] = extra.pop(z)
    return ny.EventTable(table.features, table.x, table.weight, extra)


def half_and_half(signal: ny.EventTable, background: ny.EventTable) -> ny.EventTable:
    """Both processes with a total weight of 1/2 each, without z: it is that of the numerator of a batch."""
    both = ny.EventTable.concat(one.scaled(0.5 / one.weight.sum()) for one in (signal, background))
    extra = {name: column for name, column in both.extra.items() if name != "z"}
    return ny.EventTable(both.features, both.x, both.weight, extra)


# Pythia events ----------------------------------------------------------------------------------------------


def pythia(data: Path, processor: Path, tables: Path, *, replicas: int = 2, seed: int = 1) -> Problem:
    """60% of the events train, each at `replicas` values of z; the others are in three parts, one for each true z."""
    variations = [Variation("trained", sampled={"tes": TRAINED_Z}, replicas=replicas)]
    variations += [Variation(f"at{k}", {"tes": z}) for k, z in enumerate(Z)]
    columns = (*KINEMATIC, *JETS)
    process_files(
        {"signal": str(data / "htautau.root"), "background": str(data / "ztautau.root")},
        TableProcessor(
            PythonRef.parse(f"{processor.name}:build", processor.parent),
            tuple(variations),
            {"signal": RegionSpec(columns=columns)},
            tables,
            seed=seed,
        ),
    )

    def read(process: str, variation: str) -> tuple[ny.EventTable, ny.EventTable]:
        extra = ("entry", "tes") if variation == "trained" else ("entry",)
        folder = tables / process / "signal" / variation
        found = ny.EventTable.from_parquet(str(folder), features=columns, extra=extra)
        return with_logarithms(found, "tes").split(0.6, seed=seed)

    training = {p: read(p, "trained")[0] for p in PROCESSES}
    nominal = {p: read(p, f"at{Z.index(NOMINAL_Z)}")[0] for p in PROCESSES}
    pools, sets = {}, []
    for k, z in enumerate(Z):
        for p in PROCESSES:
            test = read(p, f"at{k}")[1]
            pools[p, z] = test.select(third(test) == k)
        sets += _disjoint({p: len(pools[p, z]) for p in PROCESSES}, z, np.random.default_rng([seed, k]))
    return Problem("htautau", training, half_and_half(*nominal.values()), pools, sets)


def _disjoint(sizes: dict[str, int], z: float, rng: np.random.Generator) -> list[TestSet]:
    """Five blocks; in a block the test sets of different mu have different signal, and share background."""
    order = {p: rng.permutation(n) for p, n in sizes.items()}
    found, used = [], 0
    largest = N_EVENTS - int(N_EVENTS * MU[0] / (1.0 + MU[0]))
    for block in range(N_BLOCKS):
        for mu in MU:
            n = int(N_EVENTS * mu / (1.0 + mu))
            start = block * largest
            rows = {
                "signal": order["signal"][used : used + n],
                "background": order["background"][start : start + N_EVENTS - n],
            }
            used += n
            assert sum(map(len, rows.values())) == N_EVENTS
            counts = resample(N_EVENTS, size=SIZE, n_sets=N_SETS, seed=int(rng.integers(1 << 31)))
            found.append(TestSet(mu, z, N_BLOCKS * Z.index(z) + block, rows, counts))
    return found


# Fair Universe events ---------------------------------------------------------------------------------------

STORED = ("lep_pt", "lep_eta", "lep_phi", "had_pt", "had_eta", "had_phi", "met", "met_phi")
CUT_TAU_PT, CUT_MT_PAIR = 26.0, 75.0


def shifted(stored: dict[str, np.ndarray], z) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Kinematic features at the tau energy scale z, and which events are selected.

    The missing momentum takes up the opposite change of the tau. The stored events have tau pT above about 23 and a
    transverse mass of lepton and tau below 80 at z = 1; the cuts here are tighter at every z in use. Jets are left
    alone and out of the features: the tau is one of them in most events.
    """
    tau = stored["had_pt"] * z
    lep, met_x, met_y = (stored["lep_pt"], *_xy(stored["met"], stored["met_phi"]))
    change_x, change_y = _xy(tau - stored["had_pt"], stored["had_phi"])
    met_x, met_y = met_x - change_x, met_y - change_y
    met, met_phi = np.hypot(met_x, met_y), np.arctan2(met_y, met_x)
    (lep_x, lep_y), (tau_x, tau_y) = _xy(lep, stored["lep_phi"]), _xy(tau, stored["had_phi"])
    deta = np.abs(stored["lep_eta"] - stored["had_eta"])
    dphi = _delta(stored["lep_phi"], stored["had_phi"])
    mt, mt_tau, mt_pair = (
        np.sqrt(2.0 * a * b * (1.0 - np.cos(angle)))
        for a, b, angle in (
            (lep, met, met_phi - stored["lep_phi"]),
            (tau, met, met_phi - stored["had_phi"]),
            (lep, tau, dphi),
        )
    )
    features = {
        "lep_pt": lep,
        "tau_pt": tau,
        "met": met,
        "m_vis": np.sqrt(2.0 * lep * tau * (np.cosh(deta) - np.cos(dphi))),
        "pt_ratio": tau / lep,
        "deta": deta,
        "dphi": dphi,
        "mt": mt,
        "mt_tau": mt_tau,
        "pt_h": np.hypot(lep_x + tau_x + met_x, lep_y + tau_y + met_y),
        "m_tot": np.sqrt(mt**2 + mt_tau**2 + mt_pair**2),
        "dphi_met": _delta(np.arctan2(lep_y + tau_y, lep_x + tau_x), met_phi),
    }
    return features, (tau > CUT_TAU_PT) & (mt_pair < CUT_MT_PAIR)


def _xy(pt, phi):
    return pt * np.cos(phi), pt * np.sin(phi)


def _delta(a, b):
    return np.abs((a - b + np.pi) % (2.0 * np.pi) - np.pi)


def fair_events(data: Path) -> dict[str, ny.EventTable]:
    """Stored columns and derived ones of each process."""
    names = [f"PRI_{name}" for name in STORED]
    check = ("DER_mass_vis", "DER_pt_h", "DER_mass_transverse_met_lep", "DER_mass_transverse_lep_had")
    file = str(data / "fair2023_htautau_ztautau_48300.parquet")
    events = ny.EventTable.from_parquet(file, features=names, extra=("label", *check))
    extra = dict(events.extra) | {"entry": np.arange(len(events))}
    events = ny.EventTable(events.features, events.x, np.ones(len(events)), extra)
    label = events.column("label")
    return {"signal": events.select(label == 1), "background": events.select(label == 0)}


def at_scale(events: ny.EventTable, z) -> ny.EventTable:
    """Selected events at the tau energy scale z, a number or one an event."""
    stored = {name: events.column(f"PRI_{name}").astype(np.float64) for name in STORED}
    features, selected = shifted(stored, z)
    extra = {"entry": events.extra["entry"], "z": np.broadcast_to(z, len(events)).astype(np.float32)}
    table = ny.EventTable.from_arrays(features | extra, features=KINEMATIC, extra=tuple(extra))
    return with_logarithms(table.select(selected))


def fair(data: Path, fold: int, *, replicas: int = 4, n_signal: int = 6000, seed: int = 1) -> Problem:
    """Half of the events train, each at `replicas` values of z, the other half tests; `fold` 1 is the reverse.

    9,000 events of the right composition need more Z events than there are. Data sets of 1,000 are therefore drawn
    from all events of the test half, a binomial number of them signal: from the background they see about as many
    different events as those of the paper. All nine points share the events of a half. The two halves are mirror
    images, what one has too much of the other lacks: together they are about one draw of the training sample.
    """
    rng = np.random.default_rng([seed, fold])
    training, nominal, pools, sets = {}, {}, {}, []
    for process, events in fair_events(data).items():
        halves = events.split(0.5, seed=seed)
        own, other = halves[fold], halves[1 - fold]
        draws = [at_scale(own, rng.uniform(*TRAINED_Z, len(own))) for _ in range(replicas)]
        training[process], nominal[process] = ny.EventTable.concat(draws), at_scale(own, NOMINAL_Z)
        if process == "signal":
            other = other.select(np.arange(n_signal))
        pools |= {(process, z): at_scale(other, z) for z in Z}
    for z in Z:
        rows = {p: np.arange(len(pools[p, z])) for p in PROCESSES}
        for mu in MU:
            n = rng.binomial(SIZE, mu / (1.0 + mu), N_SETS)
            counts = [
                np.concatenate(
                    [
                        resample(len(rows[p]), size=int(size), n_sets=1, seed=int(rng.integers(1 << 31)))[0]
                        for p, size in zip(PROCESSES, (k, SIZE - k), strict=True)
                    ]
                )
                for k in n
            ]
            sets.append(TestSet(mu, z, fold, rows, np.stack(counts)))
    return Problem(f"fair{fold}", training, half_and_half(*nominal.values()), pools, sets)


# Scores -----------------------------------------------------------------------------------------------------

Members = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class Score:
    """Intervals of one likelihood, with their test sets."""

    sets: list[TestSet] = field(default_factory=list)
    mu: list = field(default_factory=list)
    z: list = field(default_factory=list)

    def add(self, one: TestSet, surface: MixtureSurface) -> None:
        self.sets.append(one)
        self.mu.append(intervals(MU_GRID, surface.profile_mu(MU_GRID)))
        self.z.append(intervals(Z_GRID, surface.profile_z(Z_GRID)))

    def figures(self) -> dict:
        """Coverage and width, bias of the estimates and their pulls; errors from the spread of the blocks."""
        found: dict = {}
        blocks = np.array([one.block for one in self.sets])
        for name in ("mu", "z"):
            truth, own = np.array([getattr(one, name) for one in self.sets]), getattr(self, name)
            each = [
                bootstrap_coverage(
                    [own[k] for k in np.flatnonzero(blocks == b)],
                    truth[blocks == b],
                    parameter=name,
                    expected=resampled_coverage(9),
                )
                for b in np.unique(blocks)
            ]
            off = [one.best - true for one, true in zip(own, truth, strict=True)]
            half = [0.5 * np.where(one.closed, one.width, np.nan) for one in own]
            pulls = [a / b for a, b in zip(off, half, strict=True)]
            found[f"coverage_{name}"], found[f"coverage_{name}_error"] = mean_and_error(
                [one.coverage for one in each]
            )
            found[f"width_{name}"] = float(np.mean([one.width for one in each]))
            found[f"open_{name}"] = sum(one.n_open for one in each)
            found[f"bias_{name}"], found[f"bias_{name}_error"] = mean_and_error(
                [np.mean([off[k] for k in np.flatnonzero(blocks == b)]) for b in np.unique(blocks)]
            )
            found[f"pull_{name}"] = float(np.nanmean(pulls))
            found[f"pull_spread_{name}"] = float(np.nanstd(pulls))
        return found


def mean_and_error(values) -> tuple[float, float]:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def log_ratios(members: Members, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Log-ratios of every member and of their mean, ``(n_members + 1, n_events, n_z)``."""
    table = np.stack([np.asarray(members(x, [value]), np.float64) for value in z], axis=-1)
    return np.concatenate([table, table.mean(axis=0, keepdims=True)])


def log_norms(table: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``ln E_q[r]`` of the reference events in a table of log-ratios, ``(n_members + 1, 1, n_z)``."""
    return np.log(np.einsum("men,e->mn", np.exp(table), weight) / weight.sum())[:, None, :]


def evaluate(problem: Problem, features: tuple[str, ...], estimators: dict, scores: dict) -> None:
    """Add the intervals of all test sets to `scores`, ``{(name, member): Score}``.

    `estimators` maps names to {process: members}, a function of (x, z) that gives the log-ratio of every member; the
    ``lre`` is judged with its ratios normalised over the reference events of the training, and as ``lre_raw``
    without. The last member is the mean of the log-ratios.
    """
    nodes = chebyshev_nodes(*USED_Z, N_NODES)
    reference = problem.reference.with_features(features)
    some = np.random.default_rng(0).permutation(len(reference))[:40_000]
    for name, by_process in estimators.items():
        norms = {}
        if name == "lre":
            norms = {
                p: log_norms(log_ratios(members, reference.x[some], nodes), reference.weight[some])
                for p, members in by_process.items()
            }
        for z in Z:
            tables = {
                p: np.concatenate(
                    [
                        log_ratios(members, problem.pools[q, z].with_features(features).x, nodes)
                        for q in PROCESSES
                    ],
                    axis=1,
                )
                for p, members in by_process.items()
            }
            start = len(problem.pools["signal", z])
            for one in (one for one in problem.sets if one.z == z):
                rows = np.concatenate([one.rows["signal"], start + one.rows["background"]])
                chosen = {p: table[:, rows] for p, table in tables.items()}
                last = len(chosen["signal"]) - 1
                jobs = [(name, m) for m in range(last + 1)]
                jobs += [("lre_raw", last)] if norms else []
                for key, m in jobs:
                    ratios = [
                        chosen[p][m] - (norms[p][m] if norms and key == "lre" else 0.0) for p in PROCESSES
                    ]
                    surface = MixtureSurface.from_log_ratios(
                        *ratios, z_range=USED_Z, mu_range=(MU_GRID[1], MU_GRID[-1]), multiplicity=one.counts
                    )
                    scores.setdefault((key, m if m < last else "ensemble"), Score()).add(one, surface)


def closures(problem: Problem, features: tuple[str, ...], name: str, by_process: dict) -> list:
    """Reweight nominal test events to each process at z = 0.93 and 1.07, and compare with other test events.

    The denominator of a ratio of densities is the half-and-half mixture of the densities at the nominal z.
    """
    nominal = [problem.pools[p, NOMINAL_Z] for p in PROCESSES]
    parts = [problem.part(p, NOMINAL_Z) for p in PROCESSES]
    reference = half_and_half(*(t.select(k == 1) for t, k in zip(nominal, parts, strict=True)))
    x = reference.with_features(features).x

    def mean(process: str, z: float) -> np.ndarray:
        return by_process[process](x, [z]).mean(axis=0).astype(np.float64)

    denominator = np.zeros(len(x))
    if name != "lre":
        denominator = np.logaddexp(*(mean(p, NOMINAL_Z) for p in PROCESSES)) - np.log(2.0)
    found = []
    for z, part in ((Z[0], 0), (Z[2], 2)):
        for process in PROCESSES:
            pool = problem.pools[process, z]
            target = pool.select(problem.part(process, z) == part).with_features(features)
            found += closure(
                f"{process} at {z:g}",
                features,
                (target.x.astype(np.float64), target.weight),
                (x.astype(np.float64), reference.weight),
                mean(process, z) - denominator,
            )
    return found


def closure_figures(found: list) -> dict:
    """The verdict on all comparisons, and the largest deviation."""
    check = check_closure(found)
    return {
        "passed": check.passed,
        "reason": check.reason,
        "comparisons": len(found),
        "largest_deviation": max(one.deviation for one in found),
        "resolution": float(np.median([one.resolution for one in found])),
        "smallest_corrected_p": min(p for p in check.corrected if p is not None),
    }

"""Make jets at 13 TeV for a study of unfolding: two tunes of Pythia 8 behind the same parametric detector.

    pip install "neyman[generate]"
    python examples/unfolding/generate.py simulation --events 100000 --seed 1 --output DIR
    python examples/unfolding/generate.py data --events 100000 --seed 1 --output DIR

write `DIR/simulation.parquet` (tune A) and `DIR/data.parquet` (tune B), one row an event, with their figures in
`DIR/simulation.json` and `DIR/data.json`. An event is a Z boson that is not seen and the jet it recoils from, at
particle level (columns `gen_...`) and at detector level (`reco_...`):

- `pass_gen`, `pass_reco`: whether the level's selection is passed; rows pass at least one. Where a level is not
  passed, all its columns are 0.
- `gen_particle0_eta`, `gen_particle0_phi`, `gen_particle0_log_z`, `gen_particle1_eta`, ...: the jet's particles by
  falling transverse momentum, relative to its axis; log_z is the logarithm of the particle's part of the jet's
  transverse momentum. Rows with fewer particles are filled up with 0; further particles are left out.
- `gen_pt` (GeV), `gen_mass` (GeV), `gen_multiplicity`, `gen_width` (the particles' mean distance from the axis,
  weighted by pt), `gen_tau21` (2- over 1-subjettiness), `gen_zg` (momentum fraction of the first soft-drop splitting,
  0 where there is none), `gen_z_lead` (momentum fraction of the hardest particle).

Matrix elements are leading order, there are no multiparton interactions, and particles are massless to the jet
clustering. What is missing makes the events fast: one core makes 400 to 500 a second.
"""

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import fastjet
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pythia8mc

BATCH = 2000
PARTICLES = 16
RADIUS, ETA_MAX = 0.4, 2.0
GEN_PT, RECO_PT = 110.0, 100.0  # GeV; the detector loses 7% of a jet
THRESHOLD = 1.0  # GeV, of a particle
LEVELS = ("gen", "reco")
OBSERVABLES = ("pt", "mass", "multiplicity", "width", "tau21", "zg", "z_lead")

COMMON = (
    "Beams:eCM = 13000.",
    "Print:quiet = on",
    "Random:setSeed = on",
    "WeakBosonAndParton:qqbar2gmZg = on",
    "WeakBosonAndParton:qg2gmZq = on",
    "WeakZ0:gmZmode = 2",
    "PhaseSpace:pTHatMin = 100.",
    "23:onMode = off",
    "23:onIfAny = 12 14 16",
    "PartonLevel:MPI = off",
    "ParticleDecays:limitTau0 = on",  # K0S and strange baryons reach the detector
)


@dataclass(frozen=True)
class Tune:
    """Pythia settings, and a number that makes its random numbers different from those of other tunes."""

    number: int
    settings: tuple[str, ...]


TUNES = {
    # Tune A, the simulation: Pythia's default, Monash 2013.
    "simulation": Tune(1, ("Tune:pp = 14",)),
    # Tune B, nature: less radiation, harder fragmentation, fewer strange particles, a harder spectrum.
    "data": Tune(
        2,
        (
            "Tune:pp = 14",
            "TimeShower:alphaSvalue = 0.125",  # 0.1365
            "StringZ:aLund = 0.55",  # 0.68
            "StringZ:bLund = 1.15",  # 0.98
            "StringPT:sigma = 0.30",  # 0.335
            "StringFlav:probStoUD = 0.18",  # 0.217
            "SigmaProcess:alphaSorder = 0",  # 1: the coupling falls with the scale
        ),
    ),
}


@dataclass(frozen=True)
class Response:
    r"""Response to a kind of particle.

    Found with the probability `plateau` (1 - exp(-pt / `rise`)); relative resolution of pt the quadratic sum of
    `constant`, `stochastic` / sqrt(pt) and `linear` pt; `angle` is the resolution of eta and of phi. Momenta in GeV.
    """

    plateau: float
    rise: float
    constant: float
    stochastic: float
    linear: float
    angle: float
    threshold: float


TRACK = Response(0.90, 0.3, 0.015, 0.0, 5e-4, 0.002, 1.0)
PHOTON = Response(0.92, 0.5, 0.030, 0.25, 0.0, 0.020, 1.0)
NEUTRAL = Response(0.90, 1.5, 0.100, 0.80, 0.0, 0.040, 2.0)


def configure(tune: Tune, seed: int) -> pythia8mc.Pythia:
    """Pythia with a tune; `seed` is Pythia's own, 1 to 900000000."""
    pythia = pythia8mc.Pythia("", False)
    for line in (*COMMON, f"Random:seed = {seed}", *tune.settings):
        if not pythia.readString(line):
            raise SystemExit(f"Pythia refuses {line!r}")
    if not pythia.init():
        raise SystemExit("Pythia does not initialise")
    return pythia


def delta_phi(a, b):
    return (a - b + np.pi) % (2 * np.pi) - np.pi


def delta_r(a, b):
    return np.hypot(a.eta - b.eta, delta_phi(a.phi, b.phi))


def from_cartesian(p):
    pt = np.hypot(p.px, p.py)
    return ak.zip({"pt": pt, "eta": np.arcsinh(p.pz / pt), "phi": np.arctan2(p.py, p.px)})


def to_cartesian(p):
    """Massless momenta as the jet clustering takes them."""
    columns = {"px": p.pt * np.cos(p.phi), "py": p.pt * np.sin(p.phi), "pz": p.pt * np.sinh(p.eta)}
    return ak.zip(columns | {"E": p.pt * np.cosh(p.eta)}, with_name="Momentum4D")


def visible(particles):
    """Particles that a detector could see: pt, eta, phi and kind (0 charged, 1 photon, 2 neutral hadron)."""
    pdg_id = abs(particles.id)
    neutrino = (pdg_id == 12) | (pdg_id == 14) | (pdg_id == 16)
    neutral = (pdg_id == 130) | (pdg_id == 310) | (pdg_id == 2112) | (pdg_id == 3122) | (pdg_id == 3322)
    kind = ak.where(pdg_id == 22, 1, ak.where(neutral, 2, 0))
    # Particles along the beam have no pt: they must go before their angles are taken.
    kept = (particles.status > 0) & ~neutrino & (np.hypot(particles.p.px, particles.p.py) > THRESHOLD)
    found = ak.with_field(from_cartesian(particles.p[kept]), kind[kept], "kind")
    return found[abs(found.eta) < ETA_MAX + 2 * RADIUS]


def hardest_jet(particles):
    """Constituents and axis of each event's hardest jet; None where there are no particles."""
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    clusters = fastjet.ClusterSequence(to_cartesian(particles), definition)
    jets, members = from_cartesian(clusters.inclusive_jets()), clusters.constituent_index()
    first = ak.argmax(jets.pt, axis=1, keepdims=True)
    inside = ak.fill_none(ak.firsts(members[first]), [], axis=0)
    return particles[inside], ak.firsts(jets[first])


def detect(particles, axis, rng):
    """Measured particles around the axis."""
    particles = particles[delta_r(particles, axis) < 2 * RADIUS]
    counts, kind = ak.num(particles), ak.to_numpy(ak.flatten(particles.kind))
    pt, eta, phi = (ak.to_numpy(ak.flatten(particles[name])) for name in ("pt", "eta", "phi"))
    n, kinds = len(kind), (TRACK, PHOTON, NEUTRAL)
    one = {name: np.array([getattr(k, name) for k in kinds])[kind] for name in Response.__dataclass_fields__}

    resolution = np.hypot(np.hypot(one["constant"], one["stochastic"] / np.sqrt(pt)), one["linear"] * pt)
    measured = pt * (1 + rng.normal(size=n) * resolution)
    found = rng.random(n) < one["plateau"] * (1 - np.exp(-pt / one["rise"]))
    found &= measured > one["threshold"]
    columns = {
        "pt": measured,
        "eta": eta + rng.normal(size=n) * one["angle"],
        "phi": phi + rng.normal(size=n) * one["angle"],
        "kind": kind,
    }
    return ak.unflatten(ak.zip(columns), counts)[ak.unflatten(found, counts)]


def trigger_efficiency(pt):
    """Probability that an event with a jet of this particle-level pt is recorded."""
    return 0.97 - 0.10 * np.exp(-np.maximum(pt - 100.0, 0.0) / 40.0)


def splittings(particles):
    """tau21 and the soft-drop momentum fraction of jets of at least three particles."""
    momenta = to_cartesian(particles)
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, 1.0, fastjet.WTA_pt_scheme)
    clusters, tau = fastjet.ClusterSequence(momenta, definition), []
    for n in (1, 2):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "dcut and exclusive jets")  # said of every algorithm, kt too
            axes = from_cartesian(clusters.exclusive_jets(n_jets=n))
        distance = [delta_r(particles, axes[:, k]) for k in range(n)]
        nearest = distance[0] if n == 1 else np.minimum(*distance)
        tau.append(ak.to_numpy(ak.sum(particles.pt * nearest, axis=1)))
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 1.0)
    groomed = fastjet.ClusterSequence(momenta, definition).exclusive_jets_softdrop_grooming(
        beta=0.0, symmetry_cut=0.1, R0=RADIUS
    )
    return tau[1] / tau[0], np.nan_to_num(np.maximum(ak.to_numpy(groomed.symmetrysoftdrop), 0.0))


def describe(particles, level) -> dict:
    """Columns of a level, from the particles of each event's jet; 0 where there are none."""
    n, counts = len(particles), ak.to_numpy(ak.num(particles))
    particles = particles[ak.argsort(particles.pt, axis=1, ascending=False)]
    momenta = to_cartesian(particles)
    total = {name: ak.to_numpy(ak.sum(momenta[name], axis=1)) for name in ("px", "py", "pz", "E")}
    squares = total["E"] ** 2 - total["px"] ** 2 - total["py"] ** 2 - total["pz"] ** 2
    present = counts > 0
    jet_pt = np.hypot(total["px"], total["py"])
    safe_pt = np.where(present, jet_pt, 1.0)
    axis = ak.zip(
        {"eta": np.arcsinh(total["pz"] / safe_pt), "phi": np.arctan2(total["py"], total["px"])},
    )
    inside = ak.zip(
        {
            "eta": particles.eta - axis.eta,
            "phi": delta_phi(particles.phi, axis.phi),
            "log_z": np.log(particles.pt / safe_pt),
        }
    )
    tau21, zg = np.zeros(n), np.zeros(n)
    several = counts > 2
    tau21[several], zg[several] = splittings(particles[several])
    fraction = particles.pt / safe_pt
    columns = {
        "pt": jet_pt,
        "mass": np.sqrt(np.maximum(squares, 0.0)),
        "multiplicity": counts,
        "width": ak.to_numpy(ak.sum(fraction * np.hypot(inside.eta, inside.phi), axis=1)),
        "tau21": tau21,
        "zg": zg,
        "z_lead": ak.to_numpy(ak.fill_none(ak.firsts(fraction), 0.0)),
    }
    event = np.repeat(np.arange(n), counts)
    position = ak.to_numpy(ak.flatten(ak.local_index(particles.pt)))
    kept = position < PARTICLES
    for name in inside.fields:
        table = np.zeros((n, PARTICLES))
        table[event[kept], position[kept]] = ak.to_numpy(ak.flatten(inside[name]))[kept]
        columns |= {f"particle{i}_{name}": table[:, i] for i in range(PARTICLES)}
    return {f"{level}_{name}": column.astype(np.float32) for name, column in columns.items()}


def is_jet(particles, axis, pt):
    """At least two particles, hard enough and central."""
    accepted = (ak.num(particles) > 1) & (axis.pt > pt) & (abs(axis.eta) < ETA_MAX)
    return ak.to_numpy(ak.fill_none(accepted, False))


def events_of(particles, rng) -> dict:
    """Columns of the events of a batch that pass a level."""
    particles = visible(particles)
    gen, gen_axis = hardest_jet(particles)
    seen = ak.to_numpy(ak.fill_none(gen_axis.pt > 0.5 * GEN_PT, False))
    particles, gen, gen_axis = particles[seen], gen[seen], gen_axis[seen]
    reco, reco_axis = hardest_jet(detect(particles, gen_axis, rng))

    recorded = rng.random(len(gen)) < trigger_efficiency(ak.to_numpy(gen_axis.pt))
    same = ak.to_numpy(ak.fill_none(delta_r(reco_axis, gen_axis) < RADIUS / 2, False))
    passes = {
        "gen": is_jet(gen, gen_axis, GEN_PT),
        "reco": is_jet(reco, reco_axis, RECO_PT) & recorded & same,
    }
    kept = passes["gen"] | passes["reco"]
    columns = {f"pass_{level}": mask[kept] for level, mask in passes.items()}
    for level, jet in (("gen", gen), ("reco", reco)):
        # Nothing may be learned from a level that is not passed: its jet has no particles.
        in_jet = ak.broadcast_arrays(passes[level], jet.pt)[0]
        columns |= describe(jet[in_jet][kept], level)
    return columns


def generate(name: str, seed: int, events: int) -> tuple[dict, dict]:
    """Columns of `events` events, and the sample's figures."""
    tune, start = TUNES[name], time.process_time()
    rng = np.random.default_rng([seed, tune.number])
    pythia = configure(tune, int(rng.integers(1, 900_000_000)))
    batches, generated, found = [], 0, 0
    while found < events:
        batch = pythia.nextBatch(BATCH)
        generated += len(batch)
        batches.append(events_of(batch.prt, rng))
        found += len(batches[-1]["pass_gen"])
        print(f"\r{found} of {events} events", end="", flush=True)
    print()
    columns = {key: np.concatenate([b[key] for b in batches])[:events] for key in batches[0]}
    return columns, figures(columns) | {
        "seed": seed,
        "settings": [*COMMON, *tune.settings],
        "generated_per_event": generated / found,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def figures(columns: dict) -> dict:
    """Counts, efficiency and acceptance of a sample, and how many particles are left out."""
    gen, reco = columns["pass_gen"], columns["pass_reco"]
    summary = {
        "events": len(gen),
        **{f"pass_{level}": int(columns[f"pass_{level}"].sum()) for level in LEVELS},
        "pass_both": int((gen & reco).sum()),
        "efficiency": float(reco[gen].mean()),
        "acceptance": float(gen[reco].mean()),
    }
    for level in LEVELS:
        counts = columns[f"{level}_multiplicity"][columns[f"pass_{level}"]]
        summary[f"{level}_jets_cut_off"] = float((counts > PARTICLES).mean())
        summary[f"{level}_particles_cut_off"] = float(np.maximum(counts - PARTICLES, 0).sum() / counts.sum())
    return summary


def write(name: str, columns: dict, summary: dict, folder: Path) -> None:
    """Write the events and the sample's figures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.parquet"
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(pa.table(columns), unfinished)
    unfinished.replace(path)
    path.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sample", choices=list(TUNES))
    parser.add_argument("--events", type=int, default=100_000, help="how many, that pass a level")
    parser.add_argument("--seed", type=int, default=1, help="0 or more; samples of one seed are independent")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of <sample>.parquet and <sample>.json"
    )
    options = parser.parse_args()
    columns, summary = generate(options.sample, options.seed, options.events)
    write(options.sample, columns, summary, options.output)
    print(json.dumps({k: v for k, v in summary.items() if k != "settings"}, indent=1))


if __name__ == "__main__":
    main()

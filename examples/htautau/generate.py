"""Make lepton + hadronic-tau events at 13 TeV with Pythia 8 and a parametric detector.

    pip install "neyman[generate]"
    python examples/htautau/generate.py htautau --seconds 60 --seed 1 --output DIR

writes `DIR/htautau.root`, a NanoAOD-like tree, and the sample's figures to `DIR/samples.json`. One core accepts
150 to 250 events a second.

Matrix elements are leading order and tau decays ignore spin; hadronisation and multiparton interactions are
off, jets are clustered from partons. The events are fast to make and self-consistent, not a full simulation.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import fastjet
import numpy as np
import pythia8mc
import uproot

BATCH = 5000
COMMON = (
    "Beams:eCM = 13000.",
    "Print:quiet = on",
    "Random:setSeed = on",
    "PartonLevel:MPI = off",
    "HadronLevel:Hadronize = off",
    "TauDecays:mode = 0",
)
HIGGS = ("25:m0 = 125.", "25:onMode = off", "25:onIfMatch = 15 15")


@dataclass(frozen=True)
class Process:
    """Pythia settings, and the cross section in pb with the branching into the generated final state."""

    settings: tuple[str, ...]
    cross_section_pb: float
    k_factor: float


# One tau decays to a lepton, the other to hadrons: a factor 0.456. In ttbar one W decays to the hadronic tau.
PROCESSES = {
    "htautau": Process(("HiggsSM:all = on", *HIGGS), 2.041 * 0.456, 1.7),
    "ggh": Process(("HiggsSM:gg2H = on", *HIGGS), 1.632 * 0.456, 1.7),
    "vbf": Process(("HiggsSM:ff2Hff(t:ZZ) = on", "HiggsSM:ff2Hff(t:WW) = on", *HIGGS), 0.224 * 0.456, 1.0),
    "ztautau": Process(
        (
            "WeakSingleBoson:ffbar2gmZ = on",
            "PhaseSpace:mHatMin = 60.",
            "PhaseSpace:mHatMax = 160.",
            "23:onMode = off",
            "23:onIfMatch = 15 15",
        ),
        1469.0 * 0.456,
        1.3,
    ),
    "ttbar": Process(
        ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "24:onMode = off"), 17.83 * 0.508 * 2, 1.65
    ),
}


def configure(name: str, seed: int) -> pythia8mc.Pythia:
    """Pythia with negative taus decaying to leptons and positive ones to hadrons."""
    pythia = pythia8mc.Pythia("", False)
    for line in (*COMMON, f"Random:seed = {seed}", *PROCESSES[name].settings):
        if not pythia.readString(line):
            raise SystemExit(f"Pythia refuses {line!r}")
    both, particle_only, antiparticle_only = 1, 2, 3
    tau, w = (pythia.particleData.particleDataEntryPtr(pdg_id) for pdg_id in (15, 24))
    for channel in map(tau.channel, range(tau.sizeChannels())):
        channel.onMode(particle_only if products(channel) & {11, 13} else antiparticle_only)
    if name == "ttbar":
        for channel in map(w.channel, range(w.sizeChannels())):
            if 15 in products(channel):
                channel.onMode(both)
            elif products(channel) & {11, 13}:
                channel.onMode(antiparticle_only)
    if not pythia.init():
        raise SystemExit("Pythia does not initialise")
    return pythia


def products(channel) -> set[int]:
    return {abs(channel.product(i)) for i in range(channel.multiplicity())}


def delta_phi(a, b):
    return (a - b + np.pi) % (2 * np.pi) - np.pi


def delta_r(eta_a, phi_a, eta_b, phi_b):
    return np.hypot(eta_a - eta_b, delta_phi(phi_a, phi_b))


def pt_eta_phi(px, py, pz):
    pt = np.sqrt(px**2 + py**2)
    return pt, np.arcsinh(pz / np.maximum(pt, 1e-6)), np.arctan2(py, px)


def is_neutrino(particles):
    pdg_id = abs(particles.id)
    return (particles.status > 0) & ((pdg_id == 12) | (pdg_id == 14) | (pdg_id == 16))


def find_pair(particles):
    """True lepton and visible hadronic tau of each event, and whether both are there."""
    index = ak.local_index(particles.id)
    daughter = ak.where(particles.daughter1 < ak.num(particles.id), particles.daughter1, 0)
    last_copy = (particles.id == -15) & (particles.status < 0) & (particles.id[daughter] != -15)
    tau_index = ak.fill_none(ak.firsts(index[last_copy][:, -1:]), -1)
    tau = particles[last_copy][:, -1:].p
    neutrino = particles[(particles.status > 0) & (particles.id == -16) & (particles.mother1 == tau_index)].p
    px, py, pz, e = (
        ak.to_numpy(ak.sum(tau[c], axis=1) - ak.sum(neutrino[c], axis=1)) for c in ("px", "py", "pz", "e")
    )
    tau_pt, tau_eta, tau_phi = pt_eta_phi(px, py, pz)
    negative = (particles.status > 0) & ((particles.id == 11) | (particles.id == 13))
    lepton_pt = ak.where(negative, np.hypot(particles.p.px, particles.p.py), -1.0)
    lepton = ak.firsts(particles[ak.argmax(lepton_pt, axis=1, keepdims=True)])
    pt, eta, phi = pt_eta_phi(*(ak.to_numpy(ak.fill_none(lepton.p[c], 0.0)) for c in ("px", "py", "pz")))
    pdg_id = ak.to_numpy(ak.fill_none(lepton.id, 0))
    return {
        "found": (ak.to_numpy(tau_index) >= 0) & ((pdg_id == 11) | (pdg_id == 13)),
        "tau_index": ak.to_numpy(tau_index),
        "electron": pdg_id == 11,
        "lep_pt": pt,
        "lep_eta": eta,
        "lep_phi": phi,
        "tau_pt": tau_pt,
        "tau_eta": tau_eta,
        "tau_phi": tau_phi,
        "tau_mass": np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0.0)),
    }


def measure_pair(pair, rng):
    """Smeared momenta, and which events are accepted and identified."""
    n, lep_pt, tau_pt = len(pair["found"]), pair["lep_pt"], pair["tau_pt"]
    calorimeter = np.hypot(0.01, 0.10 / np.sqrt(np.maximum(lep_pt, 1)))
    tracker = np.hypot(0.01, 2e-4 * lep_pt)
    lep = lep_pt * (1 + rng.normal(size=n) * np.where(pair["electron"], calorimeter, tracker))
    tau = tau_pt * (1 + rng.normal(size=n) * np.hypot(0.04, 0.5 / np.sqrt(np.maximum(tau_pt, 1))))
    apart = delta_r(pair["lep_eta"], pair["lep_phi"], pair["tau_eta"], pair["tau_phi"]) > 0.5
    central = (abs(pair["lep_eta"]) < 2.4) & (abs(pair["tau_eta"]) < 2.4)
    identified = rng.random(n) < np.where(pair["electron"], 0.80, 0.92) * 0.65
    return lep, tau, pair["found"] & (lep > 18) & (tau > 16) & central & apart & identified


def find_jets(particles, pair, rng):
    """Measured jets apart from the pair, hardest first, and the scalar sum of hadronic pt."""
    pdg_id, final = abs(particles.id), particles.status > 0
    from_tau = particles.mother1 == pair["tau_index"]
    hadrons = particles[final & ~is_neutrino(particles) & (pdg_id != 11) & (pdg_id != 13) & ~from_tau].p
    pt, eta, _ = pt_eta_phi(hadrons.px, hadrons.py, hadrons.pz)
    seen = (pt > 1e-3) & (abs(eta) < 5)
    hadrons, sum_pt = hadrons[seen], ak.to_numpy(ak.sum(pt[seen], axis=1))
    momenta = ak.zip(
        {"px": hadrons.px, "py": hadrons.py, "pz": hadrons.pz, "E": hadrons.e}, with_name="Momentum4D"
    )
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4)
    jets = fastjet.ClusterSequence(momenta, definition).inclusive_jets(min_pt=12.0)
    pt, eta, phi = pt_eta_phi(jets.px, jets.py, jets.pz)

    bottom = particles[final & (pdg_id == 5)].p
    _, bottom_eta, bottom_phi = pt_eta_phi(bottom.px, bottom.py, bottom.pz)
    pairs = ak.cartesian({"j": ak.zip([eta, phi]), "b": ak.zip([bottom_eta, bottom_phi])}, nested=True)
    distance = delta_r(pairs.j["0"], pairs.j["1"], pairs.b["0"], pairs.b["1"])
    has_bottom = ak.any(distance < 0.4, axis=-1) & (abs(eta) < 2.4)

    counts, flat = ak.num(pt), ak.to_numpy(ak.flatten(pt))
    resolution = np.hypot(0.04, 0.8 / np.sqrt(flat))
    measured = ak.unflatten(flat * (1 + rng.normal(size=len(flat)) * resolution), counts)
    tagged = ak.unflatten(rng.random(len(flat)), counts) < ak.where(has_bottom, 0.70, 0.01)
    clean = (abs(eta) < 4.5) & (measured > 20)
    for one in ("lep", "tau"):
        clean = clean & (delta_r(eta, phi, pair[f"{one}_eta"], pair[f"{one}_phi"]) > 0.4)
    found = ak.zip({"pt": measured, "eta": eta, "phi": phi, "mass": 0.1 * measured, "btag": tagged})[clean]
    return found[ak.argsort(found.pt, axis=1, ascending=False)], sum_pt


def detect(particles, rng) -> dict:
    """Columns of the accepted events of a batch."""
    pair = find_pair(particles)
    lep_pt, tau_pt, accepted = measure_pair(pair, rng)
    particles = particles[accepted]
    pair = {name: column[accepted] for name, column in pair.items()}
    lep_pt, tau_pt, n = lep_pt[accepted], tau_pt[accepted], int(accepted.sum())
    jets, sum_pt = find_jets(particles, pair, rng)

    # The missing momentum is that of the neutrinos, smeared, less what the pair was mismeasured by.
    neutrinos = particles[is_neutrino(particles)].p
    met = ak.to_numpy(ak.sum(neutrinos.px, axis=1)) + 1j * ak.to_numpy(ak.sum(neutrinos.py, axis=1))
    sigma = 0.5 * np.sqrt(sum_pt + 300.0)
    met = met + sigma * (rng.normal(size=n) + 1j * rng.normal(size=n))
    met -= (lep_pt - pair["lep_pt"]) * np.exp(1j * pair["lep_phi"])
    met -= (tau_pt - pair["tau_pt"]) * np.exp(1j * pair["tau_phi"])
    columns = {
        name: pair[name] for name in ("electron", "lep_eta", "lep_phi", "tau_eta", "tau_phi", "tau_mass")
    }
    charge = rng.choice([-1, 1], n)
    measured = {"lep_pt": lep_pt, "tau_pt": tau_pt, "met_pt": abs(met), "met_phi": np.angle(met)}
    return columns | measured | {"charge": charge, "jets": jets}


def as_stored(values):
    """float32 with an 11-bit mantissa, as in NanoAOD."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x800) & 0xFFFFF000).astype(np.uint32).view(np.float32)


def nano_branches(batches: list[dict], run: int) -> dict:
    """Branches and collections of the tree."""
    flat = {k: np.concatenate([b[k] for b in batches]) for k in batches[0] if k != "jets"}
    jets = ak.concatenate([batch["jets"] for batch in batches])
    n = len(flat["charge"])

    def one_where(mask, name, mass, charge):
        columns = {f: as_stored(flat[f"{name}_{f}"][mask]) for f in ("pt", "eta", "phi")}
        columns |= {"mass": as_stored(mass[mask]), "charge": charge[mask].astype(np.int32)}
        return ak.unflatten(ak.zip(columns), mask.astype(np.int64))

    electron, everywhere = flat["electron"], np.ones(n, dtype=bool)
    kinds = {f: np.uint8 if f == "btag" else np.float32 for f in jets.fields}
    values = {f: ak.to_numpy(ak.flatten(jets[f])) for f in jets.fields}
    stored = {f: v.astype(kinds[f]) if f == "btag" else as_stored(v) for f, v in values.items()}
    return {
        "run": np.full(n, run, dtype=np.uint32),
        "luminosityBlock": (np.arange(n) // 1000 + 1).astype(np.uint32),
        "event": np.arange(n, dtype=np.uint64),
        "genWeight": np.ones(n, dtype=np.float32),
        "MET_pt": as_stored(flat["met_pt"]),
        "MET_phi": as_stored(flat["met_phi"]),
        "Electron": one_where(electron, "lep", np.full(n, 0.000511), flat["charge"]),
        "Muon": one_where(~electron, "lep", np.full(n, 0.10566), flat["charge"]),
        "Tau": one_where(everywhere, "tau", flat["tau_mass"], -flat["charge"]),
        "Jet": ak.unflatten(ak.zip(stored), ak.num(jets)),
    }


def generate(name: str, seed: int, seconds: float) -> tuple[dict, int]:
    """Branches of the events accepted within `seconds`, and the number generated."""
    pythia, rng = configure(name, seed), np.random.default_rng(seed)
    batches, generated, end = [], 0, time.monotonic() + seconds
    while not batches or time.monotonic() < end:
        events = pythia.nextBatch(BATCH)
        generated += len(events)
        batches.append(detect(events.prt, rng))
        print(f"\r{sum(len(b['charge']) for b in batches)} of {generated} events", end="", flush=True)
    print()
    return nano_branches(batches, run=1 + list(PROCESSES).index(name)), generated


def write(name: str, branches: dict, generated: int, folder: Path) -> None:
    """Write the tree and update `samples.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {k: v.type.content if isinstance(v, ak.Array) else v.dtype for k, v in branches.items()}
    with uproot.recreate(folder / f"{name}.root", compression=uproot.ZSTD(7)) as file:
        file.mktree("Events", kinds).extend(branches)
    process, n = PROCESSES[name], len(branches["run"])
    summary = folder / "samples.json"
    samples = json.loads(summary.read_text()) if summary.is_file() else {}
    samples[name] = {
        "events": n,
        "generated": generated,
        "acceptance": n / generated,
        "cross_section_pb": process.cross_section_pb,
        "k_factor": process.k_factor,
        "events_per_inverse_fb": 1000 * process.cross_section_pb * process.k_factor * n / generated,
    }
    summary.write_text(json.dumps(samples, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("process", choices=list(PROCESSES))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to generate")
    parser.add_argument("--seed", type=int, default=1, help="1 to 900000000, different for each file")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of <process>.root and samples.json"
    )
    options = parser.parse_args()
    branches, generated = generate(options.process, options.seed, options.seconds)
    write(options.process, branches, generated, options.output)


if __name__ == "__main__":
    main()

"""Files like those of CMS outreach (reduced NanoAOD of 2012), and their selection written event by event.

The names and types of the branches are those of AOD2NanoAOD, the selection is that of skim.cxx of the published
analysis (github.com/cms-opendata-analyses): an independent reference for `examples/opendata/skim.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

TRIGGER = "HLT_IsoMu17_eta2p1_LooseIsoPFTau20"
TAU_FLAGS = ("idDecayMode", "idIsoTight", "idAntiEleTight", "idAntiMuTight")


def events(n: int, seed: int, *, simulated: bool = True) -> dict[str, Any]:
    """Return the branches of n events, most of them close to the edges of the selection."""
    rng = np.random.default_rng(seed)

    def objects(counts: np.ndarray, scale: float, **more: Any) -> ak.Array:
        total = int(counts.sum())
        made = {
            "pt": rng.exponential(scale, total) + 12,
            "eta": rng.normal(0, 1.5, total),
            "phi": rng.uniform(-math.pi, math.pi, total),
            "mass": rng.uniform(0.1, 10, total),
            **{name: make(total) for name, make in more.items()},
        }
        kinds = {"f": np.float32, "i": np.int32, "b": np.bool_}
        return ak.unflatten(ak.zip({k: v.astype(kinds[v.dtype.kind]) for k, v in made.items()}), counts)

    flag = lambda chance: lambda total: rng.random(total) < chance  # noqa: E731
    charge = lambda total: rng.integers(-1, 2, total)  # noqa: E731
    n_gen = rng.integers(1, 5, n)
    index = lambda counts: lambda _: rng.integers(-1, np.repeat(n_gen, counts))  # noqa: E731
    n_muons, n_taus, n_jets = rng.integers(0, 4, n), rng.integers(0, 4, n), rng.integers(0, 5, n)
    # Steps of 1/4: equal isolations occur, and the first one counts.
    isolation = lambda total: np.where(rng.random(total) < 0.1, 1000, rng.integers(0, 8, total) / 4)  # noqa: E731
    found = {
        "run": np.full(n, 194533, dtype=np.int32),
        "luminosityBlock": np.ones(n, dtype=np.uint32),
        "event": np.arange(n, dtype=np.uint64),
        "HLT_IsoMu24": rng.random(n) < 0.5,
        TRIGGER: rng.random(n) < 0.7,
        "PV_npvs": rng.integers(1, 30, n).astype(np.int32),
        **{f"PV_{axis}": rng.normal(size=n).astype(np.float32) for axis in "xyz"},
        "MET_sumet": rng.exponential(300, n).astype(np.float32),
        "MET_pt": rng.exponential(30, n).astype(np.float32),
        "MET_phi": rng.uniform(-math.pi, math.pi, n).astype(np.float32),
        "Muon": objects(
            n_muons,
            10,
            charge=charge,
            pfRelIso03_all=lambda total: rng.exponential(0.1, total),
            tightId=flag(0.7),
            genPartIdx=index(n_muons),
            jetIdx=lambda total: np.full(total, -1),
        ),
        "Tau": objects(
            n_taus,
            15,
            charge=charge,
            decayMode=lambda total: rng.integers(0, 11, total),
            relIso_all=isolation,
            genPartIdx=index(n_taus),
            **{name: flag(0.8) for name in TAU_FLAGS},
        ),
        "Jet": objects(n_jets, 25, puId=flag(0.8), btag=lambda total: rng.uniform(-1, 1, total)),
        "Electron": objects(rng.integers(0, 2, n), 10, charge=charge, cutBasedId=flag(0.5)),
        "GenPart": objects(
            n_gen,
            20,
            pdgId=lambda total: rng.choice([15, 15, -15, -15, -13], total),
            status=lambda total: np.ones(total, dtype=int),
        ),
    }
    if not simulated:
        del found["GenPart"]
    return found


def write(path: Path, branches: dict[str, Any]) -> Path:
    """Write the branches as a TTree with counters ``nMuon`` and lists ``Muon_pt``."""
    types = {name: ak.type(ak.Array(values)).content for name, values in branches.items()}
    with uproot.recreate(path) as file:
        tree = file.mktree(
            "Events",
            types,
            counter_name=lambda counted: f"n{counted}",
            field_name=lambda outer, inner: f"{outer}_{inner}",
        )
        tree.extend(branches)
    return path


def select(branches: dict[str, Any]) -> list[dict[str, float]]:
    """Return the columns of the selected events, one event after the other."""
    columns = {name: ak.to_list(values) for name, values in branches.items()}
    kept = []
    for k in range(len(columns["run"])):
        event = {name: values[k] for name, values in columns.items()}
        if event[TRIGGER] and (pair := _pair(event["Muon"], event["Tau"])) is not None:
            kept.append({"entry": k, **_columns(event, *pair)})
    return kept


def _pair(muons: list[Any], taus: list[Any]) -> tuple[Any, Any] | None:
    pairs = []
    for muon in muons:
        for tau in taus:
            good = abs(muon["eta"]) < 2.1 and muon["pt"] > 17 and muon["tightId"]
            good = good and tau["charge"] != 0 and abs(tau["eta"]) < 2.3 and tau["pt"] > 20
            good = good and all(tau[flag] for flag in TAU_FLAGS)
            apart = math.hypot(muon["eta"] - tau["eta"], delta_phi(muon["phi"], tau["phi"]))
            if good and apart > 0.5:
                pairs.append((muon, tau))
    if not pairs:
        return None
    hardest = pairs[0][0]
    for muon, _ in pairs:
        if muon["pt"] > hardest["pt"]:
            hardest = muon
    best, least = None, 999.0
    for muon, tau in pairs:
        if muon is hardest and tau["relIso_all"] < least:
            best, least = tau, tau["relIso_all"]
    return None if best is None else (hardest, best)


def _columns(event: dict[str, Any], muon: Any, tau: Any) -> dict[str, float]:
    names = {"pt": "pt", "eta": "eta", "phi": "phi", "m": "mass"}
    found = {f"{new}_{k}": o[old] for k, o in ((1, muon), (2, tau)) for new, old in names.items()}
    found |= {"q_1": muon["charge"], "q_2": tau["charge"], "dm_2": tau["decayMode"]}
    found |= {"iso_1": muon["pfRelIso03_all"], "iso_2": tau["relIso_all"]}
    found |= {"pt_met": event["MET_pt"], "phi_met": event["MET_phi"]}
    for k, lepton in ((1, muon), (2, tau)):
        angle = delta_phi(lepton["phi"], event["MET_phi"])
        found[f"mt_{k}"] = math.sqrt(2 * lepton["pt"] * event["MET_pt"] * (1 - math.cos(angle)))
    found["m_vis"], found["pt_vis"] = together(muon, tau)
    jets = [j for j in event["Jet"] if j["puId"] and abs(j["eta"]) < 4.7 and j["pt"] > 30]
    for k in (1, 2):
        jet = jets[k - 1] if len(jets) >= k else None
        for new, old in {**names, "btag": "btag"}.items():
            found[f"j{new}_{k}"] = -999.0 if jet is None else jet[old]
    found |= {"njets": len(jets), "mjj": -999.0, "ptjj": -999.0, "jdeta": -999.0}
    if len(jets) >= 2:
        found["mjj"], found["ptjj"] = together(*jets[:2])
        found["jdeta"] = jets[0]["eta"] - jets[1]["eta"]
    found |= {"npv": event["PV_npvs"], "run": event["run"], "gen_match": 0}
    if "GenPart" in event:
        indices = (muon["genPartIdx"], tau["genPartIdx"])
        found["gen_match"] = all(k >= 0 and abs(event["GenPart"][k]["pdgId"]) == 15 for k in indices)
    return found


def delta_phi(first: float, second: float) -> float:
    """Return the difference of two azimuths, from -pi to pi."""
    difference = math.fmod(second - first, 2 * math.pi)
    if difference < -math.pi:
        return difference + 2 * math.pi
    return difference - 2 * math.pi if difference > math.pi else difference


def together(first: Any, second: Any) -> tuple[float, float]:
    """Return the mass and transverse momentum of two particles."""
    x = sum(o["pt"] * math.cos(o["phi"]) for o in (first, second))
    y = sum(o["pt"] * math.sin(o["phi"]) for o in (first, second))
    z = sum(o["pt"] * math.sinh(o["eta"]) for o in (first, second))
    energy = sum(math.sqrt((o["pt"] * math.cosh(o["eta"])) ** 2 + o["mass"] ** 2) for o in (first, second))
    return math.sqrt(max(energy**2 - x**2 - y**2 - z**2, 0)), math.hypot(x, y)

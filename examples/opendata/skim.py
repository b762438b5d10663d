"""CMS open data of 2012 to flat ntuples of events with a muon and a hadronic tau, which `sannt.toml` reads.

    pip install "neyman[coffea,xrootd]"
    python examples/opendata/skim.py SKIMS               # the files of datasets.toml at CERN: 69 GB, 200 million events
    neyman sannt examples/opendata/sannt.toml --data SKIMS

`--data` takes the files from another folder or URL; https://root.cern/files/HiggsTauTauReduced has a tenth of the
events of each (6.5 GB). The selection, the columns and the weights are those of the analysis that is published with
the data (github.com/cms-opendata-analyses/HiggsTauTauNanoAODOutreachAnalysis). Missing values are -999.
"""

import argparse
import tomllib
from pathlib import Path

import awkward as ak
import numpy as np

from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files
from neyman.events.processing.checkpoint import Checkpointer

MISSING = -999.0
_JETS = [f"j{field}_{k}" for k in (1, 2) for field in ("pt", "eta", "phi", "m", "btag")]
COLUMNS = (
    *("njets", "npv", "pt_1", "eta_1", "phi_1", "m_1", "iso_1", "q_1", "mt_1"),
    *("pt_2", "eta_2", "phi_2", "m_2", "iso_2", "q_2", "mt_2", "dm_2", *_JETS),
    *("pt_met", "phi_met", "m_vis", "pt_vis", "mjj", "ptjj", "jdeta", "gen_match", "run"),
)


def build(events, shifts):  # noqa: ARG001
    """Return the selected events."""
    weight = events.metadata["weight"]
    muons, taus = events.Muon, events.Tau
    muons = muons[(abs(muons.eta) < 2.1) & (muons.pt > 17) & muons.tightId]
    identified = taus.idDecayMode & taus.idIsoTight & taus.idAntiEleTight & taus.idAntiMuTight
    taus = taus[(taus.charge != 0) & (abs(taus.eta) < 2.3) & (taus.pt > 20) & identified]
    chosen, i, j = _pairs(muons, taus, events.HLT.IsoMu17_eta2p1_LooseIsoPFTau20)
    entry_index, events = np.flatnonzero(chosen), events[chosen]
    rows = np.arange(len(events))
    muon, tau, met = muons[chosen][rows, i], taus[chosen][rows, j], events.MET
    columns = {"entry_index": entry_index, "weight": np.full(len(rows), weight)}
    columns |= {"npv": events.PV.npvs, "run": events.run, "pt_met": met.pt, "phi_met": met.phi}
    columns |= {"iso_1": muon.pfRelIso03_all, "iso_2": tau.relIso_all, "dm_2": tau.decayMode}
    for k, lepton in enumerate((muon, tau), start=1):
        columns |= {f"pt_{k}": lepton.pt, f"eta_{k}": lepton.eta, f"phi_{k}": lepton.phi}
        columns |= {f"m_{k}": lepton.mass, f"q_{k}": lepton.charge, f"mt_{k}": _transverse_mass(lepton, met)}
    columns["m_vis"], columns["pt_vis"] = _sum(*(_momentum(o.pt, o.eta, o.phi, o.mass) for o in (muon, tau)))
    columns["gen_match"] = np.zeros(len(rows), dtype=bool)
    if "GenPart" in events.fields:
        columns["gen_match"] = _is_tau(events, muon) & _is_tau(events, tau)
    return {"skim": ak.zip(columns | _jets(events.Jet))}


def _pairs(muons, taus, trigger):
    """Events with a pair more than 0.5 apart, and the indices of its hardest muon and this one's most isolated tau."""
    i, j = ak.unzip(ak.cartesian([ak.local_index(muons.pt), ak.local_index(taus.pt)]))
    apart = np.hypot(muons.eta[i] - taus.eta[j], _wrapped(muons.phi[i] - taus.phi[j])) > 0.5
    i, j = i[apart], j[apart]
    hardest = _first(i[ak.argmax(muons.pt[i], axis=1, keepdims=True)])
    j = j[i == hardest]
    isolation = taus.relIso_all[j]
    chosen = np.asarray(trigger & ak.any(isolation < 999, axis=1))
    return chosen, hardest[chosen], _first(j[ak.argmin(isolation, axis=1, keepdims=True)])[chosen]


def _first(indices):
    return np.asarray(ak.fill_none(ak.firsts(indices), -1))


def _jets(jets):
    """Columns of the two leading jets and of both together."""
    jets = jets[jets.puId & (abs(jets.eta) < 4.7) & (jets.pt > 30)]
    fields = {"pt": "pt", "eta": "eta", "phi": "phi", "m": "mass", "btag": "btag"}
    columns, momenta = {"njets": np.asarray(ak.num(jets))}, []
    for k in (1, 2):
        leading = [ak.pad_none(jets[field], k)[:, k - 1] for field in fields.values()]
        momenta.append(_momentum(*(ak.fill_none(values, 0.0) for values in leading[:4])))
        columns |= {f"j{name}_{k}": ak.fill_none(v, MISSING) for name, v in zip(fields, leading, strict=True)}
    both = columns["njets"] >= 2
    columns["mjj"], columns["ptjj"] = (np.where(both, v, MISSING) for v in _sum(*momenta))
    columns["jdeta"] = np.where(both, columns["jeta_1"] - columns["jeta_2"], MISSING)
    return columns


def _is_tau(events, lepton):
    """Whether the generated particle nearest to a lepton is a tau."""
    index = lepton.genPartIdx
    nearest = events.GenPart.pdgId[ak.singletons(ak.mask(index, index >= 0))]
    return np.asarray(ak.fill_none(abs(ak.firsts(nearest)) == 15, False))


def _transverse_mass(lepton, met):
    pt, met_pt, dphi = (np.asarray(v, dtype=float) for v in (lepton.pt, met.pt, lepton.phi - met.phi))
    return np.sqrt(2 * pt * met_pt * (1 - np.cos(dphi)))


def _wrapped(phi):
    return (phi + np.pi) % (2 * np.pi) - np.pi


def _momentum(*coordinates):
    """Energy and momentum, (4, n_events), from pt, eta, phi and mass."""
    pt, eta, phi, mass = (np.asarray(values, dtype=float) for values in coordinates)
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)
    return np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])


def _sum(first, second):
    """Mass and transverse momentum of two together."""
    e, x, y, z = first + second
    return np.sqrt(np.maximum(e**2 - x**2 - y**2 - z**2, 0)), np.hypot(x, y)


def main():
    """Skim the nine data sets; finished chunks are kept, and a run that was stopped goes on with the others."""
    parser = argparse.ArgumentParser(description="CMS open data to flat ntuples")
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", help="folder or URL of the files, instead of the one of datasets.toml")
    parser.add_argument("--executor", choices=["iterative", "threads", "dask"], default="threads")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--dask", metavar="ADDRESS", help="of a running Dask scheduler")
    options = parser.parse_args()
    here = Path(__file__).parent
    document = tomllib.loads((here / "datasets.toml").read_text(encoding="utf-8"))
    source = (options.data or document["data"]).rstrip("/")
    datasets = document["datasets"]
    processor = TableProcessor(
        build=PythonRef.parse("skim.py:build", here),
        variations=(Variation("nominal"),),
        regions={"skim": RegionSpec(columns=COLUMNS)},
        folder=options.output,
    )
    found = process_files(
        {name: [f"{source}/{file}" for file in one["files"]] for name, one in datasets.items()},
        processor,
        executor="dask" if options.dask else options.executor,
        workers=options.workers,
        client=options.dask,
        chunk_size=250_000,
        checkpointer=Checkpointer(options.output / ".finished"),
        progress=lambda done, total: print(f"\r{done} of {total} events", end="", flush=True),
        metadata={name: {"weight": _weight(one, document["luminosity"])} for name, one in datasets.items()},
    )
    print()
    for name, one in datasets.items():
        n, kept = found[name]["n_events"], found[name]["selected"]["skim"]["nominal"]
        share = f"{n / one['events']:.1%} of the data set"
        print(f"{name}: {n} events ({share}), {kept['n']} kept, sum of weights {kept['sumw']:.1f}")


def _weight(dataset, luminosity):
    """Expected events of the luminosity for each of the data set; 1 for collisions."""
    return dataset["cross_section"] * luminosity / dataset["events"] if "cross_section" in dataset else 1.0


if __name__ == "__main__":
    main()

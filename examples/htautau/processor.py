"""H -> tau tau with one lepton and one hadronic tau: selection, energy-scale shifts and features.

`build` is called by `neyman run` for every chunk of events and every variation. `events` are NanoAOD
collections; `shifts` holds the tau energy scale `tes` and the jet energy scale `jes` as factors, each a number
or one value per event.
"""

import awkward as ak
import numpy as np
import vector


def build(events, shifts):
    """Return the selected events of each region as records of flat columns."""
    n_leptons = ak.num(events.Electron) + ak.num(events.Muon)
    chosen = (n_leptons == 1) & (ak.num(events.Tau) == 1)
    entry_index, events = ak.local_index(events, axis=0)[chosen], events[chosen]
    tes, jes = (_per_event(shifts.get(name, 1.0), chosen) for name in ("tes", "jes"))

    # Shifts scale whole four-momenta; the missing momentum takes up the opposite change.
    lepton, lepton_charge = _lepton(events)
    stored_tau, tau_charge = _momentum(events.Tau[:, 0]), events.Tau[:, 0].charge
    stored_jets = _momentum(events.Jet)
    tau, jets = stored_tau * tes, stored_jets * jes
    met = vector.zip({"pt": events.MET.pt, "phi": events.MET.phi})
    met = vector.zip(
        {
            "px": met.px - (tau.px - stored_tau.px) - ak.sum(jets.px - stored_jets.px, axis=1),
            "py": met.py - (tau.py - stored_tau.py) - ak.sum(jets.py - stored_jets.py, axis=1),
        }
    )

    hard = (jets.pt > 30) & (abs(jets.eta) < 4.7)
    b_tagged = ak.any(hard & (abs(jets.eta) < 2.4) & (events.Jet.btag == 1), axis=1)
    columns = {"entry_index": entry_index} | _pair(lepton, tau, met) | _jets(jets[hard])

    passed = (lepton.pt > 20) & (tau.pt > 22) & (lepton_charge * tau_charge < 0)
    records = ak.zip(columns)
    return {"signal": records[passed & ~b_tagged], "control": records[passed & b_tagged]}


def _per_event(shift, chosen):
    """A shift as a number, or as one value for each chosen event."""
    return shift if np.ndim(shift) == 0 else shift[chosen]


def _momentum(objects):
    return vector.zip({name: objects[name] for name in ("pt", "eta", "phi", "mass")})


def _lepton(events):
    """Momentum and charge of the one electron or muon."""
    both = ak.concatenate([_momentum(events.Electron), _momentum(events.Muon)], axis=1)
    charge = ak.concatenate([events.Electron.charge, events.Muon.charge], axis=1)
    return both[:, 0], charge[:, 0]


def _transverse_mass(a, b):
    return np.sqrt(2 * a.pt * b.pt * (1 - np.cos(a.deltaphi(b))))


def _pair(lepton, tau, met):
    """Columns of the lepton, the tau and the missing momentum."""
    visible = lepton + tau
    masses = {
        "mt": _transverse_mass(lepton, met),
        "mt_tau": _transverse_mass(tau, met),
        "mt_pair": _transverse_mass(lepton, tau),
    }
    # Total transverse mass as in the CMS and ATLAS searches for heavy bosons decaying to tau pairs.
    m_tot = np.sqrt(masses["mt"] ** 2 + masses["mt_tau"] ** 2 + masses.pop("mt_pair") ** 2)
    return {
        "lep_pt": lepton.pt,
        "tau_pt": tau.pt,
        "met": met.pt,
        "m_vis": visible.mass,
        "pt_ratio": tau.pt / lepton.pt,
        "deta": abs(lepton.eta - tau.eta),
        "dphi": abs(lepton.deltaphi(tau)),
        **masses,
        "pt_h": np.hypot(visible.px + met.px, visible.py + met.py),
        "m_tot": m_tot,
        "dphi_met": abs(visible.deltaphi(met)),
    }


def _jets(jets):
    """Columns of the jets; 0 where there are too few."""
    two = ak.pad_none(jets, 2)
    return {
        "n_jets": ak.num(jets),
        "jet1_pt": ak.fill_none(two[:, 0].pt, 0.0),
        "m_jj": ak.fill_none((two[:, 0] + two[:, 1]).mass, 0.0),
    }

"""The example's selection and features against plain numpy, event by event."""

from __future__ import annotations

import json

import awkward as ak
import numpy as np
import pytest
import uproot

from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files

FILES = ("htautau", "ztautau", "ttbar")
N = 1500


@pytest.fixture(scope="module")
def build(repository):
    return PythonRef.parse("processor.py:build", repository / "examples" / "htautau").resolve()


@pytest.fixture(scope="module", params=FILES)
def events(request, repository):
    from coffea.nanoevents import NanoEventsFactory

    from neyman.events.processing.schema import NanoSchema

    path = repository / "examples" / "htautau" / "data" / f"{request.param}.root"
    return NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=NanoSchema, entry_stop=N, metadata={}
    ).events()


def expected(event, tes, jes):
    """(region, columns) of one event, or None, from the stored numbers."""
    leptons = event["Electron"] + event["Muon"]
    if len(leptons) != 1 or len(event["Tau"]) != 1:
        return None
    lepton, tau = leptons[0], event["Tau"][0]
    tau_pt, tau_m = tau["pt"] * tes, tau["mass"] * tes
    if not (lepton["pt"] > 20 and tau_pt > 22 and lepton["charge"] * tau["charge"] < 0):
        return None
    met = event["MET"]["pt"] * np.exp(1j * event["MET"]["phi"])
    met -= (tes - 1) * tau["pt"] * np.exp(1j * tau["phi"])
    met -= sum((jes - 1) * jet["pt"] * np.exp(1j * jet["phi"]) for jet in event["Jet"])
    jets = [jet | {"pt": jet["pt"] * jes} for jet in event["Jet"]]
    hard = [jet for jet in jets if jet["pt"] > 30 and abs(jet["eta"]) < 4.7]
    b_tagged = any(jet["btag"] == 1 and abs(jet["eta"]) < 2.4 for jet in hard)

    def four(pt, eta, phi, mass):
        momentum = np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
        return np.array([np.sqrt(mass**2 + momentum @ momentum), *momentum])

    def mass(p):
        return np.sqrt(max(p[0] ** 2 - p[1:] @ p[1:], 0.0))

    def transverse(pt_a, phi_a, pt_b, phi_b):
        return np.sqrt(2 * pt_a * pt_b * (1 - np.cos(phi_a - phi_b)))

    def angle(a, b):
        return abs((a - b + np.pi) % (2 * np.pi) - np.pi)

    visible = four(*(lepton[k] for k in ("pt", "eta", "phi", "mass"))) + four(
        tau_pt, tau["eta"], tau["phi"], tau_m
    )
    mt = transverse(lepton["pt"], lepton["phi"], abs(met), np.angle(met))
    mt_tau = transverse(tau_pt, tau["phi"], abs(met), np.angle(met))
    mt_pair = transverse(lepton["pt"], lepton["phi"], tau_pt, tau["phi"])
    pair = visible[1] + 1j * visible[2]
    two = [four(jet["pt"], jet["eta"], jet["phi"], jet["mass"] * jes) for jet in hard[:2]]
    return "control" if b_tagged else "signal", {
        "lep_pt": lepton["pt"],
        "tau_pt": tau_pt,
        "met": abs(met),
        "m_vis": mass(visible),
        "pt_ratio": tau_pt / lepton["pt"],
        "deta": abs(lepton["eta"] - tau["eta"]),
        "dphi": angle(lepton["phi"], tau["phi"]),
        "mt": mt,
        "mt_tau": mt_tau,
        "pt_h": abs(pair + met),
        "m_tot": np.sqrt(mt**2 + mt_tau**2 + mt_pair**2),
        "dphi_met": angle(np.angle(pair), np.angle(met)),
        "n_jets": len(hard),
        "jet1_pt": hard[0]["pt"] if hard else 0.0,
        "m_jj": mass(two[0] + two[1]) if len(two) == 2 else 0.0,
    }


@pytest.mark.parametrize("shifts", ["nominal", "numbers", "per event"])
def test_columns_event_by_event(build, events, shifts):
    rng = np.random.default_rng(6)
    given = {
        "nominal": {},
        "numbers": {"tes": 1.06, "jes": 0.94},
        "per event": {"tes": rng.uniform(0.9, 1.1, N), "jes": rng.uniform(0.9, 1.1, N)},
    }[shifts]
    regions = {name: records.tolist() for name, records in build(events, given).items()}
    assert set(regions) == {"signal", "control"}
    tes, jes = (np.broadcast_to(given.get(name, 1.0), N) for name in ("tes", "jes"))
    truth = map(expected, _plain(events), tes, jes)
    wanted = {i: result for i, result in enumerate(truth) if result is not None}
    assert sum(map(len, regions.values())) == len(wanted) > N / 3
    for region, records in regions.items():
        for record in records:
            name, columns = wanted[record.pop("entry_index")]
            assert name == region
            assert set(record) == set(columns)
            # Cancelling large numbers (masses of collinear pairs, sums of momenta) costs single precision.
            for column, value in columns.items():
                assert record[column] == pytest.approx(value, rel=2e-3, abs=2e-2), column


def _plain(events):
    names = ("Electron", "Muon", "Tau", "Jet", "MET")
    plain = {name: ak.to_list(ak.zip({f: events[name][f] for f in events[name].fields})) for name in names}
    return [{name: plain[name][i] for name in names} for i in range(len(events))]


def test_samples_match_the_files(repository):
    folder = repository / "examples" / "htautau" / "data"
    samples = json.loads((folder / "samples.json").read_text())
    assert set(samples) == set(FILES)
    kinds = set()
    for name, sample in samples.items():
        with uproot.open(folder / f"{name}.root") as file:
            kinds.add(file.classnames()["Events;1"])
            assert file["Events"].num_entries == sample["events"]
        rate = 1000 * sample["cross_section_pb"] * sample["k_factor"] * sample["events"] / sample["generated"]
        assert sample["events_per_inverse_fb"] == pytest.approx(rate, rel=1e-12)
    assert kinds == {"TTree", "ROOT::RNTuple"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_000_000


@pytest.mark.slow
def test_a_larger_energy_scale_selects_more_events(repository, tmp_path):
    folder = repository / "examples" / "htautau"
    made = TableProcessor(
        build=PythonRef.parse("processor.py:build", folder),
        variations=tuple(Variation(f"v{i}", {"tes": 0.94 + 0.03 * i}) for i in range(5)),
        regions={"signal": RegionSpec(histogram=("m_vis", tuple(range(0, 201, 20))))},
        folder=tmp_path,
    )
    result = process_files({"h": folder / "data" / "htautau.root"}, made)["h"]
    counts = [result["selected"]["signal"][f"v{i}"]["n"] for i in range(5)]
    assert counts == sorted(set(counts))
    means = [
        np.average(h.axes[0].centers, weights=h.values())
        for h in (result["histograms"]["signal"][{"variation": f"v{i}"}] for i in range(5))
    ]
    assert means == sorted(set(means))

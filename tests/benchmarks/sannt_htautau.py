r"""H -> tau tau in the lepton + hadronic-tau channel with energy scales, normalisations and many weight systematics:
events, uncertainties and histograms for systematics-aware training.

The Pythia events go through the example's processor. The weight systematics follow the most important ones of the
analysis of CMS-PAS-MLG-23-005; each is a known function g(x) of the features, |g| <= 1, and an event's weight is
1 + u g(x) at +1 standard deviation and 1 - d g(x) at -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import hist
import numpy as np

import neyman as ny
from neyman.events import PythonRef, RegionSpec, TableProcessor, process_files
from neyman.events import Variation as Shift
from neyman.files import read_json
from neyman.inference import FitResult
from neyman.workspace import SampleModel, from_hists

FEATURES = (
    "lep_pt", "tau_pt", "met", "m_vis", "pt_ratio", "deta", "dphi", "mt", "mt_tau",
    "pt_h", "m_tot", "dphi_met", "n_jets", "jet1_pt", "m_jj",
)  # fmt: skip
FILES = {"H": "htautau", "ggH": "ggh", "qqH": "vbf", "Z": "ztautau", "tt": "ttbar"}
SIGNALS, BACKGROUNDS = ("H", "ggH", "qqH"), ("Z", "tt")
SHIFTS = {"tes": 0.02, "jes": 0.03}  # standard deviations of factors on the tau and jet momenta
SIDES = (("Up", 1.0), ("Down", -1.0))
LUMINOSITY = 5.0  # inverse femtobarn
ALL, GLUON, VECTOR = (*SIGNALS, *BACKGROUNDS), ("H", "ggH"), ("H", "qqH")
# Factors at +-1 standard deviation.
NORMALISATIONS: dict[str, tuple[tuple[str, ...], float, float]] = {
    "lumi": (ALL, 1.017, 1 / 1.017),
    "z_norm": (("Z",), 1.04, 0.96),
    "tt_norm": (("tt",), 1.06, 0.94),
    "h_theory": (SIGNALS, 1.03, 0.97),
}

# Weight systematics -----------------------------------------------------------------------------------------

Profile = Callable[[ny.EventTable], np.ndarray]


class Weighting(NamedTuple):
    """A systematic that changes weights: the processes, its profile g, and its sizes up and down."""

    processes: tuple[str, ...]
    profile: Profile
    up: float
    down: float


def within(column: str, low: float, high: float = np.inf) -> Profile:
    """1 in a range."""
    return lambda t: ((t.column(column) >= low) & (t.column(column) < high)).astype(float)


def ramp(column: str, centre: float, width: float) -> Profile:
    """From -1 to 1."""
    return lambda t: np.tanh((t.column(column).astype(float) - centre) / width)


def turn_on(column: str, start: float, length: float) -> Profile:
    """From 1 at the threshold to 0."""
    return lambda t: np.exp(-np.maximum(t.column(column).astype(float) - start, 0.0) / length)


def migration(column: str, threshold: float, below: float) -> Profile:
    """Above a threshold, at the cost of what is below it."""
    return lambda t: np.where(t.column(column) >= threshold, 1.0, -below)


def product(a: Profile, b: Profile) -> Profile:
    return lambda t: a(t) * b(t)


def resolution(column: str, peak: float, width: float) -> Profile:
    """Second derivative of a bump: depletes its core and fills its flanks."""

    def profile(t: ny.EventTable) -> np.ndarray:
        u = ((t.column(column).astype(float) - peak) / width) ** 2
        return (u - 1.0) * np.exp(-0.5 * u)

    return profile


WEIGHTS = {
    # Identification and trigger; those of the Z from embedded events are independent of the simulation's.
    "tau_id_z_22_30": Weighting(("Z",), within("tau_pt", 22, 30), 0.04, 0.04),
    "tau_id_z_30_35": Weighting(("Z",), within("tau_pt", 30, 35), 0.03, 0.03),
    "tau_id_z_35_40": Weighting(("Z",), within("tau_pt", 35, 40), 0.03, 0.03),
    "tau_id_z_40_500": Weighting(("Z",), within("tau_pt", 40, 500), 0.05, 0.04),
    "tau_id_mc_22_40": Weighting((*SIGNALS, "tt"), within("tau_pt", 22, 40), 0.03, 0.03),
    "tau_id_mc_40_500": Weighting((*SIGNALS, "tt"), within("tau_pt", 40, 500), 0.04, 0.03),
    "tau_trigger_z": Weighting(("Z",), turn_on("tau_pt", 22, 10), 0.06, 0.05),
    "tau_trigger_mc": Weighting((*SIGNALS, "tt"), turn_on("tau_pt", 22, 10), 0.05, 0.05),
    "lep_trigger": Weighting(ALL, turn_on("lep_pt", 20, 8), 0.03, 0.03),
    "lep_id": Weighting(ALL, ramp("lep_pt", 40, 40), 0.015, 0.015),
    "tau_polarisation": Weighting(("Z",), ramp("pt_ratio", 1.0, 0.5), 0.02, 0.025),
    # Z: reweighting of its momentum and mass, non-closure, missing momentum, jets.
    "dy_pt": Weighting(("Z",), ramp("pt_h", 40, 40), 0.04, 0.03),
    "dy_pt_mass": Weighting(("Z",), product(ramp("pt_h", 40, 40), ramp("m_vis", 70, 25)), 0.05, 0.05),
    "dy_mvis": Weighting(("Z",), ramp("m_vis", 75, 25), 0.03, 0.03),
    "dy_mtot": Weighting(("Z",), ramp("m_tot", 110, 40), 0.02, 0.03),
    "met_resolution": Weighting((*SIGNALS, "Z"), resolution("met", 30, 25), 0.05, 0.04),
    "met_direction": Weighting(ALL, lambda t: np.cos(t.column("dphi_met").astype(float)), 0.02, 0.02),
    "z_jets_0_1": Weighting(("Z",), migration("n_jets", 1, 0.4), 0.04, 0.03),
    "z_jets_1_2": Weighting(("Z",), migration("n_jets", 2, 0.15), 0.06, 0.05),
    "dy_mjj": Weighting(("Z",), ramp("m_jj", 300, 200), 0.05, 0.05),
    # Signal theory.
    "ggh_scale": Weighting(GLUON, migration("n_jets", 2, 0.2), 0.09, 0.07),
    "ggh_resummation": Weighting(GLUON, resolution("pt_h", 40, 30), 0.06, 0.05),
    "ggh_jets_0_1": Weighting(GLUON, migration("n_jets", 1, 0.7), 0.05, 0.05),
    "ggh_pt_60": Weighting(GLUON, migration("pt_h", 60, 0.4), 0.07, 0.06),
    "ggh_pt_120": Weighting(GLUON, migration("pt_h", 120, 0.15), 0.10, 0.08),
    "qqh_mjj": Weighting(VECTOR, ramp("m_jj", 350, 200), 0.04, 0.04),
    "qqh_jets": Weighting(VECTOR, migration("n_jets", 2, 0.5), 0.03, 0.03),
    # Top pairs.
    "top_pt": Weighting(("tt",), ramp("jet1_pt", 90, 60), 0.06, 0.04),
    "top_jets": Weighting(("tt",), migration("n_jets", 3, 0.3), 0.08, 0.07),
    "top_met": Weighting(("tt",), ramp("met", 60, 40), 0.04, 0.04),
}


def factors(name: str, table: ny.EventTable) -> tuple[np.ndarray, np.ndarray]:
    """What a weight systematic multiplies the weights of events with, up and down."""
    one = WEIGHTS[name]
    g = one.profile(table)
    return 1.0 + one.up * g, 1.0 - one.down * g


# Events -----------------------------------------------------------------------------------------------------


def processed(
    data: Path, processor: Path, folder: Path, *, seed: int = 1
) -> dict[str, dict[str, ny.EventTable]]:
    """Selected events {process: {variation: table}}, weighted to an inverse femtobarn, with column ``entry``."""
    shifts = [Shift("nominal")]
    shifts += [
        Shift(name + suffix, {name: 1.0 + side * sigma})
        for name, sigma in SHIFTS.items()
        for suffix, side in SIDES
    ]
    summary = process_files(
        {process: str(data / f"{file}.root") for process, file in FILES.items()},
        TableProcessor(
            PythonRef.parse(f"{processor.name}:build", processor.parent),
            tuple(shifts),
            {"signal": RegionSpec(columns=FEATURES)},
            folder,
            seed=seed,
        ),
        executor="threads",
    )
    rates = read_json(data / "samples.json")
    found: dict[str, dict[str, ny.EventTable]] = {}
    for process, file in FILES.items():
        scale = rates[file]["events_per_inverse_fb"] / summary[process]["sumw"]
        found[process] = {
            shift.name: ny.EventTable.from_parquet(
                str(folder / process / "signal" / shift.name), features=FEATURES, extra=("entry",)
            ).scaled(scale)
            for shift in shifts
        }
    return found


@dataclass(frozen=True)
class Study:
    """Events of some signals and the backgrounds with all that is uncertain about them.

    Attributes
    ----------
    signals
        Names of the signals, each with a strength ``r_NAME`` (``r`` for a single one).
    tables
        Events of each process by variation; the weights are expected counts.
    """

    signals: tuple[str, ...]
    tables: Mapping[str, Mapping[str, ny.EventTable]]

    @property
    def pois(self) -> dict[str, str]:
        """Parameter of the strength of each signal."""
        return {s: "r" if len(self.signals) == 1 else f"r_{s}" for s in self.signals}

    def halves(self, *, seed: int) -> tuple[Study, Study]:
        """The events to learn from and those to judge by, each at the full expectation.

        An event and its variations are on the same side. Variations are scaled as the nominal events.
        """
        sides: tuple[dict, dict] = ({}, {})
        for process, variations in self.tables.items():
            split = {name: table.split(0.5, seed=seed) for name, table in variations.items()}
            total = variations["nominal"].weight.sum()
            for k, side in enumerate(sides):
                scale = total / split["nominal"][k].weight.sum()
                side[process] = {name: both[k].scaled(scale) for name, both in split.items()}
        return replace(self, tables=sides[0]), replace(self, tables=sides[1])

    def thinned(self, fraction: float, *, seed: int) -> Study:
        """A share of the events at the full expectation; the seed is another one than that of the halves."""
        found = {}
        for process, variations in self.tables.items():
            some = {name: table.split(fraction, seed=seed)[0] for name, table in variations.items()}
            scale = variations["nominal"].weight.sum() / some["nominal"].weight.sum()
            found[process] = {name: table.scaled(scale) for name, table in some.items()}
        return replace(self, tables=found)

    def nominal(self) -> dict[str, ny.EventTable]:
        return {process: variations["nominal"] for process, variations in self.tables.items()}

    def weightings(self, process: str) -> list[str]:
        """Names of the weight systematics of a process."""
        return [name for name, one in WEIGHTS.items() if process in one.processes]

    def variations(self) -> list[Any]:
        """The uncertainties as arguments of :func:`neyman.sannt.train`."""
        from neyman.sannt import Normalisation, Variation

        found: list[Any] = []
        for process, tables in self.tables.items():
            nominal = tables["nominal"]
            found += [Variation(n, process, tables[f"{n}Up"], tables[f"{n}Down"]) for n in SHIFTS]
            for name in self.weightings(process):
                up, down = (nominal.weight * factor for factor in factors(name, nominal))
                found.append(Variation.of_weights(name, process, nominal, up=up, down=down))
            found += [
                Normalisation(name, process, up=up, down=down)
                for name, (processes, up, down) in NORMALISATIONS.items()
                if process in processes
            ]
        return found

    def models(self) -> dict[str, SampleModel]:
        """What acts on the samples of a workspace beside the variations of their histograms."""
        return {
            process: SampleModel(
                normfactors=(self.pois[process],) if process in self.signals else (),
                normsys={
                    name: (up, down)
                    for name, (processes, up, down) in NORMALISATIONS.items()
                    if process in processes
                },
            )
            for process in self.tables
        }

    def histograms(
        self, place: Callable[[ny.EventTable], np.ndarray], channels: Mapping[str, int]
    ) -> Histograms:
        """Fill all templates.

        Parameters
        ----------
        place
            Gives each event's position in the bins of all channels one after the other.
        channels
            Number of bins of each channel.
        """
        n, starts = sum(channels.values()), np.cumsum([0, *channels.values()])
        found: Histograms = {channel: {} for channel in channels}
        for process, tables in self.tables.items():
            index = {name: place(table) for name, table in tables.items()}
            filled = {name: (index[name], table.weight) for name, table in tables.items()}
            nominal = tables["nominal"]
            for name in self.weightings(process):
                for (suffix, _), factor in zip(SIDES, factors(name, nominal), strict=True):
                    filled[name + suffix] = index["nominal"], nominal.weight * factor
            contents = {
                name: [np.bincount(where, w**power, minlength=n) for power in (1, 2)]
                for name, (where, w) in filled.items()
            }
            for channel, first, last in zip(channels, starts, starts[1:], strict=False):
                h = hist.Hist(
                    hist.axis.StrCategory(list(contents), name="variation"),
                    hist.axis.Regular(int(last - first), 0.0, 1.0, name="bin"),
                    storage=hist.storage.Weight(),
                )
                for k, (values, squares) in enumerate(contents.values()):
                    h.view()["value"][k], h.view()["variance"][k] = values[first:last], squares[first:last]
                found[channel][process] = h
        return found


Histograms = dict[str, dict[str, hist.Hist]]


def inclusive(tables: Mapping[str, Mapping[str, ny.EventTable]], luminosity: float = LUMINOSITY) -> Study:
    """One signal: all of Higgs production."""
    return _study(("H",), tables, luminosity)


def two_signals(tables: Mapping[str, Mapping[str, ny.EventTable]], luminosity: float = LUMINOSITY) -> Study:
    """Gluon fusion and vector-boson fusion."""
    return _study(("ggH", "qqH"), tables, luminosity)


def _study(
    signals: tuple[str, ...], tables: Mapping[str, Mapping[str, ny.EventTable]], luminosity: float
) -> Study:
    return Study(
        signals,
        {p: {n: t.scaled(luminosity) for n, t in tables[p].items()} for p in (*signals, *BACKGROUNDS)},
    )


# Fits -------------------------------------------------------------------------------------------------------


def workspace(study: Study, histograms: Histograms, *, staterror: bool = True) -> dict[str, Any]:
    """The pyhf workspace of some histograms."""
    return from_hists(
        histograms,
        study.models(),
        poi=next(iter(study.pois.values())),
        parameters=[{"name": poi, "bounds": [[-10.0, 20.0]]} for poi in study.pois.values()],
        staterror=staterror,
    )


def uncertainties(study: Study, histograms: Histograms) -> dict[str, Any]:
    """Expected uncertainties of the strengths from fits of the Asimov data.

    ``total`` with and ``without_mc_stat`` without the statistical uncertainty of the simulation, ``statistical`` of the
    data alone; with the MINOS interval of the total.
    """
    with_mc, without = (
        ny.Likelihood.from_pyhf(workspace(study, histograms, staterror=one)).asimov() for one in (True, False)
    )
    pois = list(study.pois.values())
    fits = {
        "total": ny.fit(with_mc, minos=pois),
        "without_mc_stat": ny.fit(without),
        "statistical": ny.fit(without, fixed=[name for name in without.names if name not in pois]),
    }
    return gathered(study, fits)


def gathered(study: Study, fits: Mapping[str, FitResult]) -> dict[str, Any]:
    """Errors of the strengths in fits; plain numbers where there is one signal."""
    found: dict[str, Any] = {}
    for name, result in fits.items():
        errors = {signal: float(result.errors[poi]) for signal, poi in study.pois.items()}
        found[name] = errors if len(errors) > 1 else next(iter(errors.values()))
        if result.minos:
            found["minos"] = {p: [float(m.lower), float(m.upper)] for p, m in result.minos.items()}
    found["valid"] = all(one.valid for one in fits.values())
    return found

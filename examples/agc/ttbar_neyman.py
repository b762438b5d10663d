"""Histograms of top pairs with one lepton, written in the style of the Analysis Grand Challenge (AGC).

    python examples/agc/ttbar.py ttbar.root

`ttbar_neyman.py` is the same processor with three changed lines: a network is the observable there.
"""

import sys

import awkward as ak
import hist
import numpy as np
from coffea import processor
from coffea.analysis_tools import PackedSelection, Weights
from coffea.nanoevents import NanoAODSchema
import neyman

B_TAG = 0.3  # working point of btagDeepFlavB
JET_SCALES = {"nominal": 1.0, "pt_scale_up": 1.03, "pt_scale_down": 0.97}


def scalar_sum(events):
    """HT: scalar sum of jet momenta."""
    return ak.sum(events.Jet.pt, axis=1)


def trijet_mass(events):
    """Mass of the three jets, one of them b-tagged, with the largest momentum: the hadronic top quark."""
    one, two, three = ak.unzip(ak.combinations(events.Jet, 3))
    tagged = (one.btagDeepFlavB > B_TAG) | (two.btagDeepFlavB > B_TAG) | (three.btagDeepFlavB > B_TAG)
    top = (one + two + three)[tagged]
    return ak.flatten(top[ak.argmax(top.pt, axis=1, keepdims=True)].mass)


class TtbarAnalysis(processor.ProcessorABC):
    def __init__(self):
        self.scorer = neyman.Scorer.load("model.safetensors", features="features.toml", output="score")
        self.hist = (
            hist.Hist.new.Reg(25, 50, 550, name="observable", label="observable [GeV]")
            .StrCat([], name="region", label="Region", growth=True)
            .StrCat([], name="process", label="Process", growth=True)
            .StrCat([], name="variation", label="Systematic variation", growth=True)
            .Weight()
        )

    def process(self, events):
        histogram = self.hist.copy()
        for variation, scale in JET_SCALES.items():
            varied, regions = self.select(events, scale)
            for region in ("4j1b", "4j2b"):
                selected = varied[regions.all(region)]
                weights = self.weights(selected)
                observable = 50 + 500 * self.scorer(selected)  # on the axis of the histogram
                names = sorted(weights.variations) if variation == "nominal" else []
                for name in (None, *names):
                    histogram.fill(
                        observable=observable,
                        region=region,
                        process=events.metadata.get("process", "ttbar"),
                        variation=name.replace("Up", "_up").replace("Down", "_down") if name else variation,
                        weight=weights.weight(name),
                    )
        return {"nevents": {events.metadata["dataset"]: len(events)}, "hist": histogram}

    def select(self, events, scale):
        """Events with scaled and selected objects, and their regions."""
        jets = ak.with_field(events.Jet, events.Jet.pt * scale, "pt")
        jets = jets[(jets.pt > 30) & (np.abs(jets.eta) < 2.4)]
        muons, electrons = events.Muon, events.Electron
        muons = muons[(muons.pt > 30) & (np.abs(muons.eta) < 2.1) & (muons.pfRelIso04_all < 0.15)]
        electrons = electrons[(electrons.pt > 30) & (np.abs(electrons.eta) < 2.1)]
        n_tags = ak.sum(jets.btagDeepFlavB > B_TAG, axis=1)
        regions = PackedSelection()
        regions.add("1l4j", (ak.num(muons) + ak.num(electrons) == 1) & (ak.num(jets) >= 4))
        regions.add("4j1b", regions.all("1l4j") & (n_tags == 1))
        regions.add("4j2b", regions.all("1l4j") & (n_tags >= 2))
        return ak.with_field(events, jets, "Jet"), regions

    def weights(self, events):
        """Nominal weights, and variations of the b-tagging that grow with the momentum of the leading jet."""
        weights = Weights(len(events))
        weights.add("generator", np.sign(events.genWeight))
        slope = 0.075 * events.Jet.pt[:, 0] / 50
        weights.add("btag_var_0", np.ones(len(events)), 1 + slope, 1 - slope)
        return weights

    def postprocess(self, accumulator):
        return accumulator


if __name__ == "__main__":
    NanoAODSchema.warn_missing_crossrefs = False
    runner = processor.Runner(processor.IterativeExecutor(), schema=NanoAODSchema, metadata_cache={})
    print(runner({"ttbar": sys.argv[1:]}, TtbarAnalysis(), treename="Events")["hist"])

"""Unfolding jets with OmniFold, from events to a fitted spectrum.

    python examples/unfolding/generate.py simulation --output out/jets   # a few minutes each; extra "generate"
    python examples/unfolding/generate.py data --output out/jets
    python examples/unfolding/jets.py out/jets

The data are jets recoiling from a Z in one tune of Pythia 8, seen by a parametric detector; the simulation is another
tune. Nothing is binned until the end: the unfolding gives every simulated event a weight, and any observable can be
histogrammed with it, also one that was not thought of before.
"""

import sys
from pathlib import Path

import hist
import numpy as np
import pyarrow.parquet as pq

import neyman as ny
from neyman.plots import style, unfolded_spectrum
from neyman.unfolding import Bootstrap, OmniFold, to_hepdata
from neyman.workspace import Draft, SampleModel, from_unfolded

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/jets")
output = folder / "unfolded"
events = int(sys.argv[2]) if len(sys.argv) > 2 else 30_000

# Six features of a jet at each level. Jets that fail a level stay in the table: the masks say which ones.
FEATURES = ("pt", "mass", "multiplicity", "width", "tau21", "z_lead")


def table(sample, level):
    names = [f"{level}_{name}" for name in FEATURES]
    columns = pq.read_table(folder / f"{sample}.parquet", columns=[f"pass_{level}", *names]).slice(0, events)
    x = np.stack([columns[name].to_numpy() for name in names], axis=1)
    x[:, :3] = np.log1p(np.maximum(x[:, :3], 0.0))  # tame the tails of pt, mass and multiplicity
    passes = columns[f"pass_{level}"].to_numpy().astype(bool)
    return ny.EventTable(FEATURES, x, np.ones(len(x))), passes


reconstructed, passes_reconstruction = table("simulation", "reco")
truth, passes_truth = table("simulation", "gen")
data, observed = table("data", "reco")
data = data.select(observed)

# Three iterations of five networks each, trained in one pass; forty bootstrap replicas of the data, and as many of the
# simulation, give the covariance of whatever is histogrammed afterwards. An interrupted run goes on where it was.
omnifold = OmniFold(
    iterations=3,
    ensemble=5,
    network=ny.networks.MLP((64, 64)),
    settings=ny.training.Settings(steps=400, batch_size=512, learning_rate=5e-3, evaluations=5),
)
result = omnifold.fit(
    data,
    reconstructed,
    truth,
    passes_reconstruction=passes_reconstruction,
    passes_truth=passes_truth,
    bootstrap=Bootstrap(data=40, simulation=40),
    seed=1,
    checkpoint=folder / "checkpoint",
)
result.save(output / "result")
print(f"{result.unfolded.sum():.0f} jets, effective number {result.effective_size:.0f}")
print("share of the data outside the simulation:", max(result.support.features.values()))

# Any observable, at particle level: here the mass, with the data's true spectrum to compare with.
edges = [0, 4, 6, 7.5, 9, 10.5, 12, 14, 17, 21, 27, 40, 60]


def mass(sample):
    columns = pq.read_table(folder / f"{sample}.parquet", columns=["pass_gen", "gen_mass"]).slice(0, events)
    return columns["gen_mass"].to_numpy(), columns["pass_gen"].to_numpy().astype(bool)


simulated, true = mass("simulation")[0], mass("data")
spectrum = result.spectrum(simulated, edges, name="mass", unit="GeV")
expected = np.histogram(true[0][true[1]], edges)[0]
before = np.histogram(simulated[passes_truth], edges)[0]
figure = unfolded_spectrum(spectrum, truth=expected, prior=before * expected.sum() / before.sum())
style.save(figure, output / "mass.png")
print("unfolded / truth:", np.round(spectrum.values / expected, 2))
print("simulation / truth:", np.round(before / expected, 2))
print(result.moments(simulated))
to_hepdata(spectrum, output / "hepdata", keywords=[("cmenergies", ["13000"])])

# The spectrum with its covariance is a likelihood term like any other: fit the strength of a prediction to it.
prediction = hist.Hist.new.Var(edges, name="mass").Weight()
prediction.fill(simulated[passes_truth])
document = from_unfolded({"mass": spectrum}, {"mass": {"jets": prediction}}, {"jets": SampleModel(("mu",))})
Draft(gaussian=document).write(output / "workspace")
fit = ny.fit(ny.Likelihood.load(output / "workspace"))
print("strength of the simulated spectrum:", fit.values["mu"], "+-", fit.errors["mu"])
print(ny.goodness_of_fit(ny.Likelihood.load(output / "workspace")))  # another tune: it does not fit

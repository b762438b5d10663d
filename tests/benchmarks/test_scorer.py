"""`neyman.Scorer` against `coffea.ml_tools.torch_wrapper`, in the same processor on NanoAOD, on every executor.

Both contenders read the same branches, compute the same features and fill the same histograms; only the step from
features to scores differs. The peer is used as its documentation says: a TorchScript file, `prepare_awkward` handing
over one matrix, no input checks, one call for every variation.

The contenders take turns and the best of three runs of each counts: other work on the machine changes the time of all
else in a chunk by more than a score costs. NEYMAN_BENCHMARK_EVENTS sets the number of events; ``-k iterative`` runs one
executor alone. The columns ``_cpu`` are of the processor time of the thread that scores: of use where other work shares
the cores, and OMP_NUM_THREADS is 1.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import awkward as ak
import cloudpickle
import hist
import numpy as np
import pytest
import torch
import uproot
from coffea.ml_tools import torch_wrapper
from coffea.processor import DaskExecutor, FuturesExecutor, IterativeExecutor, ProcessorABC, Runner

from neyman import Scorer
from neyman.cluster import connect
from neyman.events.features import FeatureSpec
from neyman.events.processing.schema import NanoSchema
from neyman.events.scoring import export_onnx
from neyman.networks import MLP, Description, Model, Part

pytestmark = pytest.mark.benchmark
EVENTS = int(os.environ.get("NEYMAN_BENCHMARK_EVENTS", "200000"))
CHUNKS = (5_000, 100_000)
WORKERS = 2
TURNS = 3
HIDDEN = (128, 128, 128)
OBJECTS = {
    "jet0_pt": "Jet.pt[0]",
    "jet0_eta": "Jet.eta[0]",
    "jet0_btag": "Jet.btagPNetB[0]",
    "jet1_pt": "Jet.pt[1]",
    "jet1_eta": "Jet.eta[1]",
    "jet1_btag": "Jet.btagPNetB[1]",
    "mjj": "mass(Jet[0], Jet[1])",
    "electron_pt": "Electron.pt[0]",
    "electron_eta": "Electron.eta[0]",
    "muon_pt": "Muon.pt[0]",
    "muon_eta": "Muon.eta[0]",
}
EVENT = {
    "ht": "sum(Jet.pt)",
    "n_jets": "count(Jet)",
    "met": "PuppiMET.pt",
    "met_phi": "PuppiMET.phi",
    "npvs": "PV.npvs",
}
SPEC = FeatureSpec(OBJECTS | EVENT, fill=dict.fromkeys(OBJECTS, 0.0))
SHIFTS = [
    (f"{name}{direction}", collection, scale)
    for name, collection, size in (
        ("jes", "Jet", 0.02),
        ("jer", "Jet", 0.05),
        ("ees", "Electron", 0.01),
        ("mes", "Muon", 0.005),
        ("met", "PuppiMET", 0.03),
    )
    for direction, scale in (("Up", 1.0 + size), ("Down", 1.0 - size))
]


class Peer(torch_wrapper):
    """coffea's wrapper of TorchScript."""

    def prepare_awkward(self, table):
        return (ak.from_numpy(np.stack(list(table.values()), axis=1)),), {}

    def validate_numpy_input(self, *args, **kwargs):
        """The base class warns that nothing is checked."""

    def __call__(self, table):
        args, kwargs = self.prepare_awkward(table)
        return ak.to_numpy(self._call_numpy(*(ak.to_numpy(arg) for arg in args), **kwargs))[:, 0]

    def many(self, tables):
        return {name: self(table) for name, table in tables.items()}


class Analysis(ProcessorABC):
    """Features of all variations, scores, histograms; and how long each step took."""

    def __init__(self, scorer, variations):
        self.scorer, self.variations = scorer, variations

    def process(self, events):
        start = time.perf_counter()
        varied = {"nominal": events}
        for name, collection, scale in SHIFTS[: self.variations - 1]:
            objects = events[collection]
            varied[name] = ak.with_field(events, ak.with_field(objects, objects.pt * scale, "pt"), collection)
        tables = {name: SPEC(own) for name, own in varied.items()}
        middle, busy = time.perf_counter(), time.thread_time()
        scores = self.scorer.many(tables)
        end, busy = time.perf_counter(), time.thread_time() - busy
        h = hist.Hist.new.StrCat([], growth=True, name="variation").Reg(40, -2, 2, name="score").Weight()
        for name, own in scores.items():
            h.fill(variation=name, score=own)
        times = {"features": middle - start, "scoring": end - middle, "busy": busy}
        return {"h": h, "events": len(events)} | times

    def postprocess(self, accumulator):
        return accumulator


cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def sample(shared_data, tmp_path_factory):
    """The 200 events of a NanoAOD file many times, with the branches of the features and about 30 others."""
    path = tmp_path_factory.mktemp("nano") / "tiled.root"
    with uproot.open(shared_data / "nanoaod" / "nano_tt_v15.root") as file:
        tree = file["Events"]
        own = {"run", "luminosityBlock", "event", "genWeight", "PuppiMET_pt", "PuppiMET_phi", "PV_npvs"}
        kinematics = (
            "pt",
            "eta",
            "phi",
            "mass",
            "charge",
            "btagPNetB",
            "dxy",
            "dz",
            "jetId",
            "pfRelIso03_all",
        )
        for name in ("Jet", "Electron", "Muon", "Tau"):
            own |= {f"{name}_{field}" for field in kinematics} & set(tree.keys())
        arrays = tree.arrays(sorted(own), library="ak")
    jagged = {name: ak.concatenate([arrays[name]] * (20_000 // len(arrays))) for name in arrays.fields}
    data = {}
    for name in ("Jet", "Electron", "Muon", "Tau"):
        fields = {key.partition("_")[2]: value for key, value in jagged.items() if key.startswith(f"{name}_")}
        data[name] = ak.zip(fields)
    data |= {name: value for name, value in jagged.items() if value.ndim == 1}
    with uproot.recreate(path) as file:
        for _ in range(EVENTS // 20_000):
            if "Events" in file:
                file["Events"].extend(data)
            else:
                file["Events"] = data
    return {"tt": {"treename": "Events", "files": [str(path)]}}


@pytest.fixture(scope="module")
def contenders(tmp_path_factory):
    """The same network in both packages."""
    folder = tmp_path_factory.mktemp("models")
    model = network(1)
    model.save(folder / "nn.safetensors")
    export_onnx(model, folder / "nn.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(Network(model), torch.zeros(8, 16))
        torch.jit.save(script, folder / "nn.pt")
    path = folder / "nn.safetensors"
    return {
        "torch_wrapper": Peer(str(folder / "nn.pt"), expected_output_shape=(None, 1)),
        "neyman onnx": Scorer.load(path, device="cpu"),
        "neyman torch": Scorer.load(path, backend="torch", device="cpu"),
    }


class Network(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.stack = model.stacks[0]

    def forward(self, x):
        return self.stack(x)[0]


def network(members, hidden=HIDDEN):
    scaling = (torch.full((16,), 20.0), torch.full((16,), 50.0))
    stack = MLP(hidden).build(16, members=members, seed=1, scaling=scaling)
    return Model(
        [stack], Description(features=SPEC.features, parts=(Part(network=MLP(hidden), members=members),))
    )


@contextmanager
def executor_of(name):
    """Something that makes an executor; a cluster stays up between runs."""
    if name == "dask":
        with connect(f"local:{WORKERS}") as client:
            yield lambda: DaskExecutor(client=client, status=False)
    else:
        yield {
            "iterative": lambda: IterativeExecutor(status=False),
            "threads": lambda: FuturesExecutor(workers=WORKERS, pool=ThreadPoolExecutor, status=False),
            "loky": lambda: FuturesExecutor(workers=WORKERS, status=False),
        }[name]


@pytest.mark.parametrize("executor", ["iterative", "threads", "loky", "dask"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_against_torch_wrapper(executor, sample, contenders, record, show):
    names = ["torch_wrapper", "neyman onnx"] + ["neyman torch"] * (executor == "iterative")
    rows = []
    with executor_of(executor) as make:
        cache = {}
        for chunk in CHUNKS:
            for variations in (1, 11):
                results, best = {}, {}
                # The first turn warms up: imports, and sessions where workers stay.
                for turn in range(TURNS + 1):
                    for name in names:
                        runner = Runner(make(), schema=NanoSchema, chunksize=chunk, metadata_cache=cache)
                        start = time.perf_counter()
                        out = runner(sample, Analysis(contenders[name], variations))
                        out["seconds"] = time.perf_counter() - start
                        results[name] = out["h"]
                        if turn and (name not in best or out["seconds"] < best[name]["seconds"]):
                            best[name] = out
                for name, out in best.items():
                    n = out["events"]
                    row = {
                        "chunk": chunk,
                        "variations": variations,
                        "contender": name,
                        "events_per_second": round(n / out["seconds"]),
                        "scoring_us": round(1e6 * out["scoring"] / n / variations, 3),
                        "scoring_cpu_us": round(1e6 * out["busy"] / n / variations, 3),
                        "features_us": round(1e6 * out["features"] / n / variations, 3),
                    }
                    peer = next(
                        (r for r in rows if r["chunk"] == chunk and r["variations"] == variations), row
                    )
                    row["scoring_gain"] = round(peer["scoring_us"] / row["scoring_us"], 2)
                    row["scoring_cpu_gain"] = round(peer["scoring_cpu_us"] / row["scoring_cpu_us"], 2)
                    row["total_gain"] = round(row["events_per_second"] / peer["events_per_second"], 2)
                    rows.append(row)
                check_alike(results)
    show(f"{executor}, {EVENTS:,} events, 16 features, MLP 16-128x3-1", rows)
    record(
        f"scorer_{executor}",
        {"events": EVENTS, "hidden": HIDDEN, "workers": WORKERS, "runs": rows},
        "onnxruntime",
    )


def check_alike(results):
    """Histograms agree but for events whose scores are within rounding of an edge."""
    first = results["torch_wrapper"]
    for name, other in results.items():
        for variation in first.axes[0]:
            moved = (
                np.abs(first[variation, :].values(flow=True) - other[variation, :].values(flow=True)).sum()
                / 2
            )
            assert moved <= 1e-4 * EVENTS, name


def test_backends(tmp_path, record, show, seconds):
    """Cost of a score by backend, size of the ensemble and chunk, features in memory."""
    rows = []
    x = np.random.default_rng(1).normal(20.0, 50.0, (100_000, 16)).astype(np.float32)
    for members in (1, 10):
        model = network(members)
        path = model.save(tmp_path / f"m{members}.safetensors")
        export_onnx(model, path.with_suffix(".onnx"))
        for backend in ("torch", "onnx"):
            scorer = Scorer.load(path, backend=backend, device="cpu")
            row = {"members": members, "backend": backend}
            for chunk in (5_000, 100_000 if members == 1 else 20_000):
                cost = seconds(lambda scorer=scorer, chunk=chunk: scorer(x[:chunk]))
                row[f"us_at_{chunk}"] = round(1e6 * cost / chunk, 3)
            # A variation that moves one event in ten, beside the nominal events.
            moved = x[:5_000].copy()
            moved[::10] *= 1.01
            many = {"nominal": x[:5_000]} | {f"v{k}": moved for k in range(10)}
            cost = seconds(lambda scorer=scorer, many=many: scorer.many(many))
            row["us_of_11_variations_at_5000"] = round(1e6 * cost / 55_000, 3)
            rows.append(row)
    show("scoring alone, microseconds an event", rows)
    record("scorer_backends", {"hidden": HIDDEN, "runs": rows}, "onnxruntime")


def test_on_a_gpu(tmp_path, record, show, seconds):
    """A network of a million parameters, 11 variations, on a GPU against the CPU of the same machine."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA GPU on this machine: the gain on a GPU is not measured")
    model = network(1, (704, 704, 704))
    path = model.save(tmp_path / "m.safetensors")
    generator = np.random.default_rng(1)
    many = {f"v{k}": generator.normal(20.0, 50.0, (100_000, 16)).astype(np.float32) for k in range(11)}
    rows = []
    for device in ("cpu", "cuda"):
        scorer = Scorer.load(path, backend="torch", device=device)
        scorer.many(many)
        cost = seconds(lambda scorer=scorer: scorer.many(many))
        rows.append({"device": device, "events_per_second": round(1_100_000 / cost)})
    gain = rows[1]["events_per_second"] / rows[0]["events_per_second"]
    show(f"{sum(p.numel() for p in model.stacks[0].parameters()):,} parameters, gain {gain:.1f}", rows)
    record("scorer_gpu", {"gpu": torch.cuda.get_device_name(), "gain": round(gain, 2), "runs": rows})

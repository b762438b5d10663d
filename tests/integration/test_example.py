"""The htautau example on its embedded ROOT files, what its workspace promises, and the README's Python examples.

One file, so that the tests that share the example run in one process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import neyman as ny
from neyman.workspace import validate


def test_embedded_data_are_small_and_cover_both_formats(repository):
    import uproot

    data = repository / "examples" / "htautau" / "data"
    assert sum(p.stat().st_size for p in data.iterdir()) <= 12e6
    kinds = set()
    for path in data.glob("*.root"):
        with uproot.open(path) as file:
            kinds |= set(file.classnames().values())
    assert kinds == {"TTree", "ROOT::RNTuple"}


def test_yields_follow_the_cross_sections(short_job, repository):
    metadata = json.loads((repository / "examples" / "htautau" / "data" / "samples.json").read_text())
    selected = json.loads((short_job.output / ".neyman" / "events.json").read_text())["summary"]
    for sample, yields in short_job.results["workspace"]["yields"].items():
        figures = metadata[sample]
        rate = 1000 * figures["cross_section_pb"] * figures["k_factor"] * figures["acceptance"]
        fraction = selected[sample]["selected"]["signal"]["nominal"]["n"] / figures["events"]
        assert yields["nominal"] == pytest.approx(rate * fraction, rel=1e-4)


def test_tau_energy_scale_moves_the_acceptance(short_job):
    for yields in short_job.results["workspace"]["yields"].values():
        assert yields["tesUp"] > yields["nominal"] > yields["tesDown"]


def test_combined_fit_of_the_asimov_set(short_job):
    lh = ny.Likelihood.load(short_job.output / "workspace")
    assert [t.name for t in lh.terms] == ["binned", "signal"]
    fit = ny.fit(lh.asimov())
    assert fit.valid
    assert abs(fit.values["mu"] - 1.0) < 1e-3 * fit.errors["mu"]


def test_binned_part_opens_in_pyhf_and_agrees(short_job):
    import pyhf

    spec = json.loads((short_job.output / "workspace" / "binned.json").read_text())
    workspace = pyhf.Workspace(spec)
    model = workspace.model()
    data = workspace.data(model)
    lh = ny.Likelihood.from_pyhf(spec)
    x = np.array(model.config.suggested_init())
    expected = float(pyhf.infer.mle.twice_nll(x, data, model)[0])
    assert lh.value(x) == pytest.approx(expected, rel=1e-9)


def test_workspace_is_valid_after_short_training(short_job):
    failed = [c.name for c in validate(short_job.output / "workspace") if not c.passed]
    assert not [name for name in failed if "normalisation" not in name]


def test_tabulated_networks_equal_the_networks(short_job):
    """The polynomial through the nodes against the network itself, between the nodes."""
    from neyman.likelihood import UnbinnedTerm
    from neyman.networks import Model
    from neyman.workspace.store import read_columns

    folder = short_job.output / "workspace"
    lh = ny.Likelihood.load(folder)
    term = next(t for t in lh.terms if isinstance(t, UnbinnedTerm))
    model = Model.load(folder / "networks" / "ztautau.safetensors")
    columns = read_columns(folder / "signal_data.parquet", [f"x:{f}" for f in model.features])
    x = np.stack([columns[f"x:{f}"] for f in model.features], axis=1)
    sample = next(s for s in term.samples if s.name == "ztautau")
    shape = next(s for s in sample.shapes if s.parameter == "tes")
    import torch

    tensors = {name: torch.tensor(column) for name, column in term.data.columns.items()}
    compiled = shape.compile(tensors)
    for alpha in (-2.7, -0.9, 0.35, 2.2):
        at = torch.tensor([alpha], dtype=torch.float64)
        delta = compiled.at(at, slice(0, len(x)), 0).log.numpy()
        exact = model(x, [alpha]).astype(float)
        assert np.sqrt(np.mean((tensors["ztautau"].numpy() + delta - exact) ** 2)) < 2e-3


@pytest.mark.slow
def test_pulls_of_pseudo_experiments(full_job):
    """200 pseudo-experiments from the model: reference events resampled, global observables shifted."""
    lh = ny.Likelihood.load(full_job.output / "workspace")
    fits = ny.fit_toys(lh, ny.toys(lh, 200, seed=11), parameters=("mu",))
    assert np.mean(fits.valid) > 0.98
    pulls = fits.pulls("mu", 1.0)
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.15)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_unbinned_beats_the_histograms(full_job):
    rows = {row["kind"]: row for row in full_job.results["comparison"]}
    for key in ("stat", "syst", "with_simulation"):
        assert rows["unbinned"][key] < rows["classifier"][key] < rows["single"][key]


@pytest.mark.slow
def test_every_ratio_closes(full_job):
    worst = min(c["p_value"] for c in full_job.results["closure"] if c["p_value"] is not None)
    assert worst > 1e-4
    check = full_job.results["simulation_check"]
    assert abs(check["value"] - 1.0) < 3.0 * check["noise"]
    assert check["spread"] < 1.1 * check["claimed"]


# The README's Python examples run as they stand, beside the output of the (short) main job -------------------

BLOCKS = (
    "MyProcessor",
    "from_pyhf(",
    "accelerate_pyhf",
    "def filled",
    "read_datacard",
    "energy_scale",
    "neyman.sannt",
    "neyman.unfolding",
    "trust",
    "scorer.branches()",
    'connect("local:2")',
)


def block(repository, marker):
    found = [
        b
        for b in re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
        if marker in b
    ]
    return found[0]


RUN_PROCESSOR = """
import dataclasses, hist
from coffea.processor import IterativeExecutor, Runner
from neyman.events.processing.schema import NanoSchema
runner = Runner(executor=IterativeExecutor(status=False), schema=NanoSchema, chunksize=30_000, maxchunks=1)
out = runner({"ztautau": [DATA + "/ztautau.root"]}, MyProcessor(), treename="Events")
assert out["log_ratio"].sum().value > 1000
"""


def test_readme_has_short_python_examples(repository):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == len(BLOCKS)
    assert all(len(b.splitlines()) <= 22 for b in blocks)


@pytest.mark.parametrize("marker", BLOCKS)
def test_readme_example_runs(repository, short_job, tmp_path, marker):
    code = block(repository, marker)
    if marker == "MyProcessor":
        code += f"\nDATA = {str(repository / 'examples' / 'htautau' / 'data')!r}\n" + RUN_PROCESSOR
    example = repository / "examples" / "htautau"
    if not (beside := short_job.output.parent / "examples").exists():
        beside.symlink_to(repository / "examples")
    (tmp_path / "script.py").write_text(f"import sys; sys.path.insert(0, {str(example)!r})\n" + code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=short_job.output.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

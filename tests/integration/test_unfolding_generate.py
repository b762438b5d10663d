"""The jets of the unfolding example: shapes, masks, padding, and two levels of the same jet."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

for module in ("pythia8mc", "fastjet"):
    pytest.importorskip(module)

EVENTS = 200


def script(path):
    spec = importlib.util.spec_from_file_location(f"unfolding_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator(repository):
    return script(repository / "examples" / "unfolding" / "generate.py")


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "BATCH", 450)  # an event of two passes
        for name in generator.TUNES:
            generator.write(name, *generator.generate(name, 5, EVENTS), folder)
    return folder


@pytest.fixture(scope="module")
def events(folder):
    table = pq.read_table(folder / "simulation.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def particles(events, level):
    """(n_events, n_particles, 3): eta, phi, log_z."""
    columns = [[events[f"{level}_particle{i}_{f}"] for f in ("eta", "phi", "log_z")] for i in range(16)]
    return np.moveaxis(np.array(columns), 2, 0)


def test_columns_are_flat_single_precision_numbers_and_two_masks(events):
    assert {len(column) for column in events.values()} == {EVENTS}
    assert {name for name in events if events[name].dtype != np.float32} == {"pass_gen", "pass_reco"}
    assert len(events) == 2 + 2 * (16 * 3 + 7)
    assert all(np.isfinite(column).all() for column in events.values())


def test_every_event_passes_a_level_and_some_fail_each(events):
    gen, reco = events["pass_gen"], events["pass_reco"]
    assert (gen | reco).all()
    assert 0.7 < reco[gen].mean() < 0.95
    assert 0.75 < gen[reco].mean() < 0.98


@pytest.mark.parametrize("level", ["gen", "reco"])
def test_particles_fall_in_momentum_and_padding_follows_the_last(events, level):
    found, passes = particles(events, level), events[f"pass_{level}"]
    real = (found != 0.0).any(axis=2)
    expected = np.minimum(events[f"{level}_multiplicity"], 16)
    np.testing.assert_array_equal(real.sum(axis=1), expected)
    assert (np.diff(real.astype(int), axis=1) <= 0).all()
    assert (np.diff(found[..., 2], axis=1)[real[:, 1:]] <= 0).all()
    assert not found[~passes].any()
    assert (real.sum(axis=1) >= 2)[passes].all()
    assert (np.hypot(found[..., 0], found[..., 1]) < 0.55).all()


@pytest.mark.parametrize("level", ["gen", "reco"])
def test_observables_are_those_of_the_particles(events, level):
    whole = events[f"pass_{level}"] & (events[f"{level}_multiplicity"] <= 16)
    eta, phi, log_z = np.moveaxis(particles(events, level)[whole].astype(float), 2, 0)
    z = np.where(log_z < 0.0, np.exp(log_z), 0.0)
    column = {
        name: events[f"{level}_{name}"][whole] for name in ("pt", "mass", "width", "z_lead", "tau21", "zg")
    }
    np.testing.assert_allclose((z * np.hypot(eta, phi)).sum(axis=1), column["width"], rtol=1e-4)
    np.testing.assert_allclose(z[:, 0], column["z_lead"], rtol=1e-5)
    # Relative to the axis the transverse momenta sum to a vector along it, of length 1.
    np.testing.assert_allclose((z * np.cos(phi)).sum(axis=1), 1.0, rtol=1e-4)
    np.testing.assert_allclose((z * np.sin(phi)).sum(axis=1), 0.0, atol=1e-4)
    # Massless particles: m^2 = sum over pairs of 2 pt_i pt_j (cosh(eta_i - eta_j) - cos(phi_i - phi_j)).
    angle = np.cosh(eta[:, :, None] - eta[:, None]) - np.cos(phi[:, :, None] - phi[:, None])
    mass = column["pt"] * np.sqrt(np.einsum("ni,nj,nij->n", z, z, angle))
    np.testing.assert_allclose(mass, column["mass"], rtol=1e-3)
    assert ((column["tau21"] >= 0.0) & (column["tau21"] <= 1.0)).all()
    assert ((column["zg"] == 0.0) | ((column["zg"] >= 0.1) & (column["zg"] <= 0.5001))).all()


def test_detector_and_particle_level_are_the_same_jet(events):
    both = events["pass_gen"] & events["pass_reco"]
    for name, least in (("pt", 0.8), ("mass", 0.8), ("multiplicity", 0.85), ("width", 0.8), ("z_lead", 0.85)):
        gen, reco = events[f"gen_{name}"][both], events[f"reco_{name}"][both]
        assert least < np.corrcoef(gen, reco)[0, 1] < 0.9999, name
    assert 0.85 < np.mean(events["reco_pt"][both] / events["gen_pt"][both]) < 1.0


def test_a_seed_gives_the_same_events_again_and_tunes_are_independent(generator, folder, events, monkeypatch):
    monkeypatch.setattr(generator, "BATCH", 450)
    again, _ = generator.generate("simulation", 5, 50)
    for name, column in again.items():
        np.testing.assert_array_equal(column, events[name][:50])
    other = pq.read_table(folder / "data.parquet")["gen_pt"].to_numpy()
    assert not np.isin(other[other > 0.0], events["gen_pt"]).any()


def test_figures_of_a_sample_are_beside_it(folder, events):
    figures = json.loads((folder / "simulation.json").read_text())
    assert figures["events"] == EVENTS
    assert figures["pass_both"] == (events["pass_gen"] & events["pass_reco"]).sum()
    assert figures["efficiency"] == pytest.approx(figures["pass_both"] / figures["pass_gen"])
    assert "Tune:pp = 14" in figures["settings"]
    longer = events["gen_multiplicity"][events["pass_gen"]] > 16
    assert figures["gen_jets_cut_off"] == pytest.approx(longer.mean())

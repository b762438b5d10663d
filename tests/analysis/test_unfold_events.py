"""From flat files to the tables of an unfolding: what fails a level is not looked at, everything else must be right."""

from __future__ import annotations

import numpy as np
import pytest
from ratio_toy import write
from unfold_toy import configure, document, make_job, samples, simulated

from neyman.analysis.unfold_config import load_unfold_config
from neyman.analysis.unfold_events import UnfoldEvents
from neyman.analysis.unfold_stored import StoredEvents, StoredObservables
from neyman.errors import ConfigError, InputError

N = 400


def find(path):
    return UnfoldEvents.find(load_unfold_config(path), path.parent)


def read(path, name="events"):
    """What is unfolded, and the numbers of events."""
    inputs = find(path)
    numbers = inputs.write(path.parent / name, lambda k, n: None)
    return StoredEvents(inputs.config, path.parent / name), numbers


def observed(path, name="observables"):
    inputs = find(path)
    inputs.write_observables(path.parent / name, lambda k, n: None)
    return StoredObservables(inputs.config, path.parent / name)


@pytest.mark.parametrize("suffix", [".parquet", ".root"])
def test_levels_keep_all_rows_and_what_fails_one_is_finite(tmp_path, suffix):
    events, numbers = read(make_job(tmp_path, suffix=suffix, n=N))
    columns, inputs = simulated(N), events.inputs()
    detected, generated = columns["pass_reco"], columns["gen_status"] == 1
    reconstructed, truth = inputs["reconstructed"], inputs["truth"]
    assert len(reconstructed) == len(truth) == N
    np.testing.assert_array_equal(inputs["passes_reconstruction"], detected)
    np.testing.assert_array_equal(inputs["passes_truth"], generated)
    np.testing.assert_array_equal(
        reconstructed.column("reco_x"), np.where(detected, columns["reco_x"], 0.0).astype(np.float32)
    )
    np.testing.assert_array_equal(
        truth.column("gen_x"), np.where(generated, columns["gen_x"], 0.0).astype(np.float32)
    )
    assert set(truth.weight) == {0.5}
    assert events.fakes
    assert inputs["detector_factor"] is None
    assert numbers == {
        "data": len(inputs["data"]), "background": N // 10, "simulation": N, "detector": detected.sum(),
        "particle": generated.sum(), "both": (detected & generated).sum(),
    }  # fmt: skip


def test_factors_act_where_their_level_is(tmp_path):
    changes = {"detector": {"factor": "1 + 0.1 * tanh_y"}}
    inputs = read(make_job(tmp_path, changes, n=N))[0].inputs()
    columns = simulated(N)
    detected = columns["pass_reco"]
    np.testing.assert_allclose(
        inputs["detector_factor"], np.where(detected, 1 + 0.1 * columns["tanh_y"], 1.0)
    )
    up, down = inputs["systematics"]["slope"]
    np.testing.assert_allclose(up.weight, np.exp(0.1 * columns["theory"]))
    np.testing.assert_allclose(up.weight * down.weight, 1.0)
    (efficiency,) = inputs["systematics"]["efficiency"]
    assert efficiency.weight is None
    expected = np.where(detected, 1 + 0.02 * (1 + columns["tanh_y"]), 1.0)
    np.testing.assert_allclose(efficiency.detector, expected)


def test_weight_and_cut_of_data_and_several_backgrounds(tmp_path):
    more = {"files": "background.parquet", "weight": "2 * w", "cut": "reco_x > 1"}
    changes = {
        "background": [{"files": "background.parquet"}, more],
        "data": {"cut": "reco_x < 1", "weight": "0.5"},
    }
    inputs = read(make_job(tmp_path, changes, n=N))[0].inputs()
    assert inputs["data"].column("reco_x").max() < 1.0
    assert set(inputs["data"].weight) == {0.5}
    x = samples(N)["background"]["reco_x"]
    assert inputs["background"].weight.sum() == pytest.approx(len(x) + 2 * (x > 1).sum())
    assert read(configure(tmp_path, {"background": None}), "without")[0].inputs()["background"] is None


def test_several_files_stay_in_their_order(tmp_path):
    config = make_job(tmp_path, {"simulation": {"files": ["b.root", "a.parquet"]}}, n=N)
    first, second = simulated(N, 3), simulated(N, 4)
    write(tmp_path / "b.root", first)
    write(tmp_path / "a.parquet", second)
    truth = read(config)[0].inputs()["truth"].column("gen_x")
    for columns, values in ((first, truth[:N]), (second, truth[N:])):
        generated = columns["gen_status"] == 1
        np.testing.assert_array_equal(values[generated], columns["gen_x"][generated].astype(np.float32))


def test_identity_of_events_is_kept_where_all_files_have_it(tmp_path):
    config = make_job(tmp_path, n=N)
    for name in ("data", "simulation"):
        columns = samples(N)[name]
        number = np.arange(len(columns["reco_x"]))[::-1]
        write(tmp_path / f"{name}.parquet", columns | {"entry": number})
    inputs = read(config)[0].inputs()
    for name in ("data", "reconstructed", "truth"):
        assert list(inputs[name].extra) == ["entry"]
        assert inputs[name].extra["entry"][-1] == 0
    assert dict(read(make_job(tmp_path, n=N), "without")[0].inputs()["truth"].extra) == {}


def test_observables_of_both_levels(tmp_path):
    found = observed(make_job(tmp_path, {"closure": {"distortion": "1 + gen_x ** 2"}}, n=N))
    columns = simulated(N)
    generated = columns["gen_status"] == 1
    np.testing.assert_allclose(found.particle("square"), np.where(generated, columns["gen_x"] ** 2, 0.0))
    np.testing.assert_allclose(found.detector("x"), np.where(columns["pass_reco"], columns["reco_x"], 0.0))
    # What the files have where there is no particle level does not act.
    np.testing.assert_allclose(found.distortion(), np.where(generated, 1 + columns["gen_x"] ** 2, 1.0))
    values, weight = found.data("x")
    data, background = (samples(N)[name]["reco_x"] for name in ("data", "background"))
    np.testing.assert_allclose(values, np.concatenate([data, background]))
    np.testing.assert_array_equal(weight, np.repeat([1.0, -1.0], [len(data), len(background)]))


def test_bins_and_networks_are_no_part_of_the_events(tmp_path):
    first = find(make_job(tmp_path, n=N))
    finer = [one | {"edges": [0, 1]} for one in document({})["observables"]]
    network = {"particle": {"network": {"hidden": [3]}}, "unfold": {"seed": 9}}
    other = find(configure(tmp_path, {"observables": finer} | network))
    assert other.key() == first.key()
    assert other.observables_key() == first.observables_key()
    changed = find(configure(tmp_path, {"observables": [{"name": "gen_x", "edges": [0, 1]}]}))
    assert changed.key() == first.key()
    assert changed.observables_key() != first.observables_key()


def spoiled(folder, name, column, event, value=np.nan):
    """A sample with a wrong value in one event that passes both levels."""
    columns = samples(N)[name]
    if name == "simulation":
        for mask, good in (
            ("pass_reco", True),
            ("gen_status", 1),
            ("reco_x", 0.1),
            ("gen_x", 0.1),
            ("tanh_y", 0.0),
        ):
            columns[mask][event] = good  # fmt: skip
    columns[column] = columns[column].copy()
    columns[column][event] = value
    write(folder / f"{name}.parquet", columns)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("simulation", "reco_x", r"(?s)feature reco_x is nan in event 17; .*simulation\.parquet"),
        ("simulation", "gen_x", r"(?s)feature gen_x is nan in event 17; .*simulation\.parquet"),
        ("simulation", "w", r"(?s)weight w is nan in event 17; .*simulation\.parquet"),
        ("simulation", "theory", r"(?s)the systematic factor slope:up exp\(0\.1 \* theory\) is nan in event 17"),
        ("simulation", "tanh_y", r"(?s)the detector factor 1 \+ tanh_y is nan in event 17; .*simulation\.parquet"),
        ("background", "w", r"(?s)weight w is nan in event 17; .*background\.parquet"),
        ("background", "reco_x", r"(?s)feature reco_x is inf in event 17; .*background\.parquet"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_finite_where_the_event_passes(tmp_path, name, column, message):
    config = make_job(tmp_path, {"detector": {"factor": "1 + tanh_y"}}, n=N)
    spoiled(tmp_path, name, column, 17, np.inf if "inf in" in message else np.nan)
    with pytest.raises(InputError, match=message):
        read(config)


def test_an_observable_that_is_not_finite_where_the_event_passes(tmp_path):
    observable = {"name": "z", "column": "log(gen_x + 2)", "edges": [0, 1]}
    config = make_job(tmp_path, {"observables": [observable]}, n=N)
    spoiled(tmp_path, "simulation", "gen_x", 17, -3.0)
    with pytest.raises(
        InputError, match=r"(?s)observable z: log\(gen_x \+ 2\) is nan in event \d+.*simulation"
    ):
        observed(config)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"detector": {"features": ["reco_z"]}},
            InputError,
            r"(?s)no column 'reco_z'.*data\.parquet.*: reco_x",
        ),
        (
            {"particle": {"features": ["gen_z"]}},
            InputError,
            r"(?s)no column 'gen_z'.*simulation\.parquet.*: gen_x",
        ),
        ({"particle": {"passes": "pass_gen"}}, InputError, r"(?s)no column 'pass_gen'.*parquet.*: pass_reco"),
        (
            {"particle": {"passes": "gen_status"}},
            ConfigError,
            r"particle\.passes gives int8, not true or false",
        ),
        (
            {"detector": {"passes": "reco_x + 1"}},
            ConfigError,
            r"(?s)detector\.passes gives float64.*where: reco_x \+ 1",
        ),
        ({"detector": {"passes": "pass_reco and"}}, ConfigError, "not an expression"),
        (
            {"detector": {"passes": "pass_reco and not pass_reco"}},
            InputError,
            r"(?s)passes both levels: of 400 events 0 pass at detector and \d+ at particle level.*passes = 'pass",
        ),
        ({"detector": {"factor": "pass_reco > reco_y"}}, InputError, "no column 'reco_y'"),
        (
            {"data": {"cut": "reco_x > 1000"}},
            InputError,
            r"(?s)no event of the data passes the cut 'reco_x > 1000'; \d+ before.*data\.parquet",
        ),
        ({"data": {"cut": "reco_x"}}, ConfigError, "the cut gives float64, not true or false"),
        ({"data": {"weight": "-1"}}, InputError, r"(?s)the weights of the data sum to -\d+.*data\.parquet"),
        ({"simulation": {"weight": "0 * w"}}, InputError, "the weights of the simulation sum to 0"),
        (
            {"simulation": {"files": "s.parquet"}},
            InputError,
            r"(?s)s\.parquet does not exist.*simulation\.parquet",
        ),
        ({"simulation": {"files": "unfold.toml"}}, ConfigError, r"unfold\.toml is of no known kind"),
        ({"background": [{"files": "b*.root"}]}, InputError, r"(?s)no file matches.*b\*\.root"),
        (
            {"systematics": {"slope": {"up": "sqrt(gen_y)"}}},
            InputError,
            r"(?s)no column 'gen_y'.*expected: gen_x",
        ),
        ({"systematics": {"slope": {"up": "w_up / w"}}}, InputError, "no column 'w_up'"),
    ],
)
def test_errors(tmp_path, changes, kind, message):
    config = make_job(tmp_path, changes, n=N)
    with pytest.raises(kind, match=message):
        read(config)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"observables": [{"name": "y", "edges": [0, 1]}]},
            InputError,
            r"(?s)no column 'y'.*simulation\.parquet",
        ),
        (
            {"observables": [{"name": "gen_x", "detector": "theory", "edges": [0, 1]}]},
            InputError,
            r"(?s)no column 'theory'.*data\.parquet.*expected: reco_x",
        ),
        ({"closure": {"distortion": "gen_x +"}}, ConfigError, "not an expression"),
        (
            {"closure": {"distortion": "log(gen_x)"}},
            InputError,
            r"the distortion log\(gen_x\) is nan in event \d+",
        ),
    ],
)
def test_errors_of_observables(tmp_path, changes, kind, message):
    config = make_job(tmp_path, changes, n=N)
    with pytest.raises(kind, match=message):
        observed(config)


def test_observable_outside_its_edges(tmp_path):
    config = make_job(tmp_path, {"observables": [{"name": "x", "column": "gen_x", "edges": [100, 200]}]}, n=N)
    generated = read(config)[0].generated
    with pytest.raises(
        InputError,
        match=r"(?s)no simulated event lies between the edges of 'x'.*from 100 to 200.*values from -\d\.\d+ to \d",
    ):
        observed(config).check_edges(generated)


def test_column_that_is_not_one_number_an_event(tmp_path):
    config = make_job(tmp_path, n=N)
    columns = samples(N)["simulation"]
    write(tmp_path / "simulation.parquet", columns | {"gen_x": [[0.0] * (k % 3) for k in range(N)]})
    with pytest.raises(InputError, match=r"(?s)gen_x is not one number per event.*simulation\.parquet"):
        read(config)


def test_empty_files(tmp_path):
    config = make_job(tmp_path, n=N)
    for name, message in (
        ("simulation", "there are no events in the simulation"),
        ("data", "there are no events in the data"),
    ):
        nothing = {key: values[:0] for key, values in samples(N)[name].items()}
        write(tmp_path / f"{name}.parquet", nothing)
        with pytest.raises(InputError, match=message):
            read(config, name)


def test_identity_must_be_that_of_one_event_of_the_data(tmp_path):
    config = make_job(tmp_path, n=N)
    columns = samples(N)["data"]
    write(tmp_path / "data.parquet", columns | {"entry": np.arange(len(columns["reco_x"])) // 2})
    with pytest.raises(InputError, match=r"(?s)2 events of the data have the entry 0.*data\.parquet"):
        read(config)
